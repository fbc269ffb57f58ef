"""Queries, mutations and actions: what they may do, what goes in and out, and what is left when they fail."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai.errors import (
    ApplicationError,
    ArgumentsError,
    DeadlockError,
    FunctionTimeoutError,
    InputError,
    LimitError,
    NotAllowedError,
    ProviderError,
    QueryError,
    ResultError,
    TransactionError,
    Unauthenticated,
    UnknownFunctionError,
)
from ipyconvexai.functions.registry import of, registry
from ipyconvexai.store.folder import Folder
from ipyconvexai.testing import Endpoint

SLOW_SQL = "SELECT count(*) FROM range(200000) a, range(200000) b WHERE (a.range * b.range) % 7 = 3"


class Note(ai.Table):
    text: str
    size: int = 0
    by_size = ai.Index("size")


@ai.mutation
def add(ctx: Any, text: str, size: int = 0) -> str:
    """Write a note."""
    key: str = ctx.db.insert(Note(text=text, size=size))
    return key


@ai.query
def texts(ctx: Any) -> list[str]:
    return [note.text for note in ctx.db.query(Note)]


@ai.mutation
def shout(ctx: Any, note: str) -> None:
    ctx.db.patch(note, text=ctx.db.get(note).text + "!")


HERE = [add, texts, shout]


@pytest.fixture(autouse=True)
def defined(own_definitions: None) -> None:
    """What this module defines, whatever other modules of the same process defined since."""
    from ipyconvexai.tables import registry as tables

    for function in HERE:
        registry.add(of(function))
    tables.register(Note)


@pytest.fixture
def memory() -> Iterator[ai.App]:
    with ai.connect(":memory:", user="ada") as opened:
        yield opened


# ---------------------------------------------------------------------------------------------- defining
def test_a_decorated_function_stays_a_plain_function():
    class Database:
        def insert(self, note: Note) -> str:
            return f"kept {note.text}"

    class Ctx:
        db = Database()

    assert add(Ctx(), "as it is", size=3) == "kept as it is"
    assert add.__name__ == "add"
    assert add.__doc__ == "Write a note."


def test_a_cell_that_is_run_again_defines_anew(memory: ai.App):
    @ai.query(name="answer")
    def first(ctx: Any) -> int:
        return 1

    assert ai.run("answer") == 1

    @ai.query(name="answer")
    def second(ctx: Any) -> int:
        return 2

    assert ai.run("answer") == 2
    assert ai.run(first) == 1  # who holds the old one runs the old one


@pytest.mark.parametrize(
    ("define", "message"),
    [
        ("@ai.query\nasync def f(ctx): ...", "has nothing to wait for"),
        ("@ai.mutation\nasync def f(ctx): ...", "has nothing to wait for"),
        ("@ai.query\ndef f(ctx):\n    yield 1", "returns one result"),
        ("@ai.action\nasync def f(ctx):\n    yield 1", "returns one result"),
        ("@ai.query\ndef f(): ...", "takes no context"),
        ("@ai.query\ndef f(ctx, *rest): ...", "rest"),
        ("@ai.query(name='send message')\ndef f(ctx): ...", "is no name"),
        ("ai.query(3)", "stands above a def"),
        ("@ai.action(timeout=0)\nasync def f(ctx): ...", "no number of seconds"),
        ("@ai.action(retry='often')\nasync def f(ctx): ...", "no retry policy"),
        ("@ai.action(limit=10)\nasync def f(ctx): ...", "no limit"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_written(define: str, message: str):
    with pytest.raises(InputError, match=message):
        exec(define, {"ai": ai})


def test_what_is_no_function_of_ours_says_what_to_do(memory: ai.App):
    with pytest.raises(InputError, match="is no query, mutation or action"):
        ai.run(print)


def test_a_name_that_does_not_exist_names_the_nearest(memory: ai.App):
    with pytest.raises(UnknownFunctionError, match="Did you mean texts"):
        ai.run("text")


# ---------------------------------------------------------------------------------------------- in and out
@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"text": 1}, "`text` is int 1, and str was expected"),
        ({}, "missing the required field `text`"),
        ({"text": "a", "colour": "red"}, "contains extra field `colour`"),
        ({"text": "a", "size": "5"}, "`size` is str '5', and int was expected"),
    ],
)
def test_arguments_are_checked(memory: ai.App, args: dict[str, Any], message: str):
    with pytest.raises(ArgumentsError, match=message):
        ai.run(add, **args)
    assert ai.run(texts) == []


def test_a_result_that_does_not_fit_its_hint_undoes_the_mutation(memory: ai.App):
    @ai.mutation
    def wrong(ctx: Any) -> int:
        return ctx.db.insert(Note(text="lost"))  # type: ignore[no-any-return]

    with pytest.raises(ResultError, match="int"):
        ai.run(wrong)
    assert ai.run(texts) == []


# ---------------------------------------------------------------------------------------------- the rules
def test_a_query_cannot_write(memory: ai.App):
    @ai.query
    def writes(ctx: Any) -> None:
        ctx.db.insert(Note(text="lost"))

    @ai.query
    def writes_in_sql(ctx: Any) -> None:
        ctx.db.sql("WITH x AS (INSERT INTO Note VALUES (uuid(), now(), 'lost', 0) RETURNING 1) SELECT * FROM x")

    @ai.query
    def calls_a_mutation(ctx: Any) -> None:
        ctx.run_mutation(add, text="lost")

    with pytest.raises(NotAllowedError, match="mutation"):
        ai.run(writes)
    with pytest.raises(QueryError):
        ai.run(writes_in_sql)
    with pytest.raises(NotAllowedError, match="mutation"):
        ai.run(calls_a_mutation)
    assert ai.run(texts) == []


@pytest.mark.parametrize(
    "sql",
    [
        "WITH x AS (INSERT INTO Note VALUES (uuid(), now(), 'lost', 0) RETURNING 1) SELECT * FROM x",
        "EXPLAIN ANALYZE DELETE FROM Note",
        "DELETE FROM Note",
        "SELECT 1; DELETE FROM Note",
        "COMMIT",
    ],
)
def test_sql_in_a_mutation_only_reads(memory: ai.App, sql: str):
    @ai.mutation
    def writes(ctx: Any) -> None:
        ctx.db.insert(Note(text="undone with the rest"))
        ctx.db.sql(sql)

    ai.run(add, text="kept")
    with pytest.raises(QueryError):
        ai.run(writes)
    assert ai.run(texts) == ["kept"]


def test_sql_sees_what_the_mutation_wrote(memory: ai.App):
    @ai.mutation
    def count(ctx: Any) -> int:
        ctx.db.insert(Note(text="one"))
        return ctx.db.sql('SELECT count(*) AS "update" FROM Note')[0]["update"]  # type: ignore[no-any-return]

    @ai.mutation
    def counts_badly(ctx: Any) -> int:
        return ctx.db.sql("SELECT count(*) AS update FROM Note")[0]["update"]  # type: ignore[no-any-return]

    with pytest.raises(QueryError, match="quotes"):  # the keyword, though it is only a name here
        ai.run(counts_badly)
    assert ai.run(count) == 1


def connect_somewhere() -> None:
    socket.create_connection(("127.0.0.1", 9), timeout=1)


def run_something() -> None:
    subprocess.run([sys.executable, "-c", ""], check=True)


@pytest.mark.parametrize(
    "outside", [connect_somewhere, run_something, lambda: os.system("true"), lambda: ai.generate("a")]
)
@pytest.mark.parametrize("kind", [ai.query, ai.mutation])
def test_queries_and_mutations_reach_nothing_outside(app: ai.App, outside: Any, kind: Any):
    @kind  # type: ignore[untyped-decorator] # a parameter of the test
    def reaches_out(ctx: Any) -> None:
        outside()

    with pytest.raises(NotAllowedError, match="Do it in an action"):
        ai.run(reaches_out)


def test_an_action_may_reach_out_and_has_no_database(app: ai.App):
    @ai.action
    def reaches_out(ctx: Any) -> bool:
        run_something()
        return hasattr(ctx, "db")

    assert ai.run(reaches_out) is False

    @ai.action
    async def reads(ctx: Any) -> None:
        ctx.db.get("x")

    with pytest.raises(AttributeError, match=r"ctx\.run_query"):
        ai.run(reads)


def test_internal_functions_are_called_by_functions_only(memory: ai.App):
    from ipyconvexai.functions.outside import public

    @ai.mutation(internal=True)
    def hidden(ctx: Any) -> None: ...

    with pytest.raises(NotAllowedError, match="internal"):
        public("hidden")
    ai.run(hidden)  # by who has the function itself


# ---------------------------------------------------------------------------------------------- time
def spin() -> None:
    while True:
        pass


def spin_and_swallow() -> None:
    while True:
        try:
            spin()
        except Exception:
            pass


@pytest.mark.parametrize("work", [spin, spin_and_swallow, lambda: time.sleep(2)])
def test_a_mutation_ends_after_a_second_and_leaves_nothing(memory: ai.App, work: Any):
    @ai.mutation
    def slow(ctx: Any) -> None:
        ctx.db.insert(Note(text="lost"))
        ctx.db.get(ctx.db.insert(Note(text="lost, too")))  # the transaction has begun
        work()

    begun = time.monotonic()
    with pytest.raises(FunctionTimeoutError, match="longer than 1 s; nothing of it was kept"):
        ai.run(slow)
    assert time.monotonic() - begun < 1.9
    assert ai.run(texts) == []


@pytest.mark.parametrize("kind", [ai.query, ai.mutation])
def test_a_statement_that_takes_too_long_is_stopped(memory: ai.App, kind: Any):
    @kind  # type: ignore[untyped-decorator] # a parameter of the test
    def slow(ctx: Any) -> Any:
        return ctx.db.sql(SLOW_SQL)

    with pytest.raises(FunctionTimeoutError):
        ai.run(slow)


@pytest.mark.parametrize("work", [spin, lambda: time.sleep(1)])
def test_a_plain_action_has_the_time_it_declares(memory: ai.App, work: Any):
    @ai.action(timeout=0.1)
    def slow(ctx: Any) -> None:
        work()

    with pytest.raises(FunctionTimeoutError, match=r"timeout=0\.2"):
        ai.run(slow)


def test_an_async_action_has_the_time_it_declares(memory: ai.App):
    @ai.action(timeout=0.05)
    async def slow(ctx: Any) -> None:
        await asyncio.Event().wait()

    with pytest.raises(FunctionTimeoutError, match=r"longer than 0\.05 s"):
        ai.run(slow)


def test_time_stands_still_in_a_mutation(memory: ai.App):
    @ai.mutation
    def twice(ctx: Any) -> bool:
        first = ctx.now
        time.sleep(0.002)
        return bool(first == ctx.now and first.tzinfo is datetime.UTC)

    assert ai.run(twice)


# ---------------------------------------------------------------------------------------------- transactions
def test_a_failure_rolls_everything_back(memory: ai.App):
    @ai.mutation
    def fails(ctx: Any) -> None:
        ctx.db.insert(Note(text="lost"))
        ctx.scheduler.run_after(0, add, text="never scheduled")
        raise ApplicationError({"code": "no"})

    with pytest.raises(ApplicationError) as caught:
        ai.run(fails)
    assert caught.value.data == {"code": "no"}
    assert ai.run(texts) == []
    assert len(ai.jobs()) == 0


def test_ten_appends_at_once_give_ten(memory: ai.App):
    note = ai.run(add, text="hello")
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: ai.run(shout, note=note), range(10)))
    assert ai.run(texts) == ["hello" + "!" * 10]


APPEND = """
import sys, threading, ipyconvexai as ai
class Note(ai.Table):
    text: str
    size: int = 0
    by_size = ai.Index("size")
