"""Time limits for plain Python code: what runs too long is stopped where it is, by an exception raised in its thread.

Floor 0: calls errors, guard and loops only. One daemon thread per process watches all deadlines; it begins at first use
and again after a fork. Promises: code that only computes is stopped even where it catches Exception; nothing is raised
in a thread after `run` was left, nor while a deadline is paused; an `on_expire` is called once. It cannot stop what
waits in C code (a sleep, a lock, a query): that returns first, which is why who waits is released by `on_expire`.

How nothing leaks, on CPython: an asynchronous exception is set for a thread and delivered at that thread's next check
between two bytecodes. A thread is `masked` unless it runs the code that is limited, and the watchdog looks at the mask
and sets the exception without letting another thread run between. So after `masked = True` at most one is pending: it
is delivered inside the `try` that leaves, or cleared. That is why limited code is given to `run`, and there is no
`with` block: the first instruction of an `__exit__` can be hit before any `try` of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from ipyconvexai import guard
from ipyconvexai.errors import FunctionTimeoutError
from ipyconvexai.loops import call_in_child

__all__ = ["Deadline", "Stopped", "Watchdog", "current", "paused"]

P = ParamSpec("P")
T = TypeVar("T")

REPEAT = 0.2  # seconds until code that swallowed the exception is given it again

_log = logging.getLogger(__name__)


class Stopped(BaseException):
    """Limited code was stopped; its Deadline's `reason` says why. No Exception, so that code does not swallow it."""


_set_async_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exception.argtypes = (ctypes.c_ulong, ctypes.py_object)
_set_async_exception.restype = ctypes.c_int
_NO_EXCEPTION = ctypes.py_object()  # NULL: clears what is pending


class _Line:
    """One thread: the deadlines it is under, the outermost first."""

    __slots__ = ("ident", "masked", "stack", "struck")

    def __init__(self) -> None:
        self.ident = threading.get_ident()
        self.masked = True
        self.struck = False  # an exception was set and may be pending
        self.stack: list[Deadline] = []

    def clear(self) -> None:
        if self.struck:
            self.struck = False
            _set_async_exception(self.ident, _NO_EXCEPTION)

    def is_stopping(self) -> bool:
        return any(deadline.reason is not None for deadline in self.stack)


class _Local(threading.local):
    def __init__(self) -> None:
        self.line = _Line()


_local = _Local()


