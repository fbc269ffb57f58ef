"""What goes along with a message of the chat panel, in JupyterLab, as somebody uses it."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import FilePayload, Locator, expect

from tests.browser.conftest import Open, Scripted
from tests.browser.guard import Guard
from tests.browser.lab import Notebook, Server
from tests.browser.looks import assert_accessible
from tests.browser.talking import answers, own, panel

HOSTILE = "<img src=x onerror=alert(1)>.csv"
FRAME = "import os, pandas as pd\ndf = pd.DataFrame({'length': [2737, 244]})\ndf2, env = df, os.environ"
DROP = """(panel, {name, bytes}) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], name));
  for (const kind of ["dragover", "drop"])
    panel.dispatchEvent(new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""


def field(chat: Locator) -> Locator:
    return chat.get_by_label("Message", exact=True)


def drop(chat: Locator, name: str, data: bytes) -> None:
    chat.evaluate(DROP, {"name": name, "bytes": list(data)})


def along(chat: Locator) -> Locator:
    """What is attached and not sent yet."""
    return chat.get_by_label("To be sent along").get_by_role("listitem")


def sent(scripted: Scripted) -> str:
    return str(scripted.calls[-1].body["messages"][-1]["content"])


def test_files_and_variables_go_along(notebook: Open, scripted: Scripted, guard: Guard):
    book = notebook(FRAME, "ai.chat('Along')")
    book.run(0)
    book.run(1)
    chat = panel(book, 1)
    drop(chat, HOSTILE, b"bridge,length\nTower,244\n")
    picked: FilePayload = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"to be removed"}
    chat.locator("input[type=file]").set_input_files(picked)
    expect(along(chat)).to_contain_text([HOSTILE, "notes.txt"])
    chat.get_by_role("button", name="Remove notes.txt").click()
    expect(along(chat)).to_have_count(1)

    field(chat).press_sequentially("How long is @d")
    options = chat.get_by_role("option")
    expect(options).to_contain_text(["dfDataFrame 2 × 1", "df2DataFrame 2 × 1"])
    field(chat).press("ArrowDown")
    expect(chat.get_by_role("option", selected=True)).to_contain_text("df2")
    field(chat).press("ArrowUp")
    field(chat).press("Tab")
    expect(field(chat)).to_have_value("How long is @df ")
    field(chat).press_sequentially("and @")
    expect(options.first).to_be_visible()
    field(chat).press("Escape")
    expect(options.first).to_be_hidden()
    field(chat).press("Backspace")
    field(chat).press_sequentially("@")
    expect(options.first).to_be_visible()  # and closes where the mouse goes down on the button

    chat.get_by_role("button", name="What will be sent").click()
    preview = chat.get_by_role("region", name="What will be sent")
    expect(options.first).to_be_hidden()
    expect(preview.locator("summary")).to_contain_text(["Your message", "df (frame", HOSTILE])
    preview.locator("summary").nth(1).click()
    expect(preview).to_contain_text("- length: int64; min 244, mean 1490.5, max 2737")
    assert_accessible(chat)
    preview.press("Escape")
    expect(field(chat)).to_be_focused()

    field(chat).press("Enter")
    expect(answers(chat)).to_contain_text("tokens")
    expect(field(chat)).to_have_value("")
    expect(along(chat)).to_have_count(0)
    expect(chat.get_by_label("You").get_by_label("Attached").get_by_role("listitem")).to_have_text(["df", HOSTILE])
    assert "pandas DataFrame: 2 rows × 1 columns" in sent(scripted)
    assert f'frame "{HOSTILE}"' in sent(scripted)

    chat.get_by_role("button", name="Edit").click()
    expect(field(chat)).to_have_value("How long is @df and @")
    expect(along(chat)).to_contain_text([HOSTILE])
    field(chat).press("Enter")
    expect(answers(chat)).to_contain_text("tokens")
    expect(chat.get_by_label("You").get_by_label("Attached").get_by_role("listitem")).to_have_text(["df", HOSTILE])
    findings = guard.findings(book.page)
    findings.pop("elements", None)  # the panel's own
    assert not findings
    expect(chat.locator("img")).to_have_count(0)


def test_what_cannot_be_sent_loses_nothing(notebook: Open, scripted: Scripted, server: Server):
    book = notebook(FRAME, "ai.chat('Bad')")
    book.run(0)
    book.run(1)
    chat = panel(book, 1)
    alert = chat.get_by_role("alert")
    field(chat).fill("Look at @env")
    drop(chat, "a.zip", b"PK\x03\x04" + bytes(range(256)))
    expect(alert).to_contain_text("a.zip is no text and of no kind that can be read")
    expect(along(chat)).to_have_count(0)
    field(chat).press("Enter")
    expect(alert).to_contain_text("@env holds the environment")
    expect(field(chat)).to_have_value("Look at @env")
    chat.evaluate(
        """panel => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(9e6)], "large.csv"));
          panel.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
        }"""
    )
    expect(alert).to_contain_text("large.csv is too large (9.0 MB of 8)")

    drop(chat, "kept.txt", b"still here")
    expect(along(chat)).to_contain_text(["kept.txt"])
    book.save()
    book.page.goto("about:blank")
    again = Notebook(book.page, server, book.path)
    chat = panel(again, 1)
    expect(field(chat)).to_have_value("Look at @env")
    expect(along(chat)).to_contain_text(["kept.txt"])
    assert "Look at" not in again.path.read_text(), "the draft is in the browser only"

    field(chat).fill("Look")
    again.page.evaluate("() => window.panel.sessionContext.shutdown()")
    field(chat).press("Enter")
    expect(chat).to_contain_text("The kernel does not answer", timeout=15_000)
    expect(field(chat)).to_have_value("Look")
    again.page.evaluate("() => window.panel.sessionContext.startKernel()")
    again.silently("%load_ext ipyconvexai\nimport ipyconvexai as ai")
    again.run(1)
    chat = panel(again, 1)
    expect(field(chat)).to_have_value("Look")
    field(chat).press("Enter")
    expect(own(chat)).to_have_text(["Look"])


@pytest.mark.long
def test_a_million_characters_are_pasted(notebook: Open, scripted: Scripted):
    book = notebook("ai.chat('Much')")
    book.run(0)
    chat = panel(book)
    text = "0123456789abcde " * 62_500
    begun = time.monotonic()
    field(chat).fill(text)
    expect(chat.locator(".ai-count")).to_have_text("about 250,000 tokens")
    field(chat).press("Enter")
    expect(answers(chat)).to_contain_text("tokens", timeout=30_000)
    expect(field(chat)).to_have_value("")
    print(f"1 MB is sent and answered after {time.monotonic() - begun:.2f} s")
    assert len(sent(scripted)) == len(text)
    field(chat).press_sequentially("after @c")
    expect(chat.get_by_role("option")).to_contain_text(["cell:1"])
    box = chat.get_by_role("listbox").bounding_box()
    assert box is not None
    assert box["height"] > 20, "the messages make room"
    field(chat).press("Escape")
    field(chat).press("Enter")
    expect(answers(chat).last).to_contain_text("after")
