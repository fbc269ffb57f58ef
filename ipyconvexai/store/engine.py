"""What can be done with one ledger file, in the process that holds it: write, read, transactions, changes.

The keeper serves it to other processes; ``:memory:`` ledgers use it in a thread of their own process. Calls
``database`` and ``writer``.
"""

from __future__ import annotations

import contextlib
import io
import queue
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import duckdb

from ipyconvexai import errors
from ipyconvexai.store import faults
from ipyconvexai.store.database import Database
from ipyconvexai.store.migrations import utc_now
from ipyconvexai.store.writer import Insert, Turn, Work, Write, Writer

__all__ = ["Engine"]

NOTICE_PAUSE = 0.05  # seconds between two change notices to one listener


class Engine:
    def __init__(self, path: str) -> None:
        self._database = Database(path)
        self._listeners: set[queue.SimpleQueue[set[str]]] = set()
        self._writer = Writer(self._database, self._tell)

    def write(self, inserts: list[Insert], again: bool = False) -> Future[list[errors.Error | None]]:
        """Outcomes of `inserts`, one each, once they are durable."""
        job = Write(inserts, again)
        self._writer.submit(job)
        return job.outcome

    def read(self, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
        """Rows, on a cursor of its own; for the package's own SQL."""
        with self._database.cursor() as cursor, self._translated():
            return cursor.execute(sql, params).fetchall()

    def read_arrow(self, sql: str, params: Any = None, frames: Mapping[str, bytes] | None = None) -> bytes:
        """The result as an Arrow IPC stream, in a read-only transaction; `frames` are tables of the caller, by name.

        Anyone's SQL may come here: external access is off, and nothing can be written.
        """
        import pyarrow as pa  # 30 MB and 0.15 s, and a keeper without such readers never needs it

        with self._database.cursor() as cursor, self._translated():
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            try:
                for name, data in (frames or {}).items():
                    cursor.register(name, pa.ipc.open_stream(data).read_all())
                relation = cursor.sql(sql, params=params)
                table = relation.to_arrow_table() if relation is not None else pa.table({})
            finally:
                with contextlib.suppress(duckdb.Error):
                    cursor.rollback()
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return sink.getvalue()

    def begin(self) -> Turn:
        """A transaction that has the writer to itself; waits for its turn."""
        turn = Turn()
        self._writer.submit(turn)
        turn.started.result()
        return turn

    def work(self, run: Callable[[duckdb.DuckDBPyConnection], Any], *tables: str) -> Future[Any]:
        job = Work(run, frozenset(tables))
        self._writer.submit(job)
        return job.outcome

    def mark_unknown(self, dead: list[str], living: list[str] | None = None) -> Future[int]:
        """Give intents without an outcome the outcome ``unknown``: those of the sessions in `dead`, or, with `living`
        (session ids), of every other session."""
        return self.work(lambda cursor: _mark_unknown(cursor, dead, living), "responses")

    def listen(self) -> Iterator[set[str]]:
        """Names of the tables that changed, after commits, about once a second at the least (then maybe empty)."""
        names: queue.SimpleQueue[set[str]] = queue.SimpleQueue()
        self._listeners.add(names)
        try:
            while True:
                tables: set[str] = set()
                with contextlib.suppress(queue.Empty):
                    tables |= names.get(timeout=1)
                    while True:
                        tables |= names.get_nowait()
                yield tables
                time.sleep(NOTICE_PAUSE)
        finally:
            self._listeners.discard(names)

    def _tell(self, tables: set[str]) -> None:
        if tables:
            for names in list(self._listeners):
                names.put(tables)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            if faults.is_fatal(error):
                self._database.discard()
            raise faults.translate(error, self._database.path) from None

    def close(self) -> None:
        self._writer.close()


def _mark_unknown(cursor: duckdb.DuckDBPyConnection, dead: list[str], living: list[str] | None) -> int:
    chosen = "IN" if living is None else "NOT IN"
    rows = cursor.execute(
        f"""
        INSERT INTO responses (request_id, received_at, status, error_code, error_message)
        SELECT r.id, ?, 'unknown', 'unknown',
               'the process that sent it ended before the outcome was recorded; it may have been billed'
        FROM requests r ANTI JOIN responses s ON s.request_id = r.id
        WHERE r.session_id {chosen} (SELECT unnest(?::UUID[]))
        """,
        [utc_now(), dead if living is None else living],
    ).fetchall()
    return int(rows[0][0])