class Watchdog:
    """Stops what is due. There is one per process (`Deadline` knows it); tests make their own, with a clock.

    `clock` gives seconds. With ``threaded=False`` no thread is started, and `look` is called by hand.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, threaded: bool = True) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self._threaded = threaded
        self._thread: threading.Thread | None = None
        self._active: set[Deadline] = set()
        self._planned = math.inf  # when the thread wakes by itself
        self._bell = threading.Lock()  # held, but for the moment in which the thread is woken
        self._bell.acquire()
        self._rung = False
        call_in_child(self, Watchdog._begin_again)

    def _begin_again(self) -> None:
        """In the child of a fork: the thread is no more, nor are the other threads; somebody may hold the locks."""
        self.lock = threading.Lock()
        self._bell = threading.Lock()
        self._bell.acquire()
        self._rung = False
        self._thread, self._planned = None, math.inf
        active, self._active = self._active, set()
        for deadline in active:
            if deadline.belongs_here():
                self.watch(deadline)

    def watch(self, deadline: Deadline) -> None:
        """The caller holds the lock (as in all methods that say so) or is alone."""
        if self._thread is None and self._threaded:
            self._start()
        self._active.add(deadline)
        if deadline.when < self._planned:
            self._planned = deadline.when
            if not self._rung:
                self._rung = True
                self._bell.release()

    def forget(self, deadline: Deadline) -> None:
        """The caller holds the lock. The thread is not woken: it will find nothing to do."""
        self._active.discard(deadline)

    def _start(self) -> None:
        thread = threading.Thread(target=self._keep_watch, name="ipyconvexai-deadlines", daemon=True)
        with guard.lifted():  # a mutation starts no threads; this is not its own
            thread.start()
        self._thread = thread

    def _keep_watch(self) -> None:
        while True:
            pause = self.look() - self.clock()
            if pause == math.inf:
                self._bell.acquire()
            elif pause > 0:
                self._bell.acquire(timeout=min(pause, threading.TIMEOUT_MAX))

    def look(self) -> float:
        """Stop what is due. When the next one will be."""
        callbacks = []
        with self.lock:
            if self._rung:
                self._rung = False
                self._bell.acquire(blocking=False)
            now = self.clock()
            for deadline in self._active:
                if deadline.when <= now:
                    if deadline.reason is None:
                        deadline.reason = FunctionTimeoutError
                        callbacks.append(deadline.on_expire)
                    deadline.strike()
                    deadline.when = now + REPEAT
            planned = self._planned = min((deadline.when for deadline in self._active), default=math.inf)
        for callback in callbacks:
            if callback is not None:
                try:
                    callback()
                except Exception:
                    _log.exception("what was to be done at the end of a time limit failed")
        return planned


_watchdog = Watchdog()


class Deadline:
    """``Deadline(1.0).run(function, ...)``: `function` may run for `seconds` of wall time. For one use.

    `on_expire` is called once, in the watchdog's thread, as soon as the time is over: while the function still runs,
    or just after it was left. It must not block, for others wait for the same thread.

    Deadlines nest: an outer one that is over stops the inner code too. Not for the code of an event loop's thread.
    """

    __slots__ = ("__weakref__", "_line", "_over", "_remaining", "_watchdog", "on_expire", "reason", "seconds", "when")

    def __init__(
        self, seconds: float, on_expire: Callable[[], object] | None = None, *, watchdog: Watchdog | None = None
    ) -> None:
        self.seconds = seconds
        self.on_expire = on_expire
        self.reason: type[BaseException] | None = None  # why it was stopped
        self.when = math.inf  # by the watchdog's clock
        self._watchdog = watchdog or _watchdog
        self._line: _Line | None = None  # while it runs
        self._remaining: float | None = None  # while it is paused
        self._over = False

    @property
    def expired(self) -> bool:
        """Whether the time was over before the function was. Settled once `run` was left."""
        return self.reason is FunctionTimeoutError

    def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` returns or raises, if it was not stopped.

        Raises:
            Stopped: this deadline, or one around it, was over or interrupted; `reason` and `expired` say which. Its
                traceback ends where the function was, if it did not swallow the exception.
        """
        line = _local.line
        before = line.masked
        told = False
        try:
            line.masked = True
            self._enter(line)
            line.masked = False
            return function(*args, **kwargs)
        except Stopped:
            line.masked = told = True
            raise  # itself, for its traceback
        finally:
            line.masked = True  # no check comes before this line: from here at most one exception is pending
            try:
                self._leave(line)
            except BaseException:  # that one, or a Ctrl-C
                self._leave(line)
                raise
            finally:
                stopping = self.reason is not None or line.is_stopping()
                line.masked = before
            if stopping and not told:
                raise Stopped

    def _enter(self, line: _Line) -> None:
        if self.reason is not None:  # interrupted before it began
            raise Stopped
        watchdog = self._watchdog
        with watchdog.lock:
            self._line = line
            line.stack.append(self)
            self.when = watchdog.clock() + self.seconds
            watchdog.watch(self)

    def _leave(self, line: _Line) -> None:
        """Can be called again when it was cut short."""
        with self._watchdog.lock:
            self._over = True
            self._line = None
            self._remaining = None
            self._watchdog.forget(self)
            if self in line.stack:
                line.stack.remove(self)
            line.clear()

    def strike(self) -> None:
        """Raise Stopped in the thread, unless it is masked. The caller holds the watchdog's lock."""
        line = self._line
        if line is None:
            return
        line.struck = True
        if not line.masked:  # no call between this and the next: no other thread runs between them
            _set_async_exception(line.ident, Stopped)

    def belongs_here(self) -> bool:
        """Whether the calling thread runs it."""
        line = self._line
        return line is not None and line.ident == threading.get_ident()

    def interrupt(self, reason: type[BaseException] = KeyboardInterrupt) -> bool:
        """Stop it now, from any thread; what has not begun will not. Whether that was still to be done.

        Stopped is raised in it whatever the `reason`, which is kept for who reads it.
        """
        with self._watchdog.lock:
            if self._over or self.reason is not None:
                return False
            self.reason = reason
            if self._line is not None and self._remaining is None:
                self.strike()
                self.when = self._watchdog.clock() + REPEAT
                self._watchdog.watch(self)
            return True

    def pause(self) -> AbstractContextManager[None]:
        """``with deadline.pause():`` time does not count, and nothing is raised in the thread.

        For work of our own on behalf of the function: waiting for the ledger, a commit. Deadlines around this one count
        on, but raise nothing either. In another thread than the function's, and within a pause, it does nothing.

        Raises:
            Stopped: before the block or after it, if it is over or was interrupted.
        """
        line = self._line
        if line is None or self._remaining is not None or line.ident != threading.get_ident():
            return _NO_PAUSE
        return _Pause(self, line)

    def hold(self, line: _Line) -> None:
        watchdog = self._watchdog
        with watchdog.lock:
            self._remaining = self.when - watchdog.clock()
            watchdog.forget(self)
            line.clear()

    def release(self) -> None:
        watchdog = self._watchdog
        with watchdog.lock:
            if self._remaining is not None and self._line is not None:
                self.when = watchdog.clock() + self._remaining
                self._remaining = None
                watchdog.watch(self)


class _Pause:
    __slots__ = ("_before", "_deadline", "_line")

    def __init__(self, deadline: Deadline, line: _Line) -> None:
        self._deadline = deadline
        self._line = line

    def __enter__(self) -> None:
        line = self._line
        self._before = line.masked
        try:
            line.masked = True
            self._deadline.hold(line)
            if line.is_stopping():
                raise Stopped
        except BaseException:  # one that was pending, or ours: either way the block does not begin
            line.masked = True
            self._deadline.release()
            line.masked = self._before
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._deadline.release()
        stopping = self._line.is_stopping()
        self._line.masked = self._before
        if stopping:
            raise Stopped


_NO_PAUSE: AbstractContextManager[Any] = contextlib.nullcontext()


def current() -> Deadline | None:
    """The innermost deadline the calling thread is under."""
    stack = _local.line.stack
    return stack[-1] if stack else None


def paused() -> AbstractContextManager[None]:
    """The pause of the innermost deadline the calling thread is under; does nothing where there is none."""
    stack = _local.line.stack
    return stack[-1].pause() if stack else _NO_PAUSE
