"""The DuckDB file, open only while it is used. Calls duckdb, ``migrations`` and ``faults``.

Promises: migrated before anyone sees it; closed when nothing has used it for a moment, so that the DuckDB command line
can open it; external access off, so that no SQL reaches files or the network; errors are of our tree.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import duckdb

from ipyconvexai.errors import LedgerReadOnlyError, StoreError
from ipyconvexai.store import faults
from ipyconvexai.store.migrations import migrate

__all__ = ["Database"]

MEMORY = ":memory:"
OPEN_PATIENCE = 5.0  # seconds to wait for another program that has the file open
IDLE_CLOSE = 2.0  # seconds without use before the file is closed
CONFIG = {
    "enable_external_access": "false",
    # Each attempt to fetch an extension would stall for 2-3 s without internet.
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    # Bounds the replay after a crash (0.35 s per 100 MB) and keeps checkpoints out of most commits.
    "checkpoint_threshold": "64MB",
    "threads": str(min(4, os.cpu_count() or 1)),
}


class Database:
    """Lends connections to one file (or ":memory:"); thread-safe."""

    def __init__(self, path: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._gate = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._users = 0
        self._last_use = clock()
        self.generation = 0  # counts openings: what belongs to an older one (an appender, say) is dead

    @contextmanager
    def connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The open database; it stays open while it is lent."""
        with self._gate:
            if self._connection is None:
                self._connection = self._open()
                self.generation += 1
            self._users += 1
            connection = self._connection
        try:
            yield connection
        finally:
            with self._gate:
                self._users -= 1
                self._last_use = self._clock()

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor of its own: one connection used by two threads refuses."""
        with self.connection() as connection:
            cursor = connection.cursor()
            try:
                yield cursor
            finally:
                cursor.close()

    def _open(self) -> duckdb.DuckDBPyConnection:
        self._refuse_hard_links()
        deadline = self._clock() + OPEN_PATIENCE
        while True:
            try:
                connection = duckdb.connect(self.path, config=CONFIG)
                break
            except duckdb.Error as error:
                if not faults.is_lock_conflict(error) or self._clock() > deadline:
                    raise faults.translate(error, self.path) from None
                time.sleep(0.02)
        try:
            migrate(connection, self.path)
        except BaseException as error:
            connection.close()
            raise faults.translate(error, self.path) from None
        return connection

    def _refuse_hard_links(self) -> None:
        # The lock goes by name: the same file under two names would be opened twice.
        if self.path == MEMORY or not os.path.exists(self.path):
            return
        if os.stat(self.path).st_nlink > 1:
            raise StoreError(f"{self.path} has more than one name (hard links)", cure="Copy it, and open the copy.")
        if not os.access(self.path, os.W_OK):
            raise LedgerReadOnlyError(
                f"the ledger {self.path} cannot be written",
                cure='Mend its permissions or choose another file: ai.connect("my.duckdb") or IPYCONVEXAI_DB.',
            )

    def close_if_idle(self) -> bool:
        """Close the file when nothing has used it for ``IDLE_CLOSE`` seconds; True when it is closed."""
        with self._gate:
            if self._connection is None:
                return True
            if self.path == MEMORY or self._users or self._clock() - self._last_use < IDLE_CLOSE:
                return False
            self._close()
            return True

    def close(self) -> None:
        with self._gate:
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            try:
                self._connection.close()  # also moves the write-ahead log into the file
            finally:
                self._connection = None

    def discard(self) -> None:
        """Give up an invalidated database; the next use opens the file again."""
        with self._gate:
            try:
                self._close()
            except duckdb.Error:
                pass  # it was given up already; the file itself is whole
