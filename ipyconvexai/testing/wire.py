"""HTTP/1.1 on the server's side, as little of it as clients of a model provider need.

Requests with Content-Length or chunked bodies, keep-alive, `Expect: 100-continue`; answers played from a `Plan`:
bytes with pauses between them, and an ending. Timers instead of tasks, so that hundreds of connections cost little.
Imports nothing of the package; knows nothing of models.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol, cast

_MAX_HEAD = 64 * 1024
_MAX_BODY = 256 * 1024 * 1024
# l_onoff, l_linger; two shorts on Windows
_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Ending(enum.Enum):
    """What becomes of the connection when the last byte of an answer is out."""

    KEEP = "keep"  # it waits for the next request
    CLOSE = "close"  # it is closed, whether the message was complete or not
    RESET = "reset"  # the peer gets a reset
    STALL = "stall"  # it stays open and silent: the request counts as in flight


@dataclass(frozen=True, slots=True)
class Plan:
    """An answer: (seconds to wait first, bytes) in order, and what follows."""

    steps: Iterable[tuple[float, bytes]]
    ending: Ending = Ending.KEEP


@dataclass(frozen=True, slots=True)
class Request:
    """A complete request; header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    keep_alive: bool


class Server(Protocol):
    """What a connection tells its owner; all on the loop's thread."""

    def opened(self, connection: Connection) -> None: ...
    def closed(self, connection: Connection) -> None: ...
    def requested(self, connection: Connection, request: Request) -> None: ...
    def answered(self) -> None: ...
    def abandoned(self) -> None: ...
    def malformed(self, status: int, message: str) -> bytes: ...


class _MalformedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def head(status: int, headers: Mapping[str, str], length: int | None) -> bytes:
    """The status line and headers; `length` None announces a chunked body. Line ends in values become spaces."""
    lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, 'Unknown')}"]
    lines += [f"{name}: {' '.join(value.splitlines())}" for name, value in headers.items()]
    lines.append("transfer-encoding: chunked" if length is None else f"content-length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One client's connection: reads requests one after the other and plays one answer at a time."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._steps: Iterator[tuple[float, bytes]] = iter(())
        self._ending = Ending.KEEP
        self._busy = False
        self._keep_alive = True
        self._reading = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._busy:
            self._busy = False
            self._server.abandoned()
        self._server.closed(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._read()

    # answering

    def play(self, plan: Plan) -> None:
        """Sends the answer to the request at hand; nothing happens if its client has left."""
        if self._busy and not self._transport.is_closing():
            self._steps = iter(plan.steps)
            self._ending = plan.ending
            self._advance(b"")

    def reply_uncounted(self, data: bytes) -> None:
        """Answers at once, without a plan and without telling the server that it was answered."""
        self._busy = False
        self._write(data)
        if not self._keep_alive:
            self._transport.close()

    def abort(self) -> None:
        """Closes the connection without sending what is left."""
        self._transport.abort()

    def _advance(self, first: bytes) -> None:
        """Writes what is due, in one go, and sets the timer for the next step that waits."""
        due = [first]
        for delay, data in self._steps:
            if delay > 0:
                self._write(b"".join(due))
                self._timer = self._loop.call_later(delay, self._advance, data)
                return
            due.append(data)
        self._finish(b"".join(due))

    def _finish(self, data: bytes) -> None:
        if self._ending is Ending.STALL:
            self._write(data)
            return
        # Counted before the last byte is out: who has read the whole answer sees it counted.
        self._busy = False
        self._server.answered()
        self._write(data)
        if self._ending is Ending.RESET:
            sock: socket.socket = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            self._transport.abort()
        elif self._ending is Ending.CLOSE or not self._keep_alive:
            self._transport.close()
        else:
            self._read()

    def _write(self, data: bytes) -> None:
        if data:
            self._transport.write(data)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # reading

    def _read(self) -> None:
        """Takes the complete requests out of the buffer, one at a time; a pipelined one waits for its turn."""
        if self._reading:
            return
        self._reading = True
        try:
            while not self._busy and not self._transport.is_closing() and (request := self._next_request()):
                self._busy = True
                self._keep_alive = request.keep_alive
                self._server.requested(self, request)
        except _MalformedError as problem:
            self._transport.write(self._server.malformed(problem.status, str(problem)))
            self._transport.close()
        finally:
            self._reading = False

    def _next_request(self) -> Request | None:
        if self._head is None:
            self._head = self._next_head()
        if self._head is None:
            return None
        found = _dechunk(self._buffer) if self._head.chunked else _sized(self._buffer, self._head.length)
        if found is None:
            if self._head.expects:
                self._head.expects = False
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None
        body, used = found
        del self._buffer[:used]
        done, self._head = self._head, None
        return Request(done.method, done.target, done.headers, body, done.keep_alive)

    def _next_head(self) -> _Head | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise _MalformedError(431, "The headers are too long.")
            return None
        parsed = _Head(self._buffer[:end].decode("latin-1"))
        del self._buffer[: end + 4]
        return parsed


class _Head:
    """A request's line and headers."""

    __slots__ = ("chunked", "expects", "headers", "keep_alive", "length", "method", "target")

    def __init__(self, text: str) -> None:
        line, *rest = text.lstrip("\r\n").split("\r\n")
        words = line.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise _MalformedError(400, "This is not an HTTP/1.1 request.")
        self.method, self.target, version = words
        self.headers: dict[str, str] = {}
        for entry in rest:
            name, colon, value = entry.partition(":")
            if not colon:
                raise _MalformedError(400, "A header has no colon.")
            name, value = name.lower(), value.strip()
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
        connection = self.headers.get("connection", "").lower()
        self.keep_alive = connection != "close" if version != "HTTP/1.0" else connection == "keep-alive"
        self.chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        self.expects = self.headers.get("expect", "").lower() == "100-continue"
        self.length = _number(self.headers.get("content-length", "0"), 10)


def _number(digits: str, base: int) -> int:
    try:
        value = int(digits, base)
    except ValueError:
        raise _MalformedError(400, "A length is not a number.") from None
    if not 0 <= value <= _MAX_BODY:
        raise _MalformedError(413, "The body is too large.")
    return value


def _sized(buffer: bytearray, length: int) -> tuple[bytes, int] | None:
    return (bytes(buffer[:length]), length) if len(buffer) >= length else None


def _dechunk(buffer: bytearray) -> tuple[bytes, int] | None:
    """(body, bytes used), or None while the last chunk is not there."""
    parts: list[bytes] = []
    at = 0
    while (end := buffer.find(b"\r\n", at)) >= 0:
        size = _number(buffer[at:end].split(b";")[0].decode("latin-1"), 16)
        if size == 0:
            # Trailers, if any, end with an empty line.
            close = buffer.find(b"\r\n\r\n", end)
            return (b"".join(parts), close + 4) if close >= 0 else None
        start, at = end + 2, end + 4 + size
        parts.append(bytes(buffer[start : start + size]))
    return None
