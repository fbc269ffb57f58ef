"""A file that is damaged, too new, not ours, not writable, moved or gone.

Each gives one clear error, loses nothing, and leaves everything usable. Torn logs, flipped bits, full disks, files of
old schemas, those that another program holds, and clocks that jump have files of their own here.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

import ipyconvexai as ai
from ipyconvexai.errors import (
    Error,
    InputError,
    LedgerCorruptError,
    LedgerReadOnlyError,
    LedgerTooNewError,
    StoreError,
)
from ipyconvexai.ids import new_id
from ipyconvexai.store import faults
from ipyconvexai.store.database import Database
from ipyconvexai.store.engine import Engine
from ipyconvexai.store.link import KeeperStore, open_store
from ipyconvexai.store.transaction import Statement
from ipyconvexai.store.writer import Insert
from ipyconvexai.testing import Endpoint
from tests.promises.children import Child
from tests.promises.promising import Figure
from tests.store.helpers import COLUMNS, ROOT, add, child, finish, row, titles

PROMISE = (
    "a file that is damaged, foreign, moved, missing or not writable gives one clear error with a cure, and when it is"
    " mended everything goes on"
)


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    return str(tmp_path / "ledger" / "ledger.duckdb")


@pytest.fixture
def store(ledger: str) -> Iterator[KeeperStore]:
    opened = KeeperStore(ledger)
    yield opened
    opened.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A ledger file with 200 rows, closed."""
    path = tmp_path / "faulty.duckdb"
    engine = Engine(str(path))
    assert engine.write([Insert("conversations", COLUMNS, [row(f"row {n} " * 50) for n in range(200)])]).result(60) == [
        None
    ]
    engine.close()
    return path


# ---------------------------------------------------------------------------------------------- through the whole way
def put_text(path: Path) -> None:
    path.write_text("What a surprise. " * 1000)


def cut_short(path: Path) -> None:
    os.truncate(path, 9000)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[20] ^= 0xFF
    path.write_bytes(data)


def put_another_database(path: Path) -> None:
    path.unlink()
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE requests (mine INTEGER)")


def leave_the_log_alone(path: Path) -> None:
    with Child(write_and_die, str(path)) as child:
        assert child.hear() == "written"
    path.unlink()


def write_and_die(say: Callable[[Any], None], path: str) -> None:
    engine = Engine(path)
    assert engine.write([Insert("conversations", COLUMNS, [row("in the log")])]).result(60) == [None]
    say("written")
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS = [put_text, cut_short, empty, flip_header, put_another_database, leave_the_log_alone]


def test_each_fault_is_one_error_and_when_it_is_mended_everything_goes_on(
    endpoint: Endpoint, file: Path, figure: Figure
):
    good = file.read_bytes()
    for fault in FAULTS:
        path, whole = file.with_name(f"{fault.__name__}.duckdb"), file.with_name("whole.duckdb")
        path.write_bytes(good)
        fault(path)
        broken = path.read_bytes() if path.exists() else None
        endpoint.clear()
        with ai.connect(str(path), model="openai:gpt-4o-mini") as app:
            for _ in range(2):
                with pytest.raises(StoreError) as refused:
                    ai.generate("while it is broken")
                assert refused.value.cure, fault.__name__
                with pytest.raises(StoreError):
                    app.ledger.sql("SELECT 1")
            assert endpoint.count == 0, f"{fault.__name__}: something was sent unrecorded"
            assert (path.read_bytes() if path.exists() else None) == broken, f"{fault.__name__}: it was changed"
            whole.write_bytes(good)
            os.replace(whole, path)
            assert ai.generate("mended").text == "echo: mended"
            more = ["in the log"] if fault is leave_the_log_alone else []
            found = app.ledger.sql("SELECT title FROM conversations WHERE title NOT LIKE 'row %'").fetchall()
            assert found == [(title,) for title in more], fault.__name__
            count = app.ledger.sql("SELECT count(*) FROM conversations").fetchall()
            assert count == [(200 + len(more),)], fault.__name__
    figure(f"{len(FAULTS)} of {len(FAULTS)} faults reported, 0 calls sent, 0 rows lost", f"{len(FAULTS)} faults")


