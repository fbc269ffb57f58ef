"""How a process reaches the ledger: through the keeper, or in a thread of its own for ``:memory:``.

Both stores have one interface (``Store``). Calls ``folder`` and ``wire``, and for the thread ``engine``; the keeper's
clients never import duckdb. Promises: an append is acknowledged when it is durable; a keeper that dies is replaced and
what it had not acknowledged is repeated by row id; a fork shares nothing; every answer has a time limit.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, Protocol

from ipyconvexai.errors import Error, KeeperUnavailableError, TransactionError
from ipyconvexai.ids import new_id
from ipyconvexai.store.folder import Folder
from ipyconvexai.store.pipe import Pipe, Receipt
from ipyconvexai.store.wire import LOST, Line, wait_until

__all__ = ["KeeperStore", "Store", "ThreadStore", "open_store"]

START_PATIENCE = 20.0  # seconds for a keeper to start and answer

Rows = list[tuple[Any, ...]]
Execute = Callable[..., Rows]  # (sql, params=None) -> rows


class Store(Protocol):
    """What the rest of the package knows of the store."""

    path: str
    session_id: str

    def append(
        self, table: str, columns: tuple[str, ...], rows: Rows, receipt: Receipt, *, if_new: bool = False
    ) -> None:
        """Write rows; `receipt` is told once they are durable, or why not. Never blocks."""

    def read(self, sql: str, params: Any = None) -> Rows: ...

    def read_arrow(self, sql: str, params: Any = None, frames: Mapping[str, bytes] | None = None) -> bytes: ...

    def transaction(self) -> contextlib.AbstractContextManager[Execute]: ...

    def changes(self) -> Iterator[set[str]]: ...

    def close(self) -> None: ...


def open_store(path: str) -> Store:
    """The store of the ledger at `path`; nothing is started or opened before its first use."""
    if path == ":memory:":
        return ThreadStore(path)
    return KeeperStore(path)


class KeeperStore:
    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(os.path.expanduser(path))
        self.session_id = new_id()
        self._folder = Folder(self.path)
        self._renew()
        if hasattr(os, "register_at_fork"):
            reference = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: (store := reference()) and store._after_fork())

    def _renew(self) -> None:
        self._idle: list[Line] = []
        self._lines: weakref.WeakSet[Line] = weakref.WeakSet()
        self._starting = threading.Lock()
        self._session_lock: IO[bytes] | None = None
        self._closed = False
        self._pipe = Pipe(self._write)

    def _after_fork(self) -> None:
        """A forked child is a stranger: it keeps no line of its parent, or the keeper would not see the parent end."""
        for line in list(self._lines):
            line.close()
        if self._session_lock is not None:
            os.close(self._session_lock.detach() if hasattr(self._session_lock, "detach") else -1)
        self.session_id = new_id()
        self._renew()

    # ------------------------------------------------------------------------------------------ the interface
    def append(
        self, table: str, columns: tuple[str, ...], rows: Rows, receipt: Receipt, *, if_new: bool = False
    ) -> None:
        self._pipe.put((table, columns, rows, if_new), receipt)

    def _write(self, inserts: list[tuple[Any, ...]]) -> list[Any]:
        return self._call("write", inserts, repeatable=True)  # type: ignore[no-any-return]

    def read(self, sql: str, params: Any = None) -> Rows:
        return self._call("read", sql, params)  # type: ignore[no-any-return]

    def read_arrow(self, sql: str, params: Any = None, frames: Mapping[str, bytes] | None = None) -> bytes:
        return self._call("read_arrow", sql, params, dict(frames or {}))  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Execute]:
        """Yields ``execute(sql, params)``. One transaction at a time for everybody, 1 s at most, never repeated."""
        with contextlib.ExitStack() as stack:
            line = self._begin(stack)

            def execute(sql: str, params: Any = None) -> Rows:
                return line.ask("execute", sql, params)  # type: ignore[no-any-return]

            try:
                yield execute
            except BaseException:
                if line.at_rest:  # else closing the line rolls back
                    with contextlib.suppress(Error, *LOST):
                        execute("ROLLBACK")
                raise
            try:
                execute("COMMIT")
            except LOST:
                raise TransactionError(
                    "the keeper ended during the commit: it may or may not have been kept",
                    cure="Look whether your change is there before you repeat it.",
                ) from None

    def _begin(self, stack: contextlib.ExitStack) -> Line:
        while True:
            attempt = stack.enter_context(contextlib.ExitStack())
            line = attempt.enter_context(self._line())
            try:
                line.ask("begin")
            except LOST:  # nothing is done yet: ask the next keeper
                attempt.close()
            else:
                return line

    def changes(self) -> Iterator[set[str]]:
        """Names of changed tables after commits; an empty set says "the keeper changed: look at everything"."""
        while not self._closed:
            try:
                with self._line() as line:
                    line.tell("changes")
                    while not self._closed:
                        if names := line.hear(timeout=0.5):
                            yield set(names)
            except LOST:
                yield set()

    def close(self) -> None:
        """Write what waits, then leave. The keeper ends by itself when nobody is left."""
        if self._closed:
            return
        self._pipe.close()
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        if self._session_lock is not None:
            self._session_lock.close()

    # ------------------------------------------------------------------------------------------ lines to the keeper
    def _call(self, method: str, *args: Any, repeatable: bool = False) -> Any:
        again: tuple[bool, ...] = (False,) if repeatable else ()
        while True:
            try:
                with self._line() as line:
                    return line.ask(method, *args, *again)
            except LOST:  # the keeper went away: ask the next one; a repeated write goes by row id
                again = (True,) if repeatable else ()

    @contextlib.contextmanager
    def _line(self) -> Iterator[Line]:
        try:
            line = self._idle.pop()
        except IndexError:
            line = self._connect()
            self._lines.add(line)
        try:
            yield line
        finally:
            if line.at_rest and not self._closed:
                self._idle.append(line)
            else:
                line.close()  # interrupted half way: never used again

    def _connect(self) -> Line:
        deadline = time.monotonic() + START_PATIENCE
        while True:
            self._folder.prepare()
            if (line := self._greet()) is not None:
                return line
            with self._starting:
                self._start_keeper()
            if not wait_until(deadline):
                raise KeeperUnavailableError(
                    f"the process that holds the ledger {self.path} does not start",
                    cure=f"Its log is {self._folder.file('log')}.",
                )

    def _greet(self) -> Line | None:
        """A line to a keeper that knows this session, or None when there is none."""
        connection = self._folder.connect()
        if connection is None:
            return None
        line = Line(connection)
        try:
            self._hold_session_lock()
            line.ask("hello", self.session_id)
        except LOST:
            line.close()
            return None
        return line

    def _hold_session_lock(self) -> None:
        """This process lives as long as it holds this lock: the keeper looks at it when the lines are gone."""
        name = f"session-{self.session_id}"
        with self._starting:
            if self._session_lock is None or not os.path.exists(self._folder.file(name)):
                self._session_lock = self._folder.lock(name)

    def _start_keeper(self) -> None:
        """Start a keeper and wait until it serves; one process does it while the others wait."""
        starting = self._folder.lock("starting", wait=True)
        try:
            if (connection := self._folder.connect()) is not None:
                return connection.close()
            _spawn(self.path, self._folder)
        finally:
            if starting is not None:
                starting.close()


def _spawn(path: str, folder: Folder) -> None:
    # A session of its own: Jupyter and terminals signal the whole group. No key in its environment.
    own_session: dict[str, Any] = {"creationflags": 0x208} if sys.platform == "win32" else {"start_new_session": True}
    command = [sys.executable, "-P", "-m", "ipyconvexai.store.keeper", path]
    with open(os.open(folder.file("log"), os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), "ab") as log:
        keeper = subprocess.Popen(
            command,
            cwd=os.path.dirname(path),
            env=_keeper_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            **own_session,
        )
    assert keeper.stdout is not None
    with keeper.stdout:
        keeper.stdout.read()  # until it serves, or ends
    threading.Thread(target=keeper.wait, daemon=True).start()  # no zombie


_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "TEMP", "TMP", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "SYSTEMROOT", "COVERAGE_PROCESS_START")


def _keeper_environment() -> dict[str, str]:
    package_home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    environment["PYTHONPATH"] = os.pathsep.join([*paths, package_home])
    return environment


class ThreadStore:
    """The same engine in a thread of this process: for ``:memory:``, in tests and throw-away work."""

    def __init__(self, path: str) -> None:
        from ipyconvexai.store.engine import Engine  # imports duckdb: only where it is used

        self.path = path
        self.session_id = new_id()
        self._engine = Engine(path)

    def append(
        self, table: str, columns: tuple[str, ...], rows: Rows, receipt: Receipt, *, if_new: bool = False
    ) -> None:
        from ipyconvexai.store.writer import Insert

        future = self._engine.write([Insert(table, columns, rows, if_new)])
        future.add_done_callback(lambda done: receipt(done.result()[0]))

    def read(self, sql: str, params: Any = None) -> Rows:
        return self._engine.read(sql, params)

    def read_arrow(self, sql: str, params: Any = None, frames: Mapping[str, bytes] | None = None) -> bytes:
        return self._engine.read_arrow(sql, params, frames)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Execute]:
        turn = self._engine.begin()
        try:
            yield turn.execute
        except BaseException:
            if not turn.over:
                with contextlib.suppress(Error):
                    turn.execute("ROLLBACK")
            raise
        turn.execute("COMMIT")

    def changes(self) -> Iterator[set[str]]:
        for tables in self._engine.listen():
            if tables:
                yield tables

    def close(self) -> None:
        self._engine.close()
