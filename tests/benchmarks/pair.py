"""Two processes over one ledger, beside one: as many documents each, 32 at a time; and both under one limit."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from tests.benchmarks.double import Double
from tests.benchmarks.measuring import MODEL, Child, Figure, use
from tests.benchmarks.summarize import LATENCY, PROMPT, SYSTEM, documents

DOCUMENTS = 2000  # of each process
WARM_UP = 100
CONCURRENCY = 32
ROUNDS = 3
LIMIT = 300  # requests in a second, of both together
LIMITED = 1500  # documents of each process under that limit
START_WITHIN = 60.0  # seconds


def work(url: str, folder: str, number: int, of: int, count: int) -> tuple[float, float]:
    """When one of so many processes began and ended; they begin together, when all are warm."""
    use(url)
    import pandas as pd

    import ipyconvexai as ai

    first, texts = (pd.DataFrame({"text": documents(*how)}) for how in ((WARM_UP, 100 + number), (count, number)))
    with ai.connect(f"{folder}/ledger.duckdb", model=MODEL):
        ai.summarize(first, "text", system=SYSTEM, prompt=PROMPT, concurrency=CONCURRENCY)
        Path(folder, f"ready{number}").touch()
        deadline = time.monotonic() + START_WITHIN
        while len(list(Path(folder).glob("ready*"))) < of:
            if time.monotonic() > deadline:
                raise RuntimeError("the other process does not begin")
            time.sleep(0.005)
        begun = time.monotonic()
        done = ai.summarize(texts, "text", system=SYSTEM, prompt=PROMPT, concurrency=CONCURRENCY)
        ended = time.monotonic()
    if done["summary"].isna().any():
        raise RuntimeError(f"rows failed: {done['summary_error'].dropna().iloc[0]}")
    return begun, ended


def rate(double: Double, processes: int) -> float:
    """Documents a second of so many processes together."""
    with tempfile.TemporaryDirectory() as folder:
        spans = _together(double, folder, processes, DOCUMENTS)
    return processes * DOCUMENTS / (max(end for _, end in spans) - min(begin for begin, _ in spans))


def limited(double: Double) -> tuple[int, float]:
    """The most requests that came in any second, and those of a second on average."""
    with tempfile.TemporaryDirectory() as folder:
        Child(limit, path=f"{folder}/ledger.duckdb").result()
        before = double.count()
        _together(double, folder, 2, LIMITED)
        moments = double.moments()[before + 2 * WARM_UP :]
    most = first = 0
    for last, moment in enumerate(moments):
        while moments[first] <= moment - 1:
            first += 1
        most = max(most, last + 1 - first)
    return most, len(moments) / (moments[-1] - moments[0])


def limit(path: str) -> None:
    """Set it."""
    import ipyconvexai as ai

    with ai.connect(path, model=MODEL) as app:
        app.limit("a second", requests=LIMIT, per=1)


def _together(double: Double, folder: str, processes: int, count: int) -> list[tuple[float, float]]:
    children = [
        Child(work, url=double.url, folder=folder, number=number, of=processes, count=count)
        for number in range(processes)
    ]
    return [child.result() for child in children]


def run() -> list[Figure]:
    with Double(LATENCY) as double:
        rounds = [(rate(double, 1), rate(double, 2)) for _ in range(ROUNDS)]
        most, mean = limited(double)
    return [
        Figure(f"two processes, {CONCURRENCY} at a time each",
               statistics.median(two for _, two in rounds), "documents/s"),
        Figure("  of the rate of one (it takes two free cores)",
               statistics.median(two / one for one, two in rounds), "x", at_least=1.6),
        Figure(f"  with a limit of {LIMIT} a second: most in any second", float(most), "requests", at_most=LIMIT),
        Figure("  used of that limit", mean / LIMIT, "x"),
    ]  # fmt: skip
