"""An answer drawn in place in a terminal, as markdown or as it is. Calls render; the only door to rich.

Promises: no sequence of the model's reaches the terminal, however it is written; what is drawn in place fits the
screen, so that nothing flickers and nothing is drawn twice; finished parts of longer answers are above it at once, to
be scrolled to, and at the end all of the text is there, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from ipyconvexai import render
from ipyconvexai.notebook.screens import Pace, settled

__all__ = ["InPlace"]

Line = list[Segment]


class InPlace:
    """A screen on `out`, which is a terminal."""

    def __init__(self, out: TextIO, *, markdown: bool, clock: Callable[[], float]) -> None:
        self._file = _Unrecorded(out)
        self._console = Console(file=self._file, force_terminal=True, force_jupyter=False, highlight=False)  # type: ignore[arg-type] # it is used as a TextIO
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._markdown = markdown
        self._clock = clock
        self._pace = Pace(clock)
        self._text = ""
        self._above = ""  # the beginning that was printed for good

    @property
    def in_place(self) -> bool:
        return True

    @property
    def drawn(self) -> bool:
        return self._live.is_started

    def draw(self, text: str) -> None:
        if not text.strip() or text == self._text or not self._pace.allows():
            return
        began = self._clock()
        self._text = text
        self._show("")
        self._pace.took(began)

    def wait(self, note: str) -> None:
        if self._pace.counts(note):
            self._show(note)

    def finish(self, text: str, note: str, bundle: dict[str, Any] | None = None) -> None:
        plain = render.plain_text(text)
        rest = plain.removeprefix(self._above) if plain.startswith(self._above) else plain
        lines = self._lines(rest) + self._note(note)
        with self._file.recorded:
            self._live.start()
            self._live.update(_Lines(lines))
            self._live.stop()  # draws once more, however long it is

    def _show(self, note: str) -> None:
        """Draw the end of the text that fits; what is finished goes above where it does not."""
        plain = render.plain_text(settled(self._text))
        below = self._note(note)
        room = max(1, self._console.size.height - 1 - len(below))
        rest = plain.removeprefix(self._above)
        lines = self._lines(rest)
        done = self._finished(rest) if len(lines) > room else 0
        if done:
            above = self._lines(rest[:done])
            lines = self._lines(rest[done:])
        self._live.start()
        if done:
            with self._file.recorded, self._console:  # written at once
                self._live.update(_Lines([]), refresh=True)
                self._console.print(_Lines([*above, []] if self._markdown else above))
            self._above += rest[:done]
        self._live.update(_Lines(lines[-room:] + below), refresh=True)

    def _lines(self, plain: str) -> list[Line]:
        options = self._console.options
        try:
            drawn = self._console.render_lines(self._renderable(plain), options, pad=False)
        except Exception:  # rich stumbles over some markdown; the words matter more
            drawn = self._console.render_lines(Text(plain), options, pad=False)
        lines = [[_harmless(segment) for segment in line if not segment.control] for line in drawn]
        while lines and not any(segment.text.strip() for segment in lines[-1]):
            lines.pop()
        return lines

    def _renderable(self, plain: str) -> RenderableType:
        return _markdown(plain) if self._markdown else Text(plain)

    def _note(self, note: str) -> list[Line]:
        if not note:
            return []
        text = Text(f"[{render.plain_text(note)}]", style="dim")
        return self._console.render_lines(text, self._console.options, pad=False)

    def _finished(self, plain: str) -> int:
        """Characters at the beginning that what comes cannot change: all blocks but the last, or whole lines."""
        whole = plain[: plain.rfind("\n") + 1]
        if not self._markdown:
            return len(whole)
        starts = [token.map[0] for token in Markdown(whole).parsed if token.level == 0 and token.map]
        if len(starts) < 2:
            return 0
        return sum(len(line) + 1 for line in whole.split("\n")[: starts[-1]])


def _markdown(plain: str) -> Markdown:
    """What looks like HTML is text here; rich would leave it out."""
    markdown = Markdown(plain, hyperlinks=False)
    for token in markdown.parsed:
        if token.type == "html_block":
            token.type = "code_block"
        for child in token.children or ():
            if child.type == "html_inline":
                child.type = "text"
    return markdown


_NO_LINK = Style()


def _harmless(segment: Segment) -> Segment:
    """Entities become characters after the text was cleaned."""
    style = segment.style or _NO_LINK
    return Segment(render.plain_text(segment.text).replace("\n", " "), style.update_link() if style.link else style)


class _Lines:
    """Lines that are rendered already, so that drawing them is short: an interrupt hardly falls into it."""

    def __init__(self, lines: list[Line]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._lines:
            yield from line
            yield Segment.line()


class _Unrecorded:
    """`out`, past what IPython has put before its ``write`` to keep all that a cell prints: states of an answer are
    nothing to keep. Within ``recorded`` they are."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self.recorded = _Switch()

    def write(self, text: str) -> int:
        return self._out.write(text) if self.recorded.on else type(self._out).write(self._out, text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)


class _Switch:
    on = False

    def __enter__(self) -> None:
        self.on = True

    def __exit__(self, *exc_info: object) -> None:
        self.on = False
