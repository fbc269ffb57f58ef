"""The disk fills up: in a commit, in a checkpoint, on the write-ahead log; by a limit for files, and on a small disk.

What was acknowledged is there afterwards, the provider got nothing that is not recorded, and the same processes go on
when there is room.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai.errors import DiskFullError, Error
from ipyconvexai.ids import new_id
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.engine import Engine
from ipyconvexai.store.folder import Folder
from ipyconvexai.store.writer import Insert
from ipyconvexai.testing import Endpoint
from tests.promises.children import Child
from tests.promises.promising import Figure, Tries
from tests.store.helpers import COLUMNS

if sys.platform != "win32":
    import resource

PROMISE = "a full disk loses nothing that was acknowledged, and stops sending; with room again, everything goes on"
TRIES = Tries(5, 20, "limits")

THREADS = 4
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux sets the limits of another process")


# ------------------------------------------------------------------------------------------------ calls
class Callers:
    """Threads that ask until there is no room, and how it ended for each question."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.answered: dict[str, str] = {}
        self.refused: list[BaseException] = []

    def ask_until_refused(self) -> None:
        self._in_threads(self._ask_until_refused)

    def ask_once_each(self) -> None:
        self._in_threads(self._ask)

    def _in_threads(self, run: Callable[[], object]) -> None:
        threads = [threading.Thread(target=run) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _ask_until_refused(self) -> None:
        try:
            while True:
                self._ask()
        except Error as error:
            self.refused.append(error)

    def _ask(self) -> None:
        prompt = f"{new_id()} " * self._chance.randrange(10, 500)
        self.answered[prompt] = ai.generate(prompt).text


def check_nothing_is_lost(app: ai.App, callers: Callers, sent: list[str], what: str) -> None:
    assert {type(error) for error in callers.refused} == {DiskFullError}, f"{what}: {callers.refused}"
    rows = app.ledger.sql("SELECT request, status, text FROM calls").fetchall()
    texts = {text for _, status, text in rows if status == "ok"}
    assert texts >= set(callers.answered.values()), f"{what}: an answer that was given is lost"
    recorded = [prompt_of(request) for request, _, _ in rows]
    assert set(sent) <= set(recorded), f"{what}: a call was sent unrecorded"
    assert len(sent) == len(set(sent)), f"{what}: a call was sent twice"
    assert len(recorded) == len(set(recorded)), f"{what}: a call is recorded twice"


def prompt_of(body: Any) -> str:
    read = json.loads(body) if isinstance(body, str) else body
    return str(read["messages"][-1]["content"])


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def is_log_hit(path: Path, before: int) -> bool:
    """Whether it was the log for which there was no room: of the file itself nothing was written meanwhile."""
    return size_of(path) == before and size_of(Path(f"{path}.wal")) > 0


@linux
@TRIES.both
def test_a_limit_for_files(endpoint: Endpoint, tmp_path: Path, figure: Figure, tries: int):
    """On whichever of the file and its log reaches it first."""
    answered = refused = logs = 0
    for number in range(tries):
        chance = random.Random(number)
        path = tmp_path / f"{number}.duckdb"
        callers = Callers(chance)
        endpoint.clear()
        with ai.connect(str(path), model="openai:gpt-4o-mini") as app:
            callers.ask_once_each()
            keeper = Folder(app.store.path).keeper_pid()
            assert keeper is not None
            size = max(size_of(path), size_of(Path(f"{path}.wal")))
            limit = size + chance.randrange(1_000, 400_000)
            resource.prlimit(keeper, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            before = size_of(path)
            callers.ask_until_refused()
            logs += is_log_hit(path, before)
            resource.prlimit(keeper, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            callers.ask_once_each()
            sent = [prompt_of(call.body) for call in endpoint.calls]
            check_nothing_is_lost(app, callers, sent, f"{number}: at most {limit} bytes")
        answered += len(callers.answered)
        refused += len(callers.refused)
    assert logs, "no log was refused room: this shows nothing of it"
    figure(
        f"0 of {answered} answers lost, 0 calls sent unrecorded, {refused} refused; the log was hit {logs} times,"
        f" the file {tries - logs}",
        f"{tries} limits",
    )


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("no small disk can be made here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root makes a small disk")
def test_a_small_disk(endpoint: Endpoint, tmp_path: Path, figure: Figure):
    """No space is left indeed, which only root can bring about; the keeper's folder is on it, too."""
    folder = tmp_path / "small"
    with small_disk(folder, "4m"):
        callers = Callers(random.Random(0))
        ballast = folder / "ballast"
        ballast.write_bytes(bytes(2_000_000))
        with ai.connect(str(folder / "ledger.duckdb"), model="openai:gpt-4o-mini") as app:
            path = folder / "ledger.duckdb"
            callers.ask_once_each()
            before = size_of(path)
            callers.ask_until_refused()
            assert is_log_hit(path, before), "the log was to meet the end of the disk"
            ballast.unlink()
            callers.ask_once_each()
            sent = [prompt_of(call.body) for call in endpoint.calls]
            check_nothing_is_lost(app, callers, sent, "a small disk")
    figure(f"0 of {len(callers.answered)} answers lost, 0 calls sent unrecorded; the log was hit", "a disk of 4 MB")


# ------------------------------------------------------------------------------------------------ in a checkpoint
def fill(say: Callable[[Any], None], path: str, number: int) -> None:
    """Open, write until it is refused, close, again and again; closing moves the log into the file, which has no
    room for it. At last there is some."""
    chance = random.Random(number)
    kept: list[str] = []
    refused = set()

    def write(count: int) -> None:
        engine = Engine(path)
        for _ in range(count):
            key = new_id()
            values = (key, utc_now(), "x" * chance.randrange(1, 60_000))
            (outcome,) = engine.write([Insert("conversations", COLUMNS, [values])]).result(60)
            if outcome is None:
                kept.append(key)
            else:
                refused.add(type(outcome).__name__)
        engine.close()

    write(1)
    limit = os.stat(path).st_size + chance.randrange(1, 300_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for _ in range(3):
        write(10)
    in_log = os.path.exists(f"{path}.wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    before = len(kept)
    write(5)
    say((kept, refused, in_log, len(kept) - before, os.path.exists(f"{path}.wal")))


@linux
@TRIES.both
def test_in_a_checkpoint(tmp_path: Path, figure: Figure, tries: int):
    rows = failed = 0
    for number in range(tries):
        path = str(tmp_path / f"{number}.duckdb")
        with Child(fill, path, number) as child:
            kept, refused, in_log, more, log_left = child.hear()
            assert child.wait() == 0
        assert refused <= {"DiskFullError"}, number
        assert more == 5, f"{number}: it does not go on with room"
        assert not log_left, f"{number}: the log stays, with room"
        engine = Engine(path)
        there = {key for (key,) in engine.read("SELECT id::VARCHAR FROM conversations")}
        engine.close()
        assert set(kept) <= there, f"{number}: an acknowledged row is missing"
        rows, failed = rows + len(kept), failed + in_log
    assert failed, "no checkpoint failed: this shows nothing"
    figure(f"0 of {rows} rows lost; the file was hit in {failed} checkpoints", f"{tries} limits")
