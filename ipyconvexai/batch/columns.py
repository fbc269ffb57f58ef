"""The columns that a batch adds: their Arrow types, from the shape of an answer, and the values that go into them.

Calls pyarrow and pydantic. Promises: a field of a known type becomes a column of that type, nested ones lists and
structs; what has no type of its own (a dict, a union) becomes JSON text; instants are UTC.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import json
import types
import typing
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ipyconvexai.errors import InputError

__all__ = ["Output", "array_of", "fits", "outputs_of", "plain", "type_of"]

TEXT = pa.string()
DECIMAL = pa.decimal128(38, 12)

_SIMPLE: dict[Any, pa.DataType] = {
    str: TEXT,
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
    datetime.date: pa.date32(),
    datetime.datetime: pa.timestamp("us"),
    datetime.time: pa.time64("us"),
    datetime.timedelta: pa.duration("us"),
    decimal.Decimal: DECIMAL,
    type(None): pa.null(),
}
_JSON_TYPES = {"string": TEXT, "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
_LISTS = (list, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Set)


@dataclass(frozen=True, slots=True)
class Output:
    """A column that a batch adds."""

    name: str
    type: pa.DataType = TEXT


# ------------------------------------------------------------------------------------------------ types
def outputs_of(schema: Any) -> list[Output] | pa.DataType:
    """The columns of a record (a pydantic model, a dataclass, a TypedDict, a NamedTuple, a JSON schema of an object),
    or the type of the one column that anything else makes.

    Raises:
        InputError: a record without fields.
    """
    fields = _json_fields(schema) if isinstance(schema, Mapping) else _fields(schema)
    if fields is None:
        return type_of(schema)
    if not fields:
        raise InputError("the schema has no fields", cure='For example: schema="topic, score float".')
    return [Output(name, _type(kind, (schema,))) for name, kind in fields.items()]


def type_of(schema: Any) -> pa.DataType:
    """The Arrow type of one column that holds values of the type `schema`: of a record, a struct."""
    return _type(schema, ())


def _type(kind: Any, within: tuple[Any, ...]) -> pa.DataType:
    """`within`: the records around it; one that holds itself has no end, and is JSON text there."""
    kind = _bare(kind)
    if isinstance(kind, Mapping):
        return _json_type(kind)
    if isinstance(kind, pa.DataType):
        return kind
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _common(_type(one, within) for one in inner)
    if origin is typing.Literal:
        return _common(_type(type(value), within) for value in inner)
    if origin in _LISTS or kind in _LISTS:
        return pa.list_(_listed(_type(inner[0], within) if inner else TEXT))
    if origin is tuple:
        each = [one for one in inner if one is not Ellipsis]
        return pa.list_(_listed(_common(_type(one, within) for one in each)))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _common(_type(type(member.value), within) for member in kind)
    fields = _fields(kind)
    if fields and kind not in within:
        return pa.struct([(name, _listed(_type(one, (*within, kind)))) for name, one in fields.items()])
    return _simple(kind)


def _listed(kind: pa.DataType) -> pa.DataType:
    """Within others a type of nulls only is of no use."""
    return TEXT if pa.types.is_null(kind) else kind


def _bare(kind: Any) -> Any:
    """Without what only names or annotates it."""
    while True:
        if typing.get_origin(kind) is typing.Annotated:
            kind = typing.get_args(kind)[0]
        elif hasattr(kind, "__supertype__"):  # NewType
            kind = kind.__supertype__
        elif type(kind).__name__ == "TypeAliasType":
            kind = kind.__value__
        elif typing.get_origin(kind) in (typing.Required, typing.NotRequired):
            kind = typing.get_args(kind)[0]
        elif _is_model(kind) and getattr(kind, "__pydantic_root_model__", False):
            kind = kind.model_fields["root"].annotation
        else:
            return kind


def _common(kinds: Iterable[pa.DataType]) -> pa.DataType:
    """The one type of several; a whole number may be a fraction, too; text where they have nothing in common."""
    found = {kind for kind in kinds if not pa.types.is_null(kind)}
    if len(found) == 1:
        return found.pop()
    return pa.float64() if found == {pa.int64(), pa.float64()} else TEXT


def _simple(kind: Any) -> pa.DataType:
    if isinstance(kind, type):
        for base in kind.__mro__:
            if base in _SIMPLE:
                return _SIMPLE[base]
    return TEXT


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_fields")


def _fields(kind: Any) -> dict[str, Any] | None:
    """Names and types of a record's fields; None: it is no record."""
    origin = typing.get_origin(kind) or kind
    if _is_model(kind) and not getattr(kind, "__pydantic_root_model__", False):
        own = {name: info.annotation for name, info in kind.model_fields.items() if not info.exclude}
        return own | {name: info.return_type for name, info in kind.model_computed_fields.items()}
    if dataclasses.is_dataclass(origin):
        hints = _hints(origin)
        return {field.name: hints.get(field.name, Any) for field in dataclasses.fields(origin)}
    if typing.is_typeddict(origin) or _is_extensions_typeddict(origin):
        return _hints(origin)
    if isinstance(origin, type) and issubclass(origin, tuple) and hasattr(origin, "_fields"):
        hints = _hints(origin)
        return {name: hints.get(name, Any) for name in origin._fields}
    return None


