"""Small charts as pictures with alternative text: bars, columns and lines. The door to matplotlib; calls render.

Promises: a chart is a PNG of its own, so it reads offline and in any viewer; what it is drawn with reads on white and
on JupyterLab's dark background; no label is read as a formula; the user's backend and rcParams are neither obeyed nor
changed, and pyplot is never imported.

A front end draws an output of type image/png without alternative text, whatever its metadata says (JupyterLab 4.6). So
a chart is HTML: an ``img`` whose address is its data, which JupyterLab keeps in notebooks that are not trusted, too.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import math
import struct
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ipyconvexai.render import plain_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Chart", "bar_chart", "column_chart", "line_chart", "picture_of"]

GREY = "#787878"  # contrast 4.4 : 1 on white and 4.3 : 1 on #111; no grey has more on both
BLUE = "#3a7abf"  # the same
FAINT = "#78787859"
WIDTH = 6.4  # inches
SHARPNESS = 2  # pixels of the picture for each that is shown
DPI = 96
LONGEST_LABEL = 40  # characters; a tick's
TICKS_ROOM = 84  # characters below columns
MOST_TOLD = 40  # values in an alternative text
_FONT = "DejaVu Sans"  # comes with matplotlib
# For scripts that it has no signs of; whichever is installed.
_MORE_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Microsoft YaHei", "PingFang SC", "Hiragino Sans", "Yu Gothic",
    "Malgun Gothic", "WenQuanYi Zen Hei", "Arial Unicode MS",
)  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """A picture and what it says, in words.

    Attributes:
        png: the picture, with a transparent background.
        alt: alternative text: its title, its unit and its values.
    """

    png: bytes = field(repr=False)
    alt: str

    @property
    def width(self) -> int:
        """In the page's pixels."""
        return self._size[0]

    @property
    def _size(self) -> tuple[int, int]:
        width, height = struct.unpack(">II", self.png[16:24])
        return width // SHARPNESS, height // SHARPNESS

    @property
    def html(self) -> str:
        """An ``img`` that needs nothing from anywhere else."""
        width, height = self._size
        data = base64.b64encode(self.png).decode()
        alt = html.escape(" ".join(plain_text(self.alt).split()))
        return (
            f'<img src="data:image/png;base64,{data}" alt="{alt}" width="{width}" height="{height}"'
            ' style="max-width:100%;height:auto">'
        )

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return plain_text(self.alt)


def bar_chart(
    labels: Sequence[str], values: Sequence[float | None], *, title: str, unit: str, alt: str | None = None
) -> Chart:
    """Horizontal bars, one below the other in the order given, each with its value at its end.

    What is None, infinite or no number is drawn as nothing.

    Args:
        labels: any texts, of any length; shown as they are written.
        values: as many, in `unit`.
        title: what the values are.
        unit: "US dollars", "tokens" ...
        alt: the alternative text; None: one that says the title and the values.
    """
    words, numbers = _checked(labels, values)
    figure = _figure(0.55 + 0.27 * max(len(words), 1))
    axes = _axes(figure, title, unit)
    low, high = _ends(numbers)
    span = high - low
    axes.barh(range(len(numbers)), numbers, height=0.62, color=BLUE)
    axes.set_ylim(max(len(numbers), 1) - 0.4, -0.6)  # the first on top
    left = low - 0.18 * span if low < 0 else 0  # room for the value at the end of the longest, on either side
    axes.set_xlim(left, high + 0.18 * span if high > 0 else 0)
    axes.axvline(0, color=GREY, linewidth=0.8)
    for at, (word, number, value) in enumerate(zip(words, numbers, values, strict=True)):
        end, side = (number - 0.01 * span, "right") if number < 0 else (number + 0.01 * span, "left")
        _write(axes, left - 0.01 * span, at, _fitting(word), horizontalalignment="right")
        _write(axes, end, at, _told(value), horizontalalignment=side)
    return Chart(_png(figure), alt or _alternative("Bar chart", title, unit, labels, values))


def column_chart(
    labels: Sequence[str], values: Sequence[float | None], *, title: str, unit: str, alt: str | None = None
) -> Chart:
    """Columns side by side in the order given, for days and the like; the highest bears its value.

    The arguments are those of ``bar_chart``. Of many labels only some are written.
    """
    words, numbers = _checked(labels, values)
    figure = _figure(2.6)
    axes = _axes(figure, title, unit)
    low, high = _ends(numbers)
    axes.bar(range(len(numbers)), numbers, width=0.8, color=BLUE)
    axes.set_xlim(-0.7, max(len(numbers), 8) - 0.3)  # a single column is no wall
    span = high - low
    _below(axes, words, low - 0.12 * span if low < 0 else 0, high + 0.12 * span)
    axes.axhline(0, color=GREY, linewidth=0.8)
    if any(numbers):
        _mark(axes, numbers, values, span)
    return Chart(_png(figure), alt or _alternative("Column chart", title, unit, labels, values))


