"""Frames in memory as sources: pyarrow's and pandas' by their own means, polars' and others' through narwhals."""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from ipyconvexai.batch.columns import Output
from ipyconvexai.batch.sources import Chunks, Sink, Source, arrow_cells, cells
from ipyconvexai.errors import InputError

__all__ = ["ArrowSource", "FrameSource", "NarwhalsSource", "PandasSource"]


class FrameSource(Source):
    """A frame that is in memory."""

    def __init__(self, kind: str, columns: Sequence[Any], rows: int) -> None:
        self.kind = self.description = kind
        self.columns = list(columns)
        self._rows = rows

    @property
    def rows(self) -> int:
        return self._rows

    def chunks(self, columns: Sequence[str], size: int) -> Chunks:
        for start in range(0, self._rows, size):
            yield {column: self._cells(column, start, size) for column in columns}

    def sink(self, outputs: Sequence[Output], path: str | os.PathLike[str] | None = None) -> Sink:
        return FrameSink(self, outputs, path)

    @abc.abstractmethod
    def _cells(self, column: str, start: int, size: int) -> list[Any]: ...

    @abc.abstractmethod
    def with_columns(self, new: pa.Table) -> Any:
        """The frame with these columns, one value for each of its rows."""

    @abc.abstractmethod
    def as_arrow(self, frame: Any) -> pa.Table:
        """What ``with_columns`` gave, to be written to a file."""


class FrameSink(Sink):
    def __init__(self, source: FrameSource, outputs: Sequence[Output], path: str | os.PathLike[str] | None) -> None:
        super().__init__(outputs)
        self._source = source
        self._batches: list[pa.RecordBatch] = []
        self._target = None
        if path is not None:
            from ipyconvexai.store.files import Target

            self._target = Target(path)

    def _take(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch)

    def finish(self) -> Any:
        self._check_rows(self._source.rows)
        frame = self._source.with_columns(pa.Table.from_batches(self._batches, self.schema))
        if self._target is not None:
            from ipyconvexai.store.files import write_arrow

            try:
                write_arrow(self._to_arrow(frame), self._target)
                self._target.publish()
            finally:
                self._target.discard()
        return frame

    def _to_arrow(self, frame: Any) -> pa.Table:
        try:
            return self._source.as_arrow(frame)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise InputError(
                f"the frame cannot be written to a file: {error}",
                cure="Run it again without output=, and write it yourself: what is answered is not sent again.",
            ) from None

    def discard(self) -> None:
        super().discard()
        self._batches.clear()


class ArrowSource(FrameSource):
    """`back` makes of the resulting table what was given."""

    def __init__(self, table: pa.Table, kind: str, back: Callable[[pa.Table], Any] | None = None) -> None:
        super().__init__(kind, table.column_names, table.num_rows)
        self._table = self._made = table
        self._back = back

    def _cells(self, column: str, start: int, size: int) -> list[Any]:
        return arrow_cells(self._table.column(column).slice(start, size))

    def with_columns(self, new: pa.Table) -> Any:
        table = self._table
        for field in new.schema:
            at = table.schema.get_field_index(field.name)
            values = new.column(field.name)
            table = table.append_column(field, values) if at < 0 else table.set_column(at, field, values)
        return self.like(table, new.column_names)

    def like(self, table: pa.Table, new: Sequence[str]) -> Any:
        self._made = table
        return table if self._back is None else self._back(table)

    def as_arrow(self, frame: Any) -> pa.Table:
        return self._made  # a reader can be read once only, and that is the user's turn


class PandasSource(FrameSource):
    """By pandas itself: narwhals has neither its index nor its types of columns that may be null."""

    def __init__(self, frame: Any) -> None:
        super().__init__("pandas DataFrame", frame.columns, len(frame))
        self._frame = frame

    def _cells(self, column: str, start: int, size: int) -> list[Any]:
        return cells(self._frame[column].iloc[start : start + size].tolist())

    def with_columns(self, new: pa.Table) -> Any:
        frame = self._frame.copy(deep=False)
        for name in new.column_names:
            frame[name] = _pandas_series(new.column(name), frame.index)
        return frame

    def like(self, table: pa.Table, new: Sequence[str]) -> Any:
        import pandas as pd

        index = pd.RangeIndex(table.num_rows)
        return pd.DataFrame({name: _pandas_series(table.column(name), index) for name in table.column_names})

    def as_arrow(self, frame: Any) -> pa.Table:
        plain = type(frame.index).__name__ == "RangeIndex"
        return pa.Table.from_pandas(frame, preserve_index=None if plain else True)


def _pandas_series(values: pa.ChunkedArray, index: Any) -> Any:
    """Whole numbers and booleans with nulls in pandas' own types for that; lists and structs as Python's."""
    import pandas as pd

    if pa.types.is_nested(values.type):
        series = pd.Series(values.to_pylist(), dtype=object)
    elif values.null_count and pa.types.is_integer(values.type):
        series = values.to_pandas(types_mapper={values.type: pd.Int64Dtype()}.get)
    elif values.null_count and pa.types.is_boolean(values.type):
        series = values.to_pandas(types_mapper={values.type: pd.BooleanDtype()}.get)
    else:
        series = values.to_pandas()
    series.index = index
    return series


class NarwhalsSource(FrameSource):
    """polars, eager or lazy, and whatever else narwhals reads. A lazy frame is collected once, and lazy again at the
    end."""

    def __init__(self, frame: Any) -> None:
        import narwhals as nw

        self._lazy = isinstance(frame, nw.LazyFrame)
        try:
            self._frame: nw.DataFrame[Any] = frame.collect() if self._lazy else frame
        except Exception as error:  # of whatever was put off until now
            reason = f"{type(error).__name__}: {error}"[:300]
            raise InputError(f"the lazy frame cannot be collected: {reason}", cure="Collect it, and mend it.") from None
        kind = str(frame.implementation).removeprefix("Implementation.").lower()
        super().__init__(f"{kind} {'LazyFrame' if self._lazy else 'DataFrame'}", frame.columns, len(self._frame))

    @property
    def _backend(self) -> Any:
        return self._frame.implementation

    def _cells(self, column: str, start: int, size: int) -> list[Any]:
        series = self._frame.get_column(column)[start : start + size]
        return cells(series.to_list())

    def with_columns(self, new: pa.Table) -> Any:
        import narwhals as nw

        added = nw.DataFrame.from_arrow(new, backend=self._backend)
        return self._native(self._frame.with_columns(*added.iter_columns()))

    def like(self, table: pa.Table, new: Sequence[str]) -> Any:
        import narwhals as nw

        return self._native(nw.DataFrame.from_arrow(table, backend=self._backend))

    def _native(self, frame: Any) -> Any:
        return frame.lazy(backend=self._backend).to_native() if self._lazy else frame.to_native()

    def as_arrow(self, frame: Any) -> pa.Table:
        import narwhals as nw

        found = nw.from_native(frame)
        return (found.collect() if isinstance(found, nw.LazyFrame) else found).to_arrow()
