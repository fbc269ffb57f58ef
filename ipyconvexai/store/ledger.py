"""The ledger: requests and responses, before they are sent and before anyone sees them.

Floor 1: calls the store's link, settings and values. Promises: what is written passed ``redact``; with
``record="metadata"`` no content is written; ``admit`` and ``settle`` return when the row is durable.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ipyconvexai.ids import uuid_of
from ipyconvexai.settings import plain_word, redact, redact_bytes
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.link import Store
from ipyconvexai.store.pipe import LoopReceipt, ThreadReceipt

__all__ = ["Intent", "Known", "Ledger", "Outcome", "Recording", "content_hash", "document_id", "utc_now"]


class Intent(NamedTuple):
    """A row of ``requests``; the fields are its columns."""

    id: str
    attempt: int
    retry_of: str | None
    sent_at: datetime.datetime
    provider: str
    model: str | None
    endpoint: str
    base_url: str
    stream: bool
    cache_key: str
    body: str | None
    body_bytes: bytes | None
    body_size: int
    user_id: str | None
    source: str
    notebook: str | None
    cell_id: str | None
    conversation_id: str | None
    batch_id: str | None
    session_id: str
    reserved_tokens: int | None = None
    reserved_usd: float | None = None


class Outcome(NamedTuple):
    """A row of ``responses``; the fields are its columns."""

    request_id: str
    received_at: datetime.datetime
    status: str
    http_status: int | None = None
    content_type: str | None = None
    body: str | None = None
    body_bytes: bytes | None = None
    body_size: int | None = None
    text: str | None = None
    finish_reason: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: float | None = None
    first_token_ms: float | None = None
    duration_ms: float | None = None
    error_code: str | None = None
    error_message: str | None = None
    provider_request_id: str | None = None


class Recording(NamedTuple):
    """What a replay needs of a recorded call."""

    request_id: str
    http_status: int
    content_type: str | None
    body: str | None
    body_bytes: bytes | None

    @property
    def content(self) -> bytes:
        return self.body_bytes if self.body is None else self.body.encode()  # type: ignore[return-value] # one is set


class Known(NamedTuple):
    """A recorded answer, as far as one who asks for its text wants to know it."""

    request_id: str
    text: str
    finish_reason: str | None
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None


_ANSWERS = """
SELECT key::VARCHAR, request_id::VARCHAR, s.text, s.finish_reason, s.input_tokens, s.cached_tokens, s.output_tokens,
       s.cost_usd
