"""A ledger of every schema so far, opened by the package as it is now.

The files were made by the migrations up to each schema and filled by tests/data/schemas/make.py: no release wrote them.
"""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any

import duckdb
import pytest

import ipyconvexai as ai
from ipyconvexai.errors import LedgerTooNewError
from ipyconvexai.store.engine import Engine
from ipyconvexai.store.link import KeeperStore
from ipyconvexai.store.migrations import migrations
from tests.data.schemas.make import FOLDER, NOTED, ROWS, tables_of
from tests.promises.promising import Figure
from tests.store.helpers import add

PROMISE = (
    "a ledger of every earlier schema opens, with all its rows, and is then like a new one; a newer one is refused"
)

VERSIONS = list(migrations())
USERS = {"Note"}  # a table of the user's own, in the files
PARTS = {
    "columns": "SELECT table_name, column_index, column_name, data_type, column_default, is_nullable"
    " FROM duckdb_columns() WHERE NOT internal",
    "indexes": "SELECT table_name, index_name, is_unique, expressions FROM duckdb_indexes()",
    "constraints": "SELECT table_name, constraint_type, constraint_column_names FROM duckdb_constraints()",
    "views": "SELECT view_name, sql FROM duckdb_views() WHERE NOT internal",
    "sequences": "SELECT sequence_name, start_value, increment_by FROM duckdb_sequences()",
    "types": "SELECT type_name, logical_type FROM duckdb_types() WHERE NOT internal",
}


def unpacked(version: int, folder: Path) -> Path:
    path = folder / f"schema-{version}.duckdb"
    path.write_bytes(lzma.decompress((FOLDER / f"{version}.duckdb.xz").read_bytes()))
    return path


def schema_of(path: Path) -> dict[str, set[str]]:
    engine = Engine(str(path))
    found = {
        part: {repr(row) for row in engine.read(sql) if row[0] not in USERS and not str(row[0]).startswith("duckdb_")}
        for part, sql in PARTS.items()
    }
    engine.close()
    return found


def content_of(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Table -> its rows, by the names of the columns; read without the package."""
    with duckdb.connect(str(path), read_only=True) as connection:
        found = {}
        for table, columns in tables_of(connection).items():
            rows = connection.execute(f'FROM "{table}" ORDER BY ALL').fetchall()
            found[table] = [dict(zip(columns, row, strict=True)) for row in rows]
        return found


def test_there_is_a_file_of_each():
    assert {file.name for file in FOLDER.glob("*.xz")} == {f"{version}.duckdb.xz" for version in VERSIONS}


@pytest.mark.parametrize("version", VERSIONS)
def test_one_is_as_a_new_one_with_all_its_rows(tmp_path: Path, figure: Figure, version: int):
    path, fresh = unpacked(version, tmp_path), tmp_path / "fresh.duckdb"
    before = content_of(path)
    assert all(len(rows) >= ROWS for table, rows in before.items() if table not in NOTED), "a table without rows"
    assert len(before["schema_migrations"]) == version
    assert schema_of(path) == schema_of(fresh)
    after = content_of(path)
    assert len(after["schema_migrations"]) == max(VERSIONS)
    for table, rows in before.items():
        kept = [{name: row[name] for name in rows[0]} for row in after[table]]
        assert [row for row in rows if row not in kept] == [], table
        assert len(kept) == len(rows) or table in NOTED, table
    figure(
        f"schema {version}: 0 of {sum(map(len, before.values()))} rows lost",
        f"a file made by its migrations, {len(before)} tables",
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_its_rows_are_read_through_the_public_names(tmp_path: Path, version: int):
    with ai.connect(str(unpacked(version, tmp_path)), model="openai:gpt-4o-mini") as app:
        calls = app.ledger.calls().fetchall()
        assert len(calls) == ROWS
        assert app.ledger.sql("SELECT DISTINCT text FROM calls WHERE status = 'ok'").fetchall()
        assert app.ledger.usage().fetchall()[0][1] == ROWS
        ((talk,),) = app.ledger.sql("SELECT id::VARCHAR FROM conversations ORDER BY id LIMIT 1").fetchall()
        assert [message.content for message in ai.conversation(talk).messages()] == ["messages content 0"]
        if version >= 2:
            assert len(ai.jobs().fetchall()) == ROWS
            assert len(app.store.limits()) == ROWS
            assert app.ledger.sql("SELECT count(*) FROM Note").fetchall() == [(ROWS,)]
        if version >= 4:
            assert len(ai.batches().fetchall()) == ROWS


def test_one_can_be_written_to(tmp_path: Path):
    store = KeeperStore(unpacked(1, tmp_path))
    (key,) = add(store, "new")
    assert store.read("SELECT title FROM conversations WHERE id = ?::UUID", [key]) == [("new",)]
    store.close()


def test_a_newer_one_is_refused_and_left_as_it_is(tmp_path: Path):
    path = unpacked(max(VERSIONS), tmp_path)
    with duckdb.connect(str(path)) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (?, 'later', now()::TIMESTAMP)", [max(VERSIONS) + 1])
    before = path.read_bytes()
    store = KeeperStore(path)
    for _ in range(2):
        with pytest.raises(LedgerTooNewError, match=f"version {max(VERSIONS) + 1}") as refused:
            store.read("SELECT 1")
        assert "pip install -U" in refused.value.cure
        with pytest.raises(LedgerTooNewError):
            add(store, "never")
    store.close()
    assert path.read_bytes() == before
