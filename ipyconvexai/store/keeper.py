"""The keeper: the one process that holds a ledger file, for all notebooks, scripts and workers of a person.

Started by the first client as ``python -m ipyconvexai.store.keeper FILE``, it ends by itself ``LINGER`` seconds after
the last has gone. An flock decides which process it is. If it is killed the next client starts another, and clients
repeat what was not acknowledged. Calls ``engine``, ``folder``, ``visit``. Why a process of its own: in a kernel, that
kernel's pure-Python work would stop everybody else's writes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Client, Connection, Listener
from typing import IO, Any

from ipyconvexai import __version__
from ipyconvexai.store.engine import Engine
from ipyconvexai.store.folder import SOCKET_FOLDER, Folder
from ipyconvexai.store.visit import Visit
from ipyconvexai.store.wire import hang_up, wait_until

__all__ = ["LINGER_VARIABLE", "Keeper"]

LINGER = 10.0  # seconds without a client before the keeper ends
LINGER_VARIABLE = "IPYCONVEXAI_KEEPER_LINGER"  # another number of seconds
TICK = 0.25  # seconds between two looks at clients and sessions
JUDGE_AGAIN = 5.0  # seconds after the file could not be opened to judge calls
LOCK_PATIENCE = 10.0  # seconds for the keeper before to close the file and go


class Keeper:
    """Serves `folder`'s ledger to clients, one thread per connection. `lock` is the folder's "lock", held."""

    def __init__(self, folder: Folder, lock: IO[bytes], linger: float = LINGER) -> None:
        self._folder = folder
        self._lock_file = lock
        self._linger = linger
        self._key = folder.key()
        self._engine = Engine(folder.database)
        self._gate = threading.Lock()
        self._visits: dict[Connection[Any, Any], Visit] = {}
        self._last_seen = time.monotonic()
        self._judge_at: float | None = 0.0  # the first look is at what an earlier keeper missed
        self._ended = threading.Event()
        self.is_told_to_end = False  # by a signal: its handler may not set the event, whose lock may be taken below it
        self._directory: str | None = None
        if sys.platform == "win32":
            self._address = rf"\\.\pipe\ipyconvexai-{os.urandom(16).hex()}"
        else:
            self._directory = tempfile.mkdtemp(prefix=SOCKET_FOLDER)  # 0700, and a short path
            self._address = os.path.join(self._directory, "s")
        # No authkey here: accept() would do the handshake in line, and one silent client would block everybody.
        self._listener = Listener(self._address, backlog=128)
        self._start(self._accept)
        folder.announce(self._address, __version__)

    def _start(self, run: Any, *args: Any) -> threading.Thread:
        thread = threading.Thread(target=run, args=args, name=f"ipyconvexai-{run.__name__.strip('_')}", daemon=True)
        thread.start()
        return thread

    def run(self) -> None:
        """Serve until nobody was there for `linger` seconds, ``stop`` is called or a signal came; then close all."""
        judge = self._start(self._judge_sessions)
        while not self._ended.wait(TICK) and not self.is_told_to_end:
            with self._gate:
                visits = list(self._visits.values())
            for visit in visits:
                visit.look()
            if self._is_deserted() or not self._is_reachable():
                break
        self._close(judge)

    def stop(self) -> None:
        self._ended.set()

    def _is_deserted(self) -> bool:
        with self._gate:
            if self._visits:
                self._last_seen = time.monotonic()
            elif self._folder.is_asked_to_end():
                return True  # by a client of another version
            waited = time.monotonic() - self._last_seen > self._linger
        # A dead client's lock file goes when its calls are judged.
        return waited and not self._folder.sessions()

    def _is_reachable(self) -> bool:
        # Somebody removed our folder, its key or the temporary one: nobody could come any more, and another keeper may.
        socket_there = self._directory is None or os.path.exists(self._address)
        return socket_there and self._folder.holds(self._lock_file, "lock") and self._holds_key()

    def _holds_key(self) -> bool:
        try:
            return self._folder.key() == self._key
        except FileNotFoundError:
            return False  # whoever comes next makes another
        except OSError:
            return True  # out of file handles, say

    def _close(self, judge: threading.Thread) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):  # somebody may have removed its file
            Client(self._address).close()  # wakes the thread that accepts: a host goes on without us
        with contextlib.suppress(OSError):
            self._listener.close()
        ours = self._folder.holds(self._lock_file, "lock")
        if ours:
            self._folder.remove_socket()
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)
        judge.join()
        self._engine.close()
        with self._gate:  # in a host there may be some
            for connection in self._visits:
                hang_up(connection)
        if ours:
            self._folder.remove_if_deserted()
        self._folder.unlock(self._lock_file)

    # ------------------------------------------------------------------------------------------ sessions that ended
    def _judge_sessions(self) -> None:
        """What processes had under way that ended: their calls become ``unknown``, their jobs and messages failed."""
        while True:
            dead = [session for session in self._folder.sessions() if not self._folder.is_alive(session)]
            if dead or (self._judge_at is not None and time.monotonic() >= self._judge_at):
                try:
                    self._judge()
                    self._judge_at = None
                except Exception:  # the file cannot be opened now; without this thread no keeper ends
                    self._judge_at = time.monotonic() + JUDGE_AGAIN
            for session in dead:
                self._folder.forget_session(session)
            if self._ended.wait(TICK):
                return

    def _judge(self) -> None:
        # The rows first and the locks after them: a process takes its lock before it writes, so one that has rows and
        # no lock is gone.
        unfinished, working = self._engine.unfinished(), self._engine.working()
        gone = {session for session in working.union(unfinished) if not self._folder.is_alive(session)}
        if given_up := [call for session in gone for call in unfinished.get(session, ())]:
            self._engine.mark_unknown(given_up).result()
        if left := sorted(gone & working):
            self._engine.give_up(left).result()

    # ------------------------------------------------------------------------------------------ connections
    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:
                time.sleep(TICK)  # out of file handles, say
            else:
                self._start(self._serve, connection)
            if self._ended.is_set():
                return

    def _serve(self, connection: Connection[Any, Any]) -> None:
        visit = Visit(self._engine, connection)
        try:
            visit.authenticate(self._key)
            with self._gate:
                if self._ended.is_set():
                    return
                self._visits[connection] = visit
            visit.serve()
        except Exception:
            pass  # the client went away, or does not hold the key: either way it is over
        finally:
            visit.end()
            with self._gate:
                if self._visits.pop(connection, None):
                    self._last_seen = time.monotonic()
            connection.close()


def take_lock(folder: Folder) -> IO[bytes] | None:
    """The folder's "lock"; waits for a keeper that is just closing the file. None when one serves."""
    deadline = time.monotonic() + LOCK_PATIENCE
    while (lock := folder.lock("lock")) is None:
        if folder.address() is not None or not wait_until(deadline):
            return None
    return lock


def main(database: str) -> int:
    os.umask(0o077)  # the ledger belongs to the user alone
    folder = Folder(database)
    folder.prepare()
    lock = take_lock(folder)
    if lock is None:
        return 0  # another keeper was faster
    linger = LINGER
    with contextlib.suppress(KeyError, ValueError):
        linger = float(os.environ[LINGER_VARIABLE])
    keeper = Keeper(folder, lock, linger)

    def tell(*_: object) -> None:
        keeper.is_told_to_end = True

    for number in (signal.SIGINT, signal.SIGTERM):  # what waits is written, and the file closed
        signal.signal(number, tell)
    keeper.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
