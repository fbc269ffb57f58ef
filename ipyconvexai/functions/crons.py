"""Functions that run by the clock: ``@ai.cron(...)``, what this process has declared, and the rows of ``crons``.

Calls ``schedules``, ``jobs``, ``registry`` and the store. A run is a row of ``scheduled_functions``. Promises: one run
at a time, also where several processes declare the same cron; runs that were missed, while one was running or
no process was up, are skipped, counted and logged; an unchanged declaration changes nothing.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ipyconvexai.errors import InputError, NotAllowedError
from ipyconvexai.functions import jobs
from ipyconvexai.functions.definitions import Definitions
from ipyconvexai.functions.registry import Function, Kind, of
from ipyconvexai.functions.schedules import Expression, Interval, Schedule, due_now, missed, parse_schedule
from ipyconvexai.ids import new_id
from ipyconvexai.store.link import Execute, Store

__all__ = [
    "CRONS_SQL",
    "Cron",
    "Crons",
    "advance",
    "begin_due",
    "bring_back",
    "cron",
    "crons",
    "is_cron",
    "is_same",
    "remove_cron",
    "stop_cron",
    "write_cron",
]

_log = logging.getLogger("ipyconvexai.scheduler")

F = TypeVar("F", bound=Callable[..., Any])
LATER_CLOCK = datetime.timedelta(seconds=5)  # by which the clock of who last wrote a cron may be later than `now`
DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")


@dataclass(frozen=True, slots=True)
class Cron:
    """A declaration; `args` is JSON."""

    name: str
    function: Function
    schedule: Schedule
    args: str


class Crons(Definitions[Cron]):
    """What this process has declared, by name."""

    def add(self, declared: Cron) -> None:
        """Declare `declared`; one of that name from an earlier run of its cell is replaced.

        Raises:
            InputError: two crons of one function have one name.
        """

        def check(other: Cron) -> None:
            if other.function is declared.function and other.schedule != declared.schedule:
                raise InputError(
                    f"two crons have the name {declared.name}", cure='Give the second one another: name="...".'
                )

        self.put(declared.name, declared, check)


crons = Crons()


# ---------------------------------------------------------------------------------------------- declaring
class _Declare:
    """``@ai.cron("0 2 * * *", tz="Europe/Paris")``, above ``@ai.mutation`` or ``@ai.action``."""

    def __call__(
        self, expression: str, *, tz: str = "UTC", name: str | None = None, args: Mapping[str, Any] | None = None
    ) -> Callable[[F], F]:
        """Run the function when `expression` says: minute, hour, day, month, weekday, in the time zone `tz`.

        Args:
            expression: five fields, as ``"*/5 9-17 * * MON-FRI"``.
            tz: a name of the tz database.
            name: of the cron; default the function's.
            args: the function's arguments.

        Raises:
            InputError: a field or the time zone is wrong.
        """
        return _declare(Expression(expression, tz), name, args)

    def interval(
        self,
        *,
        seconds: float = 0,
        minutes: float = 0,
        hours: float = 0,
        name: str | None = None,
        args: Mapping[str, Any] | None = None,
    ) -> Callable[[F], F]:
        """Run at once, and then every so often, without drift. One run at a time; what falls into one is skipped."""
        for unit, value in (("seconds", seconds), ("minutes", minutes), ("hours", hours)):
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise InputError(f"interval({unit}={value!r}) is no time", cure="Use a number above 0.")
        return _declare(Interval(seconds + 60 * minutes + 3600 * hours), name, args)

    def hourly(
        self, *, minute: int = 0, name: str | None = None, args: Mapping[str, Any] | None = None
    ) -> Callable[[F], F]:
        """Run each hour at `minute`."""
        return _declare(Expression(f"{_within('minute', minute, 0, 59)} * * * *"), name, args)

    def daily(
        self,
        *,
        hour: int,
        minute: int = 0,
        tz: str = "UTC",
        name: str | None = None,
        args: Mapping[str, Any] | None = None,
    ) -> Callable[[F], F]:
        """Run each day at `hour` : `minute`."""
        return _declare(Expression(f"{_time(hour, minute)} * * *", tz), name, args)

    def weekly(
        self,
        *,
        day: str,
        hour: int = 0,
        minute: int = 0,
        tz: str = "UTC",
        name: str | None = None,
        args: Mapping[str, Any] | None = None,
    ) -> Callable[[F], F]:
        """Run each week on `day` ("monday", ...)."""
        if not isinstance(day, str) or day.lower() not in DAYS:
            raise InputError(f"day={day!r} is no day of the week", cure=f"Use one of {', '.join(DAYS)}.")
        return _declare(Expression(f"{_time(hour, minute)} * * {DAYS.index(day.lower())}", tz), name, args)

    def monthly(
        self,
        *,
        day: int,
        hour: int = 0,
        minute: int = 0,
        tz: str = "UTC",
        name: str | None = None,
        args: Mapping[str, Any] | None = None,
    ) -> Callable[[F], F]:
        """Run each month on `day`; a month without such a day is left out."""
        return _declare(Expression(f"{_time(hour, minute)} {_within('day', day, 1, 31)} * *", tz), name, args)


cron = _Declare()


def _within(field: str, value: int, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{field}={value!r} is no {field}", cure=f"Use a whole number from {least} to {most}.")
    return value


def _time(hour: int, minute: int) -> str:
    return f"{_within('minute', minute, 0, 59)} {_within('hour', hour, 0, 23)}"


def _declare(schedule: Schedule, name: str | None, args: Mapping[str, Any] | None) -> Callable[[F], F]:
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise InputError(f"name={name!r} is no name", cure="Leave it out, or use a text.")

    def declare(fn: F) -> F:
        if not hasattr(fn, "ai_function"):
            raise InputError(
                f"{getattr(fn, '__name__', fn)!r} is neither a mutation nor an action",
                cure="Put @ai.cron(...) above @ai.mutation or @ai.action.",
            )
        function = of(fn)
        if function.kind is Kind.QUERY:
            raise NotAllowedError(
                f"{function.name} is a query, and only mutations and actions run by the clock",
                cure="Make it a mutation or an action.",
            )
        text = jobs.arguments_text(function, args or {})
        crons.add(Cron(name or function.name, function, schedule, text))
        return fn

    return declare


# ---------------------------------------------------------------------------------------------- rows
def is_same(store: Store, declared: Cron, user_id: str | None) -> bool:
    """Whether the row of `declared` says the same, and is not stopped."""
    rows = store.read(
        "SELECT function, schedule, args, user_id FROM crons WHERE name = ? AND next_time IS NOT NULL", [declared.name]
    )
    return rows == [(declared.function.name, declared.schedule.to_json(), declared.args, user_id)]


def write_cron(execute: Execute, declared: Cron, user_id: str | None, now: datetime.datetime) -> None:
    """Make the row of `declared`, or change it. Where the schedule is the same, its next time stays."""
    schedule = declared.schedule.to_json()
    values = [declared.function.name, schedule, declared.args, user_id]
    found = execute("SELECT schedule, next_time FROM crons WHERE name = ?", [declared.name])
    if not found:
        execute.later(
            "INSERT INTO crons (function, schedule, args, user_id, name, anchor, next_time, runs, skipped)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0)",
            [*values, declared.name, now, declared.schedule.first(now)],
        )
    elif found[0][0] == schedule and found[0][1] is not None:
        execute.later(
            "UPDATE crons SET function = ?, schedule = ?, args = ?, user_id = ? WHERE name = ?",
            [*values, declared.name],
        )
    else:
        execute.later(
            "UPDATE crons SET function = ?, schedule = ?, args = ?, user_id = ?, anchor = ?, next_time = ?"
            " WHERE name = ?",
            [*values, now, declared.schedule.first(now), declared.name],
        )


def remove_cron(store: Store, name: str) -> bool:
    """Stop the cron `name`: a run that was begun goes on, no other one begins. Whether there was one.

    To declare it again, as running its cell or its worker again does, starts it again.
    """
    crons.discard(name)
    return stop_cron(store, name)


def stop_cron(store: Store, name: str, function: str | None = None) -> bool:
    """Stop the row `name`, where it runs `function`, if one is named. Whether there was one that was not stopped."""
    with store.transaction() as execute:
        stopped = execute(
            "UPDATE crons SET next_time = NULL WHERE name = ? AND next_time IS NOT NULL"
            " AND function = coalesce(?, function) RETURNING 1",
            [name, function],
        )
    return bool(stopped)


def is_cron(store: Store, name: str) -> bool:
    """Whether there is a row of that name, stopped or not."""
    return bool(store.read("SELECT 1 FROM crons WHERE name = ?", [name]))


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    function: str
    schedule: str
    args: str
    user_id: str | None
    next_time: datetime.datetime


_DUE = """
SELECT name, function, schedule, args, user_id, next_time FROM crons c
WHERE next_time <= ? AND function IN (SELECT unnest(?::VARCHAR[]))
  AND NOT EXISTS (SELECT 1 FROM scheduled_functions j WHERE j.id = c.job_id AND j.finished_at IS NULL)
