"""Rows of ``scheduled_functions`` and how their state changes. Calls the store.

pending ─┬─ success | failed      a mutation: claimed, run and settled in one transaction
         ├─ in_progress ─┬─ success | failed
         │               ├─ pending     a further attempt, where the action declares a retry policy
         │               └─ canceled    it keeps running; what it schedules from then on is born canceled
         └─ canceled

A row is finished when ``finished_at`` is set, which for a canceled action is when it ends. ``session_id`` with a
pending row is a reservation: a process has taken it to run it next. It holds for ``RESERVED`` seconds, as long as the
process lives; what decides is that the row is still pending and reserved by it inside of the mutation's transaction.
All instants are naive UTC; times are arguments.
"""

from __future__ import annotations

import datetime
import json
import re
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from ipyconvexai.errors import ApplicationError, ArgumentsError, Error, InputError
from ipyconvexai.functions.registry import Function
from ipyconvexai.settings import plain_word, redact
from ipyconvexai.store.link import Execute, Store

__all__ = [
    "JOBS_SQL",
    "KEPT",
    "RESERVED",
    "Due",
    "Job",
    "JobState",
    "NewJob",
    "Outcome",
    "arguments_text",
    "cancel",
    "claim",
    "claimed_by",
    "hand_back",
    "insert",
    "is_pending",
    "is_reserved",
    "is_there",
    "job_id",
    "look",
    "settle",
    "settle_later",
    "sweep",
]

KEPT = datetime.timedelta(days=7)  # finished rows
RESERVED = datetime.timedelta(seconds=30)
LONGEST_MESSAGE = 10_000  # characters of an error that are kept


class JobState(StrEnum):
    PENDING = "pending"  # it runs when it is due
    IN_PROGRESS = "in_progress"  # an action that was begun
    SUCCESS = "success"
    FAILED = "failed"
    CANCELED = "canceled"


@dataclass(frozen=True, slots=True)
class NewJob:
    """What is scheduled. `args` is JSON; `scheduled_by` the job whose function scheduled it, if one did."""

    id: str
    name: str
    kind: str
    args: str
    user_id: str | None
    created_at: datetime.datetime
    scheduled_time: datetime.datetime
    max_attempts: int = 1
    scheduled_by: str | None = None
    cron: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What a process has claimed. `attempts` counts this one, `errors` is JSON: those of the ones before."""

    id: str
    name: str
    kind: str
    args: str
    user_id: str | None
    attempts: int
    max_attempts: int
    errors: str | None
    cron: str | None
    session_id: str
    started_at: datetime.datetime
    due_at: datetime.datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. With state PENDING it is repeated at `due_at`; one that had not `begun` is not counted."""

    state: JobState
    result: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    error_data: str | None = None
    due_at: datetime.datetime | None = None
    begun: bool = True

    @property
    def without_content(self) -> Outcome:
        """A result may hold an answer, and an error may quote the prompt."""
        return replace(self, result=None, error_code=plain_word(self.error_code), error_message=None, error_data=None)

    @classmethod
    def put_back(cls, error: BaseException, due_at: datetime.datetime) -> Outcome:
        """Of a job that `error` kept from beginning; it waits until `due_at`."""
        return replace(cls.failed(error, due_at), begun=False)

    @classmethod
    def failed(cls, error: BaseException, due_at: datetime.datetime | None = None) -> Outcome:
        """Of an attempt that `error` ended; `due_at`: when it is begun again, None where it is not."""
        ours = isinstance(error, Error)
        message = error.message if isinstance(error, Error) else _described(error)
        data = _as_json(error.data) if isinstance(error, ApplicationError) else None
        return cls(
            JobState.FAILED if due_at is None else JobState.PENDING,
            error_code=_clean(error.code if ours else type(error).__name__),  # type: ignore[attr-defined]
            error_message=_clean(message)[:LONGEST_MESSAGE],
            error_data=None if data is None else _clean(data),
            due_at=due_at,
        )


