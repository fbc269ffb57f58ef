"""What five limits and budgets cost a call: CPU of this process and of the keeper, against the same call without any.

One ledger and one client; stretches with limits and without follow each other, so that what the machine does besides
falls on both.
"""

from __future__ import annotations

import statistics
import tempfile
from typing import Any

from tests.benchmarks.double import Double
from tests.benchmarks.measuring import MODEL, Figure, cost, in_child, keeper_cpu, use

WARM_UP = 50
CALLS = 100
ROUNDS = 5
PROMPT = "Why is the sky blue? " * 10


def stretches(url: str) -> list[list[dict[str, float]]]:
    """Milliseconds per call, without limits and with five, in turns."""
    use(url)
    import ipyconvexai as ai

    with tempfile.TemporaryDirectory() as folder, ai.connect(f"{folder}/ledger.duckdb", model=MODEL) as app:
        for _ in range(WARM_UP):
            ai.generate(PROMPT)
        pairs = []
        for _ in range(ROUNDS):
            without = _stretch(ai)
            names = _limit(app)
            pairs.append([without, _stretch(ai)])
            if len(active := app.store.limits()) < len(names) or not app.store.limited:
                raise RuntimeError(f"{len(names)} limits were set, and {len(active)} are active")
            for name in names:
                app.unlimit(name)
        return pairs


def _limit(app: Any) -> list[str]:
    """Of each kind one, and none that is reached."""
    return [
        app.limit(requests=100_000, per="minute", provider="openai"),
        app.limit(tokens=100_000_000, per="minute", model=MODEL),
        app.limit(concurrency=1000),
        app.limit(tokens=1_000_000_000, per="day", each="user"),
        app.budget(usd=1000, per="day"),
    ]


def _stretch(ai: Any) -> dict[str, float]:
    for _ in range(5):  # the keeper reads its limits again
        ai.generate(PROMPT)
    keeper = keeper_cpu()
    with cost() as spent:
        for _ in range(CALLS):
            ai.generate(PROMPT)
    each = 1000 / CALLS
    return {"wall": spent.wall * each, "cpu": spent.cpu * each, "keeper": (keeper_cpu() - keeper) * each}


def run() -> list[Figure]:
    with Double() as double:
        pairs = in_child(stretches, url=double.url)

    def median(*names: str) -> tuple[float, float]:
        """What the limits add, and its ratio to a call without them."""
        sums = [[sum(stretch[name] for name in names) for stretch in pair] for pair in pairs]
        return statistics.median(limited - free for free, limited in sums), statistics.median(
            limited / free for free, limited in sums
        )

    both, keeper, wall = median("cpu", "keeper"), median("keeper"), median("wall")
    baseline = "ai.generate without limits"
    return [
        Figure("5 limits active, CPU over a call without any", both[0], "ms", at_most=2,
               ratio=both[1], baseline=baseline),
        Figure("  of it: CPU of the keeper", keeper[0], "ms", ratio=keeper[1], baseline=baseline),
        Figure("  wall", wall[0], "ms", ratio=wall[1], baseline=baseline),
    ]  # fmt: skip
