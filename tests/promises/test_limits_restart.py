"""A limit survives restarts, and clocks that jump.

The window is full; then the keeper is killed, or the machine's clock is set an hour on or back, or both. The provider's
own time stamps, of a clock that does not jump, say whether more passed than the limit allows.
"""

from __future__ import annotations

import datetime
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai.providers import calls
from ipyconvexai.store import keeper, start
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.folder import Folder
from ipyconvexai.store.inprocess import ThreadStore
from ipyconvexai.testing import Endpoint
from tests.promises.children import Child, Say
from tests.promises.promising import Figure
from tests.store.test_admission import Limits, admitted

PROMISE = "a limit survives a keeper that is killed at a full window, restarts, and clocks set an hour on or back"

HOUR = 3600.0
MOST, PER = 5, 2.0  # requests in seconds
ATTEMPTS = 5  # on a machine that is busy otherwise
NOON = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC).timestamp()


# ---------------------------------------------------------------------------------------------- the machine's clock
def keep(say: Say, database: str, clock: str) -> None:
    """A keeper on a machine whose clock is wrong by the seconds in the file `clock`."""
    true = time.time
    time.time = lambda: true() + float(Path(clock).read_text())
    say("begun")
    keeper.main(database)


class Spawned(Child):
    """As `subprocess.Popen` is to a keeper's starter."""

    returncode: int | None = None

    def poll(self) -> int | None:
        return None

    def wait(self, patience: float = 0.0) -> int:
        """Whoever started it waits for its end in a thread; here `Machine.stop` does."""
        return 0


class Machine:
    """Its clock, as all processes see it that count by it: the one that calls, and its keepers."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = folder / "clock"
        self.keepers: list[Spawned] = []
        self.set(0.0)
        monkeypatch.setattr(calls, "utc_now", lambda: utc_now() + datetime.timedelta(seconds=self.wrong))
        monkeypatch.setattr(start, "_spawn", self._spawn)

    def set(self, seconds: float) -> None:
        self.wrong = seconds
        whole = self._file.with_suffix(".new")
        whole.write_text(repr(seconds))
        whole.rename(self._file)

    def _spawn(self, folder: Folder) -> Spawned:
        self.keepers.append(Spawned(keep, folder.database, str(self._file)))
        return self.keepers[-1]

    def stop(self) -> None:
        for one in self.keepers:
            one.__exit__(None, None, None)

    def kill_keeper(self) -> None:
        os.kill(self.keepers[-1].pid, signal.SIGKILL)


def most_in_a_window(stamps: list[float]) -> int:
    return max(sum(begin <= stamp < begin + PER for stamp in stamps) for begin in stamps)


def call(client: Any, count: int) -> None:
    """So many calls at once, each of which waits for its turn."""

    def ask() -> None:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello"}])

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def most_after(happens: str, jump: float, folder: Path, machine: Machine) -> int | None:
    """The most calls in one window of the provider's, where this happens while a window is filled; None: this took so
    long that the window is over."""
    with Endpoint() as endpoint, ai.connect(folder / "ledger.duckdb") as app:
        client = ai.OpenAI(base_url=endpoint.url, api_key="sk-test-key-that-is-long-enough", max_retries=0)
        app.limit("rate", requests=MOST, per=PER)
        call(client, 2)
        for word in happens.split():
            if word == "fill":
                call(client, MOST - 2)
            elif word == "jump":
                machine.set(jump)
            elif word == "kill":
                machine.kill_keeper()
            elif word == "set":  # everything is counted anew
                app.limit("other", requests=1000)
        app.limits()  # the keeper is there
        if time.time() - endpoint.calls[0].time > 0.9 * PER:
            return None
        begun = time.monotonic()
        call(client, MOST)
        assert time.monotonic() - begun < 20, "a clock that was set is not waited for"
        assert endpoint.count == 2 * MOST
        return most_in_a_window([received.time for received in endpoint.calls])


HAPPENS = [
    ("fill kill", 0.0),
    *itertools.product(["jump fill set", "jump fill kill", "fill jump kill"], [HOUR, -HOUR]),
]


def test_a_full_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Figure):
    found = {}
    for number, (happens, jump) in enumerate(HAPPENS):
        for attempt in range(ATTEMPTS):
            folder = tmp_path / f"{number}.{attempt}"
            folder.mkdir()
            machine = Machine(folder, monkeypatch)
            try:
                most = most_after(happens, jump, folder, machine)
            finally:
                machine.stop()
            if most is not None:
                found[happens, jump] = most
                break
    assert {way: most for way, most in found.items() if most > MOST} == {}
    assert len(found) == len(HAPPENS), f"of the others the machine was too slow: {found}"
    figure(f"at most {max(found.values())} of {MOST} in any window", f"{len(found)} ways of kills and jumps")


# ---------------------------------------------------------------------------------------------- a clock that is given
class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


SET: dict[str, Callable[[Limits], str]] = {
    "minute": lambda limits: limits.limit(requests=MOST),
    "day": lambda limits: limits.limit(requests=MOST, per="day"),
    "tokens": lambda limits: limits.limit(tokens=MOST * 10),
    "budget": lambda limits: limits.budget(usd=MOST * 0.5, per="day"),
    "hour": lambda limits: limits.budget(usd=MOST * 0.5, per="hour"),
}
LENGTH = {"minute": 60.0, "tokens": 60.0, "hour": HOUR, "day": 24 * HOUR, "budget": 12 * HOUR}  # until it is free


def sent(clock: Clock) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(clock.now, datetime.UTC).replace(tzinfo=None)


@pytest.mark.parametrize("kind", SET)
def test_a_restart_at_a_full_window(kind: str, tmp_path: Path):
    clock, path = Clock(), str(tmp_path / "ledger.duckdb")
    store = ThreadStore(path, clock)
    SET[kind](Limits(store))
    assert admitted(store, MOST + 3, sent_at=sent(clock)) == MOST
    for elapsed, free in ((0.0, 0), (0.5, 0), (0.98, 0), (1.2, MOST)):  # with what two clocks may differ
        store.close()
        clock.now = NOON + elapsed * LENGTH[kind]
        store = ThreadStore(path, clock)
        assert admitted(store, MOST + 3, sent_at=sent(clock)) == free, f"after {elapsed:.0%} of it"
    store.close()


@pytest.mark.parametrize("kind", SET)
@pytest.mark.parametrize("jumps", list(itertools.product([HOUR, -HOUR], repeat=2)), ids=str)
def test_a_clock_that_jumps_while_the_keeper_lives(kind: str, jumps: tuple[float, float], tmp_path: Path):
    """Rows are dated by the clock of the process that sends: it may say what it likes."""
    clock, wrong = Clock(), 0.0
    store = ThreadStore(":memory:", clock)
    SET[kind](Limits(store))
    total = 0
    for jump in jumps:
        at = sent(clock) + datetime.timedelta(seconds=wrong)
        total += admitted(store, MOST - 2 if not total else MOST, sent_at=at)
        wrong += jump
    assert total == MOST
    assert admitted(store, 1, sent_at=sent(clock) + datetime.timedelta(seconds=wrong)) == 0
    store.close()
