"""The replies of a conversation: one at a time, each written while it comes. Written with the public layer only.

A reply's row is there from the start: pending ─ streaming ─ done | failed | canceled. ``generate_response`` takes the
oldest pending one, if none is being written, and has the next one begun when it is over. A reply that may call tools
of a process waits with the session of that process, which begins it; while calls are not over no reply is begun.
Promises: a reply is asked for once, also where its process is killed; it never stays half way; one that waits is begun
by whoever ends the one before.
"""

from __future__ import annotations

import json
from typing import Any

import ipyconvexai as ai
from ipyconvexai.actions.calls import DENIED, OPEN, STOPPED, calls_of, open_calls
from ipyconvexai.actions.messages import CONTEXT_TOKENS, load_prompt, owned

__all__ = [
    "after_calls",
    "begin_next",
    "begin_response",
    "generate_response",
    "load_tool_options",
    "reply_later",
    "save_response",
    "skip_waiting",
    "stop_calls",
]

MOST_ROUNDS = 10  # of calls after one own message; then the model must answer
MOST_CALLS = 16  # of one reply; more are not heard

LEAST_TOKENS = 500  # of a prompt that did not fit a model
# The row of a reply whose process was killed is failed. What is begun again is the turn: the next reply waits for it.
WHEN_KILLED = ai.Retry(attempts=5, not_on=Exception)

_MODEL = """
SELECT c.model FROM conversations c JOIN messages m ON m.conversation_id = c.id WHERE m.id = ?::UUID
"""
_OPEN = """
SELECT id::VARCHAR AS id, status, session_id::VARCHAR AS session_id FROM messages
WHERE conversation_id = ?::UUID AND role = 'assistant' AND status IN ('pending', 'streaming') ORDER BY created_at, id
"""
_ROUNDS = """
SELECT count(DISTINCT json_extract_string(tool_call, '$.reply')) AS rounds FROM messages
WHERE conversation_id = $conversation::UUID AND role = 'tool' AND (created_at, id) > (
    SELECT max((created_at, id)) FROM messages WHERE conversation_id = $conversation::UUID AND role = 'user')
"""


def reply_later(ctx: Any, conversation_id: str) -> str:
    """Have a reply written as soon as its turn comes; gives its id. Where this process has tools for it, it does."""
    here = ctx.session_id if ctx.tools(conversation_id) else None
    reply = ai.Message(conversation_id=conversation_id, role="assistant", status="pending", session_id=here)
    reply_id = str(ctx.db.insert(reply))
    if here is None:
        ctx.scheduler.run_after(0, generate_response, conversation_id=conversation_id)
    return reply_id


@ai.mutation(name="ai.begin_response", internal=True)
def begin_response(ctx: Any, conversation_id: ai.Id[ai.Conversation]) -> ai.Id[ai.Message] | None:
    """Take the oldest reply that waits; None where there is none, or another one is being written."""
    owned(ctx, conversation_id)
    replies = ctx.db.sql(_OPEN, [conversation_id])
    if not replies or any(reply["status"] == "streaming" for reply in replies) or open_calls(ctx, conversation_id):
        return None
    if replies[0]["session_id"] not in (None, ctx.session_id):  # it may call tools of that process
        return None
    first: str = replies[0]["id"]
    ctx.db.patch(first, status="streaming", session_id=ctx.session_id)
    return first


@ai.query(name="ai.load_model", internal=True)
def load_model(ctx: Any, message_id: ai.Id[ai.Message]) -> str | None:
    """Which model writes the reply; None: the default."""
    found = ctx.db.sql(_MODEL, [message_id])
    return found[0]["model"] if found else None


@ai.mutation(name="ai.begin_next", internal=True)
def begin_next(ctx: Any, conversation_id: ai.Id[ai.Conversation]) -> None:
    """If a reply waits, have it begun."""
    if ctx.db.sql(_OPEN, [conversation_id]):
        ctx.scheduler.run_after(0, generate_response, conversation_id=conversation_id)


@ai.mutation(name="ai.save_response", internal=True)
def save_response(
    ctx: Any,
    message_id: ai.Id[ai.Message],
    content: str,
    finish_reason: str | None = None,
    request_id: str | None = None,
    tool_calls: list[dict[str, str]] | None = None,
) -> None:
    """Save a whole reply with the calls that it wants, and have the next one begun, in one transaction.

    `content` may be empty: the model called a tool, or refused. `finish_reason` is "length" where it was cut.
    `tool_calls`: ``id``, ``name`` and ``arguments`` (JSON) of each. Where this process has tools for the conversation
    they become messages: those that are safe run at once, others ask first.
    """
    reply = ctx.db.get(ai.Message, message_id)
    status = "canceled" if reply.status == "canceled" else "done"
    ctx.db.patch(
        message_id,
        content=content,
        status=status,
        finish_reason=finish_reason,
        request_id=request_id,
        session_id=None,
    )
    if tool_calls and status == "done" and _may_call(ctx, reply.conversation_id):
        for call in tool_calls[:MOST_CALLS]:
            _insert_call(ctx, reply, call)
        after_calls(ctx, reply.conversation_id, message_id)
    else:
        ctx.run_mutation(begin_next, conversation_id=reply.conversation_id)


