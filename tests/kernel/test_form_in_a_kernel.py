"""A form in a kernel, as any front end is told of it."""

from __future__ import annotations

from typing import Any

WIDGET = "application/vnd.jupyter.widget-view+json"
SLOW = """
import asyncio
async def slow(seconds: float = 60) -> str:
    await asyncio.sleep(seconds)
    return "it ended"
"""


def test_running_its_cells_again_ends_a_form(kernel: Any):
    kernel.run(SLOW)
    kernel.run("one = ai.form(slow)\none", cell_id="made")
    kernel.run("one", cell_id="shown")
    assert kernel.run("one", cell_id="shown").of("comm_close") == [], "another cell shows it still"
    kernel.run("1", cell_id="shown")
    kernel.run("one._heard({'kind': 'run', 'values': {'seconds': '60'}})")
    assert kernel.value("one._run is not None", until="True") == "True"
    result = kernel.run("two = ai.form(slow)\ntwo", cell_id="made")
    assert len(result.of("comm_close")) >= 1
    assert kernel.value("one._view") == "None"
    again = kernel.run("one", cell_id="later")
    assert WIDGET in again.frames[0], "shown once more it goes on"
    assert "Not connected" in again.frames[1]["text/markdown"]
    assert kernel.value("one._run.status") == "running"
    assert len(kernel.run("one.close()").of("comm_close")) >= 1
    assert kernel.value("one._run.status") == "canceled"
