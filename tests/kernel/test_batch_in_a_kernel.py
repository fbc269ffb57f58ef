"""``ai.summarize`` in a real kernel: what its bar leaves behind, what its buttons and an interrupt do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ipyconvexai.testing import Answer

FRAME = "import pandas as pd\nframe = pd.DataFrame({'text': [f'%s {n}' for n in range(%d)]})"
RUN = "result = ai.summarize(frame, 'text', concurrency=4)"
WIDGET = "application/vnd.jupyter.widget-view+json"
WIDGETS = "len(__import__('ipywidgets').widgets.widget._instances)"


@pytest.fixture
def slow(endpoint: Any) -> Iterator[None]:
    """A tenth of a second for each summary."""
    endpoint.scripted["Document:"] = Answer("fine", delay=0.1)
    yield
    del endpoint.scripted["Document:"]


def test_a_batch_that_is_done_at_once_is_one_line_of_text(kernel: Any):
    assert kernel.run(FRAME % ("short", 12)).status == "ok"
    result = kernel.run(RUN)
    assert result.status == "ok"
    assert result.frames[-1]["text/plain"].startswith("summarize: 12 of 12 rows · ")
    again = kernel.run(RUN)
    [frame] = again.frames
    assert set(frame) == {"text/plain"}
    assert "12 from the ledger" in frame["text/plain"]
    assert again.of("comm_open") == [], "no widget for what nobody would see"


@pytest.mark.usefixtures("slow")
def test_the_bar_leaves_a_line_of_text(kernel: Any):
    assert kernel.run(FRAME % ("longer", 40)).status == "ok"
    result = kernel.run(RUN)
    assert result.status == "ok"
    first, last = result.frames
    assert WIDGET in first
    assert first["text/plain"].startswith("summarize: ")
    assert set(last) == {"text/plain"}
    assert last["text/plain"].startswith("summarize: 40 of 40 rows · ")
    assert result.printed == ""
    assert kernel.value(WIDGETS) == "0"


@pytest.mark.usefixtures("slow")
def test_two_batches_of_one_cell_have_a_bar_each(kernel: Any):
    assert kernel.run(FRAME % ("twice", 60)).status == "ok"
    result = kernel.run(f"{RUN.replace('frame,', 'frame[:30],')}\n{RUN.replace('frame,', 'frame[30:],')}")
    shown = [content["transient"]["display_id"] for content in result.of("display_data")]
    ended = [content["transient"]["display_id"] for content in result.of("update_display_data")]
    assert len(set(shown)) == 2
    assert ended == shown
    assert [frame["text/plain"][:24] for frame in result.frames if WIDGET not in frame] == [
        "summarize: 30 of 30 rows"
    ] * 2


@pytest.mark.usefixtures("slow")
def test_nothing_is_shown_where_nobody_wants_it(kernel: Any):
    assert kernel.run(FRAME % ("quiet", 40)).status == "ok"
    result = kernel.run(RUN.replace(")", ", progress=False)"))
    assert result.status == "ok"
    assert (result.frames, result.of("comm_open"), result.printed) == ([], [], "")


def seconds_until(
    kernel: Any, request: str, result: Any, trait: str, is_it: Callable[[str], bool]
) -> tuple[float, str]:
    """How long it takes until a widget of the cell says so, and what it says then."""
    began = time.monotonic()
    while True:
        kernel.until(request, "comm_msg", result)
        said = str(result.messages[-1]["content"]["data"].get("state", {}).get(trait, ""))
        result.messages.append({"msg_type": "seen", "content": {}})
        if is_it(said):
            return time.monotonic() - began, said


# A front end gives a subshell, a thread beside the cell's, to what it says to widgets; or it knows none.
@pytest.mark.parametrize("beside", [True, False], ids=["subshell", "no subshell"])
@pytest.mark.usefixtures("slow")
def test_the_buttons_are_heard_while_the_cell_is_busy(kernel: Any, endpoint: Any, beside: bool):
    assert kernel.run(FRAME % (f"buttons {beside}", 400)).status == "ok"
    subshell = kernel.subshell() if beside else None
    before = endpoint.count
    request = kernel.begin(RUN)
    result = kernel.until(request, "display_data")
    buttons = {
        content["data"]["state"]["description"]: content["comm_id"]
        for content in result.of("comm_open")
        if content["data"]["state"]["_model_name"] == "ButtonModel"
    }
    assert set(buttons) == {"Pause", "Cancel"}

    endpoint.wait(lambda double: double.count >= before + 12, timeout=20)
    kernel.click(buttons["Pause"], subshell)
    seconds, said = seconds_until(kernel, request, result, "value", lambda value: value.startswith("paused"))
    assert seconds < 1
    if said != "paused":  # what was sent is answered
        seconds_until(kernel, request, result, "value", lambda value: value == "paused")
    count = endpoint.count
    time.sleep(0.5)  # five answers long: nothing is begun
    assert endpoint.count == count
    assert before < count < before + 400

    kernel.click(buttons["Pause"], subshell)  # which is Resume now
    seconds, _ = seconds_until(kernel, request, result, "description", lambda value: value == "Pause")
    assert seconds < 1
    endpoint.wait(lambda double: double.count > count, timeout=5)

    kernel.click(buttons["Cancel"], subshell)
    kernel.end(request, result)
    assert result.status == "ok"
    line, message = result.frames[-1]["text/plain"].split("\n")
    assert "canceled" in line
    assert message.startswith("Canceled: ")
    assert endpoint.count < before + 400
    assert kernel.value("len(result)") == "400"
    assert kernel.value(WIDGETS) == "0"


@pytest.mark.usefixtures("slow")
def test_an_interrupted_batch_says_how_to_go_on_and_does(kernel: Any, endpoint: Any):
    assert kernel.run(FRAME % ("long", 40)).status == "ok"
    before = endpoint.count
    request = kernel.begin(RUN)
    endpoint.wait(lambda double: double.count >= before + 24, timeout=20)
    kernel.interrupt()
    stopped = kernel.end(request)
    assert stopped.status == "error"
    assert [content["ename"] for content in stopped.of("error")] == ["KeyboardInterrupt"]
    line, message = stopped.frames[-1]["text/plain"].split("\n")
    assert " of 40 rows · " in line
    assert "again to go on" in message
    finished = kernel.run(RUN)
    assert finished.status == "ok"
    assert "from the ledger" in finished.frames[-1]["text/plain"]
    assert kernel.value("result['summary'].notna().sum()") == "40"
    assert endpoint.count - before <= 40 + 4, "sent again: at most what was in flight"


@pytest.mark.usefixtures("slow")
def test_a_scheduled_batch_is_shown_and_kept_up_to_date(kernel: Any):
    assert kernel.run(FRAME % ("later", 8)).status == "ok"
    request = kernel.begin("job = ai.schedule(ai.summarize, frame, 'text', name='<b>', after=2)\njob")
    first = kernel.end(request)
    assert first.status == "ok", first.of("error")
    (frame,) = first.frames
    assert frame["text/plain"].endswith((": pending>", ": in_progress>"))
    assert frame["text/html"].startswith("<table")
    while "success" not in frame["text/plain"]:
        message = kernel.next(request)
        if message["msg_type"] == "update_display_data":
            frame = message["content"]["data"]
            assert "<b>" not in frame["text/html"]
    assert "&lt;b&gt;" in frame["text/html"]
    assert kernel.run("job").frames[-1]["text/plain"].endswith(": success>")
