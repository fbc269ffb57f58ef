"""``ai.live`` and ``ai.watch`` in a real kernel: updates come while no cell runs, and into the cell that asked."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ipyconvexai.ids import new_id
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.link import Store, open_store

DEFINITIONS = """
@ai.query
def live_titles(ctx, containing: str = "") -> list[dict[str, str | None]]:
    titles = [c.title for c in ctx.db.query(ai.Conversation).collect()]
    if "fail" in titles:
        raise ai.ApplicationError("the <b>query</b> failed")
    return [{"title": title} for title in titles if containing in title]

@ai.query
def live_count(ctx, containing: str) -> str:
    return f"<b>{len(live_titles(ctx, containing))}</b>"
"""
QUIET = 0.5  # seconds; an update takes less than 0.1


@pytest.fixture(scope="module")
def store(kernel: Any) -> Iterator[Store]:
    """The kernel's ledger, from this process: what is written here happens while no cell runs."""
    assert kernel.run(DEFINITIONS).status == "ok"
    opened = open_store(kernel.value("ai.app().store.path"))
    yield opened
    opened.close()


def add(store: Store, title: str) -> str:
    with store.transaction() as execute:
        key = new_id()
        execute("INSERT INTO conversations (id, created_at, title) VALUES (?, ?, ?)", [key, utc_now(), title])
    return key


def remove(store: Store, key: str) -> None:
    with store.transaction() as execute:
        execute("DELETE FROM conversations WHERE id = ?", [key])


def update_of(kernel: Any, request: str) -> dict[str, str]:
    """The next update of an output of that cell. By its parent: that is how a front end finds the cell."""
    while (message := kernel.next(request))["msg_type"] != "update_display_data":
        pass
    data: dict[str, str] = message["content"]["data"]
    return data


def is_quiet(kernel: Any) -> bool:
    """Whether no update comes, of any cell."""
    ends = time.monotonic() + QUIET
    while time.monotonic() < ends:
        try:
            message = kernel._client.get_iopub_msg(timeout=QUIET)
        except queue.Empty:
            return True
        if message["msg_type"] == "update_display_data":
            return False
    return True


def begin(kernel: Any, code: str, cell_id: str) -> tuple[str, list[dict[str, str]]]:
    """Run a cell to its end; the request and the frames so far."""
    request = kernel.begin(code, cell_id=cell_id)
    result = kernel.end(request)
    assert result.status == "ok", result.of("error")
    return request, result.frames


def test_a_view_follows_the_ledger_in_its_cell(kernel: Any, store: Store):
    request, frames = begin(kernel, "view = ai.live(live_titles, containing='view')\nview", "live-1")
    assert len(frames) == 1, "the view is shown once, also where it is the cell's value"
    add(store, "unrelated")
    assert is_quiet(kernel), "an equal result is not drawn again"
    add(store, "view <img src=x onerror=alert(1)>")
    shown = update_of(kernel, request)
    assert shown["text/html"].startswith("<table")
    assert "<img" not in shown["text/html"]
    assert "view &lt;img" in shown["text/html"]
    key = add(store, "view two")
    assert "view two" in update_of(kernel, request)["text/html"]
    remove(store, key)
    assert "view two" not in update_of(kernel, request)["text/html"]
    assert kernel.value("view") == "<live view of live_titles: running>"
    kernel.run("view.stop()")
    add(store, "view three")
    assert is_quiet(kernel)
    assert kernel.value("view") == "<live view of live_titles: stopped>"


def test_updates_come_while_another_cell_is_busy(kernel: Any, store: Store):
    request, _ = begin(kernel, "view = ai.live(live_count, containing='busy')", "live-2")
    busy = kernel.begin("import time; time.sleep(30)")
    began = time.monotonic()
    add(store, "busy")
    assert update_of(kernel, request) == {"text/plain": "<b>1</b>"}
    assert time.monotonic() - began < 3
    kernel.interrupt()
    assert kernel.end(busy).status == "error"  # it was busy to the end
    kernel.run("view.stop()")


def test_running_the_cell_again_ends_its_former_views(kernel: Any, store: Store):
    code = "a = ai.live(live_count, containing='again'); b = ai.live(live_count, containing='more')"
    first, _ = begin(kernel, f"{code}; former = [a, b]", "live-3")
    other, _ = begin(kernel, "c = ai.live(live_count, containing='again')", "live-4")
    second, _ = begin(kernel, code, "live-3")
    assert kernel.value("[view.running for view in (*former, a, b, c)]") == "[False, False, True, True, True]"
    add(store, "again")
    seen = set()
    for _ in range(2):
        while (message := kernel._client.get_iopub_msg(timeout=10))["msg_type"] != "update_display_data":
            pass
        seen.add(message["parent_header"]["msg_id"])
    assert seen == {second, other}
    assert first not in seen
    assert is_quiet(kernel)
    begin(kernel, "'the cell is another one now'", "live-3")
    assert kernel.value("[view.running for view in (a, b, c)]") == "[False, False, True]"
    kernel.run("c.stop()")


