"""Counts tokens and cuts texts at headings, paragraphs, sentences and words. The only door to semantic-text-splitter.

Calls nothing of this package. Promises: every character is in exactly one part, in order; no part is longer than asked;
the same text is always cut the same way; the time grows with the length of the text, whatever is in it.

Tokens are those of OpenAI's vocabulary (o200k), which comes with the library; it is loaded at the first text that
needs it (0.15 s). A text whose bytes are fewer than the tokens fits without being looked at.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

__all__ = ["LEAST", "Span", "count", "cut", "fits", "surely_fits"]

LEAST = 16  # tokens of a part; a single character may take four
VOCABULARY = "gpt-4o"
BYTES_PER_CHARACTER = 4  # of UTF-8, at most

# What the library takes quadratic time for, or overflows its stack with: endless space, and endless text without any.
_WILD = re.compile(r"\s{100,}|[^\s\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f\u2026]{400,}")
_SLICE = 200  # characters of such a run that are looked at together; the time for one grows with its square
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+\S", re.MULTILINE)
_DEEP = re.compile(r"^[ \t]{40}", re.MULTILINE)  # lists in lists: reading them as Markdown takes quadratic time

_WINDOW = 16_000  # characters that are cut at a time, at least
_PER_TOKEN = 24  # characters of a window for each token of a part: five parts of English
_COUNTED = 4000  # characters that are counted at a time
ENGLISH = 0.24  # tokens per character
_JOINT = 2  # tokens that may be more where two texts meet

# Counts are found by asking whether it fits: exact up to 32, then at most 3 % too many (of wild runs: 25 %).
_GRID: list[int] = [*range(1, 33)]
while _GRID[-1] < BYTES_PER_CHARACTER * _COUNTED:
    _GRID.append(int(_GRID[-1] * 1.03) + 1)


class Span(NamedTuple):
    """Characters of a text, from `start` to before `end`."""

    start: int
    end: int


def surely_fits(text: str, tokens: int) -> bool:
    """Whether `text` has at most as many bytes as `tokens`: then no vocabulary needs more."""
    if text.isascii() or BYTES_PER_CHARACTER * len(text) <= tokens:
        return len(text) <= tokens
    return len(text) <= tokens and _bytes(text) <= tokens


def fits(text: str, tokens: int) -> bool:
    """Whether `text` is at most `tokens` long; a text within 3 % of that may be said not to be."""
    return surely_fits(text, tokens) or (len(text) <= _GRID[-1] * tokens and count(text) <= tokens)


def count(text: str) -> int:
    """Tokens of `text`: never too few, at most 3 % too many, of endless words 25 %."""
    text = _measurable(text)
    total, per_character = 0, ENGLISH
    for start, end, wild in _countable(text):
        piece = text[start:end]
        tokens = _count_wild(piece) if wild else _count(piece, per_character)
        total += tokens
        if not wild and piece:
            per_character = tokens / len(piece)
    return total


def cut(text: str, tokens: int) -> list[Span]:
    """Parts of at most `tokens` that together are the text: at headings, paragraphs, sentences, words, anywhere.

    Raises:
        ValueError: fewer than ``LEAST`` tokens.
    """
    if tokens < LEAST:
        raise ValueError(f"parts have at least {LEAST} tokens, not {tokens}")
    if surely_fits(text, tokens):
        return [Span(0, len(text))]
    text = _measurable(text)
    stretches = list(_stretches(text))
    if len(stretches) == 1 and not stretches[0][2]:
        return _cut(text, Span(0, len(text)), tokens)
    return _merged(text, stretches, tokens)


# ----------------------------------------------------------------------------------------------- pieces
def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _measurable(text: str) -> str:
    """The same with as many characters, each of which there is: half a surrogate pair is none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _stretches(text: str) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether it is wild) of what the library can read at once, and what it cannot."""
    at = 0
    for run in _WILD.finditer(text):
        if run.start() > at:
            yield at, run.start(), False
        yield run.start(), run.end(), True
        at = run.end()
    if at < len(text):
        yield at, len(text), False


def _slices(start: int, end: int) -> Iterator[Span]:
    for at in range(start, end, _SLICE):
        yield Span(at, min(at + _SLICE, end))


def _countable(text: str) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether it is wild) of what may be counted one by one: no token goes across, but in wild runs."""
    for start, end, wild in _stretches(text):
        if wild:
            yield from ((a, b, True) for a, b in _slices(start, end))
            continue
        while end - start > _COUNTED:
            least, most = start + _COUNTED // 2, start + _COUNTED
            line = text.rfind("\n", least, most) + 1
            to = line or max(text.rfind(" ", least, most), 0) or most
            yield start, to, False
            start = to
        yield start, end, False


