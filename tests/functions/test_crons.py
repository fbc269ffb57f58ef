"""When crons are due, how they are declared, and what their rows say. The clock is an argument; nothing sleeps."""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai.errors import ArgumentsError, InputError, NotAllowedError, NotFoundError
from ipyconvexai.functions import jobs
from ipyconvexai.functions.crons import (
    Crons,
    advance,
    begin_due,
    bring_back,
    cron,
    crons,
    is_same,
    remove_cron,
    write_cron,
)
from ipyconvexai.functions.registry import action, mutation, query, registry
from ipyconvexai.functions.schedules import Expression, Interval, due_now, missed, parse_schedule
from ipyconvexai.settings import remember_secret
from ipyconvexai.store.link import Store, open_store

T0 = datetime.datetime(2026, 5, 1, 12, 0, 0)


def at(seconds: float) -> datetime.datetime:
    return T0 + datetime.timedelta(seconds=seconds)


def utc(day: int, hour: int, minute: int = 0, month: int = 5) -> datetime.datetime:
    return datetime.datetime(2026, month, day, hour, minute)


@pytest.fixture
def store() -> Iterator[Store]:
    opened = open_store(":memory:")
    yield opened
    opened.close()


# ---------------------------------------------------------------------------------------------- arithmetic
def test_an_interval_counts_from_its_anchor_and_does_not_drift():
    every = Interval(10)
    assert every.first(T0) == T0
    passed = every.passed(T0, at(3.7))
    assert (passed.count, passed.last, passed.following) == (1, T0, at(10))
    assert every.passed(at(10), at(1_000_000.5)).following == at(1_000_010)
    assert Interval(0.1).passed(T0, at(86_400)).following == at(86_400.1)


def test_a_run_of_35_s_at_10_s_skips_three_and_the_next_is_at_40():
    assert missed(Interval(10), at(10), at(35)) == (3, at(40))


@pytest.mark.parametrize(("end", "skipped", "following"), [(9, 0, 10), (10, 0, 10), (10.001, 1, 20), (30, 2, 30)])
def test_a_tick_at_the_very_end_of_a_run_is_not_missed(end: float, skipped: int, following: float):
    assert missed(Interval(10), at(10), at(end)) == (skipped, at(following))


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (9.9, (None, 0, 10)),
        (10, (10, 0, 20)),
        (15, (10, 0, 20)),  # half the interval late
        (15.1, (None, 1, 20)),
        (34, (30, 2, 40)),
        (36, (None, 3, 40)),
    ],
)
def test_what_is_too_late_is_skipped_and_only_the_last_is_made_up_for(now: float, expected: tuple[Any, ...]):
    tick, skipped, following = expected
    assert due_now(Interval(10), at(10), at(now)) == (None if tick is None else at(tick), skipped, at(following))


def test_long_intervals_are_made_up_for_within_a_minute():
    assert due_now(Interval(3600), T0, at(60))[0] == T0
    assert due_now(Interval(3600), T0, at(61)) == (None, 1, at(3600))


def test_years_of_missed_minutes_are_counted_in_bounded_time():
    passed = Expression("* * * * *").passed(datetime.datetime(2016, 1, 1), T0)
    assert passed.count == 10_000
    assert passed.following == at(60)


def test_times_of_day_follow_the_clocks_of_their_zone():
    daily = Expression("0 2 * * *", "Europe/Paris")
    assert daily.first(utc(1, 12)) == utc(2, 0)  # summer: UTC+2
    assert daily.first(utc(1, 12, month=12)) == utc(2, 1, month=12)
    assert daily.first(utc(28, 12, month=3)) == utc(29, 1, month=3)  # 02:00 does not exist: at 03:00
    half_past = Expression("30 2 * * *", "Europe/Paris")
    first = half_past.first(utc(24, 12, month=10))
    assert first == utc(25, 0, 30, month=10)  # 02:30 comes twice that night, and is met once
    assert half_past.passed(first, first).following == utc(26, 1, 30, month=10)
    assert half_past.first(utc(25, 1, 10, month=10)) == utc(26, 1, 30, month=10)
    often = Expression("*/30 * * * *", "Europe/Paris")
    assert often.passed(utc(25, 0, month=10), utc(25, 2, month=10)).count == 5  # no hole, no doubles


