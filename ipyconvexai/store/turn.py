"""One client's transaction: its statements run in the writer's thread until commit, rollback, an error or the limit.

Calls ``faults``. Promises: nothing but "COMMIT" ends it with its changes kept; it holds the writer for ``TURN_LIMIT``
seconds at most; a commit is never interrupted, because its outcome would be unknown.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import pairwise
from typing import Any

import duckdb

from ipyconvexai import errors
from ipyconvexai.crashpoints import passing
from ipyconvexai.store import faults
from ipyconvexai.store.transaction import COMMIT, ROLLBACK, Statement

__all__ = ["TURN_LIMIT", "Turn", "explained", "single_query"]

TURN_LIMIT = 1.0  # seconds a transaction may hold the writer

_CHANGED = re.compile(r'\b(?:INTO|UPDATE|DELETE\s+FROM|TABLE)\s+"?(\w+)', re.IGNORECASE)

MOST_PARSED = 512  # statements that are kept parsed: parsing takes 0.17 ms, a fifth of a small statement's time
_parsed: dict[str, duckdb.Statement] = {}

_WRITES = {b"INSERT", b"UPDATE", b"DELETE", b"MERGE", b"TRUNCATE"}


class Turn:
    """`closed`: all its statements are known and end in COMMIT, so it can be run again and share a commit."""

    def __init__(self, statements: Sequence[Statement] = (), *, closed: bool = False) -> None:
        self.closed = closed
        self.started: Future[None] = Future()
        self.over = False
        self.changed: set[str] = set()
        self._batches: queue.SimpleQueue[tuple[list[Statement], Future[Any]]] = queue.SimpleQueue()
        self._first = self._submit(list(statements)) if statements else None
        self._gate = threading.Lock()
        self._interrupt: Callable[[], None] | None = None  # while a statement runs that may be interrupted
        self._end = 0.0

    # ------------------------------------------------------------------------------------------ the client's thread
    def first(self) -> Any:
        """The result of the statements that it began with; waits for its turn."""
        self.started.result()
        return None if self._first is None else self._wait(self._first)

    def execute(self, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
        """The rows of one statement; "COMMIT" and "ROLLBACK" end the turn."""
        return self.run_all([Statement(sql, params)])  # type: ignore[no-any-return]

    def run_all(self, statements: list[Statement]) -> Any:
        """The result of the last of `statements`."""
        return self._wait(self._submit(statements))

    def _wait(self, outcome: Future[Any]) -> Any:
        try:
            return outcome.result(max(0.0, self._end - time.monotonic()))
        except TimeoutError:
            with self._gate:
                if self._interrupt is not None:
                    self._interrupt()
            return outcome.result()

    def abandon(self) -> None:
        """Roll back, because the client has gone; does not wait."""
        self._submit([ROLLBACK])

    def _submit(self, statements: list[Statement]) -> Future[Any]:
        outcome: Future[Any] = Future()
        self._batches.put((statements, outcome))
        if self.over:
            self.refuse_rest()
        return outcome

    # ------------------------------------------------------------------------------------------ the writer's thread
    def run(self, cursor: duckdb.DuckDBPyConnection, path: str) -> bool:
        """Run to the end; whether it was committed. Raises what makes the open database useless."""
        self._start()
        cursor.begin()
        while True:
            try:
                statements, outcome = self._batches.get(timeout=max(0.0, self._end - time.monotonic()))
            except queue.Empty:  # the limit
                _roll_back(cursor)
                return False
            try:
                result = self._run_batch(cursor, statements)
            except BaseException as error:
                _roll_back(cursor)
                outcome.set_exception(explained(error, path))
                if faults.is_fatal(error):
                    raise
                return False
            outcome.set_result(result)
            if statements[-1] in (COMMIT, ROLLBACK):
                return statements[-1] == COMMIT

    def run_uncommitted(self, cursor: duckdb.DuckDBPyConnection) -> Any:
        """For a closed turn: run all but its COMMIT, and keep everything for another try."""
        self._start()
        statements, _ = entry = self._batches.get_nowait()
        self._batches.put(entry)
        return self._run_batch(cursor, statements[:-1])

    def conclude(self) -> None:
        """For a closed turn that ``run_uncommitted`` ran: its changes are durable now."""
        self._batches.get_nowait()[1].set_result([])

    def fail(self, error: errors.Error) -> None:
        """For a closed turn: the file was given up in the middle of it."""
        self._batches.get_nowait()[1].set_exception(error)

    def _start(self) -> None:
        self._end = time.monotonic() + TURN_LIMIT
        if not self.started.done():
            self.started.set_result(None)

    def _run_batch(self, cursor: duckdb.DuckDBPyConnection, statements: list[Statement]) -> Any:
        result: Any = []
        for statement in statements:
            result = self._run_one(cursor, statement)
        return result

    def _run_one(self, cursor: duckdb.DuckDBPyConnection, statement: Statement) -> Any:
        if statement == COMMIT:  # not by its text alone: it may be anyone's query
            passing("before_commit")
            cursor.commit()
            passing("after_commit")
            return []
        if statement == ROLLBACK:
            _roll_back(cursor)
            return []
        prepared = _pure_query(cursor, statement.sql) if statement.is_query else _single(cursor, statement.sql)
        with self._gate:
            self._interrupt = cursor.interrupt
        try:
            result = cursor.execute(prepared, statement.params)
            rows = result.fetchall()
        finally:
            with self._gate:
                self._interrupt = None
        if statement.is_query:
            return [column[0] for column in result.description or ()], rows
        self.changed.update(_CHANGED.findall(statement.sql))
        return rows

    def refuse_rest(self) -> None:
        """The turn is over: whoever still waits for a statement is told so."""
        self.over = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._batches.get_nowait()[1].set_exception(
                    errors.TransactionError(
                        f"the transaction is over: rolled back after an error or its limit of {TURN_LIMIT:g} s",
                        cure="Do less in one transaction, and slow work (a model call) outside of it.",
                        code="transaction_limit",
                    )
                )


def _pure_query(cursor: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """The one query in `sql`, where no read-only transaction keeps it from writing: a SELECT may begin with an INSERT
    (``WITH x AS (INSERT ...)``), and EXPLAIN ANALYZE runs what it explains."""
    query = single_query(cursor, sql)
    text, starts = sql.encode(), [offset for offset, _ in duckdb.tokenize(sql)]
    words = {text[start:end].strip().upper() for start, end in pairwise([*starts, None])}
    if query.type != duckdb.StatementType.SELECT or words & _WRITES:
        raise errors.QueryError(
            "this is for reading only", cure='Write a SELECT; a column of such a name goes in quotes: "update".'
        )
    return query


def single_query(cursor: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """The one query in `sql`. "COMMIT; DROP ..." would leave a read-only transaction.

    Raises:
        QueryError: there are more, or it is none.
    """
    statements = cursor.extract_statements(sql)
    if len(statements) != 1:
        raise errors.QueryError(
            f"one query at a time is run here, and this is {len(statements)}", cure="Write a single SELECT."
        )
    if statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise errors.QueryError(
            f"this is for reading only, and {statements[0].type.name} is not", cure="Write a SELECT."
        )
    return statements[0]


def _single(cursor: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """The one statement in `sql`. A COMMIT among others would keep half of a transaction that is rolled back later."""
    if (known := _parsed.get(sql)) is not None:
        return known
    statements = cursor.extract_statements(sql)
    if len(statements) != 1 or statements[0].type == duckdb.StatementType.TRANSACTION:
        raise errors.QueryError(
            "a transaction takes one statement at a time, and ends by itself",
            cure='Give each statement to execute() alone. "ROLLBACK" gives the transaction up.',
        )
    if len(_parsed) >= MOST_PARSED:
        _parsed.clear()
    _parsed[sql] = statements[0]
    return statements[0]


def _roll_back(cursor: duckdb.DuckDBPyConnection) -> None:
    with contextlib.suppress(duckdb.Error):  # a failed commit has already ended it
        cursor.rollback()


def explained(error: BaseException, path: str) -> errors.Error:
    if isinstance(error, duckdb.InterruptException):
        return errors.TransactionError(
            f"a statement took longer than the transaction's limit of {TURN_LIMIT:g} s; all was rolled back",
            cure="Do less in one transaction.",
            code="transaction_limit",
        )
    return faults.translate(error, path)