# ----------------------------------------------------------------------------------------------- the library
def _splitter(tokens: int, markdown: bool = False) -> TextSplitter | MarkdownSplitter:
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

    kind = MarkdownSplitter if markdown else TextSplitter
    return kind.from_tiktoken_model(VOCABULARY, tokens, trim=False)


def _is_panic(error: BaseException) -> bool:
    """The library's own failure is no Exception, and its class has no importable name."""
    return type(error).__name__ == "PanicException"


def _cut(text: str, piece: Span, tokens: int) -> list[Span]:
    """`piece` of `text` in parts. Window by window: the last part of each may go on, and is cut again."""
    parts: list[Span] = []
    start, width = piece.start, max(_WINDOW, _PER_TOKEN * tokens)
    while start < piece.end:
        window = text[start : min(start + width, piece.end)]
        last = start + len(window) == piece.end
        ends = _ends(window, tokens)
        if not last and len(ends) == 1:
            width *= 2
            continue
        for end in ends if last else ends[:-1]:
            parts.append(Span(parts[-1].end if parts else piece.start, start + end))
        start = parts[-1].end
    return parts


def _ends(text: str, tokens: int) -> list[int]:
    """Where the parts of `text` end."""
    if surely_fits(text, tokens):
        return [len(text)]
    markdown = bool(_HEADING.search(text)) and not _DEEP.search(text)
    try:
        starts = [start for start, _ in _splitter(tokens, markdown).chunk_indices(text)]
    except BaseException as error:
        if not _is_panic(error):
            raise
        starts = list(range(0, len(text), tokens // BYTES_PER_CHARACTER))
    return [*starts[1:], len(text)]


def _count(piece: str, per_character: float) -> int:
    """The least of the grid that `piece` fits into; looked for from `per_character`, as each question takes time."""
    if not piece:
        return 0
    size = _bytes(piece)
    low, high = 0, bisect_left(_GRID, size)
    at, step = min(bisect_left(_GRID, len(piece) * per_character), high), 1
    while low < high:  # the answer is in low..high
        if _is_one(piece, _GRID[at]):
            high, at = at, max(low, at - step)
        else:
            low, at = at + 1, min(high, at + step)
        step *= 2
        if step > 8:
            at = (low + high) // 2
    return _GRID[high]


@functools.lru_cache(maxsize=1024)  # an endless run is mostly the same again and again
def _count_wild(piece: str) -> int:
    """At most 25 % too many. From above: to ask whether it fits takes ten times as long where it does not."""
    tokens = _bytes(piece)
    while tokens > 1 and _is_one(piece, tokens * 4 // 5):
        tokens = tokens * 4 // 5
    return tokens


def _is_one(piece: str, tokens: int) -> bool:
    splitter: Any = _splitter(tokens)
    try:
        return len(splitter.chunks(piece)) == 1
    except BaseException as error:
        if not _is_panic(error):
            raise
        return _bytes(piece) <= tokens


def _merged(text: str, stretches: list[tuple[int, int, bool]], tokens: int) -> list[Span]:
    """Parts across the stretches: as wild runs are cut smaller than need be, neighbours are put together that fit."""
    merged: list[Span] = []
    weight = 0
    for start, end, wild in stretches:
        for piece in _slices(start, end) if wild else [Span(start, end)]:
            for part in _cut(text, piece, tokens):
                found = text[part.start : part.end]
                own = _count_wild(found) if wild else count(found)
                if merged and weight + _JOINT + own <= tokens:
                    merged[-1] = Span(merged[-1].start, part.end)
                    weight += _JOINT + own
                else:
                    merged.append(part)
                    weight = own
    return merged
