"""Starts a keeper for a ledger that has none. Calls ``folder`` and, where no process can be started, ``keeper``.

Promises: of many processes that come at once one starts it; no key of a provider is in its environment; signals meant
for the notebook do not reach it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from typing import Any

from ipyconvexai.errors import KeeperUnavailableError
from ipyconvexai.store.folder import Folder
from ipyconvexai.store.wire import wait_until

__all__ = ["Host", "start_keeper"]

_PASSED_ON = """
    PATH HOME LANG LC_ALL TMPDIR TEMP TMP LD_LIBRARY_PATH DYLD_LIBRARY_PATH VIRTUAL_ENV PYTHONHOME SYSTEMROOT
    COVERAGE_PROCESS_START IPYCONVEXAI_KEEPER_LINGER
""".split()


class Host:
    """A keeper in a thread of this process, where no process of its own can be started."""

    def __init__(self, folder: Folder) -> None:
        from ipyconvexai.store import keeper  # imports duckdb: only where it is used

        self._keeper: keeper.Keeper | None = None
        own = Folder(folder.database)
        if (lock := keeper.take_lock(own)) is not None:
            os.umask(os.umask(0o077) | 0o077)  # the ledger belongs to the user alone
            self._keeper = keeper.Keeper(own, lock, linger=float("inf"))
            self._thread = threading.Thread(target=self._keeper.run, name="ipyconvexai-keeper", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Finish what is queued and close the file."""
        if self._keeper is not None:
            self._keeper.stop()
            self._thread.join()


def start_keeper(folder: Folder, deadline: float, patience: float) -> Host | None:
    """Start a keeper and wait until it serves, or ``deadline``; returns at once when somebody else is starting one.

    Raises:
        KeeperUnavailableError: it ended with an error.
    """
    starting = folder.lock("starting")
    if starting is None:
        return None
    try:
        if (connection := folder.connect(patience)) is not None:
            connection.close()
            return None
        before = folder.address()
        try:
            process = _spawn(folder)
        except OSError as error:
            warnings.warn(
                f"no process can be started for the ledger ({error}): a thread of this one holds it. Heavy computing"
                " here slows other notebooks' calls, and files made from now on are private (umask 077).",
                RuntimeWarning,
                stacklevel=2,
            )
            return Host(folder)
        while process.poll() is None and folder.address() in (None, before) and wait_until(deadline, 0.003):
            pass
        if process.returncode is not None and process.returncode > 0:
            raise KeeperUnavailableError(
                f"the process that holds the ledger {folder.database} does not start: {_last_line(folder.file('log'))}",
                cure=f"Its log is {folder.file('log')}.",
            )
        threading.Thread(target=process.wait, name="ipyconvexai-reaper", daemon=True).start()  # no zombie
    finally:
        folder.unlock(starting)
    return None


def _spawn(folder: Folder) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise FileNotFoundError("this Python is embedded in another program")
    # A session of its own: Jupyter and terminals signal the whole group.
    own_session: dict[str, Any] = {"creationflags": 0x208} if sys.platform == "win32" else {"start_new_session": True}
    with open(os.open(folder.file("log"), os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "ipyconvexai.store.keeper", folder.database],
            cwd=os.path.dirname(folder.database),
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            **own_session,
        )


def _environment() -> dict[str, str]:
    package_home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    environment["PYTHONPATH"] = os.pathsep.join([*paths, package_home])
    return environment


def _last_line(path: str) -> str:
    with open(path, errors="replace") as file:
        lines = file.read().strip().splitlines()
    return lines[-1] if lines else "no word in its log"
