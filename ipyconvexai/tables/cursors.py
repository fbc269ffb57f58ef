"""A position in an index as an opaque text: where a page ended, and the next one begins. Calls the room's ranges.

Promises: a cursor of another query, or one that was changed, is an error and never a wrong page.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import uuid
from typing import Any

from ipyconvexai.errors import DocumentError
from ipyconvexai.tables.columns import Column
from ipyconvexai.tables.ranges import Range

__all__ = ["decode", "encode"]


def encode(span: Range, descending: bool, position: list[Any] | None) -> str:
    """The cursor of a position (values of ``span.order``; None: before the first document)."""
    plain = None if position is None else [_plain(value) for value in position]
    text = json.dumps([_print(span, descending, plain), plain], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode()


def decode(span: Range, descending: bool, cursor: str) -> list[Any] | None:
    """The position of a cursor.

    Raises:
        DocumentError: it is damaged, or of another query.
    """
    try:
        mark, plain = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
        if mark != _print(span, descending, plain):
            raise ValueError
        if plain is None:
            return None
        columns = [span.column(name) for name in span.order]
        return [_value(column, value) for column, value in zip(columns, plain, strict=True)]
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise DocumentError(
            "the cursor is damaged, or is one of another query",
            cure="Give continue_cursor of the page before, unchanged, to the same query; None begins at the start.",
        ) from None


def _print(span: Range, descending: bool, plain: Any) -> str:
    """A fingerprint of the query and the position together."""
    what = json.dumps([span.description, span.order, descending, plain], default=_plain)
    return hashlib.sha256(what.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, uuid.UUID) else value


def _value(column: Column, value: Any) -> Any:
    if value is None:
        return None
    if column.kind == "datetime":
        return datetime.datetime.fromisoformat(value)
    if column.kind == "date":
        return datetime.date.fromisoformat(value)
    return bytes.fromhex(value) if column.kind == "bytes" else value
