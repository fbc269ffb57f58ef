"""What anybody may ask of the batches in the ledger, and say to one that runs. Calls the link.

Blocking: call in a thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipyconvexai.errors import CallError, NotFoundError
from ipyconvexai.store.link import Store

__all__ = ["BATCHES_SQL", "errors_of", "find_batch", "say", "spent_by", "wake"]

LEAST = 4  # characters of an id


def find_batch(store: Store, given: str) -> str:
    """The id of the batch that `given` means: an id, or its end, as ``ai.batches()`` shows it.

    Raises:
        NotFoundError: no batch has it, or several have.
    """
    part = str(given).strip().lower()
    alike = "SELECT id::VARCHAR FROM batches WHERE suffix(id::VARCHAR, ?) LIMIT 2"
    rows = store.read(alike, [part]) if len(part) >= LEAST else []
    if len(rows) != 1:
        what = "several batches end" if rows else "no batch ends"
        raise NotFoundError(f"{what} with {given!r:.80}", cure="ai.batches() lists them, with their ids.")
    return str(rows[0][0])


def say(store: Store, batch_id: str, wanted: str) -> str:
    """Have the process that runs a batch pause, resume or cancel it, within two seconds; gives the state before.

    Raises:
        NotFoundError: there is no such batch.
    """
    batch_id = find_batch(store, batch_id)
    with store.transaction() as execute:
        rows = execute("SELECT state, finished_at FROM batches WHERE id = ?::UUID", [batch_id])
        if rows[0][1] is None:
            execute.later("UPDATE batches SET wanted = ? WHERE id = ?::UUID", [wanted, batch_id])
    return str(rows[0][0])


def wake(store: Store, batch_id: str) -> Mapping[str, Any]:
    """What is known of an earlier run.

    Raises:
        NotFoundError: there is no such batch.
    """
    rows = store.read(
        "SELECT id::VARCHAR, kind, options, fingerprint, state FROM batches WHERE id = ?::UUID",
        [find_batch(store, batch_id)],
    )
    return dict(zip(("id", "kind", "options", "fingerprint", "state"), rows[0], strict=True))


def spent_by(store: Store, batch_id: str, job_id: str | None = None) -> float:
    """US dollars that the requests of a batch, and of all batches of a job, have cost so far.

    What a request cost whose outcome nobody knows is what was reserved for it.
    """
    rows = store.read(
        """
        SELECT coalesce(sum(coalesce(s.cost_usd, if(s.status = 'unknown', r.reserved_usd, 0), 0)), 0.0)
        FROM requests r JOIN responses s ON s.request_id = r.id
        WHERE r.batch_id = $batch::UUID OR r.batch_id IN (SELECT id FROM batches WHERE job_id = $job::UUID)
        """,
        {"batch": batch_id, "job": job_id},
    )
    return float(rows[0][0])


def errors_of(store: Store, batch_id: str) -> dict[int, CallError]:
    """What the failed rows of a batch failed with, by the number of the row."""
    rows = store.read(
        "SELECT unnest(row_numbers), error_code, error_message, request_id::VARCHAR FROM batch_items"
        " WHERE batch_id = ?::UUID AND status = 'error'",
        [batch_id],
    )
    return {
        number: CallError(message or "it failed", code=code, request_id=request_id)
        for number, code, message, request_id in rows
    }


# What ``ai.batches()`` shows: newest first.
BATCHES_SQL = """
SELECT id::VARCHAR AS id, right(id::VARCHAR, 8) AS short_id, created_at, kind, source, input, into_column, state,
       total_rows AS rows, items, known,
       done, failed, requests, input_tokens + output_tokens AS tokens, cached_tokens, cost_usd, budget_usd,
       provider || ':' || model AS model, engine, date_diff('millisecond', created_at,
       coalesce(finished_at, updated_at)) / 1000 AS seconds, error_code, error_message, user_id AS user, notebook,
       cell_id, job_id::VARCHAR AS job_id, options, updated_at, finished_at
FROM batches ORDER BY created_at DESC, id DESC
"""