def _is_extensions_typeddict(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, dict) and hasattr(kind, "__required_keys__")


def _hints(kind: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except NameError:  # a name that only its own cell knew
        return dict(getattr(kind, "__annotations__", {}))


def _json_fields(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    properties = schema.get("properties")
    return dict(properties) if isinstance(properties, Mapping) else None


def _json_type(schema: Mapping[str, Any]) -> pa.DataType:
    """Of a JSON schema, as far as it says so plainly."""
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), None)
    if kind == "array":
        items = schema.get("items")
        return pa.list_(_json_type(items) if isinstance(items, Mapping) else TEXT)
    if kind == "object" and (fields := _json_fields(schema)):
        return pa.struct([(name, _json_type(one)) for name, one in fields.items()])
    return _JSON_TYPES.get(kind, TEXT) if isinstance(kind, str) else TEXT


# ------------------------------------------------------------------------------------------------ values
def plain(value: Any) -> Any:
    """Of an answer that was read into a model, a dataclass, ...: dicts, lists and values that have an Arrow type."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if _is_model(type(value)):
        return plain(value.model_dump(mode="python", warnings=False))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(one) for key, one in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: plain(one) for name, one in zip(value._fields, value, strict=True)}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, datetime.datetime):
        return value if value.tzinfo is None else value.astimezone(datetime.UTC).replace(tzinfo=None)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes | int | float | datetime.date | datetime.time | datetime.timedelta | decimal.Decimal):
        return value
    return str(value)


def array_of(output: Output, values: Sequence[Any]) -> pa.Array:
    """The values as Arrow has them: what has no place in the type otherwise is JSON text there.

    Raises:
        InputError: they do not fit.
    """
    try:
        return pa.array(values, output.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError, OverflowError):
        pass  # one of them is odd: each is looked at
    try:
        return pa.array([_fitted(value, output.type) for value in values], output.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError, OverflowError, ArithmeticError) as error:
        raise InputError(
            f"the column {output.name!r} holds what is no {output.type}: {error}",
            cure="Give this field of the schema another type. What is answered is kept.",
        ) from None


def fits(outputs: Sequence[Output], values: Sequence[Any]) -> bool:
    """Whether each value has a place in its column."""
    try:
        for output, value in zip(outputs, values, strict=True):
            array_of(output, [value])
    except InputError:
        return False
    return True


def _fitted(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_string(kind):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # half a character is none
    if pa.types.is_list(kind):
        return [_fitted(one, kind.value_type) for one in value]
    if pa.types.is_struct(kind):
        return {field.name: _fitted(value.get(field.name), field.type) for field in kind}
    if pa.types.is_decimal(kind):
        step = decimal.Decimal(1).scaleb(-kind.scale)
        return decimal.Decimal(value).quantize(step, context=decimal.Context(prec=kind.precision))
    if pa.types.is_floating(kind):
        return float(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    return value
