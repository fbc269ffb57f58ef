"""What a purge takes away, as SQL: which rows, and what of each row. Calls nothing; used on both sides of the link.

Content goes for good: bodies, texts, error messages, messages, titles, documents, jobs' arguments and results. What
stays are the rows themselves, with usage, cost, hashes, sizes and outcomes, so budgets and usage stay true. What is
still under way stays as it is: its end would bring the content back.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

__all__ = ["DELETED", "REMOVED", "Criteria", "Kind", "clearing", "doomed", "found", "spellings"]


class Criteria(NamedTuple):
    """Rows that fit all that is given; nothing given: every row.

    Attributes:
        row: the id of one call (with all its attempts), message, conversation, document or job.
        before: rows of before this instant, UTC and naive.
        spellings: rows that contain one of these texts, whatever their case; see ``spellings``.
        conversations: rows of these conversations, by id.
    """

    row: str | None = None
    before: datetime.datetime | None = None
    spellings: tuple[str, ...] | None = None
    conversations: tuple[str, ...] | None = None


class Kind(NamedTuple):
    """How many rows of a kind fit, and from when to when; `open`: they are under way, and stay."""

    kind: str  # calls, messages, conversations, documents, batches, jobs, prompts, frames
    open: bool
    rows: int
    oldest: datetime.datetime | None
    newest: datetime.datetime | None


# Table -> its key, the kind of row that decides, and what its columns become.
REMOVED: dict[str, tuple[str, str, dict[str, str]]] = {
    "requests": ("id", "calls", dict.fromkeys(("body", "body_bytes"), "NULL")),
    "responses": ("request_id", "calls", dict.fromkeys(("body", "body_bytes", "text", "error_message"), "NULL")),
    "messages": ("id", "messages", dict.fromkeys(("content", "error_message", "attachments", "tool_call"), "NULL")),
    "conversations": ("id", "conversations", dict.fromkeys(("title", "system"), "NULL")),
    "documents": ("id", "documents", dict.fromkeys(("content", "summary", "source", "metadata"), "NULL")),
    "batches": (
        "id",
        "batches",
        {"options": "'{}'", **dict.fromkeys(("source", "input", "into_column", "error_message"), "NULL")},
    ),
    "batch_items": ("batch_id", "batches", dict.fromkeys(("label", "error_message"), "NULL")),
    "scheduled_functions": (
        "id",
        "jobs",
        {"args": "'{}'", **dict.fromkeys(("result", "error_message", "error_data", "errors"), "NULL")},
    ),
}
# Table -> the column by which its rows go with rows of a kind.
DELETED: dict[str, tuple[str, str]] = {
    "message_deltas": ("message_id", "messages"),
    "prompts": ("id", "prompts"),
    "batch_frames": ("batch_id", "frames"),
}


def spellings(text: str) -> tuple[str, ...]:
    """`text` in small letters: as it is, and as JSON spells it, once and twice (arguments of tools are such)."""
    found = dict.fromkeys((text, text.lower(), text.upper()))
    for _ in range(2):
        for known in list(found):
            for ascii_only in (True, False):
                found[json.dumps(known, ensure_ascii=ascii_only)[1:-1]] = None
    return tuple(dict.fromkeys(spelling.lower() for spelling in found))


# ---------------------------------------------------------------------------------------------- which rows
_CALLS = """
SELECT 'calls' AS kind, r.id, r.sent_at AS moment, s.request_id IS NULL AS open
FROM requests r LEFT JOIN responses s ON s.request_id = r.id
WHERE (r.body IS NOT NULL OR r.body_bytes IS NOT NULL OR s.body IS NOT NULL OR s.body_bytes IS NOT NULL
       OR s.text IS NOT NULL OR s.error_message IS NOT NULL) AND {where}
"""
_MESSAGES = """
SELECT 'messages' AS kind, m.id, m.created_at AS moment, m.status IN ('pending', 'streaming') AS open FROM messages m
WHERE (m.content IS NOT NULL OR m.error_message IS NOT NULL OR m.attachments IS NOT NULL OR m.tool_call IS NOT NULL
       OR m.status IN ('pending', 'streaming'))
  AND (m.request_id IN (SELECT id FROM calls_found WHERE NOT open) OR {where})
