"""One background thread with an event loop runs everything asynchronous; this is the only bridge from sync code.

Floor 0: calls errors only. Promises: a waiting cell can be interrupted at once, what it waited for is cancelled, a sync
call made on the loop itself raises instead of waiting for itself, and so does one after ``close``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import logging
import os
import selectors
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from ipyconvexai.errors import CanceledError, ConfigurationError, DeadlockError, draws_as

__all__ = ["BackgroundLoop", "call_in_child", "keep_for_ever"]

T = TypeVar("T")

_log = logging.getLogger(__name__)
TICK = 0.05  # seconds
THREADS = 32  # for what blocks: questions to the ledger, a local model's start


# By their objects: a WeakMethod complains when it dies while the interpreter ends.
_in_child: weakref.WeakKeyDictionary[object, Callable[[Any], None]] = weakref.WeakKeyDictionary()
_kept: list[object] = []


def call_in_child(owner: T, function: Callable[[T], None]) -> None:
    """Have ``function(owner)`` called in the child of every fork, as long as `owner` lives."""
    _in_child[owner] = function


def keep_for_ever(*things: object) -> None:
    """For what a child has of its parent's: finalised, it would close what the parent still uses."""
    _kept.extend(things)


def _after_fork() -> None:
    for owner, function in list(_in_child.items()):
        function(owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class BackgroundLoop:
    """Started at first use; after a fork the child starts its own."""

    def __init__(self) -> None:
        call_in_child(self, BackgroundLoop._leave_to_parent)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._closed = False

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop.

        Raises:
            ConfigurationError: it was closed.
        """
        with self._lock:
            if self._closed:
                raise ConfigurationError("this app was closed", cure='Open another: ai.connect("my.duckdb").')
            if self._loop is None or self._pid != os.getpid():
                self._loop = asyncio.new_event_loop()
                self._loop.set_default_executor(ThreadPoolExecutor(THREADS, "ipyconvexai-blocking"))
                self._pid = os.getpid()
                self._thread = threading.Thread(
                    target=self._run, args=(self._loop,), name="ipyconvexai-loop", daemon=True
                )
                self._thread.start()
            return self._loop

    def _leave_to_parent(self) -> None:
        """In the child of a fork: nothing done to the parent's loop here may be felt there."""
        self._lock = threading.Lock()  # a thread that is no more may have held it
        loop, self._loop = self._loop, None
        if loop is None:
            return
        keep_for_ever(loop, self._thread)
        loop.set_exception_handler(lambda loop, context: None)  # or finalisers tell what was not closed
        if isinstance(shared := getattr(loop, "_selector", None), selectors.BaseSelector):
            # An epoll is one for both processes: a transport closed here would no longer be heard there.
            loop._selector = selectors.SelectSelector()  # type: ignore[attr-defined]
            keep_for_ever(shared)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while True:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:  # of a task that somebody's coroutine began: it alone ends
                _log.error("a task on the background loop raised %r; the loop goes on", error)
            else:
                if self._closed:
                    return
                _log.error(
                    "somebody's code stopped the background loop; it goes on, or all who wait would do so for ever"
                )

    def is_current(self) -> bool:
        """Whether the calling code runs on this loop."""
        return self._thread is threading.current_thread()

    def is_running(self) -> bool:
        return self._loop is not None and self._pid == os.getpid()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except BaseException:
            coroutine.close()  # or Python warns that it was never awaited
            raise

    def run(
        self,
        coroutine: Coroutine[Any, Any, T],
        *,
        on_interrupt: Callable[[], None] | None = None,
        tick: Callable[[], None] | None = None,
    ) -> T:
        """The coroutine's result, waited for in a thread of the user's.

        `on_interrupt` is called before the coroutine is cancelled when the wait is interrupted (Ctrl-C). `tick` is
        called in the waiting thread twenty times a second: what it prints lands in the cell that waits.

        Raises:
            DeadlockError: called on the loop itself.
        """
        if self.is_current():
            coroutine.close()
            raise DeadlockError(
                "a blocking call was made on the loop that would have to answer it",
                cure="Inside an action or a callback use the async twin: await ai.agenerate(...), await ai.arun(...).",
            )
        errand = _Errand(coroutine)
        try:
            self._soon(errand.start)
            return _wait(errand.outcome, tick)
        except KeyboardInterrupt as interrupt:  # anywhere in here, also before the loop has heard of it
            draws_as(interrupt, "the call was stopped.")
            if on_interrupt is not None:
                on_interrupt()
            self._soon(errand.cancel)
            concurrent.futures.wait([errand.outcome], timeout=TICK)  # what it leaves behind is mostly tidy by then
            raise
        except ConfigurationError:
            coroutine.close()
            raise
        except concurrent.futures.CancelledError:
            raise CanceledError("the call was stopped: its app was closed", cure="Ask again.") from None
        except BaseException:  # what `tick` raised: nobody waits any more
            if not errand.outcome.done():
                self._soon(errand.cancel)
            raise

    def _soon(self, function: Callable[[], None]) -> None:
        self.loop.call_soon_threadsafe(function)

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None, timeout: float = 5.0) -> None:
        """Cancel what runs, do `last` on the loop, then end the thread. It cannot be opened again."""
        with self._lock:
            self._closed = True
            loop, thread, self._loop = self._loop, self._thread, None
        if loop is None or self._pid != os.getpid():
            return
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(_wind_up(last), loop).result(timeout)
        loop.call_soon_threadsafe(loop.stop)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        if not loop.is_running():
            loop.close()


class _Escaped(Exception):
    """Holds a SystemExit or a KeyboardInterrupt: raised from a task, it would end the loop and everything on it."""

    def __init__(self, escaped: BaseException) -> None:
        super().__init__(escaped)
        self.escaped = escaped


async def _sheltered(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        raise _Escaped(error) from None


class _Errand(Generic[T]):
    """A coroutine for the loop. Its methods run there, so it can be cancelled at any moment without a race."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self._task: asyncio.Task[T] | None = None
        self._context = contextvars.copy_context()
        self.outcome: Future[T] = Future()

    def start(self) -> None:
        if not self.outcome.done():
            self._task = asyncio.get_running_loop().create_task(_sheltered(self._coroutine), context=self._context)
            self._task.add_done_callback(self._finish)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        else:
            self._coroutine.close()
            self.outcome.cancel()

    def _finish(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.outcome.cancel()
            self.outcome.set_running_or_notify_cancel()
        elif (error := task.exception()) is not None:
            self.outcome.set_exception(error.escaped if isinstance(error, _Escaped) else error)
        else:
            self.outcome.set_result(task.result())


def _wait(future: Future[T], tick: Callable[[], None] | None) -> T:
    if tick is None and sys.platform != "win32":  # there a wait without a limit cannot be interrupted
        return future.result()
    while True:
        concurrent.futures.wait([future], timeout=TICK)
        if tick is not None:
            tick()
        if future.done():
            return future.result()


async def _wind_up(last: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
    loop = asyncio.get_running_loop()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if last is not None:
        await last()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
