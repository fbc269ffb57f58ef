"""What the ledger has of a provider's batches: the table ``provider_batches``, its requests, and what became of them.

Calls the store and ``providers.batching``; asks no provider. Its methods block, so async code calls them in a thread.
Promises: whoever sends a batch holds a claim on it, and a process that is gone holds none.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ipyconvexai.application import App
from ipyconvexai.batch.asks import Done
from ipyconvexai.errors import CallError, InputError
from ipyconvexai.providers.batching import Line, Remote, batch_cost, read_line, request_line
from ipyconvexai.providers.calls import NOT_SENT
from ipyconvexai.providers.endpoints import Endpoint
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.ledger import Outcome
from ipyconvexai.values import Caller, Status

__all__ = ["GROUP_BYTES", "GROUP_ROWS", "Row", "Rows", "Standing", "not_sent", "read_outcomes", "unanswered"]

GROUP_ROWS = 256  # rows that are written together
GROUP_BYTES = 4_000_000
_RETRYABLE = frozenset({"batch_expired", "batch_cancelled", "token_limit_exceeded", "no_answer", NOT_SENT})


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """How a provider batch stands.

    Attributes:
        state: writing, written, submitted, collected or failed.
        provider_state: in the provider's words: validating, in_progress, ...
        requests, completed, failed: counts, as the provider last told them.
        message: what went wrong, or what keeps us from looking at the moment.
    """

    id: str
    state: str
    provider_state: str | None
    requests: int
    completed: int
    failed: int
    message: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether every request of it has its end in the ledger."""
        return self.state in ("collected", "failed")


class Row(NamedTuple):
    """A row of ``provider_batches``."""

    id: str
    batch_id: str | None
    created_at: datetime.datetime
    provider: str
    base_url: str
    model: str
    state: str
    file_id: str | None
    provider_id: str | None
    provider_state: str | None
    requests: int
    completed: int
    failed: int
    error_message: str | None

    @property
    def standing(self) -> Standing:
        counts = (self.requests, self.completed, self.failed)
        return Standing(self.id, self.state, self.provider_state, *counts, self.error_message)


_COLUMNS = ", ".join(f"{name}::VARCHAR" if name in ("id", "batch_id") else name for name in Row._fields)
_OPEN = "state NOT IN ('collected', 'failed')"
_UNDER_WAY = f"""
SELECT r.cache_key::VARCHAR, max(p.id)::VARCHAR
FROM (SELECT unnest(?::UUID[]) AS key) k
JOIN requests r ON r.cache_key = k.key
JOIN (SELECT id FROM provider_batches WHERE {_OPEN}) p ON p.id = r.session_id
ANTI JOIN responses s ON s.request_id = r.id
GROUP BY 1
"""
_UNANSWERED = """
SELECT r.id::VARCHAR FROM requests r ANTI JOIN responses s ON s.request_id = r.id WHERE r.session_id = ? ORDER BY r.id
"""
_SPENT = """
SELECT coalesce(sum(coalesce(s.cost_usd, if(s.http_status >= 400, 0, r.reserved_usd))), 0)
FROM requests r JOIN responses s ON s.request_id = r.id WHERE r.session_id = ?
"""
_ENDS = """
SELECT r.cache_key::VARCHAR, r.id::VARCHAR, s.status, s.http_status, s.text, s.finish_reason, s.input_tokens,
       s.cached_tokens, s.output_tokens, s.cost_usd, s.error_code, s.error_message
FROM requests r JOIN responses s ON s.request_id = r.id
WHERE r.session_id IN (SELECT unnest(?::UUID[])) ORDER BY r.id
"""


