"""Work of processes that are gone: jobs in progress, jobs they had reserved, messages they were writing, batches.

Run by the keeper, in the writer. Calls the clock only. Promises: an action is never silently run again (only where its
retry policy leaves it an attempt), and a message keeps the text that had arrived.
"""

from __future__ import annotations

from typing import Any

import duckdb

from ipyconvexai.store.clock import utc_now

__all__ = ["TABLES", "WORKING", "give_up"]

# What ``give_up`` changes.
TABLES = ("scheduled_functions", "messages", "message_deltas", "batches", "provider_batches")

# Sessions that have work under way.
WORKING = """
SELECT session_id::VARCHAR FROM scheduled_functions WHERE finished_at IS NULL AND session_id IS NOT NULL
UNION SELECT session_id::VARCHAR FROM messages WHERE status IN ('pending', 'streaming') AND session_id IS NOT NULL
UNION SELECT session_id::VARCHAR FROM batches WHERE finished_at IS NULL AND session_id IS NOT NULL
UNION SELECT session_id::VARCHAR FROM provider_batches WHERE finished_at IS NULL AND session_id IS NOT NULL
"""

_WHY = "the process that ran it ended"
_THEIRS = "session_id IN (SELECT unnest($sessions::UUID[]))"

_JOBS = f"""
UPDATE scheduled_functions SET
    state = CASE WHEN state = 'in_progress' AND attempts < max_attempts THEN 'pending'
                 WHEN state = 'in_progress' THEN 'failed' ELSE state END,
    due_at = CASE WHEN state = 'in_progress' AND attempts < max_attempts THEN $now::TIMESTAMP ELSE due_at END,
    errors = CASE WHEN state = 'in_progress' AND attempts < max_attempts
                  THEN if(errors IS NULL, '[', errors[:-2] || ', ') || json_object('attempt', attempts,
                       'code', 'interrupted', 'message', $why, 'at', strftime($now::TIMESTAMP, '%Y-%m-%dT%H:%M:%S.%f'))
                       || ']' ELSE errors END,
    error_code = CASE state WHEN 'in_progress' THEN 'interrupted' ELSE error_code END,
    error_message = CASE state WHEN 'in_progress' THEN $why ELSE error_message END,
    finished_at = CASE WHEN state = 'pending' OR (state = 'in_progress' AND attempts < max_attempts) THEN NULL
                       ELSE $now::TIMESTAMP END,
    session_id = CASE WHEN state = 'pending' OR (state = 'in_progress' AND attempts < max_attempts) THEN NULL
                      ELSE session_id END
WHERE finished_at IS NULL AND {_THEIRS}
"""
_MESSAGES = f"""
UPDATE messages SET
    status = 'failed', error_code = 'interrupted', error_message = $why,
    content = coalesce((SELECT string_agg(d.text, '' ORDER BY d.start) FROM message_deltas d
                        WHERE d.message_id = messages.id), content)
WHERE status IN ('pending', 'streaming') AND {_THEIRS} RETURNING id::VARCHAR
"""
_BATCHES = f"""
UPDATE batches SET state = 'stopped', error_code = 'interrupted', error_message = $why, finished_at = $now::TIMESTAMP,
    updated_at = $now::TIMESTAMP WHERE finished_at IS NULL AND {_THEIRS}
"""
# Whoever looks at it next goes on where it was left.
_PROVIDER_BATCHES = f"UPDATE provider_batches SET session_id = NULL WHERE {_THEIRS}"
_DELTAS = "DELETE FROM message_deltas WHERE message_id IN (SELECT unnest($messages::UUID[]))"


def give_up(cursor: duckdb.DuckDBPyConnection, sessions: list[str]) -> None:
    """Give up what `sessions` had under way; they are gone."""
    values: dict[str, Any] = {"sessions": sessions, "why": _WHY}
    cursor.execute(_JOBS, {**values, "now": utc_now()})
    cursor.execute(_BATCHES, {**values, "now": utc_now()})
    cursor.execute(_PROVIDER_BATCHES, {"sessions": sessions})
    messages = [key for (key,) in cursor.execute(_MESSAGES, values).fetchall()]
    if messages:
        cursor.execute(_DELTAS, {"messages": messages})