def test_schedules_are_kept_as_json():
    for schedule in (Interval(2.5), Expression("*/5 9-17 * * MON-FRI", "Asia/Kolkata")):
        assert parse_schedule(schedule.to_json()) == schedule


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("61 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day-of-month"),
        ("* * * 13 *", "month"),
        ("* * * * 8", "day-of-week"),
        ("* * *", "five fields"),
        ("", "five fields"),
        ("often", "five fields"),
        ("0 0 30 2 *", "day-of-month"),
    ],
)
def test_bad_text_names_the_field(text: str, word: str):
    with pytest.raises(InputError, match=word):
        cron(text)


@pytest.mark.parametrize(
    ("declare", "word"),
    [
        (lambda: cron("0 2 * * *", tz="Europe/Atlantis"), "tz='Europe/Atlantis'"),
        (lambda: cron.interval(seconds=0), "interval of 0"),
        (lambda: cron.interval(), "interval of 0"),
        (lambda: cron.interval(minutes=-1), r"minutes=-1"),
        (lambda: cron.interval(seconds=float("nan")), "nan"),
        (lambda: cron.interval(hours=float("inf")), "inf"),
        (lambda: cron.interval(seconds="10"), "seconds='10'"),  # type: ignore[arg-type]
        (lambda: cron.hourly(minute=60), "minute=60"),
        (lambda: cron.daily(hour=24), "hour=24"),
        (lambda: cron.daily(hour=True), "hour=True"),
        (lambda: cron.daily(hour=2, tz="Mars"), "tz='Mars'"),
        (lambda: cron.weekly(day="funday"), "day='funday'"),
        (lambda: cron.weekly(day="monday", minute=-1), "minute=-1"),
        (lambda: cron.monthly(day=32), "day=32"),
        (lambda: cron.daily(hour=1, name=" "), "name=' '"),
    ],
)
def test_bad_values_name_the_keyword(declare, word: str):
    with pytest.raises(InputError, match=word):
        declare()


# ---------------------------------------------------------------------------------------------- declaring
@pytest.fixture
def tidy() -> Iterator[Crons]:
    before = crons.all()
    yield crons
    for name in crons.all().keys() - before.keys():
        crons.discard(name)


def test_helpers_are_expressions(tidy: Crons):
    @cron.weekly(day="Monday", hour=9, tz="Europe/Paris", name="w")
    @cron.monthly(day=1, name="m")
    @cron.daily(hour=2, minute=30, name="d")
    @cron.hourly(minute=5, name="h")
    @cron.interval(minutes=1.5, name="i", args={"x": 3})
    @action
    async def cron_helpers(ctx, x: int = 0) -> None: ...

    found = {name: declared.schedule for name, declared in tidy.all().items()}
    assert found["w"] == Expression("0 9 * * 1", "Europe/Paris")
    assert found["m"] == Expression("0 0 1 * *")
    assert found["d"] == Expression("30 2 * * *")
    assert found["h"] == Expression("5 * * * *")
    assert found["i"] == Interval(90)
    assert tidy.all()["i"].args == '{"x":3}'
    assert callable(cron_helpers)


def test_two_schedules_of_one_function_need_two_names_and_a_cell_may_be_run_again(tidy: Crons):
    def cell(minute: int):
        @cron.hourly(minute=minute)
        @mutation
        def cron_again(ctx) -> None: ...

        return cron_again

    cell(1)
    fn = cell(2)
    assert tidy.all()["cron_again"].schedule == Expression("2 * * * *")
    with pytest.raises(InputError, match="name="):
        cron.hourly(minute=3)(fn)


def test_only_mutations_and_actions_with_fitting_arguments_run_by_the_clock(tidy: Crons):
    @query
    def cron_reads(ctx) -> int:
        return 1

    @mutation
    def cron_takes(ctx, x: int) -> None: ...

    with pytest.raises(NotAllowedError, match="query"):
        cron.hourly()(cron_reads)
    with pytest.raises(ArgumentsError):
        cron.hourly()(cron_takes)
    with pytest.raises(InputError, match="above"):
        cron.hourly()(lambda ctx: None)
    assert not tidy.all().keys() & {"cron_reads", "cron_takes"}


