"""Where an answer is drawn while it grows: one output of a cell, or a terminal.

Calls render; IPython's display; rich, in a terminal and not before it draws. Promises: what the model says is hardened
before it is shown; a cell's output is one display, updated in place, never empty, and its last update is the whole
text.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

import IPython.display

__all__ = ["CellScreen", "Pace", "Screen", "TerminalScreen", "in_kernel", "say", "settled"]

display: Any = IPython.display.display  # has no types

SPACING = 0.05  # seconds between updates: a page draws 20 a second without effort
SHARE = 0.1  # at most this share of the time goes into drawing: long answers are drawn less often
COUNTING = 1.0  # seconds between states of a countdown
TELLING = 30.0  # the same, where each is a line that stays

Bundle = Callable[[str, str], dict[str, Any]]
Clock = Callable[[], float]


class Screen(Protocol):
    @property
    def in_place(self) -> bool:
        """Whether what is shown is replaced, so that seconds can be counted."""

    @property
    def drawn(self) -> bool:
        """Whether anything is shown already; then ``finish`` must be called, also after an error."""

    def draw(self, text: str) -> None:
        """Show what has come so far; called often."""

    def wait(self, note: str) -> None:
        """Nothing comes, because a limit does not allow the call yet: `note` says until when; called often."""

    def finish(self, text: str, note: str, bundle: dict[str, Any] | None = None) -> None:
        """Show all of it, with a line of ours below; a front end shows `bundle` instead, where it is given."""


def say(text: str) -> None:
    """Print a line of ours, which may quote anything."""
    from ipyconvexai import render

    print(render.plain_text(text))


def in_kernel(shell: Any) -> bool:
    """Whether outputs go to a front end, which draws them, and not to a terminal."""
    return getattr(shell, "kernel", None) is not None


class Pace:
    """How often to draw: no more than 20 times a second, and the seldomer the longer it takes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._not_before = self._counting = float("-inf")
        self._noted = ""

    def allows(self) -> bool:
        return self._clock() >= self._not_before

    def took(self, began: float) -> None:
        """Something was drawn, from `began` until now."""
        now = self._clock()
        self._not_before = now + max(SPACING, (now - began) / SHARE)

    def counts(self, note: str, every: float = COUNTING) -> bool:
        """Whether to show `note` now."""
        now = self._clock()
        if note == self._noted or not note or now < self._counting:
            return False
        self._noted, self._counting = note, now + every
        return True


class CellScreen:
    """One output that grows. `bundle` makes MIME data of a text and a note."""

    def __init__(self, bundle: Bundle, clock: Clock = time.monotonic) -> None:
        self._bundle = bundle
        self._clock = clock
        self._pace = Pace(clock)
        self._handle: Any = None
        self._text = ""

    @property
    def in_place(self) -> bool:
        return True

    @property
    def drawn(self) -> bool:
        return self._handle is not None

    def draw(self, text: str) -> None:
        if not text.strip() or text == self._text or not self._pace.allows():
            return
        began = self._clock()
        self._text = text
        self._show(self._bundle(text, ""))
        self._pace.took(began)

    def wait(self, note: str) -> None:
        if self._pace.counts(note):
            self._show(self._whole(self._text, note))

    def finish(self, text: str, note: str, bundle: dict[str, Any] | None = None) -> None:
        self._show(self._whole(text, note) if bundle is None else bundle)

    def _whole(self, text: str, note: str) -> dict[str, Any]:
        """Where there is only a note, a viewer of plain text sees it, too."""
        from ipyconvexai import render

        bundle = self._bundle(text, note)
        if not str(bundle.get("text/plain", "")).strip():
            bundle["text/plain"] = f"[{render.plain_text(note)}]"
        return bundle

    def _show(self, bundle: dict[str, Any]) -> None:
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


class TerminalScreen:
    """Draws in place in a terminal, as markdown or as it is; prints what is new where `out` is none."""

    def __init__(self, out: TextIO | None = None, *, markdown: bool = True, clock: Clock = time.monotonic) -> None:
        out = out or sys.stdout
        self._way: Screen
        if _can_draw(out):
            from ipyconvexai.notebook.terminal import InPlace

            self._way = InPlace(out, markdown=markdown, clock=clock)
        else:
            self._way = _Printed(out, clock)

    @property
    def in_place(self) -> bool:
        return self._way.in_place

    @property
    def drawn(self) -> bool:
        return self._way.drawn

    def draw(self, text: str) -> None:
        self._way.draw(text)

    def wait(self, note: str) -> None:
        self._way.wait(note)

    def finish(self, text: str, note: str, bundle: dict[str, Any] | None = None) -> None:
        self._way.finish(text, note)


def _can_draw(out: TextIO) -> bool:
    """Whether `out` is a terminal whose cursor can be moved."""
    return out.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


class _Printed:
    """Prints what is new. A sequence that steers the terminal may arrive in pieces: its beginning waits for its end."""

    def __init__(self, out: TextIO, clock: Clock) -> None:
        self._out = out
        self._pace = Pace(clock)
        self._text = ""  # the plain text that is printed
        self.drawn = self.in_place = False

    def draw(self, text: str) -> None:
        self._print(settled(text))

    def wait(self, note: str) -> None:
        from ipyconvexai import render

        if self._pace.counts(note, TELLING):
            self._write(f"[{render.plain_text(note)}]\n")

    def finish(self, text: str, note: str, bundle: dict[str, Any] | None = None) -> None:
        from ipyconvexai import render

        self._print(text)
        self._write(f"\n[{render.plain_text(note)}]\n" if note else "\n")

    def _print(self, text: str) -> None:
        from ipyconvexai import render

        plain = render.plain_text(text)
        if plain.startswith(self._text):
            self._write(plain[len(self._text) :])
            self._text = plain
        elif not self._text.startswith(plain):  # another text than the one that was growing
            self._write(f"\n{plain}")
            self._text = plain

    def _write(self, text: str) -> None:
        if text:
            self._out.write(text)
            self._out.flush()
            self.drawn = True


LONGEST_SEQUENCE = 100  # characters; what is longer is printed without its first, which makes it harmless


def settled(text: str) -> str:
    """`text` up to a sequence at its end that may not be complete, or half a line end."""
    start = max(text.rfind(sign) for sign in "\x1b\x90\x98\x9b\x9d\x9e\x9f")
    if start >= 0 and len(text) - start < LONGEST_SEQUENCE:
        return text[:start]
    return text.removesuffix("\r")
