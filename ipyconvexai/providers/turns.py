"""A call's turn: its caller's gate, the limits, the wait until they allow it, and what is learned for the next one.

Part of the corridor, on its loop. Calls the ledger, ``estimates``, ``allowances`` and ``prices``. Promises: where there
are limits, a call that was admitted is sent at once or asks again, so that what limits count is what the provider
sees; who waits can be told why and how long, and can be cancelled; without limits it costs next to nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import httpx2

from ipyconvexai.errors import BudgetError, LimitError
from ipyconvexai.limits.counters import ASKS_AGAIN, LEAST_SLACK
from ipyconvexai.providers import allowances
from ipyconvexai.providers.allowances import Said
from ipyconvexai.providers.calls import Call, SentBody
from ipyconvexai.providers.estimates import Estimates, Key
from ipyconvexai.providers.prices import cost_usd
from ipyconvexai.providers.retry import LONGEST_PAUSE, SPREAD
from ipyconvexai.settings import Settings
from ipyconvexai.store.ledger import Ledger, Outcome
from ipyconvexai.values import Status, Usage, Wait

__all__ = ["Late", "Turns", "note_of"]

LEAST_JITTER, JITTER, MOST_JITTER = 0.02, 0.05, 0.25  # seconds, part of the wait, seconds
NO_PRICE = "price_unknown"
_FREE = (Status.ERROR, Status.REFUSED)  # providers do not bill what they refuse
WORTH_TELLING = 1.0  # seconds
TELLS_AGAIN = 15.0  # seconds after which a wait is told anew, with what is left of it
MOST_TOKENS = 2**31 - 1  # what the column holds
EVERYBODYS = 0.5  # part of the last answers that were refusals from which on a pause is everybody's
LAST_ANSWERS = 20  # about

_log = logging.getLogger("ipyconvexai.limits")

Write = Callable[[Call, dict[str, Any]], Awaitable[None]]
Where = tuple[str, str, str]  # provider, base URL, model


class Late(Exception):
    """Too much time has passed since the call was admitted."""


@dataclass(slots=True)
class _Refusals:
    """Which part of the last answers of a provider were refusals (429)."""

    part: float = 0.0
    answers: int = 0

    def count(self, refused: bool) -> None:
        self.answers = min(self.answers + 1, LAST_ANSWERS)
        self.part += (refused - self.part) / self.answers


class Turns:
    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        rand: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._settings = settings
        self._clock = clock
        self._sleep = sleep
        self._rand = rand
        self._estimates = Estimates()
        self._recalls: dict[Key, asyncio.Task[tuple[int, float, float] | None]] = {}
        self._waits: dict[int, Wait] = {}
        self._refusals: dict[Where, _Refusals] = {}

    @property
    def waits(self) -> list[Wait]:
        return sorted(self._waits.values(), key=lambda wait: wait.until, reverse=True)

    def clear(self) -> None:
        """In the child of a fork."""
        self._recalls.clear()
        self._waits.clear()

    # ------------------------------------------------------------------------------------------ admission
    async def take(self, call: Call, write: Write) -> LimitError | None:
        """Ask with ``write(call, note)`` until the call is admitted; the error if it is not to wait."""
        if call.is_housekeeping:
            await write(call, {"judged": False})
            return None
        if self._ledger.store.limited:
            await self.enter(call)  # before it asks: what is admitted must be sent at once
            await self._estimate(call)
        if (over := await self._over(call)) is not None:
            return over
        patient = (call.caller.limit or self._settings.on_limit) == "wait"
        waiting = False
        try:
            while (refused := await self._ask(call, write, patient)) is not None:
                if refused.code == "estimate" and call.reserved[0] is None:
                    await self._estimate(call)
                elif patient and _is_worth_waiting(refused, call.caller.patience):
                    waiting = True
                    await self._wait(call, refused)
                else:
                    return refused
        except BaseException:
            if waiting:
                self._ledger.withdraw(call.request_id)
            raise
        finally:
            if waiting:
                self._tell(call, None)
        return None

    async def _over(self, call: Call) -> LimitError | None:
        """The error where the call may cost more than its caller's purse holds."""
        purse = call.caller.purse
        if purse is None:
            return None
        await self._estimate(call)
        cost = call.reserved[1]
        if cost is None:
            why = f"the price of {call.endpoint.provider}:{call.model} is not known, and this call has a budget"
            return BudgetError(why, cure="Ask without the budget, or use a model whose price is known.", code=NO_PRICE)
        if purse.take(call.request_id, cost):
            return None
        why = f"this may cost ${cost:.4g}, and ${max(0.0, purse.left):.4g} of its ${purse.usd:g} are left"
        return BudgetError(why, cure="Allow more, ask for less (max_tokens), or use a cheaper model. Nothing was sent.")

    async def _ask(self, call: Call, write: Write, patient: bool) -> LimitError | None:
        call.asked = self._clock()
        try:
            await write(call, {"waits": patient, "slack": call.slack})
        except LimitError as error:
            return error
        return None

    async def _wait(self, call: Call, refused: LimitError) -> None:
        after = refused.retry_after or 0.0
        self._tell(call, _wait_of(refused.message, after))
        await self._sleep(self._until_it_asks(refused, after))

    async def pause(self, call: Call, seconds: float) -> None:
        """The provider asked this call to wait before its next attempt."""
        why = f"{call.endpoint.provider or 'the provider'} asked to wait before {call.model or 'it'} is used again"
        told = seconds >= WORTH_TELLING
        if told:
            self._tell(call, _wait_of(why, seconds))
        try:
            await self._sleep(seconds)
        finally:
            if told:
                self._tell(call, None)

    def _until_it_asks(self, refused: LimitError, after: float) -> float:
        """Seconds. Whoever waits long asks meanwhile, at moments of its own: the limit may be raised or removed."""
        if after > ASKS_AGAIN:
            return ASKS_AGAIN * (1.0 + self._rand()) / 2
        if refused.code == "provider_pause":  # everybody was told the same moment
            return after + self._rand() * SPREAD
        return after + self._rand() * min(MOST_JITTER, LEAST_JITTER + JITTER * after)

    def _tell(self, call: Call, wait: Wait | None) -> None:
        told = self._waits.get(id(call))
        if wait is None:
            self._waits.pop(id(call), None)
        elif told is not None and _is_still_true(told, wait):
            return
        else:
            self._waits[id(call)] = wait
        if call.caller.on_wait is not None:
            call.caller.on_wait(wait)
        elif wait is not None and told is None and wait.seconds >= WORTH_TELLING:
            _log.warning("%s", wait.message)  # on standard error where logging is not set up: the cell is not stuck

    # ------------------------------------------------------------------------------------------ the caller's gate
    async def enter(self, call: Call) -> None:
        """Wait for the caller's gate, once for each attempt."""
        if call.caller.gate is not None and not call.in_gate:
            await call.caller.gate.acquire()
            call.in_gate = True

    def leave(self, call: Call) -> None:
        if call.caller.gate is not None and call.in_gate:
            call.in_gate = False
            call.caller.gate.release()

    def check(self, call: Call) -> None:
        """Raise Late where a limit that admitted it can no longer answer for it: now, and when the connection is there.

        A connection may take longer than a limit can wait, or another thread may have stopped this one meanwhile.
        """
        body = call.sending.stream
        if not call.recorded or call.is_housekeeping or not self._ledger.store.limited:
            return
        self._check(call)
        if isinstance(body, SentBody):
            body.check, body.left = lambda: self._check(call), lambda: self._left(call)

    def _check(self, call: Call) -> None:
        if self._left(call) < 0:
            call.late = True
            raise Late

    def _left(self, call: Call) -> float:
        """Seconds until it is late. The other half of the slack is for the way to the provider."""
        return max(LEAST_SLACK, call.slack) / 2 - (self._clock() - call.asked)

    def again(self, call: Call) -> None:
        """It was late: the same attempt once more, with more time to be sent in."""
        call.late = False
        if call.caller.gate is None or call.slack:  # else it may have been the gate that took the time
            call.slack = max(call.slack, 4 * (self._clock() - call.asked))
        else:
            call.slack = 2 * LEAST_SLACK
        call.attempt -= 1
        if call.first_id == call.request_id:
            call.first_id = None

    # ------------------------------------------------------------------------------------------ estimates
    async def _estimate(self, call: Call) -> None:
        if call.reserved[0] is not None:
            return
        provider, model = call.endpoint.provider, call.model or ""
        usage, price = await self.estimate((provider, model, call.path), call.body, call.allowed_output)
        call.reserved = (min(usage.total_tokens, MOST_TOKENS), price)

    async def estimate(self, key: Key, body: bytes, allowed: int | None) -> tuple[Usage, float | None]:
        """Tokens and US dollars that a call will take; `allowed`: the tokens that it allows its answer."""
        if not self._estimates.knows(key):
            self._estimates.recall(key, await self._recorded(key))
            await asyncio.to_thread(cost_usd, *key[:2], Usage(0, 0))  # reads the price list: 0.3 s
        usage = Usage(*self._estimates.estimate(key, body, allowed))
        return usage, cost_usd(*key[:2], usage)

    async def _recorded(self, key: Key) -> tuple[int, float, float] | None:
        """One look for all that ask at the same time."""
        task = self._recalls.get(key)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(self._ledger.mean_usage, *key))
            self._recalls[key] = task
            task.add_done_callback(lambda done: self._recalls.pop(key, None))
        return await asyncio.shield(task)

    def hear(self, call: Call, response: httpx2.Response) -> None:
        """Keep what the provider says of its limits with its answer.

        That it asks to wait concerns everybody where it refuses most calls. Where most of them are answered it is the
        one call that waits: if each refusal stopped all, a provider that refuses now and then would stand still.
        """
        call.said = _said_by(response)
        refused = response.status_code == 429
        refusals = self._refusals.setdefault(_where(call), _Refusals())
        refusals.count(refused)
        if call.said is not None and call.said.pause is not None and refusals.part < EVERYBODYS:
            call.said = replace(call.said, pause=None)

    def learn(self, call: Call, outcome: Outcome) -> None:
        if call.caller.purse is not None:
            failed = outcome.cost_usd is None and outcome.status in _FREE
            call.caller.purse.settle(call.request_id, 0.0 if failed else outcome.cost_usd)
        if outcome.input_tokens is not None:
            key = (call.endpoint.provider, call.model or "", call.path)
            self._estimates.learn(key, call.body, outcome.input_tokens, outcome.output_tokens)


