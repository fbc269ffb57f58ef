"""``%%ai`` in a real kernel: what a front end gets to see, when, and what stays in the notebook."""

from __future__ import annotations

import json
import time
from typing import Any

import nbformat
import pytest
from nbformat.v4 import output_from_msg

from ipyconvexai.testing import Answer, Fault

KEY = "sk-test-0123456789abcdef"
TEXT = "\n\n".join(f"Paragraph **{number}** with <img src=x onerror=alert(1)> in it." for number in range(12))


def status_of(marker: str) -> str:
    """An expression: the status of the call whose request holds `marker`."""
    return f"ai.ledger.calls(containing={marker!r}).df()['status'].tolist()"


def test_an_answer_grows_in_one_output(kernel: Any, endpoint: Any):
    endpoint.scripted["grow"] = Answer(TEXT, token_delay=0.01)
    began = time.monotonic()
    result = kernel.run("%%ai\ngrow")
    seconds = time.monotonic() - began
    assert result.status == "ok"
    frames = result.frames
    shown = [frame["text/markdown"] for frame in frames]
    assert len(set(shown)) >= 5
    assert all(text.strip() for text in shown)
    assert len(frames) <= seconds / 0.05 + 2
    assert [message["msg_type"] for message in result.messages].count("display_data") == 1
    assert not result.of("execute_result")
    assert all(TEXT.startswith(frame["text/plain"]) for frame in frames)
    assert all("<img" not in text for text in shown)


def test_the_saved_notebook_holds_the_whole_answer_once(kernel: Any, endpoint: Any):
    endpoint.scripted["save"] = Answer(TEXT, token_delay=0.005)
    output = saved(kernel.run("%%ai\nsave"))
    assert [o.output_type for o in output] == ["display_data"]
    assert output[0].data["text/plain"] == TEXT
    last = output[0].data["text/markdown"].rpartition("\n")[2]
    assert "tokens" in last


def test_text_json_and_code(kernel: Any, endpoint: Any):
    endpoint.scripted["plain"] = "**not** <b>markup</b>"
    assert list(kernel.run("%%ai -f text\nplain").frames[-1]) == ["text/plain"]
    endpoint.scripted["data"] = '```json\n{"a": [1]}\n```'
    *_, value, note = kernel.run("%%ai -f json\ndata").frames  # what came so far, the value, the note
    assert value["text/plain"].startswith('{\n  "a": [\n    1')
    assert "tokens" in note["text/plain"]
    endpoint.scripted["code"] = "So:\n```python\nx = 1\n```"
    request = kernel.begin("%%ai -f code\ncode")
    reply = kernel.end(request)
    assert "x = 1" in reply.frames[-1]["text/markdown"]


def test_a_failed_call_is_one_block(kernel: Any, endpoint: Any):
    endpoint.scripted["fail"] = Fault(401, message=f"Incorrect API key provided: {KEY}")
    result = kernel.run("%%ai\nfail")
    assert result.status == "error"
    (error,) = result.of("error")
    assert error["ename"] == "AuthenticationError"
    block = "\n".join(error["traceback"])
    assert block.startswith("AuthenticationError: openai answered 401")
    assert "Traceback" not in block
    assert "site-packages" not in block
    assert len(error["traceback"]) <= 6
    assert not result.frames


def test_a_wrong_line_fails_the_cell(kernel: Any):
    result = kernel.run("%%ai -t hot\nx")
    assert result.status == "error"
    assert result.printed == "UsageError: -t wants a number, not 'hot'.\n"


def test_an_interrupt_keeps_what_came(kernel: Any, endpoint: Any):
    endpoint.scripted["slow"] = Answer("word " * 2000, token_delay=0.02)
    request = kernel.begin("%%ai\nslow")
    messages: list[dict[str, Any]] = []
    while len([m for m in messages if m["msg_type"] == "update_display_data"]) < 2:
        messages.append(kernel.next(request))
    before = time.monotonic()
    kernel.interrupt()
    result = kernel.end(request)
    assert time.monotonic() - before < 0.5
    assert result.status == "error"
    (error,) = result.of("error")
    assert error["ename"] == "KeyboardInterrupt"
    assert len(error["traceback"]) == 1
    assert "interrupted: not the whole answer" in result.frames[-1]["text/markdown"].replace("&#58;", ":")
    assert result.frames[-1]["text/plain"].startswith("word word")
    assert kernel.value(status_of("slow"), until="['interrupted']") == "['interrupted']"
    assert kernel.run("%%ai\nafterwards").status == "ok"


def test_an_interrupt_while_a_limit_is_waited_for(kernel: Any, endpoint: Any):
    kernel.run("ai.app().limit('interrupted', requests=1, per='minute', model='gpt-waits')")
    request = ""
    try:
        assert kernel.run("%%ai openai:gpt-waits\nthe one of this minute").status == "ok"
        before = endpoint.count
        request = kernel.begin("%%ai openai:gpt-waits\nthe next")
        waiting: list[dict[str, Any]] = []
        while len(waiting) < 2:  # the countdown goes on
            message = kernel.next(request)
            if message["msg_type"] in ("display_data", "update_display_data"):
                waiting.append(message)
        assert "waiting" in waiting[-1]["content"]["data"]["text/plain"]
        began = time.monotonic()
        kernel.interrupt()
        result, request = kernel.end(request), ""
        assert time.monotonic() - began < 0.5
        (error,) = result.of("error")
        assert error["ename"] == "KeyboardInterrupt"
        assert len(error["traceback"]) == 1
        shown = result.frames[-1]["text/plain"]
        assert "interrupted" in shown
        assert "waiting" not in shown
        assert endpoint.count == before
    finally:
        if request:
            kernel.interrupt()
        kernel.run("ai.app().unlimit('interrupted')")


