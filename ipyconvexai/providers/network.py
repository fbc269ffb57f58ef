"""The last step to a provider: the aiohttp backend of the SDK, on the background loop. Calls openai and httpx2.

``DefaultAioHttpClient`` is chosen for its cost: the default transport takes 60 % more CPU. Only the corridor calls it.
"""

from __future__ import annotations

import asyncio

import httpx2

__all__ = ["Network"]

MOST_CONNECTIONS = 1000


class Network:
    """Made and closed on the background loop, to which its connections belong; after a fork there is a new one."""

    def __init__(self) -> None:
        self._client: httpx2.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def send(self, request: httpx2.Request) -> httpx2.Response:
        # The transport for this URL honours HTTPS_PROXY and NO_PROXY as the SDK does.
        return await self._ready()._transport_for_url(request.url).handle_async_request(request)

    def _ready(self) -> httpx2.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            import openai

            limits = httpx2.Limits(max_connections=MOST_CONNECTIONS, max_keepalive_connections=MOST_CONNECTIONS)
            self._client, self._loop = openai.DefaultAioHttpClient(limits=limits), loop
        return self._client

    async def aclose(self) -> None:
        if self._client is not None and self._loop is asyncio.get_running_loop():
            await self._client.aclose()
        self._client = None
