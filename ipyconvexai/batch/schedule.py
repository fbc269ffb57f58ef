"""``ai.schedule``: batches that run later, here or in ``ipyconvexai worker``, and ``Job``, by which they are known.

A scheduled batch is a run of the built-in action ``ai.run_batch``; one that is repeated is a cron of it. Promises: what
cannot work is an error now, and not at night; a killed process's batch is taken up again by another, and what was
answered is not paid again; its end and its failure are told to whom they should be, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import math
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ipyconvexai import errors
from ipyconvexai.application import App, app, opened_over
from ipyconvexai.batch import calling, notices, stored_frames
from ipyconvexai.batch.specs import Spec, checked_options, keep_data, kind_of, look_at, opened, plain
from ipyconvexai.errors import (
    BatchError,
    CanceledError,
    DeadlockError,
    Error,
    InputError,
    JobInterruptedError,
    NotFoundError,
    StoreError,
)
from ipyconvexai.functions import crons, jobs
from ipyconvexai.functions.changes import hub_of
from ipyconvexai.functions.crons import Cron
from ipyconvexai.functions.registry import of
from ipyconvexai.functions.schedules import Expression, Interval, Schedule
from ipyconvexai.functions.scheduling import moment_after, moment_of, new_job
from ipyconvexai.ids import new_id
from ipyconvexai.relation import Relation
from ipyconvexai.render import plain_text
from ipyconvexai.store.batch_rows import say
from ipyconvexai.store.clock import utc_now

__all__ = ["Job", "job", "schedule"]

ACTION = "ai.run_batch"
BEAT = 0.5  # seconds, on Windows, where a wait without a limit cannot be interrupted
LONGEST_NAME = 200  # characters
_OVER = ("success", "failed", "canceled")
# By its code an error of a job's row is raised again. ApplicationError has an __init__ of its own.
_ERRORS: dict[str, type[Error]] = {
    kind.code: kind for name in errors.__all__ if (kind := getattr(errors, name)) is not errors.ApplicationError
}


def schedule(
    fn: Any,
    data: Any,
    *args: Any,
    at: datetime.datetime | None = None,
    after: float | datetime.timedelta | None = None,
    every: float | datetime.timedelta | None = None,
    cron: str | None = None,
    tz: str = "UTC",
    notify: str | Sequence[str] | None = None,
    name: str | None = None,
    **options: Any,
) -> Job:
    """Run a batch later, in this process or in any ``ipyconvexai worker`` over the same ledger; at once where no time
    is given.

        job = ai.schedule(ai.summarize, "papers/*.parquet", "abstract", cron="0 2 * * *", notify="ada@example.org")

    Args:
        fn: ``ai.summarize``, ``ai.map`` or ``ai.reduce``.
        data: a frame, whose columns that are needed are kept in the ledger; or what is read each time it runs: a path
            or glob, SQL over the ledger, an ``@ai.query`` function that gives rows.
        *args, **options: what `fn` takes after the frame. What is wrong with them is an error now.
        at: when; without a time zone it is UTC.
        after: in so many seconds.
        every: now and then again, each so many seconds. What is answered already is not sent again.
        cron: by a cron expression: minute, hour, day, month, weekday, in the time zone `tz`.
        notify: who is told when it is done or has failed: an e-mail address (through Resend: RESEND_API_KEY,
            RESEND_DOMAIN), the URL of a webhook, "env:NAME" for one in an environment variable, or a list of these.
        name: by which it is known; of what is repeated, another one of this name is replaced.

    Raises:
        InputError, UnknownColumnError, ConfigurationError: it could not work; nothing is scheduled.
        QueryError: wrong SQL.
    """
    kind, current, now = kind_of(fn), app(), utc_now()
    rhythm, moment = _times(at, after, every, cron, tz, now)
    key = new_id()
    repeated = rhythm is not None
    kept = look_at(current, data, [*args, *options.values()], key, repeated=repeated)
    spec = Spec(
        id=key,
        name="",
        kind=kind,
        data=kept.data,
        args=[plain(f"argument {number}", value) for number, value in enumerate(args, 1)],
        options=checked_options(kind, options),
        notify=notices.addresses(notify),
    )
    spec = replace(spec, name=_name(name, spec))
    if kept.sample is not None:
        calling.check(current, spec, kept.sample)
    stored_frames.forget_unused(current.store, now)
    if rhythm is None:
        made = Job(current, _once(current, spec, kept, moment, now))
    else:
        made = Job(current, _repeat(current, spec, kept, rhythm, now, named=name is not None))
    current.functions.start()
    current.functions.scheduler.wake()
    return made


def _once(current: App, spec: Spec, kept: Any, at: datetime.datetime, now: datetime.datetime) -> str:
    made = new_job(ACTION, {"spec": spec.to_dict()}, at=at, now=now, user_id=current.settings.user)
    keep_data(current, kept)
    with current.store.transaction() as execute:
        jobs.insert(execute.later, replace(made, id=spec.id))
    return spec.id


def _repeat(current: App, spec: Spec, kept: Any, rhythm: Schedule, now: datetime.datetime, *, named: bool) -> str:
    """Under its name: running the cell again changes what is there. Where the rhythm is the same, its next time is."""
    sql = "SELECT function, args, next_time IS NOT NULL FROM crons WHERE name = ?"
    rows = current.store.read(sql, [spec.name])
    if rows and rows[0][0] != ACTION:
        raise InputError(
            f"{spec.name!r} is the name of a cron that runs {rows[0][0]}", cure='Use another name: name="...".'
        )
    if rows and (before := _spec_of(rows[0][1])) is not None:
        if rows[0][2] and not named and (before.args, before.options) != (spec.args, spec.options):
            raise InputError(
                f"there is {spec.name!r} already, with other options",
                cure='Give this one a name: name="..."; or stop that one with ai.cancel(its name).',
            )
        spec = replace(spec, id=before.id)  # who has its Job keeps it; the rows are kept under an id of their own
    function = of(ACTION)
    text = jobs.arguments_text(function, {"spec": spec.to_dict()})
    keep_data(current, kept)
    with current.store.transaction() as execute:
        crons.write_cron(execute, Cron(spec.name, function, rhythm, text), current.settings.user, now)
    return spec.id


def _times(
    at: Any, after: Any, every: Any, cron: Any, tz: str, now: datetime.datetime
) -> tuple[Schedule | None, datetime.datetime]:
    given = [
        word for word, value in (("at", at), ("after", after), ("every", every), ("cron", cron)) if value is not None
    ]
    if len(given) > 1:
        raise InputError(f"{given[0]}= and {given[1]}= contradict each other", cure="Give one of them, or none.")
    if tz != "UTC" and cron is None:
        raise InputError("tz= is the time zone of cron=", cure="A datetime for at= carries its own.")
    if cron is not None:
        return Expression(cron, tz), now
    if every is not None:
        return Interval(_seconds("every", every)), now
    if after is not None:
        return None, moment_after(now, _seconds("after", after))
    return None, now if at is None else moment_of(at)


def _seconds(word: str, value: Any) -> float:
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{word}={value!r:.80} is no time", cure=f"Use seconds or a timedelta: {word}=3600.")
    return float(value)


def _name(name: Any, spec: Spec) -> str:
    if name is None:
        words = [f"ai.{spec.kind}", *(str(arg) for arg in spec.args[:1]), "of", spec.source]
        return plain_text(" ".join(" ".join(words).split()))[:LONGEST_NAME]
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME:
        raise InputError(f"name={name!r:.80} is no name", cure=f"Use a text of at most {LONGEST_NAME} characters.")
    return name.strip()


def _spec_of(args: str) -> Spec | None:
    """What stands in a row's arguments; None where it was removed."""
    try:
        return Spec.of(json.loads(args)["spec"])
    except (KeyError, ValueError, TypeError):
        return None


