"""Runs queries, mutations and actions: checks what goes in and out, and keeps the rules. Calls ``contexts``.

A query is one snapshot, a mutation one transaction, in a thread of their own with a time limit; an action is a task on
the background loop, or a thread of its own where it is a plain ``def``. Promises: what breaks a rule, takes too long,
or gives a result that its hint does not allow leaves nothing behind; nothing is committed once its caller was told that
it failed. (Who interrupts a mutation whose commit has begun is not told either way.)
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import datetime
import random
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Generic, TypeVar

from ipyconvexai import guard
from ipyconvexai.deadlines import Deadline, Stopped
from ipyconvexai.errors import (
    CanceledError,
    ConfigurationError,
    FunctionError,
    FunctionTimeoutError,
    JobInterruptedError,
    LimitError,
    NotAllowedError,
    QueryError,
    StoreError,
    TransactionError,
    draws_as,
)
from ipyconvexai.functions.contexts import ActionContext, MutationContext, QueryContext, SyncActionContext
from ipyconvexai.functions.rate_limits import RateLimit
from ipyconvexai.functions.registry import TRANSACTION_LIMIT, Function, Kind
from ipyconvexai.functions.running import Asker, Services, User
from ipyconvexai.functions.toolbox import Toolbox
from ipyconvexai.loops import BackgroundLoop, call_in_child
from ipyconvexai.providers.calls import CALLER
from ipyconvexai.settings import Settings
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.link import Execute, Reads, Store
from ipyconvexai.tables.catalog import Catalog

__all__ = ["Runner"]

T = TypeVar("T")

THREADS = 64  # queries, mutations and plain actions at once; more wait
BEFORE_START = "function_limit"  # the code of a LimitError of an action's own limit
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
        # A future cannot hold a StopIteration; the others would end who waits, as if somebody had stopped that.
        except (SystemExit, GeneratorExit, KeyboardInterrupt, StopIteration) as error:
            exited = _exited(self._function, error)
            exited.__cause__ = error
            self.fail(exited)
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
        except KeyboardInterrupt as interrupt:
            draws_as(interrupt, f"{self._function.name} was stopped.")
            self.stop(KeyboardInterrupt)
            raise

    async def wait(self) -> T:
        outcome = asyncio.wrap_future(self.outcome)
        try:
            return await asyncio.shield(outcome)
        except asyncio.CancelledError:
            outcome.add_done_callback(_forget)
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
        self.toolbox = Toolbox()
        self.wake: Callable[[], None] = lambda: None  # the scheduler, when something was scheduled
        self.closing = False
        self._loop = loop
        self._sleep = sleep
        self._random = random
        self._begin()
        call_in_child(self, Runner._begin)

    def _begin(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "ipyconvexai-function")

    def _user(self, user: User) -> str | None:
        return (self.settings.user if isinstance(user, Asker) else user) or None

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------------------------------ queries
    def query(self, function: Function, args: Mapping[str, Any], *, user_id: User = Asker.APP) -> Any:
        """A query's result. Blocking, so not on the loop.

        Raises:
            ArgumentsError, ResultError: what goes in or comes out does not fit the hints.
            NotAllowedError: it broke a rule.
            FunctionTimeoutError: it ran longer than a query may.
            Exception: what it raised.
        """
        return self.query_with_tables(function, args, user_id=user_id)[0]

    def query_with_tables(
        self, function: Function, args: Mapping[str, Any], *, user_id: User = Asker.APP
    ) -> tuple[Any, set[str]]:
        """The same, and the names of the tables that it read."""
        return self._begin_query(function, args, user_id).result()

    async def aquery(self, function: Function, args: Mapping[str, Any], *, user_id: User = Asker.APP) -> Any:
        return (await self._begin_query(function, args, user_id).wait())[0]

    def _begin_query(self, function: Function, args: Mapping[str, Any], user_id: User) -> _Work[tuple[Any, set[str]]]:
        self._expect(function, Kind.QUERY)

        def attempt(values: dict[str, Any], deadline: Deadline) -> tuple[Any, set[str]]:
            with self.store.snapshot(TRANSACTION_LIMIT, deadline.pause) as reads:
                ctx = QueryContext(self, reads, self._user(user_id))
                result = deadline.run(self._handle, function, ctx, values)
            return self._validated(function, result), ctx.db.tables_read

        def run(work: _Work[tuple[Any, set[str]]]) -> tuple[Any, set[str]]:
            values = self.values(function, args)
            for _ in range(REPEATS - 1):
                try:
                    return attempt(values, work.deadline())
                except StoreError as error:  # its keeper ended between two statements
                    if not error.retryable:
                        raise
            return attempt(values, work.deadline())

        return self._limited(function, TRANSACTION_LIMIT, run)

    # ------------------------------------------------------------------------------------------ mutations
    def mutate(
        self,
        function: Function,
        args: Mapping[str, Any],
        *,
        user_id: User = Asker.APP,
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
        user_id: User = Asker.APP,
        job_id: str | None = None,
        first: Callable[[Execute], Any] | None = None,
        last: Callable[[Execute, Any], Any] | None = None,
    ) -> Any:
        return await self._begin_mutation(function, args, user_id, job_id, first, last).wait()

    def _begin_mutation(
        self,
        function: Function,
        args: Mapping[str, Any],
        user_id: User,
        job_id: str | None,
        first: Callable[[Execute], Any] | None,
        last: Callable[[Execute, Any], Any] | None,
    ) -> _Work[Any]:
        self._expect(function, Kind.MUTATION)

        def attempt(values: dict[str, Any], deadline: Deadline) -> tuple[Any, bool]:
            with self.store.transaction(deadline.pause) as execute:
                if first is not None:
                    first(execute)
                ctx = MutationContext(self, execute, self._user(user_id), job_id)
                result = self._validated(function, deadline.run(self._handle, function, ctx, values))
                if last is not None:
                    last(execute, result)
            return result, ctx.scheduler.used

        def run(work: _Work[Any]) -> Any:
            values = self.values(function, args)
            for left in reversed(range(REPEATS)):
                try:
                    result, scheduled = attempt(values, work.deadline())
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
        _be(function, kind)
        values = function.arguments.validate(args, context=self._known)
        reads: Reads = _InTransaction(ctx._execute) if isinstance(ctx, MutationContext) else ctx._execute
        if kind is Kind.QUERY:
            inner = QueryContext(self, reads, ctx.user_id, ctx.job_id, now=ctx.now)
            inner.db.tables_read = ctx.db.tables_read
            return self._validated(function, self._handle(function, inner, values))
        assert isinstance(ctx, MutationContext)
        nested = MutationContext(self, ctx._execute, ctx.user_id, ctx.job_id, now=ctx.now)
        nested.scheduler, nested.db = ctx.scheduler, ctx.db
        try:
            return self._validated(function, self._handle(function, nested, values))
        except BaseException as error:
            why = str(error).partition("\n")[0]
            ctx._execute.doom(f"{function.name}, which it called, failed: {type(error).__name__}: {why}")
            raise

    # ------------------------------------------------------------------------------------------ actions
    async def act(
        self, function: Function, args: Mapping[str, Any], *, user_id: User = Asker.APP, job_id: str | None = None
    ) -> Any:
        """An action's result, begun once. On the background loop.

        Raises:
            ArgumentsError, ResultError: what goes in or comes out does not fit the hints.
            LimitError: its limit is reached; ``retry_after`` says until when.
            FunctionTimeoutError: it ran longer than it may.
            Exception: what it raised.
        """
        self._expect(function, Kind.ACTION)
        if not self.catalog.is_current:
            await asyncio.to_thread(self.catalog.ensure_all)
        values = self.values(function, args)
        user = self._user(user_id)
        source = "function" if job_id is None else "schedule"
        context = ActionContext if function.is_async else SyncActionContext
        ctx: Any = context(self, user, job_id, function.timeout)
        if function.limit is not None:
            await self._take(function.limit, ctx)
        token = CALLER.set(replace(CALLER.get(), source=source, user_id=user))
        try:
            if function.is_async:
                result = await self._act_on_loop(function, ctx, values)
            else:
                result = await self._act_in_thread(function, ctx, values)
        finally:
            CALLER.reset(token)
        return self._validated(function, result)

    async def _take(self, limit: RateLimit, ctx: Any) -> None:
        try:
            await limit.atake(ctx, key=ctx.user_id, throw=True)
        except LimitError as error:
            error.code = BEFORE_START  # a job may wait for it: nothing was begun
            raise

    async def act_with_retries(
        self, function: Function, args: Mapping[str, Any], *, user_id: User = Asker.APP, job_id: str | None = None
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
        ctx.ended_by = lambda: _too_long(function, function.timeout) if limit.expired() else self._ending()
        begun = time.monotonic()
        try:
            async with limit:
                result = await function.handler(ctx, **values)
        except TimeoutError:
            if limit.expired():
                raise _too_long(function, function.timeout) from None
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise _canceled_itself(function) from None
        except (SystemExit, KeyboardInterrupt) as error:  # they would end the loop, and with it everything
            raise _exited(function, error) from error
        # It may have swallowed the cancellation, or blocked the loop so that none came.
        if limit.expired() or time.monotonic() - begun > function.timeout:
            raise _too_long(function, function.timeout)
        return result

    def _ending(self) -> JobInterruptedError | None:
        if not self.closing:
            return None
        return JobInterruptedError("the process that ran it was told to end", cure="Run it again.")

    async def _act_in_thread(self, function: Function, ctx: Any, values: dict[str, Any]) -> Any:
        def run(work: _Work[Any]) -> Any:
            deadline = work.deadline()
            ctx.ended_by = lambda: (
                _too_long(function, function.timeout) if deadline.expired else _stopped(function, deadline.reason)
            )
            return deadline.run(function.handler, ctx, **values)

        # A thread of its own: in the pool it could wait for a query that waits for a place in the pool.
        work: _Work[Any] = _Work(function, function.timeout)
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(work.do, run), name=f"ipyconvexai-action-{function.name}", daemon=True
        )
        thread.start()
        return await work.wait()

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """For a plain action's thread: the result of what runs on the loop."""
        return self._loop.run(coroutine)

    # ------------------------------------------------------------------------------------------ the common way
    @property
    def _known(self) -> dict[str, Any]:
        """What pydantic hands to the check of an id: which tables there are."""
        return {"catalog": self.catalog}

    def values(self, function: Function, args: Mapping[str, Any]) -> dict[str, Any]:
        """The checked arguments. Blocking.

        Raises:
            ArgumentsError: they do not fit the hints, or an id is of another table.
        """
        self.catalog.ensure_all()
        return function.arguments.validate(args, context=self._known)

    def _validated(self, function: Function, result: Any) -> Any:
        return function.result.validate(result, context=self._known)

    def _expect(self, function: Function, kind: Kind) -> None:
        if (running := guard.current()) is not None:
            raise NotAllowedError(
                f"{function.name} was called on its own inside a {running}",
                cure="Use ctx.run_query or ctx.run_mutation, so that it sees and joins what runs already.",
            )
        _be(function, kind)

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


def _forget(outcome: asyncio.Future[Any]) -> None:
    """Nobody waits for it: asyncio shall not tell that its error was never looked at."""
    if not outcome.cancelled():
        outcome.exception()


def _be(function: Function, kind: Kind) -> None:
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


def _canceled_itself(function: Function) -> CanceledError:
    return CanceledError(
        f"the {function.kind} `{function.name}` raised CancelledError: something that it waited for was canceled",
        cure="Catch it where that is meant to happen.",
    )


def _exited(function: Function, error: BaseException) -> FunctionError:
    return FunctionError(
        f"the {function.kind} `{function.name}` raised {type(error).__name__}: {error}"[:500],
        cure="Return from it, or raise an error: a function does not end the process.",
        code="exited",
    )


def _stopped(function: Function, reason: type[BaseException] | None) -> BaseException:
    if reason is not None and issubclass(reason, KeyboardInterrupt):
        return KeyboardInterrupt()
    return CanceledError(f"the {function.kind} `{function.name}` was stopped", cure="Run it again.")
