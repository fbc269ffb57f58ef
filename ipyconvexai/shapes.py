"""The text form of a schema: the shape of an answer in a few words. Floor 2: calls pydantic.

    Person                         a pydantic model, a dataclass, or any type among `names`
    list[Person]                   also dict[str, int], Person | None, Optional[...], Literal["a", "b"]
    name, age int, tags list[str]: what it is about

Promises: nothing of the text is evaluated; what cannot be read is an InputError of one sentence, which begins with
``schema=``.
"""

from __future__ import annotations

import ast
import dataclasses
import keyword
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from ipyconvexai.errors import InputError

__all__ = ["fields_of", "schema_of"]

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
_EXAMPLE = 'For example: schema="topic, score float, tags list[str]: what it is about", or a pydantic model.'
_KNOWN = "Use str, int, float, bool, list[...], dict[...], or a class."


class _Unknown(Exception):
    """The text is no type, or names one that is not defined."""


def schema_of(text: str, names: Mapping[str, Any] | None = None) -> Any:
    """What ``generate(schema=...)`` takes; `names`: classes that the text may name.

    Raises:
        InputError: it names nothing, or nothing that has a shape.
    """
    text, names = text.strip(), names or {}
    try:
        found = _type(text, names)
    except _Unknown:
        return _model(text, names)
    if found is None:
        raise InputError("schema=None is no shape", cure="Leave it out, or name what the answer holds.")
    return found


# ------------------------------------------------------------------------------------------------- types
def _type(text: str, names: Mapping[str, Any]) -> Any:
    """The type that `text` spells as Python would, in names, brackets and bars only."""
    try:
        return _spelled(ast.parse(text, mode="eval").body, names)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        if isinstance(error, InputError):  # is a ValueError, too
            raise
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
        raise InputError(f"schema={name}: that is {type(value).__name__} and no class", cure=_EXAMPLE)
    return value


# ------------------------------------------------------------------------------------------------- fields
def _model(text: str, names: Mapping[str, Any]) -> Any:
    import pydantic

    fields: dict[str, Any] = {}
    for part in _parts(text):
        match = _FIELD.fullmatch(part)
        if match is None or keyword.iskeyword(match[1]) or match[1].startswith("_"):
            raise InputError(f"schema= cannot read {part.strip()!r} (a comma ends a field)", cure=_EXAMPLE)
        if match[1] in fields:
            raise InputError(f"schema= has the field {match[1]!r} twice", cure="Name each field once.")
        fields[match[1]] = (_type_of_field(match[2], names), pydantic.Field(description=match[3] or None))
    if len(fields) == 1 and re.fullmatch(r"[A-Z]\w*", text):  # reads like a class: a mistyped one is no field
        raise InputError(f"schema={text}: no class of that name is defined", cure=_EXAMPLE)
    if clash := sorted(set(fields) & set(dir(pydantic.BaseModel))):
        raise InputError(f"schema=: {clash[0]!r} is a name that pydantic uses itself", cure="Use another.")
    try:
        return pydantic.create_model("Answer", **fields)
    except Exception as error:  # of a type that pydantic cannot make a field of
        raise InputError(f"schema=: {str(error).partition(chr(10))[0]}", cure=_KNOWN) from None


def _type_of_field(text: str | None, names: Mapping[str, Any]) -> Any:
    if text is None:
        return str
    try:
        return _type(text, names)
    except _Unknown:
        raise InputError(f"schema= does not know the type {text!r}", cure=_KNOWN) from None


def _parts(text: str) -> list[str]:
    """Fields: between commas; one a line where there are lines, and then a meaning may have commas."""
    parts = [part for part in (text.split("\n") if "\n" in text else _between_commas(text)) if part.strip(" \t,")]
    if not parts:
        raise InputError("schema= wants a class or fields", cure=_EXAMPLE)
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


# ------------------------------------------------------------------------------------------------- fields of a schema
_JSON_TYPES: dict[Any, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
}


def fields_of(schema: Any) -> dict[str, Any] | None:
    """The names and types of a schema's fields, in order; None where it is one value: a list, a number, a choice.

    Args:
        schema: a pydantic model, a dataclass, a TypedDict, any other type, or a JSON schema.
    """
    if isinstance(schema, Mapping):
        parts = schema.get("properties")
        return {name: _of_json(part) for name, part in parts.items()} if isinstance(parts, Mapping) else None
    if not isinstance(schema, type):
        return None
    if (fields := getattr(schema, "model_fields", None)) is not None:
        return None if getattr(schema, "__pydantic_root_model__", False) else _annotations(fields)
    if dataclasses.is_dataclass(schema):
        hints = _hints(schema)
        return {field.name: hints.get(field.name, Any) for field in dataclasses.fields(schema)}
    return _hints(schema) if hasattr(schema, "__total__") else None


def _annotations(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: field.annotation for name, field in fields.items()}


def _hints(schema: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(schema)  # without what stands around them: Annotated, Required
    except Exception:  # hints are code, and may name what is defined later
        return dict.fromkeys(getattr(schema, "__annotations__", {}), Any)


def _of_json(part: Any) -> Any:
    """The Python type of a field of a JSON schema."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    options = [kind] if isinstance(kind, str) else [each for each in kind or () if each != "null"]
    return _JSON_TYPES.get(options[0], Any) if len(options) == 1 else Any
