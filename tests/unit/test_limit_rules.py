"""Limits as decisions: each kind against a plain model, with instants that floats cannot hold exactly."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ipyconvexai.errors import InputError
from ipyconvexai.limits.bucket import Bucket
from ipyconvexai.limits.instants import later_sum, wait_between
from ipyconvexai.limits.rules import KINDS, Decision, Rule, adopt, charge, check, decide, refund, value
from ipyconvexai.limits.sliding import EXACT, SLOTS

BEGIN = 1_795_381_200.1  # an instant as clocks give them: far from 0, where a float is coarse

spans = st.one_of(st.floats(0, 100), st.sampled_from([0.0, 0.1, 0.3, 1.0, 1 / 3, 59.9, 60.0]))
pers = st.sampled_from([0.1, 1 / 3, 1.0, 7.3, 60.0])
begins = st.sampled_from([0.0, 0.1, BEGIN])
rules = st.builds(
    lambda kind, rate, per, more, reserved: Rule(
        kind=kind, rate=rate, per=per, capacity=None if kind == "sliding_window" else rate + more, max_reserved=reserved
    ),
    kind=st.sampled_from(KINDS),
    rate=st.sampled_from([1, 2, 3, 10]),
    per=pers,
    more=st.sampled_from([0, 1, 2.5]),
    reserved=st.sampled_from([0, 1, 5, None]),
)


def exceeds(events: list[tuple[float, float]], rate: float, per: float) -> bool:
    """Whether some window of `per`, beginning at one of the `events` (instant, count), holds more than `rate`."""
    events = sorted(events)
    return any(
        sum(Fraction(count) for at, count in events[i:] if Fraction(at) < Fraction(begin) + Fraction(per)) > rate
        for i, (begin, _) in enumerate(events)
    )


# ---------------------------------------------------------------------------------------------------- all kinds
@given(rules, begins, st.lists(st.tuples(spans, st.integers(1, 3), st.booleans()), max_size=40))
def test_the_wait_is_exact(rule: Rule, now: float, takes: list[tuple[float, int, bool]]):
    state = None
    for pause, count, reserve in takes:
        now += pause
        if count > rule.most:
            continue
        decision = decide(rule, state, now, count, reserve)
        state = json.loads(json.dumps(decision.state))
        if decision.ok:
            continue
        assert decision.retry_after is not None
        assert decide(rule, state, now + decision.retry_after, count, reserve).ok
        too_early = now + decision.retry_after * (1 - 1e-6) - 1e-6
        assert too_early <= now or not decide(rule, state, too_early, count, reserve).ok


@given(rules, begins, st.lists(st.tuples(spans, st.integers(1, 3)), max_size=30))
def test_a_rejected_take_and_a_check_consume_nothing(rule: Rule, now: float, takes: list[tuple[float, int]]):
    state: Any = None
    for pause, count in takes:
        now += pause
        if count > rule.most:
            continue
        left, seen = value(rule, state, now), check(rule, state, now, count)
        before = json.dumps(state)
        decision = decide(rule, state, now, count)
        assert (seen.ok, seen.retry_after, seen.state) == (decision.ok, decision.retry_after, state)
        assert json.dumps(state) == before  # never changed in place
        assert decision.ok or decision.state == state
        assert decision.ok == (left >= count)
        assert value(rule, decision.state, now) == pytest.approx(left - count if decision.ok else left)
        state = decision.state


@given(rules, begins, spans, st.integers(1, 3))
def test_what_is_given_back_can_be_taken_again(rule: Rule, now: float, pause: float, count: int):
    if count > rule.most:
        return
    first = decide(rule, None, now)
    taken = decide(rule, first.state, now, count, reserve=True)
    if not taken.ok:
        return
    state = refund(rule, taken.state, count, taken.at, now)
    assert value(rule, state, now) == value(rule, first.state, now)
    assert value(rule, state, now + pause) <= rule.most


@given(rules, st.lists(st.tuples(st.integers(0, 900), st.integers(0, 3), st.integers(1, 3)), max_size=60))
def test_a_clock_that_goes_back_lets_no_more_through(rule: Rule, takes: list[tuple[int, int, int]]):
    """Judged by the true time, which goes on while the clock goes back: by moments, and by more than a window."""
    per, true, offset, state = 8.0, 2.0**20, 0.0, None
    rule = Rule(kind=rule.kind, rate=rule.rate, per=per, capacity=rule.capacity)
    passed: list[tuple[float, float]] = []
    for pause, back, count in takes:
        true += pause / 64
        offset -= (0, 0.25, 7.75, 40)[back]
        if count > rule.most:
            continue
        decision = decide(rule, state, true + offset, count)
        state = decision.state
        if decision.ok:
            passed.append((true, count))
    if rule.kind == "sliding_window":
        assert not exceeds(passed, rule.rate, per)
    for i, (begin, _) in enumerate(passed):
        total = 0.0
        for end, taken in passed[i:]:
            total += taken
            windows = (end - begin) / per if rule.kind == "token_bucket" else math.floor((end - begin) / per) + 1
            assert total <= rule.most + rule.rate * windows + 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_two_clocks_that_differ_gain_nothing(kind: Any):
    """Also where a window begins between them."""
    rule, state, passed = Rule(kind=kind, rate=10, per=60), None, 0
    state = charge(rule, None, BEGIN, 10)
    for turn in range(100):
        decision = decide(rule, state, BEGIN + (60.5 if turn % 2 else 59.5), 0.5)
        state = decision.state
        passed += decision.ok
    assert passed == 20


@pytest.mark.parametrize("kind", KINDS)
def test_while_the_clock_is_behind_no_time_passes(kind: Any):
    rule = Rule(kind=kind, rate=10, per=60)
    state = charge(rule, None, BEGIN, 4)
    for behind in (0, 0.001, 30, 59, 70, 10_000):
        assert value(rule, state, BEGIN - behind) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_clock_was_set_back_a_wait_is_one_window(kind: Any):
    rule = Rule(kind=kind, rate=1, per=60)
    state = decide(rule, None, BEGIN).state
    now = BEGIN - 3610
    refused = decide(rule, state, now)
    assert not refused.ok
    assert refused.retry_after == pytest.approx(60, abs=1e-5)
    assert refused.retry_after is not None
    assert decide(rule, refused.state, now + refused.retry_after).ok


# ---------------------------------------------------------------------------------------------------- sliding window
@given(
    st.sampled_from([1, 2, 3, 10]),
    pers,
    begins,
    st.lists(st.tuples(spans, st.sampled_from([1, 1, 2, 3, 0.5])), max_size=60),
)
def test_a_sliding_window_passes_exactly_what_fits(rate: int, per: float, now: float, takes: list[tuple[float, float]]):
    rule, state = Rule(rate=rate, per=per), None
    passed: list[tuple[float, float]] = []
    for pause, count in takes:
        now += pause
        if count > rate:
            continue
        recent = sum(Fraction(taken) for at, taken in passed if Fraction(now) < Fraction(at) + Fraction(per))
        decision = decide(rule, state, now, count)
        assert decision.ok == (recent + Fraction(count) <= rate)
        assert value(rule, state, now) == rate - recent
        state = decision.state
        if decision.ok:
            passed.append((now, count))
        else:
            assert decision.retry_after is not None
            assert decide(rule, state, now + decision.retry_after, count).ok
    assert not exceeds(passed, rate, per)


@given(
    st.sampled_from([2, 3, 10]),
    pers,
    begins,
    st.lists(st.tuples(spans, st.integers(1, 3), st.booleans()), max_size=40),
)
@example(2, 7.3, 0.0, [(0.3, 1, False), (0.3333333333333333, 2, True), (0.0, 1, True)])  # a wait that is rounded up
def test_reservations_keep_the_limit_at_the_time_they_run(
    rate: int, per: float, now: float, takes: list[tuple[float, int, bool]]
):
    rule, state = Rule(rate=rate, per=per, max_reserved=rate), None
    events: list[tuple[float, float]] = []
    for pause, count, reserve in takes:
        now += pause
        if count > rate:
            continue
        decision = decide(rule, state, now, count, reserve)
        state = decision.state
        assert value(rule, state, now) >= -rate
        if decision.ok:
            assert reserve or decision.retry_after is None
            events.append((now + (decision.retry_after or 0), count))
    assert not exceeds(events, rate, per)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 3), st.integers(0, 5)), max_size=40), st.booleans())
def test_refunds_of_a_sliding_window_never_free_too_much(takes: list[tuple[float, int, int]], known: bool):
    rule, state, now = Rule(rate=10, per=60), None, BEGIN
    events: list[tuple[float, float]] = []
    for pause, count, which in takes:
        now += pause
        counts = which < len(events) and now < later_sum(events[which][0], 60)
        if which < 3 and (counts or (known and which < len(events))):
            at, taken = events.pop(which)
            state = refund(rule, state, taken, at if known else None, now)
        decision = decide(rule, state, now, count)
        state = decision.state
        if decision.ok:
            events.append((now, count))
        if known:
            assert decision.ok == (not exceeds([*events, (now, 0 if decision.ok else count)], 10, 60))
    assert not exceeds(events, 10, 60)


def test_a_busy_sliding_window_stays_small_and_is_used():
    rule, now, state = Rule(rate=2500, per=1), BEGIN, None
    instants: list[float] = []
    while now < BEGIN + 5:
        decision = decide(rule, state, now, 1)
        state = decision.state
        assert state is not None
        assert len(state["takes"]) <= EXACT + SLOTS + 1
        if decision.ok:
            instants.append(now)
            now += 0.0003 if now < BEGIN + 1 else 0  # evenly, then whenever there is room
        else:
            assert decision.retry_after is not None
            now += decision.retry_after
    assert all(Fraction(late) - Fraction(early) >= 1 for early, late in zip(instants, instants[2500:], strict=False))
    assert len(instants) >= 0.999 * 2500 * 5


def test_a_busy_sliding_window_frees_what_ran_out_within_a_thousandth_of_it():
    rule, state = Rule(rate=2000, per=1), None
    instants = [BEGIN + number * 0.0004 for number in range(2000)]
    for now in instants:
        state = decide(rule, state, now).state
    for probe in range(1000, 1800, 37):
        now = BEGIN + probe / 1000
        assert sum(at + 1.001 <= now for at in instants) <= value(rule, state, now)
        assert value(rule, state, now) <= sum(at + 1 <= now for at in instants)


def test_a_take_of_a_slow_clock_counts_from_the_latest_instant_known():
    """It passed after the other, whatever its clock says."""
    rule = Rule(rate=2, per=60)
    second = decide(rule, decide(rule, None, BEGIN).state, BEGIN - 1)
    assert second.ok
    assert second.at == BEGIN
    assert value(rule, second.state, BEGIN + 59.5) == 0
    assert value(rule, refund(rule, second.state, 1, second.at), BEGIN + 1) == 1


def test_a_refund_is_of_what_still_counts():
    rule = Rule(rate=2, per=60)
    state = decide(rule, decide(rule, None, BEGIN).state, BEGIN + 30).state
    assert value(rule, refund(rule, state, 1, now=BEGIN + 70), BEGIN + 70) == 2


def test_many_takes_of_one_instant_are_few_entries():
    rule, state = Rule(rate=10_000, per=60), None
    for number in range(3000):
        state = decide(rule, state, BEGIN + number % 7 / 1e6).state
    assert state is not None
    assert len(state["takes"]) <= EXACT + 2
    assert value(rule, state, BEGIN + 1) == 7000


def test_fifteen_tenths_are_one_and_a_half():
    assert sum([0.1] * 15) > 1.5  # added one after the other
    rule, state = Rule(rate=1.5, per=60), None
    passed = []
    for _ in range(17):
        decision = decide(rule, state, BEGIN, 0.1)
        state = decision.state
        passed.append(decision.ok)
    assert passed == [True] * 15 + [False] * 2


# ---------------------------------------------------------------------------------------------------- fixed window
@given(
    st.sampled_from([1, 3, 10]),
    pers,
    st.sampled_from([0, 2, 10]),
    begins,
    st.sampled_from([None, 0.0, 0.7, BEGIN + 5]),
    st.lists(st.tuples(spans, st.integers(1, 3), st.booleans()), max_size=40),
)
def test_fixed_windows_follow_the_model(
    rate: int, per: float, more: int, now: float, start: float | None, takes: list[tuple[float, int, bool]]
):
    rule = Rule(kind="fixed_window", rate=rate, per=per, capacity=rate + more, start=start, max_reserved=5)
    state, left, last = None, rate + more, None
    anchor = None if start is None else Fraction(start)
    for pause, count, reserve in takes:
        now += pause
        if count > rule.most:
            continue
        anchor = Fraction(now) if anchor is None else anchor
        window = math.floor((Fraction(now) - anchor) / Fraction(per))
        left = min(left + rate * (window - (window if last is None else last)), rate + more)
        last = window
        decision = decide(rule, state, now, count, reserve)
        state = decision.state
        assert decision.ok == (left - count >= (-5 if reserve else 0))
        if decision.ok:
            left -= count
        assert value(rule, state, now) == left
        missing = -left if decision.ok else count - left - (5 if reserve else 0)
        assert (decision.retry_after is None) == (missing <= 0)
        if decision.retry_after is not None:
            begin = anchor + (window + math.ceil(missing / rate)) * Fraction(per)
            assert decision.retry_after == pytest.approx(float(begin - Fraction(now)), abs=1e-6)
            assert Fraction(now + decision.retry_after) >= begin


def test_a_fixed_window_begins_at_its_first_use_and_has_no_drift():
    rule, now = Rule(kind="fixed_window", rate=1, per=0.1), BEGIN
    decision = decide(rule, None, now)
    for number in range(1, 1001):
        decision = decide(rule, decision.state, now)
        assert not decision.ok
        assert decision.retry_after is not None
        now += decision.retry_after
        assert abs(Fraction(now) - Fraction(BEGIN) - number * Fraction(0.1)) < Fraction(1, 10**6)
        decision = decide(rule, decision.state, now)
        assert decision.ok


def test_no_fixed_window_begins_early():
    """1.0 / 0.1 is 10.0, and yet the tenth window begins after 1.0: 0.1 is a float a little above it."""
    rule = Rule(kind="fixed_window", rate=1, per=0.1, start=0)
    assert 1.0 / rule.per == 10.0
    state = decide(rule, None, 0.95).state
    assert not decide(rule, state, 1.0).ok
    assert decide(rule, state, math.nextafter(1.0, 2)).ok


def test_no_fixed_window_is_waited_for_in_vain():
    """2.1 / 0.3 is a little above 7, and yet 7 windows bring 2.1."""
    rule = Rule(kind="fixed_window", rate=0.3, per=60, capacity=4)
    assert math.ceil(2.1 / 0.3) == 8
    state = charge(rule, None, 0.0, 4)
    assert decide(rule, state, 0.0, 2.1).retry_after == 7 * 60


def test_a_refund_of_a_window_that_is_over_is_nothing():
    rule = Rule(kind="fixed_window", rate=10, per=60)
    first = decide(rule, None, BEGIN, 5)
    second = decide(rule, first.state, BEGIN + 60, 3)
    assert value(rule, refund(rule, second.state, 5, first.at), BEGIN + 60) == 7
    assert value(rule, refund(rule, second.state, 3, second.at), BEGIN + 60) == 10


# ---------------------------------------------------------------------------------------------------- token bucket
@given(
    st.sampled_from([1, 3, 10]),
    pers,
    st.sampled_from([0, 2.5, 10]),
    begins,
    st.lists(st.tuples(spans, st.integers(1, 3), st.booleans()), max_size=40),
)
def test_a_bucket_follows_the_formula(
    rate: int, per: float, more: float, now: float, takes: list[tuple[float, int, bool]]
):
    rule = Rule(kind="token_bucket", rate=rate, per=per, capacity=rate + more, max_reserved=5)
    state, left, last = None, Fraction(rate + more), Fraction(now)
    for pause, count, reserve in takes:
        now += pause
        left = min(left + (Fraction(now) - last) * rate / Fraction(per), Fraction(rate + more))
        last = Fraction(now)
        assert value(rule, state, now) == pytest.approx(float(left), abs=1e-6)
        least = -5 if reserve else 0
        if count > rule.most or abs(left - count - least) < 1e-6:  # which side of a hair: left to the roundings
            continue
        decision = decide(rule, state, now, count, reserve)
        state = decision.state
        assert decision.ok == (left - count >= least)
        if decision.ok:
            left -= count
        missing = -left if decision.ok else count - left + least
        if decision.retry_after is None:
            assert missing <= 1e-6
        else:
            assert decision.retry_after == pytest.approx(float(missing * Fraction(per) / rate), abs=1e-5)


def test_a_bucket_refills_while_it_is_asked():
    rule, state = Rule(kind="token_bucket", rate=10, per=60), None
    state = decide(rule, state, BEGIN, 10).state
    for tenth in range(1, 60):
        assert not decide(rule, state, BEGIN + tenth / 10).ok
    assert decide(rule, state, BEGIN + 6.001).ok


# ---------------------------------------------------------------------------------------------------- charges
@pytest.mark.parametrize("kind", KINDS)
def test_a_charge_counts_whatever_is_left(kind: Any):
    rule = Rule(kind=kind, rate=10, per=60)
    state = charge(rule, decide(rule, None, BEGIN, 8).state, BEGIN, 7)
    assert value(rule, state, BEGIN) == -5
    decision = decide(rule, state, BEGIN, 1)
    assert not decision.ok
    assert decision.retry_after is not None
    assert decide(rule, state, BEGIN + decision.retry_after, 1).ok


# ---------------------------------------------------------------------------------------------------- definitions
@given(rules)
def test_a_rule_comes_back_from_its_text(rule: Rule):
    assert Rule.from_json(rule.to_json()) == rule


def test_numbers_that_are_equal_make_equal_rules():
    assert Rule(rate=10, per=60).to_json() == Rule(rate=10.0, per=60.0).to_json()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rate": 0}, "rate=0"),
        ({"rate": -1}, "rate=-1"),
        ({"rate": math.nan}, "rate=nan"),
        ({"rate": math.inf}, "rate=inf"),
        ({"rate": 10**400}, "rate=1000"),
        ({"rate": "10"}, "rate='10'"),
        ({"rate": True}, "rate=True"),
        ({"rate": None}, "rate=None"),
        ({"per": 0}, "per=0"),
        ({"per": math.inf}, "per=inf"),
        ({"per": 1e-9}, "per=1e-09"),
        ({"kind": "token_bucket", "capacity": 0}, "capacity=0"),
        ({"kind": "token_bucket", "max_reserved": -1}, "max_reserved=-1"),
        ({"kind": "fixed_window", "start": math.nan}, "start=nan"),
        ({"capacity": 5}, "capacity=5: a sliding window has no capacity"),
        ({"start": 5}, "start=5: a sliding window has no start"),
        ({"kind": "token bucket"}, 'Did you mean "token_bucket"'),
        ({"kind": "sliding"}, 'Did you mean "sliding_window"'),
        ({"kind": "zebra"}, '"sliding_window", "fixed_window", "token_bucket"'),
        ({"kind": None}, "kind=None"),
    ],
)
def test_a_definition_that_is_none_names_its_field_and_the_cure(fields: dict[str, Any], words: str):
    with pytest.raises(InputError) as caught:
        Rule(**{"rate": 10, "per": 60, **fields})
    assert words in str(caught.value)
    assert caught.value.cure


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"rate": 1, "per": 0}', '{"rate": 1, "per": 1, "x": 1}'])
def test_a_text_that_is_no_rule(text: str):
    with pytest.raises(InputError) as caught:
        Rule.from_json(text)
    assert caught.value.message.startswith(f"{text!r} is no definition of a limit: ")
    assert caught.value.cure == "Define it again."


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, -1, math.nan, math.inf, "1", None, True, 10.5])
def test_a_count_that_can_never_pass_is_an_error_and_no_wait(kind: Any, count: Any):
    rule = Rule(kind=kind, rate=10, per=60)
    with pytest.raises(InputError, match="count=") as caught:
        decide(rule, None, BEGIN, count)
    assert caught.value.cure
    with pytest.raises(InputError, match="count="):
        check(rule, None, BEGIN, count)


def test_how_much_a_reservation_may_be():
    bucket = Rule(kind="token_bucket", rate=10, per=60, max_reserved=5)
    decision = decide(bucket, None, BEGIN, 15, reserve=True)
    assert decision.ok
    assert decision.retry_after == pytest.approx(30, abs=1e-5)
    with pytest.raises(InputError, match="holds 15 at most"):
        decide(bucket, None, BEGIN, 15.5, reserve=True)
    with pytest.raises(InputError, match="holds 10 at most"):  # not at once, whenever it runs
        decide(Rule(rate=10, per=60, max_reserved=5), None, BEGIN, 11, reserve=True)


# ---------------------------------------------------------------------------------------------------- redefinition
def test_a_new_rate_keeps_what_was_taken():
    for kind in KINDS:
        old, new = Rule(kind=kind, rate=10, per=60), Rule(kind=kind, rate=4, per=60)  # type: ignore[arg-type]
        state = adopt(new, old, decide(old, None, BEGIN, 9).state)
        assert value(new, state, BEGIN) == (-5 if kind == "sliding_window" else 1)
        assert not decide(new, state, BEGIN, 2).ok


def test_a_new_length_of_fixed_windows_gives_nothing_away():
    old, new = Rule(kind="fixed_window", rate=10, per=60), Rule(kind="fixed_window", rate=10, per=90)
    state = adopt(new, old, decide(old, decide(old, None, BEGIN).state, BEGIN + 70, 10).state)
    assert not decide(new, state, BEGIN + 149).ok  # the window that began at 60 lasts until 150
    assert decide(new, state, BEGIN + 150.001).ok


@given(rules, rules, st.lists(spans, max_size=10), begins)
def test_any_definition_can_follow_any(old: Rule, new: Rule, pauses: list[float], now: float):
    state = None
    for pause in pauses:
        now += pause
        state = decide(old, state, now).state
    decision = decide(new, adopt(new, old, state), now)
    assert isinstance(decision, Decision)


def test_another_kind_and_a_broken_state_begin_afresh():
    rule = Rule(rate=10, per=60)
    assert adopt(rule, Rule(kind="token_bucket", rate=10, per=60), {"value": 0, "at": BEGIN}) is None
    assert adopt(rule, None, {"takes": [], "at": BEGIN}) is None
    for broken in ("broken", {}, {"takes": None, "at": 0}, {"takes": [["x", 1]], "at": 0}, {"takes": [1], "at": 0}):
        assert adopt(rule, rule, broken) is None


# ---------------------------------------------------------------------------------------------------- instants
@given(st.floats(0, 2e9), st.floats(1e-6, 1e5))
def test_sums_are_never_early_and_never_later_than_the_next_float(instant: float, span: float):
    total = later_sum(instant, span)
    exact = Fraction(instant) + Fraction(span)
    assert Fraction(total) >= exact
    assert Fraction(math.nextafter(total, -math.inf)) < exact


@given(st.floats(0, 2e9), st.floats(0, 1e5))
def test_waits_arrive(now: float, span: float):
    at = now + span
    wait = wait_between(now, at)
    assert now + wait >= at
    assert wait == pytest.approx(span, abs=1e-6)


def test_pairs_of_takes_at_the_very_end_of_a_window():
    """Half open: what was taken at t is free again at t + per, and not a float before."""
    for per in (0.1, 1 / 3, 60.0):
        rule = Rule(rate=1, per=per)
        state = decide(rule, None, BEGIN).state
        end = later_sum(BEGIN, per)
        for early, late in pairwise([math.nextafter(end, 0), end]):
            assert not decide(rule, state, early).ok
            assert decide(rule, state, late).ok


def test_a_check_of_a_reservation():
    """It passes where a reservation would, and says when that may run."""
    rule = Rule(kind="token_bucket", rate=10, per=60, max_reserved=5)
    state = charge(rule, None, BEGIN, 10)
    assert not check(rule, state, BEGIN, 5).ok
    seen = check(rule, state, BEGIN, 5, reserve=True)
    assert seen.ok
    assert seen.retry_after == pytest.approx(30, abs=1e-5)
    assert seen.state == state


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_given_back_to_nobody(kind: Any):
    assert refund(Rule(kind=kind, rate=1, per=60), None, 1) is None


def test_windows_that_are_given_a_beginning_begin_there():
    old, new = Rule(kind="fixed_window", rate=1, per=60), Rule(kind="fixed_window", rate=1, per=60, start=0.0)
    state = adopt(new, old, decide(old, None, 6030.0).state)
    assert not decide(new, state, 6059.0).ok
    assert decide(new, state, 6060.0).ok


@pytest.mark.parametrize("start", [None, 0.0])
def test_after_a_clock_was_set_back_windows_go_on_from_the_new_time(start: float | None):
    rule = Rule(kind="fixed_window", rate=1, per=60, start=start)
    late = decide(rule, decide(rule, None, 6000.0).state, 6600.0)
    assert late.ok
    early = decide(rule, late.state, 1200.0)
    assert not early.ok
    assert early.retry_after == 60.0
    assert decide(rule, early.state, 1260.0).ok


def test_a_clock_that_is_behind_by_less_than_a_window_begins_none():
    rule = Rule(kind="fixed_window", rate=1, per=60)
    late = decide(rule, decide(rule, None, 6000.0).state, 6061.0)
    assert decide(rule, late.state, 6050.0).retry_after == 70.0, "until the third window begins, by the first clock"


def test_a_clock_that_is_behind_by_more_than_a_window_was_set():
    rule = Rule(kind="fixed_window", rate=1, per=60)
    late = decide(rule, decide(rule, None, 6000.0).state, 6121.0)
    assert decide(rule, late.state, 6010.0).retry_after == 60.0


def test_no_more_is_given_back_than_was_taken_then():
    rule = Rule(rate=5, per=60)
    state = decide(rule, decide(rule, None, BEGIN).state, BEGIN + 30).state
    assert value(rule, refund(rule, state, 2, BEGIN), BEGIN + 30) == 4


def test_a_check_is_of_one():
    rule = Rule(rate=3, per=60)
    state = decide(rule, None, BEGIN, 2).state
    assert check(rule, state, BEGIN).ok
    assert not check(rule, decide(rule, state, BEGIN).state, BEGIN).ok


def test_a_bucket_is_waited_for_to_a_few_roundings():
    """The first guess is too early by two of them."""
    bucket, level = Bucket(3, 3600.0, 1e6), 37474.93423752235
    state = {"value": -611833.8545547022, "at": 0.0}
    found = bucket.earliest(state, 0.0, level)
    assert bucket.fits(state, found, level)
    assert not bucket.fits(state, found - 4 * math.ulp(found), level)
