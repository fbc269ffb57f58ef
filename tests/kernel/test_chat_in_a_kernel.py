"""The chat panel in a kernel, as any front end is told of it."""

from __future__ import annotations

from typing import Any

import pytest

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.mark.parametrize("source", ["ai.chat('Bridges')", "%ai chat Bridges", '%ai chat "Bridges"'])
def test_a_panel_and_its_transcript_are_outputs(kernel: Any, source: str):
    result = kernel.run(source)
    assert result.status == "ok"
    panel, transcript = result.frames
    assert WIDGET in panel
    assert transcript["text/markdown"].startswith("**Bridges**")
    assert "Not connected" in transcript["text/markdown"]


def test_a_turn_is_in_the_transcript(kernel: Any):
    kernel.run("%%ai -c Turns\nWhat is a <b>bridge</b>?")
    transcript = kernel.run("ai.chat('Turns')").frames[-1]["text/markdown"]
    assert "**You:**" in transcript
    assert "&lt;b>bridge" in transcript, "hardened"
    assert "**Assistant:**" in transcript


def test_wrong_titles_are_one_line(kernel: Any):
    result = kernel.run("ai.chat(7)")
    assert result.status == "error"
    assert "title=7 is no text" in result.of("error")[0]["evalue"]


def test_its_state_is_small(kernel: Any):
    result = kernel.run("ai.chat('Small')")
    opened = [content for content in result.of("comm_open") if "_esm" in content["data"]["state"]]
    size = sum(len(str(content["data"]["state"])) for content in opened)
    assert 5_000 < size < 60_000


def test_running_its_cells_again_ends_a_panel(kernel: Any):
    kernel.run("one = ai.chat('Again')\none", cell_id="made")
    kernel.run("one", cell_id="shown")
    closed = kernel.run("one", cell_id="shown").of("comm_close")
    assert closed == [], "another cell shows it still"
    kernel.run("1", cell_id="shown")
    result = kernel.run("two = ai.chat('Again')\ntwo", cell_id="made")
    assert len(result.of("comm_close")) >= 1
    assert kernel.value("one._talk._following.cancelled()", until="True") == "True", "nothing follows for it"
    again = kernel.run("one", cell_id="later")
    assert WIDGET in again.frames[0], "shown once more it goes on"
    assert kernel.value("one._talk._following.done()") == "False"
