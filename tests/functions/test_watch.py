"""Watched queries over real ledgers: told once per commit that changes the result, and never otherwise."""

from __future__ import annotations

import asyncio
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import ipyconvexai as ai
from ipyconvexai.errors import (
    ArgumentsError,
    DeadlockError,
    InputError,
    NotAllowedError,
    QueryError,
    UnknownFunctionError,
)
from ipyconvexai.functions.changes import Hub, hub_of
from ipyconvexai.functions.watching import Watch, _Reading
from ipyconvexai.ids import new_id
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.link import Store, open_store

SOON = 10.0  # seconds within which something that must happen has happened
QUIET = 0.3  # seconds without a word that count as silence; a notice takes less than 0.1
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = open_store(":memory:" if request.param == "memory" else tmp_path / "ledger.duckdb")
    yield opened
    opened.close()


@pytest.fixture
def memory_store() -> Iterator[Store]:
    opened = open_store(":memory:")
    yield opened
    opened.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.duckdb")


@pytest.fixture
def file_store(path: str) -> Iterator[Store]:
    opened = open_store(path)
    yield opened
    opened.close()


def add(store: Store, title: str) -> None:
    with store.transaction() as execute:
        execute("INSERT INTO conversations (id, created_at, title) VALUES (?, ?, ?)", [new_id(), utc_now(), title])


def add_cron(store: Store, name: str) -> None:
    """A commit to another table."""
    with store.transaction() as execute:
        columns = "name, function, schedule, args, anchor, runs, skipped"
        execute(f"INSERT INTO crons ({columns}) VALUES (?, 'f', '', '', ?, 0, 0)", [name, utc_now()])


class NotDone(Exception):
    pass


def add_and_fail(store: Store) -> None:
    with store.transaction() as execute:
        execute("INSERT INTO conversations (id, created_at, title) VALUES (?, ?, 'no')", [new_id(), utc_now()])
        raise NotDone


class Titles:
    """A look at the titles; counts how often it is taken."""

    def __init__(self, store: Store, sql: str = "SELECT title FROM conversations ORDER BY id") -> None:
        self.count = 0
        self._store = store
        self._sql = sql

    def __call__(self) -> tuple[list[str], set[str] | None]:
        self.count += 1
        return [title for (title,) in self._store.read(self._sql)], {"conversations"}


class Reader:
    """Loops over a watch in a thread, and keeps what it is told."""

    def __init__(self, watch: Watch) -> None:
        self._told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._watch = watch
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for value in self._watch:
                self._told.put(value)
        except Exception as error:
            self._told.put(error)

    def next(self) -> Any:
        return self._told.get(timeout=SOON)

    @property
    def is_quiet(self) -> bool:
        try:
            self._told.get(timeout=QUIET)
        except queue.Empty:
            return True
        return False

    def ends(self) -> bool:
        self._thread.join(SOON)
        return not self._thread.is_alive()


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_told_at_once_and_once_per_commit(store: Store):
    look = Titles(store)
    with Watch(look, hub_of(store)) as watch:
        reader = Reader(watch)
        assert reader.next() == []
        for number in range(1, 4):
            add(store, f"title {number}")
            assert len(reader.next()) == number
        assert reader.is_quiet
    assert reader.ends()


def test_not_told_of_other_tables_of_equal_results_and_after_a_rollback(store: Store):
    look = Titles(store, "SELECT title FROM conversations WHERE title <> 'hidden'")
    with Watch(look, hub_of(store)) as watch:
        reader = Reader(watch)
        assert reader.next() == []
        assert reader.is_quiet  # also the hub's first notice, which says "look at everything"
        before = look.count
        add_cron(store, "other")
        assert reader.is_quiet
        assert look.count == before, "a query runs again only after a commit to a table it read"
        with pytest.raises(NotDone):
            add_and_fail(store)
        assert reader.is_quiet
        assert look.count == before, "a rollback is no change"
        add(store, "hidden")
        assert reader.is_quiet
        assert look.count == before + 1
        add(store, "seen")
        assert reader.next() == ["seen"]


def test_told_of_commits_of_another_process(file_store: Store, path: str):
    with Watch(Titles(file_store), hub_of(file_store)) as watch:
        reader = Reader(watch)
        assert reader.next() == []
        code = (
            "import sys\n"
            "from ipyconvexai.store.link import open_store\n"
            "from tests.functions.test_watch import add\n"
            f"store = open_store({path!r})\n"
            "for line in sys.stdin:\n"
            "    add(store, line.strip())\n"
            "store.close()\n"
        )
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True, cwd=ROOT)
        assert child.stdin is not None
        for number in (1, 2, 3):
            child.stdin.write(f"{number}\n")
            child.stdin.flush()
            assert reader.next() == [str(n) for n in range(1, number + 1)]
        child.communicate(timeout=SOON)
        assert child.returncode == 0
        assert reader.is_quiet


