"""Fixed windows: `rate` is added at the beginning of each, up to `capacity`. Pure: calls instants only.

State: ``{"value": what is left, "start": instant, "window": number}``: windows are counted from `start`, in exact
arithmetic, so that none begins early and no rounding adds up over the years.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

__all__ = ["FixedWindow"]

State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FixedWindow:
    rate: float
    per: float
    capacity: float
    start: float | None = None

    def current(self, state: State | None, now: float) -> State:
        if state is None:
            start = now if self.start is None else self.start
            return {"value": self.capacity, "start": start, "window": self._number(start, now)}
        number = self._number(state["start"], now)
        if number >= state["window"] - 1:
            return state
        if self.start is None:  # the clock was set back: a whole window begins
            return {**state, "start": now, "window": 0}
        return {**state, "window": number}

    def left(self, state: State, now: float) -> float:
        return self._left_after(state, self._number(state["start"], now) - state["window"])

    def fits(self, state: State, now: float, level: float) -> bool:
        return self.left(state, now) >= level

    def earliest(self, state: State, now: float, level: float) -> float:
        if self.fits(state, now, level):
            return now
        windows = max(1, math.ceil((level - state["value"]) / self.rate) - 1)  # the quotient may be rounded up
        while self._left_after(state, windows) < level:
            windows += 1
        return max(now, self._begin(state["start"], state["window"] + windows))

    def take(self, state: State, now: float, count: float) -> tuple[State, float]:
        state = self.charge(state, now, count)
        return state, self.earliest(state, now, 0.0)

    def charge(self, state: State, now: float, count: float) -> State:
        number = max(state["window"], self._number(state["start"], now))
        return {**state, "value": self.left(state, now) - count, "window": number}

    def give_back(self, state: State, count: float, at: float | None, now: float | None) -> State:
        if at is not None and self._number(state["start"], at) < state["window"]:
            return state  # of a window that is over
        return {**state, "value": state["value"] + count}  # what is beyond `capacity` is never counted

    def adopt(self, state: State, old: FixedWindow) -> State:
        begin = self._begin(state["start"], state["window"], old.per)
        start = begin if self.start is None else self.start
        return {"value": state["value"], "start": start, "window": self._number(start, begin)}

    def _left_after(self, state: State, windows: int) -> float:
        return float(min(state["value"] + self.rate * max(0, windows), self.capacity))

    def _number(self, start: float, now: float) -> int:
        """Of the window that `now` is in; the first is 0."""
        return math.floor((Fraction(now) - Fraction(start)) / Fraction(self.per))

    def _begin(self, start: float, number: int, per: float | None = None) -> float:
        exact = Fraction(start) + number * Fraction(self.per if per is None else per)
        begin = float(exact)
        return math.nextafter(begin, math.inf) if Fraction(begin) < exact else begin
