"""From a table as the ledger has it to what its class declares: what is safe, what is not, and the SQL for it.

Calls the room's columns and model. Promises: nothing is changed before everything was found to be safe; what is not is
a SchemaError with the field, the types, the number of documents and the cure. In SQL all columns may be NULL: DuckDB
cannot add or drop a NOT NULL where there is an index, and every value passes the class anyway.
"""

from __future__ import annotations

from typing import Any

from ipyconvexai.errors import SchemaError
from ipyconvexai.store.link import Execute
from ipyconvexai.tables.columns import FEW_VALUES, Column, literal, quote
from ipyconvexai.tables.model import Layout

__all__ = ["Schema", "create", "declared", "is_current", "migrate"]

Schema = dict[str, Any]  # as it is kept: {"columns": {name: facts}, "indexes": {name: [fields]}}
# Changes of kind that need no look at the rows: the column and its values stay as they are.
_SAME_VALUES = {("choice", "str"), ("decimal", "str"), ("id", "uuid"), ("uuid", "id")}


def declared(layout: Layout) -> Schema:
    columns = {
        name: {
            "kind": column.kind,
            "sql": column.shape.sql,
            "nullable": column.shape.nullable,
            "optional": column.defaulted,
            "choices": None if column.shape.choices is None else list(column.shape.choices),
        }
        for name, column in layout.columns.items()
    }
    return {"columns": columns, "indexes": {name: list(fields) for name, fields in layout.indexes.items()}}


def is_current(stored: Schema, wanted: Schema) -> bool:
    """Whether the ledger's table is as the class declares it; columns that the class no longer has do not matter."""
    if stored.get("dropped") or stored["indexes"] != wanted["indexes"]:
        return False
    seen = {name: facts for name, facts in stored["columns"].items() if not facts.get("gone")}
    return bool(seen == wanted["columns"])


def create(execute: Execute, layout: Layout) -> Schema:
    """Create the table with its indexes; gives the schema to keep."""
    id_column, time_column = (column.quoted for column in layout.system.values())
    columns = "".join(f", {column.quoted} {column.shape.sql}" for column in layout.columns.values())
    execute(f"CREATE TABLE {layout.quoted} ({id_column} UUID PRIMARY KEY, {time_column} TIMESTAMP NOT NULL{columns})")
    wanted = declared(layout)
    _change_indexes(execute, layout.name, {}, _art_indexes(layout.name, wanted))
    return wanted


def migrate(execute: Execute, layout: Layout, stored: Schema) -> Schema:
    """Change the table towards what the class declares; gives the schema to keep. To be repeated until that is current:
    DuckDB refuses to create an index in a transaction that has changed the table's rows ("outstanding updates").

    Raises:
        SchemaError: that is not safe. Nothing was changed.
    """
    wanted = declared(layout)
    try:
        added, filled = _examine(execute, layout, stored, wanted)
    except SchemaError:
        if _count(execute, layout):
            raise
        execute(f"DROP TABLE {layout.quoted}")
        return create(execute, layout)
    names = {name.lower() for name in wanted["columns"]}
    gone = {name: {**facts, "gone": True} for name, facts in stored["columns"].items() if name.lower() not in names}
    columns = {**gone, **wanted["columns"]}
    if not added and not filled:
        _change_indexes(execute, layout.name, _art_indexes(layout.name, stored), _art_indexes(layout.name, wanted))
        return {"columns": columns, "indexes": wanted["indexes"]}
    for column in added:
        execute(f"ALTER TABLE {layout.quoted} ADD COLUMN {column.quoted} {column.shape.sql}{_default(column)}")
    for column in filled:
        sql = f"UPDATE {layout.quoted} SET {column.quoted} = {_value(column)} WHERE {column.quoted} IS NULL"
        execute(sql)
    return {"columns": columns, "indexes": stored["indexes"]}


