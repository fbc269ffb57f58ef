"""What a batch would take, before it is run: ``dry_run=True`` and ``ai.estimate``. Calls ``estimate``.

Promises: nothing is sent, started or written; all rows are looked at, as what the ledger can answer costs nothing, but
only a sample of the requests is weighed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ipyconvexai.application import App
from ipyconvexai.batch.asks import Ask
from ipyconvexai.batch.estimate import Estimate, Sample, estimate_of
from ipyconvexai.batch.options import PROVIDERS_BATCH, Options, concurrency_at
from ipyconvexai.batch.runner import Chunk, Item
from ipyconvexai.errors import InputError
from ipyconvexai.providers.endpoints import Endpoint

__all__ = ["estimate", "plan_of"]

PROVIDERS_DAY = 86_400.0  # seconds that a Batch API may take
PROVIDERS_PRICE = 0.5  # of the usual: https://platform.openai.com/docs/guides/batch


async def plan_of(app: App, endpoint: Endpoint, chunks: AsyncIterator[Chunk], options: Options) -> Estimate:
    """What `chunks` would take; of inputs that need several rounds, the first one."""
    sample: Sample[Ask] = Sample()
    rows = inputs = known = requests = length = 0
    async for chunk in chunks:
        rows += len(chunk.rows) if chunk.size is None else chunk.size
        inputs += len(chunk.new)
        asks = await asyncio.to_thread(lambda new: [_begun(item) for item in new], chunk.new)
        keys = [ask.key for some in asks for ask in some]
        answered = set() if options.fresh else set(await asyncio.to_thread(app.records.answers, keys))
        for some in asks:
            rest = [ask for ask in some if ask.key not in answered]
            known += not rest
            requests += len(rest)
            length += sum(len(ask.text) for ask in rest)
            for ask in rest:
                sample.add(ask)
        for item in chunk.new:
            item.task.close()
    by_provider = options.engine == PROVIDERS_BATCH
    return await asyncio.to_thread(
        estimate_of,
        app,
        endpoint,
        sample.items,
        requests,
        rows=rows,
        inputs=inputs,
        known=known,
        concurrency=concurrency_at(endpoint, options),
        budget=options.budget,
        mean_length=length / requests if requests else None,
        price_factor=PROVIDERS_PRICE if by_provider else 1.0,
        seconds=PROVIDERS_DAY if by_provider else None,
    )


def _begun(item: Item) -> list[Ask]:
    item.advance()
    return list(item.asks)


def estimate(fn: Any, df: Any = None, *arguments: Any, **options: Any) -> Estimate:
    """What a batch would take: requests, tokens, US dollars and time; nothing is sent.

    ``ai.estimate(ai.summarize, df, "text", model="openai:gpt-5-mini")`` is the same as
    ``ai.summarize(df, "text", model="openai:gpt-5-mini", dry_run=True)``. What the ledger can answer is left out; the
    rest is told from a sample of the texts and from what such requests took of late, and is about as good as they are
    alike. Second tries and the rounds that combine parts are not in it.

    Args:
        fn: ``ai.summarize``, ``ai.map`` or ``ai.reduce``.
        df, *arguments, **options: as for that.

    Raises:
        InputError, ConfigurationError: as that would.
    """
    if getattr(fn, "__module__", "").rpartition(".")[0] != __package__ or not hasattr(fn, "__signature__"):
        raise InputError(
            f"ai.estimate wants a batch and what it takes, and not {type(fn).__name__}",
            cure='For example: ai.estimate(ai.summarize, df, "text"), or df.ai.estimate(ai.summarize, "text").',
        )
    made: Estimate = fn(df, *arguments, **{**options, "dry_run": True})
    return made
