"""The store in a thread of this process: for ``:memory:``, in tests and throw-away work. Calls ``engine``.

Promises: the same interface and rules as through the keeper. After a fork the child is refused: DuckDB's threads did
not come along.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ipyconvexai import guard
from ipyconvexai.errors import Error, StoreError
from ipyconvexai.ids import new_id
from ipyconvexai.store.clock import Clock
from ipyconvexai.store.engine import Engine
from ipyconvexai.store.pipe import Receipt
from ipyconvexai.store.purging import Criteria, Kind
from ipyconvexai.store.transaction import Pause, Rows, Snapshot, Statement, Transaction
from ipyconvexai.store.turn import Turn
from ipyconvexai.store.writer import Insert

__all__ = ["ThreadStore"]

LOOK_EVERY = 0.25  # seconds between two looks at a statement that has a limit


class ThreadStore:
    def __init__(self, path: str, clock: Clock | None = None) -> None:
        """`clock`: what limits and budgets go by."""
        self.path = path
        self.session_id = new_id()
        self._engine = Engine(path, clock)
        self._pid = os.getpid()

    @property
    def _own(self) -> Engine:
        if os.getpid() != self._pid:
            raise StoreError(
                f"the ledger {self.path} stayed in the process that forked this one",
                cure="Connect again here; a ledger in a file can be shared.",
            )
        return self._engine

    @property
    def limited(self) -> bool:
        return self._engine.limited

    def limits(self) -> Rows:
        return self._own.limits()

    def append(
        self,
        table: str,
        columns: tuple[str, ...],
        rows: Rows,
        receipt: Receipt,
        *,
        if_new: bool = False,
        note: Any = None,
    ) -> None:
        try:
            future = self._own.write([Insert(table, columns, rows, if_new, note)])
        except Error as error:
            receipt(error)
        else:
            future.add_done_callback(lambda done: receipt(done.result()[0]))

    def purge(self, criteria: Criteria) -> list[Kind]:
        return self._own.purge(criteria)

    def read(self, sql: str, params: Any = None) -> Rows:
        return self._own.read(sql, params)

    def read_arrow(self, sql: str, params: Any = None, frames: Mapping[str, bytes] | None = None) -> bytes:
        return self._own.read_arrow(sql, params, frames)

    @contextlib.contextmanager
    def transaction(self, pause: Pause = contextlib.nullcontext) -> Iterator[Transaction]:
        guard.check("a transaction of its own")
        turn: Turn | None = None

        def send(statements: list[Statement], begins: bool) -> Any:
            nonlocal turn
            if turn is None:
                turn, result = self._own.begin(statements)
                return result
            return turn.run_all(statements)

        transaction = Transaction(send, pause)
        try:
            _ = self._own  # refused in the child of a fork, and after the end
            yield transaction
        except BaseException:
            with contextlib.suppress(Error):
                transaction.roll_back()
            raise
        else:
            transaction.commit()
        finally:
            transaction.leave()

    @contextlib.contextmanager
    def snapshot(self, limit: float | None = None, pause: Pause = contextlib.nullcontext) -> Iterator[Snapshot]:
        view = self._own.view(limit)

        def look(statement: Statement, begins: bool) -> Any:
            # In the keeper the thread that looks after clients sees to the limit.
            done = threading.Event()

            def watch() -> None:
                while not done.wait(LOOK_EVERY):
                    view.look_at_clock()

            if limit is not None:
                threading.Thread(target=watch, name="ipyconvexai-limit", daemon=True).start()
            try:
                return view.look(statement)
            finally:
                done.set()

        snapshot = Snapshot(look, pause)
        try:
            yield snapshot
        finally:
            snapshot.leave()
            view.close()

    def changes(self, until: Callable[[], bool] = bool) -> Iterator[set[str]]:
        for number, tables in enumerate(self._own.listen()):
            if until():
                return
            if tables or not number:
                yield tables

    def holder(self) -> str:
        return f"held by a thread of this process, {self._pid}"

    def close(self) -> None:
        if os.getpid() == self._pid:
            self._engine.close()
