"""A purge takes content out of the file's bytes, whatever happens meanwhile."""

from __future__ import annotations

import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipyconvexai.errors import DiskFullError, StoreError
from ipyconvexai.ids import new_id
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.database import Database
from ipyconvexai.store.engine import Engine
from ipyconvexai.store.ledger import Intent, Outcome
from ipyconvexai.store.link import KeeperStore, Store
from ipyconvexai.store.purging import Criteria, spellings
from tests.store.helpers import add, child, finish, keepers_of, kill_keeper, line_of, titles, wait_for

EVERYTHING = Criteria()


def marker() -> str:
    """Nothing that a compression would hide."""
    return f"marker-{secrets.token_hex(16)}"


def write(store: Store, *texts: str, seconds: float = 60) -> None:
    """A recorded call for each text: in its request and its answer."""
    left = threading.Semaphore(0)
    for text in texts:
        request = new_id()
        for table, fields, row in (
            ("requests", Intent._fields, intent(request, text, store.session_id)),
            ("responses", Outcome._fields, outcome(request, text)),
        ):
            store.append(table, fields, [row], lambda error: left.release())
    for _ in range(2 * len(texts)):
        assert left.acquire(timeout=seconds)


def intent(request: str, text: str, session: str) -> tuple[Any, ...]:
    body = f'{{"messages": [{{"role": "user", "content": "{text}"}}]}}'
    values = dict.fromkeys(Intent._fields) | {
        "id": request, "attempt": 1, "sent_at": utc_now(), "provider": "p", "model": "m", "cache_key": new_id(),
        "endpoint": "chat/completions", "body": body, "body_size": len(body), "session_id": session, "source": "client",
    }  # fmt: skip
    return tuple(values.values())


def outcome(request: str, text: str) -> tuple[Any, ...]:
    return tuple(Outcome(request, utc_now(), "ok", 200, text=f"re: {text}", body=text, input_tokens=7, cost_usd=0.5))


def bytes_of(path: str) -> bytes:
    """Of the ledger's files while nobody has them open."""
    folder = Path(path).parent
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file())


def files(path: str) -> set[str]:
    return {file.name for file in Path(path).parent.iterdir() if file.is_file()}


USED = "SELECT count(*), sum(input_tokens), sum(cost_usd), count(text), count(request) FROM calls"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine(str(tmp_path / "alone" / "ledger.duckdb"))
    (tmp_path / "alone").mkdir()
    yield made
    made.close()


# ---------------------------------------------------------------------------------------------- bytes
def test_nothing_of_it_is_left_in_the_files(open_ledger: Callable[[], KeeperStore], ledger: str):
    store, gone, kept = open_ledger(), marker(), marker()
    write(store, gone, kept, f"{kept} {gone}")
    (only,) = store.purge(Criteria(spellings=spellings(gone)))
    assert (only.kind, only.rows) == ("calls", 2)
    assert store.read(USED) == [(3, 21, 1.5, 1, 1)]
    store.close()
    wait_for(lambda: not keepers_of(ledger), "the keeper to end")
    left = bytes_of(ledger)
    assert gone.encode() not in left
    assert kept.encode() in left  # what is kept is seen like this, so what is gone would be, too
    assert files(ledger) == {"ledger.duckdb"}


def test_an_update_alone_would_leave_it(open_ledger: Callable[[], KeeperStore], ledger: str):
    """Why the file is written anew. When this fails DuckDB has learnt to forget, and the rewriting can go."""
    store, gone = open_ledger(), marker()
    write(store, gone)
    store.close()
    wait_for(lambda: not keepers_of(ledger), "the keeper to end")
    database = Database(ledger)
    with database.cursor() as cursor:
        cursor.execute("UPDATE responses SET text = NULL, body = NULL")
        cursor.execute("UPDATE requests SET body = NULL")
        cursor.execute("CHECKPOINT")
    database.close()
    assert gone.encode() in bytes_of(ledger)


