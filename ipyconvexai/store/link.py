"""How a process reaches the ledger: through the keeper, or in a thread of its own for ``:memory:``.

Both stores have one interface (``Store``). Calls ``folder``, ``start``, ``pipe`` and ``wire``; the keeper's clients
never import duckdb. Promises: an append is acknowledged when it is durable; a keeper that dies is replaced and what it
had not acknowledged is repeated by row id; a fork shares nothing; every wait for a silent keeper has a time limit.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, Protocol

from ipyconvexai import guard, interrupts
from ipyconvexai.errors import (
    ClosedError,
    Error,
    InputError,
    KeeperUnavailableError,
    OtherVersionError,
    StoreError,
    TransactionError,
    draws_as,
)
from ipyconvexai.ids import new_id
from ipyconvexai.store.folder import Folder
from ipyconvexai.store.pipe import Pipe, Receipt
from ipyconvexai.store.purging import Criteria, Kind
from ipyconvexai.store.start import Host, start_keeper
from ipyconvexai.store.transaction import Execute, Pause, Reads, Rows, Snapshot, Statement, Transaction
from ipyconvexai.store.wire import LOST, PATIENCE, Line, wait_until

__all__ = ["Execute", "KeeperStore", "Reads", "Store", "open_store"]

START_PATIENCE = 20.0  # seconds for a keeper to start and answer
MOST_LOSSES = 20  # keepers that may die over one request before it is given up: it may be what kills them


class Store(Protocol):
    """What the rest of the package knows of the store."""

    path: str
    session_id: str

    @property
    def limited(self) -> bool:
        """Whether calls are judged by limits, as far as this process has heard."""

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
        """Write rows; `receipt` is told once they are durable, or why not. Never blocks, never raises.

        `note` travels beside rows of `requests` and `responses`; see ``admission``.
        """

    def limits(self) -> Rows:
        """What is used of each limit and budget; the columns are those of ``LimitRow``."""

    def purge(self, criteria: Criteria) -> list[Kind]:
        """Remove the content of rows for good, from the file's bytes, too; gives what was removed.

        Everybody waits meanwhile. Where the keeper is killed in the middle of it the next one does it.
        """

    def read(self, sql: str, params: Any = None) -> Rows:
        """The rows of a query of the package's own."""

    def read_arrow(self, sql: str, params: Any = None, frames: Mapping[str, bytes] | None = None) -> bytes:
        """The result of anyone's query as an Arrow IPC stream; it can write and reach nothing."""

    def transaction(self, pause: Pause = contextlib.nullcontext) -> contextlib.AbstractContextManager[Execute]:
        """Gives ``execute(sql, params)``. Begins with the first statement; one at a time for everybody, 1 s at most,
        never repeated. `pause` is entered while the store works."""

    def snapshot(
        self, limit: float | None = None, pause: Pause = contextlib.nullcontext
    ) -> contextlib.AbstractContextManager[Reads]:
        """One state of everything, read-only; begins with the first statement, each of which may take `limit` s."""

    def changes(self, until: Callable[[], bool] = bool) -> Iterator[set[str]]:
        """Names of changed tables, after commits; an empty set (the first is one) says "look at everything".

        Ends within a second when `until` says so, or when the store is closed.
        """

    def holder(self) -> str:
        """Who has the file, in words."""

    def close(self) -> None:
        """Write what waits, then leave."""


def open_store(path: str | os.PathLike[str]) -> Store:
    """The store of the ledger at `path`; nothing is started or opened before its first use.

    Raises:
        InputError: no ledger can have this path.
    """
    if path == ":memory:":
        with interrupts.held():
            from ipyconvexai.store.inprocess import ThreadStore  # imports duckdb: only where it is used

        return ThreadStore(path)
    return KeeperStore(path)


def _real_path(path: str | os.PathLike[str]) -> str:
    cure = 'Name a file: ai.connect("my.duckdb"), or IPYCONVEXAI_DB.'
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise InputError(f"the path of a ledger is a str or a Path, and not {type(path).__name__}", cure=cure)
    if not text or "\0" in text:
        raise InputError(f"{text!r} cannot be the path of a ledger", cure=cure)
    try:
        real = os.path.realpath(os.path.expanduser(text))
        real.encode()
    except UnicodeEncodeError:
        raise InputError(f"the path {text!r} is not valid Unicode, and DuckDB cannot open it", cure=cure) from None
    if "?" in real:  # DuckDB takes what follows for options, and puts its log elsewhere
        raise InputError(f"the path {real} has a question mark, and DuckDB cannot keep a ledger there", cure=cure)
    if os.path.exists(real) and not os.path.isfile(real):
        what = "is a folder" if os.path.isdir(real) else "is not a regular file"
        raise InputError(f"{real} {what}, and no ledger", cure=cure)
    return real


