"""Files and DuckDB relations as sources. Calls ``store.files``. Promise: they are never in memory as a whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ipyconvexai.batch.columns import Output
from ipyconvexai.batch.sources import Chunks, Sink, Source, arrow_cells, check_unique
from ipyconvexai.errors import InputError

if TYPE_CHECKING:
    from ipyconvexai.store.files import Files, Snapshot

__all__ = ["FileSource", "RelationSource"]

READ_ROWS = 2048  # at a time
CHUNK_BYTES = 16_000_000  # of a chunk, about


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
        column: [value for batch in batches for value in arrow_cells(batch.column(at))]
        for at, column in enumerate(columns)
    }


class RelationSource(Source):
    """A DuckDB relation. It is run once, when its rows are first wanted, into a file of this process's own."""

    kind = description = "DuckDB relation"

    def __init__(self, relation: Any) -> None:
        from ipyconvexai.store.files import names_of

        self._relation = relation
        self._kept: Snapshot | None = None
        self.columns = names_of(relation)
        check_unique([name.casefold() for name in self.columns])  # SQL knows no case

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
