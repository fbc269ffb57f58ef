"""``ctx.scheduler``: functions that run later. Calls ``jobs``, ``registry`` and the store.

In a mutation a row travels with its transaction: the job exists only if that commits. In an action it is written at
once, and stays when the action fails later. Arguments are checked when something is scheduled, and the job runs as the
user who scheduled it.
"""

from __future__ import annotations

import asyncio
import datetime
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ipyconvexai.errors import InputError, NotAllowedError, TransactionError
from ipyconvexai.functions import jobs
from ipyconvexai.functions.registry import Kind, of
from ipyconvexai.ids import new_id
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.link import Execute, Store

__all__ = [
    "ActionScheduler",
    "Author",
    "MutationScheduler",
    "SyncActionScheduler",
    "moment_after",
    "moment_of",
    "new_job",
]

WRITES = 5  # tries of an action's row whose commit may have been lost; it is recognised by its id

Clock = Callable[[], datetime.datetime]  # naive UTC


def _nothing() -> None:
    pass


def moment_after(now: datetime.datetime, seconds: float) -> datetime.datetime:
    """`now` and `seconds`.

    Raises:
        InputError: no delay: negative, infinite, not a number, or beyond the calendar.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        kind = type(seconds).__name__
        raise InputError(f"a delay is a number of seconds, and not {kind}", cure="Use for example run_after(60, fn).")
    if not math.isfinite(seconds) or seconds < 0:
        raise InputError(f"{seconds!r} s is no delay", cure="Use 0 (at once) or a positive number of seconds.")
    try:
        return now + datetime.timedelta(seconds=seconds)
    except OverflowError:
        raise InputError(f"{seconds!r} s from now is beyond the calendar", cure="Use a shorter delay.") from None


def moment_of(when: datetime.datetime) -> datetime.datetime:
    """`when` as naive UTC; without a time zone it is taken as UTC.

    Raises:
        InputError: it is no datetime.
    """
    if not isinstance(when, datetime.datetime):
        raise InputError(
            f"run_at() takes a datetime, and not {type(when).__name__}",
            cure="For example: datetime.now(UTC) + timedelta(hours=1); for a delay in seconds use run_after().",
        )
    try:
        return when if when.tzinfo is None else when.astimezone(datetime.UTC).replace(tzinfo=None)
    except (OverflowError, ValueError):
        raise InputError(f"{when} is beyond the calendar", cure="Use an earlier time.") from None


def new_job(
    fn: Any,
    args: Mapping[str, Any],
    *,
    at: datetime.datetime,
    now: datetime.datetime,
    user_id: str | None,
    scheduled_by: str | None = None,
) -> jobs.NewJob:
    """The row of a call of `fn` (a decorated mutation or action, its name, or a ``Function``) at the instant `at`.

    Raises:
        UnknownFunctionError: nothing of that name is defined here.
        NotAllowedError: it is a query.
        ArgumentsError: `args` do not fit its type hints, or hold a key.
    """
    function = of(fn)
    if function.kind is Kind.QUERY:
        raise NotAllowedError(
            f"{function.name} is a query, and only mutations and actions can be scheduled",
            cure="Call it from a mutation or an action, and schedule that.",
        )
    text = jobs.arguments_text(function, args)
    most = function.retry.attempts if function.kind is Kind.ACTION else 1
    return jobs.NewJob(
        new_id(), function.name, str(function.kind), text, user_id, now, at, most, scheduled_by=scheduled_by
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who schedules, and by which rules. `job_id`: the job that it runs as, if it does."""

    user_id: str | None
    job_id: str | None = None
    clock: Clock = utc_now
    keeps_content: bool = True  # False with record="metadata": arguments hold no texts then

    def job_after(self, seconds: float, fn: Any, args: Mapping[str, Any]) -> jobs.NewJob:
        now = self.clock()
        return self._job(fn, args, moment_after(now, seconds), now)

    def job_at(self, when: datetime.datetime, fn: Any, args: Mapping[str, Any]) -> jobs.NewJob:
        return self._job(fn, args, moment_of(when), self.clock())

    def _job(self, fn: Any, args: Mapping[str, Any], at: datetime.datetime, now: datetime.datetime) -> jobs.NewJob:
        job = new_job(fn, args, at=at, now=now, user_id=self.user_id, scheduled_by=self.job_id)
        if not self.keeps_content:
            jobs.check_without_content(job.name, job.args)
        return job


