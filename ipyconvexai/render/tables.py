"""Small tables of hostile values, as HTML and as text.

Calls plain.py. Promises that nothing a cell, a column name or a caption says becomes markup, that a table looks right
in light and dark themes (no colour of its own), and that no value is anywhere but in its cell.
"""

from __future__ import annotations

import datetime
import html
import numbers
import unicodedata
from collections.abc import Sequence
from decimal import Decimal

from ipyconvexai.render.plain import cut, plain_text

_DASH = "\u2013"
_TEXT_WIDTH = 120  # columns of a whole table as text
_MIN_COLUMN = 6


def table_html(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    caption: str = "",
    more: int = 0,
    max_cell: int = 300,
) -> str:
    """An HTML table of ``rows`` under ``columns``; every text is cut at ``max_cell`` characters.

    ``more`` is the number of rows that exist and are not shown. Rows may be shorter or longer than ``columns``.
    """
    cells, right = _cells(columns, rows, max_cell)
    parts = ['<table class="mathjax_ignore tex2jax_ignore">']  # a notebook would read "$5 ... $10" as a formula
    if caption:
        parts.append(f'<caption style="text-align:left">{html.escape(_one_line(caption, max_cell))}</caption>')
    heads = (_html_cell("th", _one_line(name, max_cell), right[i]) for i, name in enumerate(columns))
    parts.append(f"<thead><tr>{''.join(heads)}</tr></thead><tbody>")
    for row in cells:
        parts.append("<tr>" + "".join(_html_cell("td", cell, right[i]) for i, cell in enumerate(row)) + "</tr>")
    parts.append("</tbody>")
    if more > 0:
        span = max(len(columns), 1)
        words = f'<td colspan="{span}" style="text-align:left;opacity:0.6">{_more(more)}</td>'
        parts.append(f"<tfoot><tr>{words}</tr></tfoot>")
    parts.append("</table>")
    return "".join(parts)


def table_text(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    caption: str = "",
    more: int = 0,
    max_cell: int = 300,
) -> str:
    """The same table as aligned text, at most 120 columns wide where its columns can be narrowed that far."""
    cells, right = _cells(columns, rows, max_cell)
    heads = [_one_line(name, max_cell) for name in columns]
    grid = [heads, *([_DASH if cell is None else cell for cell in row] for row in cells)]
    widths = _fit([max(map(_width, column)) for column in zip(*grid, strict=True)])
    lines = [_text_row(row, widths, right) for row in grid]
    lines.insert(1, "  ".join("─" * width for width in widths))
    if caption:
        lines.insert(0, _one_line(caption, max_cell))
    if more > 0:
        lines.append(_more(more))
    return "\n".join(lines)


def _more(count: int) -> str:
    return f"… {count:,} more row{'' if count == 1 else 's'}"


def _cells(
    columns: Sequence[str], rows: Sequence[Sequence[object]], max_cell: int
) -> tuple[list[list[str | None]], list[bool]]:
    """The cells as text, None for nothing, each row as long as ``columns``; and which columns stand right."""
    width = len(columns)
    values = [[*row[:width], *[None] * (width - len(row))] for row in rows]
    cells = [[_text(value, max_cell) for value in row] for row in values]
    return cells, [_is_numeric([row[i] for row in values]) for i in range(width)]


def _is_numeric(values: list[object]) -> bool:
    present = [value for value in values if not _is_missing(value)]
    return bool(present) and all(_is_number(value) for value in present)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real | Decimal) and not isinstance(value, bool)


def _is_missing(value: object) -> bool:
    """None, NaN, and what pandas means by nothing, without importing pandas."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, Decimal):
        return value.is_nan()  # a signalling one cannot even be compared
    return isinstance(value, numbers.Real) and value != value


def _text(value: object, max_cell: int) -> str | None:
    if _is_missing(value):
        return None
    try:
        return _one_line(_format(value), max_cell)
    except Exception:  # a value of somebody else's class, whose str() may raise anything
        return f"<{type(value).__name__}>"


def _format(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, datetime.timedelta):
        return str(datetime.timedelta(seconds=round(value.total_seconds())))
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value):,} bytes"
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        whole = int(value)
        return f"{whole:,}" if abs(whole) >= 10_000 else str(whole)  # 2016 may be a year
    if isinstance(value, numbers.Real | Decimal) and not isinstance(value, bool):
        return _decimal(float(value))
    return str(value)


def _decimal(value: float) -> str:
    """Two decimals for what is at least 1, three significant figures below; no trailing zeros."""
    size = abs(value)
    if size == 0 or size == float("inf"):
        return "0" if size == 0 else str(value)
    if size >= 1e15 or size < 1e-6:
        return f"{value:.3g}"
    text = f"{value:,.2f}" if size >= 1 else f"{Decimal(f'{value:.3g}'):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _one_line(value: object, max_cell: int) -> str:
    text = str(value)[: 8 * max(max_cell, 1)]  # before anything looks at a text of any length
    return cut(" ".join(plain_text(text).split()), max_cell)


def _html_cell(tag: str, text: str | None, right: bool) -> str:
    style = f"text-align:{'right' if right else 'left'};vertical-align:top"
    if text is None:
        return f'<{tag} style="{style};opacity:0.4">{_DASH}</{tag}>'
    return f'<{tag} style="{style}">{html.escape(text)}</{tag}>'


def _width(text: str | None) -> int:
    """Columns on a terminal: wide characters take two, combining ones none."""
    text = _DASH if text is None else text
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _fit(widths: list[int]) -> list[int]:
    """Narrow the widest columns until the table fits, none below a few columns."""
    widths = list(widths)
    room = _TEXT_WIDTH - 2 * (len(widths) - 1)
    while sum(widths) > room and max(widths) > _MIN_COLUMN:
        widest = widths.index(max(widths))
        second = max([*(w for w in widths if w < widths[widest]), _MIN_COLUMN])
        widths[widest] = max(second - 1, _MIN_COLUMN, widths[widest] - (sum(widths) - room))
    return widths


def _text_row(row: Sequence[str | None], widths: list[int], right: list[bool]) -> str:
    out = []
    for i, width in enumerate(widths):
        text = _narrow(row[i] or "", width)
        pad = " " * (width - _width(text))
        out.append(pad + text if right[i] else text + pad)
    return "  ".join(out).rstrip()


def _narrow(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    while _width(text) > width - 1:
        text = text[: min(len(text) - 1, width - 1)]
    return text + "…"