def test_what_comes_in_a_burst_is_never_lost(file_store: Store):
    with Watch(Titles(file_store), hub_of(file_store)) as watch:
        reader = Reader(watch)
        reader.next()
        for number in range(30):
            add(file_store, str(number))
        told = 0
        while told < 30:
            more = len(reader.next())
            assert more > told
            told = more
        assert reader.is_quiet


def test_a_change_while_the_query_runs_is_not_missed(memory_store: Store):
    running, go_on = threading.Event(), threading.Event()
    look = Titles(memory_store)

    def slowly() -> tuple[list[str], set[str] | None]:
        result = look()
        if look.count == 2:
            running.set()
            assert go_on.wait(SOON)
        return result

    with Watch(slowly, hub_of(memory_store)) as watch:
        reader = Reader(watch)
        assert reader.next() == []
        add(memory_store, "first")
        assert running.wait(SOON)
        add(memory_store, "second")
        time.sleep(0.2)  # until the notice of it has come, while the query runs
        go_on.set()
        values = [reader.next()]
        if len(values[0]) < 2:
            values.append(reader.next())
        assert values[-1] == ["first", "second"]


def test_survives_its_keeper(cold_keepers: None, file_store: Store, path: str):
    with Watch(Titles(file_store), hub_of(file_store)) as watch:
        reader = Reader(watch)
        assert reader.next() == []
        add(file_store, "before")
        assert reader.next() == ["before"]
        (keeper,) = (
            process
            for process in psutil.process_iter(["cmdline"])
            if (process.info["cmdline"] or [])[-2:] == ["ipyconvexai.store.keeper", path]
        )
        keeper.kill()
        keeper.wait(SOON)
        add(file_store, "after")
        assert reader.next() == ["before", "after"]
        add(file_store, "later")
        assert reader.next() == ["before", "after", "later"]


def test_an_error_of_the_query_is_raised_in_the_loop(memory_store: Store):
    def look() -> tuple[Any, set[str] | None]:
        return memory_store.read("SELECT title FROM conversations") and 1 / 0, {"conversations"}

    with Watch(look, hub_of(memory_store)) as watch:
        reader = Reader(watch)
        assert reader.next() == []
        add(memory_store, "boom")
        assert isinstance(reader.next(), ZeroDivisionError)
        assert reader.ends()
        with pytest.raises(ZeroDivisionError):
            next(iter(watch))


def test_an_error_of_the_store_too(memory_store: Store):
    look = Titles(memory_store, "SELECT nonsense")
    with pytest.raises(QueryError):
        next(iter(Watch(look, hub_of(memory_store))))


def test_each_loop_begins_with_the_present(memory_store: Store):
    watch = Watch(Titles(memory_store), hub_of(memory_store))
    assert next(iter(watch)) == []
    add(memory_store, "one")
    assert next(iter(watch)) == ["one"]
    watch.close()
    assert list(watch) == []
    assert "closed" in repr(watch)


def test_a_changed_result_in_the_reader_s_hands_is_no_change(memory_store: Store):
    with Watch(Titles(memory_store), hub_of(memory_store), print_of=tuple) as watch:
        values = iter(watch)
        next(values).append("the reader's own")
        add(memory_store, "one")
        assert next(values) == ["one"]


def threads() -> int:
    return sum(thread.name.startswith("ipyconvexai-changes") for thread in threading.enumerate())


def test_nobody_listens_when_the_loops_are_left(store: Store):
    wait_for(lambda: threads() == 0)
    for _ in Watch(Titles(store), hub_of(store)):
        assert threads() == 1
        break

    async def leave() -> None:
        async for _ in Watch(Titles(store), hub_of(store)):
            break

    wait_for(lambda: threads() == 0)
    asyncio.run(leave())
    wait_for(lambda: threads() == 0)


def test_an_empty_notice_says_look_at_everything(file_store: Store):
    reading = _Reading(Titles(file_store), lambda value: value, lambda: None)
    assert reading.look() == []
    reading.notice({"crons"})
    assert not reading.is_due()
    reading.notice(set())
    assert reading.is_due()


