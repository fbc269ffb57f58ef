"""Writing, reading and transactions in the process that holds the file; fast, without a keeper."""

# ruff: noqa: PT012 - a transaction is a block: what it raises comes from any of its lines

from __future__ import annotations

import io
import queue
import threading
import time
from collections.abc import Iterator
from multiprocessing import Pipe as connections
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ipyconvexai.errors import Error, QueryError, StoreError, TransactionError
from ipyconvexai.ids import new_id
from ipyconvexai.store import turn
from ipyconvexai.store.engine import Engine
from ipyconvexai.store.inprocess import ThreadStore
from ipyconvexai.store.turn import TURN_LIMIT
from ipyconvexai.store.visit import Visit
from ipyconvexai.store.writer import Insert
from tests.store.helpers import COLUMNS, add, append, begin_call, row, titles


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(str(tmp_path / "engine.duckdb"))
    yield engine
    engine.close()


@pytest.fixture
def memory() -> Iterator[ThreadStore]:
    store = ThreadStore(":memory:")
    yield store
    store.close()


def write(engine: Engine, *rows: tuple[Any, ...]) -> list[Error | None]:
    """The outcomes of rows that travel in one message, an insert for each."""
    return engine.write([Insert("conversations", COLUMNS, [values]) for values in rows]).result(60)


