"""Wires one store, its providers and the background loop into an ``App``. Floor 4.

An app belongs to one ledger. ``connect`` opens one and makes it current; ``app`` is the current one, opened at first
use over the ledger of the person. Promises: everything is closed at exit; nothing is opened or started by importing.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, TypeVar

from ipyconvexai.errors import CallError, CanceledError, ConfigurationError, Error
from ipyconvexai.functions import rate_limits
from ipyconvexai.functions.crons import crons
from ipyconvexai.functions.registry import registry
from ipyconvexai.functions.service import Functions, are_defined
from ipyconvexai.generation import Generator, Plan, Prompt, Question
from ipyconvexai.limiting import Limiting
from ipyconvexai.loops import BackgroundLoop
from ipyconvexai.providers import clients, posting
from ipyconvexai.providers.choice import choose
from ipyconvexai.providers.corridor import CALLER, Corridor
from ipyconvexai.providers.deferred import DeferredAsyncOpenAI, DeferredOpenAI
from ipyconvexai.providers.endpoints import resolve
from ipyconvexai.providers.network import Network
from ipyconvexai.records import Records
from ipyconvexai.records.retention import Retention
from ipyconvexai.reply import Reply, Success
from ipyconvexai.settings import Settings, parse_replay, redact
from ipyconvexai.store.ledger import Ledger
from ipyconvexai.store.link import Store, open_store
from ipyconvexai.values import Failure, Replay, Stop

__all__ = ["App", "TextStream", "app", "connect", "opened_over", "within"]

T = TypeVar("T")

HAND_BACK = 10.0  # seconds for jobs that run to be written down, at the end


class App(Limiting):
    """One ledger, its loop and its clients. A context manager: leaving it closes it."""

    def __init__(self, settings: Settings) -> None:
        if _ending:
            raise ConfigurationError(
                "Python is about to end, and nothing can be asked any more",
                cure="Ask at the end of your program instead of in a function that is registered at exit.",
            )
        self.settings = settings
        self.loop = BackgroundLoop()
        self.store = open_store(settings.path)
        self.records = Ledger(self.store, record=settings.record)
        self.ledger = Records(self.records)
        self.retention = None if settings.retention_days is None else Retention(self.store, settings.retention_days)
        self._network = Network()
        corridor = Corridor(self.records, settings, self._network.send)
        self.wiring = clients.Wiring(corridor, self.loop)
        self.generator = Generator(self.wiring, self.records, settings)
        self.functions = Functions(self.store, settings, self.loop, _Services(self))
        self._text_streams: weakref.WeakSet[TextStream] = weakref.WeakSet()
        self._closed = False
        self._before: App | None = None
        self._entered = False
        _open_apps.add(self)

    # ------------------------------------------------------------------------------------------ asking
    def generate(self, prompt: Prompt, **options: Any) -> Reply:
        """The answer to `prompt`; see ``ipyconvexai.generate``."""
        return self.run(self.generator.generate(question(prompt, options)))

    async def agenerate(self, prompt: Prompt, **options: Any) -> Reply:
        return await self.arun(self.generator.generate(question(prompt, options)))

    def stream(self, prompt: Prompt, **options: Any) -> TextStream:
        return TextStream(self, question(prompt, options))

    def safe_generate(self, prompt: Prompt, **options: Any) -> Success | Failure:
        try:
            return Success(self.generate(prompt, **options))
        except CallError as error:
            return failure(error)

    def plan(self, prompt: Prompt, **options: Any) -> Plan:
        """What ``generate`` would send, and the tokens and US dollars that would take, by estimate. Sends nothing."""
        return self.run(self.generator.plan(question(prompt, options)))

    def set_replay(self, policy: str | Replay) -> None:
        """Whether recorded answers stand for new calls, from now on, where a call does not say it itself.

        Args:
            policy: "off", "reuse" (answer from the ledger where it can) or "only" (never send).

        Raises:
            InputError: another word.
        """
        replay = parse_replay(policy)
        self.settings = replace(self.settings, replay=replay)
        self.wiring.corridor.set_replay(replay)
        self.generator.set_replay(replay)

    # ------------------------------------------------------------------------------------------ the bridge
    def run(
        self, coroutine: Coroutine[Any, Any, T], stop: Stop | None = None, tick: Callable[[], None] | None = None
    ) -> T:
        """The result of a coroutine of ours, waited for in the calling thread; Ctrl-C cancels it.

        `tick` is called twenty times a second meanwhile, in the calling thread.
        """
        stop = stop or Stop()
        with _stoppable(stop):
            return self.loop.run(coroutine, on_interrupt=stop.interrupt, tick=tick)

    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The same for a coroutine of the user's, on whatever loop it runs."""
        if self.loop.is_current():
            return await coroutine
        with _stoppable(Stop()):
            future = self.loop.submit(coroutine)
        return await asyncio.wrap_future(future)

    # ------------------------------------------------------------------------------------------ tables
    def drop_table(self, table: Any) -> None:
        """Remove a table of yours with all its documents; its class, where it is defined, begins with an empty one.

        Args:
            table: the class, or its name.

        Raises:
            SchemaError: there is none of this name, or it is the ledger's own.
        """
        self.functions.tables.drop(table)

    # ------------------------------------------------------------------------------------------ life
    @property
    def is_closed(self) -> bool:
        return self._closed

    def __enter__(self) -> App:
        self._entered = True
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what runs, write what waits, leave the ledger. On the app's own loop it is done soon after."""
        if self._closed:
            return
        self._closed = True
        _open_apps.discard(self)
        _forget(self)
        if self.loop.is_current():  # which has yet to cancel what runs on it
            threading.Thread(target=self._leave, name="ipyconvexai-close").start()
        else:
            self._leave()

    def _leave(self) -> None:
        if self.loop.is_running():
            with contextlib.suppress(Exception):  # its jobs are others' when this process is gone
                self.loop.submit(self.functions.aclose()).result(HAND_BACK)
        self.functions.close()
        self.loop.close(last=self._hang_up)
        if self.retention is not None:
            self.retention.close()
        self.store.close()

    async def _hang_up(self) -> None:
        for stream in list(self._text_streams):
            await stream._close()
        await self.wiring.corridor.aclose()
        await self._network.aclose()

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        return f"<App of {self.store.path}{state}>"


