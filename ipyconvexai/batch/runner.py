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

from ipyconvexai.errors import CallError, Error
from ipyconvexai.providers.catalog import Endpoint
from ipyconvexai.providers.clients import AsyncOpenAI
from ipyconvexai.providers.corridor import CALLER, REQUEST_ID_HEADER
from ipyconvexai.providers.faults import translate
from ipyconvexai.providers.prices import cost_usd
from ipyconvexai.providers.reading import read_answer
from ipyconvexai.values import Caller

__all__ = ["Done", "Runner"]

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


class Runner:
    """Sends bodies to one endpoint, `concurrency` at once."""

    def __init__(self, client: AsyncOpenAI, endpoint: Endpoint, concurrency: int, caller: Caller) -> None:
        self._client = client
        self._endpoint = endpoint
        self._workers = WORKERS_PER_SEND * concurrency
        self._caller = dataclasses.replace(caller, gate=asyncio.Semaphore(concurrency))

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
                report(job, await self._send(body(job)))

        await _all(work() for _ in range(self._workers))

    async def _send(self, body: dict[str, Any]) -> Done:
        import httpx2

        try:
            response = await self._client.post("/chat/completions", body=body, cast_to=httpx2.Response)
        except Exception as error:
            fault = translate(
                error,
                provider=self._endpoint.provider,
                model=self._endpoint.model,
                key_variable=self._endpoint.key_variable,
            )
            if isinstance(fault, CallError):
                return Done(error=fault, request_id=fault.request_id)
            raise fault from None
        reading = read_answer(response.content)
        request_id = response.headers.get(REQUEST_ID_HEADER)
        if reading.text is None:
            return Done(request_id=request_id, error=CallError("the model answered without text", request_id=request_id))
        cost = cost_usd(self._endpoint.provider, reading.model or self._endpoint.model, reading.usage)
        return Done(reading.text, request_id, reading.usage.total_tokens, cost or 0.0)


async def _all(workers: Iterable[Awaitable[None]]) -> None:
    """Run the workers; the first that fails stops the others."""
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(worker)  # type: ignore[arg-type] # a coroutine
