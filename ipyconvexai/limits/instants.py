"""Sums of instants that never come out too early. Pure: calls nothing.

Instants and spans are floats, in seconds. Where a sum lies between two floats, rounding to the nearest would let
something happen a moment too soon; these round to the later one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["first_at_which", "later_sum", "wait_between"]


def later_sum(instant: float, span: float) -> float:
    """The first float that is not before ``instant + span``."""
    total = instant + span
    part = total - instant
    error = (instant - (total - part)) + (span - part)  # exact: Knuth's two-sum
    return math.nextafter(total, math.inf) if error > 0 else total


def wait_between(now: float, at: float) -> float:
    """Seconds from `now` on after which it is `at`: ``now + wait_between(now, at) >= at``, and never negative."""
    wait = max(0.0, at - now)
    while now + wait < at:
        wait = math.nextafter(wait, math.inf)
    return wait


def first_at_which(test: Callable[[float], bool], guess: float) -> float:
    """`guess`, or the next instant a few roundings later, at which `test` holds; it must hold at some time."""
    step = math.ulp(guess)
    while not test(guess):
        guess += step
        step *= 2
    return guess
