"""The chat panel in JupyterLab, in a Chromium: what somebody who uses it waits for, and what the page has to do.

A panel of a fresh kernel, imports included; an answer of 1,000 pieces at 200 a second; the first piece, from when the
provider sends it until the page has drawn it; a conversation of 500 messages that is opened and goes on.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, sync_playwright

from ipyconvexai.testing import Answer
from tests.benchmarks.measuring import Figure
from tests.browser.conftest import FLAGS, Scripted, environment, find_chromium
from tests.browser.lab import PATIENCE, Notebook, Server
from tests.browser.talking import LONG_TASKS, TEXT, answers, panel, say

ROUNDS = 3
TURNS = 250  # of a long conversation: a message of a person's and an answer
PART = (
    "## Part {n}\n\nSome *words* of part {n}, and `code`, again and again and again and again.\n\n- a point\n- another"
)
PIECES = "\n\n".join(PART.format(n=n) for n in range(46))  # about 1,000 of them
SOME = "\n\n".join(PART.format(n=n) for n in range(20))
DELAY = 0.3  # seconds from a question until its first piece is sent

COUNTING = """
import json
chat, sent = ai.chat('Many'), []
chat._ipython_display_()
view_send = chat._view.send
chat._view.send = lambda content: (sent.append(content), view_send(content))[1]
"""
STATE = "print(len(json.dumps({k: v for k, v in chat._view.get_state().items() if isinstance(v, (str, dict, list))})))"
CONVERSATION = """
app = ai.app()
key = ai.run("start_conversation", title="Long ago")
with app.store.transaction() as execute:
    for n in range(%d):
        for role, text in (("user", f"Question {n}?"), ("assistant", %r + f"\\n\\nThat was answer {n}.")):
            execute.later(
                "INSERT INTO messages (id, created_at, conversation_id, role, content, status)"
                " VALUES (uuidv7(), now()::TIMESTAMP + INTERVAL (?) MILLISECOND, ?, ?, ?, 'done')",
                [n * 2 + (role == "assistant"), key, role, text])
