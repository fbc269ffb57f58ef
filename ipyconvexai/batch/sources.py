"""What a batch reads and what it gives back: frames, files and queries. Calls the app, ``store.files`` and narwhals.

    source = open_source(df)
    sink = source.sink([Output("summary")])
    for chunk in source.chunks(["text"], 1000):  # {"text": [...]}
        sink.write({"summary": [...]})
    result = sink.finish()

Promises: rows keep their order, and pandas its index; the same kind of frame comes back, with new columns at the end,
or in the place of those that have their names; what was given is not changed. Files and DuckDB relations stream: they
are never in memory as a whole.
"""

from __future__ import annotations

import abc
import array
import contextlib
import difflib
import glob
import hashlib
import io
import os
import re
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ipyconvexai.batch.columns import Output, array_of
from ipyconvexai.errors import InputError, UnknownColumnError
from ipyconvexai.relation import Relation

if TYPE_CHECKING:
    from ipyconvexai.store.files import Files, Snapshot

__all__ = ["Sink", "Source", "cells", "open_source"]

FINGERPRINT_ROWS = 10_000
READ_ROWS = 2048  # at a time, of a file
CHUNK_BYTES = 16_000_000  # of a chunk from a file, about
Chunks = Generator[dict[str, list[Any]], None, None]
_SQL = re.compile(r"\s*(?:SELECT|WITH|FROM)\b", re.IGNORECASE)
_PATTERN = re.compile(r"[*?\[]")
_CURE = (
    "Pass a pandas, polars or pyarrow frame, a DuckDB relation, a path or pattern of .csv, .parquet or .jsonl files, "
    "or a SELECT over the ledger."
)


def open_source(data: Any) -> Source:
    """The rows of a frame, of files (a path, a pattern, or a list of paths), or of a query over the ledger.

    Raises:
        InputError: it is none of these, or two of its columns have one name.
        QueryError: wrong SQL.
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, str) and _SQL.match(data):
        return _of_query(data)
    if isinstance(data, str | os.PathLike):
        return _of_pattern(data)
    if isinstance(data, list | tuple) and data and all(isinstance(one, str | os.PathLike) for one in data):
        return _of_paths(data)
    source = _of_frame(data)
    _check_unique(source.columns)
    return source


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


def _arrow_cells(values: Any) -> list[Any]:
    """Of an Arrow array."""
    if pa.types.is_timestamp(values.type) and values.type.unit == "ns":  # Python's instants have no more than us
        values = values.cast(pa.timestamp("us", values.type.tz), safe=False)
    return cells(values.to_pylist())


def _check_unique(columns: Sequence[Any]) -> None:
    seen = set()
    for column in columns:
        if column in seen:
            raise InputError(f"two columns have the name {column!r}", cure="Give each column a name of its own.")
        seen.add(column)


# ------------------------------------------------------------------------------------------------ frames in memory
def _of_frame(data: Any) -> Source:
    if isinstance(data, Relation):
        return ArrowSource(data.arrow(), "ledger relation", _as_relation)
    if isinstance(data, pa.Table):
        return ArrowSource(data, "pyarrow Table")
    if isinstance(data, pa.RecordBatch):
        return ArrowSource(pa.Table.from_batches([data]), "pyarrow RecordBatch", _as_batch)
    if isinstance(data, pa.RecordBatchReader):
        return ArrowSource(data.read_all(), "pyarrow RecordBatchReader", pa.Table.to_reader)
    if _is(data, "pandas", "DataFrame"):
        return PandasSource(data)
    if type(data).__name__ == "DuckDBPyRelation":
        return RelationSource(data)
    return _of_narwhals(data)


def _is(value: Any, module: str, name: str) -> bool:
    """Whether it is of this class, which is not imported for that."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def _as_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema)


def _as_relation(table: pa.Table) -> Relation:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return Relation(sink.getvalue())


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
        return _arrow_cells(self._table.column(column).slice(start, size))

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


def _of_narwhals(data: Any) -> Source:
    import narwhals as nw
    from narwhals.exceptions import NarwhalsError

    try:
        frame = nw.from_native(data)
    except TypeError:
        cure = _CURE
        if _is(data, "pandas", "Series") or _is(data, "polars", "Series"):
            cure = 'Make it a frame: .to_frame("text").'
        elif isinstance(data, list | tuple):
            cure = 'Make it a frame: pd.DataFrame({"text": [...]}).'
        raise InputError(f"{type(data).__name__} is not a DataFrame", cure=cure) from None
    except NarwhalsError as error:  # two columns of one name, say
        raise InputError(f"this frame cannot be read: {error}", cure="Give each column a name of its own.") from None
    if isinstance(frame, nw.LazyFrame) and frame.implementation is not nw.Implementation.POLARS:
        raise InputError(f"{type(data).__name__} computes elsewhere", cure="Collect it into a DataFrame first.")
    return NarwhalsSource(frame)


