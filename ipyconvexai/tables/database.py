"""``ctx.db``: documents by id and by index. Calls the room's catalogue and queries, and the store.

Promises: what is written passed its class; an id of another table is never taken for one of this; writes travel
together with the commit, so a mutation of one insert is one message to the keeper.
"""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Mapping
from typing import Any, TypeVar, cast, overload

from pydantic import ValidationError

from ipyconvexai.errors import DocumentError, InputError, NotAllowedError, NotFoundError, QueryError
from ipyconvexai.ids import new_id, table_number
from ipyconvexai.store.link import Execute, Reads
from ipyconvexai.tables.builtin import Conversation, Document, Message
from ipyconvexai.tables.catalog import Catalog, Entry
from ipyconvexai.tables.columns import Column
from ipyconvexai.tables.faults import document_error
from ipyconvexai.tables.ids import proper_id
from ipyconvexai.tables.model import RESERVED, Layout, Table
from ipyconvexai.tables.query import Query

__all__ = ["Reader", "Writer"]

D = TypeVar("D", bound=Table)
_CONTENT = ("content", "summary", "title", "system", "attachments", "tool_call", "error_message")
_VIEWS = {"calls": {"requests", "responses"}}


class Reader:
    """`now`: the instant of the query or mutation, with its zone. ``tables_read`` names the SQL tables looked at."""

    def __init__(self, execute: Reads, catalog: Catalog, now: datetime.datetime) -> None:
        self._execute = execute
        self._catalog = catalog
        self._now = now.astimezone(datetime.UTC).replace(tzinfo=None)
        self.tables_read: set[str] = set()

    @overload
    def get(self, table: type[D], document_id: str, /) -> D | None: ...
    @overload
    def get(self, document_id: str, /) -> Any: ...
    def get(self, *which: Any) -> Any:
        """``get(id)`` or ``get(Table, id)``: the document, or None where there is none.

        Raises:
            DocumentError: it is no id, or one of another table, or of one that is not defined here.
        """
        if len(which) not in (1, 2):
            raise DocumentError("get() takes an id, or a table and an id", cure="ctx.db.get(Note, note_id)")
        entry, document_id = self._find(which[-1], which[0] if len(which) == 2 else None)
        return None if entry is None else self._get(entry, document_id)

    def query(self, table: type[D]) -> Query[D]:
        """All documents of a table, by ``_creation_time``; see ``Query`` for how to choose among them."""
        return Query.of(self, self._catalog.entry(table).layout)

    def sql(self, query: str, params: Any = None) -> list[dict[str, Any]]:
        """The rows of a SELECT, in which this transaction's own writes are seen. Ids are texts, instants UTC.

        Raises:
            QueryError: it is wrong, or no SELECT.
        """
        if not isinstance(query, str) or query.strip(" ;\n").upper() in ("COMMIT", "ROLLBACK"):
            raise QueryError("sql() takes one SELECT, as text", cure='ctx.db.sql("SELECT count(*) FROM messages")')
        self._note_tables(query)
        names, rows = self._execute.select(query, _for_sql(params))
        return [dict(zip(names, map(_from_sql, row), strict=True)) for row in rows]

    def _note_tables(self, query: str) -> None:
        words = {word.lower() for word in re.findall(r"\w+", query)}
        for name in self._catalog.names() | RESERVED:
            if name.lower() in words:
                self.tables_read |= _VIEWS.get(name, {name})

    def __getattr__(self, name: str) -> Any:
        if name in ("insert", "patch", "replace", "delete"):
            raise NotAllowedError(
                f"a query only reads: ctx.db.{name} is not allowed in it", cure="Do it in a mutation: @ai.mutation."
            )
        raise AttributeError(f"ctx.db has no {name!r}", name=name, obj=self)

    # ------------------------------------------------------------------------------------------ for queries
    def rows(self, layout: Layout, sql: str, params: list[Any]) -> list[tuple[Any, ...]]:
        self.tables_read.add(layout.name)
        try:
            return self._execute(sql, params)
        except QueryError:  # perhaps another process changed the table meanwhile
            self._catalog.forget()
            raise

    def document(self, layout: Layout, row: tuple[Any, ...]) -> Any:
        """The document of a row of ``layout.selection``. Its values passed the class when they were written."""
        values = {}
        for (name, column), value in zip(layout.columns.items(), row[2:], strict=True):
            try:
                values[name] = column.decode(value) if value is not None else _absent(column)
            except ValueError as error:
                raise DocumentError(
                    f"the document {row[0]} of {layout.name} does not fit its class: `{name}`:"
                    f" {str(error).splitlines()[0]}",
                    cure="Widen the field's type, or mend the document with the older class.",
                ) from None
        document = layout.table.__new__(layout.table)
        object.__setattr__(document, "__dict__", values)
        object.__setattr__(document, "__pydantic_fields_set__", set(values))
        object.__setattr__(document, "__pydantic_extra__", None)
        private = {"_id": row[0], "_creation_time": row[1].replace(tzinfo=datetime.UTC)}
        object.__setattr__(document, "__pydantic_private__", private)
        return document

    def check_ids(self, layout: Layout, values: dict[str, Any]) -> None:
        """Refuse encoded values of id columns that are ids of another table."""
        for name, value in values.items():
            hint = layout.all[name].shape.id_of
            target = None if hint is None or value is None else hint.table()
            entry = None if target is None else self._catalog.known(target)
            if entry is not None:
                ids: list[str] = value if isinstance(value, list) else [value]
                for one in ids:
                    self._check_id(entry, one, f"`{layout.table.__name__}.{name}`: ")

    # ------------------------------------------------------------------------------------------ ids
    def _find(self, document_id: Any, table: type[Table] | None) -> tuple[Entry | None, str]:
        """The table of an id; None where an id of the ledger's older rows is in no table."""
        text = _proper(document_id)
        if table is not None:
            entry = self._catalog.entry(table)
            self._check_id(entry, text)
            return entry, text
        number = table_number(text)
        if number is None:
            return self._find_older(text), text
        found = self._catalog.of_number(number)
        if found is None:
            self._catalog.learn(self._execute)
            found = self._catalog.of_number(number)
        if found is None:
            raise DocumentError(f"{text} is an id of a table that this ledger does not have", cure="Is it another's?")
        return found, text

    def _find_older(self, document_id: str) -> Entry | None:
        """The ledger's own rows have ids without a table's number, where they were not written through functions."""
        version = uuid.UUID(document_id).version
        tables: dict[int | None, list[type[Table]]] = {5: [Document], 7: [Conversation, Message]}
        for table in tables.get(version, []):
            entry = self._catalog.entry(table)
            if self._exists(entry, document_id):
                return entry
        if version not in tables:
            raise DocumentError(f"{document_id} is no id of a document", cure="Give what insert() gave, or doc._id.")
        return None

    def _check_id(self, entry: Entry, document_id: str, where: str = "") -> None:
        number = table_number(document_id)
        if number == entry.number or (number is None and entry.built_in):
            return
        other = "no table" if number is None else f"the table {self._catalog.name_of(number)}"
        raise DocumentError(
            f"{where}{document_id} is an id of {other}, and not of {entry.layout.name}",
            cure=f"Give an id of {entry.layout.name}.",
        )

    def _exists(self, entry: Entry, document_id: str) -> bool:
        layout = entry.layout
        return bool(self.rows(layout, f"SELECT 1 FROM {layout.quoted} WHERE {_by_id(layout)}", [document_id]))

    def _get(self, entry: Entry, document_id: str) -> Any:
        layout = entry.layout
        sql = f"SELECT {layout.selection} FROM {layout.quoted} WHERE {_by_id(layout)}"
        rows = self.rows(layout, sql, [document_id])
        return self.document(layout, rows[0]) if rows else None


