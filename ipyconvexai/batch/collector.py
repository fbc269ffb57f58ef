"""Python's collector of cycles, put off or made rarer while many objects are made that are freed without it. Calls
nothing.

Of a chunk whose rows are all answered some 200,000 objects live for a moment. They are in no cycles; the collector
would look at them, and at everything else in the process, again and again: more than half of all the time. While
requests are sent it would take a tenth of the time, and a single look at everything a tenth of a second.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Callable, Iterator

__all__ = ["put_off", "rarer"]

RARE = 20_000  # objects made and not freed between two looks at the new ones; Python's own: 700


class _Shared:
    """What is so while anybody, in any thread, wants it. `begin` makes it so, and gives what makes it as it was."""

    def __init__(self, begin: Callable[[], Callable[[], None]]) -> None:
        self._begin = begin
        self._end: Callable[[], None] = _nothing
        self._lock = threading.Lock()
        self._wishes = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin_anew)

    @contextlib.contextmanager
    def wanted(self) -> Iterator[None]:
        with self._lock:
            if self._wishes == 0:
                self._end = self._begin()
            self._wishes += 1
        try:
            yield
        finally:
            with self._lock:
                self._wishes -= 1
                if self._wishes == 0:
                    self._end()

    def _begin_anew(self) -> None:
        """In the child of a fork: those who wanted it are threads of the parent."""
        self._lock = threading.Lock()
        if self._wishes:
            self._end()
        self._wishes = 0


def _nothing() -> None:
    """It was so before."""


def _switch_off() -> Callable[[], None]:
    was_on = gc.isenabled()
    gc.disable()
    return gc.enable if was_on else _nothing


def _make_rarer() -> Callable[[], None]:
    before = gc.get_threshold()
    if not 0 < before[0] < RARE:
        return _nothing
    gc.set_threshold(RARE, *before[1:])
    return lambda: gc.set_threshold(*before)


_off, _rarer = _Shared(_switch_off), _Shared(_make_rarer)


def put_off() -> contextlib.AbstractContextManager[None]:
    """For a block of some hundred milliseconds: with what it waits for, for the ledger waits, too, are some."""
    return _off.wanted()


def rarer() -> contextlib.AbstractContextManager[None]:
    """For as long as a batch is sent. Cycles are found later, and all the same."""
    return _rarer.wanted()
