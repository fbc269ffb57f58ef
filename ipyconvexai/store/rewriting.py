"""Removes content from a ledger for good. Calls duckdb and ``purging``.

What DuckDB is told to forget stays in the file: after an UPDATE, CHECKPOINT and VACUUM the old bytes are still in freed
blocks. So the file is written anew without them, checked, and put in the old one's place by one rename. Promises:
before that rename the ledger is as it was, after it purged, whenever the process is killed; a foreign program cannot
open the file in between.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from typing import Any

import duckdb

from ipyconvexai.crashpoints import passing
from ipyconvexai.errors import StoreError
from ipyconvexai.store.purging import DELETED, REMOVED, Criteria, Kind, clearing, doomed

__all__ = ["TABLES", "clear", "remove_leftovers", "rewrite"]

TABLES = (*REMOVED, *DELETED)  # what a purge changes
SUFFIX = ".purging"  # of the new file while it is written


def clear(cursor: duckdb.DuckDBPyConnection, criteria: Criteria) -> list[Kind]:
    """Clear the rows in place, for a ledger in memory; gives what was cleared."""
    kinds = _list_doomed(cursor, criteria)
    try:
        for table, (_, _, columns) in REMOVED.items():
            values = ", ".join(f'"{column}" = {value}' for column, value in columns.items())
            cursor.execute(f"UPDATE {table} SET {values} WHERE {clearing(table)}")
        for table in DELETED:
            cursor.execute(f"DELETE FROM {table} WHERE {clearing(table)}")
    finally:
        with contextlib.suppress(duckdb.Error):  # in a transaction that failed it goes by itself
            cursor.execute("DROP TABLE IF EXISTS temp.doomed")
    return kinds


def rewrite(path: str, config: Mapping[str, Any], criteria: Criteria) -> list[Kind]:
    """Put a file without the content in the place of `path`, which nobody has open; gives what was removed.

    Raises:
        duckdb.Error, OSError, StoreError: it could not be done, and the file is as it was.
    """
    new = path + SUFFIX
    remove_leftovers(path)
    own = {key: value for key, value in config.items() if key != "enable_external_access"}
    connection = duckdb.connect(config={**own, "temp_directory": new + ".tmp"})
    try:
        # For writing: this lock is held until the new file stands in the old one's place.
        connection.execute(f"ATTACH {_quoted(path)} AS ledger")
        connection.execute("CHECKPOINT ledger")
        if os.path.exists(path + ".wal"):  # it would be read as the new file's
            raise StoreError(
                f"the write-ahead log of {path} cannot be moved into it", cure="Free some space, then repeat."
            )
        kinds = _write(connection, new, criteria)
        _settle(path, new)
        passing("in_rewrite")
        os.replace(new, path)
        _sync(os.path.dirname(path) or ".")
    finally:
        connection.close()
        remove_leftovers(path)
    return kinds


def remove_leftovers(path: str) -> None:
    """What a process left that was killed in the middle of it. Its file holds content, too."""
    for leftover in (path + SUFFIX, f"{path}{SUFFIX}.wal"):
        with contextlib.suppress(OSError):
            os.unlink(leftover)
    shutil.rmtree(f"{path}{SUFFIX}.tmp", ignore_errors=True)


def _write(connection: duckdb.DuckDBPyConnection, new: str, criteria: Criteria) -> list[Kind]:
    connection.execute(f"ATTACH {_quoted(new)} AS fresh")
    connection.execute("COPY FROM DATABASE ledger TO fresh (SCHEMA)")
    connection.execute("USE ledger")
    kinds = _list_doomed(connection, criteria)
    tables = connection.execute(
        "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = 'ledger' AND NOT internal"
    ).fetchall()
    for schema, table in tables:
        ours = schema == "main"
        name = f"{_named(schema)}.{_named(table)}"
        rows = f"FROM ledger.{name}" + (f" WHERE NOT ({clearing(table)})" if ours and table in DELETED else "")
        connection.execute(f"INSERT INTO fresh.{name} SELECT {_columns(table) if ours else '*'} {rows}")
        counts = f"SELECT (SELECT count(*) {rows}), (SELECT count(*) FROM fresh.{name})"
        before, after = connection.execute(counts).fetchall()[0]
        if before != after:
            raise StoreError(f"of {before} rows of {table} {after} were copied; nothing was removed", cure="Repeat it.")
    connection.execute("CHECKPOINT fresh")
    connection.execute("DETACH fresh")
    return kinds


def _list_doomed(connection: duckdb.DuckDBPyConnection, criteria: Criteria) -> list[Kind]:
    sql, values = doomed(criteria)
    connection.execute("CREATE OR REPLACE TEMP TABLE doomed (kind VARCHAR, id UUID, moment TIMESTAMP)")
    connection.execute(f"INSERT INTO temp.doomed SELECT kind, id, moment FROM ({sql}) WHERE NOT open", values)
    rows = connection.execute(
        "SELECT kind, false, count(*), min(moment), max(moment) FROM temp.doomed GROUP BY kind ORDER BY kind"
    ).fetchall()
    return [Kind(*row) for row in rows]


def _columns(table: str) -> str:
    if table not in REMOVED:
        return "*"
    hit, columns = clearing(table), REMOVED[table][2]
    cleared = [f'CASE WHEN {hit} THEN {value} ELSE "{column}" END AS "{column}"' for column, value in columns.items()]
    return f"* REPLACE ({', '.join(cleared)})"


def _settle(path: str, new: str) -> None:
    """The new file is whole, durable, and the same people's."""
    if os.path.exists(new + ".wal"):
        raise StoreError("the new file is not complete; nothing was removed", cure="Free some space, then repeat.")
    shutil.copymode(path, new)
    with contextlib.suppress(OSError, AttributeError):
        facts = os.stat(path)
        os.chown(new, facts.st_uid, facts.st_gid)
    _sync(new)


def _sync(path: str) -> None:
    """Never of a file that DuckDB has open: closing it here would drop DuckDB's lock."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder, on Windows
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _named(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