class MutationScheduler:
    """``ctx.scheduler`` of a mutation."""

    def __init__(self, execute: Execute, author: Author) -> None:
        self._execute = execute
        self._author = author
        self.used = False  # whether something was scheduled: after the commit the scheduler is to be woken

    def run_after(self, seconds: float, fn: Any, /, **args: Any) -> str:
        """Run `fn` in `seconds` (0: as soon as this mutation has committed); gives the job's id.

        Raises:
            InputError: a negative or infinite delay.
            ArgumentsError: `args` do not fit, hold a key, or, where no content is kept, a text.
        """
        return self._add(self._author.job_after(seconds, fn, args))

    def run_at(self, when: datetime.datetime, fn: Any, /, **args: Any) -> str:
        """Run `fn` at `when`; gives the job's id. Without a time zone, `when` is UTC."""
        return self._add(self._author.job_at(when, fn, args))

    def cancel(self, job_id: str, /) -> None:
        """A pending job never runs; one in progress keeps running, but what it schedules is canceled; else nothing.

        Raises:
            NotAllowedError: it is the job that this mutation runs as.
        """
        key, own = jobs.job_id(job_id), self._author.job_id
        if own is not None and key == jobs.job_id(own) and jobs.is_pending(self._execute, key):
            raise NotAllowedError(
                "a mutation cannot cancel itself", cure="Raise an error to undo what it did, or return early."
            )
        jobs.cancel(self._execute.later, key, self._author.clock())
        self.used = True

    def _add(self, job: jobs.NewJob) -> str:
        jobs.insert(self._execute.later, job)
        self.used = True
        return job.id


class SyncActionScheduler:
    """``ctx.scheduler`` of a plain ``def`` action. `wake` is called after each commit."""

    def __init__(self, store: Store, author: Author, wake: Callable[[], None] = _nothing) -> None:
        self._store = store
        self._author = author
        self._wake = wake

    def run_after(self, seconds: float, fn: Any, /, **args: Any) -> str:
        """Run `fn` in `seconds`; gives the job's id. It is scheduled at once, whatever becomes of this action."""
        return self._add(self._author.job_after(seconds, fn, args))

    def run_at(self, when: datetime.datetime, fn: Any, /, **args: Any) -> str:
        """Run `fn` at `when`; gives the job's id. Without a time zone, `when` is UTC."""
        return self._add(self._author.job_at(when, fn, args))

    def cancel(self, job_id: str, /) -> None:
        """A pending job never runs; one in progress keeps running, but what it schedules is canceled; else nothing."""
        key, now = jobs.job_id(job_id), self._author.clock()
        self._write(lambda execute, again: jobs.cancel(execute.later, key, now))

    def _add(self, job: jobs.NewJob) -> str:
        def insert(execute: Execute, again: bool) -> None:
            if not (again and jobs.is_there(execute, job.id)):
                jobs.insert(execute.later, job)

        self._write(insert)
        return job.id

    def _write(self, change: Callable[[Execute, bool], None]) -> None:
        """`change` may be repeated (then with True): of a lost commit one does not know whether it was kept."""
        for tries in range(WRITES):
            try:
                with self._store.transaction() as execute:
                    change(execute, tries > 0)
            except TransactionError:
                if tries == WRITES - 1:
                    raise
            else:
                break
        self._wake()


class ActionScheduler:
    """``ctx.scheduler`` of an async action: the same, awaited."""

    def __init__(self, store: Store, author: Author, wake: Callable[[], None] = _nothing) -> None:
        self._sync = SyncActionScheduler(store, author, wake)

    async def run_after(self, seconds: float, fn: Any, /, **args: Any) -> str:
        """Run `fn` in `seconds`; gives the job's id. It is scheduled at once, whatever becomes of this action."""
        return await asyncio.to_thread(self._sync.run_after, seconds, fn, **args)

    async def run_at(self, when: datetime.datetime, fn: Any, /, **args: Any) -> str:
        """Run `fn` at `when`; gives the job's id. Without a time zone, `when` is UTC."""
        return await asyncio.to_thread(self._sync.run_at, when, fn, **args)

    async def cancel(self, job_id: str, /) -> None:
        """A pending job never runs; one in progress keeps running, but what it schedules is canceled; else nothing."""
        await asyncio.to_thread(self._sync.cancel, job_id)
