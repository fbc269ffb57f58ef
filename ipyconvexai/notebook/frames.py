"""A frame in a prompt: schema, statistics and sampled rows within a budget of tokens, or all rows as CSV.

Calls closed; pyarrow at first use, pandas and polars only where they are in use already. pandas (frames, series,
indexes), polars (also lazy frames and series), Arrow, DuckDB relations, the ledger's relations, and whatever speaks
Arrow's stream protocol.

Promises: the same frame gives the same text in every run; the text says how many rows and columns of how many it
shows; a cell that is cut ends in an ellipsis; `describe` keeps to its budget.
"""

from __future__ import annotations

import datetime
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ipyconvexai.notebook.closed import EnvironmentShownError, guarded, is_environment

__all__ = ["describe", "is_frame", "sampled", "whole"]

TOKENS = 2000
CHARACTERS = 4  # taken for one token
LONGEST_CELL = 60  # characters
SHORT_CELL = 16  # where columns are many
MOST_ROWS = 40  # of a frame that does not fit
SCHEMA_SHARE = 0.6  # of the budget
FEW_VALUES = 6  # distinct texts that are all named
COUNTED_ROWS = (
    200_000  # texts of longer columns are counted in a sample of half as many: counting 1,000,000 takes 0.8 s
)

Render = Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class _Column:
    """`array`: an Arrow array, or None where Arrow has no type for it; `at`: values of rows."""

    name: str
    type: str
    nulls: int
    array: Any
    at: Callable[[Sequence[int]], list[Any]]


@dataclass(frozen=True, slots=True)
class _Frame:
    kind: str
    rows: int
    width: int
    column: Callable[[int], _Column]


def is_frame(value: Any) -> bool:
    """Whether `value` is a frame, a column, or what gives one; imports nothing."""
    return _opener(value) is not None


def describe(frame: Any, tokens: int = TOKENS) -> str:
    """Schema with statistics, then sampled rows as CSV; at most `tokens` times four characters (at least 400).

    Raises:
        TypeError: `frame` is no frame.
        EnvironmentShownError: a cell holds the environment.
    """
    data = _open(frame)
    room = max(tokens * CHARACTERS, 400)
    head = f"{data.kind}: {data.rows:,} rows × {data.width:,} columns"
    lines, columns = _schema(data, int(room * SCHEMA_SHARE) - len(head))
    left = data.width - len(columns)
    if left:
        lines.append(f"{left:,} of {data.width:,} columns are left out.")
    text = "\n".join([head, *lines])
    return text + _sample(data.rows, columns, room - len(text))


def whole(frame: Any) -> str:
    """All rows as CSV, with a line of names first; nothing is cut.

    Raises:
        TypeError: `frame` is no frame.
        EnvironmentShownError: a cell holds the environment.
    """
    data = _open(frame)
    columns = [data.column(index) for index in range(data.width)]
    return _csv(columns, range(data.rows), _full)


