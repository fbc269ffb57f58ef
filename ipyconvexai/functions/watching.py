"""A query's result, again after each commit that changes it. Calls ``changes``.

Promises: the query runs again only after a commit to a table that it read; equal results are not told; a waiting cell
can be interrupted at once; nothing is asked while nothing happens. Commits that come close together may be told as one:
what is told is always a state that was committed, and the last one is never left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from ipyconvexai.errors import DeadlockError
from ipyconvexai.functions.changes import Hub

__all__ = ["Look", "Watch"]

# Runs the query: its result, and the tables that it read. None for them: not known, so any change counts.
Look = Callable[[], tuple[Any, set[str] | None]]

BEAT = 0.05  # seconds; a cell's own loop hears an interrupt only when something wakes it

_SAME = object()


class Watch:
    """Results of one query in a ``for`` or an ``async for``: the present one at once, then each that differs.

    Each loop over it is one of its own and begins with the present result. Leaving a loop ends it; ``close`` ends all.
    What the query raises is raised in the loop.
    """

    def __init__(
        self,
        look: Look,
        hub: Hub,
        *,
        name: str = "a query",
        print_of: Callable[[Any], Any] = lambda value: value,
        on_loop: Callable[[], bool] = bool,
        told: Any = _SAME,
    ) -> None:
        """
        Args:
            look: runs the query.
            hub: tells of changes.
            name: of the query.
            print_of: gives what results are compared by.
            on_loop: whether waiting in the calling code would be for ever.
            told: the print of a result that its readers have already.
        """
        self._look = look
        self._hub = hub
        self._name = name
        self._print_of = print_of
        self._on_loop = on_loop
        self._told = told
        self._readings: weakref.WeakSet[_Reading] = weakref.WeakSet()
        self._closed = False

    def __iter__(self) -> Iterator[Any]:
        if self._on_loop():
            raise DeadlockError(
                "a blocking loop over a watched query was begun on the loop that would have to answer it",
                cure="Write `async for` here.",
            )
        woken = threading.Event()
        with self._reading(woken.set) as reading:
            while not reading.ended:
                woken.clear()
                if not reading.is_due():
                    _wait(woken)
                elif (value := reading.look()) is not _SAME:
                    yield value

    async def __aiter__(self) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed, and its reader with it
                loop.call_soon_threadsafe(woken.set)

        with self._reading(wake) as reading, _beating(loop):
            while not reading.ended:
                woken.clear()
                if not reading.is_due():
                    await woken.wait()
                elif (value := await asyncio.to_thread(reading.look)) is not _SAME and not reading.ended:
                    yield value

    @contextlib.contextmanager
    def _reading(self, wake: Callable[[], None]) -> Iterator[_Reading]:
        reading = _Reading(self._look, self._print_of, wake, self._told)
        self._readings.add(reading)
        if self._closed:
            reading.end()
        unsubscribe = self._hub.subscribe(reading.notice, reading.end)
        try:
            yield reading
        finally:
            unsubscribe()

    def close(self) -> None:
        """End every loop over it; a loop begun later ends at once."""
        self._closed = True
        for reading in list(self._readings):
            reading.end()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<watch of {self._name}{', closed' if self._closed else ''}: for result in ...>"


class _Reading:
    """One loop over a watch. Noticed by the hub's thread, looked at by the reader's; `wake` is called in the former."""

    def __init__(self, look: Look, print_of: Callable[[Any], Any], wake: Callable[[], None], told: Any = _SAME) -> None:
        self._look = look
        self._print_of = print_of
        self._wake = wake
        self._lock = threading.Lock()
        self._everything = True
        self._changed: set[str] = set()
        self._read: set[str] | None = None
        self._told = told
        self.ended = False

    def notice(self, names: set[str]) -> None:
        with self._lock:
            self._changed |= names
            self._everything = self._everything or not names
        if self.is_due():
            self._wake()

    def end(self) -> None:
        self.ended = True
        self._wake()

    def is_due(self) -> bool:
        with self._lock:
            return self._everything or bool(self._changed if self._read is None else self._changed & self._read)

    def look(self) -> Any:
        """The result of a new run, or `_SAME`."""
        with self._lock:
            self._everything, self._changed, self._read = False, set(), None
        told, self._told = self._told, _SAME  # where this raises, the next result is told in any case
        value, read = self._look()
        with self._lock:
            self._read = read
        self._told = self._print_of(value)
        return _SAME if self._told == told else value


def _wait(event: threading.Event) -> None:
    if sys.platform == "win32":  # there a wait without a limit cannot be interrupted
        while not event.wait(BEAT):
            pass
    else:
        event.wait()


@contextlib.contextmanager
def _beating(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Keep a loop of the main thread awake enough to hear an interrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    beat: asyncio.TimerHandle

    def again() -> None:
        nonlocal beat
        beat = loop.call_later(BEAT, again)

    again()
    try:
        yield
    finally:
        beat.cancel()
