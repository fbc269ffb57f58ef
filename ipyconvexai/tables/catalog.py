"""Which tables a ledger has, under which numbers, and that they are as their classes declare them.

Calls the room's migration, model and registry, and the store. Promises: ``ensure_all`` costs next to nothing when no
class was defined since; what does not fit is remembered per class and raised where that class is used, so that one bad
class stops no other function; two processes that do it at once do it once.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass
from typing import Any

from ipyconvexai.errors import DataError, DocumentError, Error, QueryError, SchemaError, TransactionError
from ipyconvexai.ids import MOST_TABLES, table_number
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.link import Execute, Store
from ipyconvexai.tables import registry
from ipyconvexai.tables.builtin import BUILT_IN
from ipyconvexai.tables.columns import quote
from ipyconvexai.tables.migration import Schema, create, declared, is_current, migrate
from ipyconvexai.tables.model import RESERVED, Layout, Table, layout_of

__all__ = ["Catalog", "Entry"]

# What goes wrong with one class, and is remembered. A full disk or a keeper that is gone stops them all, and the next
# function tries again.
_OF_ONE_CLASS = (DataError, QueryError, TransactionError)
_LOAD = "SELECT number, name, schema FROM document_tables"


@dataclass(frozen=True)
class Entry:
    """A table of this ledger that this process has a class for."""

    number: int
    layout: Layout

    @property
    def built_in(self) -> bool:
        return self.layout.name in BUILT_IN


@dataclass(frozen=True)
class _Known:
    """A row of ``document_tables``; ``schema`` is None for the ledger's own."""

    number: int
    name: str
    schema: Schema | None


