"""The loop that runs what is due: over a real store and the real runner, with an injected clock where time matters."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import datetime
import itertools
import logging
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipyconvexai.errors import (
    ApplicationError,
    ConfigurationError,
    DiskFullError,
    LedgerLockedError,
    StoreError,
    TransactionError,
    UnreachableError,
)
from ipyconvexai.functions import jobs, scheduler
from ipyconvexai.functions.changes import hub_of
from ipyconvexai.functions.crons import Cron, Crons, write_cron
from ipyconvexai.functions.jobs import NewJob
from ipyconvexai.functions.rate_limits import rate_limit
from ipyconvexai.functions.registry import Registry, action, mutation, registry
from ipyconvexai.functions.retries import Retry
from ipyconvexai.functions.runner import Runner
from ipyconvexai.functions.scheduler import Event, Scheduler
from ipyconvexai.functions.schedules import Interval
from ipyconvexai.ids import new_id
from ipyconvexai.loops import BackgroundLoop
from ipyconvexai.settings import Settings
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.link import KeeperStore, Store, open_store
from tests.store.helpers import child, kill, line_of, wait_for


class Lab:
    """A store, a runner and a scheduler; what functions did is in `seen`."""

    def __init__(self, store: Store, clock: Callable[[], datetime.datetime] = utc_now, **options: Any) -> None:
        self.store = store
        self.clock = clock
        self.loop = BackgroundLoop()
        settings = Settings(path=store.path, user="owner")
        self.runner = Runner(store, settings, self.loop, None, clock=clock)  # type: ignore[arg-type] # no model is asked
        self.crons = Crons()
        self.events: list[Event] = []
        self.scheduler = Scheduler(self.runner, self.loop, clock=clock, declared=self.crons, **options)
        self.scheduler.report = self.events.append
        self.runner.wake = self.scheduler.wake

    def schedule(self, fn: Any, seconds: float = 0, user: str | None = "ann", **args: Any) -> str:
        """As a mutation would, with its commit."""
        function = fn.ai_function
        now = self.clock()
        key = new_id()
        most = function.retry.attempts
        at = now + datetime.timedelta(seconds=seconds)
        text = function.arguments.to_json(args)
        with self.store.transaction() as execute:
            jobs.insert(execute.later, NewJob(key, function.name, str(function.kind), text, user, now, at, most))
        self.scheduler.wake()
        return key

    def row(self, key: str) -> dict[str, Any]:
        columns = ["state", "attempts", "result", "error_code", "error_message", "user_id", "errors", "session_id"]
        sql = f"SELECT {', '.join(columns)} FROM scheduled_functions WHERE id = ?::UUID"
        return dict(zip(columns, self.store.read(sql, [key])[0], strict=True))

    def state(self, key: str) -> str:
        return str(self.row(key)["state"])

    def done(self, key: str, seconds: float = 10) -> dict[str, Any]:
        wait_for(lambda: self.state(key) not in ("pending", "in_progress"), f"job {key} to end", seconds)
        return self.row(key)

    def stop(self, grace: float = 0) -> None:
        self.loop.run(self.scheduler.stop(grace))

    def close(self) -> None:
        with contextlib.suppress(ConfigurationError):
            self.stop()
        self.loop.close()
        self.runner.close()


@pytest.fixture
def store() -> Iterator[Store]:
    opened = open_store(":memory:")
    yield opened
    opened.close()


@pytest.fixture
def lab(store: Store) -> Iterator[Lab]:
    made = Lab(store)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """What a test defines ends with it."""
    before = registry.names()
    yield
    for name in registry.names() - before:
        registry.discard(name)


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    ours = ("ipyconvexai-changes", "ipyconvexai-loop")
    wait_for(
        lambda: not [t for t in set(threading.enumerate()) - before if t.name.startswith(ours)],
        "the scheduler's threads to end",
        5,
    )


# ---------------------------------------------------------------------------------------------- running
def test_jobs_run_as_who_scheduled_them_and_their_results_are_kept(lab: Lab):
    @action
    async def who_acts(ctx, x: int) -> str:
        return f"{ctx.user_id} {x}"

    @action
    def who_acts_in_a_thread(ctx) -> str:
        return f"{ctx.user_id} {threading.current_thread().name != 'ipyconvexai-loop'}"

    @mutation
    def who_mutates(ctx) -> list[str]:
        return [str(ctx.user_id)]

    lab.scheduler.start()
    keys = [lab.schedule(who_acts, x=3), lab.schedule(who_acts_in_a_thread), lab.schedule(who_mutates, user="bob")]
    rows = [lab.done(key) for key in keys]
    assert [row["state"] for row in rows] == ["success"] * 3
    assert [row["result"] for row in rows] == ['"ann 3"', '"ann True"', '["bob"]']
    assert [row["attempts"] for row in rows] == [1, 1, 1]


def test_nothing_is_opened_before_a_function_is_defined(store: Store):
    lab = Lab(store, functions=Registry())
    try:
        lab.scheduler.start()
        lab.schedule(_tick)
        time.sleep(0.2)
        assert lab.events == []
        assert hub_of(store)._subscribers == (), "nobody listens for changes"
    finally:
        lab.close()


def test_a_job_waits_for_a_process_that_defines_its_function(lab: Lab):
    lab.scheduler.start()
    with lab.store.transaction() as execute:
        now, key = utc_now(), new_id()
        jobs.insert(execute.later, NewJob(key, "defined_later", "action", "{}", "ann", now, now))
    done = lab.schedule(_tick)
    lab.done(done)
    assert lab.state(key) == "pending"

    @action
    async def defined_later(ctx) -> int:
        return 7

    assert lab.done(key)["result"] == "7"


def test_jobs_begin_in_the_order_of_their_times_and_so_many_at_once(store: Store):
    lab = Lab(store, concurrency=2)
    running, most, order = 0, 0, []
    release = threading.Event()

    @action
    async def ordered(ctx, n: int) -> None:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        order.append(n)
        if n < 2:
            await asyncio.to_thread(release.wait)
        running -= 1

    keys = [lab.schedule(ordered, seconds=-10 + n, n=n) for n in (3, 0, 2, 1, 4)]
    lab.scheduler.start()
    try:
        wait_for(lambda: len(order) == 2, "the first two")
        time.sleep(0.1)
        assert sorted(order) == [0, 1], "the two that were due first; they are claimed together"
        release.set()
        for key in keys:
            lab.done(key)
    finally:
        release.set()
        lab.close()
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert order[-1] in (3, 4)
    assert most == 2


def test_a_delayed_job_begins_at_its_time_and_not_before(lab: Lab):
    begun: list[float] = []

    @mutation
    def delayed(ctx) -> None:
        begun.append(time.time())

    lab.scheduler.start()
    before = time.time()
    lab.done(lab.schedule(delayed, seconds=0.3))
    assert 0.3 <= begun[0] - before < 1.3


def test_another_process_schedules_and_this_one_hears_of_it(tmp_path: Path):
    store, other = KeeperStore(tmp_path / "l.duckdb"), KeeperStore(tmp_path / "l.duckdb")
    lab = Lab(store)
    lab.scheduler.start()
    lab.done(lab.schedule(_tick))
    key, now = new_id(), utc_now()
    begun = time.perf_counter()
    with other.transaction() as execute:
        jobs.insert(execute.later, NewJob(key, "_tick", "mutation", "{}", None, now, now))
    lab.done(key)
    assert time.perf_counter() - begun < 2
    lab.close()
    other.close()
    store.close()


@mutation
def _tick(ctx) -> None: ...


def test_a_job_scheduled_at_0_starts_soon(tmp_path: Path):
    store = KeeperStore(tmp_path / "l.duckdb")
    lab = Lab(store)
    started: dict[str, float] = {}

    @action
    async def at_once(ctx) -> None:
        started[str(ctx.job_id)] = time.perf_counter()

    lab.scheduler.start()
    lab.done(lab.schedule(at_once))
    waits = []
    for _ in range(15):
        begun = time.perf_counter()
        key = lab.schedule(at_once)
        lab.done(key)
        waits.append(1000 * (started[key] - begun))
    print(f"scheduled at 0, started after {statistics.median(waits):.1f} ms (median), {max(waits):.1f} (max)")
    assert statistics.median(waits) < 150  # 50 is the aim; the machine may be busy
    lab.close()
    store.close()


# ---------------------------------------------------------------------------------------------- failing
def test_a_failed_mutation_leaves_nothing_but_its_error(lab: Lab, caplog: pytest.LogCaptureFixture):
    @mutation
    def spends(ctx) -> None:
        ctx.scheduler.run_after(3600, _tick)
        raise ApplicationError({"left": 0}, code="no_credit")

    lab.scheduler.start()
    row = lab.done(lab.schedule(spends))
    assert (row["state"], row["attempts"], row["error_code"]) == ("failed", 1, "no_credit")
    assert lab.store.read("SELECT count(*) FROM scheduled_functions") == [(1,)]
    wait_for(lambda: "no_credit" in caplog.text, "the warning")
    assert [record.levelno for record in caplog.records if record.name == "ipyconvexai.scheduler"] == [logging.WARNING]


def test_an_action_is_tried_again_where_it_says_so_and_only_there(lab: Lab):
    tried = {"flaky": 0, "once": 0, "hopeless": 0, "wrong": 0}

    @action(retry=Retry(attempts=3, backoff=0.01))
    async def flaky(ctx) -> str:
        tried["flaky"] += 1
        if tried["flaky"] < 3:
            raise UnreachableError(f"no {tried['flaky']}")
        return "at last"

    @action
    async def once(ctx) -> None:
        tried["once"] += 1
        raise UnreachableError("no")

    @action(retry=Retry(attempts=2, backoff=0.01))
    async def hopeless(ctx) -> None:
        tried["hopeless"] += 1
        raise OSError("no")

    @action(retry=Retry(attempts=5, backoff=0.01))
    async def wrong(ctx, n: int) -> None:
        tried["wrong"] += 1
        raise ApplicationError("stop")

    lab.scheduler.start()
    rows = [lab.done(key) for key in (*map(lab.schedule, (flaky, once, hopeless)), lab.schedule(wrong, n=1))]
    assert [row["state"] for row in rows] == ["success", "failed", "failed", "failed"]
    assert [row["attempts"] for row in rows] == [3, 1, 2, 1]
    assert tried == {"flaky": 3, "once": 1, "hopeless": 2, "wrong": 1}
    assert "no 1" in rows[0]["errors"]
    assert "no 2" in rows[0]["errors"]


def test_arguments_that_fit_no_more_fail_the_job(lab: Lab):
    @action
    async def changed(ctx, x: int) -> None: ...

    key = lab.schedule(changed, seconds=0.2, x=1)

    @mutation(name="changed")
    def changed_now(ctx, x: int) -> None: ...

    @action(name="_other")
    async def other(ctx, y: str) -> None: ...

    with lab.store.transaction() as execute:
        now, second = utc_now(), new_id()
        jobs.insert(execute.later, NewJob(second, "_other", "action", '{"x": 1}', None, now, now))
    lab.scheduler.start()
    assert lab.done(key)["error_code"] == "unknown_function"
    assert lab.done(second)["error_code"] == "arguments"


def test_an_action_that_exits_harms_nobody(lab: Lab):
    @action
    async def exits(ctx) -> None:
        raise SystemExit(3)

    lab.scheduler.start()
    assert lab.done(lab.schedule(exits))["state"] == "failed"
    assert lab.done(lab.schedule(_tick))["state"] == "success"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
def test_a_mutation_that_exits_or_cancels_itself_fails_and_harms_nobody(lab: Lab, error: BaseException):
    @mutation
    def leaves(ctx) -> None:
        raise error

    lab.scheduler.start()
    keys = [lab.schedule(leaves), lab.schedule(_tick)]
    assert [lab.done(key)["state"] for key in keys] == ["failed", "success"]


def test_a_mutation_fails_also_where_the_runner_lets_an_exit_through(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    real = lab.runner.amutate

    async def exits(function: Any, *args: Any, **options: Any) -> Any:
        if function.name == "exits_bare":
            raise SystemExit(3)
        return await real(function, *args, **options)

    @mutation
    def exits_bare(ctx) -> None: ...

    monkeypatch.setattr(lab.runner, "amutate", exits)
    lab.scheduler.start()
    keys = [lab.schedule(exits_bare), lab.schedule(_tick)]
    assert [lab.done(key)["state"] for key in keys] == ["failed", "success"]


def test_an_action_whose_own_task_was_canceled_fails_and_was_not_interrupted(lab: Lab):
    tried: list[str] = []

    @action(retry=Retry(attempts=3, backoff=0.01))
    async def cancels_itself(ctx) -> None:
        tried.append("begun")
        inner = asyncio.ensure_future(asyncio.sleep(60))
        inner.cancel()
        await inner

    @action
    async def cancels_its_task(ctx) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    lab.scheduler.start()
    rows = [lab.done(lab.schedule(fn)) for fn in (cancels_itself, cancels_its_task)]
    assert [(row["state"], row["error_code"]) for row in rows] == [("failed", "canceled")] * 2
    assert tried == ["begun"]


def test_a_job_scheduled_for_nobody_runs_for_nobody(lab: Lab):
    @mutation
    def whose_mutation(ctx) -> bool:
        return ctx.user_id is None

    @action
    async def whose_action(ctx) -> bool:
        return ctx.user_id is None

    lab.scheduler.start()  # its app's user is "owner"
    keys = [lab.schedule(fn, user=user) for fn in (whose_mutation, whose_action) for user in (None, "")]
    assert [lab.done(key)["result"] for key in keys] == ["true"] * 4


# ---------------------------------------------------------------------------------------------- limits
def test_what_its_own_limit_refuses_waits_for_it_and_uses_up_no_attempt(lab: Lab):
    ran: list[float] = []

    @action(limit=rate_limit("scheduler_own", rate=1, per=0.4))
    async def limited_one(ctx) -> None:
        ran.append(time.monotonic())

    lab.scheduler.start()
    rows = [lab.done(key) for key in [lab.schedule(limited_one) for _ in range(3)]]
    assert [(row["state"], row["attempts"], row["errors"]) for row in rows] == [("success", 1, None)] * 3
    assert min(later - sooner for sooner, later in itertools.pairwise(ran)) > 0.3


def test_the_refusal_of_an_action_that_it_calls_fails_it_for_it_had_begun(lab: Lab):
    ran: list[int] = []

    @action(limit=rate_limit("scheduler_inner", rate=1, per=0.3))
    async def inner_limited(ctx) -> None: ...

    @action
    async def calls_twice(ctx) -> None:
        ran.append(1)
        await ctx.run_action(inner_limited)
        await ctx.run_action(inner_limited)

    lab.scheduler.start()
    row = lab.done(lab.schedule(calls_twice))
    assert (row["state"], row["attempts"], len(ran)) == ("failed", 1, 1)


def test_limits_that_are_idle_are_swept(store: Store):
    now = utc_now()
    clock = [now]
    lab = Lab(store, clock=lambda: clock[0])
    day, week = rate_limit("swept", 1, 60), rate_limit("kept", 1, datetime.timedelta(days=7))
    owed = rate_limit("owed", 1, "day", kind="token_bucket")

    @mutation
    def takes(ctx) -> None:
        day.take(ctx, key="a")
        week.take(ctx, key="a")
        for _ in range(19):
            owed.reserve(ctx, key="a")

    lab.runner.mutate(takes.ai_function, {})  # type: ignore[attr-defined]
    clock[0] = now + datetime.timedelta(days=10)
    lab.scheduler.start()
    names = "SELECT name FROM rate_limits ORDER BY name"
    wait_for(lambda: store.read(names) == [("kept",), ("owed",)], "the idle one to go")
    lab.close()


class Failing:
    """A store that fails so many times: before a transaction begins, or after it was committed (`lost`)."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.before: list[Exception] = []
        self.after: list[Exception] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextlib.contextmanager
    def transaction(self, *args: Any) -> Iterator[Any]:
        if self.before:
            raise self.before.pop()
        with self._store.transaction(*args) as execute:
            yield execute
        if self.after:
            raise self.after.pop()


