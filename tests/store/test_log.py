"""Which write-ahead logs are called damaged; that flipped bits are is tried in tests/promises/test_flipped_bits.py."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import duckdb
import pytest

from ipyconvexai.store import log


@pytest.fixture(params=["", " (STORAGE_VERSION 'v1.2.0')"], ids=["new", "old"])
def ledger(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A file with a log of ten commits, as a killed process leaves it; also one in the form of an older DuckDB, which
    stays as it is."""
    open_one, left = tmp_path / "open.duckdb", tmp_path / "left.duckdb"
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{open_one}' AS ledger{request.param}")
        connection.execute("USE ledger")
        connection.execute("CREATE TABLE a (b VARCHAR)")
        for number in range(9):
            connection.execute("INSERT INTO a VALUES (?)", [str(number) * 100])
        for end in ("", ".wal"):
            shutil.copy(f"{open_one}{end}", f"{left}{end}")
    return left


def change(ledger: Path, place: int) -> None:
    file = Path(f"{ledger}.wal")
    data = bytearray(file.read_bytes())
    data[place] ^= 0x80
    file.write_bytes(data)


def test_a_whole_log_a_torn_one_an_empty_one_and_none_are_not(ledger: Path):
    file = Path(f"{ledger}.wal")
    whole = file.read_bytes()
    for size in (len(whole), len(whole) - 1, len(whole) - 30, 39, 20, 0):
        file.write_bytes(whole[:size])
        assert not log.is_damaged(str(ledger)), size
    file.unlink()
    assert not log.is_damaged(str(ledger))


@pytest.mark.parametrize("place", [0, 3, 8, -30], ids=["kind", "version", "identifier", "length of an entry"])
def test_one_with_commits_behind_an_end_is(ledger: Path, place: int):
    file = Path(f"{ledger}.wal").read_bytes()
    change(ledger, file.rindex(log._COMMIT, 0, -1) - 3 if place < 0 else place)
    assert log.is_damaged(str(ledger))


@pytest.mark.parametrize(
    ("what", "other"),
    [("_HEADER", re.compile(b"of another version")), ("_COMMIT", b"another end of a commit")],
)
def test_those_of_a_duckdb_that_writes_them_in_another_way_are_left_to_it(
    ledger: Path, what: str, other: object, monkeypatch: pytest.MonkeyPatch
):
    change(ledger, 0)
    monkeypatch.setattr(log, what, other)
    assert not log.is_damaged(str(ledger))
