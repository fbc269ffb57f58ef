"""``%ai log``: the calls of late, and those that hold a text; newest first. Calls the app and ``tables``.

Promises: without a text no body is read but those of the rows that are shown; with one, the newest calls are looked at
first, and older ones only until there are enough. What is looked for is a text and no pattern.
"""

from __future__ import annotations

import datetime
import json
import re
from typing import Any, NamedTuple, NoReturn

from IPython.core.error import UsageError

from ipyconvexai.notebook.screens import display
from ipyconvexai.notebook.session import Session
from ipyconvexai.notebook.words import words_of
from ipyconvexai.values import Status

__all__ = ["LOG", "SHORT", "Search", "find", "log", "read_options"]

# "log of 8 to base 2", "log in to a server how?" and the like are questions.
LOG = re.compile(r"log(?:\s+((?!(?:of|base|in|into|on|onto|out|off|files?|scales?)\b).*))?(?<!\?)", re.DOTALL)
SHORT = 8  # the last hex digits of an id, which are random; the first are the time
SHOWN = 50
MOST_SHOWN = 1000
LONGEST_TEXT = 500  # characters to look for
FIRST_LOOK = 2_000  # newest calls whose bodies are looked at first
GROWTH = 8  # how many times more each next time
_BEGINNING = 300  # characters of a question and of an answer that are read
_SPAN = re.compile(r"(\d{1,6})\s*(m|min|h|d|w)")
_SPANS = {"m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_HOW = "%ai log [TEXT] [--status error] [--model NAME] [--since 2026-11-01 or 3d] [-n 20]"


class Search(NamedTuple):
    """What is looked for; None: anything. `since` is UTC."""

    text: str | None = None
    status: str | None = None
    model: str | None = None
    since: datetime.datetime | None = None
    limit: int = SHOWN


def log(session: Session, line: str | None) -> None:
    """Show what ``find`` finds, or say that there is nothing."""
    from ipyconvexai import render
    from ipyconvexai.application import app
    from ipyconvexai.notebook.tables import Table

    search = read_options(line or "")
    rows = find(app().store, search)
    if rows:
        columns = ["time (UTC)", "model", "status", "question", "answer", "tokens", "cost USD", "seconds", "id"]
        display(Table(columns, rows, "calls, newest first; `%ai show ID` shows one whole"))
    elif line:
        print(render.plain_text(f"No call is like that. To ask it as a question: %ai -- log {line}"))
    else:
        print("No call is recorded yet.")


# ---------------------------------------------------------------------------------------------- the line
def read_options(line: str, now: datetime.datetime | None = None) -> Search:
    """The words behind ``%ai log``.

    Raises:
        UsageError: an option that is not known, or without a value.
    """
    words = iter(words_of(line))
    texts: list[str] = []
    options: dict[str, Any] = {}
    for word in words:
        name, given, value = word.partition("=")
        if name in ("--status", "--model", "--since", "-n", "--limit"):
            value = value if given else next(words, "")
            key = "limit" if name == "-n" else name.lstrip("-")
            options[key] = _value(key, value, now)
        elif word.startswith("-") and len(word) > 1 and not word[1].isdigit():
            _wrong(f"{word} is not known")
        else:
            texts.append(word)
    text = " ".join(texts).encode("utf-8", "replace").decode().replace("\0", "")
    if len(text) > LONGEST_TEXT:
        _wrong(f"a text of {len(text):,} characters is too long (at most {LONGEST_TEXT})")
    return Search(text=text.strip() or None, **options)


def _value(key: str, value: str, now: datetime.datetime | None) -> Any:
    if not value:
        _wrong(f"--{key} wants a value")
    if key == "since":
        return _since(value, now or datetime.datetime.now(datetime.UTC).replace(tzinfo=None))
    if key == "limit":
        if not (value.isascii() and value.isdigit() and 1 <= int(value[:9]) <= MOST_SHOWN):
            _wrong(f"-n wants a number from 1 to {MOST_SHOWN}, not {value[:40]!r}")
        return int(value)
    if key == "status" and value not in list(Status):
        _wrong(f"--status {value[:40]} is not known; there are {', '.join(Status)}")
    return value.encode("utf-8", "replace").decode().replace("\0", "")


def _since(value: str, now: datetime.datetime) -> datetime.datetime:
    try:
        if span := _SPAN.fullmatch(value):
            return now - datetime.timedelta(**{_SPANS[span[2]]: int(span[1])})
        instant = datetime.datetime.fromisoformat(value)
        return instant if instant.tzinfo is None else instant.astimezone(datetime.UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        _wrong(f"--since wants a day such as 2026-11-01 or a span such as 3d, not {value[:40]!r}")


def _wrong(why: str) -> NoReturn:
    raise UsageError(f"%ai log: {why}; {_HOW}")


# ---------------------------------------------------------------------------------------------- the search
# The small columns only. Ids and instants grow together but for clocks that were set back.
_NEWEST = """
    SELECT r.id::VARCHAR
    FROM requests r LEFT JOIN responses s ON s.request_id = r.id
    WHERE ($since IS NULL OR r.sent_at >= $since) AND ($model IS NULL OR contains(lower(r.model), $model))
      AND ($status IS NULL OR coalesce(s.status, 'sending') = $status)
    ORDER BY r.sent_at DESC, r.id DESC LIMIT $limit
"""
_NEWEST_OF_ALL = "SELECT id::VARCHAR FROM requests ORDER BY sent_at DESC, id DESC LIMIT $limit"

_BOUND = """
    SELECT min(sent_at) FROM (SELECT sent_at FROM requests WHERE sent_at < $before ORDER BY sent_at DESC LIMIT $look)
"""
_STATUS = "AND coalesce(s.status, 'sending') = $status"
_MODEL = "AND contains(lower(r.model), $model)"
# CASE, with another column of the table in it, keeps a search out of DuckDB's scan: there it would come before the
# conditions that leave few rows, and read every body. Ids are in the order of time.
_ASKED = """
    SELECT r.id::VARCHAR FROM requests r
    WHERE r.id IN ({window}) AND CASE WHEN r.attempt > 0 THEN
        regexp_matches(r.body, $text) OR regexp_matches(r.model, $text) OR suffix(r.id::VARCHAR, $id) END
    ORDER BY r.id DESC LIMIT $limit
"""
_ANSWERED = """
    SELECT s.request_id::VARCHAR FROM responses s
    WHERE s.request_id IN ({window}) AND CASE WHEN s.status <> '' THEN
        regexp_matches(s.text, $text) OR regexp_matches(concat_ws(' ', s.error_code, s.error_message), $text) END
    ORDER BY s.request_id DESC LIMIT $limit
"""
_WINDOW = "SELECT r.id FROM requests r {join} WHERE r.sent_at >= $after AND r.sent_at < $before {conditions}"

_SHOWN = f"""
    WITH picked AS (
        SELECT r.id, r.sent_at, coalesce(r.model, s.model) AS model, coalesce(s.status, 'sending') AS status,
               r.endpoint, if(json_valid(r.body), r.body, NULL) AS body, r.body_size,
               left(s.text, {_BEGINNING}) AS answer, s.error_code, left(s.error_message, {_BEGINNING}) AS error,
               s.input_tokens, s.output_tokens, s.cost_usd, s.duration_ms
        FROM (SELECT unnest($ids::UUID[]) AS id) k JOIN requests r ON r.id = k.id
        LEFT JOIN responses s ON s.request_id = k.id
    ), asked AS (
        SELECT *, json_extract(list_filter(
                   coalesce(nullif(json_extract(body, '$.messages[*]'), []), json_extract(body, '$.input[*]')),
                   lambda m: m->>'$.role' = 'user')[-1], '$.content') AS said,
               coalesce(json_extract(body, '$.input'), json_extract(body, '$.prompt')) AS other
        FROM picked
    )
    SELECT strftime(sent_at, '%Y-%m-%d %H:%M:%S'), model, status,
           left(coalesce(CASE json_type(said) WHEN 'VARCHAR' THEN said->>'$'
                                              WHEN 'ARRAY' THEN array_to_string(said->>'$[*].text', ' ') END,
                         CASE json_type(other) WHEN 'VARCHAR' THEN other->>'$' ELSE other::VARCHAR END,
                         '(' || endpoint || ', ' || body_size || ' bytes)'), {_BEGINNING}),
           coalesce(nullif(answer, ''), concat_ws(': ', error_code, error)),
           input_tokens || ' + ' || output_tokens, cost_usd, round(duration_ms / 1000, 1), right(id::VARCHAR, {SHORT})
    FROM asked ORDER BY sent_at DESC, id DESC
"""


def find(store: Any, search: Search) -> list[tuple[Any, ...]]:
    """Rows as the log shows them, newest first."""
    ids = _holding(store, search) if search.text else _newest(store, search)
    return list(store.read(_SHOWN, {"ids": ids})) if ids else []


def _newest(store: Any, search: Search) -> list[str]:
    if (search.since, search.model, search.status) == (None, None, None):
        rows = store.read(_NEWEST_OF_ALL, {"limit": search.limit})
    else:
        model = None if search.model is None else search.model.lower()
        params = {"since": search.since, "model": model, "status": search.status, "limit": search.limit}
        rows = store.read(_NEWEST, params)
    return [row[0] for row in rows]


def _holding(store: Any, search: Search) -> list[str]:
    """Ids of calls that hold the text, from the newest on, until there are enough."""
    oldest = search.since or datetime.datetime.min
    before, look = datetime.datetime.max, FIRST_LOOK
    found: list[str] = []
    while len(found) < search.limit and (after := _after(store, before, look)) is not None:
        found += _within(store, search, max(after, oldest), before, search.limit - len(found))
        if after <= oldest:
            break
        before, look = after, look * GROWTH
    return found


def _within(store: Any, search: Search, after: datetime.datetime, before: datetime.datetime, limit: int) -> list[str]:
    """Those of the calls that were sent from `after` on and before `before`."""
    window = _WINDOW.format(
        join="" if search.status is None else "LEFT JOIN responses s ON s.request_id = r.id",
        conditions=f"{'' if search.status is None else _STATUS} {'' if search.model is None else _MODEL}",
    )
    params: dict[str, Any] = {"after": after, "before": before, "limit": limit, "text": _pattern(search.text or "")}
    if search.status is not None:
        params["status"] = search.status
    if search.model is not None:
        params["model"] = search.model.lower()
    asked = store.read(_ASKED.format(window=window), params | {"id": _end_of_id(search.text or "")})
    answered = store.read(_ANSWERED.format(window=window), params)
    return sorted({row[0] for row in [*asked, *answered]}, reverse=True)[:limit]


def _after(store: Any, before: datetime.datetime, look: int) -> datetime.datetime | None:
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
