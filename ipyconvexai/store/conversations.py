"""Conversations and their messages, durable and shared by all notebooks. Calls the ledger.

Blocking: call in a thread.
"""

from __future__ import annotations

import uuid
from typing import Any

from ipyconvexai.attachments import ATTACHED_TOKENS, prompts
from ipyconvexai.errors import InputError
from ipyconvexai.ids import new_id
from ipyconvexai.settings import redact
from ipyconvexai.store.ledger import Ledger, utc_now

__all__ = ["add_messages", "begin_conversation", "find_conversation", "newest_messages", "settings_of"]

NEWEST = 50  # messages that go along with a new question


def find_conversation(ledger: Ledger, title_or_id: str) -> str | None:
    """The id of the conversation with this title or id; None where none has this title yet.

    Raises:
        InputError: the title is empty or no text, there is none with this id, or the ledger keeps no content.
    """
    if not title_or_id.strip():
        raise InputError("a conversation needs a title", cure='Name it: conversation="my analysis".')
    if not ledger.keeps_content:
        raise _not_kept()
    try:
        title_or_id.encode()
        known = str(uuid.UUID(title_or_id))
    except UnicodeError:
        raise InputError("the conversation's title is no proper text", cure="Use another title.") from None
    except ValueError:
        rows = ledger.store.read("SELECT min(id)::VARCHAR FROM conversations WHERE title = ?", [redact(title_or_id)])
        return rows[0][0]  # type: ignore[no-any-return]
    if not ledger.store.read("SELECT 1 FROM conversations WHERE id = ?", [known]):
        raise InputError(f"there is no conversation {title_or_id}", cure="Name it by its title instead.")
    return known


def _not_kept() -> InputError:
    return InputError(
        "with record='metadata' no conversation is kept", cure="Give the messages as the prompt, or keep content."
    )


def settings_of(ledger: Ledger, conversation: str) -> tuple[str | None, str | None]:
    """The model of a conversation's answers, and the instructions that stand before its messages."""
    rows = ledger.store.read("SELECT model, system FROM conversations WHERE id = ?", [conversation])
    return rows[0] if rows else (None, None)


def begin_conversation(
    ledger: Ledger,
    conversation: str,
    title: str,
    user: str | None,
    *,
    model: str | None = None,
    system: str | None = None,
) -> str:
    """Begin the conversation `conversation`; gives its id, or that of the one that another notebook has just begun.

    `model` and `system` are as in ``settings_of``.
    """
    if not ledger.keeps_content:
        raise _not_kept()
    # A transaction has the writer to itself, so two notebooks cannot both begin it.
    with ledger.store.transaction() as execute:
        rows = execute("SELECT min(id)::VARCHAR FROM conversations WHERE title = ?", [redact(title)])
        if rows[0][0]:
            return str(rows[0][0])
        execute(
            "INSERT INTO conversations (id, created_at, title, user_id, model, system) VALUES (?, ?, ?, ?, ?, ?)",
            [conversation, utc_now(), redact(title), user, model, None if system is None else redact(system)],
        )
    return conversation


def newest_messages(ledger: Ledger, conversation: str, count: int = NEWEST) -> list[dict[str, Any]]:
    """The newest `count` messages, oldest first, as a provider wants them, with what was attached to them.

    ``ORDER BY id DESC LIMIT n`` would scan the table: Top-N disables the ART index (80 times slower at a million).
    """
    rows = ledger.store.read(
        "SELECT unnest(max_by({role: role, content: content, attachments: attachments}, id, ?)) FROM messages"
        " WHERE conversation_id = ? AND content <> '' AND role <> 'tool'"
        " AND status <> 'failed'",  # a reply that failed has a part at most
        [count, conversation],
    )
    said = [row[0] for row in reversed(rows)]
    contents = prompts([(one["content"], one["attachments"]) for one in said], ATTACHED_TOKENS, asked=False)
    return [{"role": one["role"], "content": content} for one, content in zip(said, contents, strict=True)]


def add_messages(ledger: Ledger, conversation: str, messages: list[tuple[str, str]], request_id: str | None) -> None:
    """Append (role, content) messages in one commit."""
    columns = ("id", "created_at", "conversation_id", "role", "content", "status", "request_id")
    rows: list[tuple[Any, ...]] = [
        (new_id(), utc_now(), conversation, role, redact(content), "done", request_id) for role, content in messages
    ]
    ledger.add("messages", columns, rows)
