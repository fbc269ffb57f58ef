"""The write pipe of one process: rows from all its threads and loops travel to the keeper together.

Standard library only. While one message is being committed the next gathers, so under load a message carries many
rows: this is what keeps the cost in a notebook's process low. Promises: nobody is told before the commit is durable;
an asyncio loop is woken once per message and not once per row.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ipyconvexai.errors import ClosedError, Error, KeeperUnavailableError, StoreError
from ipyconvexai.store.wire import rebuild

__all__ = ["LoopReceipt", "Pipe", "Receipt", "ThreadReceipt"]

MESSAGE_ROWS = 256
MESSAGE_SIZE = 8_000_000  # characters and bytes of content in one message, about; a single insert may have more
LANES = 2  # one message travels and is unpacked while another is being committed

Receipt = Callable[["Error | None"], None]
Entry = tuple[tuple[Any, ...], Receipt]  # (table, columns, rows, if_new, note) and who waits for it


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
    """For a coroutine: ``await receipt.future``.

    `sent` is called on the loop once the rows are with the keeper: from then on they outlive this process.
    """

    __slots__ = ("future", "loop", "sent")

    def __init__(self, sent: Callable[[], None] | None = None) -> None:
        self.sent = sent
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
    """`write` sends a list of inserts, calls its second argument when they are sent, and returns one outcome for each
    (None, or a described error)."""

    def __init__(self, write: Callable[[list[tuple[Any, ...]], Callable[[], None]], list[Any]]) -> None:
        self._write = write
        self._waiting: collections.deque[Entry] = collections.deque()
        self._condition = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closing = False

    def put(self, insert: tuple[Any, ...], receipt: Receipt) -> None:
        """`insert` is (table, columns, rows, if_new, note). Never blocks; after ``close`` the receipt gets an error."""
        with self._condition:
            if not self._closing:
                self._waiting.append((insert, receipt))
                if len(self._threads) < LANES:
                    self._start_lane()
                self._condition.notify()
                return
        _tell(receipt, ClosedError())

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
                taken = self._take()
            self._send(taken)

    def _take(self) -> list[Entry]:
        taken: list[Entry] = []
        rows = size = 0
        while self._waiting and rows < MESSAGE_ROWS and size < MESSAGE_SIZE:
            taken.append(self._waiting.popleft())
            rows += len(taken[-1][0][2])
            size += sum(len(value) for row in taken[-1][0][2] for value in row if isinstance(value, str | bytes))
        return taken

    def _send(self, taken: list[Entry]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[LoopReceipt, Error | None]]] = {}
        for (_, receipt), outcome in zip(taken, self._outcomes(taken), strict=True):
            if isinstance(receipt, LoopReceipt):
                by_loop.setdefault(receipt.loop, []).append((receipt, outcome))
            else:
                _tell(receipt, outcome)
        for loop, settled in by_loop.items():
            wake(loop, settled)

    def _outcomes(self, taken: list[Entry]) -> list[Error | None]:
        """One for each; a lane must never die with receipts in its hands."""
        try:
            answers = self._write([insert for insert, _ in taken], lambda: _tell_sent(taken))
            return [rebuild(answer) if answer else None for answer in answers]
        except BaseException as error:
            if len(taken) == 1 or isinstance(error, KeeperUnavailableError):
                return [_as_ours(error)] * len(taken)
        # One of them cannot travel: only that one fails.
        return [outcome for entry in taken for outcome in self._outcomes([entry])]

    def close(self, timeout: float = 10.0) -> None:
        """Send what waits, then end the lanes."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout)


def _tell_sent(taken: list[Entry]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}
    for _, receipt in taken:
        if isinstance(receipt, LoopReceipt) and receipt.sent is not None:
            by_loop.setdefault(receipt.loop, []).append(receipt.sent)
    for loop, functions in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(_call_all, functions)


def _call_all(functions: list[Callable[[], None]]) -> None:
    for function in functions:
        function()


def _as_ours(error: BaseException) -> Error:
    return error if isinstance(error, Error) else StoreError(f"{type(error).__name__}: {error}")


def _tell(receipt: Receipt, error: Error | None) -> None:
    with contextlib.suppress(Exception):  # whoever waits has a fault of its own, and others wait, too
        receipt(error)
