"""Fields in a prompt: what they become, and what stays. That they lead nowhere else is one of tests/promises."""

from __future__ import annotations

import collections
import datetime
import enum
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.core.error import UsageError

from ipyconvexai.context import closed
from ipyconvexai.notebook.interpolation import interpolate


class Color(enum.Enum):
    RED = "red"


class Paper:
    title = "On Hats"
    year = 2024
    _secret = "shh"
    color = Color.RED

    def __str__(self) -> str:
        return "a paper"

    def __repr__(self) -> str:
        return "Paper()"

    def cite(self) -> str:
        raise AssertionError("a method is never called")

    @property
    def broken(self) -> str:
        raise ZeroDivisionError("first line\nsecond line")

    @property
    def half(self) -> str:
        return self.nothing  # type: ignore[attr-defined,no-any-return] # that is the point

    @property
    def leaving(self) -> str:
        raise SystemExit(3)


def names() -> dict[str, Any]:
    return {
        "name": "Ada",
        "paper": Paper(),
        "In": ["", "x = 1"],
        "Out": {3: "three", 4: [1, 2]},
        "Err": {3: "Traceback: no"},
        "x": 1.23456,
        "n": 1234567,
        "a": 1,
        "b": 2,
        "none": None,
        "d": {"key": "value", "two words": 2, "2024": "text", 7: "seven", "a.b": "dotted"},
        "when": datetime.datetime(2026, 5, 17, 8, 30),
        "_private": "private",
        "_": "last",
    }


# ---------------------------------------------------------------------------------------------------- fields
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello {name}!", "Hello Ada!"),
        ("{paper}, {paper.title} of {paper.year}", "a paper, On Hats of 2024"),
        ("{In[1]} {Out[3]} {Err[3]}", "x = 1 three Traceback: no"),
        ("{Out[4][-1]} {Out[4]}", "2 [1, 2]"),
        ("{d[key]} {d['key']} {d[\"key\"]}", "value value value"),
        ("{d[two words]} {d[7]} {d[2024]} {d['2024']} {d['a.b']}", "2 seven text text dotted"),
        ("{x:.2f} {n:,} {name:>5} {a:03}", "1.23 1,234,567   Ada 001"),
        ("{when:%Y-%m-%d %H:%M}", "2026-05-17 08:30"),
        ("{name!r} {paper!r} {paper!s} {name!r:>7}", "'Ada' Paper() a paper   'Ada'"),
        ("{name!full} {none} {x:}", "Ada None 1.23456"),
        ('{"key": {name}, "n": {a}}', '{"key": Ada, "n": 1}'),
        ("{role:{name}}", "{role:Ada}"),
        ("{paper.color}", "Color.RED"),
        ("{name}{name}{{name}", "AdaAda{Ada"),
    ],
)
def test_a_field_becomes_its_text(text: str, expected: str):
    assert interpolate(text, names()) == expected


KEPT = [
    *("", "{}", "{ }", "{unknown}", "{unknown.title}", "{unknown!r}", "{unknown:.2f}", "{'foo':'bar'}", "{0}"),
    *(
        '{"a": {"b": [1, 2]}}',
        "function f(){ return {a: 1}; }",
        "a{b;}",
        "{a, b}",
        "{name: value}",
        "{x: 1}",
        "{x:\n1}",
    ),
    *(r"\frac{a}{b}", r"\sum_{i=0}^{k}", r"\frac{\sqrt{a}}{b}", r"\sqrt[3]{a}", r"\operatorname*{a}", r"\text{name}"),
    *("{{name}}", "{{ name }}", "{{name!r}}", "{{x:.2f}}", "{{{name}}}"),
    *("{name", "name}", "{name.}", "{name!x}", "{name!}", "{1+1}", "{name()}", "{name=}", "{name.upper()}"),
    *("{In[99]}", "{Out[5]}", "{d[nothing]}", "{d['7']}", "{name[key]}", "{paper[0]}", "{none[0]}", "{paper.none}"),
    *("{x:{a}}", "{x:.{a}f}", "{name:{paper.broken}}"),
    *("{paper.cite}", "{paper._secret}", "{paper.__class__}", "{_private}", "{_}", "{len}", "{__builtins__}"),
]


@pytest.mark.parametrize("text", KEPT)
def test_what_names_nothing_stays_byte_for_byte(text: str):
    assert interpolate(text, names()) == text


def test_a_value_is_never_read_again():
    class Sly(str):
        def __format__(self, spec: str) -> str:
            return "{name} {x}"

        def __str__(self) -> str:
            return "{os.environ} {name}"

    given = {**names(), "doc": "evil {os.environ} {name} {paper.__class__}", "sly": Sly("x"), "l": ["{name}"]}
    assert interpolate("{doc} {name}", given) == f"{given['doc']} Ada"
    assert interpolate("{sly}|{sly:>3}|{l}", given) == "{os.environ} {name}|{name} {x}|['{name}']"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{paper.broken}", r"^\{paper.broken\} cannot be read: ZeroDivisionError: first line$"),
        ("{paper.half}", r"^\{paper.half\} cannot be read: AttributeError: "),
        ("{paper.leaving}", r"^\{paper.leaving\} cannot be read: SystemExit: 3$"),
        ("{name:d}", r"^\{name:d\} cannot be formatted: ValueError: .*Correct the format"),
        ("{d:x}", r"^\{d:x\} cannot be formatted: TypeError"),
        ("{none:5}", r"^\{none:5\} cannot be formatted"),
        ("{a:9999999999d}", "too large"),
        ("{x:.999999f}", "too large"),
    ],
)
def test_what_fails_is_a_usage_error_of_one_line(text: str, reason: str):
    with pytest.raises(UsageError, match=reason) as raised:
        interpolate(f"Look at {text}", names())
    assert "\n" not in str(raised.value)


