"""``Err``, ``%ai error`` and ``%ai fix``: which cell failed, how it was told, and what a model is asked of it."""

from __future__ import annotations

import gc
import itertools
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.context import tracebacks
from ipyconvexai.context.tracebacks import Errors, Failure
from ipyconvexai.notebook import fixing, session
from ipyconvexai.testing import Fault
from tests.magics.conftest import KEY, Run, Scripted

FAILED = "Cell {} of a notebook failed: {}"
FIX = "Cell 1 of a notebook failed: ZeroDivisionError: division by zero"


@pytest.fixture
def shell(shell: InteractiveShell) -> Iterator[InteractiveShell]:
    """Its cells are counted from 1; colours are on, as they are for users."""
    colors, shell.colors = shell.colors, "linux"
    shell.execution_count = 1
    assert shell.history_manager is not None
    shell.history_manager.exceptions.clear()
    tracebacks.unwatch(shell)  # which had found what other tests have left
    tracebacks.watch(shell)
    yield shell
    shell.colors = colors
    shell.execution_count = 1
    shell.history_manager.exceptions.clear()


@pytest.fixture
def cell(shell: InteractiveShell) -> Callable[[str], int]:
    """Runs a cell as a front end does; gives its number."""

    def run(source: str) -> int:
        number = shell.execution_count
        shell.run_cell(source, store_history=True)
        return number

    return run


Cell = Callable[[str], int]


def err(shell: InteractiveShell) -> Errors:
    kept: Errors | None = tracebacks.of_shell(shell)
    assert kept is not None
    assert (shell.user_ns["Err"] is kept) is True
    return kept


# --------------------------------------------------------------------------------------------- the right cell
BROKEN = """
class Broken(Exception):
    def __str__(self):
        raise RuntimeError("no text")
raise Broken
"""
OURS = "import ipyconvexai\nraise ipyconvexai.errors.UnreachableError('nobody is there', cure='Try again.')"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("x = 1\nx = = 2", "SyntaxError: invalid syntax"),
        ("x = 'a", "SyntaxError: unterminated string literal"),
        ("if True:\nx = 1", "IndentationError: expected an indented block"),
        ("return 1", "SyntaxError: 'return' outside function"),
        ("eval('1 +')", "SyntaxError: invalid syntax"),
        ("%no_such_magic", "UsageError: Line magic function `%no_such_magic` not found."),
        ("%timeit -n", "UsageError: option -n requires argument"),
        ("%%timeit\n1 / 0", "ZeroDivisionError: division by zero"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (BROKEN, "RuntimeError: no text"),
        ("raise ExceptionGroup('two', [ValueError('one'), KeyError('two')])", "ValueError: one"),
        (OURS, "UnreachableError: nobody is there\n  Try again."),
        ("raise ValueError('two\\nlines: of it')", "ValueError: two\nlines: of it"),
        ("import asyncio\nawait asyncio.sleep(0)\nawait asyncio.wait_for(asyncio.sleep(9), 0)", "TimeoutError"),
        ("%%capture\n1 / 0", "ZeroDivisionError: division by zero"),
        ("get_ipython().run_cell('1 / 0')", "ZeroDivisionError: division by zero"),
        ("get_ipython().run_cell('get_ipython().run_cell(\"1 / 0\")')\n1 + 1", "ZeroDivisionError: division by zero"),
        ("get_ipython().run_cell('1 / 0')\nint('x')", "ValueError: invalid literal"),
    ],
)
def test_the_text_of_each_kind_is_under_the_cell_s_number(shell: InteractiveShell, cell: Cell, source: str, says: str):
    cell("a = 1")
    number = cell(source)
    cell("a = 2")
    assert number == 2
    assert list(err(shell)) == [2]
    text = err(shell)[2]
    assert says in text
    assert "\x1b" not in text
    last = err(shell).last
    assert last is not None
    assert last.source == source
    assert last.summary in text
    assert last.summary.startswith(last.name)
    assert last.name in ("Broken", "ExceptionGroup", "UserWarning", *says.replace(":", " ").split())


