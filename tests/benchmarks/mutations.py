"""A mutation of one insert: alone, and from 64 threads, durable when ``ai.run`` gives its result.

The baseline is DuckDB with the same table and indexes, an INSERT with a commit of its own: alone, and with a cursor for
each of 64 threads.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.measuring import Figure, cost, in_child, keeper_cpu

WARM_UP = 30
CALLS = 300
THREADS = 64
SECONDS = 1.5
ROUNDS = 3
TEXT = "The sky is blue because air scatters short waves more than long ones. " * 3


def package(path: str) -> dict[str, float]:
    """Through ``ai.run``."""
    import ipyconvexai as ai
    from tests.benchmarks.notes import add

    with ai.connect(path) as app:
        result = _measured(lambda number: ai.run(add, text=TEXT, n=number), keeper_cpu)
        result["there"] = app.store.read("SELECT count(*) FROM Note")[0][0]
    return _checked(result)


def plain(path: str) -> dict[str, float]:
    """As DuckDB alone writes the same rows."""
    import duckdb

    from ipyconvexai.ids import new_id
    from ipyconvexai.store.clock import utc_now

    connection = duckdb.connect(path)
    connection.execute(
        "CREATE TABLE Note (_id UUID PRIMARY KEY, _creation_time TIMESTAMP NOT NULL, text VARCHAR, n BIGINT)"
    )
    connection.execute("CREATE INDEX by_n ON Note (n)")
    own = threading.local()

    def insert(number: int) -> None:
        if not hasattr(own, "cursor"):
            own.cursor = connection.cursor()
        own.cursor.execute("INSERT INTO Note VALUES (?, ?, ?, ?)", [new_id(), utc_now(), TEXT, number])

    result = _measured(insert, lambda: 0.0)
    result["there"] = connection.execute("SELECT count(*) FROM Note").fetchall()[0][0]
    return _checked(result)


def _measured(insert: Callable[[int], Any], keeper: Callable[[], float]) -> dict[str, float]:
    """Alone: `wall` (median), `cpu` and `keeper` in milliseconds each. From threads: `rate` per second."""
    taken = []
    for number in range(WARM_UP):
        insert(number)
    before = keeper()
    with cost() as spent:
        for number in range(CALLS):
            begun = time.perf_counter()
            insert(number)
            taken.append(time.perf_counter() - begun)
    after = keeper()
    with cost() as together:
        count, seconds = _from_threads(insert)
    return {
        "wall": statistics.median(taken) * 1000,
        "cpu": spent.cpu / CALLS * 1000,
        "keeper": (after - before) / CALLS * 1000,
        "rate": count / seconds,
        "cpu together": (together.cpu + keeper() - after) / count * 1000,
        "written": WARM_UP + CALLS + count,
    }


def _from_threads(insert: Callable[[int], Any]) -> tuple[int, float]:
    """How many inserts ended, and the seconds until the last of them did."""
    together = threading.Barrier(THREADS + 1)
    numbers = itertools.count()
    counts: list[int] = []
    failures: list[BaseException] = []

    def work() -> None:
        mine = 0
        together.wait()
        end = time.perf_counter() + SECONDS
        try:
            while time.perf_counter() < end:
                insert(next(numbers))
                mine += 1
        except BaseException as error:
            failures.append(error)
        counts.append(mine)

    workers = [threading.Thread(target=work) for _ in range(THREADS)]
    for worker in workers:
        worker.start()
    together.wait()
    begun = time.perf_counter()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return sum(counts), time.perf_counter() - begun


def _checked(result: dict[str, float]) -> dict[str, float]:
    if result["there"] != result["written"]:
        raise RuntimeError(f"{result['written']} inserts ended and {result['there']} rows are there")
    return result


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        pairs = [
            (in_child(plain, path=f"{folder}/plain-{n}.duckdb"), in_child(package, path=f"{folder}/ours-{n}.duckdb"))
            for n in range(ROUNDS)
        ]

    def median(of: Callable[[dict[str, float], dict[str, float]], float]) -> float:
        return statistics.median(of(plain, ours) for plain, ours in pairs)

    return [
        Figure("a mutation of one insert, alone, median", median(lambda plain, ours: ours["wall"]), "ms", at_most=5,
               ratio=median(lambda plain, ours: ours["wall"] / plain["wall"]), baseline="a DuckDB INSERT and commit"),
        Figure("  CPU, this process and the keeper", median(lambda plain, ours: ours["cpu"] + ours["keeper"]), "ms",
               ratio=median(lambda plain, ours: (ours["cpu"] + ours["keeper"]) / plain["cpu"]),
               baseline="a DuckDB INSERT and commit"),
        Figure("  CPU of the keeper", median(lambda plain, ours: ours["keeper"]), "ms"),
        Figure(f"mutations of one insert, {THREADS} threads", median(lambda plain, ours: ours["rate"]), "mutations/s",
               at_least=300, ratio=median(lambda plain, ours: ours["rate"] / plain["rate"]), baseline="autocommit"),
        Figure("  CPU of each, this process and the keeper", median(lambda plain, ours: ours["cpu together"]), "ms",
               ratio=median(lambda plain, ours: ours["cpu together"] / plain["cpu together"]), baseline="autocommit"),
    ]  # fmt: skip
