"""One question of a cell: prepared, sent, drawn while the answer comes. Calls the app, screens and formats.

Promises: an empty question is never sent; a failed call fails the cell; after an interrupt or a cut what had come stays
on the screen and says what it is.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from IPython.core.error import UsageError

from ipyconvexai import interrupts
from ipyconvexai.errors import Error, draws_as
from ipyconvexai.notebook import formats
from ipyconvexai.notebook.formats import Format, Result
from ipyconvexai.notebook.options import Options
from ipyconvexai.notebook.preparing import Prepared, prepare
from ipyconvexai.notebook.screens import CellScreen, Screen, TerminalScreen, display, in_kernel
from ipyconvexai.notebook.session import Session
from ipyconvexai.reply import Reply
from ipyconvexai.values import Purse, Replay, Wait

__all__ = ["STOPPED", "Waiting", "ask", "countdown", "from_a_magic", "note_of"]

# How an interrupt is told.
STOPPED = "the answer was stopped; what had come is in the ledger."
WAITED = "the question waited for a limit and was not sent."
PATIENCE = 2.0  # seconds of silence after which it is told that the model was asked


def ask(session: Session, options: Options, text: str, *, interpolated: bool = True) -> Reply | None:
    """Send the question `text` and show the answer; without `interpolated` braces are left as they are.

    Gives the reply of one model that answered in words, else None.

    Gives the answer, where there is one, and only one.

    Raises:
        UsageError: options that do not go together.
        Error: what ``ai.generate`` raises.
        KeyboardInterrupt: the kernel was interrupted; it draws itself in one line.
    """
    __tracebackhide__ = True  # IPython's: who evaluates a cell wants to see that cell
    _check(options)
    format = formats.of("json" if options.schema else options.format)
    prepared = prepare(
        session, options, text, ask_for="" if options.schema else format.ask_for, interpolated=interpolated
    )
    if options.dry_run:
        from ipyconvexai.notebook.dry_run import show

        show(session, options, prepared)
    elif options.format == "image":
        from ipyconvexai.notebook.pictures import draw

        draw(session, options, prepared.prompt)
    elif options.models:
        from ipyconvexai.notebook.comparing import compare

        compare(session, options, prepared)
    else:
        return _ask(session, options, prepared, format)
    return None


def _check(options: Options) -> None:
    with interrupts.held():
        from ipyconvexai.application import app

    if options.replay not in (None, "only") and app().settings.replay is Replay.ONLY:
        raise UsageError(
            "replay is `only`, so nothing is sent: leave out --fresh and --replay, or say `%ai replay on`."
        )
    for together, why in _APART:
        if all(getattr(options, name) not in (None, False, (), "markdown") for name in together):
            raise UsageError(why)
    if options.schema and options.format not in ("markdown", "json"):
        raise UsageError("--schema shows JSON: leave out -f.")
    if options.models and options.format not in ("markdown", "text"):
        raise UsageError("--models shows answers as markdown: leave out -f.")
    if options.format == "image" and (names := [name for name in _NO_PICTURE if getattr(options, name)]):
        raise UsageError(f"-f image takes a text and draws it: leave out --{names[0].replace('_', '-')}.")


# Options that have no meaning together.
_APART = (
    (("models", "model"), "--models names the models; leave out the one before it."),
    (("models", "conversation"), "--models has several answers and a conversation one: leave out -c."),
    (("evaluate", "prompts"), "--eval runs the cell as Python, and --with begins with a text: leave one of them out."),
    (("evaluate", "save"), "--save keeps a question, and --eval runs the cell as Python: leave one of them out."),
)
_NO_PICTURE = ("models", "schema", "conversation", "system", "dry_run")


class Waiting:
    """Why nothing comes: a limit, or a model that takes its time. Told by the corridor, as its ``on_wait``."""

    def __init__(self, model: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model or "the model"
        self._clock = clock
        self._wait: Wait | None = None
        self._began = clock()

    def __call__(self, wait: Wait | None) -> None:
        self._wait, self._began = wait, self._clock()

    @property
    def limit(self) -> str:
        """What a limit says, with the seconds that are left; empty where none does."""
        return "" if self._wait is None else countdown(self._wait, self._clock)

    @property
    def silence(self) -> str:
        """How long the model has been silent; empty for a moment's silence."""
        seconds = self._clock() - self._began
        return f"asking {self._model}: {seconds:.0f} s" if seconds >= PATIENCE else ""