def test_a_script_that_fails_is_told_though_its_cell_does_not_fail(shell: InteractiveShell, cell: Cell, tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text("def f():\n    return {}['key']\nf()\n")
    notebook = tmp_path / "lines.ipy"
    notebook.write_text("x = 1\nint('nine')\n")
    cell(f"%run {script}")
    cell(f"%run {notebook}")
    assert list(err(shell)) == [1, 2]
    assert "script.py" in err(shell)[1]
    assert err(shell)[1].endswith("KeyError: 'key'")
    assert "'nine'" in err(shell)[2]


def test_a_cell_that_is_not_counted_counts_as_the_next_until_that_runs(shell: InteractiveShell, cell: Cell):
    cell("1 / 0")
    shell.run_cell("int('x')")
    assert [text.splitlines()[-1].partition(":")[0] for text in err(shell).values()] == [
        "ZeroDivisionError",
        "ValueError",
    ]
    assert list(err(shell)) == [1, 2]
    cell("a = 1")
    assert list(err(shell)) == [1]
    shell.run_cell("int('y')", silent=True)  # of a front end, for itself
    assert list(err(shell)) == [1]


def test_after_a_reset_numbers_begin_anew(shell: InteractiveShell, cell: Cell):
    for source in ("1 / 0", "1 / 0", "%reset -f"):
        cell(source)
    shell.execution_count = 1
    cell("a = 1")
    assert list(err(shell)) == [2]


def test_it_is_the_users_name_to_take(bare_shell: InteractiveShell):
    bare_shell.user_ns["Err"] = "mine"
    ai.load_ipython_extension(bare_shell)
    bare_shell.run_cell("1 / 0")
    assert tracebacks.of_shell(bare_shell)
    ai.unload_ipython_extension(bare_shell)
    assert bare_shell.user_ns.pop("Err") == "mine"


def test_what_failed_before_it_was_loaded_is_there(bare_shell: InteractiveShell):
    history: Any = bare_shell.history_manager
    history.exceptions.clear()
    first = bare_shell.execution_count = len(history.input_hist_raw)
    bare_shell.run_cell("early = 1 / 0", store_history=True)
    bare_shell.run_cell("%load_ext ipyconvexai", store_history=True)
    try:
        last = err(bare_shell).last
        assert last is not None
        assert last.source == "early = 1 / 0"
        bare_shell.run_cell("%unload_ext ipyconvexai")
        bare_shell.run_cell("%load_ext ipyconvexai\nint('x')", store_history=True)
        assert list(err(bare_shell)) == [first, first + 2]
        assert "ZeroDivisionError" in err(bare_shell)[first]
        assert "ValueError" in err(bare_shell)[first + 2]
    finally:
        bare_shell.run_cell("%unload_ext ipyconvexai")
        bare_shell.execution_count = 1


@pytest.mark.parametrize("replaced", [True, False])
def test_unloading_leaves_the_shell_as_it_was(
    bare_shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch, replaced: bool
):
    if replaced:
        monkeypatch.setitem(bare_shell.__dict__, "_showtraceback", print)

    def state() -> list[object]:
        callbacks = {name: list(found) for name, found in bare_shell.events.callbacks.items()}
        return [callbacks, bare_shell.__dict__.get("_showtraceback"), "Err" in bare_shell.user_ns]

    before = state()
    ai.load_ipython_extension(bare_shell)
    ai.load_ipython_extension(bare_shell)
    assert len(bare_shell.events.callbacks["post_run_cell"]) == len(before[0]["post_run_cell"]) + 1  # type: ignore[index]
    ai.unload_ipython_extension(bare_shell)
    assert state() == before


def test_somebody_else_who_draws_goes_on(bare_shell: InteractiveShell, capsys: pytest.CaptureFixture[str]):
    drawn: list[str] = []
    first: Any = bare_shell._showtraceback

    def before(*args: Any) -> None:
        drawn.append("before")
        first(*args)

    setattr(bare_shell, "_showtraceback", before)  # noqa: B010 - as others do
    ai.load_ipython_extension(bare_shell)
    ours = bare_shell._showtraceback

    def after(*args: Any) -> None:
        drawn.append("after")
        ours(*args)

    setattr(bare_shell, "_showtraceback", after)  # noqa: B010
    bare_shell.run_cell("1 / 0")
    assert drawn == ["after", "before"]
    assert tracebacks.of_shell(bare_shell)
    ai.unload_ipython_extension(bare_shell)
    bare_shell.run_cell("1 / 0")
    assert drawn == ["after", "before"] * 2
    del bare_shell.__dict__["_showtraceback"]
    assert capsys.readouterr().out.count("ZeroDivisionError") == 4


# --------------------------------------------------------------------------------------------- formatted once
@pytest.mark.parametrize(
    ("source", "counted"),
    [
        *itertools.product(["1 / 0", "raise Drawn()", "x = = 1", "%%capture\n1 / 0", "await nothing"], [True, False]),
        ("raise ExceptionGroup('two', [ValueError(), KeyError()])", True),
    ],
)
def test_nothing_is_formatted_that_the_shell_does_not_format_anyway(
    bare_shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch, source: str, counted: bool
):
    formatted: list[str] = []

    def counting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any, **kwargs: Any) -> Any:
            formatted.append(name)
            return real(*args, **kwargs)

        return count

    class Drawn(Exception):
        def _render_traceback_(self) -> list[str]:
            formatted.append("drawn")
            return ["Drawn: itself"]

    for formatter in ("InteractiveTB", "SyntaxTB"):
        owner = getattr(bare_shell, formatter)
        monkeypatch.setattr(owner, "structured_traceback", counting(formatter, owner.structured_traceback))
    monkeypatch.setattr("traceback.format_exception", counting("python", __import__("traceback").format_exception))
    bare_shell.user_ns["Drawn"] = Drawn

    def run() -> list[str]:
        formatted.clear()
        bare_shell.run_cell(source, store_history=counted)
        return list(formatted)

    without = run()
    assert without
    ai.load_ipython_extension(bare_shell)
    try:
        assert run() == without
        assert list(err(bare_shell).values())[-1]
        assert formatted == without
    finally:
        ai.unload_ipython_extension(bare_shell)
        del bare_shell.user_ns["Drawn"]