class NarwhalsSource(FrameSource):
    """polars, eager or lazy, and whatever else narwhals reads. A lazy frame is collected once, and lazy again at the
    end."""

    def __init__(self, frame: Any) -> None:
        import narwhals as nw

        self._lazy = isinstance(frame, nw.LazyFrame)
        self._frame: nw.DataFrame[Any] = frame.collect() if self._lazy else frame
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


# ------------------------------------------------------------------------------------------------ queries
def _of_query(sql: str) -> Source:
    from ipyconvexai.application import app

    source = ArrowSource(app().ledger.select(sql, {}).arrow(), "query", _as_relation)
    source.description = " ".join(sql.split())
    _check_unique(source.columns)
    return source


# ------------------------------------------------------------------------------------------------ files, relations
def _of_pattern(path: str | os.PathLike[str]) -> Source:
    given = os.path.expanduser(os.fspath(path))
    if not isinstance(given, str):
        raise InputError("a path of bytes", cure=_CURE)
    if os.path.isdir(given):
        raise InputError(f"{given} is a folder", cure=f"Name its files: {os.path.join(given, '*.parquet')!r}, say.")
    if _PATTERN.search(given) and not os.path.exists(given):
        found = sorted(name for name in glob.glob(given, recursive=True) if os.path.isfile(name))
        if not found:
            raise InputError(f"no file is found by {given}", cure="Look at the folder, or mend the pattern.")
        return FileSource(found, os.fspath(path), pattern=given)
    _check_path(given)
    return FileSource([given], os.fspath(path))


def _of_paths(paths: Sequence[Any]) -> Source:
    given = [os.path.expanduser(os.fspath(path)) for path in paths]
    for path in given:
        _check_path(path)
    return FileSource(given, f"{given[0]} and {len(given) - 1} more" if len(given) > 1 else given[0])


def _check_path(path: str) -> None:
    from ipyconvexai.store.files import format_of

    if os.path.isfile(path):
        return
    if format_of(path) is None:  # some text
        shown = path if len(path) <= 60 else f"{path[:59]}…"
        raise InputError(f"{shown!r} is neither a file nor a SELECT", cure=_CURE)
    try:
        near = difflib.get_close_matches(os.path.basename(path), os.listdir(os.path.dirname(path) or "."), n=3)
    except OSError:
        near = []
    hint = f"Did you mean {', '.join(near)}? " if near else ""
    raise InputError(f"there is no file {path}", cure=f"{hint}The current folder is {os.getcwd()}.")


