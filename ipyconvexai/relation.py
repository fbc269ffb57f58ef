"""What the ledger returns: a table that becomes any kind of frame and draws itself. Floor 2: calls render.

The result is held as an Arrow IPC stream; pyarrow is imported when the first row is looked at.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

__all__ = ["Relation"]

SHOWN_ROWS = 50


class Relation:
    """Rows and named columns; instants are UTC.

    ``.df()`` pandas, ``.pl()`` polars, ``.arrow()`` a pyarrow table, ``.fetchall()`` a list of tuples.
    """

    def __init__(self, data: bytes, *, caption: str = "", shown: Sequence[str] | None = None) -> None:
        """`data` is an Arrow IPC stream; `shown` are the columns that are drawn, all of them where it is None."""
        self._data = data
        self._caption = caption
        self._shown = shown
        self._table: pa.Table | None = None

    @classmethod
    def of_rows(cls, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, caption: str = "") -> Relation:
        """Rows of plain values; those of one column have one type, or are None."""
        import pyarrow as pa

        table = pa.table({name: [row[index] for row in rows] for index, name in enumerate(columns)})
        return cls.of_table(table, caption=caption)

    @classmethod
    def of_table(cls, table: pa.Table, *, caption: str = "") -> Relation:
        """Of a pyarrow table."""
        import pyarrow as pa

        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return cls(sink.getvalue(), caption=caption)

    def arrow(self) -> pa.Table:
        if self._table is None:
            import pyarrow as pa

            self._table = pa.ipc.open_stream(self._data).read_all()
        return self._table

    def df(self) -> pd.DataFrame:
        frame: pd.DataFrame = self.arrow().to_pandas()
        return frame

    def pl(self) -> pl.DataFrame:
        import polars as pl

        frame = pl.from_arrow(self.arrow())
        assert isinstance(frame, pl.DataFrame)
        return frame

    def fetchall(self) -> list[tuple[Any, ...]]:
        columns = [_plain(column) for column in self.arrow().columns]
        return list(zip(*columns, strict=True)) if columns else []

    @property
    def columns(self) -> list[str]:
        return list(self.arrow().column_names)

    def __len__(self) -> int:
        return int(self.arrow().num_rows)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.fetchall())

    def _drawn(self) -> dict[str, Any]:
        """The arguments of a drawn table."""
        head = self.arrow().slice(0, SHOWN_ROWS)
        if self._shown is not None:
            head = head.select(self._shown)
        columns = [_plain(column) for column in head.columns]
        return {
            "columns": head.column_names,
            "rows": list(zip(*columns, strict=True)) if columns else [],
            "caption": self._caption,
            "more": max(0, len(self) - SHOWN_ROWS),
        }

    def __repr__(self) -> str:
        from ipyconvexai import render

        return render.table_text(**self._drawn())

    def _repr_html_(self) -> str:
        from ipyconvexai import render

        return render.table_html(**self._drawn())


def _plain(column: Any) -> list[Any]:
    """Python values; UUIDs as text (Arrow has them as 16 bytes with an extension type)."""
    return [str(value) if type(value).__name__ == "UUID" else value for value in column.to_pylist()]
