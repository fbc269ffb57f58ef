"""Runs tasks: their requests are answered from the ledger where it can, and sent through the corridor where it cannot.

Runs on the background loop; calls the generator's clients, ``asks`` and ``control``. Inputs come in chunks, of which
only a few are open at a time, so that what is held does not grow with the batch; each chunk is looked up with one
set-wise question and given back in order. N workers over one queue, not N tasks behind a semaphore: that took up to
40 % more CPU and kept every document alive. ``concurrency`` counts requests being sent; a worker that waits for a
commit does not count, so there are twice as many workers (0.95 of the raw speed instead of 0.75).
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from ipyconvexai.application import App
from ipyconvexai.batch.asks import PATH, Ask, Done, Result, Task
from ipyconvexai.batch.collector import put_off
from ipyconvexai.batch.control import Control
from ipyconvexai.crashpoints import passing
from ipyconvexai.errors import (
    AuthenticationError,
    BudgetError,
    CallError,
    CanceledError,
    Error,
    InputError,
    LimitError,
    ReplayMissError,
)
from ipyconvexai.ids import new_id
from ipyconvexai.providers.clients import AsyncOpenAI
from ipyconvexai.providers.corridor import CALLER
from ipyconvexai.providers.endpoints import Endpoint
from ipyconvexai.providers.exchange import chat
from ipyconvexai.settings import redact
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.ledger import Known
from ipyconvexai.values import Caller, Purse, Replay

__all__ = ["Chunk", "Item", "Plan", "Runner", "canceled", "of_known"]

E = TypeVar("E", bound=Error)

WORKERS_PER_SEND = 2
MOST_CHUNKS = 32  # that are open at a time
# Errors of one row that every other row would get, too: nothing more is sent.
_EVERYBODYS = frozenset({"insufficient_quota", "billing_hard_limit_reached", "model_not_found"})
# Errors that may be of the one row alone (a text that is refused, say): everybody's where nothing but they came.
_PERHAPS = frozenset({"schema_refused"})
MOST_ALIKE = 5
LONGEST = 1e9  # seconds of a pause that can be told


@dataclasses.dataclass(slots=True, eq=False)
class Item:
    """One distinct input, the rows that have it, and how far it is.

    `text` names it among others; `document` whether that is a document to keep; `again` makes the task anew; `heavy`
    whether its next step takes long: a text of a megabyte is cut in half a second.
    """

    task: Task
    rows: list[int]
    text: str | None = None
    document: bool = False
    heavy: bool = False
    again: Callable[[], Task] | None = None
    label: str | None = None
    result: Result | None = None
    asks: Sequence[Ask] = ()
    dones: list[Done | None] = dataclasses.field(default_factory=list)
    left: int = 0  # requests of this round that are not answered
    fresh: bool = False  # what the ledger has of it is of no use
    chunks: list[Chunk] = dataclasses.field(default_factory=list)

    def advance(self) -> None:
        """Give the answers to the task: it asks for more, or there is a result."""
        given, self.dones = self.dones, []
        try:
            self.asks = self.task.send(given if self.asks else None)  # type: ignore[arg-type] # None begins it
        except StopIteration as end:
            self.result, self.asks = end.value, ()
            return
        self.dones, self.left = [None] * len(self.asks), len(self.asks)

    def start_over(self) -> None:
        """Ask all of it again, whatever the ledger has."""
        assert self.again is not None
        self.task, self.asks, self.result, self.fresh = self.again(), (), None, True
        self.advance()

    def answer(self, index: int, done: Done) -> None:
        self.dones[index] = done
        self.left -= 1


@dataclasses.dataclass(slots=True, eq=False)
class Chunk:
    """Some rows in order: each an input, or what it came to without one."""

    rows: list[Item | Result]
    new: list[Item]  # those that no open chunk had before
    left: int = 0  # inputs that have no result yet
    known: dict[str, Done] | None = None  # what the ledger has for its first requests, once it was looked up
    size: int | None = None  # rows of the frame in it; None: as many as `rows`
    settled: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    def results(self) -> list[Result]:
        return [row if isinstance(row, Result) else row.result or Result() for row in self.rows]


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How a batch is run. `purse` may be spent from; `known_in`: only answers of that batch count as recorded;
    `only_failed`: what was never tried is not sent; `sends`: False answers from the ledger alone."""

    model: str | None
    endpoint: Endpoint
    caller: Caller
    concurrency: int
    timeout: float | None = None
    patience: float = 120.0
    purse: Purse | None = None
    known_in: str | None = None
    only_failed: bool = False
    sends: bool = True


