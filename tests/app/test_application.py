"""The life of an app, and the bridge between sync and async code."""

from __future__ import annotations

import asyncio
import html
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.testing import Answer, Endpoint


def test_an_app_opens_nothing_before_it_is_used(tmp_path: Path):
    with ai.connect(str(tmp_path / "unused.duckdb")):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_app_before_is_current_again(tmp_path: Path):
    with ai.connect(str(tmp_path / "outer.duckdb")) as outer:
        with ai.connect(str(tmp_path / "inner.duckdb")) as inner:
            assert ai.app() is inner
        assert ai.app() is outer


def test_connecting_without_a_path_uses_the_variable(tmp_path: Path):
    with ai.connect() as app:
        assert app.ledger.path == str(tmp_path / "ledger.duckdb")


def test_closing_twice_is_harmless_and_a_closed_app_is_not_current(tmp_path: Path):
    app = ai.connect(":memory:")
    app.close()
    app.close()
    assert ai.app() is not app
    ai.app().close()


def test_memory_keeps_nothing(endpoint: Endpoint, tmp_path: Path):
    with ai.connect(":memory:", model="openai:gpt-4o-mini"):
        ai.generate("hello")
        assert len(ai.ledger.calls()) == 1
    assert list(tmp_path.iterdir()) == []


def test_from_many_threads(app: ai.App, endpoint: Endpoint):
    replies: list[str] = []
    threads = [threading.Thread(target=lambda n=n: replies.append(ai.generate(f"from {n}").text)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(replies) == sorted(f"echo: from {n}" for n in range(16))


def test_async_from_loops_that_come_and_go(app: ai.App):
    async def ask(n: int) -> list[str]:
        return [reply.text for reply in await asyncio.gather(*(ai.agenerate(f"{n} {k}") for k in range(4)))]

    for n in range(3):
        assert asyncio.run(ask(n)) == [f"echo: {n} {k}" for k in range(4)]


def test_async_streams(app: ai.App):
    async def read() -> tuple[str, ai.Reply]:
        stream = ai.stream("one two three")
        text = "".join([piece async for piece in stream])
        return text, stream.reply

    text, reply = asyncio.run(read())
    assert text == reply.text == "echo: one two three"


def test_a_sync_call_inside_a_running_loop_works(app: ai.App):
    async def cell() -> str:
        return ai.generate("in a cell with a loop").text

    assert asyncio.run(cell()) == "echo: in a cell with a loop"


def test_a_sync_call_on_the_background_loop_raises(app: ai.App):
    async def action() -> None:
        ai.generate("would wait for itself")

    with pytest.raises(errors.DeadlockError, match="blocking call") as caught:
        app.run(action())
    assert "agenerate" in caught.value.cure


def test_a_stream_left_early_stops_the_provider(app: ai.App, endpoint: Endpoint):
    endpoint.reply(Answer("a b c d e f g h", token_delay=0.05))
    for _ in ai.stream("many"):
        break
    endpoint.wait(lambda e: e.disconnects == 1, timeout=5)
    rows = app.ledger.calls().fetchall()
    assert [row[5] for row in rows] == ["canceled"]


def test_reply_shows_itself(app: ai.App):
    reply = ai.generate("hello")
    bundle = reply._repr_mimebundle_()
    assert bundle["text/plain"] == "echo: hello"
    assert "gpt-4o-mini" in html.unescape(bundle["text/markdown"])
    assert str(reply) == "echo: hello"


def test_doctor_says_what_is_used_and_shows_no_key(app: ai.App):
    ai.generate("hello")
    report = ai.doctor()
    assert "openai:gpt-4o-mini" in report
    assert "1 ok" in report
    assert "sk-test" not in report


def test_a_process_that_ends_without_closing_leaves_everything(endpoint: Endpoint, tmp_path: Path):
    """No close, no with: exit flushes, warns of nothing, and the open stream is settled with what came."""
    endpoint.reply(["hello to you", Answer("a long story", token_delay=5)])
    script = """
        import ipyconvexai as ai
        ai.generate("hello", model="openai:gpt-4o-mini")
        client = ai.OpenAI()
        stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
        next(stream)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
    with ai.connect() as app:
        assert [row[5] for row in app.ledger.calls()] == ["canceled", "ok"]


def test_errors_are_one_block_with_the_users_line(app: ai.App):
    try:
        ai.generate("  ")
    except errors.Error as error:
        block = "\n".join(error._render_traceback_())
    assert block.startswith("EmptyPromptError: the prompt is empty")
    assert "test_application.py" in block
    assert "generation.py" not in block