"""
# Seconds from the start of a cell until the first of these nodes is drawn, and so many of them.
SHOWN = """async ({index, selector, count}) => {
  const content = window.panel.content;
  content.deselectAll();
  content.activeCellIndex = index;
  const began = performance.now();
  window.jupyterapp.commands.execute("notebook:run-cell");
  const cell = content.widgets[index].node;
  const until = async (count) => {
    while (cell.querySelectorAll(selector).length < count) await new Promise(requestAnimationFrame);
    await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    return (performance.now() - began) / 1000;
  };
  return [await until(1), await until(count)];
}"""
# Ask, and wait until so many answers are written. Playwright's own ways of looking would cost the page more than this.
ASK = """async (chat, {text, count}) => {
  if (text) {
    const field = chat.querySelector(".ai-compose textarea");
    field.value = text;
    field.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true, cancelable: true}));
  }
  while (chat.querySelectorAll(".ai-assistant[data-status=done]").length < count)
    await new Promise(done => setTimeout(done, 100));
  await new Promise(done => setTimeout(done, 500));
}"""
# From now on: when an answer that is not there yet is drawn, in seconds of the machine's clock.
FIRST_TEXT = """chat => {
  const known = chat.querySelectorAll(".ai-block").length;
  window.firstText = new Promise(done => {
    const watch = () => {
      if (chat.querySelectorAll(".ai-block").length > known)
        setTimeout(() => done((performance.timeOrigin + performance.now()) / 1000));
      else requestAnimationFrame(watch);
    };
    watch();
  });
}"""


def run() -> list[Figure]:
    chromium = find_chromium()
    if chromium is None:
        raise RuntimeError("there is no Chromium that starts (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        endpoint = Scripted()
        endpoint.start()
        server = Server(Path(folder) / "lab", environment(endpoint.url))
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            context = browser.new_context(viewport={"width": 1200, "height": 850})
            context.set_default_timeout(PATIENCE * 1000)
            page = context.new_page()
            return [
                *_panel(page, server),
                *_first_piece(page, server, endpoint),
                *_many_pieces(page, server, endpoint),
                *_long_conversation(page, server, endpoint),
            ]
        finally:
            browser.close()
            server.close()
            endpoint.close()


@contextmanager
def _notebook(page: Page, server: Server, *cells: str) -> Iterator[Notebook]:
    number = len(list(server.notebooks.iterdir()))
    book = Notebook(page, server, server.write(f"{number:03}", list(cells)))
    yield book
    book.close()


def _panel(page: Page, server: Server) -> list[Figure]:
    seconds = []
    for _ in range(ROUNDS):
        with _notebook(page, server, "import ipyconvexai as ai\nai.chat('Bridges')") as book:
            seconds.append(_shown(book, 0, ".ai-chat", 1)[0])
    return [
        Figure("panel visible, the page's first", seconds[0], "s", at_most=2),
        Figure("panel visible, a fresh kernel's", statistics.median(seconds), "s", at_most=2),
    ]


def _first_piece(page: Page, server: Server, endpoint: Scripted) -> list[Figure]:
    asked: list[float] = []

    def answer(_call: Any) -> Answer:
        asked.append(time.time())
        return Answer("word " * 3, delay=DELAY, token_delay=0.05)

    seconds = []
    with _notebook(page, server, "import ipyconvexai as ai\nai.chat('First')") as book:
        book.run(0)
        chat = panel(book)
        for number in range(10):
            endpoint.reply(answer)
            chat.evaluate(FIRST_TEXT)
            say(chat, f"First {number}")
            drawn = page.evaluate("() => window.firstText")
            seconds.append(drawn - (asked[-1] + DELAY))
            _ask(chat, "", number + 1)
    endpoint.reply(lambda call: endpoint.scripted.get(call.prompt.split("\n")[0]))
    middle, longest = statistics.median(seconds), max(seconds)
    return [
        Figure("first piece drawn after it was sent", middle * 1000, "ms", at_most=100),
        Figure("  the longest of ten", longest * 1000, "ms"),
    ]


def _many_pieces(page: Page, server: Server, endpoint: Scripted) -> list[Figure]:
    endpoint.scripted["Many"] = Answer(PIECES, token_delay=0.005)
    counts = "print(len(sent), chat._talk.transcript().endswith(said))"
    with _notebook(page, server, "import ipyconvexai as ai" + COUNTING, counts, STATE, "ai.chat('Many')") as book:
        book.silently(f"said = {PIECES!r}.strip()")
        book.run(0)
        chat = panel(book)
        book.run(2)
        state = int(_printed(book, 2))
        _ask(chat, "warm up", 1)
        book.run(1)
        before = int(_printed(book, 1).split()[0])
        with _measured(page) as cost:
            _ask(chat, "Many", 2)
        book.run(1)
        sent, is_whole = _printed(book, 1).split()
        book.run(3)
        _ask(panel(book, 3), "", 2)
        drawn = [answers(panel(book, index)).last.locator(".ai-body").inner_text() for index in (0, 3)]
    if is_whole != "True" or drawn[0] != drawn[1]:
        raise RuntimeError("the text is not what was sent")
    return [
        Figure("1,000 pieces at 200/s: messages", int(sent) - before, "", at_most=150),
        Figure("  longest task of the page", cost["longest"], "ms", at_most=100),
        Figure("  CPU of the page", cost["cpu"], "s", at_most=1.5),
        Figure("the widget's state", state / 1000, "kB", at_most=60),
    ]


def _long_conversation(page: Page, server: Server, endpoint: Scripted) -> list[Figure]:
    endpoint.scripted["More"] = Answer(SOME, token_delay=0.005)
    making = "import ipyconvexai as ai" + CONVERSATION % (TURNS, TEXT)
    with _notebook(page, server, making, "ai.chat('Long ago')") as book:
        book.run(0)
        book.check(0)
        with _measured(page) as opening:
            newest, seconds = _shown(book, 1, ".ai-message", 2 * TURNS)
        chat = panel(book, 1)
        with _measured(page) as cost:
            _ask(chat, "More", TURNS + 1)
    return [
        Figure(f"a conversation of {2 * TURNS} messages opens", seconds, "s", at_most=1),
        Figure("  its newest messages are there", newest, "s", at_most=1),
        Figure("  longest task of the page", opening["longest"], "ms"),
        Figure("  CPU of the page", opening["cpu"], "s"),
        Figure("  longest task while it goes on", cost["longest"], "ms", at_most=100),
    ]


def _shown(book: Notebook, index: int, selector: str, count: int) -> tuple[float, float]:
    first, last = book.page.evaluate(SHOWN, {"index": index, "selector": selector, "count": count})
    return float(first), float(last)


def _ask(chat: Locator, text: str, count: int) -> None:
    chat.evaluate(ASK, {"text": text, "count": count})


def _printed(book: Notebook, index: int) -> str:
    book.check(index)
    return "".join(book.outputs(index)[0]["text"])


@contextmanager
def _measured(page: Page) -> Iterator[dict[str, float]]:
    """Fills in the page's ``longest`` task, in ms, and the seconds of ``cpu`` of its main thread."""
    cost: dict[str, float] = {}
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})  # CPU, not the clock

    def spent() -> float:
        metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        return float(metrics["TaskDuration"] - metrics["DevToolsCommandDuration"])

    page.evaluate(LONG_TASKS)
    before = spent()
    yield cost
    cost["cpu"] = spent() - before
    cost["longest"] = max(page.evaluate("() => window.longTasks"), default=0.0)
    session.detach()


if __name__ == "__main__":
    print(json.dumps([figure.cells() for figure in run()], indent=1))
