"""A call on its way, and the rows it leaves: what is sent, where, for whom; its key, its intent, its outcomes.

Calls ``catalog``, ``reading``, ``prices`` and the ledger's row types; sends and writes nothing. Promises: the request
that carries the key is held by ``sending`` alone, and no repr shows it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import httpx2

from ipyconvexai.ids import uuid_of
from ipyconvexai.providers.allowances import Said
from ipyconvexai.providers.endpoints import Endpoint
from ipyconvexai.providers.network import SentBody
from ipyconvexai.providers.prices import cost_usd
from ipyconvexai.providers.reading import Reading, sound
from ipyconvexai.settings import Settings, redact, remember_secret
from ipyconvexai.store.ledger import Intent, Outcome, utc_now
from ipyconvexai.values import Caller, Replay, Status, Stop

__all__ = [
    "CALLER",
    "NOT_SENT",
    "READING",
    "REPLAYED_HEADER",
    "REQUEST_ID_HEADER",
    "Call",
    "KeyMaker",
    "Send",
    "SentBody",
    "body_bytes",
    "cache_key",
    "describe",
    "first_line",
    "intent_of",
    "outcome_of",
    "rebuilt",
    "stopped",
]

CALLER: ContextVar[Caller] = ContextVar("ipyconvexai_caller", default=Caller())  # noqa: B039 - it is frozen

REQUEST_ID_HEADER = "x-ipyconvexai-request-id"  # on every answer: its row in `requests`
REPLAYED_HEADER = "x-ipyconvexai-replayed"
READING = "ipyconvexai_reading"  # an extension of answers that came whole: what was read from it
_REQUEST_ID = REQUEST_ID_HEADER.encode()

NOT_SENT = "not_sent"  # the error code of an attempt that was given up before anything was sent

Send = Callable[[httpx2.Request], Awaitable[httpx2.Response]]

KEY_HEADERS = ("authorization", "api-key", "x-api-key")
_NO_LONGER_TRUE = (
    b"content-encoding",
    b"content-length",
    b"transfer-encoding",
)  # of a body that was read and is rebuilt

_HOUSEKEEPING = ("files", "batches", "uploads")  # no model answers there: it costs nothing, and no limit counts it

# What a model answers may stand for the next equal question. A file, a batch or a deletion may not.
_REPLAYABLE = ("completions", "responses", "embeddings", "moderations", "generations", "speech", "transcriptions")


@dataclass(slots=True)
class Call:
    """One call; its attempts share it.

    Attributes:
        request: what the SDK made, for its responses and errors.
        sending: the network's own copy.
        send: what delivers it; None: the corridor's network.
        path: behind the base URL: chat/completions, responses ...
        retries: attempts allowed after the first.
        recorded: False for lists and look-ups (GET), which cost nothing.
        first_id: the row of the first attempt; request_id: that of the present one.
        sent: when the present attempt was sent, on the corridor's clock; None: not yet.
        allowed_output: tokens that it allows its answer; None: as many as the model likes.
        reserved: tokens and US dollars that it will take, about; None: not estimated, or no price.
        asked: when the present attempt asked to be sent; slack: seconds that may pass until then.
        late: whether the present attempt was stopped because it took too long until it could be sent.
        in_gate: whether it has entered its caller's gate.
        said: what the provider said of its limits with the last answer.
    """

    request: httpx2.Request = field(repr=False)  # its address may hold a password
    sending: httpx2.Request = field(repr=False)
    send: Send | None = field(repr=False)
    endpoint: Endpoint
    caller: Caller
    path: str
    body: bytes = field(repr=False)
    model: str | None
    streams: bool
    key: str
    replay: Replay
    retries: int
    stop: Stop
    recorded: bool
    first_id: str | None = None
    request_id: str = ""
    attempt: int = 0
    sent: float | None = None
    allowed_output: int | None = None
    reserved: tuple[int | None, float | None] = (None, None)
    asked: float = 0.0
    slack: float = 0.0
    late: bool = False
    in_gate: bool = False
    said: Said | None = None

    @property
    def is_replayable(self) -> bool:
        return self.request.method == "POST" and self.path.endswith(_REPLAYABLE)

    @property
    def is_housekeeping(self) -> bool:
        """Whether no model answers it: files and batches are kept or begun."""
        return self.path.partition("/")[0] in _HOUSEKEEPING

    @property
    def is_download(self) -> bool:
        """Whether a file is fetched: it may be longer than memory."""
        return self.request.method == "GET" and self.path.startswith("files/") and self.path.endswith("/content")

    def milliseconds(self, now: float) -> float | None:
        """Since the present attempt was sent; None where it was not."""
        return None if self.sent is None else (now - self.sent) * 1000


def describe(
    request: httpx2.Request,
    endpoint: Endpoint,
    caller: Caller,
    *,
    settings: Settings,
    retries: int,
    send: Send | None = None,
) -> Call:
    """The call of a request whose body has been read."""
    body = request.content
    data = _parsed(body)
    path = _path(request.url, endpoint.base_url)
    model = data.get("model") if data else None
    _remember_keys(request.headers)
    return Call(
        request=request,
        sending=_copy(request, body),
        send=send,
        endpoint=endpoint,
        caller=caller,
        path=path,
        body=body,
        model=sound(model) if isinstance(model, str) else endpoint.model or None,
        streams=bool(data and data.get("stream")),
        key=_key(endpoint.identity, _with_query(path, request.url), body, data),
        replay=caller.replay or settings.replay,
        retries=retries if caller.retries is None else caller.retries,
        stop=caller.stop or Stop(),
        recorded=request.method != "GET",
        allowed_output=allowed_output(data) if data else None,
    )


def allowed_output(data: dict[str, Any]) -> int | None:
    """Tokens that a call allows its answer; None: it does not say."""
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if isinstance(most := data.get(name), int) and most > 0:
            answers = data.get("n")
            return most * (answers if isinstance(answers, int) and answers > 1 else 1)
    return None


def stopped(call: Call) -> Status:
    """The status of a call whose caller went away."""
    return Status.INTERRUPTED if call.stop.interrupted else Status.CANCELED


# ---------------------------------------------------------------------------------------------- the key of a call
def cache_key(identity: str, path: str, body: bytes) -> str:
    """The key of a call: a hash of endpoint, model and the whole body, as a UUID.

    JSON is brought into one form first, so that the order of parameters does not matter. 122 bits of SHA-256: two of
    a billion calls collide with a probability of 1e-19.
    """
    return _key(identity, path, body, _parsed(body))


def body_bytes(body: dict[str, Any]) -> bytes:
    """A JSON body for ``cache_key``, where it is wanted before the call."""
    return json.dumps(body).encode()


class KeyMaker:
    """``cache_key`` of many bodies that differ in one text: 10 us for 60, as the rest is written and hashed once.

    Args:
        identity, path: as for ``cache_key``.
        body: gives the body for a text, which stands in it once, as a value or a part of one.
    """

    def __init__(self, identity: str, path: str, body: Callable[[str], dict[str, Any]]) -> None:
        before, mark, after = _canonical(body(_MARK)).partition(json.dumps(_MARK)[1:-1])
        assert mark
        assert json.dumps(_MARK)[1:-1] not in after
        self._begun = hashlib.sha256(b"\0".join((identity.encode(), path.encode(), before.encode())))
        self._after = after.encode()

    def key(self, text: str) -> str:
        digest = self._begun.copy()
        digest.update(json.dumps(text)[1:-1].encode())
        digest.update(self._after)
        return uuid_of(digest.digest(), 8)


_MARK = "\0here stands the text\0"


def _canonical(data: dict[str, Any]) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def _key(identity: str, path: str, body: bytes, data: dict[str, Any] | None) -> str:
    if data is not None:
        body = _canonical(data).encode()
    return uuid_of(hashlib.sha256(b"\0".join((identity.encode(), path.encode(), body))).digest(), 8)


def _with_query(path: str, url: httpx2.URL) -> str:
    return f"{path}?{url.query.decode()}" if url.query else path


# ---------------------------------------------------------------------------------------------- rows
def intent_of(call: Call, *, user: str | None, session_id: str) -> Intent:
    """The row of the present attempt."""
    text, raw = _text_or_bytes(call.body)
    caller = call.caller
    return Intent(
        id=call.request_id,
        attempt=call.attempt,
        retry_of=call.first_id,
        sent_at=utc_now(),
        provider=call.endpoint.provider,
        model=call.model,
        endpoint=call.path,
        base_url=call.endpoint.identity,
        stream=call.streams,
        cache_key=call.key,
        body=text,
        body_bytes=raw,
        body_size=len(call.body),
        user_id=caller.user_id or user,
        source=caller.source,
        notebook=caller.notebook,
        cell_id=caller.cell_id,
        conversation_id=caller.conversation_id,
        batch_id=caller.batch_id,
        session_id=session_id,
        reserved_tokens=call.reserved[0],
        reserved_usd=call.reserved[1],
    )


def outcome_of(
    call: Call,
    status: Status,
    reading: Reading | None = None,
    *,
    response: httpx2.Response | None = None,
    content: bytes | None = None,
    **fields: Any,
) -> Outcome:
    """The outcome of the present attempt; what `reading` says of an error counts unless `fields` name one."""
    reading = reading or Reading()
    usage = reading.usage
    text, raw = (None, None) if content is None else _text_or_bytes(content)
    headers: Mapping[str, str] = {} if response is None else response.headers
    return Outcome(
        **{
            "request_id": call.request_id,
            "received_at": utc_now(),
            "status": status.value,
            "http_status": None if response is None else response.status_code,
            "content_type": headers.get("content-type"),
            "provider_request_id": headers.get("x-request-id"),
            "body": text,
            "body_bytes": raw,
            "body_size": None if content is None else len(content),
            "text": reading.text,
            "finish_reason": reading.finish_reason,
            "model": reading.model,
            "input_tokens": usage.input_tokens,
            "cached_tokens": usage.cached_tokens,
            "output_tokens": usage.output_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
            "cost_usd": _cost(call, reading),
            "error_code": reading.error_code,
            "error_message": reading.error_message,
            **fields,
        }
    )


def _cost(call: Call, reading: Reading) -> float | None:
    if reading.error_code == NOT_SENT:
        return 0.0
    if reading.usage.input_tokens is None and reading.usage.output_tokens is None:
        return None
    return cost_usd(call.endpoint.provider, reading.model or call.model or "", reading.usage)


# ---------------------------------------------------------------------------------------------- requests and answers
def rebuilt(call: Call, inner: httpx2.Response, stream: httpx2.AsyncByteStream | httpx2.ByteStream) -> httpx2.Response:
    """The answer that is handed out: the provider's, with a body of ours."""
    ours: list[tuple[bytes, bytes]] = []
    if call.request_id:
        ours.append((_REQUEST_ID, call.request_id.encode()))
    if inner.status_code >= 400:
        ours.append((b"x-should-retry", b"false"))  # retries are the corridor's: the SDK's own are off
    gone = (*_NO_LONGER_TRUE, *(name for name, _ in ours))
    # As bytes: what a provider puts there need not be ASCII.
    headers = [(name, value) for name, value in inner.headers.raw if name.lower() not in gone] + ours
    return httpx2.Response(
        inner.status_code, headers=headers, stream=stream, request=call.request, extensions=_extensions(inner)
    )


