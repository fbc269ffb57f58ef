"""Going back in a conversation, and keeping house among them. Written with the public layer only.

Promises: each is one transaction; what is taken out of a conversation stays in the ledger's requests and responses; an
answer that is being written is stopped before its message goes.
"""

from __future__ import annotations

import json
from typing import Any

import ipyconvexai as ai
from ipyconvexai.actions.calls import DENIED, OPEN, call_of
from ipyconvexai.actions.messages import check_said, owned, owned_message, place
from ipyconvexai.actions.replies import reply_later

__all__ = [
    "configure_conversation",
    "delete_conversation",
    "edit_message",
    "fork_conversation",
    "list_conversations",
    "rename_conversation",
    "retry_response",
]

_NEWEST = """
SELECT c.id::VARCHAR AS id, c.title, count(m.id)::INTEGER AS messages,
       coalesce(max(m.created_at), c.created_at) AS used_at
FROM conversations c LEFT JOIN messages m ON m.conversation_id = c.id
WHERE (c.user_id IS NULL OR c.user_id = $user)
  AND ($wanted = '' OR contains(lower(coalesce(c.title, '')), lower($wanted))
       OR c.id IN (SELECT conversation_id FROM messages WHERE contains(lower(content), lower($wanted))))
GROUP BY c.id, c.title, c.created_at ORDER BY used_at DESC, id DESC LIMIT $most
"""


@ai.mutation(name="ai.retry_response")
def retry_response(ctx: Any, message_id: ai.Id[ai.Message]) -> ai.Id[ai.Message]:
    """Have the reply `message_id` written again, as the last of its conversation; gives the id of the new one.

    Raises:
        Unauthenticated, NotFoundError: as ``send_message`` does.
        InputError: it is no reply.
    """
    reply = owned_message(ctx, message_id)
    if reply.role != "assistant":
        raise ai.errors.InputError("only a reply can be written again", cure="edit_message changes what was asked.")
    _remove_from(ctx, reply)
    return reply_later(ctx, reply.conversation_id)


@ai.mutation(name="ai.edit_message")
def edit_message(
    ctx: Any, message_id: ai.Id[ai.Message], content: str, attachments: list[dict[str, Any]] | None = None
) -> ai.Id[ai.Message]:
    """Say something else in place of one's message; what followed goes, and it is answered anew. Gives the reply's id.

    `attachments`: what goes along with it now, as in ``send_message``; None: what did before.

    Raises:
        Unauthenticated, NotFoundError: as ``send_message`` does.
        InputError: it is none of one's own messages, or an attachment is none.
        EmptyPromptError: there is nothing to send.
    """
    message = owned_message(ctx, message_id)
    if message.role != "user":
        raise ai.errors.InputError("only a message of one's own can be changed", cure="retry_response asks again.")
    check_said(content)
    packed = message.attachments if attachments is None else ai.Message.pack(attachments)
    _remove_from(ctx, message)
    fields = {"role": "user", "content": content, "attachments": packed}
    ctx.db.insert(ai.Message(conversation_id=message.conversation_id, **fields))
    return reply_later(ctx, message.conversation_id)


@ai.mutation(name="ai.fork_conversation")
def fork_conversation(ctx: Any, message_id: ai.Id[ai.Message], title: str = "") -> ai.Id[ai.Conversation]:
    """A new conversation that begins with another's, up to this message; gives its id.

    Raises:
        Unauthenticated, NotFoundError: as ``send_message`` does.
        InputError: there is a conversation of this title.
    """
    last = owned_message(ctx, message_id)
    before = ctx.db.get(ai.Conversation, last.conversation_id)
    name = title.strip() or _free_title(ctx, f"{before.title or 'Chat'} (fork)")
    _check_free(ctx, name)
    settings = {"model": before.model, "system": before.system}
    made = ctx.db.insert(ai.Conversation(title=name, user_id=ctx.require_user(), **settings))
    copies: dict[str | None, str] = {}
    for message in _messages(ctx, last.conversation_id):
        if message.status in ("done", "canceled") or message.role == "tool":
            copies[message._id] = ctx.db.insert(_copy(message, made, copies))
        if message._id == last._id:
            break
    return str(made)


