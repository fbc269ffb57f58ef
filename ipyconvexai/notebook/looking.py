"""``%ai log``, ``show``, ``why`` and ``diff``: what the ledger knows of calls, for people.

Calls the app, ``searching`` (the log), ``exchanges`` (what bodies say) and ``sheets``. Promises: what is
shown is what was sent and what came back, as it was recorded; nothing of it becomes markup.
"""

from __future__ import annotations

import datetime
import difflib
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ipyconvexai.notebook import exchanges, searching
from ipyconvexai.notebook.screens import display
from ipyconvexai.notebook.session import Session
from ipyconvexai.notebook.sheets import Sheet
from ipyconvexai.notebook.words import refusal
from ipyconvexai.records.searching import SHORT, find_call

if TYPE_CHECKING:
    pass

__all__ = ["COMMANDS", "diff", "show", "why"]

Row = Mapping[str, Any]

MOST_READ = 20_000_000  # characters of one body
MOST_LINES = 3_000  # of a text that is compared
LONG_WAIT = 1.0  # seconds between a call and its being sent that are worth a word


# ---------------------------------------------------------------------------------------------- one call
_COLUMNS = {
    "r": "attempt sent_at provider model endpoint base_url stream body_size user_id source notebook cell_id",
    "s": "received_at status http_status content_type text finish_reason input_tokens cached_tokens output_tokens"
    " reasoning_tokens cost_usd first_token_ms duration_ms error_code error_message provider_request_id",
}
_PLAIN = [f"{alias}.{name}" for alias, names in _COLUMNS.items() for name in names.split()]
_MADE = {
    "id": "r.id::VARCHAR",
    "retry_of": "r.retry_of::VARCHAR",
    "conversation_id": "r.conversation_id::VARCHAR",
    "batch_id": "r.batch_id::VARCHAR",
    "session_id": "r.session_id::VARCHAR",
    "conversation": "(SELECT c.title FROM conversations c WHERE c.id = r.conversation_id)",
    "body": f"left(r.body, {MOST_READ})",
    "is_binary": "r.body_bytes IS NOT NULL",
    "answer_body": f"left(s.body, {MOST_READ})",
    "answer_is_binary": "s.body_bytes IS NOT NULL",
    "answer_size": "s.body_size",
    "answered_by": "s.model",
}
_NAMES = [*(column.partition(".")[2] for column in _PLAIN), *_MADE]
_ONE = (
    f"SELECT {', '.join([*_PLAIN, *_MADE.values()])}"
    " FROM requests r LEFT JOIN responses s ON s.request_id = r.id WHERE r.id = ?::UUID"
)
_ATTEMPTS = """
    SELECT r.attempt, strftime(r.sent_at, '%Y-%m-%d %H:%M:%S'), coalesce(s.status, 'sending'), s.http_status,
           s.error_code, s.duration_ms / 1000, r.id::VARCHAR
    FROM requests r LEFT JOIN responses s ON s.request_id = r.id
    WHERE r.id = $first::UUID OR r.retry_of = $first::UUID ORDER BY r.attempt, r.id
"""
_LAST_OF_NOTEBOOK = """
    SELECT id::VARCHAR FROM requests WHERE notebook = ? AND source = 'magic' ORDER BY sent_at DESC, id DESC LIMIT 1
"""


def _row(store: Any, request_id: str) -> Row:
    return dict(zip(_NAMES, store.read(_ONE, [request_id])[0], strict=True))


def show(session: Session, given: str) -> None:
    """Everything that is known of one call."""
    from ipyconvexai.application import app

    store = app().store
    row = _row(store, find_call(store, given))
    sheet = Sheet()
    sheet.title(f"Call {row['id']}: {_status(row)}")
    sheet.facts([("sent", _instant(row["sent_at"])), ("model", _model(row)), ("short id", _short(row))])
    _add_origin(sheet, row)
    _add_request(sheet, row)
    _add_answer(sheet, row)
    _add_attempts(sheet, store, row)
    display(sheet)


