"""Limits of functions: judged and recorded in one transaction, in threads and in processes, and given back."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import enum
import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ipyconvexai as ai
from ipyconvexai import guard
from ipyconvexai.errors import ConfigurationError, DeadlockError, InputError, LimitError, NotAllowedError
from ipyconvexai.functions import rate_limits
from ipyconvexai.functions.rate_limits import RateLimit, Taken, rate_limit
from ipyconvexai.settings import remember_secret
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.link import Execute, KeeperStore, Store, open_store
from tests.store.conftest import ledger, open_ledger, store, temporary  # noqa: F401 # fixtures
from tests.store.helpers import child, kill_keeper, line_of

BEGIN = datetime.datetime(2026, 11, 22, 12)


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> datetime.datetime:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += datetime.timedelta(seconds=seconds)


@dataclass
class Context:
    """What a limit looks at of a context: a mutation's has `_execute` with ``later``, a query's one without."""

    _execute: Any
    clock: Callable[[], datetime.datetime] = utc_now

    @property
    def _runner(self) -> Any:
        return self

    @property
    def db(self) -> Any:
        return SimpleNamespace(tables_read=set())


@dataclass
class Runner:
    store: Store
    clock: Callable[[], datetime.datetime]


@dataclass
class ActionContext:
    _runner: Runner


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    opened = open_store(":memory:")
    monkeypatch.setattr(rate_limits, "_transactions", opened.transaction)
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outside(memory: Store, clock: Clock) -> ActionContext:
    """A context without a transaction, whose clock is the test's."""
    return ActionContext(Runner(memory, clock))


def rows(of: Store) -> list[tuple[Any, ...]]:
    return of.read("SELECT name, key, rule, state FROM rate_limits ORDER BY ALL")


# ---------------------------------------------------------------------------------------------------- at once
def test_of_25_threads_exactly_10_pass(memory: Store):
    limit = rate_limit("chat", rate=10, per=60)

    def in_a_mutation(number: int) -> Taken:
        with memory.transaction() as execute:
            return limit.take(Context(execute), "ada")

    with ThreadPoolExecutor(25) as pool:
        taken = list(pool.map(in_a_mutation, range(25)))
    assert sum(map(bool, taken)) == 10
    assert all(one.retry_after is not None and 0 < one.retry_after <= 60 for one in taken if not one)


def test_of_25_threads_outside_of_mutations_exactly_10_pass(memory: Store):
    limit = rate_limit("chat", rate=10, per=60)
    with ThreadPoolExecutor(25) as pool:
        assert sum(pool.map(lambda _: bool(limit.take()), range(25))) == 10


WORKER = """
from concurrent.futures import ThreadPoolExecutor
from ipyconvexai.functions import rate_limits
store = open_store(sys.argv[1])
rate_limits.wire(store.transaction)
store.read('SELECT 1')
"""

SHARE = (
    WORKER
    + """
limit = rate_limits.rate_limit('chat', rate=10, per=60)
class Context:
    clock = staticmethod(utc_now)
    tables_read = set()
def take(_):
    with store.transaction() as execute:
        context = Context()
        context._execute, context._runner, context.db = execute, context, context
        return bool(limit.take(context, 'ada'))
with ThreadPoolExecutor(int(sys.argv[2])) as pool:
    print('ready', flush=True)
    sys.stdin.readline()
    print(sum(pool.map(take, range(int(sys.argv[2])))), flush=True)
store.close()
"""
)


def test_of_25_takes_in_4_processes_exactly_10_pass(ledger: str, store: KeeperStore):  # noqa: F811
    workers = [child(SHARE, ledger, takes) for takes in (7, 6, 6, 6)]
    assert [line_of(worker) for worker in workers] == ["ready"] * 4
    assert sum(finish(workers)) == 10
    assert rate_limits.rate_limit("chat", rate=10, per=60).name == rows(store)[0][0]


BUSY = (
    WORKER
    + """
import json
limit = rate_limits.rate_limit('busy', rate=20, per=0.5)
end, passed = time.monotonic() + 2, []
def work(_):
    while time.monotonic() < end:
        taken = limit.take()
        passed.append(taken.at) if taken else time.sleep(min(taken.retry_after, 0.05))
print('ready', flush=True)
sys.stdin.readline()
end = time.monotonic() + 2
with ThreadPoolExecutor(4) as pool: list(pool.map(work, range(4)))
print(json.dumps(passed), flush=True)
store.close()
"""
)


