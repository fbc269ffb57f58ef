"""``ai.summarize`` in a real kernel: what its bar leaves behind, and what an interrupt does."""

from __future__ import annotations

from typing import Any

from ipyconvexai.testing import Answer

FRAME = "import pandas as pd\nframe = pd.DataFrame({'text': [f'%s {n}' for n in range(%d)]})"
RUN = "result = ai.summarize(frame, 'text', concurrency=4)"


def test_the_bar_leaves_a_line_of_text(kernel: Any):
    assert kernel.run(FRAME % ("short", 12)).status == "ok"
    result = kernel.run(RUN)
    assert result.status == "ok"
    assert result.frames[-1]["text/plain"].startswith("12 of 12 documents · ")
    assert "application/vnd.jupyter.widget-view+json" not in result.frames[-1]
    again = kernel.run(RUN)
    assert "12 from the ledger" in again.frames[-1]["text/plain"]


def test_an_interrupted_batch_says_how_to_go_on_and_does(kernel: Any, endpoint: Any):
    endpoint.scripted["Document:"] = Answer("fine", delay=0.1)
    assert kernel.run(FRAME % ("long", 40)).status == "ok"
    before = endpoint.count
    request = kernel.begin(RUN)
    endpoint.wait(lambda double: double.count >= before + 12, timeout=20)
    kernel.interrupt()
    stopped = kernel.end(request)
    assert stopped.status == "error"
    assert [content["ename"] for content in stopped.of("error")] == ["KeyboardInterrupt"]
    assert "of 40 documents are in the ledger. Run the cell again to go on." in stopped.printed
    finished = kernel.run(RUN)
    assert finished.status == "ok"
    assert "from the ledger" in finished.frames[-1]["text/plain"]
    assert kernel.value("result['summary'].notna().sum()") == "40"
    assert endpoint.count - before <= 40 + 4, "sent again: at most what was in flight"
    del endpoint.scripted["Document:"]
