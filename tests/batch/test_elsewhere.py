"""Whole batches whose requests are sent elsewhere: by an executor's workers, by the provider's Batch API."""

from __future__ import annotations

import datetime
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pytest

import ipyconvexai as ai
from ipyconvexai.batch import provider_batches, provider_runner
from ipyconvexai.functions.changes import hub_of
from ipyconvexai.testing import Answer, Endpoint, Fault


def asked(call: Any) -> str:
    return str(call.body["messages"][-1]["content"])


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"text": [f"document {n % 12}" for n in range(30)]})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at the provider's batch without waiting between."""
    monkeypatch.setattr(provider_batches, "FIRST_LOOK", 0.01)
    monkeypatch.setattr(provider_batches, "LONGEST_LOOK", 0.01)


def test_an_executor_gives_the_same_frame(app: ai.App, endpoint: Endpoint, frame: pd.DataFrame):
    endpoint.reply(lambda call: Fault(400) if "document 3" in asked(call) else Answer(asked(call)[-40:]))
    with ThreadPoolExecutor(2) as pool:
        there = ai.summarize(frame, "text", engine=pool, progress=False)
    assert endpoint.count == 12
    here = ai.summarize(frame, "text", progress=False)
    pd.testing.assert_frame_equal(there, here)
    assert endpoint.count == 13, "the failed one"
    engines = ai.batches().df()["engine"].tolist()
    assert [name or None for name in engines if isinstance(name, str)] == ["concurrent.ThreadPoolExecutor"]


def test_the_providers_batch_gives_the_same_frame_at_half_the_price(
    app: ai.App, endpoint: Endpoint, frame: pd.DataFrame, quick: None
):
    there = ai.summarize(frame, "text", engine="openai-batch", progress=False, details=True)
    assert [call.path for call in endpoint.calls if call.path.endswith("chat/completions")] == []
    here = ai.summarize(frame, "text", progress=False, details=True)
    pd.testing.assert_frame_equal(there, here)
    fresh = ai.summarize(frame, "text", progress=False, details=True, fresh=True)
    assert (2 * there["summary_cost"]).tolist() == pytest.approx(fresh["summary_cost"].tolist())
    calls = ai.ledger.sql(
        "SELECT count(*) FROM calls WHERE endpoint = 'chat/completions' AND status = 'ok' AND source = 'batch'"
    ).fetchall()
    assert calls == [(24,)]


def test_a_reply_that_does_not_fit_is_a_second_round(app: ai.App, endpoint: Endpoint, quick: None):
    endpoint.reply(lambda call: Answer('{"n": 1}' if len(call.body["messages"]) > 1 else '{"n": "one"}'))
    frame = pd.DataFrame({"text": ["a", "b"]})
    result = ai.map(frame, "Count {text}", schema="n int", engine="openai-batch", progress=False)
    assert result["n"].tolist() == [1, 1]
    assert len(endpoint.batches.all) == 2


def test_running_the_cell_again_waits_for_what_is_under_way(
    app: ai.App, endpoint: Endpoint, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
):
    """As after an interrupt, or a kernel that died."""
    endpoint.batches.polls = None

    class Interrupted(Exception):
        pass

    async def interrupted(*arguments: Any) -> None:
        raise Interrupted

    monkeypatch.setattr(provider_batches, "_nap", interrupted)
    with pytest.raises(Interrupted):
        ai.summarize(frame, "text", engine="openai-batch", progress=False)
    assert ai.batches().df()["state"].iloc[0] == "failed"
    endpoint.batches.finish(endpoint.batches.all[0])
    result = ai.summarize(frame, "text", engine="openai-batch", progress=False)
    assert result["summary"].notna().all()
    assert len(endpoint.batches.all) == 1, "nothing was handed over twice"


def test_a_long_text_in_the_providers_batch(app: ai.App, endpoint: Endpoint, quick: None):
    endpoint.reply(lambda call: Answer("A short answer."))
    text = " ".join(f"Sentence number {n} says something of its own." for n in range(600))
    frame = pd.DataFrame({"text": [text, "short"]})
    result = ai.summarize(frame, "text", engine="openai-batch", progress=False, context=3000, max_tokens=200)
    assert result["summary"].tolist() == ["A short answer."] * 2
    assert len(endpoint.batches.all) == 2, "parts, then their combination"
    parts = ai.ledger.sql("SELECT round, count(*) FROM batch_parts GROUP BY round ORDER BY round").fetchall()
    assert parts[0][1] > 2
    assert parts[1:] == [(1, 1)]


def test_a_budget_holds_for_the_providers_batch(app: ai.App, endpoint: Endpoint, frame: pd.DataFrame, quick: None):
    result = ai.summarize(frame, "text", engine="openai-batch", progress=False, budget=1e-9)
    assert result["summary"].isna().all()
    assert result["summary_error"].str.startswith("budget").all()
    assert endpoint.batches.all == []


def test_the_scheduler_collects_what_nobody_waits_for(
    app: ai.App, endpoint: Endpoint, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
):
    """As after a kernel that died: no cell is run again, but a worker is up."""
    endpoint.batches.polls = None
    napping = provider_batches._nap

    async def interrupted(*arguments: Any) -> None:
        raise RuntimeError("the kernel died")

    monkeypatch.setattr(provider_batches, "_nap", interrupted)
    monkeypatch.setattr(provider_runner, "FIRST_LOOK", datetime.timedelta(0))
    with pytest.raises(RuntimeError, match="died"):
        ai.summarize(frame, "text", engine="openai-batch", progress=False)
    monkeypatch.setattr(provider_batches, "_nap", napping)
    endpoint.batches.finish(endpoint.batches.all[0])
    app.functions.start()
    arrived = threading.Event()
    unsubscribe = hub_of(app.store).subscribe(lambda tables: arrived.set(), arrived.set)
    try:
        while not (over := ai.jobs(name="ai.tend_provider_batch", state="success").fetchall()):
            assert arrived.wait(20)
            arrived.clear()
    finally:
        unsubscribe()
    assert len(over) == 1
    answered = ai.ledger.sql("SELECT count(*) FROM calls WHERE endpoint = 'chat/completions' AND status = 'ok'")
    assert answered.fetchall() == [(12,)]
    assert ai.summarize(frame, "text", progress=False)["summary"].notna().all()
    assert len(endpoint.batches.all) == 1
