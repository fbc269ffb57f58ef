"""``ai.rate_limit``: limits that functions take from, judged and recorded in the transaction of the mutation around it.

Calls limits, the store's ``Execute`` and errors. A key's state is a row of ``rate_limits``. Promises: a take is read,
judged and written in one transaction, so that no two can pass on the same room; it is given back when the mutation
rolls back; a limit that was defined anew goes on with what is comparable, and never raises for it.

Which clock: ``ctx.now`` is frozen when a mutation begins, before it waits for its turn. Recorded by that instant, a
take would be free again as much too early as the mutation had waited. So the clock is read after the state: then no
other transaction is between the two, and instants come in the order in which takes pass.
"""

from __future__ import annotations

import asyncio
import datetime
import difflib
import enum
import hashlib
import json
import numbers
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from ipyconvexai import guard
from ipyconvexai.errors import (
    ConfigurationError,
    DeadlockError,
    InputError,
    LimitError,
    NotAllowedError,
    TransactionError,
)
from ipyconvexai.limits import rules
from ipyconvexai.limits.rules import Decision, Kind, Rule, State
from ipyconvexai.settings import redact
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.link import Execute, Store

__all__ = ["RateLimit", "Taken", "rate_limit", "sweep", "wire"]

T = TypeVar("T")
Clock = Callable[[], datetime.datetime]  # naive UTC
Change = Callable[[State | None, float], tuple[T, State | None]]  # (state, now) -> result, new state

WORDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
TRIES = 5  # of a transaction of a limit's own, where it is certain that nothing of it was kept
EPOCH = datetime.datetime(1970, 1, 1)

_READ = "SELECT rule, state FROM rate_limits WHERE name = ? AND key = ?"
_WRITE = """
    INSERT INTO rate_limits (name, key, rule, state, updated_at) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (name, key) DO UPDATE
    SET rule = excluded.rule, state = excluded.state, updated_at = excluded.updated_at
"""
IDLE = datetime.timedelta(days=1)
SWEPT = 10_000  # rows that are looked at in one sweep
_OLD = "SELECT name, key, rule, state, updated_at FROM rate_limits WHERE updated_at < ? LIMIT ?"
_SWEEP = """
    DELETE FROM rate_limits WHERE (name, key, updated_at) IN (SELECT (n, k, t) FROM (
        SELECT unnest(?::VARCHAR[]) AS n, unnest(?::VARCHAR[]) AS k, unnest(?::TIMESTAMP[]) AS t))
"""
_RESET = "DELETE FROM rate_limits WHERE name = ? AND key = ?"

_transactions: Callable[[], AbstractContextManager[Execute]] | None = None


