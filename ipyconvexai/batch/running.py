"""One run of a batch, whatever it asks: endpoint, ledger rows, budget, engine, progress. Calls the runner.

An operation (``summarize``, ``map``, ``reduce``) says what is asked; who runs it gives the chunks of inputs and takes
them back with their results. Promises: nothing is sent before all options are checked; however the run ends, its row
in ``batches`` says so, and running it again goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from ipyconvexai import place
from ipyconvexai.application import App
from ipyconvexai.batch.batches import Entry, Facts
from ipyconvexai.batch.collector import rarer
from ipyconvexai.batch.columns import Output
from ipyconvexai.batch.control import Control
from ipyconvexai.batch.engines import open_engine
from ipyconvexai.batch.estimate import Estimate
from ipyconvexai.batch.options import PROVIDERS_BATCH, Options, concurrency_at
from ipyconvexai.batch.planning import plan_of
from ipyconvexai.batch.progress import Progress
from ipyconvexai.batch.provider_runner import ProviderRunner
from ipyconvexai.batch.runner import Chunk, Item, Plan, Runner
from ipyconvexai.errors import BatchError, BudgetError, CanceledError, Error, InputError, draws_as
from ipyconvexai.ids import new_id
from ipyconvexai.providers.corridor import CALLER
from ipyconvexai.providers.endpoints import Endpoint
from ipyconvexai.settings import redact
from ipyconvexai.store.batch_rows import errors_of, spent_by, wake
from ipyconvexai.values import Caller, Purse, Replay

__all__ = ["Batch", "Checked", "Operation", "Take", "run_in_cell"]

_log = logging.getLogger(__name__)
_KEEPS_NOTHING = (
    "this ledger keeps no answers (record='metadata'): where this batch is run again, all of it is sent, and paid,"
    " again. Keep its result, or connect with record='full'."
)
RETRIES = 5  # a batch is patient: nobody waits for a single row

Take = Callable[[Chunk], Awaitable[None]]


class Checked(Exception):
    """With ``run_as(check=True)``, in place of running: nothing is wrong with the options."""


class Operation(Protocol):
    """What is asked of each input. ``open`` is called once, with the endpoint, before anything else is.

    Attributes:
        kind: summarize, map or reduce.
        unit: what an input is counted as: by its rows, or as one of the groups.
        input: what it reads, in words: a column or a template.
        into: the name of its column, from which the names of the others are made.
        columns: the columns that it reads.
        outputs: the columns that it gives.
    """

    kind: str
    unit: str
    input: str
    into: str
    columns: Sequence[str]
    outputs: Sequence[Output]

    def facts(self) -> dict[str, Any]:
        """JSON of whatever changes its answers, but for the options."""

    def open(self, endpoint: Endpoint, options: Options) -> None:
        """Make its recipes."""


class Batch:
    """`fingerprint`: of the data, as the source gives it; `described`: what the source is, in words."""

    def __init__(self, app: App, operation: Operation, options: Options, *, described: str, fingerprint: str) -> None:
        self.app = app
        self.operation = operation
        self.options = options
        self._described = described
        self._data = fingerprint
        self.id = options.resume or new_id()
        self.error: Error | None = None  # why not everything was sent
        self.entry: Entry | None = None
        self.begun: Callable[[Chunk], None] = lambda chunk: None  # called with what was looked up, before it is sent

    async def endpoint(self) -> Endpoint:
        """Where the model is reached. It need not be ready: what is in the ledger needs neither key nor local model."""
        endpoint = await self.app.generator.endpoint(self.options.model, to_send=False)
        self.operation.open(endpoint, self.options)
        return endpoint

    async def plan(self, chunks: AsyncIterator[Chunk]) -> Estimate:
        """What `chunks` would take; nothing is sent or written."""
        return await plan_of(self.app, await self.endpoint(), chunks, self.options)

    # ------------------------------------------------------------------------------------------ running
    async def run(self, chunks: AsyncIterator[Chunk], take: Take, bar: Progress, control: Control) -> None:
        """Run `chunks`, each of which `take` is given back when it has its results, in order.

        Raises:
            InputError, ConfigurationError: nothing was sent.
            StoreError: the ledger cannot record; nothing more is sent, and running it again goes on.
        """
        endpoint = await self.endpoint()
        if self.options.engine == PROVIDERS_BATCH and not self.app.records.keeps_content:
            raise InputError(
                'this ledger keeps no content (record="metadata"), and what a provider\'s batch is asked and answers'
                " stands there until it is collected",
                cure="Leave out engine=, or connect with record='full'.",
            )
        if self.options.check:
            raise Checked
        entry = self.entry = Entry(self.app.store, await self._facts(endpoint), control, self.app.records.keeps_content)
        if self.options.recall is not None:
            plan = await self._plan(endpoint, bar, None)
            await self._recall(self.options.recall, chunks, take, plan, control)
            return
        async with contextlib.AsyncExitStack() as stack:
            engine = await self._engine(endpoint)
            if engine is not None:
                stack.push_async_callback(engine.aclose)
                bar.say(engine.description)
            plan = await self._plan(endpoint, bar, engine)
            await self._send(entry, self._runner(plan, control, self._settled(entry, bar), bar), chunks, take, bar)

    async def _send(
        self, entry: Entry, runner: Runner, chunks: AsyncIterator[Chunk], take: Take, bar: Progress
    ) -> None:
        bar.in_flight = lambda: runner.sending
        beat = None
        try:
            await asyncio.to_thread(entry.begin)
            if not self.app.records.keeps_content and not self.options.is_fresh:
                _log.warning("%s", _KEEPS_NOTHING)
            beat = asyncio.create_task(entry.beat())
            with rarer():
                await runner.run(chunks, take)
        except BaseException as error:
            self._end_soon(entry, error)
            raise
        finally:
            if beat is not None:
                beat.cancel()
        self.error = runner.over
        if runner.over is not None and not isinstance(runner.over, CanceledError):
            bar.stopped(f"Stopped: {runner.over.message}. {runner.over.cure}")
        await asyncio.to_thread(entry.end, _state(runner.over), runner.over)

    def _settled(self, entry: Entry, bar: Progress) -> Callable[[Item], None]:
        by_row = self.operation.unit == "rows"

        def settled(item: Item) -> None:
            entry.settled(item)
            if item.result is not None:
                bar.settled(item.result, len(item.rows) if by_row else 1)

        return settled

    async def _recall(self, batch: str, chunks: AsyncIterator[Chunk], take: Take, plan: Plan, control: Control) -> None:
        """Give `chunks` what became of them in `batch`: from the ledger, and its errors. Nothing is sent or written."""
        errors = await asyncio.to_thread(errors_of, self.app.store, batch)

        def settled(item: Item) -> None:
            error = errors.get(item.rows[0]) if item.rows else None
            if item.result is not None and item.result.is_failed and error is not None:
                item.result = item.result.failed(error)

        await Runner(self.app, plan, control, settled).run(chunks, take)

    def _runner(self, plan: Plan, control: Control, settled: Callable[[Item], None], bar: Progress) -> Runner:
        if self.options.engine != PROVIDERS_BATCH or not plan.sends:
            return Runner(self.app, plan, control, settled, self.begun)
        return ProviderRunner(self.app, plan, control, settled, self.begun, say=bar.say)

    def _end_soon(self, entry: Entry, error: BaseException) -> None:
        """Nobody waits any more: the row is written by a thread of its own, or by the keeper."""
        ours = error if isinstance(error, Error) else None
        if isinstance(error, asyncio.CancelledError):
            ours = CanceledError("interrupted", code="interrupted")
        state = "stopped" if isinstance(error, asyncio.CancelledError) else "failed"

        def end() -> None:
            with contextlib.suppress(Error):
                entry.end(state, ours)

        asyncio.get_running_loop().run_in_executor(None, end)

    async def _plan(self, endpoint: Endpoint, bar: Progress, engine: Any) -> Plan:
        options = self.options
        purse = None
        if options.budget is not None:
            spent = await asyncio.to_thread(spent_by, self.app.store, self.id, options.job)
            purse = Purse(options.budget, spent)
        return Plan(
            model=options.model,
            endpoint=endpoint,
            caller=self._caller(bar, engine),
            concurrency=concurrency_at(endpoint, options),
            timeout=options.timeout,
            patience=options.patience,
            purse=purse,
            known_in=self.id if options.is_fresh else None,
            only_failed=options.retry_failed,
            sends=options.recall is None and self._policy() is not Replay.ONLY,
        )

    def _policy(self) -> Replay:
        """Answers of the ledger were looked up for all rows together: whatever is asked of the corridor is to be sent,
        but where nothing may be."""
        policy = self.options.policy or CALLER.get().replay or self.app.settings.replay
        if policy is not Replay.ONLY:
            return Replay.OFF
        if self.options.fresh or self.options.retry_failed:
            raise InputError(
                "replay is 'only', and fresh=True and retry_failed=True send",
                cure='Leave them out, or let it send: ai.app().set_replay("off").',
            )
        return policy

    def _caller(self, bar: Progress, engine: Any) -> Caller:
        caller = CALLER.get()
        return replace(
            caller,
            **({} if caller.notebook or caller.cell_id else place.here()),
            source="schedule" if self.options.job else "batch",
            batch_id=self.id,
            retries=max(RETRIES, self.app.settings.retries),
            replay=self._policy(),
            patience=self.options.patience,
            on_wait=bar.wait,
            send=None if engine is None else engine.send,
        )

    async def _engine(self, endpoint: Endpoint) -> Any:
        if self.options.engine in (None, PROVIDERS_BATCH) or self.options.recall:
            return None
        return await asyncio.to_thread(open_engine, self.options.engine, concurrency_at(endpoint, self.options))

    # ------------------------------------------------------------------------------------------ its row
    async def _facts(self, endpoint: Endpoint) -> Facts:
        operation, options = self.operation, self.options
        said = {**operation.facts(), "params": options.params}
        text = redact(json.dumps(said, sort_keys=True, ensure_ascii=False, default=str))
        keeps = self.app.records.keeps_content
        print_of = _hash(operation.kind, text, endpoint.provider, endpoint.model)
        if options.resume is not None:
            before = await asyncio.to_thread(wake, self.app.store, options.resume)
            self.id = str(before["id"])
            _check_same(before, operation.kind, print_of, self._data)
        where = place.here()
        return Facts(
            id=self.id,
            kind=operation.kind,
            source=redact(self._described) if keeps else "",
            input=redact(operation.input) if keeps else "",
            into_column=redact(operation.into),
            provider=endpoint.provider,
            model=endpoint.model,
            engine=_named(options.engine),
            options=text if keeps else "{}",
            fingerprint=f"{print_of}/{self._data}",
            budget_usd=options.budget,
            user_id=self.app.settings.user,
            notebook=where.get("notebook"),
            cell_id=where.get("cell_id"),
            job_id=options.job,
        )

    # ------------------------------------------------------------------------------------------ how it ended
    def check_failures(self, failures: int, first: Error | None, rows: int) -> None:
        """Raise BatchError where ``on_error="raise"`` and there are failures among the results."""
        if first is None or self.options.on_error != "raise":
            return
        raise BatchError(
            f"{failures} of {rows} rows failed; the first: {first.message}",
            cure='Run it again: what is answered is not sent again. Or on_error="keep" for the errors in a column.',
            request_id=first.request_id,
        )


def run_in_cell(
    app: App, work: Callable[[Progress, Control], Any], kind: str, options: Options, unit: str = "rows"
) -> Any:
    """Run the coroutine that `work` gives in the calling thread, with a bar; Ctrl-C leaves it resumable."""
    control = Control()
    bar = Progress(options.progress and not options.dry_run, title=kind, control=control, unit=unit)
    try:
        return app.run(work(bar, control), tick=bar.draw)
    except KeyboardInterrupt as interrupt:
        bar.stopped()
        draws_as(interrupt, "the batch was stopped. Run it again to go on: what is answered is not sent again.")
        raise
    except Error:
        bar.forget_nothing()
        raise
    finally:
        bar.close()


def _state(over: Error | None) -> str:
    if over is None:
        return "done"
    return "canceled" if isinstance(over, CanceledError) else "stopped" if isinstance(over, BudgetError) else "failed"


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:32]


def _check_same(before: Any, kind: str, print_of: str, data: str) -> None:
    """Refuse to go on with another batch's id."""
    if before["state"] in ("running", "paused"):
        raise InputError(
            f"batch {before['id']} is {before['state']}",
            cure="Wait for it, or ai.cancel(its id) and run this again. Nothing was sent.",
        )
    said, _, seen = str(before["fingerprint"]).partition("/")
    if before["kind"] != kind or said != print_of:
        what = (
            f"is a {before['kind']}" if before["kind"] != kind else "asked something else (prompt, model, parameters)"
        )
        raise InputError(
            f"batch {before['id']} {what}, and cannot go on as this one",
            cure="Leave out resume=: what is answered is not sent again in any case. Nothing was sent.",
        )
    if seen != data:
        raise InputError(
            f"batch {before['id']} was over other data",
            cure="Leave out resume= to begin a batch of its own: what is answered is not sent again. Nothing was sent.",
        )


def _named(engine: Any) -> str | None:
    if engine is None or isinstance(engine, str):
        return engine
    return f"{type(engine).__module__.partition('.')[0]}.{type(engine).__name__}"
