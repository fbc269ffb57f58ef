"""How the SDK's clients enter the corridor: an httpx2 transport for each kind, over the one background loop.

Calls ``corridor`` and ``loops``. A client may live in any thread or loop, even one that is closed and opened again: the
network is only ever touched on the background loop, so no connection belongs to a loop that is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2

from ipyconvexai.loops import BackgroundLoop
from ipyconvexai.providers.catalog import Endpoint
from ipyconvexai.providers.corridor import CALLER, Call, Corridor

__all__ = ["ROUTE", "AsyncDoor", "Route", "SyncDoor"]

ROUTE = "ipyconvexai"  # the request extension that carries a Route


class Route:
    """Where a client's request goes and how often it may be tried; put on it by the client."""

    __slots__ = ("endpoint", "retries")

    def __init__(self, endpoint: Endpoint, retries: int) -> None:
        self.endpoint = endpoint
        self.retries = retries


class AsyncDoor(httpx2.AsyncBaseTransport):
    def __init__(self, corridor: Corridor, loop: BackgroundLoop) -> None:
        self._corridor = corridor
        self._loop = loop

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        route: Route = request.extensions[ROUTE]
        call = self._corridor.call(request, route.endpoint, CALLER.get(), route.retries)
        if self._loop.is_current():
            return await self._corridor.handle(call)
        response = await asyncio.wrap_future(self._loop.submit(self._corridor.handle(call)))
        if isinstance(response.stream, httpx2.ByteStream):
            return response
        stream = _AsyncRelay(self._loop, response)
        return httpx2.Response(response.status_code, headers=response.headers, stream=stream, request=request)


class SyncDoor(httpx2.BaseTransport):
    def __init__(self, corridor: Corridor, loop: BackgroundLoop) -> None:
        self._corridor = corridor
        self._loop = loop

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        route: Route = request.extensions[ROUTE]
        call = self._corridor.call(request, route.endpoint, CALLER.get(), route.retries)
        response = self._loop.run(self._corridor.handle(call), on_interrupt=call.stop.interrupt)
        if isinstance(response.stream, httpx2.ByteStream):
            return response
        stream = _SyncRelay(self._loop, response, call)
        return httpx2.Response(response.status_code, headers=response.headers, stream=stream, request=request)


class _SyncRelay(httpx2.SyncByteStream):
    """Pulls an open stream chunk by chunk from the background loop into a waiting thread."""

    def __init__(self, loop: BackgroundLoop, response: httpx2.Response, call: Call) -> None:
        self._loop = loop
        self._stream: Any = response.stream
        self._call = call

    def __iter__(self) -> Iterator[bytes]:
        chunks = aiter(self._stream)
        while (chunk := self._loop.run(_next(chunks), on_interrupt=self._call.stop.interrupt)) is not None:
            yield chunk

    def close(self) -> None:
        self._loop.submit(self._stream.aclose()).result(5)


class _AsyncRelay(httpx2.AsyncByteStream):
    """The same for a coroutine on another loop."""

    def __init__(self, loop: BackgroundLoop, response: httpx2.Response) -> None:
        self._loop = loop
        self._stream: Any = response.stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self._stream)
        while (chunk := await asyncio.wrap_future(self._loop.submit(_next(chunks)))) is not None:
            yield chunk

    async def aclose(self) -> None:
        await asyncio.wrap_future(self._loop.submit(self._stream.aclose()))


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    return await anext(chunks, None)
