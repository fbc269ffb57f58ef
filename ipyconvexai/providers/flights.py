"""Single flight: of equal calls that are under way one is sent, and the others wait for its recorded answer.

Calls ``streams``. Promises: a leader that fails or is cancelled lets its followers go on, and nobody waits for a stream
whose reader does not read: that could be the one who waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2

from ipyconvexai.providers.streams import RecordedStream

__all__ = ["Flight", "Flights"]

PATIENCE = 1.0  # seconds a stream's reader may pause before those who wait for it go alone


class Flight:
    """One leader's call."""

    def __init__(self) -> None:
        self.landed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stream: RecordedStream | None = None

    async def wait(self, clock: Callable[[], float]) -> bool:
        """True when it has landed, False when its reader pauses."""
        while not self.landed.done():
            await asyncio.wait([self.landed], timeout=PATIENCE / 4)
            if not self.landed.done() and self._pauses(clock()):
                return False
        return True

    def _pauses(self, now: float) -> bool:
        handed_at = None if self.stream is None else self.stream.handed_at
        return handed_at is not None and now - handed_at > PATIENCE


class Flights:
    """Those of one corridor, by cache key."""

    def __init__(self) -> None:
        self._by_key: dict[str, Flight] = {}

    def find(self, key: str) -> Flight | None:
        flight = self._by_key.get(key)
        # After a fork the child finds flights of a loop that does not run there.
        ours = flight is not None and flight.landed.get_loop() is asyncio.get_running_loop()
        return flight if ours else None

    def begin(self, key: str) -> Flight:
        flight = self._by_key[key] = Flight()
        return flight

    def end(self, key: str, flight: Flight, response: httpx2.Response | None = None) -> None:
        """The leader's call is over, unless `response` is a stream that still flies."""
        stream = None if response is None else response.stream
        if isinstance(stream, RecordedStream) and not stream.settled:
            flight.stream = stream
            stream.when_settled.append(lambda: self.end(key, flight))
            return
        if self._by_key.get(key) is flight:
            del self._by_key[key]
        if not flight.landed.done():
            flight.landed.set_result(None)