# ---------------------------------------------------------------------------------------------- jobs
def job(id: str) -> Job:
    """A scheduled batch by its id, or by the name of one that is repeated; also from another process.

    Raises:
        NotFoundError: there is none. Those that are over stay for 7 days; their results are in ``batch_results``.
    """
    current = app()
    made = Job(current, str(Job(current, str(id))._row()["id"]))
    current.functions.start()
    return made


class Job:
    """A batch that runs later, or again and again; ``ai.schedule`` and ``ai.job`` give it."""

    def __init__(self, owner: App, id: str) -> None:
        self._app = owner
        self._id = id

    # ------------------------------------------------------------------------------------------ how it stands
    def _row(self) -> dict[str, Any]:
        """The row of the job, or that of the cron, with its spec."""
        store = self._app.store
        names = "id name state args error_code error_message user_id".split()
        sql = (
            "SELECT id::VARCHAR, name, state, args, error_code, error_message, user_id FROM scheduled_functions"
            " WHERE id = try_cast(? AS UUID) AND name = ?"
        )
        if rows := store.read(sql, [self._id, ACTION]):
            row = dict(zip(names, rows[0], strict=True))
            return {**row, "repeated": False, "spec": _spec_of(row["args"])}
        sql = "SELECT name, next_time, args FROM crons WHERE function = ? AND (contains(args, ?) OR name = ?)"
        for name, next_time, args in store.read(sql, [ACTION, self._id, self._id]):
            spec = _spec_of(args)
            if spec is not None and self._id in (spec.id, name):
                return {"id": spec.id, "name": name, "state": "repeating" if next_time else "stopped",
                        "repeated": True, "spec": spec}  # fmt: skip
        raise NotFoundError(
            f"no scheduled batch has the id {plain_text(self._id)[:80]!r}",
            cure="ai.jobs(name='ai.run_batch') and ai.crons() list them; those that are over stay for 7 days,"
            " and their results are in the view batch_results.",
        )

    @property
    def id(self) -> str:
        return self._id

    @property
    def name(self) -> str:
        row = self._row()
        return row["spec"].name if row["spec"] is not None else str(row["name"])

    @property
    def state(self) -> str:
        """pending, in_progress, success, failed or canceled; of what is repeated: repeating or stopped."""
        return str(self._row()["state"])

    @property
    def error(self) -> str | None:
        """What it failed with, or its newest run that is over."""
        row = self._newest()
        return None if row is None or row[2] is None else plain_text(f"{row[2]}: {row[3]}")

    @property
    def batch_ids(self) -> list[str]:
        """The ids of its batches in ``ai.batches()``, newest first."""
        sql = (
            "SELECT id::VARCHAR FROM batches WHERE job_id IN (SELECT unnest(?::UUID[]))"
            " ORDER BY created_at DESC, id DESC"
        )
        return [key for (key,) in self._app.store.read(sql, [[run[0] for run in self._runs()]])]

    @property
    def runs(self) -> Relation:
        """Its runs, newest first, with what they did."""
        return Relation(self._app.records.arrow(_RUNS_SQL, {"ids": [run[0] for run in self._runs()]}), caption="runs")

    def _runs(self) -> list[tuple[Any, ...]]:
        """(id, state, error code, error message), newest first."""
        row = self._row()
        where, value = ("cron = ?", row["name"]) if row["repeated"] else ("id = ?::UUID", row["id"])
        sql = (
            "SELECT id::VARCHAR, state, error_code, error_message FROM scheduled_functions"
            f" WHERE {where} AND name = ? ORDER BY created_at DESC, id DESC"
        )
        return self._app.store.read(sql, [value, ACTION])

    def _newest(self) -> tuple[Any, ...] | None:
        """The newest run that is over."""
        return next((run for run in self._runs() if run[1] in _OVER), None)

    # ------------------------------------------------------------------------------------------ waiting
    def wait(self, timeout: float | None = None) -> str:
        """Wait until it is over (of what is repeated: until one run is), `timeout` seconds at most; gives the state.

        Whether it is over by then, the state says. Can be interrupted; it runs on.
        """
        current = self._app
        if current.loop.is_current():
            raise DeadlockError(
                "a job was waited for on the loop that would have to run it",
                cure="Wait in a thread: asyncio.to_thread.",
            )
        current.functions.start()
        woken, end = threading.Event(), math.inf if timeout is None else time.monotonic() + timeout

        def notice(tables: set[str]) -> None:
            if not tables or "scheduled_functions" in tables:
                woken.set()

        with _heard(current, notice, woken.set):
            while self._newest() is None and self.state != "stopped":
                left = end - time.monotonic()
                if left <= 0 or current.is_closed:
                    break
                woken.wait(_longest(left))
                woken.clear()
        return self.state

    def result(self, timeout: float | None = None) -> Any:
        """What the batch gives, when it is over: rows that were kept with their new columns, as the kind of frame that
        went in; for a path a DuckDB relation; for SQL and queries an ``ai.Relation``. Of what is repeated: the newest
        run that is over. Nothing is sent.

        Raises:
            Error: what it failed with; CanceledError: it was canceled.
            TimeoutError: it is not over after `timeout` seconds.
        """
        self.wait(timeout)
        newest, row = self._newest(), self._row()
        if newest is None:
            if row["state"] == "stopped":
                raise CanceledError("it was stopped before its first run", cure="Schedule it again.")
            raise TimeoutError(f"job {row['id']} is {row['state']}")
        key, state, code, message = newest
        if state == "canceled":
            raise CanceledError(
                f"job {key} was canceled", cure="Schedule it again: what is answered is not sent again."
            )
        if state == "failed":
            raise _error(code, message)
        if row["spec"] is None:
            raise NotFoundError(
                "what this batch was over was removed by a purge", cure="What is left is in the view batch_results."
            )
        batch = self._app.store.read(
            "SELECT id::VARCHAR FROM batches WHERE job_id = ?::UUID ORDER BY created_at DESC, id DESC LIMIT 1", [key]
        )
        data = opened(self._app, row["spec"].data)
        found = data if data is None else calling.recall(self._app, row["spec"], data, batch[0][0] if batch else key)
        if {"sql", "query"} & set(row["spec"].data):
            return _as_relation(found)
        return found

    def cancel(self) -> str:
        """Run it never, or no more; gives its state from now on. Of what runs, what is being sent is still recorded.

        One that is repeated is stopped, and so is a run that was begun.
        """
        row, store = self._row(), self._app.store
        if row["repeated"]:
            crons.stop_cron(store, row["name"])
        for key, state, *_ in self._runs():
            if state not in _OVER:
                with store.transaction() as execute:
                    jobs.cancel(execute.later, key, utc_now())
                _stop_batches(self._app, key)
        self._app.functions.scheduler.wake()
        return self.state

    # ------------------------------------------------------------------------------------------ shown
    def __repr__(self) -> str:
        try:
            row = self._row()
        except Error as error:
            return f"<Job {plain_text(self._id)[:80]}: {plain_text(error.message)}>"
        name = row["spec"].name if row["spec"] is not None else row["name"]
        told = "".join(f", tells {notices.shown(one)}" for one in (row["spec"].notify if row["spec"] else ()))
        what = self.error
        failed = f" ({what})" if what and row["state"] in ("failed", "repeating") else ""
        return plain_text(f"<Job {row['id']} {name}: {row['state']}{failed}{told}>").replace("\n", " ")

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": repr(self)}

    # ------------------------------------------------------------------------------------------ run, by ai.run_batch
    @staticmethod
    async def perform(ctx: Any, spec: dict[str, Any]) -> dict[str, Any]:
        """Run a scheduled batch as the job of `ctx`, and tell of its end; for the action ``ai.run_batch``."""
        return await _Run(opened_over(ctx._runner.store), Spec.of(spec), ctx.job_id, ctx.user_id).to_its_end()


