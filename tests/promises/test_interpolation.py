"""A prompt's fields lead nowhere: `{os.environ[...]}` and `{x.__class__}` stay literal, a value is never read again,
and no value that holds the environment is sent. What fields become is tested in tests/magics/test_fields.py."""

from __future__ import annotations

import collections
import functools
import json
import os
import sys
import types
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from IPython.core.error import UsageError

from ipyconvexai.notebook.interpolation import interpolate
from ipyconvexai.settings import Secret, remember_secret
from tests.magics import conftest as magics
from tests.promises.promising import Figure, Tries

PROMISE = (
    "a value in a question is never read for names; no field leads to the environment, and no value that holds most of"
    " it is sent (a text that you made of it yourself is, without the keys that are known)"
)
TRIES = Tries(400, 20_000, "hostile questions")

bare_shell, shell, endpoint, run = magics.bare_shell, magics.shell, magics.endpoint, magics.run

PLANTED = {
    "PLANTED_API_KEY": "sk-planted-9f8e7d6c5b4a3928170600112233",
    "PLANTED_PLAIN": "a-planted-value-without-a-telling-name",
    "PLANTED_PATH": "/planted/path:/another/planted/path",
}


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    remember_secret(PLANTED["PLANTED_API_KEY"])  # else the environment is looked at once a second


def leaks(text: str) -> list[str]:
    """The planted values, and beginnings of them, that are in `text`."""
    return [value for value in PLANTED.values() if value[:16] in text]


def sent(text: str, names: dict[str, Any]) -> str:
    """What would be sent, or what the user would be told."""
    try:
        return interpolate(text, names)
    except UsageError as error:
        return str(error)


def is_sent(text: str, names: dict[str, Any]) -> bool:
    """Whether it is no usage error."""
    try:
        interpolate(text, names)
    except UsageError:
        return False
    return True


# ------------------------------------------------------------------------------------- nothing of the environment
def function() -> None:
    """Its globals hold `os`."""


class AnyAttribute:
    def __getattr__(self, name: str) -> Any:
        return os.environ


class Paper:
    title = "On Hats"
    _secret = "shh"

    def cite(self) -> str:
        raise AssertionError("a method is never called")


class Holder:
    def __init__(self) -> None:
        self.os, self.environ, self.here, self.kind = os, os.environ, function, Paper

    def method(self) -> None: ...


@dataclass
class Box:
    inside: Any


class Formats:
    def __format__(self, spec: str) -> str:
        return str(os.environ)


class Shows:
    def __str__(self) -> str:
        return f"Settings({dict(os.environ)})"

    __repr__ = __str__


def hostile() -> dict[str, Any]:
    raw = os.environb if os.supports_bytes_environ else os.environ
    try:
        raise ValueError("no")
    except ValueError as error:
        traceback = error.__traceback__
    return {
        "doc": "evil {os.environ} {holder.environ} {x.__class__}",
        "os": os,
        "environ": os.environ,
        "raw": raw,
        "function": function,
        "holder": Holder(),
        "any": AnyAttribute(),
        "mods": [os, sys],
        "box": [os.environ],
        "deep": {"a": [({"b": os.environ},)]},
        "copy": dict(os.environ),
        "more": {**os.environ, "MORE": "1"},
        "chain": collections.ChainMap({}, os.environ),
        "proxy": types.MappingProxyType(os.environ),
        "weak": weakref.proxy(os.environ),
        "view": os.environ.items(),
        "values": os.environ.values(),
        "space": types.SimpleNamespace(inner=os.environ, module=os, os=types.SimpleNamespace(environ=os.environ)),
        "data": Box(os.environ),
        "formats": Formats(),
        "shows": Shows(),
        "raws": [raw],
        "copies": [dict(os.environ)],
        "pairs": sorted(os.environ.items()),
        "long": ["x" * 7990, os.environ],
        "queue": collections.deque([os.environ]),
        "frame": sys._getframe(),
        "traceback": traceback,
        "generator": (number for number in range(3)),
        "partial": functools.partial(function),
        "array": np.array([os.environ, dict(os.environ)], dtype=object),
        "d": {"os": os, "environ": os.environ},
        "modules": sys.modules,
    }


HOSTILE = hostile()

