"""Numbered migrations: ``schema/NNN_name.sql``, each applied once, in order, in a transaction."""

from __future__ import annotations

import contextlib
from importlib import resources

import duckdb

from ipyconvexai.errors import LedgerTooNewError, StoreError
from ipyconvexai.store.clock import utc_now

__all__ = ["migrate", "migrations"]


def migrations() -> dict[int, tuple[str, str]]:
    """Version -> (file name, SQL), ascending."""
    files = resources.files("ipyconvexai.store").joinpath("schema").iterdir()
    scripts = {int(file.name[:3]): (file.name, file.read_text("utf-8")) for file in files if file.name.endswith(".sql")}
    return dict(sorted(scripts.items()))


def migrate(connection: duckdb.DuckDBPyConnection, path: str, scripts: dict[int, tuple[str, str]] | None = None) -> int:
    """Bring the open database to the newest version of `scripts` (default: the package's); gives that version.

    Raises:
        LedgerTooNewError: the file has a version this package does not know; it is left as it is.
        StoreError: the file has tables of these names that are not the ledger's; it is left as it is.
    """
    scripts = scripts or migrations()
    newest = max(scripts)
    cursor = connection.cursor()
    try:
        cursor.begin()  # one for all: a new ledger costs one commit, and none is left between two versions
        current = _version(cursor)
        if current > newest:
            raise LedgerTooNewError(
                f"the ledger {path} has schema version {current}; this ipyconvexai knows {newest}",
                cure="Upgrade with `pip install -U ipyconvexai`, or use another file.",
            )
        for version, (name, script) in scripts.items():
            if version > current:
                cursor.execute(script)
                cursor.execute("INSERT INTO schema_migrations VALUES (?, ?, ?)", [version, name, utc_now()])
        cursor.commit()
    except BaseException as error:
        with contextlib.suppress(duckdb.Error):
            cursor.rollback()  # commit() of an aborted transaction would return normally and lose it
        if isinstance(error, duckdb.CatalogException):
            raise StoreError(
                f"{path} is not a ledger: {str(error).splitlines()[0]}", cure="Choose another file for the ledger."
            ) from None
        raise
    finally:
        cursor.close()
    return newest


def _version(cursor: duckdb.DuckDBPyConnection) -> int:
    # To ask which tables there are would have DuckDB list all that it has built in: 8 ms, a fifth of opening a ledger.
    cursor.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations"
        " (version INTEGER PRIMARY KEY, name VARCHAR NOT NULL, applied_at TIMESTAMP NOT NULL)"
    )
    return int(cursor.execute("SELECT coalesce(max(version), 0) FROM schema_migrations").fetchall()[0][0])
