"""The life of an app, and the bridge between sync and async code."""

from __future__ import annotations

import asyncio
import html
import inspect
import threading
from pathlib import Path
from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.testing import Answer, Endpoint, Fault


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


def test_errors_are_one_block_with_the_users_line(app: ai.App):
    try:
        ai.generate("  ")
    except errors.Error as error:
        block = "\n".join(error._render_traceback_())
    assert block.startswith("EmptyPromptError: the prompt is empty")
    assert "test_application.py" in block
    assert "generation.py" not in block


def test_running_the_connect_cell_again_piles_nothing_up(tmp_path: Path, endpoint: Endpoint):
    before = threading.active_count()
    for _ in range(4):
        app = ai.connect(str(tmp_path / "same.duckdb"), model="openai:gpt-4o-mini")
        ai.generate("hello")
        alive = threading.active_count() - before
    assert alive <= 2 * 10, "the last two"
    assert len(app.ledger.calls()) == 4
    while ai.app().ledger.path == app.ledger.path:
        ai.app().close()


def test_a_stream_that_was_left_or_failed_says_so(app: ai.App, endpoint: Endpoint):
    endpoint.reply([Answer("a b c", token_delay=0.05), Answer("a b c", cut_after=1)])
    stream = ai.stream("left")
    for _ in stream:
        break
    with pytest.raises(errors.CanceledError, match="left before its end"):
        _ = stream.reply
    stream = ai.stream("cut")
    with pytest.raises(errors.StreamCutError):
        list(stream)
    with pytest.raises(errors.StreamCutError):
        _ = stream.reply
    assert stream.text == "a"


def test_after_close_everything_says_so(endpoint: Endpoint, tmp_path: Path):
    app = ai.connect(str(tmp_path / "l.duckdb"), model="openai:gpt-4o-mini")
    app.generate("hello")
    app.close()
    with pytest.raises(errors.ConfigurationError, match="was closed"):
        app.generate("hello")
    with pytest.raises(errors.ClosedError, match="is closed"):
        app.ledger.calls()


def test_closing_while_a_thread_waits(app: ai.App, endpoint: Endpoint):
    endpoint.reply(Answer("late", delay=30))
    seen: list[BaseException] = []

    def wait() -> None:
        try:
            ai.generate("slow")
        except BaseException as error:
            seen.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    endpoint.wait(lambda e: e.in_flight == 1)
    app.close()
    thread.join()
    assert [type(error) for error in seen] == [errors.CanceledError]


def test_any_address_can_be_asked(app: ai.App, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAB_KEY", "sk-lab-0123456789abcdef")
    with Endpoint(key="sk-lab-0123456789abcdef") as lab:
        reply = ai.generate("hello", model="my-model", base_url=lab.url, key_variable="LAB_KEY")
        assert reply.text == "echo: hello"
        assert lab.calls[0].body["model"] == "my-model"
        with pytest.raises(errors.AuthenticationError):
            ai.generate("hello", model="my-model", base_url=lab.url)
        with pytest.raises(errors.MissingKeyError, match="NO_SUCH_KEY"):
            ai.generate("hello", model="my-model", base_url=lab.url, key_variable="NO_SUCH_KEY")


@pytest.mark.parametrize(
    "options", [{"stream": True}, {"timeout": "5"}, {"timeout": 0}, {"budget": 3}, {"foo": {1, 2}}], ids=str
)
def test_wrong_options_send_nothing(app: ai.App, endpoint: Endpoint, options: dict[str, Any]):
    with pytest.raises(errors.InputError):
        ai.generate("hello", **options)
    with pytest.raises(errors.EmptyPromptError):
        ai.generate([{"role": "user", "content": " "}])
    assert endpoint.count == 0


def test_twins_show_the_arguments():
    for twin in (ai.agenerate, ai.stream, ai.safe_generate, ai.asafe_generate):
        assert inspect.signature(twin) == inspect.signature(ai.generate)
    assert set(inspect.signature(ai.summarize).parameters) - set(inspect.signature(ai.asummarize).parameters) == {
        "progress"
    }
    assert "temperature" not in inspect.signature(ai.OpenAI).parameters
    assert "max_retries" in inspect.signature(ai.OpenAI).parameters


def test_a_failed_first_question_begins_no_conversation(app: ai.App, endpoint: Endpoint):
    endpoint.reply([Fault(400), "fine"])
    with pytest.raises(errors.ProviderError):
        ai.generate("one", conversation="mine")
    assert app.ledger.sql("SELECT count(*) FROM conversations").fetchall() == [(0,)]
    reply = ai.generate("two", conversation="mine")
    assert app.ledger.sql("SELECT id::VARCHAR, title FROM conversations").fetchall() == [
        (reply.conversation_id, "mine")
    ]
    assert app.ledger.sql("SELECT role, content FROM messages ORDER BY id").fetchall() == [
        ("user", "two"),
        ("assistant", "fine"),
    ]


@pytest.mark.parametrize(
    "options",
    [{"retries": -1}, {"timeout": 0}, {"model": 5}, {"path": 5}, {"record": "some"}, {"replay": "maybe"}],
    ids=str,
)
def test_wrong_settings_are_found_at_once(options: dict[str, Any]):
    with pytest.raises(errors.InputError):
        ai.connect(**options)


def test_a_path_object_is_a_path(tmp_path: Path):
    with ai.connect(tmp_path / "my ledger.duckdb") as app:
        assert app.ledger.path == str(tmp_path / "my ledger.duckdb")
