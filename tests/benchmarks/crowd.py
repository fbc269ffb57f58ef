"""Many documents at a time: what 256 in flight cost more than 32, for each document."""

from __future__ import annotations

import statistics

from tests.benchmarks.double import Double
from tests.benchmarks.measuring import Figure, in_child
from tests.benchmarks.summarize import LATENCY, package

FEW, MANY = 32, 256
ROUNDS = 3


def run() -> list[Figure]:
    with Double(LATENCY) as double:
        rounds: list[dict[int, dict[str, float]]] = [
            {count: in_child(package, url=double.url, concurrency=count) for count in (FEW, MANY)}
            for _ in range(ROUNDS)
        ]

    def median(count: int, figure: str) -> float:
        return statistics.median(each[count][figure] for each in rounds)

    return [
        Figure(f"ai.summarize, {MANY} at a time: CPU per 1,000 documents", median(MANY, "cpu"), "s"),
        Figure(f"  of that with {FEW} at a time",
               statistics.median(each[MANY]["cpu"] / each[FEW]["cpu"] for each in rounds), "x", at_most=1.2),
        Figure("  documents", median(MANY, "rate"), "documents/s",
               ratio=median(MANY, "rate") / median(FEW, "rate"), baseline=f"{FEW} at a time"),
        Figure("  most memory", median(MANY, "memory"), "MB",
               ratio=median(MANY, "memory") / median(FEW, "memory"), baseline=f"{FEW} at a time"),
    ]  # fmt: skip
