"""What batches promise, in figures, measured at the provider. The long forms are the figures in full."""

from __future__ import annotations

import collections
import random
import time
from itertools import pairwise
from typing import Any

import pandas as pd

import ipyconvexai as ai
from ipyconvexai.testing import Answer, Endpoint, Fault
from ipyconvexai.testing.received import Received


def question_of(call: Received) -> str:
    return str(call.body["messages"][-1]["content"])


def texts_of(count: int, distinct: int | None = None) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"<text {number % (distinct or count)}>" for number in range(count)]})


# ------------------------------------------------------------------------------------------------- errors
def test_one_bad_row_of_200(app: ai.App, endpoint: Endpoint):
    endpoint.reply(lambda call: Fault(400, message="no such text") if "<text 117>" in question_of(call) else "fine")
    result = ai.summarize(texts_of(200), "text", progress=False)
    assert endpoint.count == 200
    assert result["summary"].notna().sum() == 199
    (error,) = result["summary_error"].dropna()
    assert result["summary_error"].notna().tolist().index(True) == 117
    assert "400" in error
    assert "no such text" in error


# ------------------------------------------------------------------------------------------------- what is known
def test_5000_rows_of_1000_texts(app: ai.App, endpoint: Endpoint):
    frame = texts_of(5000, distinct=1000).sample(frac=1, random_state=1)
    first = ai.summarize(frame, "text", progress=False)
    assert endpoint.count == 1000
    assert first["summary"].notna().all()
    assert first.groupby("text")["summary"].nunique().eq(1).all()
    pd.testing.assert_frame_equal(ai.summarize(frame, "text", progress=False), first)
    assert endpoint.count == 1000


# ------------------------------------------------------------------------------------------------- Retry-After
def refusing(endpoint: Endpoint, part: float, after: float) -> dict[str, list[float]]:
    """Let the endpoint refuse `part` of all requests; the moments at which each text came, refused ones first."""
    seen: dict[str, list[float]] = collections.defaultdict(list)
    chance = random.Random(4)

    def answer(call: Received) -> Any:
        text = question_of(call)
        seen[text].append(call.time)
        if chance.random() < part:
            return Fault(429, retry_after=after)
        return Answer("fine", delay=0.02)

    endpoint.reply(answer)
    return seen


def check_retries(seen: dict[str, list[float]], after: float) -> int:
    """None came before its time, and they did not come together; how many there were."""
    again = sorted(later for moments in seen.values() for later in moments[1:])
    early = [
        later - sooner for moments in seen.values() for sooner, later in pairwise(moments) if later - sooner < after
    ]
    assert early == []
    together = max(sum(moment <= other < moment + 0.05 for other in again) for moment in again)
    print(f"{len(again)} retries, at most {together} ({together / len(again):.0%}) in 50 ms")
    assert together <= 0.25 * len(again)
    return len(again)


def test_refused_requests_come_again_after_their_time_and_not_together(app: ai.App, endpoint: Endpoint):
    seen = refusing(endpoint, 0.3, after=1)
    begun = time.monotonic()
    result = ai.summarize(texts_of(500), "text", progress=False)
    took = time.monotonic() - begun
    assert result["summary_error"].dropna().tolist() == []
    retries = check_retries(seen, after=1)
    print(f"500 rows in {took:.1f} s")
    assert endpoint.count == 500 + retries
    attempts = ai.ledger.sql("SELECT count(*), count(*) FILTER (status = 'ok') FROM calls").fetchall()
    assert attempts == [(500 + retries, 500)], "each attempt is a row"
