"""Token buckets: filled evenly, `rate` per `per` seconds, up to `capacity`. Pure: calls instants only.

State: ``{"value": tokens, "at": instant}``; the value is negative where more was reserved than there was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ipyconvexai.limits.instants import first_at_which

__all__ = ["Bucket"]

State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bucket:
    rate: float
    per: float
    capacity: float

    def current(self, state: State | None, now: float) -> State:
        if state is None:
            return {"value": self.capacity, "at": now}
        if now < state["at"] - self.per:  # the clock was set back: from here on it is filled by the new time
            return {"value": state["value"], "at": now}
        return state

    def left(self, state: State, now: float) -> float:
        elapsed = max(0.0, now - state["at"])
        return float(min(state["value"] + elapsed * self.rate / self.per, self.capacity))

    def fits(self, state: State, now: float, level: float) -> bool:
        return self.left(state, now) >= level

    def earliest(self, state: State, now: float, level: float) -> float:
        if self.fits(state, now, level):
            return now
        guess = max(now, state["at"] + (level - state["value"]) * self.per / self.rate)
        return first_at_which(lambda at: self.fits(state, at, level), guess)

    def take(self, state: State, now: float, count: float) -> tuple[State, float]:
        state = self.charge(state, now, count)
        return state, self.earliest(state, now, 0.0)

    def charge(self, state: State, now: float, count: float) -> State:
        return {"value": self.left(state, now) - count, "at": max(now, state["at"])}

    def give_back(self, state: State, count: float, at: float | None, now: float | None) -> State:
        return {**state, "value": state["value"] + count}  # what is beyond `capacity` is never counted

    def adopt(self, state: State, old: Bucket) -> State:
        return state
