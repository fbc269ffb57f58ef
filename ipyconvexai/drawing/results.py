"""How a function's result is shown: documents and frames as a table, charts as pictures, text as text, anything else
by its repr. Calls render, ``context`` for frames and ``charts``.

Imports the standard library only, so that the command line can use it, too. Promises: nothing that a result says
becomes markup.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ipyconvexai.context.columns import open_frame, opener_of
from ipyconvexai.relation import Relation

__all__ = ["bundle_of", "table_of", "text_of"]

SHOWN_ROWS = 50
LONGEST = 100_000  # characters of a text or a repr


def bundle_of(value: Any) -> dict[str, str]:
    """`value` as MIME data: text/plain, and text/html where it is a table or a chart."""
    from ipyconvexai import render

    if isinstance(value, Relation) or _is_chart(value):
        return {"text/html": value._repr_html_(), "text/plain": repr(value)}
    table = table_of(value, SHOWN_ROWS)
    if table is None:
        return {"text/plain": text_of(value)}
    columns, rows, more = table
    return {
        "text/html": render.table_html(columns, rows, more=more),
        "text/plain": render.table_text(columns, rows, more=more),
    }


def text_of(value: Any) -> str:
    """`value` as plain text."""
    from ipyconvexai import render

    if isinstance(value, Relation):
        return repr(value)
    if (table := table_of(value, SHOWN_ROWS)) is not None:
        columns, rows, more = table
        return render.table_text(columns, rows, more=more)
    return render.plain_text(_cut(value if isinstance(value, str) else _repr(value)))


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # somebody else's class
        return f"<{type(value).__name__}>"


def _cut(text: str) -> str:
    left = len(text) - LONGEST
    return text if left <= 0 else f"{text[:LONGEST]}\n… {left:,} more characters"


def _is_chart(value: Any) -> bool:
    charts = sys.modules.get("ipyconvexai.drawing.charts")  # who has a chart has imported it
    return charts is not None and isinstance(value, charts.Chart)


def table_of(value: Any, most: int) -> tuple[list[str], list[list[Any]], int] | None:
    """Columns, the first rows, and how many more there are: of a frame, the ledger's answer, a list of documents or
    dicts. None for anything else."""
    if opener_of(value) is not None:
        try:
            return _of_frame(value, most)
        except Exception:  # somebody else's class, and it may fail in any way
            return None
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not len(value):
        return None
    records = [_record(item) for item in value[:most]]
    present = [record for record in records if record is not None]
    if len(present) < len(records):
        return None
    columns = list(dict.fromkeys(key for record in present for key in record))
    rows = [[record.get(column) for column in columns] for record in present]
    return [str(column) for column in columns], rows, max(0, len(value) - most)


def _of_frame(value: Any, most: int) -> tuple[list[str], list[list[Any]], int]:
    data = open_frame(value)
    shown = min(data.rows, most)
    columns = [data.column(index) for index in range(data.width)]
    values = [_values(column, shown) for column in columns]
    return [column.name for column in columns], [list(row) for row in zip(*values, strict=True)], data.rows - shown


def _values(column: Any, count: int) -> list[Any]:
    """Numbers as numbers; what Arrow and Python disagree about as text."""
    if column.array is not None and str(column.array.type) in ("float", "halffloat"):
        return column.array.slice(0, count).to_pylist()  # type: ignore[no-any-return] # Arrow's
    return column.at(range(count))  # type: ignore[no-any-return] # a list


def _record(item: Any) -> Mapping[Any, Any] | None:
    if isinstance(item, Mapping):
        return item
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    fields = getattr(type(item), "model_fields", None)  # pydantic's, and so a table's documents
    if fields is None:
        return None
    system = {name: getattr(item, name) for name in ("_id", "_creation_time") if hasattr(item, name)}
    return system | {name: getattr(item, name, None) for name in fields}
