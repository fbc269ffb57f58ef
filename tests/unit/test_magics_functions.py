"""``%ai run`` and its neighbours in a real IPython shell; completion; how results are shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.api import functions, jobs
from ipyconvexai.notebook.results import SHOWN_ROWS, bundle_of, text_of
from ipyconvexai.notebook.words import words_of

Run = Callable[[str], Any]

DEFINITIONS = '''
import ipyconvexai as ai

@ai.query
def magic_titles(ctx, limit: int = 50) -> list[dict[str, str | None]]:
    """Titles of conversations.

    Newest first.
    """
    return [{"title": c.title} for c in ctx.db.query(ai.Conversation).order("desc").take(limit)]

@ai.mutation
def magic_add(ctx, title: str, times: int = 1) -> str:
    """Add a conversation."""
    for _ in range(times):
        ctx.db.insert(ai.Conversation(title=title))
    return f"added <b>{title}</b>"

@ai.mutation(internal=True)
def magic_secret(ctx) -> None:
    ...

@ai.mutation
def magic_later(ctx, seconds: float) -> str:
    return ctx.scheduler.run_after(seconds, magic_add, title="later")
'''


@pytest.fixture(scope="module")
def bare_shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InteractiveShell]:
    """A shell that keeps no history, so that it leaves no open database behind."""
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.ipython_dir = str(tmp_path_factory.mktemp("ipython"))
    config.InteractiveShell.colors = "nocolor"
    yield InteractiveShell.instance(config=config)
    InteractiveShell.clear_instance()


@pytest.fixture
def shell(bare_shell: InteractiveShell) -> Iterator[InteractiveShell]:
    ai.load_ipython_extension(bare_shell)
    yield bare_shell
    ai.unload_ipython_extension(bare_shell)


@pytest.fixture
def run(shell: InteractiveShell) -> Iterator[Run]:
    """Runs a cell; gives what it raised, or None. The functions above are defined."""

    def run_cell(cell: str) -> Any:
        result = shell.run_cell(cell)
        return result.error_before_exec or result.error_in_exec

    with ai.connect(":memory:", user="ada"):
        assert run_cell(DEFINITIONS) is None
        yield run_cell


# ------------------------------------------------------------------------------------------------- running
def test_a_public_function_runs_by_name(run: Run, capsys: pytest.CaptureFixture[str]):
    assert run('%ai run magic_add title="one \x1b[31mred" times=2') is None
    assert capsys.readouterr().out == "added <b>one red</b>\n"
    assert run("%ai run magic_titles limit=1") is None
    shown = capsys.readouterr().out
    assert "title" in shown
    assert shown.count("one red") == 1


def test_the_result_goes_into_a_variable(run: Run, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]):
    run("%ai run magic_add title=one")
    assert run("%ai run magic_titles -o titles") is None
    assert shell.user_ns["titles"] == [{"title": "one"}]
    assert "one" in capsys.readouterr().out


def test_an_internal_function_is_refused(run: Run):
    error = run("%ai run magic_secret")
    assert isinstance(error, errors.NotAllowedError)
    assert "internal" in error.message


def test_an_unknown_name_tells_the_nearest(run: Run):
    error = run("%ai run magic_title")
    assert isinstance(error, errors.UnknownFunctionError)
    assert "magic_titles" in str(error)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("limit=many", "int"),
        ("limt=5", "limit"),
        ("limit=1 limit=2", "twice"),
    ],
)
def test_arguments_that_do_not_fit(run: Run, words: str, says: str):
    error = run(f"%ai run magic_titles {words}")
    assert isinstance(error, errors.ArgumentsError)
    assert says in str(error)


@pytest.mark.parametrize(
    "line",
    ["run magic_titles 5", "run magic_titles please", "run magic_titles -o 5", "run magic_titles limit=1 5", "jobs -x"],
)
def test_what_is_almost_a_command_is_not_paid_for(run: Run, line: str):
    assert type(run(f"%ai {line}")).__name__ == "UsageError"


@pytest.mark.parametrize(
    "line", ["run a marathon in four hours", "cancel my subscription", "limits of growth", "functions of the liver"]
)
def test_what_is_no_command_is_a_question(run: Run, line: str, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    monkeypatch.setattr("ipyconvexai.notebook.asking.ask", lambda shell, options, cell: asked.append(cell))
    run(f"%ai {line}")
    assert asked == [line]


# ------------------------------------------------------------------------------------------------- lists
def test_functions_are_listed(run: Run, capsys: pytest.CaptureFixture[str]):
    assert run("%ai functions") is None
    assert "magic_titles" in capsys.readouterr().out
    rows = {row[0]: row for row in functions()}
    assert rows["magic_titles"][1:] == ("query", "limit: int = 50", "public", "Titles of conversations.")
    assert rows["magic_secret"][1:] == ("mutation", "", "internal", "")


def test_jobs_are_listed_and_canceled(run: Run, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]):
    run("%ai run magic_later seconds=3600 -o job")
    job = shell.user_ns["job"]
    capsys.readouterr()
    assert run("%ai jobs pending") is None
    assert "magic_add" in capsys.readouterr().out
    assert run(f"%ai cancel {job}") is None
    assert capsys.readouterr().out == f"job {job}: canceled\n"
    (row,) = jobs("canceled", name="magic_add")
    assert row[0] == job
    assert len(jobs("pending")) == 0
    assert isinstance(run("%ai jobs faild"), errors.InputError)
    assert isinstance(run(f"%ai cancel {'0' * 8}-0000-7000-8000-{'0' * 12}"), errors.NotFoundError)


def test_a_cron_is_stopped_by_its_name(run: Run, capsys: pytest.CaptureFixture[str]):
    def add(name: str) -> None:
        now = "now()::TIMESTAMP"
        sql = f"INSERT INTO crons VALUES (?, 'f', '{{}}', '{{}}', NULL, {now}, {now}, NULL, NULL, 0, 0)"
        with ai.app().store.transaction() as execute:
            execute.later(sql, [name])

    for name, written in (("nightly", "nightly"), ("each night", '"each night"')):
        add(name)
        assert run(f"%ai cancel {written}") is None
        assert capsys.readouterr().out.startswith(f"cron {name}: stopped")
    assert ai.app().store.read("SELECT DISTINCT next_time FROM crons") == [(None,)]
    assert isinstance(run("%ai cancel nothing_there"), errors.NotFoundError)


@pytest.mark.parametrize("word", ["crons", "limits"])
def test_what_is_empty_is_an_empty_table(run: Run, word: str, capsys: pytest.CaptureFixture[str]):
    assert run(f"%ai {word}") is None
    assert word in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------- completion
def completed(shell: InteractiveShell, line: str) -> set[str]:
    with provisionalcompleter():
        found = shell.Completer.completions(line, len(line))
        return {line[: c.start] + c.text for c in found}


def test_completion(run: Run, shell: InteractiveShell):
    assert {"%ai run", "%ai functions", "%ai jobs"} <= completed(shell, "%ai ")
    assert completed(shell, "%ai fu") == {"%ai functions"}
    names = completed(shell, "%ai run magic_")
    assert names == {f"%ai run magic_{name}" for name in ("titles", "add", "later")}, "internal ones are not called"
    assert completed(shell, "%ai run magic_titles l") == {"%ai run magic_titles limit="}
    assert "%ai run magic_add title=" in completed(shell, "%ai run magic_add ")
    assert "%ai run magic_add title=a title=" not in completed(shell, "%ai run magic_add title=a ")
    assert "%ai run magic_add title=a times=" in completed(shell, "%ai run magic_add title=a t")
    assert completed(shell, "%ai jobs f") == {"%ai jobs failed"}


def test_other_lines_complete_as_ever(run: Run, shell: InteractiveShell):
    shell.user_ns["magical_variable"] = 1
    assert "x = magical_variable" in completed(shell, "x = magical_var")
    assert "ai.ledger" in completed(shell, "ai.ledg")
    assert "%ai run magic_titles limit=magical_variable" in completed(shell, "%ai run magic_titles limit=magical_v")


def test_completion_comes_and_goes_with_the_extension(bare_shell: InteractiveShell):
    def hooks() -> int:
        chain = bare_shell.strdispatchers["complete_command"].strs.get("%ai", [])
        return len(list(chain))

    assert hooks() == 0
    ai.load_ipython_extension(bare_shell)
    ai.load_ipython_extension(bare_shell)
    assert hooks() == 1
    ai.unload_ipython_extension(bare_shell)
    assert hooks() == 0


def test_completion_imports_nothing_and_opens_nothing():
    import subprocess

    code = (
        "import sys\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "from IPython.core.completer import provisionalcompleter\n"
        "shell = InteractiveShell.instance()\n"
        "shell.extension_manager.load_extension('ipyconvexai')\n"
        "with provisionalcompleter():\n"
        "    for line in ('%ai ', '%ai run ', '%ai run f '):\n"
        "        list(shell.Completer.completions(line, len(line)))\n"
        "print([n for n in 'openai duckdb pydantic pyarrow'.split() if n in sys.modules])\n"
        "print([n for n in sys.modules if n in ('ipyconvexai.application', 'ipyconvexai.functions.registry')])\n"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert seen.split() == ["[]", "[]"]


# ------------------------------------------------------------------------------------------------- words, results
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  a=1   b=2 ", ["a=1", "b=2"]),
        ("text='two words' n=1", ["text=two words", "n=1"]),
        ('text="it\'s"', ["text=it's"]),
        (r'text="say \"hi\" now"', ['text=say "hi" now']),
        ("text=don't b=2", ["text=don't", "b=2"]),
        ("text='open b=2", ["text='open", "b=2"]),
        ('ids=[1, 2] d={"a": [1, "x y"]} z=1', ["ids=[1, 2]", 'd={"a": [1, "x y"]}', "z=1"]),
        ("ids=[1, b=2", ["ids=[1,", "b=2"]),
        ("text= b=2", ["text=", "b=2"]),
        ("url=http://x/?a=b", ["url=http://x/?a=b"]),
        ("-o name a=1", ["-o", "name", "a=1"]),
    ],
)
def test_words(text: str, words: list[str]):
    assert words_of(text) == words


HOSTILE = "<img src=x onerror=alert(1)> \x1b[31m\u202e"


@dataclass
class Point:
    x: int
    name: str = HOSTILE


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "value",
    [
        HOSTILE,
        [{"a": HOSTILE}, {HOSTILE: 1}],
        [Point(1)],
        {"a": HOSTILE},
        [HOSTILE],
        ({"a": Odd()},),
        Odd(),
        b"\x1b[31m",
        [],
        [[1], {"a": 1}],
        None,
        5,
    ],
)
def test_nothing_in_a_result_is_markup_or_steers_a_terminal(value: Any):
    shown = bundle_of(value)
    assert "<img" not in shown.get("text/html", "")
    for text in [*shown.values(), text_of(value)]:
        assert "\x1b" not in text
        assert "\u202e" not in text


def test_documents_are_a_table_with_all_their_columns():
    value = [{"a": 1}, {"b": 2, "a": 3}] + [{"a": 4}] * SHOWN_ROWS
    shown = bundle_of(value)
    assert shown["text/html"].startswith("<table")
    head, _, first, second, *_, last = shown["text/plain"].splitlines()
    assert head.split() == ["a", "b"]
    assert (first.split(), second.split()) == (["1", "–"], ["3", "2"])
    assert last == "… 2 more rows"
    assert list(bundle_of([Point(1)])) == ["text/html", "text/plain"]
    assert list(bundle_of([1, 2])) == ["text/plain"]


def test_a_long_text_is_cut():
    assert len(text_of("x" * 1_000_000)) < 110_000
