"""The one writer: a thread through which every change of the database goes.

Calls ``database`` and ``faults``. Promises: rows that wait together are committed together (group commit over an open
appender); nobody is told before the commit is durable; one bad row fails alone; a transaction has the writer to itself,
ends within ``TURN_LIMIT`` and is rolled back unless it is committed. One writer for everything makes mutations
serialisable: DuckDB alone gives snapshot isolation.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import duckdb

from ipyconvexai import errors
from ipyconvexai.store import faults
from ipyconvexai.store.database import IDLE_CLOSE, Database

__all__ = ["Insert", "Turn", "Work", "Write", "Writer"]

GROUP_ROWS = 512  # rows in one commit at most
TURN_LIMIT = 1.0  # seconds a transaction may hold the writer

_CHANGED = re.compile(r'\b(?:INTO|UPDATE|DELETE\s+FROM|TABLE)\s+"?(\w+)', re.IGNORECASE)


class Insert(NamedTuple):
    """Rows for one table. The first column is its key: by it a repeated row is recognised."""

    table: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    if_new: bool = False  # leave out rows whose key is there already, without an error


@dataclass(slots=True)
class Write:
    """Inserts of one client message; each has its own outcome (None, or the error)."""

    inserts: list[Insert]
    again: bool = False  # sent once before to a keeper that died: its rows may be there
    outcome: Future[list[errors.Error | None]] = field(default_factory=Future)


@dataclass(slots=True)
class Work:
    """A function that runs in the writer in one transaction of its own."""

    run: Callable[[duckdb.DuckDBPyConnection], Any]
    tables: frozenset[str] = frozenset()
    outcome: Future[Any] = field(default_factory=Future)


class Turn:
    """One client's transaction: statements run in the writer until commit, rollback, an error or the limit."""

    def __init__(self) -> None:
        self.started: Future[None] = Future()
        self.statements: queue.SimpleQueue[tuple[str, Any, Future[Any]]] = queue.SimpleQueue()
        self.over = False
        self.interrupt: Callable[[], None] = lambda: None

    def execute(self, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
        """The rows of one statement; "COMMIT" and "ROLLBACK" end the turn."""
        outcome: Future[list[tuple[Any, ...]]] = Future()
        self.statements.put((sql, params, outcome))
        if self.over:
            self.refuse_rest()
        try:
            return outcome.result(TURN_LIMIT)
        except FutureTimeoutError:
            self.interrupt()
            return outcome.result()

    def refuse_rest(self) -> None:
        self.over = True
        with contextlib.suppress(queue.Empty):
            while True:
                self.statements.get_nowait()[2].set_exception(
                    errors.TransactionError(
                        f"the transaction is over: rolled back after an error or its limit of {TURN_LIMIT:g} s",
                        cure="Do less in one transaction, and slow work (a model call) outside of it.",
                    )
                )


class Writer:
    def __init__(self, database: Database, tell: Callable[[set[str]], None]) -> None:
        self._database = database
        self._tell = tell
        self._jobs: queue.SimpleQueue[Write | Work | Turn | None] = queue.SimpleQueue()
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self._generation = -1
        self._appenders: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._thread = threading.Thread(target=self._run, name="ipyconvexai-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Write | Work | Turn) -> None:
        self._jobs.put(job)

    def close(self) -> None:
        """Finish what is queued, then close the file. Exiting with a live appender would print leak reports."""
        self._jobs.put(None)
        self._thread.join()

    # ------------------------------------------------------------------------------------------ the thread
    def _run(self) -> None:
        waiting: Write | Work | Turn | None = None
        while True:
            try:
                job = waiting or self._jobs.get(timeout=IDLE_CLOSE / 4)
            except queue.Empty:
                self._release_if_idle()
                continue
            waiting = None
            if job is None:
                break
            if isinstance(job, Write):
                group, waiting, ended = self._gather(job)
                self._commit(group)
                if ended:
                    break
            elif isinstance(job, Work):
                self._work(job)
            else:
                self._take_turn(job)
        self._drop_cursor()
        self._database.close()

    def _gather(self, first: Write) -> tuple[list[Write], Write | Work | Turn | None, bool]:
        """What waits behind `first` and can be committed with it; the job that cannot; whether the end was met."""
        group, size = [first], sum(len(insert.rows) for insert in first.inserts)
        with contextlib.suppress(queue.Empty):
            while size < GROUP_ROWS:
                job = self._jobs.get_nowait()
                if not isinstance(job, Write):
                    return group, job, job is None
                group.append(job)
                size += sum(len(insert.rows) for insert in job.inserts)
        return group, None, False

    def _release_if_idle(self) -> None:
        # The cursor and the appenders would keep the file open.
        if self._cursor is not None and self._database.path != ":memory:":
            self._drop_cursor()
        self._database.close_if_idle()

    def _drop_cursor(self) -> None:
        self._appenders = {}
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None

    def _ready(self, connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
        if self._cursor is None or self._generation != self._database.generation:
            self._appenders = {}
            self._cursor = connection.cursor()
            self._generation = self._database.generation
        return self._cursor

    # ------------------------------------------------------------------------------------------ group commit
    def _commit(self, group: list[Write]) -> None:
        try:
            self._insert_all([insert for write in group for insert in write.inserts], any(w.again for w in group))
        except BaseException as error:
            if faults.is_fatal(error):
                self._start_afresh()
            for write in group:
                write.outcome.set_result([self._alone(insert) for insert in write.inserts])
        else:
            self._tell({insert.table for write in group for insert in write.inserts})
            for write in group:
                write.outcome.set_result([None] * len(write.inserts))

    def _alone(self, insert: Insert) -> errors.Error | None:
        """Commit one insert by itself after its group failed, so that only the guilty one fails."""
        try:
            self._insert_all([insert], again=True)
        except BaseException as error:
            if faults.is_fatal(error):
                self._start_afresh()
            return faults.translate(error, self._database.path)
        self._tell({insert.table})
        return None

    def _start_afresh(self) -> None:
        self._drop_cursor()
        self._database.discard()

    def _insert_all(self, inserts: list[Insert], again: bool) -> None:
        with self._database.connection() as connection:
            cursor = self._ready(connection)
            cursor.begin()
            try:
                for (table, columns), rows in self._by_table(cursor, inserts, again).items():
                    appender = self._appender(cursor, table, columns)
                    appender.append_rows(rows)
                    appender.flush()
                cursor.commit()
            except BaseException:
                self._roll_back(cursor)
                raise

    def _by_table(
        self, cursor: duckdb.DuckDBPyConnection, inserts: Iterable[Insert], again: bool
    ) -> dict[tuple[str, tuple[str, ...]], list[tuple[Any, ...]]]:
        groups: dict[tuple[str, tuple[str, ...]], list[tuple[Any, ...]]] = {}
        for insert in inserts:
            rows = groups.setdefault((insert.table, insert.columns), [])
            if again or insert.if_new:
                rows += _new_rows(cursor, insert, taken={row[0] for row in rows})
            else:
                rows += insert.rows
        return {key: rows for key, rows in groups.items() if rows}

    def _appender(self, cursor: duckdb.DuckDBPyConnection, table: str, columns: tuple[str, ...]) -> Any:
        # Kept open: opening one costs 5-8 ms.
        appender = self._appenders.get((table, columns))
        if appender is None:
            appender = cursor.appender(table, columns=list(columns))
            self._appenders[table, columns] = appender
        return appender

    def _roll_back(self, cursor: duckdb.DuckDBPyConnection) -> None:
        for appender in self._appenders.values():
            with contextlib.suppress(duckdb.Error):
                appender.clear()
        self._appenders = {}
        with contextlib.suppress(duckdb.Error):  # a failed commit has already ended it
            cursor.rollback()

    # ------------------------------------------------------------------------------------------ work and turns
    def _work(self, job: Work) -> None:
        try:
            with self._database.connection() as connection:
                cursor = self._ready(connection)
                cursor.begin()
                try:
                    result = job.run(cursor)
                    cursor.commit()
                except BaseException:
                    self._roll_back(cursor)
                    raise
        except BaseException as error:
            if faults.is_fatal(error):
                self._start_afresh()
            job.outcome.set_exception(faults.translate(error, self._database.path))
        else:
            self._tell(set(job.tables))
            job.outcome.set_result(result)

    def _take_turn(self, turn: Turn) -> None:
        changed: set[str] = set()
        committed = False
        try:
            with self._database.connection() as connection:
                cursor = self._ready(connection)
                turn.interrupt = lambda: None if turn.over else cursor.interrupt()
                committed = self._run_turn(turn, cursor, changed)
        except BaseException as error:  # opening the file failed
            if not turn.started.done():
                turn.started.set_exception(faults.translate(error, self._database.path))
            if faults.is_fatal(error):
                self._start_afresh()
        finally:
            turn.refuse_rest()
        if committed:
            self._tell(changed)

    def _run_turn(self, turn: Turn, cursor: duckdb.DuckDBPyConnection, changed: set[str]) -> bool:
        end = time.monotonic() + TURN_LIMIT
        cursor.begin()
        turn.started.set_result(None)
        try:
            while True:
                sql, params, outcome = turn.statements.get(timeout=max(0.0, end - time.monotonic()))
                try:
                    if sql == "COMMIT":
                        cursor.commit()
                        outcome.set_result([])
                        return True
                    if sql == "ROLLBACK":
                        self._roll_back(cursor)
                        outcome.set_result([])
                        return False
                    outcome.set_result(cursor.execute(sql, params).fetchall())
                    changed.update(_CHANGED.findall(sql))
                except BaseException as error:
                    outcome.set_exception(_turn_error(error, self._database.path))
                    raise
        except queue.Empty:  # the limit
            self._roll_back(cursor)
        except BaseException as error:
            self._roll_back(cursor)
            if faults.is_fatal(error):
                raise
        return False


def _turn_error(error: BaseException, path: str) -> errors.Error:
    if isinstance(error, duckdb.InterruptException):
        return errors.TransactionError(
            f"a statement took longer than the transaction's limit of {TURN_LIMIT:g} s; all was rolled back",
            cure="Do less in one transaction.",
        )
    return faults.translate(error, path)


def _new_rows(
    cursor: duckdb.DuckDBPyConnection, insert: Insert, taken: set[Any]
) -> Sequence[tuple[Any, ...]]:
    """The rows of `insert` whose key is neither in the table nor in `taken`.

    An outcome that was given up as ``unknown`` while its process still lived makes way for the real one.
    """
    key, keys = insert.columns[0], [str(row[0]) for row in insert.rows]
    if insert.table == "responses":
        cursor.execute(
            "DELETE FROM responses WHERE status = 'unknown' AND request_id IN (SELECT unnest(?::UUID[]))", [keys]
        )
    known = cursor.execute(
        f'SELECT "{key}"::VARCHAR FROM "{insert.table}" WHERE "{key}" IN (SELECT unnest(?::UUID[]))', [keys]
    ).fetchall()
    seen = taken | {row[0] for row in known}
    fresh = []
    for row in insert.rows:
        if str(row[0]) not in seen:
            seen.add(str(row[0]))
            fresh.append(row)
    return fresh
