"""A file that is held, damaged, too new, not ours, not writable, or on a full disk: one clear error, nothing lost."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ipyconvexai.errors import (
    DiskFullError,
    Error,
    InputError,
    LedgerCorruptError,
    LedgerLockedError,
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
from tests.store.helpers import COLUMNS, ROOT, add, append, child, finish, line_of, row, titles, wait_for

FOREIGN = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1])
print(connection.execute("SELECT count(*) FROM conversations").fetchall()[0][0], flush=True)
sys.stdin.read()
"""


def foreign(path: str) -> subprocess.Popen[str]:
    """Another program that opens the file with DuckDB itself, and holds it."""
    command = [sys.executable, "-c", FOREIGN, path]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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


# ---------------------------------------------------------------------------------------------- other programs
def test_another_program_can_open_the_file_while_all_are_idle_and_is_named_while_it_does(
    store: KeeperStore, ledger: str
):
    add(store, "one", "two")
    early = foreign(ledger)
    assert line_of(early) == "", "the file was not even held while it was in use"
    early.communicate()

    def opened() -> subprocess.Popen[str] | None:
        process = foreign(ledger)
        if line_of(process) == "2":
            return process
        process.communicate()
        return None

    holder = wait_for(opened, "the file to be let go", 10)
    try:
        begun = time.monotonic()
        writes = [append(store, row("held")) for _ in range(20)]
        with pytest.raises(LedgerLockedError, match=rf"PID {holder.pid}\b"):
            store.read("SELECT 1")
        for write in writes:
            with pytest.raises(LedgerLockedError, match=rf"PID {holder.pid}\b"):
                write.result(20)
        assert time.monotonic() - begun < 15
    finally:
        holder.communicate()
    add(store, "three")
    assert titles(store) == ["one", "two", "three"]


def test_many_who_wait_for_a_held_file_wait_together(file: Path):
    engine = Engine(str(file))
    holder = foreign(str(file))
    line_of(holder)
    begun = time.monotonic()
    failures: list[Error] = []

    def read() -> None:
        try:
            engine.read("SELECT 1")
        except LedgerLockedError as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 20
    assert time.monotonic() - begun < 15
    holder.communicate()
    assert engine.read("SELECT count(*) FROM conversations") == [(200,)]
    engine.close()


def test_a_file_that_is_held_for_a_moment_is_waited_for(file: Path):
    holder = foreign(str(file))
    assert line_of(holder) == "200"
    release = threading.Timer(0.5, holder.communicate)
    release.start()
    engine = Engine(str(file))
    assert engine.read("SELECT count(*) FROM conversations") == [(200,)]
    release.join()
    engine.close()


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


def test_text_is_not_a_ledger(tmp_path: Path):
    path = tmp_path / "text.duckdb"
    path.write_text("What a surprise. " * 1000)
    check_refused(path, LedgerCorruptError)


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 9000])
def test_a_file_cut_short_is_damaged(file: Path, size: int):
    os.truncate(file, size)
    check_refused(file, LedgerCorruptError)


@pytest.mark.parametrize("place", [20, 5000, 9000])
def test_a_damaged_header_is_reported(file: Path, place: int):
    data = bytearray(file.read_bytes())
    data[place] ^= 0xFF
    file.write_bytes(data)
    if place == 5000:  # one of the two alternating headers
        data[9000] ^= 0xFF
        file.write_bytes(data)
    check_refused(file, LedgerCorruptError)


# ---------------------------------------------------------------------------------------------- not for us
def test_a_newer_schema_is_refused(file: Path):
    with duckdb.connect(str(file)) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (999, 'from the future', now()::TIMESTAMP)")
    check_refused(file, LedgerTooNewError)


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


def test_somebody_elses_database_is_left_as_it_is(tmp_path: Path):
    path = tmp_path / "mine.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE requests (mine INTEGER)")
    engine = Engine(str(path))
    with pytest.raises(StoreError, match="is not a ledger"):
        engine.read("SELECT 1")
    engine.close()
    with duckdb.connect(str(path)) as connection:
        assert connection.execute("SHOW TABLES").fetchall() == [("requests",)]


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


# ---------------------------------------------------------------------------------------------- a full disk
FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))  # the keeper inherits it
store = open_store(sys.argv[1])
kept, refused = [], set()
for number in range(60):
    key = new_id()
    try:
        append(store, row('x' * 50_000, key)).result(60)
        kept.append(key)
    except Exception as error:
        refused.add(type(error).__name__)
print(len(kept), *refused, flush=True)
sys.stdin.readline()
room = int(sys.argv[3])
import psutil
(keeper,) = keepers_of(sys.argv[1])
resource.prlimit(keeper, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for _ in range(5): kept += add(store, 'after')
there = {key for (key,) in store.read('SELECT id::VARCHAR FROM conversations')}
assert set(kept) <= there, 'an acknowledged row is missing'
print('whole', flush=True)
store.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit of another process is Linux only")
@pytest.mark.parametrize("limit", [600_000, 1_200_000])
def test_a_full_disk_loses_nothing_that_was_acknowledged_and_goes_on_when_there_is_room(ledger: str, limit: int):
    process = child(FULL, ledger, limit, 0)
    kept, *refused = line_of(process).split()
    assert refused == [DiskFullError.__name__]
    assert 0 < int(kept) < 60
    assert "whole" in finish(process, "\n")


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
    other = foreign(str(elsewhere))
    assert line_of(other) == "201"
    other.communicate()
    engine.close()


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
