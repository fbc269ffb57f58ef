"""Batches that ``ai.schedule`` put off. Written with the public layer only.

Promise: where the process that runs one is killed another takes it up, and what was answered by then is not asked for
again.
"""

from __future__ import annotations

from typing import Any

import ipyconvexai as ai

__all__ = ["run_batch", "tend_provider_batch"]

# Only the end of its process, and a ledger that is busy, begin it again: rows that fail are errors of their rows.
WHEN_KILLED = ai.Retry(attempts=100, backoff=2)
LONGEST = 30 * 86_400  # seconds


@ai.action(name="ai.run_batch", internal=True, retry=WHEN_KILLED, timeout=LONGEST)
async def run_batch(ctx: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """Run a batch and tell of its end; gives its state, rows, errors, requests, tokens and cost."""
    done: dict[str, Any] = await ai.Job.perform(ctx, spec)
    return done


@ai.action(name="ai.tend_provider_batch", internal=True, retry=WHEN_KILLED)
async def tend_provider_batch(ctx: Any, id: str) -> float | None:
    """Look at a provider's batch, and collect it when it is over; gives the seconds until it looks again, if it does.

    Whoever waits for it may collect it first: then there is nothing left to do.
    """
    again: float | None = await ai.Job.tend(ctx, id)
    if again is not None:
        await ctx.scheduler.run_after(again, tend_provider_batch, id=id)
    return again