_RUNS_SQL = """
SELECT j.id::VARCHAR AS id, j.state, j.scheduled_time, j.started_at, j.finished_at, j.attempts, b.rows, b.errors,
       b.known, b.requests, b.cost_usd, j.error_code, j.error_message, b.ids AS batch_ids
FROM scheduled_functions j LEFT JOIN (
    SELECT job_id, max_by(total_rows, created_at) AS rows, max_by(failed, created_at) AS errors,
           max_by(known, created_at) AS known, sum(requests)::BIGINT AS requests, sum(cost_usd) AS cost_usd,
           list(id::VARCHAR ORDER BY created_at DESC) AS ids
    FROM batches GROUP BY job_id
) b ON b.job_id = j.id
WHERE j.id IN (SELECT unnest($ids::UUID[])) ORDER BY j.created_at DESC, j.id DESC
"""


@contextlib.contextmanager
def _heard(current: App, notice: Any, ended: Any) -> Iterator[None]:
    unsubscribe = hub_of(current.store).subscribe(notice, ended)
    try:
        yield
    finally:
        unsubscribe()


def _longest(left: float) -> float | None:
    if sys.platform == "win32":
        return min(left, BEAT)
    return None if math.isinf(left) else min(left, threading.TIMEOUT_MAX)


def _error(code: str | None, message: str | None) -> Error:
    return _ERRORS.get(code or "", BatchError)(
        message or "it failed", cure="ai.jobs(name='ai.run_batch') has its row.", code=code
    )


