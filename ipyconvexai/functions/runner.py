"""Runs queries, mutations and actions: checks what goes in and out, and keeps the rules. Calls ``contexts``.

A query is one snapshot, a mutation one transaction, in a thread of their own with a time limit; an action is a task on
the background loop, or a thread where it is a plain ``def``. Promises: what breaks a rule, takes too long, or gives a
result that its hint does not allow leaves nothing behind; nothing is committed once its caller was told that it failed.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import datetime
import random
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Generic, TypeVar

from ipyconvexai import guard
from ipyconvexai.deadlines import Deadline, Stopped
from ipyconvexai.errors import (
    CanceledError,
    ConfigurationError,
    FunctionTimeoutError,
    NotAllowedError,
    QueryError,
    TransactionError,
)
from ipyconvexai.functions.contexts import ActionContext, MutationContext, QueryContext, SyncActionContext
from ipyconvexai.functions.registry import TRANSACTION_LIMIT, Function, Kind
from ipyconvexai.functions.running import Services
from ipyconvexai.loops import BackgroundLoop, call_in_child
from ipyconvexai.providers.calls import CALLER
from ipyconvexai.settings import Settings
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.link import Execute, Reads, Store
from ipyconvexai.tables.catalog import Catalog

__all__ = ["Runner"]

T = TypeVar("T")

THREADS = 64  # queries, mutations and plain actions at once; more wait
REPEATS = 3  # of a mutation whose keeper ended before its commit: nothing of it was kept


class _InTransaction:
    """What a query reads with inside of a mutation: it sees what was written, and cannot write."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute
        self.select = execute.select

    def __call__(self, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
        return self._execute(sql, params)


class _Work(Generic[T]):
    """What a thread does for who waits for its outcome."""

    def __init__(self, function: Function, seconds: float) -> None:
        self.outcome: Future[T] = Future()
        self._function = function
        self._seconds = seconds
        self._deadline: Deadline | None = None
        self._stopped_for: type[BaseException] | None = None

    def deadline(self) -> Deadline:
        """A new one, for the next try."""
        self._deadline = Deadline(self._seconds, lambda: self.fail(_too_long(self._function, self._seconds)))
        if self._stopped_for is not None:
            self._deadline.interrupt(self._stopped_for)
        return self._deadline

    def do(self, work: Callable[[_Work[T]], T]) -> None:
        try:
            result = work(self)
        except Stopped:
            # At the limit who waits was told by then, also where the thread hung in C code.
            self.fail(_stopped(self._function, self._stopped_for))
        except BaseException as error:
            self.fail(error)
        else:
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                self.outcome.set_result(result)

    def fail(self, error: BaseException) -> None:
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # told already
            self.outcome.set_exception(error)

    def stop(self, reason: type[BaseException]) -> None:
        """Nobody waits any more. What is about to be committed is committed all the same."""
        self._stopped_for = reason
        if self._deadline is not None:
            self._deadline.interrupt(reason)

    def result(self) -> T:
        try:
            return self.outcome.result()
        except KeyboardInterrupt:
            self.stop(KeyboardInterrupt)
            raise

    async def wait(self) -> T:
        try:
            return await asyncio.shield(asyncio.wrap_future(self.outcome))
        except asyncio.CancelledError:
            self.stop(asyncio.CancelledError)
            raise


class Runner:
    """One per app. `clock` gives naive UTC."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        loop: BackgroundLoop,
        services: Services,
        *,
        clock: Callable[[], datetime.datetime] = utc_now,
        sleep: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep,
        random: Callable[[], float] = random.random,
    ) -> None:
        self.store = store
        self.settings = settings
        self.services = services
        self.clock = clock
        self.catalog = Catalog(store)
        self.wake: Callable[[], None] = lambda: None  # the scheduler, when something was scheduled
        self._loop = loop
        self._sleep = sleep
        self._random = random
        self._begin()
        call_in_child(self, Runner._begin)

    def _begin(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "ipyconvexai-function")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------------------------------ queries
    def query(self, function: Function, args: Mapping[str, Any], *, user_id: str | None = None) -> Any:
        """A query's result. Blocking, so not on the loop.

        Raises:
            ArgumentsError, ResultError: what goes in or comes out does not fit the hints.
            NotAllowedError: it broke a rule.
            FunctionTimeoutError: it ran longer than a query may.
            Exception: what it raised.
        """
        return self.query_with_tables(function, args, user_id=user_id)[0]

    def query_with_tables(
        self, function: Function, args: Mapping[str, Any], *, user_id: str | None = None
    ) -> tuple[Any, set[str]]:
        """The same, and the names of the tables that it read."""
        return self._begin_query(function, args, user_id).result()

    async def aquery(self, function: Function, args: Mapping[str, Any], *, user_id: str | None = None) -> Any:
        return (await self._begin_query(function, args, user_id).wait())[0]

    def _begin_query(
        self, function: Function, args: Mapping[str, Any], user_id: str | None
    ) -> _Work[tuple[Any, set[str]]]:
        values = self._checked(function, args, Kind.QUERY)

        def run(work: _Work[tuple[Any, set[str]]]) -> tuple[Any, set[str]]:
            self.catalog.ensure_all()
            deadline = work.deadline()
            with self.store.snapshot(TRANSACTION_LIMIT, deadline.pause) as reads:
                ctx = QueryContext(self, reads, user_id or self.settings.user)
                result = deadline.run(self._handle, function, ctx, values)
            return function.result.validate(result), ctx.db.tables_read

        return self._limited(function, TRANSACTION_LIMIT, run)

    # ------------------------------------------------------------------------------------------ mutations
    def mutate(
        self,
        function: Function,
        args: Mapping[str, Any],
        *,
        user_id: str | None = None,
        job_id: str | None = None,
        first: Callable[[Execute], Any] | None = None,
        last: Callable[[Execute, Any], Any] | None = None,
    ) -> Any:
        """A mutation's result, when it is durable. Blocking, so not on the loop.

        Args:
            job_id: the job that it runs as, or for.
            first, last: called in its transaction, before the function and after it with its result; what they raise
                rolls everything back.

        Raises:
            as `query`; also TransactionError when its commit was lost, and may or may not have been kept.
        """
        return self._begin_mutation(function, args, user_id, job_id, first, last).result()

    async def amutate(
        self,
        function: Function,
        args: Mapping[str, Any],
        *,
        user_id: str | None = None,
        job_id: str | None = None,
        first: Callable[[Execute], Any] | None = None,
        last: Callable[[Execute, Any], Any] | None = None,
    ) -> Any:
        return await self._begin_mutation(function, args, user_id, job_id, first, last).wait()

    def _begin_mutation(
        self,
        function: Function,
        args: Mapping[str, Any],
        user_id: str | None,
        job_id: str | None,
        first: Callable[[Execute], Any] | None,
        last: Callable[[Execute, Any], Any] | None,
    ) -> _Work[Any]:
        values = self._checked(function, args, Kind.MUTATION)

        def attempt(deadline: Deadline) -> tuple[Any, bool]:
            with self.store.transaction(deadline.pause) as execute:
                if first is not None:
                    first(execute)
                ctx = MutationContext(self, execute, user_id or self.settings.user, job_id)
                result = function.result.validate(deadline.run(self._handle, function, ctx, values))
                if last is not None:
                    last(execute, result)
            return result, ctx.scheduler.used

        def run(work: _Work[Any]) -> Any:
            self.catalog.ensure_all()
            for left in reversed(range(REPEATS)):
                try:
                    result, scheduled = attempt(work.deadline())
                except TransactionError as error:
                    if error.code == "transaction_limit":
                        raise _too_long(function, TRANSACTION_LIMIT) from None
                    if not (error.retryable and left):
                        raise
                except QueryError:  # somebody else has changed or dropped a table
                    self.catalog.forget()
                    raise
                else:
                    break
            if scheduled:
                self.wake()
            return result

        return self._limited(function, TRANSACTION_LIMIT, run)

    def call_inside(self, function: Function, args: Mapping[str, Any], ctx: QueryContext, kind: Kind) -> Any:
        """A query or mutation that another calls, in the snapshot or the transaction of `ctx`."""
        _expect(function, kind)
        values = function.arguments.validate(args)
        reads: Reads = _InTransaction(ctx.execute) if isinstance(ctx, MutationContext) else ctx.execute
        if kind is Kind.QUERY:
            inner = QueryContext(self, reads, ctx.user_id, ctx.job_id, now=ctx.now)
            inner.db.tables_read = ctx.db.tables_read
            return function.result.validate(self._handle(function, inner, values))
        assert isinstance(ctx, MutationContext)
        nested = MutationContext(self, ctx.execute, ctx.user_id, ctx.job_id, now=ctx.now)
        nested.scheduler, nested.db = ctx.scheduler, ctx.db
        try:
            return function.result.validate(self._handle(function, nested, values))
        except BaseException as error:
            why = str(error).partition("\n")[0]
            ctx.execute.doom(f"{function.name}, which it called, failed: {type(error).__name__}: {why}")
            raise

    # ------------------------------------------------------------------------------------------ actions
    async def act(
        self, function: Function, args: Mapping[str, Any], *, user_id: str | None = None, job_id: str | None = None
    ) -> Any:
        """An action's result, begun once. On the background loop.

        Raises:
            ArgumentsError, ResultError: what goes in or comes out does not fit the hints.
            LimitError: its limit is reached; ``retry_after`` says until when.
            FunctionTimeoutError: it ran longer than it may.
            Exception: what it raised.
        """
        values = self._checked(function, args, Kind.ACTION)
        user = user_id or self.settings.user
        source = "function" if job_id is None else "schedule"
        context = ActionContext if function.is_async else SyncActionContext
        ctx: Any = context(self, user, job_id, function.timeout)
        if function.limit is not None:
            await function.limit.atake(ctx, key=user, throw=True)
        token = CALLER.set(replace(CALLER.get(), source=source, user_id=user))
        try:
            if function.is_async:
                result = await self._act_on_loop(function, ctx, values)
            else:
                result = await self._act_in_thread(function, ctx, values)
        finally:
            CALLER.reset(token)
        return function.result.validate(result)

    async def act_with_retries(
        self, function: Function, args: Mapping[str, Any], *, user_id: str | None = None, job_id: str | None = None
    ) -> Any:
        """The same, begun again as the action's retry policy says."""
        attempt = 1
        while True:
            try:
                return await self.act(function, args, user_id=user_id, job_id=job_id)
            except Exception as error:
                pause = function.retry.pause(attempt, error, self._random)
                if pause is None:
                    raise
            await self._sleep(pause)
            attempt += 1

    async def _act_on_loop(self, function: Function, ctx: Any, values: dict[str, Any]) -> Any:
        limit = asyncio.timeout(function.timeout)
        ctx.ended_by = lambda: _too_long(function, function.timeout) if limit.expired() else None
        try:
            async with limit:
                return await function.handler(ctx, **values)
        except TimeoutError:
            if limit.expired():
                raise _too_long(function, function.timeout) from None
            raise

    async def _act_in_thread(self, function: Function, ctx: Any, values: dict[str, Any]) -> Any:
        def run(work: _Work[Any]) -> Any:
            deadline = work.deadline()
            ctx.ended_by = lambda: (
                _too_long(function, function.timeout) if deadline.expired else _stopped(function, deadline.reason)
            )
            return deadline.run(function.handler, ctx, **values)

        return await self._limited(function, function.timeout, run).wait()

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """For a plain action's thread: the result of what runs on the loop."""
        return self._loop.run(coroutine)

    # ------------------------------------------------------------------------------------------ the common way
    def _checked(self, function: Function, args: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
        if (running := guard.current()) is not None:
            raise NotAllowedError(
                f"{function.name} was called on its own inside a {running}",
                cure="Use ctx.run_query or ctx.run_mutation, so that it sees and joins what runs already.",
            )
        _expect(function, kind)
        return function.arguments.validate(args)

    def _handle(self, function: Function, ctx: QueryContext, values: dict[str, Any]) -> Any:
        with guard.inside(function.kind, function.name):
            return function.handler(ctx, **values)

    def _limited(self, function: Function, seconds: float, run: Callable[[_Work[T]], T]) -> _Work[T]:
        """`run` in a thread. Who waits is told at the limit, also where the thread hangs in C code and cannot be
        stopped: then its transaction is rolled back when it returns."""
        work: _Work[T] = _Work(function, seconds)
        context = contextvars.copy_context()
        with guard.lifted():
            try:
                begun = self._threads.submit(context.run, work.do, run)
            except RuntimeError:
                raise _closed() from None
        begun.add_done_callback(lambda done: work.fail(_closed()) if done.cancelled() else None)
        return work


def _expect(function: Function, kind: Kind) -> None:
    if function.kind is not kind:
        raise NotAllowedError(
            f"{function.name} is a {function.kind} and no {kind}",
            cure=f"Call it with run_{function.kind}" + (", from an action." if function.kind is Kind.ACTION else "."),
        )


def _closed() -> ConfigurationError:
    return ConfigurationError("this app was closed", cure='Open another: ai.connect("my.duckdb").')


def _too_long(function: Function, seconds: float) -> FunctionTimeoutError:
    if function.kind is Kind.ACTION:
        cure = f"Give it more time: @ai.action(timeout={2 * seconds:g}), or divide the work and schedule the parts."
    else:
        cure = "Do less in it: use an index and take(n); what waits or computes for long belongs into an @ai.action."
    kept = "; nothing of it was kept" if function.kind is Kind.MUTATION else ""
    return FunctionTimeoutError(f"the {function.kind} `{function.name}` ran longer than {seconds:g} s{kept}", cure=cure)


def _stopped(function: Function, reason: type[BaseException] | None) -> BaseException:
    if reason is not None and issubclass(reason, KeyboardInterrupt):
        return KeyboardInterrupt()
    return CanceledError(f"the {function.kind} `{function.name}` was stopped", cure="Run it again.")
