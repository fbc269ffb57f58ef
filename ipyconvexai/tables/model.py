"""``Table`` and ``Index``: a table is a class with type hints. Calls the room's columns, ids and registry.

Promises: what can never work (a reserved name, an index on a field that is not there or has no order, a type that
cannot be kept) is refused where the class is defined.
"""

from __future__ import annotations

import datetime
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import pydantic_core
from pydantic import (
    BaseModel,
    ConfigDict,
    PrivateAttr,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    ValidationError,
)
from pydantic._internal._model_construction import ModelMetaclass
from pydantic.fields import ModelPrivateAttr
from pydantic_core import PydanticUndefined

from ipyconvexai.errors import SchemaError
from ipyconvexai.tables import registry
from ipyconvexai.tables.columns import Column, Shape, column_of, quote
from ipyconvexai.tables.faults import document_error
from ipyconvexai.tables.ids import IdOf

__all__ = ["BY_CREATION_TIME", "RESERVED", "Index", "Layout", "Table", "layout_of"]

BY_CREATION_TIME = "by_creation_time"
RESERVED = frozenset(
    "requests responses calls schema_migrations document_tables message_deltas scheduled_functions crons rate_limits"
    " limits batches conversations messages documents".split()
)
_NAME = re.compile(r"[^\W\d]\w{0,63}")
_SYSTEMS_OWN = re.compile(r"(?:duckdb|sqlite|pg|information_schema)(?:_|$)", re.IGNORECASE)


class Index:
    """``by_author = Index("author")`` in a table's class: an order in which its documents can be read.

    Each index goes on with ``_creation_time`` and ``_id``.
    """

    def __init__(self, *fields: str) -> None:
        self.fields = fields

    def __repr__(self) -> str:
        return f"Index({', '.join(map(repr, self.fields))})"


class _TableClass(ModelMetaclass):
    def __new__(mcs, title: str, bases: tuple[type, ...], namespace: dict[str, Any], /, **options: Any) -> Any:
        try:
            table = super().__new__(mcs, title, bases, namespace, **options)
        except (PydanticUserError, pydantic_core.SchemaError) as error:  # the latter for names that are no Unicode
            raise SchemaError(
                f"the table {title} cannot be defined: {str(error).splitlines()[0]}",
                cure="Give each field a type hint of plain types (str, int, datetime ...) or pydantic models; an index"
                ' is written by_x = ai.Index("x").',
            ) from None
        if bases != (BaseModel,):
            _check(table)
            type.__setattr__(table, "__place__", _place_of(table))
            registry.register(table)
        return table


