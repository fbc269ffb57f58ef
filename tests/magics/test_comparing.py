"""``--models a,b``: side by side, at the same time, and nobody's failure hides another's answer."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from ipyconvexai import errors
from ipyconvexai.render import side_by_side
from ipyconvexai.testing import Answer, Endpoint, Fault
from tests.magics.conftest import Page, Run, Scripted

PAYLOADS = (Path(__file__).parents[1] / "data" / "xss-payloads.txt").read_text("utf-8").splitlines()


def test_two_models_answer_side_by_side(run: Run, endpoint: Scripted, shell: InteractiveShell, page: Page):
    assert run("%%ai --models gpt-4o-mini,openai:gpt-4.1-mini -o both -t 0\nHello") is None
    assert sorted(call.body["model"] for call in endpoint.calls) == ["gpt-4.1-mini", "gpt-4o-mini"]
    both = shell.user_ns["both"]
    assert list(both) == ["gpt-4o-mini", "openai:gpt-4.1-mini"]
    assert both["gpt-4o-mini"].text == "echo: Hello"
    html, markdown = page.last["text/html"], page.last["text/markdown"]
    assert html.count("<th ") == 2
    assert html.count("echo: Hello") == 2
    assert "openai:gpt-4.1-mini" in html
    assert markdown.count("### ") == 2
    assert "tokens" in page.last["text/plain"]
    assert page.last["text/plain"].count("echo: Hello") == 2
    assert run("%ai next") is None
    assert len(endpoint.calls[-1].body["messages"]) == 1, "two answers are no part of a history"


def test_they_are_asked_at_the_same_time(run: Run, endpoint: Scripted):
    endpoint.hold()

    def release_all() -> None:
        endpoint.wait(lambda it: it.in_flight == 3)
        endpoint.release()

    released = threading.Thread(target=release_all)
    released.start()
    assert run("%%ai --models gpt-4o-mini,gpt-4.1-mini,gpt-4.1\nHello") is None
    released.join()
    assert endpoint.most_in_flight == 3


def test_one_that_fails_is_told_after_the_others_are_shown(
    run: Run, endpoint: Scripted, shell: InteractiveShell, page: Page
):
    with Endpoint(lambda call: Fault(400, message="<b>no</b>"), key="sk-test-0123456789abcdef") as other:
        from ipyconvexai.notebook.session import Alias, of_shell

        of_shell(shell).aliases["bad"] = Alias("some-model", other.url, "OPENAI_API_KEY")
        error = run("%%ai --models gpt-4o-mini,bad -o replies\nHello")
    assert isinstance(error, errors.ProviderError)
    assert "echo: Hello" in page.last["text/html"]
    assert "failed: " in page.last["text/html"]
    assert "<b>no" not in page.last["text/html"]
    assert list(shell.user_ns["replies"]) == ["gpt-4o-mini"]


def test_all_that_fail_are_named(run: Run, endpoint: Scripted):
    endpoint.scripted["Hello"] = Fault(400)
    error = run("%%ai --models gpt-4o-mini,gpt-4.1-mini\nHello")
    assert isinstance(error, errors.CallError)
    assert "2 of 2" in error.message
    assert "gpt-4o-mini: " in error.message


def test_a_budget_covers_all_of_them(run: Run, endpoint: Scripted):
    endpoint.scripted["Hello"] = Answer("done", usage=(10, 1000))
    error = run("%%ai --models gpt-4o-mini,gpt-4o-mini-2024-07-18 --max-tokens 1000 --budget 0.0009\nHello")
    assert isinstance(error, errors.BudgetError)
    assert endpoint.count == 1


@pytest.mark.parametrize("line", ["openai --models a,b", "--models a,b -c kept", "--models a,b -f image", "--models a"])
def test_what_does_not_go_together_is_told(run: Run, endpoint: Scripted, line: str):
    assert isinstance(run(f"%%ai {line}\nHello"), UsageError)
    assert endpoint.count == 0


def test_without_a_front_end_they_stand_below_each_other(
    run: Run, endpoint: Scripted, capsys: pytest.CaptureFixture[str]
):
    assert run("%%ai --models gpt-4o-mini,gpt-4.1-mini\nHello") is None
    printed = capsys.readouterr().out
    assert printed.count("echo: Hello") == 2
    assert printed.index("gpt-4o-mini") < printed.index("gpt-4.1-mini")


def test_the_side_by_side_bundle_reads_on_any_viewer():
    bundle = side_by_side([("a<b>", "**bold** <script>x</script>", "note *1*"), ("c", "two", "")])
    assert "&lt;b&gt;" in bundle["text/html"]
    assert "<strong>bold</strong>" in bundle["text/html"]
    assert "<script" not in bundle["text/html"] + bundle["text/markdown"]
    assert "**bold**" in bundle["text/markdown"]
    assert bundle["text/plain"].startswith("a<b>\n**bold**")
