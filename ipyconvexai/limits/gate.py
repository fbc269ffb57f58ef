"""The gate that every paid call passes: limits and budgets, and what is used of them. Pure: the time is an argument.

``judge`` admits a call and counts it, or refuses it and consumes nothing; ``settle`` replaces the estimate by what it
really was, ``cancel`` gives back what was never sent. Promises: a call is judged once (asked again by its request id it
is admitted as before); all limits together are one decision.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ipyconvexai.limits.counters import Counter, Entry, Obstacle, counter_for
from ipyconvexai.limits.definitions import UNITS_PER_USD, Asked, Definition, Measure, amount_text

__all__ = ["LONGEST_PAUSE", "Admitted", "Gate", "LimitRow", "Past", "Refused", "usd_units"]

LONGEST_PAUSE = 120.0  # seconds that one word of a provider stops everybody; after it, somebody may try
MOST_BATCHES = 20  # that are shown
MOST_SAID = 200  # providers and models whose words are kept
STILL_TO_BE_SENT = 60.0  # seconds after which a call that was admitted by another gate has surely been sent
TIDY_EVERY = 1000  # judgements between two looks at counters that nobody needs

Where = tuple[str, str, str]  # provider, base URL, model


@dataclass(frozen=True, slots=True)
class Admitted:
    """It may be sent, within its slack."""


@dataclass(frozen=True, slots=True)
class Refused:
    """It must not be sent now.

    Attributes:
        name: of the limit or budget.
        why: what is reached, in words.
        retry_after: seconds until it may be asked again; None: waiting does not help.
        kind: "limit", "budget", "provider" (it asked for a pause), "estimate" (none was made), "price" (not known),
            "never" (it is more than the whole limit).
        spent: a budget is; else the rest of it is reserved by calls under way.
        of_budget: whether it is one.
    """

    name: str
    why: str
    retry_after: float | None
    kind: str = "limit"
    spent: bool = True
    of_budget: bool = False


@dataclass(frozen=True, slots=True)
class Past:
    """A call, or the sum of several, that was recorded before this gate stood.

    `at`: when it was admitted; `until`: when it was settled, None: it is under way. `count`: how many calls.
    """

    call: Asked
    at: float
    until: float | None = None
    tokens: int = 0
    usd: int = 0
    count: int = 1


@dataclass(frozen=True, slots=True)
class LimitRow:
    """One line of what is used: of one limit, for one key."""

    name: str
    what: str
    scope: str
    used: str
    left: str
    waiting: int
    next_free: float | None
    said: str


@dataclass(slots=True)
class _Held:
    """What one call under way takes."""

    takes: list[tuple[Counter, Entry]]


@dataclass(slots=True)
class _Pause:
    until: float
    by: str | None  # the call that was told: it has waited itself


class Gate:
    def __init__(self) -> None:
        self._definitions: tuple[Definition, ...] = ()
        self._counters: dict[tuple[str, Measure, str], Counter] = {}
        self._held: dict[str, _Held] = {}
        self._queued: dict[str, Counter] = {}  # request id -> where it waits
        self._pauses: dict[Where, _Pause] = {}
        self._said: dict[Where, tuple[str, float]] = {}
        self._judged = 0

    @property
    def is_open(self) -> bool:
        """Whether nothing limits anything."""
        return not self._definitions and not self._pauses

    @property
    def definitions(self) -> tuple[Definition, ...]:
        return self._definitions

    @property
    def longest_window(self) -> float:
        """Seconds of the past that a sliding window needs call by call."""
        return max((m.per for d in self._definitions for m in d.measures if m.window == "sliding"), default=0.0)

    @property
    def needs_sums(self) -> bool:
        """Whether the sums of longer ago matter, too."""
        return any(m.window in ("aligned", "batch") for d in self._definitions for m in d.measures)

    # ------------------------------------------------------------------------------------------ the state
    def define(self, definitions: Iterable[Definition], past: Iterable[Past], now: float, behind: float = 0.0) -> None:
        """Other definitions; what is used of them is told by `past`, oldest first.

        `behind`: seconds by which what is past may be dated too early. Sliding windows take it for as late as it may
        be; an hour or a day is that of the date.
        """
        self._definitions = tuple(definitions)
        self._counters, self._held, self._queued = {}, {}, {}
        for one in past:
            self._restore(one, now, behind)

    def _restore(self, past: Past, now: float, behind: float) -> None:
        held = _Held([])
        for definition in self._definitions:
            if not definition.concerns(past.call):
                continue
            for measure in definition.measures:
                if past.until is not None and measure.what == "concurrency":
                    continue
                counter = self._counter(definition, measure, past.call)
                counter.expire(now)
                amount = {"requests": past.count, "tokens": past.tokens, "usd": past.usd, "concurrency": 1}
                at, slack, until = _instants(past, now, behind if measure.window == "sliding" else 0.0)
                entry = counter.take(amount[measure.what], at, slack)
                held.takes.append((counter, entry))
                if until is not None:
                    counter.settle(entry, None, min(until, now))
        if past.until is None and held.takes:
            self._held[past.call.request_id] = held

    # ------------------------------------------------------------------------------------------ the way of a call
    def holds(self, request_id: str) -> bool:
        """Whether it was admitted, and has not been settled."""
        return request_id in self._held

    def waits(self, request_id: str) -> bool:
        """Whether it was refused, and is to ask again."""
        return request_id in self._queued

    def judge(self, call: Asked, now: float) -> Admitted | Refused:
        if call.request_id in self._held:
            return Admitted()
        self._judged += 1
        if self._judged % TIDY_EVERY == 0:
            self._tidy(now)
        if self._pauses and not call.batched and (paused := self._paused(call, now)) is not None:
            return paused
        takes: list[tuple[Counter, int]] = []
        worst: tuple[Refused, Counter, int] | None = None
        for definition in self._definitions:
            if not definition.concerns(call):
                continue
            for measure in definition.measures:
                amount = _amount(measure, call)
                if amount is None:
                    return _unknown_amount(definition, call)
                counter = self._counter(definition, measure, call)
                takes.append((counter, amount))
                obstacle = counter.obstacle(call.request_id, amount, now)
                if obstacle is None:
                    continue
                refused = _refused(definition, measure, counter, amount, obstacle)
                if worst is None or _later(refused, worst[0]):
                    worst = (refused, counter, amount)
        if worst is not None:
            refused, counter, amount = worst
            if call.waits:
                self._queue(call, counter, amount, refused.retry_after, now)
            return refused
        self._leave_queue(call.request_id)
        self._held[call.request_id] = _Held([(c, c.take(amount, now, call.slack)) for c, amount in takes])
        return Admitted()

    def settle(self, request_id: str, tokens: int | None, usd: int | None, now: float, *, final: bool = True) -> None:
        """What it really was; None: as it was estimated. Not `final`: a better outcome may follow."""
        held = self._held.pop(request_id, None)
        if held is None:
            return
        for counter, entry in held.takes:
            what = counter.measure.what
            counter.settle(entry, tokens if what == "tokens" else usd if what == "usd" else None, now)
        if not final:
            self._held[request_id] = held

    def cancel(self, request_id: str, now: float) -> None:
        """It was never sent: all it took is given back."""
        self.withdraw(request_id)
        held = self._held.pop(request_id, None)
        for counter, entry in held.takes if held is not None else ():
            counter.give_back(entry, now)

    def withdraw(self, request_id: str) -> None:
        """It no longer waits."""
        self._leave_queue(request_id)

    def _queue(self, call: Asked, counter: Counter, amount: int, after: float | None, now: float) -> None:
        if self._queued.get(call.request_id) is not counter:
            self._leave_queue(call.request_id)
        if after is not None:
            counter.queue(call.request_id, amount, after, now)
            self._queued[call.request_id] = counter

    def _leave_queue(self, request_id: str) -> None:
        counter = self._queued.pop(request_id, None)
        if counter is not None:
            counter.leave_queue(request_id)

    def _counter(self, definition: Definition, measure: Measure, call: Asked) -> Counter:
        batch = call.batch if measure.window == "batch" else ""  # else the definition does not concern it
        key = (definition.name, measure, f"{batch}\n{definition.key(call)}")
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = counter_for(measure)
        return counter

    def _tidy(self, now: float) -> None:
        self._counters = {key: counter for key, counter in self._counters.items() if not counter.is_idle(now)}
        self._queued = {request: counter for request, counter in self._queued.items() if counter.expects(request)}
        self._pauses = {where: pause for where, pause in self._pauses.items() if pause.until > now}

    # ------------------------------------------------------------------------------------------ what providers say
    def pause(self, where: Where, seconds: float, by: str | None, now: float) -> None:
        """The provider asked everybody to wait."""
        until = now + min(seconds, LONGEST_PAUSE)
        pause = self._pauses.get(where)
        if pause is None or pause.until < until:
            self._pauses[where] = _Pause(until, by)

    def say(self, where: Where, text: str, now: float) -> None:
        """Keep what the provider says of its own limits, to be shown."""
        self._said.pop(where, None)
        self._said[where] = (text, now)
        if len(self._said) > MOST_SAID:
            del self._said[next(iter(self._said))]

    def _paused(self, call: Asked, now: float) -> Refused | None:
        where = (call.provider, call.base_url, call.model)
        pause = self._pauses.get(where)
        if pause is None:
            return None
        if pause.until <= now:
            del self._pauses[where]
            return None
        if pause.by is not None and pause.by == call.call_id:
            return None
        why = f"{call.provider or 'the provider'} asked to wait before {call.model or 'it'} is used again"
        return Refused(call.provider, why, pause.until - now, "provider")

    # ------------------------------------------------------------------------------------------ shown
    def rows(self, now: float) -> list[LimitRow]:
        """One row for each limit and key, and one for each provider that spoke of limits of its own."""
        found = []
        for definition in self._definitions:
            for measure in definition.measures:
                found += self._rows_of(definition, measure, now)
        for where, (text, at) in self._said.items():
            said = f"{text} ({now - at:.0f} s ago)"
            found.append(LimitRow("", "the provider's own", _scope(where), "", "", 0, None, said))
        for where, pause in self._pauses.items():
            if pause.until > now:
                found.append(LimitRow("", "a pause", _scope(where), "", "", 0, pause.until - now, "asked to wait"))
        return found

    def _rows_of(self, definition: Definition, measure: Measure, now: float) -> list[LimitRow]:
        rows = []
        for (name, counted, key), counter in self._counters.items():
            if name != definition.name or counted != measure or counter.is_idle(now):
                continue
            batch, _, value = key.partition("\n")
            scope = definition.scope(value) + (f", batch {batch}" if batch else "")
            rows.append(self._row(definition, measure, scope, counter, now))
        if not rows:
            return [self._row(definition, measure, definition.scope(), counter_for(measure), now)]
        return rows[-MOST_BATCHES:] if measure.window == "batch" else rows

    def _row(self, definition: Definition, measure: Measure, scope: str, counter: Counter, now: float) -> LimitRow:
        free = counter.next_free(now)
        used, left = counter.used, max(0, counter.most - counter.used)
        return LimitRow(
            definition.name,
            measure.text,
            scope,
            amount_text(measure.what, used),
            amount_text(measure.what, left),
            counter.waiting(now),
            None if free is None else max(0.0, free),
            "",
        )


def _instants(past: Past, now: float, behind: float) -> tuple[float, float, float | None]:
    """When it was admitted, the slack it had, and when it ended."""
    at = min(past.at + behind, now)  # the clock may have been set back since
    if past.until is None:
        return (now if now - at < STILL_TO_BE_SENT else at), 0.0, None
    until = past.until + behind
    return at, max(0.0, until - at), until  # nobody knows how much slack it had: it reached the provider before its end


def _scope(where: Where) -> str:
    provider, _, model = where
    return ", ".join(f"{word} {value}" for word, value in (("provider", provider), ("model", model)) if value)


def usd_units(dollars: float | None) -> int | None:
    """Dollars as they are counted here."""
    return None if dollars is None else round(dollars * UNITS_PER_USD)


def _amount(measure: Measure, call: Asked) -> int | None:
    if measure.what == "tokens":
        return call.tokens
    if measure.what == "usd":
        return None if call.tokens is None else call.usd
    return 1


def _unknown_amount(definition: Definition, call: Asked) -> Refused:
    if call.tokens is None:
        return Refused(definition.name, "its size was not estimated", 0.0, "estimate")
    why = f"the price of {call.model or 'this call'} at {call.provider or 'its provider'} is not known"
    return Refused(definition.name, why, None, "price")


def _refused(definition: Definition, measure: Measure, counter: Counter, amount: int, obstacle: Obstacle) -> Refused:
    if amount > counter.most:
        why = f"this call alone needs about {amount_text(measure.what, amount)}, more than its {measure.text}"
        return Refused(definition.name, why, None, "never", of_budget=definition.kind == "budget")
    after = None if obstacle.after is None else max(0.0, obstacle.after)
    return Refused(definition.name, measure.text, after, definition.kind, obstacle.spent, definition.kind == "budget")


def _later(one: Refused, other: Refused) -> bool:
    if one.retry_after is None or other.retry_after is None:
        return one.retry_after is None and other.retry_after is not None
    return one.retry_after > other.retry_after