class KeeperStore:
    """`patience`: seconds of silence after which the keeper counts as stopped."""

    def __init__(self, path: str | os.PathLike[str], *, patience: float = PATIENCE) -> None:
        self.path = _real_path(path)
        self._patience = patience
        self._folder = Folder(self.path)
        self._begin_session()
        _stores.add(self)

    def _begin_session(self) -> None:
        self.session_id = new_id()
        self._idle: list[Line] = []
        self._lines: weakref.WeakSet[Line] = weakref.WeakSet()
        self._starting = threading.Lock()
        self._session_lock: IO[bytes] | None = None
        self._host: Host | None = None
        self._closed = False
        self.limited = False
        self._pipe = Pipe(self._write)

    def after_fork(self) -> None:
        """A forked child is a stranger: it keeps no line or lock of its parent, or nobody would see the parent end."""
        for line in list(self._lines):
            line.close()
        self._folder.forget_locks()
        self._begin_session()

    # ------------------------------------------------------------------------------------------ the interface
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
        self._pipe.put((table, columns, rows, if_new, note), receipt)

    def _write(self, inserts: list[tuple[Any, ...]], sent: Callable[[], None]) -> list[Any]:
        outcomes, self.limited = self._call("write", inserts, repeatable=True, sent=sent)
        return outcomes  # type: ignore[no-any-return]

    def limits(self) -> Rows:
        return self._call("limits")  # type: ignore[no-any-return]

    def purge(self, criteria: Criteria) -> list[Kind]:
        return [Kind(*row) for row in self._call("purge", tuple(criteria))]

    def read(self, sql: str, params: Any = None) -> Rows:
        return self._call("read", sql, params)  # type: ignore[no-any-return]

    def read_arrow(self, sql: str, params: Any = None, frames: Mapping[str, bytes] | None = None) -> bytes:
        return self._call("read_arrow", sql, params, dict(frames or {}))  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def transaction(self, pause: Pause = contextlib.nullcontext) -> Iterator[Transaction]:
        guard.check("a transaction of its own")  # a mutation's own is begun before it
        with contextlib.ExitStack() as stack:
            line: Line | None = None

            def send(statements: list[Statement], begins: bool) -> Any:
                nonlocal line
                batch = [tuple(statement) for statement in statements]
                if line is None:
                    line, result = self._begin(stack, batch)
                    return result
                try:
                    return line.ask("execute", batch, False, patience=self._patience)
                except (*LOST, KeeperUnavailableError):
                    raise _lost_transaction(statements[-1].sql) from None

            transaction = Transaction(send, pause)
            try:
                yield transaction
            except BaseException:
                if line is not None and line.at_rest:  # else closing the line rolls back
                    with contextlib.suppress(Error):
                        transaction.roll_back()
                raise
            else:
                transaction.commit()
            finally:
                transaction.leave()

    def _begin(self, stack: contextlib.ExitStack, batch: list[tuple[Any, ...]]) -> tuple[Line, Any]:
        """A line with a transaction on it, and the result of its first statements."""
        for _ in range(MOST_LOSSES):
            attempt = stack.enter_context(contextlib.ExitStack())
            line = attempt.enter_context(self._line())
            try:
                return line, line.ask("execute", batch, True, patience=self._patience)
            except (*LOST, KeeperUnavailableError) as error:
                attempt.close()
                if batch[-1][0] == "COMMIT" and line.delivered:
                    raise _lost_transaction("COMMIT") from None
                if isinstance(error, KeeperUnavailableError):
                    raise
            # Nothing is kept: ask the next keeper.
        raise _given_up()

    @contextlib.contextmanager
    def snapshot(self, limit: float | None = None, pause: Pause = contextlib.nullcontext) -> Iterator[Snapshot]:
        with contextlib.ExitStack() as stack:
            line: Line | None = None

            def look(statement: Statement, begins: bool) -> Any:
                nonlocal line
                if line is None or begins:
                    line, result = self._begin_snapshot(stack, tuple(statement), limit)
                    return result
                try:
                    return line.ask("look", tuple(statement), limit, False, patience=self._patience)
                except LOST:
                    raise _lost_snapshot() from None

            snapshot = Snapshot(look, pause)
            try:
                yield snapshot
            finally:
                snapshot.leave()
                if line is not None and line.at_rest:
                    try:
                        line.say("leave")
                    except LOST:
                        line.at_rest = False  # never used again

    def _begin_snapshot(
        self, stack: contextlib.ExitStack, statement: tuple[Any, ...], limit: float | None
    ) -> tuple[Line, Any]:
        for _ in range(MOST_LOSSES):
            attempt = stack.enter_context(contextlib.ExitStack())
            line = attempt.enter_context(self._line())
            try:
                return line, line.ask("look", statement, limit, True, patience=self._patience)
            except LOST:
                attempt.close()
        raise _given_up()

    def changes(self, until: Callable[[], bool] = bool) -> Iterator[set[str]]:
        while not self._closed and not until():
            try:
                with self._line() as line:
                    line.tell("changes")
                    while not self._closed and not until():
                        names = line.hear(timeout=0.5)
                        if names is not None:
                            yield set(names)
            except LOST:
                continue  # the next keeper's first message is empty: look at everything

    def holder(self) -> str:
        if self._host is not None:
            return f"held by a thread of this process, {os.getpid()}"
        pid = self._folder.keeper_pid()
        if pid is None:
            return "held by nobody at the moment"
        return f"held by its keeper, process {pid}, for {', '.join(sorted(self._folder.users())) or 'nobody'}"

    def close(self) -> None:
        """Write what waits, then leave. The keeper ends by itself when nobody is left."""
        if self._closed:
            return
        self._pipe.close()
        self._closed = True
        _stores.discard(self)
        self._drop_idle_lines()
        if self._session_lock is not None:
            self._folder.unlock(self._session_lock)
        if self._host is not None:
            self._host.close()
        self._tidy()

    def _tidy(self) -> None:
        """Remove what a keeper left that was killed after the last use, when nobody else is there."""
        if os.path.isdir(self._folder.path) and (lock := self._folder.lock("lock")) is not None:
            self._folder.remove_socket()
            self._folder.remove_if_deserted()
            self._folder.unlock(lock)

    # ------------------------------------------------------------------------------------------ lines to the keeper
    def _call(self, method: str, *args: Any, repeatable: bool = False, sent: Callable[[], None] | None = None) -> Any:
        again: tuple[bool, ...] = (False,) if repeatable else ()
        for _ in range(MOST_LOSSES):
            try:
                with self._line() as line:
                    return line.ask(method, *args, *again, patience=self._patience, sent=sent)
            except LOST:  # the keeper went away: ask the next one; a repeated write goes by row id
                again = (True,) if repeatable else ()
                self._drop_idle_lines()
            except KeyboardInterrupt as interrupt:
                draws_as(interrupt, "the question to the ledger was stopped.")
                raise
        raise _given_up()

    @contextlib.contextmanager
    def _line(self) -> Iterator[Line]:
        if self._closed:
            raise ClosedError()
        try:
            line = self._idle.pop()
        except IndexError:
            line = self._connect()
        try:
            yield line
        finally:
            if line.at_rest and not self._closed:
                self._idle.append(line)
            else:
                line.close()  # interrupted half way: never used again

    def _drop_idle_lines(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _connect(self) -> Line:
        deadline = time.monotonic() + START_PATIENCE
        while True:
            self._folder.prepare()
            try:
                if (line := self._greet(deadline)) is not None:
                    return line
                with self._starting:
                    self._host = start_keeper(self._folder, deadline, self._patience) or self._host
            except OtherVersionError:
                if self._folder.users(but=self.session_id) or time.monotonic() >= deadline:
                    raise
                self._folder.ask_to_end()
            if not wait_until(deadline):
                raise KeeperUnavailableError(
                    f"the process that holds the ledger {self.path} does not start",
                    cure=f"Its log is {self._folder.file('log')}.",
                )

    def _greet(self, deadline: float) -> Line | None:
        """A line to a keeper, or None when there is none. The session's lock is held before anything is written."""
        connection = self._folder.connect(self._patience)
        if connection is None:
            return None
        line = Line(connection)
        self._lines.add(line)
        try:
            self._hold_session_lock(deadline)
            line.ask("hello", patience=self._patience)
        except BaseException as error:
            line.close()
            if isinstance(error, LOST):
                return None
            raise
        return line

    def _hold_session_lock(self, deadline: float) -> None:
        """This process lives as long as it holds this lock: by it the keeper judges unfinished calls."""
        with self._starting:
            held = self._session_lock
            if held is not None:
                if self._folder.holds(held, f"session-{self.session_id}"):
                    return
                self._folder.unlock(held)  # the folder was removed and made again
            while (held := self._folder.session_lock(self.session_id)) is None and wait_until(deadline, 0.001):
                pass
            self._session_lock = held


def _lost_transaction(sql: str) -> TransactionError:
    if sql == "COMMIT":
        return TransactionError(
            "the keeper ended during the commit: it may or may not have been kept",
            cure="Look whether your change is there before you repeat it.",
        )
    return TransactionError(
        "the keeper ended in the middle of a transaction: nothing of it was kept", cure="Repeat it.", retryable=True
    )


def _lost_snapshot() -> StoreError:
    return StoreError(
        "the keeper ended while a snapshot was read, and the next one knows nothing of it",
        cure="Run it again.",
        retryable=True,
    )


def _given_up() -> KeeperUnavailableError:
    return KeeperUnavailableError(
        f"the process that holds the ledger ended {MOST_LOSSES} times over this request",
        cure="See it with `ipyconvexai doctor`; if it is a query, try a smaller one.",
    )


_stores: weakref.WeakSet[KeeperStore] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_stores):
        store.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