def test_no_window_holds_more_while_4_processes_are_busy(ledger: str, store: KeeperStore):  # noqa: F811
    workers = [child(BUSY, ledger) for _ in range(4)]
    assert [line_of(worker) for worker in workers] == ["ready"] * 4
    instants = sorted(instant for worker in finish(workers) for instant in worker)
    assert all(Fraction(late) - Fraction(early) >= Fraction(0.5) for early, late in zip(instants, instants[20:]))  # noqa: B905
    assert len(instants) >= 0.9 * 20 / 0.5 * (instants[-1] - instants[0])


def finish(workers: list[Any]) -> list[Any]:
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    said = [json.loads(line_of(worker)) for worker in workers]
    for worker in workers:
        worker.communicate(timeout=60)
        assert worker.returncode == 0
    return said


# ---------------------------------------------------------------------------------------------------- real functions
shared = rate_limit("shared", rate=10, per=60)


@ai.mutation
def take_one(ctx: Any, key: str = "ada") -> bool:
    return bool(shared.take(ctx, key))


@ai.mutation
def take_and_fail(ctx: Any) -> None:
    shared.take(ctx, "ada", throw=True)
    raise ai.ApplicationError("after all not")


@ai.query
def what_is_left(ctx: Any, key: str = "ada") -> float:
    assert bool(shared.check(ctx, key)) == (shared.value(ctx, key) >= 1)
    return shared.value(ctx, key)


@ai.query
def take_in_a_query(ctx: Any) -> bool:
    return bool(shared.take(ctx))


@ai.mutation
def take_in_a_query_of_a_mutation(ctx: Any) -> Any:
    return ctx.run_query(take_in_a_query)


@ai.mutation
def forget_the_ctx(ctx: Any) -> bool:
    return bool(shared.take(key="ada"))


@ai.action
async def take_in_an_action(ctx: Any) -> bool:
    return bool(await shared.atake(ctx, "ada"))


@ai.action
def take_in_a_plain_action(ctx: Any) -> bool:
    return bool(shared.take(ctx, "ada"))


@ai.action
async def block_in_an_action(ctx: Any) -> bool:
    return bool(shared.take(ctx, "ada"))


@ai.action(limit=rate_limit("limited", rate=2, per=60))
async def limited(ctx: Any) -> str:
    return "sent"


@pytest.fixture
def app() -> Iterator[ai.App]:
    with ai.connect(":memory:", user="ada") as opened:
        yield opened


def test_of_25_mutations_at_once_exactly_10_pass(app: ai.App):
    with ThreadPoolExecutor(25) as pool:
        assert sum(pool.map(lambda _: ai.run(take_one), range(25))) == 10
    assert ai.run(what_is_left) == 0
    assert ai.run(what_is_left, key="bob") == 10


def test_a_mutation_that_fails_takes_nothing(app: ai.App):
    with pytest.raises(ai.ApplicationError):
        ai.run(take_and_fail)
    assert ai.run(what_is_left) == 10


def test_in_actions_it_is_a_transaction_of_its_own(app: ai.App):
    assert ai.run(take_in_an_action)
    assert ai.run(take_in_a_plain_action)
    assert ai.run(take_one)
    assert shared.take(key="ada")  # in a cell
    assert ai.run(what_is_left) == 6
    with pytest.raises(DeadlockError):
        ai.run(block_in_an_action)


@pytest.mark.parametrize("function", [take_in_a_query, take_in_a_query_of_a_mutation, forget_the_ctx])
def test_what_is_not_allowed_takes_nothing(app: ai.App, function: Any):
    with pytest.raises(NotAllowedError):
        ai.run(function)
    assert app.store.read("SELECT * FROM rate_limits") == []


def test_an_action_with_a_limit(app: ai.App):
    assert [ai.run(limited), ai.run(limited)] == ["sent"] * 2
    with pytest.raises(LimitError, match='the limit "limited" of 2 per 60 s') as caught:
        ai.run(limited)
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 60