class Writer(Reader):
    """Reads and writes, in one transaction."""

    def __init__(self, execute: Execute, catalog: Catalog, now: datetime.datetime) -> None:
        super().__init__(execute, catalog, now)
        self._write = execute
        self.keeps_content = True  # False with record="metadata": the ledger's own tables hold no texts then

    def insert(self, document: Table) -> str:
        """Insert a document; gives its id. Of a `Document` with the same content there is only one.

        Raises:
            DocumentError: a value cannot be kept, or an id in it is one of another table.
        """
        entry = self._entry_of(document)
        if document._id is not None:
            raise DocumentError(
                f"this document is in {entry.layout.name} already, as {document._id}",
                cure=f"replace() it, or insert a new one: {type(document).__name__}(**dict(document)).",
            )
        values = self._encoded(entry, document)
        content_id = document._content_id()
        document_id = content_id or new_id(table=entry.number)
        # Only the id may be there already: elsewhere nothing is unique.
        sql = entry.layout.inserting + (" ON CONFLICT DO NOTHING" if content_id else "")
        self._write.later(sql, [document_id, self._now, *values.values()])
        return document_id

    def patch(self, document_id: str, changes: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        """Change some fields of a document: ``patch(id, stars=5)``, or a dict.

        Raises:
            NotFoundError: no document has this id.
            DocumentError: a field is unknown, the system's, or does not fit its type.
        """
        changed = {**(changes or {}), **fields}
        entry, current = self._existing(document_id)
        layout = entry.layout
        _refuse_foreign_fields(layout, changed)
        before = dict(current)
        try:
            patched = layout.table.__pydantic_validator__.validate_python({**before, **changed}, by_name=True)
        except ValidationError as error:
            raise document_error(layout.table.__name__, error) from None
        self._check_content(current, patched)
        names = [name for name in layout.columns if name in changed or getattr(patched, name) != before[name]]
        values = self._encoded(entry, patched, names)
        if values:
            changes_sql = ", ".join(f"{layout.columns[name].quoted} = ?" for name in values)
            sql = f"UPDATE {layout.quoted} SET {changes_sql} WHERE {_by_id(layout)}"
            self._write.later(sql, [*values.values(), current._id])

    def replace(self, document_id: str, document: Table) -> None:
        """Replace all fields of a document.

        Raises:
            NotFoundError: no document has this id.
            DocumentError: the document is of another table, or does not fit.
        """
        entry, current = self._existing(document_id)
        new = self._entry_of(document)
        if new.number != entry.number:
            raise DocumentError(
                f"{document_id} is an id of {entry.layout.name}, and the document is one of {new.layout.name}",
                cure=f"Give a document of {entry.layout.name}.",
            )
        if document._id not in (None, current._id):
            raise DocumentError(
                f"the system field `_id` cannot be set: the document is {document._id}, and not {current._id}",
                cure="Replace the document under its own id.",
            )
        self._check_content(current, document)
        values = self._encoded(new, document)
        sql = f"{new.layout.updating}::UUID"
        self._write.later(sql, [*values.values(), current._id])

    def delete(self, document_id: str) -> None:
        """Delete a document.

        Raises:
            NotFoundError: no document has this id.
        """
        entry, text = self._find(document_id, None)
        if entry is None or not self._exists(entry, text):
            raise _not_found(text, entry)
        self._write.later(f"DELETE FROM {entry.layout.quoted} WHERE {_by_id(entry.layout)}", [text])

    # ------------------------------------------------------------------------------------------ checks
    def _existing(self, document_id: str) -> tuple[Entry, Any]:
        entry, text = self._find(document_id, None)
        current = None if entry is None else self._get(entry, text)
        if entry is None or current is None:
            raise _not_found(text, entry)
        return entry, current

    def _entry_of(self, document: Any) -> Entry:
        if not isinstance(document, Table):
            raise DocumentError(
                f"a document of a table is meant, and not a {type(document).__name__}",
                cure='For example: ctx.db.insert(Note(text="..."))',
            )
        return self._catalog.entry(type(document))

    def _encoded(self, entry: Entry, document: Table, names: list[str] | None = None) -> dict[str, Any]:
        columns = entry.layout.columns
        chosen = columns if names is None else {name: columns[name] for name in names}
        values = {name: column.encode(getattr(document, name)) for name, column in chosen.items()}
        self.check_ids(entry.layout, values)
        if not self.keeps_content and entry.built_in and any(values.get(name) for name in _CONTENT):
            raise InputError(
                f"with record='metadata' no content is kept in {entry.layout.name}",
                cure="Keep it in a table of your own, or connect with record='full'.",
            )
        return values

    def _check_content(self, current: Table, new: Table) -> None:
        if new._content_id() not in (current._content_id(), current._id):
            raise DocumentError(
                f"the content of the document {current._id} cannot change: its id follows from it",
                cure="Insert the new text as a document of its own.",
            )


# ---------------------------------------------------------------------------------------------- small things
def _by_id(layout: Layout) -> str:
    return f"{layout.system['_id'].quoted} = ?::UUID"


def _proper(document_id: Any) -> str:
    try:
        return proper_id(document_id)
    except (ValueError, TypeError, AttributeError):
        shown = repr(document_id)[:60] if isinstance(document_id, str) else f"a {type(document_id).__name__}"
        raise DocumentError(f"{shown} is no id", cure="Give what insert() gave, or doc._id.") from None


def _not_found(document_id: str, entry: Entry | None) -> NotFoundError:
    where = "" if entry is None else f" in {entry.layout.name}"
    return NotFoundError(f"there is no document {document_id}{where}", cure="Look for it first: ctx.db.get(id).")


def _absent(column: Column) -> Any:
    """The value of a field whose column is NULL: a row of a process with an older class, perhaps."""
    if column.shape.nullable:
        return None
    if column.default is None:
        raise ValueError("it is missing")
    return column.default()


def _refuse_foreign_fields(layout: Layout, changes: Mapping[str, Any]) -> None:
    for name in changes:
        if name in layout.system:
            raise DocumentError(f"the system field `{name}` cannot be set", cure="Leave it out.")
        if name not in layout.columns:
            raise DocumentError(
                f"{layout.table.__name__}: Object contains extra field `{name}`",
                cure=f"Its fields: {', '.join(layout.columns)}.",
            )


def _for_sql(value: Any) -> Any:
    """Parameters of anyone's SELECT: the ledger's instants are UTC without a zone."""
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.astimezone(datetime.UTC).replace(tzinfo=None)
    if isinstance(value, dict):
        return {key: _for_sql(one) for key, one in value.items()}
    return [_for_sql(one) for one in value] if isinstance(value, list | tuple) else value


def _from_sql(value: Any) -> Any:
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime.datetime) and value.tzinfo is None:
        return value.replace(tzinfo=datetime.UTC)
    if isinstance(value, dict):
        return {key: _from_sql(one) for key, one in value.items()}
    return cast(Any, [_from_sql(one) for one in value]) if isinstance(value, list | tuple) else value
