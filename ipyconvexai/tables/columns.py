"""Fields as columns: which SQL type a type hint becomes, and how a value gets there and back.

Calls settings. Promises: a value comes back as it was, or is refused with an error that names the field, as a text with
half a character is; secrets that this process knows are removed on the way.
"""

from __future__ import annotations

import contextlib
import datetime
import enum
import math
import types
import typing
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from ipyconvexai.errors import DocumentError, SchemaError
from ipyconvexai.settings import redact, redact_bytes
from ipyconvexai.tables.ids import IdOf, proper_id

__all__ = ["Column", "column_of", "literal", "quote"]

MOST = 2**63  # BIGINT holds less than this, and no less than minus this
SCALARS: dict[Any, tuple[str, str]] = {  # type -> kind, SQL type
    str: ("str", "VARCHAR"),
    int: ("int", "BIGINT"),
    float: ("float", "DOUBLE"),
    bool: ("bool", "BOOLEAN"),
    bytes: ("bytes", "BLOB"),
    datetime.datetime: ("datetime", "TIMESTAMP"),
    datetime.date: ("date", "DATE"),
    Decimal: ("decimal", "VARCHAR"),  # a DECIMAL has a fixed scale, and would round
    uuid.UUID: ("uuid", "UUID"),
}
JSON = ("json", "VARCHAR")
UNSORTABLE = frozenset({"json", "decimal"})  # and lists
FEW_VALUES = frozenset({"bool", "choice"})  # an ART index on these would find half of the table: not worth having


@dataclass(frozen=True)
class Shape:
    """What a type hint comes to: its kind, its SQL type, what else there is to know."""

    kind: str
    sql: str
    nullable: bool = False
    choices: tuple[str, ...] | None = None
    enum: type[enum.Enum] | None = None
    id_of: IdOf | None = None


def shape_of(hint: Any, metadata: tuple[Any, ...] = ()) -> Shape:
    """The shape of a type hint; `metadata`: what it was annotated with."""
    while True:  # what only wraps another hint
        if typing.get_origin(hint) is typing.Annotated:
            hint, *more = typing.get_args(hint)
            metadata = (*metadata, *more)
        elif hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        elif hasattr(hint, "__value__") and type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        else:
            break
    ids = [item for item in metadata if isinstance(item, IdOf)]
    if hint is str and ids:
        return Shape("id", "UUID", id_of=ids[-1])
    if hint in SCALARS:
        return Shape(*SCALARS[hint])
    if isinstance(hint, type) and issubclass(hint, enum.Enum) and issubclass(hint, str):
        return Shape("choice", "VARCHAR", choices=tuple(str(one.value) for one in hint), enum=hint)
    return _composed(hint)


def _composed(hint: Any) -> Shape:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal and all(isinstance(value, str) and not isinstance(value, enum.Enum) for value in args):
        return Shape("choice", "VARCHAR", choices=args)
    if origin in (typing.Union, types.UnionType):
        rest = [arg for arg in args if arg is not type(None)]
        inner = shape_of(rest[0]) if len(rest) == 1 else Shape(*JSON)
        return Shape(**{**vars(inner), "nullable": inner.nullable or len(rest) < len(args)})
    if origin is list and len(args) == 1:
        inner = shape_of(args[0])
        if not inner.nullable and "json" not in inner.kind and "[" not in inner.kind:
            return Shape(**{**vars(inner), "kind": f"list[{inner.kind}]", "sql": f"{inner.sql}[]"})
    return Shape(*JSON, nullable=hint is Any or hint is None or hint is object)


