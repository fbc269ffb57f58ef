"""What a cell asks: history, kept prompts, evaluated cells, schemas, aliases, budgets; and what is only planned."""

from __future__ import annotations

import json
from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.testing import Answer, Fault
from tests.magics.conftest import Page, Run, Scripted


def sent(endpoint: Scripted, index: int = -1) -> list[tuple[str, str]]:
    """Roles and texts of a request."""
    return [(message["role"], message["content"]) for message in endpoint.calls[index].body["messages"]]


# ------------------------------------------------------------------------------------------------- history
def test_the_last_two_exchanges_go_along(run: Run, endpoint: Scripted):
    for question in ("one", "two", "three", "four"):
        run(f"%%ai\n{question}")
    assert sent(endpoint) == [
        ("user", "two"),
        ("assistant", "echo: two"),
        ("user", "three"),
        ("assistant", "echo: three"),
        ("user", "four"),
    ]
    run("%%ai --no-history\nalone")
    assert sent(endpoint) == [("user", "alone")]
    run("%%ai -c kept\nalone, too")
    assert sent(endpoint) == [("user", "alone, too")]


def test_a_failed_question_is_forgotten(run: Run, endpoint: Scripted):
    endpoint.scripted["bad"] = Fault(400)
    run("%%ai\none")
    run("%%ai\nbad")
    run("%%ai\nthree")
    assert [text for role, text in sent(endpoint) if role == "user"] == ["one", "three"]


def test_a_format_s_request_is_not_remembered(run: Run, endpoint: Scripted):
    endpoint.scripted["one"] = '{"a": 1}'
    run("%%ai -f json\none")
    run("%%ai\ntwo")
    assert sent(endpoint)[0] == ("user", "one")


def test_a_cell_that_is_run_again_asks_the_same(run: Run, endpoint: Scripted, monkeypatch: pytest.MonkeyPatch):
    place = ("", "")
    monkeypatch.setattr("ipyconvexai.notebook.where.cell_run", lambda: place)

    def run_cells(*cells: str) -> list[list[str]]:
        nonlocal place
        began = endpoint.count
        for cell in cells:
            place = (cell, f"run after {endpoint.count}")
            run(f"%%ai\n{cell}")
        return [[text for role, text in sent(endpoint, i) if role == "user"] for i in range(began, endpoint.count)]

    asked = run_cells("a", "b", "c")
    assert asked == [["a"], ["a", "b"], ["a", "b", "c"]]
    assert run_cells("b") == [["a", "b"]]
    assert run_cells("a", "b", "c") == asked
    for again in ("once", "twice"):
        place = ("new", again)
        run("%ai one\n%ai two")
    assert sent(endpoint) == sent(endpoint, -3)
    assert [text for role, text in sent(endpoint) if role == "user"] == ["c", "one", "two"]


# ------------------------------------------------------------------------------------------------- prompts
def test_a_kept_prompt_is_used_as_it_was_written(run: Run, endpoint: Scripted):
    run("who = 'Ada'")
    run("%%ai --no-history --save greet\nGreet {who}.")
    assert sent(endpoint) == [("user", "Greet Ada.")]
    run("who = 'Bob'")
    run("%%ai --no-history --with greet\nIn French.")
    assert sent(endpoint) == [("user", "Greet Bob.\n\nIn French.")]
    run("%ai --no-history --with greet")
    assert sent(endpoint) == [("user", "Greet Bob.")]


def test_a_prompt_takes_the_cell_where_it_says_so(run: Run, endpoint: Scripted):
    run("%%ai --save wrap\nBefore <{cell}> after.")
    run("%%ai --save outer\nOuter: {cell}")
    run("%%ai --no-history --with outer --with wrap\nthis {nobody}")
    assert sent(endpoint) == [("user", "Outer: Before <this {nobody}> after.")]


def test_the_newest_of_a_name_counts_and_all_are_kept(run: Run, endpoint: Scripted, capsys: pytest.CaptureFixture[str]):
    run("%%ai --save p\nold")
    run("%%ai --save p\nnew")
    run("%ai --no-history --with p")
    assert sent(endpoint) == [("user", "new")]
    capsys.readouterr()
    assert run("%ai prompts") is None
    shown = capsys.readouterr().out
    assert "new" in shown
    assert "old" not in shown


def test_a_prompt_that_is_not_kept_is_told_and_nothing_is_sent(run: Run, endpoint: Scripted):
    run("%%ai --save greeting\nHello")
    error = run("%%ai --with greting\nmore")
    assert isinstance(error, errors.InputError)
    assert "greeting" in error.cure
    assert endpoint.count == 1
    assert isinstance(run("%%ai --save blank\n \n"), errors.EmptyPromptError)
    assert "blank" not in str(ai.app().store.read("SELECT name FROM prompts"))


# ------------------------------------------------------------------------------------------------- evaluated cells
def test_eval_asks_what_the_cell_gives(run: Run, endpoint: Scripted, shell: InteractiveShell):
    assert run("%%ai --no-history --eval\nx = 3\nprint('printed', x)\n[f'say {x}', '{x}']") is None
    assert endpoint.calls[0].prompt == "printed 3\n\n['say 3', '{x}']"
    assert shell.user_ns["x"] == 3


def test_eval_that_gives_nothing_or_fails_sends_nothing(run: Run, endpoint: Scripted, shell: InteractiveShell):
    assert isinstance(run("%%ai --eval\nx = 3"), UsageError)
    assert isinstance(run("%%ai --eval\n1 / 0"), ZeroDivisionError)
    assert isinstance(run("%%ai --eval\n1 +"), UsageError)
    assert endpoint.count == 0


