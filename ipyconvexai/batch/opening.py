"""The source that is meant by what a user passes: a frame, files, a query. Calls ``frames``, ``files`` and the app."""

from __future__ import annotations

import difflib
import glob
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ipyconvexai.batch.files import FileSource, RelationSource
from ipyconvexai.batch.frames import ArrowSource, NarwhalsSource, PandasSource
from ipyconvexai.batch.sources import Source, check_unique
from ipyconvexai.errors import InputError
from ipyconvexai.relation import Relation

__all__ = ["open_source"]

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
    check_unique(source.columns)
    return source


def _of_frame(data: Any) -> Source:
    if isinstance(data, Relation):
        return ArrowSource(data.arrow(), "ledger relation", Relation.of_table)
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


def _of_query(sql: str) -> Source:
    from ipyconvexai.application import app

    source = ArrowSource(app().ledger.select(sql, {}).arrow(), "query", Relation.of_table)
    source.description = " ".join(sql.split())
    check_unique(source.columns)
    return source


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
    from ipyconvexai.store.files import format_of

    given = [os.path.expanduser(os.fspath(path)) for path in paths]
    if format_of(given[0]) is None and not os.path.exists(given[0]):
        raise InputError(
            "a list is neither a frame nor a list of files", cure='Make it a frame: pd.DataFrame({"text": texts}).'
        )
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
