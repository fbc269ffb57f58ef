"""Chats: begin one, send a message, stop an answer. Written with the public layer only.

Promises: message, reply row and the work for it are one transaction; who sends twice is answered twice, one after the
other, the second time with the first answer in sight.
"""

from __future__ import annotations

from typing import Any

import ipyconvexai as ai
from ipyconvexai.actions.calls import OPEN
from ipyconvexai.actions.messages import check_said, owned, owned_message
from ipyconvexai.actions.replies import reply_later, skip_waiting, stop_calls

__all__ = ["cancel_response", "send_message", "start_conversation"]


@ai.mutation(name="ai.start_conversation")
def start_conversation(ctx: Any, title: str = "", system: str | None = None) -> ai.Id[ai.Conversation]:
    """Begin a conversation of who asks; gives its id. `system`: instructions that stand before its messages."""
    conversation = ai.Conversation(title=title or None, user_id=ctx.require_user(), system=system)
    return str(ctx.db.insert(conversation))


@ai.mutation(name="ai.send_message")
def send_message(
    ctx: Any, conversation_id: ai.Id[ai.Conversation], content: str, attachments: list[dict[str, Any]] | None = None
) -> ai.Id[ai.Message]:
    """Say something in a conversation; gives the id of the reply, which is written as soon as its turn comes.

    `attachments`: what goes along with it: {"kind": "file", "name", "text"}, {"kind": "image", "name", "media_type",
    "data"} with the bytes in base64.

    Raises:
        Unauthenticated: nobody is known.
        NotFoundError: who asks has no such conversation.
        EmptyPromptError: there is nothing to send.
        InputError: an attachment is none.
    """
    owned(ctx, conversation_id)
    check_said(content)
    skip_waiting(ctx, conversation_id)
    packed = ai.Message.pack(attachments or [])
    ctx.db.insert(ai.Message(conversation_id=conversation_id, role="user", content=content, attachments=packed))
    return reply_later(ctx, conversation_id)


@ai.mutation(name="ai.cancel_response")
def cancel_response(ctx: Any, message_id: ai.Id[ai.Message]) -> bool:
    """Stop a reply, wherever it is being written: it keeps what has come. False where it was over by then.

    `message_id` may be that of a call: it and those beside it are stopped, and the model is not asked further.

    Raises:
        Unauthenticated, NotFoundError: as ``send_message`` does.
    """
    reply = owned_message(ctx, message_id)
    if reply.role == "tool" and reply.status in OPEN:
        stop_calls(ctx, reply.conversation_id)
        return True
    if reply.status not in ("pending", "streaming"):
        return False
    ctx.db.patch(message_id, status="canceled", error_code="canceled", error_message=f"stopped by {ctx.user_id}")
    return True
