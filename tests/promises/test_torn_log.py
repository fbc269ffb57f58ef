"""A write-ahead log whose end is missing, as a process leaves it that dies in the middle of a commit."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from ipyconvexai.store.engine import Engine
from ipyconvexai.store.writer import Insert
from tests.promises.children import Child
from tests.promises.promising import Figure, Tries
from tests.store.helpers import COLUMNS, row

PROMISE = "a write-ahead log that was cut anywhere gives whole commits, the first of them without a gap, and no error"
TRIES = Tries(50, 200, "cuts")

COMMITS = 40


def write(say: Callable[[Any], None], path: str) -> None:
    """Each commit changes two tables, and the first makes one of them."""
    engine = Engine(path)

    def commit(number: int) -> Callable[[duckdb.DuckDBPyConnection], object]:
        def run(cursor: duckdb.DuckDBPyConnection) -> None:
            if not number:
                cursor.execute("CREATE TABLE counts (commits INTEGER)")
                cursor.execute("INSERT INTO counts VALUES (0)")
            values = row(title_of(number))
            cursor.execute(f"INSERT INTO conversations ({', '.join(COLUMNS)}) VALUES (?, ?, ?)", values)
            cursor.execute("UPDATE counts SET commits = commits + 1")

        return run

    for number in range(COMMITS):
        engine.work(commit(number)).result(60)
    say("written")
    time.sleep(600)  # until it is killed


def title_of(number: int) -> str:
    return f"{number} " * random.Random(number).randrange(1, 500)


@TRIES.both
def test_a_log_that_was_cut_gives_the_first_commits(tmp_path: Path, figure: Figure, tries: int):
    path = tmp_path / "torn.duckdb"
    with Child(write, str(path)) as child:
        assert child.hear() == "written"
    log = Path(f"{path}.wal").read_bytes()
    found = set()
    for number in range(tries):
        chance = random.Random(number)
        cut = number if number < 5 else chance.randrange(len(log))
        copy = tmp_path / f"copy-{number}.duckdb"
        shutil.copy(path, copy)
        Path(f"{copy}.wal").write_bytes(log[:cut])
        found.add(look(copy, f"the log of {len(log)} bytes was cut at {cut}"))
        copy.unlink()
    figure(f"{tries} of {tries} opened, with {min(found)} to {max(found)} of {COMMITS} commits", f"{tries} cuts")


def look(path: Path, what: str) -> int:
    """How many commits there are; each must be whole, none may be missing before the last, and more can be added."""
    engine = Engine(str(path))
    titles = [title for (title,) in engine.read("SELECT title FROM conversations ORDER BY id")]
    assert titles == [title_of(number) for number in range(len(titles))], what
    counted = engine.read("SELECT commits FROM counts") if titles else [(0,)]
    assert counted == [(len(titles),)], what
    assert engine.write([Insert("conversations", COLUMNS, [row("after")])]).result(60) == [None], what
    engine.close()
    again = Engine(str(path))  # what the next opening finds is the same: nothing of the torn end comes back
    assert again.read("SELECT title FROM conversations ORDER BY id") == [(title,) for title in [*titles, "after"]], what
    again.close()
    return len(titles)
