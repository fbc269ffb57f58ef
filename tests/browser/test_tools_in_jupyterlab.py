"""Calls of tools in the chat panel, in JupyterLab, as somebody uses it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from ipyconvexai.testing import Answer, Received, ToolCall
from tests.browser.conftest import Open, Scripted
from tests.browser.guard import Guard
from tests.browser.looks import assert_accessible
from tests.browser.talking import answers, panel, say
from tests.browser.test_hostile_text_in_jupyterlab import SAMPLE

TOOLS = """
import pandas as pd
def weather(city: str, days: int = 1) -> str:
    "The weather in a city."
    return f"Rain in {city} for {days} days."
def echo(text: str) -> str:
    return text
sales = pd.DataFrame({"region": ["north", "south", "north"], "amount": [10, 20, 5]})
"""


Rounds = dict[str, list[Answer]]


@pytest.fixture
def rounds(endpoint: Scripted) -> Iterator[Rounds]:
    """What is answered to an own message, and then to the results of each round of calls."""
    answers: Rounds = {}

    def respond(call: Received) -> Answer | None:
        messages = call.body["messages"]
        asked = max(at for at, message in enumerate(messages) if message["role"] == "user")
        done = sum("tool_calls" in message for message in messages[asked:])
        known = answers.get(messages[asked]["content"])
        return known[done] if known else None

    endpoint.reply(respond)
    yield answers
    endpoint.reply(lambda call: endpoint.scripted.get(call.prompt.split("\n")[0]))


def test_a_call_asks_runs_and_is_answered(notebook: Open, rounds: Rounds, guard: Guard):
    rounds["Weather?"] = [
        Answer("I will look.", tool_calls=[ToolCall("weather", {"city": "Oslo", "days": 3})]),
        Answer("Take an **umbrella**."),
    ]
    rounds["Sum?"] = [
        Answer(tool_calls=[ToolCall("sql", {"sql": "SELECT sum(amount) AS total FROM sales"})]),
        Answer("35 in all."),
    ]
    rounds["Again?"] = [Answer(tool_calls=[ToolCall("weather", {"city": "Rome"})]), Answer("As you like.")]
    book = notebook("ai.chat('Tools', tools=[weather, ai.sql_tool(sales=sales)])")
    book.silently(TOOLS)
    book.run(0)
    chat = panel(book)
    say(chat, "Weather?")
    card = chat.get_by_label("Call of the tool weather")
    expect(card).to_contain_text("asks to be run")
    expect(card.get_by_label("Arguments")).to_have_text('{ "city": "Oslo", "days": 3 }')
    expect(chat.locator(".ai-status")).to_have_text("The tool weather asks to be run.")
    expect(chat.get_by_role("button", name="Stop")).to_be_visible()
    # With the keyboard alone: the first of the card's buttons, after what scrolls.
    card.get_by_label("Arguments").focus()
    book.page.keyboard.press("Tab")
    expect(card.get_by_role("button", name="Allow", exact=True)).to_be_focused()
    book.page.keyboard.press("Enter")
    expect(card).to_contain_text("was run")
    expect(card.get_by_role("button")).to_have_count(0)
    card.get_by_text("Result").click()
    expect(card.get_by_label("Result")).to_have_text("Rain in Oslo for 3 days.")
    expect(answers(chat).last).to_contain_text("Take an umbrella.")
    expect(chat.get_by_role("button", name="Stop")).to_be_hidden()

    say(chat, "Sum?")
    sql = chat.get_by_label("Call of the tool sql")
    expect(sql).to_contain_text("was run", timeout=20_000)
    expect(answers(chat).last).to_contain_text("35 in all.")

    say(chat, "Again?")
    expect(card.last).to_contain_text("asks to be run")
    chat.get_by_role("button", name="Settings").click()
    expect(chat.get_by_label("Model")).to_be_visible()
    assert_accessible(chat)
    chat.get_by_role("button", name="Settings").click()
    card.last.get_by_role("button", name="Do not allow").click()
    expect(card.last).to_contain_text("was not allowed")
    expect(answers(chat).last).to_contain_text("As you like.")
    assert (guard.ran, guard.fetched) == ([], [])


def test_hostile_arguments_names_results_and_errors(notebook: Open, rounds: Rounds, guard: Guard):
    calls = [each for text in SAMPLE[:32] for each in (ToolCall("echo", {"text": text}), ToolCall(text, text))]
    rounds["Go"] = [*(Answer(tool_calls=calls[at : at + 16]) for at in range(0, len(calls), 16)), Answer("Done.")]
    book = notebook("ai.chat('Hostile', tools=[ai.tool(echo, safe=True)])")
    book.silently(TOOLS)
    book.run(0)
    chat = panel(book)
    say(chat, "Go")
    expect(answers(chat).last).to_contain_text("Done.", timeout=20_000)
    cards = chat.locator(".ai-call")
    expect(cards).to_have_count(len(calls))
    for each in cards.locator("summary").all():
        if each.is_visible():
            each.click()
    book.page.evaluate(
        "() => document.querySelectorAll('.jp-OutputArea-child').forEach(each => each.style.display = '')"
    )
    expect(cards.locator("pre *, strong *, .ai-failed *, .ai-note *")).to_have_count(0)
    findings = guard.findings(book.page)
    findings.pop("elements", None)  # the panel has buttons of its own
    assert not findings, json.dumps(findings, indent=1)
    transcript = book.cell(0).locator(".jp-RenderedMarkdown")
    expect(transcript.locator("script, iframe, object, embed, img")).to_have_count(0)
    assert "echo" in transcript.inner_text()
