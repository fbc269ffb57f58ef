"""Removes content that is older than so many days, by itself, while an app is open. Calls the store and ``removal``.

Promises: it takes what ``ai.ledger.purge(before=...)`` takes, from the file's bytes, too; it looks at the start and
then once a day, beside everything else; the file is written anew only where something has expired, and not more than
once a day, whoever has it open; a clock that is far ahead does not empty the ledger; an error is told in
``ai.doctor()`` and in the log, and stops nobody.
"""

from __future__ import annotations

import datetime
import logging
import os
import random
import threading
from collections.abc import Callable

from ipyconvexai.errors import StoreError
from ipyconvexai.records.removal import Purged, purge, summary
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.link import Store
from ipyconvexai.store.purging import Criteria, Kind, found

__all__ = ["Retention"]

_log = logging.getLogger(__name__)
HOUR = 3600.0
DAY = datetime.timedelta(days=1)
LAST_WORD = 5.0  # seconds that closing waits for a removal that has begun; the keeper finishes it all the same


_USED = "SELECT count(*) > 0 FROM requests WHERE sent_at >= ? AND sent_at < ?"


class Retention:
    """Of one ledger; `days` is how long content stays."""

    def __init__(self, store: Store, days: float, now: Callable[[], datetime.datetime] = utc_now) -> None:
        self._store = store
        self._days = datetime.timedelta(days=days)
        self._now = now
        self._looked: datetime.date | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self.told = "nothing was looked at yet"

    def start(self) -> None:
        self._thread = threading.Thread(target=self._keep, name="ipyconvexai-retention", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None and self._thread.ident != threading.get_ident():
            self._thread.join(LAST_WORD)

    def _keep(self) -> None:
        while True:
            self.look()
            # Not all notebooks at the same second after midnight, and a machine that slept is not a day late.
            if self._closed.wait(HOUR * random.uniform(0.5, 1)):
                return

    def look(self) -> None:
        """Remove what has expired, if nobody looked today."""
        now = self._now()
        if self._looked == now.date() or not self._is_there():
            return
        try:
            removed = self._expire(now)
        except Exception as error:  # nobody is there to catch it
            self.told = f"at {now:%Y-%m-%d %H:%M} UTC nothing could be removed: {error}"
            if not self._closed.is_set():
                _log.warning("%s: what has expired could not be removed: %s", self._store.path, error)
        else:
            self._looked = now.date()
            self.told = f"at {now:%Y-%m-%d %H:%M} UTC this process removed {removed or 'nothing'}"

    def _is_there(self) -> bool:
        """Looking makes no ledger."""
        return self._store.path == ":memory:" or os.path.exists(self._store.path)

    def _is_used(self, midnight: datetime.datetime) -> bool:
        """Whether a call of a day before has not expired: then it is no wrong clock by which all the others have."""
        ((used,),) = self._store.read(_USED, [midnight - max(self._days, 2 * DAY), midnight])
        return bool(used)

    def _expire(self, now: datetime.datetime) -> Purged | None:
        # By whole days: else what expired a minute ago would have the file written anew at each start of a notebook.
        midnight = datetime.datetime.combine(now.date(), datetime.time())
        kinds = [Kind(*kind) for kind in self._store.read(*found(Criteria(before=midnight - self._days)))]
        if all(kind.open for kind in kinds):
            return None
        if not self._is_used(midnight):
            raise StoreError(
                f"all that is there is older than {self._days.days} days, by a clock that says {now:%Y-%m-%d}",
                cure="If that is right, nothing is to be done: it goes on the second day of use from now on."
                " If the clock is wrong, set it. ai.ledger.purge(before=...) removes it now.",
            )
        return purge(self._store, Criteria(before=now - self._days), summary(kinds, {}))
