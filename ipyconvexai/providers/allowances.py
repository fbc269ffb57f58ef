"""What a provider says of its own limits: the ``x-ratelimit-*`` headers and a 429's Retry-After. Pure.

OpenAI and those who follow it send limit, remaining and reset of requests and of tokens; a reset is "1s", "6m0s",
"20ms" or plain seconds. Others write ``ratelimit-*`` without the x, or ``anthropic-ratelimit-*`` with a date.
"""

from __future__ import annotations

import datetime
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ipyconvexai.providers.retry import retry_after

__all__ = ["Allowance", "Said", "read", "seconds_of"]

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|d|h|m|s)")
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-")
_SHORTEST_PAUSE = 0.05  # seconds


@dataclass(frozen=True, slots=True)
class Allowance:
    """Of requests or tokens; None is what was not said. `reset`: seconds until all of it is there again."""

    what: str
    limit: int | None = None
    remaining: int | None = None
    reset: float | None = None

    @property
    def text(self) -> str:
        """4,999 of 5,000 requests left, all again in 12 s"""
        left = "" if self.remaining is None else f"{self.remaining:,}"
        of = "" if self.limit is None else f"{self.limit:,}"
        said = f"{left} of {of} {self.what} left" if left and of else f"{left} {self.what} left" if left else ""
        said = said or (f"at most {of} {self.what}" if of else self.what)
        return said if self.reset is None else f"{said}, all again in {self.reset:.3g} s"


@dataclass(frozen=True, slots=True)
class Said:
    """`pause`: seconds for which nothing should be sent."""

    allowances: tuple[Allowance, ...]
    pause: float | None = None

    @property
    def text(self) -> str:
        return "; ".join(allowance.text for allowance in self.allowances)


def read(headers: Mapping[str, str], status: int, now: Callable[[], float] = time.time) -> Said | None:
    """What the headers of an answer say; None: nothing. `now`: seconds since the epoch, for dates."""
    found = tuple(
        allowance
        for prefix in _PREFIXES
        for what in ("requests", "tokens")
        if (allowance := _allowance(headers, prefix, what, now)) is not None
    )
    pause = _pause(headers, found, now) if status == 429 else None
    return Said(found, pause) if found or pause is not None else None


def _allowance(headers: Mapping[str, str], prefix: str, what: str, now: Callable[[], float]) -> Allowance | None:
    names = ("limit", "remaining", "reset")
    if prefix == "x-ratelimit-":
        said = [headers.get(f"{prefix}{name}-{what}") for name in names]
    else:
        said = [headers.get(f"{prefix}{what}-{name}") for name in names]
    if said == [None, None, None]:
        return None
    return Allowance(what, _whole(said[0]), _whole(said[1]), None if said[2] is None else seconds_of(said[2], now))


def _pause(headers: Mapping[str, str], found: tuple[Allowance, ...], now: Callable[[], float]) -> float | None:
    asked = retry_after(headers, now)
    if asked is None:
        spent = [one.reset for one in found if one.remaining == 0 and one.reset is not None]
        asked = max(spent, default=None)
    return None if asked is None or asked < _SHORTEST_PAUSE else asked


def _whole(text: str | None) -> int | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return int(number) if math.isfinite(number) and number >= 0 else None


def seconds_of(text: str, now: Callable[[], float] = time.time) -> float | None:
    """Seconds of "1s", "6m0s", "20ms", "1.5", or until an RFC 3339 date; None where it is none of these."""
    text = text.strip()
    try:
        number = float(text)
    except ValueError:
        pass
    else:
        return max(0.0, number) if math.isfinite(number) else None
    parts = _PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return min(1e9, sum(float(number[:15]) * _UNITS[unit] for number, unit in parts))
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - now()) if moment.tzinfo is not None else None
