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
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import duckdb

from ipyconvexai import errors
from ipyconvexai.store import faults

__all__ = ["TURN_LIMIT", "Turn"]

TURN_LIMIT = 1.0  # seconds a transaction may hold the writer

_CHANGED = re.compile(r'\b(?:INTO|UPDATE|DELETE\s+FROM|TABLE)\s+"?(\w+)', re.IGNORECASE)


class Turn:
    def __init__(self) -> None:
        self.started: Future[None] = Future()
        self.over = False
        self.changed: set[str] = set()
        self._statements: queue.SimpleQueue[tuple[str, Any, Future[Any]]] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._interrupt: Callable[[], None] | None = None  # while a statement runs that may be interrupted
        self._end = 0.0

    # ------------------------------------------------------------------------------------------ the client's thread
    def execute(self, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
        """The rows of one statement; "COMMIT" and "ROLLBACK" end the turn."""
        outcome = self._submit(sql, params)
        try:
            return outcome.result(max(0.0, self._end - time.monotonic()))
        except TimeoutError:
            with self._gate:
                if self._interrupt is not None:
                    self._interrupt()
            return outcome.result()

    def abandon(self) -> None:
        """Roll back, because the client has gone; does not wait."""
        self._submit("ROLLBACK", None)

    def _submit(self, sql: str, params: Any) -> Future[list[tuple[Any, ...]]]:
        outcome: Future[list[tuple[Any, ...]]] = Future()
        self._statements.put((sql, params, outcome))
        if self.over:
            self.refuse_rest()
        return outcome

    # ------------------------------------------------------------------------------------------ the writer's thread
    def run(self, cursor: duckdb.DuckDBPyConnection, path: str) -> bool:
        """Run to the end; whether it was committed. Raises what makes the open database useless."""
        self._end = time.monotonic() + TURN_LIMIT
        cursor.begin()
        self.started.set_result(None)
        while True:
            try:
                sql, params, outcome = self._statements.get(timeout=max(0.0, self._end - time.monotonic()))
            except queue.Empty:  # the limit
                _roll_back(cursor)
                return False
            try:
                rows = self._run_one(cursor, sql, params)
            except BaseException as error:
                _roll_back(cursor)
                outcome.set_exception(_explained(error, path))
                if faults.is_fatal(error):
                    raise
                return False
            outcome.set_result(rows)
            if sql in ("COMMIT", "ROLLBACK"):
                return sql == "COMMIT"

    def _run_one(self, cursor: duckdb.DuckDBPyConnection, sql: str, params: Any) -> list[tuple[Any, ...]]:
        if sql == "COMMIT":
            cursor.commit()
            return []
        if sql == "ROLLBACK":
            _roll_back(cursor)
            return []
        statement = _single(cursor, sql)
        with self._gate:
            self._interrupt = cursor.interrupt
        try:
            rows = cursor.execute(statement, params).fetchall()
        finally:
            with self._gate:
                self._interrupt = None
        self.changed.update(_CHANGED.findall(sql))
        return rows

    def refuse_rest(self) -> None:
        """The turn is over: whoever still waits for a statement is told so."""
        self.over = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._statements.get_nowait()[2].set_exception(
                    errors.TransactionError(
                        f"the transaction is over: rolled back after an error or its limit of {TURN_LIMIT:g} s",
                        cure="Do less in one transaction, and slow work (a model call) outside of it.",
                    )
                )


def _single(cursor: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """The one statement in `sql`. A COMMIT among others would keep half of a transaction that is rolled back later."""
    statements = cursor.extract_statements(sql)
    if len(statements) != 1 or statements[0].type == duckdb.StatementType.TRANSACTION:
        raise errors.QueryError(
            "a transaction takes one statement at a time, and ends by itself",
            cure='Give each statement to execute() alone. "ROLLBACK" gives the transaction up.',
        )
    return statements[0]


def _roll_back(cursor: duckdb.DuckDBPyConnection) -> None:
    with contextlib.suppress(duckdb.Error):  # a failed commit has already ended it
        cursor.rollback()


def _explained(error: BaseException, path: str) -> errors.Error:
    if isinstance(error, duckdb.InterruptException):
        return errors.TransactionError(
            f"a statement took longer than the transaction's limit of {TURN_LIMIT:g} s; all was rolled back",
            cure="Do less in one transaction.",
        )
    return faults.translate(error, path)