def lost() -> TransactionError:
    return TransactionError("the keeper ended during the commit: it may or may not have been kept")


def test_errors_of_the_ledger_do_not_end_the_loop(store: Store):
    failing = Failing(store)
    lab = Lab(failing)
    key = lab.schedule(_tick)
    failing.before = [DiskFullError("no room"), LedgerLockedError("held by another")]
    lab.scheduler.start()
    assert lab.done(key)["state"] == "success"
    assert failing.before == []
    lab.close()


def test_a_claim_that_nobody_heard_of_is_given_back_and_runs(store: Store):
    failing = Failing(store)
    lab = Lab(failing)
    ran: list[str] = []

    @action
    async def claimed_once(ctx) -> None:
        ran.append(str(ctx.job_id))

    key = lab.schedule(claimed_once)
    failing.after = [lost()]
    lab.scheduler.start()
    assert lab.done(key)["state"] == "success"
    assert ran == [key]
    lab.close()


def test_a_mutation_whose_commit_was_lost_runs_once(store: Store):
    failing = Failing(store)
    lab = Lab(failing)
    ran = 0

    @mutation
    def counts(ctx) -> None:
        nonlocal ran
        ran += 1
        ctx.scheduler.run_after(3600, _tick)
        if ran == 1:
            failing.after = [lost()]

    key = lab.schedule(counts)
    lab.scheduler.start()
    assert lab.done(key)["state"] == "success"
    wait_for(lambda: not failing.after, "the loss")
    lab.done(lab.schedule(_tick))
    assert ran == 1
    assert lab.row(key)["attempts"] == 1
    assert store.read("SELECT count(*) FROM scheduled_functions WHERE name = '_tick'") == [(2,)]
    lab.close()


