"""Where an answer is drawn while it grows: one output of a cell, or a terminal.

Calls render; IPython's display. Promises: what the model says is hardened before it is shown; a cell's output is one
display, updated in place, never empty, and its last update is the whole text.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

import IPython.display

__all__ = ["CellScreen", "Screen", "TerminalScreen", "in_kernel"]

display: Any = IPython.display.display  # has no types

SPACING = 0.05  # seconds between updates: a page draws 20 a second without effort
SHARE = 0.1  # at most this share of the time goes into drawing: long answers are drawn less often

Bundle = Callable[[str, str], dict[str, Any]]


class Screen(Protocol):
    def draw(self, text: str) -> None:
        """Show what has come so far; called often."""

    def wait(self, note: str) -> None:
        """Nothing comes, because a limit does not allow the call yet; called often."""

    def finish(self, text: str, note: str) -> None:
        """Show all of it, with a line of ours below."""


def in_kernel(shell: Any) -> bool:
    """Whether outputs go to a front end, which draws them, and not to a terminal."""
    return getattr(shell, "kernel", None) is not None


class CellScreen:
    """One output that grows. `bundle` makes MIME data of a text and a note."""

    def __init__(self, bundle: Bundle, clock: Callable[[], float] = time.monotonic) -> None:
        self._bundle = bundle
        self._clock = clock
        self._handle: Any = None
        self._drawn = ""
        self._noted = ""
        self._not_before = 0.0

    def draw(self, text: str) -> None:
        began = self._clock()
        if not text.strip() or text == self._drawn or began < self._not_before:
            return
        self._show(text, "")
        now = self._clock()
        self._not_before = now + max(SPACING, (now - began) / SHARE)

    def wait(self, note: str) -> None:
        if note != self._noted:
            self._noted = note
            self._show(self._drawn, note)

    def finish(self, text: str, note: str) -> None:
        self._show(text, note)

    def _show(self, text: str, note: str) -> None:
        self._drawn = text
        bundle = self._bundle(text, note)
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


class TerminalScreen:
    """Prints what is new. A sequence that steers the terminal may arrive in pieces: its beginning waits for its end."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._printed = 0  # characters of the plain text
        self._noted = ""

    def draw(self, text: str) -> None:
        self._print(_settled(text))

    def wait(self, note: str) -> None:
        from ipyconvexai import render

        if note != self._noted:
            self._noted = note
            self._out.write(f"[{render.plain_text(note)}]\n")
            self._out.flush()

    def finish(self, text: str, note: str) -> None:
        from ipyconvexai import render

        self._print(text)
        self._out.write(f"\n[{render.plain_text(note)}]\n" if note else "\n")
        self._out.flush()

    def _print(self, text: str) -> None:
        from ipyconvexai import render

        plain = render.plain_text(text)
        self._out.write(plain[self._printed :])
        self._out.flush()
        self._printed = max(self._printed, len(plain))


LONGEST_SEQUENCE = 100  # characters; what is longer is printed without its first, which makes it harmless


def _settled(text: str) -> str:
    """`text` up to a sequence at its end that may not be complete, or half a line end."""
    start = max(text.rfind(sign) for sign in "\x1b\x90\x98\x9b\x9d\x9e\x9f")
    if start >= 0 and len(text) - start < LONGEST_SEQUENCE:
        return text[:start]
    return text.removesuffix("\r")
