"""Real keepers at a fraction of their cost: forked off one process that has imported what they need.

A keeper's start takes 0.2 s of a processor, two thirds of it for imports, and the tests of what stands on the store
start hundreds; a ledger that is not there yet is a copy of a fresh one. `tests/store` and all processes that tests
start have them as users have them. Linux only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from typing import IO

from ipyconvexai.store import start
from ipyconvexai.store.folder import Folder

_NURSERY = "import sys; from tests.keepers import serve; serve(int(sys.argv[1]))"


class Forked:
    """What ``subprocess.Popen`` is to a keeper's starter. `end` is a pipe: the keeper's pid, then how it ended."""

    def __init__(self, end: IO[bytes]) -> None:
        self._end = end
        self.pid = int.from_bytes(end.read(4), "little")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._end], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            said = self._end.read(1)
            self.returncode = said[0] if said else -signal.SIGKILL
            self._end.close()
        return self.returncode


class Nursery:
    """The process that they are forked off: there from the first keeper on, and no longer than this one.

    `requests`: what another process was given by its ``lend``; so its keepers are forked off the same one.
    """

    def __init__(self, requests: socket.socket | None = None) -> None:
        self._gate = threading.Lock()
        self._requests = requests

    def _begin(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _NURSERY, str(theirs.fileno())],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        return ours

    def lend(self) -> socket.socket:
        """For a child of this process, as an argument: ``start._spawn = Nursery(lent).spawn``."""
        with self._gate:
            self._requests = self._requests or self._begin()
        return self._requests

    def spawn(self, folder: Folder) -> Forked:
        requests = self.lend()
        reader, writer = os.pipe()
        log = os.open(folder.file("log"), os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        try:
            request = json.dumps([folder.database, start._environment()]).encode()
            socket.send_fds(requests, [request], [writer, log])
        finally:
            os.close(writer)
            os.close(log)
        return Forked(open(reader, "rb", buffering=0))

    def close(self) -> None:
        if self._requests is not None:
            self._requests.close()
            self._process.wait()


def serve(requests: int) -> None:
    from ipyconvexai.store import keeper

    with tempfile.TemporaryDirectory(prefix="ipyconvexai-tests-") as folder:
        fresh = os.path.join(folder, "fresh.duckdb")
        _in_a_child(lambda: _make(fresh))
        _serve(requests, keeper.main, fresh)


def _in_a_child(run: Callable[[], object]) -> None:
    """DuckDB has threads, and what is forked off a process that has threads may hang."""
    if not (pid := os.fork()):
        try:
            run()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def _make(ledger: str) -> None:
    from ipyconvexai.store.database import Database

    database = Database(ledger)
    with database.cursor():
        pass
    database.close()


def _serve(requests: int, main: Callable[[str], int], fresh: str) -> None:
    signal.signal(signal.SIGCHLD, _bury)
    with socket.socket(fileno=requests) as listening:
        while True:
            request, handles, *_ = socket.recv_fds(listening, 1 << 20, 2)
            if not request:
                return
            if not os.fork():
                try:  # whatever happens: what cleans up after this process is not the child's to do
                    os.close(requests)
                    _be_keeper(main, fresh, *json.loads(request), *handles)
                finally:
                    os._exit(0)
            for handle in handles:
                os.close(handle)


def _bury(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _be_keeper(
    main: Callable[[str], int], fresh: str, database: str, environment: dict[str, str], end: int, log: int
) -> None:
    code = 1
    try:
        os.write(end, os.getpid().to_bytes(4, "little"))
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.chdir(os.path.dirname(database))
        nothing = os.open(os.devnull, os.O_RDWR)
        for handle, standard in ((nothing, 0), (nothing, 1), (log, 2)):
            os.dup2(handle, standard)
        os.environ.clear()
        os.environ.update(environment)
        if not os.path.exists(database) and not os.path.exists(f"{database}.wal"):
            shutil.copy(fresh, database)  # making its tables takes longer than the rest of most tests
            os.chmod(database, 0o600)
        code = main(database)
    except BaseException:
        traceback.print_exc()
    os.write(end, bytes([code]))
