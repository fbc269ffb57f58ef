"""Dates and ages as people write them: 2026-05-01, 2026-05-01T10:00, 30d, 12h, 30m. Calls ``errors`` only."""

from __future__ import annotations

import datetime
import re

from ipyconvexai.errors import InputError

__all__ = ["When", "instant"]

When = str | datetime.date | datetime.timedelta

_AGE = re.compile(r"(\d+)\s*(m|min|h|d|w)", re.IGNORECASE)
_SECONDS = {"m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def instant(when: When, now: datetime.datetime, name: str) -> datetime.datetime:
    """The instant that `when` says, UTC and naive; an age counts back from `now`. `name` is the option's.

    Raises:
        InputError: it says none.
    """
    moment: datetime.date | None = None
    try:
        if isinstance(when, datetime.timedelta):
            moment = now - when
        elif isinstance(when, str) and (age := _AGE.fullmatch(when.strip())):
            moment = now - datetime.timedelta(seconds=int(age[1]) * _SECONDS[age[2].lower()])
        elif isinstance(when, str):
            moment = datetime.datetime.fromisoformat(when.strip())
        elif isinstance(when, datetime.date):
            moment = when
        if isinstance(moment, datetime.datetime) and moment.tzinfo is not None:
            moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        moment = None
    if moment is None:
        raise InputError(
            f"{name} {when!r} is no date",
            cure="Write 2026-05-01, 2026-05-01T10:00 (UTC), or an age: 2w, 30d, 12h, 30m.",
        )
    if not isinstance(moment, datetime.datetime):
        return datetime.datetime(moment.year, moment.month, moment.day)
    return moment