def test_an_error_that_cannot_speak_is_told_all_the_same():
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    class Bad:
        def __str__(self) -> str:
            raise Mute

    with pytest.raises(UsageError, match="Mute: it does not say why"):
        interpolate("{bad}", {"bad": Bad()})


def test_a_missing_key_is_not_made_by_looking():
    counts: dict[str, int] = collections.defaultdict(int)
    assert interpolate("{counts[new]}", {"counts": counts}) == "{counts[new]}"
    assert counts == {}


# ------------------------------------------------------------------------------------------------ determinism
def test_addresses_and_the_order_of_sets_do_not_show():
    class Plain: ...

    given = {"plain": Plain(), "l": [Plain(), sorted], "s": set("hgfedcba"), "f": frozenset({"b", "a"}), "e": set()}
    text = interpolate("{plain} {l} {s} {f} {e}", given)
    assert "0x" not in text
    assert text.endswith("{'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'} frozenset({'a', 'b'}) set()")


@pytest.mark.parametrize("value", [[], {}, (), (1,), [1, "a'b"], {"a": {1: [2.5, None]}}, ((1, 2), [b"x"]), [set()]])
def test_short_containers_read_as_in_python(value: Any):
    assert interpolate("{v}", {"v": value}) == str(value)


def test_a_container_within_itself_ends():
    loop: list[Any] = [1]
    loop.append(loop)
    assert interpolate("{loop}", {"loop": loop}) == "[1, [...]]"


# -------------------------------------------------------------------------------------------- long values
def test_long_texts_are_never_cut():
    assert interpolate("{doc}", {"doc": "x" * 100_000}) == "x" * 100_000


def test_long_containers_say_what_is_left_out():
    text = interpolate("{l}", {"l": list(range(100_000))})
    assert len(text) < 8_200
    assert text.startswith("[0, 1, 2,")
    assert text.endswith(" of 100,000 items are left out]")
    assert interpolate("{l!full}", {"l": list(range(100_000))}) == str(list(range(100_000)))
    assert "(the first 8,000 of 9,000 characters)" in interpolate("{l}", {"l": ["x" * 9000]})
    assert "(the first 8,000 of" in interpolate("{b}", {"b": b"\0" * 9000})


def test_arrays_are_put_in_whole_or_described():
    small, large = np.arange(6).reshape(2, 3) / 3, np.arange(200_000).reshape(-1, 4) / 7
    assert interpolate("{a}", {"a": small}).count("0.3333333333333333") == 1
    text = interpolate("{a}", {"a": large})
    assert text.startswith("numpy array of shape (50000, 4), float64; min 0, mean 14285.6, max 28571.3\n")
    assert "of 50,000 rows" in text
    assert len(text) <= 8_000
    full = interpolate("{a!full}", {"a": np.arange(5000)})
    assert "..." not in full
    assert "4999" in full
    assert interpolate("{a}", {"a": np.arange(0)}) == "[]"
    assert interpolate("{a} {b}", {"a": np.array(3), "b": np.float64(2.5)}) == "3 2.5"
    masked = np.ma.array([1, 2], mask=[False, True])
    assert interpolate("{a}", {"a": masked}) == "[1, None]"
    with_nan = np.array([np.nan, 1.0] * 5000)
    assert "min 1, mean 1, max 1; NaN or infinite: 5,000" in interpolate("{a}", {"a": with_nan})


def test_a_tensor_is_read_as_an_array():
    class Tensor:
        shape, dtype = (5000,), "float32"

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.arange(5000, dtype="float32")

        def __getitem__(self, index: int) -> Any: ...

        def __str__(self) -> str:
            return "tensor([0, 1, ..., 4999])"

    assert "of 5,000 elements" in interpolate("{t}", {"t": Tensor()})


@pytest.mark.parametrize(
    "text", ["{" * 20_000, "{a:" * 20_000, "{a:" + "{b}" * 10_000, "\\ab{" * 5_000, "{a[" * 9_000, "\\ab[[" * 20_000]
)
def test_hostile_texts_take_no_time(text: str):
    start = time.process_time()
    assert interpolate(text, {"a": 1}) == text
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "values",
    [
        [datetime.date(2026, 1, 1) + datetime.timedelta(days=day) for day in range(10_000)],
        [{"k": number} for number in range(10_000)],
        [collections.OrderedDict(k=number) for number in range(10_000)],
    ],
    ids=["dates", "dicts", "others"],
)
def test_long_lists_do_not_look_at_the_environment_each_time(values: list[Any], monkeypatch: pytest.MonkeyPatch):
    looks = []
    now = closed._now

    def look() -> Any:
        looks.append(1)
        return now()

    monkeypatch.setattr(closed, "_now", look)
    for number in range(300):
        monkeypatch.setenv(f"ONE_OF_MANY_{number}", "x" * 50)
    start = time.process_time()
    assert interpolate("{v!full}", {"v": values}) == str(values)
    assert time.process_time() - start < 4
    assert len(looks) == 1


def test_plain_values_import_nothing_heavy():
    code = (
        "import sys; from ipyconvexai.notebook.interpolation import interpolate\n"
        "interpolate('{a} {b} {c:.1f} {d[x]}', {'a': 'x', 'b': [1], 'c': 1.0, 'd': {'x': {1}}})\n"
        "print([name for name in 'pandas polars pyarrow numpy duckdb narwhals openai'.split() if name in sys.modules])"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd()
    ).stdout
    assert seen.strip() == "[]"
