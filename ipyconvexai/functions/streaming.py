"""``ctx.stream(message_id)``: a message whose text is saved while it comes, and settled in one transaction.

Calls the runner, its store, and the hub of changes. Promises: what was written is durable within ``SAVE_EVERY``
seconds; a reader sees each character once, whenever it looks (``load_messages`` joins the pieces); at the end the whole
text, the status and the removal of the pieces are one transaction; a stream that fails or is stopped keeps its text and
says so; one that anybody marks as canceled, or deletes, ends at once; one whose process was killed is settled by the
keeper.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any, Protocol, Self

from ipyconvexai.deadlines import Stopped
from ipyconvexai.errors import CanceledError, Error, InputError, NotFoundError, TransactionError
from ipyconvexai.functions.changes import hub_of
from ipyconvexai.functions.registry import of
from ipyconvexai.functions.running import Running
from ipyconvexai.ids import new_id
from ipyconvexai.providers.calls import CALLER
from ipyconvexai.reply import Reply
from ipyconvexai.settings import redact
from ipyconvexai.store.link import Execute
from ipyconvexai.values import ToolCall, Wait

__all__ = ["Draft", "MessageStream", "Owner", "SyncMessageStream", "listen"]

SAVE_EVERY = 0.25  # seconds between two pieces of a message, at most
TRIES = 5  # of settling, which may be repeated

_BEGIN = """
UPDATE messages SET status = 'streaming', session_id = ?, content = NULL, error_code = NULL, error_message = NULL,
       finish_reason = NULL, request_id = NULL
WHERE id = ? AND status <> 'canceled' RETURNING conversation_id::VARCHAR
"""
_STATUS = "SELECT status FROM messages WHERE id = ?"
_PIECE = "INSERT INTO message_deltas (id, message_id, start, text) VALUES (?, ?, ?, ?)"
_TIDY = "DELETE FROM message_deltas WHERE message_id = ?"
# Whoever canceled it has been told so: it stays canceled, also where the answer was complete by then.
_SETTLE = """
UPDATE messages SET content = $content, finish_reason = $finish_reason, request_id = $request_id, session_id = NULL,
       error_code = if(status = 'canceled', error_code, $error_code),
       error_message = if(status = 'canceled', error_message, $error_message),
       status = if(status = 'canceled', status, $status)
