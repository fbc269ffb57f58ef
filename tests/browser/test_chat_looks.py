"""How the chat panel looks and is handled: themes, the keyboard alone, narrow places, and axe-core's verdict."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from ipyconvexai.testing import Answer, Fault
from tests.browser.conftest import Open, Scripted
from tests.browser.looks import THEMES, change_theme, violations
from tests.browser.talking import TEXT, answers, field, panel, say

pytestmark = pytest.mark.parametrize("server", ["lab", "notebook"], indirect=True)


def test_everything_is_accessible_in_both_themes(shared: Open, scripted: Scripted):
    scripted.scripted["Show me"] = Answer(TEXT)
    scripted.scripted["Wrong"] = Fault(400, message="no such thing")
    scripted.scripted["Long"] = Answer("word " * 400, token_delay=0.05)
    book = shared("ai.chat('Looks')")
    book.run(0)
    chat = panel(book)
    say(chat, "Show me")
    expect(answers(chat)).to_contain_text(["tokens"])
    say(chat, "Wrong")
    expect(answers(chat).last).to_contain_text("no such thing")
    say(chat, "Long")  # while it is written there are Stop and a status
    expect(answers(chat).last).to_contain_text("word word")
    chat.get_by_role("button", name="Conversations").click()
    expect(chat.locator(".ai-found li")).not_to_have_count(0)
    backgrounds = []
    for theme in THEMES:
        change_theme(book.page, theme)
        backgrounds.append(chat.evaluate("node => getComputedStyle(node).backgroundColor"))
        found = violations(chat)
        assert not found, f"{theme}: {json.dumps(found, indent=1)}"
    assert len(set(backgrounds)) == 2, "it follows the theme"
    change_theme(book.page, THEMES[0])
    field(chat).press("Escape")
    field(chat).press("Escape")
    expect(answers(chat).last).to_contain_text("Stopped")


_NAME = """() => {
  const at = document.activeElement;
  if (!at.closest(".ai-chat")) return null;
  return at.getAttribute("aria-label") || at.textContent.trim();
}"""
_FOCUSABLE = """chat => [...chat.querySelectorAll("button, input, textarea, [tabindex], a[href]")].filter(
  node => node.checkVisibility()).map(node => node.getAttribute("aria-label") || node.textContent.trim())"""
_OUTLINE = """() => getComputedStyle(document.activeElement).outlineStyle"""


def test_the_keyboard_alone_reaches_everything(shared: Open, scripted: Scripted):
    scripted.scripted["Show me"] = Answer(TEXT)
    book = shared("ai.chat('Keyboard')")
    book.run(0)
    chat = panel(book)
    say(chat, "Show me")
    expect(answers(chat)).to_contain_text(["tokens"])
    chat.get_by_role("button", name="Conversations").focus()
    book.page.keyboard.press("Enter")
    expect(chat.locator(".ai-found li")).not_to_have_count(0)
    chat.get_by_role("button", name="Settings").focus()
    wanted = chat.evaluate(_FOCUSABLE)
    reached: list[str] = []
    while (name := book.page.evaluate(_NAME)) is not None and len(reached) <= len(wanted):
        reached.append(name)
        assert book.page.evaluate(_OUTLINE) != "none", f"the focus on {name} is seen"
        book.page.keyboard.press("Tab")
    assert reached == wanted
    told = {"Settings", "Conversations", "Title", "Rename", "Messages", "Copy", "Fork", "Attach", "Message", "Send"}
    assert told <= set(reached)
    field(chat).focus()
    book.page.keyboard.press("Escape")
    expect(chat.locator(".ai-conversations")).to_be_hidden()
    expect(chat.get_by_role("button", name="Conversations")).to_be_focused()
    chat.get_by_role("button", name="Settings").press("Enter")
    expect(chat.get_by_label("Model")).to_be_visible()
    book.page.keyboard.press("Escape")
    expect(chat.locator(".ai-settings")).to_be_hidden()
    expect(chat.get_by_role("button", name="Settings")).to_be_focused()


def test_it_fits_into_a_narrow_place(shared: Open, scripted: Scripted):
    scripted.scripted["Show me"] = Answer(
        TEXT + "\n\n`" + "a_long_name_" * 30 + "`\n\n|" + " wide column |" * 20 + "\n|" + "---|" * 20
    )
    book = shared("ai.chat('Narrow')")
    book.run(0)
    chat = panel(book)
    say(chat, "Show me")
    expect(answers(chat)).to_contain_text(["tokens"])
    chat.get_by_role("button", name="Conversations").click()
    for width in (700, 320):
        chat.evaluate("(node, width) => { node.parentElement.style.width = `${width}px`; }", width)
        sticking_out = chat.evaluate(
            """chat => { const right = chat.getBoundingClientRect().right + 1;
            return [...chat.querySelectorAll("button, input, textarea, .ai-message, .ai-log, h2")].filter(
              node => node.checkVisibility() && node.getBoundingClientRect().right > right).map(
              node => node.outerHTML.slice(0, 100)); }"""
        )
        assert sticking_out == []
        assert chat.evaluate("chat => chat.querySelector('.ai-log').scrollWidth <= chat.clientWidth")
