"""The rows that a batch leaves: one of ``batches``, brought up to date every two seconds, and one of ``batch_items``
for each input that is settled. Calls the store.

Promises: who reads ``batches`` sees how far each batch is, in every process; what was said there (pause, resume,
cancel) is heard within two seconds; a process that ends leaves no batch "running" (the keeper sees to that).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ipyconvexai.batch.asks import Result
from ipyconvexai.batch.collector import put_off
from ipyconvexai.batch.control import Control
from ipyconvexai.batch.runner import Item
from ipyconvexai.errors import Error, TransactionError
from ipyconvexai.settings import plain_word, redact
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.ledger import document_id
from ipyconvexai.store.link import Execute, Store

__all__ = ["Entry", "Facts"]

BEAT = 2.0  # seconds
ITEMS_AT_ONCE = 1000
LONGEST_MESSAGE = 2000  # characters of an error that are kept

WRITES = 3
_ITEM = {
    "batch_id": "UUID",
    "row_numbers": "BIGINT[]",
    "label": "VARCHAR",
    "document_id": "UUID",
    "request_id": "UUID",
    "known": "BOOLEAN",
    "status": "VARCHAR",
    "error_code": "VARCHAR",
    "error_message": "VARCHAR",
    "requests": "INTEGER",
    "tokens": "BIGINT",
    "cost_usd": "DOUBLE",
}
_PART = {
    "batch_id": "UUID",
    "row_numbers": "BIGINT[]",
    "round": "INTEGER",
    "part": "INTEGER",
    "inputs": "VARCHAR",
    "request_id": "UUID",
}
_COUNTS = "total_rows items known done failed requests input_tokens cached_tokens output_tokens cost_usd".split()


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a batch before it begins; the columns of ``batches``. `options` is JSON."""

    id: str
    kind: str
    source: str
    input: str
    into_column: str
    provider: str
    model: str
    engine: str | None
    options: str
    fingerprint: str
    budget_usd: float | None
    user_id: str | None
    notebook: str | None
    cell_id: str | None
    job_id: str | None


