"""``Err``: what the cells that failed showed, as plain text by execution count. Standard library only until it is read.

Promises: what IPython has formatted is kept, and never formatted again; the number is the one that the cell shows,
also where a cell runs another; no exception, and so no frame and no variable, is kept after its cell has ended.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Errors", "Failure", "of_shell", "set_aside", "unwatch", "watch"]

NAME = "Err"
MOST = 100  # texts
LONGEST = 100_000  # characters of one
SHOWN = 10  # of them in the repr

_ASIDE = "_ipyconvexai_aside"


@dataclass(slots=True)
class Failure:
    """One cell that failed: its number, what was run, what was shown, as the shell had formatted it, and the error's
    name."""

    count: int
    source: str
    parts: list[str]
    name: str
    _summary: str = ""

    @property
    def text(self) -> str:
        """Without what steers a terminal."""
        from ipyconvexai import render

        if len(self.parts) != 1:
            self.parts = [_joined(self.parts)]
        return render.plain_text(self.parts[0]).strip("\n")

    @property
    def summary(self) -> str:
        """The error's name and the first line of its message."""
        lines = [line.lstrip(" |+-") for line in self.text.splitlines()]
        named = [line for line in lines if line.startswith(self.name)]
        return self._summary or (named or [self.name])[-1].strip()

    def shorten(self, length: int) -> None:
        """Keep the beginning and the end."""
        if sum(map(len, self.parts)) > length:
            self._summary = self.summary[:length]
            self.parts = [shortened(_joined(self.parts), length)]


class Errors(Mapping[int, str]):
    """Text of the errors by execution count, oldest first: ``Err[3]``. Of a cell, its last.

    Attributes:
        last: the failure that was seen last, but for those that were set aside.
    """

    def __init__(self) -> None:
        self._failures: dict[int, Failure] = {}
        self.last: Failure | None = None

    def __getitem__(self, count: int) -> str:
        failure = self._failures.get(count)
        if failure is None:
            kept = ", ".join(map(str, list(self._failures)[-SHOWN:])) or "no cell"
            raise KeyError(f"no error of cell {count!r}; {NAME} holds those of {kept}")
        return failure.text

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._failures))

    def __len__(self) -> int:
        return len(self._failures)

    def __repr__(self) -> str:
        if not self._failures:
            return f"{NAME}: no cell has failed yet"
        from ipyconvexai.render.plain import cut

        failures = list(self._failures.values())[-SHOWN:]
        lines = [f"{NAME}[{failure.count}]: {cut(_told(failure), 100)}" for failure in failures]
        left = len(self._failures) - len(lines)
        return "\n".join([f"… and {left} before", *lines] if left else lines)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # IPython would draw a mapping as a dict

    def keep(self, failure: Failure, *, aside: bool = False) -> None:
        failure.shorten(LONGEST)
        self.forget(failure.count)  # so that the newest is the last
        self._failures[failure.count] = failure
        if not aside:
            self.last = failure
        for oldest in list(self._failures)[:-MOST]:
            del self._failures[oldest]

    def forget(self, count: int) -> None:
        self._failures.pop(count, None)


def shortened(text: str, length: int) -> str:
    """`text` in about `length` characters: its beginning and its end, and between them how much is missing."""
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]}\n… {len(text) - 2 * half:,} characters left out here …\n{text[-half:]}"


def _told(failure: Failure) -> str:
    """Its summary, for lists; they are put into prompts, so nothing of the environment."""
    from ipyconvexai.context.closed import EnvironmentShownError, guarded

    try:
        guarded(failure, failure.text)
    except EnvironmentShownError:
        return f"{failure.name}: what it says holds the environment"
    return failure.summary


def _joined(parts: list[str]) -> str:
    """Python's parts end their lines, IPython's do not."""
    ended = bool(parts) and all(part.endswith("\n") for part in parts)
    return ("" if ended else "\n").join(parts)


# ------------------------------------------------------------------------------------------------- the shell
def watch(shell: Any) -> None:
    """Keep the errors of `shell` from now on, and those it has kept itself; ``Err`` is among the user's names.

    Watching twice changes nothing. A name ``Err`` of the user's own stays theirs.
    """
    if of_shell(shell) is None:
        _Watcher(shell).begin()


def unwatch(shell: Any) -> None:
    """Take all of it out again."""
    watcher = _watcher(shell)
    if watcher is not None:
        watcher.end()


def of_shell(shell: Any) -> Errors | None:
    """What is kept of `shell`; None: it is not watched."""
    watcher = _watcher(shell)
    return watcher.errors if watcher is not None else None


def set_aside(error: BaseException) -> None:
    """`error` came from asking about another one: it does not become the last."""
    setattr(error, _ASIDE, True)


