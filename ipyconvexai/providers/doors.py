"""How the SDK's clients enter the corridor: an httpx2 transport for each kind, over the one background loop.

Calls ``corridor``, ``network`` and ``loops``. A client may live in any thread or loop, even one that is closed and
opened again: the network is only ever touched on the background loop, so no connection belongs to a loop that is gone.
Promises: whoever stops waiting leaves nothing open; after an exchange the SDK's request no longer holds the key.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator

import httpx2

from ipyconvexai import guard
from ipyconvexai.errors import InputError
from ipyconvexai.loops import BackgroundLoop
from ipyconvexai.providers.calls import CALLER, KEY_HEADERS, Call
from ipyconvexai.providers.corridor import Corridor
from ipyconvexai.providers.endpoints import Endpoint
from ipyconvexai.providers.network import AsyncGuest, SyncGuest

__all__ = ["ROUTE", "AsyncDoor", "Route", "SyncDoor"]

ROUTE = "ipyconvexai"  # the request extension that carries a Route
CLOSE_PATIENCE = 5.0  # seconds
SLACK_ELSEWHERE = 1.0  # seconds that a limit allows a call whose way to the worker that sends it takes time


class Route:
    """Where a client's request goes and how often it may be tried; put on it by the client."""

    __slots__ = ("endpoint", "retries")

    def __init__(self, endpoint: Endpoint, retries: int) -> None:
        self.endpoint = endpoint
        self.retries = retries


class _Errand:
    """One exchange, on the background loop, for a caller who may give up waiting at any moment."""

    def __init__(self, corridor: Corridor, call: Call) -> None:
        self._corridor = corridor
        self._call = call
        self._response: httpx2.Response | None = None

    async def run(self) -> httpx2.Response:
        self._response = await self._corridor.handle(self._call)
        return self._response

    async def abandon(self) -> None:
        """After its cancellation: it may have been done a moment before."""
        if self._response is not None:
            await self._response.aclose()


def _call(corridor: Corridor, request: httpx2.Request, guest: AsyncGuest | SyncGuest | None) -> Call:
    route: Route | None = request.extensions.get(ROUTE)
    if route is None:
        raise InputError(
            "this request was not made by a method of the SDK's client",
            cure="Use client.post(...) and its like, so that the call can be recorded.",
        )
    guard.check("calling a model")  # an open connection makes no sound
    caller = CALLER.get()
    send = caller.send if guest is None else guest.send
    call = corridor.call(request, route.endpoint, caller, route.retries, send)
    if guest is None and caller.send is not None:
        call.slack = SLACK_ELSEWHERE
    return call


def _hide_keys(request: httpx2.Request, response: httpx2.Response | None) -> None:
    """Errors and responses keep the request, and pickles of them its headers."""
    if response is not None and response.is_redirect:
        return  # the next request is made from this one
    for name in KEY_HEADERS:
        if name in request.headers:
            request.headers[name] = "***"


class AsyncDoor(httpx2.AsyncBaseTransport):
    """`guest`: send through this client of the user's."""

    def __init__(self, corridor: Corridor, loop: BackgroundLoop, guest: AsyncGuest | None = None) -> None:
        self._corridor = corridor
        self._loop = loop
        self._guest = guest

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        call = _call(self._corridor, request, self._guest)
        response = None
        try:
            response = await self._exchange(call)
        finally:
            _hide_keys(request, response)
        return response

    async def _exchange(self, call: Call) -> httpx2.Response:
        if self._loop.is_current():
            return await self._corridor.handle(call)
        errand = _Errand(self._corridor, call)
        try:
            response = await asyncio.wrap_future(self._loop.submit(errand.run()))
        except asyncio.CancelledError:
            self._loop.submit(errand.abandon())
            raise
        if isinstance(response.stream, httpx2.ByteStream):
            return response
        return _with_stream(response, _AsyncRelay(self._loop, response))

    async def aclose(self) -> None:
        if self._guest is not None:
            await asyncio.wrap_future(self._loop.submit(self._guest.aclose()))


class SyncDoor(httpx2.BaseTransport):
    """`guest`: send through this client of the user's."""

    def __init__(self, corridor: Corridor, loop: BackgroundLoop, guest: SyncGuest | None = None) -> None:
        self._corridor = corridor
        self._loop = loop
        self._guest = guest

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        call = _call(self._corridor, request, self._guest)
        response = None
        try:
            response = self._exchange(call)
        finally:
            _hide_keys(request, response)
        return response

    def _exchange(self, call: Call) -> httpx2.Response:
        errand = _Errand(self._corridor, call)
        try:
            response = self._loop.run(errand.run(), on_interrupt=call.stop.interrupt)
        except KeyboardInterrupt:
            self._loop.submit(errand.abandon())
            raise
        if isinstance(response.stream, httpx2.ByteStream):
            return response
        return _with_stream(response, _SyncRelay(self._loop, response, call))

    def close(self) -> None:
        if self._guest is not None:
            self._loop.run(self._guest.aclose())


def _with_stream(response: httpx2.Response, stream: httpx2.AsyncByteStream | httpx2.SyncByteStream) -> httpx2.Response:
    return httpx2.Response(
        response.status_code,
        headers=response.headers,
        stream=stream,
        request=response.request,
        extensions=response.extensions,
    )


class _SyncRelay(httpx2.SyncByteStream):
    """Pulls an open stream chunk by chunk from the background loop into a waiting thread."""

    def __init__(self, loop: BackgroundLoop, response: httpx2.Response, call: Call) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        self._loop = loop
        self._stream = response.stream
        self._chunks = aiter(response.stream)
        self._call = call

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := self._loop.run(_next(self._chunks), on_interrupt=self._call.stop.interrupt)) is not None:
            yield chunk

    def close(self) -> None:
        if not self._loop.is_running():  # its app was closed, and closed this stream, too
            return
        if _is_interrupted():  # Ctrl-C between two pieces
            self._call.stop.interrupt()
        closing = self._loop.submit(self._stream.aclose())
        if not self._loop.is_current():  # the collector may close a forgotten stream there
            closing.result(CLOSE_PATIENCE)


class _AsyncRelay(httpx2.AsyncByteStream):
    """The same for a coroutine on another loop."""

    def __init__(self, loop: BackgroundLoop, response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        self._loop = loop
        self._stream = response.stream
        self._chunks = aiter(response.stream)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await asyncio.wrap_future(self._loop.submit(_next(self._chunks)))
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        if self._loop.is_running():
            # Shielded: a caller who is cancelled here must not leave the connection open.
            await asyncio.shield(asyncio.wrap_future(self._loop.submit(self._stream.aclose())))


def _is_interrupted() -> bool:
    """Whether this runs while Ctrl-C unwinds the stack."""
    error = sys.exception()
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    return await anext(chunks, None)
