"""What else the chat panel does, in JupyterLab: going back, other conversations, conversations that are gone."""

from __future__ import annotations

from playwright.sync_api import expect

from ipyconvexai.testing import Answer, Fault
from tests.browser.conftest import Open, Scripted
from tests.browser.talking import answers, own, panel, say


def test_one_can_go_back(shared: Open, scripted: Scripted):
    scripted.scripted["Wrong"] = Fault(400, message="no <b>such</b> thing")
    book = shared("ai.chat('Back')")
    book.run(0)
    chat = panel(book)
    say(chat, "Wrong")
    expect(answers(chat)).to_contain_text("no <b>such</b> thing")
    scripted.scripted["Wrong"] = Answer("now it works")
    chat.get_by_role("button", name="Retry").click()
    expect(answers(chat)).to_contain_text(["now it works"])

    chat.get_by_role("button", name="Edit").click()
    field = chat.get_by_label("Message", exact=True)
    expect(field).to_have_value("Wrong")
    field.fill("Right")
    field.press("Enter")
    expect(own(chat)).to_contain_text(["Right"])
    expect(answers(chat)).to_contain_text(["Right"])
    expect(answers(chat)).to_contain_text(["tokens"])
    expect(own(chat)).to_have_count(1)

    chat.get_by_role("button", name="Fork").last.click()
    expect(chat.get_by_role("heading", level=2)).to_have_text("Back (fork)")
    expect(answers(chat)).to_contain_text(["Right"])


def test_conversations_are_found_renamed_and_deleted(shared: Open, scripted: Scripted):
    book = shared("ai.chat('First')")
    book.run(0)
    chat = panel(book)
    title = chat.get_by_role("heading", level=2)
    say(chat, "about bridges")
    expect(answers(chat)).to_contain_text("bridges")
    chat.get_by_role("button", name="Conversations").click()
    chat.get_by_role("button", name="New").click()
    expect(title).to_contain_text("Chat of")
    expect(own(chat)).to_have_count(0)

    chat.get_by_role("button", name="Conversations").click()
    chat.get_by_label("Title").fill("Second <b>")
    chat.get_by_role("button", name="Rename").click()
    expect(title).to_have_text("Second <b>")
    chat.get_by_label("Search conversations").fill("bridges")
    expect(chat.locator(".ai-found li")).to_have_text(["First (2)"])
    chat.locator(".ai-found button").click()
    expect(title).to_have_text("First")
    expect(answers(chat)).to_contain_text("bridges")

    chat.get_by_role("button", name="Conversations").click()
    chat.get_by_role("button", name="Delete").click()
    chat.get_by_role("button", name="Really delete?").click()
    expect(title).to_contain_text("Chat of")
    book.run(0)
    expect(own(panel(book))).to_have_count(0)


def test_a_conversation_that_vanishes_says_so(shared: Open, scripted: Scripted):
    book = shared("ai.chat('Gone')")
    book.run(0)
    say(panel(book), "Hello")
    expect(answers(panel(book))).to_contain_text("tokens")
    book.silently("ai.run('delete_conversation', conversation_id=ai.run('list_conversations', search='Gone')[0]['id'])")
    expect(panel(book).get_by_role("alert")).to_contain_text("was deleted")


def test_a_ledger_that_was_closed_says_so(notebook: Open):
    book = notebook("ai.chat('Closed')")
    book.run(0)
    book.silently("ai.app().close()")
    say(panel(book), "Hello")
    expect(panel(book).get_by_role("alert")).to_have_text("The ledger was closed: run the cell again.")


def test_settings_and_suggestions(notebook: Open, scripted: Scripted):
    book = notebook("ai.chat('Set', suggestions=['A <b>first</b> prompt', 'Another'])")
    book.run(0)
    chat = panel(book)
    first = chat.get_by_role("button", name="A <b>first</b> prompt")
    first.click()
    expect(answers(chat)).to_contain_text("A <b>first</b> prompt")
    expect(first).to_be_hidden()
    expect(chat.locator(".ai-total")).to_contain_text("1 call: ")
    chat.get_by_role("button", name="Settings").click()
    model, save = chat.get_by_label("Model"), chat.get_by_role("button", name="Use from")
    expect(chat.locator(".ai-settings option[value='openai:gpt-4o-mini']")).to_have_count(1)
    model.fill("nobody:x")
    save.click()
    expect(chat.get_by_role("alert")).to_contain_text("There is no provider 'nobody'.")
    model.fill("openai:gpt-4o")
    chat.get_by_label("Instructions").fill("Be brief.")
    chat.get_by_label("Enter sends").uncheck()
    save.click()
    expect(model).to_be_hidden()
    field = chat.get_by_label("Message", exact=True)
    field.press_sequentially("one")
    field.press("Enter")
    field.press_sequentially("two")
    expect(field).to_have_value("one\ntwo")
    field.press("Shift+Enter")
    expect(own(chat)).to_have_text(["A <b>first</b> prompt", "one\ntwo"])
    expect(answers(chat).last).to_contain_text("two")
    body = scripted.calls[-1].body
    assert (body["model"], body["messages"][0]) == ("gpt-4o", {"role": "system", "content": "Be brief."})
    chat.get_by_role("button", name="Settings").click()
    chat.get_by_label("Enter sends").check()  # for the tests that follow