@dataclass(frozen=True, slots=True)
class Due:
    """What a look at the table found: how many are due, and when the next one will be, of jobs and of crons."""

    actions: int = 0
    mutations: int = 0
    next_job: datetime.datetime | None = None
    next_cron: datetime.datetime | None = None
    names: tuple[str, ...] = field(default=(), repr=False)


def _described(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # an exception of the user's may fail to describe itself
        text = ""
    return text or type(error).__name__


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):
        return json.dumps(repr(value))


def _clean(text: str) -> str:
    """Without keys, and without half characters, which DuckDB refuses."""
    return redact(text).encode("utf-8", "replace").decode()


def job_id(value: object) -> str:
    """A job's id as text.

    Raises:
        InputError: it is none.
    """
    try:
        return str(uuid.UUID(str(value)))
    except ValueError:
        raise InputError(
            f"{value!r} is not the id of a job",
            cure="Pass what run_after() or run_at() returned; ai.jobs() lists them.",
        ) from None


# ---------------------------------------------------------------------------------------------- scheduling
# What a text of an argument may be where no content is kept: an id, or an instant.
_NO_CONTENT = re.compile(r"[0-9a-fA-F-]{36}|\d{4}-\d\d-\d\d([T ][\d:.]+)?(Z|[+-]\d\d:?\d\d)?|")


def check_without_content(name: str, text: str) -> None:
    """
    Raises:
        ArgumentsError: the JSON `text` has texts, which would be written down though nothing is to be kept.
    """
    if any(not _NO_CONTENT.fullmatch(each) for value in json.loads(text).values() for each in _texts(value)):
        raise ArgumentsError(
            f"with record='metadata' no content is kept, and an argument of {name} is a text, which a job's row has",
            cure="Keep the text in a table of your own and pass its id, or connect with record='full'.",
        )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def arguments_text(function: Function, args: Mapping[str, Any]) -> str:
    """`args` of a later call, checked, as the JSON of a row.

    Raises:
        ArgumentsError: they do not fit its type hints, or hold a key, which is never written down.
    """
    text = function.arguments.to_json(function.arguments.validate(args))
    if redact(text) != text:
        raise ArgumentsError(
            f"an argument of {function.name} holds a key, and a job's arguments are written down",
            cure="Leave it out: a key must come from the environment where the job runs, as os.environ[...] there.",
        )
    return text


_INSERT = """
INSERT INTO scheduled_functions
    (id, name, kind, args, user_id, created_at, scheduled_time, due_at, max_attempts, scheduled_by, cron,
     attempts, state, finished_at)
"""
_BORN_PENDING = _INSERT + "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 'pending', NULL)"
# The parent is looked at in the same statement: nothing can come between.
_BORN_OF_A_JOB = (
    _INSERT
    + """
SELECT ?, ?, ?, ?, ?, ?::TIMESTAMP, ?, ?, ?, ?, ?, 0,
       if(canceled, 'canceled', 'pending'), if(canceled, ?::TIMESTAMP, NULL)
FROM (SELECT count(*) > 0 AS canceled FROM scheduled_functions WHERE id = ?::UUID AND state = 'canceled')
"""
)


def insert(run: Callable[[str, Any], Any], job: NewJob) -> None:
    """Write the row through `run`: an ``Execute``, or its ``later``."""
    values: list[Any] = [job.id, job.name, job.kind, job.args, job.user_id, job.created_at, job.scheduled_time]
    values += [job.scheduled_time, job.max_attempts, job.scheduled_by, job.cron]
    if job.scheduled_by is None:
        run(_BORN_PENDING, values)
    else:
        run(_BORN_OF_A_JOB, [*values, job.created_at, job.scheduled_by])


def is_there(execute: Execute, key: str) -> bool:
    """Whether the row is there. Asked before it is written again (ON CONFLICT would cost each insert 3 ms)."""
    return bool(execute("SELECT 1 FROM scheduled_functions WHERE id = ?::UUID", [key]))


