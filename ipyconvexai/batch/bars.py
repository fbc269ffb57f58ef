"""The progress of a batch where there is no notebook: one line in a terminal, a line now and then in a log file.

The only caller of tqdm. Both write to the standard error stream, so that nothing gets into what a program prints.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from ipyconvexai.batch.progress import Screen, View

__all__ = ["LogLines", "TerminalLine", "in_notebook", "terminal_or_log"]

EVERY = 10.0  # seconds between lines of a log
SOONEST = 1.0  # seconds between lines that each tell of another tenth
FORMAT = "{percentage:3.0f}% {bar:12} {desc}"  # what is too long for the terminal is cut at the end


def in_notebook() -> bool:
    """Whether outputs go to a front end, which draws them."""
    ipython = sys.modules.get("IPython")  # where it was not imported, this is no notebook
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def terminal_or_log(clock: Callable[[], float], out: TextIO | None = None) -> Screen:
    out = out or sys.stderr
    try:
        terminal = out.isatty()
    except (AttributeError, ValueError):  # there is none (a window without a console), or it is closed
        terminal = False
    return TerminalLine(out) if terminal else LogLines(out, clock)


class TerminalLine:
    """A line of the terminal's width that is written over, and goes when all is done."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._bar: Any = None

    def show(self, view: View) -> None:
        if self._bar is None:
            self._bar = _bar(self._out, view)
            return
        self._bar.total, self._bar.n = view.total, _within(view)
        self._bar.set_description_str(view.line, refresh=True)

    def end(self, text: str) -> None:
        if self._bar is not None:
            self._bar.close()
        _write(self._out, text)


def _bar(out: TextIO, view: View) -> Any:
    from tqdm.std import tqdm  # not tqdm.auto, which warns where widgets are half installed

    class Line(tqdm):  # type: ignore[type-arg] # it iterates over nothing
        monitor_interval = 0  # no thread that watches it: it is drawn from outside

    return Line(
        desc=view.line,
        total=view.total,
        initial=_within(view),
        file=out,
        leave=False,
        dynamic_ncols=True,
        bar_format="{desc}" if view.total is None else FORMAT,
    )


def _within(view: View) -> int:
    return view.done if view.total is None else min(view.done, view.total)


class LogLines:
    """A line every ten seconds, or when another tenth is done, and whenever it is paused or goes on."""

    def __init__(self, out: TextIO, clock: Callable[[], float]) -> None:
        self._out = out
        self._clock = clock
        self._last = clock()
        self._tenth = 0
        self._phase = "running"

    def show(self, view: View) -> None:
        since = self._clock() - self._last
        tenth = 10 * view.done // view.total if view.total else 0
        due = since >= EVERY or (self._tenth < tenth < 10 and since >= SOONEST) or view.phase != self._phase
        if due:
            self._last, self._tenth, self._phase = self._clock(), tenth, view.phase
            _write(self._out, view.line)

    def end(self, text: str) -> None:
        _write(self._out, text)


def _write(out: TextIO, text: str) -> None:
    encoding = getattr(out, "encoding", None) or "utf-8"
    out.write(text.encode(encoding, "replace").decode(encoding) + "\n")  # a log in ASCII has no middle dot
    out.flush()
