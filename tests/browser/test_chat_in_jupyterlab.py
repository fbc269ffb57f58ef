"""The chat panel in JupyterLab, as somebody uses it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect

from ipyconvexai.testing import Answer
from tests.browser.conftest import Open, Scripted
from tests.browser.guard import Guard
from tests.browser.lab import Notebook

TEXT = "# A title\n\nSome *words* and $x^2$.\n\n```python\nprint('hi')\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"


def panel(book: Notebook, index: int = 0) -> Locator:
    return book.cell(index).locator("section.ai-chat")


def say(chat: Locator, text: str) -> None:
    chat.get_by_label("Message", exact=True).fill(text)
    chat.get_by_label("Message", exact=True).press("Enter")


def answers(chat: Locator) -> Locator:
    return chat.get_by_label("Assistant")


@pytest.fixture
def scripted(endpoint: Scripted) -> Iterator[Scripted]:
    yield endpoint
    endpoint.scripted.clear()


def test_it_is_there_and_answers(notebook: Open, scripted: Scripted, guard: Guard):
    scripted.scripted["Show me"] = Answer(TEXT)
    book = notebook("ai.chat('Bridges')")
    begun = time.monotonic()
    book.run(0)
    chat = panel(book)
    chat.wait_for()
    print(f"visible after {time.monotonic() - begun:.2f} s")
    say(chat, "Show me")
    answer = answers(chat)
    expect(answer.get_by_role("heading", name="A title")).to_be_visible()
    expect(answer.locator("math")).to_have_count(1)
    expect(answer.locator("table td")).to_have_text(["1", "2"])
    expect(answer.locator(".ai-foot")).to_contain_text("tokens")
    expect(chat.get_by_label("You")).to_have_text("Show me")
    book.check(0)
    assert (guard.ran, guard.fetched) == ([], [])


def test_enter_sends_and_shift_enter_is_a_new_line(notebook: Open, scripted: Scripted):
    book = notebook("ai.chat('Keys')")
    book.run(0)
    chat = panel(book)
    field = chat.get_by_label("Message", exact=True)
    field.press_sequentially("one")
    field.press("Shift+Enter")
    field.press_sequentially("two")
    assert book.count(0) == 1, "the cell was not run again"
    field.evaluate(
        "field => field.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true}))"
    )
    expect(field).to_have_value("one\ntwo")
    field.press("Enter")
    expect(field).to_have_value("")
    expect(chat.get_by_label("You")).to_have_text("one\ntwo")
    expect(answers(chat)).to_contain_text("one")


def test_stop_keeps_what_had_come(notebook: Open, scripted: Scripted):
    scripted.scripted["Long"] = Answer("word " * 400, token_delay=0.05)
    book = notebook("ai.chat('Stop')")
    book.run(0)
    chat = panel(book)
    say(chat, "Long")
    expect(answers(chat)).to_contain_text("word word")
    before = scripted.disconnects
    chat.get_by_role("button", name="Stop").click()
    expect(answers(chat)).to_contain_text("Stopped")
    expect(answers(chat)).to_contain_text("word word")
    scripted.wait(lambda double: double.disconnects > before, timeout=5)
    expect(chat.get_by_role("button", name="Stop")).to_be_hidden()


def test_two_panels_and_a_cell_show_the_same(notebook: Open, scripted: Scripted):
    book = notebook("ai.chat('Both')", "ai.chat('Both')", "%%ai -c Both\nFrom a cell")
    book.run(0)
    book.run(1)
    say(panel(book, 0), "From a panel")
    for index in (0, 1):
        expect(panel(book, index).get_by_label("You")).to_have_text(["From a panel"])
        expect(answers(panel(book, index))).to_contain_text(["From a panel"])
    book.run(2)
    for index in (0, 1):
        expect(panel(book, index).get_by_label("You")).to_have_text(["From a panel", "From a cell"])
        expect(answers(panel(book, index)).last).to_contain_text("From a cell")


def test_it_works_while_a_cell_is_busy(notebook: Open, scripted: Scripted):
    scripted.scripted["Long"] = Answer("word " * 400, token_delay=0.05)
    book = notebook("ai.chat('Busy')", "import time\ntime.sleep(8)")
    book.run(0)
    chat = panel(book)
    book.begin(1)
    time.sleep(0.5)
    begun = time.monotonic()
    say(chat, "Long")
    expect(answers(chat)).to_contain_text("word")
    heard = time.monotonic() - begun
    begun = time.monotonic()
    chat.get_by_role("button", name="Stop").click()
    expect(answers(chat)).to_contain_text("Stopped")
    stopped = time.monotonic() - begun
    print(f"first words after {heard:.2f} s, stopped after {stopped:.2f} s")
    assert heard < 3, "the cell takes eight"
    assert stopped < 3
    book.interrupt(1)
