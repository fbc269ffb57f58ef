"""The messages of a conversation, for its readers and for the model. Written with the public layer only.

Promises: a conversation is shown to its owner only; the newest messages are given, as many as fit, oldest first; of a
message that is being written each character that was saved is there, once.
"""

from __future__ import annotations

from typing import Any

import ipyconvexai as ai
from ipyconvexai.actions.calls import BYTES_PER_TOKEN, FORMALITIES, for_model

__all__ = [
    "CONTEXT_TOKENS",
    "check_said",
    "load_earlier",
    "load_messages",
    "load_prompt",
    "owned",
    "owned_message",
    "place",
]

CONTEXT_TOKENS = 6000  # tokens of a conversation that go along with a question
MOST_MESSAGES, MOST_TOKENS = 250, 2**31  # that are looked at for a prompt
ATTACHED_SHARE = 4  # times as many tokens of what was attached: a file is asked about more than once

_PIECES = """
SELECT message_id::VARCHAR AS id, string_agg(text, '' ORDER BY start) AS text FROM message_deltas
WHERE message_id IN (SELECT unnest(?::UUID[])) GROUP BY message_id
"""


def owned(ctx: Any, conversation_id: str) -> ai.Conversation:
    """The conversation, if it is one of who asks; one that belongs to nobody is everybody's.

    Raises:
        Unauthenticated: nobody is known.
        NotFoundError: there is none, or it is another's: which of the two is nobody's business.
    """
    user = ctx.require_user()
    found: ai.Conversation | None = ctx.db.get(ai.Conversation, conversation_id)
    if found is None or found.user_id not in (None, user):
        raise ai.errors.NotFoundError(
            f"{user} has no conversation {conversation_id}", cure='ai.run("start_conversation") begins one.'
        )
    return found


def owned_message(ctx: Any, message_id: str) -> ai.Message:
    """The message, if it is in a conversation of who asks.

    Raises:
        Unauthenticated, NotFoundError: as ``owned`` does.
    """
    ctx.require_user()
    message = _message(ctx, message_id)
    owned(ctx, message.conversation_id)
    return message


def check_said(content: str) -> None:
    """
    Raises:
        EmptyPromptError: there is nothing to send.
    """
    if not content.strip():
        raise ai.errors.EmptyPromptError("the message is empty", cure="Write what you want to say. Nothing was sent.")


@ai.query(name="ai.load_messages")
def load_messages(
    ctx: Any,
    conversation_id: ai.Id[ai.Conversation],
    limit: int = 50,
    max_tokens: int = CONTEXT_TOKENS,
    before: ai.Id[ai.Message] | None = None,
) -> list[ai.Message]:
    """The newest messages of a conversation that fit, oldest first.

    `limit` and `max_tokens` (estimated) say how many fit; the newest is always there. `before`: only what came before
    this message. A message whose answer is still coming has the text that has come.
    What is attached is not counted here: ``load_prompt`` does.
    """
    owned(ctx, conversation_id)
    wanted = ctx.db.query(ai.Message).with_index("by_conversation", conversation_id=conversation_id)
    if before is not None:
        end = place(_message(ctx, before))
        wanted = wanted.lte("_creation_time", end[0]).filter(lambda message: place(message) < end)
    newest = _with_pieces(ctx, wanted.order("desc").take(limit))
    return newest[: _how_many_fit(newest, max_tokens)][::-1]


@ai.query(name="ai.load_prompt", internal=True)
def load_prompt(ctx: Any, message_id: ai.Id[ai.Message], max_tokens: int = CONTEXT_TOKENS) -> list[dict[str, Any]]:
    """What the model is asked for the reply `message_id`: the conversation as it was when it was wanted.

    `max_tokens`: of what was said; of what was attached four times as many, the newest first, but all of the last
    message's.
    """
    conversation_id = _message(ctx, message_id).conversation_id
    messages = [*_before(ctx, conversation_id, message_id), *_later_calls(ctx, message_id, conversation_id)]
    return _instructions(ctx, conversation_id) + for_model(messages, max_tokens, ATTACHED_SHARE * max_tokens)


@ai.query(name="ai.load_earlier", internal=True)
def load_earlier(ctx: Any, conversation_id: ai.Id[ai.Conversation], attached: int = 0) -> list[dict[str, Any]]:
    """What goes along with a question that is asked now, to which so many tokens are attached."""
    messages, room = _before(ctx, conversation_id, None), ATTACHED_SHARE * CONTEXT_TOKENS - attached
    return _instructions(ctx, conversation_id) + for_model(messages, CONTEXT_TOKENS, room, asked=False)


def _before(ctx: Any, conversation_id: str, message_id: str | None) -> list[ai.Message]:
    most = {"limit": MOST_MESSAGES, "max_tokens": MOST_TOKENS}
    found: list[ai.Message] = ctx.run_query(load_messages, conversation_id=conversation_id, before=message_id, **most)
    return found


def _instructions(ctx: Any, conversation_id: str) -> list[dict[str, Any]]:
    system = ctx.db.get(ai.Conversation, conversation_id).system
    return [{"role": "system", "content": system}] if system else []


def _later_calls(ctx: Any, message_id: str, conversation_id: str) -> list[ai.Message]:
    """Calls of replies before this one that were made when it was wanted already: somebody had said more meanwhile."""
    end = place(_message(ctx, message_id))
    later = ctx.db.query(ai.Message).with_index("by_conversation", conversation_id=conversation_id)
    later = later.gte("_creation_time", end[0]).filter(lambda message: message.role == "tool" and place(message) > end)
    return sorted(later.collect(), key=place)


def _message(ctx: Any, message_id: str) -> ai.Message:
    found: ai.Message | None = ctx.db.get(ai.Message, message_id)
    if found is None:
        raise ai.errors.NotFoundError(f"there is no message {message_id}", cure="load_messages gives those there are.")
    return found


def place(message: ai.Message) -> tuple[Any, Any]:
    """What messages are ordered by."""
    return message._creation_time, message._id


def _with_pieces(ctx: Any, messages: list[ai.Message]) -> list[ai.Message]:
    coming = [message._id for message in messages if message.content is None]
    pieces = {row["id"]: row["text"] for row in ctx.db.sql(_PIECES, [coming])} if coming else {}
    for message in messages:
        if message.content is None:
            message.content = pieces.get(message._id)
    return messages


def _how_many_fit(newest: list[ai.Message], max_tokens: int) -> int:
    left = max_tokens
    for number, message in enumerate(newest):
        left -= FORMALITIES + len((message.content or "").encode()) // BYTES_PER_TOKEN
        if left < 0:
            return max(1, number)
    return len(newest)