def test_an_outcome_that_cannot_be_written_is_kept_and_the_action_never_runs_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scheduler, "WRITE_AGAIN", 0.5)
    failing = Failing(store)
    lab = Lab(failing)
    ran: list[str] = []

    @action(retry=Retry(attempts=3, backoff=0.01))
    async def paid_once(ctx) -> int:
        ran.append(str(ctx.job_id))
        failing.before = [StoreError("cannot be written")] * 2
        return 7

    lab.scheduler.start()
    key = lab.schedule(paid_once)
    wait_for(lambda: lab.scheduler._unwritten, "the scheduler to give up for a while")
    failing.after = [lost()]  # of the next claim: from then on it is in doubt what it holds
    fill(store, ("_tick", "mutation", "{}"))
    lab.scheduler.wake()
    wait_for(lambda: store.read("SELECT 1 FROM scheduled_functions WHERE name = '_tick' AND state = 'success'"), "it")
    row = lab.done(key)
    assert (row["state"], row["result"], row["attempts"], ran) == ("success", "7", 1, [key])
    lab.close()


# ---------------------------------------------------------------------------------------------- canceling
def test_cancel_before_during_and_what_it_then_schedules(lab: Lab):
    going, go = threading.Event(), threading.Event()
    children: list[str] = []

    @action
    async def long_one(ctx) -> str:
        children.append(await ctx.scheduler.run_after(3600, _tick))
        going.set()
        await asyncio.to_thread(go.wait)
        children.append(await ctx.scheduler.run_after(0, _tick))
        return "ended"

    never = lab.schedule(long_one, seconds=3600)
    key = lab.schedule(long_one)
    lab.scheduler.start()
    assert going.wait(10)
    with lab.store.transaction() as execute:
        jobs.cancel(execute.later, key, utc_now())
        jobs.cancel(execute.later, never, utc_now())
    go.set()
    wait_for(lambda: lab.row(key)["result"] is not None, "it to end")
    assert lab.state(key) == "canceled"
    assert lab.row(key)["result"] == '"ended"'
    assert lab.state(never) == "canceled"
    assert [lab.state(child) for child in children] == ["pending", "canceled"]