def _wait_of(why: str, seconds: float) -> Wait:
    return Wait(f"waiting {_seconds(seconds)}: {why}", why, seconds, time.monotonic() + seconds)


def _is_still_true(told: Wait, wait: Wait) -> bool:
    """Whether what was told needs no correction yet."""
    told_since = time.monotonic() - (told.until - told.seconds)
    return (
        told.why == wait.why
        and abs(told.until - wait.until) <= WORTH_TELLING
        and told_since < min(told.seconds, TELLS_AGAIN)
    )


def _is_worth_waiting(refused: LimitError, patience: float | None) -> bool:
    """A spent budget is for a person to decide about, unless it is free again in a moment.

    `patience`: seconds that a pause of the provider's may take; None: as long as it asks for.
    """
    after = refused.retry_after
    if refused.code == "provider_pause" and after is not None and patience is not None:
        return after <= patience
    return after is not None and (after <= LONGEST_PAUSE or not isinstance(refused, BudgetError))


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1f} s"


def _where(call: Call) -> Where:
    return call.endpoint.provider, call.endpoint.identity, call.model or ""


def _said_by(response: httpx2.Response) -> Said | None:
    # As plain texts: the headers' own look-up costs 10 us, and a dozen of them are wanted.
    headers = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in response.headers.raw}
    if response.status_code == 429 or any("ratelimit" in name for name in headers):
        return allowances.read(headers, response.status_code)
    return None


def note_of(call: Call) -> dict[str, Any] | None:
    """The same, as it travels beside the outcome."""
    if call.said is None:
        return None
    return {"where": _where(call), "said": call.said.text, "pause": call.said.pause, "by": call.first_id}