def test_a_custom_handler_draws_as_it_likes(shell: InteractiveShell, cell: Cell, capsys: pytest.CaptureFixture[str]):
    def handler(self: Any, etype: type, value: BaseException, tb: TracebackType, tb_offset: Any = None) -> None:
        print("handled")

    shell.set_custom_exc((ZeroDivisionError,), handler)
    try:
        cell("1 / 0")
        shell.run_cell("2 / 0")
        cell("int('x')")
    finally:
        shell.set_custom_exc((), None)
    assert capsys.readouterr().out.count("handled") == 2
    assert "ZeroDivisionError" in err(shell)[1]
    assert list(err(shell)) == [1, 2], "of the cell that was not counted the number was taken"
    assert "ValueError" in err(shell)[2]


def test_no_variable_of_a_failed_cell_is_kept(shell: InteractiveShell, cell: Cell):
    class Big:
        pass

    kept: list[weakref.ref[Big]] = []

    def fail() -> None:
        big = Big()
        kept.append(weakref.ref(big))
        raise ValueError("big")

    shell.user_ns["fail"] = fail
    for source in ("fail()", "try:\n    fail()\nexcept ValueError:\n    get_ipython().showtraceback()", "fail()"):
        cell(source)
    assert kept[-1]() is not None, "IPython itself keeps the last"
    cell("1 / 0")
    shell.user_ns.pop("fail")
    for name in ("last_value", "last_traceback", "last_exc", "last_type"):
        if hasattr(sys, name):
            delattr(sys, name)
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3
    assert len(err(shell)) == 4


def test_few_and_short_enough(shell: InteractiveShell, cell: Cell):
    kept = Errors()
    for number in range(tracebacks.MOST + 5):
        kept.keep(Failure(number, "", ["x"], "X"))
    assert len(kept) == tracebacks.MOST
    assert next(iter(kept)) == 5
    cell("raise ValueError('<' + 'm' * 1_000_000 + '>')")
    text = err(shell)[1]
    assert len(text) < tracebacks.LONGEST + 200
    assert text.endswith("m>")
    assert "characters left out here" in text


def test_it_tells_what_it_holds(shell: InteractiveShell, cell: Cell):
    assert repr(err(shell)) == "Err: no cell has failed yet"
    cell("1 / 0")
    cell("int('x')")
    assert repr(err(shell)).splitlines() == [
        "Err[1]: ZeroDivisionError: division by zero",
        "Err[2]: ValueError: invalid literal for int() with base 10: 'x'",
    ]
    assert all(type(text) is str for text in err(shell).values())
    with pytest.raises(KeyError, match="no error of cell 9; Err holds those of 1, 2"):
        err(shell)[9]