class Entry:
    """A batch that runs, as the ledger sees it. Everything but ``count`` blocks no longer than the store."""

    def __init__(self, store: Store, facts: Facts, control: Control, keeps_content: bool = True) -> None:
        self._store = store
        self.facts = facts
        self._control = control
        self._keeps = keeps_content
        self.counts: dict[str, Any] = dict.fromkeys(_COUNTS, 0) | {"cost_usd": 0.0}
        self._items: list[tuple[Any, ...]] = []
        self._parts: list[tuple[Any, ...]] = []
        self._writing: list[Future[None]] = []
        self._writer = ThreadPoolExecutor(1, "ipyconvexai-batch")
        self._ended = False

    # ------------------------------------------------------------------------------------------ begin and end
    def begin(self) -> None:
        """Write the row; where there is one of this id, it goes on. Blocking."""
        facts, now = self.facts, utc_now()
        columns = {name: getattr(facts, name) for name in Facts.__slots__}
        columns |= {"state": "running", "session_id": self._store.session_id, "updated_at": now, **self.counts}
        with self._store.transaction() as execute:
            if execute("SELECT 1 FROM batches WHERE id = ?::UUID", [facts.id]):
                sets = ", ".join(f"{name} = ?" for name in columns if name != "id")
                values = [value for name, value in columns.items() if name != "id"]
                execute.later(
                    f"UPDATE batches SET {sets}, wanted = NULL, finished_at = NULL, error_code = NULL,"
                    " error_message = NULL WHERE id = ?::UUID",
                    [*values, facts.id],
                )
                self._go_on_from(execute)
                for table in ("batch_items", "batch_parts"):  # they are written anew, most of them as known
                    execute.later(f"DELETE FROM {table} WHERE batch_id = ?::UUID", [facts.id])
            else:
                columns["created_at"] = now
                names, marks = ", ".join(columns), ", ".join("?" * len(columns))
                execute.later(f"INSERT INTO batches ({names}) VALUES ({marks})", list(columns.values()))

    def _go_on_from(self, execute: Execute) -> None:
        """What the requests of the earlier runs took is part of what the batch took."""
        names = ("requests", "input_tokens", "cached_tokens", "output_tokens", "cost_usd")
        sums = ", ".join(f"coalesce(sum({name}), 0)" for name in names[1:])
        rows = execute(f"SELECT count(*), {sums} FROM calls WHERE batch_id = ?::UUID", [self.facts.id])
        for name, value in zip(names, rows[0], strict=True):
            self.counts[name] += float(value) if name == "cost_usd" else int(value)

    def end(self, state: str, error: Error | None = None) -> None:
        """Write what is left. Blocking; again it does nothing."""
        if self._ended:
            return
        self._ended = True
        self._flush()
        self._writer.shutdown()
        for written in self._writing:
            written.result()
        now = utc_now()
        with self._store.transaction() as execute:
            execute.later(
                f"UPDATE batches SET {', '.join(f'{name} = ?' for name in self.counts)}, state = ?, error_code = ?,"
                " error_message = ?, updated_at = ?, finished_at = ?, session_id = NULL WHERE id = ?::UUID",
                [*self.counts.values(), state, *_told(error, self._keeps), now, now, self.facts.id],
            )

    # ------------------------------------------------------------------------------------------ meanwhile
    def settled(self, item: Item) -> None:
        """Count an input that has its result, and keep what became of it. On the loop; writes without waiting."""
        result = item.result or Result()
        counts = self.counts
        counts["known" if result.known else "done"] += 1
        counts["failed"] += result.is_failed
        sent = result.sent
        counts["requests"] += sent.requests
        counts["input_tokens"] += sent.input_tokens
        counts["cached_tokens"] += sent.cached_tokens
        counts["output_tokens"] += sent.output_tokens
        counts["cost_usd"] += sent.cost or 0.0
        self._items.append(self._row(item, item.rows, result))
        for part in result.parts:
            self._parts.append(
                (self.facts.id, list(item.rows), part.round, part.part, json.dumps(part.inputs), part.request_id)
            )
        if len(self._items) >= ITEMS_AT_ONCE:
            self._flush()

    def met_again(self, item: Item, rows: list[int]) -> None:
        """More rows with an input that was settled before."""
        if item.result is not None:
            self._items.append(self._row(item, rows, item.result))

    def _row(self, item: Item, rows: list[int], result: Result) -> tuple[Any, ...]:
        row = _row(self.facts.id, item, rows, result)
        if self._keeps:
            return row
        # A label is of cells, and a provider's words may quote the text.
        values = dict(zip(_ITEM, row, strict=True))
        values |= {"label": None, "error_code": plain_word(values["error_code"]), "error_message": None}
        return tuple(values.values())

    def _flush(self) -> None:
        for table, columns, rows in (("batch_items", _ITEM, self._items), ("batch_parts", _PART, self._parts)):
            if rows:
                self._writing = [write for write in self._writing if not write.done() or write.exception()]
                self._writing.append(self._writer.submit(self._write, table, columns, list(rows)))
                rows.clear()

    def _write(self, table: str, columns: dict[str, str], rows: list[tuple[Any, ...]]) -> None:
        sql, values = _insert(table, columns, rows)
        for tries in range(WRITES):
            try:
                with put_off(), self._store.transaction() as execute:
                    execute.later(sql, values)
            except TransactionError:
                if tries == WRITES - 1:
                    raise
            else:
                return

    async def beat(self) -> None:
        """Until it is cancelled: write how far it is, and hear what others say."""
        while True:
            await asyncio.sleep(BEAT)
            self._flush()
            with contextlib.suppress(Error):  # the next one will do
                wanted = await asyncio.to_thread(self._write_counts)
                {"pause": self._control.pause, "resume": self._control.resume, "cancel": self._control.cancel}.get(
                    wanted or "", _nothing
                )()

    def _write_counts(self) -> str | None:
        state = self._control.state
        sets = ", ".join(f"{name} = ?" for name in self.counts)
        with self._store.transaction() as execute:
            rows = execute("SELECT wanted FROM batches WHERE id = ?::UUID", [self.facts.id])
            execute.later(
                f"UPDATE batches SET {sets}, state = ?, wanted = NULL, updated_at = ?"
                " WHERE id = ?::UUID AND finished_at IS NULL",
                [*self.counts.values(), "paused" if state == "paused" else "running", utc_now(), self.facts.id],
            )
        return rows[0][0] if rows else None


def _insert(table: str, columns: dict[str, str], rows: list[tuple[Any, ...]]) -> tuple[str, list[Any]]:
    """By columns: a tenth of what the same rows one by one cost the keeper; what is the same in all rows travels once,
    which halves that."""
    values = [list(column) for column in zip(*rows, strict=True)]
    varies = [column.count(column[0]) < len(rows) for column in values]
    if not any(varies):
        varies[0] = True  # else they would be one row
    marks = [
        f"unnest(?::{kind}[])" if many else f"?::{kind}" for kind, many in zip(columns.values(), varies, strict=True)
    ]
    sql = f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(marks)}"
    return sql, [column if many else column[0] for column, many in zip(values, varies, strict=True)]


def _nothing() -> None:
    """Nobody said anything."""


def _row(batch_id: str, item: Item, rows: list[int], result: Result) -> tuple[Any, ...]:
    document = document_id(item.text) if item.document and item.text is not None else None
    return (
        batch_id, list(rows), item.label, document, result.done.request_id, result.known,
        "error" if result.is_failed else "ok", *_told(result.error),
        result.total.requests, result.total.tokens, result.total.cost,
    )  # fmt: skip


def _told(error: Error | None, keeps_content: bool = True) -> tuple[str | None, str | None]:
    if error is None:
        return None, None
    if not keeps_content:
        return plain_word(error.code), None
    return error.code, redact(error.message)[:LONGEST_MESSAGE]
