"""``OpenAI`` and ``AsyncOpenAI``: the SDK's own classes over the corridor. Change one import and every call is recorded.

Calls openai, ``doors`` and ``catalog``. Promises: same signatures and results as the SDK's classes; the key is in no
attribute that ``vars`` shows; ``max_retries`` counts the corridor's attempts, and the SDK itself never repeats a call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2
import openai

from ipyconvexai.errors import InputError, MissingKeyError
from ipyconvexai.loops import BackgroundLoop
from ipyconvexai.providers.catalog import Endpoint, provider_at
from ipyconvexai.providers.corridor import Corridor
from ipyconvexai.providers.doors import ROUTE, AsyncDoor, Route, SyncDoor
from ipyconvexai.settings import Secret

__all__ = ["AsyncOpenAI", "OpenAI", "Wiring", "wire"]


@dataclass(frozen=True, slots=True)
class Wiring:
    """What a client needs of the app it belongs to."""

    corridor: Corridor
    loop: BackgroundLoop


_current: Callable[[], Wiring] | None = None


def wire(current: Callable[[], Wiring]) -> None:
    """Say where a client that is made without a wiring finds one: the app does, when it is imported."""
    global _current
    _current = current


def _wiring(given: Wiring | None) -> Wiring:
    if given is not None:
        return given
    if _current is None:
        raise RuntimeError("no app is wired: use ipyconvexai.OpenAI")  # an error of ours, not of the user's
    return _current()


class _Hidden:
    """A client's ``api_key``: readable as the SDK reads it, absent from ``vars`` and every repr."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._slot = f"_{name}_secret"

    def __get__(self, client: Any, owner: type | None = None) -> Any:
        secret = None if client is None else client.__dict__.get(self._slot)
        return secret.reveal() if isinstance(secret, Secret) else secret

    def __set__(self, client: Any, value: str | None) -> None:
        client.__dict__[self._slot] = Secret(value) if value else value


def _route(client: Any, request: httpx2.Request, options: Any) -> httpx2.Request:
    endpoint: Endpoint | None = client._endpoint
    base_url = str(client.base_url)
    if endpoint is None or endpoint.base_url.rstrip("/") != base_url.rstrip("/"):
        endpoint = client._endpoint = Endpoint(
            provider=provider_at(base_url), model="", base_url=base_url, key=None, identity=base_url.rstrip("/")
        )
    request.extensions = {**request.extensions, ROUTE: Route(endpoint, options.get_max_retries(client.max_retries))}
    return request


def _arguments(endpoint: Endpoint | None, arguments: dict[str, Any]) -> dict[str, Any]:
    if endpoint is not None:
        arguments.setdefault("base_url", endpoint.base_url)
        arguments.setdefault("api_key", endpoint.key.reveal() if endpoint.key else "none")
    return arguments


def _refuse_foreign(http_client: Any, door: type) -> None:
    if http_client is not None and not isinstance(http_client._transport, door):
        raise InputError(
            "http_client= would send past the ledger",
            cure="Leave it out: time-outs are set by timeout=, proxies by HTTPS_PROXY, certificates by SSL_CERT_FILE.",
        )


def _missing_key(error: openai.OpenAIError) -> Exception:
    if "api_key" not in str(error):
        return error
    return MissingKeyError(
        "OPENAI_API_KEY is not set",
        cure="Set it in the environment (export OPENAI_API_KEY=...), pass api_key=, or use another provider: "
        'ai.generate("...", model="local").',
    )


class OpenAI(openai.OpenAI):
    """``openai.OpenAI`` whose every call is recorded. Takes the same arguments, but for ``http_client``.

    Raises:
        MissingKeyError: no key was given and OPENAI_API_KEY is not set.
    """

    api_key = _Hidden()  # type: ignore[assignment] # reads and writes as the str it stands for
    admin_api_key = _Hidden()  # type: ignore[assignment] # likewise
    _endpoint: Endpoint | None = None

    def __init__(self, *, wiring: Wiring | None = None, endpoint: Endpoint | None = None, **arguments: Any) -> None:
        self._endpoint = endpoint
        http_client = arguments.get("http_client")
        _refuse_foreign(http_client, SyncDoor)
        if http_client is None:
            wiring = _wiring(wiring)
            arguments["http_client"] = openai.DefaultHttpxClient(transport=SyncDoor(wiring.corridor, wiring.loop))
        try:
            super().__init__(**_arguments(endpoint, arguments))
        except openai.OpenAIError as error:
            raise _missing_key(error) from None

    def _build_request(self, options: Any, *, retries_taken: int = 0) -> httpx2.Request:
        return _route(self, super()._build_request(options, retries_taken=retries_taken), options)


class AsyncOpenAI(openai.AsyncOpenAI):
    """``openai.AsyncOpenAI`` whose every call is recorded; usable from any event loop, and from several.

    Raises:
        MissingKeyError: no key was given and OPENAI_API_KEY is not set.
    """

    api_key = _Hidden()  # type: ignore[assignment] # reads and writes as the str it stands for
    admin_api_key = _Hidden()  # type: ignore[assignment] # likewise
    _endpoint: Endpoint | None = None

    def __init__(self, *, wiring: Wiring | None = None, endpoint: Endpoint | None = None, **arguments: Any) -> None:
        self._endpoint = endpoint
        http_client = arguments.get("http_client")
        _refuse_foreign(http_client, AsyncDoor)
        if http_client is None:
            wiring = _wiring(wiring)
            arguments["http_client"] = openai.DefaultAsyncHttpxClient(
                transport=AsyncDoor(wiring.corridor, wiring.loop)
            )
        try:
            super().__init__(**_arguments(endpoint, arguments))
        except openai.OpenAIError as error:
            raise _missing_key(error) from None

    def _build_request(self, options: Any, *, retries_taken: int = 0) -> httpx2.Request:
        return _route(self, super()._build_request(options, retries_taken=retries_taken), options)