# ---------------------------------------------------------------------------------------------- what is safe
def _examine(execute: Execute, layout: Layout, stored: Schema, wanted: Schema) -> tuple[list[Column], list[Column]]:
    """The columns to add, and those whose NULLs become the default.

    Raises:
        SchemaError: a change is not safe where there are documents.
    """
    added, filled = [], []
    old_columns = {name.lower(): facts for name, facts in stored["columns"].items()}
    for name, column in layout.columns.items():
        old = old_columns.pop(name.lower(), None)
        if old is None:
            if not column.shape.nullable and column.default is None:
                raise _unsafe(execute, layout, name, "no such field", _named(wanted, name), f"{_COME} {_DROP}")
            added.append(column)
        else:
            _examine_type(execute, layout, column, old, _named(wanted, name))
            if not column.shape.nullable and _nulls(execute, layout, column):
                if column.default is None:
                    raise _unsafe(execute, layout, name, _told(old), _named(wanted, name), _FILL, only_nulls=True)
                filled.append(column)
    for name, facts in old_columns.items():
        if not (facts["nullable"] or facts["optional"] or facts.get("gone")):
            raise _unsafe(execute, layout, name, _told(facts), "no such field", f"{_GO} {_DROP}")
    return added, filled


def _examine_type(execute: Execute, layout: Layout, column: Column, old: dict[str, Any], new: str) -> None:
    kinds = (old["kind"], column.kind)
    if kinds[0] == kinds[1] or kinds in _SAME_VALUES or kinds == ("str", "choice"):
        choices = column.shape.choices
        if choices is None or set(choices) >= set(old["choices"] or ()) != set():
            return
        values = f"{column.quoted}" if "[" not in column.kind else f"unnest({column.quoted})"
        sql = (
            f"SELECT count(*) FROM (SELECT {values} AS v FROM {layout.quoted}) WHERE NOT list_contains(?::VARCHAR[], v)"
        )
        if not execute(sql, [list(choices)])[0][0]:
            return
    raise _unsafe(execute, layout, column.name, _told(old), new, f"Give the new field another name. {_DROP}")


_COME = "Make it optional (`| None = None`) or give it a default."
_GO = "Give it a default first, and run that once; then it can go."
_FILL = "Give it a default, or fill those documents first."
_DROP = "If its documents can go, drop the table (`ai.app().drop_table(...)`)."


def _unsafe(
    execute: Execute, layout: Layout, field: str, old: str, new: str, cure: str, *, only_nulls: bool = False
) -> SchemaError:
    column = layout.columns.get(field)
    count = _nulls(execute, layout, column) if only_nulls and column is not None else _count(execute, layout)
    what = "documents have None there" if only_nulls else "documents are in the table"
    return SchemaError(
        f"the table {layout.name} has documents that do not fit its class: `{field}` was {old} and is now {new};"
        f" {count} {what}",
        cure=cure,
    )


def _named(schema: Schema, name: str) -> str:
    return _told(schema["columns"][name])


def _told(facts: dict[str, Any]) -> str:
    choices = "" if facts["choices"] is None else f" of {', '.join(map(repr, facts['choices']))}"
    kind = f"{facts['kind']}{choices} ({facts['sql']})"
    return f"{kind} or None" if facts["nullable"] else kind


def _count(execute: Execute, layout: Layout) -> int:
    return int(execute(f"SELECT count(*) FROM {layout.quoted}")[0][0])


def _nulls(execute: Execute, layout: Layout, column: Column) -> int:
    return int(execute(f"SELECT count(*) FROM {layout.quoted} WHERE {column.quoted} IS NULL")[0][0])


# ---------------------------------------------------------------------------------------------- SQL
def _default(column: Column) -> str:
    """A process that still has the older class writes rows without this column."""
    return "" if column.default is None else f" DEFAULT {_value(column)}"


def _value(column: Column) -> str:
    assert column.default is not None
    try:
        value = column.default()
    except Exception as error:  # a default_factory is anyone's code
        raise SchemaError(
            f"`{column.table}.{column.name}`: its default cannot be had: {type(error).__name__}: {error}",
            cure="Mend its default_factory, or give it a plain default.",
        ) from error
    return literal(column.encode(value), column.shape.sql)


def _art_indexes(table: str, schema: Schema) -> dict[str, str]:
    """Names of SQL indexes and their columns: one for each field that leads an index.

    DuckDB uses an ART index for a scan only when it is of a single column (a test looks at it), so the first field of
    ours is all that an SQL index can serve.
    """
    leading = {fields[0] for fields in schema["indexes"].values()}
    return {f"{table}.{name}": name for name in leading if schema["columns"][name]["kind"] not in FEW_VALUES}


def _change_indexes(execute: Execute, table: str, old: dict[str, str], new: dict[str, str]) -> None:
    for name in old.keys() - new.keys():
        execute(f"DROP INDEX {quote(name)}")
    for name in new.keys() - old.keys():
        execute(f"CREATE INDEX {quote(name)} ON {quote(table)} ({quote(new[name])})")
