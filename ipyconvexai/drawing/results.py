"""How a function's result is shown: documents as a table, text as text, anything else by its repr. Calls render.

Imports the standard library only, so that the command line can use it, too. Promises: nothing that a result says
becomes markup.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ipyconvexai.relation import Relation

__all__ = ["bundle_of", "text_of"]

SHOWN_ROWS = 50
LONGEST = 100_000  # characters of a text or a repr


def bundle_of(value: Any) -> dict[str, str]:
    """`value` as MIME data: text/plain, and text/html where it is a table."""
    from ipyconvexai import render

    if isinstance(value, Relation):
        return {"text/html": value._repr_html_(), "text/plain": repr(value)}
    table = _table(value)
    if table is None:
        return {"text/plain": text_of(value)}
    columns, rows = table
    more = max(0, len(value) - SHOWN_ROWS)
    return {
        "text/html": render.table_html(columns, rows, more=more),
        "text/plain": render.table_text(columns, rows, more=more),
    }


def text_of(value: Any) -> str:
    """`value` as plain text."""
    from ipyconvexai import render

    if isinstance(value, Relation):
        return repr(value)
    if (table := _table(value)) is not None:
        return render.table_text(*table, more=max(0, len(value) - SHOWN_ROWS))
    return render.plain_text(_cut(value if isinstance(value, str) else _repr(value)))


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # somebody else's class
        return f"<{type(value).__name__}>"


def _cut(text: str) -> str:
    left = len(text) - LONGEST
    return text if left <= 0 else f"{text[:LONGEST]}\n… {left:,} more characters"


def _table(value: Any) -> tuple[list[str], list[list[Any]]] | None:
    """Columns and the first rows of a list of documents or dicts; None for anything else."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not len(value):
        return None
    records = [_record(item) for item in value[:SHOWN_ROWS]]
    present = [record for record in records if record is not None]
    if len(present) < len(records):
        return None
    columns = list(dict.fromkeys(key for record in present for key in record))
    return [str(column) for column in columns], [[record.get(column) for column in columns] for record in present]


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
