"""Processes write while they, and the keeper that holds the file, are killed at random: what was acknowledged is there.

Each client says on its pipe what it was told is durable, after it was told; what nobody was told may be there or not.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from ipyconvexai.errors import TransactionError
from ipyconvexai.ids import new_id
from ipyconvexai.store import start
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.folder import Folder
from ipyconvexai.store.link import KeeperStore, Store
from tests.keepers import Nursery
from tests.promises.children import Child
from tests.promises.promising import Figure, Tries
from tests.store.helpers import wait_for

PROMISE = "no acknowledged row is lost, and none is there twice, when notebooks or the keeper are killed with `kill -9`"
TRIES = Tries(30, 1_000, "kills")

CLIENTS, THREADS = 4, 3
COLUMNS = ("id", "created_at", "title")
INSERT = "INSERT INTO conversations (id, created_at, title) VALUES (?, ?, ?)"
KEPT, REFUSED = "kept", "refused"


# ------------------------------------------------------------------------------------------------ in a client
def write(say: Callable[[Any], None], path: str, keepers: socket.socket) -> None:
    """Rows without end: one thread in transactions of its own, the others together with those of others."""
    start._spawn = Nursery(keepers).spawn  # type: ignore[assignment]
    store = KeeperStore(path)
    gate = threading.Lock()

    def tell(word: str, text: str) -> None:
        with gate:
            say((word, text))

    def work(number: int) -> None:
        add = _in_transaction if number == 0 else _append
        try:
            while True:
                key = new_id()
                # Sizes from a word to some kilobytes; that of a row can be told from its key.
                if add(store, (key, utc_now(), title_of(key))):
                    tell(KEPT, key)
        except BaseException as error:
            tell(REFUSED, f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def title_of(key: str) -> str:
    return key * (1 + int(key[-2:], 16))


def _append(store: Store, row: tuple[Any, ...]) -> bool:
    done: Future[None] = Future()
    store.append(
        "conversations",
        COLUMNS,
        [row],
        lambda error: done.set_result(None) if error is None else done.set_exception(error),
    )
    done.result(60)
    return True


def _in_transaction(store: Store, row: tuple[Any, ...]) -> bool:
    """A transaction is never repeated: whose keeper was killed is told that it is not known."""
    try:
        with store.transaction() as execute:
            execute(INSERT, row)
    except TransactionError:
        return False
    return True


# ------------------------------------------------------------------------------------------------ who kills them
class Clients:
    """Four that write, and what they say."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments  # of ``write``
        self._news = threading.Condition()
        self.kept: list[str] = []
        self.refused: list[str] = []
        self._living = [self._begin() for _ in range(CLIENTS)]

    def _begin(self) -> tuple[Child, threading.Thread]:
        child = Child(write, *self._arguments)
        thread = threading.Thread(target=self._listen, args=(child,))
        thread.start()
        return child, thread

    def _listen(self, child: Child) -> None:
        for word, text in child.rest():
            with self._news:
                (self.kept if word == KEPT else self.refused).append(text)
                self._news.notify_all()

    def wait_for_more(self, rows: int) -> float:
        """Until that many more were acknowledged; gives the longest time in which none was."""
        longest, last = 0.0, time.monotonic()
        with self._news:
            for _ in range(rows):
                before = len(self.kept)
                assert self._news.wait_for(partial(self._has_more_than, before), 60), "silence"
                assert not self.refused, self.refused
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return longest

    def _has_more_than(self, rows: int) -> bool:
        return len(self.kept) > rows or bool(self.refused)

    def kill_one(self, number: int) -> None:
        child, thread = self._living[number]
        child.send(signal.SIGKILL)
        self._end(child, thread)
        self._living[number] = self._begin()

    def end(self) -> None:
        while self._living:
            self._end(*self._living.pop())

    def _end(self, child: Child, thread: threading.Thread) -> None:
        child.send(signal.SIGKILL)
        thread.join()
        with child:
            pass


@contextlib.contextmanager
def clients_of(*arguments: Any) -> Iterator[Clients]:
    clients = Clients(*arguments)
    try:
        yield clients
    finally:
        clients.end()


def kill_keeper(folder: Folder, before: int) -> int:
    """Kill the one that came after `before`, which may still stand in its file; gives its process id."""
    keeper: int = wait_for(lambda: (found := folder.keeper_pid()) != before and found, "the next keeper", 60)
    os.kill(keeper, signal.SIGKILL)
    return keeper


@TRIES.both
def test_what_was_acknowledged_is_there_once(tmp_path: Path, nursery: Nursery, figure: Figure, tries: int):
    path = str(tmp_path / "ledger.duckdb")
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    folder = Folder(path)
    killed = {"notebooks": 0, "keepers": 0}
    longest, keeper = 0.0, 0
    with clients_of(path, nursery.lend()) as clients:
        for number in range(tries):
            clients.wait_for_more(chance.randrange(1, 30))
            time.sleep(chance.random() / 200)  # anywhere between two commits
            if number % 2:
                clients.kill_one(chance.randrange(CLIENTS))
                killed["notebooks"] += 1
                continue
            keeper = kill_keeper(folder, keeper)
            killed["keepers"] += 1
            longest = max(longest, clients.wait_for_more(1))
        clients.wait_for_more(10)
        kill_keeper(folder, keeper)
    acknowledged = clients.kept
    store = KeeperStore(path)  # the clients may have started one more keeper
    rows = store.read("SELECT id::VARCHAR, title FROM conversations")
    store.close()
    lost = set(acknowledged) - {key for key, _ in rows}
    assert not lost, f"seed {seed}: {len(lost)} of {len(acknowledged)} acknowledged rows are lost"
    assert len(rows) == len({key for key, _ in rows}), f"seed {seed}: a row is there twice"
    assert all(title == title_of(key) for key, title in rows), f"seed {seed}: a row is not whole"
    figure(
        f"{len(lost)} of {len(acknowledged):,} rows lost, 0 of {killed['keepers']} opens failed, pauses up to"
        f" {longest:.1f} s",
        f"{killed['notebooks'] + killed['keepers']:,} kills",
    )