# ---------------------------------------------------------------------------------------------- what stands there
def test_a_folder_is_called_one(tmp_path: Path):
    engine = Engine(str(tmp_path))
    with pytest.raises(LedgerReadOnlyError, match=r"is a folder(?s:.*)ledger\.duckdb"):
        engine.read("SELECT 1")
    engine.close()


@pytest.mark.parametrize(
    "error",
    [duckdb.InternalException("what"), duckdb.ParserException("SELEC"), duckdb.InterruptException("")],
    ids=["other", "sql", "interrupt"],
)
def test_every_error_names_its_cure(error: duckdb.Error):
    assert faults.translate(error, "ledger.duckdb").cure


def test_hard_links_are_refused(file: Path):
    os.link(file, file.with_name("second.duckdb"))
    engine = Engine(str(file))
    with pytest.raises(StoreError, match="more than one name"):
        engine.read("SELECT 1")
    engine.close()


def test_a_symbolic_link_is_the_same_ledger(store: KeeperStore, ledger: str, tmp_path: Path):
    add(store, "one")
    link = tmp_path / "link.duckdb"
    link.symlink_to(ledger)
    second = KeeperStore(str(link))
    assert second.path == store.path
    assert titles(second) == ["one"]
    second.close()


# ---------------------------------------------------------------------------------------------- damage
def check_refused(path: Path, kind: type[Error]) -> None:
    before = path.read_bytes()
    engine = Engine(str(path))
    for _ in range(2):
        with pytest.raises(kind):
            engine.read("SELECT 1")
        (outcome,) = engine.write([Insert("conversations", COLUMNS, [row("never")])]).result(60)
        assert isinstance(outcome, kind)
    engine.close()
    assert path.read_bytes() == before


@pytest.mark.parametrize("place", [5000, 9000])
def test_a_damaged_header_is_reported(file: Path, place: int):
    data = bytearray(file.read_bytes())
    data[place] ^= 0xFF
    file.write_bytes(data)
    if place == 5000:  # one of the two alternating headers
        data[9000] ^= 0xFF
        file.write_bytes(data)
    check_refused(file, LedgerCorruptError)


# ---------------------------------------------------------------------------------------------- not for us
def test_a_file_of_a_newer_duckdb_is_refused(file: Path):
    data = bytearray(file.read_bytes())
    assert data[8:12] == b"DUCK"
    data[12:20] = struct.pack("<Q", 99_999)
    data[:8] = checksum(bytes(data[8:4096]))
    file.write_bytes(data)
    check_refused(file, LedgerTooNewError)


def checksum(block: bytes) -> bytes:
    """DuckDB's checksum of a block: the XOR of its 64-bit words times a constant (for the sizes met here)."""
    result = 5381
    for (word,) in struct.iter_unpack("<Q", block):
        result ^= (word * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    return struct.pack("<Q", result)


PRELOADED = "import duckdb, ipyconvexai.store.keeper, ipyconvexai.store.inprocess, ipyconvexai.store.link"
AS_NOBODY = """
import os, sys
if os.getuid() == 0:
    os.setuid(65534)
from ipyconvexai.errors import LedgerReadOnlyError
from ipyconvexai.store.link import open_store
try:
    open_store(sys.argv[1]).read("SELECT 1")
except LedgerReadOnlyError as error:
    print(error.message)
"""


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_ledger_that_cannot_be_written_is_reported(tmp_path: Path, what: str):
    with tempfile.TemporaryDirectory(prefix="ro-", dir="/tmp") as name:
        folder = Path(name)
        path = folder / "ledger.duckdb"
        engine = Engine(str(path))
        engine.read("SELECT 1")
        engine.close()
        path.chmod(0o444)
        folder.chmod(0o555 if what == "folder" else 0o777)
        # A Python that an unprivileged user can start, whatever the folders of this one allow.
        code = f"import sys; sys.path[:] = {[str(ROOT), *sys.path]!r}\n{PRELOADED}\n{AS_NOBODY}"
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd="/", timeout=60, check=False
        )
        folder.chmod(0o700)
    assert "cannot be written" in done.stdout, done.stderr


