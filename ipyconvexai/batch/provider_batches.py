"""Batches that a provider answers within a day, at half the price: written, sent, looked after, collected. Floor 5.

Calls ``provider_sending``, ``provider_rows`` and ``providers.batching`` (files and batches over the corridor). Runs on
the background loop. The requests are the same rows as ever, with the id of their provider batch in place of a session.
Promises: all rows are durable before anything is sent; whoever finds a batch later goes on where it was left, in any
process, and the same rows are never begun twice; collecting twice writes once; budgets count what is under way.

    writing -> written -> submitted -> collected   rows come, maybe begun, begun, every request has its end
    writing or written -> failed                   nothing was sent, and the rows say so
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ipyconvexai.application import App
from ipyconvexai.batch.asks import Ask, Done
from ipyconvexai.batch.control import Control
from ipyconvexai.batch.provider_rows import (
    GROUP_BYTES,
    GROUP_ROWS,
    Row,
    Rows,
    Standing,
    not_sent,
    read_outcomes,
    unanswered,
)
from ipyconvexai.batch.provider_sending import OpenError, Prepared, Sleep, Writer, affordable, begun
from ipyconvexai.errors import CallError, ConfigurationError, Error, ProviderError
from ipyconvexai.ids import new_id
from ipyconvexai.providers.batching import BatchApi, Remote, request_line
from ipyconvexai.providers.endpoints import Endpoint
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.ledger import Outcome
from ipyconvexai.values import Caller, Purse

__all__ = ["ProviderBatches", "Standing", "Submission", "provider_batches", "tend"]

MOST_REQUESTS = 50_000  # of one batch: https://platform.openai.com/docs/guides/batch
MOST_BYTES = 64_000_000  # of its file; they allow 200 MB, but on its way it is in memory several times
FIRST_LOOK, LONGEST_LOOK, GROWTH = 5.0, 60.0, 1.5  # seconds between two looks


class Submission(NamedTuple):
    """`ids`: the provider batches that were made; `refused`: cache key -> why that request was not sent."""

    ids: list[str]
    refused: dict[str, Error]


class ProviderBatches:
    """The provider batches of one app; ``provider_batches(app)`` gives it."""

    def __init__(self, app: App, *, most_requests: int = MOST_REQUESTS, most_bytes: int = MOST_BYTES) -> None:
        self._app: App = weakref.proxy(app)  # it is found by its app, and must not keep it alive
        self._rows = Rows(self._app)
        self._most_requests = most_requests
        self._most_bytes = most_bytes
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        self._purses: dict[str, Purse] = {}
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def know(self, endpoint: Endpoint) -> None:
        """Reach batches at its address with its key; else the address and key are found as for any model."""
        self._endpoints[endpoint.provider, endpoint.identity] = endpoint

    # ------------------------------------------------------------------------------------------ sending
    async def submit(
        self,
        endpoint: Endpoint,
        asks: Iterable[Ask],
        caller: Caller,
        batch_id: str | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> Submission:
        """Hand `asks` (of different keys) to the provider, in as many batches as it takes.

        What a budget, or the caller's purse, does not hold is not sent, and is in ``refused``.

        Raises:
            ConfigurationError: the provider has no Batch API. Nothing was sent, and the rows say so.
            CallError: it did not take them. Those that it may have taken are under way: whoever looks asks it.
            StoreError: the ledger cannot record.
        """
        self.know(endpoint)
        caller = dataclasses.replace(caller, source="batch", batch_id=batch_id or caller.batch_id)
        made = Submission([], {})
        writer = Writer(self._app, endpoint, caller, made.refused)
        spent: Error | None = None
        async for group in writer.groups(asks, self._most_requests, self._most_bytes):
            if spent is None:
                group, spent = affordable(key := new_id(), group, caller.purse, made.refused)
                if group:
                    async with self._lock(key):
                        spent = await self._submit(key, writer, group, endpoint, caller, made, sleep) or spent
            else:
                made.refused.update((one.ask.key, spent) for one in group)
        return made

    async def _submit(
        self,
        key: str,
        writer: Writer,
        group: list[Prepared],
        endpoint: Endpoint,
        caller: Caller,
        made: Submission,
        sleep: Sleep,
    ) -> Error | None:
        """One batch; the error that forbids further ones."""
        await asyncio.to_thread(self._rows.begin, key, endpoint, caller)
        try:
            admitted, over = await writer.admit(key, group)
            if caller.purse is not None:
                if len(admitted) < len(group):
                    caller.purse.settle(key, 0.0)  # what was taken for those that were not admitted goes back
                    caller.purse.take(key, sum(one.usd or 0.0 for one in admitted))
                self._purses[key] = caller.purse
            if not admitted:
                await self._give_up(key, "no request of it fits a budget" if over is None else over.message)
                return over
            await self._change(key, state="written", requests=len(admitted))
            made.ids.append(key)
            content = b"".join(request_line(one.id, one.body) for one in admitted)
            with contextlib.suppress(OpenError):  # whoever looks at it goes on
                await self._send(await self._row(key), content, caller, sleep)
        finally:
            await asyncio.to_thread(self._rows.release, key)
        return over

    async def _send(self, row: Row, content: bytes | None, caller: Caller, sleep: Sleep) -> None:
        """Upload the requests of a written batch and begin it. Its lock is held, and it is claimed."""
        api = await self._api(row, caller)
        file_id = row.file_id
        try:
            if file_id is None:
                assert content is not None
                file_id = await api.upload(f"ipyconvexai-{row.id}.jsonl", content)
                await self._change(row.id, file_id=file_id)
            remote = await begun(api, row, file_id, sleep)
        except OpenError:
            raise
        except (CallError, ConfigurationError) as error:
            await self._give_up(row.id, error.message)
            raise
        await self._change(row.id, state="submitted", provider_id=remote.id, provider_state=remote.state)

    # ------------------------------------------------------------------------------------------ looking
    async def open_for(self, keys: Iterable[str]) -> dict[str, str]:
        """Cache key -> the provider batch that has that request under way, for those that are."""
        if not await self.open_ids():
            return {}
        for key in await asyncio.to_thread(self._rows.left_unwritten):
            await self.look(key)  # nothing was sent: its rows are told so, and it is not open any more
        return await asyncio.to_thread(self._rows.under_way, keys)

    async def open_ids(self) -> list[str]:
        """The provider batches that are not over, the oldest first."""
        return await asyncio.to_thread(self._rows.open_ids)

    async def look(self, key: str, sleep: Sleep = asyncio.sleep) -> Standing:
        """Ask the provider once how the batch stands. One that was left half sent is sent to its end first.

        Raises:
            InputError: there is no such batch.
            CallError, ConfigurationError: the provider did not say.
        """
        async with self._lock(key):
            return (await self._looked_at(key, sleep))[0].standing

    async def _looked_at(self, key: str, sleep: Sleep) -> tuple[Row, Remote | None]:
        row = await self._row(key)
        if row.state in ("writing", "written"):
            row = await self._resume(row, sleep)
        if row.state != "submitted":
            return row, None
        api = await self._api(row)
        remote = await api.retrieve(row.provider_id or "")
        row = row._replace(provider_state=remote.state, completed=remote.completed, failed=remote.failed)
        await self._change(key, provider_state=row.provider_state, completed=row.completed, failed=row.failed)
        return row, remote

    async def _resume(self, row: Row, sleep: Sleep) -> Row:
        """Go on where a process was killed or interrupted."""
        if not await asyncio.to_thread(self._rows.claim, row.id):
            return row  # whoever has it lives, and goes on by itself
        try:
            row = await self._row(row.id)
            if row.state == "writing":
                await self._give_up(row.id, "the process that wrote it ended before anything was sent")
            elif row.state == "written":
                content = await asyncio.to_thread(self._rows.content, row.id)
                if content is None and row.file_id is None:
                    await self._give_up(row.id, "what was to be sent is not kept (record='metadata')")
                else:
                    await self._send(row, content, Caller(source="batch", batch_id=row.batch_id), sleep)
        finally:
            await asyncio.to_thread(self._rows.release, row.id)
        return await self._row(row.id)

    # ------------------------------------------------------------------------------------------ collecting
    async def collect(self, key: str, sleep: Sleep = asyncio.sleep) -> Standing:
        """Look, and where the provider has come to an end write what became of each request.

        Raises:
            InputError, CallError, ConfigurationError: as ``look``. What was written stays; collect it again.
            StoreError: the ledger cannot record.
        """
        async with self._lock(key):
            row, remote = await self._looked_at(key, sleep)
            if remote is None or not remote.has_ended:
                return row.standing
            async for outcomes in self._outcomes(row, remote):
                await self._app.records.settle_all(outcomes)
            await self._settle_purse(key)
            tells = remote.state == "failed" and self._app.records.keeps_content
            message = remote.error_message if tells else None
            await self._change(key, state="collected", finished_at=utc_now(), error_message=message)
            return row._replace(state="collected", error_message=message).standing

    async def _outcomes(self, row: Row, remote: Remote) -> AsyncIterator[list[Outcome]]:
        """What became of each request without an outcome, some at a time: a file is never in memory as a whole."""
        left = set(await asyncio.to_thread(self._rows.unanswered, row.id))
        api = await self._api(row)
        for file_id in remote.files:
            try:
                async with contextlib.aclosing(_in_groups(api.lines(file_id))) as groups:
                    async for lines in groups:
                        outcomes = await asyncio.to_thread(read_outcomes, row, lines, left)
                        left -= {outcome.request_id for outcome in outcomes}
                        if outcomes:
                            yield outcomes
            except ProviderError as error:
                if error.status not in (404, 410):
                    raise
                # The provider keeps it no longer: nobody will ever know what was answered.
        rest = sorted(left)
        for start in range(0, len(rest), GROUP_ROWS):
            yield [unanswered(request, remote) for request in rest[start : start + GROUP_ROWS]]

    async def dones(self, keys: Sequence[str]) -> dict[str, Done]:
        """Cache key -> what that request came to, for all requests of the provider batches `keys` that have an end."""
        return await asyncio.to_thread(self._rows.dones, keys)

    # ------------------------------------------------------------------------------------------ cancelling, waiting
    async def cancel(self, key: str) -> Standing:
        """Ask the provider to end it; what it has answered until then is billed, and is collected as ever.

        Raises:
            InputError, CallError, ConfigurationError: as ``look``.
        """
        async with self._lock(key):
            row = await self._row(key)
            if row.state in ("writing", "written") and row.file_id is None:
                if await asyncio.to_thread(self._rows.claim, key):
                    await self._give_up(key, "it was canceled before anything was sent")
                    await asyncio.to_thread(self._rows.release, key)
                return (await self._row(key)).standing
            row, remote = await self._looked_at(key, asyncio.sleep)
            if remote is None or remote.has_ended:
                return row.standing
            api = await self._api(row)
            try:
                remote = await api.cancel(remote.id)
            except ProviderError as error:
                if error.status not in (400, 409):
                    raise
                remote = await api.retrieve(remote.id)  # it ended a moment ago
            await self._change(key, provider_state=remote.state)
            return row._replace(provider_state=remote.state).standing

    async def wait(
        self,
        keys: Iterable[str],
        on_progress: Callable[[Standing], None] | None = None,
        sleep: Sleep = asyncio.sleep,
        control: Control | None = None,
    ) -> list[Standing]:
        """Look every 5 to 60 s and collect each that has ended, until all have; gives how they stand, in order.

        A provider that cannot be reached meanwhile is asked again. While `control` is paused nobody looks; when it is
        canceled the provider is told, what has ended by then is collected, and the rest stays under way.

        Raises:
            CallError, ConfigurationError: what asking again does not cure. Nothing is lost: wait again.
        """
        found: dict[str, Standing | None] = dict.fromkeys(keys)
        pause, canceled = FIRST_LOOK, False
        while True:
            for key in [key for key, standing in found.items() if standing is None or not standing.is_over]:
                if canceled:
                    await self.cancel(key)
                found[key] = standing = await self._looked(key, found[key], sleep)
                if on_progress is not None:
                    on_progress(standing)
            standings = [standing for standing in found.values() if standing is not None]
            if canceled or all(standing.is_over for standing in standings):
                return standings
            await _nap(sleep, pause, control)
            pause = min(pause * GROWTH, LONGEST_LOOK)
            canceled = control is not None and not await control.clear()

    async def _looked(self, key: str, last: Standing | None, sleep: Sleep) -> Standing:
        try:
            return await self.collect(key, sleep)
        except CallError as error:
            if not error.retryable:
                raise
            last = last or (await self._row(key)).standing
            return dataclasses.replace(last, message=error.message)

    # ------------------------------------------------------------------------------------------ small things
    @contextlib.asynccontextmanager
    async def _lock(self, key: str) -> AsyncIterator[None]:
        """One at a time in this process."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            yield

    async def _row(self, key: str) -> Row:
        return await asyncio.to_thread(self._rows.find, key)

    async def _change(self, key: str, **values: Any) -> None:
        await asyncio.to_thread(lambda: self._rows.change(key, **values))

    async def _give_up(self, key: str, why: str) -> None:
        """Nothing of it was sent: its requests say so, and cost nothing."""
        requests = await asyncio.to_thread(self._rows.unanswered, key)
        for start in range(0, len(requests), GROUP_ROWS):
            some = requests[start : start + GROUP_ROWS]
            await self._app.records.settle_all([not_sent(request, why) for request in some])
        await self._settle_purse(key)
        await self._change(key, state="failed", finished_at=utc_now(), error_message=why)

    async def _settle_purse(self, key: str) -> None:
        purse = self._purses.pop(key, None)
        if purse is not None:
            purse.settle(key, await asyncio.to_thread(self._rows.spent, key))

    async def _api(self, row: Row, caller: Caller | None = None) -> BatchApi:
        endpoint = await self._endpoint(row)
        caller = caller or Caller(source="batch", batch_id=row.batch_id)
        return BatchApi(self._app.generator.client(endpoint), endpoint, caller)

    async def _endpoint(self, row: Row) -> Endpoint:
        known = self._endpoints.get((row.provider, row.base_url))
        if known is None:
            name = f"{row.provider}:{row.model}"
            known = await self._app.generator.endpoint(name)
            if known.identity != row.base_url:
                known = await self._app.generator.endpoint(name, row.base_url)
            self.know(known)
        return known


