"""Conversations and their messages, durable and shared by all notebooks. Calls the ledger.

Blocking: call in a thread.
"""

from __future__ import annotations

import uuid
from typing import Any

from ipyconvexai.errors import InputError
from ipyconvexai.ids import new_id
from ipyconvexai.settings import redact
from ipyconvexai.store.ledger import Ledger, utc_now

__all__ = ["add_messages", "find_conversation", "newest_messages"]

NEWEST = 50  # messages that go along with a new question


def find_conversation(ledger: Ledger, title_or_id: str, user: str | None) -> str:
    """The id of the conversation with this title or id; one with this title is begun when there is none."""
    if not title_or_id.strip():
        raise InputError("a conversation needs a title", cure='Name it: conversation="my analysis".')
    try:
        known = str(uuid.UUID(title_or_id))
    except ValueError:
        return _by_title(ledger, title_or_id, user)
    if not ledger.store.read("SELECT 1 FROM conversations WHERE id = ?", [known]):
        raise InputError(f"there is no conversation {title_or_id}", cure="Name it by its title instead.")
    return known


def _by_title(ledger: Ledger, title: str, user: str | None) -> str:
    # A transaction has the writer to itself, so two notebooks cannot both begin it.
    with ledger.store.transaction() as execute:
        rows = execute("SELECT min(id)::VARCHAR FROM conversations WHERE title = ?", [redact(title)])
        if rows[0][0]:
            return str(rows[0][0])
        conversation = new_id()
        execute(
            "INSERT INTO conversations (id, created_at, title, user_id) VALUES (?, ?, ?, ?)",
            [conversation, utc_now(), redact(title), user],
        )
    return conversation


def newest_messages(ledger: Ledger, conversation: str, count: int = NEWEST) -> list[dict[str, str]]:
    """The newest `count` messages, oldest first, as a provider wants them.

    ``ORDER BY id DESC LIMIT n`` would scan the table: Top-N disables the ART index (80 times slower at a million).
    """
    rows = ledger.store.read(
        "SELECT unnest(max_by({role: role, content: content}, id, ?)) FROM messages"
        " WHERE conversation_id = ? AND content IS NOT NULL",
        [count, conversation],
    )
    return [dict(row[0]) for row in reversed(rows)]


def add_messages(ledger: Ledger, conversation: str, messages: list[tuple[str, str]], request_id: str | None) -> None:
    """Append (role, content) messages in one commit. Without content where only metadata is kept."""
    columns = ("id", "created_at", "conversation_id", "role", "content", "status", "request_id")
    full = ledger.record == "full"
    rows: list[tuple[Any, ...]] = [
        (new_id(), utc_now(), conversation, role, redact(content) if full else None, "done", request_id)
        for role, content in messages
    ]
    ledger.add("messages", columns, rows)
