"""When a cron is due: arithmetic on instants only. Calls cronsim (this is its only door) and errors.

All instants are naive UTC. Promises: an interval does not drift, for its ticks count from an anchor; a time of day is
met once on the days when clocks change; counting what was missed is bounded.
"""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import dataclass
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from ipyconvexai.errors import InputError

__all__ = ["Expression", "Interval", "Passed", "Schedule", "due_now", "missed", "parse_schedule"]

LATEST = 60.0  # seconds after which a run that no process was there for is not made up for
MOST_COUNTED = 10_000  # missed ticks of an expression that are counted one by one

_EXAMPLE = 'Five fields: minute hour day month weekday, for example "0 2 * * *" for 02:00 each day.'


class Schedule(Protocol):
    def first(self, now: datetime.datetime) -> datetime.datetime:
        """The first tick of a cron that is defined at `now`."""

    def latest(self, now: datetime.datetime) -> datetime.datetime:
        """The latest that the next tick of any cron of this schedule can be, seen from `now`."""

    def passed(self, tick: datetime.datetime, now: datetime.datetime) -> Passed:
        """The ticks from `tick` (itself one) up to `now` inclusive."""

    def to_json(self) -> str:
        """As it is kept in ``crons.schedule``."""


@dataclass(frozen=True, slots=True)
class Passed:
    """`count` ticks have passed, the last of them at `last`; the next one comes at `following`."""

    count: int
    last: datetime.datetime | None
    following: datetime.datetime


@dataclass(frozen=True, slots=True)
class Interval:
    """Every so many seconds from when it was defined, which is the first tick."""

    seconds: float

    def __post_init__(self) -> None:
        known = isinstance(self.seconds, int | float) and not isinstance(self.seconds, bool)
        if not known or not math.isfinite(self.seconds) or self.seconds <= 0:
            raise InputError(f"an interval of {self.seconds!r} s is none", cure="Use a number above 0.")
        try:
            useful = self._period > datetime.timedelta(0)
        except OverflowError:
            useful = False
        if not useful:
            raise InputError(f"an interval of {self.seconds!r} s is no use", cure="Use 1 ms to some years.")

    @property
    def _period(self) -> datetime.timedelta:
        return datetime.timedelta(seconds=self.seconds)

    def first(self, now: datetime.datetime) -> datetime.datetime:
        return now

    def latest(self, now: datetime.datetime) -> datetime.datetime:
        return now + self._period

    def passed(self, tick: datetime.datetime, now: datetime.datetime) -> Passed:
        if tick > now:
            return Passed(0, None, tick)
        count = (now - tick) // self._period + 1
        return Passed(count, tick + (count - 1) * self._period, tick + count * self._period)

    def to_json(self) -> str:
        return json.dumps({"interval": self.seconds})


@dataclass(frozen=True, slots=True)
class Expression:
    """A cron expression in a time zone."""

    text: str
    tz: str = "UTC"

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or len(self.text.split()) not in (5, 6):
            raise InputError(f"the cron expression {self.text!r} has not five fields", cure=_EXAMPLE)
        zone_of(self.tz)
        try:
            self._after(datetime.datetime(2026, 1, 1))
        except StopIteration:
            raise InputError(
                f"the cron expression {self.text!r} is never due", cure="There is no such day in these months."
            ) from None

    def first(self, now: datetime.datetime) -> datetime.datetime:
        return self._after(now)

    def latest(self, now: datetime.datetime) -> datetime.datetime:
        return self._after(now)

    def passed(self, tick: datetime.datetime, now: datetime.datetime) -> Passed:
        count, last = 0, None
        while tick <= now and count < MOST_COUNTED:
            count, last, tick = count + 1, tick, self._after(tick)
        if tick <= now:  # for months no process was up
            tick = self._after(now)
        return Passed(count, last, tick)

    def to_json(self) -> str:
        return json.dumps({"cron": self.text, "tz": self.tz})

    def _after(self, moment: datetime.datetime) -> datetime.datetime:
        """The first tick after `moment`."""
        from cronsim import CronSim, CronSimError

        local = moment.replace(tzinfo=datetime.UTC).astimezone(zone_of(self.tz))
        try:
            ticks = CronSim(self.text, local)
        except CronSimError as error:
            field = str(error).removeprefix("Bad ")
            raise InputError(f"the cron expression {self.text!r} is wrong: {field}", cure=_EXAMPLE) from None
        while True:
            tick = next(ticks).astimezone(datetime.UTC).replace(tzinfo=None)
            if tick > moment:  # in the hour that clocks go through twice, a tick of the first time is over
                return tick


def zone_of(name: str) -> datetime.tzinfo:
    """The time zone of that name.

    Raises:
        InputError: there is none.
    """
    if name == "UTC":
        return datetime.UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, TypeError, OSError):
        raise InputError(
            f"tz={name!r} is not a time zone", cure='Use a name of the tz database, as "Europe/Paris", or "UTC".'
        ) from None


def parse_schedule(text: str) -> Schedule:
    """The schedule that ``to_json`` wrote."""
    value: dict[str, Any] = json.loads(text)
    return Interval(value["interval"]) if "interval" in value else Expression(value["cron"], value["tz"])


def missed(schedule: Schedule, next_time: datetime.datetime, now: datetime.datetime) -> tuple[int, datetime.datetime]:
    """When a run ends at `now`: how many ticks it covered, and when the next one is. One at `now` is not missed."""
    passed = schedule.passed(next_time, now - datetime.timedelta(microseconds=1))
    return passed.count, passed.following


def due_now(
    schedule: Schedule, next_time: datetime.datetime, now: datetime.datetime
) -> tuple[datetime.datetime | None, int, datetime.datetime]:
    """The tick to run now (None: it is too late for it), how many are skipped, and when the next one is.

    Of several that have passed only the last may run, and that no later than ``LATEST`` seconds or half the interval.
    """
    passed = schedule.passed(next_time, now)
    if passed.last is None:
        return None, 0, passed.following
    tolerance = min(datetime.timedelta(seconds=LATEST), (passed.following - passed.last) / 2)
    if now - passed.last <= tolerance:
        return passed.last, passed.count - 1, passed.following
    return None, passed.count, passed.following
