"""What a batch reads and what it gives back: the common part of frames, files and queries. Calls ``columns``.

    source = open_source(df)
    sink = source.sink([Output("summary")])
    for chunk in source.chunks(["text"], 1000):  # {"text": [...]}
        sink.write({"summary": [...]})
    result = sink.finish()

Promises: rows keep their order, and pandas its index; the same kind of frame comes back, with new columns at the end,
or in the place of those that have their names; what was given is not changed.
"""

from __future__ import annotations

import abc
import array
import difflib
import hashlib
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ipyconvexai.batch.columns import Output, array_of
from ipyconvexai.errors import InputError, UnknownColumnError

__all__ = ["Chunks", "Sink", "Source", "arrow_cells", "cells", "check_unique"]

FINGERPRINT_ROWS = 10_000
Chunks = Generator[dict[str, list[Any]], None, None]


class Source(abc.ABC):
    """Rows and named columns.

    Attributes:
        kind: "pandas DataFrame", "files", "query", ...
        description: in words: for files their path.
        columns: the names.
    """

    kind: str
    description: str
    columns: list[str]

    @property
    @abc.abstractmethod
    def rows(self) -> int | None:
        """None: not known before all are read."""

    @abc.abstractmethod
    def chunks(self, columns: Sequence[str], size: int) -> Chunks:
        """The columns' values, at most `size` rows at a time, as plain Python objects; missing ones are None.

        To give it up, close it.
        """

    @abc.abstractmethod
    def sink(self, outputs: Sequence[Output], path: str | os.PathLike[str] | None = None) -> Sink:
        """What takes the new columns; `path`: the result is written there, too; of files, only there.

        Raises:
            InputError: nothing can be written there.
        """

    @abc.abstractmethod
    def like(self, table: pa.Table, new: Sequence[str]) -> Any:
        """Other rows as the kind of frame that was given; of files, as a DuckDB relation. Columns that are not `new`
        have the types that they had."""

    def check(self, columns: Sequence[str]) -> None:
        """
        Raises:
            UnknownColumnError: one of `columns` is not there; with the nearest names.
        """
        for column in columns:
            if column not in self.columns:
                names = [str(name) for name in self.columns]
                near = difflib.get_close_matches(str(column), names, n=3)
                hint = f"Did you mean {', '.join(near)}? " if near else ""
                raise UnknownColumnError(
                    f"{self.description} has no column {column!r}",
                    cure=f"{hint}It has {', '.join(names) or 'no columns'}. Nothing was sent.",
                )

    def fingerprint(self, columns: Sequence[str] | None = None) -> str:
        """A hash of these columns, of all where None: equal rows in the same order have the same, in any process."""
        chosen = list(self.columns) if columns is None else list(columns)
        found = hashlib.blake2b(repr(chosen).encode(), digest_size=16)
        for chunk in self.chunks(chosen, FINGERPRINT_ROWS) if chosen else ():
            for values in chunk.values():
                texts = [value if type(value) is str else "" if value is None else repr(value) for value in values]
                lengths = [-1 if value is None else len(text) for value, text in zip(values, texts, strict=True)]
                found.update(array.array("q", lengths).tobytes())
                found.update("".join(texts).encode("utf-8", "surrogatepass"))
        return found.hexdigest()

    def locate(self, row: int) -> dict[str, Any] | None:
        """Where a row came from that was read, for ``documents.metadata``: {"file": ...}; None: there is no more to
        say than its number."""
        return None


class Sink(abc.ABC):
    """Takes the new columns chunk by chunk, in the order of the rows; ends with ``finish`` or ``discard``."""

    def __init__(self, outputs: Sequence[Output]) -> None:
        self.outputs = list(outputs)
        self.schema = pa.schema([(output.name, output.type) for output in outputs])
        self.rows = 0

    def write(self, values: Mapping[str, Sequence[Any]]) -> None:
        """A chunk: as many values of each column.

        Raises:
            InputError: one does not fit the column's type.
        """
        arrays = [array_of(output, values[output.name]) for output in self.outputs]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self.schema)
        self.rows += batch.num_rows
        self._take(batch)

    @abc.abstractmethod
    def _take(self, batch: pa.RecordBatch) -> None: ...

    @abc.abstractmethod
    def finish(self) -> Any:
        """The frame with its new columns; of files: a DuckDB relation, or the path that was asked for.

        Raises:
            InputError: not every row has its values, the files changed since, or the result cannot be written.
        """

    def discard(self) -> None:
        """Nothing is wanted any more."""
        self.outputs.clear()

    def _check_rows(self, rows: int | None) -> None:
        if rows is not None and rows != self.rows:
            raise InputError(
                f"{self.rows:,} rows have results, of {rows:,}",
                cure="Did the data change while they were read? Run it again: what is answered is not sent again.",
            )


# ------------------------------------------------------------------------------------------------ values
def cells(values: list[Any]) -> list[Any]:
    """As plain Python objects: NaN, NA and NaT as None, numpy's scalars as Python's, texts as ``str`` itself."""
    converters = {kind: convert for kind in set(map(type, values)) if (convert := _converter(kind)) is not None}
    if not converters:
        return values
    return [convert(value) if (convert := converters.get(type(value))) else value for value in values]


def _converter(kind: type) -> Callable[[Any], Any] | None:
    """How values of this type become plain; None: they are."""
    if kind in (str, int, bool, type(None), list, dict):
        return None
    if kind is float or kind.__name__ == "Decimal":
        return lambda value: value if value == value else None
    if kind.__name__ in ("NAType", "NaTType"):
        return lambda value: None
    if issubclass(kind, str):
        return str.__str__
    if kind.__name__ == "UUID":
        return str
    module = kind.__module__.partition(".")[0]
    if module == "numpy":
        return _of_numpy
    if module == "pandas" and kind.__name__ == "Timestamp":
        return lambda value: value.to_pydatetime(warn=False)
    if module == "pandas" and kind.__name__ == "Timedelta":
        return lambda value: value.to_pytimedelta()
    return None


def _of_numpy(value: Any) -> Any:
    name = type(value).__name__
    if name in ("datetime64", "timedelta64"):  # of nanoseconds, .item() would be a number
        value = value.astype(f"{name}[us]")
    plain = value.tolist() if hasattr(value, "tolist") else value
    return None if isinstance(plain, float) and plain != plain else plain


def arrow_cells(values: Any) -> list[Any]:
    """Of an Arrow array."""
    if pa.types.is_timestamp(values.type) and values.type.unit == "ns":  # Python's instants have no more than us
        values = values.cast(pa.timestamp("us", values.type.tz), safe=False)
    return cells(values.to_pylist())


def check_unique(columns: Sequence[Any]) -> None:
    seen = set()
    for column in columns:
        if column in seen:
            raise InputError(f"two columns have the name {column!r}", cure="Give each column a name of its own.")
        seen.add(column)
