"""``%ai usage``, ``list``, ``log`` and the like: a word in, a table or a text out. Calls the app and render."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ipyconvexai.notebook import running
from ipyconvexai.notebook.screens import display

__all__ = ["run"]


class Table:
    """Rows that draw themselves through render: what they hold may come from a server."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str) -> None:
        self._parts = (columns, rows)
        self._caption = caption

    def __repr__(self) -> str:
        from ipyconvexai import render

        return render.table_text(*self._parts, caption=self._caption)

    def _repr_html_(self) -> str:
        from ipyconvexai import render

        return render.table_html(*self._parts, caption=self._caption)


def run(line: str) -> bool:
    """Run the command that `line` reads like; False: it is a question."""
    for pattern, command in _COMMANDS:
        if match := pattern.fullmatch(line):
            command(*match.groups())
            return True
    if _MISTYPED.fullmatch(line) or running.is_mistyped(line):  # sent as a question it would be paid for
        from IPython.core.error import UsageError

        raise UsageError(f"%ai {line}: not understood; `%ai help` tells how, and `%ai -- {line}` asks it as a question")
    return False


def _usage(by: str | None) -> None:
    from ipyconvexai.application import app

    display(app().ledger.usage(by or "model"))


LOG = """
    SELECT strftime(sent_at, '%Y-%m-%d %H:%M:%S') AS sent_at, model, status, coalesce(text, error_message) AS answer,
           input_tokens || ' + ' || output_tokens AS tokens, cost_usd, round(duration_ms / 1000, 1) AS seconds,
           id::VARCHAR AS id
    FROM calls
    WHERE $text IS NULL OR contains(lower(concat_ws(' ', request, text, error_message, id::VARCHAR)), lower($text))
    ORDER BY calls.sent_at DESC, calls.id DESC LIMIT 50
"""


def _log(text: str | None) -> None:
    from ipyconvexai.application import app

    display(app().ledger.sql(LOG, {"text": text}))


def _list(provider: str | None) -> None:
    from ipyconvexai.providers.choice import list_models

    rows = list_models(None if provider == "all" else provider)
    display(Table(["provider", "model", "note"], rows, "Well-known models; other names can be used as well."))


def _doctor() -> None:
    from ipyconvexai import render
    from ipyconvexai.api import doctor

    print(render.plain_text(doctor()))


def _model() -> None:
    from ipyconvexai import render
    from ipyconvexai.application import app
    from ipyconvexai.providers.choice import choose

    choice = choose(app().settings)
    if choice.error is not None:
        raise choice.error
    print(render.plain_text(f"{choice.model}: {choice.reasons[-1].what}."))


def _functions() -> None:
    from ipyconvexai.api import functions

    display(functions())


def _jobs(state: str | None) -> None:
    from ipyconvexai.api import jobs

    display(jobs(state))


def _crons() -> None:
    from ipyconvexai.api import crons

    display(crons())


def _limits() -> None:
    from ipyconvexai.api import limits

    display(limits())


def _cancel(quoted: str | None, word: str | None) -> None:
    from ipyconvexai import render
    from ipyconvexai.api import cancel

    name = quoted or word or ""
    state = cancel(name)
    if state == "stopped":
        print(render.plain_text(f"cron {name}: stopped; a run that was begun goes on; to declare it again starts it"))
    else:
        print(render.plain_text(f"job {name}: {state}"))


def _version() -> None:
    from ipyconvexai import __version__

    print(f"ipyconvexai {__version__}")


def _help() -> None:
    from ipyconvexai.notebook.help import HELP

    print(HELP)


_MISTYPED = re.compile(r"(?:usage|list|version|doctor|model|help|functions|jobs|crons|limits)\s+-.*")

_COMMANDS: tuple[tuple[re.Pattern[str], Callable[..., None]], ...] = (
    (re.compile(r"(?:help|-h|--help)?"), _help),
    (re.compile(r"version"), _version),
    (re.compile(r"doctor"), _doctor),
    (re.compile(r"model"), _model),
    (re.compile(r"list(?:\s+(\S+))?"), _list),
    (re.compile(r"usage(?:\s+--by[\s=]+(\S+))?"), _usage),
    (re.compile(r"log(?:\s+(.+))?"), _log),
    (running.RUN, running.run),
    (re.compile(r"functions"), _functions),
    (re.compile(r"jobs(?:\s+(\w+))?"), _jobs),
    (re.compile(r"crons"), _crons),
    (re.compile(r"limits"), _limits),
    (re.compile(r"""cancel\s+(?:"([^"]+)"|([^\s"]+))"""), _cancel),
)
