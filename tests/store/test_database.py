"""What the settings of the open file promise of its answers."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from ipyconvexai.store.database import MEMORY, Database


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    opened = Database(MEMORY)
    yield opened
    opened.close()


@pytest.fixture
def connection(database: Database) -> Iterator[duckdb.DuckDBPyConnection]:
    """With a table of two row groups: 2, 4 .. 18, and 1, 3 .. 17."""
    with database.cursor() as cursor:
        cursor.execute("CREATE TABLE numbers (id INTEGER PRIMARY KEY, number BIGINT)")
        cursor.execute("INSERT INTO numbers SELECT i, 2 * i FROM range(1, 10) r(i)")
        cursor.execute("CHECKPOINT")  # what comes after it begins a row group, as after each opening of a file
        cursor.execute("INSERT INTO numbers SELECT 100 + i, 2 * i - 1 FROM range(1, 10) r(i)")
        yield cursor
        cursor.execute("DROP TABLE numbers")


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM numbers WHERE id < 100",
        "DELETE FROM numbers WHERE id BETWEEN 2 AND 99",
        "UPDATE numbers SET number = 0 WHERE id < 100",
    ],
)
def test_the_greatest_is_found_when_greater_ones_are_gone(connection: duckdb.DuckDBPyConnection, change: str):
    connection.execute(change)
    assert connection.execute("SELECT number FROM numbers ORDER BY number DESC LIMIT 1").fetchall() == [(17,)]


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM numbers WHERE id > 100",
        "DELETE FROM numbers WHERE id BETWEEN 100 AND 108",
        "UPDATE numbers SET number = 99 WHERE id > 100",
    ],
)
def test_the_least_is_found_when_lesser_ones_are_gone(connection: duckdb.DuckDBPyConnection, change: str):
    connection.execute(change)
    assert connection.execute("SELECT number FROM numbers ORDER BY number LIMIT 1").fetchall() == [(2,)]


def test_a_duckdb_without_that_optimizer_opens_all_the_same():
    opened = Database(MEMORY)
    opened._config["disabled_optimizers"] = "one_of_a_later_version"
    with opened.cursor() as cursor:
        assert cursor.execute("SELECT 1").fetchall() == [(1,)]
    opened.close()