def test_the_thread_lives_as_long_as_somebody_listens(store: Store):
    wait_for(lambda: threads() == 0)
    hub = hub_of(store)
    assert hub is hub_of(store)
    told: list[set[str]] = []
    ends = [hub.subscribe(told.append), hub.subscribe(told.append)]
    assert threads() == 1
    wait_for(lambda: told)
    ends[0]()
    ends[0]()
    assert threads() == 1
    ends[1]()
    wait_for(lambda: threads() == 0)
    again = hub.subscribe(told.append)
    assert threads() == 1
    again()
    wait_for(lambda: threads() == 0)


def test_a_subscriber_that_fails_harms_no_other(memory_store: Store, caplog: pytest.LogCaptureFixture):
    hub = Hub(memory_store)
    told = threading.Event()

    def fail(names: set[str]) -> None:
        raise ZeroDivisionError

    ends = [hub.subscribe(fail), hub.subscribe(lambda names: told.set() if names else None)]
    add(memory_store, "one")
    assert told.wait(SOON)
    for end in ends:
        end()
    assert "a subscriber to changes failed" in caplog.text


def test_a_closed_store_ends_the_loops(tmp_path: Path):
    store = open_store(tmp_path / "closing.duckdb")
    reader = Reader(Watch(Titles(store), hub_of(store)))
    assert reader.next() == []
    store.close()
    assert reader.ends()


# ---------------------------------------------------------------------------------------------- async, interrupts
def test_async_for(store: Store):
    async def read() -> list[list[str]]:
        told = []
        async with asyncio.timeout(SOON):
            async for value in watch:
                told.append(value)
                if len(told) == 3:
                    return told
                await asyncio.to_thread(add, store, f"title {len(told)}")
        return told

    with Watch(Titles(store), hub_of(store)) as watch:
        assert asyncio.run(read()) == [[], ["title 1"], ["title 1", "title 2"]]


def test_close_ends_an_async_loop(memory_store: Store):
    async def read() -> None:
        async with asyncio.timeout(SOON):
            async for _ in watch:
                watch.close()

    watch = Watch(Titles(memory_store), hub_of(memory_store))
    asyncio.run(read())


def test_a_blocking_loop_where_it_would_wait_for_itself(memory_store: Store):
    with pytest.raises(DeadlockError):
        next(iter(Watch(Titles(memory_store), hub_of(memory_store), on_loop=lambda: True)))


WAITING = """
import asyncio, sys, time
import ipyconvexai as ai
from ipyconvexai.functions.changes import hub_of
from ipyconvexai.functions.watching import Watch
from ipyconvexai.store.link import open_store
from tests.functions.test_watch import Titles
store = open_store(sys.argv[1])
async def read():
    async for value in Watch(Titles(store), hub_of(store)):
        print("waiting", flush=True)
def read_sync():
    for value in Watch(Titles(store), hub_of(store)):
        print("waiting", flush=True)
try:
    read_sync() if sys.argv[2] == "sync" else asyncio.run(read())
except KeyboardInterrupt:
    print(time.time(), time.process_time(), flush=True)
store.close()
"""


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_interrupt_is_heard_at_once_and_waiting_costs_nothing(kind: str, path: str):
    command = [sys.executable, "-c", WAITING, path, kind]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stdout is not None
    assert child.stdout.readline() == "waiting\n"
    process = psutil.Process(child.pid)
    time.sleep(0.3)
    used = sum(process.cpu_times()[:2])
    time.sleep(1.0)
    used = sum(process.cpu_times()[:2]) - used
    sent = time.time()
    child.send_signal(signal.SIGINT)
    heard, _ = child.stdout.readline().split()
    child.communicate(timeout=SOON)
    assert float(heard) - sent < 0.1
    assert used <= 0.1, "seconds of CPU in one second of waiting"


# ---------------------------------------------------------------------------------------------- ai.watch
class WatchedNote(ai.Table, name="Watched_notes"):
    text: str
    likes: int = 0
    by_text = ai.Index("text")


class OtherNote(ai.Table):
    text: str


@ai.mutation
def watched_add(ctx: Any, text: str) -> str:
    return str(ctx.db.insert(WatchedNote(text=text)))


@ai.mutation
def watched_add_and_fail(ctx: Any, text: str) -> None:
    ctx.db.insert(WatchedNote(text=text))
    raise NotDone


@ai.mutation
def watched_add_other(ctx: Any, text: str) -> None:
    ctx.db.insert(OtherNote(text=text))