# ---------------------------------------------------------------------------------------------- crons
def test_a_run_of_35_s_at_10_s(store: Store):
    now = datetime.datetime(2026, 5, 1, 12)
    start, clock = now, [now]
    lab = Lab(store, clock=lambda: clock[0])
    runs: list[datetime.datetime] = []

    @action
    async def slow_tick(ctx) -> None:
        runs.append(clock[0])
        if len(runs) == 1:
            clock[0] = start + datetime.timedelta(seconds=35)  # the run takes so long

    lab.crons.add(Cron("slow", slow_tick.ai_function, Interval(10), "{}"))  # type: ignore[attr-defined]
    lab.scheduler.start()
    state = "SELECT runs, skipped, next_time FROM crons"
    wait_for(lambda: store.read(state) == [(1, 3, start + datetime.timedelta(seconds=40))], "the first run's end")
    clock[0] = start + datetime.timedelta(seconds=39.9)
    lab.scheduler.wake()
    lab.done(lab.schedule(_tick))
    assert len(runs) == 1
    clock[0] = start + datetime.timedelta(seconds=40)
    lab.scheduler.wake()
    wait_for(lambda: len(runs) == 2, "the second run")
    lab.close()


@pytest.mark.parametrize("running", [True, False], ids=["while it waits", "while it was not there"])
def test_when_the_clock_is_set_back_crons_go_on_by_the_new_time(
    store: Store, running: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scheduler, "LONGEST_WAIT", 0.05)
    clock = [datetime.datetime(2026, 5, 1, 12)]
    runs: list[datetime.datetime] = []

    @mutation
    def often_tick(ctx) -> None:
        runs.append(clock[0])

    def begin() -> Lab:
        made = Lab(store, clock=lambda: clock[0])
        made.crons.add(Cron("often", often_tick.ai_function, Interval(10), "{}"))  # type: ignore[attr-defined]
        made.scheduler.start()
        return made

    lab = begin()
    wait_for(lambda: store.read("SELECT 1 FROM scheduled_functions WHERE state = 'success'"), "the first run's end")
    if running:
        time.sleep(0.3)  # until it has heard of that end: nothing but the clock shall make it look again
    else:
        lab.close()
    clock[0] -= datetime.timedelta(hours=3)
    if not running:
        lab = begin()
    wait_for(lambda: store.read("SELECT 1 FROM crons WHERE next_time < ?", [runs[0]]), "it to be brought back")
    clock[0] += datetime.timedelta(seconds=10)
    wait_for(lambda: len(runs) == 2, "the second run")
    lab.close()
    assert runs[1] - runs[0] == datetime.timedelta(seconds=10, hours=-3)