FROM (
    SELECT k.key, max(r.id) AS request_id
    FROM (SELECT unnest($keys::UUID[]) AS key) k
    JOIN requests r ON r.cache_key = k.key
    JOIN responses a ON a.request_id = r.id
    WHERE a.status = 'ok' AND a.text IS NOT NULL AND ($batch IS NULL OR r.batch_id = $batch::UUID)
    GROUP BY k.key
) JOIN responses s USING (request_id)
"""
_WORDED = ("content_type", "finish_reason", "model", "error_code", "provider_request_id")
_DOCUMENTS = uuid.UUID("5c1ffa3e-7a11-5a0e-9d6c-3f0f6b0f7f0d").bytes


def document_id(content: str) -> str:
    """The id of a document: the same for equal texts (a UUIDv5, RFC 9562, of the content)."""
    # Half characters count as the question marks that they are kept as.
    return uuid_of(hashlib.sha1(_DOCUMENTS + content.encode("utf-8", "replace"), usedforsecurity=False).digest(), 5)


def content_hash(content: str) -> str:
    """SHA-256 of a text in UTF-8, in hex."""
    return hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()


class Ledger:
    """`record` is "full" or "metadata"; a call may ask for less, never for more."""

    def __init__(self, store: Store, *, record: str = "full") -> None:
        self.store = store
        self.record = record

    @property
    def keeps_content(self) -> bool:
        """Whether what is asked and answered is written down, where a call asks for no less."""
        return self.record == "full"

    # ------------------------------------------------------------------------------------------ the way of a call
    async def admit(self, intent: Intent, *, record: str | None = None, note: dict[str, Any] | None = None) -> None:
        """Write the intent; returns when it is durable. Limits and budgets are judged here, in the same step.

        `note`: how it asks; see ``admission``.

        Raises:
            LimitError: a limit or a budget forbids it; no row was written.
        """
        receipt = LoopReceipt()
        self.store.append("requests", Intent._fields, [self._clean_intent(intent, record)], receipt, note=note)
        await receipt.future

    async def admit_all(
        self, intents: Iterable[Intent], *, record: str | None = None, note: dict[str, Any] | None = None
    ) -> None:
        """The same for several intents: all of them or none.

        Raises:
            LimitError: a limit or a budget forbids one of them; no row was written.
        """
        receipt = LoopReceipt()
        rows = [self._clean_intent(intent, record) for intent in intents]
        self.store.append("requests", Intent._fields, rows, receipt, note=note)
        await receipt.future

    def withdraw(self, request_id: str) -> None:
        """Who was refused asks no more: nobody needs to stand behind it."""
        self.store.append("requests", Intent._fields, [], lambda error: None, note={"withdraw": request_id})

    async def settle(
        self,
        outcome: Outcome,
        *,
        record: str | None = None,
        note: dict[str, Any] | None = None,
        sent: Callable[[], None] | None = None,
    ) -> None:
        """Write the outcome; returns when it is durable.

        `note`: what the provider says of its limits; `sent` is called, where there is a keeper, once it has the
        outcome: from then on it outlives this process.
        """
        receipt = LoopReceipt(sent)
        self.store.append("responses", Outcome._fields, [self._clean_outcome(outcome, record)], receipt, note=note)
        await receipt.future

    async def settle_all(self, outcomes: Iterable[Outcome], *, record: str | None = None) -> None:
        """Write the outcomes of several requests; those that have one keep it."""
        receipt = LoopReceipt()
        rows = [self._clean_outcome(outcome, record) for outcome in outcomes]
        self.store.append("responses", Outcome._fields, rows, receipt, if_new=True)
        await receipt.future

    def settle_later(self, outcome: Outcome, *, record: str | None = None, note: dict[str, Any] | None = None) -> None:
        """Write the outcome without waiting, where nobody waits any more: after a cancellation."""
        row = self._clean_outcome(outcome, record)
        self.store.append("responses", Outcome._fields, [row], lambda error: None, note=note)

    def mean_usage(self, provider: str, model: str, endpoint: str) -> tuple[int, float, float] | None:
        """How many good answers there were of late, input tokens per byte of a body, and output tokens per answer."""
        rows = self.store.read(
            """
            SELECT count(*), sum(s.input_tokens) / nullif(sum(r.body_size), 0), avg(s.output_tokens)
            FROM requests r JOIN responses s ON s.request_id = r.id
            WHERE r.provider = ? AND r.model = ? AND r.endpoint = ? AND s.status = 'ok' AND s.input_tokens IS NOT NULL
              AND r.sent_at > ?
            """,
            [provider, model, endpoint, utc_now() - datetime.timedelta(days=30)],
        )
        count, per_byte, written = rows[0]
        return (count, per_byte, written or 0.0) if count and per_byte is not None else None

    def keeps(self, record: str | None) -> bool:
        """The same of a call that asks for `record`."""
        return self.keeps_content and record != "metadata"

    def _clean_intent(self, intent: Intent, record: str | None) -> tuple[Any, ...]:
        if not self.keeps(record):
            return tuple(intent._replace(body=None, body_bytes=None))
        return tuple(
            intent._replace(
                body=None if intent.body is None else redact(intent.body),
                body_bytes=None if intent.body_bytes is None else redact_bytes(intent.body_bytes),
            )
        )

    def _clean_outcome(self, outcome: Outcome, record: str | None) -> tuple[Any, ...]:
        if not self.keeps(record):
            # An error message may quote the prompt, and so may all else that a provider words.
            worded: dict[str, Any] = {name: plain_word(getattr(outcome, name)) for name in _WORDED}
            return tuple(outcome._replace(body=None, body_bytes=None, text=None, error_message=None, **worded))
        message = None if outcome.error_message is None else redact(outcome.error_message)
        return tuple(
            outcome._replace(
                body=None if outcome.body is None else redact(outcome.body),
                body_bytes=None if outcome.body_bytes is None else redact_bytes(outcome.body_bytes),
                text=None if outcome.text is None else redact(outcome.text),
                error_message=message,
            )
        )

    # ------------------------------------------------------------------------------------------ replay and resume
    async def recorded(self, cache_key: str) -> Recording | None:
        """The newest good answer to the call with this key, with its content; None when there is none."""
        return await asyncio.to_thread(self._recorded, cache_key)

    def _recorded(self, cache_key: str) -> Recording | None:
        # Two lookups by index. One join with ORDER BY ... LIMIT 1 would scan: Top-N disables the ART index.
        ids = [row[0] for row in self.store.read("SELECT id::VARCHAR FROM requests WHERE cache_key = ?", [cache_key])]
        for request_id in sorted(ids, reverse=True):
            rows = self.store.read(
                "SELECT request_id::VARCHAR, http_status, content_type, body, body_bytes FROM responses"
                " WHERE request_id = ? AND status = 'ok' AND (body IS NOT NULL OR body_bytes IS NOT NULL)",
                [request_id],
            )
            if rows:
                return Recording(*rows[0])
        return None

    async def recorded_without_content(self, cache_key: str) -> bool:
        """Whether the call with this key was answered well, but is kept as metadata only."""
        sql = "SELECT 1 FROM requests r JOIN responses s ON s.request_id = r.id WHERE r.cache_key = ?"
        sql += " AND s.status = 'ok' AND s.body IS NULL AND s.body_bytes IS NULL LIMIT 1"
        return bool(await asyncio.to_thread(self.store.read, sql, [cache_key]))

    def answers(self, cache_keys: Iterable[str], batch_id: str | None = None) -> dict[str, Known]:
        """Cache key -> the newest good answer, for those that have one; `batch_id`: only what that batch was answered.

        One set-wise join.
        """
        rows = self.store.read(_ANSWERS, {"keys": list(cache_keys), "batch": batch_id})
        return {row[0]: Known(*row[1:]) for row in rows}

    def tried(self, cache_keys: Iterable[str]) -> set[str]:
        """Those of `cache_keys` that were ever sent, whatever came of it."""
        rows = self.store.read(
            """
            SELECT DISTINCT k.key::VARCHAR FROM (SELECT unnest(?::UUID[]) AS key) k
            JOIN requests r ON r.cache_key = k.key LEFT JOIN responses s ON s.request_id = r.id
            WHERE s.status IS DISTINCT FROM 'refused'
            """,
            [list(cache_keys)],
        )
        return {key for (key,) in rows}

    # ------------------------------------------------------------------------------------------ other rows
    def add(self, table: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]], *, if_new: bool = False) -> None:
        """Write rows and wait until they are durable."""
        receipt = ThreadReceipt()
        self.store.append(table, columns, rows, receipt, if_new=if_new)
        receipt.result()

    def add_documents(
        self,
        contents: Iterable[str],
        source: str | None = None,
        about: Callable[[str], Mapping[str, Any]] | None = None,
    ) -> list[str]:
        """Keep each distinct text as a document; gives their ids, in order.

        `source`, and the metadata that `about` gives of a text, say where it was first met: a later meeting changes
        nothing.
        """
        texts = {document_id(content): content for content in contents}
        now, full = utc_now(), self.keeps_content
        rows = [
            (
                key,
                now,
                redact(text) if full else None,
                len(text),
                source,
                content_hash(text),
                None if about is None or not full else redact(json.dumps(about(text), ensure_ascii=False, default=str)),
            )
            for key, text in texts.items()
        ]
        columns = ("id", "created_at", "content", "size", "source", "content_hash", "metadata")
        receipts = []
        for start in range(0, len(rows), 256):
            receipt = ThreadReceipt()
            receipts.append(receipt)
            self.store.append("documents", columns, rows[start : start + 256], receipt, if_new=True)
        for receipt in receipts:
            receipt.result()
        return list(texts)

    def arrow(self, sql: str, params: Any = None, frames: Mapping[str, bytes] | None = None) -> bytes:
        """Any read-only SQL over the ledger; `frames` are Arrow IPC streams that it may name."""
        return self.store.read_arrow(sql, params, frames)
