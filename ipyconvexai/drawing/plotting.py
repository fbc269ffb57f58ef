"""``ai.chart``: rows, or labels with numbers, as a chart. Calls ``results`` for the rows, ``charts`` for the picture.

Promises: no rows are a chart, too, an empty one; what is left out is said in the title.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from ipyconvexai.drawing.charts import Chart, bar_chart, column_chart, line_chart
from ipyconvexai.drawing.results import table_of
from ipyconvexai.errors import InputError, UnknownColumnError

__all__ = ["KINDS", "chart"]

KINDS: dict[str, tuple[Callable[..., Chart], int]] = {  # with how many values they are readable
    "bar": (bar_chart, 60),
    "column": (column_chart, 400),
    "line": (line_chart, 5000),
}
MIDNIGHT = " 00:00:00"


def chart(
    data: Any, kind: str = "bar", *, x: str | None = None, y: str | None = None, title: str = "", unit: str = ""
) -> Chart:
    """A chart of `data`, a picture that reads in every viewer.

        ai.chart(ai.ledger.usage(by="model"), y="cost_usd")
        ai.chart({"yes": 12, "no": 5}, "column")

    Args:
        data: a frame, what the ledger gives, a list of dicts or documents, of pairs (label, number), or a dict of
            numbers by label.
        kind: "bar" (one below the other), "column" (side by side, for days and the like) or "line".
        x: the column with the labels; None: the first that holds no numbers.
        y: the column with the numbers; None: the first that holds some.
        title: None is made of the columns' names.
        unit: of the numbers, as "US dollars".

    Raises:
        InputError: there is nothing in it that could be drawn, or no such kind.
        UnknownColumnError: it has no such column.
    """
    if kind not in KINDS:
        raise InputError(f"there is no chart of the kind {kind!r:.80}", cure=f"Use one of {', '.join(KINDS)}.")
    draw, most = KINDS[kind]
    columns, rows, more = _rows_of(data, most)
    at_x, at_y = _chosen(columns, rows, x, y)
    labels = [str(number + 1) if at_x is None else _label(row[at_x]) for number, row in enumerate(rows)]
    if all(label.endswith(MIDNIGHT) for label in labels):
        labels = [label.removesuffix(MIDNIGHT) for label in labels]
    values = [] if at_y is None else [_number(row[at_y]) for row in rows]
    title = title or _title(columns, at_x, at_y)
    if more:
        title = f"{title}: the first {len(rows):,} of {len(rows) + more:,}"
    return draw(labels, values, title=title, unit=unit)


def _rows_of(data: Any, most: int) -> tuple[list[str], list[list[Any]], int]:
    if isinstance(data, Mapping):
        data = list(data.items())
    if (table := table_of(data, most)) is not None:
        return table
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        if not len(data):
            return [], [], 0
        if all(isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 2 for item in data):
            return ["", "value"], [list(item) for item in data[:most]], max(0, len(data) - most)
        if all(_is_number(item) for item in data):
            return ["value"], [[item] for item in data[:most]], max(0, len(data) - most)
    raise InputError(
        f"a {type(data).__name__} cannot be drawn as a chart",
        cure="Give rows (a frame, a list of dicts), pairs of labels and numbers, or a dict of numbers by label.",
    )


def _chosen(columns: list[str], rows: list[list[Any]], x: str | None, y: str | None) -> tuple[int | None, int | None]:
    """Where the labels are, and where the numbers."""
    if not rows:
        return None, None
    at_x, at_y = (None if name is None else _at(columns, name) for name in (x, y))
    own = [at for at in range(len(columns)) if not columns[at].startswith("_")]  # a document's id is no label
    numeric = [at for at in own if _are_numbers([row[at] for row in rows])]
    if at_x is None:
        at_x = next((at for at in own if at not in numeric and at != at_y), None)
    if at_x is None and at_y is None and len(numeric) > 1:
        at_x = numeric[0]
    if at_y is None:
        at_y = next((at for at in numeric if at != at_x), None)
    if at_y is None:
        raise InputError("no column holds numbers", cure=f"There are: {', '.join(columns)}.")
    return at_x, at_y


def _at(columns: list[str], name: str) -> int:
    if name not in columns:
        raise UnknownColumnError(f"there is no column {name!r:.80}", cure=f"There are: {', '.join(columns)}.")
    return columns.index(name)


def _title(columns: list[str], at_x: int | None, at_y: int | None) -> str:
    if at_y is None:
        return "no rows yet"
    return columns[at_y] if at_x is None or not columns[at_x] else f"{columns[at_y]} by {columns[at_x]}"


def _label(value: Any) -> str:
    return "\N{EN DASH}" if value is None else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real | Decimal) and not isinstance(value, bool)


def _are_numbers(values: list[Any]) -> bool:
    present = [value for value in values if value is not None]
    return bool(present) and all(_is_number(value) for value in present)


def _number(value: Any) -> float | None:
    return value if _is_number(value) else None  # as `charts` tells it, without rounding
