"""``--schema``: the shape of an answer, from the name of a class or from a few words. Calls ``shapes``.

    --schema Person                         a pydantic model, a dataclass, or any type of the user's
    --schema 'list[Person]'                 also dict[str, int], Person | None, Optional[...], Literal["a", "b"]
    --schema 'name, age int, tags list[str]: what it is about'

Promises: nothing of the line is evaluated; what cannot be read is a UsageError of one sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from IPython.core.error import UsageError

from ipyconvexai import shapes
from ipyconvexai.errors import InputError

__all__ = ["schema_of"]

_EXAMPLE = "For example: --schema 'name, age int, tags list[str]: what it is about', or the name of a class."


def schema_of(text: str, names: Mapping[str, Any]) -> Any:
    """What ``schema=`` takes.

    Raises:
        UsageError: it names nothing, or nothing that has a shape.
    """
    try:
        return shapes.schema_of(text, names)
    except InputError as error:
        cure = _EXAMPLE if error.cure.startswith("For example") else error.cure
        raise UsageError(f"--schema {_bare(error.message)}. {cure}") from None


def _bare(message: str) -> str:
    """Without the name of the keyword, which is an option here."""
    return message.removeprefix("schema=").lstrip(" :")
