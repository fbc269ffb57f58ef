"""Python's collector of cycles, put off while many objects are made that will all be freed without it. Calls nothing.

Of a chunk whose rows are all answered some 200,000 objects live for a moment. They are in no cycles; the collector
would look at them, and at everything else in the process, again and again: more than half of all the time.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Iterator

__all__ = ["put_off"]


class _Collector:
    """It is off while anybody, in any thread, wants it off; who had it off finds it off."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wishes = 0
        self._was_on = False

    def off(self) -> None:
        with self._lock:
            if self._wishes == 0:
                self._was_on = gc.isenabled()
                gc.disable()
            self._wishes += 1

    def on(self) -> None:
        with self._lock:
            self._wishes -= 1
            if self._wishes == 0 and self._was_on:
                gc.enable()

    def begin_anew(self) -> None:
        """In the child of a fork: those who wanted it off are threads of the parent."""
        self._lock = threading.Lock()
        if self._wishes and self._was_on:
            gc.enable()
        self._wishes = 0


_collector = _Collector()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_collector.begin_anew)


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """For a block of some hundred milliseconds: with what it waits for, for the ledger waits, too, are some."""
    _collector.off()
    try:
        yield
    finally:
        _collector.on()
