"""The verified defects of jupyter-ai-magics 2.31.7 and jupyter-ai-magic-commands 0.0.4: none of them is here.

`DEFECTS` says of each which tests show it; those that stood elsewhere already are named there, the others are below.
The second half plants values in the environment and looks for them in everything that left the process or was kept.
"""

from __future__ import annotations

import ast
import base64
import json
import os
import secrets
import sys
import types
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.testing import Answer, Drop, Fault
from tests.magics.conftest import KEY, Page, Run, Scripted

TESTS = Path(__file__).resolve().parents[1]


class Defect(NamedTuple):
    """What the peers do, and the tests that would fail if we did so, too."""

    what: str
    shown_by: tuple[str, ...]


DEFECTS = {
    1: Defect(
        "braces that name no variable raise ValueError before anything is sent",
        (
            "magics/test_defects.py::test_braces_that_name_nothing_are_sent_byte_for_byte",
            "magics/test_fields.py::test_what_names_nothing_stays_byte_for_byte",
        ),
    ),
    2: Defect(
        "what a variable holds is read for names again: the whole environment goes to the model",
        (
            "magics/test_asking.py::test_a_hostile_value_leads_nowhere",
            "magics/test_fields.py::test_a_value_is_never_read_again",
            "magics/test_defects.py::test_no_value_of_the_environment_is_sent_or_kept",
            "magics/test_defects.py::test_the_environment_is_refused_in_every_shape",
        ),
    ),
    3: Defect(
        "--api-key-name puts the key into the JSON body",
        (
            "magics/test_preparing.py::test_an_address_of_one_s_own",
            "magics/test_at_home.py::test_an_alias_at_an_address_of_its_own",
        ),
    ),
    4: Defect(
        "a failed call, bad JSON, an unknown model and a bad option return a text, and Run All goes on",
        ("magics/test_defects.py::test_what_fails_fails_its_cell",),
    ),
    5: Defect(
        "-f json fails on a fenced reply; -f code puts prose and backticks into the next cell",
        (
            "magics/test_defects.py::test_a_fenced_reply_is_json",
            "magics/test_formats.py::test_json_is_found",
            "magics/test_asking.py::test_code_goes_into_the_next_cell",
            "magics/test_formats.py::test_the_fenced_code_alone_goes_into_the_next_cell",
        ),
    ),
    6: Defect(
        "-f html shows the model's <img onerror=...> as it is",
        (
            "magics/test_defects.py::test_no_handler_of_the_model_s_is_shown",
            "magics/test_formats.py::test_html_is_cleaned_and_has_a_text",
            "promises/test_no_script.py::test_no_payload_survives_at_any_door",
        ),
    ),
    7: Defect(
        "text/plain of an answer is <IPython.core.display.Markdown object>",
        (
            "magics/test_defects.py::test_plain_text_is_the_answer",
            "magics/test_defects.py::test_plain_text_is_printed_where_nothing_is_drawn",
            "magics/test_at_home.py::test_its_formats",
            "kernel/test_magics_in_a_kernel.py::test_the_saved_notebook_holds_the_whole_answer_once",
        ),
    ),
    8: Defect(
        "one generation takes no quoted -m, the other no bare one, and that parses it and drops it",
        (
            "magics/test_defects.py::test_parameters_are_sent_quoted_or_not",
            "magics/test_at_home.py::test_its_cells",
        ),
    ),
    9: Defect(
        "no model and no default is a KeyError; a blank cell is sent; an apostrophe is a ValueError of its parser",
        (
            "magics/test_defects.py::test_without_a_model_the_error_names_cures",
            "magics/test_asking.py::test_an_empty_cell_is_not_sent",
            "magics/test_defects.py::test_an_apostrophe_is_a_letter",
            "promises/test_any_line.py::test_any_line_gives_a_result_or_one_error",
        ),
    ),
    10: Defect(
        "Err[n] is the error of cell n - 1",
        (
            "magics/test_fixing.py::test_the_text_of_each_kind_is_under_the_cell_s_number",
            "magics/test_screens.py::test_errors_are_kept_under_the_number_that_is_shown",
            "kernel/test_magics_in_a_kernel.py::test_errors_are_kept_under_the_number_of_their_cell",
        ),
    ),
    11: Defect(
        "every error of the notebook is formatted twice",
        (
            "magics/test_fixing.py::test_nothing_is_formatted_that_the_shell_does_not_format_anyway",
            "kernel/test_magics_in_a_kernel.py::test_an_error_is_formatted_as_often_as_without_us",
        ),
    ),
    12: Defect(
        "no streaming, no record, no cost; an interrupt takes seconds",
        (
            "magics/test_defects.py::test_an_answer_is_drawn_while_it_comes",
            "magics/test_defects.py::test_every_call_has_its_row",
            "kernel/test_magics_in_a_kernel.py::test_an_answer_grows_in_one_output",
            "kernel/test_magics_in_a_kernel.py::test_an_interrupt_keeps_what_came",
        ),
    ),
}


