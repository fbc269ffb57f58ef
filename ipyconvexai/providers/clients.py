"""``OpenAI`` and ``AsyncOpenAI``: the SDK's own classes over the corridor. Change one import, and calls are recorded.

Calls openai, ``doors``, ``network`` and ``catalog``. Promises: same arguments and results as the SDK's classes; the key
is in no attribute that ``vars`` shows; ``max_retries`` counts the corridor's attempts, and the SDK itself never repeats
a call.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import httpx2
import openai
from openai._models import FinalRequestOptions
from openai._utils._json import openapi_dumps

from ipyconvexai.errors import InputError, MissingKeyError
from ipyconvexai.loops import BackgroundLoop
from ipyconvexai.providers.catalog import providers
from ipyconvexai.providers.corridor import Corridor
from ipyconvexai.providers.doors import ROUTE, AsyncDoor, Route, SyncDoor
from ipyconvexai.providers.endpoints import Endpoint, provider_at
from ipyconvexai.providers.network import AsyncGuest, SyncGuest
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
        endpoint = client._endpoint = _endpoint_at(base_url)
    request.extensions = {**request.extensions, ROUTE: Route(endpoint, options.get_max_retries(client.max_retries))}
    return request


def _endpoint_at(base_url: str) -> Endpoint:
    """The endpoint of a client that was made as the SDK's are: with what the catalogue knows of its address."""
    name = provider_at(base_url)
    known = next((provider for provider in providers() if provider.name == name), None)
    parts = urlsplit(base_url)
    shown = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")).rstrip("/")
    return Endpoint(
        provider=name,
        model="",
        identity=shown,
        base_url=base_url,
        allowed_paths=known.allowed_paths if known else (),
        allowed_models=known.allowed_models if known else (),
    )


def _arguments(endpoint: Endpoint | None, arguments: dict[str, Any]) -> dict[str, Any]:
    if endpoint is not None:
        arguments.setdefault("base_url", endpoint.base_url)
        arguments.setdefault("api_key", endpoint.key.reveal() if endpoint.key else "none")
    return arguments


def _behind_door(client: Any, door: Any) -> Any:
    """A twin of the user's client whose requests go through `door`; its headers, cookies, hooks and limits stay."""
    twin = copy.copy(client)
    twin._transport, twin._mounts = door, {}
    return twin


def _foreign(http_client: Any, wanted: str) -> InputError:
    kind = f"{type(http_client).__module__.partition('.')[0]}.{type(http_client).__name__}"
    return InputError(
        f"http_client= is an {kind}, through which nothing can be recorded",
        cure=f"Give an {wanted}, or leave it out: time-outs are set by timeout=, proxies by HTTPS_PROXY, certificates "
        "by SSL_CERT_FILE.",
    )


class _NoKey(MissingKeyError, openai.OpenAIError):
    """Of both trees: code written for the SDK may look for its error."""


def _missing_key(error: openai.OpenAIError) -> Exception:
    if not str(error).startswith("Missing credentials"):
        return error
    return _NoKey(
        "OPENAI_API_KEY is not set",
        cure="Set it in the environment (export OPENAI_API_KEY=...), pass api_key=, or use another provider: "
        'ai.generate("...", model="local").',
    )


class _Recorded:
    """What both clients share. Stands before the SDK's class among the bases."""

    api_key = _Hidden()
    admin_api_key = _Hidden()
    _endpoint: Endpoint | None = None

    def __init__(self, *, wiring: Wiring | None = None, endpoint: Endpoint | None = None, **arguments: Any) -> None:
        self._endpoint = endpoint
        self._templates: dict[str, httpx2.Request] = {}
        arguments["http_client"] = self._client_of(arguments.get("http_client"), wiring)
        sdk: Any = super()
        try:
            sdk.__init__(**_arguments(endpoint, arguments))
        except openai.OpenAIError as error:
            found = _missing_key(error)
        else:
            return
        raise found

    @staticmethod
    def _client_of(given: Any, wiring: Wiring | None) -> Any:
        """The HTTP client to use: one through a door, or the user's own behind one."""
        raise NotImplementedError

    def copy(self, *, _extra_kwargs: Mapping[str, Any] = {}, **options: Any) -> Self:
        sdk: Any = super()
        twin: Self = sdk.copy(_extra_kwargs={"endpoint": self._endpoint, **_extra_kwargs}, **options)
        return twin

    with_options = copy

    def _build_request(self, options: Any, *, retries_taken: int = 0) -> httpx2.Request:
        sdk: Any = super()
        return _route(self, sdk._build_request(options, retries_taken=retries_taken), options)


