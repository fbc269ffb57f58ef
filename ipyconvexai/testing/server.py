"""A listening socket on loopback, served by a thread with an event loop of its own.

Knows `wire` only. `close` leaves nothing behind: no connection, no thread, no loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future

from ipyconvexai.errors import ConfigurationError, Error
from ipyconvexai.testing.wire import Connection, Server

HOST = "127.0.0.1"
_BACKLOG = 2048


class ServerThread:
    """Accepts connections for a `Server` until it is closed; may be started again afterwards."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self.port: int | None = None
        self.closing = False
        self.connections: set[Connection] = set()

    def start(self, port: int) -> None:
        """Listens on the port, 0 for a free one. Raises ConfigurationError if that cannot be had."""
        if self._thread is not None:
            raise Error("the endpoint is running already", cure="make another one: Endpoint()")
        self.closing = False
        started: Future[int] = Future()
        run = self._run
        # A daemon: an endpoint that was never closed must not keep its program alive.
        self._thread = threading.Thread(
            target=lambda: asyncio.run(run(port, started)), name="ipyconvexai-endpoint", daemon=True
        )
        self._thread.start()
        try:
            self.port = started.result()
        except OSError as problem:
            self._thread.join()
            self._thread = None
            raise ConfigurationError(f"port {port} cannot be used: {problem}", cure="leave out `port`") from problem

    def close(self) -> None:
        """Aborts every connection and joins the thread. Does nothing if it is not running."""
        if self._thread is None:
            return
        self.call(self._stop.set)
        self._thread.join()
        self._thread = None
        self.port = None

    def call(self, function: Callable[[], None]) -> None:
        """Calls the function on the server's thread, soon; not at all if it does not run."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(function)

    async def _run(self, port: int, started: Future[int]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        try:
            listener = await self._loop.create_server(self._connection, HOST, port, backlog=_BACKLOG)
        except OSError as problem:
            started.set_exception(problem)
            return
        started.set_result(listener.sockets[0].getsockname()[1])
        await self._stop.wait()
        self.closing = True
        listener.close()
        # An abort is carried out by the loop a moment later, and one accepted just now appears only then.
        while self.connections:
            for connection in list(self.connections):
                connection.abort()
            await asyncio.sleep(0)
        await listener.wait_closed()

    def _connection(self) -> Connection:
        return Connection(self._server, self._loop)
