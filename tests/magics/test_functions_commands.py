"""``%ai run`` and its neighbours in a real IPython shell; how results are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.api import functions, jobs
from ipyconvexai.drawing.results import SHOWN_ROWS, bundle_of, text_of
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


@pytest.mark.parametrize(
    ("word", "says"),
    [("crons", "@ai.cron"), ("limits", "%ai budget"), ("jobs failed", "is failed"), ("prompts", "--save NAME")],
)
def test_what_is_empty_says_how_to_fill_it(run: Run, word: str, says: str, capsys: pytest.CaptureFixture[str]):
    assert run(f"%ai {word}") is None
    assert says in capsys.readouterr().out


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