class _Services:
    """What actions get of their app."""

    def __init__(self, owner: App) -> None:
        self._app = owner

    def model(self) -> str:
        choice = choose(self._app.settings)
        if choice.error is not None:
            raise choice.error
        return choice.model or ""

    def client(self, timeout: float) -> DeferredOpenAI:
        own = self._app
        return DeferredOpenAI(
            lambda: resolve(None, settings=own.settings),
            self.model(),
            own.wiring,
            timeout=timeout,
            max_retries=own.settings.retries,
        )

    def async_client(self, timeout: float) -> DeferredAsyncOpenAI:
        own = self._app
        return DeferredAsyncOpenAI(
            lambda: own.generator.endpoint(None),
            self.model(),
            own.wiring,
            timeout=timeout,
            max_retries=own.settings.retries,
        )

    def generate(self, prompt: Prompt, **options: Any) -> Coroutine[Any, Any, Reply]:
        return self._app.generator.generate(question(prompt, options))

    def stream(self, prompt: Prompt, **options: Any) -> AsyncGenerator[str | Reply, None]:
        return self._app.generator.stream(question(prompt, options))

    def post(self, address: str, value: Any, **options: Any) -> Coroutine[Any, Any, posting.Posted]:
        return posting.post_json(address, value, **options)

    def send_email(self, to: str, subject: str, text: str, **options: Any) -> Coroutine[Any, Any, str]:
        return posting.send_email(to, subject, text, **options)


@contextlib.contextmanager
def _stoppable(stop: Stop) -> Iterator[None]:
    """The work that is begun in here shares `stop` with who waits for it."""
    token = CALLER.set(replace(CALLER.get(), stop=stop))
    try:
        yield
    finally:
        CALLER.reset(token)


