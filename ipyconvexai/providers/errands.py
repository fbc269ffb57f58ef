"""What a worker elsewhere does: it sends the requests of a chunk and reports what came, byte for byte. Calls network.

Light to import: a worker has no ledger, no app and no limits. Promises: a chunk is run once, by the process that it is
for; a request whose time is over is not sent; one that fails costs the others nothing; no repr shows a key. One loop
and one pool of connections for each process.
"""

from __future__ import annotations

import asyncio
import atexit
import collections
import contextlib
import os
import ssl
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2

from ipyconvexai.loops import BackgroundLoop
from ipyconvexai.providers.network import Network, SentBody

__all__ = ["Chunk", "Errand", "Failure", "Outcome", "Report", "process", "run"]

REMEMBERED = 10_000  # chunks

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True, repr=False)
class Errand:
    """One request. `headers` hold the key. `until`: not to be sent later than this, on the driver's clock."""

    method: str
    url: str
    headers: Headers
    content: bytes
    timeout: dict[str, float | None]
    until: float | None = None

    def __repr__(self) -> str:
        return f"<Errand of {len(self.content)} bytes>"


@dataclass(frozen=True, slots=True, repr=False)
class Chunk:
    """Requests that travel together.

    `process`: the only one that may run it; None: any. `clocks`: how far those of some processes are ahead of the
    driver's, at least.
    """

    id: str
    errands: tuple[Errand, ...]
    process: str | None
    clocks: dict[str, float]

    def __repr__(self) -> str:
        return f"<Chunk of {len(self.errands)} requests>"


@dataclass(frozen=True, slots=True)
class Failure:
    """What an exchange raised, in words that can travel: exceptions hold requests, and so keys.

    `kind`: the name of a class of httpx2's, or of another. `cause`: "" (it has none), "timeout", "certificate", "os"
    (`number` is its errno) or "other"; `said` is what that said.
    """

    kind: str
    cause: str
    said: str
    number: int | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Outcome:
    """What one request came to. `content` is what arrived, as it was encoded; after it there may be a `failure`.

    `unsent`: nothing was sent, because it was late, or because it might be and this clock is not known to the driver.
    """

    status: int | None = None
    headers: Headers = ()
    content: bytes = b""
    extensions: tuple[tuple[str, bytes], ...] = ()
    failure: Failure | None = None
    unsent: bool = False

    def __repr__(self) -> str:
        return f"<Outcome {self.status}>"


@dataclass(frozen=True, slots=True)
class Report:
    """Of a chunk. `clock`: the process's own, when it was done. `outcomes`: None where it was not for this process, or
    has been run before: by whom, and how far, nobody can say."""

    process: str
    clock: float
    outcomes: tuple[Outcome, ...] | None


_TOKEN = uuid.uuid4().hex
_lock = threading.Lock()
_ran: collections.OrderedDict[str, None] = collections.OrderedDict()
_loop = BackgroundLoop()
_network = Network()


def process() -> str:
    """The name of this process, unlike that of any other anywhere."""
    return f"{_TOKEN}-{os.getpid()}"  # a fork has its parent's token


def run(chunk: Chunk) -> Report:
    """Send all its requests at the same time; returns when each has come to an end. Raises nothing."""
    here = process()
    if chunk.process not in (None, here) or not _is_new(chunk.id):
        return Report(here, time.monotonic(), None)
    outcomes = _loop.submit(_all(chunk, chunk.clocks.get(here))).result() if chunk.errands else ()
    return Report(here, time.monotonic(), tuple(outcomes))


def _is_new(chunk_id: str) -> bool:
    """Whoever schedules tasks may run one again that he believes lost."""
    with _lock:
        if chunk_id in _ran:
            return False
        _ran[chunk_id] = None
        if len(_ran) > REMEMBERED:
            _ran.popitem(last=False)
        return True


async def _all(chunk: Chunk, ahead: float | None) -> list[Outcome]:
    return await asyncio.gather(*(_one(errand, ahead) for errand in chunk.errands))


async def _one(errand: Errand, ahead: float | None) -> Outcome:
    body = _Body(errand.content)
    if errand.until is not None:
        if ahead is None:
            return Outcome(unsent=True)
        body.check = _not_after(errand.until + ahead, body)
    try:
        request = httpx2.Request(
            errand.method,
            errand.url,
            headers=list(errand.headers),
            stream=body,
            extensions={"timeout": errand.timeout},
        )
        response = await _network.send(request)
    except Exception as error:
        return Outcome(unsent=True) if body.late else Outcome(failure=_failure(error))
    return await _received(response)


class _Body(SentBody):
    late = False


def _not_after(deadline: float, body: _Body) -> Callable[[], None]:
    def check() -> None:
        if time.monotonic() > deadline:
            body.late = True
            raise TimeoutError("too late to be sent")

    return check


async def _received(response: httpx2.Response) -> Outcome:
    pieces: list[bytes] = []
    failure = None
    try:
        async for piece in response.stream:  # type: ignore[union-attr] # of an async transport
            pieces.append(piece)
    except Exception as error:
        failure = _failure(error)
    finally:
        with contextlib.suppress(Exception):
            await response.aclose()
    extensions = tuple((k, v) for k, v in response.extensions.items() if k in ("http_version", "reason_phrase"))
    headers = tuple(response.headers.raw)
    return Outcome(response.status_code, headers, b"".join(pieces), extensions, failure)


def _failure(error: Exception) -> Failure:
    kind = type(error).__name__
    cause: Any = error.__cause__ or error
    if isinstance(cause, TimeoutError):
        return Failure(kind, "timeout", str(error))
    if cause is error and isinstance(error, httpx2.TransportError):
        return Failure(kind, "", str(error))
    for inner in ("os_error", "certificate_error"):
        cause = getattr(cause, inner, None) or cause
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Failure(kind, "certificate", cause.verify_message)
    if isinstance(cause, OSError):
        number = None if isinstance(cause, ssl.SSLError) or _is_lookup(cause) else cause.errno
        return Failure(kind, "os", cause.strerror or str(cause), number)
    return Failure(kind, "other", str(cause) or type(cause).__name__)


def _is_lookup(error: OSError) -> bool:
    import socket

    return isinstance(error, socket.gaierror)  # its numbers are of another list


@atexit.register
def _close() -> None:
    """Where a thread of the driver's process was the worker, or its connections would complain at the end."""
    if _loop.is_running():
        _loop.close(_network.aclose)