# ---------------------------------------------------------------------------------------------- moved or deleted
def write_one(engine: Engine, title: str) -> Error | None:
    (outcome,) = engine.write([Insert("conversations", COLUMNS, [row(title)])]).result(60)
    return outcome


def titles_in(path: Path) -> list[str]:
    engine = Engine(str(path))
    try:
        return [title for (title,) in engine.read("SELECT title FROM conversations WHERE title NOT LIKE 'row %'")]
    finally:
        engine.close()


@pytest.mark.parametrize("log_too", [False, True], ids=["file", "file and log"])
def test_a_file_moved_while_it_is_open_takes_everything_along_and_is_reported_once(file: Path, log_too: bool):
    engine, elsewhere = Engine(str(file)), file.with_name("moved.duckdb")
    assert write_one(engine, "before") is None
    os.rename(file, elsewhere)
    if log_too:
        os.rename(f"{file}.wal", f"{elsewhere}.wal")
    outcome = write_one(engine, "refused")
    assert isinstance(outcome, LedgerCorruptError)
    assert outcome.code == "ledger_moved"
    assert "move it back" in outcome.cure
    assert write_one(engine, "after") is None
    assert engine.read("SELECT title FROM conversations") == [("after",)]  # a new ledger; the writer was told for all
    engine.close()
    assert titles_in(elsewhere) == ["before"]
    assert titles_in(file) == ["after"]


def test_a_reader_and_a_transaction_are_told_of_a_deleted_file_too(file: Path):
    engine = Engine(str(file))
    assert write_one(engine, "before") is None
    file.unlink()
    with pytest.raises(LedgerCorruptError, match="moved, deleted or replaced"):
        engine.read("SELECT 1")
    assert engine.read("SELECT count(*) FROM conversations") == [(0,)]
    with pytest.raises(LedgerCorruptError, match="moved, deleted or replaced"):
        engine.begin([Statement("SELECT 1")])
    assert write_one(engine, "after") is None
    engine.close()
    assert titles_in(file) == ["after"]


def test_a_file_that_is_deleted_during_the_commit_is_not_acknowledged(file: Path):
    engine = Engine(str(file))
    assert write_one(engine, "before") is None
    with pytest.raises(LedgerCorruptError, match="moved, deleted or replaced"):
        engine.work(lambda cursor: file.unlink()).result(60)
    assert write_one(engine, "after") is None
    engine.close()


def test_rows_whose_file_is_deleted_during_their_commit_are_not_acknowledged(file: Path):
    class Key(str):
        def __str__(self) -> str:  # called inside of the transaction, to look whether the row is there
            file.unlink(missing_ok=True)
            return str.__str__(self)

    engine = Engine(str(file))
    (outcome,) = engine.write([Insert("conversations", COLUMNS, [row("lost", Key(new_id()))], True)]).result(60)
    assert isinstance(outcome, LedgerCorruptError)
    assert write_one(engine, "after") is None
    engine.close()


def test_a_moved_file_is_let_go_at_once(file: Path):
    engine, elsewhere = Engine(str(file)), file.with_name("moved.duckdb")
    assert write_one(engine, "before") is None
    os.rename(file, elsewhere)
    with pytest.raises(LedgerCorruptError):
        engine.read("SELECT 1")
    with Child(count_rows, str(elsewhere)) as other:
        assert other.hear() == 201
    engine.close()