WHERE id = $id AND status IN (SELECT unnest($statuses::VARCHAR[]))
"""
_ANY = ["pending", "streaming", "canceled", "failed"]  # failed: by the keeper, which took this process for dead


@dataclass(frozen=True, slots=True)
class Owner:
    """The action that writes.

    Attributes:
        ask: the app's ``generate`` in pieces: texts, and the ``Reply`` at the end.
        ended_by: what ended the action, where it was not the caller: its time limit.
    """

    runner: Running
    ask: Callable[..., AsyncGenerator[str | Reply, None]]
    user_id: str | None = None
    job_id: str | None = None
    ended_by: Callable[[], BaseException | None] = lambda: None


class Draft(Protocol):
    """A message that this process is writing."""

    message_id: str
    conversation_id: str | None
    wait: Wait | None  # for a limit, before it is asked for

    @property
    def text(self) -> str:
        """What has been written so far."""


_readers: tuple[Callable[[Draft], None], ...] = ()


def listen(notice: Callable[[Draft], None]) -> Callable[[], None]:
    """Have `notice` called with each message that this process writes, after each piece, and where it waits for a
    limit; gives what ends that.

    It is called where it is written, before it is saved: hand over and return. Others see it a quarter of a second
    later, in the ledger.
    """
    global _readers
    _readers = (*_readers, notice)

    def end() -> None:
        global _readers
        _readers = tuple(reader for reader in _readers if reader is not notice)

    return end


class _Draft:
    """The text so far and how much of it is saved. Its methods that reach the ledger block."""

    def __init__(self, owner: Owner, message_id: str, clock: Callable[[], float]) -> None:
        self.message_id = message_id
        self.conversation_id: str | None = None
        self.finish_reason: str | None = None
        self.request_id: str | None = None
        self.tool_calls: tuple[ToolCall, ...] = ()
        self.wait: Wait | None = None
        self._store = owner.runner.store
        self._keeps_content = owner.runner.settings.keeps_content
        self._clock = clock
        self._pieces: list[str] = []
        self._waiting: list[str] = []
        self._saved = 0  # characters
        self._due = clock()

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def begin(self) -> None:
        if not self._keeps_content:
            raise InputError(
                "with record='metadata' no message is kept", cure="Use ctx.generate(), or keep content: record='full'."
            )
        with self._store.transaction() as execute:
            found = execute(_BEGIN, [self._store.session_id, self.message_id])
            if not found:
                raise self._absent(execute(_STATUS, [self.message_id]))
            execute.later(_TIDY, [self.message_id])  # of an attempt before this one
        self.conversation_id = found[0][0]

    def _absent(self, found: list[tuple[Any, ...]]) -> Error:
        if found:
            return _stopped()
        return NotFoundError(
            f"there is no message {self.message_id}",
            cure="Insert it first: ctx.db.insert(ai.Message(..., status='pending')) in a mutation.",
        )

    def add(self, text: str) -> bool:
        """Whether it is time to save."""
        self._pieces.append(text)
        self._waiting.append(text)
        self._tell()
        return self._clock() >= self._due

    def waits(self, wait: Wait | None) -> None:
        self.wait = wait
        self._tell()

    def _tell(self) -> None:
        for notice in _readers:
            notice(self)

    def seconds_left(self) -> float:
        return max(0.0, self._due - self._clock())

    def take(self) -> tuple[int, str]:
        """What is to be saved: where it stands, and the text."""
        piece, self._waiting = "".join(self._waiting), []
        start, self._saved = self._saved, self._saved + len(piece)
        self._due = self._clock() + SAVE_EVERY
        return start, piece

    def save(self, start: int, piece: str) -> None:
        """
        Raises:
            CanceledError: the message was canceled, or deleted.
        """
        with self._store.transaction() as execute:
            execute.later(_PIECE, [new_id(), self.message_id, start, redact(piece)])
            if execute(_STATUS, [self.message_id]) != [("streaming",)]:
                raise _stopped()

    def is_stopped(self) -> bool:
        return self._store.read(_STATUS, [self.message_id]) != [("streaming",)]

    def settle(self, error: BaseException | None) -> None:
        for left in reversed(range(TRIES)):
            try:
                with self._store.transaction() as execute:
                    self.tidy(execute)
                    self._settle(execute, error, _ANY)
            except TransactionError:
                if not left:
                    raise
            else:
                break

    def tidy(self, execute: Execute) -> None:
        execute.later(_TIDY, [self.message_id])

    def ensure_done(self, execute: Execute) -> None:
        """After a mutation that saved it: it may have left the status as it was."""
        self._settle(execute, None, ["streaming"])

    def _settle(self, execute: Execute, error: BaseException | None, statuses: list[str]) -> None:
        status, code, message = _status_of(error)
        values = {"id": self.message_id, "content": redact(self.text), "status": status, "error_code": code}
        values |= {"error_message": message, "finish_reason": self.finish_reason}
        request_id = self.request_id or getattr(error, "request_id", None)
        execute.later(_SETTLE, {**values, "request_id": request_id, "statuses": statuses})

    def saved(self) -> dict[str, Any]:
        """The arguments of a mutation that saves it."""
        values: dict[str, Any] = {"finish_reason": self.finish_reason, "request_id": self.request_id}
        if self.tool_calls:
            values["tool_calls"] = [asdict(call) for call in self.tool_calls]
        return {"message_id": self.message_id, "content": redact(self.text), **values}


def _status_of(error: BaseException | None) -> tuple[str, str | None, str | None]:
    if error is None:
        return "done", None, None
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt | CanceledError):
        return "canceled", "canceled", "stopped by the caller"
    code = error.code if isinstance(error, Error) else type(error).__name__
    return "failed", code, redact(str(error))


def _stopped() -> CanceledError:
    return CanceledError("the message was canceled while it was being written", cure="Ask again.")


class _Stream:
    def __init__(
        self, owner: Owner, message_id: str, save: Any = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._owner = owner
        self._draft = _Draft(owner, message_id, clock)
        self._save = None if save is None else of(save)

    @property
    def text(self) -> str:
        """What has been written so far."""
        return self._draft.text

    def end(self, *, finish_reason: str | None = None, request_id: str | None = None) -> None:
        """What the provider said at the end, to be kept with the message."""
        self._draft.finish_reason, self._draft.request_id = finish_reason, request_id

    def _introduce(self) -> None:
        """What is asked in the block belongs to the message's conversation, and where it waits, that is told."""
        caller = replace(CALLER.get(), conversation_id=self._draft.conversation_id, on_wait=self._draft.waits)
        self._introduced = CALLER.set(caller)

    def _leave(self) -> None:
        CALLER.reset(self._introduced)

    async def _relay(self, prompt: Any, options: dict[str, Any], write: Callable[[str], Awaitable[None]]) -> Reply:
        pieces = self._owner.ask(prompt, **options)
        try:
            async for piece in pieces:
                if isinstance(piece, str):
                    await write(piece)
                else:
                    reply = piece
        finally:
            await pieces.aclose()
        self.end(finish_reason=reply.finish_reason, request_id=reply.request_id)
        if self._save is not None and "tool_calls" in self._save.arguments.names:
            self._draft.tool_calls = reply.tool_calls
        return reply

    def _saving(self) -> dict[str, Any]:
        owner, draft = self._owner, self._draft
        return {
            "user_id": owner.user_id,
            "job_id": owner.job_id,
            "first": draft.tidy,
            "last": lambda execute, result: draft.ensure_done(execute),
        }


