"""Rows of a frame, kept in the ledger for a batch that runs later, and read back. Calls narwhals and the store.

A frame is written as parts: Arrow IPC streams of a few megabytes, compressed, each in a transaction of its own, so that
nobody waits for long. Promises: the same kind of frame comes back, a pandas index with it; rows that hold a key are
refused; what no job needs any more is forgotten.
"""

from __future__ import annotations

import datetime
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import narwhals as nw
from narwhals.exceptions import NarwhalsError

from ipyconvexai.errors import InputError, NotFoundError, TransactionError
from ipyconvexai.settings import redact_bytes
from ipyconvexai.store.link import Store

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["as_table", "columns_of", "forget_unused", "keep", "native", "read_back"]

PART_SIZE = 4_000_000  # bytes of a part, about, before it is compressed
MOST_PART_ROWS = 100_000
WRITES = 5  # tries of a part whose commit may have been lost
UNUSED_FOR = datetime.timedelta(hours=1)  # a frame is written before the job that it is for

_LAZY = "lazy "
_PANDAS = "pandas"


def columns_of(frame: Any) -> list[Any]:
    """Their names; those of pandas may be numbers.

    Raises:
        InputError: it is no frame.
    """
    return list(_opened(frame).collect_schema().names())


def as_table(frame: Any, columns: Sequence[Any]) -> tuple[str, pa.Table]:
    """The kind of the frame, for ``native``, and these columns of it.

    Raises:
        InputError: it is no frame, or a column holds values of several types.
    """
    import pyarrow as pa

    opened = _opened(frame)
    kind = str(opened.implementation).removeprefix("Implementation.").lower()
    chosen = opened.select(*map(nw.col, columns))
    try:
        if isinstance(chosen, nw.LazyFrame):
            return f"{_LAZY}{kind}", chosen.collect().to_arrow()
        if kind == _PANDAS:  # with its index, as narwhals would not
            return kind, pa.Table.from_pandas(chosen.to_native())
        return kind, chosen.to_arrow()
    except (pa.ArrowException, TypeError, ValueError, NarwhalsError) as error:
        words = " ".join(str(error).split())[:200]
        raise InputError(
            f"these rows cannot be kept for later: {words}",
            cure="A column must hold values of one type; or write them to a Parquet file, and schedule its path.",
        ) from None


def native(kind: str, table: pa.Table) -> Any:
    """`table` as the kind of frame that ``as_table`` told."""
    if kind == _PANDAS:
        return table.to_pandas()
    lazy = kind.startswith(_LAZY)
    backend = kind.removeprefix(_LAZY)
    if not lazy:
        return nw.from_arrow(table, backend=backend).to_native()  # type: ignore[arg-type] # a name that narwhals gave
    return nw.from_native(table).lazy(backend=backend).to_native()


def _opened(frame: Any) -> nw.DataFrame[Any] | nw.LazyFrame[Any]:
    try:
        opened: nw.DataFrame[Any] | nw.LazyFrame[Any] = nw.from_native(frame)
    except TypeError:
        raise InputError(
            f"{type(frame).__name__} is not a DataFrame",
            cure="Pass a pandas, polars or pyarrow frame, a DuckDB relation, a path, SQL, or an @ai.query function.",
        ) from None
    except NarwhalsError as error:  # two columns of one name, say
        raise InputError(f"this frame cannot be read: {error}", cure="Give each column a name of its own.") from None
    return opened


# ---------------------------------------------------------------------------------------------- kept
def keep(store: Store, key: str, table: pa.Table) -> int:
    """Write the rows under the id `key`; gives the number of parts. Blocking.

    Raises:
        InputError: they hold a key; nothing of them is written.
    """
    for batch in _parts_of(table):  # all of them first: what is refused leaves nothing behind
        plain = _stream(batch, None)
        if redact_bytes(plain) != plain:
            raise InputError(
                "a row holds a key, and rows that are kept for later are written down",
                cure="Take it out, or write the rows to a file of yours, and schedule its path.",
            )
    count = 0
    for part, batch in enumerate(_parts_of(table)):
        _write(store, key, part, _stream(batch, "zstd"))
        count += 1
    return count


def _parts_of(table: pa.Table) -> Iterator[pa.Table]:
    """At least one, so that an empty frame keeps its columns."""
    rows = max(1, table.num_rows)
    size = max(1, min(MOST_PART_ROWS, rows * PART_SIZE // max(table.nbytes, 1)))
    for start in range(0, rows, size):
        yield table.slice(start, size)


def _stream(table: pa.Table, compression: str | None) -> bytes:
    import pyarrow as pa

    sink = io.BytesIO()
    # A slice still has the whole buffers; only the writer cuts them.
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as stream:
        stream.write_table(table)
    return sink.getvalue()


def _write(store: Store, key: str, part: int, data: bytes) -> None:
    """Of a lost commit one does not know whether it was kept: the part is looked for before it is written again."""
    for tries in range(WRITES):
        try:
            with store.transaction() as execute:
                there = "SELECT 1 FROM batch_frames WHERE batch_id = ?::UUID AND part = ?"
                if not (tries and execute(there, [key, part])):
                    execute.later("INSERT INTO batch_frames (batch_id, part, data) VALUES (?, ?, ?)", [key, part, data])
        except TransactionError:
            if tries == WRITES - 1:
                raise
        else:
            return


def read_back(store: Store, key: str) -> pa.Table:
    """The rows that were kept under `key`. Blocking.

    Raises:
        NotFoundError: they were removed.
    """
    import pyarrow as pa

    parts = []
    for part in range(store.read("SELECT count(*) FROM batch_frames WHERE batch_id = ?::UUID", [key])[0][0]):
        sql = "SELECT data FROM batch_frames WHERE batch_id = ?::UUID AND part = ?"
        if not (found := store.read(sql, [key, part])):
            break
        parts.append(pa.ipc.open_stream(found[0][0]).read_all())
    if not parts:
        raise NotFoundError(
            "the rows that were kept for this batch were removed",
            cure="What was answered is in the view batch_results; to run it again, schedule it again.",
        )
    return pa.concat_tables(parts)


_USED = "EXISTS (SELECT 1 FROM {table} WHERE contains(args, f.batch_id::VARCHAR){also})"
_UNUSED = f"""
DELETE FROM batch_frames f WHERE uuid_extract_timestamp(f.batch_id) < ?::TIMESTAMP::TIMESTAMPTZ
  AND NOT {_USED.format(table="scheduled_functions", also="")}
  AND NOT {_USED.format(table="crons", also=" AND next_time IS NOT NULL")}
"""


def forget_unused(store: Store, now: datetime.datetime) -> None:
    """Remove frames of jobs that are gone from the ledger and of crons that were stopped. Blocking."""
    with store.transaction() as execute:
        execute.later(_UNUSED, [now - UNUSED_FOR])
