"""Clients whose endpoint is found with their first request: what an action is given as ``ctx.openai``. Calls clients.

To find the endpoint may mean to start the local model, which an action that asks no model shall not wait for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ipyconvexai.providers.clients import AsyncOpenAI, OpenAI, Wiring
from ipyconvexai.providers.endpoints import Endpoint

__all__ = ["DeferredAsyncOpenAI", "DeferredOpenAI"]

_NOWHERE = "http://endpoint.invalid/v1"  # RFC 2606, 2: never resolves


def _addressed(client: Any, endpoint: Endpoint, options: Any, stands_for: str) -> Any:
    """`options`, for a client that from now on has `endpoint`; the model `stands_for` is the endpoint's."""
    client._endpoint = endpoint
    client.base_url = endpoint.base_url
    client.api_key = endpoint.key.reveal() if endpoint.key else "none"
    body = options.json_data
    if isinstance(body, dict) and body.get("model") == stands_for:
        options.json_data = {**body, "model": endpoint.model}
    return options


class DeferredAsyncOpenAI(AsyncOpenAI):
    """`find` gives the endpoint; in requests `stands_for` means its model."""

    def __init__(
        self, find: Callable[[], Awaitable[Endpoint]], stands_for: str, wiring: Wiring, **options: Any
    ) -> None:
        self._find = find
        self._stands_for = stands_for
        super().__init__(wiring=wiring, base_url=_NOWHERE, api_key="none", **options)

    async def _prepare_options(self, options: Any) -> Any:
        options = _addressed(self, await self._find(), options, self._stands_for)
        return await super()._prepare_options(options)


class DeferredOpenAI(OpenAI):
    """The same, blocking."""

    def __init__(self, find: Callable[[], Endpoint], stands_for: str, wiring: Wiring, **options: Any) -> None:
        self._find = find
        self._stands_for = stands_for
        super().__init__(wiring=wiring, base_url=_NOWHERE, api_key="none", **options)

    def _prepare_options(self, options: Any) -> Any:
        return super()._prepare_options(_addressed(self, self._find(), options, self._stands_for))