def _add_origin(sheet: Sheet, row: Row) -> None:
    talk = row["conversation"] and f"{row['conversation']} ({row['conversation_id']})"
    sheet.facts(
        [
            ("source", row["source"]),
            ("notebook", row["notebook"]),
            ("cell", row["cell_id"]),
            ("conversation", talk or row["conversation_id"]),
            ("batch", row["batch_id"]),
            ("user", row["user_id"]),
        ]
    )


def _add_request(sheet: Sheet, row: Row) -> None:
    sheet.title("What was sent")
    sheet.facts(
        [
            ("to", f"{row['base_url'] or ''}/{row['endpoint']}"),
            ("model", row["model"]),
            ("streamed", "yes" if row["stream"] else "no"),
            ("size", _size(row["body_size"])),
        ]
    )
    if row["body"] is None:
        sheet.say(_without_body(row["is_binary"], row["body_size"]))
        return
    body = exchanges.parsed(row["body"])
    if body is None:
        sheet.body("the request, which is no JSON", row["body"])
        return
    sheet.facts(list(exchanges.parameters_of(body).items()))
    for role, text in exchanges.messages_of(body):
        sheet.body(role, text)
    sheet.body("the whole request", exchanges.pretty(exchanges.shortened(body)), folded=True, printed=False)


def _add_answer(sheet: Sheet, row: Row) -> None:
    sheet.title("What came back")
    if row["status"] is None:
        sheet.say("Nothing yet: it is being sent.")
        return
    sheet.facts(_outcome(row))
    if row["error_message"]:
        sheet.body(f"error {row['error_code'] or ''}", row["error_message"])
    if row["text"]:
        sheet.body("answer", row["text"])
    if calls := exchanges.tool_calls_of(row["answer_body"]):
        sheet.body("tools that it calls", "\n".join(calls))
    if row["answer_body"] is None:
        sheet.say(_without_body(row["answer_is_binary"], row["answer_size"]))
    else:
        whole = exchanges.parsed(row["answer_body"])
        text = row["answer_body"] if whole is None else exchanges.pretty(exchanges.shortened(whole))
        sheet.body("the whole answer", text, folded=True, printed=False)


def _outcome(row: Row) -> list[tuple[str, object]]:
    return [
        ("status", _status(row)),
        ("finish reason", row["finish_reason"]),
        ("answered by", row["answered_by"]),
        ("tokens", _tokens(row)),
        ("cost", _cost(row)),
        ("first token after", _seconds(row["first_token_ms"])),
        ("whole answer after", _seconds(row["duration_ms"])),
        ("provider's id", row["provider_request_id"]),
    ]


def _add_attempts(sheet: Sheet, store: Any, row: Row) -> None:
    rows = store.read(_ATTEMPTS, {"first": row["retry_of"] or row["id"]})
    if len(rows) > 1:
        sheet.title("Attempts of this call")
        sheet.table(["attempt", "time (UTC)", "status", "HTTP", "error", "seconds", "id"], rows)


def _without_body(is_binary: bool, size: int | None) -> str:
    if is_binary:
        return f"{_size(size)} that are no text."
    if size is None:
        return "No content came."
    return f"The content ({_size(size)}) was not kept: record is 'metadata'."


# ---------------------------------------------------------------------------------------------- in words
def _short(row: Row) -> str:
    return str(row["id"])[-SHORT:]


def _status(row: Row) -> str:
    status = row["status"] or "sending"
    return f"{status} (HTTP {row['http_status']})" if row["http_status"] else status


def _model(row: Row) -> str:
    return ":".join(part for part in (row["provider"], row["model"]) if part)


