"""Frames that are files: CSV, Parquet, JSON, and snapshots of DuckDB relations. Calls duckdb, pyarrow and ``errors``.

They are read and written by connections of their own, in this process; the ledger's file is not touched. Promises: rows
come in the order of the files, and of the rows in each; at most `MEMORY` is held of a file of any size, but for rows
that do not fit; new columns stand beside the rows that they were made of; a file is there whole or not at all.
"""

from __future__ import annotations

import bisect
import contextlib
import fnmatch
import functools
import glob
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from ipyconvexai.errors import DiskFullError, InputError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Files", "Joined", "Results", "Scratch", "Snapshot", "Target", "format_of", "names_of", "write_arrow"]

MEMORY = "192MB"
GROUP_ROWS = 10_240  # of a row group that is written: DuckDB holds some of them
GROUP_BYTES = 16_000_000  # of new columns that wait to be written
COUNTED_BYTES = 300_000_000  # of CSV or JSON, which are counted by reading them: 1 s

_FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "lines", ".ndjson": "lines"}
_PACKED = {".gz": "gzip"}
_READERS = {"parquet": "read_parquet", "csv": "read_csv", "json": "read_json", "lines": "read_json"}
_WRITERS = {
    "parquet": f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {GROUP_ROWS}",
    "csv": "FORMAT csv, HEADER",
    "json": "FORMAT json, ARRAY true",
    "lines": "FORMAT json",
}
_NO_ROOM = ("No space left on device", "Disk quota exceeded", "File too large")
# What Parquet has no exact place for travels as text.
_AS_TEXT = ("HUGEINT", "INTERVAL", "TIME WITH TIME ZONE")


def format_of(path: str | os.PathLike[str]) -> str | None:
    """parquet, csv, json or lines (of JSON), by the name's end; None: none of these."""
    name = os.fspath(path).lower()
    stem, end = os.path.splitext(name)
    packed = end in _PACKED
    kind = _FORMATS.get(os.path.splitext(stem)[1] if packed else end)
    return None if packed and kind == "parquet" else kind


def _compression(path: Path) -> str:
    packing = _PACKED.get(path.suffix.lower())
    return f", COMPRESSION {packing}" if packing else ""