def line_chart(
    labels: Sequence[str], values: Sequence[float | None], *, title: str, unit: str, alt: str | None = None
) -> Chart:
    """A line through the values in the order given, broken where there is none; the highest and the lowest are written.

    The arguments are those of ``bar_chart``. It does not begin at zero: what changes is to be seen.
    """
    words, numbers = _checked(labels, values)
    known = [_number(value) is not None for value in values]
    figure = _figure(2.6)
    axes = _axes(figure, title, unit)
    there = [number for number, is_known in zip(numbers, known, strict=True) if is_known]
    low, high = min(there, default=0.0), max(there, default=1.0)
    if low == high:
        low, high = low - 1, high + 1
    drawn = [number if is_known else math.nan for number, is_known in zip(numbers, known, strict=True)]
    marker = "o" if len(numbers) <= 60 else ""
    axes.plot(range(len(drawn)), drawn, color=BLUE, linewidth=1.6, marker=marker, markersize=3)
    axes.set_xlim(-0.7, max(len(numbers), 2) - 0.3)
    span = high - low
    _below(axes, words, low - 0.15 * span, high + 0.12 * span)
    axes.axhline(axes.get_ylim()[0], color=GREY, linewidth=0.8)
    if there:
        _mark(axes, numbers, values, span, of=known)
        if min(there) < max(there):
            at = next(at for at, number in enumerate(numbers) if known[at] and number == min(there))
            under = numbers[at] - 0.03 * span
            _write(axes, at, under, _told(values[at]), horizontalalignment="center", verticalalignment="top")
    return Chart(_png(figure), alt or _alternative("Line chart", title, unit, labels, values))


# ---------------------------------------------------------------------------------------------- drawing
def _ends(numbers: Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest end of what stands on zero."""
    low, high = min(numbers, default=0.0), max(numbers, default=0.0)
    return (min(low, 0.0), max(high, 0.0)) if any(numbers) else (0.0, 1.0)


def _below(axes: Axes, words: Sequence[str], low: float, high: float) -> None:
    """What is drawn reaches from `low` to `high`; the labels stand under it."""
    axes.set_ylim(low, high)
    under = low - 0.04 * (high - low)
    for at in _ticks(words):
        _write(axes, at, under, _fitting(words[at]), horizontalalignment="center", verticalalignment="top")


def _mark(
    axes: Axes,
    numbers: Sequence[float],
    values: Sequence[float | None],
    span: float,
    of: Sequence[bool] | None = None,
) -> None:
    """Write the highest value above it."""
    at = max((at for at in range(len(numbers)) if of is None or of[at]), key=numbers.__getitem__)
    axes.axhline(numbers[at], color=FAINT, linewidth=0.8, linestyle=":")
    above = numbers[at] if of is not None else max(numbers[at], 0.0)
    _write(axes, at, above + 0.01 * span, _told(values[at]), horizontalalignment="center", verticalalignment="bottom")


def _figure(height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DPI * SHARPNESS, facecolor="none", edgecolor="none")
    figure.set_layout_engine("none")  # whatever the user's settings say
    FigureCanvasAgg(figure)
    return figure


def _axes(figure: Figure, title: str, unit: str) -> Axes:
    """Axes that are a line only: everything else of theirs would be styled by the user's settings."""
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), facecolor="none")
    axes.set_axis_off()
    head = f"{title} ({unit})" if unit else title
    _write(axes, 0.0, 1.0, _fitting(head, 80), transform=axes.transAxes, verticalalignment="bottom", fontsize=10.5)
    return axes


def _write(axes: Axes, x: float, y: float, words: str, **style: Any) -> None:
    style = {"verticalalignment": "center", "fontsize": 9.5, **style}
    axes.text(x, y, words, color=GREY, fontfamily=list(_families()), parse_math=False, usetex=False, **style)


def _png(figure: Figure) -> bytes:
    """The picture, with a margin around all that is drawn, however long it is."""
    for artist in figure.findobj():
        artist.set_sketch_params(None)  # the user's plt.xkcd()
        artist.set_path_effects([])
    sink = io.BytesIO()
    figure.savefig(
        sink, format="png", dpi=DPI * SHARPNESS, transparent=True, bbox_inches="tight", pad_inches=0.08, metadata={}
    )
    return sink.getvalue()


