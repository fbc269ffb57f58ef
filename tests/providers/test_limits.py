"""Limits on the way of a call: it waits and says why, or raises; it can be left; money is counted as it is spent."""

from __future__ import annotations

import asyncio
import dataclasses
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import openai
import pytest

import ipyconvexai as ai
from ipyconvexai.errors import BudgetError, CallError, InputError, LimitError
from ipyconvexai.limiting import Limiting
from ipyconvexai.loops import BackgroundLoop
from ipyconvexai.providers.calls import CALLER
from ipyconvexai.providers.corridor import Corridor
from ipyconvexai.settings import Settings
from ipyconvexai.store.clock import Clock
from ipyconvexai.store.link import Store
from ipyconvexai.testing import Answer, Endpoint, Fault
from ipyconvexai.values import Replay, Wait
from tests.providers.lab import HELLO, KEY, Lab, rows, statuses
from tests.store.helpers import clock_from


class Limits(Limiting):
    def __init__(self, store: Store) -> None:
        self.store = store


@pytest.fixture
def limits(app: ai.App) -> Limits:
    return Limits(app.store)


@contextmanager
def caller(**fields: Any) -> Iterator[None]:
    token = CALLER.set(dataclasses.replace(CALLER.get(), **fields))
    try:
        yield
    finally:
        CALLER.reset(token)


def ask(client: Any, **options: Any) -> Any:
    return client.chat.completions.create(**{"model": "m", "messages": HELLO, **options})


def in_threads(count: int, work: Callable[[], Any]) -> list[Any]:
    """What `work` gave or raised, in each of so many threads."""
    outcomes: list[Any] = []

    def run() -> None:
        try:
            outcomes.append(work())
        except Exception as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def waiting(limits: Limits) -> int:
    return sum(row[5] for row in limits.limits())


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# ---------------------------------------------------------------------------------------------- raise
def test_raise_says_when(client: ai.OpenAI, limits: Limits, app: ai.App, endpoint: Endpoint):
    limits.limit("rpm", requests=1)
    ask(client)
    with caller(limit="raise"), pytest.raises(LimitError) as caught:
        ask(client)
    error = caught.value
    assert error.retry_after == pytest.approx(60, abs=4)
    assert (error.code, error.retryable) == ("limit", True)
    assert error.message == "limit rpm (1 request per minute) is reached"
    assert isinstance(error, openai.APIConnectionError), "code written for the SDK goes on working"
    last = rows(app)[-1]
    assert (last["status"], last["error_code"], str(last["id"])) == ("refused", "limit", error.request_id)
    assert endpoint.count == 1
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.retry_after, again.request_id) == (type(error), error.retry_after, error.request_id)


def test_the_setting_decides_where_the_caller_does_not(endpoint: Endpoint):
    made = Lab(endpoint.url, on_limit="raise")
    Limits(made.store).limit(requests=1)
    try:
        ask(made.client())
        with pytest.raises(LimitError):
            ask(made.client())
    finally:
        made.close()
    with pytest.raises(InputError, match="on_limit"):
        Settings.from_environment({}, path=":memory:", on_limit="fail")


def test_a_call_that_can_never_fit_is_refused_at_once(client: ai.OpenAI, limits: Limits, endpoint: Endpoint):
    limits.limit("small", tokens=50)
    with pytest.raises(LimitError) as caught:
        ask(client, max_tokens=100)
    assert (caught.value.code, caught.value.retry_after, caught.value.retryable) == ("never_fits", None, False)
    assert "more than its 50 tokens per minute" in caught.value.message
    assert endpoint.count == 0


