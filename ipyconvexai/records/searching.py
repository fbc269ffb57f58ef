"""Which recorded calls are meant: by a part of an id, by a text, by status, model and time. Calls the store.

Promises: without a text no body is read; with one, the newest calls are looked at first, and older ones only until
there are enough. What is looked for is a text and no pattern. A text that no call holds has to be looked for in every
body, which costs 0.7 ms of CPU for each MB, half of it for unpacking: 0.3 s for 100,000 calls of 4 kB, on all cores.
"""

from __future__ import annotations

import datetime
import json
import re
from typing import Any, NamedTuple

from ipyconvexai.errors import InputError
from ipyconvexai.store.link import Store

__all__ = ["SHORT", "Search", "chosen", "find_call"]

SHORT = 8  # the last hex digits of an id, which are random; the first are the time
FIRST_LOOK = 2_000  # newest calls whose bodies are looked at first: 15 ms
GROWTH = 64  # how many times more each next time: looks at 100,000 calls twice, as the first part costs nothing
_MOST_NAMED = 10  # calls that an ambiguous id may mean


class Search(NamedTuple):
    """What is looked for; None: anything, and of `limit` all. `model` is a part of provider:model. `since` is UTC."""

    text: str | None = None
    status: str | None = None
    model: str | None = None
    since: datetime.datetime | None = None
    limit: int | None = 50


# ---------------------------------------------------------------------------------------------- by id
_PART = re.compile(r"[0-9a-f-]{4,36}")
_ALIKE = """
    SELECT id::VARCHAR, strftime(sent_at, '%Y-%m-%d %H:%M:%S'), model FROM requests
    WHERE starts_with(id::VARCHAR, $id) OR suffix(id::VARCHAR, $id) ORDER BY sent_at DESC, id DESC LIMIT $most
"""


def find_call(store: Store, given: object) -> str:
    """The id of the call that `given` means: an id, its beginning or its end, four characters at least.

    Raises:
        InputError: no call has it, or several have.
    """
    part = str(given).strip().lower()
    rows = store.read(_ALIKE, {"id": part, "most": _MOST_NAMED + 1}) if _PART.fullmatch(part) else []
    if not rows:
        raise InputError(
            f"no call has the id {given}", cure="`%ai log` and ai.ledger.calls() list the calls with their ids."
        )
    if len(rows) > 1:
        named = "\n".join(f"{key}  {sent_at}  {model or ''}" for key, sent_at, model in rows[:_MOST_NAMED])
        more = "\n…" if len(rows) > _MOST_NAMED else ""
        raise InputError(f"{given} means several calls", cure=f"Give more of the id:\n{named}{more}")
    return str(rows[0][0])


# ---------------------------------------------------------------------------------------------- the search
# The small columns only. Ids and instants grow together but for clocks that were set back.
_NEWEST = """
    SELECT r.id::VARCHAR
    FROM requests r LEFT JOIN responses s ON s.request_id = r.id
    WHERE ($since IS NULL OR r.sent_at >= $since)
      AND ($model IS NULL OR contains(lower(concat_ws(':', r.provider, r.model)), $model))
      AND ($status IS NULL OR coalesce(s.status, 'sending') = $status)
    ORDER BY r.sent_at DESC, r.id DESC LIMIT $limit
"""
_NEWEST_OF_ALL = "SELECT id::VARCHAR FROM requests ORDER BY sent_at DESC, id DESC LIMIT $limit"

