"""One snapshot of the database: a read-only transaction on a cursor of its own. Calls ``database`` and ``turn``.

Promises: all its statements see one state; nothing can be written in it; a statement that takes too long is stopped.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import duckdb

from ipyconvexai import errors
from ipyconvexai.store import faults
from ipyconvexai.store.database import Database
from ipyconvexai.store.transaction import Statement
from ipyconvexai.store.turn import single_query

__all__ = ["View"]


class View:
    """`limit`: seconds that one statement may take; whoever has the view calls ``look_at_clock`` now and then.

    Used by one thread at a time, but for that call.
    """

    def __init__(self, database: Database, limit: float | None = None) -> None:
        self._database = database
        self._limit = limit
        self._open = contextlib.ExitStack()
        self._gate = threading.Lock()
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self._generation = -1
        self._since: float | None = None  # while a statement runs
        self._late = False

    def look(self, statement: Statement) -> Any:
        """What ``statement`` reads: rows, or names of columns and rows for anyone's query.

        Raises:
            FunctionTimeoutError: it took too long.
        """
        try:
            cursor = self._cursor or self._begin()
            prepared: Any = single_query(cursor, statement.sql) if statement.is_query else statement.sql
            with self._watched():
                result = cursor.execute(prepared, statement.params)
                rows = result.fetchall()
        except duckdb.Error as error:
            if faults.is_damage(error, self._database.path):
                self._database.leave_as_it_is(self._generation)
            if faults.is_fatal(error):
                self._database.discard(self._generation)
            if self._database.is_closed:
                raise errors.ClosedError() from None
            if self._late and isinstance(error, duckdb.InterruptException):
                raise _too_slow(self._limit or 0) from None
            raise faults.translate(error, self._database.path) from None
        return ([column[0] for column in result.description or ()], rows) if statement.is_query else rows

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        with self._gate:
            self._since, self._late = time.monotonic(), False
        try:
            yield
        finally:
            with self._gate:
                self._since = None

    def look_at_clock(self) -> None:
        """Stop a statement that takes too long. From another thread."""
        with self._gate:
            if self._since is None or self._limit is None or self._cursor is None:
                return
            if time.monotonic() - self._since > self._limit:
                self._late = True
                self._cursor.interrupt()

    def _begin(self) -> duckdb.DuckDBPyConnection:
        self._cursor = self._open.enter_context(self._database.cursor())
        self._generation = self._database.generation
        self._cursor.execute("BEGIN TRANSACTION READ ONLY")
        return self._cursor

    def close(self) -> None:
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            with contextlib.suppress(duckdb.Error):
                cursor.rollback()
        self._open.close()


def _too_slow(limit: float) -> errors.FunctionTimeoutError:
    return errors.FunctionTimeoutError(
        f"a statement took longer than {limit:g} s",
        cure="Read less: an index and take(n), or a WHERE. Long analyses belong into ai.ledger.sql(...) or an action.",
    )