def test_a_cron_of_a_mutation_goes_on_though_it_fails(store: Store):
    lab = Lab(store)
    runs = 0

    @mutation
    def failing_tick(ctx) -> None:
        nonlocal runs
        runs += 1
        raise ValueError("each time")

    lab.crons.add(Cron("failing", failing_tick.ai_function, Interval(0.05), "{}"))  # type: ignore[attr-defined]
    lab.scheduler.start()
    wait_for(lambda: runs >= 3, "three runs")
    lab.close()
    states = {state for (state,) in store.read("SELECT state FROM scheduled_functions WHERE cron = 'failing'")}
    assert "failed" in states


def test_a_function_defined_again_without_its_cron_stops_it_and_with_it_does_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scheduler, "REDEFINED", 0.3)
    lab = Lab(store)

    def cell(with_cron: bool) -> None:
        @mutation
        def redefined_tick(ctx) -> None: ...

        if with_cron:
            time.sleep(0.1)  # a round may come between the two decorators
            lab.crons.add(Cron("redefined", redefined_tick.ai_function, Interval(3600), "{}"))  # type: ignore[attr-defined]
            lab.scheduler.wake()

    sql = "SELECT next_time FROM crons WHERE next_time IS NOT NULL"
    cell(True)
    lab.scheduler.start()
    wait_for(lambda: store.read("SELECT 1 FROM scheduled_functions WHERE state = 'success'"), "its first run")
    ((following,),) = store.read(sql)
    cell(True)
    time.sleep(0.6)
    assert store.read(sql) == [(following,)]
    cell(False)
    wait_for(lambda: store.read(sql) == [], "the cron to be stopped")
    cell(True)
    wait_for(lambda: store.read(sql), "the cron to go on")
    lab.close()


