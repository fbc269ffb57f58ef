"""One flipped bit in the file or in its write-ahead log: the rows are right, or there is a clear error.

Never is a row wrong, are rows missing without a word, or does a new empty ledger stand in the old one's place.
"""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ipyconvexai.errors import LedgerCorruptError
from ipyconvexai.store.engine import Engine
from ipyconvexai.store.migrations import migrations
from ipyconvexai.store.writer import Insert
from tests.data.schemas.make import make
from tests.promises.children import Child
from tests.promises.promising import Figure, Tries
from tests.store.helpers import COLUMNS, row

PROMISE = "a damaged file, or a damaged log of it, is reported and left as it is; nothing is silently reset"
TRIES = Tries(50, 200, "flipped bits")

ROWS, LOGGED = 200, 40
VERSIONS = list(migrations())
COMMIT = re.compile(re.escape(bytes.fromhex("640064ffff")))  # the end of each commit in the log


Content = dict[str, list[tuple[Any, ...]]]  # table -> its rows, of each table


def content_of(engine: Engine) -> Content:
    tables = engine.read("SELECT table_name FROM duckdb_tables() WHERE NOT internal ORDER BY ALL")
    return {table: engine.read(f'FROM "{table}" ORDER BY ALL') for (table,) in tables}


def write(say: Callable[[Any], None], path: str) -> None:
    """The second half of the rows in the log alone."""
    engine = Engine(path)
    for number in range(ROWS, ROWS + LOGGED):
        assert engine.write([Insert("conversations", COLUMNS, [row(title_of(number))])]).result(60) == [None]
    say(content_of(engine))
    time.sleep(600)  # until it is killed


def title_of(number: int) -> str:
    return f"row {number} " * 50


@TRIES.both
def test_a_flipped_bit_gives_no_wrong_row(tmp_path: Path, figure: Figure, tries: int):
    path = tmp_path / "ledger.duckdb"
    make(len(VERSIONS), path)  # rows in every table
    engine = Engine(str(path))
    rows = [row(title_of(number)) for number in range(ROWS)]
    assert engine.write([Insert("conversations", COLUMNS, rows)]).result(60) == [None]
    engine.close()
    with Child(write, str(path)) as child:
        content: Content = child.hear()
    assert all(content.values()), "a table without rows"
    reported = 0
    for number in range(tries):
        copy = tmp_path / f"copy-{number}.duckdb"
        shutil.copy(path, copy)
        shutil.copy(f"{path}.wal", f"{copy}.wal")
        damaged = Path(f"{copy}.wal") if number % 2 else copy
        data, chance = bytearray(damaged.read_bytes()), random.Random(number)
        place, bit = place_in(data, number % 2, chance), chance.randrange(8)
        data[place] ^= 1 << bit
        damaged.write_bytes(data)
        reported += is_reported(copy, content, f"bit {bit} of byte {place} of {damaged}")
        for left in tmp_path.glob(f"{copy.name}*"):
            left.unlink()
    assert reported > tries / 4, "most of these places hold something"
    figure(
        f"0 wrong rows in {len(content)} tables, {reported} reported, in the others nothing was hit",
        f"{tries} flipped bits",
    )


def place_in(data: bytearray, log: int, chance: random.Random) -> int:
    """Anywhere; of a log often where no checksum is: in its header, and in the lengths of its entries."""
    what = chance.randrange(3) if log else 2
    if what == 0:
        return chance.randrange(40)
    if what == 1:
        ends = [found.end() for found in COMMIT.finditer(data)][:-1]
        return chance.choice(ends) + chance.randrange(8)
    return chance.randrange(len(data))


def is_reported(path: Path, content: Content, what: str) -> bool:
    """False: it has all its rows."""
    files = (path, Path(f"{path}.wal"))
    before = [file.read_bytes() for file in files]
    if reads(path, content, what):
        return False
    after = [file.read_bytes() for file in files]
    # DuckDB may have noted in the log that it tried to move it into the file.
    assert after[0] == before[0], f"{what}: the file was changed"
    assert after[1].startswith(before[1]), f"{what}: of the log something was taken away"
    engine = Engine(str(path))  # what is not damaged can be added to, and hides nothing
    (outcome,) = engine.write([Insert("conversations", COLUMNS, [row("after")])]).result(60)
    assert outcome is None or isinstance(outcome, LedgerCorruptError), what
    engine.close()
    assert not reads(path, content, what), f"{what}: it was reported once, and then no more"
    return True


def reads(path: Path, content: Content, what: str) -> bool:
    """Whether all rows of all tables are read, and not damage is reported."""
    engine = Engine(str(path))
    try:
        found = content_of(engine)
    except LedgerCorruptError:
        return False
    finally:
        engine.close()
    assert found == content, what
    return True
