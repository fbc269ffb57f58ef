"""Frames of any library as columns that can be read by rows: names, types, Arrow arrays.

pyarrow at first use, pandas and polars only where they are in use already: pandas (frames, series, indexes), polars
(also lazy frames and series), Arrow, DuckDB relations, the ledger's relations, and whatever speaks Arrow's stream
protocol. Promises: a frame is opened without a copy where its library allows that; nothing of it is changed.
"""

from __future__ import annotations

import datetime
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Column", "Frame", "instants", "is_missing", "open_frame", "opener_of"]


@dataclass(frozen=True, slots=True)
class Column:
    """`array`: an Arrow array, or None where Arrow has no type for it; `at`: values of rows."""

    name: str
    type: str
    nulls: int
    array: Any
    at: Callable[[Sequence[int]], list[Any]]


@dataclass(frozen=True, slots=True)
class Frame:
    kind: str
    rows: int
    width: int
    column: Callable[[int], Column]


def is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def open_frame(value: Any) -> Frame:
    opener = opener_of(value)
    if opener is None:
        raise TypeError(f"{type(value).__name__} is no frame")
    return opener(value)


def opener_of(value: Any) -> Callable[[Any], Frame] | None:
    for module, names, opener in _KINDS:
        here = sys.modules.get(module)
        kinds = tuple(kind for name in names if isinstance(kind := getattr(here, name, None), type))
        if kinds and isinstance(value, kinds):
            return opener
    stream = hasattr(type(value), "__arrow_c_stream__")
    # A reader can be read once only, and that is the user's turn.
    return _of_stream if stream and not type(value).__name__.endswith("Reader") else None


def _of_pandas(frame: Any) -> Frame:
    import pandas as pd

    kind = f"pandas {type(frame).__name__}"
    if isinstance(frame, pd.Index):
        frame = frame.to_frame(index=False)
    columns: list[tuple[str, Any]] = []
    if not isinstance(frame.index, pd.RangeIndex):
        levels = [frame.index.get_level_values(level) for level in range(frame.index.nlevels)]
        columns = [(_name(level.name, f"index {number}"), level) for number, level in enumerate(levels)]
    if isinstance(frame, pd.Series):
        columns.append((_name(frame.name, "value"), frame))
        wide = 0
    else:
        wide = frame.shape[1]
    own = [name for name, _ in columns]

    def column(index: int) -> Column:
        if index < len(own):
            return _pandas_column(*columns[index])
        at = index - len(own)
        return _pandas_column(_name(frame.columns[at], ""), frame.iloc[:, at])

    return Frame(kind, len(frame), len(own) + wide, column)


def _name(name: Any, otherwise: str) -> str:
    return otherwise if name is None else str(name)


def _pandas_column(name: str, values: Any) -> Column:
    import pyarrow as pa

    try:
        array = pa.array(values, from_pandas=True)
    except Exception:  # Arrow has no type for it, or the values' own code failed
        array = None
    if array is not None and not isinstance(array.type, pa.BaseExtensionType):
        return _arrow_column(name, str(values.dtype), array)
    take = values.iloc if hasattr(values, "iloc") else values
    return Column(name, str(values.dtype), _nulls(values), None, lambda rows: list(take[_within(rows, len(values))]))


def _nulls(values: Any) -> int:
    try:
        return int(values.isna().sum())
    except Exception:  # Decimal("sNaN") may not even be asked
        return sum(map(is_missing, values))


def _within(rows: Sequence[int], length: int) -> list[int]:
    return [row for row in rows if row < length]


def _of_polars(frame: Any) -> Frame:
    import polars as pl

    kind = f"polars {type(frame).__name__}"
    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    elif isinstance(frame, pl.Series):
        frame = frame.alias(frame.name or "value").to_frame()
    return Frame(kind, frame.height, frame.width, lambda index: _polars_column(frame.to_series(index), pl.Object))


def _polars_column(series: Any, opaque: Any) -> Column:
    if series.dtype != opaque:  # Arrow would be given addresses
        try:
            return _arrow_column(series.name, str(series.dtype), series.to_arrow())
        except (ValueError, TypeError, NotImplementedError):  # a type that Arrow has not: 128-bit integers
            pass
    return Column(
        series.name,
        str(series.dtype),
        series.null_count(),
        None,
        lambda rows: [series[row] for row in _within(rows, len(series))],
    )


