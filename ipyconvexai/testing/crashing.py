"""Crashes at named points of the package, to see what a kill, an error or a Ctrl-C there leaves behind.

Calls ``crashpoints``, which lists the points and says what is true at each.
"""

from __future__ import annotations

import os
import signal
import threading
from types import TracebackType
from typing import Literal

from ipyconvexai import crashpoints
from ipyconvexai.errors import InputError

__all__ = ["Crash", "Crashed", "crash_at"]

How = Literal["kill", "exception", "interrupt", "stop"]


class Crashed(RuntimeError):
    """What is raised by ``crash_at(point, "exception")``: an error that nobody foresaw."""


def crash_at(point: str, how: How = "kill", *, times: int = 1, after: int = 0) -> Crash:
    """From now on this process crashes where it passes `point`; in a ``with`` block, until its end.

        with crash_at("after_send", "exception"):
            ai.generate("...")

    Args:
        point: one of ``ipyconvexai.crashpoints.POINTS``.
        how: "kill" is SIGKILL, which no code of this process sees; "exception" raises ``Crashed`` there;
            "interrupt" is a Ctrl-C: SIGINT to this process, whose main thread sees it; "stop" is SIGSTOP.
        times: how many times, then no more.
        after: how many times it is passed unharmed first.

    Raises:
        InputError: there is no such point, or no such way.
    """
    if point not in crashpoints.POINTS:
        raise InputError(f"there is no point {point!r}", cure=f"The points are: {', '.join(crashpoints.POINTS)}.")
    if how not in ("kill", "exception", "interrupt", "stop"):
        raise InputError(f"{how!r} is no crash", cure='Say "kill", "exception", "interrupt" or "stop".')
    return Crash(point, how, times, after)


class Crash:
    """A crash that waits for its point.

    Attributes:
        happened: how many times it has happened; of interest where the process goes on.
    """

    def __init__(self, point: str, how: How, times: int, after: int) -> None:
        self.happened = 0
        self._point, self._how, self._times, self._after = point, how, times, after
        self._gate = threading.Lock()
        self._before = crashpoints.set_what_happens(self._pass)

    def _pass(self, point: str) -> None:
        if self._before is not None:
            self._before(point)
        if point == self._point and self._is_due():
            self._crash()

    def _is_due(self) -> bool:
        with self._gate:
            if self._after > 0:
                self._after -= 1
                return False
            if self.happened >= self._times:
                return False
            self.happened += 1
            return True

    def _crash(self) -> None:
        if self._how == "exception":
            raise Crashed(f"crash_at({self._point!r})")
        if self._how == "stop":
            # Sent to the process, it might reach this thread only after some more steps.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
            return
        os.kill(os.getpid(), signal.SIGKILL if self._how == "kill" else signal.SIGINT)

    def end(self) -> None:
        """No more crashes. The last one that was set ends first."""
        crashpoints.set_what_happens(self._before)

    def __enter__(self) -> Crash:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.end()
