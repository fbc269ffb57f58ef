"""``ai.schedule``: batches that run later, here or in ``ipyconvexai worker``.

A scheduled batch is a run of the built-in action ``ai.run_batch``; one that is repeated is a cron of it. Promises: what
cannot work is an error now, and not at night; a killed process's batch is taken up again by another, and what was
answered is not paid again; its end and its failure are told to whom they should be, once.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ipyconvexai.application import App, app
from ipyconvexai.batch import calling, notices, stored_frames
from ipyconvexai.batch.job import Job
from ipyconvexai.batch.performing import ACTION
from ipyconvexai.batch.specs import Spec, checked_options, keep_data, kind_of, look_at, plain, spec_of
from ipyconvexai.errors import (
    InputError,
)
from ipyconvexai.functions import crons, jobs
from ipyconvexai.functions.crons import Cron
from ipyconvexai.functions.registry import of
from ipyconvexai.functions.schedules import Expression, Interval, Schedule
from ipyconvexai.functions.scheduling import moment_after, moment_of, new_job
from ipyconvexai.ids import new_id
from ipyconvexai.render import plain_text
from ipyconvexai.store.clock import utc_now

__all__ = ["schedule"]

LONGEST_NAME = 200  # characters


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
    if options.get("model") is None:  # whoever runs it may have another default
        options["model"] = current.run(current.generator.endpoint(None, to_send=False)).name
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
    if not current.settings.keeps_content and spec.options.get("output") is None:
        raise InputError(
            'this ledger keeps no answers (record="metadata"): what this batch gives would be lost',
            cure='Have it written to a file: output="results.parquet".',
        )
    if not current.settings.keeps_content and (kind != "summarize" or {"system", "prompt"} & set(spec.options)):
        raise InputError(
            'this ledger keeps no content (record="metadata"), and what is to be asked later would be content',
            cure="Run it now; or schedule ai.summarize(...) as it is, without system= and prompt=.",
        )
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
    if rows and (before := spec_of(rows[0][1])) is not None:
        if rows[0][2] and not named and _what(before) != _what(spec):
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


def _what(spec: Spec) -> tuple[Any, ...]:
    """What makes it another one than one of the same name."""
    return spec.args, spec.options, spec.data.get("print")


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
    if at is not None and not isinstance(at, datetime.datetime):
        raise InputError(f"at={at!r:.80} is no time", cure="Use a datetime: datetime.now(UTC) + timedelta(hours=1).")
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
