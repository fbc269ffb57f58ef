"""What a panel reads of a conversation: its row, its messages, what they took. Blocking; calls the store."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ipyconvexai.render import plain_text
from ipyconvexai.settings import redact
from ipyconvexai.store.link import Store

__all__ = ["Own", "Row", "Total", "read_attached", "read_rows", "read_texts", "read_total"]

_MESSAGES = """
SELECT m.id::VARCHAR, m.role, m.status, length(m.content), m.error_code, m.error_message, m.finish_reason,
       r.model, r.input_tokens, r.output_tokens, r.cost_usd, r.duration_ms, m.tool_call
FROM messages m LEFT JOIN responses r ON r.request_id = m.request_id
WHERE m.conversation_id = ?::UUID ORDER BY m.created_at, m.id
"""
_CONVERSATION = "SELECT title, model, system FROM conversations WHERE id = ?::UUID"
_TOTAL = """
SELECT count(*), sum(coalesce(s.input_tokens, 0) + coalesce(s.output_tokens, 0)), sum(s.cost_usd), sum(s.duration_ms)
FROM requests r JOIN responses s ON s.request_id = r.id WHERE r.conversation_id = ?::UUID
"""
_ATTACHED = """
SELECT id::VARCHAR, attachments->>'$[*].name', attachments->>'$[*].kind', attachments->>'$[*].tokens'
FROM messages WHERE id IN (SELECT unnest(?::UUID[])) AND json_valid(attachments)
"""
_CONTENT = "SELECT id::VARCHAR, content FROM messages WHERE id IN (SELECT unnest(?::UUID[]))"
_PIECES = """
SELECT message_id::VARCHAR, string_agg(text, '' ORDER BY start) FROM message_deltas
WHERE message_id IN (SELECT unnest(?::UUID[])) GROUP BY message_id
"""


class Row(NamedTuple):
    """A message without its text. `length`: characters of that; None: it is being written."""

    id: str
    role: str
    status: str
    length: int | None
    error_code: str | None
    error_message: str | None
    finish_reason: str | None
    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    duration_ms: float | None
    tool_call: str | None  # JSON

    @property
    def call(self) -> dict[str, Any]:
        """Of role tool; empty where somebody has written what is none."""
        try:
            found = json.loads(self.tool_call or "{}")
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


class Own(NamedTuple):
    """What a conversation's own row says."""

    title: str | None
    model: str | None
    system: str | None


class Total(NamedTuple):
    """Of all its calls, also those whose answer was written again."""

    calls: int
    tokens: int | None
    cost_usd: float | None
    duration_ms: float | None


def read_rows(store: Store, conversation_id: str) -> tuple[Own | None, list[Row]]:
    """The conversation, if it is there, and its messages, each call after the reply that wanted it."""
    own = store.read(_CONVERSATION, [conversation_id])
    rows = [Row(*row) for row in store.read(_MESSAGES, [conversation_id])]
    return Own(*own[0]) if own else None, _in_order(rows)


def read_total(store: Store, conversation_id: str) -> Total:
    return Total(*store.read(_TOTAL, [conversation_id])[0])


def read_texts(store: Store, settled: list[str], coming: list[str]) -> dict[str, str]:
    """Of messages that are whole, and of those that are being written, as far as they are."""
    found = store.read(_CONTENT, [settled]) if settled else []
    found += store.read(_PIECES, [coming]) if coming else []
    return {key: text or "" for key, text in found}


def read_attached(store: Store, messages: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Names, kinds and tokens of what went along, by message; names are shown as they are, so they are made plain."""
    rows = store.read(_ATTACHED, [messages]) if messages else []
    # Functions of the user's may have written anything there.
    whole = [
        (key, told) for key, *told in rows if len(set(map(len, told))) == 1 and not any(None in each for each in told)
    ]
    return {
        key: [
            {"name": plain_text(redact(name)), "kind": plain_text(kind), "tokens": int(float(tokens))}
            for name, kind, tokens in zip(*told, strict=True)
        ]
        for key, told in whole
    }


def _in_order(rows: list[Row]) -> list[Row]:
    """Each call after the reply that wanted it, also where somebody had said more before it was made."""
    calls: dict[str, list[Row]] = {}
    for row in rows:
        if row.tool_call:
            calls.setdefault(str(row.call.get("reply", "")), []).append(row)
    if not calls:
        return rows
    ordered = [each for row in rows if not row.tool_call for each in (row, *calls.pop(row.id, ()))]
    return ordered + [row for left in calls.values() for row in left]
