"""The backoff is bounded: a pure function, at any attempt, whatever a provider asks for."""

from __future__ import annotations

import math
import sys

from hypothesis import example, given
from hypothesis import strategies as st

from ipyconvexai.providers.retry import JITTER, LONGEST_BACKOFF, LONGEST_PAUSE, SPREAD, pause_before_retry, retry_after
from tests.promises.promising import Figure

PROMISE = "the pause before a retry is bounded, at the 2,000th attempt and whatever the provider asks for"

fractions = st.floats(0, 1, exclude_max=True)
dates = st.builds(
    "{}, {:02} {} {:04} {}:00:00 {}".format,
    st.sampled_from(["Mon", "Fri"]),
    st.integers(0, 32),
    st.sampled_from(["Jan", "Feb", "Dec", "Foo"]),
    st.one_of(st.integers(0, 10000), st.just(10**30)),
    st.integers(0, 25),
    st.sampled_from(["GMT", "-0000", "+2359", "-2359", "+9999999", ""]),
)
wishes = st.one_of(dates, st.floats().map(repr), st.integers().map(str), st.text(max_size=40), st.just("9" * 400))
names = st.sampled_from(["retry-after", "retry-after-ms", "x-should-retry"])


@given(attempt=st.one_of(st.integers(1, 5000), st.integers(1, sys.maxsize)), fraction=fractions)
@example(2000, 0.0)
@example(2000, math.nextafter(1, 0))
def test_any_attempt(attempt: int, fraction: float):
    pause = pause_before_retry(attempt, attempt, random=lambda: fraction)
    after = pause_before_retry(attempt + 1, attempt + 1, random=lambda: fraction)
    assert pause is not None
    assert after is not None
    assert 0 < pause <= after <= LONGEST_BACKOFF * (1 + JITTER)


@given(
    attempt=st.integers(1, 5000),
    status=st.one_of(st.none(), st.integers(400, 599)),
    headers=st.dictionaries(names, wishes),
    fraction=fractions,
    longest=st.one_of(st.just(LONGEST_PAUSE), st.floats(0, 3600)),
)
@example(1, 429, {"retry-after": "-5"}, 0.0, LONGEST_PAUSE)
@example(1, 429, {"retry-after": "1e400"}, 0.0, LONGEST_PAUSE)
@example(1, 429, {"retry-after": "nan"}, 0.0, LONGEST_PAUSE)
@example(1, 503, {"retry-after": "Thu, 31 Dec 9999 23:59:59 -2359"}, 0.5, LONGEST_PAUSE)
@example(1, 503, {"retry-after": "Mon, 01 Jan 0001 00:00:00 +2359"}, 0.5, LONGEST_PAUSE)
@example(1, 503, {"retry-after": "Thu, 01 Jan 1000000000000000000000000000000 00:00:00 GMT"}, 0.5, LONGEST_PAUSE)
@example(1, 503, {"retry-after": "Thu, 01 Jan 2026 00:00:00 +9999999999999999999999"}, 0.5, LONGEST_PAUSE)
@example(1, 503, {"retry-after": "1_000"}, 0.5, LONGEST_PAUSE)
def test_any_wish(attempt: int, status: int | None, headers: dict[str, str], fraction: float, longest: float):
    asked = retry_after(headers)
    assert asked is None or (asked >= 0 and math.isfinite(asked))
    pause = pause_before_retry(attempt, 5000, status=status, headers=headers, random=lambda: fraction, longest=longest)
    if pause is not None:
        assert (asked or 0.0) <= pause <= max(longest + max(SPREAD, JITTER * longest), LONGEST_BACKOFF * (1 + JITTER))


def test_the_longest(figure: Figure):
    """What the two above bound, in seconds."""
    most = math.nextafter(1, 0)
    late = pause_before_retry(2000, 2000, random=lambda: most)
    told = pause_before_retry(1, 1, headers={"retry-after": str(LONGEST_PAUSE)}, random=lambda: most)
    assert late is not None
    assert told is not None
    assert late <= LONGEST_BACKOFF * (1 + JITTER)
    assert told <= LONGEST_PAUSE + max(SPREAD, JITTER * LONGEST_PAUSE)
    figure(f"at most {late:.0f} s at attempt 2,000, {told:.0f} s where the provider asks for {LONGEST_PAUSE:g} s")
