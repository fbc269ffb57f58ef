"""Things that a process defines by name: functions, crons. Standard library only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Definitions"]

T = TypeVar("T")


class Definitions(Generic[T]):
    """By name; thread-safe. Whoever listens is told after each definition."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._defined: dict[str, T] = {}
        self._listeners: list[Callable[[], None]] = []

    def put(self, name: str, thing: T, check: Callable[[T], None] | None = None) -> None:
        """Define `thing`; one of that name is replaced, unless `check`, which is given it, raises."""
        with self._lock:
            other = self._defined.get(name)
            if other is not None and check is not None:
                check(other)
            self._defined[name] = thing
            listeners = list(self._listeners)
        for tell in listeners:
            tell()

    def get(self, name: str) -> T | None:
        return self._defined.get(name)

    def all(self) -> dict[str, T]:
        with self._lock:
            return dict(self._defined)

    def discard(self, name: str) -> None:
        """Forget what has that name, if anything has."""
        with self._lock:
            self._defined.pop(name, None)

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called after each definition; gives what ends that."""
        with self._lock:
            self._listeners.append(callback)

        def end() -> None:
            with self._lock:
                if callback in self._listeners:
                    self._listeners.remove(callback)

        return end
