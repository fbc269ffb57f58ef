"""The guide's examples, translated word by word (``naive_``), and what is wrong in them; ours beside them is right.

Convex, "OpenAI, actions, streaming and AI patterns with database integration".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

import ipyconvexai as ai
from ipyconvexai.actions import (
    cancel_response,
    check_rate_limit,
    generate_response,
    generate_text,
    generate_with_rate_limit,
    load_messages,
    replies,
    safe_generate,
    send_message,
    start_conversation,
)
from ipyconvexai.functions.outside import public
from ipyconvexai.functions.registry import ACTION_LIMIT, of
from ipyconvexai.testing import Answer, Endpoint, Fault, Stall, ToolCall
from tests.functions.talking import act_as, finished, mutate_as, over, query_as, row, shown, streaming
from tests.store.helpers import child, finish, wait_for

TEN_PER_MINUTE = 10


async def nothing() -> None: ...


class Naive:
    """Where a test puts itself between two steps of an example, or lets one of them fail."""

    after_check: Callable[[], Awaitable[Any]] = staticmethod(nothing)
    save: Callable[[], None] = staticmethod(lambda: None)


class NaiveRequest(ai.Table):
    user_id: str

    by_user = ai.Index("user_id")


class NaiveMessage(ai.Table):
    conversation_id: ai.Id[ai.Conversation]
    role: str
    content: str

    by_conversation = ai.Index("conversation_id")


@ai.query(internal=True)
def naive_check_rate_limit(ctx: Any) -> bool:
    if not ctx.user_id:
        return False
    return len(ctx.db.query(NaiveRequest).with_index("by_user", user_id=ctx.user_id).collect()) < TEN_PER_MINUTE


@ai.mutation(internal=True)
def naive_record_request(ctx: Any) -> None:
    ctx.db.insert(NaiveRequest(user_id=ctx.user_id))


@ai.action
async def naive_generate_with_rate_limit(ctx: Any, prompt: str) -> str:
    if not await ctx.run_query(naive_check_rate_limit):
        raise RuntimeError("Rate limit exceeded")
    await Naive.after_check()
    await ctx.run_mutation(naive_record_request)
    response = await ctx.openai.chat.completions.create(model=ctx.model, messages=[{"role": "user", "content": prompt}])
    return response.choices[0].message.content or ""


@ai.query(internal=True)
def naive_load_messages(ctx: Any, conversation_id: ai.Id[ai.Conversation]) -> list[dict[str, str]]:
    found = ctx.db.query(NaiveMessage).with_index("by_conversation", conversation_id=conversation_id)
    return [{"role": message.role, "content": message.content} for message in found.order("asc").take(50)]


@ai.mutation(internal=True)
def naive_save_response(ctx: Any, conversation_id: ai.Id[ai.Conversation], content: str) -> None:
    Naive.save()
    ctx.db.insert(NaiveMessage(conversation_id=conversation_id, role="assistant", content=content))


@ai.action
async def naive_generate_response(ctx: Any, conversation_id: ai.Id[ai.Conversation]) -> None:
    messages = await ctx.run_query(naive_load_messages, conversation_id=conversation_id)
    response = await ctx.openai.chat.completions.create(model=ctx.model, messages=messages)
    content = response.choices[0].message.content
    if not content:
        raise RuntimeError("No content in OpenAI response")
    await ctx.run_mutation(naive_save_response, conversation_id=conversation_id, content=content)


@ai.mutation
def naive_send_message(ctx: Any, conversation_id: ai.Id[ai.Conversation], content: str) -> None:
    ctx.db.insert(NaiveMessage(conversation_id=conversation_id, role="user", content=content))
    ctx.scheduler.run_after(0, naive_generate_response, conversation_id=conversation_id)


@ai.action
async def naive_safe_generate(ctx: Any, prompt: str) -> dict[str, Any]:
    try:
        response = await ctx.openai.chat.completions.create(
            model=ctx.model, messages=[{"role": "user", "content": prompt}]
        )
        return {"success": True, "text": response.choices[0].message.content or ""}
    except Exception as error:
        return {"success": False, "error": str(error)}


@ai.mutation
def fill(ctx: Any, conversation_id: ai.Id[ai.Conversation], number: int) -> None:
    """Messages 1, 2, ... in both tables."""
    for count in range(1, number + 1):
        words: dict[str, Any] = {"role": "user" if count % 2 else "assistant", "content": f"message {count}"}
        ctx.db.insert(ai.Message(conversation_id=conversation_id, **words))
        ctx.db.insert(NaiveMessage(conversation_id=conversation_id, **words))


@pytest.fixture
def conversation(app: ai.App):
    return ai.run(start_conversation, title="a talk")


@pytest.fixture
def nobody(endpoint: Endpoint, tmp_path: Path) -> Iterator[ai.App]:
    """An app whose user is not known."""
    with ai.connect(str(tmp_path / "ledger.duckdb"), model="openai:gpt-4o-mini", user="") as opened:
        yield opened


def naive_messages(app: ai.App) -> list[str]:
    return [content for (content,) in app.store.read('SELECT content FROM "NaiveMessage" ORDER BY _creation_time, _id')]


def sent(endpoint: Endpoint, number: int) -> list[str]:
    """The contents of the messages of a request."""
    return [message["content"] for message in endpoint.calls[number].body["messages"]]


# ------------------------------------------------------------------- 1: check and record are two transactions
def outcomes(fn: Any, number: int) -> list[Any]:
    def one(count: int) -> Any:
        try:
            return ai.run(fn, prompt=f"question {count}")
        except Exception as error:
            return error

    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(one, range(number)))


def test_1_of_25_at_once_all_pass_the_guides_limit_of_10(
    app: ai.App, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
):
    together = asyncio.Barrier(25)
    monkeypatch.setattr(Naive, "after_check", staticmethod(together.wait))
    assert all(isinstance(outcome, str) for outcome in outcomes(naive_generate_with_rate_limit, 25))
    assert endpoint.count == 25


def test_1_of_25_at_once_exactly_10_pass_ours(app: ai.App, endpoint: Endpoint):
    found = outcomes(generate_with_rate_limit, 25)
    refused = [outcome for outcome in found if isinstance(outcome, ai.errors.LimitError)]
    assert len(refused) == 15
    assert sum(isinstance(outcome, str) for outcome in found) == endpoint.count == 10


# ------------------------------------------------------------------- 2: the oldest 50
def test_2_the_guide_never_sends_the_new_question(app: ai.App, endpoint: Endpoint, conversation: str):
    ai.run(fill, conversation_id=conversation, number=60)
    ai.run(naive_send_message, conversation_id=conversation, content="the new question")
    endpoint.wait(lambda double: double.count == 1)
    assert sent(endpoint, 0) == [f"message {count}" for count in range(1, 51)]


def test_2_ours_sends_the_newest_oldest_first(app: ai.App, endpoint: Endpoint, conversation: str):
    ai.run(fill, conversation_id=conversation, number=60)
    over(app, ai.run(send_message, conversation_id=conversation, content="the new question"))
    # 50 of them, of which the first would be an answer without its question.
    assert sent(endpoint, 0) == [*(f"message {count}" for count in range(13, 61)), "the new question"]


def test_2_as_many_go_along_as_fit_and_always_the_newest(app: ai.App, conversation: str):
    ai.run(fill, conversation_id=conversation, number=6)

    def contents(**limits: Any) -> list[str | None]:
        return [message.content for message in ai.run(load_messages, conversation_id=conversation, **limits)]

    assert contents(limit=2) == ["message 5", "message 6"]
    assert contents(max_tokens=18) == ["message 4", "message 5", "message 6"]
    assert contents(max_tokens=17) == ["message 5", "message 6"]
    assert contents(max_tokens=0) == ["message 6"]


# ------------------------------------------------------------------- 3: anybody may call the reply
def test_3_in_the_guide_anybody_may_have_any_conversation_answered(app: ai.App, endpoint: Endpoint, conversation: str):
    ai.run(naive_send_message, conversation_id=conversation, content="mine")
    endpoint.wait(lambda double: double.count == 1)
    assert public("naive_generate_response").name == "naive_generate_response"
    act_as(app, "eve", naive_generate_response, conversation_id=conversation)
    assert endpoint.count == 2


def test_3_ours_is_internal_and_for_the_owner(app: ai.App, endpoint: Endpoint, conversation: str):
    with pytest.raises(ai.errors.NotAllowedError, match="internal"):
        public("generate_response")
    reply = ai.run(send_message, conversation_id=conversation, content="mine")
    over(app, reply)
    for call, fn, args in (
        (act_as, generate_response, {"conversation_id": conversation}),
        (query_as, load_messages, {"conversation_id": conversation}),
        (mutate_as, send_message, {"conversation_id": conversation, "content": "hers"}),
        (mutate_as, cancel_response, {"message_id": reply}),
    ):
        with pytest.raises(ai.errors.NotFoundError):
            call(app, "eve", fn, **args)
    assert endpoint.count == 1
    assert len(shown(conversation)) == 2


# ------------------------------------------------------------------- 4: not signed in is "rate limit exceeded"
def test_4_the_guide_tells_who_is_not_signed_in_of_a_limit(nobody: ai.App):
    with pytest.raises(RuntimeError, match="Rate limit exceeded"):
        ai.run(naive_generate_with_rate_limit, prompt="x")


def test_4_ours_says_what_it_is(nobody: ai.App, endpoint: Endpoint):
    calls: list[tuple[Any, dict[str, Any]]] = [
        (generate_with_rate_limit, {"prompt": "x"}),
        (check_rate_limit, {}),
        (start_conversation, {"title": "x"}),
    ]
    for fn, args in calls:
        with pytest.raises(ai.Unauthenticated):
            ai.run(fn, **args)
    assert endpoint.count == 0


# ------------------------------------------------------------------- 5: no retry_after; failed calls are charged
def test_5_the_guide_says_not_when_and_charges_failed_calls(app: ai.App, endpoint: Endpoint):
    endpoint.reply(Fault(400))
    for _ in range(TEN_PER_MINUTE):
        with pytest.raises(openai.BadRequestError):
            ai.run(naive_generate_with_rate_limit, prompt="x")
    endpoint.reply("fine again")
    with pytest.raises(RuntimeError, match="exceeded") as refused:
        ai.run(naive_generate_with_rate_limit, prompt="x")
    assert not hasattr(refused.value, "retry_after")


def test_5_ours_says_when_and_gives_back_what_failed(app: ai.App, endpoint: Endpoint):
    endpoint.reply(Fault(400))
    for _ in range(TEN_PER_MINUTE):
        with pytest.raises(ai.errors.ProviderError):
            ai.run(generate_with_rate_limit, prompt="x")
    assert ai.run(check_rate_limit) == {"allowed": True, "left": 10, "retry_after": None}
    endpoint.reply("fine again")
    for _ in range(TEN_PER_MINUTE):
        assert ai.run(generate_with_rate_limit, prompt="x") == "fine again"
    with pytest.raises(ai.errors.LimitError) as refused:
        ai.run(generate_with_rate_limit, prompt="x")
    assert 0 < (refused.value.retry_after or 0) <= 60
    assert refused.value.retryable
    assert not ai.run(check_rate_limit)["allowed"]


# ------------------------------------------------------------------- 6: failures are invisible, answers are lost
def test_6_in_the_guide_a_failed_reply_leaves_no_trace(app: ai.App, endpoint: Endpoint, conversation: str):
    endpoint.reply(Fault(400))
    ai.run(naive_send_message, conversation_id=conversation, content="hello")
    finished(app, "naive_generate_response", 1)
    assert naive_messages(app) == ["hello"]


def test_6_ours_has_a_row_from_the_start_that_says_how_it_went(app: ai.App, endpoint: Endpoint, conversation: str):
    endpoint.reply(Fault(400, message="no such thing"))
    endpoint.hold()
    reply = ai.run(send_message, conversation_id=conversation, content="hello")
    assert [message.role for message in shown(conversation)] == ["user", "assistant"]
    assert row(app, reply)["status"] in ("pending", "streaming")
    endpoint.release()
    found = over(app, reply)
    assert (found["status"], found["error_code"]) == ("failed", "invalid_request_error")
    assert "no such thing" in found["error_message"]
    assert app.store.read("SELECT status FROM calls WHERE id = ?", [found["request_id"]]) == [("error",)]
    assert finished(app, "ai.generate_response", 1) == [("failed", "invalid_request_error")]


def fail() -> None:
    raise RuntimeError("the cupboard is locked")


@ai.mutation(internal=True)
def save_nothing(
    ctx: Any, message_id: ai.Id[ai.Message], content: str, finish_reason: str | None, request_id: str | None
) -> None:
    ctx.db.patch(message_id, content="half of it")
    fail()


def test_6_in_the_guide_a_save_that_fails_loses_the_answer(
    app: ai.App, endpoint: Endpoint, conversation: str, monkeypatch: pytest.MonkeyPatch
):
    endpoint.reply("paid for")
    monkeypatch.setattr(Naive, "save", staticmethod(fail))
    ai.run(naive_send_message, conversation_id=conversation, content="hello")
    finished(app, "naive_generate_response", 1)
    assert naive_messages(app) == ["hello"]


def test_6_ours_keeps_it_with_the_reason(
    app: ai.App, endpoint: Endpoint, conversation: str, monkeypatch: pytest.MonkeyPatch
):
    endpoint.reply("paid for")
    monkeypatch.setattr(replies, "save_response", save_nothing)
    found = over(app, ai.run(send_message, conversation_id=conversation, content="hello"))
    assert (found["status"], found["content"]) == ("failed", "paid for")
    assert "the cupboard is locked" in found["error_message"]
    assert app.store.read("SELECT text FROM calls WHERE id = ?", [found["request_id"]]) == [("paid for",)]
    assert app.store.read("SELECT count(*) FROM message_deltas") == [(0,)]


# ------------------------------------------------------------------- 7: two quick sends, two answers at once
def test_7_the_guide_answers_two_quick_messages_at_once(app: ai.App, endpoint: Endpoint, conversation: str):
    endpoint.hold()
    ai.run(naive_send_message, conversation_id=conversation, content="first")
    ai.run(naive_send_message, conversation_id=conversation, content="second")
    endpoint.wait(lambda double: double.in_flight == 2)
    assert sent(endpoint, 1)[:2] == ["first", "second"]
    endpoint.release()
    finished(app, "naive_generate_response", 2)


def test_7_ours_answers_one_after_the_other(app: ai.App, endpoint: Endpoint, conversation: str):
    endpoint.hold()
    one = ai.run(send_message, conversation_id=conversation, content="first")
    endpoint.wait(lambda double: double.in_flight == 1)
    two = ai.run(send_message, conversation_id=conversation, content="second")
    finished(app, "ai.generate_response", 1)  # the second one's: it is not its turn
    assert (endpoint.count, row(app, two)["status"]) == (1, "pending")
    endpoint.release()
    assert over(app, one)["content"] == "echo: first"
    assert over(app, two)["content"] == "echo: second"
    assert (sent(endpoint, 0), sent(endpoint, 1)) == (["first"], ["first", "echo: first", "second"])
    assert endpoint.most_in_flight == 1
    said = [message.content for message in shown(conversation)]
    assert said == ["first", "echo: first", "second", "echo: second"]


# ------------------------------------------------------------------- 8: empty answers, cut answers
def test_8_the_guide_takes_a_tool_call_for_a_failure_and_a_cut_answer_for_a_whole_one(
    app: ai.App, endpoint: Endpoint, conversation: str
):
    endpoint.reply([Answer(tool_calls=[ToolCall("look_up")]), Answer("half an ans", finish_reason="length")])
    ai.run(naive_send_message, conversation_id=conversation, content="one")
    assert finished(app, "naive_generate_response", 1) == [("failed", "RuntimeError")]
    ai.run(naive_send_message, conversation_id=conversation, content="two")
    finished(app, "naive_generate_response", 2)
    assert naive_messages(app) == ["one", "two", "half an ans"]  # and nothing says that it was cut


@pytest.mark.parametrize(
    ("answer", "content", "reason"),
    [
        (Answer(tool_calls=[ToolCall("look_up")]), "", "tool_calls"),
        (Answer(refusal="I would rather not."), "I would rather not.", "stop"),
        (Answer("", finish_reason="content_filter"), "", "content_filter"),
        (Answer("half an ans", finish_reason="length"), "half an ans", "length"),
    ],
)
def test_8_ours_keeps_what_came_and_why_it_ended(
    app: ai.App, endpoint: Endpoint, conversation: str, answer: Answer, content: str, reason: str
):
    endpoint.reply(answer)
    found = over(app, ai.run(send_message, conversation_id=conversation, content="hello"))
    assert (found["status"], found["content"], found["finish_reason"]) == ("done", content, reason)
    assert finished(app, "ai.generate_response", 1) == [("success", None)]
    safe = ai.run(safe_generate, prompt="hello")
    assert (safe["success"], safe["text"], safe["finish_reason"]) == (True, content, reason)


# ------------------------------------------------------------------- 9: time-outs that the action does not live to see
@ai.action(timeout=1.0)
async def naive_ask_patiently(ctx: Any) -> None:
    await ai.AsyncOpenAI().chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])


@ai.action(timeout=9.0)
async def ask_client(ctx: Any) -> None:
    await ctx.openai.chat.completions.create(model=ctx.model, messages=[{"role": "user", "content": "x"}])


@ai.action(timeout=9.0)
async def ask(ctx: Any) -> None:
    await ctx.generate("x")


@ai.action(timeout=9.0)
def ask_in_a_thread(ctx: Any) -> None:
    ctx.generate("x")


@ai.action
async def patience(ctx: Any) -> tuple[float, int]:
    return ctx.openai.timeout, ctx.openai.max_retries


def test_9_the_guides_client_waits_longer_than_its_action_lives(app: ai.App, endpoint: Endpoint):
    theirs: Any = openai.AsyncOpenAI(api_key="sk-none")
    assert theirs.timeout.read * (theirs.max_retries + 1) > ACTION_LIMIT
    endpoint.reply(Stall())
    with pytest.raises(ai.errors.FunctionTimeoutError):  # and nobody learns that the provider was silent
        ai.run(naive_ask_patiently)


def test_9_ours_with_all_its_attempts_fits_into_the_action(app: ai.App):
    seconds, retries = ai.run(patience)
    assert retries == app.settings.retries
    assert seconds * (retries + 1) < of(patience).timeout == ACTION_LIMIT


def test_9_ours_learns_that_the_provider_was_silent_and_asks_again(endpoint: Endpoint, tmp_path: Path):
    endpoint.reply([Stall(times=3), "at last"])
    with ai.connect(str(tmp_path / "ledger.duckdb"), model="openai:gpt-4o-mini", retries=8) as app:
        with ThreadPoolExecutor(3) as threads:  # 0.9 s for each attempt
            list(threads.map(ai.run, [ask_client, ask, ask_in_a_thread]))
        statuses = app.store.read("SELECT status, attempt FROM calls ORDER BY ALL")
    assert statuses == [("ok", 2)] * 3 + [("timeout", 1)] * 3
    assert endpoint.count == 6  # one layer repeats


# ------------------------------------------------------------------- 10: of an error only its message is left
def test_10_the_guides_failure_says_neither_what_nor_when(app: ai.App, endpoint: Endpoint):
    endpoint.reply(Fault(429, retry_after=200))
    assert set(ai.run(naive_safe_generate, prompt="x")) == {"success", "error"}


def test_10_ours_says_all(app: ai.App, endpoint: Endpoint):
    endpoint.reply([Fault(400), Fault(429, retry_after=200)])  # longer than a call waits
    assert ai.run(safe_generate, prompt="y")["retryable"] is False
    found = ai.run(safe_generate, prompt="x")
    assert (found["success"], found["retryable"], found["retry_after"]) == (False, True, 200)
    assert found["code"] == "rate_limit_exceeded"  # the provider's own word
    assert found["message"].startswith(found["error"])
    assert app.store.read("SELECT http_status FROM calls WHERE id = ?", [found["request_id"]]) == [(429,)]


# ------------------------------------------------------------------- 11: streaming is promised and missing
def test_11_of_the_guides_answer_nothing_is_seen_before_its_end(app: ai.App, endpoint: Endpoint, conversation: str):
    endpoint.reply(Answer("one two three four", cut_after=2, cut="stall"))
    ai.run(naive_send_message, conversation_id=conversation, content="hello")
    endpoint.wait(lambda double: double.in_flight == 1)
    assert endpoint.calls[0].stream is False
    assert naive_messages(app) == ["hello"]


READ_AND_STOP = """
import ipyconvexai as ai
with ai.connect(sys.argv[1]):
    print(repr([(message.content, message.status) for message in ai.run("load_messages", conversation_id=sys.argv[2])]))
    print(ai.run("cancel_response", message_id=sys.argv[3]))
"""


def test_11_ours_is_read_by_another_process_while_it_comes_and_stopped_from_there(
    app: ai.App, endpoint: Endpoint, conversation: str
):
    endpoint.reply(Answer("one two three four", cut_after=2, cut="stall"))  # no further word comes, for ever
    reply = ai.run(send_message, conversation_id=conversation, content="hello")
    streaming(app, reply, "one two")
    assert [message.content for message in shown(conversation)] == ["hello", "one two"]
    said = finish(child(READ_AND_STOP, app.store.path, conversation, reply)).split("\n")
    assert said[:2] == ["[('hello', 'done'), ('one two', 'streaming')]", "True"]
    wait_for(lambda: endpoint.disconnects == 1, "the provider to be left")
    wait_for(lambda: row(app, reply)["content"] == "one two", "the text to be kept")
    assert row(app, reply)["status"] == "canceled"
    assert app.store.read("SELECT count(*) FROM message_deltas") == [(0,)]
    assert app.store.read("SELECT status, text FROM calls") == [("canceled", "one two")]


def test_the_functions_of_the_guide_take_no_keys():
    for fn in (generate_text, safe_generate, generate_with_rate_limit):
        assert of(fn).arguments.names == ["prompt"]