class Rows:
    """The rows of one app."""

    def __init__(self, app: App) -> None:
        self._app = app

    def begin(self, key: str, endpoint: Endpoint, caller: Caller) -> None:
        """The row, claimed, before those of its requests: without it these would be of a process that is gone."""
        now = utc_now()
        row = {
            "id": key,
            "batch_id": caller.batch_id,
            "created_at": now,
            "provider": endpoint.provider,
            "base_url": endpoint.identity,
            "model": endpoint.model,
            "state": "writing",
            "session_id": self._app.store.session_id,
            "requests": 0,
            "completed": 0,
            "failed": 0,
            "updated_at": now,
        }
        self._app.records.add("provider_batches", tuple(row), [tuple(row.values())])

    def find(self, key: str) -> Row:
        """One batch.

        Raises:
            InputError: there is none of this id.
        """
        rows = self._app.store.read(f"SELECT {_COLUMNS} FROM provider_batches WHERE id = ?", [key])
        if not rows:
            raise InputError(f"there is no provider batch {key}", cure="Those that there are: ai.batches().")
        return Row(*rows[0])

    def change(self, key: str, **values: Any) -> None:
        values["updated_at"] = utc_now()
        names = ", ".join(f"{name} = ?" for name in values)
        self._run(f"UPDATE provider_batches SET {names} WHERE id = ?", [*values.values(), key])

    def claim(self, key: str) -> bool:
        """Whether this process may send it: nobody else who lives is about to."""
        sql = "UPDATE provider_batches SET session_id = $1 WHERE id = $2 AND (session_id IS NULL OR session_id = $1)"
        return bool(self._run(f"{sql} RETURNING id", [self._app.store.session_id, key]))

    def release(self, key: str) -> None:
        sql = "UPDATE provider_batches SET session_id = NULL WHERE id = ? AND session_id = ?"
        self._run(sql, [key, self._app.store.session_id])

    def _run(self, sql: str, params: list[Any]) -> list[tuple[Any, ...]]:
        with self._app.store.transaction() as execute:
            return execute(sql, params)

    # ------------------------------------------------------------------------------------------ sets
    def open_ids(self) -> list[str]:
        """Those that are not over, the oldest first."""
        sql = f"SELECT id::VARCHAR FROM provider_batches WHERE {_OPEN} ORDER BY id"
        return [key for (key,) in self._app.store.read(sql)]

    def left_unwritten(self) -> list[str]:
        """Those whose process ended before its requests were all written: nothing was sent."""
        sql = "SELECT id::VARCHAR FROM provider_batches WHERE state = 'writing' AND session_id IS NULL"
        return [key for (key,) in self._app.store.read(sql)]

    def under_way(self, keys: Iterable[str]) -> dict[str, str]:
        """Cache key -> the batch that has that request under way."""
        return dict(self._app.store.read(_UNDER_WAY, [list(keys)]))

    def unanswered(self, key: str) -> list[str]:
        """The requests of a batch that have no outcome, in order."""
        return [request for (request,) in self._app.store.read(_UNANSWERED, [key])]

    def spent(self, key: str) -> float:
        """US dollars of its requests that have an outcome; by estimate where nobody said."""
        return float(self._app.store.read(_SPENT, [key])[0][0])

    def content(self, key: str) -> bytes | None:
        """The file of its requests; None where they have no content."""
        rows = self._app.store.read("SELECT id::VARCHAR, body FROM requests WHERE session_id = ? ORDER BY id", [key])
        if any(body is None for _, body in rows):
            return None
        return b"".join(request_line(request, body) for request, body in rows)

    def dones(self, keys: Sequence[str]) -> dict[str, Done]:
        """Cache key -> what that request came to, for all requests of these batches that have an outcome."""
        return {row[0]: _done(*row[1:]) for row in self._app.store.read(_ENDS, [list(keys)])}


# ---------------------------------------------------------------------------------------------- outcomes
def read_outcomes(row: Row, lines: list[bytes], ours: set[str]) -> list[Outcome]:
    """The outcomes that lines of a file tell of; of our requests only, whatever it says."""
    found = (line for line in map(read_line, lines) if line is not None)
    return [_outcome(row, line) for line in {line.custom_id: line for line in found if line.custom_id in ours}.values()]


def _outcome(row: Row, line: Line) -> Outcome:
    reading = line.reading
    cost = batch_cost(row.provider, reading.model or row.model, reading.usage)
    return Outcome(
        request_id=line.custom_id,
        received_at=utc_now(),
        status=(Status.ERROR if reading.error_message else Status.OK).value,
        http_status=line.http_status,
        content_type=None if line.body is None else "application/json",
        body=line.body,
        body_size=None if line.body is None else len(line.body.encode()),
        text=reading.text,
        finish_reason=reading.finish_reason,
        model=reading.model,
        input_tokens=reading.usage.input_tokens,
        cached_tokens=reading.usage.cached_tokens,
        output_tokens=reading.usage.output_tokens,
        reasoning_tokens=reading.usage.reasoning_tokens,
        cost_usd=0.0 if line.http_status is None else cost,
        error_code=reading.error_code,
        error_message=reading.error_message,
        provider_request_id=line.provider_request_id,
    )


_WHY = {
    "expired": (Status.ERROR, "batch_expired", "the provider's batch expired before this request was answered"),
    "cancelled": (Status.CANCELED, "batch_cancelled", "the provider's batch was canceled before this was answered"),
}


def unanswered(request: str, remote: Remote) -> Outcome:
    """Of a request that is in no file."""
    if remote.state == "completed":  # it may have been billed
        said = "the provider's batch ended without an answer to this request"
        return Outcome(request, utc_now(), Status.ERROR.value, error_code="no_answer", error_message=said)
    refused = f"the provider refused the batch: {remote.error_message or 'no reason given'}"
    status, code, why = _WHY.get(remote.state, (Status.ERROR, remote.error_code or "batch_failed", refused))
    free = {"input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0}
    return Outcome(request, utc_now(), status.value, error_code=code, error_message=why, **free)  # type: ignore[arg-type]


def not_sent(request: str, why: str) -> Outcome:
    return Outcome(
        request, utc_now(), Status.CANCELED.value, cost_usd=0.0, error_code=NOT_SENT, error_message=f"not sent: {why}"
    )


def _done(
    request_id: str,
    status: str,
    http_status: int | None,
    text: str | None,
    finish_reason: str | None,
    input_tokens: int | None,
    cached_tokens: int | None,
    output_tokens: int | None,
    cost: float | None,
    code: str | None,
    message: str | None,
) -> Done:
    usage: dict[str, Any] = {
        "input_tokens": input_tokens or 0,
        "cached_tokens": cached_tokens or 0,
        "output_tokens": output_tokens or 0,
        "cost": cost,
    }
    if status == Status.OK:
        return Done.of_answer(text, finish_reason, request_id, **usage)
    again = code in _RETRYABLE or http_status in (408, 409, 429) or (http_status or 0) >= 500
    said = message or code or status
    error = CallError(
        said if http_status is None else f"the provider answered {http_status}: {said}",
        cure="Run it again." if again else "Change the request as the message says.",
        code=code,
        retryable=again,
        request_id=request_id,
    )
    return Done(None, request_id, error=error, **usage)
