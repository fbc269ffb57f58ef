"""``%ai sql``, ``export``, ``purge``, ``conversations``, ``replay``: what is kept. Calls the app.

Promises: nothing is removed or replaced that was not confirmed; a line that merely begins with one of these words stays
a question.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ipyconvexai.notebook.options import variable_name
from ipyconvexai.notebook.screens import display, say
from ipyconvexai.notebook.searching import ID
from ipyconvexai.notebook.session import Session
from ipyconvexai.notebook.words import UnknownOption, options_in, refusal

if TYPE_CHECKING:
    from ipyconvexai.records.removal import Purged

__all__ = ["COMMANDS", "run_cell_sql"]


def _usage(message: str) -> NoReturn:
    from IPython.core.error import UsageError

    raise UsageError(message)


# ---------------------------------------------------------------------------------------------- SQL
def run_cell_sql(session: Session, rest: str, cell: str) -> None:
    """``%%ai sql [-o NAME]``: `rest` is what stands behind the word, `cell` is the query."""
    match = re.fullmatch(rf"{_OUTPUT}?", rest.strip())
    if match is None:
        _usage(f"%%ai sql takes -o NAME, not {rest.strip()!r}; the query stands in the cell")
    _sql(session, match[1], cell)


def _line_of_sql(session: Session, output: str | None, query: str) -> None:
    """``%ai sql QUERY``; what is no SQL may have been meant for a model."""
    from ipyconvexai.errors import QueryError

    try:
        _sql(session, output, query)
    except QueryError as error:
        cure = f"{error.cure} `%ai -- sql …` asks it as a question.".strip()
        raise QueryError(error.message, cure=cure) from None


def _sql(session: Session, output: str | None, query: str) -> None:
    """Show the result; under a name it is kept as a ``Relation``."""
    from ipyconvexai.application import app

    if output is not None:
        variable_name(output)
    if not query.strip():
        _usage("there is no query: `%ai sql SELECT model, cost_usd FROM calls`, or below a line `%%ai sql`")
    result = app().ledger.select(query, session.names)
    if output is not None:
        session.shell.user_ns[output] = result
    display(result)


# ---------------------------------------------------------------------------------------------- export
def _export(session: Session, line: str) -> None:
    """FILE [--since WHEN] [--model X] [--status S] [--all] [--force]"""
    from ipyconvexai.application import app

    taken = _options("export", line, {"--since", "--model", "--status"}, {"--all", "--force"})
    if len(taken.words) != 1:
        _usage("%ai export wants one FILE that ends in .parquet, .csv or .jsonl; quote blanks in its name")
    model = taken.values.get("--model")
    written = app().ledger.write(
        taken.words[0],
        since=taken.values.get("--since"),
        model=None if model is None else session.model_of(model).target,
        status=taken.values.get("--status"),
        whole="--all" in taken.flags,
        overwrite="--force" in taken.flags,
    )
    what = "examples for fine-tuning" if written.examples else "calls"
    say(f"{written.rows:,} {what} -> {written.path}")
    if written.duplicates:
        say(f"{written.duplicates:,} older answers to the same questions were left out.")
    if written.unusable:
        say(f"{written.unusable:,} calls were left out: their content is not kept, or the answer is not whole.")


class _Taken:
    def __init__(self) -> None:
        self.words: list[str] = []
        self.values: dict[str, str] = {}
        self.flags: set[str] = set()


def _options(command: str, line: str, valued: set[str], flags: set[str]) -> _Taken:
    """The words, the options with a value (``--x y`` and ``--x=y``) and those without."""
    taken = _Taken()
    try:
        for name, value in options_in(line, valued, flags):
            if not name:
                taken.words.append(value)
            elif name in flags:
                taken.flags.add(name)
            elif not value:
                _usage(f"%ai {command}: {name} wants a value")
            elif name in taken.values:
                _usage(f"%ai {command}: {name} is given twice")
            else:
                taken.values[name] = value
    except UnknownOption as error:
        _usage(f"%ai {command} has no option {error}; there are {', '.join(sorted(valued | flags))}")
    return taken


# ---------------------------------------------------------------------------------------------- purge
def _purge(session: Session, line: str) -> None:
    """[ID] [--before WHEN] [--containing TEXT] [--conversation NAME] [--all] [--yes]"""
    from ipyconvexai.application import app

    taken = _options("purge", line, {"--before", "--containing", "--conversation"}, {"--all", "--yes"})
    if len(taken.words) > 1:
        _usage(f"%ai purge takes one ID, and these are {len(taken.words)}; quote a text that has blanks")
    ledger = app().ledger
    asked: dict[str, Any] = {
        "request_id": taken.words[0] if taken.words else None,
        "before": taken.values.get("--before"),
        "containing": taken.values.get("--containing"),
        "conversation": taken.values.get("--conversation"),
        "everything": "--all" in taken.flags,
    }
    seen = ledger.purgeable(**asked)
    if seen or "--yes" in taken.flags:
        say(f"To be removed for good: {seen}. Usage, cost and outcomes stay.")
        if "--yes" not in taken.flags and not _confirmed():
            print("Nothing was removed.")
            return
        done = ledger.purge(**asked)
        forgotten = _forget(session)
        say(f"Removed for good: {done}. Outputs in notebooks and copies of the ledger are not touched.")
        if forgotten:
            print("The exchanges that went along with questions in this kernel are forgotten, too.")
    else:
        print("Nothing in the ledger fits: nothing was removed.")
    _what_stays(seen)


def _forget(session: Session) -> bool:
    """The next question would send, and record, again what was removed: nobody knows which of it that is."""
    had_some = bool(session.transcript)
    session.transcript.clear()
    return had_some


def _what_stays(seen: Purged) -> None:
    if seen.under_way:
        say(f"{seen.under_way:,} rows are under way and stay: purge again when they are over.")
    if seen.elsewhere:
        places = ", ".join(f"{table} ({rows:,} rows)" for table, rows in seen.elsewhere.items())
        say(f"The text stands in other tables, too, which purge leaves to you: {places}.")


def _confirmed() -> bool:
    from IPython.core.error import StdinNotImplementedError

    try:
        return input("Type yes to remove it: ").strip().lower() == "yes"
    except (StdinNotImplementedError, EOFError, OSError, RuntimeError):  # Run All, nbclient, a closed stdin
        pass
    _usage("%ai purge asks before it removes, and nobody can answer here: add --yes. Nothing was removed")


# ---------------------------------------------------------------------------------------------- conversations, replay
_CONVERSATIONS = """
    SELECT coalesce(c.title, '(no title)') AS title, m.messages,
           strftime(coalesce(m.newest, c.created_at), '%Y-%m-%d %H:%M') AS newest,
           k.cost AS cost_usd, c.id::VARCHAR AS id
    FROM conversations c
    LEFT JOIN (SELECT conversation_id, count(*) AS messages, max(created_at) AS newest FROM messages GROUP BY 1) m
         ON m.conversation_id = c.id
    LEFT JOIN (SELECT conversation_id, sum(cost_usd) AS cost FROM calls GROUP BY 1) k ON k.conversation_id = c.id
    ORDER BY coalesce(m.newest, c.created_at) DESC, c.id DESC
