"""Calls of tools as a page is told of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.functions.tools import tools_of
from ipyconvexai.testing import Answer, Endpoint, ToolCall
from ipyconvexai.widgets.talk import Talk, Update
from tests.store.helpers import wait_for

KEY = "sk-test-0123456789abcdef"


def echo(text: str) -> str:
    """Says it again."""
    return text


class Told:
    """The last that was told of each message."""

    def __init__(self) -> None:
        self.all: dict[str, Update] = {}

    def tell(self, updates: list[Update]) -> None:
        for update in updates:
            if update["kind"] == "message":
                self.all[update["id"]] = update
            elif update["kind"] == "order":
                self.all = {key: self.all[key] for key in update["ids"]}

    def until(self, *states: str) -> list[Update]:
        def look() -> Any:
            found = list(self.all.values())
            return found if [f"{each['role']} {each['status']}" for each in found] == list(states) else None

        return wait_for(look, f"{states}")  # type: ignore[no-any-return]


Open = Callable[..., tuple[Talk, Told]]
ASKED = ("user done", "assistant done", "tool waiting")


@pytest.fixture
def opened(app: ai.App) -> Iterator[Open]:
    talks: list[Talk] = []

    def open_talk(tools: list[Any] | None) -> tuple[Talk, Told]:
        told = Told()
        talk = Talk(app, "Tools", told.tell, tools=None if tools is None else tools_of(tools))
        app.run(talk.open())
        talks.append(talk)
        return talk, told

    yield open_talk
    for talk in talks:
        talk.close()


def test_a_call_is_shown_allowed_and_its_result(app: ai.App, endpoint: Endpoint, opened: Open):
    call = ToolCall("echo", {"text": f"<b>\x1b[31m {KEY}"})
    endpoint.reply([Answer(tool_calls=[call]), Answer(tool_calls=[call]), Answer("Well.")])
    talk, told = opened([echo])
    app.run(talk.send("Go"))
    asks = told.until(*ASKED)[2]
    assert (asks["name"], asks["state"], asks["here"], asks["more"]) == ("echo", "asks to be run", True, False)
    assert asks["arguments"].startswith('{\n  "text": "<b>')
    app.run(talk.allow(asks["id"], always=True))
    found = told.until("user done", *("assistant done", "tool done") * 2, "assistant done")
    assert found[2]["result"].startswith("<b>")
    for each in (asks["arguments"], found[2]["arguments"], found[2]["result"]):
        assert "\x1b" not in each, "escape sequences steer terminals, and readers"
    assert KEY not in str(found)
    assert KEY not in talk.transcript()
    assert "echo" in talk.transcript()


def test_it_is_denied_or_stopped(app: ai.App, endpoint: Endpoint, opened: Open):
    endpoint.reply([Answer(tool_calls=[ToolCall("echo", {"text": "x"})]), Answer("Well.")])
    talk, told = opened([echo])
    app.run(talk.send("Go"))
    told.until(*ASKED)
    app.run(talk.stop())
    stopped = told.until(*ASKED[:2], "tool canceled")[2]
    assert (stopped["state"], stopped["more"]) == ("was stopped", True)
    app.run(talk.go_on(stopped["id"]))
    found = told.until(*ASKED[:2], "tool canceled", "assistant done")
    assert found[2]["more"] is False
    endpoint.reply([Answer(tool_calls=[ToolCall("echo", {"text": "x"})]), Answer("Well.")])
    app.run(talk.send("Again"))
    asks = told.until(*ASKED[:2], "tool canceled", "assistant done", *ASKED)[-1]
    app.run(talk.deny(asks["id"]))
    found = told.until(*ASKED[:2], "tool canceled", "assistant done", *ASKED[:2], "tool canceled", "assistant done")
    assert found[-2]["state"] == "was not allowed"


def test_a_panel_without_its_tool_says_so(app: ai.App, endpoint: Endpoint, opened: Open):
    endpoint.reply([Answer(tool_calls=[ToolCall("echo", {"text": "x"})]), Answer("Well.")])
    talk, told = opened([echo])
    app.run(talk.send("Go"))
    told.until(*ASKED)
    _, later = opened([])  # as in another kernel
    asks = later.until(*ASKED)[2]
    assert asks["here"] is False
    assert "tools=" in asks["note"]["text"]
    with pytest.raises(errors.InputError, match="not in this process"):
        app.run(talk.allow(asks["id"]))
    again, shown = opened([echo])
    app.run(again.allow(shown.until(*ASKED)[2]["id"]))
    shown.until(*ASKED[:2], "tool done", "assistant done")


def test_a_call_stands_after_its_reply(app: ai.App, endpoint: Endpoint, opened: Open):
    """Also where somebody had said more by then."""
    answer = Answer("word " * 20, tool_calls=[ToolCall("echo", {"text": "x"})], token_delay=0.03)
    endpoint.reply([answer, Answer("Well.")])
    talk, told = opened([ai.tool(echo, safe=True)])
    app.run(talk.send("one"))
    endpoint.wait(lambda double: double.count == 1)
    app.run(talk.send("two"))
    told.until("user done", "assistant done", "tool done", "user done", "assistant done")


def test_what_is_no_tool_is_refused_before_anything_opens(app: ai.App):
    with pytest.raises(errors.InputError, match="no list"):
        ai.chat("x", tools=echo)  # type: ignore[arg-type]
    with pytest.raises(errors.InputError):
        ai.chat("x", tools=[lambda x: x])
    ai.chat("x", tools=[echo]).close()