@dataclass(frozen=True)
class Column:
    """One field of a table and its column."""

    table: str
    name: str
    shape: Shape
    defaulted: bool  # whether the class gives a value where none is given
    default: Callable[[], Any] | None = field(compare=False)  # None: there is none, or it depends on other fields
    hint: Any = field(compare=False, repr=False)

    @property
    def kind(self) -> str:
        return self.shape.kind

    @property
    def sortable(self) -> bool:
        return self.kind not in UNSORTABLE and "[" not in self.kind

    @property
    def quoted(self) -> str:
        return quote(self.name)

    @property
    def selected(self) -> str:
        """As it is selected: ids travel as text."""
        if "id" in (self.kind, self.kind[5:-1]):
            return f"{self.quoted}::{self.shape.sql.replace('UUID', 'VARCHAR')}"
        return self.quoted

    @property
    def placeholder(self) -> str:
        return f"?::{self.shape.sql}"

    # ------------------------------------------------------------------------------------------ to the column
    def encode(self, value: Any) -> Any:
        """`value` as the store takes it.

        Raises:
            DocumentError: the column cannot hold it.
        """
        if value is None:
            if self.shape.nullable:
                return None
            raise self._mismatch(value)
        if self.kind == "json":
            return self._encode_json(value)
        if "[" not in self.kind:
            return self._encode_one(self.kind, value)
        if not isinstance(value, list):
            raise self._mismatch(value)
        return [self._encode_one(self.kind[5:-1], one) for one in value]

    def _encode_one(self, kind: str, value: Any) -> Any:
        try:
            return _ENCODERS[kind](value) if kind != "choice" else self._encode_choice(value)
        except TypeError:
            raise self._mismatch(value) from None
        except (ValueError, OverflowError) as error:
            raise self._refused(f"{error}") from None

    def _encode_choice(self, value: Any) -> str:
        text = value.value if isinstance(value, enum.Enum) else value
        if text not in (self.shape.choices or ()):
            raise ValueError(f"{value!r} is none of {', '.join(map(repr, self.shape.choices or ()))}")
        return str(text)

    def _encode_json(self, value: Any) -> str:
        try:
            text = self._json(value)
        except Exception as error:  # what a value that is no JSON raises is as many-sided as such values
            raise self._refused(str(error).splitlines()[0]) from None
        return redact(text)

    def _json(self, value: Any) -> str:
        plain = self._adapter.dump_python(value)
        _refuse_halves(plain)
        if _has_no_number(plain):
            raise ValueError("Infinity and NaN cannot be kept; use None")
        data = self._adapter.dump_json(value)
        with contextlib.suppress(ValidationError):
            if self._adapter.dump_python(self._adapter.validate_json(data)) == plain:
                return data.decode()
        raise ValueError("it would not come back as it is; use what JSON has: texts, numbers, lists, dicts by text")

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        try:
            config = ConfigDict(strict=True, ser_json_bytes="base64", val_json_bytes="base64")
            return TypeAdapter(self.hint, config=config)
        except PydanticUserError:  # a model has a configuration of its own
            return TypeAdapter(self.hint)

    def check_type(self) -> None:
        """Raise a SchemaError for a type hint whose values can never be kept."""
        if self.kind != "json":
            return
        try:
            self._adapter.json_schema(mode="serialization")
        except Exception as error:  # pydantic has several kinds
            raise SchemaError(
                f"`{self.table}.{self.name}`: {self.hint} cannot be kept in a table: {str(error).splitlines()[0]}",
                cure="Use str, int, float, bool, bytes, datetime, date, Decimal, UUID, an Id, a Literal, a StrEnum,"
                " a list or dict of such, or a pydantic model.",
            ) from None

    # ------------------------------------------------------------------------------------------ and back
    def decode(self, value: Any) -> Any:
        """The field's value for what the store gave.

        Raises:
            ValueError: it is not of the field's type.
        """
        if value is None:
            return None
        if self.kind == "json":
            return self._adapter.validate_json(value)
        if "[" in self.kind:
            kind = self.kind[5:-1]
            return [self._decode_one(kind, one) for one in value]
        return self._decode_one(self.kind, value)

    def _decode_one(self, kind: str, value: Any) -> Any:
        if kind == "datetime":
            return value.replace(tzinfo=datetime.UTC)
        if kind == "decimal":
            return Decimal(value)
        if kind == "choice":
            if self.shape.enum is not None:
                return self.shape.enum(value)
            if value not in (self.shape.choices or ()):
                raise ValueError(f"{value!r} is none of {', '.join(map(repr, self.shape.choices or ()))}")
        return value

    # ------------------------------------------------------------------------------------------ errors
    def _mismatch(self, value: Any) -> DocumentError:
        shown = "None" if value is None else f"a {type(value).__name__}"
        return self._refused(f"Value does not match: {shown} is no {self.kind}")

    def _refused(self, reason: str) -> DocumentError:
        return DocumentError(
            f"`{self.table}.{self.name}`: {reason}", cure=f"Give it a value that fits {self.kind} ({self.shape.sql})."
        )