@ai.mutation
def shout(ctx, note: str) -> None:
    ctx.db.patch(note, text=ctx.db.get(note).text + "!")
with ai.connect(sys.argv[1]):
    print("ready", flush=True)
    sys.stdin.readline()
    threads = [threading.Thread(target=lambda: ai.run(shout, note=sys.argv[2])) for _ in range(10)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""


def test_appends_of_three_processes_all_count(app: ai.App):
    note = ai.run(add, text="hello")
    command = [sys.executable, "-c", APPEND, app.store.path, note]
    children = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(3)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.communicate("\n", timeout=60)
        assert child.returncode == 0
    assert ai.run(texts) == ["hello" + "!" * 30]


def test_a_mutation_inside_a_mutation_is_one_transaction(memory: ai.App):
    @ai.mutation
    def outer(ctx: Any, fails: bool) -> list[str]:
        ctx.run_mutation(add, text="inner")
        seen: list[str] = ctx.run_query(texts)
        if fails:
            raise ValueError
        return seen

    assert ai.run(outer, fails=False) == ["inner"]
    with pytest.raises(ValueError):
        ai.run(outer, fails=True)
    assert ai.run(texts) == ["inner"]


def test_a_failure_inside_fails_the_whole_even_where_it_is_caught(memory: ai.App):
    @ai.mutation
    def breaks(ctx: Any) -> None:
        ctx.db.insert(Note(text="lost"))
        raise ValueError("broken")

    @ai.mutation
    def catches(ctx: Any) -> None:
        ctx.db.insert(Note(text="lost as well"))
        try:
            ctx.run_mutation(breaks)
        except ValueError:
            pass

    with pytest.raises(TransactionError, match="breaks, which it called, failed: ValueError: broken"):
        ai.run(catches)
    assert ai.run(texts) == []


def test_a_query_inside_a_mutation_cannot_write_either(memory: ai.App):
    limit = ai.rate_limit("inside", rate=1, per=60)

    @ai.query
    def takes(ctx: Any) -> bool:
        return bool(limit.take(ctx))

    @ai.mutation
    def outer(ctx: Any) -> bool:
        return ctx.run_query(takes)  # type: ignore[no-any-return]

    with pytest.raises(NotAllowedError, match="query"):
        ai.run(outer)


def test_run_inside_a_function_says_what_to_use(memory: ai.App):
    @ai.mutation
    def outer(ctx: Any) -> None:
        ai.run(add, text="deadlock")

    @ai.action
    async def acting(ctx: Any) -> None:
        ai.run(add, text="deadlock")

    with pytest.raises(NotAllowedError, match=r"ctx\.run_mutation"):
        ai.run(outer)
    with pytest.raises(DeadlockError, match=r"ctx\.run_mutation"):
        ai.run(acting)


def test_a_mutation_survives_the_end_of_its_keeper(app: ai.App):
    killed = threading.Event()

    @ai.mutation
    def loses_its_keeper(ctx: Any) -> None:
        ctx.db.insert(Note(text="once"))
        ctx.run_query(texts)
        if not killed.is_set():
            killed.set()
            pid = Folder(app.store.path).keeper_pid()
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        ctx.run_query(texts)

    ai.run(loses_its_keeper)
    assert killed.is_set()
    assert ai.run(texts) == ["once"]


# ---------------------------------------------------------------------------------------------- actions
def test_an_action_reads_and_writes_through_functions(memory: ai.App):
    @ai.action
    async def busy(ctx: Any, count: int) -> int:
        await asyncio.gather(*(ctx.run_mutation(add, text=str(n)) for n in range(count)))
        return len(await ctx.run_query(texts))

    @ai.action
    def plainly(ctx: Any) -> int:
        ctx.run_mutation(add, text="one more")
        return ctx.run_action(busy, count=2) + len(ctx.run_query(texts))  # type: ignore[no-any-return]

    assert ai.run(busy, count=5) == 5
    assert ai.run(plainly) == 16
    assert asyncio.run(ai.arun(busy, count=0)) == 8


def test_an_action_here_runs_on_the_loop_of_who_calls(memory: ai.App):
    @ai.action
    async def where(ctx: Any) -> str:
        await ctx.run_mutation(add, text="x")
        return threading.current_thread().name

    assert ai.run(where, here=True) == threading.current_thread().name
    assert ai.run(where) == "ipyconvexai-loop"


def test_an_action_here_inside_a_running_loop(app: ai.App):
    """In a process of its own: the loop is made re-entrant for good."""
    code = """
        import asyncio, threading, sys, ipyconvexai as ai
        @ai.action
        async def where(ctx) -> str:
            await asyncio.sleep(0)
            return threading.current_thread().name
        async def cell():
            return ai.run(where, here=True)
        with ai.connect(":memory:"):
            print(asyncio.run(cell()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "MainThread"


def test_the_model_of_an_action_is_the_apps(app: ai.App, endpoint: Endpoint):
    @ai.action
    async def asks(ctx: Any) -> str:
        answer = await ctx.openai.chat.completions.create(
            model=ctx.model, messages=[{"role": "user", "content": "one"}]
        )
        return answer.choices[0].message.content + (await ctx.generate("two")).text  # type: ignore[no-any-return]

    @ai.action
    def plainly(ctx: Any) -> str:
        answer = ctx.openai.chat.completions.create(model=ctx.model, messages=[{"role": "user", "content": "three"}])
        return answer.choices[0].message.content + ctx.generate("four").text  # type: ignore[no-any-return]

    assert ai.run(asks) == "echo: oneecho: two"
    assert ai.run(plainly) == "echo: threeecho: four"
    rows = ai.ledger.sql("SELECT DISTINCT model, source FROM calls").fetchall()
    assert rows == [("gpt-4o-mini", "function")]


def test_a_declared_retry_begins_an_action_again(memory: ai.App):
    tries: list[int] = []

    @ai.action(retry=ai.Retry(attempts=3, backoff=0))
    async def third_time(ctx: Any) -> int:
        tries.append(1)
        if len(tries) < 3:
            raise ProviderError("busy", retryable=True)
        return len(tries)

    assert ai.run(third_time) == 3

    @ai.action(retry=ai.Retry(attempts=3, backoff=0))
    async def for_good(ctx: Any) -> None:
        tries.append(1)
        raise ApplicationError("no")

    tries.clear()
    with pytest.raises(ApplicationError):
        ai.run(for_good)
    assert len(tries) == 1


def test_an_action_takes_from_its_limit_for_each_user(memory: ai.App):
    @ai.action(limit=ai.rate_limit("asks", rate=2, per=60))
    async def limited(ctx: Any) -> str:
        return str(ctx.user_id)

    assert [ai.run(limited), ai.run(limited)] == ["ada", "ada"]
    with pytest.raises(LimitError, match="asks") as caught:
        ai.run(limited)
    assert 55 < (caught.value.retry_after or 0) <= 60
    runner = memory.functions.runner
    assert memory.run(runner.act(of(limited), {}, user_id="bob")) == "bob"


def test_with_metadata_only_the_ledgers_own_tables_hold_no_texts():
    @ai.mutation
    def keep(ctx: Any, text: str) -> None:
        ctx.db.insert(Note(text="one's own table is one's own business"))
        ctx.db.insert(ai.Document(content=text))

    with ai.connect(":memory:", record="metadata"):
        with pytest.raises(InputError, match="no content is kept in documents"):
            ai.run(keep, text="secret")
        ai.run(add, text="one's own")
        assert ai.run(texts) == ["one's own"]


# ---------------------------------------------------------------------------------------------- who asks
def test_who_asks_is_who_connected():
    @ai.query
    def who(ctx: Any) -> str:
        return ctx.require_user()  # type: ignore[no-any-return]

    with ai.connect(":memory:", user="ada"):
        assert ai.run(who) == "ada"
    with ai.connect(":memory:", user=""), pytest.raises(Unauthenticated, match="connect"):
        ai.run(who)
    assert not issubclass(Unauthenticated, LimitError)


def test_a_job_runs_as_who_scheduled_it(tmp_path: Path):
    seen: list[str] = []

    @ai.mutation
    def who(ctx: Any) -> None:
        seen.append(ctx.user_id)

    @ai.mutation
    def later(ctx: Any) -> None:
        ctx.scheduler.run_after(0, who)

    with ai.connect(tmp_path / "shared.duckdb", user="ada") as ada:
        ada.functions.scheduler.start = lambda: None  # type: ignore[method-assign] # her notebook is about to be closed
        ai.run(later)
    with ai.connect(tmp_path / "shared.duckdb", user="bob"):
        deadline = time.monotonic() + 20
        while not seen and time.monotonic() < deadline:
            time.sleep(0.01)
    assert seen == ["ada"]
