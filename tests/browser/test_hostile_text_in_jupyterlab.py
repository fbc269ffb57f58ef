"""Public payloads as the model's answers, drawn in a real page: nothing runs, nothing is fetched.

Each is an answer of its own with an output of its own, so that none hides what another does; a cell shows many.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from ipyconvexai.testing import Answer, Fault, Received
from tests.browser.conftest import Open, Scripted
from tests.browser.guard import Guard

PAYLOADS = [
    line
    for line in (Path(__file__).parents[1] / "data" / "xss-payloads.txt").read_text(encoding="utf-8").split("\n")
    if line.strip()
]
SAMPLE = random.Random(20).sample(PAYLOADS, 70)

# What a person's own loop would do. Every error is shown as the failing cell would show it.
LOOP = """
shell = get_ipython()
for number in range({first}, {last}):
    try:
        shell.run_cell_magic("ai", "{options}", f"{way} {{number}}")
    except Exception:
        shell.showtraceback()
"""
RAW = """
import json
from IPython.display import HTML, Markdown, display
for payload in json.loads(r'''{payloads}'''):
    display({kind}(payload))
"""


def answer(payloads: list[str]) -> object:
    """A script: "fault 3" fails with the fourth payload as its message, "answer 3" is answered with it."""

    def reply(call: Received) -> Answer | Fault:
        way, number = call.prompt.split("\n")[0].split()
        payload = payloads[int(number)]
        return Fault(400, message=payload) if way == "fault" else Answer(payload)

    return reply


def play(notebook: Open, endpoint: Scripted, guard: Guard, payloads: list[str], options: str, way: str) -> None:
    """Ask for each payload, a hundred to a cell, draw what comes, and look for anything that happened."""
    endpoint.reply(answer(payloads))
    starts = range(0, len(payloads), 100)
    cells = [
        LOOP.format(first=start, last=min(start + 100, len(payloads)), options=options, way=way) for start in starts
    ]
    book = notebook("ai.app().retries = 0", *cells)
    drawn = 0
    for index in range(1, len(cells) + 1):
        book.run(index)
        drawn += len(book.outputs(index))
    assert drawn >= len(payloads)
    findings = guard.findings(book.page)
    assert not findings, json.dumps(findings, indent=1)


@pytest.mark.parametrize(("options", "way"), [("", "answer"), ("-f html", "answer")])
def test_a_sample_of_payloads_does_nothing(
    notebook: Open, endpoint: Scripted, guard: Guard, options: str, way: str
) -> None:
    play(notebook, endpoint, guard, SAMPLE, options, way)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("options", "way"), [("", "answer"), ("-f html", "answer"), ("", "fault")])
def test_no_payload_does_anything(notebook: Open, endpoint: Scripted, guard: Guard, options: str, way: str) -> None:
    for start in range(0, len(PAYLOADS), 500):
        play(notebook, endpoint, guard, PAYLOADS[start : start + 500], options, way)


@pytest.mark.parametrize("kind", ["Markdown", "HTML"])
def test_the_same_page_notices_payloads_that_are_not_hardened(notebook: Open, guard: Guard, kind: str) -> None:
    payloads = [
        "<img src=nowhere.png onerror=alert(1)>",
        "<script>alert(2)</script>",
        "<img src=http://evil.example/3>",
        "<iframe srcdoc='<script>alert(4)</script>'></iframe>",
        "<a href='javascript:alert(5)'>x</a>",
        "<img src=broken.png onerror=notDefinedAnywhere()>",
    ]
    book = notebook(RAW.format(payloads=json.dumps(payloads), kind=kind))
    book.run(0)
    book.check(0)

    findings = guard.findings(book.page)

    ran, fetched, elements = ("\n".join(findings[name]) for name in ("ran", "fetched", "elements"))
    assert "alert(1)" in ran
    assert "alert(2)" in ran
    assert "alert(4)" in ran
    assert "notDefinedAnywhere" in ran
    assert "nowhere.png" in fetched
    assert "http://evil.example/3" in fetched
    assert "javascript:alert(5)" in elements