class Runner:
    """Runs one batch. On the loop, `settled` is called with each input that has its result, and `begun` with each chunk
    that was looked up, before anything of it is sent."""

    def __init__(
        self,
        app: App,
        plan: Plan,
        control: Control,
        settled: Callable[[Item], None],
        begun: Callable[[Chunk], None] = lambda chunk: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = app
        self.plan = plan
        self.control = control
        self._settled = settled
        self._begun = begun
        self._clock = clock
        self._client: AsyncOpenAI | None = None
        self.endpoint = plan.endpoint
        self._readying = asyncio.Lock()
        self._queue: collections.deque[tuple[Item, int]] = collections.deque()
        self._queued = asyncio.Semaphore(0)
        self._workers = WORKERS_PER_SEND * plan.concurrency
        self._hungry = asyncio.Event()
        self._open: collections.deque[Chunk] = collections.deque()
        self._ahead: asyncio.Queue[Chunk | None] = asyncio.Queue(1)
        self._opened = asyncio.Event()
        self._retired = asyncio.Event()
        self._unsettled = 0
        self._all_read = False
        self._gate = _Gate(plan.concurrency, control)
        self._asking = 0  # requests that were begun, whether or not they have passed the gate
        self._paid = asyncio.Event()  # something was settled, so that there may be more in the purse
        self._parked: tuple[float, Error] | None = None
        self._alike = 0  # errors that would be everybody's
        self._answered = False
        self.over: Error | None = None  # why nothing more is sent

    @property
    def sending(self) -> int:
        """Requests that are being answered."""
        return self._gate.inside

    async def run(self, chunks: AsyncIterator[Chunk], retire: Callable[[Chunk], Awaitable[None]]) -> None:
        """Run the tasks of `chunks`; `retire` is given each when all its inputs have results, in order.

        Raises:
            StoreError: the ledger cannot record: nothing more is sent.
        """
        CALLER.set(dataclasses.replace(self.plan.caller, gate=self._gate))
        workers = (self._work() for _ in range(self._workers))
        await _all([self._look_ahead(chunks), self._read(), self._give_back(retire), *workers])

    # ------------------------------------------------------------------------------------------ chunks
    async def _look_ahead(self, chunks: AsyncIterator[Chunk]) -> None:
        """The ledger is asked for a chunk while the one before it is settled: the keeper works in a process of its
        own."""
        async for chunk in chunks:
            with put_off():
                await self._look_up(chunk)
            await self._ahead.put(chunk)
        await self._ahead.put(None)

    async def _look_up(self, chunk: Chunk) -> None:
        await _advance_all(chunk.new)
        keys = [ask.key for item in chunk.new for ask in item.asks]
        chunk.known = await asyncio.to_thread(self._known, keys) if keys else {}

    async def _read(self) -> None:
        while (chunk := await self._ahead.get()) is not None:
            with put_off():
                await self.begin(chunk)
            passing("before_chunk")
            self._push(chunk.new)
            self._open.append(chunk)
            self._opened.set()
            await self._until_hungry()
        self._all_read = True
        self._opened.set()
        self._end_if_done()

    async def begin(self, chunk: Chunk) -> None:
        """Begin its inputs; what the ledger can answer is settled after this."""
        if chunk.known is None:
            await self._look_up(chunk)
        self._unsettled += len(chunk.new)
        new = set(chunk.new)
        for row in {row for row in chunk.rows if isinstance(row, Item)}:
            if row.result is None or row in new:
                row.chunks.append(chunk)
                chunk.left += 1
        if self.plan.only_failed:
            await self._leave_untried(chunk.new)
        await self.proceed(chunk.new, chunk.known)
        chunk.known = {}
        self._begun(chunk)
        if chunk.left == 0:
            chunk.settled.set()

    async def _until_hungry(self) -> None:
        while len(self._queue) > self._workers:
            self._hungry.clear()
            await self._hungry.wait()
        while len(self._open) >= MOST_CHUNKS:
            self._retired.clear()
            await self._retired.wait()

    async def _give_back(self, retire: Callable[[Chunk], Awaitable[None]]) -> None:
        while True:
            while not self._open:
                if self._all_read:
                    return
                self._opened.clear()
                await self._opened.wait()
            chunk = self._open[0]
            await chunk.settled.wait()
            self._open.popleft()
            passing("after_chunk")
            with put_off():
                await retire(chunk)
            self._retired.set()

    # ------------------------------------------------------------------------------------------ rounds
    async def proceed(self, items: Sequence[Item], known: dict[str, Done] | None = None) -> None:
        """Answer from the ledger what it can answer, round after round; what has its result is settled.

        `known`: what it has for the first round, where it was asked already.
        """
        going = list(items)
        while going:
            asked = [
                (item, index, ask)
                for item in going
                for index, (ask, done) in enumerate(zip(item.asks, item.dones, strict=True))
                if done is None and not item.fresh
            ]
            if known is None:
                known = await asyncio.to_thread(self._known, [ask.key for _, _, ask in asked]) if asked else {}
            for item, index, ask in asked:
                if (done := known.get(ask.key)) is not None:
                    item.answer(index, done)
            known = None
            answered = [item for item in going if item.left == 0]
            await _advance_all([item for item in answered if item.result is None])
            with put_off():
                going = [item for item in answered if not self._settled_or_repeated(item)]

    def _settled_or_repeated(self, item: Item) -> bool:
        """Whether nothing more of it can be looked up."""
        if item.result is None:
            return False
        if self._is_to_be_repeated(item):
            item.start_over()
        else:
            self._settle(item)
        return True

    async def _leave_untried(self, items: Sequence[Item]) -> None:
        """Settle those of which no request was ever sent."""
        keys = [ask.key for item in items for ask in item.asks]
        tried = await asyncio.to_thread(self.app.records.tried, keys)
        for item in items:
            if item.asks and tried.isdisjoint(ask.key for ask in item.asks):
                item.dones, item.left = [Done(error=_never_tried())] * len(item.asks), 0

    def _is_to_be_repeated(self, item: Item) -> bool:
        """What failed though it was answered: the answer did not fit its schema, say."""
        result = item.result
        return (
            self.plan.only_failed
            and not item.fresh
            and item.again is not None
            and result is not None
            and result.is_failed
            and result.known
        )

    def _known(self, keys: list[str]) -> dict[str, Done]:
        """Blocking."""
        if not keys:
            return {}
        records, plan = self.app.records, self.plan
        with put_off():
            found = {key: of_known(known) for key, known in records.answers(keys, plan.known_in).items()}
        if not plan.sends:
            missing = Done(error=_miss() if plan.caller.replay is Replay.ONLY else _not_there())
            found |= {key: missing for key in keys if key not in found}
        return found

    def _push(self, items: Sequence[Item], *, first: bool = False) -> None:
        """Put what is not answered into the queue; `first`: before what was not begun."""
        pieces = [(item, index) for item in items for index, done in enumerate(item.dones) if done is None]
        if first:
            self._queue.extendleft(reversed(pieces))
        else:
            self._queue.extend(pieces)
        for _ in pieces:
            self._queued.release()

    def _settle(self, item: Item) -> None:
        self._unsettled -= 1
        self._settled(item)
        for chunk in item.chunks:
            chunk.left -= 1
            if chunk.left == 0:
                chunk.settled.set()
        item.chunks.clear()
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._all_read and self._unsettled == 0:
            for _ in range(self._workers):
                self._queued.release()

    # ------------------------------------------------------------------------------------------ sending
    async def _work(self) -> None:
        while True:
            await self._queued.acquire()
            if not self._queue:
                return
            item, index = self._queue.popleft()
            if len(self._queue) <= self._workers:
                self._hungry.set()
            item.answer(index, await self._send(item.asks[index]))
            if item.left == 0:
                await _advance(item)
                if item.result is not None:
                    self._settle(item)
                else:
                    await self.proceed([item])
                    self._push([item], first=True)

    async def _send(self, ask: Ask) -> Done:
        if not await self.control.clear():
            self.over = self.over or canceled()
        if (error := self._why_not()) is not None:
            return Done(error=error)
        if self._client is None:
            await self.ready()
            await self.control.clear()
        if self.plan.purse is None:
            return await self._exchange(ask)
        return await self._exchange_within(self.plan.purse, ask)

    def _why_not(self) -> Error | None:
        """What keeps the next request from being sent: it is not even tried, for each try would be a row."""
        if self.over is not None:
            return self.over
        if self._parked is not None and self._clock() < self._parked[0]:
            return self._parked[1]
        return None

    async def ready(self) -> None:
        """Make the endpoint one that can answer, and its client: what the ledger answers needs neither a key nor a
        local model."""
        async with self._readying:
            if self._client is None:
                if self.endpoint.unready and self.plan.caller.replay is not Replay.ONLY:
                    self.endpoint = await self.app.generator.endpoint(self.plan.model)
                self._client = self.app.generator.client(self.endpoint)

    async def _exchange(self, ask: Ask) -> Done:
        assert self._client is not None
        self._asking += 1
        try:
            answer = await chat(self._client, self.endpoint, ask.body(), self.plan.timeout)
        except (CallError, InputError) as error:  # of this row; whatever else happens (no key, say) is everybody's
            return self._failed(_bare(error))
        except asyncio.CancelledError:
            if not self._gate.turned_away():
                raise
            return Done(error=canceled())
        finally:
            self._asking -= 1
        self._answered = True
        usage = answer.reading.usage
        return Done.of_answer(
            None if answer.reading.text is None else redact(answer.reading.text),  # as a later run would find it
            answer.reading.finish_reason,
            answer.request_id,
            input_tokens=usage.input_tokens or 0,
            cached_tokens=usage.cached_tokens or 0,
            output_tokens=usage.output_tokens or 0,
            cost=answer.cost,
        )

    def _failed(self, error: CallError | InputError) -> Done:
        after = error.retry_after
        if isinstance(error, AuthenticationError) or error.code in _PERHAPS:
            self._alike += 1
        everybodys = error.code in _EVERYBODYS or _is_spent(error) or getattr(error, "status", None) == 401
        if everybodys or (self._alike >= MOST_ALIKE and not self._answered):
            self.over = self.over or error
        elif after is not None and after > self.plan.patience and _is_providers(error):
            parked = _parked(error, after)
            self._parked = (self._clock() + after, parked)
            return Done(error=parked, request_id=error.request_id)
        return Done(error=error, request_id=error.request_id)

    # ------------------------------------------------------------------------------------------ money
    async def _exchange_within(self, purse: Purse, ask: Ask) -> Done:
        """Send what the purse allows; where it is what is under way that leaves too little, wait for that."""
        body = ask.body()
        _, cost = await self.app.wiring.corridor.estimate(self.endpoint, PATH, body)
        if cost is None:
            self.over = self.over or _no_price(self.endpoint)
            return Done(error=self.over)
        token = new_id()
        while not purse.take(token, cost):
            if self._asking == 0:
                self.over = self.over or _spent(purse, cost)
            if self.over is not None:
                return Done(error=self.over)
            self._paid.clear()
            await self._paid.wait()
        done = None
        try:
            done = await self._exchange(ask)
            return done
        finally:
            if done is not None:
                purse.settle(token, 0.0 if _is_free(done) else done.cost)
            self._paid.set()


async def _advance(item: Item) -> None:
    if item.heavy:
        await asyncio.to_thread(item.advance)
    else:
        item.advance()


async def _advance_all(items: Sequence[Item]) -> None:
    with put_off():
        for item in items:
            if not item.heavy:
                item.advance()
    for item in items:
        if item.heavy:
            await _advance(item)


class _Gate:
    """A semaphore that lets nobody pass during a pause or after a cancellation.

    `inside` are those who did and have not left.
    """

    def __init__(self, places: int, control: Control) -> None:
        self.inside = 0
        self._places = asyncio.Semaphore(places)
        self._control = control

    async def acquire(self) -> None:
        await self._places.acquire()
        try:
            if not await self._control.clear():
                raise asyncio.CancelledError  # what was admitted and not sent is recorded as that
        except BaseException:
            self._places.release()
            raise
        self.inside += 1

    def turned_away(self) -> bool:
        """Whether it was the gate that cancelled the calling task's call, and nobody the task."""
        task = asyncio.current_task()
        return self._control.state == "canceled" and task is not None and not task.cancelling()

    def release(self) -> None:
        self.inside -= 1
        self._places.release()


def of_known(known: Known) -> Done:
    return Done.of_answer(
        known.text,
        known.finish_reason,
        known.request_id,
        input_tokens=known.input_tokens or 0,
        cached_tokens=known.cached_tokens or 0,
        output_tokens=known.output_tokens or 0,
        cost=known.cost_usd,
        known=True,
    )


def _is_spent(error: Error) -> bool:
    return isinstance(error, BudgetError) and error.code == "budget"


def _is_providers(error: Error) -> bool:
    return not isinstance(error, LimitError) or error.code == "provider_pause"


def _is_free(done: Done) -> bool:
    """Providers do not bill what they refuse; a request that timed out may have been answered."""
    return done.error is not None and done.text is None and done.error.code not in ("timeout", "unreachable")


def _parked(error: Error, seconds: float) -> CallError:
    again = (utc_now() + datetime.timedelta(seconds=min(seconds, LONGEST))).strftime("%Y-%m-%d %H:%M:%S UTC")
    return CallError(
        f"parked: the provider asked to wait {seconds:,.0f} s, which is longer than patience= allows",
        cure=f"Run it again after {again}, with retry_failed=True for these alone, or raise patience=.",
        code="parked",
        retryable=True,
        retry_after=seconds,
        request_id=error.request_id if isinstance(error, CallError) else None,
    )


def canceled() -> CanceledError:
    return CanceledError("the batch was canceled", cure="Run it again: what is answered is not sent again.")


def _never_tried() -> CallError:
    return CallError(
        "not sent: it was never tried, and retry_failed=True sends only what failed",
        cure="Leave out retry_failed= to send the rest.",
        code="not_sent",
    )


def _miss() -> ReplayMissError:
    return ReplayMissError("not in the ledger, and replay is 'only'", cure="Run it once with replay='reuse'.")


def _bare(error: E) -> E:
    """Without what it came from, which holds the request and the answer: a batch may have many."""
    error.__context__ = error.__cause__ = error.__traceback__ = None
    return error


def _not_there() -> CallError:
    return CallError("not answered", cure="Run the batch again.", code="not_sent")


def _spent(purse: Purse, cost: float) -> BudgetError:
    return BudgetError(
        f"the batch's budget of {_dollars(purse.usd)} does not hold the next request: {_dollars(max(0.0, purse.left))}"
        f" are left, and it may cost {_dollars(cost)}",
        cure="Run it again with a higher budget=: what is answered is not paid again.",
    )


def _dollars(usd: float) -> str:
    return f"${usd:,.2f}" if usd >= 1 else f"${Decimal(f'{usd:.2g}'):f}"


def _no_price(endpoint: Endpoint) -> BudgetError:
    return BudgetError(
        f"the price of {endpoint.provider}:{endpoint.model} is not known, and this batch has a budget",
        cure="Leave budget= out, or use a model whose price is known. Nothing was sent.",
        code="price_unknown",
    )


async def _all(workers: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run the workers; the first that fails stops the others, and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker)
    except BaseExceptionGroup as failed:
        first = failed.exceptions[0]
    else:
        return
    raise first  # alone: a group of 64 times the same is not to be read
