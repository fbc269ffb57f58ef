"""A form in JupyterLab, as somebody fills it in."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.conftest import Open, Scripted
from tests.browser.guard import Guard
from tests.browser.lab import Notebook, Server
from tests.browser.looks import assert_accessible
from tests.browser.test_hostile_text_in_jupyterlab import SAMPLE

DEFINITIONS = '''
import asyncio, datetime, enum
from typing import Annotated, Any, Literal
import pandas as pd
from pydantic import Field

sales = pd.DataFrame({"day": ["Mon", "Tue"], "cost": [1.5, 2.0]})

@ai.action
async def everything(ctx, topic: str, words: Annotated[int, Field(ge=1, le=500)] = 50, careful: bool = False,
                     kind: Literal["short", "long"] | None = None, since: datetime.date | None = None,
                     at: datetime.datetime | None = None, tags: list[str] = ["a"], options: dict[str, int] = {},
                     frame: pd.DataFrame | None = None) -> str:
    """Takes all kinds."""
    return repr([topic, words, careful, kind, since and since.isoformat(), at and at.isoformat(), tags, options,
                 None if frame is None else len(frame)])

@ai.action
async def slow(ctx, seconds: float = 30) -> str:
    print("it began")
    await asyncio.sleep(seconds)
    return "it ended"

@ai.action
def drawn(ctx, how: Literal["table", "chart"] = "table") -> Any:
    return sales if how == "table" else ai.chart(sales, "column")
'''


COMPOSING = """input => {
  for (const more of [{isComposing: true}, {keyCode: 229}])
    input.dispatchEvent(new KeyboardEvent("keydown", {key: "Escape", bubbles: true, cancelable: true, ...more}));
}"""


def form(book: Notebook, index: int = 1) -> Locator:
    return book.cell(index).locator("section.ai-form")


def row(there: Locator, name: str) -> Locator:
    """An input with what stands beside it."""
    return there.locator(".ai-field", has=there.page.get_by_label(name, exact=True))


def run(there: Locator) -> None:
    there.get_by_role("button", name="Run").click()


def result(there: Locator) -> Locator:
    return there.get_by_role("region", name="Result")


def opened(notebook: Open, *cells: str) -> Notebook:
    book = notebook(DEFINITIONS, *cells)
    for index in range(2):
        book.run(index)
        book.check(index)
    form(book).wait_for()
    return book


def test_all_kinds_are_filled_in_and_errors_stand_beside_their_inputs(notebook: Open, guard: Guard) -> None:
    book = opened(notebook, "ai.form(everything)", "late = pd.DataFrame({'a': [1, 2, 3]})")
    book.run(2)
    there = form(book)
    words = there.get_by_label("words", exact=True)
    words.fill("0")
    there.get_by_label("options").fill("{x")
    there.get_by_label("topic").press("Enter")
    for name, reason in (("topic", "This is needed."), ("words", "greater than or equal to 1"), ("options", "no JSON")):
        expect(there.get_by_label(name, exact=True)).to_have_attribute("aria-invalid", "true")
        expect(row(there, name)).to_contain_text(reason)
    expect(there.get_by_label("topic")).to_be_focused()
    expect(there.locator(".ai-failed:visible")).to_have_count(3)
    assert_accessible(there)
    words.fill("")
    words.press_sequentially("1e")
    run(there)
    expect(row(there, "words")).to_contain_text("This cannot be read.")

    there.get_by_label("topic").fill("bridges")
    words.fill("7")
    there.get_by_label("careful").check()
    there.get_by_label("kind").select_option("long")
    there.get_by_label("since").fill("2026-11-23")
    there.get_by_label("at", exact=True).fill("2026-11-23T13:45:00")
    there.get_by_label("tags").fill("x\ny z")
    there.get_by_label("options").fill('{"a": 1}')
    there.get_by_label("frame").focus()  # which looks for variables of by now
    there.get_by_label("frame").select_option(label="late (DataFrame 3 × 1)")
    there.get_by_label("topic").press("Enter")
    said = "['bridges', 7, True, 'long', '2026-11-23', '2026-11-23T13:45:00', ['x', 'y z'], {'a': 1}, 3]"
    expect(result(there)).to_have_text(said)
    expect(there.get_by_role("status")).to_contain_text("Done")
    expect(there.locator(".ai-failed:visible")).to_have_count(0)
    assert book.count(1) == 2, "the cell was not run again"
    there.get_by_label("tags").press("Shift+Enter")
    assert book.count(1) == 2
    there.get_by_label("tags").fill("only")
    there.get_by_label("tags").press("Control+Enter")
    expect(result(there)).to_contain_text("['only']")
    assert (guard.ran, guard.fetched) == ([], [])


def test_it_is_run_and_canceled_while_a_cell_is_busy_and_outlives_a_reload(notebook: Open, server: Server) -> None:
    book = opened(notebook, "ai.form(slow)", "import time\ntime.sleep(20)")
    there = form(book)
    book.begin(2)
    expect(book.cell(2).locator(".jp-InputPrompt")).to_have_text("[*]:")
    run(there)
    there.get_by_label("seconds").press("Enter")  # which runs it no second time
    expect(book.cell(1).locator(".jp-OutputArea")).to_contain_text("it began")
    expect(there.get_by_role("status")).to_have_text("Running …")
    expect(there).to_have_attribute("aria-busy", "true")
    there.get_by_role("button", name="Run").press("Escape")
    expect(there.get_by_role("status")).to_contain_text("Canceled")
    expect(there.get_by_role("button", name="Cancel")).to_be_hidden()
    assert book.cell(1).locator(".jp-OutputArea").inner_text().count("it began") == 1
    book.interrupt(2)

    there.get_by_label("seconds").fill("3")
    run(there)
    expect(there.get_by_role("status")).to_have_text("Running …")
    there.get_by_label("seconds").evaluate(COMPOSING)  # which cancels nothing
    book.save()
    book.page.goto("about:blank")
    again = Notebook(book.page, server, book.path)
    there = form(again)
    expect(result(there)).to_have_text("it ended")
    expect(there.get_by_label("seconds")).to_have_value("3")
    there.get_by_label("seconds").fill("0")
    there.get_by_label("seconds").press("Enter")
    expect(there.get_by_role("status")).to_have_text("Done")
    saved = again.save()["cells"][1]["outputs"]
    kept = ["".join(output["data"].get("text/markdown", "")) for output in saved if "data" in output]
    assert any("Form: slow" in text and "Not connected" in text for text in kept), "for viewers without a kernel"


# After a kernel that died JupyterLab 4.6 may open no further notebook in that page: so this is the long form.
@pytest.mark.long
@pytest.mark.parametrize("way", ["restarted", "killed"])
def test_a_kernel_that_is_gone_runs_nothing(notebook: Open, way: str) -> None:
    book = opened(notebook, "ai.form(slow)", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    there = form(book)
    run(there)
    expect(there.get_by_role("status")).to_have_text("Running …")
    if way == "restarted":
        book.page.evaluate("() => window.panel.sessionContext.session.kernel.restart()")
    else:
        book.begin(2)
        book.page.get_by_role("button", name="Ok").click()  # JupyterLab tells of it
    expect(there.get_by_role("alert")).to_contain_text("The kernel does not answer", timeout=15_000)
    expect(there).to_have_attribute("aria-busy", "false")
    expect(there.get_by_role("status")).to_have_text("")


@pytest.mark.long
def test_tables_and_charts_are_drawn(notebook: Open, guard: Guard) -> None:
    book = opened(notebook, "%ai form drawn")
    there = form(book)
    run(there)
    expect(result(there).locator("td")).to_have_text(["Mon", "1.5", "Tue", "2"])
    there.get_by_label("how").select_option("chart")
    run(there)
    picture = result(there).locator("img")
    expect(picture).to_be_visible(timeout=30_000)  # matplotlib is imported
    expect(picture).to_have_attribute("alt", "Column chart: cost by day. Mon: 1.5; Tue: 2.")
    assert picture.evaluate("img => img.complete && img.naturalWidth > 300")
    assert (guard.ran, guard.fetched) == ([], [])


HOSTILE = """
import json
payloads = json.loads(r'''{payloads}''')
from typing import Annotated, Literal
from pydantic import Field

