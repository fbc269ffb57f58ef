"""One client's connection, in the keeper: its requests, and the transaction it may have open.

Calls ``engine`` and ``wire``. Promises: a request that takes long says so about once a second, a query whose client has
gone is interrupted, and a transaction whose client has gone is rolled back.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

import duckdb

from ipyconvexai.crashpoints import passing
from ipyconvexai.errors import StoreError
from ipyconvexai.store.engine import Engine
from ipyconvexai.store.purging import Criteria
from ipyconvexai.store.transaction import Statement
from ipyconvexai.store.turn import Turn
from ipyconvexai.store.view import View
from ipyconvexai.store.wire import BUSY, describe, limit_sending, pack, unpack
from ipyconvexai.store.writer import Insert

__all__ = ["Visit"]

BUSY_NOTICE = 1.0  # seconds of work after which the client hears that it goes on


class Visit:
    def __init__(self, engine: Engine, connection: Connection[Any, Any]) -> None:
        self._engine = engine
        self._connection = connection
        self._turn: Turn | None = None
        self._view: View | None = None
        self._gate = threading.Lock()
        self._busy_since: float | None = None  # or since the last notice
        self._interrupt: Callable[[], None] | None = None

    def authenticate(self, key: bytes) -> None:
        limit_sending(self._connection.fileno())
        deliver_challenge(self._connection, key)
        answer_challenge(self._connection, key)

    def serve(self) -> None:
        """Answer requests until the client leaves, which raises."""
        while True:
            data = self._connection.recv_bytes()
            with self._gate:
                self._busy_since = time.monotonic()
            answer = self._answer(data)
            with self._gate:
                self._busy_since = self._interrupt = None
            if answer is None:
                return self._send_changes()
            if answer:
                self._connection.send_bytes(answer)

    def look(self) -> None:
        """Called a few times a second from another thread: see to a request that takes long."""
        if (view := self._view) is not None:
            view.look_at_clock()
        with self._gate:
            if self._busy_since is None:
                return
            with contextlib.suppress(OSError, EOFError, duckdb.Error):
                if self._connection.poll():  # a client that waits says nothing, so it has gone
                    if self._interrupt is not None:
                        self._interrupt()
                elif time.monotonic() - self._busy_since > BUSY_NOTICE:
                    self._connection.send_bytes(pack(BUSY))
                    self._busy_since = time.monotonic()

    def _answer(self, data: bytes) -> bytes | None:
        """None when it asks for changes, which are a series and no answer; empty when nobody waits for one."""
        try:
            method, args = unpack(data)
            if method == "changes":
                return None
            if method == "leave":
                self._leave()
                return b""
            handler = getattr(self, f"do_{method}", None)
            if handler is None:
                raise StoreError(f"unknown request {method!r}", cure="Use one version of ipyconvexai everywhere.")
            result = handler(*args)
            passing("before_answer")
            return pack((True, result))
        except Exception as error:
            return pack((False, describe(error)))

    def _started(self, interrupt: Callable[[], None]) -> None:
        with self._gate:
            self._interrupt = interrupt

    # ------------------------------------------------------------------------------------------ requests
    def do_hello(self) -> int:
        return os.getpid()

    def do_write(self, inserts: list[tuple[Any, ...]], again: bool) -> tuple[list[dict[str, Any] | None], bool]:
        """The outcomes, and whether there are limits."""
        outcomes = self._engine.write([Insert(*insert) for insert in inserts], again).result()
        return [describe(outcome) if outcome else None for outcome in outcomes], self._engine.limited

    def do_limits(self) -> list[tuple[Any, ...]]:
        return self._engine.limits()

    def do_purge(self, criteria: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return [tuple(kind) for kind in self._engine.purge(Criteria(*criteria))]

    def do_read(self, sql: str, params: Any) -> list[tuple[Any, ...]]:
        return self._engine.read(sql, params, self._started)

    def do_read_arrow(self, sql: str, params: Any, frames: dict[str, bytes]) -> bytes:
        return self._engine.read_arrow(sql, params, frames, self._started)

    def do_execute(self, statements: list[tuple[str, Any, bool]], begins: bool) -> Any:
        batch = [Statement(*statement) for statement in statements]
        if begins:
            self._turn, result = self._engine.begin(batch)
            return result
        if self._turn is None:
            raise StoreError(
                "no transaction was begun on this connection",
                cure="Use the transaction inside of its `with` block only, and in the process that began it.",
            )
        return self._turn.run_all(batch)

    def do_look(self, statement: tuple[str, Any, bool], limit: float | None, begins: bool) -> Any:
        if begins:
            self._leave()
            self._view = self._engine.view(limit)
        if self._view is None:
            raise StoreError("no snapshot was begun on this connection", cure="Read inside of its `with` block only.")
        return self._view.look(Statement(*statement))

    def _leave(self) -> None:
        view, self._view = self._view, None
        if view is not None:
            view.close()

    # ------------------------------------------------------------------------------------------ changes and the end
    def _send_changes(self) -> None:
        """Send the names of changed tables until the client leaves; the first message is empty and comes at once."""
        for number, tables in enumerate(self._engine.listen()):
            if self._connection.poll():  # a listener says nothing more, so it has gone
                return
            if tables or not number:
                self._connection.send_bytes(pack(sorted(tables)))

    def end(self) -> None:
        if self._turn is not None:
            self._turn.abandon()
        self._leave()