def cancel(run: Callable[[str, Any], Any], key: str, now: datetime.datetime) -> None:
    """Pending: it never runs. In progress: marked, and it keeps running. Finished or unknown: nothing changes."""
    run(
        "UPDATE scheduled_functions SET finished_at = CASE state WHEN 'pending' THEN ?::TIMESTAMP END,"
        " state = 'canceled' WHERE id = ?::UUID AND state IN ('pending', 'in_progress')",
        [now, key],
    )


def is_pending(execute: Execute, key: str) -> bool:
    """Whether the job waits. Asked by what runs as this job, or for it: a mutation's own job does, an action's not."""
    return bool(execute("SELECT 1 FROM scheduled_functions WHERE id = ?::UUID AND state = 'pending'", [key]))


# ---------------------------------------------------------------------------------------------- what is due
_MINE = "name IN (SELECT unnest($names::VARCHAR[]))"  # functions that this process defines
_READY = f"""if(session_id IS NULL, due_at,
                greatest(due_at, started_at + INTERVAL {RESERVED.total_seconds():.0f} SECOND))"""
_NOT_RUNNING = "NOT EXISTS (SELECT 1 FROM scheduled_functions j WHERE j.id = c.job_id AND j.finished_at IS NULL)"
_LOOK = f"""
SELECT count(*) FILTER (ready <= $now AND kind = 'action'), count(*) FILTER (ready <= $now AND kind <> 'action'),
       min(ready) FILTER (ready > $now),
       (SELECT min(next_time) FROM crons c
        WHERE function IN (SELECT unnest($names::VARCHAR[])) AND {_NOT_RUNNING})
FROM (SELECT kind, {_READY} AS ready FROM scheduled_functions WHERE state = 'pending' AND {_MINE})
"""
_CANDIDATES = f"""
SELECT id FROM scheduled_functions
WHERE state = 'pending' AND kind {{}} 'action' AND {_READY} <= $now AND {_MINE} ORDER BY due_at, id LIMIT {{}}
"""
_CLAIM = f"""
UPDATE scheduled_functions
SET state = if(kind = 'action', 'in_progress', state), attempts = attempts + if(kind = 'action', 1, 0),
    started_at = $now, session_id = $session::UUID
WHERE id IN (({_CANDIDATES.format("=", "$actions")}) UNION ALL ({_CANDIDATES.format("<>", "$mutations")}))
RETURNING id::VARCHAR, name, kind, args, user_id, attempts + if(kind = 'action', 0, 1), max_attempts, errors, cron,
          session_id::VARCHAR, started_at, due_at
"""


def look(store: Store, names: Collection[str], now: datetime.datetime) -> Due:
    """What is due of the functions `names`; reads only, and stops no writer."""
    ordered = tuple(sorted(names))
    ((actions, mutations, next_job, next_cron),) = store.read(_LOOK, {"names": list(ordered), "now": now})
    return Due(actions, mutations, next_job, next_cron, ordered)


def claim(
    execute: Execute, names: Collection[str], now: datetime.datetime, session: str, *, actions: int, mutations: int
) -> list[Job]:
    """Take the first due jobs: actions are in progress from now on, mutations reserved. By order of ``due_at``."""
    rows = execute(
        _CLAIM,
        {"names": list(names), "now": now, "session": session, "actions": actions, "mutations": mutations},
    )
    return sorted((Job(*row) for row in rows), key=lambda job: (job.due_at, job.id))


def is_reserved(execute: Execute, job: Job) -> bool:
    """Whether `job` is still to be run by who claimed it; asked inside of the mutation's own transaction."""
    sql = "SELECT 1 FROM scheduled_functions WHERE id = ?::UUID AND session_id = ?::UUID AND state = 'pending'"
    return bool(execute(sql, [job.id, job.session_id]))