def count_rows(say: Callable[[Any], None], path: str) -> None:
    """As another program would."""
    with duckdb.connect(path) as connection:
        say(connection.execute("SELECT count(*) FROM conversations").fetchall()[0][0])


def test_a_file_put_in_place_of_the_open_one_is_left_whole_with_its_log(file: Path, tmp_path: Path):
    other = tmp_path / "other.duckdb"
    code = "engine = Engine(sys.argv[1]); engine.write([Insert('conversations', COLUMNS, [row('theirs')])]).result(60)"
    imports = "from ipyconvexai.store.engine import Engine\nfrom ipyconvexai.store.writer import Insert\n"
    finish(child(f"{imports}{code}; os._exit(0)", other))  # its row is in the log alone
    engine = Engine(str(file))
    assert write_one(engine, "ours") is None
    os.rename(f"{other}.wal", f"{file}.wal")
    os.rename(other, file)
    assert isinstance(write_one(engine, "refused"), LedgerCorruptError)
    assert engine.read("SELECT title FROM conversations") == [("theirs",)]
    engine.close()
    assert {path.name for path in tmp_path.iterdir()} == {file.name}


def test_a_file_deleted_before_the_idle_close_is_reported_at_the_next_write(file: Path):
    now = [0.0]
    database = Database(str(file), clock=lambda: now[0])
    with database.connection():
        pass
    file.unlink()
    now[0] += 60
    database.close_if_idle()
    with pytest.raises(LedgerCorruptError, match="moved, deleted or replaced"), database.connection(writing=True):
        pass
    with database.connection(writing=True):
        pass
    database.close()


def test_a_deleted_ledger_is_reported_to_a_notebook_and_begun_anew(store: KeeperStore, ledger: str):
    add(store, "before")
    os.unlink(ledger)
    with pytest.raises(LedgerCorruptError, match="moved, deleted or replaced"):
        add(store, "refused")
    add(store, "after")
    assert titles(store) == ["after"]


# ---------------------------------------------------------------------------------------------- no file for a ledger
@pytest.mark.parametrize("content", [b"SQLite format 3\0" + bytes(8000), b"text"], ids=["sqlite", "text"])
def test_a_foreign_file_is_not_called_a_damaged_ledger(tmp_path: Path, content: bytes):
    path = tmp_path / "foreign.db"
    path.write_bytes(content)
    engine = Engine(str(path))
    with pytest.raises(LedgerCorruptError, match="is no DuckDB file") as caught:
        engine.read("SELECT 1")
    assert "Move it away" not in caught.value.cure
    engine.close()


def test_an_empty_file_and_a_device_are_called_so(tmp_path: Path):
    empty = tmp_path / "empty.duckdb"
    empty.touch()
    for path, what in ((empty, "is empty"), (Path("/dev/null"), "is not a regular file")):
        engine = Engine(str(path))
        with pytest.raises(StoreError, match=what):
            engine.read("SELECT 1")
        engine.close()


@pytest.mark.parametrize(
    ("path", "what"),
    [
        (3, "and not int"),
        (b"l.duckdb", "and not bytes"),
        ("", "cannot be"),
        ("a\0b", "cannot be"),
        ("what?.duckdb", "question mark"),
        ("half \ud83d.duckdb", "not valid Unicode"),
        ("raw \udcff.duckdb", "not valid Unicode"),
        (".", "is a folder"),
        (os.devnull, "is not a regular file"),
    ],
)
def test_a_path_no_ledger_can_have_is_refused_at_once(path: Any, what: str):
    with pytest.raises(InputError, match=what) as caught:
        open_store(path)
    assert caught.value.cure


def test_a_path_object_is_a_path(tmp_path: Path):
    store = open_store(tmp_path / "l.duckdb")
    assert store.path == str(tmp_path / "l.duckdb")
    store.close()