def _ticks(words: Sequence[str]) -> range:
    """Which labels are written: every so many, so that they do not run into each other."""
    longest = max((min(len(word), LONGEST_LABEL) for word in words), default=0)
    return range(0, len(words), max(1, math.ceil(len(words) / (TICKS_ROOM // (longest + 4)))))


@functools.cache
def _families() -> tuple[str, ...]:
    from matplotlib.font_manager import fontManager

    there = {font.name for font in fontManager.ttflist}
    return (_FONT, *(name for name in _MORE_FONTS if name in there))


@functools.cache
def _signs() -> frozenset[int]:
    """What the fonts can draw."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset().union(*(get_font(findfont(FontProperties(family=name))).get_charmap() for name in _families()))


# ---------------------------------------------------------------------------------------------- words and numbers
def _checked(labels: Sequence[str], values: Sequence[float | None]) -> tuple[list[str], list[float]]:
    if len(labels) != len(values):
        raise ValueError(f"{len(labels)} labels for {len(values)} values")
    return [str(label) for label in labels], [_drawn(value) for value in values]


def _drawn(value: float | None) -> float:
    return _number(value) or 0.0


def _number(value: float | None) -> float | None:
    try:
        number = math.nan if value is None else float(value)
    except OverflowError:  # of an int
        return None
    return number if math.isfinite(number) else None


def _told(value: float | None) -> str:
    number = _number(value)
    if number is None:
        return "–"
    if number == 0:
        return "0"
    if 1e-4 <= abs(number) < 1e12:
        decimals = max(0, 2 - math.floor(math.log10(abs(number)))) if abs(number) < 100 else 0
        text = f"{number:,.{decimals}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    if abs(number) < 1e-9 or abs(number) >= 1e12:
        return f"{number:.3g}"
    return format(Decimal(f"{number:.3g}"), "f")


def _one_line(words: str) -> str:
    return " ".join(plain_text(words).split())


def _fitting(words: str, longest: int = LONGEST_LABEL) -> str:
    """In one line, its middle left out where it is long, with signs that there are in the fonts only.

    Combining marks are left out, too: a hundred of them on one letter would reach across the chart.
    """
    whole = unicodedata.normalize("NFC", _one_line(words[: 20 * longest]))
    text = "".join(sign for sign in whole if not unicodedata.combining(sign))
    if len(text) > longest:
        text = f"{text[: longest * 2 // 3]}…{text[-longest // 3 + 1 :]}"
    return "".join(sign if ord(sign) in _signs() else "\N{WHITE SQUARE}" for sign in text)


def _alternative(kind: str, title: str, unit: str, labels: Sequence[str], values: Sequence[float | None]) -> str:
    told = [
        f"{_one_line(str(label))[:100]}: {_told(value)}"
        for label, value in list(zip(labels, values, strict=True))[:MOST_TOLD]
    ]
    if (left := len(labels) - len(told)) > 0:
        told.append(f"and {left:,} more, which the table has")
    head = f"{kind}: {_one_line(title)}" + (f", in {unit}" if unit else "")
    return f"{head}. " + "; ".join(told) + "."


# ---------------------------------------------------------------------------------------------- others' pictures
_PNG = b"\x89PNG\r\n\x1a\n"


def picture_of(value: Any) -> Chart | None:
    """A chart, a figure of matplotlib's, or what draws itself as PNG, with words in its place; None: it is no picture.

    Blocking: a figure is drawn.
    """
    if isinstance(value, Chart):
        return value
    figure = getattr(sys.modules.get("matplotlib.figure"), "Figure", None)
    if figure is not None and isinstance(value, figure):
        sink = io.BytesIO()
        value.savefig(sink, format="png", dpi=DPI * SHARPNESS, bbox_inches="tight")
        titles = [_one_line(title) for axes in value.axes if (title := axes.get_title())]
        return Chart(sink.getvalue(), ". ".join(["Figure", *titles]))
    if not isinstance(value, type) and callable(draw := getattr(value, "_repr_png_", None)):
        try:
            drawn = draw()
        except Exception:  # somebody else's class
            return None
        png = drawn[0] if isinstance(drawn, tuple) else drawn
        if isinstance(png, bytes) and png.startswith(_PNG):
            return Chart(png, f"Picture ({type(value).__name__})")
    return None
