"""The gate: never above a limit in any window of the provider's time stamps, and nearly all of it used. No clock."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipyconvexai.limits.counters import (
    ASKS_AGAIN,
    BATCH_MEMORY,
    LEAST_SLACK,
    RETURNS_WITHIN,
    Aligned,
    Sliding,
    counter_for,
    slack_of,
)
from ipyconvexai.limits.definitions import UNITS_PER_USD, Asked, Definition, Measure, amount_text
from ipyconvexai.limits.gate import LONGEST_PAUSE, Admitted, Gate, Past, Refused, usd_units
from tests.promises.promising import most_in_a_window

START = 1_700_000_000.0 - 1_700_000_000.0 % 86400
numbers = itertools.count()


def gate(*definitions: Definition, past: Any = ()) -> Gate:
    made = Gate()
    made.define(definitions, past, START)
    return made


def limit(name: str = "l", **fields: Any) -> Definition:
    return Definition(name, "limit", **fields)


def budget(name: str = "b", **fields: Any) -> Definition:
    return Definition(name, "budget", **fields)


def call(request_id: str | None = None, **fields: Any) -> Asked:
    return Asked(request_id or f"r{next(numbers)}", **{"provider": "p", "model": "m", "user": "u", **fields})


def usd(dollars: float) -> int:
    return round(dollars * UNITS_PER_USD)


def admitted(made: Gate, now: float = START, count: int = 1, **fields: Any) -> list[str]:
    """Ask `count` times; gives the ids of those that were admitted."""
    asked = [call(waits=False, **fields) for _ in range(count)]
    return [one.request_id for one in asked if isinstance(made.judge(one, now), Admitted)]


def refused(made: Gate, now: float = START, **fields: Any) -> Refused:
    answer = made.judge(call(**fields), now)
    assert isinstance(answer, Refused)
    return answer


def run(made: Gate, workers: int, seconds: float, rand: random.Random, duration: Callable[[], float]) -> list[float]:
    """Workers that always have a call to make; gives the provider's time stamps.

    A call reaches the provider at any moment within its slack, unless it is answered before.
    """
    stamps: list[float] = []
    events = [(START + rand.random() * 0.01, number, "ask", call()) for number in range(workers)]
    heapq.heapify(events)
    order = itertools.count(workers)
    while events and events[0][0] < START + seconds:
        now, _, what, asked = heapq.heappop(events)
        if what == "settle":
            made.settle(asked.request_id, None, None, now)
            heapq.heappush(events, (now, next(order), "ask", call()))
        elif isinstance(answer := made.judge(asked, now), Admitted):
            took = duration()
            stamps.append(now + min(took, rand.random() * LEAST_SLACK))
            heapq.heappush(events, (now + took, next(order), "settle", asked))
        else:
            assert answer.retry_after is not None
            again = now + min(answer.retry_after, ASKS_AGAIN) + rand.random() * 0.1
            heapq.heappush(events, (again, next(order), "ask", asked))
    return stamps


# ---------------------------------------------------------------------------------------------- rates
@settings(max_examples=60, deadline=None)
@given(
    most=st.integers(1, 30),
    per=st.sampled_from([1.0, 2.0, 10.0, 60.0]),
    workers=st.integers(1, 40),
    slowest=st.floats(0.001, 5.0),
    seed=st.integers(0, 1000),
)
def test_no_window_of_the_providers_time_stamps_has_too_many(
    most: int, per: float, workers: int, slowest: float, seed: int
):
    rand = random.Random(seed)
    stamps = run(gate(limit(requests=most, per=per)), workers, 3 * per, rand, lambda: rand.random() * slowest)
    assert most_in_a_window(stamps, per) <= most


@pytest.mark.parametrize("workers", [8, 64, 300])
def test_nine_tenths_of_a_limit_are_used(workers: int):
    rand = random.Random(1)
    made = gate(limit(requests=100, per=2.0))
    stamps = run(made, workers, 21.0, rand, lambda: 0.02 + 0.03 * rand.random())
    assert most_in_a_window(stamps, 2.0) <= 100
    assert len([stamp for stamp in stamps if stamp < START + 20]) >= 0.9 * 1000


def test_slow_answers_cost_no_more_than_the_slack():
    rand = random.Random(1)
    stamps = run(gate(limit(requests=60, per=60.0)), 60, 305.0, rand, lambda: 30.0)
    assert most_in_a_window(stamps, 60.0) <= 60
    assert len([stamp for stamp in stamps if stamp < START + 300]) >= 0.9 * 300


def test_a_request_counts_until_its_window_has_passed_for_certain():
    made = gate(limit(requests=1, per=60.0))
    first = call()
    made.judge(first, START)
    assert refused(made, START + 62, waits=False).retry_after == pytest.approx(1.005)  # it may be stamped 3 s later
    made.settle(first.request_id, None, None, START + 1)  # answered: no later than now
    assert admitted(made, START + 60.9) == []
    assert len(admitted(made, START + 61.01)) == 1


def test_a_call_that_needs_more_time_counts_longer():
    made = gate(limit(requests=1, per=1.0))
    made.judge(call(slack=4.0), START)
    assert admitted(made, START + 4.9) == []
    assert len(admitted(made, START + 5.1)) == 1


def test_each_waiter_is_told_its_own_slot():
    made = gate(limit(requests=3, per=10.0))
    for moment in (0, 1, 2):
        made.judge(call(), START + moment)
    told = [refused(made, START + 3).retry_after for _ in range(7)]
    window = 10 + slack_of(10.0) + 0.005
    assert told == pytest.approx([window - 3 + place % 3 + (place // 3) * 10.005 for place in range(7)])


@pytest.mark.parametrize(("sent", "most", "waiters"), [(6, 1, 4), (25, 4, 9), (7, 3, 20), (3, 3, 7)])
def test_each_waiter_is_told_its_moment_and_no_later_one_where_too_many_were_sent(sent: int, most: int, waiters: int):
    """A limit that is set, or made smaller, when more than it allows was sent: that leaves within one window."""
    history = [past(START - 3 + 0.1 * number, START - 3 + 0.1 * number) for number in range(sent)]
    made = gate(limit(requests=most, per=3.0), past=history)
    asked = [call() for _ in range(waiters)]
    answers = [made.judge(one, START) for one in asked]
    told = [0.0 if isinstance(answer, Admitted) else answer.retry_after or 0.0 for answer in answers]
    assert told[0] <= 3.005
    for one, answer, after in zip(asked, answers, told, strict=True):
        if isinstance(answer, Refused):
            assert isinstance(made.judge(one, START + after - 0.001), Refused)
            assert made.judge(one, START + after + 1e-6) == Admitted()
        made.settle(one.request_id, None, None, START + after)


def test_tokens_beyond_a_limit_leave_within_one_window():
    history = [past(START - 10 + number, START - 10 + number, tokens=500) for number in range(6)]
    made = gate(limit(tokens=1000, per=60.0), past=history)
    assert [refused(made, tokens=500).retry_after for _ in range(4)] == pytest.approx([54.005, 55.005, 114.01, 115.01])


def test_who_asks_early_keeps_its_place():
    made = gate(limit(requests=1, per=10.0))
    made.judge(call(), START)
    first, second = call("first"), call("second")
    for moment in (0.0, 1.5, 3.0, 4.5, 6.0, 7.5, 9.0):
        told = [made.judge(one, START + moment + 0.1 * place) for place, one in enumerate((first, second))]
        assert [answer.retry_after for answer in told if isinstance(answer, Refused)] == pytest.approx(
            [10.505 - moment, 10.505 - moment - 0.1 + 10.005]
        )
    assert isinstance(made.judge(second, START + 10.6), Refused)
    assert made.judge(first, START + 10.6) == Admitted()


def test_nobody_overtakes_those_who_wait():
    made = gate(limit(requests=1, per=1.0))
    made.judge(call(), START)
    first, second = call("first"), call("second")
    assert isinstance(made.judge(first, START), Refused)
    assert isinstance(made.judge(second, START), Refused)
    later = START + 1.6
    assert isinstance(made.judge(call("newcomer"), later), Refused)
    assert isinstance(made.judge(second, later), Refused)
    assert isinstance(made.judge(first, later), Admitted)


@pytest.mark.parametrize("gone", ["withdrawn", "silent"])
def test_who_went_away_stops_nobody(gone: str):
    made = gate(limit(requests=1, per=1.0))
    made.judge(call(), START)
    made.judge(call("gone"), START)
    if gone == "withdrawn":
        made.withdraw("gone")
        assert len(admitted(made, START + 1.6)) == 1
    else:
        assert admitted(made, START + 1.6) == []
        assert len(admitted(made, START + 4)) == 1


def test_who_does_not_wait_stands_in_nobodys_way():
    made = gate(limit(requests=1, per=1.0))
    made.judge(call(), START)
    told = [refused(made, waits=False).retry_after for _ in range(3)]
    assert told == pytest.approx([1.505] * 3)


def test_a_call_is_counted_once_however_often_it_is_judged():
    made = gate(limit(requests=2))
    one = call()
    assert [made.judge(one, START) for _ in range(3)] == [Admitted()] * 3
    assert len(admitted(made, count=3)) == 1


def test_what_was_never_sent_is_given_back():
    made = gate(limit(requests=1, tokens=100), budget(usd=1))
    (first,) = admitted(made, tokens=100, usd=usd(1))
    assert admitted(made, tokens=100, usd=usd(1)) == []
    made.cancel(first, START)
    assert len(admitted(made, tokens=100, usd=usd(1))) == 1


def test_a_refused_call_takes_nothing_from_any_limit():
    made = gate(limit("wide", requests=5), limit("narrow", requests=1))
    assert len(admitted(made, count=5)) == 1
    assert [row.used for row in made.rows(START)] == ["1 request", "1 request"]


# ---------------------------------------------------------------------------------------------- tokens
def test_tokens_are_reserved_by_estimate_and_settled_by_usage():
    made = gate(limit(tokens=1000))
    (first,) = admitted(made, tokens=900)
    assert admitted(made, tokens=200) == []
    made.settle(first, 100, None, START + 1)
    assert len(admitted(made, START + 1, tokens=900)) == 1
    assert made.rows(START + 1)[0].used == "1,000 tokens"


def test_more_than_was_estimated_is_made_up_for():
    made = gate(limit(tokens=1000))
    (first,) = admitted(made, tokens=100)
    made.settle(first, 1500, None, START + 1)
    answer = refused(made, START + 2, tokens=1)
    assert answer.retry_after == pytest.approx(59.005)


def test_a_call_that_can_never_fit_is_refused_for_good():
    made = gate(limit("tpm", tokens=1000))
    answer = refused(made, tokens=1001)
    assert (answer.kind, answer.name, answer.retry_after) == ("never", "tpm", None)
    assert answer.why == "this call alone needs about 1,001 tokens, more than its 1,000 tokens per minute"


def test_a_call_without_an_estimate_is_asked_for_one():
    assert refused(gate(limit(tokens=10)), tokens=None).kind == "estimate"
    assert len(admitted(gate(limit(requests=10)), tokens=None)) == 1


# ---------------------------------------------------------------------------------------------- budgets
def test_a_budget_ends_with_its_hour_or_day():
    made = gate(budget(usd=1.0, per="hour"))
    (first,) = admitted(made, START + 3000, tokens=1, usd=usd(0.9))
    made.settle(first, 1, usd(1.0), START + 3001)
    answer = refused(made, START + 3002, tokens=1, usd=usd(0.1))
    assert (answer.kind, answer.spent) == ("budget", True)
    assert answer.retry_after == pytest.approx(598.0)
    assert len(admitted(made, START + 3600, tokens=1, usd=usd(0.1))) == 1


def test_what_was_reserved_in_the_last_hour_does_not_burden_this_one():
    made = gate(budget(usd=1.0, per="hour"))
    (first, second) = admitted(made, START + 3599, 2, tokens=1, usd=usd(0.5))
    assert len(admitted(made, START + 3601, tokens=1, usd=usd(1.0))) == 1
    made.settle(first, 1, usd(0.7), START + 3602)
    made.cancel(second, START + 3602)
    assert made.rows(START + 3602)[0].used == "$1.00"


def test_what_is_only_reserved_is_waited_for():
    made = gate(budget(usd=1.0, per="batch"))
    (first,) = admitted(made, tokens=1, usd=usd(0.9), batch="b1")
    answer = refused(made, tokens=1, usd=usd(0.9), batch="b1")
    assert not answer.spent
    assert answer.retry_after is not None
    assert answer.retry_after < 1
    made.settle(first, 1, usd(0.2), START + 1)
    made.withdraw(f"r{next(numbers) - 1}")
    (second,) = admitted(made, START + 1, tokens=1, usd=usd(0.8), batch="b1")
    made.settle(second, 1, usd(0.8), START + 2)
    answer = refused(made, START + 2, tokens=1, usd=usd(0.1), batch="b1")
    assert (answer.spent, answer.retry_after) == (True, None)


def test_those_who_wait_for_reservations_all_get_their_turn():
    """The first in the queue takes what is free; the second is not told that the budget is spent."""
    made = gate(budget(tokens=100, per="batch"))
    (running,) = admitted(made, tokens=90, batch="b")
    first, second = call("first", tokens=90, batch="b"), call("second", tokens=90, batch="b")
    for one in (first, second):
        assert isinstance(made.judge(one, START), Refused)
    made.settle(running, 1, None, START + 0.5)
    answer = made.judge(second, START + 0.5)
    assert isinstance(answer, Refused)
    assert answer.retry_after is not None
    assert made.judge(first, START + 0.5) == Admitted()
    made.settle("first", 1, None, START + 0.9)
    assert made.judge(second, START + 0.9) == Admitted()


def test_each_batch_has_its_own_budget_and_other_calls_have_none():
    made = gate(budget(tokens=10, per="batch"))
    assert len(admitted(made, count=2, tokens=10, batch="b1")) == 1
    assert len(admitted(made, count=2, tokens=10, batch="b2")) == 1
    assert len(admitted(made, count=5, tokens=10, batch=None)) == 5


def test_a_budget_in_dollars_needs_a_price():
    answer = refused(gate(budget(usd=1)), tokens=1, usd=None)
    assert (answer.kind, answer.retry_after) == ("price", None)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_a_budget_is_passed_by_no_more_than_the_estimates_were_wrong(calls: list[tuple[int, float, bool]]):
    """(estimate, part of it that is used, whether it is settled at once)"""
    made = gate(budget(tokens=100, per="day"))
    spent, under_way = 0, dict[str, int]()
    for estimate, part, at_once in calls:
        for request_id in admitted(made, tokens=estimate):
            used = round(estimate * part)
            if at_once:
                made.settle(request_id, used, None, START)
                spent += used
            else:
                under_way[request_id] = used
    for request_id, used in under_way.items():
        made.settle(request_id, used, None, START)
        spent += used
    assert spent <= 100


# ---------------------------------------------------------------------------------------------- concurrency
def test_concurrency_is_free_again_when_a_call_is_settled():
    made = gate(limit(concurrency=2))
    first, _ = admitted(made, count=3)
    waiter = call()
    answer = made.judge(waiter, START)
    assert isinstance(answer, Refused)
    assert answer.why == "2 requests at once"
    assert answer.retry_after is not None
    assert 0 < answer.retry_after <= 0.5
    made.settle(first, None, None, START + 0.5)
    assert admitted(made, START + 0.5) == []  # the slot is the waiter's
    assert made.judge(waiter, START + 0.5) == Admitted()


def test_a_call_of_a_dead_process_is_no_longer_under_way_and_may_still_be_settled():
    made = gate(limit(concurrency=1), budget(tokens=100))
    (first,) = admitted(made, tokens=80)
    made.settle(first, None, None, START + 1, final=False)
    assert admitted(made, START + 1, tokens=30) == []  # it may have been billed
    (second,) = admitted(made, START + 1, tokens=20)
    made.settle(first, 10, None, START + 2)  # it lived after all
    made.settle(second, 20, None, START + 2)
    assert len(admitted(made, START + 2, tokens=70)) == 1


# ---------------------------------------------------------------------------------------------- scope
def test_a_limit_concerns_those_it_names():
    made = gate(limit(requests=1, provider="p", model="m", user="u"))
    assert len(admitted(made, count=2)) == 1
    others: list[dict[str, Any]] = [{"provider": "q"}, {"model": "n"}, {"user": "v"}]
    for other in others:
        assert len(admitted(made, count=2, **other)) == 2


@pytest.mark.parametrize("word", ["provider", "model", "user"])
def test_each_keeps_one_count_for_each(word: str):
    made = gate(limit(requests=1, each=word))
    for value in ("a", "b"):
        asked: dict[str, Any] = {word: value}
        assert len(admitted(made, count=2, **asked)) == 1
    assert [(row.scope, row.used) for row in made.rows(START)] == [
        (f"{word} a", "1 request"),
        (f"{word} b", "1 request"),
    ]


def test_the_longest_wait_is_told():
    made = gate(limit("short", requests=1, per=1.0), limit("long", requests=1, per=60.0))
    made.judge(call(), START)
    answer = refused(made)
    assert (answer.name, answer.why) == ("long", "1 request per minute")


# ---------------------------------------------------------------------------------------------- after a restart
def past(at: float, until: float | None = None, **fields: Any) -> Past:
    return Past(call(), at, until, **fields)


def test_a_restart_does_not_open_the_gate():
    history = [past(START - 30, START - 29), past(START - 20, START - 19), past(START - 1)]
    made = gate(limit(requests=3), past=history)
    assert refused(made, waits=False).retry_after == pytest.approx(31.005)
    assert len(admitted(made, START + 31.01)) == 1


def test_what_is_under_way_at_a_restart_is_settled_as_usual():
    running = past(START - 100, tokens=50)
    made = gate(limit(concurrency=1), budget(tokens=60, per=3600.0), past=[running])
    assert admitted(made, tokens=1) == []
    assert made.rows(START)[1].used == "50 tokens"
    made.settle(running.call.request_id, 10, None, START)
    assert len(admitted(made, tokens=50)) == 1


def test_a_call_that_was_late_counts_from_its_end_after_a_restart():
    """How much slack it had is not recorded."""
    made = gate(limit(requests=1, per=1.0), past=[past(START - 3, START - 0.5)])
    assert admitted(made, START + 0.4) == []
    assert len(admitted(made, START + 0.51)) == 1


def test_a_call_that_may_not_have_been_sent_yet_counts_from_the_restart():
    made = gate(limit(requests=1, per=1.0), past=[past(START - 3)])
    assert admitted(made, START + 1.4) == []
    assert len(admitted(made, START + 1.51)) == 1


def test_rows_of_the_future_count_as_of_now():
    """The clock was set back by an hour."""
    made = gate(limit(requests=1), past=[past(START + 3600, START + 3601)])
    assert admitted(made, START + 59) == []
    assert len(admitted(made, START + 61)) == 1


def test_sums_of_the_past_count_for_budgets():
    history = [
        past(START - 10, START - 10, tokens=70, usd=usd(9), count=7),
        past(START + 0, START + 0, tokens=30, usd=usd(0.5), count=3),
    ]
    made = Gate()
    made.define([budget("day", usd=10, per="day"), budget("b", tokens=110, per="batch")], history, START + 1)
    assert {row.name: row.used for row in made.rows(START + 1)} == {"day": "$0.50", "b": "0 tokens"}


# ---------------------------------------------------------------------------------------------- what providers ask
WHERE = ("p", "http://here", "m")


def test_a_pause_is_for_everybody_but_the_call_that_has_waited():
    made = gate()
    made.pause(WHERE, 5.0, "told", START)
    answer = refused(made, START + 1, base_url="http://here")
    assert answer.kind == "provider"
    assert answer.retry_after == pytest.approx(4.0)
    assert len(admitted(made, START + 1, base_url="http://here", call_id="told")) == 1
    assert len(admitted(made, START + 1, base_url="http://there")) == 1
    assert len(admitted(made, START + 1, base_url="http://here", model="n")) == 1
    assert len(admitted(made, START + 5, base_url="http://here")) == 1
    assert made.is_open


def test_no_word_of_a_provider_stops_everybody_for_long():
    made = gate()
    made.pause(WHERE, 1e9, None, START)
    assert refused(made, base_url="http://here").retry_after == LONGEST_PAUSE


def test_what_a_provider_says_is_shown():
    made = gate()
    made.say(WHERE, "9 of 10 requests left", START)
    (row,) = made.rows(START + 3)
    assert (row.scope, row.said) == ("provider p, model m", "9 of 10 requests left (3 s ago)")


# ---------------------------------------------------------------------------------------------- shown, kept
def test_rows_tell_what_is_used_and_who_waits():
    made = gate(limit("l", requests=2, per=10.0, provider="p"), budget("b", usd=2.5, per="day"))
    admitted(made, count=2, tokens=5, usd=usd(0.001))
    refused(made, START + 1, tokens=5, usd=usd(0.001))
    rows = made.rows(START + 1)
    assert [(row.name, row.what, row.scope, row.used, row.left, row.waiting) for row in rows] == [
        ("l", "2 requests per 10 s", "provider p", "2 requests", "0 requests", 1),
        ("b", "$2.50 per day", "all calls", "$0.002", "$2.498", 0),
    ]
    assert rows[0].next_free == pytest.approx(9.505)
    assert rows[1].next_free == 0.0


def test_a_definition_survives_the_file():
    made = limit("x", requests=3, tokens=5, concurrency=2, per=2.5, provider="p", each="user")
    assert Definition.from_json("x", made.to_json()) == made
    for broken in ("[]", "{}", "nonsense", '{"kind": "limit", "per": "eon", "requests": 1}'):
        with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
            Definition.from_json("x", broken)


def test_counters_that_nobody_needs_are_forgotten():
    made = gate(limit(requests=5, per=1.0, each="user"))
    for number in range(3000):
        (request_id,) = admitted(made, START + number, user=f"u{number}")
        made.settle(request_id, None, None, START + number)
    assert len(made._counters) < 1100


# ---------------------------------------------------------------------------------------------- said word by word
def test_a_fresh_gate():
    made = Gate()
    assert made.is_open
    assert (made.definitions, made.rows(START)) == ((), [])
    assert isinstance(made.judge(call("r"), START), Admitted)
    assert made.holds("r")
    assert not made.holds("another")
    assert not made.waits("r")
    made.cancel("r", START)
    made.cancel("r", START)
    made.settle("r", None, None, START)
    assert not made.holds("r")


def test_what_is_refused_says_why():
    unknown = gate(limit("t", tokens=10)).judge(call(), START)
    assert unknown == Refused("t", "its size was not estimated", 0.0, "estimate")
    priced = gate(budget("b", usd=1))
    assert priced.judge(call(tokens=1), START) == Refused("b", "the price of m at p is not known", None, "price")
    nobody = priced.judge(call(tokens=1, provider="", model=""), START)
    assert nobody == Refused("b", "the price of this call at its provider is not known", None, "price")
    assert isinstance(priced.judge(call(usd=5), START), Refused), "without tokens there is no price"
    large = gate(budget("b", tokens=10)).judge(call(tokens=11), START)
    assert large == Refused(
        "b", "this call alone needs about 11 tokens, more than its 10 tokens per minute", None, "never", of_budget=True
    )
    assert gate(limit("l", tokens=10)).judge(call(tokens=11), START).of_budget is False  # type: ignore[union-attr]
    spent = gate(budget("b", tokens=10, per="day"), past=[Past(call(), START, START, tokens=10)])
    answer = spent.judge(call(tokens=1), START)
    assert answer == Refused("b", "10 tokens per day", 86400.0, "budget", True, True)
    at_once = gate(limit("c", concurrency=1))
    admitted(at_once)
    assert at_once.judge(call(), START) == Refused("c", "1 request at once", 0.025, "limit", False, False)


def test_of_two_obstacles_the_one_that_lasts():
    """One for which waiting does not help lasts longest, wherever it stands."""
    for definitions in ([limit("a", tokens=5), limit("b", requests=1)], [limit("b", requests=1), limit("a", tokens=5)]):
        made = gate(*definitions)
        admitted(made, tokens=1)
        answer = refused(made, tokens=9)
        assert (answer.name, answer.kind, answer.retry_after) == ("a", "never", None)
    both = gate(limit("a", tokens=5), limit("b", tokens=5))
    assert refused(both, tokens=9).name == "a", "of two alike the first"


def test_a_limit_of_others_does_not_end_the_list():
    made = gate(limit("theirs", requests=1, model="other"), limit("ours", requests=1))
    assert len(admitted(made, count=2)) == 1
    later = gate(
        limit("theirs", requests=1, model="other"), limit("ours", requests=1), past=[past(START - 1, START - 1)]
    )
    assert admitted(later) == []


def test_a_pause_in_words():
    made = gate()
    made.pause(WHERE, 5.0, None, START)
    why = "p asked to wait before m is used again"
    assert refused(made, START + 1, base_url="http://here") == Refused("p", why, 4.0, "provider")
    made.pause(("", "", ""), 5.0, None, START)
    unnamed = refused(made, START, provider="", model="")
    assert unnamed.why == "the provider asked to wait before it is used again"
    made.pause(WHERE, 3.0, "another", START)
    assert refused(made, START + 4, base_url="http://here").retry_after == pytest.approx(1.0), "the longer one stands"
    made.pause(WHERE, 8.0, None, START)
    assert refused(made, START + 7, base_url="http://here").retry_after == pytest.approx(1.0)
    rows = [(row.name, row.what, row.scope, row.used, row.left, row.waiting, row.next_free, row.said)
            for row in made.rows(START + 1)]  # fmt: skip
    assert rows == [
        ("", "a pause", "provider p, model m", "", "", 0, 7.0, "asked to wait"),
        ("", "a pause", "", "", "", 0, 4.0, "asked to wait"),
    ]
    assert [row.what for row in made.rows(START + 5)] == ["a pause"], "one that is over is not shown"


def test_words_of_many_providers():
    made = gate()
    for number in range(205):
        made.say(("p", "", str(number)), f"said {number}", START)
    made.say(("p", "", "5"), "said again", START)
    rows = made.rows(START)
    assert len(rows) == 200
    assert (rows[0].scope, rows[-1].said) == ("provider p, model 6", "said again (0 s ago)")
    row = rows[-1]
    assert (row.name, row.what, row.scope) == ("", "the provider's own", "provider p, model 5")
    assert (row.used, row.left, row.waiting, row.next_free) == ("", "", 0, None)


def test_rows_of_batches_and_of_keys():
    made = gate(budget("b", tokens=10, per="batch"), limit("u", requests=5, each="user"), limit("c", concurrency=30))
    for number in range(25):
        admitted(made, tokens=1, batch=f"{number:02}", user=f"u{number}")
    admitted(made, START + 1, tokens=1, user="u0")
    rows = made.rows(START + 1)
    assert [row.scope for row in rows if row.name == "b"] == [
        f"all calls, batch {number:02}" for number in range(5, 25)
    ]
    assert [row.scope for row in rows if row.name == "u"] == [f"user u{number}" for number in range(25)]
    assert [row.used for row in rows if row.name == "u"][:2] == ["2 requests", "1 request"]
    (at_once,) = [row for row in rows if row.name == "c"]
    assert (at_once.what, at_once.used, at_once.left) == ("30 requests at once", "26 requests", "4 requests")
    assert at_once.said == ""
    fresh = gate(limit("l", requests=5, provider="p", model="m", each="user"), budget("d", usd=3, per="day"))
    shown = [(row.name, row.scope, row.used, row.next_free, row.said) for row in fresh.rows(START)]
    assert shown == [
        ("l", "model m, provider p, each user", "0 requests", 0.0, ""),
        ("d", "all calls", "$0.00", 0.0, ""),
    ]


def test_a_batch_that_has_ended_is_shown_for_eight_days():
    made = gate(budget("b", tokens=10, per="batch"))
    (request,) = admitted(made, tokens=1, batch="x")
    assert [row.scope for row in made.rows(START + 30 * 86400)] == ["all calls, batch x"], "it is under way"
    made.settle(request, 1, None, START)
    assert [row.used for row in made.rows(START + 8 * 86400)] == ["1 token"]
    assert [row.scope for row in made.rows(START + 8 * 86400 + 1)] == ["all calls"]


def test_amounts_in_words():
    assert amount_text("usd", usd(1234.5)) == "$1,234.50"
    assert amount_text("usd", usd(0.1)) == "$0.10"
    assert amount_text("usd", usd(0.00125)) == "$0.00125"
    assert amount_text("concurrency", 1) == "1 request"
    assert amount_text("concurrency", 1200) == "1,200 requests"
    assert amount_text("tokens", 1) == "1 token"
    assert (usd_units(0.5), usd_units(None)) == (UNITS_PER_USD // 2, None)


def test_a_definition_in_the_file():
    made = limit("x", requests=3, per=2.5, provider="p")
    assert made.to_json() == '{"kind": "limit", "per": 2.5, "provider": "p", "requests": 3}'
    read = Definition.from_json("y", '{"name": "x", "kind": "limit", "requests": 3, "later": 1}')
    assert read == limit("y", requests=3)
    with pytest.raises(ValueError, match=r"^it limits nothing$"):
        Definition.from_json("x", '{"kind": "limit"}')
    assert [measure.window for measure in limit(requests=1, tokens=1, per="hour", concurrency=1).measures] == [
        "sliding", "sliding", "now",
    ]  # fmt: skip
    assert [measure.window for measure in budget(usd=1, per="hour").measures] == ["aligned"]
    assert budget(usd=1, per="batch").measures[0].per == 0.0
    words = limit(requests=1, provider="p", model="m", user="u")
    assert words.scope() == "model m, user u, provider p"
    assert limit(requests=1, each="user").scope() == "each user"
    assert limit(requests=1, each="provider").key(call()) == "p"
    assert limit(requests=1).key(call()) == ""


def test_calls_of_a_provider_batch_pass_limits_and_pay():
    made = gate(limit("l", requests=1), budget("b", tokens=10, per="day"))
    assert len(admitted(made, count=3, tokens=3, batched=True)) == 3
    assert refused(made, tokens=3, batched=True, waits=False).name == "b"
    assert len(admitted(made, tokens=1)) == 1


# ---------------------------------------------------------------------------------------------- one counter
def measure(what: str = "tokens", most: int = 10, window: str = "sliding", per: float = 60.0) -> Measure:
    return Measure(what, most, window, per)


def test_what_is_reserved_and_for_how_long():
    counter = counter_for(measure())
    assert (counter.used, counter.reserved, counter.under_way, counter.last) == (0, 0, 0, 0.0)
    one, two = counter.take(4, START), counter.take(3, START + 1)
    assert (counter.used, counter.reserved, counter.under_way, counter.last) == (7, 7, 2, START + 1)
    counter.settle(one, 2, START + 2)
    assert (counter.used, counter.reserved, counter.under_way) == (5, 3, 1)
    counter.settle(one, 1, START + 2)
    assert (counter.used, counter.reserved, counter.under_way) == (4, 3, 1), "settled anew, and not freed twice"
    assert counter.seconds == pytest.approx(0.2 + 0.1 * (2 - 0.2))
    counter.give_back(two, START + 50)
    counter.give_back(two, START + 50)
    assert (counter.used, counter.reserved, counter.under_way) == (1, 0, 0)
    assert counter.seconds == pytest.approx(0.38), "what was not sent tells nothing"
    settled_early = counter.take(1, START + 60)
    counter.settle(settled_early, None, START + 59)
    assert counter.seconds == pytest.approx(0.342), "a clock that went back gives no time below 0"


def test_what_lapses_under_way_is_no_longer_reserved():
    counter = counter_for(measure())
    entry = counter.take(4, START)
    settled = counter.take(1, START)
    counter.settle(settled, None, START)
    counter.expire(START + 63.005)
    assert (counter.used, counter.reserved, counter.under_way) == (0, 0, 1)
    counter.settle(entry, 9, START + 64)
    assert (counter.used, counter.reserved, counter.under_way) == (0, 0, 0), "its window had passed"


def test_two_that_lapse_at_one_moment():
    counter = counter_for(measure())
    for _ in range(3):
        counter.take(2, START)
    free = START + 60.005 + slack_of(60.0)
    counter.expire(free - 0.001)
    assert counter.used == 6
    counter.expire(free)
    assert counter.used == 0


def test_a_sliding_counter_forgets_what_has_gone():
    counter = Sliding(measure(most=10**6))
    for number in range(1200):
        counter.settle(counter.take(1, START + number), None, START + number)
    counter.expire(START + 700)
    assert counter.used == len([at for at in range(1200) if at + 60.005 > 700])
    counter.expire(START + 5000)
    assert counter.used == 0
    assert len(counter._order) <= 1200
    counter.settle(counter.take(1, START + 5000), None, START + 5000)
    assert counter.used == 1
    counter.expire(START + 5061)
    assert counter.used == 0


def test_how_soon_a_reservation_is_looked_at_again():
    """An eighth of what a call takes, and the longer the more stand before it for each one under way."""
    counter = counter_for(measure("concurrency", 4, "now"))
    for _ in range(4):
        counter.take(1, START)

    def look(request: str) -> float:
        obstacle = counter.obstacle(request, 1, START)
        assert obstacle is not None
        assert obstacle.after is not None
        assert obstacle.spent is False
        counter.queue(request, 1, obstacle.after, START)
        return obstacle.after

    counter.seconds = 0.8
    assert [look(f"r{number}") for number in range(6)] == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.125, 0.15])
    counter.seconds = 0.001
    assert look("r0") == pytest.approx(0.02)
    counter.seconds = 100.0
    assert look("r0") == pytest.approx(0.5)
    idle = counter_for(measure("concurrency", 1, "now"))
    idle.take(1, START)
    idle.queue("before", 1, 1.0, START)
    idle.seconds = 0.8
    after = idle.obstacle("r", 1, START)
    assert after is not None
    assert after.after == pytest.approx(0.2), "one under way, and one before it"


def test_whose_place_has_lapsed():
    counter = counter_for(measure("requests", 1))
    counter.take(1, START)
    counter.queue("r", 1, 2.0, START)
    assert (counter.waiting(START + 2.5), counter.waiting(START + 2.6)) == (1, 0)
    counter.queue("s", 1, 100.0, START)
    assert (counter.waiting(START + 15.5), counter.waiting(START + 15.6)) == (1, 0), "no place is kept for longer"
    counter.queue("s", 2, 1.0, START + 10)
    assert counter.waiting(START + 11.5) == 1
    assert counter.waiting(START + 11.6) == 0, "the last word counts"
    counter.leave_queue("nobody")
    assert not counter.is_idle(START)


def test_when_anything_is_free():
    counter = counter_for(measure("tokens", 4))
    assert counter.next_free(START) == 0.0
    counter.settle(counter.take(3, START), None, START)
    counter.settle(counter.take(1, START + 5), None, START + 5)
    counter.settle(counter.take(1, START + 7), None, START + 7)
    assert counter.next_free(START + 10) == pytest.approx(50.005), "two must go, and the first of three gives them"
    assert counter_for(measure("concurrency", 1, "now")).next_free(START) == 0.0


def test_what_may_turn_out_to_be_less_is_looked_at_soon():
    """Only while it is reserved by an estimate."""
    counter = counter_for(measure("tokens", 10))
    running = counter.take(8, START)
    told = counter.obstacle("r", 5, START)
    assert told is not None
    assert told.spent is False
    assert told.after == pytest.approx(0.025)
    too_much = counter.obstacle("s", 10, START)
    assert too_much is not None
    assert too_much.spent is False
    counter.settle(running, None, START)
    surely = counter.obstacle("r", 5, START)
    assert surely is not None
    assert surely.spent
    assert surely.after == pytest.approx(60.005)
    nearly = counter_for(measure("tokens", 10))
    old = nearly.take(1, START - 63.0)
    fresh = nearly.take(9, START)
    soon = nearly.obstacle("r", 1, START)
    assert soon is not None
    assert soon.after == pytest.approx(0.005, abs=1e-4), "what is sure comes before the look"
    assert not old.gone
    assert not fresh.gone


def test_an_hour_begins_with_the_hour():
    for begun in (0.0, START):
        counter = Aligned(measure("tokens", 10, "aligned", 3600.0))
        counter.expire(begun)
        entry = counter.take(4, begun)
        early = counter.take(6, begun + 1)
        assert counter.obstacle("r", 1, begun + 3599) is not None
        assert counter.obstacle("r", 1, begun + 3600) is None
        counter.give_back(early, begun + 3600)
        counter.settle(entry, 9, begun + 3600)
        assert (counter.used, counter.reserved, counter.under_way) == (0, 0, 0)


def test_a_batch_counter_is_kept_for_eight_days():
    counter = counter_for(measure("tokens", 10, "batch", 0.0))
    entry = counter.take(1, START)
    assert not counter.is_idle(START + BATCH_MEMORY + 1)
    counter.settle(entry, None, START)
    assert not counter.is_idle(START + BATCH_MEMORY)
    assert counter.is_idle(START + BATCH_MEMORY + 1)


# ---------------------------------------------------------------------------------------------- restored
def test_what_was_restored_counts_for_each_measure():
    running = past(START - 100, tokens=5)
    made = gate(limit("l", requests=3, tokens=50, concurrency=2), past=[running, past(START - 2, START - 1, tokens=7)])
    assert [row.used for row in made.rows(START)] == ["1 request", "7 tokens", "1 request"], "of the first all is over"
    assert made.holds(running.call.request_id)
    assert not made.holds("another")


def test_past_that_is_dated_too_early():
    """By up to an hour: then it may be of just now."""
    made = Gate()
    history = [past(START - 3650, START - 3649.5), past(START - 3700, START - 3700), past(START - 1, START - 1)]
    made.define([limit(requests=2)], history, START, 3600.0)
    assert admitted(made, START + 9.9) == [], "at START - 50 and START, as it may be"
    assert len(admitted(made, START + 12)) == 1
    exact = Gate()
    exact.define([limit(requests=3)], history, START)
    assert len(admitted(exact, START, count=3)) == 2
    day = Gate()
    day.define([budget("d", tokens=10, per="day")], [past(START - 10, START - 10, tokens=10)], START + 1, 3600.0)
    assert len(admitted(day, START + 1, tokens=10)) == 1, "a day is that of the date"


def test_what_was_restored_is_counted_for_its_key_and_its_day():
    made = gate(limit(requests=2, each="user"), past=[past(START - 1, START - 1), past(START - 1, START - 1)])
    assert admitted(made, user="u") == []
    assert len(admitted(made, user="v")) == 1
    day = Gate()
    day.define([budget("d", tokens=10, per="day")], [past(START - 0.5, START - 0.5, tokens=10)], START + 1)
    assert len(admitted(day, START + 1, tokens=10)) == 1


# ---------------------------------------------------------------------------------------------- twice, or at once
def test_of_two_that_are_alike_the_first():
    made = gate(limit("a", requests=1), limit("b", requests=1))
    admitted(made)
    assert refused(made).name == "a"
    made.pause(WHERE, 5.0, "first", START)
    made.pause(WHERE, 5.0, "second", START)
    assert refused(made, base_url="http://here", call_id="second").kind == "provider"
    assert refused(made, base_url="http://here", call_id="first").kind == "limit"


def test_what_is_cancelled_waits_no_more():
    made = gate(limit(requests=1))
    admitted(made)
    refused(made, request_id="r")
    assert made.waits("r")
    made.cancel("r", START)
    assert not made.waits("r")
    assert made.rows(START)[0].waiting == 0


def test_what_is_settled_twice_is_free_once():
    counter = counter_for(measure("concurrency", 2, "now"))
    entry = counter.take(1, START)
    counter.take(1, START)
    counter.settle(entry, None, START)
    counter.settle(entry, None, START)
    assert counter.used == 1


def test_the_last_of_it_is_free_when_the_first_goes():
    counter = counter_for(measure("tokens", 4))
    counter.settle(counter.take(1, START), None, START)
    counter.settle(counter.take(3, START + 5), None, START + 5)
    assert counter.next_free(START + 10) == pytest.approx(50.005)


def test_a_name_of_two_lines():
    made = gate(limit(requests=2, each="user"))
    admitted(made, user="a\nb")
    assert [row.scope for row in made.rows(START)] == ["user a\nb"]


def test_what_was_under_way_may_be_dated_too_early():
    made = Gate()
    made.define([limit(requests=1)], [past(START - 3650)], START, 3600.0)
    assert admitted(made, START + 60) == [], "it may have been admitted just before, and be sent now"
    made = gate(limit(requests=1, per=100.0), past=[past(START - 60)])
    assert admitted(made, START + 44) == []
    assert len(admitted(made, START + 46)) == 1, "after a minute it was sent"


def test_what_has_ended_is_not_under_way():
    ended = past(START - 1, START - 0.5)
    assert not gate(limit(requests=3), past=[ended]).holds(ended.call.request_id)


def test_the_second_waits_for_the_window_where_nothing_is_reserved():
    """A window that slides gives nothing back by itself, whatever those before it turn out to take."""
    counter = counter_for(measure("tokens", 100))
    counter.settle(counter.take(50, START), None, START)
    counter.queue("first", 60, 1.0, START)
    told = counter.obstacle("second", 40, START)
    assert told is not None
    assert told.spent
    assert told.after == pytest.approx(60.005)


def test_the_second_may_have_what_the_first_for_one_token_leaves():
    counter = counter_for(measure("tokens", 100, "aligned", per=3600.0))
    counter.expire(START)
    counter.settle(counter.take(99, START), None, START)
    counter.queue("first", 1, 1.0, START)
    told = counter.obstacle("second", 1, START)
    assert told is not None
    assert not told.spent
    assert told.after is not None
    assert told.after < 1


def test_what_is_spent_beside_a_reservation_is_spent():
    """Whatever comes of what is reserved, this does not fit."""
    counter = counter_for(measure("tokens", 100, "batch"))
    counter.settle(counter.take(60, START), None, START)
    counter.take(30, START)
    told = counter.obstacle("r", 50, START)
    assert told is not None
    assert told.spent


def test_a_place_lapses_at_its_instant():
    counter = counter_for(measure("requests", 2))
    counter.take(1, START)
    counter.queue("gone", 1, 1.0, START)
    until = START + 1.0 + RETURNS_WITHIN
    assert counter.waiting(until) == 0
    assert counter.obstacle("r", 1, until) is None


def test_what_ends_with_its_slack_is_counted_once():
    counter = counter_for(measure("tokens", 10))
    first = counter.take(4, START)
    counter.settle(counter.take(6, START + 10), None, START + 10)
    counter.settle(first, None, START + slack_of(60.0))
    told = counter.obstacle("r", 5, START + 11)
    assert told is not None
    assert told.after == pytest.approx(59.005), "the first frees four alone"


def test_what_was_given_back_does_not_lapse_as_well():
    counter = counter_for(measure("tokens", 10))
    counter.give_back(counter.take(4, START), START)
    counter.take(3, START + 50)
    counter.expire(START + 100)
    assert counter.used == 3


def test_a_long_list_of_what_has_gone_is_cut_and_loses_nothing():
    counter = counter_for(measure("tokens", 1000))
    for _ in range(600):
        counter.settle(counter.take(1, START), None, START)
    for _ in range(10):
        counter.settle(counter.take(1, START + 100), None, START + 100)
    counter.expire(START + 101)
    assert counter.used == 10
    counter.expire(START + 200)
    assert counter.used == 0


def test_what_was_paid_is_no_number_of_requests():
    made = gate(limit(requests=10))
    (sent,) = admitted(made)
    made.settle(sent, 7, 5, START)
    assert made.rows(START)[0].used == "1 request"


def test_all_that_a_definition_measures_is_asked():
    """Also what comes after one that does not concern the call, and after one that leaves room."""
    made = gate(limit("other", requests=1, model="another"), limit("both", requests=10, tokens=5))
    assert refused(made, tokens=6).name == "both"
    assert len(admitted(made, tokens=5)) == 1
    assert refused(made, tokens=1).why == "5 tokens per minute"


def test_a_gate_without_definitions_admits_and_shows_nothing():
    made = Gate()
    assert all(made.judge(call(), START) == Admitted() for _ in range(1001))
    assert made.rows(START) == []


def test_a_pause_is_heard_after_tidying():
    made = gate(limit(requests=10**6))
    for _ in range(1000):
        made.judge(call(), START)
    made.pause(("p", "", "m"), 5.0, None, START)
    assert refused(made, START + 1).kind == "provider"


def test_what_is_settled_is_held_no_more_unless_a_better_outcome_may_follow():
    made = gate(limit(requests=10))
    first, second = admitted(made, count=2)
    made.settle(first, None, None, START, final=False)
    made.settle(second, None, None, START)
    assert [made.holds(one) for one in (first, second)] == [True, False]


def test_what_has_no_slack_of_its_own_has_the_least():
    counter = counter_for(measure("tokens", 10, per=1.0))
    counter.take(10, START)
    told = counter.obstacle("r", 10, START)
    assert told is not None
    counter.expire(START + 1.0 + LEAST_SLACK + 0.01)
    assert counter.used == 0


def test_who_waits_elsewhere_now_has_left_its_place():
    made = gate(limit("a", concurrency=1, user="ann"), limit("b", concurrency=1, model="large"))
    (first,) = admitted(made, user="ann", model="small")
    waits = call(user="ann", model="large")
    assert isinstance(made.judge(waits, START), Refused)
    made.settle(first, None, None, START)
    assert len(admitted(made, user="bob", model="large")) == 1
    assert isinstance(made.judge(waits, START), Refused)
    assert [(row.name, row.waiting) for row in made.rows(START)] == [("a", 0), ("b", 1)]


def test_a_counter_for_which_somebody_waits_is_not_idle():
    counter = counter_for(measure("requests", 1))
    counter.settle(counter.take(1, START), None, START)
    counter.queue("r", 1, 1.0, START + 60)
    assert not counter.is_idle(START + 60.01)
    assert (counter.used, counter.under_way) == (0, 0)
