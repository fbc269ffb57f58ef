"""Who is told when a scheduled batch is over, and what. Calls the jobs' rows and ``providers.posting``.

Promises: an address that holds a secret is never written down ("env:NAME" is its place); of one job each address is
told once, also where the job was run again after its process was killed; what a person or a model wrote steers neither
a terminal nor a chat.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from ipyconvexai.errors import InputError
from ipyconvexai.functions import jobs
from ipyconvexai.functions.scheduling import new_job
from ipyconvexai.providers.posting import check_address, check_email_setup
from ipyconvexai.render import plain_text
from ipyconvexai.settings import redact
from ipyconvexai.store.link import Store

__all__ = ["addresses", "mail_of", "shown", "tell", "text_of"]

WEBHOOK, EMAIL = "ai.notify_webhook", "ai.send_email"
MOST_ADDRESSES = 20
LONGEST = 2000  # characters of an error that is told

_MAIL = re.compile(r"[^\s@<>\"',;:\\()\[\]]+@[A-Za-z0-9](?:[A-Za-z0-9-]*\.)+[A-Za-z]{2,}")
# A word of an address that chats and automations give out, as nobody would name a path: letters and digits mixed,
# or capitals and small letters. Words and dates are not meant: "/hooks/nightly-report-2026".
_TOKEN = re.compile(
    r"(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{8,}|(?=[A-Z]*[a-z])(?=[a-z]*[A-Z])[A-Za-z]{16,}|\d{16,}"
)
_CHATS = re.compile(r"(?:^|\.)(?:hooks\.slack\.com|discord(?:app)?\.com|webhook\.office\.com|chat\.googleapis\.com)$")
_EXAMPLE = 'For example: notify="env:SLACK_WEBHOOK", "https://example.org/hook" or "ada@example.org".'


def addresses(notify: Any) -> list[str]:
    """Where to tell it, checked.

    Raises:
        InputError: no address, or one that holds a secret.
        ConfigurationError: a variable that it needs is not set.
    """
    given = [notify] if isinstance(notify, str) else [] if notify is None else notify
    if not isinstance(given, list | tuple) or not all(isinstance(one, str) and one.strip() for one in given):
        raise InputError("notify= takes an address, or a list of addresses", cure=_EXAMPLE)
    found = list(dict.fromkeys(one.strip() for one in given))
    if len(found) > MOST_ADDRESSES:
        raise InputError(
            f"notify= has {len(found)} addresses", cure=f"Use at most {MOST_ADDRESSES}; or a mailing list."
        )
    for one in found:
        if _MAIL.fullmatch(one):
            check_email_setup()
        elif one.startswith("env:"):
            check_address(one)
        elif "://" in one:
            _check_open(one)
        else:
            raise InputError(f"notify={plain_text(one)[:80]!r} is no address", cure=_EXAMPLE)
    return found


def _check_open(url: str) -> None:
    parts = check_address(url)
    pieces = re.split(r"[^A-Za-z0-9]+", parts.path)
    secret = parts.password or parts.username or parts.query or _CHATS.search(parts.hostname or "")
    if secret or any(_TOKEN.fullmatch(piece) for piece in pieces) or redact(url) != url:
        raise InputError(
            f"this address at {parts.hostname} may hold a secret, and what is scheduled is written down",
            cure='Put it into an environment variable, also where the job runs, and name that: notify="env:MY_HOOK".',
        )


def shown(address: str) -> str:
    """An address as it may be shown."""
    if "://" not in address:
        return plain_text(address)
    parts = urlsplit(address)
    return plain_text(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")


# ---------------------------------------------------------------------------------------------- what is told
def text_of(event: dict[str, Any]) -> str:
    """One or two lines for people, from an event's facts."""
    rows, errors = event["rows"], event["errors"]
    first = f"{event['name']} ({event['kind']}) {_STATES.get(event['state'], event['state'])}: {rows:,} rows"
    first += f", {errors:,} errors" if errors else ""
    first += f", {event['requests']:,} requests, {event['tokens']:,} tokens"
    if event["cost_usd"] is not None:
        first += f", ${event['cost_usd']:.4f}"
    return f"{first}\n{event['error']}" if event["error"] else first


_STATES = {"done": "is done", "failed": "failed", "stopped": "stopped before its end"}


def _for_chats(text: str) -> str:
    """Slack reads &, < and > as its markup (<!channel>); others read @channel."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"@(?=\w)", "@\N{ZERO WIDTH SPACE}", text)


def mail_of(event: dict[str, Any]) -> tuple[str, str]:
    """Subject and text."""
    subject = " ".join(f"{event['name']} {_STATES.get(event['state'], event['state'])}".split())[:200]
    lines = [text_of(event), ""]
    lines += [f"{name.replace('_', ' ')}: {event[name]}" for name in ("job", "started_at", "finished_at")]
    lines += ["", f'The results: ai.job("{event["job"]}").result(), or SQL over the view batch_results.']
    return subject, "\n".join(lines)


def _harmless(value: Any) -> Any:
    return redact(plain_text(value))[:LONGEST] if isinstance(value, str) else value


def tell(
    store: Store, job_id: str, where: Sequence[str], facts: dict[str, Any], user_id: str | None, now: datetime.datetime
) -> int:
    """Schedule a notice for each address, of the job `job_id`, unless that was done before; gives how many. Blocking.

    Args:
        facts: job, name, kind, state, rows, errors, requests, tokens, cost_usd, started_at, finished_at, error.
    """
    if not where:
        return 0
    event = {"event": f"batch.{facts['state']}", **{name: _harmless(value) for name, value in facts.items()}}
    planned: list[tuple[str, dict[str, Any]]] = []
    for number, address in enumerate(where, 1):
        if _MAIL.fullmatch(address):
            subject, text = mail_of(event)
            key = job_id if number == 1 else f"{job_id}-{number}"  # the same mail to another person is another mail
            args = {"to": address, "subject": subject, "text": text, "idempotency_key": key}
            planned.append((EMAIL, args))
        else:
            planned.append((WEBHOOK, {"address": address, "event": {**event, "text": _for_chats(text_of(event))}}))
    rows = [
        replace(new_job(name, args, at=now, now=now, user_id=user_id), scheduled_by=job_id) for name, args in planned
    ]
    with store.transaction() as execute:
        told = "SELECT 1 FROM scheduled_functions WHERE scheduled_by = ?::UUID AND name IN (?, ?) LIMIT 1"
        if execute(told, [job_id, WEBHOOK, EMAIL]):
            return 0
        for row in rows:
            jobs.insert(execute.later, row)
    return len(rows)