# --------------------------------------------------------------------------------------------- asking about it
@pytest.fixture
def model(shell: InteractiveShell, endpoint: Scripted) -> Scripted:
    return endpoint


def test_error_asks_about_the_last_cell_that_failed(run: Run, cell: Cell, model: Scripted):
    cell("total = 0\n1 / total")
    cell("a = {'total': 1}")
    assert run("%ai error") is None
    prompt = model.calls[0].prompt
    first, request, *_ = prompt.split("\n\n")
    assert first == FIX
    assert request == "Explain in a few sentences what went wrong, and how to mend it."
    assert "```python\ntotal = 0\n1 / total\n```" in prompt
    assert "----> 2" in prompt
    assert prompt.endswith("ZeroDivisionError: division by zero\n```")
    assert "\x1b" not in prompt


def test_fix_offers_the_mended_cell(run: Run, cell: Cell, shell: InteractiveShell, model: Scripted):
    model.scripted[FIX] = "Nothing is divided by nothing:\n\n```python\nlen([])\n```\n\nSo:\n\n```python\n1 / 1\n```\n"
    cell("1 / 0")
    assert run("%ai fix") is None
    assert "one fenced block" in model.calls[0].prompt
    assert shell.rl_next_input == "1 / 1"
    shell.rl_next_input = None
    assert run("%ai error") is None
    assert shell.rl_next_input is None, "error explains only"
    model.scripted[FIX] = "No code in here."
    assert run("%ai fix") is None
    assert shell.rl_next_input is None
    model.scripted[FIX] = "Code:\n```python\n2\n```\nand\n```python\n3\n```\n"
    assert run("%ai fix -f code") is None
    assert shell.rl_next_input == "2\n\n3", "as that format has it"


def test_braces_of_a_cell_are_not_filled_in(run: Run, cell: Cell, model: Scripted):
    cell("name = 'filled'\nprint(f'{name}', '{In}')\n1 / 0")
    assert run("%ai error") is None
    assert "f'{name}', '{In}'" in model.calls[0].prompt
    assert "print(f'filled'" not in model.calls[0].prompt


def test_options_and_models(run: Run, cell: Cell, model: Scripted, shell: InteractiveShell):
    cell("1 / 0")
    assert run("%ai error openai:gpt-x -t 0") is None
    assert run("%ai fix --max-tokens 9 gpt-4o") is None
    assert run("%ai error -s 'In French, please.'") is None
    session.of_shell(shell).aliases["mine"] = session.Alias("openai:gpt-y")
    assert run("%ai fix mine") is None
    bodies = [call.body for call in model.calls]
    assert bodies.pop()["model"] == "gpt-y"
    assert [body["model"] for body in bodies] == ["gpt-x", "gpt-4o", "gpt-4o-mini"]
    assert bodies[0]["temperature"] == 0
    assert bodies[2]["messages"][0]["content"] == "In French, please."
    assert isinstance(run("%ai fix opnai:gpt-x"), errors.UnknownProviderError), "a model that is mistyped"
    assert type(run("%ai error --wrong")).__name__ == "UsageError"
    assert model.count == 4


@pytest.mark.parametrize(
    "line",
    [
        "fix my life please",
        "error handling in rust",
        "error handling",
        "fix typos",
        "errors",
        "fix it - now",
        "error -1 in C",
        "fix gpt-4o now",
        "error E0308",
        "fix and/or",
    ],
)
def test_a_question_stays_one(run: Run, cell: Cell, model: Scripted, line: str):
    cell("1 / 0")
    assert run(f"%ai {line}") is None
    assert [call.prompt for call in model.calls] == [line]


@pytest.mark.parametrize("command", ["error", "fix"])
def test_nothing_failed_yet(run: Run, model: Scripted, command: str, capsys: pytest.CaptureFixture[str]):
    for _ in range(2):  # which is no error to ask about
        assert type(run(f"%ai {command}")).__name__ == "UsageError"
    assert capsys.readouterr().err.count("no cell has failed yet") == 2
    assert model.count == 0


def test_a_failure_to_ask_is_not_what_is_asked_about(run: Run, cell: Cell, model: Scripted, shell: InteractiveShell):
    cell("1 / 0")
    model.scripted[FIX] = Fault(500, message="not today")
    number = cell("%ai fix")
    assert "not today" in err(shell)[number]
    model.scripted.clear()
    assert run("%ai fix") is None
    assert model.calls[-1].prompt.startswith(FIX)


