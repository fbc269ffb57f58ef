"""The store in a thread of this process: for ``:memory:``, in tests and throw-away work. Calls ``engine``.

Promises: the same interface and rules as through the keeper. After a fork the child is refused: DuckDB's threads did
not come along.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ipyconvexai.errors import Error, StoreError
from ipyconvexai.ids import new_id
from ipyconvexai.store.engine import Engine
from ipyconvexai.store.pipe import Receipt
from ipyconvexai.store.writer import Insert

__all__ = ["ThreadStore"]

Rows = list[tuple[Any, ...]]


class ThreadStore:
    def __init__(self, path: str) -> None:
        self.path = path
        self.session_id = new_id()
        self._engine = Engine(path)
        self._pid = os.getpid()

    @property
    def _own(self) -> Engine:
        if os.getpid() != self._pid:
            raise StoreError(
                f"the ledger {self.path} stayed in the process that forked this one",
                cure="Connect again here; a ledger in a file can be shared.",
            )
        return self._engine

    def append(
        self, table: str, columns: tuple[str, ...], rows: Rows, receipt: Receipt, *, if_new: bool = False
    ) -> None:
        try:
            future = self._own.write([Insert(table, columns, rows, if_new)])
        except Error as error:
            receipt(error)
        else:
            future.add_done_callback(lambda done: receipt(done.result()[0]))

    def read(self, sql: str, params: Any = None) -> Rows:
        return self._own.read(sql, params)

    def read_arrow(self, sql: str, params: Any = None, frames: Mapping[str, bytes] | None = None) -> bytes:
        return self._own.read_arrow(sql, params, frames)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Callable[..., Rows]]:
        turn = self._own.begin()
        try:
            yield turn.execute
        except BaseException:
            with contextlib.suppress(Error):
                turn.execute("ROLLBACK")
            raise
        turn.execute("COMMIT")

    def changes(self) -> Iterator[set[str]]:
        for number, tables in enumerate(self._own.listen()):
            if tables or not number:
                yield tables

    def holder(self) -> str:
        return f"held by a thread of this process, {self._pid}"

    def close(self) -> None:
        if os.getpid() == self._pid:
            self._engine.close()