@ai.mutation(name="ai.rename_conversation")
def rename_conversation(ctx: Any, conversation_id: ai.Id[ai.Conversation], title: str) -> None:
    """
    Raises:
        Unauthenticated, NotFoundError: as ``send_message`` does.
        InputError: the title is empty, or another conversation has it.
    """
    conversation = owned(ctx, conversation_id)
    if not title.strip():
        raise ai.errors.InputError("a conversation needs a title", cure="Give it one.")
    if title.strip() != conversation.title:
        _check_free(ctx, title.strip())
        ctx.db.patch(conversation_id, title=title.strip())


@ai.mutation(name="ai.configure_conversation")
def configure_conversation(
    ctx: Any, conversation_id: ai.Id[ai.Conversation], model: str | None = None, system: str | None = None
) -> None:
    """What the next answers of a conversation are made with.

    Args:
        model: ``provider:model``; None or "": whatever the default is.
        system: the instructions that stand before its messages; None or "": none.

    Raises:
        Unauthenticated, NotFoundError: as ``send_message`` does.
    """
    owned(ctx, conversation_id)
    ctx.db.patch(conversation_id, model=(model or "").strip() or None, system=(system or "").strip() or None)


@ai.mutation(name="ai.delete_conversation")
def delete_conversation(ctx: Any, conversation_id: ai.Id[ai.Conversation]) -> None:
    """Delete a conversation with its messages. The calls that were made in it stay in the ledger: ``ai.ledger.purge``.

    Raises:
        Unauthenticated, NotFoundError: as ``send_message`` does.
    """
    owned(ctx, conversation_id)
    for message in _messages(ctx, conversation_id):
        ctx.db.delete(message._id)
    ctx.db.delete(conversation_id)


@ai.query(name="ai.list_conversations")
def list_conversations(ctx: Any, search: str = "", limit: int = 50) -> list[dict[str, Any]]:
    """One's conversations, the last used first: ``id``, ``title``, ``messages`` (how many), ``used_at`` (UTC).

    `search`: only those with this text in their title or in a message.
    """
    wanted = {"user": ctx.require_user(), "wanted": search.strip(), "most": limit}
    return [{**row, "used_at": row["used_at"].isoformat()} for row in ctx.db.sql(_NEWEST, wanted)]


def _copy(message: ai.Message, conversation_id: str, copies: dict[str | None, str]) -> ai.Message:
    """The same in another conversation. A call that is not over is over there: it runs once, where it was made."""
    kept = ("role", "content", "status", "request_id", "error_code", "error_message", "attachments", "tool_call")
    fields = {name: getattr(message, name) for name in kept}
    if message.role == "tool":
        call = call_of(message)
        fields["tool_call"] = json.dumps({**call, "reply": copies.get(call["reply"], "")})
        if message.status in OPEN:
            fields |= {"status": "canceled", "error_code": DENIED, "error_message": "It was not run in this copy."}
    return ai.Message(conversation_id=conversation_id, **fields)


def _messages(ctx: Any, conversation_id: str) -> list[ai.Message]:
    found = ctx.db.query(ai.Message).with_index("by_conversation", conversation_id=conversation_id).collect()
    return sorted(found, key=place)


def _remove_from(ctx: Any, first: ai.Message) -> None:
    """Delete the message and all that came after it: who writes one of them stops."""
    messages = _messages(ctx, first.conversation_id)
    at = next(number for number, message in enumerate(messages) if message._id == first._id)
    for message in messages[at:]:
        ctx.db.delete(message._id)


def _check_free(ctx: Any, title: str) -> None:
    if _is_taken(ctx, title):
        raise ai.errors.InputError(f"there is a conversation {title!r:.80} already", cure="Use another title.")


def _free_title(ctx: Any, title: str) -> str:
    number, free = 1, title
    while _is_taken(ctx, free):
        number += 1
        free = f"{title} {number}"
    return free


def _is_taken(ctx: Any, title: str) -> bool:
    """Conversations are found by their titles, whoever's they are."""
    return bool(ctx.db.sql("SELECT 1 FROM conversations WHERE title = ? LIMIT 1", [title]))
