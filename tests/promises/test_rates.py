"""A rate is never passed in any window of the provider's own time stamps, and is used.

64 threads in 4 processes call as fast as they may. Then the keeper, which judges them, is killed: that opens no gate.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai.errors import Error
from ipyconvexai.testing import Endpoint
from tests.promises.children import Child, Say
from tests.promises.promising import Figure, Tries, most_in_a_window
from tests.store.helpers import keepers_of, wait_for

PROMISE = (
    "a rate is never passed in any window of the provider's own time stamps; while enough calls wait, nine tenths of it"
    " are used, on a busy machine in the best of four stretches"
)
TRIES = Tries(1, 60, "windows")

PROCESSES, THREADS = 4, 16
MOST, PER = 40, 2.0  # requests in seconds
ROUNDS = 4  # on a machine that is busy otherwise the crowd itself may be too slow to use a limit
KILLS_EVERY = 6  # windows; at least one

if sys.platform != "linux":
    pytest.skip("keepers are found by their command line", allow_module_level=True)


def call(say: Say, ledger: str, url: str, word: str) -> None:
    """16 threads call as fast as they may, from the file `word` on until it has gone."""
    app = ai.connect(ledger)
    client: Any = ai.OpenAI(base_url=url, api_key="sk-test-key-that-is-long-enough", max_retries=0)

    def ask() -> None:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello"}])

    def work() -> None:
        try:
            while os.path.exists(word):
                ask()
        except Error as error:
            if os.path.exists(word):
                say(repr(error))

    ask()
    say("ready")
    while not os.path.exists(word):
        time.sleep(0.001)
    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    while os.path.exists(word):
        time.sleep(0.01)
    app.close()  # ends the waits, too
    for thread in threads:
        thread.join()


class Crowd:
    """64 threads in 4 processes that call an endpoint, from `begin` to the end of the ``with`` block."""

    def __init__(self, ledger: str, endpoint: Endpoint, processes: int) -> None:
        self._endpoint = endpoint
        self._word = Path(f"{ledger}.word")
        self._kept = contextlib.ExitStack()
        self._children = [
            self._kept.enter_context(Child(call, ledger, endpoint.url, str(self._word))) for _ in range(processes)
        ]
        assert {child.hear() for child in self._children} == {"ready"}
        endpoint.clear()

    def begin(self) -> float:
        """Gives the time stamp of the first call."""
        self._word.touch()
        self._endpoint.wait(lambda endpoint: endpoint.count > 0)
        return self.stamps()[0]

    def stamps(self) -> list[float]:
        return sorted(call.time for call in self._endpoint.calls)

    def wait_for_more(self) -> None:
        before = self._endpoint.count
        self._endpoint.wait(lambda endpoint: endpoint.count > before, 30)

    def end(self) -> None:
        """Ends them all, and fails if a call failed."""
        self._word.unlink()
        assert [error for child in self._children for error in child.rest()] == []
        assert {child.wait() for child in self._children} == {0}

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self._word.unlink(missing_ok=True)
        self._kept.close()


@pytest.fixture
def ledger(tmp_path: Path, cold_keepers: None) -> Iterator[str]:
    """Its keeper is found by its command line, and ends after the test."""
    path = tmp_path / "ledger.duckdb"
    yield str(path)
    wait_for(lambda: not keepers_of(path), "the keeper to end")


def test_the_judge_counts_any_window():
    assert most_in_a_window([0.0, 1.9, 2.0, 3.8, 3.9], 2.0) == 3
    assert most_in_a_window([0.0, 2.0, 4.0], 2.0) == 1


@TRIES.both
def test_sixty_four_threads_in_four_processes(tries: int, ledger: str, figure: Figure):
    """Nine tenths in the best of ROUNDS stretches; the limit itself is never passed in any of them."""
    with ai.connect(ledger) as app, Endpoint(latency=0.01) as endpoint, Crowd(ledger, endpoint, PROCESSES) as crowd:
        app.limit("rate", requests=MOST, per=PER)
        begun, best = crowd.begin(), 0
        rounds = 0
        while best < 0.9 * MOST * tries and rounds < ROUNDS:
            rounds += 1
            end = begun + tries * PER
            time.sleep(max(0.0, end - time.time()))
            best = max(best, len([stamp for stamp in crowd.stamps() if begun <= stamp < end]))
            begun = end
        kills = max(1, tries // KILLS_EVERY)
        for _ in range(kills):
            (pid,) = wait_for(lambda: keepers_of(ledger), "a keeper")
            os.kill(pid, signal.SIGKILL)
            time.sleep(PER / 2)
            crowd.wait_for_more()
        time.sleep(PER / 2)
        crowd.end()
        stamps = crowd.stamps()
    most = most_in_a_window(stamps, PER)
    figure(
        f"at most {most} of {MOST} in any {PER:g} s, {best / (MOST * tries):.0%} used in the best of {rounds}"
        f" {'stretch' if rounds == 1 else 'stretches'} of {tries * PER:g} s",
        f"{len(stamps):,} calls of {PROCESSES * THREADS} threads in {PROCESSES} processes, keeper killed {kills} times",
    )
    assert most <= MOST
    assert best >= 0.9 * MOST * tries


def test_concurrency_is_kept_across_processes(ledger: str, figure: Figure):
    with ai.connect(ledger) as app, Endpoint(latency=0.05) as endpoint, Crowd(ledger, endpoint, 2) as crowd:
        app.limit(concurrency=5)
        crowd.begin()
        endpoint.wait(lambda double: double.count >= 40, 30)
        crowd.end()
        most = endpoint.most_in_flight
    figure(f"at most {most} of 5 at once", f"{2 * THREADS} threads in 2 processes")
    assert most == 5