def _as_relation(found: Any) -> Any:
    """A table as ours; what is none, as a reduction's text, as it is. None: of no rows nobody knows the columns."""
    import io

    import pyarrow as pa

    if found is None:
        return Relation.of_rows([], [])
    if not isinstance(found, pa.Table):
        return found
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, found.schema) as stream:
        stream.write_table(found)
    return Relation(sink.getvalue(), caption="results")


def _stop_batches(current: App, key: str) -> None:
    """Whoever runs them hears it within two seconds."""
    sql = "SELECT id::VARCHAR FROM batches WHERE job_id = ?::UUID AND finished_at IS NULL"
    for (batch,) in current.store.read(sql, [key]):
        say(current.store, batch, "cancel")


# ---------------------------------------------------------------------------------------------- one run
class _Run:
    """One attempt of a job."""

    def __init__(self, owner: App, spec: Spec, job_id: str | None, user_id: str | None) -> None:
        if job_id is None:
            raise InputError("ai.run_batch runs as a job only", cure="Use ai.schedule(...).")
        self._app = owner
        self._spec = spec
        self._job = job_id
        self._user = user_id

    async def to_its_end(self) -> dict[str, Any]:
        try:
            with _heard(self._app, self._notice, lambda: None):
                await self._work()
            return await asyncio.to_thread(self._end, None)
        except Exception as error:
            if self._goes_on(error):
                raise
            await asyncio.to_thread(self._end, error)
            raise _final(error) from error

    async def _work(self) -> None:
        row = await asyncio.to_thread(self._attempts)
        if row[0] >= row[1]:
            raise JobInterruptedError(
                f"{row[0] - 1} processes that ran it ended before it did", cure="Look for what ends them: memory?"
            )
        data = await asyncio.to_thread(opened, self._app, self._spec.data)
        if data is not None:
            resume = await asyncio.to_thread(self._before) if row[0] > 1 else None
            await calling.run(self._app, self._spec, data, self._job, resume)
            await asyncio.to_thread(self._check_batch)

    def _check_batch(self) -> None:
        """A batch that gave up, for no key or as somebody wished, gives a frame of errors; its job has failed."""
        sql = (
            "SELECT state, error_code, error_message FROM batches WHERE job_id = ?::UUID"
            " ORDER BY created_at DESC, id DESC LIMIT 1"
        )
        for state, code, message in self._app.store.read(sql, [self._job]):
            if state in ("failed", "canceled"):
                raise _error(code, message)

    def _attempts(self) -> tuple[int, int]:
        sql = "SELECT attempts, max_attempts FROM scheduled_functions WHERE id = ?::UUID"
        attempts, most = self._app.store.read(sql, [self._job])[0]
        return attempts, most

    def _before(self) -> str | None:
        """The batch of an attempt before, which goes on: with its budget. What is read anew may be other data."""
        if "frame" not in self._spec.data:
            return None
        sql = "SELECT id::VARCHAR FROM batches WHERE job_id = ?::UUID ORDER BY created_at DESC, id DESC LIMIT 1"
        rows = self._app.store.read(sql, [self._job])
        return rows[0][0] if rows else None

    def _goes_on(self, error: Exception) -> bool:
        """Whether the job is begun again after `error`: its process ends, or the ledger is busy."""
        return self._app.functions.runner.closing or (isinstance(error, StoreError) and error.retryable)

    # ------------------------------------------------------------------------------------------ canceled meanwhile
    def _notice(self, tables: set[str]) -> None:
        """In the hub's thread: hand over and return."""
        if not tables or tables & {"scheduled_functions", "batches"}:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                self._app.loop.loop.call_soon_threadsafe(self._look_soon)

    def _look_soon(self) -> None:
        self._looking = asyncio.get_running_loop().run_in_executor(None, self._stop_if_canceled)

    def _stop_if_canceled(self) -> None:
        with contextlib.suppress(Error):  # the next change will do
            sql = "SELECT 1 FROM scheduled_functions WHERE id = ?::UUID AND state = 'canceled'"
            if self._app.store.read(sql, [self._job]):
                _stop_batches(self._app, self._job)

    # ------------------------------------------------------------------------------------------ its end
    def _end(self, error: Exception | None) -> dict[str, Any]:
        """Tell of it; gives what it did. Blocking."""
        facts = self._facts(error)
        notices.tell(self._app.store, self._job, self._spec.notify, facts, self._user, utc_now())
        self._app.functions.scheduler.wake()
        return {name: facts[name] for name in ("state", "rows", "errors", "requests", "tokens", "cost_usd")}

    def _facts(self, error: Exception | None) -> dict[str, Any]:
        done = self._app.store.read(_FACTS_SQL, [self._job])[0]
        rows, failed, requests, tokens, cost, state, said = done
        begun = self._app.store.read("SELECT started_at FROM scheduled_functions WHERE id = ?::UUID", [self._job])
        if error is not None:
            said = error.message if isinstance(error, Error) else f"{type(error).__name__}: {error}"
        return {
            "job": self._job,
            "name": self._spec.name,
            "kind": self._spec.kind,
            "state": "failed" if error is not None else state or "done",
            "rows": rows,
            "errors": failed,
            "requests": requests,
            "tokens": tokens,
            "cost_usd": cost,
            "started_at": None if not begun or begun[0][0] is None else f"{begun[0][0].isoformat()}Z",
            "finished_at": f"{utc_now().isoformat()}Z",
            "error": said,
        }


_FACTS_SQL = """
SELECT coalesce(max_by(total_rows, created_at), 0)::BIGINT, coalesce(max_by(failed, created_at), 0)::BIGINT,
       coalesce(sum(requests), 0)::BIGINT, coalesce(sum(input_tokens + output_tokens), 0)::BIGINT,
       sum(cost_usd), max_by(state, created_at), max_by(error_message, created_at)
FROM batches WHERE job_id = ?::UUID
"""


def _final(error: Exception) -> Exception:
    """`error` as one that ends the job: what failed is not begun again, and its failure was told."""
    if isinstance(error, Error):
        error.retryable = False
        return error
    return BatchError(f"{type(error).__name__}: {error}"[:2000], cure="", code=type(error).__name__)
