"""Sends many calls at once through the corridor and collects one outcome for each. Runs on the background loop.

N workers over one iterator, not N tasks behind a semaphore: that took up to 40 % more CPU and kept every document
alive. ``concurrency`` counts requests being sent; a worker that waits for a commit does not count, so there are twice
as many workers (0.95 of the raw speed instead of 0.75).
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from ipyconvexai.errors import BudgetError, CallError, Error, InputError
from ipyconvexai.providers.clients import AsyncOpenAI
from ipyconvexai.providers.corridor import CALLER
from ipyconvexai.providers.endpoints import Endpoint
from ipyconvexai.providers.exchange import chat
from ipyconvexai.values import Caller

__all__ = ["Done", "Runner", "answered"]

Job = TypeVar("Job")

WORKERS_PER_SEND = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """One call's outcome: its text, or the error."""

    text: str | None = None
    request_id: str | None = None
    tokens: int = 0
    cost: float = 0.0
    error: Error | None = None


def answered(text: str, request_id: str | None, finish_reason: str | None) -> Done:
    """The outcome of an answer: a text that was cut at the token limit is kept, and says so."""
    if finish_reason != "length":
        return Done(text, request_id)
    cut = CallError("cut at the token limit", cure="Allow more: max_tokens=.", code="truncated", request_id=request_id)
    return Done(text, request_id, error=cut)


class Runner:
    """Sends bodies to one endpoint, `concurrency` at once."""

    def __init__(
        self, client: AsyncOpenAI, endpoint: Endpoint, concurrency: int, caller: Caller, timeout: float | None = None
    ) -> None:
        self._timeout = timeout
        self._client = client
        self._endpoint = endpoint
        self._workers = WORKERS_PER_SEND * concurrency
        self._caller = dataclasses.replace(caller, gate=asyncio.Semaphore(concurrency))
        self._spent: BudgetError | None = None

    async def run(
        self, jobs: Iterable[Job], body: Callable[[Job], dict[str, Any]], report: Callable[[Job, Done], None]
    ) -> None:
        """Send ``body(job)`` for each job; `report` is called with each outcome as it comes.

        Raises:
            StoreError: the ledger cannot record: nothing more is sent.
        """
        CALLER.set(self._caller)
        waiting = iter(jobs)

        async def work() -> None:
            for job in waiting:
                spent = self._spent  # then the rest is not even tried: each try would be a row
                report(job, await self._send(body(job)) if spent is None else Done(error=spent))

        await _all(work() for _ in range(self._workers))

    async def _send(self, body: dict[str, Any]) -> Done:
        try:
            answer = await chat(self._client, self._endpoint, body, self._timeout)
        except (CallError, InputError) as error:  # of this row; whatever else happens is everybody's
            if isinstance(error, BudgetError) and error.code == "budget":
                self._spent = error
            return Done(error=error, request_id=error.request_id)
        text, request_id = answer.reading.text, answer.request_id
        if text is None:
            silent = CallError(
                "the model answered without text", cure="Look at its answer: ai.ledger.calls().", request_id=request_id
            )
            return Done(error=silent, request_id=request_id)
        done = answered(text, request_id, answer.reading.finish_reason)
        return dataclasses.replace(done, tokens=answer.reading.usage.total_tokens, cost=answer.cost or 0.0)


async def _all(workers: Iterable[Awaitable[None]]) -> None:
    """Run the workers; the first that fails stops the others, and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker)  # type: ignore[arg-type] # a coroutine
    except BaseExceptionGroup as failed:
        first = failed.exceptions[0]
    else:
        return
    raise first  # alone: a group of 64 times the same is not to be read
