"""The keeper: the one process that holds a ledger file, for all notebooks, scripts and workers of a person.

Started by the first client as ``python -m ipyconvexai.store.keeper FILE``, it ends by itself ``LINGER`` seconds after
the last has gone. An flock decides which process it is. If it is killed the next client starts another, and clients
repeat what was not acknowledged. Calls ``engine``, ``folder``, ``wire``. Why a process of its own: in a kernel, that
kernel's pure-Python work would stop everybody else's writes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from multiprocessing.connection import Connection, Listener, answer_challenge, deliver_challenge
from typing import Any

from ipyconvexai import __version__
from ipyconvexai.errors import Error, StoreError
from ipyconvexai.store.engine import Engine
from ipyconvexai.store.folder import SOCKET_FOLDER, Folder
from ipyconvexai.store.wire import describe, pack, unpack
from ipyconvexai.store.writer import Insert, Turn

LINGER = 10.0  # seconds without a client before the keeper ends
SWEEP_PAUSE = 0.25  # seconds after a client left before its unfinished calls are judged: it may be reconnecting


class Keeper:
    """Serves `engine` to clients, one thread per connection."""

    def __init__(self, engine: Engine, folder: Folder) -> None:
        self._engine = engine
        self._folder = folder
        self._key = folder.key()
        self._lock = threading.Lock()
        self._connections: dict[Connection[Any, Any], str] = {}  # to the session id, once it said hello
        self._last_seen = time.monotonic()
        self._left = True  # a session may have ended: look, also at the start for what an earlier keeper missed
        self._swept = False
        self._directory: str | None = None
        if sys.platform == "win32":
            address = rf"\\.\pipe\ipyconvexai-{os.urandom(16).hex()}"
        else:
            self._directory = tempfile.mkdtemp(prefix=SOCKET_FOLDER)  # 0700, and a short path
            address = os.path.join(self._directory, "s")
        # No authkey here: accept() would do the handshake in line, and one silent client would block everybody.
        self._listener = Listener(address, backlog=128)
        threading.Thread(target=self._accept, name="ipyconvexai-accept", daemon=True).start()
        folder.announce(address, __version__)

    def run(self) -> None:
        """Serve until nobody has been there for ``LINGER`` seconds."""
        while True:
            time.sleep(SWEEP_PAUSE)
            if self._left:
                self._left = False
                self._sweep()
            with self._lock:
                if not self._connections and time.monotonic() - self._last_seen > LINGER:
                    return

    def _sweep(self) -> None:
        """Calls of processes that ended without recording an outcome become ``unknown``.

        The first sweep looks at every session that does not live, the later ones only at those that just died.
        """
        sessions = self._folder.sessions()
        dead = [session for session, alive in sessions.items() if not alive]
        if self._swept and not dead:
            return
        with contextlib.suppress(Error):  # a file that cannot be opened now: the next sweep does it
            living = None if self._swept else [session for session, alive in sessions.items() if alive]
            self._engine.mark_unknown(dead, living).result()
            self._swept = True
            for session in dead:
                self._folder.forget_session(session)

    def close(self) -> None:
        self._folder.withdraw()
        self._listener.close()
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)

    # ------------------------------------------------------------------------------------------ connections
    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:  # closed at the end
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection[Any, Any]) -> None:
        visit = Visit(self._engine, connection)
        try:
            deliver_challenge(connection, self._key)
            answer_challenge(connection, self._key)
            with self._lock:
                self._connections[connection] = ""
            while True:
                method, args = unpack(connection.recv_bytes())
                if method == "changes":
                    return visit.send_changes()
                if method == "hello":
                    self._connections[connection] = args[0]
                connection.send_bytes(pack(visit.answer(method, args)))
        except Exception:  # noqa: S110 - the client went away, or does not hold the key: either way it is over
            pass
        finally:
            visit.end()
            with self._lock:
                self._last_seen = time.monotonic()
                session = self._connections.pop(connection, "")
                if session not in self._connections.values():
                    self._left = True
            connection.close()


class Visit:
    """What one connection does: its requests, and the transaction it may have open."""

    def __init__(self, engine: Engine, connection: Connection[Any, Any]) -> None:
        self._engine = engine
        self._connection = connection
        self._turn: Turn | None = None

    def answer(self, method: str, args: tuple[Any, ...]) -> tuple[bool, Any]:
        try:
            handler = getattr(self, f"do_{method}", None)
            if handler is None:
                raise StoreError(f"unknown request {method!r}", cure="Use one version of ipyconvexai everywhere.")
            return True, handler(*args)
        except Exception as error:
            return False, describe(error)

    def do_hello(self, session: str) -> dict[str, Any]:
        return {"pid": os.getpid(), "version": __version__, "session": session}

    def do_write(self, inserts: list[tuple[Any, ...]], again: bool) -> list[dict[str, Any] | None]:
        outcomes = self._engine.write([Insert(*insert) for insert in inserts], again).result()
        return [describe(outcome) if outcome else None for outcome in outcomes]

    def do_read(self, sql: str, params: Any) -> list[tuple[Any, ...]]:
        return self._engine.read(sql, params)

    def do_read_arrow(self, sql: str, params: Any, frames: dict[str, bytes]) -> bytes:
        return self._engine.read_arrow(sql, params, frames)

    def do_begin(self) -> None:
        self._turn = self._engine.begin()

    def do_execute(self, sql: str, params: Any) -> list[tuple[Any, ...]]:
        if self._turn is None:
            raise StoreError("no transaction was begun on this connection")
        return self._turn.execute(sql, params)

    def send_changes(self) -> None:
        """Send the names of changed tables until the client leaves."""
        for tables in self._engine.listen():
            if self._connection.poll():  # a listener says nothing more, so it has gone
                return
            if tables:
                self._connection.send_bytes(pack(sorted(tables)))

    def end(self) -> None:
        if self._turn is not None and not self._turn.over:
            self._turn.statements.put(("ROLLBACK", None, Future()))


def main(database: str) -> int:
    os.umask(0o077)  # the ledger belongs to the user alone
    folder = Folder(database)
    folder.prepare()
    lock = folder.lock("lock")
    if lock is None:
        return 0  # another keeper was faster
    engine = Engine(database)
    keeper = Keeper(engine, folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the end of our output tells the starter that we serve
    keeper.run()
    keeper.close()
    engine.close()
    folder.remove()
    lock.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
