"""The driver's side of sending elsewhere: requests become chunks, chunks go to workers, answers become responses.

In place of the corridor's network, on its loop; calls ``errands``. Promises: requests that come within a few
milliseconds travel together; a worker holds only so many at a time, so that its death costs no more; what was sent by
nobody knows whom fails as a broken connection and is never sent again from here: the corridor does, with a row of its
own; what can no longer be sent in time goes back to the limits unsent.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import math
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx2

from ipyconvexai.errors import ConfigurationError, Error, UnreachableError
from ipyconvexai.providers.errands import Chunk, Errand, Failure, Outcome, Report, process
from ipyconvexai.providers.network import SentBody

__all__ = ["Place", "Remote"]

LEAST_TOGETHER, MOST_TOGETHER = 8, 32  # requests in a full chunk
MOST_BYTES = 4_000_000  # of bodies in a chunk of several
GATHERS, GATHERS_LONGER = 0.005, 0.02  # seconds; longer where chunks enough are under way
FINDS_WORKERS = 30.0  # seconds that requests wait for a worker where there is none
SILENCE = 60.0  # seconds beyond the time-outs of its requests until a chunk is given up
CLOCK_HOLDS = 60.0  # seconds: clocks drift

Submit = Callable[[Chunk], "concurrent.futures.Future[Report]"]


class Place:
    """Where chunks can be sent to: a worker, or an executor of several.

    Args:
        name: for messages.
        submit: hands over a chunk; is called on the loop and must not block.
        slots: full chunks that it may hold at a time.
        process: the worker's; None where any of several may run a chunk.
        counts_chunks: whether a small chunk takes a slot, too, as a thread waits for it.
    """

    def __init__(
        self, name: str, submit: Submit, *, slots: int, process: str | None = None, counts_chunks: bool = False
    ) -> None:
        self.name = name
        self.submit = submit
        self.slots = slots
        self.process = process
        self.counts_chunks = counts_chunks
        self.flights: set[_Flight] = set()

    def room(self, together: int) -> int:
        """Requests that it can take now."""
        if self.counts_chunks:
            return together if len(self.flights) < self.slots else 0
        return self.slots * together - self.load

    @property
    def load(self) -> int:
        return sum(len(flight.letters) for flight in self.flights)


class _Letter:
    """A request on its way; `answer` is what its sender waits for."""

    __slots__ = ("answer", "body", "flight", "request")

    def __init__(self, request: httpx2.Request, body: SentBody) -> None:
        self.request = request
        self.body = body
        self.answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.flight: _Flight | None = None

    def errand(self) -> Errand:
        left = None if self.body.left is None else self.body.left()
        request = self.request
        return Errand(
            request.method,
            str(request.url),
            tuple(request.headers.raw),
            self.body.content,
            dict(request.extensions.get("timeout") or {}),
            None if left is None else time.monotonic() + left,
        )

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class _Flight:
    """A chunk under way."""

    def __init__(self, place: Place, letters: list[_Letter]) -> None:
        self.place = place
        self.letters = letters
        self.future: concurrent.futures.Future[Report] | None = None
        self.patience: asyncio.TimerHandle | None = None

    def end(self) -> None:
        self.place.flights.discard(self)
        if self.patience is not None:
            self.patience.cancel()

    def give_up(self) -> None:
        self.end()
        if self.future is not None:
            self.future.cancel()


class Remote:
    """`concurrency`: requests under way in all. `nobody`: what to say where there is no place to send from."""

    def __init__(self, concurrency: int, nobody: Callable[[], Error]) -> None:
        self._concurrency = concurrency
        self._nobody = nobody
        self._places: list[Place] = []
        self._waiting: collections.deque[_Letter] = collections.deque()
        self._clocks: dict[str, tuple[float, float]] = {}  # process -> (ahead of ours by at least, known since)
        self._gathering: asyncio.TimerHandle | None = None
        self._searching: asyncio.TimerHandle | None = None
        self._broken: Error | None = None

    @property
    def room(self) -> int:
        """Requests that can be under way at present: for more, a request waits for its turn."""
        together = self._together()
        return min(self._concurrency, sum(place.slots * together for place in self._places))

    async def send(self, request: httpx2.Request) -> httpx2.Response:
        """As the network does. Raises what the network would, and an Error where there is nobody to send it."""
        body = await _body_of(request)
        while True:
            if self._broken is not None:
                raise _same(self._broken)
            letter = _Letter(request, body)
            self._waiting.append(letter)
            self._gather()
            try:
                outcome = await letter.answer
            except asyncio.CancelledError:
                self._abandon(letter)
                raise
            if not outcome.unsent:
                return _response(outcome)

    # ------------------------------------------------------------------------------------------ workers
    def add(self, place: Place) -> None:
        self._places.append(place)
        if self._searching is not None:
            self._searching.cancel()
            self._searching = None
        self._dispatch()

    def lose(self, place: Place) -> None:
        """The worker is gone. What it had may have been sent."""
        with contextlib.suppress(ValueError):
            self._places.remove(place)
        for flight in list(place.flights):
            self._lost(flight, f"the worker {place.name} that sent it is gone")
        self._dispatch()

    def fail(self, error: Error) -> None:
        """Nothing can be sent any more."""
        self._broken = error
        for letter in self._taken(len(self._waiting)):
            letter.fail(_same(error))

    def close(self) -> None:
        """Give up what is under way."""
        for timer in (self._gathering, self._searching):
            if timer is not None:
                timer.cancel()
        self.fail(ConfigurationError("this batch's engine was closed", cure="Run it again."))
        for place in list(self._places):
            self.lose(place)

    def note_clock(self, report: Report, at: float) -> None:
        """`at`: when the report was here. The worker's clock was read before, so it is ahead by at least this."""
        if report.process == process():
            return
        ahead = report.clock - at
        known = self._clocks.get(report.process)
        if known is None or ahead > known[0] or at - known[1] > CLOCK_HOLDS:
            self._clocks[report.process] = (ahead, at)

    # ------------------------------------------------------------------------------------------ chunks
    def _together(self) -> int:
        slots = sum(place.slots for place in self._places) or 1
        return max(LEAST_TOGETHER, min(MOST_TOGETHER, math.ceil(self._concurrency / slots)))

    def _gather(self) -> None:
        """Send soon: now if they fill a chunk."""
        if len(self._waiting) >= self._together():
            self._dispatch()
        elif self._gathering is None:
            busy = sum(len(place.flights) for place in self._places) >= len(self._places)
            seconds = GATHERS_LONGER if busy and self._places else GATHERS
            self._gathering = asyncio.get_running_loop().call_later(seconds, self._dispatch)

    def _dispatch(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        if self._waiting and not self._places:
            self._search()
        while self._waiting and (place := self._emptiest()) is not None:
            together = self._together()
            under_way = sum(place.load for place in self._places)
            most = min(together, place.room(together), self._concurrency - under_way)
            if most < 1:
                break
            if letters := self._in_time(self._taken(most, MOST_BYTES)):
                self._depart(place, letters)

    def _search(self) -> None:
        def nobody_came() -> None:
            self._searching = None
            for letter in self._taken(len(self._waiting)):
                letter.fail(self._nobody())

        if self._searching is None:
            self._searching = asyncio.get_running_loop().call_later(FINDS_WORKERS, nobody_came)

    def _emptiest(self) -> Place | None:
        return min(self._places, key=lambda place: place.load / place.slots, default=None)

    def _taken(self, most: int, size: float = math.inf) -> list[_Letter]:
        """Those who have waited longest; at least one, and else at most so many and of so many bytes together."""
        letters: list[_Letter] = []
        while self._waiting and len(letters) < most:
            size -= len(self._waiting[0].body.content)
            if letters and size < 0:
                break
            letter = self._waiting.popleft()
            if not letter.answer.done():
                letters.append(letter)
        return letters

    @staticmethod
    def _in_time(letters: list[_Letter]) -> list[_Letter]:
        """Without those that have waited here for too long: they go back to the limits."""
        good = []
        for letter in letters:
            try:
                if letter.body.check is not None:
                    letter.body.check()
            except Exception as late:
                letter.fail(late)
            else:
                good.append(letter)
        return good

    def _depart(self, place: Place, letters: list[_Letter]) -> None:
        loop = asyncio.get_running_loop()
        clocks = {name: ahead for name, (ahead, _) in self._clocks.items()} | {process(): 0.0}
        if place.process is not None:
            clocks = {name: ahead for name, ahead in clocks.items() if name == place.process}
        chunk = Chunk(uuid.uuid4().hex, tuple(letter.errand() for letter in letters), place.process, clocks)
        flight = _Flight(place, letters)
        try:
            flight.future = place.submit(chunk)
        except Exception as error:
            for letter in letters:
                letter.fail(_cannot(error))
            self.fail(_cannot(error))
            return
        for letter in letters:
            letter.flight = flight
        place.flights.add(flight)
        if (seconds := _patience(chunk.errands)) is not None:
            flight.patience = loop.call_later(seconds, self._silent, flight)

        def landed(future: concurrent.futures.Future[Report]) -> None:
            at = time.monotonic()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._landed, flight, future, at)

        flight.future.add_done_callback(landed)

    def _landed(self, flight: _Flight, future: concurrent.futures.Future[Report], at: float) -> None:
        if flight not in flight.place.flights:  # was given up
            return
        try:
            report = future.result()
        except (Exception, concurrent.futures.CancelledError) as error:
            if isinstance(error, concurrent.futures.BrokenExecutor):
                self.fail(_cannot(error))
            self._lost(flight, f"its worker did not come to an end: {_said(error)}")
        else:
            self.note_clock(report, at)
            if report.outcomes is None:
                self._lost(flight, "its worker is gone, and its task went to another")
            else:
                flight.end()
                for letter, outcome in zip(flight.letters, report.outcomes, strict=True):
                    if not letter.answer.done():
                        letter.answer.set_result(outcome)
        self._dispatch()

    def _lost(self, flight: _Flight, why: str) -> None:
        flight.give_up()
        for letter in flight.letters:
            letter.fail(httpx2.ReadError(why))

    def _silent(self, flight: _Flight) -> None:
        flight.give_up()
        for letter in flight.letters:
            letter.fail(httpx2.ReadTimeout(f"the worker {flight.place.name} says nothing"))
        self._dispatch()

    def _abandon(self, letter: _Letter) -> None:
        """Its sender waits no more. A chunk that nobody waits for is cancelled; what has begun may still be sent."""
        flight = letter.flight
        if flight is None:
            with contextlib.suppress(ValueError):
                self._waiting.remove(letter)
        elif all(each.answer.done() for each in flight.letters):
            flight.give_up()
            self._dispatch()


