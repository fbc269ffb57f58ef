"""The ledger: rows of 5 KB, durable before they are acknowledged, from 64 threads in one process and in four.

The baseline is DuckDB with the same table and indexes, a cursor for each of 64 threads and a commit for each row.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.measuring import Child, Figure, cost, in_child, keeper_cpu

THREADS = 64  # in all
SECONDS = 4.0
READY = 2.5  # seconds that processes get to start before they begin together
PAUSE = 0.01  # seconds between two appends of a paced writer
FIRST_USES = 5
BODY = "x" * 5000


def _row(session: str) -> tuple[Any, ...]:
    from ipyconvexai.ids import new_id
    from ipyconvexai.store.ledger import Intent, utc_now

    key = new_id()
    return tuple(Intent(
        id=key, attempt=1, retry_of=None, sent_at=utc_now(), provider="openai", model="gpt-4.1-nano",
        endpoint="chat/completions", base_url="https://api.openai.com/v1", stream=False, cache_key=key, body=BODY,
        body_bytes=None, body_size=len(BODY), user_id="me", source="batch", notebook=None, cell_id=None,
        conversation_id=None, batch_id=None, session_id=session,
    ))  # fmt: skip


def _count(write: Callable[[], None], threads: int, start: float) -> tuple[int, list[float]]:
    """Rows that the threads wrote in ``SECONDS`` from `start` on (``time.time``), and how long each took."""
    taken: list[float] = []

    def work() -> None:
        time.sleep(max(0.0, start - time.time()))
        end = time.perf_counter() + SECONDS
        while (begun := time.perf_counter()) < end:
            write()
            taken.append(time.perf_counter() - begun)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(taken), taken


def append(path: str, threads: int, start: float) -> dict[str, float]:
    """Rows through the package's store."""
    from ipyconvexai.store.ledger import Intent
    from ipyconvexai.store.link import open_store
    from ipyconvexai.store.pipe import ThreadReceipt

    store = open_store(path)

    def write() -> None:
        receipt = ThreadReceipt()
        store.append("requests", Intent._fields, [_row(store.session_id)], receipt)
        receipt.result()

    write()
    keeper = keeper_cpu()
    with cost() as spent:
        count, taken = _count(write, threads, start)
    there = store.read("SELECT count(*) FROM requests WHERE session_id = ?", [store.session_id])[0][0]
    keeper = keeper_cpu() - keeper
    store.close()
    if there != count + 1:
        raise RuntimeError(f"{count + 1} rows were acknowledged and {there} are there")
    return {"rows": count, "cpu": spent.cpu, "keeper": keeper, "p50": statistics.median(taken), "most": max(taken)}


def paced(path: str, start: float, computing: bool) -> float:
    """Milliseconds, 99th percentile, of an append every 10 ms; with `computing` beside a thread of pure Python."""
    from ipyconvexai.store.ledger import Intent
    from ipyconvexai.store.link import open_store
    from ipyconvexai.store.pipe import ThreadReceipt

    store = open_store(path)
    over = threading.Event()

    def compute() -> None:
        number = 0
        while not over.is_set():
            number = (number * 31 + 7) % 1_000_003

    def write() -> float:
        begun = time.perf_counter()
        receipt = ThreadReceipt()
        store.append("requests", Intent._fields, [_row(store.session_id)], receipt)
        receipt.result()
        return time.perf_counter() - begun

    write()
    time.sleep(max(0.0, start - time.time()))
    if computing:
        threading.Thread(target=compute).start()
    taken = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        taken.append(write())
        time.sleep(PAUSE)
    over.set()
    store.close()
    return statistics.quantiles(taken, n=100)[98] * 1000


def _neighbours(folder: str, computing: bool) -> float:
    """The worst p99 of three processes that append, beside a fourth that appends and, if `computing`, computes."""
    path = f"{folder}/neighbours-{computing}.duckdb"
    in_child(first_use, path=path)
    start = time.time() + READY
    fourth = Child(paced, path=path, start=start, computing=computing)
    others = [Child(paced, path=path, start=start, computing=False) for _ in range(3)]
    worst: float = max(child.result() for child in others)
    fourth.result()
    return worst