"""


def begin_due(store: Store, functions: Mapping[str, Function], now: datetime.datetime) -> None:
    """Make a job of each cron that is due, whose function is among `functions` and which is not running."""
    for row in (_Row(*values) for values in store.read(_DUE, [now, sorted(functions)])):
        try:
            tick, skipped, following = due_now(parse_schedule(row.schedule), row.next_time, now)
        except Exception as error:  # written by a newer version, or its time zone is not known here
            _log.warning("cron %s is stopped, for its schedule cannot be read: %s", row.name, error)
            remove_cron(store, row.name)
            continue
        job = None if tick is None else _job(row, functions[row.function], tick, now)
        with store.transaction() as execute:
            # By its next time: of two processes that saw it due, one comes too late.
            mine = execute(
                "UPDATE crons SET next_time = ?, skipped = skipped + ?, runs = runs + ?,"
                " last_time = coalesce(?, last_time), job_id = coalesce(?::UUID, job_id)"
                " WHERE name = ? AND next_time = ? RETURNING 1",
                [following, skipped, int(job is not None), tick, job and job.id, row.name, row.next_time],
            )
            if mine and job is not None:
                jobs.insert(execute.later, job)
        if mine and skipped:
            _tell_skipped(row.name, skipped, following)


_AHEAD = """
SELECT name, schedule, next_time FROM crons WHERE next_time > ? AND function IN (SELECT unnest(?::VARCHAR[]))
"""


def bring_back(store: Store, functions: Mapping[str, Function], now: datetime.datetime) -> None:
    """Give crons that are due later than their schedule allows their next time anew.

    The clock was ahead when they got it, and was set back since: they would stand still until it is there again.
    """
    for name, text, next_time in store.read(_AHEAD, [now, sorted(functions)]):
        latest = _latest(text, next_time, now)
        if latest is None:
            continue
        with store.transaction() as execute:
            mine = execute(
                "UPDATE crons SET next_time = ? WHERE name = ? AND next_time = ? RETURNING 1", [latest, name, next_time]
            )
        if mine:
            when = latest.isoformat(" ", "seconds")
            _log.warning("cron %s: the clock was set back, the next run is at %s UTC", name, when)


def _latest(text: str, next_time: datetime.datetime, now: datetime.datetime) -> datetime.datetime | None:
    """The latest that a cron of the schedule `text` may be due, where `next_time` is beyond it; None: it is not."""
    try:
        schedule = parse_schedule(text)
        # Not by a moment: another process may have begun the tick that is next for `now`.
        return schedule.latest(now) if next_time > schedule.latest(now + LATER_CLOCK) else None
    except Exception:  # ``begin_due`` says so and stops it when it is due
        return None


def _job(row: _Row, function: Function, tick: datetime.datetime, now: datetime.datetime) -> jobs.NewJob:
    most = function.retry.attempts if function.kind is Kind.ACTION else 1
    return jobs.NewJob(
        new_id(), function.name, str(function.kind), row.args, row.user_id, now, tick, most, cron=row.name
    )


def advance(execute: Execute, name: str, job: str, now: datetime.datetime) -> None:
    """At the end of the run `job`, in the transaction that settles it: skip and count what fell into it."""
    rows = execute(
        "SELECT schedule, next_time FROM crons WHERE name = ? AND job_id = ?::UUID AND next_time < ?", [name, job, now]
    )
    for schedule, next_time in rows:
        try:
            skipped, following = missed(parse_schedule(schedule), next_time, now)
        except Exception:  # ``begin_due`` says so and stops it; how the run ended must be written all the same
            continue
        execute.later(
            "UPDATE crons SET next_time = ?, skipped = skipped + ? WHERE name = ?", [following, skipped, name]
        )
        _tell_skipped(name, skipped, following)


def _tell_skipped(name: str, skipped: int, following: datetime.datetime) -> None:
    runs = "1 run" if skipped == 1 else f"{skipped} runs"
    _log.warning("cron %s: %s skipped, the next one is at %s UTC", name, runs, following.isoformat(" ", "seconds"))


# What ``ai.crons()`` shows.
CRONS_SQL = """
SELECT name, function, schedule, next_time, last_time, runs, skipped, user_id AS user, args, anchor,
       job_id::VARCHAR AS job_id
FROM crons ORDER BY next_time NULLS LAST, name
"""