class Catalog:
    """The tables of one ledger."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._seen = -1  # the registry's generation that this catalogue knows
        self._entries: dict[str, Entry] = {}  # by SQL name in lower case
        self._faults: dict[str, SchemaError] = {}
        self._names: dict[int, str] = {}

    def ensure_all(self) -> None:
        """Create or migrate what was defined since the last time."""
        if self._seen == registry.generation():
            return
        with self._lock:
            seen = registry.generation()  # first: a class that is defined meanwhile is looked at the next time
            if self._seen != seen:
                self._ensure(registry.defined())
                self._seen = seen

    def forget(self) -> None:
        """Look at everything again the next time: somebody else has changed the tables."""
        with self._lock:
            self._seen = -1

    @property
    def is_current(self) -> bool:
        """Whether ``ensure_all`` would have nothing to do."""
        return self._seen == registry.generation()

    def other_table(self, target: type[Table], document_id: str) -> str | None:
        """The name of the table that an id is of, where that is not the one of `target`; None where it is, or where it
        cannot be told."""
        number = table_number(document_id)
        entry = self._entries.get(target.__table_name__.lower())
        if number is None or entry is None or number == entry.number:
            return None
        return self.name_of(number)

    def entry(self, table: type[Table]) -> Entry:
        """What the ledger has for a class; an older class of the same name will do while its columns are the same.

        Raises:
            SchemaError: its table does not fit it, or is not there.
            DocumentError: it is no table, or an older class with other columns.
        """
        if not (isinstance(table, type) and issubclass(table, Table)) or table is Table:
            raise DocumentError(f"{table!r} is no table", cure="Give a class: class Note(ai.Table): ...")
        key = table.__table_name__.lower()
        if key in self._faults:
            raise self._faults[key].with_traceback(None)
        entry = self._entries.get(key)
        if entry is None:
            raise SchemaError(
                f"the table {table.__name__} is not in this ledger yet",
                cure="Define the class before the function that uses it is called, and not inside of it.",
            )
        if entry.layout.table is table:
            return entry
        layout = layout_of(table)
        if not layout.same_columns(entry.layout):
            newer = entry.layout.table
            if (newer.__module__, newer.__qualname__) != (table.__module__, table.__qualname__):
                raise DocumentError(f"{_two(table, newer.__place__)}; their fields differ", cure=_other_name(table))
            raise DocumentError(
                f"the class {table.__name__} was defined again with other fields, and this is the older one",
                cure="Run the cells again that use it.",
            )
        return Entry(entry.number, layout)

    def known(self, table: type[Table]) -> Entry | None:
        """The same for any class of this name; None where its table does not fit it, or is not there."""
        return self._entries.get(table.__table_name__.lower())

    def of_number(self, number: int) -> Entry | None:
        """The table whose ids carry this number; None where the ledger has none.

        Raises:
            DocumentError: this process has no class for it.
        """
        name = self._names.get(number)
        if name is None:
            return None
        table = registry.find_by_table(name)
        if table is None:
            raise DocumentError(
                f"the id is one of the table {name}, which no class defines here",
                cure=f"Run the cell that defines it first: class {name}(ai.Table): ...",
            )
        return self.entry(table)

    def name_of(self, number: int) -> str:
        """The name of a table, for messages."""
        return self._names.get(number, f"number {number}, which this ledger does not have")

    def names(self) -> set[str]:
        """SQL names of all tables that documents are in."""
        return set(self._names.values())

    def learn(self, execute: Any) -> None:
        """Learn the tables that other processes have made; `execute` reads."""
        self._names = {number: name for number, name, schema in execute(_LOAD) if not _is_dropped(schema)}

    def drop(self, table: type[Table] | str) -> None:
        """Remove a user's table with all its documents. Its class, where it is defined, begins with an empty one.

        Raises:
            SchemaError: there is none of this name, or it is the ledger's own.
        """
        name = table if isinstance(table, str) else table.__table_name__
        if (known_class := registry.find(name)) is not None:
            name = known_class.__table_name__
        if name.lower() in RESERVED:
            raise SchemaError(f"the table {name} is the ledger's own", cure="Delete its documents instead.")
        with self._store.transaction() as execute:
            known = _load(execute).get(name.lower())
            if known is None or _dropped(known):
                raise SchemaError(f"there is no table {name}", cure="See the names: SELECT name FROM document_tables.")
            execute(f"DROP TABLE {quote(known.name)}")
            # The row stays: another table under this number would take the ids of the old one for its own.
            _keep(execute, known.number, known.name, {"dropped": True})
        self.forget()

    # ------------------------------------------------------------------------------------------ bringing up to date
    def _ensure(self, tables: list[type[Table]]) -> None:
        known = _load(self._store.read)
        faults: dict[str, SchemaError] = {}
        layouts: dict[str, Layout] = {}
        for table in tables:
            key = table.__table_name__.lower()
            try:
                layouts[key] = layout_of(table)
            except Exception as error:  # hints that are read late are code: anything can go wrong in them
                faults[key] = _fault(table, error)
        stale = {key: layout for key, layout in layouts.items() if not _fits(known.get(key), layout)}
        fresh = [layout for key, layout in stale.items() if key not in known]
        if fresh and not self._together(fresh):
            stale = {key: layout for key, layout in stale.items() if layout not in fresh}
        for key, layout in stale.items():
            try:
                done = False
                while not done:
                    with self._store.transaction() as execute:
                        done = _bring_up_to_date(execute, layout)
            except _OF_ONE_CLASS as error:
                faults[key] = _fault(layout.table, error)
        if stale or fresh:
            known = _load(self._store.read)
        self._names = {row.number: row.name for row in known.values() if not _dropped(row)}
        self._faults = faults
        self._entries = {
            key: Entry(known[key].number, layout)
            for key, layout in layouts.items()
            if key in known and key not in faults
        }

    def _together(self, layouts: list[Layout]) -> bool:
        """Create new tables in one transaction, which costs one commit; whether some must be looked at alone."""
        try:
            with self._store.transaction() as execute:
                for layout in layouts:
                    _bring_up_to_date(execute, layout)
        except _OF_ONE_CLASS:
            return True
        return False


def _is_dropped(schema: str | None) -> bool:
    return schema is not None and bool(json.loads(schema).get("dropped"))


def _dropped(known: _Known) -> bool:
    return known.schema is not None and bool(known.schema.get("dropped"))


def _load(read: Any) -> dict[str, _Known]:
    rows = read(_LOAD)
    return {name.lower(): _Known(number, name, schema and json.loads(schema)) for number, name, schema in rows}


def _fits(known: _Known | None, layout: Layout) -> bool:
    if known is None:
        return False
    if layout.name in BUILT_IN:
        return True
    return known.schema is not None and is_current(known.schema, declared(layout))


def _bring_up_to_date(execute: Execute, layout: Layout) -> bool:
    """One step towards what the class declares; whether that is reached."""
    known = _load(execute)
    mine = known.get(layout.name.lower())
    if mine is None:
        _refuse_strange_table(execute, layout)
        number = max(row.number for row in known.values()) + 1
        if number > MOST_TABLES:
            raise SchemaError("the ledger has as many tables as it can have", cure="Begin another ledger.")
        schema = create(execute, layout)
        execute("INSERT INTO document_tables VALUES (?, ?, ?, ?)", [number, layout.name, json.dumps(schema), utc_now()])
    elif mine.schema is None:
        raise SchemaError(f"the table name {layout.name!r} is the ledger's own", cure="Choose another name.")
    elif _dropped(mine):
        _keep(execute, mine.number, layout.name, create(execute, layout))
    elif not is_current(mine.schema, declared(layout)):
        schema = migrate(execute, layout, mine.schema)
        _keep(execute, mine.number, mine.name, schema)
        return is_current(schema, declared(layout))
    return True


def _keep(execute: Execute, number: int, name: str, schema: Schema) -> None:
    execute(
        "UPDATE document_tables SET name = ?, schema = ?, changed_at = ? WHERE number = ?",
        [name, json.dumps(schema), utc_now(), number],
    )


def _refuse_strange_table(execute: Execute, layout: Layout) -> None:
    sql = "SELECT 1 FROM information_schema.tables WHERE lower(table_name) = ? AND table_schema = 'main'"
    if execute(sql, [layout.name.lower()]):
        raise SchemaError(
            f"the ledger has a table {layout.name} that is none of yours",
            cure=f'Name it differently: class {layout.table.__name__}(ai.Table, name="my_{layout.name}").',
        )


# ---------------------------------------------------------------------------------------------- faults
def _fault(table: type[Table], error: Exception) -> SchemaError:
    """What is raised wherever the class is used."""
    message, cure = _told(table, error)
    if table.__rival__:
        return SchemaError(f"{message}; {_two(table, table.__rival__)}", cure=f"{_other_name(table)}\n{cure}".strip())
    return error if isinstance(error, SchemaError) else SchemaError(message, cure=cure)


def _told(table: type[Table], error: Exception) -> tuple[str, str]:
    if isinstance(error, SchemaError):
        return error.message, error.cure
    message = f"the table {table.__table_name__} could not be changed to what its class declares: "
    if isinstance(error, TransactionError):
        return message + error.message, (
            "Leave the new index or field out, or begin a new table and copy the documents in portions."
        )
    if isinstance(error, Error):
        return message + error.message, error.cure
    return f"{message}{type(error).__name__}: {error}", "Look at its type hints and at the defaults of its fields."


def _two(table: type[Table], other: str) -> str:
    return f"the table name {table.__table_name__!r} is used by two classes: {table.__place__}, and {other}"


def _other_name(table: type[Table]) -> str:
    module = re.sub(r"\W", "_", table.__module__.rpartition(".")[2]).strip("_")
    name = f"{module}_{table.__table_name__}".lower()
    return f'Name the table of one of them: class {table.__name__}(ai.Table, name="{name}").'