def test_each_defect_is_shown_by_tests_that_exist():
    assert list(DEFECTS) == list(range(1, 13))
    for number, defect in DEFECTS.items():
        assert defect.shown_by, number
        for name in defect.shown_by:
            file, _, test = name.partition("::")
            assert test in functions_of(TESTS / file), f"{number}: {name}"
    named = {name.partition("::")[2] for defect in DEFECTS.values() for name in defect.shown_by}
    own = {name for name in functions_of(Path(__file__)) if name.startswith("test_")}
    assert own - named == {
        "test_each_defect_is_shown_by_tests_that_exist",
        "test_the_planted_values_would_be_found",
        "test_what_shares_a_few_variables_is_not_the_environment",
    }


def functions_of(file: Path) -> set[str]:
    """Of a module, not of its classes."""
    return {node.name for node in ast.parse(file.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)}


# ------------------------------------------------------------------------------------------------ the defects
BRACES = ("{'foo':'bar'}", "function f(){ return {a: 1}; }", r"\frac{a}{b}", "{}", '{"a": {"b": [{}]}}', "{0} {a-b}")


@pytest.mark.parametrize("text", BRACES)
@pytest.mark.parametrize("magic", ["%ai ", "%%ai\n"])
def test_braces_that_name_nothing_are_sent_byte_for_byte(run: Run, endpoint: Scripted, magic: str, text: str):
    """1. A variable of each letter is there: what is code, JSON or LaTeX is no field all the same."""
    run("a = b = foo = 'filled'")
    assert run(f"{magic}Explain {text} to me") is None
    assert endpoint.calls[0].prompt == f"Explain {text} to me"


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        ("%%ai\nlimited", errors.RateLimitError),
        ("%ai limited", errors.RateLimitError),
        ("%%ai\nrefused", errors.AuthenticationError),
        ("%%ai\ndropped", errors.UnreachableError),
        ("%%ai\ncut", errors.StreamCutError),
        ("%%ai -f json\nprose", errors.InvalidAnswerError),
        ("%%ai --schema 'name, age int'\nprose", errors.InvalidAnswerError),
        ("%%ai nobody-knows-it\nx", errors.UnknownModelError),
        ("%%ai nobody:x\nx", errors.UnknownProviderError),
        ("%%ai --no-such-option\nx", UsageError),
        ("%%ai -f yaml\nx", UsageError),
        ("%ai usage --by", UsageError),
        ("%%ai\n{broken.part}", UsageError),
    ],
)
def test_what_fails_fails_its_cell(
    shell: InteractiveShell, endpoint: Scripted, cell: str, error: type[Exception], capsys: pytest.CaptureFixture[str]
):
    """4. Run All stops at a cell whose result is no success."""
    endpoint.scripted |= {
        "limited": Fault(429),
        "refused": Fault(401),
        "dropped": Drop(),
        "cut": Answer("one two three four", cut_after=2),
        "prose": "I would rather not.",
    }
    shell.user_ns["broken"] = Broken()
    result = shell.run_cell(cell)
    assert not result.success
    assert isinstance(result.error_in_exec or result.error_before_exec, error)
    assert "I would rather not" not in str(result.result)
    assert "Error: " in "".join(capsys.readouterr())


class Broken:
    @property
    def part(self) -> str:
        raise RuntimeError("it is broken")


def test_a_fenced_reply_is_json(run: Run, endpoint: Scripted, page: Page):
    """5."""
    endpoint.scripted["data"] = 'Sure:\n```json\n{"a": [1, 2]}\n```\nAnything else?'
    assert run("%%ai -f json\ndata") is None
    trees = [frame["application/json"] for frame in page.frames if "application/json" in frame]
    assert trees == [{"a": [1, 2]}]


