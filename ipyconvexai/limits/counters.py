"""How much of one limit is used, by whom, and until when. Pure: the time is an argument, seconds of one steady clock.

A counter is judged (``obstacle``), then taken from, then settled with the real amount or given back. Those who wait
stand in a queue: what becomes free is theirs in their order, so that a batch does not starve a single question, and
each is told the moment of its own slot, so that they do not all come at once.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

from ipyconvexai.limits.definitions import Measure

__all__ = [
    "BATCH_MEMORY",
    "Aligned",
    "Batch",
    "Concurrency",
    "Counter",
    "Entry",
    "Obstacle",
    "Sliding",
    "counter_for",
    "slack_of",
]

LEAST_SLACK = 0.5  # seconds
SLACK_PART = 0.05  # of the window
MARGIN = 0.005  # seconds that two clocks of one machine may differ
RETURNS_WITHIN = 0.6  # seconds after the moment it was told until a waiter counts as gone
LONGEST_PLACE = 15.0  # seconds for which a place is kept, however long its waiter was told to wait
ASKS_AGAIN = 2.0  # seconds after which a waiter asks again all the same: its limit may be raised or removed
BATCH_MEMORY = 8 * 86400.0  # seconds for which the spending of a batch is known
SOONEST, LATEST = 0.02, 0.5  # seconds between two looks at what becomes free at a moment that nobody knows


def slack_of(per: float) -> float:
    """Seconds after its admission until which a request may reach the provider."""
    return max(LEAST_SLACK, SLACK_PART * per)


@dataclass(slots=True)
class Entry:
    """What one request takes from one counter."""

    amount: int
    at: float
    free_at: float = math.inf  # sliding: when it is out of every window
    window: int = 0  # aligned: the number of its hour or day
    settled: bool = False
    gone: bool = False


@dataclass(slots=True)
class Obstacle:
    """`after`: seconds; None: waiting does not help. `spent`: and not merely reserved by calls under way."""

    after: float | None
    spent: bool = True


@dataclass(slots=True)
class _Waiter:
    amount: int
    until: float  # by then it has come back, or has gone


class Counter:
    """`most` of something; subclasses say when it becomes free."""

    def __init__(self, measure: Measure) -> None:
        self.measure = measure
        self.most = measure.most
        self.used = 0
        self.reserved = 0  # the part of it that may still change: calls under way
        self.under_way = 0
        self.seconds = 0.2  # that a call takes, about
        self.last = 0.0  # when something was taken
        self._waiting: dict[str, _Waiter] = {}

    # ------------------------------------------------------------------------------------------ judging
    def obstacle(self, request_id: str, amount: int, now: float) -> Obstacle | None:
        """Why `amount` cannot be taken now; None: it can."""
        self.expire(now)
        if amount > self.most:
            return Obstacle(None)
        ahead, place = self._ahead(request_id, now)
        if self.used + ahead + amount <= self.most:
            return None
        sure = self._free_after(self.used + ahead + amount - self.most, now)
        if self._may_shrink(ahead) and self.used - self.reserved + amount <= self.most:
            look = self._next_look(place)
            return Obstacle(look if sure is None else min(sure, look), spent=False)
        return Obstacle(sure)

    def queue(self, request_id: str, amount: int, after: float, now: float) -> None:
        """Keep a place for who was told to come back in `after` seconds."""
        until = now + min(after, LONGEST_PLACE) + RETURNS_WITHIN
        waiter = self._waiting.get(request_id)
        if waiter is None:
            self._waiting[request_id] = _Waiter(amount, until)
        else:
            waiter.amount, waiter.until = amount, until

    def leave_queue(self, request_id: str) -> None:
        self._waiting.pop(request_id, None)

    def expects(self, request_id: str) -> bool:
        """Whether it has a place in the queue."""
        return request_id in self._waiting

    def waiting(self, now: float) -> int:
        return sum(1 for waiter in self._waiting.values() if waiter.until > now)

    def _ahead(self, request_id: str, now: float) -> tuple[int, int]:
        """What those before it wait for, and how many they are."""
        amount = place = 0
        lapsed = []
        for other, waiter in self._waiting.items():
            if other == request_id:
                break
            if waiter.until <= now:
                lapsed.append(other)
            else:
                amount += waiter.amount
                place += 1
        for other in lapsed:
            del self._waiting[other]
        return amount, place

    def _next_look(self, place: int) -> float:
        often = min(LATEST, max(SOONEST, self.seconds / 8))
        return min(LONGEST_PLACE, often * max(1.0, (place + 1) / max(1, self.under_way)))

    # ------------------------------------------------------------------------------------------ taking
    def take(self, amount: int, at: float, slack: float = 0.0) -> Entry:
        entry = Entry(amount, at)
        self.used += amount
        self.reserved += amount
        self.under_way += 1
        self.last = max(self.last, at)
        self._begin(entry, slack)
        return entry

    def settle(self, entry: Entry, amount: int | None, now: float) -> None:
        """`amount`: what it really was; None: what was reserved."""
        self._no_longer_reserved(entry, now)
        if entry.gone:
            return
        if amount is not None:
            self.used += amount - entry.amount
            entry.amount = amount
        self._end(entry, now)

    def give_back(self, entry: Entry, now: float) -> None:
        """It was never sent."""
        self._no_longer_reserved(entry, now, sent=False)
        if not entry.gone:
            self.used -= entry.amount
            entry.gone = True

    def _no_longer_reserved(self, entry: Entry, now: float, sent: bool = True) -> None:
        if entry.settled:
            return
        entry.settled = True
        self.under_way -= 1
        if not entry.gone:
            self.reserved -= entry.amount
        if sent:
            self.seconds += 0.1 * (max(0.0, now - entry.at) - self.seconds)

    def _lapse(self, entry: Entry) -> None:
        """Its window has passed."""
        entry.gone = True
        self.used -= entry.amount
        if not entry.settled:
            self.reserved -= entry.amount

    # ------------------------------------------------------------------------------------------ what kinds differ in
    def _may_shrink(self, ahead: int) -> bool:
        """Whether what stands in the way may turn out to be less: it is reserved by an estimate."""
        if self.measure.what not in ("tokens", "usd"):
            return False
        return self.under_way > 0 or (ahead > 0 and self.measure.window != "sliding")

    def expire(self, now: float) -> None:
        """Forget what no longer counts."""

    def is_idle(self, now: float) -> bool:
        """Whether nothing is lost when it is forgotten."""
        self.expire(now)
        return not self.used and not self.under_way and not self.waiting(now)

    def next_free(self, now: float) -> float | None:
        """Seconds until anything is free; 0.0: something is; None: nobody knows."""
        self.expire(now)
        return 0.0 if self.used < self.most else self._free_after(1 + self.used - self.most, now)

    def _begin(self, entry: Entry, slack: float) -> None:
        pass

    def _end(self, entry: Entry, now: float) -> None:
        pass

    def _free_after(self, missing: int, now: float) -> float | None:
        """Seconds until `missing` more is free; None: never, or nobody knows."""
        return None


class Sliding(Counter):
    """At most `most` in any window of `per` seconds of the provider's time stamps.

    The provider stamps a request between its admission and its end, and not later than the slack after its admission.
    So it counts until the later of these is a whole window ago.
    """

    def __init__(self, measure: Measure) -> None:
        super().__init__(measure)
        self._per = measure.per + MARGIN
        self._slack = slack_of(measure.per)
        self._order: list[tuple[float, int, Entry]] = []  # by the moment it becomes free
        self._first = 0  # before it all have gone
        self._number = 0

    def _begin(self, entry: Entry, slack: float) -> None:
        self._note(entry, entry.at + max(slack, self._slack) + self._per)

    def _end(self, entry: Entry, now: float) -> None:
        if now + self._per < entry.free_at:
            self._note(entry, now + self._per)

    def _note(self, entry: Entry, free_at: float) -> None:
        entry.free_at = free_at
        self._number += 1
        bisect.insort(self._order, (free_at, self._number, entry), lo=self._first)

    def expire(self, now: float) -> None:
        order, first = self._order, self._first
        while first < len(order) and order[first][0] <= now:
            free_at, _, entry = order[first]
            if not entry.gone and free_at == entry.free_at:  # else it was noted anew since
                self._lapse(entry)
            first += 1
        if first > 512 and first * 2 > len(order):
            del order[:first]
            first = 0
        self._first = first

    def _free_after(self, missing: int, now: float) -> float | None:
        rounds = max(0, -(-(missing - self.used) // self.most))  # of what is not even there: the queue ahead
        rest = missing - rounds * self.most
        free = now
        for number in range(self._first, len(self._order)):
            if rest <= 0:
                break
            free_at, _, entry = self._order[number]
            if not entry.gone and free_at == entry.free_at:
                rest -= entry.amount
                free = free_at
        return free - now + rounds * self._per


class Aligned(Counter):
    """At most `most` in each hour or day of UTC; a call counts where it was admitted."""

    def __init__(self, measure: Measure) -> None:
        super().__init__(measure)
        self._window = -1

    def _begin(self, entry: Entry, slack: float) -> None:
        entry.window = int(entry.at // self.measure.per)
        if entry.window != self._window:  # of an earlier window: only while its rows are read
            self._lapse(entry)

    def settle(self, entry: Entry, amount: int | None, now: float) -> None:
        self.expire(now)
        if entry.window != self._window and not entry.gone:
            entry.gone = True
        super().settle(entry, amount, now)

    def give_back(self, entry: Entry, now: float) -> None:
        self.expire(now)
        if entry.window != self._window:
            entry.gone = True
        super().give_back(entry, now)

    def expire(self, now: float) -> None:
        window = int(now // self.measure.per)
        if window > self._window:
            self._window = window
            self.used = self.reserved = 0

    def _free_after(self, missing: int, now: float) -> float | None:
        return (self._window + 1) * self.measure.per - now


class Batch(Counter):
    """At most `most` for one batch."""

    def is_idle(self, now: float) -> bool:
        return not self.under_way and now - self.last > BATCH_MEMORY  # what was spent stays spent


class Concurrency(Counter):
    """At most `most` under way at once."""

    def _end(self, entry: Entry, now: float) -> None:
        self.used -= entry.amount
        entry.gone = True

    def obstacle(self, request_id: str, amount: int, now: float) -> Obstacle | None:
        ahead, place = self._ahead(request_id, now)
        return None if self.used + ahead + amount <= self.most else Obstacle(self._next_look(place), spent=False)


_KINDS: dict[str, type[Counter]] = {"sliding": Sliding, "aligned": Aligned, "batch": Batch, "now": Concurrency}


def counter_for(measure: Measure) -> Counter:
    return _KINDS[measure.window](measure)