# ---------------------------------------------------------------------------------------------- requests and answers
async def _body_of(request: httpx2.Request) -> SentBody:
    stream = request.stream
    return stream if isinstance(stream, SentBody) else SentBody(await request.aread())


def _patience(errands: Sequence[Errand]) -> float | None:
    """Seconds after which a chunk's worker is taken for stuck; None: its requests may take for ever."""
    longest = SILENCE
    for errand in errands:
        connect, read = errand.timeout.get("connect"), errand.timeout.get("read")
        if connect is None or read is None:
            return None
        longest = max(longest, SILENCE + connect + 2 * read)
    return longest


def _response(outcome: Outcome) -> httpx2.Response:
    if outcome.status is None:
        assert outcome.failure is not None
        raise _raised(outcome.failure)
    whole = outcome.failure is None
    stream = httpx2.ByteStream(outcome.content) if whole else _Broken(outcome)
    return httpx2.Response(
        outcome.status, headers=list(outcome.headers), stream=stream, extensions=dict(outcome.extensions)
    )


class _Broken(httpx2.AsyncByteStream):
    """An answer that broke off: what came, then what happened."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._outcome.content:
            yield self._outcome.content
        assert self._outcome.failure is not None
        raise _raised(self._outcome.failure)


class _Cause(Exception):
    """Stands for what aiohttp raised; ``faults`` looks at these attributes."""

    os_error: OSError | None = None
    certificate_error: Exception | None = None


def _raised(failure: Failure) -> Exception:
    """The exception that tells ``faults`` what the worker's told it."""
    kind: Any = getattr(httpx2, failure.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, httpx2.TransportError | httpx2.InvalidURL)):
        kind = httpx2.TransportError
    error: Exception = kind(failure.said)
    if not failure.cause:
        return error
    if failure.cause == "timeout":
        error.__cause__ = TimeoutError(failure.said)
        return error
    cause = _Cause(failure.said)
    if failure.cause == "os" and failure.number is not None:
        cause.os_error = OSError(failure.number, failure.said)
    elif failure.cause == "certificate":
        certificate = ssl.SSLCertVerificationError(failure.said)
        certificate.verify_message = failure.said
        cause.certificate_error = certificate
    error.__cause__ = cause
    return error


def _cannot(error: Exception) -> Error:
    """The executor takes no more."""
    if isinstance(error, Error):
        return error
    return ConfigurationError(
        f"the engine takes no more requests: {_said(error)}",
        cure="Run it again with a new executor: what is answered is not sent again.",
    )


def _said(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _same(error: Error) -> Error:
    """Raised many times, one exception would collect all their tracebacks."""
    kind = UnreachableError if isinstance(error, UnreachableError) else ConfigurationError
    return kind(error.message, cure=error.cure, retryable=error.retryable)