def hand_back(execute: Execute, session: str, keys: Collection[str], now: datetime.datetime) -> None:
    """Give back what `session` claimed and did not begin: others may take it at once."""
    execute.later(
        "UPDATE scheduled_functions SET attempts = attempts - if(state = 'in_progress', 1, 0),"
        " finished_at = if(state = 'canceled', ?::TIMESTAMP, NULL), session_id = NULL, started_at = NULL,"
        " state = if(state = 'canceled', state, 'pending')"
        " WHERE id IN (SELECT unnest(?::UUID[])) AND session_id = ?::UUID AND finished_at IS NULL",
        [now, list(keys), session],
    )


def claimed_by(store: Store, session: str) -> set[str]:
    """The ids of what `session` holds. After a claim whose commit was lost, it may hold more than it knows."""
    rows = store.read(
        "SELECT id::VARCHAR FROM scheduled_functions WHERE session_id = ?::UUID AND finished_at IS NULL", [session]
    )
    return {key for (key,) in rows}


# ---------------------------------------------------------------------------------------------- how it ended
_SETTLE = """
UPDATE scheduled_functions
SET state = CASE WHEN state = 'canceled' THEN state ELSE $state END,
    finished_at = CASE WHEN state <> 'canceled' AND $state = 'pending' THEN NULL ELSE $now::TIMESTAMP END,
    session_id = CASE WHEN state <> 'canceled' AND $state = 'pending' THEN NULL ELSE session_id END,
    due_at = coalesce($due_at::TIMESTAMP, due_at), attempts = $attempts, started_at = $started_at, result = $result,
    error_code = $error_code, error_message = $error_message, error_data = $error_data, errors = $errors
WHERE id = $id::UUID AND session_id = $session::UUID AND finished_at IS NULL
"""


def settle(execute: Execute, job: Job, outcome: Outcome, now: datetime.datetime) -> JobState | None:
    """Write down how `job` ended; its state now, or None when it was settled before. May be repeated."""
    rows = execute(f"{_SETTLE} RETURNING state", _settlement(job, outcome, now))
    return JobState(rows[0][0]) if rows else None


def settle_later(execute: Execute, job: Job, outcome: Outcome, now: datetime.datetime) -> None:
    """The same at the end of the mutation's own transaction, where ``is_reserved`` was asked."""
    execute.later(_SETTLE, _settlement(job, outcome, now))


def _settlement(job: Job, outcome: Outcome, now: datetime.datetime) -> dict[str, Any]:
    return {
        "id": job.id,
        "session": job.session_id,
        "now": now,
        "state": str(outcome.state),
        "due_at": outcome.due_at,
        "attempts": job.attempts if outcome.begun else job.attempts - 1,
        "started_at": job.started_at if outcome.begun else None,
        "result": None if outcome.result is None else _clean(outcome.result),
        "error_code": outcome.error_code,
        "error_message": outcome.error_message,
        "error_data": outcome.error_data,
        "errors": _with(job, outcome, now) if outcome.state is JobState.PENDING and outcome.begun else job.errors,
    }


def _with(job: Job, outcome: Outcome, now: datetime.datetime) -> str:
    earlier = json.loads(job.errors) if job.errors else []
    code, message = outcome.error_code, outcome.error_message
    this = {"attempt": job.attempts, "code": code, "message": message, "at": now.isoformat()}
    return json.dumps([*earlier, this], ensure_ascii=False)


def sweep(store: Store, now: datetime.datetime) -> None:
    """Remove what was finished ``KEPT`` ago."""
    oldest = [now - KEPT]
    if store.read("SELECT 1 FROM scheduled_functions WHERE finished_at < ? LIMIT 1", oldest):
        with store.transaction() as execute:
            execute.later("DELETE FROM scheduled_functions WHERE finished_at < ?", oldest)


# What ``ai.jobs()`` shows: newest first.
JOBS_SQL = """
SELECT id::VARCHAR AS id, name, state, scheduled_time, user_id AS user, attempts,
       date_diff('microsecond', started_at, finished_at) / 1000 AS took_ms,
       result, error_code, error_message, error_data, errors, kind, args, created_at, due_at, started_at, finished_at,
       scheduled_by::VARCHAR AS scheduled_by, cron
FROM scheduled_functions ORDER BY created_at DESC, id DESC
"""