def wire(open_transaction: Callable[[], AbstractContextManager[Execute]] | None) -> None:
    """Say how a transaction of its own begins where a limit is given no ``ctx`` of a mutation."""
    global _transactions
    _transactions = open_transaction


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of a take; true where it passed.

    Attributes:
        ok: whether it passed.
        retry_after: seconds. Not ok: until it would pass. ok: of a reservation, which may run then. None: at once.
        at: from when it counts, in seconds since the epoch, for ``refund``; None where nothing was taken.
    """

    ok: bool
    retry_after: float | None = None
    at: float | None = None

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A limit of your own; ``ai.rate_limit`` makes it.

    In a mutation give it `ctx`: then it is judged and recorded in the mutation's transaction, and given back when that
    fails. In an action, or without `ctx`, it is a transaction of its own; in an ``async def`` action use the twin with
    the prefix ``a``: ``await limit.atake(ctx, key=ctx.user_id)``. In a query only ``check`` and ``value`` are allowed.

    `key`: whose limit it is. Anything plain: text, a number, an id, a tuple of these. ``None`` is the same as ``""``
    and as no key: all who have no key share one limit.
    """

    name: str
    rule: Rule

    def take(self, ctx: Any = None, key: Any = "", count: float = 1, *, throw: bool = False) -> Taken:
        """Take `count` if that many are left. A take that does not pass consumes nothing.

        Raises:
            LimitError: it did not pass, and `throw` is set; with ``retry_after``.
            InputError: `count` can never pass, or `key` is nothing plain.
            NotAllowedError: in a query.
        """
        return self._judge(ctx, key, count, False, throw, "take")

    def reserve(self, ctx: Any = None, key: Any = "", count: float = 1, *, throw: bool = False) -> Taken:
        """Take `count` now and use it later: it is ok also where nothing is left (up to the limit's `max_reserved`),
        and may run when ``retry_after`` is over. Raises as ``take``.
        """
        return self._judge(ctx, key, count, True, throw, "reserve")

    def check(self, ctx: Any = None, key: Any = "", count: float = 1, *, throw: bool = False) -> Taken:
        """What ``take`` would say; takes nothing. Raises as ``take``, but in a query it is allowed."""
        decision = self._with_state(
            ctx, key, None, lambda state, now: (rules.check(self.rule, state, now, count), state)
        )
        return self._taken(decision, key, throw)

    def value(self, ctx: Any = None, key: Any = "") -> float:
        """How much is left; negative where more is reserved than there is."""
        return self._with_state(ctx, key, None, lambda state, now: (rules.value(self.rule, state, now), state))

    def refund(self, ctx: Any = None, key: Any = "", count: float = 1, *, at: float | None = None) -> None:
        """Give back what was taken and not used. There is never more than if nothing had been taken.

        With `at` (the ``at`` of what ``take`` gave) it is that very take, and nothing if its window is over. Without,
        it must have been within the window: what is oldest is given back.

        Raises:
            InputError: `count` is no number above 0.
            NotAllowedError: in a query.
        """
        self._with_state(ctx, key, "refund", lambda state, now: (None, rules.refund(self.rule, state, count, at, now)))

    def reset(self, ctx: Any = None, key: Any = "") -> None:
        """Begin afresh, as if nothing had been taken.

        Raises:
            NotAllowedError: in a query.
        """
        text = _key_text(key)
        _in_transaction(ctx, self._call("reset"), "reset", lambda execute, clock: _reset(execute, self.name, text))

    async def atake(self, ctx: Any = None, key: Any = "", count: float = 1, *, throw: bool = False) -> Taken:
        """As ``take``."""
        return await _aside(ctx, lambda: self._judge(ctx, key, count, False, throw, "take"))

    async def areserve(self, ctx: Any = None, key: Any = "", count: float = 1, *, throw: bool = False) -> Taken:
        """As ``reserve``."""
        return await _aside(ctx, lambda: self.reserve(ctx, key, count, throw=throw))

    async def acheck(self, ctx: Any = None, key: Any = "", count: float = 1, *, throw: bool = False) -> Taken:
        """As ``check``."""
        return await _aside(ctx, lambda: self.check(ctx, key, count, throw=throw))

    async def avalue(self, ctx: Any = None, key: Any = "") -> float:
        """As ``value``."""
        return await _aside(ctx, lambda: self.value(ctx, key))

    async def arefund(self, ctx: Any = None, key: Any = "", count: float = 1, *, at: float | None = None) -> None:
        """As ``refund``."""
        await _aside(ctx, lambda: self.refund(ctx, key, count, at=at))

    async def areset(self, ctx: Any = None, key: Any = "") -> None:
        """As ``reset``."""
        await _aside(ctx, lambda: self.reset(ctx, key))

    def _judge(self, ctx: Any, key: Any, count: float, reserve: bool, throw: bool, method: str) -> Taken:
        def change(state: State | None, now: float) -> tuple[Decision, State | None]:
            decision = rules.decide(self.rule, state, now, count, reserve)
            return decision, decision.state

        return self._taken(self._with_state(ctx, key, method, change), key, throw)

    def _taken(self, decision: Decision, key: Any, throw: bool) -> Taken:
        if throw and not decision.ok:
            whose = f" for {_key_text(key)}" if _key_text(key) else ""
            raise LimitError(
                f'the limit "{self.name}" of {self.rule} is reached{whose}',
                cure=f"Try again in {decision.retry_after:.3g} s.",
                retry_after=decision.retry_after,
            )
        return Taken(decision.ok, decision.retry_after, decision.at)

    def _with_state(self, ctx: Any, key: Any, writes: str | None, change: Change[T]) -> T:
        """`change` applied to the state of `key`; `writes`: the method's name, where a change is to be kept."""
        text = _key_text(key)

        def apply(execute: Execute, clock: Clock) -> T:
            rows = execute(_READ, [self.name, text])
            instant = clock()  # after the state: see the module
            state = _kept(self.rule, *rows[0]) if rows else None
            result, changed = change(state, (instant - EPOCH).total_seconds())
            if writes and changed is not state:
                row = [self.name, text, self.rule.to_json(), json.dumps(changed, separators=(",", ":")), instant]
                execute.later(_WRITE, row)
            return result

        return _in_transaction(ctx, self._call(writes or "check"), writes, apply)

    def _call(self, method: str) -> str:
        return f'{method}() of the limit "{self.name}"'


def rate_limit(
    name: str,
    rate: float,
    per: float | str | datetime.timedelta,
    kind: Kind = "sliding_window",
    capacity: float | None = None,
    max_reserved: float | None = None,
) -> RateLimit:
    """A limit of `rate` per `per`, which all notebooks and processes of a ledger share by its `name`.

    Defining it again under its name changes it: what was taken stays taken where the kind is the same.

    Args:
        name: its name in the ledger.
        rate: how many may pass per window.
        per: the window: seconds, or "second", "minute", "hour", "day".
        kind: "sliding_window" (at most `rate` within any window), "fixed_window" (`rate` more at the beginning of each)
            or "token_bucket" (filled evenly).
        capacity: how many there can be at most, for bursts; not for sliding windows. None: `rate`.
        max_reserved: how many ``reserve`` may take beyond what is left. None: any number.

    Raises:
        InputError: one of these is not what it must be.
    """
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{name!r} is no name of a limit", cure='Use a text: ai.rate_limit("chat", rate=10, per=60).')
    return RateLimit(name, Rule(kind=kind, rate=rate, per=_seconds(per), capacity=capacity, max_reserved=max_reserved))


