"""The corridor: the one way to a provider. Every paid call passes ``Corridor.handle``.

replay? -> admit (intent durable) -> send one attempt -> settle (outcome durable) -> caller

It runs on the background loop, under the openai SDK as its HTTP transport (``doors``), so nothing built on the SDK can
send unrecorded. Calls the ledger, ``reading``, ``retry``, ``prices``. Promises: nothing is sent before its intent is
durable; nobody sees an answer before it is durable; a stream passes while it arrives and its end is handed out when it
is durable; a stream that ends without its terminal event is ``cut`` and an error; each attempt has rows of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import httpx2

from ipyconvexai.errors import CallError, ReplayMissError, StoreError
from ipyconvexai.ids import new_id
from ipyconvexai.providers import faults
from ipyconvexai.providers.catalog import Endpoint
from ipyconvexai.providers.prices import cost_usd
from ipyconvexai.providers.reading import EventReader, Reading, error_of, read_answer
from ipyconvexai.providers.retry import pause_before_retry
from ipyconvexai.settings import Settings, redact
from ipyconvexai.store.ledger import Intent, Ledger, Outcome, Recording, utc_now
from ipyconvexai.values import Caller, Replay, Status, Stop

__all__ = ["CALLER", "REPLAYED_HEADER", "REQUEST_ID_HEADER", "Call", "Corridor", "body_bytes", "cache_key"]

CALLER: ContextVar[Caller] = ContextVar("ipyconvexai_caller", default=Caller())

REQUEST_ID_HEADER = "x-ipyconvexai-request-id"  # on every answer: its row in `requests`
REPLAYED_HEADER = "x-ipyconvexai-replayed"

_REBUILT = ("content-encoding", "content-length", "transfer-encoding")  # no longer true of the body handed out


def cache_key(identity: str, path: str, body: bytes) -> str:
    """The key of a call: a hash of endpoint, model and the whole body, as a UUID.

    JSON is brought into one form first, so that the order of parameters does not matter. 122 bits of SHA-256: two of
    a billion calls collide with a probability of 1e-19.
    """
    return _key(identity, path, body, _parsed(body))


def body_bytes(body: dict[str, Any]) -> bytes:
    """A JSON body for ``cache_key``, where it is wanted before the call."""
    return json.dumps(body).encode()


def _key(identity: str, path: str, body: bytes, data: dict[str, Any] | None) -> str:
    if data is not None:
        body = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(b"\0".join((identity.encode(), path.encode(), body))).digest()
    number = int.from_bytes(digest[:16], "big")
    number = number & ~(0xF << 76) & ~(0x3 << 62) | (0x8 << 76) | (0x2 << 62)  # a UUIDv8: an application's own
    return str(uuid.UUID(int=number))


@dataclass(slots=True)
class Call:
    """One call on its way: what is sent, where, for whom. Its attempts share it."""

    request: httpx2.Request
    endpoint: Endpoint
    caller: Caller
    retries: int
    path: str  # chat/completions, responses, ...
    body: bytes
    model: str | None
    streams: bool
    key: str
    replay: Replay
    record: str | None
    stop: Stop
    first_id: str | None = None
    attempt: int = 0
    sent: float = 0.0
    request_id: str = ""
    settled_id: str = ""  # the attempt whose outcome is on its way to the ledger


class Corridor:
    """`send` delivers one request to the network; the clock, the pauses and the randomness may be passed in."""

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        send: Callable[[httpx2.Request], Awaitable[httpx2.Response]],
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._ledger = ledger
        self._settings = settings
        self._send = send
        self._clock = clock
        self._sleep = sleep
        self._rand = rand
        self._flights: dict[str, asyncio.Future[None]] = {}

    def call(self, request: httpx2.Request, endpoint: Endpoint, caller: Caller, retries: int) -> Call:
        """Describe a request whose body has been read."""
        body = request.content
        data = _parsed(body)
        path = _path(request.url, endpoint.base_url)
        model = data.get("model") if data else None
        return Call(
            request=request,
            endpoint=endpoint,
            caller=caller,
            retries=retries if caller.retries is None else caller.retries,
            path=path,
            body=body,
            model=model if isinstance(model, str) else endpoint.model or None,
            streams=bool(data and data.get("stream")),
            key=_key(endpoint.identity, path, body, data),
            replay=caller.replay or self._settings.replay,
            record=caller.record,
            stop=caller.stop or Stop(),
        )

    async def handle(self, call: Call) -> httpx2.Response:
        """The answer to `call`; an error status is an answer too.

        Raises:
            CallError: no answer came. Also of the SDK's tree, so that code written for it goes on working.
            StoreError: the ledger cannot record; nothing was sent.
        """
        if call.request.method == "GET":  # lists and look-ups cost nothing: sent, not recorded
            return await self._deliver_unrecorded(call)
        if reason := call.endpoint.refuses("/" + call.path, call.model):
            await self._refuse(call, reason)
        if call.replay is Replay.OFF:
            return await self._attempts(call)
        return await self._replayed_or_sent(call)

    # ------------------------------------------------------------------------------------------ replay
    async def _replayed_or_sent(self, call: Call) -> httpx2.Response:
        """Single flight: of equal calls in flight one is sent, and the others get its recorded answer."""
        while True:
            if (flight := self._flights.get(call.key)) is not None:
                await asyncio.shield(flight)
            if (recording := await self._ledger.recorded(call.key)) is not None:
                return _replay(recording, call.request)
            if call.replay is Replay.ONLY:
                raise ReplayMissError(
                    f"this call is not recorded, and replay is 'only': {_first_line(call.body)!r}",
                    cure="Run it once with replay='reuse', then again with 'only'.",
                )
            if call.key not in self._flights:
                break
        flight = asyncio.get_running_loop().create_future()
        self._flights[call.key] = flight
        try:
            response = await self._attempts(call)
        except BaseException:
            self._land(call.key)
            raise
        if isinstance(response.stream, RecordedStream) and not response.stream.settled:
            response.stream.when_settled = lambda: self._land(call.key)
        else:
            self._land(call.key)
        return response

    def _land(self, key: str) -> None:
        if (flight := self._flights.pop(key, None)) is not None and not flight.done():
            flight.set_result(None)

    # ------------------------------------------------------------------------------------------ admit, send, settle
    async def _attempts(self, call: Call) -> httpx2.Response:
        while True:
            await self._admit(call)
            try:
                response, pause = await self._attempt(call)
            except CallError as error:
                pause = self._pause(call, None, error.code, {})
                if pause is None:
                    raise
            else:
                if pause is None:
                    return response
            await self._sleep(pause)

    async def _admit(self, call: Call) -> None:
        """Make the intent durable. The place where limits and budgets are judged."""
        call.attempt += 1
        call.request_id = new_id()
        await self._ledger.admit(self._intent(call), record=call.record)
        call.first_id = call.first_id or call.request_id

    async def _attempt(self, call: Call) -> tuple[httpx2.Response, float | None]:
        """Send once and settle. Gives the answer, and the pause before the next attempt where there shall be one."""
        call.sent = self._clock()
        try:
            response = await self._deliver(call)
        except asyncio.CancelledError:
            if call.settled_id != call.request_id:
                self._ledger.settle_later(self._outcome(call, _stopped(call)), record=call.record)
            raise
        except StoreError:
            raise
        except Exception as error:
            fault = faults.transport_fault(error, call.request, call.request_id)
            status = Status.TIMEOUT if fault.code == "timeout" else Status.ERROR
            await self._ledger.settle(
                self._outcome(call, status, error_code=fault.code, error_message=fault.message), record=call.record
            )
            raise fault from None
        if isinstance(response.stream, RecordedStream):
            return response, None
        pause = None
        if response.status_code >= 400:
            code, _ = error_of(await response.aread())
            pause = self._pause(call, response.status_code, code, response.headers)
        return response, pause

    async def _deliver(self, call: Call) -> httpx2.Response:
        """One exchange with the network. A stream comes back open; anything else whole and settled."""
        gate = call.caller.gate
        if gate is not None:
            await gate.acquire()
            call.sent = self._clock()  # waiting for its turn is not the provider's time
        try:
            inner = await self._send(call.request)
            if _is_event_stream(inner):
                return self._open_stream(call, inner)
            content = await inner.aread()
            await inner.aclose()
        finally:
            if gate is not None:
                gate.release()
        return await self._settle_whole(call, inner, content)

    async def _settle_whole(self, call: Call, inner: httpx2.Response, content: bytes) -> httpx2.Response:
        media_type = inner.headers.get("content-type", "")
        failed = inner.status_code >= 400
        code, message = error_of(content) if failed else (None, None)
        reading = Reading() if failed else read_answer(content)
        if failed:
            content = _redacted(content)  # providers quote the key in a 401, and the SDK shows the body
        outcome = self._outcome(
            call,
            Status.ERROR if failed or reading.error_message else Status.OK,
            reading,
            content,
            media_type,
            http_status=inner.status_code,
            error_code=code or reading.error_code,
            error_message=message or reading.error_message,
            provider_request_id=inner.headers.get("x-request-id"),
        )
        call.settled_id = call.request_id
        await asyncio.shield(self._ledger.settle(outcome, record=call.record))
        headers = _headers(inner, call.request_id)
        if failed:
            headers["x-should-retry"] = "false"  # retries are the corridor's: the SDK's own are off
        return httpx2.Response(
            inner.status_code, headers=headers, stream=httpx2.ByteStream(content), request=call.request
        )

    async def _deliver_unrecorded(self, call: Call) -> httpx2.Response:
        try:
            inner = await self._send(call.request)
            content = _redacted(await inner.aread()) if inner.status_code >= 400 else await inner.aread()
            await inner.aclose()
        except Exception as error:
            raise faults.transport_fault(error, call.request, "") from None
        headers = _headers(inner, "")
        headers["x-should-retry"] = "false"
        return httpx2.Response(
            inner.status_code, headers=headers, stream=httpx2.ByteStream(content), request=call.request
        )

    async def _refuse(self, call: Call, reason: str) -> None:
        await self._admit(call)
        call.sent = self._clock()
        fault = faults.refused(reason, call.request, call.request_id)
        await self._ledger.settle(
            self._outcome(call, Status.REFUSED, error_code=fault.code, error_message=fault.message), record=call.record
        )
        raise fault

    def _pause(self, call: Call, status: int | None, code: str | None, headers: Mapping[str, str]) -> float | None:
        return pause_before_retry(
            call.attempt, call.retries, status=status, code=code, headers=headers, random=self._rand
        )

    # ------------------------------------------------------------------------------------------ streams
    def _open_stream(self, call: Call, inner: httpx2.Response) -> httpx2.Response:
        headers = _headers(inner, call.request_id)
        stream = RecordedStream(self, call, inner)
        return httpx2.Response(inner.status_code, headers=headers, stream=stream, request=call.request)

    def stream_outcome(
        self, call: Call, inner: httpx2.Response, status: Status, reader: EventReader, content: bytes, first_ms: float | None
    ) -> Outcome:
        reading = reader.result()
        if reader.failed and status is Status.OK:
            status = Status.ERROR
        return self._outcome(
            call,
            status,
            reading,
            content,
            inner.headers.get("content-type", ""),
            http_status=inner.status_code,
            first_token_ms=first_ms,
            error_code=reading.error_code if status is Status.ERROR else (None if status is Status.OK else status.value),
            error_message=reading.error_message,
            provider_request_id=inner.headers.get("x-request-id"),
        )

    # ------------------------------------------------------------------------------------------ rows
    def _intent(self, call: Call) -> Intent:
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
            user_id=caller.user_id or self._settings.user,
            source=caller.source,
            notebook=caller.notebook,
            cell_id=caller.cell_id,
            conversation_id=caller.conversation_id,
            batch_id=caller.batch_id,
            session_id=self._ledger.store.session_id,
        )

    def _outcome(
        self,
        call: Call,
        status: Status,
        reading: Reading | None = None,
        content: bytes | None = None,
        media_type: str | None = None,
        **fields: Any,
    ) -> Outcome:
        reading = reading or Reading()
        usage = reading.usage
        text, raw = (None, None) if content is None else _text_or_bytes(content)
        cost = None
        if usage.input_tokens is not None or usage.output_tokens is not None:
            cost = cost_usd(call.endpoint.provider, reading.model or call.model or "", usage)
        return Outcome(
            request_id=call.request_id,
            received_at=utc_now(),
            status=status.value,
            content_type=media_type,
            body=text,
            body_bytes=raw,
            body_size=None if content is None else len(content),
            text=reading.text,
            finish_reason=reading.finish_reason,
            model=reading.model,
            input_tokens=usage.input_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.output_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            cost_usd=cost,
            duration_ms=(self._clock() - call.sent) * 1000,
            **fields,
        )

    def since(self, call: Call) -> float:
        """Milliseconds since the attempt was sent."""
        return (self._clock() - call.sent) * 1000

    @property
    def ledger(self) -> Ledger:
        return self._ledger


class RecordedStream(httpx2.AsyncByteStream):
    """An answer that passes through while it arrives, and is settled once.

    Settled before its terminal event is handed out; with what came when it is cut, fails, or its reader leaves. Not in
    a generator's ``finally``, which runs when the collector likes.
    """

    def __init__(self, corridor: Corridor, call: Call, inner: httpx2.Response) -> None:
        self._corridor = corridor
        self._call = call
        self._inner = inner
        self._reader = EventReader(call.path)
        self._chunks: list[bytes] = []
        self._first_ms: float | None = None
        self.settled = False
        self.when_settled: Callable[[], None] = lambda: None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner.aiter_bytes():
                self._chunks.append(chunk)
                self._reader.feed(chunk)
                if self._first_ms is None and self._reader.started:
                    self._first_ms = self._corridor.since(self._call)
                if self._reader.done or self._reader.failed:
                    await self._settle(Status.OK)
                yield chunk
        except (asyncio.CancelledError, GeneratorExit):
            self._settle_now(_stopped(self._call))
            raise
        except CallError:
            raise
        except Exception as error:
            await self._fail(error)
        self._reader.end()
        if not self.settled and not self._reader.ends_properly:
            await self._settle(Status.CUT)
            raise faults.cut(self._call.request, self._call.request_id)
        await self._settle(Status.OK)

    async def _fail(self, error: Exception) -> None:
        """The connection broke in mid-stream."""
        fault = faults.transport_fault(error, self._call.request, self._call.request_id)
        if self.settled:
            return  # after its end: nobody misses anything
        if fault.code == "timeout":
            await self._settle(Status.TIMEOUT)
            raise fault from None
        await self._settle(Status.CUT)
        raise faults.cut(self._call.request, self._call.request_id) from None

    async def aclose(self) -> None:
        self._settle_now(_stopped(self._call))  # only if its reader left before the end
        await self._inner.aclose()

    async def _settle(self, status: Status) -> None:
        if not self.settled:
            self.settled = True
            settling = asyncio.ensure_future(
                self._corridor.ledger.settle(self._outcome(status), record=self._call.record)
            )
            settling.add_done_callback(lambda _: self.when_settled())
            await asyncio.shield(settling)

    def _settle_now(self, status: Status) -> None:
        if not self.settled:
            self.settled = True
            self._corridor.ledger.settle_later(self._outcome(status), record=self._call.record)
            self.when_settled()

    def _outcome(self, status: Status) -> Outcome:
        content = b"".join(self._chunks)
        return self._corridor.stream_outcome(self._call, self._inner, status, self._reader, content, self._first_ms)


# ---------------------------------------------------------------------------------------------- small readings
def _stopped(call: Call) -> Status:
    return Status.INTERRUPTED if call.stop.interrupted else Status.CANCELED


def _is_event_stream(response: httpx2.Response) -> bool:
    return response.status_code < 400 and response.headers.get("content-type", "").startswith("text/event-stream")


def _headers(inner: httpx2.Response, request_id: str) -> httpx2.Headers:
    headers = httpx2.Headers([(k, v) for k, v in inner.headers.multi_items() if k.lower() not in _REBUILT])
    if request_id:
        headers[REQUEST_ID_HEADER] = request_id
    return headers


def _replay(recording: Recording, request: httpx2.Request) -> httpx2.Response:
    headers = {
        "content-type": recording.content_type or "application/json",
        REQUEST_ID_HEADER: recording.request_id,
        REPLAYED_HEADER: "true",
    }
    return httpx2.Response(
        recording.http_status, headers=headers, stream=httpx2.ByteStream(recording.content), request=request
    )


def _redacted(content: bytes) -> bytes:
    try:
        return redact(content.decode()).encode()
    except UnicodeDecodeError:
        return content


def _text_or_bytes(content: bytes) -> tuple[str | None, bytes | None]:
    try:
        return content.decode(), None
    except UnicodeDecodeError:
        return None, content


def _path(url: httpx2.URL, base_url: str) -> str:
    """The part of the URL behind the base URL: ``chat/completions``."""
    base = httpx2.URL(base_url).path.rstrip("/")
    path = url.path
    return (path[len(base) :] if path.startswith(base) else path).strip("/")


def _parsed(body: bytes) -> dict[str, Any] | None:
    try:
        data = json.loads(body)
    except ValueError:  # an upload, say
        return None
    return data if isinstance(data, dict) else None


def _first_line(body: bytes) -> str:
    """The first line of the last message, to recognise a call by."""
    try:
        data = json.loads(body)
        content = data["messages"][-1]["content"] if "messages" in data else data["input"]
    except (ValueError, KeyError, IndexError, TypeError):
        return redact(body[:80].decode("utf-8", "replace"))
    return redact(str(content).strip().splitlines()[0][:120] if str(content).strip() else "")