"""
_CONVERSATIONS = """
SELECT 'conversations' AS kind, c.id, c.created_at AS moment, false AS open FROM conversations c
WHERE (c.title IS NOT NULL OR c.system IS NOT NULL) AND {where}
"""
_DOCUMENTS = """
SELECT 'documents' AS kind, d.id, d.created_at AS moment, false AS open FROM documents d
WHERE (d.content IS NOT NULL OR d.summary IS NOT NULL OR d.source IS NOT NULL OR d.metadata IS NOT NULL) AND {where}
"""
_JOBS = """
SELECT 'jobs' AS kind, j.id, j.created_at AS moment, j.finished_at IS NULL AS open FROM scheduled_functions j
WHERE (j.args <> '{{}}' OR j.result IS NOT NULL OR j.error_message IS NOT NULL OR j.error_data IS NOT NULL
       OR j.errors IS NOT NULL) AND {where}
"""
_PROMPTS = """
SELECT 'prompts' AS kind, p.id, p.created_at AS moment, false AS open FROM prompts p WHERE {where}
"""
# The rows of a batch that runs later: compressed, so nothing can be searched for in them. Their ids are UUIDv7.
_FRAMES = """
SELECT 'frames' AS kind, f.batch_id AS id, f.moment, EXISTS (
    SELECT 1 FROM scheduled_functions j WHERE j.finished_at IS NULL AND contains(j.args, f.batch_id::VARCHAR)
) OR EXISTS (
    SELECT 1 FROM crons c WHERE c.next_time IS NOT NULL AND contains(c.args, f.batch_id::VARCHAR)
) AS open
FROM (
    SELECT DISTINCT batch_id, make_timestamp_ms(epoch_ms(uuid_extract_timestamp(batch_id))) AS moment FROM batch_frames
) f WHERE {where}
"""
_BATCHES = """
SELECT 'batches' AS kind, b.id, b.created_at AS moment, b.finished_at IS NULL AS open FROM batches b
WHERE (b.options <> '{{}}' OR b.input IS NOT NULL OR b.source IS NOT NULL OR b.error_message IS NOT NULL) AND {where}
"""
_THIS_CALL = """(r.id = $row::UUID OR r.retry_of = $row::UUID OR r.conversation_id = $row::UUID
    OR coalesce(r.retry_of, r.id) = (SELECT retry_of FROM requests WHERE id = $row::UUID))"""
_OLD_TALK = """(c.created_at < $before::TIMESTAMP AND NOT EXISTS (
    SELECT 1 FROM messages m WHERE m.conversation_id = c.id AND m.created_at >= $before::TIMESTAMP))"""


def _fits(criteria: Criteria) -> dict[str, list[str]]:
    """Kind -> conditions, all of which a row must meet."""
    kinds = ("calls", "messages", "conversations", "documents", "batches", "jobs", "prompts", "frames")
    fits: dict[str, list[str]] = {kind: ["true"] for kind in kinds}

    def also(**conditions: str) -> None:
        for kind, condition in conditions.items():
            fits[kind].append(condition)

    if criteria.row is not None:
        also(
            calls=_THIS_CALL,
            messages="(m.id = $row::UUID OR m.conversation_id = $row::UUID)",
            conversations="c.id = $row::UUID",
            documents="d.id = $row::UUID",
            batches="b.id = $row::UUID",
            jobs="(j.id = $row::UUID OR contains(j.args, $row::UUID::VARCHAR))",
            prompts="p.id = $row::UUID",
            frames="f.batch_id = $row::UUID",
        )
    if criteria.before is not None:
        also(
            calls="r.sent_at < $before::TIMESTAMP",
            messages="m.created_at < $before::TIMESTAMP",
            conversations=_OLD_TALK,
            documents="d.created_at < $before::TIMESTAMP",
            batches="b.created_at < $before::TIMESTAMP",
            jobs="j.created_at < $before::TIMESTAMP",
            frames="f.moment < $before::TIMESTAMP",
            # What was saved under a name is in use however old it is.
            prompts="false" if criteria.spellings is None else "p.created_at < $before::TIMESTAMP",
        )
    if criteria.spellings is not None:
        also(
            calls=_contain(criteria.spellings, "r.body s.body s.text s.error_message", "r.body_bytes s.body_bytes"),
            messages=_contain(criteria.spellings, "m.content m.error_message m.attachments m.tool_call"),
            conversations=_contain(criteria.spellings, "c.title c.system"),
            documents=_contain(criteria.spellings, "d.content d.summary d.source d.metadata"),
            batches=f"""({_contain(criteria.spellings, "b.options b.source b.input b.into_column b.error_message")}
                OR EXISTS (SELECT 1 FROM batch_items i WHERE i.batch_id = b.id
                           AND {_contain(criteria.spellings, "i.label i.error_message")}))""",
            jobs=_contain(criteria.spellings, "j.args j.result j.error_message j.error_data j.errors"),
            prompts=_contain(criteria.spellings, "p.name p.text"),
        )  # of frames any may hold it
    if criteria.conversations is not None:
        also(
            calls="r.conversation_id IN (SELECT unnest($talks::UUID[]))",
            messages="m.conversation_id IN (SELECT unnest($talks::UUID[]))",
            conversations="c.id IN (SELECT unnest($talks::UUID[]))",
            documents="false",
            batches="false",
            prompts="false",
            frames="false",
            jobs="EXISTS (SELECT 1 FROM (SELECT unnest($talks::UUID[]) AS id) t WHERE contains(j.args, t.id::VARCHAR))",
        )
    return fits


def _contain(spelled: Iterable[str], columns: str, blobs: str = "") -> str:
    numbers = range(len(tuple(spelled)))
    tests = [f"contains(lower({column}), $text{number})" for column in columns.split() for number in numbers]
    # A body that is no text is compared byte by byte: its letters have no case.
    tests += [f"contains(hex({blob}), hex(encode($text{number})))" for blob in blobs.split() for number in numbers]
    return f"({' OR '.join(tests)})"


def doomed(criteria: Criteria) -> tuple[str, dict[str, Any]]:
    """A query for (kind, id, moment, open) of all rows that fit, and its parameters."""
    fits = {kind: " AND ".join(conditions) for kind, conditions in _fits(criteria).items()}
    calls = _CALLS.format(where=fits["calls"])
    others = [
        text.format(where=fits[kind])
        for kind, text in (
            ("messages", _MESSAGES),
            ("conversations", _CONVERSATIONS),
            ("documents", _DOCUMENTS),
            ("batches", _BATCHES),
            ("jobs", _JOBS),
            ("prompts", _PROMPTS),
            ("frames", _FRAMES),
        )
    ]
    union = " UNION ALL ".join(["SELECT * FROM calls_found", *others])
    values: dict[str, Any] = {f"text{number}": text for number, text in enumerate(criteria.spellings or ())}
    if criteria.row is not None:
        values["row"] = criteria.row
    if criteria.before is not None:
        values["before"] = criteria.before
    if criteria.conversations is not None:
        values["talks"] = list(criteria.conversations)
    return f"WITH calls_found AS MATERIALIZED ({calls}) {union}", values


def found(criteria: Criteria) -> tuple[str, dict[str, Any]]:
    """A query for the rows of ``Kind``, and its parameters."""
    sql, values = doomed(criteria)
    return (
        f"SELECT kind, open, count(*), min(moment), max(moment) FROM ({sql}) GROUP BY kind, open ORDER BY kind, open",
        values,
    )


def clearing(table: str) -> str:
    """The condition under which a row of `table` loses its content, or goes; ``doomed`` is a table by then."""
    key, kind = REMOVED[table][:2] if table in REMOVED else DELETED[table]
    return f"{key} IN (SELECT id FROM temp.doomed WHERE kind = '{kind}')"
