"""One question of a cell: interpolated, sent, drawn while the answer comes. Calls the app, screens and formats.

Promises: an empty question is never sent; a failed call fails the cell; after an interrupt or a cut what had come stays
on the screen and says what it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ipyconvexai.errors import Error
from ipyconvexai.notebook import formats
from ipyconvexai.notebook.interpolation import interpolate
from ipyconvexai.notebook.options import Options
from ipyconvexai.notebook.screens import CellScreen, Screen, TerminalScreen, in_kernel
from ipyconvexai.values import Wait

__all__ = ["ask", "from_a_magic"]


def ask(shell: Any, options: Options, cell: str) -> None:
    """Send the question of `cell` and show the answer.

    Raises:
        Error: what ``ai.generate`` raises.
        KeyboardInterrupt: the kernel was interrupted; it draws itself in one line.
    """
    from ipyconvexai.application import TextStream, app
    from ipyconvexai.generation import Question, check_prompt

    prompt = interpolate(cell.strip("\n"), shell.user_ns)
    check_prompt(prompt)
    question = Question(
        prompt + formats.ASK_FOR.get(options.format, ""),
        model=options.model,
        system=options.system,
        conversation=options.conversation,
        replay=options.replay,
        params=options.params,
    )
    screen = _screen(shell, options)
    streams = options.stream and options.format in ("markdown", "text")
    waits: list[Wait | None] = [None]  # the last that was told

    def tick() -> None:
        if (wait := waits[-1]) is not None:
            screen.wait(wait.message)
        elif streams:
            screen.draw(stream.text)

    with from_a_magic(on_wait=waits.append):
        stream = TextStream(app(), question)
        try:
            reply = stream.read(tick=tick)
        except KeyboardInterrupt as interrupt:
            _leave(screen, stream.text, "interrupted: not the whole answer")
            interrupt._render_traceback_ = _interrupted  # type: ignore[attr-defined] # IPython's protocol
            raise
        except Error as error:
            _leave(screen, stream.text, f"{error.code}: not the whole answer")
            raise
    if options.output:
        shell.user_ns[options.output] = reply
    _finish(shell, screen, options, reply)


def _screen(shell: Any, options: Options) -> Screen:
    if not in_kernel(shell):
        return TerminalScreen()
    return CellScreen(formats.markdown_bundle if options.format in ("markdown", "code") else formats.text_bundle)


@contextlib.contextmanager
def from_a_magic(on_wait: Callable[[Wait | None], None] | None = None) -> Iterator[None]:
    """Calls that are made in here are recorded as a magic's; `on_wait` is told when a limit makes one wait."""
    from ipyconvexai.providers.corridor import CALLER

    token = CALLER.set(replace(CALLER.get(), source="magic", on_wait=on_wait))
    try:
        yield
    finally:
        CALLER.reset(token)


def _leave(screen: Screen, text: str, why: str) -> None:
    if text.strip():
        screen.finish(text, why)


def _interrupted() -> list[str]:
    return ["KeyboardInterrupt: the answer was stopped; what had come is in the ledger."]


def _finish(shell: Any, screen: Screen, options: Options, reply: Any) -> None:
    note = note_of(reply)
    if options.format == "code":
        code = formats.code_of(reply.text)
        shell.set_next_input(code)
        screen.finish(f"```python\n{code}\n```", f"in the next cell · {note}")
    elif options.format == "json":
        import json

        value = formats.json_of(reply.text, reply.request_id)
        screen.finish(json.dumps(value, indent=2, ensure_ascii=False), note)
    else:
        screen.finish(reply.text, note)


def note_of(reply: Any) -> str:
    """The reply's note; the bundled model is too small to go by its name alone."""
    from ipyconvexai.providers.catalog import BUNDLED

    if reply.model != BUNDLED:
        return str(reply.note)
    return f"{reply.note} · a very small model on this machine: fluent, and often wrong"
