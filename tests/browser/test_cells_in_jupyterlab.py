"""`%%ai` cells as people see them: growing, stopped, failing, waiting; and what the saved file holds of them."""

from __future__ import annotations

import html
import re

import pytest

from ipyconvexai.render import markdown_bundle
from ipyconvexai.testing import Answer, Fault
from tests.browser.conftest import Open, Scripted

MOON = """# The moon

The moon pulls the sea, and *the sea* follows it. <b>Twice a day</b> the water rises.

- high water
- low water ![a picture](https://pictures.example/moon.png)

```python
tide = "high"
```

So it has been, $2^{32}$ days long."""


def visible(frames: list[str]) -> list[str]:
    """The frames after the first text, which is where an output begins to be there."""
    return frames[next(i for i, frame in enumerate(frames) if frame) :]


def test_an_answer_grows_in_place_and_is_saved_as_one_markdown_output(notebook: Open, endpoint: Scripted) -> None:
    endpoint.scripted["Tell me of the moon."] = Answer(MOON, token_delay=0.04)
    book = notebook("%%ai\nTell me of the moon.")

    book.film(0)
    book.run(0)
    book.wait_for_text(0, "days long")
    film = book.filmed()

    frames = visible(film["frames"])
    print(f"{len(set(frames))} visible updates, {film['mutations']} mutations")
    assert len(set(frames)) >= 5
    assert "" not in frames
    assert film["flat"] == 0
    [output] = book.save()["cells"][0]["outputs"]
    saved = {kind: "".join(lines) for kind, lines in output["data"].items()}
    note = html.unescape(saved["text/markdown"].rpartition("\n\n*")[2].removesuffix("*"))
    assert "gpt-4o-mini" in note
    assert saved["text/markdown"] == markdown_bundle(MOON, note=note)["text/markdown"]
    assert saved["text/plain"] == MOON
    assert output["output_type"] == "display_data"


def test_the_button_stops_an_answer_at_once_and_keeps_what_had_come(notebook: Open, endpoint: Scripted) -> None:
    endpoint.scripted["Count."] = Answer(" ".join(f"number{i}" for i in range(2000)), token_delay=0.02)
    book = notebook("%%ai\nCount.")

    book.begin(0)
    book.wait_for_text(0, "number5")
    seconds = book.interrupt(0)

    print(f"idle {seconds:.3f} s after the click")
    assert seconds <= 1.5  # 0.5 s on a machine that does nothing else
    answer, error = book.save()["cells"][0]["outputs"]
    kept = "".join(answer["data"]["text/markdown"])
    assert "number0 number1 number2" in kept
    assert html.unescape(kept).endswith("*interrupted: not the whole answer*")
    assert error["ename"] == "KeyboardInterrupt"
    assert len(error["traceback"]) == 1  # one line, and no stack of ours
    endpoint.wait(lambda endpoint: endpoint.in_flight == 0)


def test_run_all_stops_at_a_call_that_fails(notebook: Open, endpoint: Scripted) -> None:
    endpoint.scripted["Fail."] = Fault(401, message="Incorrect API key provided.")
    book = notebook("before = 1", "%%ai\nFail.", "after = 2")

    book.run_all()

    assert [book.count(index) for index in range(3)] == [1, 2, None]
    [error] = book.outputs(1)
    assert error["output_type"] == "error"
    shown = book.cell(1).locator(".jp-OutputArea-output").inner_text()
    assert "Incorrect API key provided." in shown
    assert "\x1b" not in shown
    assert len(shown.splitlines()) <= 8, shown  # one block: what happened, and the cure
    assert "site-packages" not in shown
    assert "Traceback" not in shown


@pytest.mark.long  # the panel's countdown is tried each time
def test_who_waits_for_a_limit_sees_a_countdown(notebook: Open, endpoint: Scripted) -> None:
    endpoint.scripted |= {"First.": "one", "Second.": "two"}
    book = notebook('ai.app().limit("narrow", requests=1, per=4)', "%%ai\nFirst.", "%%ai\nSecond.")
    book.run(0)
    book.run(1)

    book.film(2)
    book.run(2)
    book.wait_for_text(2, "two")

    frames = visible(book.filmed()["frames"])
    seconds = [float(found[1]) for frame in frames if (found := re.search(r"waiting ([\d.]+) s", frame))]
    assert len(set(seconds)) >= 2, frames
    assert seconds == sorted(seconds, reverse=True)
    assert "narrow" in frames[0]
    assert "waiting" not in frames[-1]
    [output] = book.save()["cells"][2]["outputs"]
    assert "".join(output["data"]["text/plain"]) == "two"