def test_no_handler_of_the_model_s_is_shown(run: Run, endpoint: Scripted, page: Page):
    """6. Neither at the end nor while it comes."""
    endpoint.scripted["page"] = Answer("<h1>Hi</h1> <img src=x onerror=alert(1)> <b>there</b>", token_delay=0.06)
    assert run("%%ai -f html\npage") is None
    assert page.last["text/html"].count("<h1>Hi</h1>") == 1
    assert page.last["text/plain"].split() == ["Hi", "there"]
    assert len(page.frames) > 1
    assert not any("onerror" in frame.get("text/html", "") for frame in page.frames)


@pytest.mark.parametrize("line", ["%%ai", "%%ai -f text --no-stream", "%%ai openai:gpt-x -t 0"])
def test_plain_text_is_the_answer(run: Run, endpoint: Scripted, page: Page, line: str):
    """7. Below the answer, a format of plain text alone has the line of ours."""
    endpoint.scripted["Who?"] = "**Ada** & co.\n\n- one"
    assert run(f"{line}\nWho?") is None
    shown = page.last["text/plain"]
    assert shown.partition("\n\n[")[0] == "**Ada** & co.\n\n- one"
    assert not any("object" in frame["text/plain"] for frame in page.frames)


def test_plain_text_is_printed_where_nothing_is_drawn(run: Run, endpoint: Scripted, capsys: pytest.CaptureFixture[str]):
    """7. Without a front end."""
    endpoint.scripted["Who?"] = "**Ada** & co."
    assert run("%ai Who?") is None
    assert capsys.readouterr().out.startswith("**Ada** & co.\n[")


@pytest.mark.parametrize("given", ['{"top_p": 0.5, "stop": ["a b"]}', '{"top_p":0.5,"stop":["a b"]}'])
@pytest.mark.parametrize("quote", ["", "'"])
@pytest.mark.parametrize("option", ["-m ", "--model-parameters ", "--model-parameters="])
@pytest.mark.parametrize("magic", ["%ai {} Who?", "%%ai openai:gpt-x {}\nWho?", "%%ai {} openai:gpt-x\nWho?"])
def test_parameters_are_sent_quoted_or_not(
    run: Run, endpoint: Scripted, magic: str, option: str, quote: str, given: str
):
    """8."""
    assert run(magic.format(f"{option}{quote}{given}{quote}")) is None
    body = endpoint.calls[0].body
    assert (body["top_p"], body["stop"]) == (0.5, ["a b"])
    assert body["messages"] == [{"role": "user", "content": "Who?"}]


@pytest.mark.parametrize("cell", ["%ai Who?", "%%ai\nWho?", "%%ai -f json --no-stream\nWho?", "%%ai --dry-run\nWho?"])
def test_without_a_model_the_error_names_cures(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch, cell: str, capsys: pytest.CaptureFixture[str]
):
    """9. No key, no Ollama, no local model."""
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    monkeypatch.setattr("ipyconvexai.providers.choice._local_state", lambda: ("is not installed", ""))
    with ai.connect(":memory:"):
        result = shell.run_cell(cell)
        assert isinstance(result.error_in_exec, errors.NoModelError)
        assert ai.ledger.sql("SELECT count(*) FROM calls").fetchall() == [(0,)]
    printed = "".join(capsys.readouterr())
    assert printed.startswith("NoModelError: ")
    assert "Traceback" not in printed
    for cure in (
        "export OPENAI_API_KEY=",
        "ANTHROPIC_API_KEY",
        "ollama pull",
        "ipyconvexai fetch-model",
        "ai.doctor()",
    ):
        assert cure in printed


@pytest.mark.parametrize(
    ("cell", "prompt"),
    [
        ("%ai Isn't it? Don't you \"know", "Isn't it? Don't you \"know"),
        ("%%ai -s Don't\nWhat's that? It's 5\" long", "What's that? It's 5\" long"),
        ("%%ai -s 'Don't'\nI'd", "I'd"),
    ],
)
def test_an_apostrophe_is_a_letter(run: Run, endpoint: Scripted, cell: str, prompt: str):
    """9. On the line and in the cell."""
    assert run(cell) is None
    assert endpoint.calls[0].prompt == prompt
    assert run("%%ai don't\nx") is not None
    assert endpoint.count == 1


