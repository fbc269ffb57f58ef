"""What is passed around: plain frozen values and the enums of states. Floor 0: imports nothing of the package."""

from __future__ import annotations

import enum
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["Caller", "Failure", "Gate", "Purse", "Replay", "Status", "Stop", "ToolCall", "Usage", "Wait"]


class Status(enum.StrEnum):
    """How a call stands. ``SENDING`` is never stored: the intent of a living process, without an outcome yet."""

    SENDING = "sending"
    OK = "ok"
    ERROR = "error"  # the provider answered with an error, or could not be reached
    TIMEOUT = "timeout"  # no answer in time
    CUT = "cut"  # a stream ended without its terminal event
    INTERRUPTED = "interrupted"  # Ctrl-C or the kernel's interrupt button
    CANCELED = "canceled"  # the caller went away or closed the stream
    REFUSED = "refused"  # never sent: a rule forbade it
    UNKNOWN = "unknown"  # its process ended before the outcome was recorded; it may have been billed


class Replay(enum.StrEnum):
    """Whether a recorded answer may stand for a new call."""

    OFF = "off"  # always send
    REUSE = "reuse"  # answer from the ledger where it can, send otherwise
    ONLY = "only"  # answer from the ledger or fail; nothing is sent


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call as the provider counted them; ``input_tokens`` includes ``cached_tokens``,
    ``output_tokens`` includes ``reasoning_tokens``."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None

    @property
    def total_tokens(self) -> int:
        return (self.input_tokens or 0) + (self.output_tokens or 0)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that a model wants called.

    Attributes:
        id: by which the result is given back; of one's own where the provider gave none.
        name: as the model wrote it; there need not be such a tool.
        arguments: as the model wrote them; JSON, if it is right.
    """

    id: str
    name: str
    arguments: str


class Gate(Protocol):
    """What limits how many requests are being sent at once: an ``asyncio.Semaphore`` is one."""

    async def acquire(self) -> Any: ...

    def release(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Wait:
    """A call waits for a limit.

    Attributes:
        message: "waiting 12 s: limit gpt-minute (60 requests per minute) is reached".
        why: the part after the colon.
        seconds: about how long from now, as the limits stand.
        until: the same on the clock of ``time.monotonic``.
    """

    message: str
    why: str
    seconds: float
    until: float


class Purse:
    """US dollars that several calls may cost together: the tries of one cell, say. Thread-safe."""

    def __init__(self, usd: float, spent: float = 0.0) -> None:
        self.usd = usd
        self._lock = threading.Lock()
        self._taken: dict[str, float] = {}  # reserved by calls under way
        self._spent = spent
        self._reserved = 0.0

    @property
    def left(self) -> float:
        with self._lock:
            return self.usd - self._spent - self._reserved

    def take(self, call: str, usd: float) -> bool:
        """Reserve what the call of that id is estimated to cost; False: that is more than is left."""
        with self._lock:
            if self._spent + self._reserved + usd > self.usd:
                return False
            self._taken[call] = usd
            self._reserved += usd
            return True

    def settle(self, call: str, usd: float | None) -> None:
        """What it did cost in place of the estimate; None: nobody knows, so the estimate stays."""
        with self._lock:
            reserved = self._taken.pop(call, None)
            if reserved is not None:
                self._spent += reserved if usd is None else usd
                self._reserved = self._reserved - reserved if self._taken else 0.0


class Stop:
    """Shared by who waits and who works: says why the work was cancelled."""

    __slots__ = ("interrupted",)

    def __init__(self) -> None:
        self.interrupted = False

    def interrupt(self) -> None:
        """Ctrl-C or the kernel's interrupt button; to be said before the work is cancelled."""
        self.interrupted = True


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks and how: written into the intent row and obeyed by the corridor. Travels in a context variable."""

    source: str = "client"  # magic, panel, batch, schedule, client, cli, function
    user_id: str | None = None
    notebook: str | None = None
    cell_id: str | None = None
    conversation_id: str | None = None
    batch_id: str | None = None
    replay: Replay | None = None  # None: the setting
    retries: int | None = None  # None: what the client was made with
    patience: float | None = None  # seconds that it waits where the provider asks for a pause; None: two minutes
    record: str | None = None  # "full" or "metadata"; None: the setting
    gate: Gate | None = field(default=None, repr=False, compare=False)
    stop: Stop | None = field(default=None, repr=False, compare=False)
    limit: str | None = None  # "wait" until a limit allows it, or "raise"; None: the setting
    # Told on the background loop when a limit makes the call wait, and with None when that is over.
    on_wait: Callable[[Wait | None], None] | None = field(default=None, repr=False, compare=False)
    purse: Purse | None = field(default=None, repr=False, compare=False)
    # Delivers an httpx2.Request and gives the httpx2.Response, on the background loop; None: the corridor's network.
    send: Callable[[Any], Awaitable[Any]] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """What ``safe_generate`` returns instead of raising."""

    error: str
    code: str
    retryable: bool = False
    retry_after: float | None = None
    request_id: str | None = None
    success: bool = False
