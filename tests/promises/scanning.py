"""What is on the disk: every byte of every file of a folder, and every value of every row of a ledger."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import duckdb

PATIENCE = 30.0  # seconds for a keeper to let go of its file


def let_go(ledger: Path) -> None:
    """Wait until nobody holds the ledger; what was in its log is in the file then, too."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return duckdb.connect(str(ledger)).close()
        except duckdb.IOException:
            assert time.monotonic() < deadline, f"{ledger} is still held"
            time.sleep(0.05)


def in_files(folder: Path, needles: Iterable[str]) -> list[str]:
    """Each needle, with each file that holds it in its name or in its bytes."""
    looked_for = list(needles)
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files, f"nothing to look at in {folder}"
    return [
        f"{path.relative_to(folder)}: {needle}"
        for path in files
        for data in [path.name.encode() + b"\n" + path.read_bytes()]
        for needle in looked_for
        if needle.encode() in data
    ]


def in_rows(ledger: Path, needles: Iterable[str]) -> list[str]:
    """Each needle, with each column of the ledger that holds it. Pages may be compressed, and rows are not."""
    looked_for = list(needles)
    found = []
    with duckdb.connect(str(ledger), read_only=True) as connection:
        columns = connection.execute(
            "SELECT table_name, list(column_name ORDER BY column_index) FROM duckdb_columns() WHERE NOT internal"
            " AND table_name IN (FROM (SELECT table_name FROM duckdb_tables() WHERE NOT internal)) GROUP BY ALL"
        ).fetchall()
        assert "error_message" in dict(columns)["responses"]
        for table, names in columns:
            rows = connection.execute(f'FROM "{table}"').fetchall()
            for name, values in zip(names, zip(*rows, strict=True), strict=bool(rows)):
                shown = "\n".join(_text(value) for value in values if value is not None)
                found += [f"{table}.{name}: {needle}" for needle in looked_for if needle in shown]
    return found


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
