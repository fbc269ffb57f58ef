"""The tools of this process, by conversation, and who performs what waits for them. Calls the hub of changes.

A job may be claimed by any process; a tool lives in one. So what needs a tool is no job: a reply that may call some,
and a call that was allowed, are rows with this process's session. Here they are found and performed. Promises: each is
begun once (its row is taken in a transaction); a call that is stopped, or whose message goes, is given up at once; rows
of a process that was killed are settled by the keeper.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from ipyconvexai.errors import Error
from ipyconvexai.functions.changes import hub_of
from ipyconvexai.functions.tools import NO_TOOLS, Tool, Toolset
from ipyconvexai.loops import BackgroundLoop
from ipyconvexai.store.link import Store

__all__ = ["Performer", "Toolbox"]

_MINE = """
SELECT id::VARCHAR, role, status, conversation_id::VARCHAR FROM messages
WHERE session_id = ?::UUID AND status IN ('pending', 'streaming') ORDER BY created_at, id
"""

_log = logging.getLogger(__name__)

Run = Callable[[str, Mapping[str, Any]], Coroutine[Any, Any, Any]]  # a built-in function, by name


class Toolbox:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sets: dict[str, Toolset] = {}

    def of(self, conversation_id: str) -> Toolset:
        """Those for a conversation; none where it was given none."""
        return self._sets.get(conversation_id, NO_TOOLS)

    def put(self, conversation_id: str, tools: Mapping[str, Tool]) -> None:
        """In place of those it had."""
        with self._lock:
            self._sets[conversation_id] = Toolset(tools)


class Performer:
    """One per app; idle until its first tools. `run`: runs a built-in function on the background loop."""

    def __init__(self, store: Store, loop: BackgroundLoop, run: Run) -> None:
        self._store = store
        self._loop = loop
        self._run = run
        self._gate = threading.Lock()
        self._end: Callable[[], None] | None = None
        self._aio: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._again: set[tuple[str, str]] = set()  # there was a change while they ran
        self._looking: asyncio.Task[None] | None = None
        self._changed = False

    def start(self) -> None:
        """From any thread; harmless when it runs."""
        with self._gate:
            if self._end is None:
                self._aio = self._loop.loop
                self._end = hub_of(self._store).subscribe(self._notice)
        self._notice(set())

    async def stop(self) -> None:
        """Give up what runs. On the background loop."""
        with self._gate:
            end, self._end = self._end, None
        if end is None:
            return
        end()
        self._aio = None
        tasks = [*self._tasks.values(), *([self._looking] if self._looking else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    def _notice(self, tables: set[str]) -> None:
        """In the hub's thread."""
        aio = self._aio
        if aio is not None and (not tables or "messages" in tables):
            with contextlib.suppress(RuntimeError):  # the loop was closed
                aio.call_soon_threadsafe(self._begin_look)

    def _begin_look(self) -> None:
        self._changed = True
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while self._changed:
            self._changed = False
            try:
                rows = await asyncio.to_thread(self._store.read, _MINE, [self._store.session_id])
            except Error as error:
                _log.debug("the calls that wait were not found: %s", error)  # the next change will do
                return
            self._give_up_others({key for key, role, _, _ in rows if role == "tool"})
            for key, role, status, conversation in rows:
                if status == "pending" and self._end is not None:
                    self._begin(("tool", key) if role == "tool" else ("reply", conversation))

    def _give_up_others(self, wanted: set[str]) -> None:
        for (kind, key), task in self._tasks.items():
            if kind == "tool" and key not in wanted:
                task.cancel()

    def _begin(self, what: tuple[str, str]) -> None:
        if what in self._tasks:
            self._again.add(what)
            return
        kind, key = what
        if kind == "tool":
            work = self._run("ai.run_call", {"message_id": key})
        else:
            work = self._run("ai.generate_response", {"conversation_id": key})
        self._tasks[what] = asyncio.create_task(self._perform(work, what))

    async def _perform(self, work: Coroutine[Any, Any, Any], what: tuple[str, str]) -> None:
        try:
            await work
        except Exception as error:  # its message says so, too
            _log.debug("%s %s: %s", *what, error)
        finally:
            self._tasks.pop(what, None)
            if what in self._again:
                self._again.discard(what)
                self._begin_look()
