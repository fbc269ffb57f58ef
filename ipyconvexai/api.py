"""The plain functions of the public interface, over the current app. Floor 5: calls ``app``."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine
from typing import Any, TypeVar

from ipyconvexai.application import App, TextStream, app, failure
from ipyconvexai.errors import CallError, Error, InputError, NotFoundError
from ipyconvexai.functions.registry import Kind, of
from ipyconvexai.generation import Prompt
from ipyconvexai.relation import Relation
from ipyconvexai.reply import Reply, Success
from ipyconvexai.values import Failure, Replay

T = TypeVar("T")

__all__ = [
    "agenerate",
    "arun",
    "asafe_generate",
    "batches",
    "cancel",
    "crons",
    "doctor",
    "functions",
    "generate",
    "jobs",
    "limits",
    "pause",
    "resume",
    "run",
    "safe_generate",
    "stream",
]


def generate(
    prompt: Prompt,
    *,
    model: str | None = None,
    system: str | None = None,
    conversation: str | None = None,
    schema: Any = None,
    replay: str | Replay | None = None,
    record: str | None = None,
    on_limit: str | None = None,
    timeout: float | None = None,
    base_url: str | None = None,
    key_variable: str | None = None,
    **params: Any,
) -> Reply:
    """Ask a model and wait for its answer; request and answer are in the ledger before this returns.

    Args:
        prompt: a text, or a list of messages ``{"role": ..., "content": ...}``.
        model: ``provider:model``; None: the setting, then the first provider whose key is set, a running Ollama, or
            the local model.
        system: the system message.
        conversation: title or id of a durable conversation, whose newest messages go along and which keeps this one.
        schema: a pydantic model, a dataclass or a type; the answer is parsed into ``reply.parsed``.
        replay: "off", "reuse" or "only".
        record: "metadata" keeps hashes, sizes, usage and the outcome of this call, and nothing of what it says.
        on_limit: "wait" until a limit of yours (``app.limit``) allows it, or "raise" a LimitError.
        timeout: seconds of silence after which an attempt is given up.
        base_url: the address of any other endpoint that speaks OpenAI's language; `model` is then sent as it is.
        key_variable: the environment variable with its key; None: it needs none.
        **params: parameters of the provider's: temperature, max_tokens, ...

    Raises:
        EmptyPromptError, InputError: nothing was sent.
        ConfigurationError: no model, an unknown one, or a missing key; nothing was sent.
        CallError: the call failed; it has a row in the ledger.
        StoreError: the ledger cannot record; nothing was sent.
    """
    options: dict[str, Any] = {
        "model": model,
        "system": system,
        "conversation": conversation,
        "schema": schema,
        "replay": replay,
        "record": record,
    }
    options |= {"on_limit": on_limit, "timeout": timeout, "base_url": base_url, "key_variable": key_variable}
    return app().generate(prompt, **options, **params)


async def arun(fn: Any, /, **args: Any) -> Any:
    """``run`` for async code, on any event loop; the same arguments and errors."""
    current = app()
    return await current.arun(current.functions.arun(of(fn), args))


def run(fn: Any, /, *, here: bool = False, **args: Any) -> Any:
    """Call a query, a mutation or an action, and wait for its result.

    Args:
        fn: the decorated function, or its name.
        here: run an ``async def`` action on the event loop of the calling code instead of the background loop, for what
            belongs to that loop (a client of another library, say). In a notebook that is the kernel's own, which is
            made re-entrant for it (nest_asyncio2), from then on for the whole session.
        **args: the function's arguments, by name.

    Raises:
        UnknownFunctionError: nothing of that name is defined here.
        ArgumentsError, ResultError: what goes in or comes out does not fit the type hints.
        NotAllowedError: it broke a rule: a query that writes, a mutation that reaches the network.
        FunctionTimeoutError: it ran longer than it may; nothing of a mutation was kept.
        Exception: what the function itself raised.
    """
    function = of(fn)
    current = app()
    if function.kind is not Kind.ACTION:
        return current.functions.run_in_transaction(function, args)
    if here:
        return _run_here(current.functions.arun(function, args))
    return current.run(current.functions.arun(function, args))


def _run_here(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    import nest_asyncio2  # only where it is asked for: it changes the loop for good

    nest_asyncio2.apply(loop)
    return loop.run_until_complete(coroutine)


def _as_generate(function: T) -> T:
    """Show the arguments of ``generate`` in help and completion."""
    function.__signature__ = inspect.signature(generate)  # type: ignore[attr-defined] # inspect's own protocol
    return function


@_as_generate
async def agenerate(prompt: Prompt, **options: Any) -> Reply:
    """``generate`` for async code, on any event loop; the same arguments and errors."""
    return await app().agenerate(prompt, **options)


@_as_generate
def stream(prompt: Prompt, **options: Any) -> TextStream:
    """Ask a model and read the answer while it comes: ``for text in ai.stream("..."):``; ``.reply`` at the end.

    The same arguments and errors as ``generate``; also StreamCutError when the stream ends before its end.
    """
    return app().stream(prompt, **options)


@_as_generate
def safe_generate(prompt: Prompt, **options: Any) -> Success | Failure:
    """``generate`` that never raises for what a provider does: look at ``.success``.

    Raises:
        InputError, ConfigurationError, StoreError: what has to be mended here, not there.
    """
    return app().safe_generate(prompt, **options)


@_as_generate
async def asafe_generate(prompt: Prompt, **options: Any) -> Success | Failure:
    """``safe_generate`` for async code."""
    try:
        return Success(await app().agenerate(prompt, **options))
    except CallError as error:
        return failure(error)


class Report(str):
    """Text of several lines that a cell shows as it is."""

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))


def doctor() -> Report:
    """What would be used and why: model, provider, keys (set or not, never their values), ledger, local model."""
    from ipyconvexai.providers.choice import doctor_report

    current = app()
    retention = "" if current.retention is None else f"\nretention: {current.retention.told}"
    return Report(f"{doctor_report(current.settings)}\n{_ledger_state(current)}{retention}")


def _ledger_state(current: App) -> str:
    try:
        rows = current.store.read("SELECT status, count(*) FROM calls GROUP BY status ORDER BY count(*) DESC")
    except Error as error:
        return f"ledger state: {error}"
    counted = ", ".join(f"{number} {status}" for status, number in rows) or "empty"
    return f"ledger state: {counted}; {current.store.holder()}"


# ---------------------------------------------------------------------------------------------- functions and jobs
JOBS_SHOWN = "id name state scheduled_time user attempts took_ms result error_message".split()
CRONS_SHOWN = "name function schedule next_time last_time runs skipped".split()


def jobs(state: str | None = None, *, name: str | None = None, limit: int | None = 100) -> Relation:
    """Scheduled functions, newest first: when they run or ran, with what result or error. Finished ones stay 7 days.

    Args:
        state: only those that are "pending", "in_progress", "success", "failed" or "canceled".
        name: only those of this function.
        limit: at most so many rows; None for all.

    Raises:
        InputError: another state.
    """
    from ipyconvexai.functions.jobs import JOBS_SQL, JobState

    if state is not None and state not in list(JobState):
        raise InputError(f"no job has the state {state!r}", cure=f"Use one of {', '.join(JobState)}.")
    sql = f"SELECT * FROM ({JOBS_SQL}) WHERE ($state IS NULL OR state = $state) AND ($name IS NULL OR name = $name)"
    sql += " ORDER BY created_at DESC, id DESC" + (f" LIMIT {int(limit)}" if limit is not None else "")
    found = app().records.arrow(sql, {"state": state, "name": name})
    return Relation(found, caption="jobs" if state is None else f"jobs: {state}", shown=JOBS_SHOWN)


def cancel(job: str) -> str:
    """Cancel a scheduled function or a batch, by its id, or stop a cron, by its name; gives its state from now on.

    "canceled": it never runs, or, where it is running, what it schedules from now on never runs. "stopped": the cron
    begins no more runs, in no process; one that was begun goes on, and to declare it again, as running its cell again
    does, starts it again. Any other state: the job was finished, and nothing changed.

    Raises:
        NotFoundError: no job and no batch has this id, and no cron this name.
    """
    from ipyconvexai.functions import crons as clocks
    from ipyconvexai.functions import jobs as rows
    from ipyconvexai.store.clock import utc_now

    store = app().store
    try:
        key = rows.job_id(job)
    except InputError:
        key = None
    if key is not None:
        with store.transaction() as execute:
            rows.cancel(execute.later, key, utc_now())
            found = execute("SELECT state FROM scheduled_functions WHERE id = ?::UUID", [key])
        if found:
            return str(found[0][0])
    if isinstance(job, str) and (clocks.remove_cron(store, job) or clocks.is_cron(store, job)):
        return "stopped"
    try:
        return _say(job, "cancel")
    except NotFoundError:
        raise NotFoundError(
            f"no job and no batch has the id {job!r}, and no cron has this name",
            cure="ai.jobs(), ai.batches() and ai.crons() list them; finished jobs stay for 7 days.",
        ) from None


# ---------------------------------------------------------------------------------------------- batches
BATCHES_SHOWN = "short_id created_at kind input state rows items known failed tokens cost_usd model seconds".split()


def batches(limit: int | None = 100) -> Relation:
    """Batches, newest first: what was asked of what, how far each is, what it took, and why it stopped.

    Those that run are up to date within two seconds, whatever process runs them. The rows of one are
    ``ai.ledger.sql("SELECT * FROM batch_results WHERE batch_id = '...' ORDER BY row_number")``.

    The end of an id, as it is shown, stands for it in ``ai.pause``, ``ai.resume``, ``ai.cancel`` and ``resume=``.

    Args:
        limit: at most so many rows; None for all.
    """
    from ipyconvexai.store.batch_rows import BATCHES_SQL

    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise InputError(f"limit={limit!r} is no number of rows", cure="Use a whole number, or None for all.")
    sql = BATCHES_SQL + (f" LIMIT {int(limit)}" if limit is not None else "")
    return Relation(app().records.arrow(sql), caption="batches", shown=BATCHES_SHOWN)


def pause(batch: str) -> str:
    """Have a batch that runs, in any process, begin nothing more until ``ai.resume``; gives its state from now on.

    It is heard within two seconds. What is being answered is recorded. A batch that is over stays as it is.

    Raises:
        NotFoundError: no batch has this id.
    """
    return _say(batch, "pause")


def resume(batch: str) -> str:
    """Have a paused batch go on; gives its state from now on.

    One that was stopped goes on when its cell is run again: what is answered is not sent again.

    Raises:
        NotFoundError: no batch has this id.
    """
    return _say(batch, "resume")


_SAID = {"pause": "paused", "resume": "running", "cancel": "canceled"}


def _say(batch: str, wanted: str) -> str:
    from ipyconvexai.store.batch_rows import say

    before = say(app().store, str(batch), wanted)
    return _SAID[wanted] if before in ("running", "paused") else before


def crons() -> Relation:
    """What runs by the clock: schedule, next and last time, and how often it ran and was skipped."""
    from ipyconvexai.functions.crons import CRONS_SQL

    return Relation(app().records.arrow(CRONS_SQL), caption="crons", shown=CRONS_SHOWN)


def limits() -> Relation:
    """Limits and budgets of every call, what is used of them, and what the providers said of theirs."""
    from ipyconvexai.limiting import limits_of

    return limits_of(app().store)


def functions() -> Relation:
    """The functions that are defined here: name, kind, arguments, public or internal, the first line of their doc."""
    from ipyconvexai.functions.outside import LISTED, listing

    return Relation.of_rows(LISTED, listing(), caption="functions")