def test_a_query_that_fails_says_so_and_comes_back(kernel: Any, store: Store):
    request, _ = begin(kernel, "view = ai.live(live_titles, containing='mended')", "live-5")
    key = add(store, "fail")
    shown = update_of(kernel, request)
    assert list(shown) == ["text/plain"]
    assert "the <b>query</b> failed" in shown["text/plain"]
    add(store, "mended")
    remove(store, key)
    assert "mended" in update_of(kernel, request)["text/plain"]
    kernel.run("view.stop()")


def test_a_view_that_cannot_begin_fails_its_cell(kernel: Any, store: Store):
    result = kernel.run("ai.live(live_titles, containing=5)")
    assert result.of("error")[0]["ename"] == "ArgumentsError"
    assert not result.frames


def test_a_reader_s_own_rendering(kernel: Any, store: Store):
    code = """
class Shown:
    def __init__(self, n): self.n = n
    def _repr_html_(self): return f"<i>{self.n}</i>"
view = ai.live(live_titles, containing="own", render=lambda rows: Shown(len(rows)))
"""
    request, frames = begin(kernel, code, "live-6")
    assert frames[0]["text/html"] == "<i>0</i>"
    add(store, "own")
    assert update_of(kernel, request)["text/html"] == "<i>1</i>"
    kernel.run("view.stop()")


WATCHING = """
import asyncio, time
try:
    {kind} n in ai.watch(live_count, containing={kind!r}):
        print(n, flush=True)
except (KeyboardInterrupt, asyncio.CancelledError):
    print("heard at", time.time(), flush=True)
    raise
"""


@pytest.mark.parametrize("kind", ["for", "async for"])
def test_a_watching_cell_is_told_and_interrupted_at_once(kernel: Any, store: Store, kind: str):
    request = kernel.begin(WATCHING.format(kind=kind))
    seen = ""
    for text in ("<b>0</b>", "<b>1</b>", "<b>2</b>"):
        while text not in seen:
            message = kernel.next(request)
            seen += message["content"].get("text", "")
        add(store, kind)
    time.sleep(0.2)  # until it waits again
    sent = time.time()
    kernel.interrupt()
    result = kernel.end(request)
    assert float(result.printed.rpartition("heard at ")[2]) - sent < 0.1
    assert result.status == "error"
    assert result.of("error")[0]["ename"] in ("KeyboardInterrupt", "CancelledError")
    assert kernel.run("'on it goes'").status == "ok"


def test_what_run_gives_is_drawn(kernel: Any, store: Store):
    add(store, "drawn <img src=x onerror=alert(1)>")
    result = kernel.run("%ai run live_titles containing=drawn -o drawn")
    (frame,) = result.frames
    assert frame["text/html"].startswith("<table")
    assert "<img" not in frame["text/html"]
    assert kernel.value("len(drawn)") == "1"
    (frame,) = kernel.run("%ai functions").frames
    assert frame["text/html"].startswith("<table")
    for line in ("%ai jobs", "%ai crons", "%ai limits"):
        assert kernel.run(line).printed, "there is none, and it says how to make one"


def alt_of(frame: dict[str, str]) -> str:
    assert frame["text/html"].startswith('<img src="data:image/png;base64,iVBOR')
    return frame["text/plain"]


CHARTS = """
@ai.query
def live_lengths(ctx, containing: str) -> list[dict]:
    return [{"title": row["title"], "length": len(row["title"])} for row in live_titles(ctx, containing)]
"""


def test_a_chart_is_drawn_again_after_each_commit(kernel: Any, store: Store):
    assert kernel.run(CHARTS).status == "ok"
    code = "view = ai.live(live_lengths, render='column', containing='chart')"
    request, frames = begin(kernel, code, "live-7")
    assert alt_of(frames[0]).startswith("Column chart: no rows yet")
    add(store, "chart <img src=x onerror=alert(1)>")
    shown = update_of(kernel, request)
    assert alt_of(shown).endswith("length by title. chart <img src=x onerror=alert(1)>: 34.")
    assert shown["text/html"].count("<") == 1, "the title is text"
    kernel.run("view.stop()")
    drawing = "lambda rows: ai.chart(rows, 'line', y='length', title='T')"
    code = f"view = ai.live(live_lengths, {drawing}, containing='chart')"
    request, frames = begin(kernel, code, "live-8")
    assert alt_of(frames[0]).startswith("Line chart: T. chart ")
    kernel.run("view.stop()")
    result = kernel.run("ai.live(live_lengths, render='pie', containing='chart')")
    assert result.of("error")[0]["ename"] == "InputError"


def test_a_frame_is_drawn_as_a_table(kernel: Any, store: Store):
    code = "import pandas as pd\nview = ai.live(live_titles, lambda rows: pd.DataFrame({'<b>': ['<i>', 2]}))"
    _, frames = begin(kernel, code, "live-9")
    assert frames[0]["text/html"].startswith('<table class="mathjax_ignore')
    assert "&lt;i&gt;" in frames[0]["text/html"]
    kernel.run("view.stop()")