# ------------------------------------------------------------------------------------------------ the connection
def _connect(memory: str | None = MEMORY) -> duckdb.DuckDBPyConnection:
    """`memory`: None for DuckDB's own limit, most of the machine's."""
    config: dict[str, Any] = {
        "threads": 2,
        "temp_directory": str(_spills(os.getpid()).folder),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    if memory:
        config["memory_limit"] = memory
    connection = duckdb.connect(config=config)
    connection.execute("SET enable_progress_bar = false")  # it would write into the caller's output
    return connection


@functools.cache
def _spills(pid: int) -> Scratch:
    """Where DuckDB puts rows that do not fit into memory: in a folder of this process, and not where all can read."""
    return Scratch()


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """DuckDB's errors as ours; `what` is read or written."""
    try:
        yield
    except (duckdb.Error, OSError) as error:
        text = str(error).strip()
        if any(sign in text for sign in _NO_ROOM):
            raise DiskFullError(
                f"no room on the disk for {what}", cure="Free some space and run it again: what is answered is kept."
            ) from None
        line = next((line for line in text.splitlines() if line), type(error).__name__)
        raise InputError(
            f"{what} cannot be read or written: {line}", cure="Look at the file, or write it anew as Parquet."
        ) from error


def _text(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# ------------------------------------------------------------------------------------------------ reading
class Files:
    """Files of one format, one after the other, as one table; a column that one of them lacks is null there."""

    def __init__(self, paths: Sequence[str | os.PathLike[str]], description: str = "") -> None:
        self.paths = [Path(path) for path in paths]
        self.description = description or str(self.paths[0])
        self.format = format_of(self.paths[0])
        self._sizes = [path.stat().st_size for path in self.paths]
        self._starts: list[int] = []  # the first row of each file of which rows were read
        self._read_from: list[str] = []
        self._rows: int | None = None
        self._kinds: dict[str, str] = {}
        with _translated(self.description), _connect() as connection:
            described = connection.execute(f"DESCRIBE FROM {self._table}").fetchall()
        self._columns = [str(row[0]) for row in described]
        self._kinds = {str(row[0]): str(row[1]) for row in described}

    @property
    def columns(self) -> list[str]:
        return list(self._columns)

    @property
    def rows(self) -> int | None:
        """None: to count them would mean to read much."""
        packed = 5 if self.paths[0].suffix.lower() in _PACKED else 1
        if self._rows is None and (self.format == "parquet" or sum(self._sizes) * packed <= COUNTED_BYTES):
            self._rows = self._counted()
        return self._rows

    def _counted(self) -> int:
        with _translated(self.description), _connect() as connection:
            ((rows,),) = connection.execute(f"SELECT count(*) FROM {self._table}").fetchall()
        return int(rows)

    def stamp(self) -> str:
        """Names, sizes and times: another one, other data."""
        found = []
        for path in self.paths:
            try:
                state = path.stat()
            except OSError:
                found.append(f"{os.path.realpath(path)} gone")
            else:
                found.append(f"{os.path.realpath(path)} {state.st_size} {state.st_mtime_ns}")
        return "\n".join(found)

    def read(self, columns: Sequence[str], size: int) -> Generator[pa.RecordBatch, None, None]:
        """The columns in batches of at most `size` rows. To give it up, close it."""
        done = 0
        try:
            for batch in self._scan(columns, size, MEMORY):
                yield batch
                done += batch.num_rows
        except duckdb.OutOfMemoryException:  # long rows, or row groups of some program's that knew no measure
            for batch in self._scan(columns, size, None):
                skipped = min(batch.num_rows, done)
                done -= skipped
                if skipped < batch.num_rows:
                    yield batch.slice(skipped)

    def _scan(self, columns: Sequence[str], size: int, memory: str | None) -> Iterator[pa.RecordBatch]:
        many = len(self.paths) > 1 and "filename" not in self._columns
        wanted = ", ".join([*map(_name, columns), *(["filename"] if many else [])])
        row = 0
        connection = _connect(memory)
        try:
            with _reading(self.description):
                reader = connection.sql(f"SELECT {wanted} FROM {self._table}").to_arrow_reader(size)
            while True:
                with _reading(self.description):
                    try:
                        batch = reader.read_next_batch()
                    except StopIteration:
                        return
                if many:
                    self._note(batch.column(len(columns)), row)
                row += batch.num_rows
                yield batch
        finally:
            reader = None  # it holds the connection
            connection.close()

    def _note(self, names: pa.Array, row: int) -> None:
        """Keep where the rows of each file begin."""
        import pyarrow.compute as pc

        runs = pc.run_end_encode(names)
        begin = row
        for end, name in zip(runs.run_ends.to_pylist(), runs.values.to_pylist(), strict=True):
            if not self._starts or (begin > self._starts[-1] and name != self._read_from[-1]):
                self._starts.append(begin)
                self._read_from.append(name)
            begin = row + end

    def file_of(self, row: int) -> str:
        """The file that has the row, which was read."""
        at = bisect.bisect_right(self._starts, row) - 1
        return self._read_from[at] if at >= 0 else str(self.paths[0])

    @property
    def _table(self) -> str:
        # In a literal name nothing is a pattern.
        names = ", ".join(_text(glob.escape(str(path))) for path in self.paths)
        options = ", union_by_name = true" if len(self.paths) > 1 else ""
        if self.format == "csv":
            # By a sample the last row may be found not to fit when all is paid. All of it is 6 s for a gigabyte, once.
            found = ", ".join(f"{_text(name)}: {_text(kind)}" for name, kind in self._kinds.items())
            options += f", types = {{{found}}}" if found else ", sample_size = -1"
        if self.format == "lines":
            options += ", format = 'newline_delimited'"
        return f"{_READERS[self.format or 'csv']}([{names}]{options})"

    def join(self, results: Path, names: Sequence[str], nested: Sequence[str], target: Path, kind: str) -> int:
        """Write all columns with those of `results`, row by row, to `target`; gives the number of rows.

        Args:
            names: the new columns; one that the files have is replaced where it stands.
            nested: those of `names` that are lists or structs.
            kind: the format of `target`, which need not end in it.
        """
        try:
            return self._join(results, names, nested, target, kind, MEMORY)
        except duckdb.OutOfMemoryException:
            return self._join(results, names, nested, target, kind, None)

    def _join(
        self, results: Path, names: Sequence[str], nested: Sequence[str], target: Path, kind: str, memory: str | None
    ) -> int:
        def new(name: str) -> str:
            column = f"r.{_name(name)}"
            return f"to_json({column}) AS {_name(name)}" if name in nested and kind == "csv" else column

        left = {name.casefold(): name for name in names}  # SQL knows no case
        chosen = [
            new(left.pop(column.casefold())) if column.casefold() in left else f"f.{_name(column)}"
            for column in self._columns
        ]
        chosen += [new(name) for name in left.values()]
        # Both sides are scanned in their order, side by side.
        query = f"SELECT {', '.join(chosen)} FROM {self._table} f POSITIONAL JOIN read_parquet({_text(results)}) r"
        with _reading(self.description), _connect(memory) as connection:
            sql = f"COPY ({query}) TO {_text(target)} ({_WRITERS[kind]}{_compression(target)})"
            ((rows,),) = connection.execute(sql).fetchall()
        return int(rows)


@contextlib.contextmanager
def _reading(what: str) -> Iterator[None]:
    """As ``_translated``, but for a lack of memory, which is tried again with more."""
    try:
        with _translated(what):
            yield
    except InputError as error:
        if isinstance(error.__cause__, duckdb.OutOfMemoryException):
            raise error.__cause__ from None
        raise


def names_of(relation: Any) -> list[str]:
    """The columns of a DuckDB relation.

    Raises:
        InputError: it cannot be asked: its connection was closed, say.
    """
    with _translated("the relation"):
        return [str(name) for name in relation.columns]


class Snapshot(Files):
    """The rows of a DuckDB relation, run once: another run may give other rows, or another order."""

    def __init__(self, relation: Any, scratch: Scratch) -> None:
        self.relation = relation
        self._scratch = scratch  # its files live as long as this
        path = scratch.folder / "source.parquet"
        self._types = {str(name): str(kind) for name, kind in zip(relation.columns, relation.types, strict=True)}
        chosen = ", ".join(
            f"{_name(name)}::VARCHAR AS {_name(name)}" if any(word in kind for word in _AS_TEXT) else _name(name)
            for name, kind in self._types.items()
        )
        with _translated("the relation"):
            relation.query("source", f"SELECT {chosen} FROM source").write_parquet(
                str(path), row_group_size=GROUP_ROWS, compression="zstd"
            )
        super().__init__([path], "DuckDB relation")

    def restored(self, path: Path, new: Sequence[str]) -> Any:
        """The relation over `path`, on the connection of the one that was run, with the types that it had; the columns
        `new` have their own."""
        chosen = []
        with _translated("the results"):
            with _connect() as connection:
                found = connection.execute(f"DESCRIBE FROM read_parquet({_text(path)})").fetchall()
            for name, kind, *_ in found:
                wanted = kind if name in new else self._types.get(name, kind)
                chosen.append(_name(name) if wanted == kind else f"{_name(name)}::{wanted} AS {_name(name)}")
            return self.relation.query("source", f"SELECT {', '.join(chosen)} FROM read_parquet({_text(path)})")


# ------------------------------------------------------------------------------------------------ writing
class Scratch:
    """A private folder for files that nobody else sees; it goes with this object, or with the process."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ipyconvexai-"))
        self._gone = weakref.finalize(self, _remove, self.folder, os.getpid())

    def keep_with(self, owner: object) -> None:
        """Let it go with `owner` instead."""
        self._gone.detach()
        weakref.finalize(owner, _remove, self.folder, os.getpid())

    def remove(self) -> None:
        self._gone()


def _remove(folder: Path, pid: int) -> None:
    if os.getpid() == pid:  # a fork's end is not this process's
        shutil.rmtree(folder, ignore_errors=True)


class Results:
    """New columns on their way into a file, written as they come."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        import pyarrow.parquet as pq

        self.path = path
        self.rows = 0
        self._schema = schema
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = self._waiting_bytes = 0
        with _translated("the results"):
            self._writer = pq.ParquetWriter(path, schema)

    def write(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self.rows += batch.num_rows
        self._waiting_rows += batch.num_rows
        self._waiting_bytes += batch.nbytes
        if self._waiting_rows >= GROUP_ROWS or self._waiting_bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            with _translated("the results"):
                self._writer.write_table(pa.Table.from_batches(self._waiting, self._schema))
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0

    def close(self) -> None:
        self._flush()
        with _translated("the results"):
            self._writer.close()


class Joined:
    """The rows of some files with new columns beside them, in a private file, as a DuckDB relation."""

    def __init__(self, files: Files, scratch: Scratch) -> None:
        self._files = files
        self._scratch = scratch
        self.path = scratch.folder / "joined.parquet"

    def relation(self, new: Sequence[str] = ()) -> Any:
        """A relation of the connection that the rows came from; where they came from files, of DuckDB's default one.

        Args:
            new: columns that the rows did not have, or had with another type.
        """
        with _translated("the results"):
            if isinstance(self._files, Snapshot):
                found = self._files.restored(self.path, new)
            else:
                found = duckdb.default_connection().sql(f"SELECT * FROM read_parquet({_text(self.path)})")
        # What is made of the relation, a view among them, has the connection's life. It has no public name there; the
        # process's life is right where it is not found.
        self._scratch.keep_with(getattr(found, "_con", duckdb))
        return found


class Target:
    """A file to be written, in one piece at the end.

    Raises:
        InputError: no file can be written there, or it would replace what is read.
    """

    def __init__(self, path: str | os.PathLike[str], inputs: Sequence[Path] = (), pattern: str | None = None) -> None:
        self.path = Path(path).expanduser()
        kind = format_of(self.path)
        if kind is None:
            raise InputError(
                f"{self.path.name}: unknown kind of file", cure="Use a name that ends in .parquet, .csv or .jsonl."
            )
        if not self.path.parent.is_dir():
            raise InputError(f"there is no folder {self.path.parent}", cure="Make it, or name another.")
        if self.path.is_dir():
            raise InputError(f"{self.path} is a folder", cure="Name a file in it.")
        real = os.path.realpath(self.path)
        if any(os.path.realpath(other) == real or _is_same(other, self.path) for other in inputs):
            raise InputError(f"{self.path} is read by this batch", cure="Write to another file.")
        if pattern is not None and _finds(pattern, self.path):
            raise InputError(f"{self.path} would be read as one of {pattern}", cure="Write to another folder.")
        self.kind = kind
        ends = "".join(self.path.suffixes[-2:]) if self.path.suffix.lower() in _PACKED else self.path.suffix
        self.temporary = self.path.with_name(f".{self.path.stem[:60]}-{secrets.token_hex(4)}.tmp{ends}")

    def publish(self) -> Path:
        with _translated(str(self.path)):
            os.replace(self.temporary, self.path)
        return self.path

    def discard(self) -> None:
        self.temporary.unlink(missing_ok=True)


def _is_same(one: Path, other: Path) -> bool:
    """Whether both names lead to one file."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _finds(pattern: str, path: Path) -> bool:
    """Whether the pattern would find the file, were it there."""

    def match(parts: Sequence[str], patterns: Sequence[str]) -> bool:
        if not patterns:
            return not parts
        if patterns[0] == "**":  # any number of folders
            return any(match(parts[at:], patterns[1:]) for at in range(len(parts)))
        return bool(parts) and fnmatch.fnmatchcase(parts[0], patterns[0]) and match(parts[1:], patterns[1:])

    return match(Path(os.path.abspath(path)).parts, Path(os.path.abspath(pattern)).parts)


def write_arrow(table: pa.Table, target: Target) -> None:
    """Write a table to `target`, with the index that pandas noted in it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _translated(str(target.path)):
        if target.kind == "parquet":
            with _as_os_error():
                pq.write_table(table, target.temporary, row_group_size=122_880, compression="zstd")
            return
        chosen = [
            f"to_json({_name(field.name)}) AS {_name(field.name)}"
            if target.kind == "csv" and pa.types.is_nested(field.type)
            else _name(field.name)
            for field in table.schema
        ]
        with _connect(None) as connection:
            connection.register("written", table)
            sql = f"COPY (SELECT {', '.join(chosen)} FROM written) TO {_text(target.temporary)}"
            connection.execute(f"{sql} ({_WRITERS[target.kind]}{_compression(target.path)})")


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """pyarrow's own errors as one that is translated."""
    import pyarrow as pa

    try:
        yield
    except pa.ArrowException as error:
        raise OSError(str(error)) from error
