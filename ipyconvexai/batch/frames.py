"""Frames in and out, through narwhals: pandas, polars (eager, lazy), pyarrow tables, DuckDB relations. Pure.

Promises: the same kind of frame comes back, with its order and index and new columns at the end.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import narwhals as nw
from narwhals.exceptions import NarwhalsError

from ipyconvexai.errors import InputError, UnknownColumnError

__all__ = ["column_of", "open_frame", "with_columns"]


def open_frame(native: Any) -> tuple[nw.DataFrame[Any], nw.LazyFrame[Any] | None]:
    """The frame with its rows at hand, and the lazy one that it came from, if it was lazy.

    Raises:
        InputError: `native` is no frame.
    """
    try:
        frame = nw.from_native(native)
    except TypeError:
        raise InputError(
            f"{type(native).__name__} is not a DataFrame",
            cure="Pass a pandas, polars or pyarrow frame or a DuckDB relation.",
        ) from None
    except NarwhalsError as error:  # two columns of one name, say
        raise InputError(f"this frame cannot be read: {error}", cure="Give each column a name of its own.") from None
    return (frame.collect(), frame) if isinstance(frame, nw.LazyFrame) else (frame, None)


def column_of(frame: nw.DataFrame[Any], column: str) -> list[Any]:
    """The column's values as Python objects; missing ones are None.

    Raises:
        UnknownColumnError: with the nearest names.
    """
    if column not in frame.columns:
        near = difflib.get_close_matches(str(column), [str(name) for name in frame.columns], n=3)
        hint = f"Did you mean {', '.join(near)}? " if near else ""
        raise UnknownColumnError(
            f"the frame has no column {column!r}",
            cure=f"{hint}It has {', '.join(map(str, frame.columns))}. Nothing was sent.",
        )
    series = frame.get_column(column)
    missing = series.is_null().to_list()
    return [
        None if gone or _is_missing(value) else _plain(value)
        for value, gone in zip(series.to_list(), missing, strict=True)
    ]


def _plain(value: Any) -> Any:
    """A text as ``str`` itself: numpy has one of its own, which does not travel."""
    return str(value) if isinstance(value, str) else value


def _is_missing(value: Any) -> bool:
    """What pandas puts into columns of objects for "nothing": NaN, NA, NaT."""
    return (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in ("NAType", "NaTType")


def with_columns(
    frame: nw.DataFrame[Any], lazy: nw.LazyFrame[Any] | None, columns: Mapping[str, Sequence[str | None]]
) -> Any:
    """The native frame with text columns added, or replaced where they are there already."""
    series = [
        nw.new_series(name, list(values), dtype=nw.String(), backend=frame.implementation)
        for name, values in columns.items()
    ]
    result = frame.with_columns(*series)
    return result.to_native() if lazy is None else result.lazy(backend=lazy.implementation).to_native()
