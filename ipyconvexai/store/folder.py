"""The private folder beside a ledger file: key, locks, the keeper's address, its log, a lock file per client process.

Runs on both sides; standard library and ``errors`` only. Promises: everything in it belongs to the user alone (0700),
a lock ends with the process that held it however that ended, and the folder goes with the last keeper.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import sys
from multiprocessing.connection import Client, Connection
from typing import IO, Any

from ipyconvexai.errors import KeeperUnavailableError, LedgerReadOnlyError, StoreError
from ipyconvexai.store.wire import LOST, PROTOCOL

__all__ = ["Folder"]

SOCKET_FOLDER = "ipyconvexai-"  # prefix; socket paths are limited to 108 characters, so they live in the temp folder


class Folder:
    """`database` is the real path of the ledger file."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.path = database + ".keeper"

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def prepare(self) -> None:
        """Make the folder and its key where they are missing; the first process to come wins, whole."""
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            self._check_owner()
            if not os.path.exists(self.file("key")):
                self._make_key()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise StoreError(f"no room on the disk for {self.path}", cure="Free some space, then repeat.") from None
            raise LedgerReadOnlyError(
                f"the folder of the ledger {self.database} cannot be written: {error.strerror}",
                cure='Choose another file: ai.connect("my.duckdb") or IPYCONVEXAI_DB; or ai.connect(":memory:").',
            ) from None

    def _check_owner(self) -> None:
        if sys.platform == "win32":
            return  # the profile folder is private there
        facts = os.stat(self.path)
        if facts.st_uid != os.getuid() or facts.st_mode & 0o077:
            raise StoreError(
                f"{self.path} must belong to you alone",
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
    def lock(self, name: str, *, wait: bool = False) -> IO[bytes] | None:
        """An open file that holds the lock until it is closed or its process ends; None when it is taken.

        The folder may be removed and made again while somebody waits, so a lock counts only when the file it was
        taken on is still the one that the name leads to.
        """
        while True:
            file = open(os.open(self.file(name), os.O_CREAT | os.O_RDWR, 0o600), "r+b")  # noqa: SIM115 - the caller closes it
            if not _take(file, wait):
                file.close()
                return None
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self.file(name))):
                    return file
            file.close()
            self.prepare()

    def sessions(self) -> dict[str, bool]:
        """Client processes known here, by session id: whether each is alive (it holds its lock file)."""
        alive = {}
        for name in os.listdir(self.path):
            if name.startswith("session-"):
                file = open(self.file(name), "r+b")  # noqa: SIM115 - closed two lines below
                alive[name.removeprefix("session-")] = not _take(file, wait=False)
                file.close()
        return alive

    def forget_session(self, session: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.file(f"session-{session}"))

    # ------------------------------------------------------------------------------------------ the keeper's address
    def announce(self, address: str, version: str) -> None:
        """Publish where the keeper listens, in one step; removes what a killed keeper left in the temp folder."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            old = os.path.dirname(self._announced()["address"])
            if os.path.basename(old).startswith(SOCKET_FOLDER):
                shutil.rmtree(old)
        facts = {"protocol": PROTOCOL, "version": version, "pid": os.getpid(), "address": address}
        with open(self.file("address.new"), "w") as file:
            json.dump(facts, file)
        os.replace(self.file("address.new"), self.file("address"))

    def _announced(self) -> dict[str, Any]:
        with open(self.file("address")) as file:
            facts: dict[str, Any] = json.load(file)
        return facts

    def keeper_pid(self) -> int | None:
        try:
            return int(self._announced()["pid"])
        except (OSError, ValueError, KeyError):
            return None

    def connect(self) -> Connection[Any, Any] | None:
        """A connection to the keeper, or None when nobody is there."""
        try:
            facts = self._announced()
            if facts["protocol"] == PROTOCOL:
                return Client(facts["address"], authkey=self.key())
        except (*LOST, ValueError, KeyError):
            return None
        raise KeeperUnavailableError(
            f"the ledger is held by process {facts['pid']} of ipyconvexai {facts.get('version')}, which speaks another"
            " version of the protocol",
            cure="Close the notebooks that use the other version and wait 10 s, or use one version everywhere.",
        )

    def withdraw(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.file("address"))

    def remove(self) -> None:
        """Remove the folder in one step: whoever comes meanwhile makes a new one."""
        gone = f"{self.path}-{secrets.token_hex(8)}"
        with contextlib.suppress(OSError):
            os.rename(self.path, gone)
            shutil.rmtree(gone)


def _take(file: IO[bytes], wait: bool) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True