class FileSource(Source):
    """Files of one format."""

    kind = "files"

    def __init__(self, paths: Sequence[str], description: str, pattern: str | None = None) -> None:
        from ipyconvexai.store.files import Files, format_of

        formats = {format_of(path) for path in paths}
        if None in formats or len(formats) > 1:
            odd = next((path for path in paths if format_of(path) is None), None)
            what = f"{odd} is neither CSV nor Parquet nor JSON" if odd else "the files are of several formats"
            raise InputError(what, cure="Name files that end alike, in .csv, .parquet, .json, .jsonl or .ndjson.")
        self._files = Files(paths, description)
        self._pattern = pattern
        self._stamp = self._files.stamp()
        self.description = description
        self.columns = self._files.columns

    @property
    def rows(self) -> int | None:
        return self._files.rows

    def chunks(self, columns: Sequence[str], size: int) -> Chunks:
        yield from _chunks_of(self._files, columns, size)

    def fingerprint(self, columns: Sequence[str] | None = None) -> str:
        """Of the files' names, sizes and times: they are not read for that."""
        return hashlib.blake2b(self._files.stamp().encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()

    def locate(self, row: int) -> dict[str, Any] | None:
        return {"file": self._files.file_of(row)}

    def sink(self, outputs: Sequence[Output], path: str | os.PathLike[str] | None = None) -> Sink:
        from ipyconvexai.store.files import Target

        target = None if path is None else Target(path, self._files.paths, self._pattern)
        return FileSink(outputs, self._files, target, self._stamp)

    def like(self, table: pa.Table, new: Sequence[str]) -> Any:
        return _related(self._files, table, new)


def _related(files: Files, table: pa.Table, new: Sequence[str]) -> Any:
    """A DuckDB relation of other rows, where that of `files` is."""
    import pyarrow.parquet as pq

    from ipyconvexai.store.files import Joined, Scratch

    joined = Joined(files, Scratch())
    pq.write_table(table, joined.path)
    return joined.relation(new)


def _chunks_of(files: Files, columns: Sequence[str], size: int) -> Chunks:
    """Read in small batches, as nobody knows how long the texts are; a chunk ends early where they are."""
    with contextlib.closing(files.read(columns, min(size, READ_ROWS))) as batches:
        waiting: list[pa.RecordBatch] = []
        for batch in batches:
            if waiting and sum(one.num_rows for one in waiting) + batch.num_rows > size:
                yield _chunk_of(waiting, columns)
                waiting = []
            waiting.append(batch)
            if sum(one.nbytes for one in waiting) >= CHUNK_BYTES:
                yield _chunk_of(waiting, columns)
                waiting = []
        if waiting:
            yield _chunk_of(waiting, columns)


def _chunk_of(batches: list[pa.RecordBatch], columns: Sequence[str]) -> dict[str, list[Any]]:
    return {
        column: [value for batch in batches for value in _arrow_cells(batch.column(at))]
        for at, column in enumerate(columns)
    }


class RelationSource(Source):
    """A DuckDB relation. It is run once, when its rows are first wanted, into a file of this process's own."""

    kind = description = "DuckDB relation"

    def __init__(self, relation: Any) -> None:
        self._relation = relation
        self._kept: Snapshot | None = None
        self.columns = [str(name) for name in relation.columns]
        _check_unique([name.casefold() for name in self.columns])  # SQL knows no case

    @property
    def _snapshot(self) -> Snapshot:
        if self._kept is None:
            from ipyconvexai.store.files import Scratch, Snapshot

            self._kept = Snapshot(self._relation, Scratch())
        return self._kept

    @property
    def rows(self) -> int | None:
        return self._snapshot.rows

    def chunks(self, columns: Sequence[str], size: int) -> Chunks:
        yield from _chunks_of(self._snapshot, columns, size)

    def sink(self, outputs: Sequence[Output], path: str | os.PathLike[str] | None = None) -> Sink:
        from ipyconvexai.store.files import Target

        target = None if path is None else Target(path)
        return FileSink(outputs, self._snapshot, target, None)

    def like(self, table: pa.Table, new: Sequence[str]) -> Any:
        return _related(self._snapshot, table, new)


class FileSink(Sink):
    """Keeps the new columns in a file, and writes them beside their rows at the end.

    Files give the path, if one was asked for, a relation always a relation.
    """

    def __init__(self, outputs: Sequence[Output], files: Files, target: Any, stamp: str | None) -> None:
        from ipyconvexai.store.files import Results, Scratch

        super().__init__(outputs)
        self._files = files
        self._target = target
        self._stamp = stamp
        self._scratch = Scratch()
        self._results = Results(self._scratch.folder / "results.parquet", self.schema)

    def _take(self, batch: pa.RecordBatch) -> None:
        self._results.write(batch)

    def finish(self) -> Any:
        self._results.close()
        try:
            if self._target is None:
                return self._relation()
            self._join(self._target.temporary, self._target.kind)
            path: Path = self._target.publish()
            return path if self._stamp is not None else self._relation()
        finally:
            self._results.path.unlink(missing_ok=True)
            if self._target is not None:
                self._target.discard()

    def _relation(self) -> Any:
        from ipyconvexai.store.files import Joined

        joined = Joined(self._files, self._scratch)
        self._join(joined.path, "parquet")
        return joined.relation([output.name for output in self.outputs])

    def _join(self, path: Path, kind: str) -> None:
        names = [output.name for output in self.outputs]
        nested = [output.name for output in self.outputs if pa.types.is_nested(output.type)]
        if self._stamp is not None and self._files.stamp() != self._stamp:
            raise InputError(
                f"{self._files.description} changed while it was read",
                cure="Run it again: what is answered is not sent again.",
            )
        self._check_rows(self._files.join(self._results.path, names, nested, path, kind))

    def discard(self) -> None:
        super().discard()
        with contextlib.suppress(InputError):
            self._results.close()
        self._scratch.remove()
        if self._target is not None:
            self._target.discard()
