"""``--schema``: the shape of an answer, from the name of a class or from a few words. Calls pydantic.

    --schema Person                         a pydantic model, a dataclass, or any type of the user's
    --schema list[Person]                   a list of them
    --schema 'name, age int, tags list[str]: what it is about'

Promises: nothing of the line is evaluated; what cannot be read is a UsageError of one sentence.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Mapping
from typing import Any

from IPython.core.error import UsageError

__all__ = ["schema_of"]

_TYPES = {"str": str, "string": str, "int": int, "integer": int, "float": float, "number": float, "bool": bool}
_LIST = re.compile(r"list\[\s*(.+?)\s*\]")
_PATH = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")
# A name, its type (text where there is none), and what it means.
_FIELD = re.compile(r"\s*([^\W\d]\w*)(?:\s+([\w.]+(?:\[[\w. ]+\])?))?\s*(?::\s*(.*))?\s*", re.DOTALL)
_EXAMPLE = "For example: --schema 'name, age int, tags list[str]: what it is about', or the name of a class."


def schema_of(text: str, names: Mapping[str, Any]) -> Any:
    """What ``schema=`` takes.

    Raises:
        UsageError: it names nothing, or nothing that has a shape.
    """
    text = text.strip()
    if (match := _LIST.fullmatch(text)) is not None:
        return list[schema_of(match[1], names)]  # type: ignore[misc] # made at run time
    if _PATH.fullmatch(text) and (found := _named(text, names)) is not None:
        return found
    return _model(text, names)


def _named(path: str, names: Mapping[str, Any]) -> Any:
    first, *rest = path.split(".")
    value = names.get(first)
    if value is None and not rest:
        value = _TYPES.get(first) or (dict if first == "dict" else None)
    for name in rest:
        value = getattr(value, name, None) if not name.startswith("_") else None
    if value is None:
        return None
    if not isinstance(value, type | Mapping) and not hasattr(value, "__origin__"):
        raise UsageError(f"--schema {path}: that is {type(value).__name__} and no class. {_EXAMPLE}")
    return value


def _model(text: str, names: Mapping[str, Any]) -> Any:
    import pydantic

    fields: dict[str, Any] = {}
    for part in _parts(text):
        match = _FIELD.fullmatch(part)
        if match is None or keyword.iskeyword(match[1]) or match[1].startswith("_"):
            raise UsageError(f"--schema cannot read {part.strip()!r}. {_EXAMPLE}")
        if match[1] in fields:
            raise UsageError(f"--schema has the field {match[1]!r} twice.")
        fields[match[1]] = (_type(match[2], names), pydantic.Field(description=match[3] or None))
    if len(fields) == 1 and re.fullmatch(r"[A-Z]\w*", text):  # reads like a class: a mistyped one is no field
        raise UsageError(f"--schema {text}: no class of that name is defined. {_EXAMPLE}")
    if clash := sorted(set(fields) & set(dir(pydantic.BaseModel))):
        raise UsageError(f"--schema: {clash[0]!r} is a name that pydantic uses itself; use another.")
    return pydantic.create_model("Answer", **fields)


def _parts(text: str) -> list[str]:
    """Fields: between commas; one a line where there are lines, and then a meaning may have commas."""
    parts = [part for part in text.split("\n" if "\n" in text else ",") if part.strip(" \t,")]
    if not parts:
        raise UsageError(f"--schema wants a class or fields. {_EXAMPLE}")
    return parts


def _type(word: str | None, names: Mapping[str, Any]) -> Any:
    if word is None:
        return str
    if (match := _LIST.fullmatch(word)) is not None:
        return list[_type(match[1], names)]  # type: ignore[misc] # made at run time
    known = _TYPES.get(word) or (dict[str, Any] if word == "dict" else list[Any] if word == "list" else None)
    found = known or (_named(word, names) if not hasattr(builtins, word) else None)
    if found is None:
        raise UsageError(f"--schema does not know the type {word!r}: str, int, float, bool, list[...], or a class.")
    return found
