"""The chat panel in JupyterLab, as somebody uses it."""

from __future__ import annotations

import json
import time

import pytest
from playwright.sync_api import expect

from ipyconvexai.testing import Answer, Fault
from tests.browser.conftest import Open, Scripted
from tests.browser.guard import Guard
from tests.browser.lab import Notebook, Server
from tests.browser.talking import LONG_TASKS, TEXT, answers, own, panel, say
from tests.browser.test_hostile_text_in_jupyterlab import SAMPLE

pytestmark = pytest.mark.parametrize("server", ["lab", "notebook"], indirect=True)


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
    expect(own(chat)).to_have_text("Show me")
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
    expect(own(chat)).to_have_text("one\ntwo")
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
        expect(own(panel(book, index))).to_have_text(["From a panel"])
        expect(answers(panel(book, index))).to_contain_text(["From a panel"])
    book.run(2)
    for index in (0, 1):
        expect(own(panel(book, index))).to_have_text(["From a panel", "From a cell"])
        expect(answers(panel(book, index)).last).to_contain_text("From a cell")


def test_it_works_while_a_cell_is_busy(notebook: Open, scripted: Scripted):
    scripted.scripted["Long"] = Answer("word " * 400, token_delay=0.05)
    book = notebook("ai.chat('Busy')", "import time\ntime.sleep(8)")
    book.run(0)
    chat = panel(book)
    book.begin(1)
    expect(book.cell(1).locator(".jp-InputPrompt")).to_have_text("[*]:")
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


def test_one_can_go_back(notebook: Open, scripted: Scripted):
    scripted.scripted["Wrong"] = Fault(400, message="no <b>such</b> thing")
    book = notebook("ai.chat('Back')")
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


def test_conversations_are_found_renamed_and_deleted(notebook: Open, scripted: Scripted):
    book = notebook("ai.chat('First')")
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


def test_a_conversation_that_vanishes_says_so(notebook: Open, scripted: Scripted):
    book = notebook("ai.chat('Gone')")
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


def test_who_waits_for_a_limit_sees_a_countdown(notebook: Open, scripted: Scripted):
    book = notebook("ai.app().limit('few', requests=1, per=3)", "ai.chat('Wait')")
    book.run(0)
    book.run(1)
    chat = panel(book, 1)
    say(chat, "one")
    expect(answers(chat)).to_contain_text(["tokens"])
    say(chat, "two")
    expect(answers(chat).last).to_contain_text("Waiting")
    expect(answers(chat).last).to_contain_text("limit few")
    expect(answers(chat).last).to_contain_text("tokens", timeout=10_000)
    expect(answers(chat).last).not_to_contain_text("Waiting")


COUNTING = """
chat, sent = ai.chat('Many'), []
chat._ipython_display_()
view_send = chat._view.send
chat._view.send = lambda content: (sent.append(content), view_send(content))[1]
"""


def test_a_thousand_pieces_at_200_a_second(notebook: Open, scripted: Scripted):
    paragraph = "## Part {n}\n\nSome *words* of part {n}, and `code`, again and again and again and again."
    text = "\n\n".join(paragraph.format(n=n) + "\n\n- a point\n- another point" for n in range(46))
    scripted.scripted["Many"] = Answer(text, token_delay=0.005)
    book = notebook(COUNTING, "print(len(sent), chat._talk.transcript().endswith(said))", "ai.chat('Many')")
    book.silently(f"said = {text!r}.strip()")
    book.run(0)
    chat = panel(book)
    say(chat, "warm up")
    expect(answers(chat)).to_contain_text(["tokens"])
    book.page.evaluate(LONG_TASKS)
    say(chat, "Many")
    expect(answers(chat)).to_contain_text(["tokens", "tokens"], timeout=30_000)
    book.run(1)
    said = book.outputs(1)[0]["text"]
    sent, whole = "".join(said).split()
    assert whole == "True"
    tasks = book.page.evaluate("() => window.longTasks")
    print(f"{sent} messages, long tasks of {tasks} ms")
    assert int(sent) <= 150 + 20, "the warm-up, too"
    assert not [each for each in tasks if each > 300], "100 on a quiet machine"
    book.run(2)
    fresh = panel(book, 2)
    expect(answers(fresh)).to_have_count(2)
    blocks = answers(chat).last.locator(".ai-block")
    expect(answers(fresh).last.locator(".ai-block")).to_have_text(blocks.all_inner_texts())