def _of_relation(relation: Any) -> Frame:
    return _of_arrow(relation.arrow(), "ledger relation")


def _of_stream(value: Any) -> Frame:
    import pyarrow as pa

    table = value if isinstance(value, pa.Table) else pa.table(value)
    return _of_arrow(table, f"{type(value).__module__.partition('.')[0]} {type(value).__name__}")


def _of_duckdb(relation: Any) -> Frame:
    return _of_arrow(relation.to_arrow_table(), "DuckDB relation", [str(kind) for kind in relation.types])


def _of_batch(batch: Any) -> Frame:
    import pyarrow as pa

    return _of_arrow(pa.Table.from_batches([batch]), "pyarrow RecordBatch")


def _of_array(array: Any) -> Frame:
    kind = f"pyarrow {type(array).__name__}"
    return Frame(kind, len(array), 1, lambda index: _arrow_column("value", str(array.type), array))


def _of_arrow(table: Any, kind: str, types: Sequence[str] | None = None) -> Frame:
    def column(index: int) -> Column:
        array = table.column(index)
        return _arrow_column(table.column_names[index], types[index] if types else str(array.type), array)

    return Frame(kind, table.num_rows, table.num_columns, column)


def _arrow_column(name: str, kind: str, array: Any) -> Column:
    import pyarrow as pa

    if isinstance(array.type, pa.BaseExtensionType) and not isinstance(array.type, pa.UuidType):
        array = pa.chunked_array([chunk.storage for chunk in _chunks(array)], array.type.storage_type)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    elif pa.types.is_string_view(array.type):  # Arrow computes nothing with these
        array = array.cast(pa.large_string())
    return Column(name, kind, array.null_count, array, lambda rows: _values(array, rows))


def _chunks(array: Any) -> list[Any]:
    chunks = getattr(array, "chunks", None)
    return [array] if chunks is None else list(chunks)


def _values(array: Any, rows: Sequence[int]) -> list[Any]:
    """Python values; instants and short floats as text, since Python's have fewer or more digits."""
    import pyarrow as pa

    taken = array if len(rows) == len(array) else array.take(pa.array(rows, pa.int64()))
    kind = taken.type
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return instants(taken)
    values = taken.to_pylist()
    digits = {"halffloat": ".4g", "float": ".8g"}.get(str(kind))
    return [None if value is None else format(value, digits) for value in values] if digits else values


_ZEROS = re.compile(r"\.0+(?=$|[Z+-])|(?<=\.\d{3})0+(?=$|[Z+-])")


def instants(array: Any) -> list[str | None]:
    """As ISO 8601 has them, in their zone."""
    import pyarrow as pa

    if pa.types.is_duration(array.type):
        return [None if n is None else _span(n, array.type.unit) for n in array.cast(pa.int64()).to_pylist()]
    try:
        texts = array.cast(pa.string())
    except pa.ArrowInvalid:  # a zone that this machine does not know
        texts = array.cast(pa.int64()).cast(pa.timestamp(array.type.unit, "UTC")).cast(pa.string())
    return [None if text is None else _ZEROS.sub("", text) for text in texts.to_pylist()]


def _span(count: int, unit: str) -> str:
    """Days and hours as Python has them; what a timedelta cannot hold as a number."""
    micros, rest = divmod(count * {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[unit], 1000)
    try:
        return f"{count} ns" if rest else str(datetime.timedelta(microseconds=micros))
    except OverflowError:
        return f"{count} {unit}"


_KINDS: tuple[tuple[str, tuple[str, ...], Callable[[Any], Frame]], ...] = (
    ("pandas", ("DataFrame", "Series", "Index"), _of_pandas),
    ("polars", ("DataFrame", "LazyFrame", "Series"), _of_polars),
    ("duckdb", ("DuckDBPyRelation",), _of_duckdb),
    ("pyarrow", ("RecordBatch",), _of_batch),
    ("pyarrow", ("Array", "ChunkedArray"), _of_array),
    ("ipyconvexai.relation", ("Relation",), _of_relation),
)
