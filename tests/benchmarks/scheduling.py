"""Jobs: how soon one that is scheduled at 0 starts in an idle notebook, and how fast due ones are found among 100,000.

The first is compared with the mutation that schedules it, the second with DuckDB counting what is due in the same file.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.measuring import Figure, in_child

JOBS = 100
WARM_UP = 5
IDLE = 0.02  # seconds between the start of a job and the next
LONGEST = 10.0  # seconds; a job that has not started by then never will
PENDING = 100_000
DUE = 64
LOOKS = 50
CLAIMS = 20


def started(path: str, kind: str) -> dict[str, float]:
    """Median milliseconds from the return of the scheduling mutation to the start of its job; and of that mutation."""
    import ipyconvexai as ai
    from tests.benchmarks import notes

    schedule = {"action": notes.schedule_action, "mutation": notes.schedule_mutation}[kind]
    waited, scheduled = [], []
    with ai.connect(path):
        for number in range(WARM_UP + JOBS):
            begun = time.perf_counter()
            ai.run(schedule)
            committed = time.perf_counter()
            start = notes.started.get(timeout=LONGEST)
            if number >= WARM_UP:
                waited.append(start - committed)
                scheduled.append(committed - begun)
            time.sleep(IDLE)
    return {
        "wait": statistics.median(waited) * 1000,
        "p95": statistics.quantiles(waited, n=20)[18] * 1000,
        "schedule": statistics.median(scheduled) * 1000,
    }


def fill(path: str) -> None:
    """A file with pending jobs of twenty functions: a few are due, the others over the next month."""
    import duckdb

    from ipyconvexai.store.migrations import migrate

    connection = duckdb.connect(path)
    migrate(connection, path)
    connection.execute(
        f"""
        INSERT INTO scheduled_functions
            (id, name, kind, args, user_id, created_at, scheduled_time, due_at, state, attempts, max_attempts)
        SELECT uuid(), 'job_' || i % 20, if(i % 2 = 0, 'action', 'mutation'), '{{"message": "' || md5(i::VARCHAR) || '"}}',
               'ada', now_utc, due, due, 'pending', 0, 1
        FROM (
            SELECT i, now_utc, now_utc + if(hash(i) % {PENDING // DUE} = 0, -1, 1)
                               * to_milliseconds(1000 + (hash(i) % 2592000000)::BIGINT) AS due
            FROM range({PENDING}) t(i), (SELECT now()::TIMESTAMPTZ AT TIME ZONE 'UTC' AS now_utc)
        )
        """  # noqa: E501 - one line of JSON
    )
    connection.execute("CHECKPOINT")
    connection.close()


def plain(path: str) -> float:
    """Median milliseconds of DuckDB counting what is due."""
    import duckdb

    from ipyconvexai.store.clock import utc_now

    sql = "SELECT count(*) FROM scheduled_functions WHERE state = 'pending' AND due_at <= ?"
    connection = duckdb.connect(path)
    return _median(LOOKS, lambda: connection.execute(sql, [utc_now()]).fetchall())


def package(path: str) -> dict[str, float]:
    """Median milliseconds of a look, and of a claim with its commit (what is claimed is given back)."""
    from ipyconvexai.functions import jobs
    from ipyconvexai.store.clock import utc_now
    from ipyconvexai.store.link import open_store

    store = open_store(path)
    names = [f"job_{number}" for number in range(20)]
    found = jobs.look(store, names, utc_now())
    ((expected,),) = store.read("SELECT count(*) FROM scheduled_functions WHERE due_at <= ?", [utc_now()])
    if not found.actions + found.mutations == expected > 0:
        raise RuntimeError(f"{found.actions + found.mutations} jobs were found, and {expected} are due")

    def claim() -> float:
        begun = time.perf_counter()
        with store.transaction() as execute:
            mine = jobs.claim(execute, names, utc_now(), store.session_id, actions=8, mutations=8)
        taken = time.perf_counter() - begun
        if not mine:
            raise RuntimeError("nothing was claimed")
        with store.transaction() as execute:
            jobs.hand_back(execute, store.session_id, [job.id for job in mine], utc_now())
        return taken

    look = _median(LOOKS, lambda: jobs.look(store, names, utc_now()))
    claims = statistics.median(claim() for _ in range(CLAIMS)) * 1000
    store.close()
    return {"look": look, "claim": claims}


def _median(times: int, call: Callable[[], Any]) -> float:
    taken = []
    for _ in range(times + 3):
        begun = time.perf_counter()
        call()
        taken.append((time.perf_counter() - begun) * 1000)
    return statistics.median(taken[3:])


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        action, mutation = (in_child(started, path=f"{folder}/{kind}.duckdb", kind=kind)
                            for kind in ("action", "mutation"))  # fmt: skip
        path = f"{folder}/pending.duckdb"
        in_child(fill, path=path)
        base = in_child(plain, path=path)
        ours = in_child(package, path=path)
    baseline = "the mutation that schedules it"
    return [
        Figure("an action scheduled at 0 starts, median", action["wait"], "ms", at_most=50,
               ratio=action["wait"] / action["schedule"], baseline=baseline),
        Figure("  95th percentile", action["p95"], "ms"),
        Figure("a mutation scheduled at 0 starts, median", mutation["wait"], "ms", at_most=50,
               ratio=mutation["wait"] / mutation["schedule"], baseline=baseline),
        Figure("  95th percentile", mutation["p95"], "ms"),
        Figure(f"due jobs found among {PENDING:,} pending", ours["look"], "ms", at_most=20,
               ratio=ours["look"] / base, baseline="a count in DuckDB"),
        Figure("  16 of them claimed, durably", ours["claim"], "ms",
               ratio=ours["claim"] / base, baseline="a count in DuckDB"),
    ]  # fmt: skip
