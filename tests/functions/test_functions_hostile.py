"""Functions that end the process, wait for each other, keep their ctx, or try to write where they may not."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai.errors import (
    ArgumentsError,
    CanceledError,
    FunctionError,
    FunctionTimeoutError,
    NotAllowedError,
    ResultError,
    TransactionError,
)
from ipyconvexai.functions.registry import of
from ipyconvexai.store.folder import Folder


class Gadget(ai.Table):
    name: str


@ai.mutation
def put_gadget(ctx: Any, name: str) -> ai.Id[Gadget]:
    key: str = ctx.db.insert(Gadget(name=name))
    return key


@ai.query
def gadget_names(ctx: Any) -> list[str]:
    return [thing.name for thing in ctx.db.query(Gadget)]


@ai.mutation(name="gadget_exits")
def mutation_exits(ctx: Any) -> None:
    sys.exit(3)


@pytest.fixture
def memory() -> Iterator[ai.App]:
    with ai.connect(":memory:", user="ada") as opened:
        yield opened


# ---------------------------------------------------------------------------------------------- they end the process
async def exits(ctx: Any) -> None:
    sys.exit(3)


async def exits_inside(ctx: Any) -> None:
    await ctx.run_mutation(mutation_exits)


async def exits_in_a_task(ctx: Any) -> None:
    async def ending() -> None:
        sys.exit(3)

    await asyncio.create_task(ending())


def exits_in_a_thread(ctx: Any) -> None:
    sys.exit(3)


@pytest.mark.parametrize("handler", [exits, exits_inside, exits_in_a_task, exits_in_a_thread])
def test_a_function_that_ends_the_process_fails_and_the_loop_goes_on(memory: ai.App, handler: Any):
    with pytest.raises(FunctionError, match="SystemExit"):
        ai.run(ai.action(name="ends")(handler))

    @ai.action
    async def still_there(ctx: Any) -> str:
        await ctx.run_mutation(put_gadget, name="after")
        return "yes"

    assert ai.run(still_there) == "yes"


def test_a_cancellation_of_its_own_is_no_closed_app(memory: ai.App):
    @ai.action
    async def cancels_itself(ctx: Any) -> None:
        task = asyncio.ensure_future(asyncio.Event().wait())
        task.cancel()
        await task

    with pytest.raises(CanceledError, match="raised CancelledError"):
        ai.run(cancels_itself)


@pytest.mark.parametrize("blocks", [True, False])
def test_an_action_that_outlives_its_limit_does_not_succeed(memory: ai.App, blocks: bool):
    @ai.action(timeout=0.1)
    async def late(ctx: Any) -> str:
        if blocks:
            time.sleep(0.2)  # noqa: ASYNC251 - blocking the loop is what is tried
            return "late"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return "late"

    with pytest.raises(FunctionTimeoutError):
        ai.run(late)


def test_a_process_that_ends_without_closing_says_nothing(tmp_path: Path):
    code = """
        import sys, ipyconvexai as ai
        @ai.mutation
        def noop(ctx) -> None: ...
        @ai.mutation
        def many(ctx) -> None:
            for _ in range(30): ctx.scheduler.run_after(0, noop)
        ai.connect(sys.argv[1])
        ai.run(many)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "ends.duckdb")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""


def test_nobody_is_told_of_what_was_interrupted(memory: ai.App, caplog: pytest.LogCaptureFixture):
    started, ended = threading.Event(), threading.Event()

    @ai.action
    def waits(ctx: Any) -> None:
        started.set()
        ended.wait(10)
        raise ValueError("nobody waits for this")

    async def leave() -> None:
        task = asyncio.ensure_future(memory.functions.runner.act(of(waits), {}))
        await asyncio.to_thread(started.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ended.set()
        await asyncio.sleep(0.05)

    memory.run(leave())
    import gc

    gc.collect()
    assert "never retrieved" not in caplog.text


# ---------------------------------------------------------------------------------------------- they wait
def test_plain_actions_leave_room_for_what_they_wait_for(memory: ai.App):
    memory.functions.runner._threads._max_workers = 2
    together = threading.Barrier(6, timeout=10)

    @ai.action
    def asks(ctx: Any) -> int:
        together.wait()
        return len(ctx.run_query(gadget_names))

    @ai.action
    async def all_at_once(ctx: Any) -> list[int]:
        return list(await asyncio.gather(*(ctx.run_action(asks) for _ in range(6))))

    assert ai.run(all_at_once) == [0] * 6


def test_a_query_survives_the_end_of_its_keeper(app: ai.App):
    ai.run(put_gadget, name="there")
    killed: list[int] = []

    @ai.query
    def reads_twice(ctx: Any) -> list[str]:
        ctx.db.query(Gadget).first()
        if not killed:
            pid = Folder(app.store.path).keeper_pid()
            assert pid is not None
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)
        return [thing.name for thing in ctx.db.query(Gadget)]

    assert ai.run(reads_twice) == ["there"]
    assert len(killed) == 1


