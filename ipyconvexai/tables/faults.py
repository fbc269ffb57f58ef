"""What pydantic finds wrong with a document, in the words of this package. Calls errors only."""

from __future__ import annotations

from pydantic import ValidationError

from ipyconvexai.errors import DocumentError

__all__ = ["document_error"]


def document_error(table: str, error: ValidationError) -> DocumentError:
    """Names each field, what is wrong with it, and the type of what was given; never the value."""
    found = [_told(fault["type"], fault["loc"], fault["msg"], fault["input"]) for fault in error.errors()]
    return DocumentError(f"{table}: {'; '.join(found)}", cure=f"See the type hints of the class {table}.")


def _told(kind: str, place: tuple[int | str, ...], message: str, given: object) -> str:
    path = ".".join(map(str, place))
    if kind == "missing":
        return f"Object is missing the required field `{path}`"
    if kind in ("extra_forbidden", "no_such_attribute"):
        return f"Object contains extra field `{path}`"
    return f"`{path}`: Value does not match: {message} (it is of type {type(given).__name__})"