class TextStream:
    """Text as it arrives, in a ``for`` or an ``async for``; ``.reply`` at the end.

    Leaving the loop early stops the provider; what had come is in the ledger.
    """

    def __init__(self, owner: App, asked: Question) -> None:
        self._app = owner
        self._stop = Stop()
        self._pieces: AsyncIterator[str | Reply] = owner.generator.stream(asked)
        self._reply: Reply | None = None
        self._error: Error | None = None
        self._text: list[str] = []
        owner._text_streams.add(self)

    @property
    def reply(self) -> Reply:
        """The whole answer; before the end of the stream it is read to its end.

        Raises:
            CanceledError: the stream was left before its end.
            Error: what the stream ended with.
        """
        if self._reply is None and self._error is None:
            for _ in self:
                pass
        if self._error is not None:
            raise self._error
        if self._reply is None:
            raise CanceledError("the stream was left before its end", cure=".text has what had come; or ask again.")
        return self._reply

    @property
    def text(self) -> str:
        """What has come so far."""
        return redact("".join(self._text))

    def read(self, tick: Callable[[], None] | None = None) -> Reply:
        """The whole answer, waited for in one go; Ctrl-C stops the provider.

        `tick` is called twenty times a second meanwhile, in the calling thread: ``.text`` is what has come by then.
        """
        self._app.run(self._drain(), self._stop, tick)
        return self.reply

    async def _drain(self) -> None:
        while await self._next() is not None:
            pass

    def __iter__(self) -> Iterator[str]:
        try:
            while (piece := self._app.run(self._next(), self._stop)) is not None:
                yield piece
        finally:
            self.close()

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            while (piece := await self._app.arun(self._next())) is not None:
                yield piece
        finally:
            await self._app.arun(self._close())

    async def _next(self) -> str | None:
        try:
            piece = await anext(self._pieces, None)
        except Error as error:
            self._error = error
            raise
        if isinstance(piece, Reply):
            self._reply = piece
            return await self._next()
        if piece is not None:
            self._text.append(piece)
        return piece

    async def _close(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is running: cancelled a moment ago, it closes itself
            await self._pieces.aclose()  # type: ignore[attr-defined] # an async generator

    def close(self) -> None:
        """Stop; harmless after the end."""
        if self._app.loop.is_running() and not self._app.loop.is_current():
            self._app.loop.submit(self._close()).result(5)


_OPTIONS = (
    *("model", "system", "conversation", "schema", "replay", "record", "on_limit", "timeout", "base_url"),
    "key_variable",
)


def question(prompt: Prompt, options: dict[str, Any]) -> Question:
    """Options of ours by name, the rest are parameters of the provider's."""
    own = {name: options.pop(name) for name in _OPTIONS if name in options}
    return Question(prompt, **own, params=options)


def failure(error: CallError) -> Failure:
    return Failure(
        error=error.message,
        code=error.code,
        retryable=error.retryable,
        retry_after=error.retry_after,
        request_id=error.request_id,
    )


# ---------------------------------------------------------------------------------------------- the current app
_lock = threading.RLock()
_current: App | None = None
_ending = False  # the interpreter: Python starts no threads any more
_open_apps: weakref.WeakSet[App] = weakref.WeakSet()
_here: ContextVar[App | None] = ContextVar("ipyconvexai_app", default=None)  # in place of the current one


def connect(
    path: str | os.PathLike[str] | None = None,
    *,
    model: str | None = None,
    user: str | None = None,
    replay: str | Replay | None = None,
    record: str | None = None,
    timeout: float | None = None,
    retries: int | None = None,
    on_limit: str | None = None,
    retention_days: float | None = None,
) -> App:
    """Open a ledger and make its app the current one.

    Args:
        path: the ledger file; default IPYCONVEXAI_DB, then one ledger per person; ":memory:" keeps nothing.
        model: ``provider:model`` used where none is named; default IPYCONVEXAI_MODEL, then chosen (``ai.doctor()``).
        user: recorded with each call; default JUPYTERHUB_USER, then the login name.
        replay: "off", "reuse" (answer from the ledger where it can) or "only" (never send).
        record: "full", or "metadata" to keep no content.
        timeout: seconds of silence after which an attempt is given up.
        retries: attempts after the first.
        on_limit: "wait" until a limit of yours allows a call (the default), or "raise" a LimitError.
        retention_days: content that is older is removed for good, as ``ai.ledger.purge(before=...)`` removes it: now,
            and once a day while the app is open, in the background; default IPYCONVEXAI_RETENTION_DAYS, then it stays.
            What it cost stays, so budgets and usage stay true. What expired today may be there until tomorrow.

    As a context manager it closes at the end and the app before is current again.
    """
    global _current
    settings = Settings.from_environment(
        path=path,
        model=model,
        user=user,
        replay=None if replay is None else parse_replay(replay),
        record=record,
        timeout=timeout,
        retries=retries,
        on_limit=on_limit,
        retention_days=retention_days,
    )
    opened = App(settings)
    with _lock:
        retired = _retired(_current)
        opened._before = _current
        _current = opened
    if retired is not None:
        retired.close()
    _start(opened)
    return opened


def _start(opened: App) -> None:
    """What an app does without being asked."""
    if opened.retention is not None:
        opened.retention.start()
    if are_defined():
        opened.functions.start()


def _retired(current: App | None) -> App | None:
    """The app before `current` where both stand for one cell that was run again; else they would pile up."""
    before = current._before if current is not None else None
    if current is None or before is None or current._entered or before._entered:
        return None
    if before.store.path != current.store.path:
        return None
    current._before = before._before
    return before


def app() -> App:
    """The current app; opened at first use."""
    global _current
    if (owner := _here.get()) is not None and not owner._closed:
        return owner
    with _lock:
        fresh = _current is None
        if _current is None:
            _current = App(Settings.from_environment())
        current = _current
    if fresh:
        _start(current)
    return current


@contextlib.contextmanager
def within(owner: App) -> Iterator[None]:
    """What is asked in here, and in tasks and threads that begin in here, is asked of `owner`, whatever is current."""
    token = _here.set(owner)
    try:
        yield
    finally:
        _here.reset(token)


def opened_over(store: Store) -> App:
    """The app that works over `store`.

    Raises:
        ConfigurationError: it was closed.
    """
    for opened in list(_open_apps):
        if opened.store is store:
            return opened
    raise ConfigurationError("this app was closed", cure='Open another: ai.connect("my.duckdb").')


def _forget(closed: App) -> None:
    global _current
    with _lock:
        if _current is closed:
            before = closed._before
            _current = before if before is not None and not before._closed else None


@atexit.register
def _close_all() -> None:
    global _ending
    _ending = True
    for opened in list(_open_apps):
        opened.close()


# Before concurrent.futures ends its threads, in which jobs run and are written down; that is earlier than atexit.
if (_register := getattr(threading, "_register_atexit", None)) is not None:
    _register(_close_all)


def _work_here() -> None:
    """A function or a cron was defined: its jobs may wait for it. Nothing is opened for that."""
    current = _current
    if current is not None and not current._closed and are_defined():
        current.functions.start()


registry.listen(_work_here)
crons.listen(_work_here)
clients.wire(lambda: app().wiring)
rate_limits.wire(lambda: app().store.transaction())
