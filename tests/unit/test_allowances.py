"""What providers say of their limits, as they say it."""

from __future__ import annotations

import math

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipyconvexai.providers.allowances import Allowance, read, seconds_of

OPENAI = {
    "x-ratelimit-limit-requests": "5000",
    "x-ratelimit-remaining-requests": "4999",
    "x-ratelimit-reset-requests": "250ms",
    "x-ratelimit-limit-tokens": "160000",
    "x-ratelimit-remaining-tokens": "159976",
    "x-ratelimit-reset-tokens": "6m0s",
}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1.0), ("6m0s", 360.0), ("20ms", 0.02), ("1.5", 1.5), ("0", 0.0), ("-3", 0.0), ("1h2m3.5s", 3723.5),
     ("1d", 86400.0), ("2m59.56s", 179.56), (" 7s ", 7.0), ("1970-01-01T00:00:30Z", 20.0)],
)  # fmt: skip
def test_resets_in_all_their_forms(text: str, seconds: float):
    assert seconds_of(text, lambda: 10.0) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "nan", "inf", "1x", "s", "1s2", "1970-01-01T00:00:30"])
def test_what_is_no_reset_is_none(text: str):
    assert seconds_of(text) is None


@given(st.text(max_size=40))
def test_no_text_is_too_strange(text: str):
    seconds = seconds_of(text)
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


def test_openais_headers():
    said = read(OPENAI, 200)
    assert said is not None
    assert said.allowances == (
        Allowance("requests", 5000, 4999, 0.25),
        Allowance("tokens", 160000, 159976, 360.0),
    )
    assert said.pause is None
    assert said.text == (
        "4,999 of 5,000 requests left, all again in 0.25 s; 159,976 of 160,000 tokens left, all again in 360 s"
    )


def test_headers_as_they_come_from_the_network():
    said = read(httpx2.Headers({"X-RateLimit-Remaining-Tokens": "7"}), 200)
    assert said is not None
    assert said.text == "7 tokens left"


def test_anthropics_headers():
    headers = {"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": "1970-01-01T00:00:30Z"}
    said = read(headers, 429, lambda: 10.0)
    assert said is not None
    assert said.pause == pytest.approx(20.0)


def test_a_429_asks_for_a_pause():
    said = read({**OPENAI, "retry-after": "7"}, 429)
    assert said is not None
    assert said.pause == 7.0
    said = read({"retry-after-ms": "1500", "retry-after": "7"}, 429)
    assert said is not None
    assert (said.allowances, said.pause) == ((), 1.5)
    spent = {**OPENAI, "x-ratelimit-remaining-tokens": "0"}
    said = read(spent, 429)
    assert said is not None
    assert said.pause == 360.0


def test_no_pause_without_a_429_or_without_a_moment():
    spent = read({**OPENAI, "x-ratelimit-remaining-requests": "0", "retry-after": "7"}, 200)
    assert spent is not None
    assert spent.pause is None
    assert read({}, 429) is None
    assert read({"retry-after": "0"}, 429) is None


def test_an_answer_that_says_nothing():
    assert read({"content-type": "application/json"}, 200) is None


def test_nonsense_is_left_out():
    said = read({"x-ratelimit-limit-requests": "many", "x-ratelimit-remaining-requests": "-1"}, 200)
    assert said is not None
    assert said.allowances == (Allowance("requests"),)