def test_what_was_deleted_before_goes_too(open_ledger: Callable[[], KeeperStore], ledger: str):
    store, gone = open_ledger(), marker()
    add(store, gone)
    with store.transaction() as execute:
        execute("DELETE FROM conversations")
    assert store.purge(Criteria(spellings=spellings(gone))) == []
    store.close()
    wait_for(lambda: not keepers_of(ledger), "the keeper to end")
    assert gone.encode() not in bytes_of(ledger)


def test_indexes_views_constraints_and_own_tables_come_along(engine: Engine):
    engine.work(lambda cursor: cursor.execute("CREATE TABLE Note (id UUID PRIMARY KEY, tags VARCHAR[])")).result()
    engine.work(lambda cursor: cursor.execute("INSERT INTO Note VALUES (uuid(), ['a', 'b'])")).result()
    engine.work(lambda cursor: cursor.execute("CREATE INDEX note_tags ON Note (id)")).result()
    what = """
        SELECT 'index', index_name FROM duckdb_indexes() UNION ALL
        SELECT 'view', view_name FROM duckdb_views() WHERE NOT internal UNION ALL
        SELECT 'constraint', table_name || ' ' || constraint_text FROM duckdb_constraints() UNION ALL
        SELECT 'column', table_name || column_name || data_type || coalesce(column_default, '') FROM duckdb_columns()
        WHERE NOT internal ORDER BY ALL
    """
    before, migrations = engine.read(what), engine.read("FROM schema_migrations")
    engine.purge(EVERYTHING)
    assert engine.read(what) == before
    assert engine.read("FROM schema_migrations") == migrations
    assert engine.read("SELECT tags FROM Note") == [(["a", "b"],)]


def test_permissions_stay(engine: Engine, tmp_path: Path):
    engine.read("SELECT 1")
    path = tmp_path / "alone" / "ledger.duckdb"
    path.chmod(0o640)
    engine.purge(EVERYTHING)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_ledger_that_is_not_there_yet_is_made(engine: Engine):
    assert engine.purge(EVERYTHING) == []
    assert engine.read("SELECT count(*) FROM calls") == [(0,)]


def test_json_spells_a_text_in_several_ways():
    found = spellings('Zoë said "no"')
    assert 'zoë said "no"' in found
    assert 'zo\\u00eb said \\"no\\"' in found
    assert 'zoë said \\\\\\"no\\\\\\"' in found


