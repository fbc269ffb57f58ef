"""``ai.summarize`` of 2,000 documents of 300 words, 64 at a time, an endpoint of 100 ms; a pandas frame.

Beside it, in processes of their own: the least Python can do (aiohttp) and the SDK on its fastest backend. All three
send the same bodies and are warm: 200 documents before the clock starts.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tests.benchmarks.double import Double
from tests.benchmarks.measuring import KEY, MODEL, Cost, Figure, cost, in_child, keeper_cpu, most_memory, use

DOCUMENTS = 2000
WARM_UP = 200
WORDS = 300
CONCURRENCY = 64
LATENCY = 0.1
ROUNDS = 3
MODEL_NAME = MODEL.partition(":")[2]
SYSTEM = "You summarize documents. Reply with a faithful summary of exactly two sentences and nothing else."
PROMPT = "Document:\n{document}\n\nTwo-sentence summary:"
VOCABULARY = (
    "the of and a in to is for with on that we by as are this from an be which model method results data show using"
    " can our based approach learning network system analysis proposed problem between performance algorithm"
).split()


def documents(count: int, seed: int = 1) -> list[str]:
    """Different texts of 300 words."""
    words = random.Random(seed)
    return [f"{number} " + " ".join(words.choices(VOCABULARY, k=WORDS - 1)) for number in range(count)]


def _texts() -> tuple[list[str], list[str]]:
    return documents(WARM_UP, seed=2), documents(DOCUMENTS)


def _messages(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT.replace("{document}", text)}]


async def _each(texts: Sequence[str], send: Callable[[str], Awaitable[Any]]) -> None:
    """64 workers over one iterator: the cheapest way to keep 64 in flight."""
    waiting = iter(texts)

    async def work() -> None:
        for text in waiting:
            await send(text)

    await asyncio.gather(*[work() for _ in range(CONCURRENCY)])


async def _timed(send: Callable[[str], Awaitable[Any]]) -> dict[str, float]:
    first, texts = _texts()
    await _each(first, send)
    with cost() as spent:
        await _each(texts, send)
    return _result(spent)


def _result(spent: Cost, keeper: float = 0.0) -> dict[str, float]:
    thousands = DOCUMENTS / 1000
    return {
        "rate": DOCUMENTS / spent.wall,
        "cpu": spent.cpu / thousands,
        "keeper": keeper / thousands,
        "memory": most_memory(),
    }


def raw(url: str) -> dict[str, float]:
    """aiohttp, JSON in and out, nothing else."""

    async def main() -> dict[str, float]:
        import aiohttp

        headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

            async def send(text: str) -> Any:
                body = json.dumps({"model": MODEL_NAME, "messages": _messages(text)}).encode()
                async with session.post(f"{url}/chat/completions", data=body) as response:
                    return json.loads(await response.read())["choices"][0]["message"]["content"]

            return await _timed(send)

    return asyncio.run(main())


def plain(url: str) -> dict[str, float]:
    """``openai.AsyncOpenAI`` over aiohttp."""
    use(url)

    async def main() -> dict[str, float]:
        import openai

        async with openai.AsyncOpenAI(max_retries=0, http_client=openai.DefaultAioHttpClient()) as client:

            async def send(text: str) -> Any:
                messages: Any = _messages(text)
                return (await client.chat.completions.create(model=MODEL_NAME, messages=messages)).choices[0]

            return await _timed(send)

    return asyncio.run(main())


def package(url: str, concurrency: int = CONCURRENCY) -> dict[str, float]:
    """``ai.summarize`` with the ledger on and its bar."""
    use(url)
    import pandas as pd

    import ipyconvexai as ai

    first, texts = (pd.DataFrame({"text": some}) for some in _texts())
    with tempfile.TemporaryDirectory() as folder, ai.connect(f"{folder}/ledger.duckdb", model=MODEL):
        ai.summarize(first, "text", system=SYSTEM, prompt=PROMPT, concurrency=concurrency)
        keeper = keeper_cpu()
        with cost() as spent:
            done = ai.summarize(texts, "text", system=SYSTEM, prompt=PROMPT, concurrency=concurrency)
        result = _result(spent, keeper_cpu() - keeper)
        if done["summary"].isna().any():
            raise RuntimeError(f"rows failed: {done['summary_error'].dropna().iloc[0]}")
    return result


def imports() -> float:
    """MB of a process that has imported pandas and openai and done nothing."""
    import openai  # noqa: F401
    import pandas as pd
    import pyarrow  # noqa: F401

    pd.concat(pd.DataFrame({"text": some}) for some in _texts())
    return most_memory()


def run() -> list[Figure]:
    with Double(LATENCY) as double:
        rounds = [[in_child(way, url=double.url) for way in (raw, plain, package)] for _ in range(ROUNDS)]
    names = ("raw", "plain", "ours")

    def median(figure: Callable[[dict[str, dict[str, float]]], float]) -> float:
        return statistics.median(figure(dict(zip(names, each, strict=True))) for each in rounds)

    return [
        Figure(f"ai.summarize, {DOCUMENTS:,} documents, {CONCURRENCY} at a time",
               median(lambda r: r["ours"]["rate"]), "documents/s"),
        Figure("  of the rate of raw aiohttp",
               median(lambda r: r["ours"]["rate"] / r["raw"]["rate"]), "x", at_least=0.95),
        Figure("  CPU per 1,000 documents, this process", median(lambda r: r["ours"]["cpu"]), "s", at_most=0.9,
               ratio=median(lambda r: r["ours"]["cpu"] / r["plain"]["cpu"]), baseline="AsyncOpenAI over aiohttp"),
        Figure("  CPU per 1,000 documents, keeper", median(lambda r: r["ours"]["keeper"]), "s"),
        Figure("  most memory, with a pandas frame", median(lambda r: r["ours"]["memory"]), "MB", at_most=200,
               ratio=median(lambda r: r["ours"]["memory"]) / in_child(imports), baseline="importing what is used"),
        Figure("  raw aiohttp", median(lambda r: r["raw"]["rate"]), "documents/s"),
        Figure("  raw aiohttp, CPU per 1,000 documents", median(lambda r: r["raw"]["cpu"]), "s"),
        Figure("  AsyncOpenAI over aiohttp", median(lambda r: r["plain"]["rate"]), "documents/s",
               ratio=median(lambda r: r["plain"]["rate"] / r["raw"]["rate"]), baseline="raw aiohttp"),
        Figure("  AsyncOpenAI over aiohttp, CPU per 1,000", median(lambda r: r["plain"]["cpu"]), "s",
               ratio=median(lambda r: r["plain"]["cpu"] / r["raw"]["cpu"]), baseline="raw aiohttp"),
    ]  # fmt: skip
