"""One attempt of a scheduled batch, from its spec to the word of its end. Calls ``calling``, ``specs``, ``notices``.

Promises: an attempt goes on with the batch of the one before; who canceled the job is heard; its end is told before the
job is settled.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from ipyconvexai import errors
from ipyconvexai.application import App
from ipyconvexai.batch import calling, notices
from ipyconvexai.batch.specs import Spec, opened
from ipyconvexai.errors import BatchError, Error, InputError, JobInterruptedError, StoreError
from ipyconvexai.functions.changes import hub_of
from ipyconvexai.store.batch_rows import say
from ipyconvexai.store.clock import utc_now

__all__ = ["ACTION", "Attempt", "error_of", "heard", "stop_batches"]

ACTION = "ai.run_batch"
# By its code an error of a job's row is raised again. ApplicationError has an __init__ of its own.
_ERRORS: dict[str, type[Error]] = {
    kind.code: kind for name in errors.__all__ if (kind := getattr(errors, name)) is not errors.ApplicationError
}


class Attempt:
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
            with heard(self._app, self._notice, lambda: None):
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
                raise error_of(code, message)

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
                stop_batches(self._app, self._job)

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


@contextlib.contextmanager
def heard(current: App, notice: Any, ended: Any) -> Iterator[None]:
    unsubscribe = hub_of(current.store).subscribe(notice, ended)
    try:
        yield
    finally:
        unsubscribe()


def error_of(code: str | None, message: str | None) -> Error:
    return _ERRORS.get(code or "", BatchError)(
        message or "it failed", cure="ai.jobs(name='ai.run_batch') has its row.", code=code
    )


def stop_batches(current: App, key: str) -> None:
    """Whoever runs them hears it within two seconds."""
    sql = "SELECT id::VARCHAR FROM batches WHERE job_id = ?::UUID AND finished_at IS NULL"
    for (batch,) in current.store.read(sql, [key]):
        say(current.store, batch, "cancel")