def test_an_answer_is_drawn_while_it_comes(run: Run, endpoint: Scripted, page: Page):
    """12."""
    text = "word " * 20
    endpoint.scripted["grow"] = Answer(text, token_delay=0.02)
    assert run("%%ai\ngrow") is None
    shown = [frame["text/plain"] for frame in page.frames]
    assert len(set(shown)) >= 3
    assert all(text.startswith(part) for part in shown)
    assert shown == sorted(shown, key=len)


@pytest.mark.parametrize(
    ("reply", "status", "text"),
    [
        (Answer("one two three"), "ok", "one two three"),
        (Fault(429, message="slow down"), "error", None),
        (Fault(500), "error", None),
        (Drop(), "error", None),
        (Answer("one two three four", cut_after=2), "cut", "one two"),
        (Answer("one two three four", cut_after=2, cut="reset"), "cut", "one two"),
        (Answer("one two three", failed="it broke"), "error", "one two three"),
    ],
    ids=["ok", "429", "500", "dropped", "cut", "reset", "failed"],
)
def test_every_call_has_its_row(run: Run, endpoint: Scripted, reply: Any, status: str, text: str | None):
    """12. What failed and what was cut off has one, too: what was sent, how it ended, what it cost, and when its first
    token came."""
    endpoint.scripted["ask"] = reply
    error = run("%%ai -t 0.5\nask")
    assert (error is None) == (status == "ok")
    ((row_id, ended, request, source, came, first, took, cost, model, message),) = ai.ledger.sql(
        "SELECT id::VARCHAR, status, request, source, text, first_token_ms, duration_ms, cost_usd, model, "
        "error_message FROM calls"
    ).fetchall()
    assert (ended, source, model) == (status, "magic", "gpt-4o-mini")
    sent = endpoint.calls[0].body
    assert json.loads(request) == sent
    assert sent["temperature"] == 0.5
    assert sent["messages"] == [{"role": "user", "content": "ask"}]
    assert took > 0
    assert (came or "").split() == (text or "").split()
    if text is not None:
        assert 0 < first <= took
        assert (cost is not None and cost > 0) or status != "ok"
    if error is not None:
        assert error.request_id == row_id
        assert message