# ------------------------------------------------------------------------------------------------- schemas
def test_a_schema_gives_the_parsed_value(run: Run, endpoint: Scripted, shell: InteractiveShell, page: Page):
    endpoint.scripted["Who?"] = '{"name": "Ada", "age": 36}'
    assert run("%%ai --schema 'name, age int' -o who\nWho?") is None
    form = endpoint.calls[0].body["response_format"]["json_schema"]
    assert form["strict"]
    assert set(form["schema"]["properties"]) == {"name", "age"}
    assert shell.user_ns["who"].parsed.age == 36
    tree, note = page.frames
    assert tree["application/json"] == {"name": "Ada", "age": 36}
    assert json.loads(tree["text/plain"]) == {"name": "Ada", "age": 36}
    assert "tokens" in note["text/plain"], "a tree shows no words"


def test_a_schema_may_be_the_user_s_class(run: Run, endpoint: Scripted, shell: InteractiveShell):
    run("import dataclasses\n@dataclasses.dataclass\nclass City:\n    name: str")
    endpoint.scripted["Where?"] = '[{"name": "Paris"}]'
    assert run("%%ai --schema list[City] -o where\nWhere?") is None
    assert shell.user_ns["where"].parsed == [shell.user_ns["City"]("Paris")]
    assert isinstance(run("%%ai --schema Citty\nWhere?"), UsageError)


def test_an_answer_that_does_not_fit_fails_the_cell(run: Run, endpoint: Scripted):
    endpoint.scripted["Who?"] = '{"name": 3}'
    error = run("%%ai --schema 'name, age int'\nWho?")
    assert isinstance(error, errors.InvalidAnswerError)
    assert run("%ai next") is None
    assert sent(endpoint) == [("user", "next")], "what failed is no part of the history"


# ------------------------------------------------------------------------------------------------- dry runs
def test_a_dry_run_shows_all_and_sends_nothing(
    run: Run, endpoint: Scripted, shell: InteractiveShell, capsys: pytest.CaptureFixture[str], page: Page
):
    run("%ai earlier")
    run("x = '<b>7</b>'")
    assert run("%%ai --dry-run -s 'Be ``` brief' -t 0 --max-tokens 50 -o body\nWhat is {x}?") is None
    assert endpoint.count == 1
    body = shell.user_ns["body"]
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    assert body["messages"][-1]["content"] == "What is <b>7</b>?"
    assert body["temperature"] == 0
    shown = page.last["text/plain"]
    assert "Not sent" in shown
    assert "openai:gpt-4o-mini" in shown
    assert "+ 50 tokens, about $0.0000" in shown
    assert "What is <b>7</b>?" in shown
    assert len(ai.ledger.calls()) == 1


def test_a_dry_run_of_several_models(run: Run, endpoint: Scripted, shell: InteractiveShell, monkeypatch: Any):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    assert run("%%ai --dry-run --models openai,anthropic -o bodies\nHello") is None
    assert [name.partition(":")[0] for name in shell.user_ns["bodies"]] == ["openai", "anthropic"]
    assert endpoint.count == 0


# ------------------------------------------------------------------------------------------------- budgets, replay
def test_a_cell_s_budget(run: Run, endpoint: Scripted):
    endpoint.scripted["Hello"] = Answer("done", usage=(10, 1000))
    error = run("%%ai --budget 0.0001 --max-tokens 1000\nHello")
    assert isinstance(error, errors.BudgetError)
    assert endpoint.count == 0
    assert run("%%ai --budget $0.01 --max-tokens 1000\nHello") is None
    assert endpoint.count == 1


def test_replay_by_option_and_fresh(run: Run, endpoint: Scripted, capsys: pytest.CaptureFixture[str]):
    ai.app().set_replay("reuse")
    for _ in range(2):
        run("%%ai --no-history\nHello")
    assert endpoint.count == 1
    assert "replayed" in capsys.readouterr().out
    run("%%ai --no-history --fresh\nHello")
    assert endpoint.count == 2
    error = run("%%ai --no-history --replay only\nNever asked\nand more")
    assert isinstance(error, errors.ReplayMissError)
    assert "Never asked" in str(error)
    assert "and more" not in str(error)


def test_an_address_of_one_s_own(run: Run, endpoint: Scripted, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_ENDPOINT_KEY", "sk-test-0123456789abcdef")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-0123456789")
    assert run(f"%%ai some/model:x --api-base {endpoint.url} --api-key-name MY_ENDPOINT_KEY\nHello") is None
    assert endpoint.calls[0].body["model"] == "some/model:x"
    assert "sk-test" not in json.dumps(endpoint.calls[0].body)
    assert isinstance(run(f"%%ai m --api-base {endpoint.url} --api-key-name sk-test-0123456789abcdef\nHi"), UsageError)
    assert isinstance(run('%%ai -m {"api_key": "sk-test-0123456789abcdef"}\nHi'), UsageError)
    assert endpoint.count == 1


def test_an_alias_carries_its_address(run: Run, endpoint: Scripted, shell: InteractiveShell):
    from ipyconvexai.notebook.session import Alias, of_shell

    of_shell(shell).aliases |= {"mine": Alias("some-model", endpoint.url, "OPENAI_API_KEY"), "loop": Alias("loop")}
    assert run("%%ai mine\nHello") is None
    assert endpoint.calls[0].body["model"] == "some-model"
    assert isinstance(run("%%ai loop\nHello"), UsageError)
