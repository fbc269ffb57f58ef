"""The replies of a conversation: one at a time, each written while it comes. Written with the public layer only.

A reply's row is there from the start: pending ─ streaming ─ done | failed | canceled. ``generate_response`` takes the
oldest pending one, if none is being written, and has the next one begun when it is over. Promises: a reply is asked for
once, also where its process is killed; it never stays half way; one that waits is begun by whoever ends the one before.
"""

from __future__ import annotations

from typing import Any

import ipyconvexai as ai
from ipyconvexai.actions.messages import CONTEXT_TOKENS, load_prompt, owned

__all__ = ["begin_next", "begin_response", "generate_response", "save_response"]

LEAST_TOKENS = 500  # of a prompt that did not fit a model
# The row of a reply whose process was killed is failed. What is begun again is the turn: the next reply waits for it.
WHEN_KILLED = ai.Retry(attempts=5, not_on=Exception)

_MODEL = """
SELECT c.model FROM conversations c JOIN messages m ON m.conversation_id = c.id WHERE m.id = ?::UUID
"""
_OPEN = """
SELECT id::VARCHAR AS id, status FROM messages
WHERE conversation_id = ?::UUID AND status IN ('pending', 'streaming') ORDER BY created_at, id
"""


@ai.mutation(name="ai.begin_response", internal=True)
def begin_response(ctx: Any, conversation_id: ai.Id[ai.Conversation]) -> ai.Id[ai.Message] | None:
    """Take the oldest reply that waits; None where there is none, or another one is being written."""
    owned(ctx, conversation_id)
    replies = ctx.db.sql(_OPEN, [conversation_id])
    if not replies or any(reply["status"] == "streaming" for reply in replies):
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
) -> None:
    """Save a whole reply, and have the next one begun, in one transaction.

    `content` may be empty: the model called a tool, or refused. `finish_reason` is "length" where it was cut.
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
    ctx.run_mutation(begin_next, conversation_id=reply.conversation_id)


@ai.action(name="ai.generate_response", internal=True, retry=WHEN_KILLED)
async def generate_response(ctx: Any, conversation_id: ai.Id[ai.Conversation]) -> str:
    """Ask the model for the reply whose turn it is; gives its text, "" where it is none's."""
    message_id = await ctx.run_mutation(begin_response, conversation_id=conversation_id)
    if message_id is None:
        return ""
    out = ctx.stream(message_id, save=save_response)
    try:
        async with out:
            reply = await _ask(ctx, out, message_id)
    except ai.errors.CanceledError:  # as somebody wished: cancel_response
        await ctx.run_mutation(begin_next, conversation_id=conversation_id)
        return str(out.text)
    except BaseException:
        await ctx.run_mutation(begin_next, conversation_id=conversation_id)
        raise
    return reply.text


async def _ask(ctx: Any, out: Any, message_id: str) -> ai.Reply:
    """The answer, with as much of the conversation as the model takes."""
    tokens = CONTEXT_TOKENS
    model = await ctx.run_query(load_model, message_id=message_id)
    while True:
        prompt = await ctx.run_query(load_prompt, message_id=message_id, max_tokens=tokens)
        try:
            reply: ai.Reply = await out.generate(prompt, model=model)
        except ai.errors.ContextLengthError:
            tokens //= 2
            if tokens < LEAST_TOKENS or len(prompt) == 1:
                raise
        else:
            return reply