def test_a_cron_that_only_others_declare_goes_on_where_its_function_is_defined_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scheduler, "REDEFINED", 0.05)
    lab = Lab(store)

    def define() -> Any:
        @mutation
        def theirs_tick(ctx) -> None: ...

        return theirs_tick.ai_function  # type: ignore[attr-defined]

    with store.transaction() as execute:
        write_cron(execute, Cron("theirs", define(), Interval(3600), "{}"), None, utc_now())
    lab.scheduler.start()
    define()
    time.sleep(0.3)
    lab.done(lab.schedule(_tick))
    assert store.read("SELECT next_time IS NOT NULL FROM crons") == [(True,)]
    lab.close()


# ---------------------------------------------------------------------------------------------- stopping
class Slow(Failing):
    """A store whose next transaction, where one is told to, waits."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.wait = False
        self.waiting, self.go = threading.Event(), threading.Event()

    @contextlib.contextmanager
    def transaction(self, *args: Any) -> Iterator[Any]:
        if self.wait:
            self.wait = False
            self.waiting.set()
            self.go.wait(10)
        with super().transaction(*args) as execute:
            yield execute


@pytest.mark.parametrize("closes_the_loop", [False, True])
def test_a_cancel_while_its_success_is_written_changes_nothing(store: Store, closes_the_loop: bool):
    slow = Slow(store)
    lab = Lab(slow)

    @action(retry=Retry(attempts=3))
    async def paid_well(ctx) -> int:
        slow.wait = True
        return 7

    lab.scheduler.start()
    key = lab.schedule(paid_well)
    assert slow.waiting.wait(10)
    threading.Timer(0.3, slow.go.set).start()
    if closes_the_loop:
        lab.loop.close()
        lab.scheduler._unsubscribe()  # type: ignore[misc] # nobody stopped it
    else:
        lab.stop()
    row = lab.row(key)
    assert (row["state"], row["result"], row["attempts"]) == ("success", "7", 1)
    lab.close()


def test_stop_waits_for_what_runs_and_hands_back_the_rest(lab: Lab):
    going, go = threading.Event(), threading.Event()

    @mutation
    def blocks(ctx) -> None:
        going.set()
        go.wait(10)

    keys = [lab.schedule(blocks, seconds=-5)]
    keys += [lab.schedule(_tick, seconds=-1) for _ in range(5)]
    lab.scheduler.start()
    assert going.wait(10)
    stopped = lab.loop.submit(lab.scheduler.stop(10))
    wait_for(lambda: not lab.scheduler.is_running, "it to claim no more")
    go.set()
    stopped.result(10)
    assert [lab.state(key) for key in keys] == ["success"] + ["pending"] * 5
    assert not any(lab.row(key)["session_id"] for key in keys[1:])  # anybody may take them
    lab.stop()
    lab.scheduler.start()  # and it can begin again
    for key in keys:
        lab.done(key)


@pytest.mark.parametrize(("attempts", "state"), [(1, "failed"), (2, "pending")])
def test_an_action_that_does_not_end_in_time_is_interrupted(lab: Lab, attempts: int, state: str):
    going = threading.Event()

    @action(retry=Retry(attempts=attempts))
    async def endless(ctx) -> None:
        going.set()
        await asyncio.Event().wait()

    key = lab.schedule(endless)
    lab.scheduler.start()
    assert going.wait(10)
    lab.stop(grace=0.05)
    row = lab.row(key)
    assert (row["state"], row["error_code"], row["attempts"]) == (state, "interrupted", 1)


def test_closing_the_loop_alone_does_not_lose_what_ran(lab: Lab):
    going = threading.Event()

    @action
    async def endless_too(ctx) -> None:
        going.set()
        await asyncio.Event().wait()

    key = lab.schedule(endless_too)
    lab.scheduler.start()
    assert going.wait(10)
    lab.loop.close()
    assert lab.row(key)["error_code"] == "interrupted"
    lab.scheduler._unsubscribe()  # type: ignore[misc] # nobody stopped it


# ---------------------------------------------------------------------------------------------- several processes
WORKER = """
import logging
from ipyconvexai.functions.registry import action, mutation
from tests.functions.test_scheduler import Lab
store = open_store(sys.argv[1])
lab = Lab(store)

