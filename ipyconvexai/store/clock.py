"""The ledger's instants, and a clock that does not jump. Standard library only."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import time
from pathlib import Path

__all__ = ["SteadyClock", "utc_now"]

DAY = 86400.0
NOTABLE = 1.0  # seconds; by less a clock is set again and again


def utc_now() -> datetime.datetime:
    """Now in UTC, naive, as the ledger's TIMESTAMP columns hold it."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


class SteadyClock:
    """Seconds since the epoch that do not jump when somebody sets the clock, and go on while the machine sleeps.

    Args:
        kept_in: a file in which clocks of this ledger, one after the other, keep how the machine's clock was set.
    """

    def __init__(self, kept_in: str | None = None) -> None:
        self._offset = time.time() - _since_boot()
        self._set_on = 0.0 if kept_in is None else self._compare(Path(kept_in))

    def __call__(self) -> float:
        return self._offset + _since_boot()

    def behind(self) -> float:
        """Seconds by which what was dated with the machine's clock may be older here than it is: somebody has set that
        clock back since this one began, or had set it on shortly before."""
        set_back = self() - time.time()
        return max(self._set_on, set_back if set_back > NOTABLE else 0.0)

    def _compare(self, file: Path) -> float:
        """By how much it was set on during the last day; keeps how it is set now."""
        boot, now = _boot(), _since_boot()
        known: list[list[float]] = []  # offset, and since when
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads(file.read_text())
            known = [[float(offset), float(since)] for offset, since in kept["set"] if kept["boot"] == boot]
        if not known or abs(known[-1][0] - self._offset) > NOTABLE:
            known.append([self._offset, now])
        ends = [since for _, since in known[1:]] + [now]
        known = [one for one, end in zip(known, ends, strict=True) if now - end < DAY]
        if boot:
            with contextlib.suppress(OSError):  # a full disk is told where rows are written
                whole = file.with_suffix(".new")
                whole.write_text(json.dumps({"boot": boot, "set": known}))
                os.replace(whole, file)
        set_on = self._offset - min(offset for offset, _ in known)
        return set_on if set_on > NOTABLE else 0.0


def _since_boot() -> float:
    source = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if source is None else time.clock_gettime(source)


def _boot() -> str:
    """Which start of the machine this is; empty where nobody says."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