@ai.mutation
def watched_replace(ctx: Any, text: str) -> None:
    """The same text under another id."""
    note = ctx.db.query(WatchedNote).with_index("by_text", text=text).first()
    ctx.db.delete(note._id)
    ctx.db.insert(WatchedNote(text=text))


runs: list[str] = []


@ai.query
def watched_notes(ctx: Any, text: str) -> list[WatchedNote]:
    runs.append(text)
    found: list[WatchedNote] = ctx.db.query(WatchedNote).with_index("by_text", text=text).collect()
    return found


@ai.query
def watched_through_another(ctx: Any, text: str) -> int:
    return len(ctx.run_query(watched_notes, text=text))


@ai.query
def watched_by_sql(ctx: Any, text: str) -> int:
    (row,) = ctx.db.sql("SELECT count(*) AS n FROM watched_Notes WHERE text = ?", [text])
    return int(row["n"])


@ai.query
def watched_calls(ctx: Any, text: str) -> Any:
    """Over a view: its tables are what changes."""
    return ctx.db.sql("SELECT status, text FROM calls")


@pytest.fixture
def watching_app(tmp_path: Path) -> Iterator[ai.App]:
    with ai.connect(tmp_path / "watched.duckdb") as app:
        yield app


@pytest.mark.parametrize("query", [watched_notes, watched_through_another, watched_by_sql], ids=lambda f: f.__name__)
def test_a_query_is_told_of_what_mutations_commit(watching_app: ai.App, query: Any):
    with ai.watch(query, text="a") as watch:
        reader = Reader(watch)
        assert not reader.next()
        assert reader.is_quiet
        ai.run(watched_add, text="a")
        first = reader.next()
        assert first == 1 or [note.text for note in first] == ["a"]
        ai.run(watched_add, text="b")
        with pytest.raises(NotDone):
            ai.run(watched_add_and_fail, text="a")
        ai.run(watched_add_other, text="a")
        assert reader.is_quiet
        ai.run(watched_add, text="a")
        second = reader.next()
        assert second == 2 or len(second) == 2
        assert reader.is_quiet


def test_a_query_runs_only_where_a_table_that_it_read_changed(watching_app: ai.App):
    ai.run(watched_add_other, text="the tables are there")
    with ai.watch("watched_notes", text="counted") as watch:
        reader = Reader(watch)
        assert reader.next() == []
        assert reader.is_quiet
        before = runs.count("counted")
        ai.run(watched_add_other, text="counted")
        assert reader.is_quiet
        assert runs.count("counted") == before
        ai.run(watched_add, text="another")
        assert reader.is_quiet
        assert runs.count("counted") == before + 1


def test_another_document_with_the_same_text_is_a_change(watching_app: ai.App):
    ai.run(watched_add, text="same")
    with ai.watch(watched_notes, text="same") as watch:
        reader = Reader(watch)
        (before,) = reader.next()
        ai.run(watched_replace, text="same")
        (after,) = reader.next()
        assert after._id != before._id


def test_the_ledger_s_view_can_be_watched(app: ai.App):
    with ai.watch(watched_calls, text="") as watch:
        reader = Reader(watch)
        assert not reader.next()
        app.generate("hello")
        told = reader.next()
        while told[0]["status"] == "sending":
            told = reader.next()
        assert told == [{"status": "ok", "text": "echo: hello"}]


def test_two_apps_on_one_ledger(watching_app: ai.App, tmp_path: Path):
    with ai.watch(watched_notes, text="shared") as watch:
        reader = Reader(watch)
        assert reader.next() == []
        with ai.connect(tmp_path / "watched.duckdb") as other:
            assert other is ai.app()
            ai.run(watched_add, text="shared")
            assert [note.text for note in reader.next()] == ["shared"]
        assert reader.is_quiet
    assert reader.ends()


def test_what_cannot_be_watched(watching_app: ai.App):
    with pytest.raises(NotAllowedError, match="mutation"):
        ai.watch(watched_add, text="x")
    with pytest.raises(UnknownFunctionError, match="watched_note"):
        ai.watch("watched_note")
    with pytest.raises(ArgumentsError, match="text"):
        ai.watch(watched_notes, text=5)
    with pytest.raises(InputError):
        ai.watch(print)


def test_a_closed_app_ends_its_watches(tmp_path: Path):
    with ai.connect(tmp_path / "watched.duckdb"):
        reader = Reader(ai.watch(watched_notes, text="x"))
        assert reader.next() == []
    assert reader.ends()
