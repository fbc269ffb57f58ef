"""The retry policy, a pure function; its bounds: `tests/promises/test_backoff.py`."""

from __future__ import annotations

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipyconvexai.providers.retry import (
    FIRST_PAUSE,
    JITTER,
    LONGEST_BACKOFF,
    LONGEST_PAUSE,
    SPREAD,
    pause_before_retry,
    retry_after,
)

fractions = st.floats(0, 1, exclude_max=True)


def test_it_doubles():
    assert [pause_before_retry(n, 9, random=lambda: 0.0) for n in (1, 2, 3, 2000)] == [0.5, 1.0, 2.0, None]
    assert pause_before_retry(2000, 2000, random=lambda: 0.0) == LONGEST_BACKOFF


@given(asked=st.floats(0, LONGEST_PAUSE), fraction=fractions)
def test_never_before_the_moment_the_provider_named(asked: float, fraction: float):
    pause = pause_before_retry(1, 1, status=429, headers={"retry-after": repr(asked)}, random=lambda: fraction)
    assert pause is not None
    assert asked <= pause <= asked + max(SPREAD, JITTER * asked)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529, None])
def test_what_is_repeated(status: int | None):
    assert pause_before_retry(1, 1, status=status, random=lambda: 0.0) == FIRST_PAUSE
    assert pause_before_retry(2, 1, status=status, random=lambda: 0.0) is None
    assert pause_before_retry(1, 0, status=status, random=lambda: 0.0) is None


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
def test_what_is_not(status: int):
    assert pause_before_retry(1, 9, status=status, random=lambda: 0.0) is None


@pytest.mark.parametrize("code", ["insufficient_quota", "billing_hard_limit_reached"])
def test_an_empty_purse_is_not_a_rate(code: str):
    assert pause_before_retry(1, 9, status=429, code=code, random=lambda: 0.0) is None


def test_the_providers_own_word_counts():
    yes, no = {"x-should-retry": "true"}, {"x-should-retry": "false"}
    assert pause_before_retry(1, 1, status=400, headers=yes, random=lambda: 0.0) is not None
    assert pause_before_retry(1, 1, status=503, headers=no, random=lambda: 0.0) is None


def test_who_asks_for_too_much_gets_no_further_attempt():
    too_long = {"retry-after": str(LONGEST_PAUSE + 1)}
    assert pause_before_retry(1, 9, status=429, headers=too_long, random=lambda: 0.0) is None


def test_a_date_counts_from_now():
    date = email.utils.formatdate(1_000_060, usegmt=True)
    assert retry_after({"retry-after": date}, now=lambda: 1_000_000.0) == 60
    assert retry_after({"retry-after": date}, now=lambda: 2_000_000.0) == 0
    assert retry_after({}) is None


def test_what_is_asked_for():
    assert retry_after({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert retry_after({"retry-after-ms": "soon", "retry-after": "9"}) == 9.0
    assert retry_after({"retry-after-ms": "-1"}) == 0.0
    assert retry_after({"retry-after-ms": "inf", "retry-after": "9"}) is None
    assert retry_after({"retry-after": "nan"}) is None


def test_the_jitter():
    def pause(asked: float, fraction: float) -> float | None:
        return pause_before_retry(1, 1, headers={"retry-after": str(asked)}, random=lambda: fraction)

    assert pause(2.0, 0.5) == 2.0 + 0.5 * SPREAD
    assert pause(100.0, 0.5) == 100.0 + 0.5 * JITTER * 100.0
    assert pause(LONGEST_PAUSE, 0.0) == LONGEST_PAUSE
    assert pause_before_retry(1, 1, random=lambda: 0.5) == FIRST_PAUSE * (1 + 0.5 * JITTER)
