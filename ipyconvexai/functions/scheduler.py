"""Runs what is due: jobs and crons, on the background loop. Calls ``jobs``, ``crons``, ``changes`` and the runner.

It wakes when this process scheduled something, when another one did, when the next job or cron is due, and when a
function is defined; it does not poll. Each round is one look that stops no writer, and one transaction where there is
something to claim. Promises: two processes never run the same job; a mutation runs exactly once, because its claim,
its work and its mark are one transaction; an action at most once, unless its retry policy says otherwise; an error of
the ledger never ends the loop; a failed job is never silent.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import datetime
import functools
import logging
import math
import random
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from ipyconvexai.crashpoints import passing
from ipyconvexai.errors import (
    ArgumentsError,
    CanceledError,
    Error,
    JobInterruptedError,
    LimitError,
    StoreError,
    UnknownFunctionError,
)
from ipyconvexai.functions import jobs, rate_limits
from ipyconvexai.functions.changes import hub_of
from ipyconvexai.functions.crons import (
    Cron,
    Crons,
    advance,
    begin_due,
    bring_back,
    crons,
    is_same,
    stop_cron,
    write_cron,
)
from ipyconvexai.functions.jobs import Due, Job, JobState, Outcome
from ipyconvexai.functions.registry import Function, Kind, Registry, registry
from ipyconvexai.functions.running import Running
from ipyconvexai.loops import BackgroundLoop, call_in_child
from ipyconvexai.render import plain_text
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.link import Execute, Store

__all__ = ["CONCURRENCY", "Event", "Scheduler"]

CONCURRENCY = 16  # actions at once
MUTATIONS = 16  # reserved at once; they run one after another
FEW = 4  # mutations left at which more are reserved
LONGEST_WAIT = 60.0  # seconds between two looks at the clock: it may be set, and the machine may sleep
LONGEST_PAUSE = 30.0  # seconds between two tries while the ledger cannot be used
STORE_TRIES = 20  # of one mutation while the ledger cannot be used
MOST_LOSSES = 3  # keepers that may end in the middle of one mutation: it may be what kills them
LAST_WORDS = 5.0  # seconds for what was canceled to be written down
SWEEP_EVERY = datetime.timedelta(hours=1)
REDEFINED = 1.0  # seconds after which a function that was defined again has been given its crons again, too
WRITE_AGAIN = 60.0  # seconds between two tries to write an outcome that could not be written

_INTERRUPTED = "the process that ran it was told to end"
_TABLES = {"scheduled_functions", "crons"}

T = TypeVar("T")

_log = logging.getLogger("ipyconvexai.scheduler")


@dataclass(frozen=True, slots=True)
class Event:
    """Told to ``Scheduler.report``: `what` is "started", or a state; "pending" is an attempt that will be repeated."""

    what: str
    job: Job
    seconds: float = 0.0
    outcome: Outcome | None = None


class _Taken(Exception):
    """Inside of a mutation's transaction: the job is canceled, done, or another's by now."""


class Scheduler:
    """One per app. `concurrency`: actions at once; `report`: is told what happens, on the loop."""

    def __init__(
        self,
        runner: Running,
        loop: BackgroundLoop,
        *,
        concurrency: int = CONCURRENCY,
        clock: Callable[[], datetime.datetime] = utc_now,
        functions: Registry = registry,
        declared: Crons = crons,
        random: Callable[[], float] = random.random,
    ) -> None:
        self.concurrency = concurrency
        self.report: Callable[[Event], None] | None = None
        self._runner = runner
        self._loop = loop
        self._clock = clock
        self._functions = functions
        self._declared = declared
        self._random = random
        self._listen()
        self._begin()
        call_in_child(self, Scheduler._begin)

    def _begin(self) -> None:
        self._gate = threading.Lock()
        self._aio: asyncio.AbstractEventLoop | None = None
        self._main: Future[None] | None = None
        self._awake = asyncio.Event()
        self._over = asyncio.Event()
        self._held: dict[str, Job] = {}
        self._lane: collections.deque[Job] = collections.deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._drain_task: asyncio.Task[None] | None = None
        self._written: dict[str, Cron] = {}
        self._replaced: dict[Cron, float] = {}  # and since when their functions are others
        self._stopped: set[Cron] = set()
        self._unwritten: dict[str, tuple[Job, Outcome, float]] = {}  # they ran: never to be given back
        self._write_at = -math.inf
        self._unsubscribe: Callable[[], None] | None = None
        self._doubtful = False  # whether it may hold more than it knows
        self._swept: datetime.datetime | None = None
        self._looked: datetime.datetime | None = None  # the last round's now

    def _listen(self) -> None:
        weak = weakref.ref(self)

        def defined() -> None:
            if (scheduler := weak()) is not None:
                scheduler.wake()

        for end in (self._functions.listen(defined), self._declared.listen(defined)):
            weakref.finalize(self, end)

    # ------------------------------------------------------------------------------------------ life, from any thread
    def start(self) -> None:
        """Run what is due from now on; harmless when it does. Nothing is opened before a function is defined."""
        with self._gate:
            if self._main is not None:
                return
            self._aio = self._loop.loop
            self._awake, self._over = asyncio.Event(), asyncio.Event()
            # In a context of its own, or its jobs would seem to come from the cell, or the function, that started it.
            self._main = contextvars.Context().run(self._loop.submit, self._keep_on())

    @property
    def is_running(self) -> bool:
        return self._main is not None and not self._main.done()

    def wake(self) -> None:
        """Something was scheduled, canceled or defined: look. From any thread; harmless when it is not running."""
        aio = self._aio
        if aio is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                aio.call_soon_threadsafe(self._awake.set)

    async def stop(self, grace: float = 0.0) -> None:
        """Claim nothing more, wait `grace` seconds for what runs, cancel the rest, hand back what was not begun.

        To be called on the background loop; harmless when it was called before. A canceled action is failed as
        "interrupted", or pending again where its retry policy leaves it an attempt.
        """
        main = self._main
        if main is None:
            return
        self._over.set()
        self._awake.set()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await asyncio.wrap_future(main)
        await self._hand_back([self._lane.popleft() for _ in range(len(self._lane))])
        await self._end_tasks(grace)
        self._main = self._aio = None

    async def _end_tasks(self, grace: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in self._tasks - {self._drain_task}:  # a mutation is in a thread, and over within about a second
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LAST_WORDS)

    async def _hand_back(self, left: list[Job]) -> None:
        for job in left:
            self._held.pop(job.id, None)
        if left:
            try:
                await asyncio.to_thread(self._write_back, left[0].session_id, [job.id for job in left])
            except Error as error:  # they are others' when the reservation ends
                _log.warning("jobs could not be handed back: %s", error)

    def _write_back(self, session: str, keys: list[str]) -> None:
        with self._runner.store.transaction() as execute:
            jobs.hand_back(execute, session, keys, self._clock())

    # ------------------------------------------------------------------------------------------ the loop
    async def _keep_on(self) -> None:
        failures = 0
        while not self._over.is_set():
            self._awake.clear()
            try:
                claimed, next_time = await asyncio.to_thread(self._round)
            except Exception as error:
                self._doubtful = True
                failures += 1
                say = _log.warning if failures == 1 else _log.debug
                say("the scheduler cannot use the ledger at the moment, and tries again: %s", error)
                await self._pause(failures)
                continue
            failures = 0
            self._start_all(claimed)
            await self._wait_until(self._with_writes(next_time))

    async def _wait_until(self, moment: datetime.datetime | None) -> None:
        now = self._clock()
        while not self._awake.is_set():
            before, now = now, self._clock()
            left = LONGEST_WAIT if moment is None else (moment - now).total_seconds()
            if left <= 0 or now < before:  # the clock was set back: `moment` is not what it was
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._awake.wait(), min(left, LONGEST_WAIT))

    async def _pause(self, failures: int) -> None:
        seconds = min(LONGEST_PAUSE, 0.1 * 2.0 ** min(failures, 16)) * (1 + self._random() / 4)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)

    # ------------------------------------------------------------------------------------------ one round, in a thread
    def _round(self) -> tuple[list[Job], datetime.datetime | None]:
        """What was claimed, and when to look again."""
        functions = self._runnable()
        if not functions:
            return [], None
        store = self._runner.store
        self._subscribe(store)
        self._write_crons(store)
        redefined = self._stop_crons(store)
        self._recover(store)
        now = self._clock()
        if self._looked is None or now < self._looked:
            bring_back(store, functions, now)
        self._looked = now
        due = jobs.look(store, functions, now)
        if due.next_cron is not None and due.next_cron <= now:
            begin_due(store, functions, now)
            due = jobs.look(store, functions, now)
        claimed = self._claim(store, due, now)
        if not claimed:
            self._sweep(store, now)
        return claimed, _earliest(due, now, redefined)

    def _runnable(self) -> dict[str, Function]:
        found = {}
        for name in self._functions.names():
            with contextlib.suppress(UnknownFunctionError):
                function = self._functions.find(name)
                if function.kind is not Kind.QUERY:
                    found[name] = function
        return found

    def _subscribe(self, store: Store) -> None:
        if self._unsubscribe is None and not self._over.is_set():
            self._unsubscribe = end = hub_of(store).subscribe(self._notice)
            if self._over.is_set():  # by now: who stopped it may have found nothing to end
                end()

    def _notice(self, tables: set[str]) -> None:
        if not tables or tables & _TABLES:
            self.wake()

    def _write_crons(self, store: Store) -> None:
        user = self._runner.settings.user
        for name, declared in self._declared.all().items():
            if self._written.get(name) is not declared and not self._is_replaced(declared):
                if self._may_be_written(declared) and not is_same(store, declared, user):
                    with store.transaction() as execute:
                        write_cron(execute, declared, user, self._clock())
                self._written[name] = declared

    def _may_be_written(self, declared: Cron) -> bool:
        try:
            if not self._keeps_content:
                jobs.check_without_content(declared.function.name, declared.args)
        except ArgumentsError as error:
            _log.error("the cron %s will not run: %s", plain_text(declared.name), error)
            return False
        return True

    @property
    def _keeps_content(self) -> bool:
        return self._runner.settings.keeps_content

    def _kept(self, outcome: Outcome) -> Outcome:
        """What of it is written down."""
        return outcome if self._keeps_content else outcome.without_content

    def _stop_crons(self, store: Store) -> datetime.datetime | None:
        """A function that was defined again without its crons must not go on by the old clock. When to look again.

        A cell that is run again defines the function first and then its crons: hence the pause. Where another process
        declares the cron and this one never did, there is nothing to stop.
        """
        now = time.monotonic()
        replaced = [cron for cron in self._declared.all().values() if self._is_replaced(cron)]
        self._replaced = {cron: self._replaced.get(cron, now) for cron in replaced}
        left = [REDEFINED - (now - since) for cron, since in self._replaced.items() if cron not in self._stopped]
        for cron, since in self._replaced.items():
            if cron not in self._stopped and now - since >= REDEFINED:
                if stop_cron(store, cron.name, cron.function.name):
                    _log.warning("cron %s: stopped, for its function was defined again without it", cron.name)
                self._stopped.add(cron)
        waits = [seconds for seconds in left if seconds > 0]
        return self._clock() + datetime.timedelta(seconds=min(waits)) if waits else None

    def _is_replaced(self, cron: Cron) -> bool:
        try:
            current = self._functions.find(cron.function.name)
        except UnknownFunctionError:
            return False
        return current.name == cron.function.name and current is not cron.function

    def _recover(self, store: Store) -> None:
        """After a round that failed, a claim may have been committed that nobody heard of: give it back."""
        if self._doubtful:
            lost = jobs.claimed_by(store, store.session_id) - set(self._held) - set(self._unwritten)
            if lost:
                self._write_back(store.session_id, sorted(lost))
            self._doubtful = False

    def _claim(self, store: Store, due: Due, now: datetime.datetime) -> list[Job]:
        # Its own session's expired reservations are found again: they wait in the lane.
        actions = min(due.actions, self.concurrency - self._running_actions())
        mutations = min(due.mutations, MUTATIONS - len(self._lane))
        if (actions <= 0 and mutations <= 0) or self._over.is_set():
            return []
        with store.transaction() as execute:
            return jobs.claim(
                execute, due.names, now, store.session_id, actions=max(0, actions), mutations=max(0, mutations)
            )

    def _running_actions(self) -> int:
        return sum(job.kind == Kind.ACTION for job in list(self._held.values()))

    def _sweep(self, store: Store, now: datetime.datetime) -> None:
        if self._swept is None or now - self._swept > SWEEP_EVERY:
            jobs.sweep(store, now)
            rate_limits.sweep(store, now)
            self._swept = now

    # ------------------------------------------------------------------------------------------ running
    def _start_all(self, claimed: list[Job]) -> None:
        for job in claimed:
            if job.id in self._held:
                continue
            self._held[job.id] = job
            if job.kind == Kind.ACTION:
                self._start(self._run_action(job))
            else:
                self._lane.append(job)
        if self._lane and (self._drain_task is None or self._drain_task.done()):
            self._drain_task = self._start(self._drain())

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _drain(self) -> None:
        """Mutations, one after another in the order of their times."""
        while self._lane and not self._over.is_set():
            job = self._lane.popleft()
            try:
                await self._run_mutation(job)
            finally:
                self._held.pop(job.id, None)
            if len(self._lane) in (0, FEW):
                self._awake.set()

    async def _run_mutation(self, job: Job) -> None:
        begun = time.monotonic()
        self._tell(Event("started", job))
        try:
            outcome = await self._mutate(job)
        except _Taken:
            return
        except asyncio.CancelledError:
            if self._is_ending():
                raise
            await self._settle(job, Outcome.failed(_canceled(job)), begun)
        except BaseException as error:  # also SystemExit: it must not end the loop, nor leave the job pending
            await self._settle(job, Outcome.failed(error), begun)
        else:
            self._tell(Event(JobState.SUCCESS, job, time.monotonic() - begun, outcome))

    async def _mutate(self, job: Job) -> Outcome:
        """Run it, also over keepers that end and a ledger that is locked for a while."""
        losses = 0
        for tries in range(1, STORE_TRIES + 1):
            try:
                return await self._mutate_once(job)
            except StoreError as error:
                # A lost commit may have been kept: then the row is no longer pending, and nothing is repeated.
                lost = error.code == "transaction"
                losses += lost
                hopeless = not (lost or error.retryable) or losses == MOST_LOSSES or tries == STORE_TRIES
                if hopeless or self._over.is_set():
                    raise
                await self._pause(tries)
        raise AssertionError("unreachable")

    async def _mutate_once(self, job: Job) -> Outcome:
        passing("before_job")
        function, args = self._prepared(job)
        outcome = Outcome(JobState.SUCCESS)

        def first(execute: Execute) -> None:
            if not jobs.is_reserved(execute, job):
                raise _Taken

        def last(execute: Execute, result: Any) -> None:
            nonlocal outcome
            passing("after_job")
            now = self._clock()
            outcome = Outcome(JobState.SUCCESS, result=function.result.to_json(result))
            jobs.settle_later(execute, job, self._kept(outcome), now)
            if job.cron is not None:
                advance(execute, job.cron, job.id, now)

        # Without a user it is nobody's, and not the app's: it was scheduled for nobody.
        user = job.user_id or None
        await self._runner.amutate(function, args, user_id=user, job_id=job.id, first=first, last=last)
        return outcome

    async def _run_action(self, job: Job) -> None:
        begun = time.monotonic()
        self._tell(Event("started", job))
        try:
            outcome = await self._act(job)
            try:
                await self._settle(job, outcome, begun)
            except asyncio.CancelledError:  # between two tries: how it ended has not changed by that
                await self._settle(job, outcome, begun)
        finally:
            self._held.pop(job.id, None)
            self._awake.set()

    async def _act(self, job: Job) -> Outcome:
        function: Function | None = None
        try:
            passing("before_job")
            function, args = self._prepared(job)
            result = await self._runner.act(function, args, user_id=job.user_id or None, job_id=job.id)
            passing("after_job")
            return Outcome(JobState.SUCCESS, result=function.result.to_json(result))
        except asyncio.CancelledError:
            return self._interrupted(job) if self._is_ending() else Outcome.failed(_canceled(job))
        except BaseException as error:  # whatever a user's function raises, SystemExit too: it must not end the loop
            if self._is_ending() and isinstance(error, CanceledError | JobInterruptedError):
                return self._interrupted(job)
            if function is not None and (seconds := _refused_for(error, function)) is not None:
                return Outcome.put_back(error, self._clock() + datetime.timedelta(seconds=seconds))
            pause = None
            if function is not None and job.attempts < job.max_attempts:
                pause = function.retry.pause(job.attempts, error, self._random)
            due_at = None if pause is None else self._clock() + datetime.timedelta(seconds=pause)
            return Outcome.failed(error, due_at)

    def _prepared(self, job: Job) -> tuple[Function, Any]:
        function = self._functions.find(job.name)
        if function.kind != job.kind:
            raise UnknownFunctionError(
                f"{job.name} was scheduled as {_an(job.kind)}, and is {_an(function.kind)} by now",
                cure="Schedule it again, or give the new function another name.",
            )
        return function, function.arguments.from_json(job.args)

    def _is_ending(self) -> bool:
        return self._over.is_set() or self._runner.closing or not self._loop.is_running()

    def _interrupted(self, job: Job) -> Outcome:
        error = JobInterruptedError(_INTERRUPTED)
        return Outcome.failed(error, self._clock() if job.attempts < job.max_attempts else None)

    # ------------------------------------------------------------------------------------------ how it ended
    async def _settle(self, job: Job, outcome: Outcome, begun: float) -> None:
        """Write it down, however long that takes: without it an action would look as if it still ran."""
        wanted, failures = outcome, 0
        while True:
            try:
                state = await _to_its_end(functools.partial(self._write, job, self._kept(outcome)))
                break
            except Exception as error:
                failures += 1
                if isinstance(error, StoreError) and (error.retryable or error.code == "transaction"):
                    if self._is_ending() and failures > 2:
                        return self._keep_unwritten(job, wanted, begun, error)
                    await self._pause(failures)
                elif outcome.result is None and outcome.error_code == "unwritable":
                    return self._keep_unwritten(job, wanted, begun, error)
                else:  # its result or its message is what cannot be written
                    outcome = Outcome(JobState.FAILED, error_code="unwritable", error_message=type(error).__name__)
        if state is None:  # settled by another, which took this process for dead
            return None
        kept = self._kept(outcome)
        if state is JobState.FAILED:
            _log.warning("%s failed: %s: %s", _name(job), kept.error_code, plain_text(kept.error_message or ""))
        elif state is JobState.PENDING:
            _log.info("%s is tried again: %s", _name(job), plain_text(kept.error_message or ""))
        self._tell(Event(state, job, time.monotonic() - begun, outcome))
        return None

    def _keep_unwritten(self, job: Job, outcome: Outcome, begun: float, error: Exception) -> None:
        _log.error("%s: how it ended could not be written: %s", _name(job), error)
        if job.kind == Kind.ACTION:  # of a mutation nothing was kept: it may run again
            self._unwritten[job.id] = (job, outcome, begun)
            self._write_at = time.monotonic() + WRITE_AGAIN

    def _with_writes(self, moment: datetime.datetime | None) -> datetime.datetime | None:
        """Try again to write what could not be written, if it is time; the next look, `moment` or earlier."""
        if not self._unwritten:
            return moment
        left = self._write_at - time.monotonic()
        if left <= 0:
            self._write_at, left = time.monotonic() + WRITE_AGAIN, WRITE_AGAIN
            for job, outcome, begun in list(self._unwritten.values()):
                self._held[job.id] = job  # before it leaves the others: it is always among one of them
                del self._unwritten[job.id]
                self._start(self._write_again(job, outcome, begun))
        again = self._clock() + datetime.timedelta(seconds=left)
        return again if moment is None else min(moment, again)

    async def _write_again(self, job: Job, outcome: Outcome, begun: float) -> None:
        try:
            await self._settle(job, outcome, begun)
        finally:
            self._held.pop(job.id, None)

    def _write(self, job: Job, outcome: Outcome) -> JobState | None:
        now = self._clock()
        with self._runner.store.transaction() as execute:
            state = jobs.settle(execute, job, outcome, now)
            if job.cron is not None and state not in (None, JobState.PENDING):
                advance(execute, job.cron, job.id, now)
        return state

    def _tell(self, event: Event) -> None:
        if self.report is not None:
            try:
                self.report(event)
            except Exception:
                _log.exception("what is told of jobs failed")


async def _to_its_end(call: Callable[[], T]) -> T:
    """What `call` gives, in a thread. Who is canceled meanwhile waits for it all the same."""
    # The executor's own future: a task would be canceled, too, when the loop is closed.
    work = asyncio.get_running_loop().run_in_executor(None, contextvars.copy_context().run, call)
    while True:
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if work.cancelled():
                raise


def _refused_for(error: BaseException, function: Function) -> float | None:
    """Seconds until an action that its own limit refused may begin; None: it did begin, or waiting does not help."""
    if not isinstance(error, LimitError) or error.code != "function_limit" or error.retry_after is None:
        return None
    trace = error.__traceback__  # of an action that it calls, the limit's refusal passes through its own handler
    while trace is not None:
        if trace.tb_frame.f_code is function.handler.__code__:
            return None
        trace = trace.tb_next
    return error.retry_after if math.isfinite(error.retry_after) else None


def _canceled(job: Job) -> CanceledError:
    return CanceledError(f"{job.name} raised CancelledError: something that it waited for was canceled")


def _earliest(due: Due, now: datetime.datetime, redefined: datetime.datetime | None = None) -> datetime.datetime | None:
    """The next look. A cron that is due and could not be begun must not make the loop spin."""
    cron = due.next_cron
    if cron is not None and cron <= now:
        cron = now + datetime.timedelta(seconds=1)
    return min((moment for moment in (due.next_job, cron, redefined) if moment is not None), default=None)


def _an(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _name(job: Job) -> str:
    return f"job {job.id} ({job.name})"
