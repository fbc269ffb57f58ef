"""An answer that passes through while it arrives and is settled once, at its end or where it stopped.

Calls ``calls``, ``faults`` and ``reading``. Promises: the terminal event is handed out when the outcome is durable;
what came of a stream that was cut, failed, timed out or was left by its reader is recorded; a stream that ends without
its terminal event is an error to its reader, after everything that came.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2

from ipyconvexai.crashpoints import passing
from ipyconvexai.errors import CallError
from ipyconvexai.providers import faults
from ipyconvexai.providers.calls import Call, outcome_of, stopped
from ipyconvexai.providers.reading import EventReader
from ipyconvexai.settings import redact_bytes
from ipyconvexai.store.ledger import Outcome
from ipyconvexai.values import Status

__all__ = ["Download", "RecordedStream"]

DRAIN = 0.1  # seconds to wait for the last bytes behind a terminal event, for the sake of the connection


class RecordedStream(httpx2.AsyncByteStream):
    """An iterator and no generator: it may be left at any point, and a second ``aiter`` goes on where the first was.

    Args:
        settle: writes an outcome and returns when it is durable.
        settle_later: writes it where nobody waits any more.
        clock: seconds.
    """

    def __init__(
        self,
        call: Call,
        inner: httpx2.Response,
        settle: Callable[[Call, Outcome], Awaitable[None]],
        settle_later: Callable[[Call, Outcome], None],
        clock: Callable[[], float],
    ) -> None:
        self._call = call
        self._request_id = call.request_id
        self._inner = inner
        self._settle_row = settle
        self._settle_row_later = settle_later
        self._clock = clock
        self._incoming: AsyncIterator[bytes] = inner.aiter_bytes()
        self._reader = EventReader(call.path)
        self._kept: list[bytes] = []
        self._first_ms: float | None = None
        self._ended = False
        self._closed = False
        self.settled = False
        self.handed_at: float | None = clock()  # since when its reader has not asked for more; None: it waits
        self.when_settled: list[Callable[[], None]] = []

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        self.handed_at = None
        chunk, fault = await self._next()
        self.handed_at = self._clock()
        if chunk is not None:
            return chunk
        self._ended = True
        if fault is not None:  # raised here, so that it drags no foreign frames along
            raise fault
        raise StopAsyncIteration

    async def _next(self) -> tuple[bytes | None, CallError | None]:
        """The next piece; None at the end, with the error if it was not a proper one."""
        try:
            chunk: bytes | None = await anext(self._incoming, None)
        except asyncio.CancelledError:
            self._stop()
            raise
        except Exception as error:
            fault: CallError | None = faults.transport_fault(error, self._call.request, self._request_id)
        else:
            if chunk is not None:
                return await self._take(chunk), None
            fault = None
        return None, await self._end(fault)

    async def _take(self, chunk: bytes) -> bytes:
        passing("in_stream")
        reader = self._reader
        reader.feed(chunk)
        if reader.failed:
            chunk = redact_bytes(chunk)  # the SDK shows what the provider says
        self._kept.append(chunk)
        if self._first_ms is None and reader.started:
            self._first_ms = self._call.milliseconds(self._clock())
        if reader.done or reader.failed:
            await self._settle(Status.ERROR if reader.failed else Status.OK)
        return chunk

    async def _end(self, fault: CallError | None) -> CallError | None:
        """The connection ended, with `fault` or properly; gives the error that its reader is to see."""
        if self.settled:  # behind its terminal event nobody misses anything
            return None
        self._reader.end()
        if fault is None and (self._reader.failed or self._reader.ends_properly):
            await self._settle(Status.ERROR if self._reader.failed else Status.OK)
            return None
        if fault is None or fault.code != "timeout":
            fault = faults.cut(self._call.request, self._request_id)
        await self._settle(Status.TIMEOUT if fault.code == "timeout" else Status.CUT, fault)
        return fault

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._stop()  # only if its reader left before the end
        if self._reader.done and not self._ended:
            await self._drain()
        self._ended = True
        with contextlib.suppress(Exception):  # it is over; what the connection has to say is of no interest
            await self._inner.aclose()
        await self._drain()  # what reads the closed connection ends by itself, from the inside out

    async def _drain(self) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(DRAIN):
                while await anext(self._incoming, None) is not None:
                    pass

    # ------------------------------------------------------------------------------------------ settled once
    async def _settle(self, status: Status, fault: CallError | None = None) -> None:
        if self.settled:
            return
        self.settled = True
        try:
            await self._settle_row(self._call, self._outcome(status, fault))
        finally:
            self._tell()

    def _stop(self) -> None:
        """Nobody waits any more: write what came and do not wait for it."""
        if not self.settled:
            self.settled = True
            self._settle_row_later(self._call, self._outcome(stopped(self._call), None))
            self._tell()

    def _tell(self) -> None:
        while self.when_settled:
            self.when_settled.pop()()

    def _outcome(self, status: Status, fault: CallError | None) -> Outcome:
        reading = self._reader.result()
        said: dict[str, Any] = {}
        if fault is not None:
            said = {"error_code": fault.code, "error_message": fault.message}
        elif status in (Status.CANCELED, Status.INTERRUPTED):
            said = {"error_code": status.value}
        return outcome_of(
            self._call,
            status,
            reading,
            response=self._inner,
            content=b"".join(self._kept),
            first_token_ms=self._first_ms,
            duration_ms=self._call.milliseconds(self._clock()),
            **said,
        )


class Download(httpx2.AsyncByteStream):
    """A file that passes while it arrives, and is kept by nobody."""

    def __init__(self, call: Call, inner: httpx2.Response) -> None:
        self._call = call
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner.aiter_bytes():
                yield chunk
        except Exception as error:
            fault = faults.transport_fault(error, self._call.request, self._call.request_id)
        else:
            return
        raise fault

    async def aclose(self) -> None:
        await self._inner.aclose()
