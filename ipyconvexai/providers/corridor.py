"""The corridor: the one way to a provider. Every paid call passes ``Corridor.handle``.

replay? -> admit (intent durable) -> send one attempt -> settle (outcome durable) -> caller

It runs on the background loop, under the openai SDK as its HTTP transport (``doors``), so nothing built on the SDK can
send unrecorded. Calls the ledger, ``calls`` (what a call is and the rows it leaves), ``turns`` (limits), ``streams``,
``flights`` and ``retry``. Promises: nothing is sent before its intent is durable; nobody sees an answer before it is
durable; a stream passes while it arrives; each attempt has rows of its own, and one that was given up has an outcome.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn

import httpx2

from ipyconvexai import place
from ipyconvexai.crashpoints import passing
from ipyconvexai.errors import CallError, StoreError
from ipyconvexai.ids import new_id
from ipyconvexai.loops import call_in_child, keep_for_ever
from ipyconvexai.providers import faults
from ipyconvexai.providers.calls import (
    CALLER,
    NOT_SENT,
    READING,
    REPLAYED_HEADER,
    REQUEST_ID_HEADER,
    Call,
    Send,
    allowed_output,
    body_bytes,
    cache_key,
    describe,
    first_line,
    intent_of,
    outcome_of,
    rebuilt,
    stopped,
)
from ipyconvexai.providers.endpoints import Endpoint
from ipyconvexai.providers.flights import Flights
from ipyconvexai.providers.reading import Reading, comes_in_events, error_of, read_answer, reads_as_json
from ipyconvexai.providers.retry import LONGEST_PAUSE, pause_before_retry, retry_after
from ipyconvexai.providers.streams import Download, RecordedStream
from ipyconvexai.providers.turns import Turns, note_of
from ipyconvexai.settings import Settings, redact_bytes
from ipyconvexai.store.ledger import Ledger, Outcome, Recording
from ipyconvexai.values import Caller, Replay, Status, Usage, Wait

__all__ = [
    "CALLER",
    "READING",
    "REPLAYED_HEADER",
    "REQUEST_ID_HEADER",
    "Call",
    "Corridor",
    "Send",
    "body_bytes",
    "cache_key",
]


_log = logging.getLogger(__name__)
_KEEPS_NOTHING = (
    "replay='reuse' finds no answer that is recorded without its content (record='metadata'): such a call is sent, and"
    " paid, each time. With record='full' it is paid once."
)
PATIENCE = 4  # times as many attempts after refusals, where the caller is patient
MOST_UNSETTLED = 256  # outcomes kept for a ledger that cannot write: disk full, say


class _Attempt(NamedTuple):
    """What one attempt came to: an answer (an error status is one, too) or a fault; and what a retry depends on.

    `late`: nothing was sent, because too much time had passed since it was admitted.
    """

    response: httpx2.Response | None = None
    fault: CallError | None = None
    error_code: str | None = None
    headers: Mapping[str, str] = {}
    late: bool = False


class Corridor:
    """`send` delivers one request to the network; the clock, the pauses and the randomness may be passed in."""

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        send: Send,
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
        self._flights = Flights()
        self._warned = False
        self._turns = Turns(ledger, settings, clock, sleep, rand)
        self._streams: set[RecordedStream] = set()  # open ones
        self._unsettled: collections.deque[tuple[Outcome, str | None]] = collections.deque(maxlen=MOST_UNSETTLED)
        call_in_child(self, Corridor._leave_to_parent)

    def _leave_to_parent(self) -> None:
        """In the child of a fork: the parent's rows and streams are not the child's to settle."""
        keep_for_ever(*self._streams)
        self._streams.clear()
        self._unsettled.clear()
        self._turns.clear()

    @property
    def waits(self) -> list[Wait]:
        """What calls wait for at the moment, because of limits; the longest wait first."""
        return self._turns.waits

    def set_replay(self, policy: Replay) -> None:
        """The policy of calls that name none, from now on."""
        self._settings = replace(self._settings, replay=policy)

    async def estimate(self, endpoint: Endpoint, path: str, body: dict[str, Any]) -> tuple[Usage, float | None]:
        """Tokens and US dollars (None: the price is not known) that a call would take, by what such calls took."""
        key = (endpoint.provider, str(body.get("model") or endpoint.model), path)
        return await self._turns.estimate(key, body_bytes(body), allowed_output(body))

    def call(
        self, request: httpx2.Request, endpoint: Endpoint, caller: Caller, retries: int, send: Send | None = None
    ) -> Call:
        """Describe a request whose body has been read; `send`: another network than the corridor's."""
        if caller.notebook is None and caller.cell_id is None and (here := place.here()):
            caller = replace(caller, **here)
        return describe(request, endpoint, caller, settings=self._settings, retries=retries, send=send)

    async def handle(self, call: Call) -> httpx2.Response:
        """The answer to `call`; an error status is an answer too.

        Raises:
            CallError: no answer came. Also of the SDK's tree, so that code written for it goes on working.
            LimitError: a limit or budget forbids it, and the policy is "raise" or waiting does not help. Of both, too.
            StoreError: the ledger cannot record; nothing was sent, or its answer is not shown.
        """
        if reason := call.endpoint.refuses("/" + call.path, call.model):
            call.recorded = True  # whatever it is: somebody tried
            call.attempt, call.request_id = 1, new_id()
            await self._refuse(call, faults.refused(reason, call.request, call.request_id))
        if call.replay is Replay.OFF or not call.recorded:
            return await self._attempts(call)
        if call.is_replayable:
            return await self._replayed_or_sent(call)
        if call.replay is Replay.ONLY:
            cure = "Give this call replay='off', or leave it out: an upload or a deletion is no answer to keep."
            raise faults.replay_miss(f"{call.path} is never replayed, and replay is 'only'", call.request, cure=cure)
        return await self._attempts(call)

    async def aclose(self) -> None:
        """Settle and close the streams that are still open, and settle what could not be settled before."""
        for stream in list(self._streams):
            await stream.aclose()
        self._settle_the_rest()

    # ------------------------------------------------------------------------------------------ replay
    async def _replayed_or_sent(self, call: Call) -> httpx2.Response:
        while (flight := self._flights.find(call.key)) is not None:
            if not await flight.wait(self._clock):  # it does not get on: without a flight of our own
                return await self._looked_up_or_sent(call)
            if (recording := await self._ledger.recorded(call.key)) is not None:  # all its followers at once
                return _replay(recording, call.request)
        return await self._lead(call)

    async def _lead(self, call: Call) -> httpx2.Response:
        """The look into the ledger is part of the flight: whoever looked before it could miss what landed since."""
        flight = self._flights.begin(call.key)
        response = None
        try:
            response = await self._looked_up_or_sent(call)
        finally:
            self._flights.end(call.key, flight, response)
        return response

    async def _looked_up_or_sent(self, call: Call) -> httpx2.Response:
        if (recording := await self._ledger.recorded(call.key)) is not None:
            return _replay(recording, call.request)
        if call.replay is Replay.ONLY:
            await self._miss(call)
        if not self._warned and not self._ledger.keeps(call.caller.record):
            self._warned = True  # once: the same is true of each call
            _log.warning("%s", _KEEPS_NOTHING)
        return await self._attempts(call)

    async def _miss(self, call: Call) -> None:
        if await self._ledger.recorded_without_content(call.key):
            why, cure = "was recorded without its content (record='metadata')", "Run it with record='full' first."
        else:
            why, cure = "is not recorded", "Run it once with replay='reuse', then again with 'only'."
        raise faults.replay_miss(
            f"this call {why}, and replay is 'only': {first_line(call)!r}", call.request, cure=cure
        )

    # ------------------------------------------------------------------------------------------ admit, send, settle
    async def _attempts(self, call: Call) -> httpx2.Response:
        while True:
            await self._admit(call)
            try:
                attempt = await self._attempt(call)
            except (CallError, StoreError):
                raise
            except Exception as error:  # nobody foresaw it, and its row would look as if it were under way
                self._settle_unforeseen(call, error)
                raise
            if attempt.late:
                continue
            pause = self._pause(call, attempt)
            if pause is None:
                break
            if retry_after(attempt.headers) is None:
                await self._sleep(pause)
            else:
                await self._turns.pause(call, pause)
        if attempt.response is None:
            assert attempt.fault is not None
            raise attempt.fault
        return attempt.response

    def _pause(self, call: Call, attempt: _Attempt) -> float | None:
        """Seconds until the next attempt; None: there is none."""
        status = None
        if attempt.fault is not None:
            if not attempt.fault.retryable:
                return None
        elif attempt.response is not None:
            status = attempt.response.status_code
            if status < 400:
                return None
        patience = call.caller.patience
        # Where somebody is patient, refusals are no reason to give up soon: they cost nothing and say when to come.
        asked_to_wait = status == 429 and patience is not None and retry_after(attempt.headers) is not None
        return pause_before_retry(
            call.attempt,
            PATIENCE * call.retries if asked_to_wait else call.retries,
            status=status,
            code=attempt.error_code,
            headers=attempt.headers,
            random=self._rand,
            longest=LONGEST_PAUSE if patience is None else patience,
        )

    async def _admit(self, call: Call) -> None:
        """Make the intent durable, when limits and budgets allow it: they are judged in the same step."""
        call.attempt += 1
        call.sent = call.said = None
        if not call.recorded:
            return
        call.request_id = new_id()
        try:
            refused = await self._turns.take(call, self._write_intent)
            if refused is not None:
                await self._refuse(call, faults.limited(refused, call.request, call.request_id))
        except BaseException:
            self._turns.leave(call)
            raise
        call.first_id = call.first_id or call.request_id

    async def _write_intent(self, call: Call, note: dict[str, Any]) -> None:
        passing("before_intent")
        intent = intent_of(call, user=self._settings.user, session_id=self._ledger.store.session_id)
        try:
            await self._ledger.admit(intent, record=call.caller.record, note=note)
        except asyncio.CancelledError:  # the intent is on its way to the file, and no attempt will follow
            self._settle_later(call, self._outcome(call, stopped(call)))
            raise
        except StoreError:  # it may have been written all the same
            outcome = self._outcome(call, Status.CANCELED)
            self._settle_later(call, outcome)
            self._unsettled.append((outcome, call.caller.record))
            raise

    async def _attempt(self, call: Call) -> _Attempt:
        """Send once and settle."""
        try:
            inner, content = await self._exchange(call)
        except asyncio.CancelledError:
            self._settle_later(call, self._outcome(call, stopped(call)))
            raise
        except Exception as error:
            if call.late:
                call.sent = None
                self._settle_later(call, self._outcome(call, Status.CANCELED))
                self._turns.again(call)
                return _Attempt(late=True)
            fault = faults.transport_fault(error, call.request, call.request_id)
        else:
            if content is None:
                return _Attempt(self._open_stream(call, inner))
            try:
                return await self._settle_whole(call, inner, content)
            finally:
                self._turns.leave(call)
        status = Status.TIMEOUT if fault.code == "timeout" else Status.ERROR
        await self._settle(
            call, self._outcome(call, status, Reading(error_code=fault.code, error_message=fault.message))
        )
        return _Attempt(fault=fault, error_code=fault.code)

    async def _exchange(self, call: Call) -> tuple[httpx2.Response, bytes | None]:
        """One exchange with the network: an answer and its whole content, or an open stream and None.

        A whole answer keeps its place in the caller's gate until the keeper has it: as long as it is in this process
        alone, it would be paid again after a kill, and no more than the gate has places should be.
        """
        whole = False
        try:
            await self._turns.enter(call)
            self._turns.check(call)
            passing("before_send")
            call.sent = self._clock()  # waiting for its turn is not the provider's time
            inner = await (call.send or self._send)(call.sending)
            passing("after_send")
            self._turns.hear(call, inner)
            if _is_stream(call, inner) or (call.is_download and inner.status_code < 300):
                return inner, None
            try:
                content = await inner.aread()
                whole = True
                return inner, content
            finally:
                with contextlib.suppress(Exception):
                    await inner.aclose()
        finally:
            if not whole:
                self._turns.leave(call)

    async def _settle_whole(self, call: Call, inner: httpx2.Response, content: bytes) -> _Attempt:
        failed = inner.status_code >= 400
        if failed:
            content = redact_bytes(content)
            code, message = error_of(content)
            reading = Reading(error_code=code, error_message=message)
        elif inner.is_redirect:
            reading = Reading(error_code="redirect", error_message="the provider sent the request elsewhere")
        elif not call.is_housekeeping and reads_as_json(call.path, inner.headers.get("content-type", "")):
            reading = read_answer(content, call.path, asked_events=call.streams)
        else:
            reading = Reading()
        status = Status.ERROR if failed or reading.error_message else Status.OK
        outcome = self._outcome(call, status, reading, inner, content)
        await self._settle(call, outcome, sent=lambda: self._turns.leave(call))
        answer = rebuilt(call, inner, httpx2.ByteStream(content))
        answer.extensions[READING] = reading
        return _Attempt(answer, error_code=reading.error_code, headers=inner.headers)

    def _open_stream(self, call: Call, inner: httpx2.Response) -> httpx2.Response:
        if call.is_download:
            return rebuilt(call, inner, Download(call, inner))
        stream = RecordedStream(call, inner, self._settle, self._settle_later, self._clock)
        self._streams.add(stream)
        stream.when_settled.append(lambda: self._streams.discard(stream))
        return rebuilt(call, inner, stream)

    async def _refuse(self, call: Call, fault: CallError) -> NoReturn:
        """Nothing is sent; the rows say so."""
        await self._write_intent(call, {"judged": False})
        reading = Reading(error_code=fault.code, error_message=fault.message)
        await self._settle(call, self._outcome(call, Status.REFUSED, reading))
        raise fault

    # ------------------------------------------------------------------------------------------ rows
    def _outcome(
        self,
        call: Call,
        status: Status,
        reading: Reading | None = None,
        response: httpx2.Response | None = None,
        content: bytes | None = None,
    ) -> Outcome:
        if reading is None and status in (Status.CANCELED, Status.INTERRUPTED):
            # Given up while its intent was being written, or while it waited for its turn: it cost nothing.
            reading = Reading(error_code=status.value if call.sent is not None else NOT_SENT)
        duration = call.milliseconds(self._clock())
        return outcome_of(call, status, reading, response=response, content=content, duration_ms=duration)

    async def _settle(self, call: Call, outcome: Outcome, sent: Callable[[], None] | None = None) -> None:
        """Write the outcome; returns when it is durable. It is on its way before the first suspension."""
        if not call.recorded:
            return
        self._turns.learn(call, outcome)
        try:
            passing("before_settle")
            await self._ledger.settle(outcome, record=call.caller.record, note=note_of(call), sent=sent)
        except Exception as error:  # nobody sees the answer; its row gets its end at once if it may
            self._settle_later(call, outcome)
            if isinstance(error, StoreError):  # or when the ledger can
                self._unsettled.append((outcome, call.caller.record))
            raise
        passing("after_settle")
        self._settle_the_rest()

    def _settle_unforeseen(self, call: Call, error: Exception) -> None:
        """Where the row has its outcome this one is refused by its key."""
        reading = Reading(error_code="unforeseen", error_message=f"{type(error).__name__} while it was answered")
        self._settle_later(call, self._outcome(call, Status.ERROR, reading))

    def _settle_the_rest(self) -> None:
        while self._unsettled:  # one that is there already is refused by its key
            outcome, record = self._unsettled.popleft()
            self._ledger.settle_later(outcome, record=record)

    def _settle_later(self, call: Call, outcome: Outcome) -> None:
        """The same where nobody waits any more."""
        if call.recorded:
            self._turns.learn(call, outcome)
            self._ledger.settle_later(outcome, record=call.caller.record, note=note_of(call))


def _is_stream(call: Call, response: httpx2.Response) -> bool:
    return response.status_code < 300 and comes_in_events(response.headers.get("content-type", ""), call.streams)


def _replay(recording: Recording, request: httpx2.Request) -> httpx2.Response:
    headers = {
        "content-type": recording.content_type or "application/json",
        REQUEST_ID_HEADER: recording.request_id,
        REPLAYED_HEADER: "true",
    }
    stream = httpx2.ByteStream(recording.content)
    return httpx2.Response(recording.http_status, headers=headers, stream=stream, request=request)