@mutation
def count_one(ctx, n: int) -> None:
    ctx._execute("INSERT INTO conversations (id, created_at, title) VALUES (?, ?, ?)", [new_id(), utc_now(), f"m{n}"])

@action
async def count_two(ctx, n: int) -> None:
    store.append("conversations", COLUMNS, [row(f"a{n}")], lambda error: None)

@action
async def never_ends(ctx) -> None:
    import asyncio
    add(store, "going")
    await asyncio.Event().wait()

lab.scheduler.start()
print("ready", flush=True)
sys.stdin.read()
lab.close()
store.close()
"""


def fill(store: Store, *jobs_: tuple[str, str, str], ahead: float = 0) -> None:
    with store.transaction() as execute:
        now = utc_now()
        for name, kind, args in jobs_:
            at = now + datetime.timedelta(seconds=ahead)
            jobs.insert(execute.later, NewJob(new_id(), name, kind, args, "ann", now, at))


def test_two_processes_and_200_jobs_each_runs_once(tmp_path: Path):
    path = str(tmp_path / "l.duckdb")
    store = KeeperStore(path)
    workers = [child(WORKER, path) for _ in range(2)]
    assert [line_of(worker) for worker in workers] == ["ready"] * 2
    for start in range(0, 100, 25):
        numbers = range(start, start + 25)
        fill(store, *[("count_one", "mutation", f'{{"n":{n}}}') for n in numbers])
        fill(store, *[("count_two", "action", f'{{"n":{n}}}') for n in numbers])
    try:
        sql = "SELECT count(*) FROM scheduled_functions WHERE state = 'success'"
        wait_for(lambda: store.read(sql) == [(200,)], "200 jobs", 30)
    finally:
        for worker in workers:
            worker.communicate("", timeout=20)
        kill(workers)
    titles = sorted(title for (title,) in store.read("SELECT title FROM conversations"))
    assert titles == sorted([f"m{n}" for n in range(100)] + [f"a{n}" for n in range(100)])
    sessions = store.read("SELECT count(DISTINCT session_id), max(attempts) FROM scheduled_functions")
    assert sessions == [(2, 1)]
    store.close()


def test_a_killed_process_leaves_an_interrupted_action_and_the_rest_to_the_next(tmp_path: Path):
    path = str(tmp_path / "l.duckdb")
    store = KeeperStore(path)
    first = child(WORKER, path)
    assert line_of(first) == "ready"
    fill(store, ("never_ends", "action", "{}"))
    wait_for(lambda: store.read("SELECT 1 FROM conversations WHERE title = 'going'"), "the action to go")
    fill(store, *[("count_one", "mutation", f'{{"n":{n}}}') for n in range(60)])
    wait_for(lambda: store.read("SELECT 1 FROM conversations WHERE title = 'm5'"), "some mutations")
    kill([first])
    store.close()  # nobody is left: the keeper may go, too
    store = KeeperStore(path)
    second = child(WORKER, path)
    assert line_of(second) == "ready"
    try:
        sql = "SELECT count(*) FROM scheduled_functions WHERE finished_at IS NULL"
        wait_for(lambda: store.read(sql) == [(0,)], "all to end", 30)
    finally:
        second.communicate("", timeout=20)
        kill([second])
    by_name = store.read("SELECT name, state, error_code, count(*) FROM scheduled_functions GROUP BY ALL ORDER BY 1")
    assert by_name == [("count_one", "success", None, 60), ("never_ends", "failed", "interrupted", 1)]
    titles = store.read("SELECT title, count(*) FROM conversations GROUP BY 1 HAVING count(*) > 1")
    assert titles == []
    assert store.read("SELECT count(*) FROM conversations") == [(61,)]
    store.close()


def test_many_threads_may_wake_start_and_stop(lab: Lab):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(lab.scheduler.start)
            pool.submit(lab.scheduler.wake)
        keys = list(pool.map(lambda _: lab.schedule(_tick), range(16)))
    for key in keys:
        lab.done(key)
    assert [event.what for event in lab.events if event.what == "started"] == ["started"] * 16
