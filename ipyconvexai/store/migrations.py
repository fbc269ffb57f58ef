"""Numbered migrations: ``schema/NNN_name.sql``, each applied once, in order, in one transaction. Called by the engine."""

from __future__ import annotations

import datetime
from importlib import resources

import duckdb

from ipyconvexai.errors import LedgerTooNewError

__all__ = ["migrate", "migrations"]


def migrations() -> dict[int, tuple[str, str]]:
    """Version -> (file name, SQL), ascending."""
    files = resources.files("ipyconvexai.store").joinpath("schema").iterdir()
    scripts = {int(file.name[:3]): (file.name, file.read_text("utf-8")) for file in files if file.name.endswith(".sql")}
    return dict(sorted(scripts.items()))


def utc_now() -> datetime.datetime:
    """Now in UTC, naive, as the ledger's TIMESTAMP columns hold it."""
    return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)


def migrate(connection: duckdb.DuckDBPyConnection, path: str) -> int:
    """Bring the open database to the newest version; gives that version.

    Raises:
        LedgerTooNewError: the file has a version this package does not know; it is left as it is.
    """
    scripts = migrations()
    newest = max(scripts)
    cursor = connection.cursor()
    try:
        cursor.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations"
            " (version INTEGER PRIMARY KEY, name VARCHAR NOT NULL, applied_at TIMESTAMP NOT NULL)"
        )
        current = cursor.execute("SELECT coalesce(max(version), 0) FROM schema_migrations").fetchall()[0][0]
        if current > newest:
            raise LedgerTooNewError(
                f"the ledger {path} has schema version {current}; this ipyconvexai knows {newest}",
                cure="Upgrade with `pip install -U ipyconvexai`, or use another file.",
            )
        for version, (name, script) in scripts.items():
            if version > current:
                _apply(cursor, version, name, script)
    finally:
        cursor.close()
    return newest


def _apply(cursor: duckdb.DuckDBPyConnection, version: int, name: str, script: str) -> None:
    cursor.begin()
    try:
        cursor.execute(script)
        cursor.execute("INSERT INTO schema_migrations VALUES (?, ?, ?)", [version, name, utc_now()])
        cursor.commit()
    except BaseException:
        cursor.rollback()  # commit() of an aborted transaction would return normally and lose it
        raise
