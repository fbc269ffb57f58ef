"""Many texts into one answer: rows put together as many as fit, then the answers combined. Calls ``long_texts``.

Each row stands between tags that no row can write, with its number, so that none passes for another or for the prompt.
Promises: rows keep their order; every character of every row goes into exactly one request of the first round.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ipyconvexai.batch.asks import Recipe, Result, Task
from ipyconvexai.batch.cutting import Span, count, cut, surely_fits
from ipyconvexai.batch.long_texts import FRAME, framed, in_rounds, packed

__all__ = ["reduce_rows"]

SHORT = 24  # bytes


@dataclass(frozen=True, slots=True)
class _Row:
    """Some of the characters of a row's text, all of them where it is short."""

    number: int
    whole: str
    span: Span

    @property
    def text(self) -> str:
        return self.whole[self.span.start : self.span.end]

    @property
    def is_whole(self) -> bool:
        return self.span.end - self.span.start == len(self.whole)

    @property
    def label(self) -> str:
        if self.is_whole:
            return f'number="{self.number + 1}"'
        return f'number="{self.number + 1}" characters="{self.span.start}-{self.span.end}"'

    def pieces(self, size: int) -> Iterator[_Row]:
        start = self.span.start
        for a, b in cut(self.text, size):
            yield _Row(self.number, self.whole, Span(start + a, start + b))


@dataclass(frozen=True, slots=True)
class _Rows:
    """What one request of the first round holds."""

    rows: tuple[_Row, ...]

    @property
    def text(self) -> str:
        return framed("document", [(row.label, row.text) for row in self.rows])

    @property
    def inputs(self) -> dict[str, Any]:
        numbers = list(dict.fromkeys(row.number for row in self.rows))
        cuts = {str(row.number): list(row.span) for row in self.rows if not row.is_whole}
        return {"rows": numbers, "characters": cuts} if cuts else {"rows": numbers}

    def smaller(self, size: int) -> Sequence[_Rows]:
        return _loads(self.rows, size)


def _loads(rows: Sequence[_Row], size: int) -> list[_Rows]:
    """Rows together as many as fit; one that is longer than a request holds is cut."""
    pieces = [piece for row in rows for piece in row.pieces(size - FRAME)]
    weights = [FRAME + _weight(piece.text) for piece in pieces]
    # Two pieces of one row in one request would be one piece that was cut for nothing: cutting fills them.
    return [_Rows(tuple(group)) for group in packed(pieces, weights, size)]


def _weight(text: str) -> int:
    """Short texts are not counted: that would take longer than it saves."""
    return SHORT if surely_fits(text, SHORT) else count(text)


def reduce_rows(recipe: Recipe, rows: Sequence[tuple[int, str]], size: int, combine: Recipe | None = None) -> Task:
    """Ask `recipe` of all `rows` together; `size` from ``long_texts.parts_size``.

    Args:
        rows: number from 0, and text. None: the result has no value, and nothing is asked.
        combine: asked of the answers where not all rows fit into one request; None: `recipe`.
    """
    if not rows:
        return Result()
    loads = _loads([_Row(number, text, Span(0, len(text))) for number, text in rows], size)
    return (yield from in_rounds(recipe, loads, size, combine or recipe, fewest=1))