# ---------------------------------------------------------------------------------------------- the environment
PLANTED = 20
NAMES = [f"PLANTED_{kind}_{number}" for number in range(PLANTED // 4) for kind in ("API_KEY", "TOKEN", "PATH", "NOTE")]


def planted_value(name: str, core: str) -> str:
    """A value with `core` within: keys are one word; the others are quoted, escaped and encoded in every way."""
    if name.startswith(("PLANTED_API_KEY", "PLANTED_TOKEN")):
        return f"sk-{core}"
    return f"/{core}/bin:/home/ü" if name.startswith("PLANTED_PATH") else f"\"a\\b\" {{x}} {core}\t'ü' {{os.environ}}"


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What cannot be there by chance, one for each planted value."""
    made = [secrets.token_hex(16) for _ in NAMES]
    for name, core in zip(NAMES, made, strict=True):
        monkeypatch.setenv(name, planted_value(name, core))
    return made


def forms(core: str) -> set[bytes]:
    """How it would look: as it is (also where JSON or a URL escapes what is around it), in base64 wherever it begins,
    in hexadecimal, in UTF-16, backwards, and its halves alone. In lower case."""
    found = {core[:16], core[16:], core.encode().hex(), core[::-1], urllib.parse.quote(core)}
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + core.encode())
        found.add(encoded.decode()[4:40].lower())  # without what its neighbours change
    return {form.encode() for form in found} | {core.encode("utf-16-le")}


def leaks(data: bytes, cores: list[str]) -> list[str]:
    """The names of the planted values that are in `data`."""
    lower = data.lower()
    return [name for name, core in zip(NAMES, cores, strict=True) if any(form in lower for form in forms(core))]


def context(data: bytes, cores: list[str]) -> list[bytes]:
    """What stands before and behind the first leak."""
    lower = data.lower()
    places = [at for core in cores for form in forms(core) if (at := lower.find(form)) >= 0]
    return [data[:90] + b" ... " + data[max(0, min(places) - 200) : min(places) + 100]] if places else []


def test_the_planted_values_would_be_found(cores: list[str]):
    everything = dict(os.environ)
    for way in (
        str(everything),
        json.dumps(everything),
        json.dumps(json.dumps(everything, ensure_ascii=False)),
        urllib.parse.urlencode(everything),
        *(base64.b64encode(("x" * shift + str(everything)).encode()).decode() for shift in range(3)),
        str(everything).encode().hex(),
    ):
        assert leaks(way.encode(), cores) == NAMES
    assert leaks(str(everything).encode("utf-16-le"), cores) == NAMES
    assert leaks("".join(NAMES).encode(), cores) == []


def changed() -> dict[str, str]:
    """A copy of the environment as one makes it for another process; what was planted comes first."""
    planted = {name: os.environ[name] for name in NAMES}
    return {**planted, **os.environ, "PATH": "/elsewhere", "MORE": "1"}


class AnyName:
    """Whatever is asked of it is the environment; as a text, too."""

    def __getattr__(self, name: str) -> Any:
        return os.environ

    def __getitem__(self, key: Any) -> Any:
        return os.environ

    def __repr__(self) -> str:
        return f"AnyName({os.environ})"

    def __format__(self, spec: str) -> str:
        return str(dict(os.environ))

    def _repr_html_(self) -> str:
        return str(dict(os.environ))


class Tells:
    """An error of it tells the environment."""

    @property
    def part(self) -> str:
        raise RuntimeError(str(changed()))

    def __str__(self) -> str:
        raise RuntimeError(json.dumps(changed()))


class Text(str):
    """Is another text where it is formatted."""

    def __format__(self, spec: str) -> str:
        return str(os.environ)

    __str__ = __repr__ = lambda self: str(os.environ)


EVIL = "evil {os.environ} {x.__class__} {environ[PLANTED_NOTE_0]} {any.x} $PLANTED_NOTE_0 {{os.environ}} {doc}"


def hostile() -> dict[str, Any]:
    return {
        "doc": EVIL,
        "x": 1,
        "os": os,
        "sys": sys,
        "environ": os.environ,
        "copy": changed(),
        "rows": [EVIL, {"k": EVIL, "e": os.environ}],
        "text": Text(EVIL),
        "any": AnyName(),
        "tells": Tells(),
        "function": hostile,
        "space": types.SimpleNamespace(doc=EVIL, os=os, env=os.environ, __dict__=os.environ),
        "held": [changed(), json.dumps(EVIL), base64.b64encode(EVIL.encode())],
    }


FIELDS = (
    *("doc", "doc!r", "doc!full", "doc:>300", "x", "x.__class__", "os", "os.environ", "sys.modules", "environ"),
    *("environ[PLANTED_NOTE_0]", "environ!r", "copy", "copy!full", "rows", "rows[0]", "rows[1]", "rows[1][e]"),
    *("rows[1][e][PLANTED_NOTE_0]", "text", "text!r", "text:>9", "any", "any!r", "any:x", "any.part", "any[HOME]"),
    *("any[PLANTED_NOTE_0]", "any.part[PLANTED_NOTE_0]", "tells", "tells.part", "function", "function.__globals__"),
    *("function.__globals__[os].environ", "space", "space.doc", "space.os.environ", "space.env", "space.__dict__"),
    *("held", "In", "Out", "Err", "get_ipython", "exit", "open"),
)

# Each asks with one field, "{}" in it; what cannot be asked is a usage error, and that may be asked about.
WAYS: dict[str, str] = {
    "line": "%ai Tell {}",
    "cell": "%%ai\nTell {} and {doc}",
    "system": "%%ai -s 'Be {}' \nTell {doc}",
    "kept": "%%ai --save kept\nTell {}",
    "kept, used": "%ai --with kept",
    "conversation": "%%ai -c talk\nTell {}",
    "conversation, again": "%%ai -c talk\nGo on with {doc}",
    "compared": "%%ai --models openai:gpt-x,openai:gpt-y\nTell {}",
    "json": "%%ai -f json\nTell {}",
    "schema": "%%ai --schema 'name, age int'\nTell {}",
    "planned": "%%ai --dry-run\nTell {}",
    "error": "%ai error",
    "fix": "%ai fix",
}
EVALUATED = ("doc", "text", "rows", "any", "environ", "copy", "space", "os", "tells", "f'{doc} {x}'", "print(doc)")
FAILING = (
    "raise ValueError('{os.environ} {x.__class__} {environ[PLANTED_NOTE_0]} {any.part}')",
    "raise ValueError(doc)",
    "raise ValueError(any)",
    "raise KeyError(copy)",
    "os.environ['NOT THERE {os.environ}']",
    "'{os.environ} {'.format(x)",
    "class E(Exception):\n    args = ('{os.environ}',)\nraise E('{copy}')",
    "any.part.no_such_thing",
)


@pytest.fixture
def hostile_run(shell: InteractiveShell, endpoint: Scripted, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Runs cells among hostile names, over a ledger in a file; the error, if one was raised."""
    endpoint.reply(lambda call: '{"name": "Ada", "age": 36} {os.environ} {doc}')

    def run(cell: str) -> Any:
        result = shell.run_cell(cell, store_history=True)
        return result.error_before_exec or result.error_in_exec

    with ai.connect(tmp_path / "hostile.duckdb", model="openai:gpt-4o-mini", retries=0):
        shell.user_ns.update(hostile())
        yield run
        shell.execution_count = 1


def test_no_value_of_the_environment_is_sent_or_kept(
    cores: list[str], hostile_run: Callable[[str], Any], endpoint: Scripted, tmp_path: Path
):
    """2. Whichever way a question takes: asked, evaluated, kept, replied to, explained."""
    answered = 0
    asked = [f"{{{field}}}" for field in FIELDS if hostile_run(f"%%ai --dry-run\n{{{field}}}") is None]
    assert len(FIELDS) * 0.6 < len(asked) < len(FIELDS), "some hold the environment and cannot be asked"
    refused = [f"{{{field}}}" for field in FIELDS if f"{{{field}}}" not in asked]
    for fields in (" ".join(asked), *refused):
        for way in WAYS.values():
            answered += hostile_run(way.replace("{}", fields)) is None
    for value in EVALUATED:
        answered += hostile_run(f"%%ai --eval\n{value}") is None
        hostile_run("%ai fix")
    for cell in FAILING:
        assert hostile_run(cell) is not None
        hostile_run("%ai fix")
        answered += hostile_run("%%ai\nWhy? {Err} {In} {doc}") is None
    assert answered > len(WAYS) + len(FAILING)
    assert endpoint.count >= answered * 0.9
    assert [leak for call in endpoint.calls for leak in context(wire(call), cores)] == []
    assert leaks(kept_rows(), cores) == []
    assert KEY.encode() not in kept_rows()


@pytest.mark.parametrize(
    "code",
    [
        "environ",
        "copy",
        "[copy]",
        "space",
        "text",
        "tells",
        "os",
        "print",
        "print(environ)",
        "print(copy); 1",
        "import json; print(json.dumps(copy))",
        "print({k.encode(): v.encode() for k, v in copy.items()})",
    ],
)
def test_the_environment_is_refused_in_every_shape(
    cores: list[str], hostile_run: Callable[[str], Any], endpoint: Scripted, code: str
):
    """2. What a cell gives or prints is no text that somebody wrote."""
    assert isinstance(hostile_run(f"%%ai --eval\n{code}"), UsageError)
    assert endpoint.count == 0


def test_what_shares_a_few_variables_is_not_the_environment(
    cores: list[str], hostile_run: Callable[[str], Any], endpoint: Scripted, monkeypatch: pytest.MonkeyPatch
):
    few = {"HOME": os.environ.get("HOME", "/home/ada"), "LANG": "C"}
    for name, value in few.items():
        monkeypatch.setenv(name, value)
    assert hostile_run(f"settings = {few!r}") is None
    assert hostile_run("%%ai --no-history\nTell {settings}") is None
    assert endpoint.calls[0].prompt == f"Tell {few}"


def wire(call: Any) -> bytes:
    """All that was sent, but for the key in its header."""
    headers = {name: value for name, value in call.headers.items() if name != "authorization"}
    assert call.headers["authorization"] == f"Bearer {KEY}"
    return b"\n".join([f"{call.method} {call.path}?{call.query} {headers}".encode(), call.raw])


def kept_rows() -> bytes:
    """Every row of every table of the ledger."""
    store = ai.app().store
    tables = store.read(
        "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE'"
    )
    rows = [store.read(f'SELECT t::VARCHAR FROM "{schema}"."{table}" t') for schema, table in tables]
    assert sum(map(len, rows)) > 100
    return str(rows).encode()
