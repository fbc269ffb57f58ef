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


BUSY = """
import time
ends = time.monotonic() + {seconds}
while not any(talk._composer._files.values()) and time.monotonic() < ends:
    time.sleep(0.02)
print([one and one.text for one in talk._composer._files.values()])
"""


@pytest.mark.parametrize("beside", [True, False], ids=["subshell", "no subshell"])
def test_a_file_comes_with_its_bytes_while_a_cell_is_busy(kernel: Any, beside: bool):
    """A front end that knows no subshells waits for the cell; what it says early comes without its bytes."""
    opened = kernel.run(f"talk = ai.chat('Files {beside}')\ntalk")
    (widget,) = (one["comm_id"] for one in opened.of("comm_open") if "_esm" in one["data"]["state"])
    subshell = kernel.subshell() if beside else None
    request = kernel.begin(BUSY.format(seconds=10 if beside else 0.5))
    kernel.until(request, "execute_input")
    said = {"kind": "file", "token": "t", "name": "a.txt", "bytes": True}
    kernel.say(widget, said, subshell, b"the bytes")
    assert kernel.end(request).printed.strip() == ("['the bytes']" if beside else "[]")
    text = "[one and one.text for one in talk._composer._files.values()]"
    assert kernel.value(text, until="['the bytes']") == "['the bytes']"


def test_a_cell_with_what_it_printed(kernel: Any):
    """IPython keeps that in a kernel, too."""
    kernel.run("print('said'); 6 * 7")
    count = int(kernel.value("get_ipython().execution_count")) - 2  # that cell is one, too
    kernel.run("from ipyconvexai.context.mentions import attach")
    printed = kernel.run(f"print(attach(get_ipython(), '@cell:{count}')[0].text)").printed
    assert "It printed:\n```\nsaid\n```" in printed
    assert "Its output:\n```\n42\n```" in printed


SAID = """
import time
ends = time.monotonic() + 10
while not talk._talk._messages and time.monotonic() < ends:
    time.sleep(0.02)
print([one.text for one in list(talk._talk._messages.values())[:1]])
"""


def test_what_a_subshell_hears_is_not_taken_for_what_was_heard_early(kernel: Any):
    """A panel's first word may come before the front end has a subshell, while the cell runs that shows it."""
    opened = kernel.run("talk = ai.chat('Early')\ntalk")
    (widget,) = (one["comm_id"] for one in opened.of("comm_open") if "_esm" in one["data"]["state"])
    subshell = kernel.subshell()
    request = kernel.begin(SAID)
    kernel.until(request, "execute_input")
    kernel.say(widget, {"kind": "hello"}, None)
    kernel.say(widget, {"kind": "send", "token": "t", "text": "Hi", "files": []}, subshell)
    assert kernel.end(request).printed.strip() == "['Hi']"
    assert kernel.value("len([one for one in talk._talk._messages.values() if one.role == 'user'])") == "1"
