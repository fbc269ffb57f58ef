"""``ai.job`` and ``Job``: a scheduled batch, or one that is repeated, as anybody may ask of it, in any process.

Calls ``performing``, ``calling`` and the store. Promises: what it says is what the ledger says at that moment; waiting
is no polling, can be interrupted and stops nothing; results are made again of the ledger, and nothing is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import threading
import time
from concurrent.futures import Future
from typing import Any

from ipyconvexai.application import App, app, opened_over
from ipyconvexai.batch import calling, notices
from ipyconvexai.batch.performing import ACTION, Attempt, error_of, heard, stop_batches
from ipyconvexai.batch.provider_batches import tend
from ipyconvexai.batch.specs import Spec, opened, spec_of
from ipyconvexai.errors import CanceledError, DeadlockError, Error, NotFoundError
from ipyconvexai.functions import crons, jobs
from ipyconvexai.relation import Relation
from ipyconvexai.render import plain_text, table_html
from ipyconvexai.store.clock import utc_now

__all__ = ["Job", "job"]

BEAT = 0.5  # seconds, on Windows, where a wait without a limit cannot be interrupted
_OVER = ("success", "failed", "canceled")

_followers: dict[str, Future[None]] = {}  # by job: what keeps the output up to date in which it was shown last


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
            return {**row, "repeated": False, "spec": spec_of(row["args"])}
        sql = "SELECT name, next_time, args FROM crons WHERE function = ? AND (contains(args, ?) OR name = ?)"
        for name, next_time, args in store.read(sql, [ACTION, self._id, self._id]):
            spec = spec_of(args)
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

        with heard(current, notice, woken.set):
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
            raise error_of(code, message)
        if row["spec"] is None:
            raise NotFoundError(
                "what this batch was over was removed by a purge", cure="What is left is in the view batch_results."
            )
        batch = self._app.store.read(
            "SELECT id::VARCHAR FROM batches WHERE job_id = ?::UUID ORDER BY created_at DESC, id DESC LIMIT 1", [key]
        )
        if not self._app.settings.keeps_content:
            raise NotFoundError(
                'this ledger keeps no answers (record="metadata")',
                cure=f"They are in the file that it wrote: {row['spec'].options.get('output')}.",
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
                stop_batches(self._app, key)
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

    def _ipython_display_(self) -> None:
        """One output, kept up to date until the job is over, or is shown again."""
        from IPython.display import display

        from ipyconvexai.hearing import in_kernel

        if not in_kernel():
            print(repr(self))
            return
        show: Any = display  # IPython has no types for it
        shown = self._bundle()
        handle = show(shown, raw=True, display_id=True)
        if (former := _followers.pop(self._id, None)) is not None:
            former.cancel()
        # The task inherits this cell's context, by which ipykernel knows to which cell an output belongs.
        _followers[self._id] = self._app.loop.submit(self._follow(handle, shown))

    def _bundle(self) -> dict[str, str]:
        """How it stands: a row of a table, and the line of ``repr``."""
        try:
            row, runs = self._row(), Relation(self._app.records.arrow(_RUNS_SQL, {"ids": [r[0] for r in self._runs()]}))
        except Error:  # repr tells
            return {"text/plain": repr(self)}
        newest = dict(zip(runs.columns, next(iter(runs), ()), strict=False))
        facts = {
            "job": row["spec"].name if row["spec"] is not None else row["name"],
            "state": row["state"],
            **({"newest run": newest.get("state")} if row["repeated"] else {}),
            **{name: newest.get(name) for name in ("scheduled_time", "started_at", "finished_at")},
            **{name: newest.get(name) for name in ("rows", "errors", "requests", "cost_usd", "error_message")},
            "id": row["id"],
        }
        known = {name: value for name, value in facts.items() if value is not None}
        table = table_html(list(known), [list(known.values())])
        return {"text/html": table, "text/plain": repr(self)}

    async def _follow(self, handle: Any, shown: dict[str, str]) -> None:
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(changed.set)

        def notice(tables: set[str]) -> None:
            if not tables or tables & {"scheduled_functions", "batches", "crons"}:
                wake()

        try:
            with heard(self._app, notice, wake):
                while not self._app.is_closed:
                    bundle = await asyncio.to_thread(self._bundle)
                    if bundle != shown:
                        shown = bundle
                        handle.update(bundle, raw=True)
                    if await asyncio.to_thread(self._is_over):
                        return
                    await changed.wait()
                    changed.clear()
        except Error:  # the ledger is not there any more: what is shown stays
            return

    def _is_over(self) -> bool:
        return self._row()["state"] in (*_OVER, "stopped")

    # ------------------------------------------------------------------------------------------ run, by ai.run_batch
    @staticmethod
    async def perform(ctx: Any, spec: dict[str, Any]) -> dict[str, Any]:
        """Run a scheduled batch as the job of `ctx`, and tell of its end; for the action ``ai.run_batch``."""
        return await Attempt(opened_over(ctx._runner.store), Spec.of(spec), ctx.job_id, ctx.user_id).to_its_end()

    @staticmethod
    async def tend(ctx: Any, id: str) -> float | None:
        """Look at a provider's batch once; for the action ``ai.tend_provider_batch``."""
        return await tend(opened_over(ctx._runner.store), id)


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


def _longest(left: float) -> float | None:
    if sys.platform == "win32":
        return min(left, BEAT)
    return None if math.isinf(left) else min(left, threading.TIMEOUT_MAX)


def _as_relation(found: Any) -> Any:
    """A table as ours; what is none, as a reduction's text, as it is. None: of no rows nobody knows the columns."""
    import pyarrow as pa

    if found is None:
        return Relation.of_rows([], [])
    if not isinstance(found, pa.Table):
        return found
    return Relation.of_table(found, caption="results")
