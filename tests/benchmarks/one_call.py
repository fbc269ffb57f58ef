"""One ``ai.generate``, recorded durably, against the same call of the SDK on a shared client. Loopback, no latency."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from typing import Any

from tests.benchmarks.double import Double
from tests.benchmarks.measuring import MODEL, Figure, cost, in_child, keeper_cpu, use

WARM_UP = 30
CALLS = 300
ROUNDS = 3
PROMPT = "Why is the sky blue? " * 10


def plain(url: str) -> dict[str, float]:
    """The SDK alone, its default client; milliseconds per call."""
    use(url)
    import openai

    client = openai.OpenAI(max_retries=0)
    messages: Any = [{"role": "user", "content": PROMPT}]
    model = MODEL.partition(":")[2]
    return _timed(lambda: client.chat.completions.create(model=model, messages=messages).choices[0].message.content)


def recorded(url: str) -> dict[str, float]:
    """The package, on a new ledger."""
    use(url)
    import ipyconvexai as ai

    with tempfile.TemporaryDirectory() as folder, ai.connect(f"{folder}/ledger.duckdb", model=MODEL):
        return _timed(lambda: ai.generate(PROMPT).text)


def _timed(call: Callable[[], Any]) -> dict[str, float]:
    for _ in range(WARM_UP):
        call()
    keeper = keeper_cpu()
    with cost() as spent:
        for _ in range(CALLS):
            call()
    per_call = 1000 / CALLS
    return {"wall": spent.wall * per_call, "cpu": spent.cpu * per_call, "keeper": (keeper_cpu() - keeper) * per_call}


def run() -> list[Figure]:
    with Double() as double:
        pairs = [(in_child(plain, url=double.url), in_child(recorded, url=double.url)) for _ in range(ROUNDS)]

    def median(of: Callable[[dict[str, float], dict[str, float]], float]) -> float:
        return statistics.median(of(plain, ours) for plain, ours in pairs)

    return [
        Figure(
            "one ai.generate, CPU over the SDK's call", median(lambda plain, ours: ours["cpu"] - plain["cpu"]), "ms",
            at_most=3, ratio=median(lambda plain, ours: ours["cpu"] / plain["cpu"]), baseline="OpenAI().chat…create",
        ),
        Figure(
            "  wall, both rows durable", median(lambda plain, ours: ours["wall"]), "ms",
            ratio=median(lambda plain, ours: ours["wall"] / plain["wall"]), baseline="OpenAI().chat…create",
        ),
        Figure("  CPU of the keeper", median(lambda plain, ours: ours["keeper"]), "ms"),
    ]  # fmt: skip
