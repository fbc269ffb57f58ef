"""The endpoint users see: it records, counts and times what comes, and lets `Provider` say what is answered.

Everything that happens to a request happens on the server's thread; what other threads may read or change is
guarded by one condition, which also wakes those who `wait`.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from ipyconvexai.errors import Error
from ipyconvexai.testing import shapes
from ipyconvexai.testing.batches import Batches
from ipyconvexai.testing.provider import Provider, error
from ipyconvexai.testing.received import Headers, Received
from ipyconvexai.testing.script import Script
from ipyconvexai.testing.server import HOST, ServerThread
from ipyconvexai.testing.wire import Connection, Plan, Request, head

_OWN_PAGES = "/__"


class Endpoint:
    """An OpenAI-compatible provider on loopback that does what its script says and keeps what it was sent.

    Args:
        replies: a str, a mapping (sent as JSON text), `Answer`, `Fault`, `Drop`, `Stall`, a function of the request
            (`Received`) that gives one of these, or a list of them: used in order, the last one for ever. None: the
            `echo` of the prompt, or where JSON is asked for by a schema, the plainest value that fits it.
        latency: seconds before the first byte of an answer.
        token_delay: seconds between the tokens of a stream.
        key: the one key that is accepted; None accepts any, and none.
        models: the models there are; None accepts every name.
        context: the most words a request may hold.
        dimensions: the length of embeddings for which the request names none.
        keep: how many of the last requests `calls` keeps; None keeps all.
        port: a fixed port; 0 takes a free one.
        batch_api: whether it has files and batches; how these get on, `batches` says.

    Use it as a context manager, or call `start` and `close`. A script's function is called on the endpoint's thread
    and must not block. If it raises, the request is answered with status 400, and the exception is raised again when
    the ``with`` block ends.
    """

    def __init__(
        self,
        replies: Any = None,
        *,
        latency: float = 0.0,
        token_delay: float = 0.0,
        key: str | None = None,
        models: Sequence[str] | None = None,
        context: int | None = None,
        dimensions: int = 8,
        keep: int | None = None,
        port: int = 0,
        batch_api: bool = True,
    ) -> None:
        self.batches = Batches()
        stored = self.batches if batch_api else None
        self._provider = Provider(Script(replies), latency, token_delay, key, models, context, dimensions, stored)
        self._port = port
        self._changed = threading.Condition()
        self._calls: deque[Received] = deque(maxlen=keep)
        self._number = 0
        self._count = self._in_flight = self._most_in_flight = self._disconnects = self._connections = 0
        self._errors: list[Exception] = []
        self._held: list[Callable[[], None]] | None = None
        self._log: int | None = None
        self._server = ServerThread(self)

    # life

    def start(self) -> Endpoint:
        """Listens. Raises ConfigurationError if the port is taken, Error if it runs already."""
        self._server.start(self._port)
        return self

    def close(self) -> None:
        """Closes every connection, ends the thread; may be called again."""
        self._server.close()
        if self._log is not None:
            os.close(self._log)
            self._log = None

    def __enter__(self) -> Endpoint:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
        if value is None and self._errors:
            raise self._errors[0]

    def __repr__(self) -> str:
        place = f"at {self.url}" if self._server.port else "not running"
        return f"<Endpoint {place}, {self._count} requests>"

    # what users read

    @property
    def url(self) -> str:
        """The base URL for clients, with ``/v1``. Raises Error while the endpoint is not running."""
        if not self._server.port:
            raise Error("the endpoint is not running", cure="use it in a `with` block, or call start() first")
        return f"http://{HOST}:{self._server.port}/v1"

    @property
    def calls(self) -> list[Received]:
        """Every request, in the order they were complete; those refused for their key or model too."""
        with self._changed:
            return list(self._calls)

    @property
    def count(self) -> int:
        """How many requests came."""
        return self._count

    @property
    def in_flight(self) -> int:
        """Requests that are not completely answered yet."""
        return self._in_flight

    @property
    def most_in_flight(self) -> int:
        """The most there were of these at a time."""
        return self._most_in_flight

    @property
    def disconnects(self) -> int:
        """How many clients went away before their answer was complete."""
        return self._disconnects

    @property
    def connections(self) -> int:
        """How many connections were made."""
        return self._connections

    @property
    def errors(self) -> list[Exception]:
        """What the script's functions raised."""
        return list(self._errors)

    def stats(self) -> dict[str, int]:
        """The counters by name, as ``GET /__stats`` gives them."""
        with self._changed:
            return {
                "count": self._count,
                "in_flight": self._in_flight,
                "most_in_flight": self._most_in_flight,
                "disconnects": self._disconnects,
                "connections": self._connections,
            }

    def wait(self, condition: Callable[[Endpoint], bool], timeout: float = 10.0) -> None:
        """Blocks until ``condition(endpoint)`` holds, looked at after each change; TimeoutError after `timeout` s.

        In a coroutine: ``await asyncio.to_thread(endpoint.wait, lambda e: e.in_flight == 2)``.
        """
        with self._changed:
            held = self._changed.wait_for(lambda: condition(self), timeout)
        if not held:
            raise TimeoutError(f"the condition did not hold within {timeout:g} s: {self.stats()}")

    # what users change

    def reply(self, replies: Any = None) -> None:
        """A new script, from the next request on."""
        self._provider.script = Script(replies)

    def hold(self) -> None:
        """Answers nothing from now on, until `release`: to look at requests in flight without sleeping."""
        with self._changed:
            self._held = [] if self._held is None else self._held

    def release(self) -> None:
        """Answers what was held, in order, and everything that comes."""
        with self._changed:
            held, self._held = self._held or [], None
        for play in held:
            self._server.call(play)

    def clear(self) -> None:
        """Forgets the requests and sets the counters to zero; what is in flight stays counted."""
        with self._changed:
            self._calls.clear()
            self._count = self._disconnects = self._connections = 0
            self._most_in_flight = self._in_flight

    def log(self, path: str | os.PathLike[str]) -> None:
        """Appends each request to the file, as a line of JSON without headers, before it is answered.

        The line is with the operating system when the answer goes out, so it outlives a killed process.
        """
        if self._log is not None:
            os.close(self._log)
        self._log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    # what the server tells, on its thread (the protocol `wire.Server`)

    def opened(self, connection: Connection) -> None:
        self._server.connections.add(connection)
        self._connections += 1

    def closed(self, connection: Connection) -> None:
        self._server.connections.discard(connection)

    def requested(self, connection: Connection, request: Request) -> None:
        path, _, query = request.target.partition("?")
        if path.startswith(_OWN_PAGES):
            connection.reply_uncounted(self._own_page(request.method, path))
            return
        call = self._record(request, path, query)
        plan = self._plan(call)
        with self._changed:
            if self._held is not None:
                self._held.append(lambda: connection.play(plan))
                return
        connection.play(plan)

    def answered(self) -> None:
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    def abandoned(self) -> None:
        with self._changed:
            self._in_flight -= 1
            # Those that the endpoint itself leaves when it is closed are no disconnects.
            self._disconnects += not self._server.closing
            self._changed.notify_all()

    def malformed(self, status: int, message: str) -> bytes:
        body = shapes.error(message, "invalid_request_error")
        return head(status, {"content-type": shapes.JSON, "connection": "close"}, len(body)) + body

    def _record(self, request: Request, path: str, query: str) -> Received:
        with self._changed:
            self._number += 1
            headers = Headers(request.headers)
            call = Received(self._number, time.time(), request.method, path, query, headers, request.body)
            self._calls.append(call)
            self._count += 1
            self._in_flight += 1
            self._most_in_flight = max(self._most_in_flight, self._in_flight)
            self._changed.notify_all()
        if self._log is not None:
            line = {"number": call.number, "time": call.time, "method": call.method, "path": path, "body": call.body}
            os.write(self._log, shapes.encode(line) + b"\n")
        return call

    def _plan(self, call: Received) -> Plan:
        try:
            return self._provider.plan(call)
        except Exception as problem:
            # 400, as clients repeat what fails with 500, and their retries would hide it.
            self._errors.append(problem)
            said = f"The script of the test endpoint raised {type(problem).__name__}: {problem}"
            return error(call, 400, said, "script_error")

    def _own_page(self, method: str, path: str) -> bytes:
        """The counters (``GET /__stats``), and setting them to zero (``POST /__clear``)."""
        known = (method, path) in (("GET", "/__stats"), ("POST", "/__clear"))
        if path == "/__clear" and known:
            self.clear()
        body = shapes.encode(self.stats())
        return head(200 if known else 404, {"content-type": shapes.JSON}, len(body)) + body
