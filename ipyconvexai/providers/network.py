"""The last step to a provider, on the background loop: the SDK's aiohttp backend, or a client that the user brought.

``DefaultAioHttpClient`` is chosen for its cost: the default transport takes 60 % more CPU. Only the corridor calls it.
Calls openai, httpx2 and loops.
"""

from __future__ import annotations

import asyncio
import functools
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import httpx2

from ipyconvexai.loops import call_in_child, keep_for_ever

__all__ = ["AsyncGuest", "Network", "SentBody", "SyncGuest", "certificates"]

MOST_CONNECTIONS = 1000
GUEST_THREADS = 64


class SentBody(httpx2.ByteStream):
    """`check` is called when the connection is there, before the first byte goes; what it raises stops the request.

    `left`: seconds until it would raise, for who sends it elsewhere.
    """

    check: Callable[[], None] | None = None
    left: Callable[[], float] | None = None

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.content = content

    def __iter__(self) -> Iterator[bytes]:
        if self.check is not None:
            self.check()
        yield from super().__iter__()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.check is not None:
            self.check()
        async for chunk in super().__aiter__():
            yield chunk


def certificates() -> ssl.SSLContext:
    """Whom this process trusts: by default the machine's own, else what SSL_CERT_FILE or SSL_CERT_DIR name."""
    return _certificates(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@functools.cache
def _certificates(file: str | None, folder: str | None) -> ssl.SSLContext:
    # Once for each place they can be at: to read them takes 25 ms, and each client would do it.
    return httpx2.create_ssl_context()


class Network:
    """Made and closed on the background loop, to which its connections belong; after a fork there is a new one."""

    def __init__(self) -> None:
        self._client: httpx2.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        call_in_child(self, Network._leave_to_parent)

    def _leave_to_parent(self) -> None:
        """In the child of a fork: the connections are the parent's. Closed here, TLS would say goodbye for both."""
        client, self._client, self._loop = self._client, None, None
        if client is None:
            return
        keep_for_ever(client)
        for transport in (client._transport, *client._mounts.values()):
            session = getattr(transport, "client", None)
            connector = getattr(session, "connector", None)
            if session is not None and connector is not None:
                keep_for_ever(session, connector)
                connector._closed = True  # their finalisers look at this
                session.detach()

    async def send(self, request: httpx2.Request) -> httpx2.Response:
        # The transport for this URL honours HTTPS_PROXY and NO_PROXY as the SDK does.
        response = await self._ready()._transport_for_url(request.url).handle_async_request(request)
        response.stream = _ToTheLastByte(response.stream)
        return response

    def _ready(self) -> httpx2.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            import openai

            if self._client is not None:
                keep_for_ever(self._client)  # of another loop, on which alone it could be closed
            limits = httpx2.Limits(max_connections=MOST_CONNECTIONS, max_keepalive_connections=MOST_CONNECTIONS)
            self._client, self._loop = openai.DefaultAioHttpClient(limits=limits, verify=certificates()), loop
        return self._client

    async def aclose(self) -> None:
        if self._client is not None and self._loop is asyncio.get_running_loop():
            await self._client.aclose()
            self._client = None


class _ToTheLastByte(httpx2.AsyncByteStream):
    """When a connection breaks aiohttp raises at once and forgets what it had received: here that comes first."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner:
                yield chunk
        except Exception:
            if rest := self._received():
                yield rest
            raise

    def _received(self) -> bytes:
        content = getattr(getattr(self._inner, "_aiohttp_response", None), "content", None)
        read = getattr(content, "_read_nowait", None)  # the public one raises, too
        return bytes(read(-1)) if read is not None else b""

    async def aclose(self) -> None:
        await self._inner.aclose()


class AsyncGuest:
    """An ``httpx2.AsyncClient`` of the user's, through whose transports (proxies, certificates) is sent.

    Its connections belong to the background loop from its first call on.
    """

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def send(self, request: httpx2.Request) -> httpx2.Response:
        return await self._client._transport_for_url(request.url).handle_async_request(request)

    async def aclose(self) -> None:
        await self._client.aclose()


class SyncGuest:
    """An ``httpx2.Client`` of the user's, in threads: a blocking transport must not stop the loop."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client
        self._threads: Executor = ThreadPoolExecutor(GUEST_THREADS, "ipyconvexai-guest")

    async def send(self, request: httpx2.Request) -> httpx2.Response:
        transport = self._client._transport_for_url(request.url)
        response = await self._in_thread(transport.handle_request, request)
        stream = _Pulled(self, response)
        return httpx2.Response(
            response.status_code, headers=response.headers, stream=stream, extensions=response.extensions
        )

    async def _in_thread(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def aclose(self) -> None:
        await self._in_thread(self._client.close)
        self._threads.shutdown(wait=False)


class _Pulled(httpx2.AsyncByteStream):
    """A blocking answer, piece by piece."""

    def __init__(self, guest: SyncGuest, response: httpx2.Response) -> None:
        self._guest = guest
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = iter(self._response.stream)  # type: ignore[arg-type] # of a sync transport
        while (piece := await self._guest._in_thread(next, pieces, None)) is not None:
            yield piece

    async def aclose(self) -> None:
        await self._guest._in_thread(self._response.close)