def _instant(instant: datetime.datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"


def _size(size: int | None) -> str:
    return f"{size or 0:,} bytes"


def _seconds(milliseconds: float | None) -> str | None:
    return None if milliseconds is None else f"{milliseconds / 1000:.2f} s"


def _cost(row: Row) -> str | None:
    return None if row["cost_usd"] is None else f"{row['cost_usd']:.6f}".rstrip("0").rstrip(".") + " US dollars"


def _tokens(row: Row) -> str | None:
    if row["input_tokens"] is None and row["output_tokens"] is None:
        return None
    told = f"{row['input_tokens'] or 0:,} in"
    told += f" ({row['cached_tokens']:,} of them cached)" if row["cached_tokens"] else ""
    told += f" + {row['output_tokens'] or 0:,} out"
    return told + (f" ({row['reasoning_tokens']:,} of them reasoning)" if row["reasoning_tokens"] else "")


# ---------------------------------------------------------------------------------------------- why
def why(session: Session) -> None:
    """Why the last answer is as it is: the model and how it was chosen, what was sent, what was waited for."""
    from ipyconvexai.application import app

    current = app()
    row = _last(session, current.store)
    if row is None:
        print("Nothing was asked here yet.")
        return
    sheet = Sheet()
    sheet.title(f"{_model(row)}: {_status(row)}")
    sheet.facts(
        [
            ("this model because", _choice(session, current.settings, row)),
            ("sent", _sent(row)),
            ("replayed", _replayed(session, current.store, row)),
            ("waited", _waited(row)),
            ("attempt", row["attempt"] if row["attempt"] > 1 else None),
            *_outcome(row)[1:7],
            ("error", row["error_code"] and f"{row['error_code']}: {row['error_message'] or ''}"),
        ]
    )
    sheet.say(f"All of it: %ai show {_short(row)}")
    display(sheet)


def _last(session: Session, store: Any) -> Row | None:
    """The call of the last answer of this kernel, or else of this notebook."""
    from ipyconvexai import place

    if session.last_request is not None and store.read("SELECT 1 FROM requests WHERE id = ?", [session.last_request]):
        return _row(store, session.last_request)
    notebook = place.here().get("notebook")
    rows = store.read(_LAST_OF_NOTEBOOK, [notebook]) if notebook else []
    return _row(store, rows[0][0]) if rows else None


def _choice(session: Session, settings: Any, row: Row) -> str:
    """How that model is come by as things stand now: how it was chosen then is not recorded."""
    from ipyconvexai.providers.choice import choose

    aliases = [name for name in sorted(session.aliases) if _is(session.model_of(name).target, row)]
    named = f"{', '.join(aliases)} stands for it" if aliases else ""
    if session.model is not None:
        if _is(session.model_of(None).target, row):
            return "; ".join(part for part in ("it is the default of %ai", named) if part)
    elif (choice := choose(settings)).model is not None and _is(choice.model, row):
        return "; ".join(part for part in (choice.reasons[-1].what, named) if part)
    return named or "it was named"


def _is(target: str, row: Row) -> bool:
    return target in (row["model"], _model(row), _model(row).replace(":", "/", 1))


def _sent(row: Row) -> str:
    body = exchanges.parsed(row["body"])
    if body is None:
        return _size(row["body_size"]) + ("" if row["body"] or row["is_binary"] else ", not kept")
    roles = [message.role for message in exchanges.messages_of(body)]
    told = f"{len(roles)} message{'' if len(roles) == 1 else 's'} ({', '.join(roles[:20])})"
    parameters = exchanges.parameters_of(body)
    return told + "".join(f", {name}={value[:60]}" for name, value in parameters.items())


def _replayed(session: Session, store: Any, row: Row) -> str | None:
    """A replayed answer's row is that of the call which it was recorded from."""
    if session.last_request != row["id"]:
        return None
    if getattr(session, "last_replayed", False) or row["session_id"] != store.session_id:
        return f"yes, from the call of {_instant(row['sent_at'])}: nothing was sent this time, and it cost nothing"
    return None


def _waited(row: Row) -> str | None:
    """An id is made when a call begins to ask for its turn, and bears the time."""
    made = uuid.UUID(row["id"])
    if made.version != 7:
        return None
    begun = datetime.datetime.fromtimestamp((made.int >> 80) / 1000, datetime.UTC).replace(tzinfo=None)
    waited = (row["sent_at"] - begun).total_seconds()
    return f"{waited:.1f} s until limits allowed it" if LONG_WAIT <= waited < 1e6 else None


# ---------------------------------------------------------------------------------------------- diff
def diff(session: Session, first: str, second: str) -> None:
    """What differs between two calls: in what was sent, and in what came back."""
    from ipyconvexai.application import app

    store = app().store
    rows = [_row(store, find_call(store, given)) for given in (first, second)]
    sheet = Sheet()
    sheet.title(f"{_short(rows[0])} against {_short(rows[1])}")
    facts = [_compared(row) for row in rows]
    sheet.table(
        ["", *(_short(row) for row in rows)],
        [(name, a, b) for (name, a), (_, b) in zip(*facts, strict=True) if a is not None or b is not None],
    )
    _add_changes(sheet, "what was sent", rows, _request_lines)
    _add_changes(sheet, "what came back", rows, _answer_lines)
    display(sheet)


def _compared(row: Row) -> list[tuple[str, str | None]]:
    return [
        ("sent", _instant(row["sent_at"])),
        ("model", _model(row)),
        ("status", _status(row)),
        ("tokens", _tokens(row)),
        ("cost", _cost(row)),
        ("first token after", _seconds(row["first_token_ms"])),
        ("whole answer after", _seconds(row["duration_ms"])),
    ]


def _add_changes(sheet: Sheet, name: str, rows: Sequence[Row], lines_of: Callable[[Row], list[str]]) -> None:
    one, other = (lines_of(row)[:MOST_LINES] for row in rows)
    lines = list(difflib.unified_diff(one, other, _short(rows[0]), _short(rows[1]), n=3, lineterm=""))
    if lines:
        sheet.changes(name, lines)
    else:
        sheet.say(f"{name}: the same")


def _request_lines(row: Row) -> list[str]:
    body = exchanges.parsed(row["body"])
    if body is None:
        return (row["body"] or _without_body(row["is_binary"], row["body_size"])).splitlines()
    lines = [f"model: {body.get('model')}"]
    lines += [f"{name}: {value}" for name, value in sorted(exchanges.parameters_of(body).items())]
    for role, text in exchanges.messages_of(body):
        lines += [f"[{role}]", *text.splitlines()]
    return lines


def _answer_lines(row: Row) -> list[str]:
    lines = (row["text"] or "").splitlines()
    lines += [f"calls {call}" for call in exchanges.tool_calls_of(row["answer_body"])]
    if row["error_code"]:
        lines += [f"error {row['error_code']}", *(row["error_message"] or "").splitlines()]
    return lines or [_without_body(row["answer_is_binary"], row["answer_size"])]


# ---------------------------------------------------------------------------------------------- the lines
COMMANDS: tuple[tuple[re.Pattern[str], Callable[..., None]], ...] = (
    (searching.LOG, searching.log),
    (re.compile(rf"show\s+{searching.ID}"), show),
    (re.compile(r"show(?:\s+-.*)?", re.DOTALL), refusal("%ai show wants the id of a call, as %ai log shows it")),
    (re.compile(r"why"), why),
    (re.compile(r"why\s+-.*", re.DOTALL), refusal("%ai why takes no options; %ai show ID is for any call")),
    (re.compile(rf"diff\s+{searching.ID}\s+{searching.ID}"), diff),
    (re.compile(rf"diff(?:\s+{searching.ID})?|diff\s+-.*", re.DOTALL), refusal("%ai diff wants two ids of calls")),
)