# ---------------------------------------------------------------------------------------------------- transactions
def test_a_take_is_given_back_when_the_mutation_rolls_back(memory: Store):
    limit = rate_limit("chat", rate=2, per=60)

    def mutation() -> None:
        with memory.transaction() as execute:
            assert limit.take(Context(execute), "ada")
            _ = 1 / 0

    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            mutation()
    assert limit.value(key="ada") == 2
    assert rows(memory) == []


def test_a_limit_sees_its_own_takes_in_one_mutation(memory: Store):
    limit = rate_limit("chat", rate=3, per=60)
    with memory.transaction() as execute:
        ctx = Context(execute)
        assert [bool(limit.take(ctx)) for _ in range(5)] == [True] * 3 + [False] * 2
        assert limit.value(ctx) == 0
        limit.refund(ctx)
        assert limit.value(ctx) == 1
        limit.reset(ctx)
        assert limit.value(ctx) == 3
        assert limit.take(ctx, count=2)
        assert limit.check(ctx)
        assert not limit.check(ctx, count=2)
    assert limit.value() == 1


def test_a_query_may_look_and_not_take(memory: Store):
    limit = rate_limit("chat", rate=3, per=60)
    assert limit.take()
    with memory.snapshot() as execute:
        ctx = Context(execute)
        assert limit.value(ctx) == 2
        assert limit.check(ctx, count=2)
        assert not limit.check(ctx, count=3)
        for forbidden in (limit.take, limit.reserve, limit.refund, limit.reset):
            with pytest.raises(NotAllowedError, match="is not allowed in a query") as caught:
                forbidden(ctx)
            assert "@ai.mutation" in caught.value.cure
    assert limit.value() == 2


def test_a_forgotten_ctx_is_named_and_waits_for_nothing(memory: Store):
    limit = rate_limit("chat", rate=3, per=60)
    with memory.transaction() as execute, guard.inside("mutation", "send_message"):
        with pytest.raises(NotAllowedError, match="in a mutation without its ctx"):
            limit.take(key="ada")
        assert limit.take(Context(execute), key="ada")


def test_a_rejected_take_writes_nothing(memory: Store, outside: ActionContext, clock: Clock):
    limit = rate_limit("chat", rate=1, per=60)
    assert limit.take(outside)
    before = memory.read("SELECT * FROM rate_limits")
    clock.go(1)
    assert not limit.take(outside)
    assert memory.read("SELECT * FROM rate_limits") == before


def test_the_clock_is_read_after_the_state(memory: Store):
    """A mutation that waited for its turn is recorded when it passed, and not when it began to wait."""
    limit = rate_limit("chat", rate=1, per=60)
    order: list[str] = []
    with memory.transaction() as execute:

        def look(sql: str, params: Any = None) -> Any:
            order.append("state")
            return execute(sql, params)

        def clock() -> datetime.datetime:
            order.append("clock")
            return BEGIN

        look.later = execute.later  # type: ignore[attr-defined]
        limit.take(Context(look, clock))
    assert order == ["state", "clock"]


def test_a_keeper_that_dies_costs_no_take(ledger: str, store: KeeperStore, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    limit, begun = rate_limit("chat", rate=3, per=60), []

    @contextlib.contextmanager
    def transaction() -> Iterator[Execute]:
        with store.transaction() as execute:
            begun.append(execute("SELECT 1"))
            if len(begun) == 1:
                kill_keeper(ledger)
            yield execute

    monkeypatch.setattr(rate_limits, "_transactions", transaction)
    assert limit.take()
    assert limit.value() == 2
    assert len(begun) == 3


def test_an_action_takes_from_its_own_ledger(memory: Store, clock: Clock):
    """And not from the current one."""
    limit = rate_limit("chat", rate=1, per=60)
    assert limit.take()
    other = open_store(":memory:")
    assert limit.take(ActionContext(Runner(other, clock)))
    other.close()


def test_without_a_ledger_it_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rate_limits, "_transactions", None)
    with pytest.raises(ConfigurationError, match="no ledger is open"):
        rate_limit("chat", rate=1, per=60).take()


