"""The write pipe of one process: rows from all its threads and loops travel to the keeper together.

Standard library only. While one message is being committed the next gathers, so under load a message carries many
rows: this is what keeps the cost in a notebook's process low. Promises: nobody is told before the commit is durable;
an asyncio loop is woken once per message and not once per row.
"""

from __future__ import annotations

import asyncio
import collections
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ipyconvexai.errors import Error
from ipyconvexai.store.wire import rebuild

__all__ = ["LoopReceipt", "Pipe", "Receipt", "ThreadReceipt"]

MESSAGE_ROWS = 256
LANES = 2  # one message travels and is unpacked while another is being committed

Receipt = Callable[["Error | None"], None]


class ThreadReceipt:
    """For a thread that waits: ``.result()`` returns when the rows are durable, or raises."""

    def __init__(self) -> None:
        self._future: Future[None] = Future()

    def __call__(self, error: Error | None) -> None:
        if error is None:
            self._future.set_result(None)
        else:
            self._future.set_exception(error)

    def result(self, timeout: float | None = None) -> None:
        self._future.result(timeout)


class LoopReceipt:
    """For a coroutine: ``await receipt.future``."""

    __slots__ = ("future", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()

    def __call__(self, error: Error | None) -> None:
        wake(self.loop, [(self, error)])

    def settle(self, error: Error | None) -> None:
        if self.future.done():  # its waiter was cancelled
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)


def wake(loop: asyncio.AbstractEventLoop, outcomes: list[tuple[LoopReceipt, Error | None]]) -> None:
    def settle_all() -> None:
        for receipt, error in outcomes:
            receipt.settle(error)

    try:
        loop.call_soon_threadsafe(settle_all)
    except RuntimeError:  # the loop was closed: nobody waits any more, and the rows are written all the same
        pass


class Pipe:
    """`write` sends a list of inserts and returns one outcome for each (None, or a described error)."""

    def __init__(self, write: Callable[[list[tuple[Any, ...]]], list[Any]]) -> None:
        self._write = write
        self._waiting: collections.deque[tuple[tuple[Any, ...], Receipt]] = collections.deque()
        self._condition = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closing = False

    def put(self, insert: tuple[Any, ...], receipt: Receipt) -> None:
        with self._condition:
            self._waiting.append((insert, receipt))
            if len(self._threads) < LANES and not self._closing:
                self._start_lane()
            self._condition.notify()

    def _start_lane(self) -> None:
        thread = threading.Thread(target=self._run, name="ipyconvexai-pipe", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._waiting:
                    if self._closing:
                        return
                    self._condition.wait()
                taken, size = [], 0
                while self._waiting and size < MESSAGE_ROWS:
                    taken.append(self._waiting.popleft())
                    size += len(taken[-1][0][2])
            self._send(taken)

    def _send(self, taken: list[tuple[tuple[Any, ...], Receipt]]) -> None:
        try:
            answers = self._write([insert for insert, _ in taken])
            outcomes = [rebuild(answer) if answer else None for answer in answers]
        except Error as error:
            outcomes = [error] * len(taken)
        except BaseException as error:  # a lane must never die with receipts in its hands
            outcomes = [Error(f"{type(error).__name__}: {error}")] * len(taken)
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[LoopReceipt, Error | None]]] = {}
        for (_, receipt), outcome in zip(taken, outcomes, strict=True):
            if isinstance(receipt, LoopReceipt):
                by_loop.setdefault(receipt.loop, []).append((receipt, outcome))
            else:
                receipt(outcome)
        for loop, settled in by_loop.items():
            wake(loop, settled)

    def close(self, timeout: float = 10.0) -> None:
        """Send what waits, then end the lanes."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout)
