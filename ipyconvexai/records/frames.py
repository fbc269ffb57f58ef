"""The user's frames that a query names, as Arrow. The door to narwhals beside ``batch``'s.

Promises: only what the query names travels; a name of the ledger's own is never taken from the user's.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ipyconvexai.errors import InputError
from ipyconvexai.relation import Relation

__all__ = ["as_arrow", "named_in"]

_NAMES = re.compile(r"[^\W\d]\w*")
# Texts and comments, in which nothing is named; a name in quotation marks is matched so that it stays.
_SILENT = re.compile(
    r"""(?P<name>"(?:[^"]|"")*")|\b[eE]'(?:\\.|''|[^'\\])*'|'(?:[^']|'')*'|\$(\w*)\$.*?\$\2\$|--[^\n]*|/\*.*?\*/""",
    re.DOTALL,
)
_KINDS = {
    "pandas": {"DataFrame"},
    "polars": {"DataFrame", "LazyFrame"},
    "pyarrow": {"Table", "RecordBatch"},
    "duckdb": {"DuckDBPyRelation"},
    "_duckdb": {"DuckDBPyRelation"},
}


def named_in(query: str, names: Mapping[str, Any], own: Callable[[], Iterable[str]]) -> dict[str, bytes]:
    """Those of `names` that are frames and that the query names, as Arrow IPC streams.

    `own` gives the ledger's tables, and is asked only where there is such a frame: one that has a table's name is taken
    only when it is passed by name.

    Raises:
        InputError: one that stands where a table does has no shape that Arrow knows.
    """
    query = _SILENT.sub(lambda match: match["name"] or " ", query)
    found = {name: names[name] for name in set(_NAMES.findall(query)) if _is_frame(names.get(name))}
    tables = {name.lower() for name in own()} if found else set()  # SQL knows no case
    frames = {}
    for name, value in found.items():
        if name.lower() in tables:
            continue
        try:
            frames[name] = as_arrow(value)
        except InputError as error:
            if _stands_as_table(name, query):  # else a column may have this name, and nobody means the frame
                raise InputError(f"{name}: {error.message}", cure=error.cure) from None
    return frames


def _is_frame(value: Any) -> bool:
    if isinstance(value, Relation):
        return True
    module = type(value).__module__.partition(".")[0]
    return type(value).__name__ in _KINDS.get(module, ())


def _stands_as_table(name: str, query: str) -> bool:
    return (
        re.search(rf'(?:\b(?:FROM|JOIN|TABLE|SUMMARIZE|DESCRIBE|PIVOT|UNPIVOT)\b|,|\()\s*"?{name}\b', query, re.I)
        is not None
    )


def as_arrow(frame: Any) -> bytes:
    """`frame` (pandas, polars, Arrow, DuckDB, a ``Relation``) as an Arrow IPC stream.

    Raises:
        InputError: it is no frame, or does not fit.
    """
    import narwhals as nw
    import pyarrow as pa

    if isinstance(frame, Relation):
        return _stream(frame.arrow())
    if isinstance(frame, pa.RecordBatch):
        return _stream(pa.Table.from_batches([frame]))
    try:
        native = nw.from_native(frame)
        table = (native.collect() if isinstance(native, nw.LazyFrame) else native).to_arrow()
    except TypeError as error:
        raise InputError(f"{type(frame).__name__} is not a DataFrame", cure="Pass frames by name.") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"the frame does not fit into Arrow: {error.args[0]}", cure="Give each of its columns one type."
        ) from None
    return _stream(table)


def _stream(table: Any) -> bytes:
    import pyarrow as pa

    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()
