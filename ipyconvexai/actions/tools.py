"""Calls of tools: allowed or not, run, and what follows them. Written with the public layer only.

A process runs the calls of its own tools: it finds them where they are allowed. Promises: a call runs at most once; it
runs only where it is marked safe or somebody allowed it; what it gave and what follows it are one transaction; the
model is asked again when all calls of its reply are over, and not where one of them was stopped.
"""

from __future__ import annotations

from typing import Any

import ipyconvexai as ai
from ipyconvexai.actions.calls import DENIED, call_of, open_calls
from ipyconvexai.actions.messages import owned, owned_message
from ipyconvexai.actions.replies import after_calls, reply_later

__all__ = ["allow_call", "continue_response", "deny_call", "run_call"]

LONGEST = 86_400  # seconds; a tool has a limit of its own


@ai.mutation(name="ai.allow_call")
def allow_call(ctx: Any, message_id: ai.Id[ai.Message]) -> bool:
    """Let a call run that waits to be allowed, in this process. False where it does not wait any more.

    Raises:
        Unauthenticated, NotFoundError: as ``send_message`` does.
        InputError: it is no call, or this process does not have its tool.
    """
    message = _call(ctx, message_id)
    if message.status != "waiting":
        return False
    name = call_of(message)["name"]
    if name not in ctx.tools(message.conversation_id):
        raise ai.errors.InputError(
            f"the tool {name!r:.80} is not in this process",
            cure="Open the panel again with it, ai.chat(title, tools=[...]), or do not allow the call.",
        )
    ctx.db.patch(message_id, status="pending", session_id=ctx.session_id)
    return True


@ai.mutation(name="ai.deny_call")
def deny_call(ctx: Any, message_id: ai.Id[ai.Message], reason: str = "") -> bool:
    """Do not let a call run that waits to be allowed; the model is told so. False where it does not wait any more.

    Raises:
        Unauthenticated, NotFoundError: as ``send_message`` does.
        InputError: it is no call.
    """
    message = _call(ctx, message_id)
    if message.status != "waiting":
        return False
    ctx.db.patch(message_id, status="canceled", error_code=DENIED, error_message=reason or None)
    after_calls(ctx, message.conversation_id, call_of(message)["reply"])
    return True


@ai.mutation(name="ai.continue_response")
def continue_response(ctx: Any, message_id: ai.Id[ai.Message]) -> ai.Id[ai.Message] | None:
    """Ask the model to go on after calls that were stopped, or whose process ended; gives the id of its reply.

    None where a reply is on its way.

    Raises:
        Unauthenticated, NotFoundError: as ``send_message`` does.
        InputError: it is no call, or some are not over.
    """
    message = _call(ctx, message_id)
    if open_calls(ctx, message.conversation_id):
        raise ai.errors.InputError("a call is not over", cure="Allow it, or do not; or wait for it.")
    if ctx.db.sql(_ON_ITS_WAY, [message.conversation_id]):
        return None
    return reply_later(ctx, message.conversation_id)


_ON_ITS_WAY = """
SELECT 1 FROM messages WHERE conversation_id = ?::UUID AND role = 'assistant' AND status IN ('pending', 'streaming')
"""


@ai.mutation(name="ai.begin_call", internal=True)
def begin_call(ctx: Any, message_id: ai.Id[ai.Message]) -> dict[str, Any] | None:
    """Take a call that may run; None where it is not to be run, or not here."""
    message = ctx.db.get(ai.Message, message_id)
    if message is None or message.status != "pending" or message.session_id != ctx.session_id:
        return None
    owned(ctx, message.conversation_id)
    ctx.db.patch(message_id, status="streaming")
    return {**call_of(message), "conversation_id": message.conversation_id}


@ai.mutation(name="ai.save_call", internal=True)
def save_call(
    ctx: Any,
    message_id: ai.Id[ai.Message],
    content: str | None = None,
    error_code: str | None = None,
    error_message: str | None = None,
) -> None:
    """Save what a call gave, or its error, and have the model asked again when it was the last."""
    message = ctx.db.get(ai.Message, message_id)
    if message is None or message.status != "streaming":  # it was stopped, or its message is gone
        return
    status = "done" if error_code is None else "failed"
    said = {"content": content, "error_code": error_code, "error_message": error_message}
    ctx.db.patch(message_id, status=status, session_id=None, **said)
    after_calls(ctx, message.conversation_id, call_of(message)["reply"])


@ai.action(name="ai.run_call", internal=True, timeout=LONGEST)
async def run_call(ctx: Any, message_id: ai.Id[ai.Message]) -> None:
    """Run a call that was allowed, in the process that has its tool, and save what it gives."""
    call = await ctx.run_mutation(begin_call, message_id=message_id)
    if call is None:
        return
    try:
        text = await ctx.call_tool(call["conversation_id"], call["name"], call["arguments"])
    except Exception as error:
        failure = {"error_code": getattr(error, "code", type(error).__name__), "error_message": ctx.told_of(error)}
        await ctx.run_mutation(save_call, message_id=message_id, **failure)
    else:
        await ctx.run_mutation(save_call, message_id=message_id, content=text)


def _call(ctx: Any, message_id: str) -> ai.Message:
    message = owned_message(ctx, message_id)
    if message.role != "tool":
        raise ai.errors.InputError("this message is no call of a tool", cure="load_messages tells their roles.")
    return message