ATTACKS = [
    *(
        "{doc}",
        "{os}",
        "{os.environ}",
        "{environ}",
        "{environ[PLANTED_PLAIN]}",
        "{environ.data}",
        "{raw}",
        "{environ!r}",
    ),
    *("{function}", "{function.__globals__}", "{function.__globals__[os].environ}", "{function.__code__}"),
    *(
        "{holder.method}",
        "{holder.method.__func__.__globals__}",
        "{holder.__init__.__globals__[os]}",
        "{holder.os.environ}",
    ),
    *("{holder.environ}", "{holder.environ[PLANTED_API_KEY]}", "{holder.here.__globals__}", "{holder.kind.__mro__}"),
    *(
        "{any}",
        "{any.x}",
        "{any.os.environ}",
        "{any.x[PLANTED_PLAIN]}",
        "{mods[0].environ}",
        "{mods[0]}",
        "{mods[1].modules}",
    ),
    *(
        "{box}",
        "{box[0]}",
        "{box[0][PLANTED_PLAIN]}",
        "{box!r}",
        "{box!full}",
        "{box!s:.5000}",
        "{deep}",
        "{deep!full}",
    ),
    *("{deep[a]}", "{deep[a][0]}", "{copy}", "{copy[PLANTED_PLAIN]}", "{more}", "{chain}", "{chain[PLANTED_PLAIN]}"),
    *("{chain.maps}", "{chain.maps[1]}", "{proxy}", "{proxy[PLANTED_PLAIN]}", "{weak}", "{weak[PLANTED_PLAIN]}"),
    *(
        "{view}",
        "{values}",
        "{view.mapping}",
        "{space}",
        "{space.inner}",
        "{space.module.environ}",
        "{space.os.environ}",
    ),
    *(
        "{data}",
        "{data.inside}",
        "{data!r}",
        "{formats:x}",
        "{formats:}",
        "{shows}",
        "{shows!r}",
        "{long}",
        "{long!full}",
        "{pairs!full}",
    ),
    *(
        "{queue}",
        "{queue[0]}",
        "{frame}",
        "{frame.f_globals}",
        "{traceback.tb_frame.f_globals}",
        "{generator.gi_frame}",
    ),
    *(
        "{partial.func}",
        "{partial.func.__globals__}",
        "{array}",
        "{array[0]}",
        "{array!full}",
        "{d}",
        "{d[os].environ}",
    ),
    *("{d[environ]}", "{modules[os].environ}", "{doc:{environ}}", "{doc:{os.environ}}", "{{environ}}", "{doc!r}"),
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_value_of_the_environment_gets_out(attack: str):
    text = sent(attack, hostile())
    assert leaks(text) == []
    assert "builtins" not in text


@pytest.mark.parametrize(
    "text",
    [
        "{raws}",
        "{copies}",
        "{box}",
        "{deep}",
        "{data}",
        "{shows}",
        "{long}",
        "{array}",
        "{queue}",
        "{formats:x}",
        "{pairs}",
    ],
)
def test_a_value_that_holds_the_environment_is_refused(text: str):
    with pytest.raises(UsageError, match=r"holds the environment|cannot be formatted"):
        interpolate(text, hostile())


def test_keys_that_are_known_are_not_sent_from_variables():
    key = PLANTED["PLANTED_API_KEY"]
    given = {
        "key": key,
        "notes": f"my key is {key}.",
        "l": [f"x{key}"],
        "secret": Secret("a-secret-0123456789"),
        "s": {"k": key},
    }
    assert interpolate("{key} {notes} {l} {s[k]} {s}", given) == "*** my key is ***. ['x***'] *** {'k': '***'}"
    assert interpolate("{secret} {secret!r} {secret.reveal}", given) == "Secret(***) Secret(***) {secret.reveal}"
    assert "a-secret" not in sent("{secret:x} {secret._Secret__reveal} {secret!full}", given)
    assert interpolate(key, given) == key  # typed: the user's own choice


def test_no_byte_of_the_environment_is_sent(run: Any, endpoint: Any, shell: Any):
    shell.user_ns.update(hostile())
    attacks = [attack for attack in ATTACKS if is_sent(attack, hostile())]
    assert len(attacks) > 50
    assert run("%%ai\nhostile\n" + "\n".join(attacks)) is None
    assert leaks(str(endpoint.calls[0].body)) == []
    assert run("%%ai\n{box}") is not None
    assert endpoint.count == 1  # nothing was sent


# ------------------------------------------------------------------------------------------------- any question
STEPS = st.sampled_from(
    "os environ data maps mapping inside inner module here kind method reveal f_globals f_locals tb_frame gi_frame "
    "func obj items values copy get pop modules path getenv _data _secret _Secret__reveal __class__ __mro__ "
    "__subclasses__ __init__ __globals__ __dict__ __builtins__ __code__ __func__ __self__ __module__ __doc__ x".split()
)
KEYS = st.sampled_from([*PLANTED, *"os environ sys 0 1 -1 a b k 'os' PATH HOME __builtins__ __globals__".split()])
PATHS = st.lists(STEPS.map(".{}".format) | KEYS.map("[{}]".format), max_size=5).map("".join)
NAMES = st.sampled_from([*HOSTILE, "paper", "secret", "key", "__builtins__", "__import__", "sys", "self", "ai"])
CONVERSIONS = st.sampled_from(["", "", "", "!r", "!s", "!a", "!full"])
SPECS = st.sampled_from(["", "", "", ":", ":x", ":>99", ":.5000", ":{environ}", ":{os.environ}", ":%Y"])
FIELDS = st.builds("{{{}{}{}{}}}".format, NAMES, PATHS, CONVERSIONS, SPECS)
QUESTIONS = st.lists(FIELDS | st.sampled_from(["{", "}", "{{", "}}", " ", "\\", "!r}", "text"]), min_size=1, max_size=4)


@TRIES.both
def test_no_question_has_a_value_of_the_environment(figure: Figure, tries: int) -> None:
    names = {**hostile(), "paper": Paper(), "secret": Secret("a-secret-0123456789"), "key": PLANTED["PLANTED_API_KEY"]}
    seen = {"kept": 0, "changed": 0, "refused": 0}

    @settings(max_examples=tries, deadline=None, suppress_health_check=list(HealthCheck))
    @given(QUESTIONS.map("".join))
    def each(question: str) -> None:
        text = sent(question, names)
        assert leaks(text) == []
        assert "a-secret" not in text
        kind = "kept" if text == question else "changed" if "\n" in text or is_sent(question, names) else "refused"
        seen[kind] += 1

    each()
    assert min(seen.values()) > tries / 200, f"the questions are of one kind: {seen}"
    figure(f"0 leaks; {seen['kept']:,} stayed as written, {seen['refused']:,} refused", f"{tries:,} {TRIES.of}")


@settings(deadline=None, max_examples=150)
@given(NAMES, STEPS.filter(lambda step: step.startswith("_")), PATHS, CONVERSIONS)
def test_a_field_that_asks_for_what_is_private_stays_literal(name: str, step: str, path: str, conversion: str) -> None:
    given_names = {**HOSTILE, "paper": Paper(), "sys": sys, "secret": Secret("a-secret-0123456789")}
    text = f"{{{name}.{step}{path}{conversion}}}"
    assert sent(text, given_names) == text


def test_the_scanner_sees_a_leak() -> None:
    """The control: Python's own formatting gives all of it away."""
    given_names = hostile()
    opened = [attack for attack in ATTACKS if leaks(formatted(attack, given_names))]
    assert len(opened) > 30


def formatted(text: str, names: dict[str, Any]) -> str:
    try:
        return text.format_map(names)
    except Exception:
        return ""


# ---------------------------------------------------------------------------------------------------- any input
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4), inner, max_size=4)
        | st.sets(st.integers(), max_size=3)
        | st.tuples(inner)
    ),
    max_leaves=8,
)
GIVEN = st.dictionaries(st.sampled_from(["a", "b", "df", "In", "Out", "name", "x1", "é"]), VALUES, max_size=5)
PIECES = st.sampled_from(
    "{ } {{ }} {a} {b[0]} {b[a]} {df!full} {a:.2f} {a:>9} {a!r} {In[3]} {Out[x]} {a:{b}} {b.real} {a.b.c} [ ] . : ! \\ "
    "\\frac{a}{b} '\" \n {name {é} {x1:%Y} {a[ {a['b']}".split(" ")
)
TEXTS = st.lists(PIECES | st.text(max_size=5), max_size=12).map("".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(TEXTS, GIVEN)
def test_any_text_with_any_names_is_a_text_or_a_usage_error(text: str, given_names: dict[str, Any]):
    try:
        result = interpolate(text, given_names)
    except UsageError as error:
        told = str(error)
    else:
        told = ""
        assert interpolate(text, given_names) == result
    assert "\n" not in told


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.text() | TEXTS)
def test_a_text_goes_unchanged_where_nothing_is_named(text: str):
    assert interpolate(text, {}) == text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(TEXTS)
def test_a_value_that_holds_fields_goes_in_as_it_is(value: str):
    given_names = {"doc": value, "a": "READ AGAIN", "b": ["READ AGAIN"], "name": "READ AGAIN"}
    assert interpolate("<{doc}>", given_names) == f"<{value}>"
    assert interpolate("{d[k]}", {"d": {"k": value}, **given_names}) == value


def test_a_text_is_the_user_s_own():
    """Also where they have put the environment into it; known keys are taken out all the same."""
    own = json.dumps(dict(os.environ))
    text = interpolate("{own}", {"own": own})
    assert PLANTED["PLANTED_PLAIN"] in text
    assert PLANTED["PLANTED_API_KEY"] not in text
