"""Sliding windows: at most `rate` within any `per` seconds. Pure: calls instants only.

A window is half open: what is taken at t no longer counts at t + per. State: ``{"takes": [[instant, count], ...],
"at": instant of the last change}``, sorted. The first EXACT takes keep their instants; beyond that, those within one
slot of per / SLOTS count as one at the latest instant of them: never more than the limit, and 99.9 % of it is used.
A reservation is a take in the future. Everything that has not run out counts, also what lies ahead: so no window
around a new take can hold more than `rate`, and reservations are kept in their order.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Any

from ipyconvexai.limits.instants import later_sum, wait_between

__all__ = ["EXACT", "SLOTS", "SlidingWindow"]

State = dict[str, Any]
Take = list[float]  # [instant, count]

EXACT = 100
SLOTS = 1000


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    rate: float
    per: float

    def current(self, state: State | None, now: float) -> State:
        if state is None:
            return {"takes": [], "at": now}
        back = now - state["at"]
        if back >= -self.per:
            return state
        return {"takes": [[later_sum(at, back), count] for at, count in state["takes"]], "at": now}  # clock set back

    def left(self, state: State, now: float) -> float:
        return self.rate - math.fsum(count for _, count in self._alive(state, now))

    def fits(self, state: State, now: float, level: float) -> bool:
        return self._fit(self._alive(state, now), level)

    def earliest(self, state: State, now: float, level: float) -> float:
        alive = self._alive(state, now)
        if self._fit(alive, level):
            return now
        gone = bisect_left(range(len(alive)), True, key=lambda gone: self._fit(alive[gone:], level))
        return self._end(alive[gone - 1])

    def take(self, state: State, now: float, count: float) -> tuple[State, float]:
        # When its caller arrives there by waiting, which may be a rounding later.
        at = now + wait_between(now, self.earliest(state, now, count))
        return self._record(state, now, at, count), at

    def charge(self, state: State, now: float, count: float) -> State:
        return self._record(state, now, now, count)

    def give_back(self, state: State, count: float, at: float | None, now: float | None) -> State:
        """Without `at`, what is oldest: whichever take of those that count was meant, this never frees too much."""
        takes: list[Take] = []
        for instant, taken in state["takes"]:
            mine = at is None or at <= instant <= at + self.per / SLOTS
            alive = now is None or self._end([instant, taken]) > now
            back = min(count, taken) if mine and alive else 0.0
            count -= back
            if taken > back:
                takes.append([instant, taken - back])
        return {**state, "takes": takes}

    def adopt(self, state: State, old: SlidingWindow) -> State:
        return state

    def _end(self, take: Take) -> float:
        return later_sum(take[0], self.per)

    def _alive(self, state: State, now: float) -> list[Take]:
        takes: list[Take] = state["takes"]
        return takes[bisect_right(takes, now, key=self._end) :]

    def _fit(self, alive: list[Take], level: float) -> bool:
        return math.fsum([*(count for _, count in alive), level]) <= self.rate

    def _record(self, state: State, now: float, at: float, count: float) -> State:
        last = max(now, state["at"])
        return {"takes": self._with(self._alive(state, now), max(at, last), count), "at": last}

    def _with(self, takes: list[Take], at: float, count: float) -> list[Take]:
        """`takes` and one more, which joins a neighbour in its slot where there are many."""
        place = bisect_right(takes, at, key=lambda take: take[0])
        crowded = len(takes) >= EXACT
        if crowded and place < len(takes) and self._slot(takes[place][0]) == self._slot(at):
            instant, other = takes[place]
            return [*takes[:place], [instant, other + count], *takes[place + 1 :]]
        if crowded and place and self._slot(takes[place - 1][0]) == self._slot(at):
            return [*takes[: place - 1], [at, takes[place - 1][1] + count], *takes[place:]]
        return [*takes[:place], [at, count], *takes[place:]]

    def _slot(self, at: float) -> float:
        return at // (self.per / SLOTS)
