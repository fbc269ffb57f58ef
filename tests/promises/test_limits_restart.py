"""A limit survives restarts, and clocks that jump.

The window is full; then the keeper ends or is killed, or the machine's clock is set an hour on or back, or both. The
provider's own time stamps, of a clock that does not jump, say whether more passed than the limit allows.
"""

from __future__ import annotations

import contextlib
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
from ipyconvexai.store.clock import Clock, utc_now
from ipyconvexai.store.folder import Folder
from ipyconvexai.store.inprocess import ThreadStore
from ipyconvexai.testing import Endpoint
from tests.promises.children import Child, Say
from tests.promises.promising import Figure, most_in_a_window
from tests.store.test_admission import Limits, admitted

PROMISE = (
    "a limit survives a keeper that ends or is killed at a full window, restarts of it and, on Linux until the machine"
    " is started anew, clocks set an hour on or back"
)

HOUR = 3600.0
MOST, PER = 5, 2.5  # requests in seconds
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
        self._keepers: dict[str, list[Spawned]] = {}
        self.set(0.0)
        monkeypatch.setattr(calls, "utc_now", lambda: utc_now() + datetime.timedelta(seconds=self.wrong))
        monkeypatch.setattr(start, "_spawn", self._spawn)

    def set(self, seconds: float) -> None:
        self.wrong = seconds
        whole = self._file.with_suffix(".new")
        whole.write_text(repr(seconds))
        whole.rename(self._file)

    def _spawn(self, folder: Folder) -> Spawned:
        spawned = Spawned(keep, folder.database, str(self._file))
        self._keepers.setdefault(folder.database, []).append(spawned)
        return spawned

    def keeper(self, path: str) -> Spawned:
        return self._keepers[path][-1]

    def stop(self) -> None:
        for keepers in self._keepers.values():
            for one in keepers:
                one.__exit__(None, None, None)


class Ledger:
    """One with a limit, whose calls go to a provider of its own."""

    def __init__(self, path: Path, machine: Machine) -> None:
        self._path, self._machine = path, machine
        self._open = contextlib.ExitStack()
        self.endpoint = self._open.enter_context(Endpoint())
        self._connect()
        self.app.limit("rate", requests=MOST, per=PER)

    def _connect(self) -> None:
        self.app = self._open.enter_context(ai.connect(self._path))
        self._client: Any = ai.OpenAI(
            wiring=self.app.wiring, base_url=self.endpoint.url, api_key="sk-test-0123456789abcdef", max_retries=0
        )

    def call(self) -> None:
        self._client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello"}])

    def meet(self, word: str) -> None:
        keeper = self._machine.keeper(self.app.store.path)
        if word == "kill":
            os.kill(keeper.pid, signal.SIGKILL)
        elif word == "end":  # properly, with its folder
            self.app.close()
            Folder(self.app.store.path).ask_to_end()
            assert Child.wait(keeper) == 0
            self._connect()
        elif word == "set":  # everything is counted anew
            self.app.limit("other", requests=1000)
        self.app.limits()  # the keeper is there

    def is_late(self) -> bool:
        """The machine was so slow that the window may be over."""
        return time.time() - self.endpoint.calls[0].time > 0.9 * PER

    def close(self) -> None:
        self._open.close()


def at_once(ledgers: list[Ledger], count: int) -> None:
    """So many calls of each at once; each waits for its turn."""
    threads = [threading.Thread(target=ledger.call) for ledger in ledgers for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def most_after(steps: str, ends: list[str], jump: float, folder: Path, machine: Machine) -> dict[str, int]:
    """Of each end, the most calls in one window of the provider's, where the window is filled with these `steps`; but
    of those for which the machine was too slow."""
    ledgers = {end: Ledger(folder / f"{end}.duckdb", machine) for end in ends}
    try:
        at_once([*ledgers.values()], 2)
        for step in steps.split():
            if step == "jump":
                machine.set(jump)
            else:
                at_once([*ledgers.values()], MOST - 2)
        for end, ledger in ledgers.items():
            ledger.meet(end)
        good = {end: ledger for end, ledger in ledgers.items() if not ledger.is_late()}
        begun = time.monotonic()
        at_once([*good.values()], MOST)
        assert time.monotonic() - begun < 20, "a clock that was set is not waited for"
        assert {ledger.endpoint.count for ledger in good.values()} <= {2 * MOST}
        return {
            end: most_in_a_window([received.time for received in ledger.endpoint.calls], PER)
            for end, ledger in good.items()
        }
    finally:
        for ledger in ledgers.values():
            ledger.close()


HAPPENS = {
    ("fill", 0.0): ["kill"],
    **{("jump fill", jump): ["set", "end", "kill"] for jump in (HOUR, -HOUR)},
    **{("fill jump", jump): ["end", "kill"] for jump in (HOUR, -HOUR)},
}


@pytest.mark.parametrize(("steps", "jump"), HAPPENS, ids=str)
def test_a_full_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Figure, steps: str, jump: float):
    found: dict[str, int] = {}
    for attempt in range(ATTEMPTS):
        left = [end for end in HAPPENS[steps, jump] if end not in found]
        if left:
            folder = tmp_path / str(attempt)
            folder.mkdir()
            machine = Machine(folder, monkeypatch)
            try:
                found |= most_after(steps, left, jump, folder, machine)
            finally:
                machine.stop()
    assert {end: most for end, most in found.items() if most > MOST} == {}
    assert len(found) == len(HAPPENS[steps, jump]), f"of the others the machine was too slow: {found}"
    hours = f"{jump / HOUR:+.0f} h, " if jump else ""
    figure(f"at most {max(found.values())} of {MOST} in any window", f"{steps}: {hours}{', '.join(found)}")


# ---------------------------------------------------------------------------------------------- a clock that is given
class Noon(Clock):
    def __init__(self) -> None:
        self.now = NOON
        super().__init__(lambda: self.now)


SET: dict[str, Callable[[Limits], str]] = {
    "minute": lambda limits: limits.limit(requests=MOST),
    "day": lambda limits: limits.limit(requests=MOST, per="day"),
    "tokens": lambda limits: limits.limit(tokens=MOST * 10),
    "budget": lambda limits: limits.budget(usd=MOST * 0.5, per="day"),
    "hour": lambda limits: limits.budget(usd=MOST * 0.5, per="hour"),
}
LENGTH = {"minute": 60.0, "tokens": 60.0, "hour": HOUR, "day": 24 * HOUR, "budget": 12 * HOUR}  # until it is free


def sent(clock: Noon) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(clock.now, datetime.UTC).replace(tzinfo=None)


@pytest.mark.parametrize("kind", SET)
def test_a_restart_at_a_full_window(kind: str, tmp_path: Path):
    clock, path = Noon(), str(tmp_path / "ledger.duckdb")
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
    clock, wrong = Noon(), 0.0
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
