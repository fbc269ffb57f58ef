"""The panel of a batch in JupyterLab: its buttons work while the cell is busy, and it shows nothing but text."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect

from ipyconvexai.testing import Answer
from tests.browser.conftest import Open, Scripted
from tests.browser.guard import Guard
from tests.browser.lab import Notebook
from tests.browser.looks import assert_accessible

FRAME = "import pandas as pd\nframe = pd.DataFrame({'text': [f'%s {n}' for n in range(%d)]})"
RUN = "result = ai.summarize(frame, 'text', concurrency=4)"
WIDGET = "application/vnd.jupyter.widget-view+json"

# A name that somebody chose for a limit.
HOSTILE = r"""<img src=nowhere.png onerror=alert(1)> $a^2$ \(b\) \begin{equation}c\end{equation} $0.12 and $0.50"""
WAITING = """
import time
from ipyconvexai.batch.control import Control
from ipyconvexai.batch.progress import Progress
from ipyconvexai.values import Wait
control = Control()
bar = Progress(True, "summarize", control)
bar.begin(100, 40)
bar.wait(Wait("", {why!r}, 60, time.monotonic() + 60))
while control.state != "canceled":
    bar.draw()
    time.sleep(0.05)
bar.close()
"""


@pytest.fixture
def slow(endpoint: Scripted) -> Iterator[None]:
    """A tenth of a second for each summary."""
    endpoint.scripted["Document:"] = Answer("fine", delay=0.1)
    yield
    del endpoint.scripted["Document:"]


def shown(book: Notebook, index: int) -> Locator:
    return book.cell(index).locator(".jp-OutputArea-output").first


def press(book: Notebook, index: int, button: str, then: Locator) -> float:
    """Seconds from a click until the page shows what comes of it."""
    began = time.monotonic()
    shown(book, index).get_by_role("button", name=button).click()
    then.first.wait_for()
    return time.monotonic() - began


@pytest.mark.usefixtures("slow")
def test_pause_and_cancel_work_while_the_cell_is_busy(notebook: Open, endpoint: Scripted) -> None:
    book = notebook(FRAME % ("buttons", 2000), RUN, "print(len(result), result['summary'].notna().sum())")
    book.run(0)
    book.begin(1)
    panel = shown(book, 1)
    panel.get_by_role("button", name="Pause").wait_for()
    assert book.count(1) is None, "it runs"
    endpoint.wait(lambda double: double.count >= 12)

    seconds = press(book, 1, "Pause", panel.get_by_text("paused"))
    print(f"paused after {seconds:.3f} s")
    assert seconds < 1
    expect(panel.get_by_text("paused", exact=True)).to_be_visible()  # what was sent is answered
    count = endpoint.count
    time.sleep(0.5)  # five answers long
    assert endpoint.count == count, "nothing is begun"
    assert_accessible(panel.locator(".ai-batch"))

    seconds = press(book, 1, "Resume", panel.get_by_role("button", name="Pause"))
    print(f"resumed after {seconds:.3f} s")
    assert seconds < 1
    endpoint.wait(lambda double: double.count > count)

    seconds = press(book, 1, "Cancel", panel.get_by_text("ancel", exact=False).filter(has_text="ed: "))
    print(f"canceled after {seconds:.3f} s")
    assert seconds < 2  # what was being answered, and the frame
    book.wait_for_text(1, "Canceled: ")
    expect(book.cell(1).locator(".jp-InputPrompt")).not_to_have_text("[*]:")  # the cell ends by itself
    book.check(1)
    assert endpoint.count < 2000
    assert panel.get_by_role("button").count() == 0
    book.run(2)
    [printed] = book.outputs(2)
    rows, answered = map(int, "".join(printed["text"]).split())
    assert rows == 2000
    assert 0 < answered < 2000

    [output] = book.save()["cells"][1]["outputs"]
    assert set(output["data"]) == {"text/plain"}
    saved = "".join(output["data"]["text/plain"])
    assert saved.startswith(f"summarize: {answered:,} of 2,000 rows · ")
    assert saved.endswith("Run it again to go on.")


@pytest.mark.long
@pytest.mark.usefixtures("slow")
def test_each_batch_has_a_bar_of_its_own(notebook: Open) -> None:
    book = notebook(FRAME % ("twice", 120), RUN.replace("frame", "frame[:40]"), RUN.replace("frame", "frame[40:]"))
    for index in range(3):
        book.begin(index)
    for index in (1, 2):
        shown(book, index).get_by_role("button", name="Pause").wait_for()
    book.wait_for_text(2, "80 of 80 rows")
    book.wait_for_text(1, "40 of 40 rows")
    for index in (1, 2):
        [output] = book.outputs(index)
        assert set(output["data"]) == {"text/plain"}
        assert shown(book, index).get_by_role("button").count() == 0


@pytest.mark.parametrize("theme", [pytest.param("JupyterLab Light", marks=pytest.mark.long), "JupyterLab Dark"])
def test_a_name_is_text_in_both_themes(notebook: Open, guard: Guard, theme: str) -> None:
    book = notebook(WAITING.format(why=HOSTILE))
    book.page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
    book.begin(0)
    panel = shown(book, 0)
    panel.locator(".widget-label", has_text="nowhere.png").first.wait_for()
    book.page.wait_for_timeout(1000)  # formulas would be set by now
    labels = panel.locator(".widget-label:visible").all()
    assert HOSTILE in " ".join(label.inner_text() for label in labels)
    for label in labels:
        assert label.locator("*").count() == 0, label.inner_html()
        assert label.evaluate("node => node.scrollWidth <= node.clientWidth + 1"), "all of it can be read"
        assert contrast(label) >= 4.5
    assert panel.get_by_role("button").all_inner_texts() == ["Pause", "Cancel"]
    for button in panel.get_by_role("button").all():
        assert len(button.get_attribute("title") or "") > 20
    press(book, 0, "Cancel", panel.get_by_text("Canceled: "))
    findings = guard.findings(book.page)
    assert not findings, json.dumps(findings, indent=1)


# By WCAG 2: of the text and of the first background behind it.
_CONTRAST = """node => {
  const parse = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(
    v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce(
    (sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let behind = node, back;
  do { back = parse(getComputedStyle(behind).backgroundColor); behind = behind.parentElement; } while (back[3] === 0);
  const [a, b] = [light(parse(getComputedStyle(node).color)), light(back)].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}"""


def contrast(text: Locator) -> float:
    return float(text.evaluate(_CONTRAST))