def autocommit(path: str, start: float) -> dict[str, float]:
    """The same rows as DuckDB alone writes them."""
    import duckdb

    from ipyconvexai.store.migrations import migrate

    connection = duckdb.connect(path)
    migrate(connection, path)
    own = threading.local()
    marks = ", ".join("?" * len(_row("")))

    def write() -> None:
        if not hasattr(own, "cursor"):
            own.cursor = connection.cursor()
        own.cursor.execute(f"INSERT INTO requests VALUES ({marks})", list(_row("00000000-0000-7000-8000-000000000000")))

    write()
    count, taken = _count(write, THREADS, start)
    return {"rows": count, "p50": statistics.median(taken)}


def first_use(path: str) -> float:
    """Milliseconds from a new path to the first durable row: the keeper starts, makes and migrates the file."""
    from ipyconvexai.store.ledger import Intent
    from ipyconvexai.store.link import open_store
    from ipyconvexai.store.pipe import ThreadReceipt

    started = time.perf_counter()
    store = open_store(path)
    receipt = ThreadReceipt()
    store.append("requests", Intent._fields, [_row(store.session_id)], receipt)
    receipt.result()
    taken = (time.perf_counter() - started) * 1000
    store.close()
    return taken


def bare_start(path: str) -> float:
    """Milliseconds in which a new process imports DuckDB, makes a file with a table and ends."""
    import subprocess
    import sys

    script = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('CREATE TABLE t AS SELECT 1 AS a')"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", script, path], check=True)
    return (time.perf_counter() - started) * 1000


def _rows_per_second(folder: str, processes: int) -> dict[str, float]:
    """From `processes` at once, which share one ledger and the 64 threads."""
    path = f"{folder}/{processes}.duckdb"
    in_child(first_use, path=path)  # the keeper is there, and lingers
    start = time.time() + READY
    children = [Child(append, path=path, threads=THREADS // processes, start=start) for _ in range(processes)]
    results = [child.result() for child in children]
    rows = sum(result["rows"] for result in results)
    return {
        "rate": rows / SECONDS,
        "p50": statistics.median(result["p50"] for result in results) * 1000,
        "cpu": sum(result["cpu"] for result in results) / rows * 1000,
    }


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.time() + READY
        base = in_child(autocommit, path=f"{folder}/autocommit.duckdb", start=start)["rows"] / SECONDS
        one, four = _rows_per_second(folder, 1), _rows_per_second(folder, 4)
        quiet, beside = _neighbours(folder, computing=False), _neighbours(folder, computing=True)
        firsts = [in_child(first_use, path=f"{folder}/first-{n}.duckdb") for n in range(FIRST_USES)]
        bare = [in_child(bare_start, path=f"{folder}/bare-{n}.duckdb") for n in range(FIRST_USES)]
    first, alone = statistics.median(firsts), statistics.median(bare)
    return [
        Figure("ledger, 5 KB rows, one process of 64 threads", one["rate"], "rows/s", at_least=1500,
               ratio=one["rate"] / base, baseline="autocommit"),
        Figure("  p50 of a durable append", one["p50"], "ms"),
        Figure("  CPU per row in the process that writes", one["cpu"], "ms"),
        Figure("ledger, four processes of 16 threads", four["rate"], "rows/s", at_least=2500,
               ratio=four["rate"] / base, baseline="autocommit"),
        Figure("  times autocommit, one process", one["rate"] / base, "x", at_least=8),
        Figure("  autocommit, 64 threads, a commit per row", base, "rows/s"),
        Figure("p99 of an append while a fourth process computes", beside, "ms", at_most=100,
               ratio=beside / quiet, baseline="while it does not"),
        Figure("first use of a new ledger, keeper included", first, "ms", at_most=300,
               ratio=first / alone, baseline="a process that imports DuckDB and makes a file"),
    ]  # fmt: skip
