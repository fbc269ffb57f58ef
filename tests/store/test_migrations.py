"""Numbered migrations: each once, in order, all or nothing; a migrated ledger is like a fresh one."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from ipyconvexai.errors import LedgerTooNewError
from ipyconvexai.store.ledger import Intent, Outcome
from ipyconvexai.store.migrations import migrate, migrations

TWO = {1: ("001_a.sql", "CREATE TABLE a (x INTEGER);"), 2: ("002_b.sql", "ALTER TABLE a ADD COLUMN y INTEGER;")}


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def columns(connection: duckdb.DuckDBPyConnection, table: str) -> list[str]:
    sql = "SELECT column_name FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index"
    return [name for (name,) in connection.execute(sql, [table]).fetchall()]


def versions(connection: duckdb.DuckDBPyConnection) -> list[int]:
    return [version for (version,) in connection.execute("SELECT version FROM schema_migrations").fetchall()]


def test_the_packages_own_are_numbered_without_a_gap():
    assert list(migrations()) == list(range(1, len(migrations()) + 1))


def test_a_fresh_ledger_has_the_columns_the_code_writes(connection: duckdb.DuckDBPyConnection):
    assert migrate(connection, "here") == max(migrations())
    assert columns(connection, "requests") == list(Intent._fields)
    assert columns(connection, "responses") == list(Outcome._fields)
    assert versions(connection) == list(migrations())


def test_migrating_again_changes_nothing(connection: duckdb.DuckDBPyConnection):
    for _ in range(2):
        migrate(connection, "here", TWO)
    assert versions(connection) == [1, 2]


def test_an_older_ledger_becomes_like_a_fresh_one(connection: duckdb.DuckDBPyConnection):
    migrate(connection, "here", {1: TWO[1]})
    assert columns(connection, "a") == ["x"]
    migrate(connection, "here", TWO)
    assert columns(connection, "a") == ["x", "y"]
    assert versions(connection) == [1, 2]


def test_a_migration_that_fails_leaves_all_as_it_was(connection: duckdb.DuckDBPyConnection):
    migrate(connection, "here", {1: TWO[1]})
    with pytest.raises(duckdb.Error):
        migrate(connection, "here", {**TWO, 3: ("003_c.sql", "SELECT nonsense;")})
    assert columns(connection, "a") == ["x"]
    assert versions(connection) == [1]


def test_a_newer_ledger_is_refused(connection: duckdb.DuckDBPyConnection):
    migrate(connection, "here", TWO)
    with pytest.raises(LedgerTooNewError, match="schema version 2; this ipyconvexai knows 1"):
        migrate(connection, "here", {1: TWO[1]})
    assert versions(connection) == [1, 2]
