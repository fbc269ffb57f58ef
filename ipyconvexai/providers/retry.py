"""Whether and when a failed attempt is repeated: one policy for every call. Pure: calls nothing.

408, 409, 429 and 5xx, lost connections and time-outs are repeated, other 4xx are not. The pause is what the provider
asks for (Retry-After, RFC 9110 10.2.3; ``retry-after-ms`` and ``x-should-retry`` as OpenAI sends them), else an
exponential backoff; jitter keeps rows that failed together from waking together.
"""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Callable, Mapping

__all__ = ["LONGEST_PAUSE", "pause_before_retry", "retry_after"]

FIRST_PAUSE = 0.5  # seconds
LONGEST_BACKOFF = 30.0  # seconds
LONGEST_PAUSE = 120.0  # seconds; a provider that asks for more gets no further attempt from this call
JITTER = 0.25  # the pause is lengthened by up to this part of it
SPREAD = 1.0  # seconds; and by at least this much at random where the provider named the moment

_FINAL_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached"})  # 429s that waiting does not cure


def retry_after(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Seconds the provider asks to wait, or None; a date in the past or a negative number counts as 0."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        moment = email.utils.parsedate_to_datetime(headers.get("retry-after", "")).timestamp()
    except (TypeError, ValueError, OverflowError):  # the year 10 ** 30
        return None
    return max(0.0, moment - now())


def pause_before_retry(
    attempt: int,
    retries: int,
    *,
    status: int | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
    random: Callable[[], float],
    longest: float = LONGEST_PAUSE,
) -> float | None:
    """Seconds to wait before the next attempt; None when there is none.

    Args:
        attempt: the number of the attempt that failed, from 1.
        retries: attempts allowed after the first.
        status: its HTTP status; None when no answer came (connection lost, time-out).
        code: the provider's error code.
        headers: the answer's headers.
        random: gives a number in [0, 1).
    """
    headers = headers or {}
    if attempt > retries or not _is_retryable(status, code, headers):
        return None
    asked = retry_after(headers)
    if asked is not None and asked > longest:
        return None
    if asked is not None:
        return asked + random() * max(SPREAD, JITTER * asked)
    # 2.0 ** 2000 would overflow: bound the exponent, not only the result.
    backoff = min(LONGEST_BACKOFF, FIRST_PAUSE * 2.0 ** min(attempt - 1, 16))
    return backoff * (1.0 + JITTER * random())


def _is_retryable(status: int | None, code: str | None, headers: Mapping[str, str]) -> bool:
    if status is None:
        return True
    if code in _FINAL_CODES:
        return False
    wish = headers.get("x-should-retry")
    if wish in ("true", "false"):
        return wish == "true"
    return status in (408, 409, 429) or status >= 500