# ---------------------------------------------------------------------------------------------- they try to write
def test_nothing_but_ctx_writes_inside_of_a_function(memory: ai.App):
    @ai.query
    def limits_everybody(ctx: Any) -> None:
        ai.app().limit("sly", requests=1)

    @ai.mutation
    def opens_another(ctx: Any) -> None:
        ctx.db.insert(Gadget(name="lost"))
        with ai.app().store.transaction() as execute:
            execute("DELETE FROM messages")

    for function in (limits_everybody, opens_another):
        with pytest.raises(NotAllowedError, match="a transaction of its own"):
            ai.run(function)
    assert ai.run(gadget_names) == []
    assert len(memory.limits()) == 0


def test_a_context_shows_no_way_to_write_but_db_and_scheduler(memory: ai.App):
    @ai.mutation
    def public_names(ctx: Any) -> list[str]:
        return sorted(name for name in dir(ctx) if not name.startswith("_"))

    known = "db job_id now require_user run_mutation run_query scheduler session_id tools user_id".split()
    assert ai.run(public_names) == known


def test_a_ctx_that_is_kept_does_nothing_any_more(memory: ai.App):
    kept: list[Any] = []

    @ai.mutation
    def keeps(ctx: Any) -> None:
        kept.append(ctx)

    @ai.query
    def keeps_too(ctx: Any) -> None:
        ctx.db.query(Gadget).first()
        kept.append(ctx)

    ai.run(keeps)
    ai.run(keeps_too)
    with pytest.raises(TransactionError, match="was left"):
        kept[0].db.insert(Gadget(name="lost"))
    with pytest.raises(TransactionError, match="was left"):
        kept[0].scheduler.run_after(0, put_gadget, name="lost")
    with pytest.raises(TransactionError, match="was left"):
        kept[1].db.query(Gadget).first()


def test_an_id_of_another_table_is_no_argument_and_no_result(memory: ai.App):
    @ai.query
    def name_of(ctx: Any, thing: ai.Id[Gadget]) -> str:
        return ctx.db.get(thing).name  # type: ignore[no-any-return]

    @ai.mutation
    def wrong(ctx: Any) -> ai.Id[Gadget]:
        return ctx.db.insert(ai.Conversation(title="no thing"))  # type: ignore[no-any-return]

    conversation = ai.run("start_conversation", title="a")
    assert ai.run(name_of, thing=ai.run(put_gadget, name="right")) == "right"
    with pytest.raises(ArgumentsError, match="thing"):
        ai.run(name_of, thing=conversation)
    with pytest.raises(ResultError):
        ai.run(wrong)


# ---------------------------------------------------------------------------------------------- who hears and who asks
def test_who_watches_a_limit_hears_of_takes(memory: ai.App):
    limit = ai.rate_limit("watched", rate=3, per=60)

    @ai.query
    def left(ctx: Any) -> float:
        return limit.value(ctx)

    seen = []
    for value in ai.watch(left):
        seen.append(value)
        if len(seen) == 2:
            break
        limit.take()
    assert seen == [3, 2]


def test_a_job_of_nobody_is_nobodys(tmp_path: Path):
    asked: list[Any] = []

    @ai.mutation
    def who(ctx: Any) -> None:
        asked.append(ctx.user_id)

    @ai.mutation
    def later(ctx: Any) -> None:
        ctx.scheduler.run_after(0, who)

    with ai.connect(tmp_path / "nobody.duckdb", user="") as nobody:
        nobody.functions.scheduler.start = lambda: None  # type: ignore[method-assign] # leaves the job to the next
        ai.run(later)
    with ai.connect(tmp_path / "nobody.duckdb", user="boss"):
        deadline = time.monotonic() + 20
        while not asked and time.monotonic() < deadline:
            time.sleep(0.01)
    assert asked == [None]


def test_jobs_run_in_an_app_that_was_only_asked_something():
    """No ``connect``, no ``run``: the first use of the person's own ledger is enough."""
    assert ai.app().functions.scheduler.is_running