# ------------------------------------------------------------------------------------------------- errors
COUNTS = """
formatted = []
for name in ("InteractiveTB", "SyntaxTB"):
    formatter = getattr(get_ipython(), name)
    def counted(*args, real=type(formatter).structured_traceback, of=formatter, **options):
        formatted.append(name)
        return real(of, *args, **options)
    formatter.structured_traceback = counted
"""


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("x = = 1", "SyntaxError: invalid syntax"),
        ("%%ai -t hot\nx", "UsageError: -t wants a number, not 'hot'."),
        ("%%ai\nfail", "AuthenticationError: openai answered 401"),
        ("import asyncio\nawait asyncio.sleep(0)\nint('x')", "ValueError: invalid literal"),
        ("raise ExceptionGroup('two', [ValueError('one'), KeyError('two')])", "ValueError: one"),
        ("class E(Exception):\n    def __str__(self):\n        raise RuntimeError('none')\nraise E", "E"),
        ("%%capture\n1 / 0", "ZeroDivisionError: division by zero"),
        ("get_ipython().run_cell('1 / 0')", "ZeroDivisionError: division by zero"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_errors_are_kept_under_the_number_of_their_cell(kernel: Any, endpoint: Any, source: str, says: str):
    endpoint.scripted["fail"] = Fault(401, message=f"Incorrect API key provided: {KEY}")
    result = kernel.run(source)
    (number,) = [content["execution_count"] for content in result.of("execute_input")]
    kernel.run("a = 1")
    assert kernel.value("max(Err)") == str(number)
    text = kernel.value(f"Err[{number}]")
    assert says in text
    assert "\x1b" not in text


def test_an_error_is_formatted_as_often_as_without_us(kernel: Any):
    kernel.run(COUNTS)
    counts = []
    for cell in ("%unload_ext ipyconvexai", "%load_ext ipyconvexai"):
        kernel.run(cell)
        kernel.run("formatted.clear()\n1 / 0")
        counts.append(kernel.value("len(formatted)"))
    kernel.run("for name in ('InteractiveTB', 'SyntaxTB'): del getattr(get_ipython(), name).structured_traceback")
    assert counts[0] == counts[1] != "0"


def test_fix_puts_the_mended_cell_below(kernel: Any, endpoint: Any):
    kernel.run("1 / 0")
    number = kernel.value("max(Err)")
    asked = f"Cell {number} of a notebook failed: ZeroDivisionError: division by zero"
    endpoint.scripted[asked] = "By nothing.\n\n```python\n1 / 1\n```"
    request = kernel.begin("%ai fix")
    result = kernel.end(request)
    assert result.status == "ok"
    assert result.payload == [{"source": "set_next_input", "text": "1 / 1", "replace": False}]
    assert result.frames[-1]["text/plain"].startswith("By nothing.")


def test_calls_know_their_cell(kernel: Any, endpoint: Any):
    kernel.run("%%ai\nfrom a magic", cell_id="cell-1")
    kernel.run("ai.generate('from a call')", cell_id="cell-2")
    kernel.run(
        "ai.OpenAI(api_key='sk-test-0123456789abcdef').chat.completions.create(model='m',"
        " messages=[{'role': 'user', 'content': 'from a client'}])",
        cell_id="cell-3",
    )
    kernel.run("await ai.agenerate('from a coroutine')", cell_id="cell-4")
    kernel.run("import pandas as pd; _ = ai.summarize(pd.DataFrame({'t': ['from a batch']}), 't')", cell_id="cell-5")
    said = kernel.value(
        "'\\n'.join(map(str, ai.ledger.sql(\"SELECT cell_id, source, notebook FROM calls WHERE cell_id IS NOT NULL"
        ' ORDER BY cell_id").fetchall()))'
    )
    sources = ["magic", "client", "client", "client", "batch"]
    assert said.splitlines() == [
        str((f"cell-{number}", source, "notebooks/tried.ipynb")) for number, source in enumerate(sources, 1)
    ]


def test_commands_draw_tables(kernel: Any, endpoint: Any):
    kernel.run("%%ai\nfor the table <script>")
    for line in ("%ai usage", "%ai log", "%ai list openai"):
        (frame,) = kernel.run(line).frames
        assert "<table" in frame["text/html"]
        assert "<script>" not in frame["text/html"]


def test_the_key_is_in_no_message(kernel: Any, endpoint: Any):
    endpoint.scripted["leak"] = Fault(401, message=f"Incorrect API key provided: {KEY}")
    seen = [kernel.run(cell) for cell in ("%%ai\nleak", "%ai doctor", "%ai log leak", "ai.app()", "%%ai\nfine")]
    raw = json.dumps([message for result in seen for message in result.messages], default=str)
    assert KEY not in raw
    assert "AuthenticationError" in raw


def saved(result: Any) -> list[nbformat.NotebookNode]:
    """The cell's outputs as a front end saves them: updates go into the output they belong to."""
    outputs: list[nbformat.NotebookNode] = []
    by_id: dict[str, nbformat.NotebookNode] = {}
    for message in result.messages:
        kind, content = message["msg_type"], message["content"]
        name = content.get("transient", {}).get("display_id")
        if kind == "update_display_data":
            by_id[name].data = content["data"]
        elif kind in ("display_data", "execute_result", "stream", "error"):
            outputs.append(output_from_msg(message))
            by_id[name] = outputs[-1]
    return outputs
