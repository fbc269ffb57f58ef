"""``%ai log``: the calls of late, and those that hold a text; newest first. Calls the app, ``records`` and ``tables``.

Reads the line and draws the rows: which calls are meant is ``records.searching``'s to know. Promises: no body is read
but those of the rows that are shown, and those in which a text is looked for.
"""

from __future__ import annotations

import datetime
import re
from typing import Any, NoReturn

from IPython.core.error import UsageError

from ipyconvexai.errors import InputError
from ipyconvexai.notebook.screens import display, say
from ipyconvexai.notebook.session import Session
from ipyconvexai.notebook.words import UnknownOption, options_in
from ipyconvexai.records.searching import SHORT, Search, chosen
from ipyconvexai.records.words import instant
from ipyconvexai.values import Status

__all__ = ["ID", "LOG", "SHORT", "Search", "find", "log", "read_options"]

# "log of 8 to base 2", "log in to a server how?" and the like are questions.
LOG = re.compile(r"log(?:\s+((?!(?:of|base|in|into|on|onto|out|off|files?|scales?)\b).*))?(?<!\?)", re.DOTALL)
# At least a digit, or as much as the log shows of an id: "show face" and "show added" are no ids. Quoted or not.
ID = rf"""["']?((?=[0-9a-fA-F-]*\d|[0-9a-fA-F-]{{{SHORT},}})[0-9a-fA-F-]{{4,36}})["']?"""
MOST_SHOWN = 1000
LONGEST_TEXT = 500  # characters to look for
_BEGINNING = 300  # characters of a question and of an answer that are read
_HOW = "%ai log [TEXT] [--status error] [--model NAME] [--since 2026-11-01 or 3d] [-n 20]"


def log(session: Session, line: str | None) -> None:
    """Show what ``find`` finds, or say that there is nothing."""
    from ipyconvexai.application import app
    from ipyconvexai.notebook.tables import Table

    search = read_options(line or "")
    if search.model is not None:
        search = search._replace(model=session.model_of(search.model).target)
    rows = find(app().store, search)
    if rows:
        columns = ["time (UTC)", "model", "status", "question", "answer", "tokens", "cost USD", "seconds", "id"]
        display(Table(columns, rows, "calls, newest first; `%ai show ID` shows one whole"))
    elif line:
        say(f"No call is like that. To ask it as a question: %ai -- log {line}")
    else:
        print("No call is recorded yet.")


# ---------------------------------------------------------------------------------------------- the line
def read_options(line: str, now: datetime.datetime | None = None) -> Search:
    """The words behind ``%ai log``.

    Raises:
        UsageError: an option that is not known, or without a value.
    """
    texts: list[str] = []
    options: dict[str, Any] = {}
    try:
        for name, value in options_in(line, ("--status", "--model", "--since", "-n", "--limit")):
            if name:
                key = "limit" if name == "-n" else name.lstrip("-")
                options[key] = _value(key, value, now)
            else:
                texts.append(value)
    except UnknownOption as error:
        _wrong(f"{error} is not known")
    text = " ".join(texts).encode("utf-8", "replace").decode().replace("\0", "")
    if len(text) > LONGEST_TEXT:
        _wrong(f"a text of {len(text):,} characters is too long (at most {LONGEST_TEXT})")
    return Search(text=text.strip() or None, **options)


def _value(key: str, value: str, now: datetime.datetime | None) -> Any:
    if not value:
        _wrong(f"--{key} wants a value")
    if key == "since":
        try:
            return instant(value, now or datetime.datetime.now(datetime.UTC).replace(tzinfo=None), "--since")
        except InputError as error:
            _wrong(f"{error.message[:80]}: {error.cure.rstrip('.')}")
    if key == "limit":
        if not (value.isascii() and value.isdigit() and 1 <= int(value[:9]) <= MOST_SHOWN):
            _wrong(f"-n wants a number from 1 to {MOST_SHOWN}, not {value[:40]!r}")
        return int(value)
    if key == "status" and value not in list(Status):
        _wrong(f"--status {value[:40]} is not known; there are {', '.join(Status)}")
    return value.encode("utf-8", "replace").decode().replace("\0", "")


def _wrong(why: str) -> NoReturn:
    raise UsageError(f"%ai log: {why}; {_HOW}")


# ---------------------------------------------------------------------------------------------- the rows
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
    ids = chosen(store, search)
    return list(store.read(_SHOWN, {"ids": ids})) if ids else []