def _seconds(per: Any) -> Any:
    if isinstance(per, datetime.timedelta):
        return per.total_seconds()
    if not isinstance(per, str):
        return per  # a Rule checks numbers
    if per in WORDS:
        return WORDS[per]
    near = difflib.get_close_matches(per.lower(), WORDS, n=1)
    hint = f'Did you mean "{near[0]}"? ' if near else ""
    known = ", ".join(f'"{word}"' for word in WORDS)
    raise InputError(f"per={per!r} is no window", cure=f"{hint}Use a number of seconds, or one of {known}.")


def _key_text(key: Any) -> str:
    """A text for each key: equal texts for equal keys, and "" for none. Known secrets are not written down."""
    if key is None or (isinstance(key, str) and not key):
        return ""
    try:
        text = json.dumps(key, sort_keys=True, ensure_ascii=False, allow_nan=False, default=_plain)
        text.encode()
    except (TypeError, ValueError, RecursionError):
        raise InputError(
            f"a limit's key is a plain value, and not {type(key).__name__}",
            cure="Use a text, a number, an id, or a tuple of these, for example key=(ctx.user_id, model).",
        ) from None
    shown = redact(text)
    # Two keys that are secrets have limits of their own, too.
    return text if shown == text else f"{shown} {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _plain(value: object) -> Any:
    if isinstance(value, uuid.UUID | datetime.date | enum.Enum):
        return str(value)
    if isinstance(value, numbers.Integral):  # numpy's
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError


def _kept(rule: Rule, definition: str, state: str) -> State | None:
    try:
        return rules.adopt(rule, Rule.from_json(definition), json.loads(state))
    except ValueError:  # somebody wrote into the table
        return None


def sweep(store: Store, now: datetime.datetime) -> None:
    """Remove the rows of keys that are idle: for a day, and for two windows of their rule, with nothing reserved."""
    rows = store.read(_OLD, [now - IDLE, SWEPT])
    idle = [(name, key, at) for name, key, rule, state, at in rows if _is_idle(rule, state, at, now)]
    if idle:
        names, keys, instants = (list(column) for column in zip(*idle, strict=True))
        with store.transaction() as execute:
            execute.later(_SWEEP, [names, keys, instants])


def _is_idle(definition: str, state: str, at: datetime.datetime, now: datetime.datetime) -> bool:
    try:
        rule, instant = Rule.from_json(definition), (now - EPOCH).total_seconds()
        if (now - at).total_seconds() <= 2 * rule.per:
            return False
        return rules.value(rule, json.loads(state), instant) >= rule.most  # else something is taken still, or reserved
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError):  # somebody wrote into the table
        return True


def _reset(execute: Execute, name: str, key: str) -> None:
    execute.later(_RESET, [name, key])


def _in_transaction(ctx: Any, call: str, writes: str | None, work: Callable[[Execute, Clock], T]) -> T:
    """`work` in the transaction of `ctx`, or in one of its own."""
    execute = getattr(ctx, "_execute", None)
    if execute is not None:
        ctx.db.tables_read.add("rate_limits")  # who watches the query hears of takes
        if writes and not hasattr(execute, "later"):  # a snapshot's
            raise NotAllowedError(f"{call} is not allowed in a query", cure="Do it in a mutation: @ai.mutation.")
        return work(execute, _clock(ctx))
    _refuse_where_it_would_wait_for_itself(ctx, call)
    for left in reversed(range(TRIES)):
        try:
            with _open(ctx) as execute:
                result = work(execute, _clock(ctx))
        except TransactionError as error:
            if not (error.retryable and left):
                raise
        else:
            break
    return result


def _open(ctx: Any) -> AbstractContextManager[Execute]:
    """A transaction on the ledger of an action's `ctx`, or on the current one."""
    runner = getattr(ctx, "_runner", None)
    if runner is not None:
        return runner.store.transaction()  # type: ignore[no-any-return]
    if _transactions is None:
        raise ConfigurationError("no ledger is open", cure="Open one with ai.connect().")
    return _transactions()


def _clock(ctx: Any) -> Clock:
    runner = getattr(ctx, "_runner", None)
    return utc_now if runner is None else runner.clock


def _refuse_where_it_would_wait_for_itself(ctx: Any, call: str) -> None:
    kind = guard.current()
    if kind is not None:
        raise NotAllowedError(
            f"{call} was called in a {kind} without its ctx",
            cure="Give it the function's ctx, so that it is part of the same transaction: limit.take(ctx, key=...).",
        )
    if ctx is None:  # in a cell there is a loop, too, and waiting is right
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise DeadlockError(
        f"{call} would block the loop that the action runs on",
        cure="Use the async twin: await limit.atake(ctx, key=...).",
    )


async def _aside(ctx: Any, work: Callable[[], T]) -> T:
    """`work` in a thread, where it may wait; a transaction that is open already is its thread's own."""
    if getattr(ctx, "_execute", None) is not None:
        return work()
    return await asyncio.to_thread(work)