# ---------------------------------------------------------------------------------------------- rows
@mutation
def cron_tick(ctx) -> None: ...


FUNCTIONS = {"cron_tick": registry.find("cron_tick")}


def declare(store: Store, schedule, now: datetime.datetime = T0, args: str = "{}") -> None:
    from ipyconvexai.functions.crons import Cron

    declared = Cron("tick", FUNCTIONS["cron_tick"], schedule, args)
    if not is_same(store, declared, "ann"):
        with store.transaction() as execute:
            write_cron(execute, declared, "ann", now)


def state(store: Store) -> tuple[Any, ...]:
    return store.read("SELECT next_time, last_time, runs, skipped FROM crons")[0]


def runs(store: Store) -> list[tuple[Any, ...]]:
    return store.read("SELECT scheduled_time, state, cron, user_id FROM scheduled_functions ORDER BY scheduled_time")


def finish(store: Store, now: datetime.datetime, outcome: jobs.JobState = jobs.JobState.SUCCESS) -> None:
    """Claim the one job that is due, and settle it at `now`."""
    with store.transaction() as execute:
        (job,) = jobs.claim(execute, FUNCTIONS, now, store.session_id, actions=9, mutations=9)
    with store.transaction() as execute:
        jobs.settle(execute, job, jobs.Outcome(outcome), now)
        advance(execute, "tick", job.id, now)


def test_interval_10_s_with_a_35_s_run(store: Store, caplog: pytest.LogCaptureFixture):
    declare(store, Interval(10))
    begin_due(store, FUNCTIONS, at(0.01))
    assert runs(store) == [(T0, "pending", "tick", "ann")]
    assert state(store) == (at(10), T0, 1, 0)
    for second in (10, 20, 30):
        begin_due(store, FUNCTIONS, at(second))  # one run at a time
    assert len(runs(store)) == 1
    with caplog.at_level(logging.WARNING, "ipyconvexai.scheduler"):
        finish(store, at(35))
    assert state(store) == (at(40), T0, 1, 3)
    assert "3 runs skipped" in caplog.text
    begin_due(store, FUNCTIONS, at(39.9))
    assert len(runs(store)) == 1
    begin_due(store, FUNCTIONS, at(40))
    assert runs(store)[1][:2] == (at(40), "pending")


def test_what_nobody_was_there_for_is_skipped_counted_and_logged(store: Store, caplog: pytest.LogCaptureFixture):
    declare(store, Expression("0 2 * * *"))
    with caplog.at_level(logging.WARNING, "ipyconvexai.scheduler"):
        begin_due(store, FUNCTIONS, datetime.datetime(2026, 5, 4, 9))
    assert runs(store) == []
    assert state(store) == (datetime.datetime(2026, 5, 5, 2), None, 0, 3)
    assert "cron tick: 3 runs skipped" in caplog.text


def test_of_many_that_see_it_due_one_begins_it(store: Store):
    declare(store, Interval(10))
    together = threading.Barrier(8)

    def begin() -> None:
        together.wait()
        begin_due(store, FUNCTIONS, at(0))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs(store)) == 1
    assert state(store) == (at(10), T0, 1, 0)


def test_a_declaration_that_is_the_same_changes_nothing_and_another_schedule_does(store: Store):
    declare(store, Interval(10))
    begin_due(store, FUNCTIONS, at(1))
    declare(store, Interval(10), at(5))
    assert state(store) == (at(10), T0, 1, 0)
    declare(store, Interval(10), at(5), '{"x": 1}')  # another argument, and the same times
    assert state(store) == (at(10), T0, 1, 0)
    declare(store, Interval(7), at(6))
    assert state(store)[0] == at(6)


def test_a_removed_cron_begins_no_more_and_declaring_it_again_starts_it(store: Store):
    declare(store, Interval(10))
    assert remove_cron(store, "tick") is True
    assert remove_cron(store, "tick") is False
    assert remove_cron(store, "nothing") is False
    begin_due(store, FUNCTIONS, at(20))
    assert runs(store) == []
    declare(store, Interval(10), at(30))
    begin_due(store, FUNCTIONS, at(30))
    assert len(runs(store)) == 1


