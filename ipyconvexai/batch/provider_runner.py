"""Runs tasks by a provider's Batch API: what is to be asked is handed over together, round by round.

Calls ``provider_batches``. Promises: what is under way there already, from an earlier run of the cell or another
process, is waited for and not sent again; an interrupt leaves it under way; second questions (a reply that did not fit,
the summaries of parts) are a further round. All inputs of the batch are held, as an answer may take a day.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ipyconvexai.batch.asks import Done
from ipyconvexai.batch.provider_batches import Standing, provider_batches
from ipyconvexai.batch.runner import Chunk, Item, Runner, canceled
from ipyconvexai.errors import BudgetError, Error
from ipyconvexai.functions import jobs
from ipyconvexai.functions.scheduling import new_job
from ipyconvexai.providers.corridor import CALLER
from ipyconvexai.store.clock import utc_now

__all__ = ["ProviderRunner"]

TEND = "ai.tend_provider_batch"
FIRST_LOOK = datetime.timedelta(minutes=2)


class ProviderRunner(Runner):
    """`say` is told how far the provider is, in words; `sleep` waits between two looks."""

    def __init__(
        self,
        *arguments: Any,
        say: Callable[[str | None], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(*arguments)
        self._say = say
        self._sleep = sleep

    async def run(self, chunks: AsyncIterator[Chunk], retire: Callable[[Chunk], Awaitable[None]]) -> None:
        CALLER.set(self.plan.caller)
        opened: list[Chunk] = []
        async for chunk in chunks:
            await self.begin(chunk)
            opened.append(chunk)
        waiting = [item for chunk in opened for item in chunk.new if item.result is None]
        while waiting:
            dones = await self._round(waiting)
            for item in waiting:
                for index, ask in enumerate(item.asks):
                    if item.dones[index] is None and ask.key in dones:
                        item.answer(index, dones[ask.key])
            await self.proceed(waiting)
            waiting = [item for item in waiting if item.result is None]
        self._say(None)
        for chunk in opened:
            await retire(chunk)

    async def _round(self, waiting: list[Item]) -> dict[str, Done]:
        """Every request that is not answered, answered."""
        asks = {
            ask.key: ask for item in waiting for ask, done in zip(item.asks, item.dones, strict=True) if done is None
        }
        if self.over is not None:
            return dict.fromkeys(asks, Done(error=self.over))
        await self.ready()
        service = provider_batches(self.app)
        service.know(self.endpoint)
        under_way = await service.open_for(asks)
        rest = [ask for key, ask in asks.items() if key not in under_way]
        caller = dataclasses.replace(self.plan.caller, purse=self.plan.purse, send=None)
        made = await service.submit(self.endpoint, rest, caller, caller.batch_id, self._sleep)
        await asyncio.to_thread(self._look_after, made.ids)
        keys = list(dict.fromkeys([*under_way.values(), *made.ids]))
        counted = _Counted(self._say)
        await service.wait(keys, counted.note, self._sleep, self.control)
        dones = await service.dones(keys)
        if self.control.state == "canceled":
            self.over = canceled()
        elif (spent := next((e for e in made.refused.values() if isinstance(e, BudgetError)), None)) is not None:
            self.over = spent
        dones |= {key: Done(error=error) for key, error in made.refused.items()}
        lost: Error = self.over or canceled()
        return {key: dones.get(key) or Done(error=lost) for key in asks}

    def _look_after(self, keys: list[str]) -> None:
        """Have them collected by whoever runs the scheduler, in case that nobody waits any more."""
        now = utc_now()
        made = [
            new_job(TEND, {"id": key}, at=now + FIRST_LOOK, now=now, user_id=self.app.settings.user) for key in keys
        ]
        if made:
            with self.app.store.transaction() as execute:
                for one in made:
                    jobs.insert(execute.later, one)


class _Counted:
    """How far several provider batches are together, in words."""

    def __init__(self, say: Callable[[str | None], None]) -> None:
        self._say = say
        self._seen: dict[str, Standing] = {}

    def note(self, standing: Standing) -> None:
        self._seen[standing.id] = standing
        completed = sum(one.completed + one.failed for one in self._seen.values())
        requests = sum(one.requests for one in self._seen.values())
        trouble = next((one.message for one in self._seen.values() if one.message), None)
        state = trouble or standing.provider_state or "on its way"
        self._say(f"waiting for the provider's batch: {completed:,} of {requests:,} ({state})")