class MessageStream(_Stream):
    """``async with ctx.stream(message_id) as out:`` then ``await out.generate(messages)``, or ``await out.write(text)``
    for each piece of what comes from elsewhere.
    """

    _loop: asyncio.AbstractEventLoop
    _deaf: Callable[[], None]  # ends the notices
    _task: asyncio.Task[Any] | None = None  # who writes, while it can be stopped
    _flush: asyncio.Task[None] | None = None
    _stopped = False

    async def write(self, text: str | None) -> None:
        """Add a piece; it is durable within a quarter of a second. None and "" are nothing.

        Raises:
            CanceledError: the message was canceled, or deleted.
        """
        if not text:
            return
        if self._draft.add(text):
            await asyncio.to_thread(self._draft.save, *self._draft.take())
        elif self._flush is None:  # nothing may come for a while
            self._flush = asyncio.create_task(self._save_when_due())

    async def _save_when_due(self) -> None:
        await asyncio.sleep(self._draft.seconds_left())
        with contextlib.suppress(Error):  # it is saved at the end all the same
            start, piece = self._draft.take()
            if piece:
                await asyncio.to_thread(self._draft.save, start, piece)
        self._flush = None

    async def generate(self, prompt: Any, /, **options: Any) -> Reply:
        """Ask the model and write its answer while it comes; the arguments and errors of ``ai.generate``."""
        return await self._relay(prompt, options, self.write)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._looks: set[asyncio.Task[None]] = set()
        self._deaf = hub_of(self._owner.runner.store).subscribe(self._notice)
        try:
            await asyncio.to_thread(self._draft.begin)
        except BaseException:
            self._deaf()
            raise
        self._introduce()
        self._task = asyncio.current_task()  # from now on it can be stopped
        self._begin_look()  # of what was committed since it began, nobody was told
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._task = self._task, None  # it is not stopped any more
        self._deaf()
        self._leave()
        end = error
        if self._stopped and task is not None:
            task.uncancel()
            end = _stopped()
        elif isinstance(error, asyncio.CancelledError):
            end = self._owner.ended_by() or error
        # Also where the action is canceled: a message must not stay half way.
        problem = await asyncio.shield(self._settle(end))
        if self._stopped and end is not None:
            raise end from None
        if error is None and problem is not None:
            raise problem

    async def _settle(self, end: BaseException | None) -> BaseException | None:
        """Settles it; gives what it ended with."""
        if self._flush is not None:  # a piece that is being saved must not come after the rest
            await self._flush
        if end is None and self._save is not None:
            try:
                await self._owner.runner.amutate(self._save, self._draft.saved(), **self._saving())
            except Exception as problem:
                end = problem
            else:
                return None
        await asyncio.to_thread(self._draft.settle, end)
        return end

    # ------------------------------------------------------------------------------------------ canceled by others
    def _notice(self, tables: set[str]) -> None:
        """In the hub's thread."""
        if not tables or "messages" in tables:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                self._loop.call_soon_threadsafe(self._begin_look)

    def _begin_look(self) -> None:
        if self._task is not None:
            look = self._loop.create_task(self._look())
            self._looks.add(look)
            look.add_done_callback(self._looks.discard)

    async def _look(self) -> None:
        with contextlib.suppress(Error):  # a ledger that cannot be used is noticed by who writes
            if await asyncio.to_thread(self._draft.is_stopped) and self._task is not None and not self._stopped:
                self._stopped = True
                self._task.cancel()


class SyncMessageStream(_Stream):
    """The same for a plain ``def`` action: ``with ctx.stream(message_id) as out: out.write(text)``. That it was
    canceled it learns with the next piece."""

    def write(self, text: str | None) -> None:
        if text and self._draft.add(text):
            self._draft.save(*self._draft.take())

    def generate(self, prompt: Any, /, **options: Any) -> Reply:
        async def write(text: str) -> None:
            await asyncio.to_thread(self.write, text)

        return self._owner.runner.wait(self._relay(prompt, options, write))

    def __enter__(self) -> Self:
        self._draft.begin()
        self._introduce()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()
        stopped = isinstance(error, Stopped)
        problem = self._settle((self._owner.ended_by() or error) if stopped else error)
        if error is None and problem is not None:
            raise problem

    def _settle(self, end: BaseException | None) -> BaseException | None:
        if end is None and self._save is not None:
            try:
                self._owner.runner.mutate(self._save, self._draft.saved(), **self._saving())
            except Exception as problem:
                end = problem
            else:
                return None
        self._draft.settle(end)
        return end
