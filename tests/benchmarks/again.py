"""Summarising again what was summarised: 5,000 different documents, in the same process and after a restart."""

from __future__ import annotations

import statistics
import tempfile

from tests.benchmarks.double import Double
from tests.benchmarks.measuring import MODEL, Figure, cost, in_child, use
from tests.benchmarks.summarize import CONCURRENCY, documents

ROWS = 5000
ROUNDS = 3


def summarized(url: str, path: str, times: int) -> list[list[float]]:
    """(wall seconds, CPU seconds) of each of so many equal runs, imports included."""
    use(url)
    import pandas as pd

    import ipyconvexai as ai

    frame = pd.DataFrame({"text": documents(ROWS)})
    spent_each = []
    with ai.connect(path, model=MODEL):
        for _ in range(times):
            with cost() as spent:
                done = ai.summarize(frame, "text", concurrency=CONCURRENCY)
            if done["summary"].isna().any():
                raise RuntimeError(f"rows failed: {done['summary_error'].dropna().iloc[0]}")
            spent_each.append([spent.wall, spent.cpu])
    return spent_each


def run() -> list[Figure]:
    with Double() as double, tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/ledger.duckdb"
        first, *same = in_child(summarized, url=double.url, path=path, times=1 + ROUNDS)
        sent = double.count()
        restarted = [in_child(summarized, url=double.url, path=path, times=1)[0] for _ in range(ROUNDS)]
        more = double.count() - sent
    if sent != ROWS:
        raise RuntimeError(f"{sent} requests for {ROWS} documents")
    warm, cold = statistics.median(wall for wall, _ in same), statistics.median(wall for wall, _ in restarted)
    return [
        Figure("summarising 5,000 rows again, same process", warm, "s", at_most=2,
               ratio=warm / first[0], baseline="the first time, no latency"),
        Figure("  CPU", statistics.median(cpu for _, cpu in same), "s"),
        Figure("  in a new process, imports included", cold, "s", at_most=2,
               ratio=cold / first[0], baseline="the first time, no latency"),
        Figure("  requests sent", float(more), at_most=0),
    ]  # fmt: skip
