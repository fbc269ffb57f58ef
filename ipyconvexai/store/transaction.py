"""A client's transaction and its snapshot: what is executed in them, and when it travels. Calls errors and guard.

Both the keeper's clients and ``:memory:`` use them. Promises: a transaction begins with its first statement, so one
that only writes is a single message (begin, statements, commit); statements given to ``later`` keep their order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from ipyconvexai.errors import TransactionError
from ipyconvexai.guard import lifted

__all__ = ["COMMIT", "ROLLBACK", "Execute", "Pause", "Reads", "Rows", "Snapshot", "Statement", "Transaction"]

Rows = list[tuple[Any, ...]]
Pause = Callable[[], contextlib.AbstractContextManager[Any]]  # in it the store works, and not the user's own code


class Statement(NamedTuple):
    sql: str
    params: Any = None
    is_query: bool = False  # anyone's SELECT: gives (column names, rows), and is refused where it is anything else


COMMIT, ROLLBACK = Statement("COMMIT"), Statement("ROLLBACK")


class Reads(Protocol):
    """What reads in a snapshot or a transaction."""

    def __call__(self, sql: str, params: Any = None) -> Rows:
        """The rows of one statement of the package's own."""

    def select(self, sql: str, params: Any = None) -> tuple[list[str], Rows]:
        """Column names and rows of anyone's SELECT.

        Raises:
            QueryError: it is wrong, or no SELECT.
        """


class Execute(Reads, Protocol):
    """What reads and writes in a transaction."""

    def later(self, sql: str, params: Any = None) -> None:
        """A statement that travels with the next one or with the commit; an error of it is raised there."""

    def doom(self, why: str) -> None:
        """From now on it cannot be committed, whoever catches what was raised."""


class Transaction:
    """`send(statements, begins)` has them executed in order and gives the result of the last one."""

    def __init__(self, send: Callable[[list[Statement], bool], Any], pause: Pause = contextlib.nullcontext) -> None:
        self._send = send
        self._pause = pause
        self._waiting: list[Statement] = []
        self._begun = False
        self._doom: str | None = None
        self._left = False

    def __call__(self, sql: str, params: Any = None) -> Rows:
        return self._go(Statement(sql, params))  # type: ignore[no-any-return]

    def select(self, sql: str, params: Any = None) -> tuple[list[str], Rows]:
        return self._go(Statement(sql, params, True))  # type: ignore[no-any-return]

    def doom(self, why: str) -> None:
        """From now on it cannot be committed, whoever catches what was raised: DuckDB has no savepoints."""
        self._doom = self._doom or why

    def later(self, sql: str, params: Any = None) -> None:
        self._check()
        self._waiting.append(Statement(sql, params))

    def _check(self) -> None:
        if self._left:
            raise TransactionError(
                "the transaction is over: its function, or its block, was left",
                cure="Use ctx inside of the function only that it was given to.",
                code="transaction_over",
            )
        if self._doom is not None:
            raise TransactionError(
                f"the transaction is over and rolled back: {self._doom}",
                cure="A failure inside a transaction fails the whole of it, even where it is caught.",
                code="transaction_over",
            )

    def leave(self) -> None:
        """The block was left: nothing more can be done in it."""
        self._left = True

    def _go(self, statement: Statement) -> Any:
        self._check()
        statements, self._waiting = [*self._waiting, statement], []
        begins, self._begun = not self._begun, True
        with self._pause(), lifted():
            try:
                return self._send(statements, begins)
            except BaseException as error:
                self.doom(str(error).partition("\n")[0] or type(error).__name__)
                raise

    def commit(self) -> None:
        if self._begun or self._waiting or self._doom:
            self._go(COMMIT)

    def roll_back(self) -> None:
        self._waiting = []
        if self._begun:
            with self._pause(), lifted():
                self._send([ROLLBACK], False)


class Snapshot:
    """`look(statement, begins)` gives what a statement reads."""

    def __init__(self, look: Callable[[Statement, bool], Any], pause: Pause = contextlib.nullcontext) -> None:
        self._look = look
        self._pause = pause
        self._begun = False
        self._left = False

    def __call__(self, sql: str, params: Any = None) -> Rows:
        return self._go(Statement(sql, params))  # type: ignore[no-any-return]

    def select(self, sql: str, params: Any = None) -> tuple[list[str], Rows]:
        return self._go(Statement(sql, params, True))  # type: ignore[no-any-return]

    def leave(self) -> None:
        """The block was left: nothing more can be read in it."""
        self._left = True

    def _go(self, statement: Statement) -> Any:
        if self._left:
            raise TransactionError(
                "the snapshot is over: its function, or its block, was left",
                cure="Use ctx inside of the function only that it was given to.",
                code="transaction_over",
            )
        begins, self._begun = not self._begun, True
        with self._pause(), lifted():
            return self._look(statement, begins)