class Table(BaseModel, metaclass=_TableClass):
    """A table of documents: ``class Note(ai.Table): text: str``. ``class Note(ai.Table, name="notes")`` names the SQL
    table; otherwise it has the name of the class.

    ``doc._id`` and ``doc._creation_time`` (UTC) are None until it is read from the table.
    """

    model_config = ConfigDict(extra="forbid", strict=True, ignored_types=(Index,))

    __table_name__: ClassVar[str] = ""
    __place__: ClassVar[str] = ""  # where it is defined, for messages
    __rival__: ClassVar[str] = ""  # and where a class is that had this table's name before, and is another one
    __system_columns__: ClassVar[tuple[str, str]] = ("_id", "_creation_time")

    _id: str | None = PrivateAttr(default=None)
    _creation_time: datetime.datetime | None = PrivateAttr(default=None)

    def __init_subclass__(cls, *, name: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__table_name__ = cls.__name__ if name is None else name

    def __init__(self, /, **fields: Any) -> None:
        """
        Raises:
            DocumentError: a field is missing, unknown, or not of its type.
        """
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise document_error(type(self).__name__, error) from None

    # For pydantic this is the usual constructor: inside of arguments and results it goes the short way.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def _content_id(self) -> str | None:
        """The id that follows from what the document says; None for the usual table, where each insert has a new
        one."""
        return None


def _place_of(table: type[Table]) -> str:
    """``Note in module notes, line 12``; the line is that of the class statement."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") != table.__module__:
        frame = frame.f_back
    line = f", line {frame.f_lineno}" if frame.f_globals.get("__name__") == table.__module__ else ""
    return f"{table.__qualname__} in module {table.__module__}{line}"


@dataclass(frozen=True)
class Layout:
    """A table's class in terms of SQL."""

    table: type[Table]
    columns: dict[str, Column]
    indexes: dict[str, tuple[str, ...]]

    @property
    def name(self) -> str:
        return self.table.__table_name__

    @property
    def quoted(self) -> str:
        return quote(self.name)

    @cached_property
    def system(self) -> dict[str, Column]:
        """``_id`` and ``_creation_time``."""
        id_column, time_column = self.table.__system_columns__
        return {
            "_id": _system_column(self.name, id_column, Shape("id", "UUID", id_of=IdOf(self.table))),
            "_creation_time": _system_column(self.name, time_column, Shape("datetime", "TIMESTAMP")),
        }

    @cached_property
    def all(self) -> dict[str, Column]:
        """All columns, in the order in which they are selected; the system's come first."""
        return {**self.system, **self.columns}

    @cached_property
    def selection(self) -> str:
        return ", ".join(column.selected for column in self.all.values())

    @cached_property
    def inserting(self) -> str:
        names = ", ".join(column.quoted for column in self.all.values())
        return f"INSERT INTO {self.quoted} ({names}) VALUES ({', '.join('?' * len(self.all))})"

    @cached_property
    def updating(self) -> str:
        changes = ", ".join(f"{column.quoted} = ?" for column in self.columns.values())
        return f"UPDATE {self.quoted} SET {changes} WHERE {self.system['_id'].quoted} = ?"

    def same_columns(self, other: Layout) -> bool:
        return {name: _facts(column) for name, column in self.columns.items()} == {
            name: _facts(column) for name, column in other.columns.items()
        }


def _facts(column: Column) -> tuple[Any, ...]:
    shape = column.shape
    return shape.kind, shape.sql, shape.nullable, shape.choices


def _system_column(table: str, name: str, shape: Shape) -> Column:
    return Column(table, name, shape, False, None, None)


# ---------------------------------------------------------------------------------------------- definition
_layouts: dict[type[Table], Layout] = {}


def layout_of(table: type[Table]) -> Layout:
    """The layout of a table's class.

    Raises:
        SchemaError: it cannot have one.
    """
    layout = table.__dict__.get("__layout__")
    if layout is None:
        _complete(table)
        layout = Layout(table, _columns(table), _indexes(table))
        _check_indexes(layout)
        type.__setattr__(table, "__layout__", layout)  # with the class, or a notebook would keep every old one alive
    return layout


def _complete(table: type[Table]) -> None:
    if table.__pydantic_complete__:
        return
    try:
        table.model_rebuild()
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        raise SchemaError(
            f"the table {table.__name__} is not complete: {str(error).splitlines()[0]}",
            cure="Define that class before it is used.",
        ) from None


def _columns(table: type[Table]) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for name, info in table.model_fields.items():
        column = column_of(table.__name__, name, info)
        if name.lower() in map(str.lower, columns):
            raise SchemaError(
                f"the table {table.__name__} has two fields {name!r} in upper and lower case, which SQL does not tell"
                " apart",
                cure="Rename one of them.",
            )
        _refuse_documents(table, name, info.annotation)
        column.check_type()
        columns[name] = column
    return columns


def _refuse_documents(table: type[Table], name: str, hint: Any) -> None:
    if isinstance(hint, type) and issubclass(hint, Table):
        raise SchemaError(
            f"`{table.__name__}.{name}` would hold a whole document of the table {hint.__name__}",
            cure=f"Keep its id: {name}: ai.Id[{hint.__name__}].",
        )
    for part in getattr(hint, "__args__", ()):
        _refuse_documents(table, name, part)


def _indexes(table: type[Table]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for kind in reversed(table.__mro__):
        for name, value in vars(kind).items():
            if isinstance(value, Index):
                found[name] = value.fields
            else:
                found.pop(name, None)
    return found


def _check_indexes(layout: Layout) -> None:
    for name, fields in layout.indexes.items():
        where = f"the index {name} of the table {layout.table.__name__}"
        if name.lower() in (BY_CREATION_TIME, "by_id"):
            raise SchemaError(
                f"{where} has a reserved name", cure="Choose another: this one every table has by itself."
            )
        if not fields or len(set(fields)) < len(fields):
            raise SchemaError(f"{where} names no field, or one twice", cure='For example: ai.Index("author", "year").')
        for field in fields:
            if field in layout.system:
                raise SchemaError(f"{where} names {field}", cure="Leave it out: every index ends in it by itself.")
            if field not in layout.columns:
                known = ", ".join(layout.columns) or "none"
                raise SchemaError(f"{where} names the unknown field {field!r}", cure=f"Its fields: {known}.")
            if not layout.columns[field].sortable:
                kind = layout.columns[field].kind
                raise SchemaError(
                    f"{where} names {field}, and values of type {kind} have no order in SQL",
                    cure="Index a field of texts, numbers, instants or ids.",
                )


def _check(table: type[Table]) -> None:
    """Refuse what can never work; forward references are looked at when they are there."""
    name = table.__table_name__
    if not isinstance(name, str) or not _NAME.fullmatch(name) or _SYSTEMS_OWN.match(name):
        raise SchemaError(
            f"{name!r} cannot be the name of a table", cure="Use letters, digits and _, 64 at most, no digit first."
        )
    if name.lower() in RESERVED and table.__module__ != "ipyconvexai.tables.builtin":
        raise SchemaError(
            f"the table name {name!r} is the ledger's own",
            cure=f'Rename the class, or name its table: class {table.__name__}(ai.Table, name="my_{name}").',
        )
    if table.model_config.get("extra") != "forbid":
        raise SchemaError(
            f"the table {table.__name__} has extra={table.model_config.get('extra')!r}: only fields are kept",
            cure="Leave extra out; a field `more: dict[str, Any]` holds anything.",
        )
    _refuse_underscores(table)
    _refuse_strange_names(table)
    if table.__pydantic_complete__:
        layout_of(table)


def _refuse_strange_names(table: type[Table]) -> None:
    """A class statement cannot have such fields; `create_model` and ``type(Table)(...)`` can."""
    for name in table.__pydantic_fields__:
        if not name.isidentifier():
            raise SchemaError(
                f"{name[:80]!r} cannot be the name of a field of the table {table.__name__}",
                cure="Use letters, digits and _, no digit first.",
            )


def _refuse_underscores(table: type[Table]) -> None:
    known = Table.__private_attributes__
    for name, attribute in table.__private_attributes__.items():
        meant = isinstance(attribute, ModelPrivateAttr) and known.get(name, PydanticUndefined) == attribute
        if not meant:
            raise SchemaError(
                f"the field {name!r} of the table {table.__name__} begins with an underscore: the system's do",
                cure=f"Rename it: {name.lstrip('_')}.",
            )
