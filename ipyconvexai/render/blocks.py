"""A growing markdown text as safe HTML, block by block: while an answer comes only its end is rendered again.

Calls sanitizing.py, which makes each block safe on its own. A block that another one follows, of a whole line at least,
stays as it is: markdown cannot change it any more, but for links whose targets are defined further down.
"""

from __future__ import annotations

from itertools import pairwise

from ipyconvexai.render.sanitizing import block_lines, safe_html

__all__ = ["Blocks"]


class Blocks:
    """`html` is the text's HTML, a string for each block."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.html: list[str] = []
        self._text = ""
        self._settled = 0  # blocks
        self._rest = 0  # where the text of those that are not settled begins

    def show(self, text: str) -> int:
        """Let `text` be the text; gives the number of blocks at the beginning that stayed as they were."""
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        if text == self._text:
            return len(self.html)
        if not text.startswith(self._text):
            self._begin()
        self._text = text
        kept = self._settled
        rest = text[self._rest :]
        starts = _starts(rest)
        del self.html[kept:]
        self.html += [safe_html(rest[begin:end]) for begin, end in pairwise([*starts, len(rest)])]
        if starts and "\n" not in rest[starts[-1] :]:
            starts.pop()  # a line that is not ended may yet join what is before it: "2" and "2." after a list
        if len(starts) > 1:
            self._settled += len(starts) - 1
            self._rest += starts[-1]
        return kept


def _starts(text: str) -> list[int]:
    """Where the blocks of `text` begin; what stands before the first is of the first."""
    lines = block_lines(text)[1:]
    starts = [0] if text.strip() else []
    at = line = 0
    for wanted in lines:
        while line < wanted:
            at = text.index("\n", at) + 1
            line += 1
        starts.append(at)
    return starts