def test_a_cron_whose_function_is_not_defined_here_is_left_to_others(store: Store):
    declare(store, Interval(10))
    begin_due(store, {}, at(0))
    assert state(store) == (T0, None, 0, 0)


def test_a_canceled_run_does_not_stop_its_cron(store: Store):
    declare(store, Interval(10))
    begin_due(store, FUNCTIONS, at(0))
    with store.transaction() as execute:
        ((key,),) = execute("SELECT id::VARCHAR FROM scheduled_functions")
        jobs.cancel(execute.later, key, at(1))
    begin_due(store, FUNCTIONS, at(10))
    assert [row[1] for row in runs(store)] == ["canceled", "pending"]


def test_a_schedule_that_cannot_be_read_stops_that_cron_only(store: Store, caplog: pytest.LogCaptureFixture):
    declare(store, Interval(10))
    with store.transaction() as execute:
        execute.later("UPDATE crons SET schedule = '{\"moon\": 1}'")
    begin_due(store, FUNCTIONS, at(0))
    assert state(store)[0] is None
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("schedule", "following"),
    [
        (Interval(10), at(-3 * 3600 + 10)),
        (Interval(4 * 3600), at(3600)),
        (Expression("*/5 * * * *"), utc(1, 9, 5)),
        (Expression("0 11 * * *", "Asia/Kolkata"), utc(2, 5, 30)),  # 05:30 UTC is over on both clocks
    ],
    ids=str,
)
def test_when_the_clock_is_set_back_no_cron_stands_still(
    store: Store, schedule: Any, following: datetime.datetime, caplog: pytest.LogCaptureFixture
):
    declare(store, schedule)
    begin_due(store, FUNCTIONS, T0)
    before = state(store)
    with caplog.at_level(logging.WARNING, "ipyconvexai.scheduler"):
        bring_back(store, FUNCTIONS, at(-3 * 3600))
    assert state(store) == (following, *before[1:])
    assert ("the clock was set back" in caplog.text) == (following != before[0])
    bring_back(store, FUNCTIONS, at(-3 * 3600 + 1))
    assert state(store)[0] == following, "once is enough"


@pytest.mark.parametrize(
    ("schedule", "now"),
    [
        (Interval(10), T0),
        (Interval(10), at(9)),
        (Interval(10), at(-1)),  # of another process, a moment later
        (Expression("0 * * * *"), T0),
        (Expression("0 * * * *"), at(3599)),
        (Expression("0 * * * *"), at(-1)),  # 12:00 has been begun, by a clock that is not quite the same
    ],
    ids=str,
)
def test_a_cron_that_is_due_in_time_is_not_touched(store: Store, schedule: Any, now: datetime.datetime):
    declare(store, schedule)
    begin_due(store, FUNCTIONS, T0)
    before = state(store)
    bring_back(store, FUNCTIONS, now)
    assert state(store) == before


def test_crons_of_others_or_stopped_or_not_readable_are_not_brought_back(store: Store):
    declare(store, Interval(10))
    bring_back(store, {}, at(-3600))
    assert state(store)[0] == T0
    with store.transaction() as execute:
        execute.later("UPDATE crons SET schedule = '{\"moon\": 1}'")
    bring_back(store, FUNCTIONS, at(-3600))
    assert state(store)[0] == T0
    remove_cron(store, "tick")
    bring_back(store, FUNCTIONS, at(-3600))
    assert state(store)[0] is None


def test_a_key_among_a_crons_arguments_is_refused(tidy: Crons):
    remember_secret("sk-very-secret-0123456789")

    @mutation
    def cron_key(ctx, key: str) -> None: ...

    with pytest.raises(ArgumentsError, match="holds a key"):
        cron.hourly(args={"key": "sk-very-secret-0123456789"})(cron_key)
    assert "cron_key" not in tidy.all()


def test_ai_cancel_takes_the_name_of_a_cron_too():
    with ai.connect(":memory:") as app:
        declare(app.store, Interval(10))
        assert ai.cancel("tick") == "stopped"
        assert app.store.read("SELECT next_time FROM crons") == [(None,)]
        assert [row[:4] for row in ai.crons()] == [("tick", "cron_tick", '{"interval": 10}', None)]
        assert ai.cancel("tick") == "stopped"
        with pytest.raises(NotFoundError, match="no cron"):
            ai.cancel("tock")