@ai.action
def hostile(ctx, way: Literal["text", "rows", "error"] = "text", said: str = "\\n".join(payloads),
            choice: Annotated[Literal[tuple(payloads)] | None, Field(description=payloads[0])] = None):
    if way == "error":
        raise ValueError("\\n".join(payloads))
    return "\\n\\n".join(payloads) if way == "text" else [{{payload: payload for payload in payloads[:5]}}]
hostile.__doc__ = payloads[1]
"""


def test_hostile_text_runs_and_fetches_nothing(notebook: Open, guard: Guard) -> None:
    """As a result, in a table, as an error, and in what the inputs say of themselves."""
    payloads = list(dict.fromkeys(payload for payload in SAMPLE if "'''" not in payload))
    book = notebook("ai.form(hostile)")
    book.silently(HOSTILE.format(payloads=json.dumps(payloads).replace("'", "\\u0027")))
    book.run(0)
    book.check(0)
    there = form(book, 0)
    for way, shown in (("text", ".ai-result .ai-block"), ("rows", ".ai-result table"), ("error", ".ai-banner")):
        there.get_by_label("way").select_option(way)
        run(there)
        expect(there.locator(shown)).to_be_visible()
        book.page.evaluate("() => document.querySelectorAll('.jp-OutputArea-child').forEach(e => e.style.display = '')")
        findings = guard.findings(book.page)
        findings.pop("elements", None)  # the form has inputs of its own; beside them:
        assert not findings, json.dumps(findings, indent=1)
        active = "script, style, iframe, object, embed, img, svg, form, input, select, textarea, [id], [onerror]"
        expect(there.locator(".ai-result").locator(active)).to_have_count(0)
        expect(there.locator(".ai-banner *, .ai-help *, option *, h2 *")).to_have_count(0)


def test_a_provider_s_answer_is_shown_as_markdown(notebook: Open, endpoint: Scripted) -> None:
    code = "@ai.action\nasync def ask(ctx, question: str):\n    return await ctx.generate(question)"
    book = notebook(code, "ai.form(ask, question='**Why?**')")
    for index in range(2):
        book.run(index)
        book.check(index)
    there = form(book)
    run(there)
    expect(result(there).locator("strong")).to_have_text("Why?")
    expect(result(there)).to_contain_text("tokens")