def _watcher(shell: Any) -> _Watcher | None:
    for callback in shell.events.callbacks["post_run_cell"]:
        if isinstance(owner := getattr(callback, "__self__", None), _Watcher):
            return owner
    return None


@dataclass(slots=True)
class _Cell:
    """A cell that runs; `shown` is the error of it that was drawn last."""

    count: int
    source: str
    shown: BaseException | None = None


class _Watcher:
    """Hears when cells begin and end, and sees what the shell draws.

    All that IPython formats goes through ``_showtraceback``, in a terminal and in a kernel, also where no cell fails,
    as in ``%run``; but for usage errors, exception groups and what a custom handler draws: those are found at the end.
    """

    def __init__(self, shell: Any) -> None:
        self.errors = Errors()
        self._shell = shell
        self._draw = shell._showtraceback
        self._replaced = shell.__dict__.get("_showtraceback")  # somebody's, set on this shell
        self._here = threading.local()  # cells of subshells run in threads

    def begin(self) -> None:
        self._take_over()
        self._shell.events.register("pre_run_cell", self._begins)
        self._shell.events.register("post_run_cell", self._ends)
        self._shell._showtraceback = self._shown
        self._offer()

    def end(self) -> None:
        shell = self._shell
        shell.events.unregister("pre_run_cell", self._begins)
        shell.events.unregister("post_run_cell", self._ends)
        if shell.__dict__.get("_showtraceback") == self._shown:  # else somebody calls us, and then we only pass it on
            del shell._showtraceback
            if self._replaced is not None:
                shell._showtraceback = self._replaced
        if shell.user_ns.get(NAME) is self.errors:
            del shell.user_ns[NAME]
        shell.user_ns_hidden.pop(NAME, None)

    def _offer(self) -> None:
        """Again after ``%reset``."""
        if self._shell.user_ns.setdefault(NAME, self.errors) is self.errors:
            self._shell.user_ns_hidden[NAME] = self.errors

    def _take_over(self) -> None:
        """What failed before the extension was loaded."""
        history = self._shell.history_manager
        sources = getattr(history, "input_hist_raw", [])
        for count, stored in list(getattr(history, "exceptions", {}).items())[-MOST:]:
            source = sources[count] if 0 <= count < len(sources) else ""
            self.errors.keep(Failure(count, source, list(stored["traceback"]), stored["ename"]))

    @property
    def _running(self) -> list[_Cell]:
        """The cells of this thread that run, each within the one before."""
        if not hasattr(self._here, "cells"):
            self._here.cells = []
        cells: list[_Cell] = self._here.cells
        return cells

    def _begins(self, info: Any) -> None:
        if info.store_history:
            count = self._shell.displayhook.prompt_count  # the number it shows, in all of IPython 9
            self.errors.forget(count)  # of what ran under the coming number, or before %reset
            self._running.append(_Cell(count, info.raw_cell))
            self._offer()
        elif self._running:
            self._running.append(self._running[-1])  # what a cell runs belongs to it
        else:
            self._running.append(_Cell(self._shell.execution_count, info.raw_cell))

    def _shown(self, etype: Any, value: Any, parts: list[str]) -> None:
        if self._running:
            cell = self._running[-1]
            cell.shown = value
            self._keep(cell, value, parts)
        self._draw(etype, value, parts)

    def _ends(self, result: Any) -> None:
        cell = self._running.pop() if self._running else None
        if result is None:
            return
        if cell is None:  # it loaded the extension
            cell = _Cell(result.execution_count or self._shell.execution_count, result.info.raw_cell)
        error = result.error_before_exec if result.error_before_exec is not None else result.error_in_exec
        if error is not None and error is not cell.shown:
            self._keep(cell, error, self._stored(result) or _formatted(error))

    def _keep(self, cell: _Cell, error: BaseException, parts: list[str]) -> None:
        aside = getattr(error, _ASIDE, False) is True
        self.errors.keep(Failure(cell.count, cell.source, list(parts), type(error).__name__), aside=aside)

    def _stored(self, result: Any) -> list[str] | None:
        """What IPython's own history holds of a cell that it counted."""
        if not result.info.store_history or result.execution_count is None:
            return None
        stored = getattr(self._shell.history_manager, "exceptions", {}).get(result.execution_count)
        return stored["traceback"] if stored else None


def _formatted(error: BaseException) -> list[str]:
    """Of an error that went by IPython's formatting: it is Python's that is used."""
    if type(error).__name__ == "UsageError":
        return [f"UsageError: {error}"]
    try:
        return traceback.format_exception(error)
    except Exception:  # an error's own methods may be broken
        return [type(error).__name__]