# ---------------------------------------------------------------------------------------------- others, and faults
def test_others_wait_and_lose_nothing(open_ledger: Callable[[], KeeperStore]):
    store, others, failed = open_ledger(), [open_ledger() for _ in range(3)], []
    write(store, *(marker() for _ in range(200)))
    stop = threading.Event()

    def work(other: Store, name: str) -> None:
        number = 0
        try:
            while not stop.is_set():
                add(other, f"{name} {number}")
                assert f"{name} {number}" in titles(other)
                with other.transaction() as execute:
                    execute("UPDATE conversations SET user_id = 'x' WHERE title = ?", [f"{name} {number}"])
                number += 1
        except BaseException as error:
            failed.append(error)

    # Titles of now: these purges leave them.
    began = utc_now()
    threads = [threading.Thread(target=work, args=(other, f"t{n}")) for n, other in enumerate(others)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        store.purge(Criteria(before=began))
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert store.read("SELECT count(*) FILTER (user_id IS NULL), count(*) > 0 FROM conversations") == [(0, True)]
    assert store.read(USED) == [(200, 1400, 100.0, 0, 0)]


KILLED_HERE = """
from ipyconvexai.store import rewriting
from ipyconvexai.store.engine import Engine
from ipyconvexai.store.purging import Criteria
path, place = sys.argv[1:]
def die(*args): os.kill(os.getpid(), signal.SIGKILL)
real = os.replace
if place == "before": rewriting.os.replace = die
if place == "after": rewriting.os.replace = lambda *names: (real(*names), die())
if place == "copying": rewriting._columns = die
if place == "written": rewriting._settle = die
Engine(path).purge(Criteria())
"""


@pytest.mark.parametrize("place", ["copying", "written", "before", "after"])
def test_killed_in_the_middle_it_is_all_or_nothing(
    open_ledger: Callable[[], KeeperStore], ledger: str, tmp_path: Path, place: str
):
    store, gone = open_ledger(), marker()
    write(store, gone, gone)
    store.close()
    wait_for(lambda: not keepers_of(ledger), "the keeper to end")
    process = child(KILLED_HERE, ledger, place)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    if place in ("written", "before"):
        assert "ledger.duckdb.purging" in files(ledger)
    again = open_ledger()
    kept = 0 if place == "after" else 2
    assert again.read(USED) == [(2, 14, 1.0, kept, kept)]
    assert files(ledger) <= {"ledger.duckdb", "ledger.duckdb.wal"}
    again.purge(EVERYTHING)
    again.close()
    wait_for(lambda: not keepers_of(ledger), "the keeper to end")
    assert gone.encode() not in bytes_of(ledger)


PURGE = """
store = KeeperStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
from ipyconvexai.store.purging import Criteria
store.purge(Criteria())
store.close()
"""


def test_the_next_keeper_does_it_where_one_is_killed(open_ledger: Callable[[], KeeperStore], ledger: str):
    store, texts = open_ledger(), [marker() + "x" * 3000 for _ in range(500)]
    write(store, *texts)
    purging = child(PURGE, ledger)
    assert line_of(purging) == "ready"
    assert purging.stdin is not None
    purging.stdin.write("\n")
    purging.stdin.flush()
    wait_for(lambda: "ledger.duckdb.purging" in files(ledger), "the writing to begin", seconds=30)
    kill_keeper(ledger)
    finish(purging)
    assert store.read(USED) == [(500, 3500, 250.0, 0, 0)]
    store.close()
    wait_for(lambda: not keepers_of(ledger), "the keeper to end")
    left = bytes_of(ledger)
    assert not [text for text in texts if text.encode() in left]


def keep_something(engine: Engine) -> None:
    sql = "INSERT INTO documents (id, created_at, content, size) VALUES (uuid(), now()::TIMESTAMP, 'x', 1)"
    engine.work(lambda cursor: cursor.execute(sql))


@pytest.mark.parametrize("where", ["_write", "_settle"])
def test_what_fails_leaves_the_ledger_as_it_was(engine: Engine, monkeypatch: pytest.MonkeyPatch, where: str):
    from ipyconvexai.store import rewriting

    keep_something(engine)

    def no_room(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(rewriting, where, no_room)
        with pytest.raises(DiskFullError):
            engine.purge(EVERYTHING)
    assert engine.read("SELECT content FROM documents") == [("x",)]
    assert engine.purge(EVERYTHING)[0].rows == 1


def test_a_query_that_goes_on_is_named(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    from ipyconvexai.store import database

    monkeypatch.setattr(database, "ALONE_PATIENCE", 0.05)
    keep_something(engine)
    view = engine.view()
    from ipyconvexai.store.transaction import Statement

    view.look(Statement("SELECT 1", None))
    with pytest.raises(StoreError, match="nothing was removed") as caught:
        engine.purge(EVERYTHING)
    assert caught.value.retryable
    view.close()
    assert engine.purge(EVERYTHING)[0].rows == 1


def test_the_old_file_is_open_nowhere_afterwards(engine: Engine, tmp_path: Path):
    """A handle of the old one that is closed later would drop the lock on nothing, or write into nowhere."""
    engine.work(lambda cursor: cursor.execute("CREATE TABLE x (y INTEGER)")).result()  # the writer has a cursor
    keep_something(engine)
    assert engine.purge(EVERYTHING)
    engine.read("SELECT 1")
    handles = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if name.isdigit()
               and os.path.exists(f"/proc/self/fd/{name}")]  # fmt: skip
    ours = [name for name in handles if name.startswith(str(tmp_path))]
    assert not [name for name in ours if "deleted" in name or "purging" in name]
