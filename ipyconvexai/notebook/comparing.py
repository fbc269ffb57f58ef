"""``--models a,b``: one question to several models, side by side with cost and time. Calls the app, screens and render.

Promises: they are asked at the same time; one that fails does not stop the others, and is told after all are shown.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from ipyconvexai.errors import CallError, Error, draws_as
from ipyconvexai.notebook.asking import STOPPED, Waiting, from_a_magic, note_of
from ipyconvexai.notebook.options import Options
from ipyconvexai.notebook.preparing import Prepared
from ipyconvexai.notebook.screens import CellScreen, Screen, TerminalScreen, in_kernel
from ipyconvexai.notebook.session import Session
from ipyconvexai.providers.calls import CALLER
from ipyconvexai.values import Stop

__all__ = ["compare"]


class _Column:
    """One model's answer, while it comes and at its end."""

    def __init__(self, name: str, stream: Any) -> None:
        self.name = name
        self.stream = stream
        self.reply: Any = None
        self.error: Exception | None = None
        self.waiting = Waiting(name)

    async def read(self) -> None:
        """In a task of its own, so that what a limit says of this call is this column's."""
        CALLER.set(replace(CALLER.get(), on_wait=self.waiting))
        try:
            await self.stream._drain()
            self.reply = self.stream.reply
        except Error as error:
            self.error = error

    @property
    def request_id(self) -> str | None:
        return getattr(self.reply or self.error, "request_id", None)

    def part(self, note: str = "") -> tuple[str, str, str]:
        """Title, text and note as they are now."""
        if self.reply is not None:
            return self.name, self.reply.text, note_of(self.reply)
        if self.error is not None:
            return self.name, self.stream.text, f"failed: {getattr(self.error, 'message', self.error)}"
        return self.name, self.stream.text, note or self.waiting.limit or self.waiting.silence or "..."


def compare(session: Session, options: Options, prepared: Prepared) -> None:
    """Ask all models of `options`; ``-o NAME`` keeps a dict of the replies by model.

    Raises:
        Error: one or more failed; what the others said is shown.
        KeyboardInterrupt: the kernel was interrupted.
    """
    from ipyconvexai.application import TextStream, app

    current, stop = app(), Stop()
    with from_a_magic(budget=options.budget):
        columns = [_Column(name, TextStream(current, prepared.to(session, name))) for name in options.models]
        screen = _screen(session, columns)

        def tick() -> None:
            if screen.in_place and isinstance(screen, CellScreen):
                screen.draw(_text(columns) if options.stream else _notes(columns))

        try:
            current.run(_all(columns), stop, tick)
        except KeyboardInterrupt as interrupt:
            draws_as(interrupt, STOPPED)
            _finish(screen, columns, "interrupted: not the whole answer")
            raise
    _finish(screen, columns)
    replies = {column.name: column.reply for column in columns if column.reply is not None}
    last = [column for column in columns if column.request_id is not None][-1:]
    if last:
        session.last_request, session.last_replayed = last[0].request_id, bool(last[0].reply and last[0].reply.replayed)
    if options.output:
        session.shell.user_ns[options.output] = replies
    _raise_failures(columns)


async def _all(columns: list[_Column]) -> None:
    await asyncio.gather(*(column.read() for column in columns))


def _screen(session: Session, columns: list[_Column]) -> Screen:
    if not in_kernel(session.shell):
        return TerminalScreen()
    return CellScreen(lambda text, note: _bundle(columns, note))


def _bundle(columns: list[_Column], note: str) -> dict[str, Any]:
    from ipyconvexai import render

    return dict(render.side_by_side([column.part(note) for column in columns]))


def _notes(columns: list[_Column]) -> str:
    return "\n".join(column.part()[2] for column in columns)


def _finish(screen: Screen, columns: list[_Column], note: str = "") -> None:
    screen.finish(_text(columns), "", _bundle(columns, note))


def _text(columns: list[_Column]) -> str:
    return "\n\n".join(f"{name}\n{text}\n[{note}]" for name, text, note in (column.part() for column in columns))


def _raise_failures(columns: list[_Column]) -> None:
    failed = [column for column in columns if column.error is not None]
    if len(failed) == 1:
        assert failed[0].error is not None
        raise failed[0].error
    if failed:
        cures = {getattr(column.error, "cure", "") for column in failed}
        said = "; ".join(f"{column.name}: {getattr(column.error, 'message', column.error)}" for column in failed)
        raise CallError(
            f"{len(failed)} of {len(columns)} models gave no answer: {said}",
            cure=cures.pop() if len(cures) == 1 else "`%ai log` shows what was sent; leave out what cannot be reached.",
        )