def _extensions(inner: httpx2.Response) -> dict[str, Any]:
    """The SDK looks at the version of HTTP: over 1.1 it drains a stream to its end, so the connection is used again."""
    return {k: v for k, v in inner.extensions.items() if k in ("http_version", "reason_phrase")}


def _copy(request: httpx2.Request, body: bytes) -> httpx2.Request:
    """A request of the network's own: the SDK's is kept by responses and errors, where the key has no business."""
    return httpx2.Request(
        request.method,
        # Has become a header by now, and aiohttp refuses to see both.
        request.url.copy_with(userinfo=b"") if request.url.userinfo else request.url,
        headers=request.headers.copy(),
        stream=SentBody(body),
        extensions=request.extensions,
    )


def _remember_keys(headers: httpx2.Headers) -> None:
    """Whatever way a key came in (an argument, a function, a header): from now on it is redacted."""
    for name in KEY_HEADERS:
        if value := headers.get(name):
            remember_secret(value.rpartition(" ")[2])


def first_line(call: Call) -> str:
    """The first line of the last message, to recognise a call by."""
    data = _parsed(call.body) or {}
    messages = data.get("messages") or data.get("input") or data.get("prompt")
    last = messages[-1] if isinstance(messages, list) and messages else messages
    content = last.get("content") if isinstance(last, dict) else last
    lines = str(content or "").strip().splitlines()
    return redact(sound(lines[0][:120])) if lines else call.path


def _text_or_bytes(content: bytes) -> tuple[str | None, bytes | None]:
    try:
        return content.decode(), None
    except UnicodeDecodeError:
        return None, content


def _path(url: httpx2.URL, base_url: str) -> str:
    """The part of the URL behind the base URL: ``chat/completions``."""
    base = _base_path(base_url)
    path = url.path
    return (path[len(base) :] if path.startswith(base) else path).strip("/")


@functools.lru_cache(maxsize=64)
def _base_path(base_url: str) -> str:
    return httpx2.URL(base_url).path.rstrip("/")


def _parsed(body: bytes) -> dict[str, Any] | None:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):  # an upload, say
        return None
    return data if isinstance(data, dict) else None