SAID = """
import json
payloads = json.loads(r'''{payloads}''')
app = ai.app()
key = ai.run("start_conversation", title=payloads[0])
with app.store.transaction() as execute:
    for payload in payloads:
        for role, status in (("user", "done"), ("assistant", "done"), ("assistant", "failed")):
            execute.later(
                "INSERT INTO messages (id, created_at, conversation_id, role, content, status, error_message)"
                " VALUES (uuidv7(), now()::TIMESTAMP, ?, ?, ?, ?, ?)", [key, role, payload, status, payload])
"""


def test_hostile_text_runs_and_fetches_nothing(notebook: Open, guard: Guard):
    """As title, own message, answer, error, in the list of conversations, and in the saved transcript."""
    payloads = [payload for payload in SAMPLE if "'''" not in payload]
    book = notebook("ai.chat(key)")
    book.silently(SAID.format(payloads=json.dumps(payloads).replace("'", "\\u0027")))
    book.run(0)
    chat = panel(book)
    expect(answers(chat)).to_have_count(2 * len(payloads))
    chat.get_by_role("button", name="Conversations").click()
    expect(chat.locator(".ai-found li")).not_to_have_count(0)
    show = "() => document.querySelectorAll('.jp-OutputArea-child').forEach(each => each.style.display = '')"
    book.page.evaluate(show)  # the transcript, too
    findings = guard.findings(book.page)
    findings.pop("elements", None)  # the panel has buttons of its own; beside them:
    assert not findings, json.dumps(findings, indent=1)
    expect(chat.locator(".ai-user .ai-body *, .ai-note *, .ai-failed *, .ai-found button *, h2 *")).to_have_count(0)
    active = (
        "script, style, iframe, object, embed, img, svg, form, input, textarea, button:not(.ai-copy), [style], [id]"
    )
    expect(chat.locator(".ai-block").locator(active)).to_have_count(0)
    expect(book.cell(0).locator(".jp-RenderedMarkdown").locator("script, iframe, object, embed, img")).to_have_count(0)


def test_after_a_reload_it_goes_on_and_in_a_new_kernel_the_transcript_stands(
    notebook: Open, scripted: Scripted, server: Server
):
    scripted.scripted["Long"] = Answer("word " * 200, token_delay=0.05)
    book = notebook("ai.chat('Reload')")
    book.run(0)
    say(panel(book), "Hello")
    expect(answers(panel(book))).to_contain_text(["tokens"])
    say(panel(book), "Long")
    expect(answers(panel(book)).last).to_contain_text("word")
    book.save()
    book.page.goto("about:blank")
    again = Notebook(book.page, server, book.path)
    chat = panel(again)
    expect(own(chat)).to_have_text(["Hello", "Long"])
    expect(answers(chat)).to_contain_text(["tokens", "word word word"])
    chat.get_by_role("button", name="Stop").click()
    expect(answers(chat).last).to_contain_text("Stopped")
    say(chat, "after")
    expect(answers(chat).last).to_contain_text("after")
    expect(answers(chat)).to_contain_text(["tokens", "Stopped", "tokens"])
    again.save()

    again.close()
    book.page.goto("about:blank")
    dead = Notebook(book.page, server, book.path)
    expect(dead.cell(0)).to_contain_text("Not connected: run the cell again")
    expect(dead.cell(0)).to_contain_text("echo: Hello")  # JupyterLab updates no output of before a reload
    dead.silently("import ipyconvexai as ai")
    dead.run(0)
    expect(own(panel(dead))).to_have_text(["Hello", "Long", "after"])


def test_the_file_has_the_transcript(notebook: Open, scripted: Scripted):
    book = notebook("ai.chat('Reload')")
    book.run(0)
    say(panel(book), "Hello")
    expect(answers(panel(book))).to_contain_text("tokens")
    saved = book.save()
    kept = ["".join(output["data"].get("text/markdown", "")) for output in saved["cells"][0]["outputs"]]
    assert any("Hello" in text and "Not connected" in text for text in kept), "for viewers without a kernel"


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
