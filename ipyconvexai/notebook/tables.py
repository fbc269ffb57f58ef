"""Rows that a command shows. Calls render. Promises: nothing that they say becomes markup."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Table"]


class Table:
    """Rows that draw themselves through render: what they hold may come from a server."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str) -> None:
        self._parts = (columns, rows)
        self._caption = caption

    def __repr__(self) -> str:
        from ipyconvexai import render

        return render.table_text(*self._parts, caption=self._caption)

    def _repr_html_(self) -> str:
        from ipyconvexai import render

        return render.table_html(*self._parts, caption=self._caption)
