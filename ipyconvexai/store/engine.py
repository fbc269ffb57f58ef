"""What can be done with one ledger file, in the process that holds it: write, read, transactions, changes.

The keeper serves it to other processes; ``:memory:`` ledgers use it in a thread of their own process. Calls
``database``, ``writer`` and ``turn``.
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
from ipyconvexai.store import abandoned, faults, rewriting
from ipyconvexai.store.admission import Admission
from ipyconvexai.store.clock import Clock, utc_now
from ipyconvexai.store.database import MEMORY, Database
from ipyconvexai.store.purging import Criteria, Kind, found
from ipyconvexai.store.transaction import COMMIT, Statement
from ipyconvexai.store.turn import Turn, single_query
from ipyconvexai.store.view import View
from ipyconvexai.store.writer import Alone, Insert, Outcomes, Work, Write, Writer

__all__ = ["Engine"]

NOTICE_PAUSE = 0.05  # seconds between two change notices to one listener

Started = Callable[[Callable[[], None]], None]  # is given what interrupts the query that now begins


class Engine:
    def __init__(self, path: str, clock: Clock | None = None) -> None:
        """`clock`: what limits and budgets go by."""
        self._database = Database(path)
        self._listeners: set[queue.SimpleQueue[set[str]]] = set()
        self._admission = Admission(self._database, clock)
        self._writer = Writer(self._database, self._tell, self._admission)
        self._closed = False

    def write(self, inserts: list[Insert], again: bool = False) -> Future[Outcomes]:
        """Outcomes of `inserts`, one each, once they are durable."""
        job = Write(inserts, again)
        self._writer.submit(job)
        return job.outcome

    @property
    def limited(self) -> bool:
        """Whether calls are judged by limits, as far as is known."""
        return self._admission.limited

    def limits(self) -> list[tuple[Any, ...]]:
        """What is used of each limit; see ``LimitRow``."""
        return self.work(lambda cursor: self._admission.rows()).result()  # type: ignore[no-any-return]

    # ------------------------------------------------------------------------------------------ reading
    def read(self, sql: str, params: Any = None, started: Started | None = None) -> list[tuple[Any, ...]]:
        """Rows, on a cursor of its own; for the package's own SQL."""
        with self._cursor(started) as cursor:
            return cursor.execute(sql, params).fetchall()

    def read_arrow(
        self,
        sql: str,
        params: Any = None,
        frames: Mapping[str, bytes] | None = None,
        started: Started | None = None,
    ) -> bytes:
        """The result as an Arrow IPC stream; `frames` are tables of the caller (Arrow IPC streams), by name.

        Anyone's SQL may come here: external access is off, settings are locked, and it is one statement in a read-only
        transaction, so nothing can be written.
        """
        import pyarrow as pa  # 30 MB and 0.15 s, and a keeper without such readers never needs it

        with self._cursor(started) as cursor:
            statement = single_query(cursor, sql)
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            try:
                for name, data in (frames or {}).items():
                    cursor.register(name, pa.ipc.open_stream(data).read_all())
                relation = cursor.sql(statement, params=params)
                table = relation.to_arrow_table() if relation is not None else pa.table({})
            finally:
                with contextlib.suppress(duckdb.Error):
                    cursor.rollback()
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return sink.getvalue()

    @contextlib.contextmanager
    def _cursor(self, started: Started | None) -> Iterator[duckdb.DuckDBPyConnection]:
        generation = -1
        try:
            with self._database.cursor() as cursor:
                generation = self._database.generation
                if started is not None:
                    started(cursor.interrupt)
                yield cursor
        except duckdb.Error as error:
            if faults.is_damage(error, self._database.path):
                self._database.leave_as_it_is(generation)
            if faults.is_fatal(error):
                self._database.discard(generation)
            if self._database.is_closed:
                raise errors.ClosedError() from None
            raise faults.translate(error, self._database.path) from None

    # ------------------------------------------------------------------------------------------ transactions, work
    def begin(self, statements: list[Statement]) -> tuple[Turn, Any]:
        """A transaction that has the writer to itself, and the result of its first `statements`; waits for its turn."""
        turn = Turn(statements, closed=bool(statements) and statements[-1] == COMMIT)
        self._writer.submit(turn)
        return turn, turn.first()

    def view(self, limit: float | None = None) -> View:
        """A snapshot; each statement may take `limit` seconds. To be closed."""
        return View(self._database, limit)

    def work(self, run: Callable[[duckdb.DuckDBPyConnection], Any], *tables: str) -> Future[Any]:
        """The result of `run`, which is given a cursor in a transaction of its own; `tables` are those it changes."""
        job = Work(run, frozenset(tables))
        self._writer.submit(job)
        return job.outcome

    def unfinished(self) -> dict[str, list[str]]:
        """Session id -> the ids of its requests that have no outcome. On a reading cursor: it stops no writer.

        What a provider has as a batch is under way without a process.
        """
        rows = self.read(
            "SELECT r.session_id::VARCHAR, list(r.id::VARCHAR) FROM requests r"
            " ANTI JOIN responses s ON s.request_id = r.id"
            " ANTI JOIN (SELECT id FROM provider_batches WHERE state NOT IN ('collected', 'failed')) p"
            " ON p.id = r.session_id GROUP BY 1"
        )
        return dict(rows)

    def mark_unknown(self, requests: list[str]) -> Future[None]:
        """Give those of `requests` that have no outcome the outcome ``unknown``."""

        def mark(cursor: duckdb.DuckDBPyConnection) -> None:
            _mark_unknown(cursor, requests)
            self._admission.unknown(requests)

        return self.work(mark, "responses")

    def working(self) -> set[str]:
        """Sessions that have jobs or messages under way."""
        return {session for (session,) in self.read(abandoned.WORKING)}

    def give_up(self, sessions: list[str]) -> Future[None]:
        """Give up the jobs and messages that `sessions` had under way; they are gone."""
        return self.work(lambda cursor: abandoned.give_up(cursor, sessions), *abandoned.TABLES)

    def purge(self, criteria: Criteria) -> list[Kind]:
        """Remove the content of rows for good; gives what was removed. Everybody waits meanwhile."""
        tables = rewriting.TABLES
        if self._database.path == MEMORY:
            return self.work(lambda cursor: rewriting.clear(cursor, criteria), *tables).result()  # type: ignore[no-any-return]

        def write() -> list[Kind]:
            if all(Kind(*kind).open for kind in self.read(*found(criteria))):
                return []  # another notebook has had it done, and writing the file anew stops everybody
            return self._database.rewrite(lambda path, config: rewriting.rewrite(path, config, criteria))

        job = Alone(write, frozenset(tables))
        self._writer.submit(job)
        return job.outcome.result()  # type: ignore[no-any-return]

    # ------------------------------------------------------------------------------------------ changes
    def listen(self) -> Iterator[set[str]]:
        """Names of the tables that changed, after commits, about once a second at the least (then maybe empty).

        The first set is empty and comes at once: from then on no change is missed.
        """
        names: queue.SimpleQueue[set[str]] = queue.SimpleQueue()
        self._listeners.add(names)
        try:
            yield set()
            while not self._closed:
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
        if "limits" in tables:
            self._admission.look_again()
        if tables:
            for names in list(self._listeners):
                names.put(tables)

    def close(self) -> None:
        """Finish what is queued, then close the file."""
        self._closed = True
        self._writer.close()


def _mark_unknown(cursor: duckdb.DuckDBPyConnection, requests: list[str]) -> None:
    cursor.execute(
        """
        INSERT INTO responses (request_id, received_at, status, error_code, error_message)
        SELECT k.id, ?, 'unknown', 'unknown',
               'the process that sent it ended before the outcome was recorded; it may have been billed'
        FROM (SELECT unnest(?::UUID[]) AS id) k ANTI JOIN responses s ON s.request_id = k.id
        """,
        [utc_now(), requests],
    )