_services: weakref.WeakKeyDictionary[App, ProviderBatches] = weakref.WeakKeyDictionary()


def provider_batches(app: App) -> ProviderBatches:
    """The provider batches of `app`: one object, whose parts know of each other."""
    service = _services.get(app)
    if service is None:
        service = _services[app] = ProviderBatches(app)
    return service


async def tend(app: App, key: str) -> float | None:
    """Look at a provider batch once, and collect it if it is over.

    Gives the seconds until the next look; None: nothing is left to do.

    Raises:
        CallError, ConfigurationError: what asking again does not cure.
    """
    service = provider_batches(app)
    standing = await service._looked(key, None, asyncio.sleep)
    if standing.is_over:
        return None
    age = (utc_now() - (await service._row(key)).created_at).total_seconds()
    return min(LONGEST_LOOK, max(FIRST_LOOK, age / 10))


async def _in_groups(lines: AsyncGenerator[bytes, None]) -> AsyncGenerator[list[bytes], None]:
    group: list[bytes] = []
    size = 0
    async with contextlib.aclosing(lines):
        async for line in lines:
            group.append(line)
            size += len(line)
            if len(group) >= GROUP_ROWS or size > GROUP_BYTES:
                yield group
                group, size = [], 0
    if group:
        yield group


async def _nap(sleep: Sleep, seconds: float, control: Control | None) -> None:
    """Sleep, or until somebody presses a button."""
    if control is None:
        await sleep(seconds)
        return
    loop, pressed = asyncio.get_running_loop(), asyncio.Event()

    def press() -> None:
        loop.call_soon_threadsafe(pressed.set)

    stop = control.listen(press)
    naps: list[asyncio.Future[Any]] = [asyncio.ensure_future(sleep(seconds)), asyncio.ensure_future(pressed.wait())]
    try:
        if control.state == "running":
            done, _ = await asyncio.wait(naps, return_when=asyncio.FIRST_COMPLETED)
            for nap in done:
                nap.result()
    finally:
        stop()
        for nap in naps:
            nap.cancel()