def test_safe_generate_gives_the_failure(
    app: ai.App, limits: Limits, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("VLLM_BASE_URL", endpoint.url)
    limits.limit(requests=1, provider="vllm")
    app.generate("Hello", model="vllm:m")
    with caller(limit="raise"):
        failure = app.safe_generate("Hello", model="vllm:m")
    assert isinstance(failure, ai.Failure)
    assert failure.code == "limit"
    assert failure.retry_after == pytest.approx(60, abs=4)


# ---------------------------------------------------------------------------------------------- wait
def test_a_wait_tells_how_long_and_why(client: ai.OpenAI, limits: Limits, app: ai.App, endpoint: Endpoint):
    limits.limit("fast", requests=1, per=0.3)
    told: list[Wait | None] = []
    ask(client)
    begun = time.monotonic()
    with caller(on_wait=told.append):
        ask(client)
    assert 0.2 < time.monotonic() - begun < 3
    assert isinstance(told[0], Wait)
    assert told[0].message == f"waiting {told[0].seconds:.1f} s: limit fast (1 request per 0.3 s) is reached"
    assert told[-1] is None
    assert app.wiring.corridor.waits == []
    assert statuses(app) == ["ok", "ok"], "a refusal that is waited for leaves no row"
    assert [row["attempt"] for row in rows(app)] == [1, 1]
    first, second = endpoint.calls
    assert second.time - first.time >= 0.3


@pytest.mark.parametrize("change", ["unlimit", "raise"])
def test_who_waits_notices_within_two_seconds_that_a_limit_is_removed_or_raised(lab: Lab, change: str):
    limits = Limits(lab.store)
    limits.limit("slow", requests=1)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3 and change == "unlimit":
            await asyncio.to_thread(limits.unlimit, "slow")
        elif len(slept) == 3:
            await asyncio.to_thread(limits.limit, "slow", requests=9)

    randomness = iter([0.0, 0.5, 0.999])
    lab.corridor = Corridor(lab.ledger, lab.settings, lab.network.send, sleep=sleep, rand=lambda: next(randomness))
    lab.wiring = dataclasses.replace(lab.wiring, corridor=lab.corridor)
    told: list[Wait | None] = []
    ask(lab.client())
    with caller(on_wait=told.append):
        ask(lab.client())
    assert slept == pytest.approx([1.0, 1.5, 1.999]), "not all at once, and soon"
    assert [wait and wait.why for wait in told] == ["limit slow (1 request per minute) is reached", None]


def test_a_wait_is_told_anew_when_it_has_become_longer(lab: Lab):
    limits = Limits(lab.store)
    limits.limit("slow", requests=1, per=20)

    async def sleep(seconds: float) -> None:
        if len(told) == 1:
            await asyncio.to_thread(limits.limit, "slow", requests=1, per=60)
        else:
            await asyncio.to_thread(limits.unlimit, "slow")

    lab.corridor = Corridor(lab.ledger, lab.settings, lab.network.send, sleep=sleep)
    lab.wiring = dataclasses.replace(lab.wiring, corridor=lab.corridor)
    told: list[Wait | None] = []
    ask(lab.client())
    with caller(on_wait=told.append):
        ask(lab.client())
    assert [wait and wait.message for wait in told] == [
        "waiting 20 s: limit slow (1 request per 20 s) is reached",
        "waiting 60 s: limit slow (1 request per minute) is reached",
        None,
    ]


def test_the_background_loop_shows_who_waits(client: ai.OpenAI, limits: Limits, app: ai.App):
    limits.limit("slow", requests=1)
    ask(client)
    thread = threading.Thread(target=in_threads, args=(2, lambda: ask(client)))
    thread.start()
    until(lambda: len(app.wiring.corridor.waits) == 2 and waiting(limits) == 2)
    assert app.wiring.corridor.waits[0].why == "limit slow (1 request per minute) is reached"
    app.close()
    thread.join(10)


def test_a_wait_can_be_cancelled(app: ai.App, limits: Limits, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLLM_BASE_URL", endpoint.url)
    limits.limit(requests=1)
    app.generate("Hello", model="vllm:m")

    async def main() -> None:
        task = asyncio.create_task(app.agenerate("Hello", model="vllm:m"))
        await asyncio.to_thread(until, lambda: waiting(limits) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    until(lambda: waiting(limits) == 0)
    assert statuses(app) == ["ok"]
    assert endpoint.count == 1


def test_a_wait_can_be_interrupted(client: ai.OpenAI, app: ai.App, limits: Limits, endpoint: Endpoint):
    limits.limit(requests=1)
    ask(client)

    def interrupt(wait: Wait | None) -> None:
        if wait is not None:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    begun = time.monotonic()
    with caller(on_wait=interrupt), pytest.raises(KeyboardInterrupt):
        ask(client)
    assert time.monotonic() - begun < 5
    until(lambda: waiting(limits) == 0)
    limits.unlimit("requests-per-minute")
    ask(client)
    assert statuses(app) == ["ok", "ok"]


def test_replayed_answers_are_free(client: ai.OpenAI, limits: Limits, endpoint: Endpoint):
    limits.limit(requests=1)
    with caller(replay=Replay.REUSE, limit="raise"):
        for _ in range(3):
            ask(client)
    assert endpoint.count == 1


def test_streams_take_one_place_until_their_end(client: ai.OpenAI, limits: Limits, endpoint: Endpoint):
    limits.limit(concurrency=1)
    stream = ask(client, stream=True)
    with caller(limit="raise"):
        with pytest.raises(LimitError, match="1 request at once"):
            ask(client)
        for _ in stream:
            pass
        until(lambda: limits.limits().fetchall()[0][3] == "0 requests")
        ask(client)


def test_a_retry_is_judged_as_a_call_of_its_own(lab: Lab, endpoint: Endpoint):
    Limits(lab.store).limit(requests=2)
    endpoint.reply([Fault(500, times=3), "done"])
    with caller(limit="raise"), pytest.raises(LimitError):
        ask(lab.client(max_retries=3))
    assert statuses(lab) == ["error", "error", "refused"]


# ---------------------------------------------------------------------------------------------- sent at once
def test_a_caller_enters_its_gate_before_it_is_admitted(lab: Lab, endpoint: Endpoint):
    Limits(lab.store).limit(requests=1000)
    client = lab.aclient()
    endpoint.hold()

    async def main() -> None:
        with caller(gate=asyncio.Semaphore(1)):
            tasks = [asyncio.create_task(ask(client)) for _ in range(3)]
            await asyncio.to_thread(endpoint.wait, lambda e: e.in_flight == 1)
            assert lab.store.read("SELECT count(*) FROM requests") == [(1,)]
            endpoint.release()
            await asyncio.gather(*tasks)

    lab.store.limits()  # so that it knows of the limit
    lab.loop.run(main())  # the semaphore is that loop's
    assert statuses(lab) == ["ok"] * 3
    assert endpoint.most_in_flight == 1


class Slow:
    """A network whose connections take a while, on a clock of its own."""

    def __init__(self, *seconds: float) -> None:
        self.now = 0.0
        self.seconds = list(seconds)
        self.bodies: list[bytes] = []

    async def send(self, request: httpx2.Request) -> httpx2.Response:
        self.now += self.seconds.pop(0)
        stream: Any = request.stream
        self.bodies.append(b"".join([chunk async for chunk in stream]))
        return httpx2.Response(200, json={"choices": [{"message": {"content": "done"}}]})


def test_what_cannot_be_sent_in_time_asks_again(lab: Lab):
    """A limit counts a call from its admission; sent later, it would be in another window."""
    Limits(lab.store).limit("rpm", requests=10)
    slow = Slow(0.6, 0.6, 0.0)
    lab.corridor = Corridor(lab.ledger, lab.settings, slow.send, clock=lambda: slow.now)
    lab.wiring = dataclasses.replace(lab.wiring, corridor=lab.corridor)
    ask(lab.client())
    assert [(row["status"], row["error_code"], row["attempt"], row["retry_of"]) for row in rows(lab)] == [
        ("canceled", "not_sent", 1, None),
        ("ok", None, 1, None),
    ]
    assert len(slow.bodies) == 1
    assert lab.store.limits()[0][3] == "1 request", "what was not sent is given back"


# ---------------------------------------------------------------------------------------------- estimates, budgets
def test_tokens_are_reserved_by_what_was_learned(client: ai.OpenAI, limits: Limits, app: ai.App, endpoint: Endpoint):
    endpoint.reply(Answer("done", usage=(40, 7)))
    limits.limit(tokens=100_000)
    for _ in range(25):
        ask(client)
    reserved = [row[0] for row in app.store.read("SELECT reserved_tokens FROM requests ORDER BY id")]
    assert reserved[0] > 100  # before anything was known
    assert reserved[-1] == pytest.approx(47, abs=2)
    (row,) = limits.limits().fetchall()
    assert row[3] == f"{25 * 47:,} tokens"


def test_the_estimate_begins_with_what_the_ledger_has(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
):
    monkeypatch.setenv("IPYCONVEXAI_KEEPER_LINGER", "0.2")
    endpoint.reply(Answer("done", usage=(40, 7)))
    for number in range(2):
        with ai.connect(tmp_path / "l.duckdb") as app, ai.OpenAI(base_url=endpoint.url, api_key=KEY) as client:
            if number:
                Limits(app.store).limit(tokens=100_000)
            ask(client)
            reserved = app.store.read("SELECT reserved_tokens FROM requests ORDER BY id DESC")[0][0]
            assert reserved == (47 if number else None)


@pytest.fixture
def seconds_on() -> list[float]:
    """By which the clock of ``noon`` is put forward."""
    return [0.0]


@pytest.fixture
def noon(endpoint: Endpoint, seconds_on: list[float], monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A provider whose prices are known, on a day that does not end by itself: a budget is of the calendar day."""
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    clock = clock_from(2026, 5, 1, 12)
    made = Lab(endpoint.url, Clock(lambda: clock() + seconds_on[0]))
    yield made
    made.close()


def test_who_waits_for_a_budgets_reservations_goes_on_when_the_next_day_begins(
    noon: Lab, seconds_on: list[float], endpoint: Endpoint
):
    endpoint.reply(Answer("done", usage=(10, 1000)))
    endpoint.hold()
    Limits(noon.store).budget("daily", usd=0.006, per="day")
    client = noon.client(max_retries=0)
    work = threading.Thread(target=in_threads, args=(32, lambda: ask(client, model="gpt-4o-mini", max_tokens=1000)))
    work.start()
    until(lambda: endpoint.in_flight == 9 and len(noon.corridor.waits) == 23)
    seconds_on[0] = 12 * 3600.0
    until(lambda: endpoint.in_flight == 18)
    endpoint.release()
    work.join(30)
    assert (endpoint.count, statuses(noon).count("refused")) == (18, 14)


def test_a_provider_without_prices_is_no_way_around_a_budget(client: ai.OpenAI, limits: Limits, endpoint: Endpoint):
    limits.budget(usd=5)
    with pytest.raises(BudgetError) as caught:
        ask(client)
    assert caught.value.code == "price_unknown"
    assert "count tokens instead" in caught.value.cure
    assert endpoint.count == 0


def test_calls_of_a_batch_that_only_wait_for_reservations_are_sent_in_the_end(
    client: ai.OpenAI, limits: Limits, endpoint: Endpoint
):
    endpoint.reply(Answer("done", usage=(10, 10), delay=0.05))
    limits.budget(tokens=2000, per="batch")
    with caller(batch_id="0193a000-0000-7000-8000-000000000001"):
        context = [CALLER.get()]

        def work() -> Any:
            CALLER.set(context[0])
            return ask(client, max_tokens=900)

        outcomes = in_threads(12, work)
    assert [outcome for outcome in outcomes if isinstance(outcome, Exception)] == []
    assert endpoint.most_in_flight == 2


# ---------------------------------------------------------------------------------------------- the provider teaches
def test_a_429_of_one_caller_makes_the_others_wait(client: ai.OpenAI, app: ai.App, endpoint: Endpoint):
    endpoint.reply([Fault(429, retry_after=0.5, times=1), "done"])
    with pytest.raises(openai.RateLimitError):
        ask(client)
    told: list[Wait | None] = []
    with caller(on_wait=told.append):
        ask(client)
    assert endpoint.count == 2, "no attempt was burnt"
    assert endpoint.calls[1].time - endpoint.calls[0].time >= 0.4
    assert told[0] is not None
    assert "asked to wait" in told[0].why


def test_a_long_pause_is_told_to_the_call_that_was_refused_and_to_the_others(lab: Lab, endpoint: Endpoint):
    endpoint.reply([Fault(429, retry_after=100, times=1), "done"])
    told: list[Wait | None] = []
    with caller(on_wait=told.append):
        ask(lab.client(max_retries=1))
    assert [wait and wait.message for wait in told] == [
        "waiting 100 s: custom asked to wait before m is used again",
        None,
    ]
    assert lab.pauses == [pytest.approx(100, abs=0.1)]
    told.clear()
    thread = threading.Thread(target=in_threads, args=(1, lambda: ask(lab.client())))
    thread.start()  # its pauses are not slept: it asks again and again
    until(lambda: lab.corridor.waits)
    (wait,) = lab.corridor.waits
    assert wait.why == "custom asked to wait before m is used again"
    assert 90 < wait.seconds <= 100
    lab.store.close()
    thread.join(10)


def test_what_the_provider_says_is_shown(client: ai.OpenAI, limits: Limits, endpoint: Endpoint):
    headers = {"x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "499",
               "x-ratelimit-reset-requests": "6m0s"}  # fmt: skip
    endpoint.reply(Answer("done", headers=headers))
    ask(client)
    (row,) = limits.limits().fetchall()
    assert row[1:3] == ("the provider's own", "provider custom, model m")
    assert row[7].startswith("499 of 500 requests left, all again in 360 s")


def test_the_background_loop_is_free_while_calls_wait(client: ai.OpenAI, limits: Limits, app: ai.App):
    limits.limit("one", requests=1, model="m")
    ask(client)
    thread = threading.Thread(target=in_threads, args=(8, lambda: ask(client)))
    thread.start()
    until(lambda: waiting(limits) == 8)
    begun = time.monotonic()
    ask(client, model="another")
    assert time.monotonic() - begun < 5
    assert isinstance(app.loop, BackgroundLoop)
    app.close()
    thread.join(10)


def test_closing_the_app_ends_the_waits(client: ai.OpenAI, limits: Limits, app: ai.App):
    limits.limit(requests=1)
    ask(client)
    outcomes: list[Any] = []
    thread = threading.Thread(target=lambda: outcomes.extend(in_threads(3, lambda: ask(client))))
    thread.start()
    until(lambda: waiting(limits) == 3)
    app.close()
    thread.join(10)
    assert len(outcomes) == 3
    assert all(isinstance(outcome, CallError | openai.OpenAIError) for outcome in outcomes)
