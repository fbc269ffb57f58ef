"""``--schema``: the shape of an answer, from the name of a class or from a few words. Calls pydantic.

    --schema Person                         a pydantic model, a dataclass, or any type of the user's
    --schema 'list[Person]'                 also dict[str, int], Person | None, Optional[...], Literal["a", "b"]
    --schema 'name, age int, tags list[str]: what it is about'

Promises: nothing of the line is evaluated; what cannot be read is a UsageError of one sentence.
"""

from __future__ import annotations

import ast
import keyword
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from IPython.core.error import UsageError

__all__ = ["schema_of"]

_TYPES: dict[str, Any] = {
    "str": str,
    "string": str,
    "int": int,
    "integer": int,
    "float": float,
    "number": float,
    "bool": bool,
    "list": list,
    "dict": dict,
    "tuple": tuple,
    "set": set,
    "None": None,
    "Any": Any,
    **{name: getattr(typing, name) for name in ("Optional", "Union", "Literal", "List", "Dict")},
}
# A name, its type (text where there is none), and what it means.
_FIELD = re.compile(r"\s*([^\W\d]\w*)(?:\s+([^\s:][^:]*?))?\s*(?::\s*(.*))?\s*", re.DOTALL)
_EXAMPLE = "For example: --schema 'name, age int, tags list[str]: what it is about', or the name of a class."


class _Unknown(Exception):
    """The text is no type, or names one that is not defined."""


def schema_of(text: str, names: Mapping[str, Any]) -> Any:
    """What ``schema=`` takes.

    Raises:
        UsageError: it names nothing, or nothing that has a shape.
    """
    text = text.strip()
    try:
        return _type(text, names)
    except _Unknown:
        return _model(text, names)


def _type(text: str, names: Mapping[str, Any]) -> Any:
    """The type that `text` spells as Python would, in names, brackets and bars only."""
    try:
        return _spelled(ast.parse(text, mode="eval").body, names)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise _Unknown(text) from None


def _spelled(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Name(id=name):
            return _named(name, names)
        case ast.Attribute(value=inner, attr=name) if not name.startswith("_"):
            return _checked(getattr(_spelled_place(inner, names), name, None), name)
        case ast.Subscript(value=outer, slice=ast.Tuple(elts=parts)):
            return _spelled(outer, names)[tuple(_spelled(part, names) for part in parts)]
        case ast.Subscript(value=outer, slice=part):
            return _spelled(outer, names)[_spelled(part, names)]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return typing.Union[_spelled(left, names), _spelled(right, names)]  # noqa: UP007 - made at run time
        case ast.Constant(value=None | str() | int() as value):  # of Optional and Literal
            return value
    raise _Unknown


def _spelled_place(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """What stands before a dot: also a module."""
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    return _spelled(node, names)


def _named(name: str, names: Mapping[str, Any]) -> Any:
    if name in names and not name.startswith("__"):
        return _checked(names[name], name)
    if name in _TYPES:
        return _TYPES[name]
    raise _Unknown


def _checked(value: Any, name: str) -> Any:
    if value is None:
        raise _Unknown
    if not isinstance(value, type | Mapping) and typing.get_origin(value) is None:
        raise UsageError(f"--schema {name}: that is {type(value).__name__} and no class. {_EXAMPLE}")
    return value


# ------------------------------------------------------------------------------------------------- fields
def _model(text: str, names: Mapping[str, Any]) -> Any:
    import pydantic

    fields: dict[str, Any] = {}
    for part in _parts(text):
        match = _FIELD.fullmatch(part)
        if match is None or keyword.iskeyword(match[1]) or match[1].startswith("_"):
            raise UsageError(f"--schema cannot read {part.strip()!r}. {_EXAMPLE}")
        if match[1] in fields:
            raise UsageError(f"--schema has the field {match[1]!r} twice.")
        fields[match[1]] = (_type_of_field(match[2], names), pydantic.Field(description=match[3] or None))
    if len(fields) == 1 and re.fullmatch(r"[A-Z]\w*", text):  # reads like a class: a mistyped one is no field
        raise UsageError(f"--schema {text}: no class of that name is defined. {_EXAMPLE}")
    if clash := sorted(set(fields) & set(dir(pydantic.BaseModel))):
        raise UsageError(f"--schema: {clash[0]!r} is a name that pydantic uses itself; use another.")
    try:
        return pydantic.create_model("Answer", **fields)
    except Exception as error:  # of a type that pydantic cannot make a field of
        raise UsageError(f"--schema: {str(error).partition(chr(10))[0]}") from None


def _type_of_field(text: str | None, names: Mapping[str, Any]) -> Any:
    if text is None:
        return str
    try:
        return _type(text, names)
    except _Unknown:
        raise UsageError(
            f"--schema does not know the type {text!r}: str, int, float, bool, list[...], dict[...], or a class."
        ) from None


def _parts(text: str) -> list[str]:
    """Fields: between commas; one a line where there are lines, and then a meaning may have commas."""
    parts = [part for part in (text.split("\n") if "\n" in text else _between_commas(text)) if part.strip(" \t,")]
    if not parts:
        raise UsageError(f"--schema wants a class or fields. {_EXAMPLE}")
    return parts


def _between_commas(text: str) -> Iterator[str]:
    """Commas within brackets are a type's."""
    depth = start = 0
    for index, sign in enumerate(text):
        depth = max(0, depth + (sign in "[(") - (sign in "])"))
        if sign == "," and depth == 0:
            yield text[start:index]
            start = index + 1
    yield text[start:]
