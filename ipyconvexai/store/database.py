"""The DuckDB file, open only while it is used. Calls duckdb, ``migrations``, ``log`` and ``faults``.

Promises: migrated before anyone sees it; closed when nothing has used it for a moment, so that the DuckDB command line
can open it; external access off, so that no SQL reaches files or the network; errors are of our tree; a file that is
moved, deleted or replaced while it is open is noticed, and never written to any more.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import duckdb

from ipyconvexai.crashpoints import passing
from ipyconvexai.errors import ClosedError, LedgerCorruptError, LedgerReadOnlyError, StoreError
from ipyconvexai.store import faults, rewriting
from ipyconvexai.store.log import has_commits, is_damaged
from ipyconvexai.store.migrations import migrate

__all__ = ["IDLE_CLOSE", "MEMORY", "Database"]

T = TypeVar("T")

MEMORY = ":memory:"
OPEN_PATIENCE = 4.0  # seconds to wait for another program that has the file open
ALONE_PATIENCE = 10.0  # seconds to wait for queries that run, before the file is written anew
IDLE_CLOSE = 2.0  # seconds without use before the file is closed
_NOBODY = (-1, -1)
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    # Each attempt to fetch an extension would stall for 2-3 s without internet.
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    # Bounds the replay after a crash (0.35 s per 100 MB) and keeps checkpoints out of most commits.
    "checkpoint_threshold": "64MB",
    "threads": str(min(4, os.cpu_count() or 1)),
    # In DuckDB 2.0.0 this one makes ORDER BY ... LIMIT answer with wrong rows, or none: where row groups overlap (each
    # checkpoint begins a new one) it trusts in a group's greatest value, also when that was deleted or changed.
    "disabled_optimizers": "row_group_pruner",
}


class Database:
    """Lends connections to one file (or ":memory:"); thread-safe."""

    def __init__(self, path: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._config = dict(CONFIG)
        if path == MEMORY:
            self._config["temp_directory"] = ""  # else DuckDB would put what does not fit into ./.tmp, on the disk
        self._gate = threading.Condition()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._users = 0
        self._rewriting = False  # somebody wants the file alone: no more users
        self._last_use = clock()
        self._last_locked = -OPEN_PATIENCE  # when another program was last found to hold the file
        self._closed = False
        self._damaged = False  # the open file: it is left as it is
        self._file = self._log = _NOBODY  # the open file and its write-ahead log, as ``_identity`` gives them
        self._untold: set[bool] = set()  # who was not yet told that the file was moved: writers (True), readers
        self.generation = 0  # counts openings: what belongs to an older one (an appender, say) is dead

    @contextmanager
    def connection(self, *, writing: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """The open database; it stays open while it is lent.

        Raises:
            LedgerCorruptError: the file was moved or deleted while it was open; once, the next use opens what is there.
        """
        with self._gate:
            self._gate.wait_for(lambda: not self._rewriting)
            if self._closed:
                raise ClosedError()
            self.check_place(writing)
            if self._connection is None:
                # A discarded database lives on in this process while anybody holds a cursor of it.
                self._gate.wait_for(lambda: not self._users, timeout=OPEN_PATIENCE)
                self._connection, self._damaged = self._open(), False
                self._file, self._log = _identity(self.path), _identity(f"{self.path}.wal")
                self.generation += 1
            self._users += 1
            connection = self._connection
        try:
            yield connection
        finally:
            with self._gate:
                self._users -= 1
                self._last_use = self._clock()
                self._gate.notify_all()

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor of its own: one connection used by two threads refuses."""
        with self.connection() as connection:
            cursor = connection.cursor()
            try:
                yield cursor
            finally:
                cursor.close()

    def rewrite(self, write: Callable[[str, dict[str, str | bool | int | float | list[str]]], T]) -> T:
        """What `write` gives, which puts another file in the place of this one; everybody else waits meanwhile.

        It is given the path and DuckDB's settings. The thread that calls this has no connection.

        Raises:
            StoreError: somebody reads for too long.
            Error: what `write` raised; then the file is as it was.
        """
        with self._gate:
            self._gate.wait_for(lambda: not self._rewriting)
            if self._closed:
                raise ClosedError()
            self._rewriting = True
            try:
                if not self._gate.wait_for(lambda: not self._users, timeout=ALONE_PATIENCE):
                    raise StoreError(
                        f"a query has been reading the ledger for {ALONE_PATIENCE:g} s, and nothing was removed",
                        cure="Repeat it when the query is over.",
                        retryable=True,
                    )
                self.check_place(writing=True)
                self._connection = self._connection or self._open()  # so that it is there, and of the newest version
                self._close()
                return write(self.path, self._config)
            except Exception as error:
                raise faults.translate(error, self.path) from None
            finally:
                self._rewriting = False
                self._gate.notify_all()

    # ------------------------------------------------------------------------------------------ the file's place
    def check_place(self, writing: bool) -> None:
        """Raise once for writers and once for readers when the open file is no longer the one at ``path``.

        To be called before a commit and after it, when nothing is acknowledged yet.
        """
        with self._gate:
            if self._is_displaced():
                # Whoever still reads would keep the old file open, and by its path DuckDB would find it again.
                if not self._gate.wait_for(lambda: not self._users, timeout=OPEN_PATIENCE):
                    raise self._displaced()
                self._leave_displaced()
            if writing in self._untold:
                self._untold = set() if writing else self._untold - {writing}
                raise self._displaced()

    def _is_displaced(self) -> bool:
        if self._connection is None or self.path == MEMORY:
            return False
        # os.stat: to open the file and close it would drop DuckDB's lock on it.
        if _identity(self.path) != self._file:
            return True
        self._log = _identity(f"{self.path}.wal")
        return False

    def _leave_displaced(self) -> None:
        if self._is_displaced():  # nobody else has seen to it meanwhile
            self._untold = {True, False}
            self._close()  # and with it the writer's cursor

    def _displaced(self) -> LedgerCorruptError:
        return LedgerCorruptError(
            f"the ledger file {self.path} was moved, deleted or replaced while it was open",
            cure="Run it again: what is at that path is used, or a new ledger begun. To keep the old one, move it back"
            " first. This call was not recorded, and what was recorded last is in the old file.",
            code="ledger_moved",
        )

    @contextmanager
    def _log_of_another_file_kept(self) -> Iterator[None]:
        """Closing removes the write-ahead log by its name, even where a file put in our place has one by now."""
        log, aside = f"{self.path}.wal", f"{self.path}.wal.kept"
        begun_since = self._log == _NOBODY and not os.path.exists(self.path)  # in the commit in which the file went
        if not self._is_displaced() or begun_since or _identity(log) in (self._log, _NOBODY):
            yield
            return
        with contextlib.suppress(OSError):
            os.rename(log, aside)
        yield
        with contextlib.suppress(OSError):
            os.rename(aside, log)

    # ------------------------------------------------------------------------------------------ opening and closing
    def _open(self) -> duckdb.DuckDBPyConnection:
        try:
            self._refuse_what_is_no_ledger()
            if self.path != MEMORY:
                rewriting.remove_leftovers(self.path)
                self._refuse_a_damaged_log()
            connection = self._connect()
            try:
                # Closing a file does what it takes by itself, and nothing to one that was found damaged.
                connection.execute("PRAGMA disable_checkpoint_on_shutdown")
                # Table functions like enable_logging() change settings from within a SELECT.
                connection.execute("SET lock_configuration = true")
                migrate(connection, self.path)
            except BaseException:
                connection.close()
                raise
        except Exception as error:  # DuckDB raises RuntimeError, too
            raise faults.translate_opening(error, self.path) from None
        return connection

    def _connect(self) -> duckdb.DuckDBPyConnection:
        # Who waited behind a thread that has just tried in vain tries once, or the waits would add up.
        tried = self._clock() - self._last_locked < OPEN_PATIENCE
        deadline = self._clock() + (0 if tried else OPEN_PATIENCE)
        while True:
            try:
                return duckdb.connect(self.path, config=self._config)
            except duckdb.ParserException as error:
                if "Optimizer type" not in str(error) or "disabled_optimizers" not in self._config:
                    raise
                self._config.pop("disabled_optimizers")  # a later DuckDB has none of that name, and not its fault
            except duckdb.IOException as error:
                if not faults.is_lock_conflict(error):
                    raise
                if self._clock() >= deadline:
                    self._last_locked = self._clock()
                    raise
                time.sleep(0.02)

    def _refuse_what_is_no_ledger(self) -> None:
        if self.path == MEMORY or not os.path.exists(self.path):
            return
        facts = os.stat(self.path)
        if not stat.S_ISREG(facts.st_mode) and not os.path.isdir(self.path):  # opening a pipe would wait for ever
            raise LedgerReadOnlyError(
                f"{self.path} is not a regular file", cure='Choose another: ai.connect("my.duckdb") or IPYCONVEXAI_DB.'
            )
        if stat.S_ISREG(facts.st_mode) and not facts.st_size:
            raise LedgerCorruptError(
                f"{self.path} is empty, and so no DuckDB file", cure="Remove it, or choose another file for the ledger."
            )
        # The lock goes by name: the same file under two names would be opened twice.
        if facts.st_nlink > 1 and not os.path.isdir(self.path):
            raise StoreError(f"{self.path} has more than one name (hard links)", cure="Copy it, and open the copy.")
        if not os.access(self.path, os.W_OK):
            raise LedgerReadOnlyError(
                f"the ledger {self.path} cannot be written",
                cure='Mend its permissions or choose another file: ai.connect("my.duckdb") or IPYCONVEXAI_DB.',
            )

    def _refuse_a_damaged_log(self) -> None:
        if not os.path.exists(self.path) and has_commits(self.path):  # a new file would have them deleted
            raise LedgerCorruptError(
                f"{self.path} is missing, and its write-ahead log {self.path}.wal has commits that are nowhere else",
                cure="Put the file back beside its log; or move the log away, and a new ledger is begun.",
            )
        if is_damaged(self.path):
            raise LedgerCorruptError(
                f"the write-ahead log {self.path}.wal is damaged in the middle, and has commits behind that place",
                cure="It was left as it is. Restore it, or keep a copy of it for a rescue and move it away: the ledger"
                " then has what was there at its last checkpoint.",
            )

    @property
    def is_closed(self) -> bool:
        """For good."""
        return self._closed

    def is_idle(self) -> bool:
        """Whether the open file has not been used for ``IDLE_CLOSE`` seconds; never for ":memory:"."""
        with self._gate:
            return self._is_idle()

    def _is_idle(self) -> bool:
        waiting = self._users or self._clock() - self._last_use < IDLE_CLOSE
        return self._connection is not None and self.path != MEMORY and not waiting

    def close_if_idle(self) -> None:
        with self._gate:
            if self._is_idle():
                self._leave_displaced()
                passing("before_close")
                self._close()

    def close(self) -> None:
        """Close the file for good, which also moves the write-ahead log into it."""
        with self._gate:
            self._closed = True
            self._close()

    def _close(self) -> None:
        if self._connection is None:
            return
        with self._log_of_another_file_kept():
            connection, self._connection = self._connection, None
            # What cannot be moved for lack of room stays in the write-ahead log, where it is safe.
            with contextlib.suppress(duckdb.Error):
                if not self._damaged:
                    connection.execute("CHECKPOINT")
            with contextlib.suppress(duckdb.Error):
                connection.close()

    def leave_as_it_is(self, generation: int) -> None:
        """The opening `generation` was found damaged: nothing is moved from the log into the file when it closes."""
        with self._gate:
            self._damaged |= generation == self.generation

    def discard(self, generation: int) -> None:
        """Give up the opening `generation`, which is invalidated; the next use opens the file again."""
        with self._gate:
            if generation == self.generation:
                self._close()


def _identity(path: str) -> tuple[int, int]:
    """Tells one file from another that has its name; ``_NOBODY`` when there is none."""
    try:
        facts = os.stat(path)
    except OSError:
        return _NOBODY
    return facts.st_dev, facts.st_ino