_BOUND = """
    SELECT min(sent_at) FROM (SELECT sent_at FROM requests WHERE sent_at < $before ORDER BY sent_at DESC LIMIT $look)
"""
_STATUS = "AND coalesce(s.status, 'sending') = $status"
_MODEL = "AND contains(lower(concat_ws(':', r.provider, r.model)), $model)"
# CASE, with another column of the table in it, keeps a search out of DuckDB's scan: there it would come before the
# conditions that leave few rows, and read every body. Ids are in the order of time. One query: its halves run at once.
_WITHIN = """
    SELECT DISTINCT id::VARCHAR AS found FROM (
        SELECT r.id FROM requests r
        WHERE r.id IN ({window}) AND CASE WHEN r.attempt > 0 THEN
            regexp_matches(r.body, $text) OR regexp_matches(r.model, $text) OR suffix(r.id::VARCHAR, $id) END
        UNION ALL
        SELECT s.request_id FROM responses s
        WHERE s.request_id IN ({window}) AND CASE WHEN s.status <> '' THEN
            regexp_matches(s.text, $text) OR regexp_matches(concat_ws(' ', s.error_code, s.error_message), $text) END
    ) ORDER BY found DESC LIMIT $limit
"""
_WINDOW = "SELECT r.id FROM requests r {join} WHERE r.sent_at >= $after AND r.sent_at < $before {conditions}"


def chosen(store: Store, search: Search) -> list[str]:
    """Ids of the newest calls that fit, newest first but for clocks that were set back."""
    return _holding(store, search) if search.text else _newest(store, search)


def _newest(store: Store, search: Search) -> list[str]:
    if (search.since, search.model, search.status) == (None, None, None):
        rows = store.read(_NEWEST_OF_ALL, {"limit": search.limit})
    else:
        model = None if search.model is None else search.model.lower()
        params = {"since": search.since, "model": model, "status": search.status, "limit": search.limit}
        rows = store.read(_NEWEST, params)
    return [row[0] for row in rows]


def _holding(store: Store, search: Search) -> list[str]:
    """Ids of calls that hold the text, from the newest on, until there are enough."""
    oldest = search.since or datetime.datetime.min
    before, look = datetime.datetime.max, FIRST_LOOK
    found: list[str] = []
    while (after := _after(store, before, look)) is not None:
        left = None if search.limit is None else search.limit - len(found)
        found += _within(store, search, max(after, oldest), before, left)
        if after <= oldest or len(found) == search.limit:
            break
        before, look = after, look * GROWTH
    return found


def _within(
    store: Store, search: Search, after: datetime.datetime, before: datetime.datetime, limit: int | None
) -> list[str]:
    """Those of the calls that were sent from `after` on and before `before`."""
    text = search.text or ""
    window = _WINDOW.format(
        join="" if search.status is None else "LEFT JOIN responses s ON s.request_id = r.id",
        conditions=f"{'' if search.status is None else _STATUS} {'' if search.model is None else _MODEL}",
    )
    params: dict[str, Any] = {"after": after, "before": before, "limit": limit}
    params |= {"text": _pattern(text), "id": _end_of_id(text)}
    if search.status is not None:
        params["status"] = search.status
    if search.model is not None:
        params["model"] = search.model.lower()
    return [row[0] for row in store.read(_WITHIN.format(window=window), params)]


def _after(store: Store, before: datetime.datetime, look: int) -> datetime.datetime | None:
    """When the oldest of the next `look` calls was sent; None: there is no older one."""
    (bound,) = store.read(_BOUND, {"before": before, "look": look})[0]
    return bound if isinstance(bound, datetime.datetime) else None


def _end_of_id(text: str) -> str:
    """What an id must end with; nothing does where `text` is no part of an id."""
    return text.lower() if re.fullmatch(r"[0-9a-fA-F-]{4,36}", text) else "-"


def _pattern(text: str) -> str:
    """A regular expression of RE2 for `text` in any case, as it is and as JSON writes it; spaces match any space.

    Faster than ``contains(lower(column), text)``, which copies every body. Classes, as (?i) is slow with s and k, which
    have a third form each.
    """
    forms = {text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]}
    return "|".join(sorted(r"(?:\s|\\[nrt])+".join(map(_in_any_case, form.split())) for form in forms))


def _in_any_case(word: str) -> str:
    return "".join(_class(sign) for sign in word)


def _class(sign: str) -> str:
    forms = {form for form in (sign, sign.lower(), sign.upper()) if len(form) == 1}
    if len(forms) > 1:
        return f"[{''.join(sorted(forms))}]"
    return f"\\{sign}" if sign.isascii() and not sign.isalnum() else sign
