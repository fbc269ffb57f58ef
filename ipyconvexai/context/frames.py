"""A frame in a prompt: schema, statistics and sampled rows within a budget of tokens, or all rows as CSV.

Calls columns and closed; pyarrow at first use.

Promises: the same frame gives the same text in every run; the text says how many rows and columns of how many it
shows; a cell that is cut ends in an ellipsis; `describe` keeps to its budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ipyconvexai.context.closed import EnvironmentShownError, guarded, is_environment
from ipyconvexai.context.columns import Column, Frame, instants, is_missing, open_frame, opener_of

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


def is_frame(value: Any) -> bool:
    """Whether `value` is a frame, a column, or what gives one; imports nothing."""
    return opener_of(value) is not None


def describe(frame: Any, tokens: int = TOKENS) -> str:
    """Schema with statistics, then sampled rows as CSV; at most `tokens` times four characters (at least 400).

    Raises:
        TypeError: `frame` is no frame.
        EnvironmentShownError: a cell holds the environment.
    """
    data = open_frame(frame)
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
    data = open_frame(frame)
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
def _schema(data: Frame, room: int) -> tuple[list[str], list[Column]]:
    """A line per column as long as there is room; the columns are those of the lines."""
    lines: list[str] = []
    columns: list[Column] = []
    for index in range(data.width):
        column = data.column(index)
        line = f"- {_cell(column.name)}: {_type(column)}{_about(column)}"
        room -= len(line) + 1
        if room < 0 and columns:
            break
        lines.append(_short(line, max(room + len(line), LONGEST_CELL)))
        columns.append(column)
    return lines, columns


def _type(column: Column) -> str:
    """In one line; the fields of a struct may have any name."""
    return _short(" ".join(guarded("", column.type).split()), LONGEST_CELL)


def _sample(rows: int, columns: list[Column], room: int) -> str:
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


def _about(column: Column) -> str:
    """Nulls and statistics."""
    parts = [f"{column.nulls:,} null{'s' if column.nulls > 1 else ''}"] if column.nulls else []
    if column.array is not None and column.nulls < len(column.array):
        parts += _statistics(column)
    elif column.array is None:
        parts += _example(column)
    return "".join(f"; {part}" for part in parts)


def _statistics(column: Column) -> list[str]:
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
        return _ofinstants(array)
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


def _ofinstants(array: Any) -> list[str]:
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = array.cast(pa.int32() if array.type.bit_width == 32 else pa.int64())  # spans have no order in Arrow
    ends = pc.min_max(numbers)
    texts = instants(pa.array([ends["min"].as_py(), ends["max"].as_py()], numbers.type).cast(array.type))
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


def _example(column: Column) -> list[str]:
    head = column.at(range(min(20, len(column.array) if column.array is not None else 20)))
    found = next((value for value in head if not is_missing(value)), None)
    return [] if found is None else [f"for example {_cell(found)}"]


# ----------------------------------------------------------------------------------------------------- cells
def _full(value: Any) -> str:
    """One cell of CSV; nothing is "", an empty text is two quotes."""
    if is_missing(value):
        return ""
    return _quoted(_plain(value))


def _cell(value: Any) -> str:
    return "" if is_missing(value) else _quoted(_short(_plain(value), LONGEST_CELL))


def _tiny(value: Any) -> str:
    return "" if is_missing(value) else _quoted(_short(_plain(value), SHORT_CELL))


def _plain(value: Any) -> str:
    """The value's text, before it is cut: half a key or half of the environment is too much, too."""
    from ipyconvexai.context.spelling import spell  # it calls describe: a list may hold frames, a cell a list

    if is_environment(value):
        raise EnvironmentShownError
    return spell(value, whole=True)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _quoted(text: str) -> str:
    plain = text and text == text.strip() and not any(char in text for char in ',"\n\r')
    return text if plain else '"' + text.replace('"', '""') + '"'


def _csv(columns: Sequence[Column], rows: Sequence[int], cell: Render) -> str:
    table = [[cell(value) for value in column.at(rows)] for column in columns]
    names = ",".join(cell(column.name) for column in columns)
    return "\n".join([names, *(",".join(row) for row in zip(*table, strict=True))])
