"""Many threads of a process record at once, through a keeper and through a store in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipyconvexai.store.inprocess import ThreadStore
from ipyconvexai.store.link import KeeperStore, Store
from tests.promises.promising import Figure, Tries
from tests.store.helpers import append, row

PROMISE = "64 threads record at once without conflict, error or loss: at least 500 rows a second, 99 % within 250 ms"

TRIES = Tries(1_280, 19_200, "rows")

THREADS = 64
RATE, SLOW = 500, 0.25  # rows a second, seconds for 99 % of them; a machine at rest does five to ten times better
TEXT = "x" * 2000  # of a row, about as much as a short question with its answer


@pytest.fixture(params=["keeper", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened: Store = KeeperStore(tmp_path / "ledger.duckdb") if request.param == "keeper" else ThreadStore(":memory:")
    yield opened
    opened.close()


def in_threads(run: Callable[[], object]) -> list[BaseException]:
    """The errors of `run` in 64 threads, which begin together."""
    failures: list[BaseException] = []
    together = threading.Barrier(THREADS)

    def work() -> None:
        try:
            together.wait(60)
            run()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


@TRIES.both
def test_64_threads_record(store: Store, request: pytest.FixtureRequest, figure: Figure, tries: int):
    each = tries // THREADS
    waits: list[float] = []
    append(store, row("the first opens the file")).result(60)

    def record() -> None:
        for _ in range(each):
            begun = time.perf_counter()
            append(store, row(TEXT)).result(60)
            waits.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    failures = in_threads(record)
    rate = THREADS * each / (time.perf_counter() - begun)
    slow = sorted(waits)[int(len(waits) * 0.99)]
    assert not failures
    assert store.read("SELECT count(*), count(DISTINCT id) FROM conversations WHERE title = ?", [TEXT]) == [
        (THREADS * each, THREADS * each)
    ]
    figure(
        f"{request.node.callspec.params['store']}: {rate:,.0f} rows/s, p99 {slow * 1e3:.0f} ms, 0 errors",
        f"{THREADS * each:,} rows",
    )
    assert rate >= RATE
    assert slow <= SLOW


def test_64_threads_change_one_row(store: Store, figure: Figure):
    """Each in transactions of its own: none is refused because of another, and no change is lost."""
    append(store, row("0")).result(60)

    def add_one() -> None:
        for _ in range(3):
            with store.transaction() as execute:
                ((count,),) = execute("SELECT title::INTEGER FROM conversations")
                execute("UPDATE conversations SET title = ?", [str(count + 1)])

    assert not in_threads(add_one)
    assert store.read("SELECT title FROM conversations") == [(str(3 * THREADS),)]
    figure("0 of 192 changes of one row lost", "64 threads")
