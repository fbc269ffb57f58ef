"""What somebody does with a chat panel, and where it shows what."""

from __future__ import annotations

from playwright.sync_api import Locator

from tests.browser.lab import Notebook

TEXT = "# A title\n\nSome *words* and $x^2$.\n\n```python\nprint('hi')\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"

LONG_TASKS = """() => {
  window.longTasks = [];
  new PerformanceObserver(list => window.longTasks.push(...list.getEntries().map(each => each.duration)))
    .observe({type: "longtask"});
}"""


def panel(book: Notebook, index: int = 0) -> Locator:
    return book.cell(index).locator("section.ai-chat")


def field(chat: Locator) -> Locator:
    return chat.get_by_label("Message", exact=True)


def say(chat: Locator, text: str) -> None:
    field(chat).fill(text)
    field(chat).press("Enter")


def own(chat: Locator) -> Locator:
    """What was said."""
    return chat.get_by_label("You").locator(".ai-body")


def answers(chat: Locator) -> Locator:
    return chat.get_by_label("Assistant")
