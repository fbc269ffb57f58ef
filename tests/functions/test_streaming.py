"""``ctx.stream``: what readers see while a message is written, and how it is settled, whatever happens."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai.testing import Answer, Endpoint, Fault
from tests.functions.talking import row, shown, streaming
from tests.store.helpers import wait_for


@ai.mutation
def add_message(ctx: Any, status: str = "pending"):
    found = ctx.db.query(ai.Conversation).first()
    conversation = found._id if found else ctx.db.insert(ai.Conversation(user_id=ctx.user_id))
    return ctx.db.insert(ai.Message(conversation_id=conversation, role="assistant", status=status))


@ai.mutation
def patch_message(ctx: Any, message_id: str, status: str) -> None:
    ctx.db.patch(message_id, status=status)


@ai.mutation
def delete_message(ctx: Any, message_id: str) -> None:
    ctx.db.delete(message_id)


@ai.action
async def write(ctx: Any, message_id: str, pieces: list[str]) -> None:
    async with ctx.stream(message_id) as out:
        for piece in pieces:
            await out.write(piece)


@ai.action
def write_in_a_thread(ctx: Any, message_id: str, pieces: list[str]) -> None:
    with ctx.stream(message_id) as out:
        for piece in pieces:
            out.write(piece)


@ai.action
async def ask(ctx: Any, message_id: str):
    async with ctx.stream(message_id) as out:
        return (await out.generate("hello")).text


@ai.action
def ask_in_a_thread(ctx: Any, message_id: str) -> str:
    with ctx.stream(message_id) as out:
        return str(out.generate("hello"))


@ai.action
async def ask_with_the_client(ctx: Any, message_id: str) -> None:
    async with ctx.stream(message_id) as out:
        messages = [{"role": "user", "content": "hello"}]
        async for chunk in await ctx.openai.chat.completions.create(model=ctx.model, messages=messages, stream=True):
            await out.write(chunk.choices[0].delta.content if chunk.choices else None)


@pytest.fixture
def message(app: ai.App):
    return ai.run(add_message)


def left_over(app: ai.App) -> int:
    return int(app.store.read("SELECT count(*) FROM message_deltas")[0][0])


def started(app: ai.App, fn: Any, **args: Any) -> Any:
    return app.loop.submit(app.functions.arun(fn.ai_function, args))


@pytest.mark.parametrize("fn", [write, write_in_a_thread])
def test_what_was_written_is_there_at_the_end(app: ai.App, message: str, fn: Any):
    ai.run(fn, message_id=message, pieces=["so ", "", "far", " 猫"])
    assert (row(app, message)["status"], row(app, message)["content"]) == ("done", "so far 猫")
    assert left_over(app) == 0


@pytest.mark.parametrize("fn", [ask, ask_in_a_thread, ask_with_the_client])
def test_an_answer_is_written_while_it_comes(app: ai.App, endpoint: Endpoint, message: str, fn: Any):
    endpoint.reply(Answer("one two three", finish_reason="length"))
    ai.run(fn, message_id=message)
    found = row(app, message)
    assert (found["status"], found["content"]) == ("done", "one two three")
    if fn is not ask_with_the_client:  # who writes the pieces says what else is known: out.end(...)
        assert found["finish_reason"] == "length"
        assert app.store.read("SELECT id::VARCHAR FROM calls") == [(found["request_id"],)]
    conversation = app.store.read("SELECT conversation_id FROM messages")
    assert app.store.read("SELECT conversation_id FROM calls") == conversation
    assert left_over(app) == 0


def test_a_reader_sees_each_character_once_whenever_it_looks(app: ai.App, endpoint: Endpoint, message: str):
    text = " ".join(map(str, range(60)))
    endpoint.reply(Answer(text, token_delay=0.02))
    conversation = app.store.read("SELECT conversation_id::VARCHAR FROM messages")[0][0]
    running = started(app, ask, message_id=message)
    seen = [""]
    while not running.done():
        seen.append(shown(conversation)[0].content or "")
    assert all(text.startswith(part) for part in seen)
    assert all(len(before) <= len(after) for before, after in itertools.pairwise(seen))
    assert len(set(seen)) > 3
    assert shown(conversation)[0].content == text


@pytest.mark.parametrize("fn", [ask, ask_in_a_thread])
def test_a_failure_is_told_and_keeps_the_text(app: ai.App, endpoint: Endpoint, message: str, fn: Any):
    endpoint.reply([Answer("one two three", cut_after=2, cut="end")])
    with pytest.raises(ai.errors.StreamCutError):
        ai.run(fn, message_id=message)
    found = row(app, message)
    assert (found["status"], found["error_code"], found["content"]) == ("failed", "cut", "one two")
    assert app.store.read("SELECT id::VARCHAR, text FROM calls") == [(found["request_id"], "one two")]
    assert left_over(app) == 0


def test_it_may_be_written_anew(app: ai.App, endpoint: Endpoint, message: str):
    endpoint.reply([Fault(400), "well then"])
    with pytest.raises(ai.errors.ProviderError):
        ai.run(ask, message_id=message)
    assert row(app, message)["error_code"]
    assert ai.run(ask, message_id=message) == "well then"
    found = row(app, message)
    assert (found["status"], found["content"], found["error_code"], found["error_message"]) == (
        "done",
        "well then",
        None,
        None,
    )


# ---------------------------------------------------------------------------------------------- stopped by others
@pytest.mark.parametrize("fn", [ask, ask_with_the_client])
@pytest.mark.parametrize("change", [patch_message, delete_message])
def test_one_that_is_canceled_or_deleted_ends_at_once(
    app: ai.App, endpoint: Endpoint, message: str, fn: Any, change: Any
):
    endpoint.reply(Answer("one two three", cut_after=2, cut="stall"))  # nothing more comes
    running = started(app, fn, message_id=message)
    streaming(app, message, "one two")
    arguments: dict[str, Any] = {"status": "canceled"} if change is patch_message else {}
    ai.run(change, message_id=message, **arguments)
    with pytest.raises(ai.errors.CanceledError):
        running.result(20)
    assert left_over(app) == 0
    if change is patch_message:
        assert (row(app, message)["status"], row(app, message)["content"]) == ("canceled", "one two")
    wait_for(lambda: endpoint.disconnects == 1, "the provider to be left")


def test_in_a_thread_it_ends_with_the_next_piece(app: ai.App, message: str):
    @ai.action
    def stop_and_write(ctx: Any) -> None:
        with ctx.stream(message) as out:
            ctx.run_mutation(patch_message, message_id=message, status="canceled")
            out.write("one")

    with pytest.raises(ai.errors.CanceledError):
        ai.run(stop_and_write)
    assert (row(app, message)["status"], row(app, message)["content"]) == ("canceled", "one")
    assert left_over(app) == 0


def test_one_that_is_canceled_already_is_not_begun(app: ai.App, endpoint: Endpoint):
    message = ai.run(add_message, status="canceled")
    for fn in (ask, ask_in_a_thread):
        with pytest.raises(ai.errors.CanceledError):
            ai.run(fn, message_id=message)
    ai.run(delete_message, message_id=message)
    with pytest.raises(ai.errors.NotFoundError):
        ai.run(ask, message_id=message)
    assert endpoint.count == 0


def test_who_waits_may_go_away(app: ai.App, endpoint: Endpoint, message: str):
    endpoint.reply(Answer("one two three", cut_after=2, cut="stall"))
    running = started(app, ask, message_id=message)
    streaming(app, message, "one two")
    running.cancel()
    wait_for(lambda: row(app, message)["status"] == "canceled", "the message to be settled")
    assert row(app, message)["content"] == "one two"


# ---------------------------------------------------------------------------------------------- saved by a mutation
@ai.mutation(internal=True)
def save(ctx: Any, message_id: str, content: str, finish_reason: str | None, request_id: str | None) -> None:
    assert ctx.db.sql("SELECT count(*) AS n FROM message_deltas") == [{"n": 0}]
    ctx.db.patch(message_id, content=content.upper(), status="done", finish_reason=finish_reason)
    ctx.db.insert(ai.Document(content="saved with it"))
    if "secret" in content:
        raise ValueError("not that")


@ai.mutation(internal=True)
def save_nothing(ctx: Any, message_id: str, content: str, finish_reason: str | None, request_id: str | None) -> None:
    pass


@ai.action
async def ask_and_save(ctx: Any, message_id: str) -> None:
    async with ctx.stream(message_id, save=save) as out:
        await out.generate("hello")


@ai.action
def ask_and_save_in_a_thread(ctx: Any, message_id: str) -> None:
    with ctx.stream(message_id, save=save) as out:
        out.generate("hello")


@ai.action
async def ask_and_save_nothing(ctx: Any, message_id: str) -> None:
    async with ctx.stream(message_id, save=save_nothing) as out:
        await out.generate("hello")


@pytest.mark.parametrize("fn", [ask_and_save, ask_and_save_in_a_thread])
def test_a_mutation_saves_it_in_the_transaction_that_settles_it(app: ai.App, endpoint: Endpoint, message: str, fn: Any):
    endpoint.reply("fine")
    ai.run(fn, message_id=message)
    assert (row(app, message)["status"], row(app, message)["content"]) == ("done", "FINE")
    assert app.store.read("SELECT content FROM documents") == [("saved with it",)]
    assert left_over(app) == 0


@pytest.mark.parametrize("fn", [ask_and_save, ask_and_save_in_a_thread])
def test_a_mutation_that_fails_leaves_the_text_and_the_reason(app: ai.App, endpoint: Endpoint, message: str, fn: Any):
    endpoint.reply("a secret")
    with pytest.raises(ValueError, match="not that"):
        ai.run(fn, message_id=message)
    found = row(app, message)
    assert (found["status"], found["content"], found["error_message"]) == ("failed", "a secret", "not that")
    assert found["request_id"]
    assert app.store.read("SELECT count(*) FROM documents") == [(0,)]
    assert left_over(app) == 0


def test_a_mutation_that_forgets_it_does_not_leave_it_half_way(app: ai.App, endpoint: Endpoint, message: str):
    endpoint.reply("fine")
    ai.run(ask_and_save_nothing, message_id=message)
    assert (row(app, message)["status"], row(app, message)["content"]) == ("done", "fine")


# ---------------------------------------------------------------------------------------------- what is not kept
@pytest.fixture
def forgetful(endpoint: Endpoint, tmp_path: Path) -> Iterator[ai.App]:
    with ai.connect(str(tmp_path / "ledger.duckdb"), model="openai:gpt-4o-mini", record="metadata") as opened:
        yield opened


def test_where_no_content_is_kept_no_message_is_written(forgetful: ai.App, endpoint: Endpoint):
    message = ai.run(add_message)
    with pytest.raises(ai.errors.InputError, match="metadata"):
        ai.run(ask, message_id=message)
    assert endpoint.count == 0
    assert left_over(forgetful) == 0


def test_keys_are_not_written_down(app: ai.App, message: str):
    key = "sk-test-0123456789abcdef"
    ai.run(write, message_id=message, pieces=[f"the key is {key}!"])
    assert row(app, message)["content"] == "the key is ***!"


def test_a_silent_stream_is_saved_without_a_further_word(app: ai.App, message: str):
    @ai.action
    async def write_and_wait(ctx: Any) -> None:
        async with ctx.stream(message) as out:
            for piece in ("one", " two", " three"):
                await out.write(piece)
            await asyncio.Event().wait()

    running = started(app, write_and_wait)
    streaming(app, message, "one two three")
    running.cancel()
    wait_for(lambda: row(app, message)["status"] == "canceled", "the message to be settled")
