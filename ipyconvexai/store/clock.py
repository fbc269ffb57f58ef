"""The ledger's instants, and a clock that does not jump. Standard library only.

How somebody set the machine's clock is known as long as the machine is not started anew, and where it says which start
of it this is (Linux).
"""

from __future__ import annotations

import contextlib
import datetime
import json
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["Clock", "SteadyClock", "utc_now"]

DAY = 86400.0
NO_CLOCK = 3650 * DAY  # a machine whose clock is off by more has not been told the time yet
NOTABLE = 1.0  # seconds; by less a clock is set again and again


def utc_now() -> datetime.datetime:
    """Now in UTC, naive, as the ledger's TIMESTAMP columns hold it."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


class Clock:
    """Seconds since the epoch. Nobody sets a plain one: it says what `seconds` says."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds

    def __call__(self) -> float:
        return self._seconds()

    def behind(self) -> float:
        """Seconds by which what was dated with the machine's clock may be older here than it is."""
        return 0.0

    def compare(self, kept: str | None, window: float) -> str | None:
        """Learn from what earlier clocks of a ledger `kept` how the machine's was set within `window` seconds; gives
        what is to be kept now."""
        return kept


class SteadyClock(Clock):
    """One that does not jump when somebody sets the machine's, and goes on while the machine sleeps."""

    def __init__(self) -> None:
        self._offset = time.time() - _since_boot()
        self._set_on = 0.0
        super().__init__(lambda: self._offset + _since_boot())

    def behind(self) -> float:
        """Somebody has set the machine's clock back since this one began, or had set it on before."""
        set_back = self() - time.time()
        return max(self._set_on, set_back if set_back > NOTABLE else 0.0)

    def compare(self, kept: str | None, window: float) -> str | None:
        boot, now = _boot(), _since_boot()
        if not boot:
            return kept
        known: list[list[float]] = []  # offset, and since when
        with contextlib.suppress(ValueError, TypeError, KeyError):
            told = json.loads(kept or "{}")
            settings = [(float(offset), float(since)) for offset, since in told["set"] if told["boot"] == boot]
            # Some machines begin in 1970 until they hear what time it is: what is of today is not of then.
            known = [[offset, since] for offset, since in settings if abs(offset - self._offset) < NO_CLOCK]
        if not known or abs(known[-1][0] - self._offset) > NOTABLE:
            known.append([self._offset, now])
        ends = [since for _, since in known[1:]] + [now]
        known = [one for one, end in zip(known, ends, strict=True) if now - end < max(DAY, window)]
        set_on = self._offset - min(offset for offset, _ in known)
        self._set_on = set_on if set_on > NOTABLE else 0.0
        return json.dumps({"boot": boot, "set": known})


def _since_boot() -> float:
    source = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if source is None else time.clock_gettime(source)


def _boot() -> str:
    """Which start of the machine this is; empty where nobody says."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