def table(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(io.BytesIO(data)).read_all()


# ---------------------------------------------------------------------------------------------- writing
BAD = {
    "not a UUID": row("x", key="zz"),
    "a key of no kind": row("x", key=3.5),
    "an integer for an instant": (new_id(), 12, "x"),
    "too short": (new_id(),),
    "too long": (*row("x"), 1, 2),
    "an object": row(object()),
    "a huge integer for an instant": (new_id(), 10**300, "x"),
    "no instant": (new_id(), None, "x"),
    "not a row": 7,
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_row_fails_alone_and_with_an_error_of_its_own(engine: Engine, bad: Any):
    outcomes = write(engine, row("one"), row("two"), bad, row("three"))
    assert [outcome is None for outcome in outcomes] == [True, True, False, True]
    assert isinstance(outcomes[2], Error)
    assert engine.read("SELECT title FROM conversations ORDER BY id") == [("one",), ("two",), ("three",)]


ODD = {
    "NUL": ("a\0b", "a\0b"),
    "half of a character": ("a\ud83db", "a?b"),
    "a whole emoji": ("\U0001f600", "\U0001f600"),
    "5 MB": ("x" * 5_000_000, "x" * 5_000_000),
    "a huge integer": (10**30, str(10**30)),
    "SQL": ("'); DROP TABLE conversations; --", "'); DROP TABLE conversations; --"),
    "empty": ("", ""),
    "nothing": (None, None),
    "percent": ("100 % %s {x}", "100 % %s {x}"),
}


@pytest.mark.parametrize(("value", "kept"), ODD.values(), ids=ODD)
def test_odd_values_are_kept(engine: Engine, value: Any, kept: Any):
    assert write(engine, row("one"), row(value), row("three")) == [None] * 3
    assert engine.read("SELECT title FROM conversations ORDER BY id") == [("one",), (kept,), ("three",)]


def test_an_unknown_table_fails_alone(engine: Engine):
    inserts = [Insert("conversations", COLUMNS, [row("one")]), Insert("nowhere", COLUMNS, [row("two")])]
    first, second = engine.write(inserts).result(60)
    assert first is None
    assert isinstance(second, QueryError)


def test_a_repeated_row_is_written_once(engine: Engine):
    values = row("once")
    insert = Insert("conversations", COLUMNS, [values])
    assert engine.write([insert]).result(60) == [None]
    assert engine.write([insert, insert], again=True).result(60) == [None, None]
    assert engine.read("SELECT count(*) FROM conversations") == [(1,)]


def test_if_new_leaves_out_what_is_there(engine: Engine):
    old, new = row("old"), row("new")
    write(engine, old)
    assert engine.write([Insert("conversations", COLUMNS, [old, new, new], if_new=True)]).result(60) == [None]
    assert engine.read("SELECT title FROM conversations ORDER BY id") == [("old",), ("new",)]


def test_what_is_closed_says_so(memory: ThreadStore):
    add(memory, "before")
    memory.close()
    with pytest.raises(StoreError, match="closed"):
        append(memory, row("after")).result(5)
    with pytest.raises(StoreError, match="closed"):
        memory.read("SELECT 1")
    with pytest.raises(StoreError, match="closed"), memory.transaction() as execute:
        execute("SELECT 1")


# ---------------------------------------------------------------------------------------------- transactions
def test_a_transaction_is_kept_whole_or_not_at_all(memory: ThreadStore):
    with memory.transaction() as execute:
        execute("INSERT INTO conversations (id, created_at, title) VALUES (?, ?, ?)", row("kept"))
        assert execute("SELECT title FROM conversations") == [("kept",)]
    with pytest.raises(ZeroDivisionError), memory.transaction() as execute:
        execute("INSERT INTO conversations (id, created_at, title) VALUES (?, ?, ?)", row("lost"))
        1 / 0  # noqa: B018
    assert titles(memory) == ["kept"]


def test_an_error_in_a_statement_ends_the_transaction(memory: ThreadStore):
    with pytest.raises(TransactionError, match="over"), memory.transaction() as execute:
        execute("INSERT INTO conversations (id, created_at, title) VALUES (?, ?, ?)", row("lost"))
        with pytest.raises(QueryError):
            execute("SELECT nonsense FROM nowhere")
    assert titles(memory) == []


@pytest.mark.parametrize("sql", ["commit", "COMMIT; SELECT 1", "SELECT 1; ROLLBACK", "BEGIN", "ROLLBACK; BEGIN", ""])
def test_only_the_end_of_the_block_commits(memory: ThreadStore, sql: str):
    with pytest.raises(TransactionError), memory.transaction() as execute:
        execute("INSERT INTO conversations (id, created_at, title) VALUES (?, ?, ?)", row("lost"))
        with pytest.raises(QueryError, match="one statement at a time"):
            execute(sql)
    assert titles(memory) == []


def test_a_transaction_is_rolled_back_at_its_limit_and_lets_others_go_on(memory: ThreadStore):
    begun = time.monotonic()
    with pytest.raises(TransactionError, match=f"limit of {TURN_LIMIT:g} s"), memory.transaction() as execute:
        execute("INSERT INTO conversations (id, created_at, title) VALUES (?, ?, ?)", row("lost"))
        add(memory, "waited")  # from outside: it waits for the writer
    assert time.monotonic() - begun >= TURN_LIMIT
    assert titles(memory) == ["waited"]


def test_a_statement_is_interrupted_at_the_limit(memory: ThreadStore):
    begun = time.monotonic()
    with pytest.raises(TransactionError), memory.transaction() as execute:
        with pytest.raises(TransactionError, match="took longer"):
            execute("SELECT count(*) FROM range(200000) a, range(200000) b WHERE (a.range * b.range) % 7 = 3")
    assert time.monotonic() - begun < 10
    add(memory, "after")


def test_a_client_that_goes_gives_its_transaction_up_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turn, "TURN_LIMIT", 60.0)
    near, far = connections()
    visit = Visit(engine, near)
    statement = ("INSERT INTO conversations (id, created_at, title) VALUES (?, ?, ?)", row("lost"), False)
    visit.do_execute([statement], True)
    visit.end()
    assert write(engine, row("next")) == [None]
    assert engine.read("SELECT title FROM conversations") == [("next",)]
    near.close()
    far.close()


# ---------------------------------------------------------------------------------------------- changes
def test_changes_names_tables_after_an_empty_first_set(memory: ThreadStore):
    heard: queue.SimpleQueue[set[str]] = queue.SimpleQueue()

    def listen() -> None:
        for tables in memory.changes():
            heard.put(tables)

    thread = threading.Thread(target=listen)
    thread.start()
    assert heard.get(timeout=10) == set()
    add(memory, "one")
    assert heard.get(timeout=10) == {"conversations"}
    with memory.transaction() as execute:
        execute("UPDATE conversations SET title = 'two'")
    assert heard.get(timeout=10) == {"conversations"}
    memory.close()
    thread.join(10)
    assert not thread.is_alive()


# ---------------------------------------------------------------------------------------------- anyone's SQL
def test_arrow_answers_and_the_callers_frames(engine: Engine):
    write(engine, row("one"), row("two"))
    sink = io.BytesIO()
    frame = pa.table({"title": ["two", "three"], "score": [2, 3]})
    with pa.ipc.new_stream(sink, frame.schema) as stream:
        stream.write_table(frame)
    sql = "SELECT title, score FROM conversations JOIN scores USING (title) WHERE score < $most"
    answer = table(engine.read_arrow(sql, {"most": 10}, {"scores": sink.getvalue()}))
    assert answer.to_pylist() == [{"title": "two", "score": 2}]
    with pytest.raises(QueryError):
        engine.read_arrow("SELECT * FROM scores")  # it went with its query


@pytest.mark.parametrize("sql", ["SELECT 1 AS a", "FROM conversations", "WITH a AS (SELECT 1) FROM a", "SHOW TABLES",
                                 "DESCRIBE calls", "SUMMARIZE calls", "EXPLAIN SELECT 1", "VALUES (1)"])  # fmt: skip
def test_what_reads_is_allowed(engine: Engine, sql: str):
    table(engine.read_arrow(sql))


# ---------------------------------------------------------------------------------------------- unfinished calls
def test_unfinished_calls_are_found_and_marked_once(engine: Engine, memory: ThreadStore):
    request = begin_call(memory)
    assert memory._engine.unfinished() == {memory.session_id: [request]}
    for _ in range(2):
        memory._engine.mark_unknown([request]).result(60)
    assert memory._engine.unfinished() == {}
    assert memory.read("SELECT status FROM responses") == [("unknown",)]