# ---------------------------------------------------------------------------------------------------- what is said
def test_the_wait_is_exact(memory: Store, outside: ActionContext, clock: Clock):
    limit = rate_limit("chat", rate=2, per="minute")
    limit.take(outside)
    clock.go(10)
    limit.take(outside)
    clock.go(10)
    refused = limit.take(outside)
    assert refused == Taken(False, 40.0)
    clock.go(39.999999)
    assert not limit.take(outside)
    clock.go(0.000001)
    assert limit.take(outside)


def test_an_error_where_it_is_asked_for(memory: Store, outside: ActionContext):
    limit = rate_limit("chat", rate=1, per=60)
    assert limit.take(outside, ("ada", 7), throw=True)
    for call in (limit.take, limit.check):
        with pytest.raises(LimitError) as caught:
            call(outside, ("ada", 7), throw=True)
        error = caught.value
        assert error.message == 'the limit "chat" of 1 per 60 s (sliding window) is reached for ["ada", 7]'
        assert (error.retryable, error.retry_after, error.code) == (True, 60.0, "limit")
        assert error.cure == "Try again in 60 s."


def test_reservations_say_when_to_run(memory: Store, outside: ActionContext):
    limit = rate_limit("chat", rate=1, per=60, max_reserved=2)
    waits = [limit.reserve(outside) for _ in range(4)]
    assert [(one.ok, one.retry_after) for one in waits] == [(True, None), (True, 60), (True, 120), (False, 60)]
    assert limit.value(outside) == -2
    with pytest.raises(LimitError):
        limit.reserve(outside, throw=True)


def test_a_refund_names_the_take(memory: Store, outside: ActionContext, clock: Clock):
    limit = rate_limit("chat", rate=2, per=60)
    limit.take(outside)
    clock.go(30)
    second = limit.take(outside)
    limit.refund(outside, at=second.at)
    assert limit.value(outside) == 1
    clock.go(30)
    assert limit.value(outside) == 2


def test_keys_have_limits_of_their_own(memory: Store):
    limit, other = rate_limit("chat", rate=1, per=60), rate_limit("draw", rate=1, per=60)
    keys = ["", "ada", "1", 1, 1.5, True, (1, "a"), ("1", "a"), {"b": 1, "a": 2}, uuid.UUID(int=1), "é'\"\n\0", "null"]
    for one in (limit, other):
        assert [bool(one.take(key=key)) for key in keys] == [True] * len(keys)
        assert [bool(one.take(key=key)) for key in keys] == [False] * len(keys)
    limit.reset(key="ada")
    assert limit.take(key="ada")
    assert not limit.take(key="1")


