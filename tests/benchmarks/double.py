"""The endpoint of the benchmarks: chat completions over loopback in a process of its own, as cheap as Python can.

``ipyconvexai.testing`` reads, keeps and scripts what it is sent; here that would take CPU from what is measured on a
small machine. This one only finds the ends of requests and answers each with the same bytes, after the latency.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from http.client import HTTPConnection
from types import TracebackType
from typing import ClassVar
from urllib.parse import urlsplit

TEXT = "The document describes a method and how it was measured. It finds that the method costs less than the others."
BODY = json.dumps(
    {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt-4.1-nano-2025-04-14",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT, "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 420,
            "completion_tokens": 30,
            "total_tokens": 450,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": "fp_benchmark",
    }
).encode()
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_benchmark\r\nopenai-processing-ms: 100\r\n"
    b"x-ratelimit-limit-requests: 10000\r\nx-ratelimit-remaining-requests: 9999\r\n"
    b"x-ratelimit-limit-tokens: 2000000\r\nx-ratelimit-remaining-tokens: 1999000\r\n"
)


def _message(body: bytes, head: bytes = HEAD) -> bytes:
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def _events() -> bytes:
    """The same answer as a stream, word by word."""
    whole = json.loads(BODY)
    kept = ("id", "created", "model", "service_tier", "system_fingerprint")
    frame = {**{name: whole[name] for name in kept}, "object": "chat.completion.chunk"}
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}, *({"content": f"{word} "} for word in WORDS)]
    deltas.append({"content": LAST_WORD})
    choices: list[tuple[dict[str, str], str | None]] = [*((delta, None) for delta in deltas), ({}, "stop")]
    events = [
        {**frame, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}], "usage": None}
        for delta, reason in choices
    ]
    events.append({**frame, "choices": [], "usage": whole["usage"]})
    return b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"


*WORDS, LAST_WORD = TEXT.split(" ")
ANSWER = _message(BODY)
STREAM = _message(_events(), HEAD.replace(b"application/json", b"text/event-stream"))


class Double:
    """Runs the endpoint while the ``with`` block does. ``url`` is the base URL."""

    def __init__(self, latency: float = 0.0) -> None:
        command = [sys.executable, "-m", __name__, str(latency)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_root())
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}/v1"

    def count(self) -> int:
        """How many requests came so far."""
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=10)
        connection.request("GET", "/count")
        try:
            return int(connection.getresponse().read())
        finally:
            connection.close()

    def moments(self) -> list[float]:
        """When each request came, in seconds."""
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=10)
        connection.request("GET", "/moments")
        try:
            return [float(one) for one in connection.getresponse().read().split()]
        finally:
            connection.close()

    def __enter__(self) -> Double:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # it ends with its standard input, so also when this process is killed
        self._process.wait()
        self._process.stdout.close()


def _root() -> str:
    from tests.benchmarks.measuring import ROOT

    return str(ROOT)


class _Connection(asyncio.Protocol):
    """One client; an answer for each complete request, in the order in which they came."""

    moments: ClassVar[list[float]] = []

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._buffer = b""
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._end()) is not None:
            own = self._buffer[: self._buffer.find(b" ", 5)]
            answer = STREAM if b'"stream":true' in self._buffer[:end] else ANSWER
            self._buffer = self._buffer[end:]
            if own == b"GET /count":
                self._transport.write(_message(str(len(_Connection.moments)).encode()))
                continue
            if own == b"GET /moments":
                self._transport.write(_message(" ".join(map(str, _Connection.moments)).encode()))
                continue
            _Connection.moments.append(time.monotonic())
            if self._latency:
                self._loop.call_later(self._latency, self._transport.write, answer)
            else:
                self._transport.write(answer)

    def _end(self) -> int | None:
        """Where the first request ends, if all of it has come."""
        blank = self._buffer.find(b"\r\n\r\n")
        if blank < 0:
            return None
        head = self._buffer[:blank].lower()
        if b"transfer-encoding: chunked" in head:
            last = self._buffer.find(b"\r\n0\r\n\r\n", blank)
            return None if last < 0 else last + 7
        _, _, after = head.partition(b"content-length:")
        end = blank + 4 + int(after.split(b"\r\n", 1)[0] or 0)
        return end if len(self._buffer) >= end else None


async def _serve(latency: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(latency), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