def test_no_key_is_sent(run: Run, cell: Cell, model: Scripted):
    cell(f"key = '{KEY}'\nraise ValueError('refused: {KEY}')")
    assert run("%ai error") is None
    assert KEY not in str(model.calls[0].body)
    assert "refused: ***" in model.calls[0].prompt


CHAIN = """
error = None
for number in range(100):
    try:
        raise ValueError(number) from error
    except ValueError as caught:
        error = caught
raise RuntimeError("the last") from error
"""


@pytest.mark.parametrize(
    ("source", "first", "end"),
    [
        (CHAIN, "RuntimeError: the last", "RuntimeError: the last"),
        ("raise ValueError('<' + 'm' * 100_000 + '>')", "ValueError: <mmm", "mmm>"),
        (f"text = {'m' * 20_000!r}\nraise ValueError(1)", "ValueError: 1", "ValueError: 1"),
    ],
    ids=["chain", "message", "cell"],
)
def test_what_is_huge_is_cut_in_the_middle(run: Run, cell: Cell, model: Scripted, source: str, first: str, end: str):
    cell(source)
    assert run("%ai error") is None
    prompt = model.calls[0].prompt
    assert prompt.startswith(f"Cell 1 of a notebook failed: {first}")
    assert prompt.endswith(f"{end}\n```")
    assert "characters left out here" in prompt
    assert len(prompt) < 27_000


def test_a_fence_within_the_cell_does_not_end_its_fence(run: Run, cell: Cell, model: Scripted):
    cell("text = '''\n```\nnot the end\n```\n'''\n1 / 0")
    assert run("%ai error") is None
    assert "````python\ntext" in model.calls[0].prompt


def test_a_cell_that_broke_off_is_not_offered(run: Run, cell: Cell, shell: InteractiveShell, model: Scripted):
    cell("1 / 0")
    shell.rl_next_input = None
    model.scripted[FIX] = "So:\n\n```python\n1 / 1\nimport os\nos.remo"
    assert run("%ai fix") is None
    assert shell.rl_next_input is None
    model.scripted[FIX] = "So:\n\n```python\n1 / 1\n```\n\nOr:\n```python\n1 /"
    assert run("%ai fix") is None
    assert shell.rl_next_input == "1 / 1"


def test_an_answer_of_fences_takes_no_time(run: Run, cell: Cell, shell: InteractiveShell, model: Scripted):
    model.scripted[FIX] = "```python\n1 / 1\n```\n" + "```a\n" * 20_000
    cell("1 / 0")
    start = time.process_time()
    assert run("%ai fix") is None
    assert time.process_time() - start < 8, "0.5 s are enough"
    assert shell.rl_next_input == "1 / 1"


@pytest.mark.parametrize("command", ["error", "fix"])
@pytest.mark.parametrize("name", ["image", "json", "html", "math"])
def test_an_explanation_is_words(run: Run, cell: Cell, model: Scripted, command: str, name: str):
    cell("1 / 0")
    error = run(f"%ai {command} -f {name}")
    assert type(error).__name__ == "UsageError"
    assert f"-f is one of markdown, text, code, not {name}" in str(error)
    assert model.count == 0
    assert run(f"%ai {command} -f text") is None, "what was refused is not the error that is asked about"
    assert model.calls[0].prompt.startswith(FIX)


def test_no_key_is_sent_by_a_question_that_names_the_error(run: Run, cell: Cell, model: Scripted):
    cell(f"raise ValueError('refused: {KEY}')")
    for field in ("{Err[1]}", "{Err[1]!r}", "{Err[1]!full}", "{Err}"):
        assert run(f"%%ai --no-history\nWhy {field}?") is None
        assert KEY[:8] not in str(model.calls[-1].body)
        assert "refused: ***" in model.calls[-1].prompt


def test_half_a_key_is_not_sent():
    ahead = "ValueError: "
    for length in (200, fixing.LONGEST // 2):  # where the first line, and the whole text, are cut
        said = ahead + "m" * (length - len(ahead) - 10) + KEY + "m" * 2 * fixing.LONGEST
        asked = fixing.question(Failure(1, "", [said], "ValueError"), "error")
        assert "characters left out here" in asked
        assert KEY[:5] not in asked