"""


def _conversations(session: Session) -> None:
    from ipyconvexai.application import app
    from ipyconvexai.notebook.tables import Table

    rows = [(title, number or 0, *rest) for title, number, *rest in app().store.read(_CONVERSATIONS)]
    if not rows:
        print("There is no conversation yet: `%%ai -c NAME` begins one, or goes on with it, in any kernel.")
        return
    display(Table(["title", "messages", "newest (UTC)", "cost_usd", "id"], rows, "conversations"))


_POLICIES = {
    "off": "every question is sent",
    "reuse": "recorded answers are used again, free and offline; the rest is sent",
    "only": "recorded answers only; nothing is sent",
}


def _replay(session: Session, word: str | None) -> None:
    from ipyconvexai.application import app

    if word is not None:
        app().set_replay("reuse" if word == "on" else word)
    policy = str(app().settings.replay)
    print(f"replay {policy}: {_POLICIES[policy]}.")


# ---------------------------------------------------------------------------------------------- what lines read like
_ID = ID.replace("((?=", "(?:(?=")  # the line is split into words later
_OUTPUT = r"(?:(?:-o|--output)[\s=]+(\S+))"
_FILE = r"""(?:"[^"]+\.\w+"|'[^']+\.\w+'|[^\s"']+\.(?i:parquet|csv|jsonl))"""
_OPTION = r"""(?:\s+--\w+(?:[\s=]+(?:"[^"]*"|'[^']*'|[^\s"'-]\S*))?)"""


COMMANDS: tuple[tuple[re.Pattern[str], Callable[..., None]], ...] = (
    # Whatever follows is SQL: a query that was taken for English would be sent to a model. A comment may come first.
    (re.compile(rf"sql(?:\s+{_OUTPUT})?\s+((?!\s|-(?!-\s)).+)", re.DOTALL), _line_of_sql),
    (re.compile(rf"export(\s+{_FILE}{_OPTION}*)"), _export),
    (re.compile(rf"export({_OPTION}+\s+{_FILE}{_OPTION}*)"), _export),
    (re.compile(rf"purge((?:\s+{_ID})?{_OPTION}+)"), _purge),
    (re.compile(rf"purge(\s+{_ID})"), _purge),
    (re.compile(r"conversations"), _conversations),
    (re.compile(r"replay(?:\s+(on|off|only|reuse))?"), _replay),
    (
        re.compile(rf"sql(?:\s+{_OUTPUT})?|sql\s+-.*"),
        refusal("%ai sql wants a query: `%ai sql [-o NAME] SELECT ...`"),
    ),
    (
        re.compile(r"export(?:\s+-.*)?|export\s+\S+\.\w+(?:\s+-.*)?"),
        refusal(
            "%ai export wants a FILE that ends in .parquet, .csv or .jsonl, and takes --since WHEN, --model X,"
            " --status S, --all, --force"
        ),
    ),
    (
        re.compile(r"purge(?:\s+-.*)?|purge\s+\S+\s+--.*"),
        refusal(
            "%ai purge wants to know what: ID, --before 30d, --containing TEXT, --conversation NAME or --all"
            " (and --yes where nobody can be asked)"
        ),
    ),
    (re.compile(r"(?:conversations|replay)\s+-.*"), refusal("`%ai conversations` and `%ai replay` take no options")),
)