def column_of(table: str, name: str, info: FieldInfo) -> Column:
    """The column of a field of a pydantic model."""
    shape = shape_of(info.annotation, tuple(info.metadata))
    default: Callable[[], Any] | None = None
    if not info.is_required() and not info.default_factory_takes_validated_data:
        default = lambda: info.get_default(call_default_factory=True)  # noqa: E731
    return Column(table, name, shape, not info.is_required(), default, info.rebuild_annotation())


# ---------------------------------------------------------------------------------------------- values
def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    text = redact(_sound(value))
    return str.__str__(text)  # plain, whatever subclass it was


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    if not -MOST <= value < MOST:
        raise ValueError("the number is beyond 64 bits; keep it as a Decimal or a str")
    return int(value)


def _float(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number that can be kept; use None")
    if (exact := float(value)) != value:
        raise ValueError("the number has more digits than a float; keep it as an int or a Decimal")
    return exact


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError
    return redact_bytes(value)


def _instant(value: Any) -> datetime.datetime:
    if not isinstance(value, datetime.datetime):
        raise TypeError
    return (value if value.tzinfo is None else value.astimezone(datetime.UTC)).replace(tzinfo=None, fold=0)


def _date(value: Any) -> datetime.date:
    if not isinstance(value, datetime.date) or isinstance(value, datetime.datetime):
        raise TypeError
    return value


def _decimal(value: Any) -> str:
    if not isinstance(value, Decimal):
        raise TypeError
    if not value.is_finite():
        raise ValueError(f"{value} is no number that can be kept; use None")
    return str(value)


def _uuid(value: Any) -> str:
    if not isinstance(value, uuid.UUID):
        raise TypeError
    return str(value)


def _id(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    try:
        return proper_id(value)
    except ValueError:
        raise ValueError(f"Value does not match: {value[:60]!r} is no id") from None


_ENCODERS: dict[str, Callable[[Any], Any]] = {
    "str": _text,
    "int": _integer,
    "float": _float,
    "bool": _boolean,
    "bytes": _bytes,
    "datetime": _instant,
    "date": _date,
    "decimal": _decimal,
    "uuid": _uuid,
    "id": _id,
}


def _sound(text: str) -> str:
    """`text` itself, which UTF-8 can hold; a ValueError where it has a half character (a lone surrogate)."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text has half a character, {text[error.start]!r} at {error.start}, which cannot be kept;"
                ' text.encode("utf-8", "replace").decode() makes it a question mark'
            ) from None
    return text


def _refuse_halves(value: Any) -> None:
    """Half characters anywhere in plain lists, dicts and scalars."""
    if isinstance(value, str):
        _sound(value)
    elif isinstance(value, dict):
        for key, one in value.items():
            _refuse_halves(key)
            _refuse_halves(one)
    elif isinstance(value, list | tuple | set | frozenset):
        for one in value:
            _refuse_halves(one)


def _has_no_number(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_has_no_number, value.values()))
    return isinstance(value, list | tuple | set | frozenset) and any(map(_has_no_number, value))


def quote(name: str) -> str:
    """`name` as an identifier in SQL, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: Any, sql: str) -> str:
    """An encoded value as SQL: the default of a new column cannot be a bound parameter."""
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return f"[{', '.join(literal(one, sql.removesuffix('[]')) for one in value)}]::{sql}"
    if isinstance(value, str) and "\0" not in value:
        return "'" + value.replace("'", "''") + f"'::{sql}"
    if isinstance(value, str | bytes):
        data = value if isinstance(value, bytes) else value.encode()
        blob = "'" + "".join(f"\\x{byte:02x}" for byte in data) + "'::BLOB"
        return blob if isinstance(value, bytes) else f"decode({blob})"
    return f"'{value!r}'::{sql}" if isinstance(value, int | float) else f"'{value}'::{sql}"