def _may_call(ctx: Any, conversation_id: str) -> bool:
    return bool(ctx.tools(conversation_id)) and _rounds(ctx, conversation_id) < MOST_ROUNDS


def _rounds(ctx: Any, conversation_id: str) -> int:
    """Replies that called tools since the last own message."""
    return int(ctx.db.sql(_ROUNDS, {"conversation": conversation_id})[0]["rounds"])


def _insert_call(ctx: Any, reply: ai.Message, call: dict[str, str]) -> None:
    tools = ctx.tools(reply.conversation_id)
    name, safe = call["name"], tools.is_safe(call["name"])
    problem = tools.problem(name, call["arguments"])
    made = ai.Message(
        conversation_id=reply.conversation_id,
        role="tool",
        status="failed" if problem else "pending" if safe else "waiting",
        tool_call=json.dumps({**call, "safe": safe, "reply": reply._id}),
        error_code="invalid_call" if problem else None,
        error_message=problem,
        session_id=ctx.session_id if safe and not problem else None,
    )
    ctx.db.insert(made)


def after_calls(ctx: Any, conversation_id: str, reply_id: str) -> None:
    """When all calls of a reply are over: have the model told, by the reply that waits already or by a new one."""
    calls = calls_of(ctx, conversation_id, reply_id)
    if any(call.status in OPEN for call in calls):
        return
    if calls and not ctx.db.sql(_OPEN, [conversation_id]):
        reply_later(ctx, conversation_id)
    else:
        ctx.run_mutation(begin_next, conversation_id=conversation_id)


def stop_calls(ctx: Any, conversation_id: str) -> None:
    """Stop all calls of a conversation that are not over; the model is not asked further."""
    for call in open_calls(ctx, conversation_id):
        why = f"stopped by {ctx.user_id}"
        ctx.db.patch(call["id"], status="canceled", error_code=STOPPED, error_message=why, session_id=None)
    ctx.run_mutation(begin_next, conversation_id=conversation_id)


def skip_waiting(ctx: Any, conversation_id: str) -> None:
    """Somebody says something else instead of allowing the calls that wait: they are not run."""
    for call in open_calls(ctx, conversation_id):
        if call["status"] == "waiting":
            ctx.db.patch(call["id"], status="canceled", error_code=DENIED, error_message="The user went on without it.")


@ai.query(name="ai.load_tool_options", internal=True)
def load_tool_options(ctx: Any, conversation_id: ai.Id[ai.Conversation]) -> dict[str, Any]:
    """What a reply is asked with, where this process has tools for its conversation."""
    tools = ctx.tools(conversation_id)
    if not tools:
        return {}
    # Those that it called are told of all the same: some providers refuse results of tools that they do not know.
    enough = _rounds(ctx, conversation_id) >= MOST_ROUNDS
    return {"tools": tools.declared} | ({"tool_choice": "none"} if enough else {})


@ai.action(name="ai.generate_response", internal=True, retry=WHEN_KILLED)
async def generate_response(ctx: Any, conversation_id: ai.Id[ai.Conversation]) -> str:
    """Ask the model for the reply whose turn it is; gives its text, "" where it is none's."""
    message_id = await ctx.run_mutation(begin_response, conversation_id=conversation_id)
    if message_id is None:
        return ""
    out = ctx.stream(message_id, save=save_response)
    try:
        async with out:
            options = await ctx.run_query(load_tool_options, conversation_id=conversation_id)
            reply = await _ask(ctx, out, message_id, options)
    except ai.errors.CanceledError:  # as somebody wished: cancel_response
        await ctx.run_mutation(begin_next, conversation_id=conversation_id)
        return str(out.text)
    except BaseException:
        await ctx.run_mutation(begin_next, conversation_id=conversation_id)
        raise
    return reply.text


async def _ask(ctx: Any, out: Any, message_id: str, options: dict[str, Any]) -> ai.Reply:
    """The answer, with as much of the conversation as the model takes."""
    tokens = CONTEXT_TOKENS
    model = await ctx.run_query(load_model, message_id=message_id)
    while True:
        prompt = await ctx.run_query(load_prompt, message_id=message_id, max_tokens=tokens)
        try:
            reply: ai.Reply = await out.generate(prompt, model=model, **options)
        except ai.errors.ContextLengthError:
            tokens //= 2
            if tokens < LEAST_TOKENS or len(prompt) == 1:
                raise
        else:
            return reply