class Colour(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("key", "same"),
    [
        (None, ""),
        ((1, 2), [1, 2]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (Colour.RED, "red"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (np.int64(5), 5),
        (datetime.date(2026, 1, 2), "2026-01-02"),
    ],
)
def test_keys_that_are_the_same(memory: Store, key: Any, same: Any):
    limit = rate_limit("chat", rate=1, per=60)
    assert limit.take(key=key)
    assert not limit.take(key=same)


@pytest.mark.parametrize("key", [object(), float("nan"), b"bytes", {1, 2}, "\ud800", {(1, 2): 3}])
def test_a_key_that_is_not_plain(memory: Store, key: Any):
    with pytest.raises(InputError, match="a limit's key is a plain value") as caught:
        rate_limit("chat", rate=1, per=60).take(key=key)
    assert caught.value.cure


def test_a_secret_as_a_key_is_not_written_down(memory: Store):
    limit = rate_limit("chat", rate=1, per=60)
    secrets = ["sk-rate-limits-first-0123456789", "sk-rate-limits-second-0123456789"]
    for secret in secrets:
        remember_secret(secret)
        assert limit.take(key=secret)
        assert not limit.take(key=secret)
        with pytest.raises(LimitError) as caught:
            limit.take(key=secret, throw=True)
        assert secret not in str(caught.value)
    assert not any(secret in str(rows(memory)) for secret in secrets)


# ---------------------------------------------------------------------------------------------------- actions
def test_actions_await_the_twins(memory: Store, outside: ActionContext):
    limit = rate_limit("chat", rate=3, per=60, max_reserved=1)

    async def action() -> None:
        first = await limit.atake(outside, "ada", 2)
        assert first
        assert not await limit.acheck(outside, "ada", 2)
        assert await limit.areserve(outside, "ada", 2)
        assert await limit.avalue(outside, "ada") == -1
        await limit.arefund(outside, "ada", 2, at=first.at)
        assert await limit.avalue(outside, "ada") == 1
        await limit.areset(outside, "ada")
        assert await limit.avalue(outside, "ada") == 3
        for call in (limit.atake, limit.acheck, limit.areserve):
            with pytest.raises(InputError):
                await call(outside, "ada", 5)

    asyncio.run(action())


def test_many_awaited_takes_at_once(memory: Store):
    limit = rate_limit("chat", rate=10, per=60)

    async def action() -> int:
        return sum(map(bool, await asyncio.gather(*(limit.atake(key="ada") for _ in range(25)))))

    assert asyncio.run(action()) == 10


def test_a_blocking_take_in_an_async_action_names_the_twin(memory: Store, outside: ActionContext):
    limit = rate_limit("chat", rate=1, per=60)

    async def action() -> None:
        limit.take(outside)

    with pytest.raises(DeadlockError, match="would block the loop") as caught:
        asyncio.run(action())
    assert "atake" in caught.value.cure
    assert limit.take(outside)  # a plain def action has no loop


# ---------------------------------------------------------------------------------------------------- definitions
def test_a_limit_defined_anew_goes_on(memory: Store, outside: ActionContext, clock: Clock):
    for _ in range(8):
        assert rate_limit("chat", rate=10, per=60).take(outside)
    assert rate_limit("chat", rate=20, per=60).value(outside) == 12
    lower = rate_limit("chat", rate=5, per=60)
    assert not lower.take(outside)
    clock.go(60)
    assert lower.value(outside) == 5
    bucket = rate_limit("chat", rate=10, per=60, kind="token_bucket", capacity=3)  # another kind: afresh
    assert [bool(bucket.take(outside)) for _ in range(4)] == [True] * 3 + [False]
    assert rows(memory)[0][2] == bucket.rule.to_json()


@pytest.mark.parametrize("column", ["rule", "state"])
@pytest.mark.parametrize("broken", ["", "null", "{}", '{"takes": 5}', "[1]", '{"rate": 0, "per": 1}'])
def test_a_row_that_somebody_broke_is_begun_afresh(memory: Store, column: str, broken: str):
    limit = rate_limit("chat", rate=1, per=60)
    assert limit.take()
    with memory.transaction() as execute:
        execute(f"UPDATE rate_limits SET {column} = ?", [broken])
    assert limit.take()
    assert not limit.take()


@pytest.mark.parametrize(
    ("per", "seconds"),
    [("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400), (2.5, 2.5), (datetime.timedelta(hours=2), 7200)],
)
def test_words_for_windows(per: Any, seconds: float):
    assert rate_limit("chat", rate=1, per=per).rule.per == seconds


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"per": "minutes"}, 'Did you mean "minute"'),
        ({"per": "fortnight"}, '"second", "minute", "hour", "day"'),
        ({"per": 0}, "per=0"),
        ({"rate": -1}, "rate=-1"),
        ({"kind": "leaky_bucket"}, "token_bucket"),
        ({"capacity": 3}, "a sliding window has no capacity"),
        ({"name": ""}, "no name of a limit"),
        ({"name": None}, "no name of a limit"),
    ],
)
def test_definitions_that_are_none(fields: dict[str, Any], words: str):
    with pytest.raises(InputError) as caught:
        rate_limit(**{"name": "chat", "rate": 1, "per": 60, **fields})
    assert words in str(caught.value)
    assert caught.value.cure


@pytest.mark.parametrize("count", [11, 0, -1, float("nan")])
def test_a_count_that_can_never_pass(memory: Store, count: float):
    limit = rate_limit("chat", rate=10, per=60)
    calls: list[Callable[..., Any]] = [limit.take, limit.check, limit.reserve]
    for call in calls:
        with pytest.raises(InputError, match="count=") as caught:
            call(count=count)
        assert caught.value.cure
    assert rows(memory) == []


def test_a_limit_is_a_value():
    assert rate_limit("chat", 10, 60) == RateLimit("chat", rate_limit("chat", 10.0, "minute").rule)