def sampled(length: int, count: int) -> list[int]:
    """At most `count` indexes below `length`: the first half of them from the beginning, the others evenly spaced up
    to the last. Not random: a repeated question has to be the same, byte for byte."""
    if count >= length:
        return list(range(length))
    if count < 2:
        return list(range(count))
    head = (count + 1) // 2
    rest = count - head
    return [*range(head), *(head + (length - 1 - head) * step // rest for step in range(1, rest + 1))]


# ------------------------------------------------------------------------------------------------ describing
def _schema(data: _Frame, room: int) -> tuple[list[str], list[_Column]]:
    """A line per column as long as there is room; the columns are those of the lines."""
    lines: list[str] = []
    columns: list[_Column] = []
    for index in range(data.width):
        column = data.column(index)
        line = f"- {_cell(column.name)}: {_type(column)}{_about(column)}"
        room -= len(line) + 1
        if room < 0 and columns:
            break
        lines.append(_short(line, max(room + len(line), LONGEST_CELL)))
        columns.append(column)
    return lines, columns


def _type(column: _Column) -> str:
    """In one line; the fields of a struct may have any name."""
    return _short(" ".join(guarded("", column.type).split()), LONGEST_CELL)


def _sample(rows: int, columns: list[_Column], room: int) -> str:
    """The rows that fit, and a line that says which they are."""
    if not rows or not columns:
        return ""
    count = rows if rows <= 5 * MOST_ROWS else MOST_ROWS
    for cell in (_cell, _tiny):
        width = LONGEST_CELL if cell is _cell else SHORT_CELL
        tried = count
        while tried:
            text = f"\n{_which(tried, rows, width)}\n{_csv(columns, sampled(rows, tried), cell)}"
            if len(text) <= room:
                return text
            tried = min(tried - 1, tried * room // len(text))
    return f"\n0 of {rows:,} rows are shown: they are too long."


def _which(shown: int, rows: int, width: int) -> str:
    which = f"All {rows:,} rows" if shown == rows else f"{shown} of {rows:,} rows, the first ones, then evenly spaced"
    return f"{which}, as CSV (cells are cut at {width} characters with …):"


def _about(column: _Column) -> str:
    """Nulls and statistics."""
    parts = [f"{column.nulls:,} null{'s' if column.nulls > 1 else ''}"] if column.nulls else []
    if column.array is not None and column.nulls < len(column.array):
        parts += _statistics(column)
    elif column.array is None:
        parts += _example(column)
    return "".join(f"; {part}" for part in parts)


def _statistics(column: _Column) -> list[str]:
    import pyarrow as pa
    import pyarrow.compute as pc

    array, types = column.array, pa.types
    kind = array.type
    if types.is_boolean(kind):
        return [f"{pc.sum(array).as_py():,} true"]
    if types.is_float16(kind):
        array, kind = array.cast(pa.float32()), pa.float32()
    if types.is_floating(kind):
        return _of_floats(array)
    if types.is_integer(kind) or types.is_decimal(kind):
        ends = pc.min_max(array)
        # A sum of decimals may not fit their type: then Arrow's mean is wrong, and says nothing.
        mean = pc.mean(array.cast(pa.float64()) if types.is_decimal(kind) else array).as_py()
        return [f"min {ends['min']}, mean {mean:.6g}, max {ends['max']}"]
    if types.is_temporal(kind) and not types.is_interval(kind):
        return _of_instants(array)
    if types.is_large_string(kind) or types.is_string(kind):
        return _of_texts(array)
    return _example(column)


def _of_floats(array: Any) -> list[str]:
    import pyarrow.compute as pc

    ends = pc.min_max(array)  # NaN does not count here; in a mean it does
    low, high, mean = ends["min"].as_py(), ends["max"].as_py(), pc.mean(array).as_py()
    if _finite(low) and _finite(high) and _finite(mean):
        return [f"min {low:.6g}, mean {mean:.6g}, max {high:.6g}"]
    nan = pc.sum(pc.is_nan(array)).as_py() or 0
    inf = pc.sum(pc.is_inf(array)).as_py() or 0
    odd = [f"{count:,} {name}" for count, name in ((nan, "NaN"), (inf, "infinite")) if count]
    known = array.filter(pc.is_finite(array))
    if not len(known) or not odd:  # not odd: a sum that has no room in a float
        return odd
    return [*_of_floats(known), *odd]


def _finite(number: float | None) -> bool:
    return number is not None and abs(number) < float("inf")


def _of_instants(array: Any) -> list[str]:
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = array.cast(pa.int32() if array.type.bit_width == 32 else pa.int64())  # spans have no order in Arrow
    ends = pc.min_max(numbers)
    texts = _instants(pa.array([ends["min"].as_py(), ends["max"].as_py()], numbers.type).cast(array.type))
    return [f"min {texts[0]}, max {texts[1]}"]


def _of_texts(array: Any) -> list[str]:
    import pyarrow as pa
    import pyarrow.compute as pc

    of = ""
    if len(array) > COUNTED_ROWS:
        step = len(array) // (COUNTED_ROWS // 2)
        array = array.take(pa.array(range(0, len(array), step)))
        of = f" in a sample of {len(array):,}"
    counts = pc.value_counts(array.drop_null() if array.null_count else array)
    if not len(counts):
        return []
    if len(counts) > FEW_VALUES:
        return [f"{len(counts):,} distinct{of}, for example {_cell(counts[0]['values'].as_py())}"]
    pairs = sorted(
        ((pair["counts"], pair["values"]) for pair in counts.to_pylist()), key=lambda pair: (-pair[0], pair[1])
    )
    return [f"{len(counts)} distinct{of}: " + ", ".join(f"{_cell(value)} {count:,}×" for count, value in pairs)]


def _example(column: _Column) -> list[str]:
    head = column.at(range(min(20, len(column.array) if column.array is not None else 20)))
    found = next((value for value in head if not _is_missing(value)), None)
    return [] if found is None else [f"for example {_cell(found)}"]


# ----------------------------------------------------------------------------------------------------- cells
def _full(value: Any) -> str:
    """One cell of CSV; nothing is "", an empty text is two quotes."""
    if _is_missing(value):
        return ""
    return _quoted(_plain(value))


def _cell(value: Any) -> str:
    return "" if _is_missing(value) else _quoted(_short(_plain(value), LONGEST_CELL))


def _tiny(value: Any) -> str:
    return "" if _is_missing(value) else _quoted(_short(_plain(value), SHORT_CELL))


def _plain(value: Any) -> str:
    """The value's text, before it is cut: half a key or half of the environment is too much, too."""
    from ipyconvexai.notebook.spelling import spell  # it calls describe: a list may hold frames, a cell a list

    if is_environment(value):
        raise EnvironmentShownError
    return spell(value, whole=True)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _quoted(text: str) -> str:
    plain = text and text == text.strip() and not any(char in text for char in ',"\n\r')
    return text if plain else '"' + text.replace('"', '""') + '"'


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _csv(columns: Sequence[_Column], rows: Sequence[int], cell: Render) -> str:
    table = [[cell(value) for value in column.at(rows)] for column in columns]
    names = ",".join(cell(column.name) for column in columns)
    return "\n".join([names, *(",".join(row) for row in zip(*table, strict=True))])


# --------------------------------------------------------------------------------------------------- opening
def _open(value: Any) -> _Frame:
    opener = _opener(value)
    if opener is None:
        raise TypeError(f"{type(value).__name__} is no frame")
    return opener(value)


def _opener(value: Any) -> Callable[[Any], _Frame] | None:
    for module, names, opener in _KINDS:
        here = sys.modules.get(module)
        kinds = tuple(kind for name in names if isinstance(kind := getattr(here, name, None), type))
        if kinds and isinstance(value, kinds):
            return opener
    stream = hasattr(type(value), "__arrow_c_stream__")
    # A reader can be read once only, and that is the user's turn.
    return _of_stream if stream and not type(value).__name__.endswith("Reader") else None


def _of_pandas(frame: Any) -> _Frame:
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

    def column(index: int) -> _Column:
        if index < len(own):
            return _pandas_column(*columns[index])
        at = index - len(own)
        return _pandas_column(_name(frame.columns[at], ""), frame.iloc[:, at])

    return _Frame(kind, len(frame), len(own) + wide, column)


def _name(name: Any, otherwise: str) -> str:
    return otherwise if name is None else str(name)


def _pandas_column(name: str, values: Any) -> _Column:
    import pyarrow as pa

    try:
        array = pa.array(values, from_pandas=True)
    except Exception:  # Arrow has no type for it, or the values' own code failed
        array = None
    if array is not None and not isinstance(array.type, pa.BaseExtensionType):
        return _arrow_column(name, str(values.dtype), array)
    take = values.iloc if hasattr(values, "iloc") else values
    return _Column(name, str(values.dtype), _nulls(values), None, lambda rows: list(take[_within(rows, len(values))]))


def _nulls(values: Any) -> int:
    try:
        return int(values.isna().sum())
    except Exception:  # Decimal("sNaN") may not even be asked
        return sum(map(_is_missing, values))


def _within(rows: Sequence[int], length: int) -> list[int]:
    return [row for row in rows if row < length]


def _of_polars(frame: Any) -> _Frame:
    import polars as pl

    kind = f"polars {type(frame).__name__}"
    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    elif isinstance(frame, pl.Series):
        frame = frame.alias(frame.name or "value").to_frame()
    return _Frame(kind, frame.height, frame.width, lambda index: _polars_column(frame.to_series(index), pl.Object))


def _polars_column(series: Any, opaque: Any) -> _Column:
    if series.dtype != opaque:  # Arrow would be given addresses
        try:
            return _arrow_column(series.name, str(series.dtype), series.to_arrow())
        except (ValueError, TypeError, NotImplementedError):  # a type that Arrow has not: 128-bit integers
            pass
    return _Column(
        series.name,
        str(series.dtype),
        series.null_count(),
        None,
        lambda rows: [series[row] for row in _within(rows, len(series))],
    )


def _of_relation(relation: Any) -> _Frame:
    return _of_arrow(relation.arrow(), "ledger relation")


def _of_stream(value: Any) -> _Frame:
    import pyarrow as pa

    table = value if isinstance(value, pa.Table) else pa.table(value)
    return _of_arrow(table, f"{type(value).__module__.partition('.')[0]} {type(value).__name__}")


def _of_duckdb(relation: Any) -> _Frame:
    return _of_arrow(relation.to_arrow_table(), "DuckDB relation", [str(kind) for kind in relation.types])


def _of_batch(batch: Any) -> _Frame:
    import pyarrow as pa

    return _of_arrow(pa.Table.from_batches([batch]), "pyarrow RecordBatch")


def _of_array(array: Any) -> _Frame:
    kind = f"pyarrow {type(array).__name__}"
    return _Frame(kind, len(array), 1, lambda index: _arrow_column("value", str(array.type), array))


def _of_arrow(table: Any, kind: str, types: Sequence[str] | None = None) -> _Frame:
    def column(index: int) -> _Column:
        array = table.column(index)
        return _arrow_column(table.column_names[index], types[index] if types else str(array.type), array)

    return _Frame(kind, table.num_rows, table.num_columns, column)


def _arrow_column(name: str, kind: str, array: Any) -> _Column:
    import pyarrow as pa

    if isinstance(array.type, pa.BaseExtensionType) and not isinstance(array.type, pa.UuidType):
        array = pa.chunked_array([chunk.storage for chunk in _chunks(array)], array.type.storage_type)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    elif pa.types.is_string_view(array.type):  # Arrow computes nothing with these
        array = array.cast(pa.large_string())
    return _Column(name, kind, array.null_count, array, lambda rows: _values(array, rows))


def _chunks(array: Any) -> list[Any]:
    chunks = getattr(array, "chunks", None)
    return [array] if chunks is None else list(chunks)


def _values(array: Any, rows: Sequence[int]) -> list[Any]:
    """Python values; instants and short floats as text, since Python's have fewer or more digits."""
    import pyarrow as pa

    taken = array if len(rows) == len(array) else array.take(pa.array(rows, pa.int64()))
    kind = taken.type
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return _instants(taken)
    values = taken.to_pylist()
    digits = {"halffloat": ".4g", "float": ".8g"}.get(str(kind))
    return [None if value is None else format(value, digits) for value in values] if digits else values


_ZEROS = re.compile(r"\.0+(?=$|[Z+-])|(?<=\.\d{3})0+(?=$|[Z+-])")


def _instants(array: Any) -> list[str | None]:
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


_KINDS: tuple[tuple[str, tuple[str, ...], Callable[[Any], _Frame]], ...] = (
    ("pandas", ("DataFrame", "Series", "Index"), _of_pandas),
    ("polars", ("DataFrame", "LazyFrame", "Series"), _of_polars),
    ("duckdb", ("DuckDBPyRelation",), _of_duckdb),
    ("pyarrow", ("RecordBatch",), _of_batch),
    ("pyarrow", ("Array", "ChunkedArray"), _of_array),
    ("ipyconvexai.relation", ("Relation",), _of_relation),
)
