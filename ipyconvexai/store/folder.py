"""The private folder beside a ledger file: key, locks, the keeper's address, its log, a lock file per
client process.

Runs on both sides; standard library, ``errors``, ``versions`` and ``wire`` only. Promises: everything in it belongs to
the user alone (0700), a lock ends with the process that held it however that ended, and the folder goes with the last
process.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import stat
import sys
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection
from typing import IO, Any

from ipyconvexai.errors import DiskFullError, LedgerReadOnlyError, StoreError
from ipyconvexai.store.versions import common, is_ours, other_version
from ipyconvexai.store.wire import LOST, dial

__all__ = ["SOCKET_FOLDER", "Folder"]

SOCKET_FOLDER = "ipyconvexai-"  # prefix; socket paths are limited to 108 characters, so they live in the temp folder
_LONGEST_NAME = 300  # bytes
_NO_ROOM = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


class Folder:
    """`database` is the real path of the ledger file."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.path = database + ".keeper"
        self._held: set[IO[bytes]] = set()

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def prepare(self) -> None:
        """Make the folder and its key where they are missing; the first process to come wins, whole."""
        for last_try in (False, False, True):
            try:
                _make_private(self.path)
                self._check_owner()
                if not os.path.exists(self.file("key")):
                    self._make_key()
                return
            except FileNotFoundError as error:  # a keeper that ended removed the folder at this moment
                if last_try:
                    raise self._unusable(error) from None
            except OSError as error:
                raise self._unusable(error) from None

    def _unusable(self, error: OSError) -> StoreError:
        if error.errno in _NO_ROOM:
            return DiskFullError(f"no room on the disk for {self.path}", cure="Free some space, then repeat.")
        return LedgerReadOnlyError(
            f"the folder of the ledger {self.database} cannot be written: {error.strerror}",
            cure='Choose another file: ai.connect("my.duckdb") or IPYCONVEXAI_DB; or ai.connect(":memory:").',
        )

    def _check_owner(self) -> None:
        if sys.platform == "win32":
            return  # the profile folder is private there
        facts = os.lstat(self.path)  # not through a link that somebody else may have put there
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
            raise StoreError(
                f"{self.path} must be a folder that belongs to you alone",
                cure=f"chmod 700 {self.path}, or remove it when no notebook is running.",
            )

    def _make_key(self) -> None:
        fresh = self.file(f"key.{secrets.token_hex(8)}")
        with open(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
        with contextlib.suppress(FileExistsError):
            os.link(fresh, self.file("key"))
        os.unlink(fresh)

    def key(self) -> bytes:
        with open(self.file("key"), "rb") as file:
            return file.read()

    # ------------------------------------------------------------------------------------------ locks
    def lock(self, name: str) -> IO[bytes] | None:
        """An open file that holds the lock until it goes to ``unlock`` or its process ends; None when it is taken.

        The folder may be removed and made again while somebody comes, so a lock counts only when the file it was
        taken on is still the one that the name leads to.
        """
        while True:
            try:
                handle = os.open(self.file(name), os.O_CREAT | os.O_RDWR, 0o600)
            except FileNotFoundError:
                self.prepare()
                continue
            file = open(handle, "r+b", buffering=0)  # noqa: SIM115 - ``unlock`` closes it
            self._held.add(file)
            if not _take(file):
                self.unlock(file)
                return None
            if self.holds(file, name):
                return file
            self.unlock(file)
            self.prepare()

    def holds(self, file: IO[bytes], name: str) -> bool:
        """Whether `file` is the one that is now called `name`."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self.file(name)))
        except OSError:
            return False

    def unlock(self, file: IO[bytes]) -> None:
        self._held.discard(file)
        file.close()

    def forget_locks(self) -> None:
        """After a fork: give up the child's share of what its parent holds. The parent's locks stay."""
        while self._held:
            self._held.pop().close()

    def session_lock(self, session: str) -> IO[bytes] | None:
        """The process lives as long as it holds this lock; None in the moment in which a keeper looks at it.

        What it is called is in the file, for those who cannot use the ledger because of it.
        """
        file = self.lock(f"session-{session}")
        if file is not None:
            with contextlib.suppress(OSError):  # the disk is full, say
                file.write(_own_name().encode("utf-8", "replace"))
        return file

    def users(self, but: str | None = None) -> list[str]:
        """The living client processes in words, without those of the session `but`."""
        return [self._name_of(session) for session in self.sessions() if session != but and self.is_alive(session)]

    def _name_of(self, session: str) -> str:
        with contextlib.suppress(OSError), open(self.file(f"session-{session}"), "rb") as file:
            if name := file.read(_LONGEST_NAME).decode("utf-8", "replace"):
                return name
        return "a process that left no name"

    def sessions(self) -> list[str]:
        """Ids of the client processes that left a lock file here, dead or alive."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return []
        return [name.removeprefix("session-") for name in names if name.startswith("session-")]

    def is_alive(self, session: str) -> bool:
        """Whether the process of this session still runs: the lock file is there, and held."""
        try:
            with open(self.file(f"session-{session}"), "r+b", buffering=0) as file:
                return not _take(file)
        except OSError:
            return False

    def forget_session(self, session: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.file(f"session-{session}"))

    # ------------------------------------------------------------------------------------------ the keeper's address
    def announce(self, address: str, version: str) -> None:
        """Publish where the keeper listens, in one step. Only for the holder of "lock"."""
        self.remove_socket()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.file("end"))  # it was meant for the one before
        facts = {**common(), "version": version, "pid": os.getpid(), "address": address}
        with open(self.file("address.new"), "w") as file:
            json.dump(facts, file)
        os.replace(self.file("address.new"), self.file("address"))

    def _announced(self) -> dict[str, Any]:
        with open(self.file("address")) as file:
            facts: dict[str, Any] = json.load(file)
        return facts

    def address(self) -> str | None:
        """Where the keeper listens or, if it was killed, listened; None when there is none."""
        try:
            return str(self._announced()["address"])
        except (OSError, ValueError, KeyError):
            return None

    def keeper_pid(self) -> int | None:
        try:
            return int(self._announced()["pid"])
        except (OSError, ValueError, KeyError):
            return None

    def connect(self, patience: float) -> Connection[Any, Any] | None:
        """A connection to the keeper, or None when nobody is there.

        Raises:
            KeeperUnavailableError: it says nothing for `patience` seconds.
            OtherVersionError: it is of another version, with which this one cannot share it.
        """
        try:
            facts = self._announced()
            if is_ours(facts):
                return dial(facts["address"], self.key(), patience)
        except (*LOST, ValueError, KeyError, AuthenticationError):
            return None
        if (lock := self.lock("lock")) is not None:
            self.unlock(lock)  # that keeper was killed
            return None
        raise other_version(facts, self.users())

    def ask_to_end(self) -> None:
        """Have the keeper, of whatever version, end as soon as nobody uses it; else it lingers a while."""
        with contextlib.suppress(OSError):
            open(self.file("end"), "ab").close()

    def is_asked_to_end(self) -> bool:
        return os.path.exists(self.file("end"))

    # ------------------------------------------------------------------------------------------ the end
    def remove_socket(self) -> None:
        """Remove the keeper's socket with its temporary folder, also a killed one's. For the holder of "lock"."""
        directory = os.path.dirname(self.address() or "")
        if os.path.basename(directory).startswith(SOCKET_FOLDER):
            shutil.rmtree(directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(self.file("address"))

    def remove_if_deserted(self) -> None:
        """Remove the folder unless a living process still has its lock in it. For the holder of "lock".

        In one step: whoever comes meanwhile makes a new one.
        """
        if any(self.is_alive(session) for session in self.sessions()):
            return
        gone = f"{self.path}-{secrets.token_hex(8)}"
        with contextlib.suppress(OSError):
            os.rename(self.path, gone)
            shutil.rmtree(gone)


def _make_private(folder: str) -> None:
    """Make it where it is missing, and what is missing above it: ``os.makedirs`` leaves that to the umask."""
    if os.path.isdir(folder):
        return
    if (above := os.path.dirname(folder)) != folder:
        _make_private(above)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, mode=0o700)


def _own_name() -> str:
    notebook = os.path.basename(os.environ.get("JPY_SESSION_NAME", ""))
    return f"process {os.getpid()}" + (f" ({notebook})" if notebook else "")


def _take(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