def _ask(session: Session, options: Options, prepared: Prepared, format: Format) -> Reply:
    from ipyconvexai.application import TextStream, app

    screen = _screen(session, format, markdown=options.format == "markdown" and not options.schema)
    streams = options.stream and not options.schema and (format.grows if in_kernel(session.shell) else format.streams)
    waiting = Waiting(prepared.question.model or app().settings.model)

    def tick() -> None:
        if limit := waiting.limit:
            screen.wait(limit)
        elif streams and stream.text:
            screen.draw(stream.text)
        elif screen.in_place:
            screen.wait(waiting.silence)

    with from_a_magic(on_wait=waiting, budget=options.budget):
        stream = TextStream(app(), prepared.question)
        try:
            reply = stream.read(tick=tick)
        except KeyboardInterrupt as interrupt:
            session.last_request = None  # the newest of the notebook
            _leave(screen, stream.text, "interrupted: not the whole answer")
            draws_as(interrupt, WAITED if waiting.limit else STOPPED)
            raise
        except Error as error:
            if error.request_id:
                session.last_request, session.last_replayed = error.request_id, False
            _leave(screen, stream.text, f"{error.code}: not the whole answer")
            raise
    session.last_request, session.last_replayed = reply.request_id, reply.replayed
    try:
        result = format.result(reply.text, reply.request_id, session)
    except Error as error:
        _leave(screen, reply.text, error.code)
        raise
    if options.output:
        session.shell.user_ns[options.output] = reply
    if prepared.remembered:
        session.remember(prepared.prompt, reply.text)
    note = " · ".join(part for part in (result.said, note_of(reply)) if part)
    _finish(session, screen, result, note)
    return reply


def _finish(session: Session, screen: Screen, result: Result, note: str) -> None:
    apart = result.apart and in_kernel(session.shell)
    screen.finish(result.text, note, result.bundle("" if apart else note))
    if apart:
        from ipyconvexai import render

        display({**render.markdown_bundle("", note=note), "text/plain": render.plain_text(note)}, raw=True)


def _screen(session: Session, format: Format, *, markdown: bool) -> Screen:
    return CellScreen(format.bundle) if in_kernel(session.shell) else TerminalScreen(markdown=markdown)


def countdown(wait: Wait, now: Callable[[], float] = time.monotonic) -> str:
    """What `wait` says, with the seconds that are left of it."""
    left = max(0, math.ceil(wait.until - now()))
    return f"waiting {left} s: {wait.why}" if left else f"waiting: {wait.why}"


@contextlib.contextmanager
def from_a_magic(on_wait: Callable[[Wait | None], None] | None = None, budget: float | None = None) -> Iterator[None]:
    """Calls that are made in here are recorded as a magic's; `on_wait` is told when a limit makes one wait.

    Together they may cost `budget` US dollars; None: what the app's budgets allow.
    """
    from ipyconvexai.providers.corridor import CALLER

    purse = None if budget is None else Purse(budget)
    token = CALLER.set(replace(CALLER.get(), source="magic", on_wait=on_wait, purse=purse))
    try:
        yield
    finally:
        CALLER.reset(token)


def _leave(screen: Screen, text: str, why: str) -> None:
    if text.strip() or screen.drawn:
        screen.finish(text, why)


def note_of(reply: Any) -> str:
    """The reply's note; the bundled model is too small to go by its name alone."""
    from ipyconvexai.providers.catalog import BUNDLED

    if reply.model != BUNDLED:
        return str(reply.note)
    return f"{reply.note} · a very small model on this machine: fluent, and often wrong"