class OpenAI(_Recorded, openai.OpenAI):
    """``openai.OpenAI`` whose every call is recorded. Takes the same arguments.

    Raises:
        MissingKeyError: no key was given and OPENAI_API_KEY is not set.
        InputError: ``http_client`` is no ``httpx2.Client``.
    """

    __signature__ = inspect.signature(openai.OpenAI)  # for completion: the arguments are the SDK's

    @staticmethod
    def _client_of(given: Any, wiring: Wiring | None) -> httpx2.Client:
        return _sync_client(given, wiring)


def _sync_client(given: Any, wiring: Wiring | None) -> httpx2.Client:
    if given is not None and not isinstance(given, httpx2.Client):
        raise _foreign(given, "httpx2.Client")
    if given is not None and isinstance(given._transport, SyncDoor):
        return given
    wiring = _wiring(wiring)
    if given is None:
        return openai.DefaultHttpxClient(transport=SyncDoor(wiring.corridor, wiring.loop))
    twin: httpx2.Client = _behind_door(given, SyncDoor(wiring.corridor, wiring.loop, SyncGuest(given)))
    return twin


class AsyncOpenAI(_Recorded, openai.AsyncOpenAI):
    """``openai.AsyncOpenAI`` whose every call is recorded; usable from any event loop, and from several.

    Raises:
        MissingKeyError: no key was given and OPENAI_API_KEY is not set.
        InputError: ``http_client`` is no ``httpx2.AsyncClient``.
    """

    __signature__ = inspect.signature(openai.AsyncOpenAI)

    @staticmethod
    def _client_of(given: Any, wiring: Wiring | None) -> httpx2.AsyncClient:
        return _async_client(given, wiring)

    async def post_json(self, path: str, body: Any, timeout: float | None = None) -> httpx2.Response:
        """``post(path, body=..., cast_to=httpx2.Response)`` at an eighth of its CPU: 0.04 ms for 0.33 ms.

        The SDK makes address, headers and time-outs anew for each request; here they are made once for each path. The
        same transport, redirects, errors and bytes. Only for clients of our own, whose key and headers do not change.
        """
        template = self._templates.get(path)
        if template is None:
            options = FinalRequestOptions(method="post", url=path, json_data={})
            template = self._templates[path] = self._build_request(options)
            template.headers.pop("authorization", None)  # the key stays where it is hidden
        content = openapi_dumps(body)
        headers = template.headers.copy()
        headers.update(self.auth_headers)
        headers["content-length"] = str(len(content))
        extensions = dict(template.extensions)
        if timeout is not None:
            extensions["timeout"] = httpx2.Timeout(timeout).as_dict()
        stream = httpx2.ByteStream(content)
        request = httpx2.Request("POST", template.url, headers=headers, stream=stream, extensions=extensions)
        response = await self._client.send(request)
        if response.status_code >= 400:
            raise self._make_status_error_from_response(response)
        return response


def _async_client(given: Any, wiring: Wiring | None) -> httpx2.AsyncClient:
    if given is not None and not isinstance(given, httpx2.AsyncClient):
        raise _foreign(given, "httpx2.AsyncClient")
    if given is not None and isinstance(given._transport, AsyncDoor):
        return given
    wiring = _wiring(wiring)
    if given is None:
        return openai.DefaultAsyncHttpxClient(transport=AsyncDoor(wiring.corridor, wiring.loop))
    twin: httpx2.AsyncClient = _behind_door(given, AsyncDoor(wiring.corridor, wiring.loop, AsyncGuest(given)))
    return twin
