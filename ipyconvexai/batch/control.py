"""Pause, resume and cancel a batch while it runs, from any thread: a widget's, or one that looks into the ledger.

Promises: what is being sent is not disturbed by a pause; nothing is begun while it lasts; a cancellation wins.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

__all__ = ["Control"]


class Control:
    """Who presses and who works share one. The states are "running", "paused" and "canceled"."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = "running"
        self._listeners: list[Callable[[], None]] = []

    @property
    def state(self) -> str:
        return self._state

    def pause(self) -> None:
        self._set("paused")

    def resume(self) -> None:
        self._set("running")

    def cancel(self) -> None:
        """End it: what is being sent is answered and recorded, nothing more is begun."""
        self._set("canceled")

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` after each change of the state, in the thread that made it; gives the way to stop that."""
        with self._lock:
            self._listeners.append(changed)

        def stop() -> None:
            with self._lock:
                if changed in self._listeners:
                    self._listeners.remove(changed)

        return stop

    def _set(self, state: str) -> None:
        with self._lock:
            if self._state in (state, "canceled"):
                return
            self._state = state
            listeners = list(self._listeners)
        for changed in listeners:
            changed()

    async def clear(self) -> bool:
        """Wait while it is paused; whether work may be begun (False: it was canceled)."""
        while self._state == "paused":
            loop, woken = asyncio.get_running_loop(), asyncio.Event()

            def wake(loop: asyncio.AbstractEventLoop = loop, woken: asyncio.Event = woken) -> None:
                loop.call_soon_threadsafe(woken.set)

            stop = self.listen(wake)
            try:
                if self._state == "paused":
                    await woken.wait()
            finally:
                stop()
        return self._state != "canceled"
