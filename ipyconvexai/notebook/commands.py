"""``%ai usage``, ``list``, ``log`` and the like: which command a line is. Calls the modules that have them.

Promises: a line that reads exactly like a command is one, and every other line is a question; what is almost a command
is told, because a question is paid for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from IPython.core.error import UsageError

from ipyconvexai import interrupts
from ipyconvexai.notebook import aliases, budgets, fixing, help, keeping, looking, prompts, running, usage
from ipyconvexai.notebook.screens import display, say
from ipyconvexai.notebook.session import Session

__all__ = ["run", "run_cell"]


def run(session: Session, line: str) -> bool:
    """Run the command that `line` reads like; False: it is a question.

    Raises:
        UsageError: it is almost a command.
        Error: what the command raises.
    """
    for pattern, command in _COMMANDS:
        if match := pattern.fullmatch(line):
            if (pattern, command) not in _LIGHT:
                _import_application()
            command(session, *match.groups())
            return True
    _check_question(line)
    return False


def _import_application() -> None:
    with interrupts.held():
        import ipyconvexai.application  # noqa: F401 - for all that it imports


def _check_question(line: str) -> None:
    """Raise UsageError where a question is likely to be a mistyped command: a refusal is free, an answer is not."""
    from ipyconvexai.providers.catalog import find, split

    first, *rest = line.split()
    if first in help.WORDS and (_MISTYPED.fullmatch(line) or running.is_mistyped(line) or _is_short(line, rest)):
        raise UsageError(
            f"`%ai {first}` is a command, and not written like this: `%ai {first} --help` tells how. To ask it as a "
            f"question: `%ai -- {first} ...`"
        )
    prefix, separator, name = split(first)
    if separator == ":" and name and find(prefix) is not None:
        raise UsageError(f"a line names its model with an option: `%ai --model {prefix}:... QUESTION`")


def _is_short(line: str, rest: list[str]) -> bool:
    return len(rest) <= 1 and not line.endswith(("?", "."))


def run_cell(session: Session, line: str, cell: str) -> bool:
    """Run what ``%%ai`` does instead of asking: help, SQL. False: the cell is a question."""
    if line in ("help", "-h", "--help"):
        print(help.HELP)
        return True
    if match := _SQL.fullmatch(line):
        _import_application()
        keeping.run_cell_sql(session, match[1] or "", cell)
        return True
    return False


_SQL = re.compile(r"sql(?:\s+(.*))?")


def _doctor(session: Session) -> None:
    from ipyconvexai.api import doctor

    chosen = f"this kernel asks {session.model}, as %ai model says\n" if session.model else ""
    say(f"{chosen}{doctor()}")


def _functions(session: Session) -> None:
    from ipyconvexai.api import functions

    display(functions())


def _show(found: Any, none: str) -> None:
    """A table, or a sentence in place of a table without rows."""
    if len(found):
        display(found)
    else:
        print(none)


def _jobs(session: Session, state: str | None) -> None:
    from ipyconvexai.api import jobs

    what = f"No scheduled function is {state}." if state else "No function is scheduled."
    _show(jobs(state), f"{what} ctx.scheduler.run_after(seconds, function, ...) in a function of yours schedules one.")


def _crons(session: Session) -> None:
    from ipyconvexai.api import crons

    _show(crons(), "Nothing runs by the clock. @ai.cron(...) above a function of yours declares it.")


def _limits(session: Session) -> None:
    from ipyconvexai.api import limits

    _show(limits(), "There is no limit. `%ai budget 5 USD/day` or ai.app().limit(requests=60) sets one.")


def _batches(session: Session) -> None:
    from ipyconvexai.api import batches

    _show(batches(), 'No batch was run yet: ai.summarize(df, "text") is one.')


def _cancel(session: Session, quoted: str | None, word: str | None) -> None:
    from ipyconvexai.api import cancel
    from ipyconvexai.application import app

    name = quoted or word or ""
    state = cancel(name)
    if app().store.read("SELECT 1 FROM batches WHERE id = try_cast(? AS UUID)", [name]):
        say(f"batch {name}: {state}")
    elif state == "stopped":
        say(f"cron {name}: stopped; a run that was begun goes on; to declare it again starts it")
    else:
        say(f"job {name}: {state}")


def _chat(session: Session, quoted: str | None, title: str | None) -> None:
    from ipyconvexai.widgets.chat import chat

    display(chat(quoted or title))


def _form(session: Session, name: str) -> None:
    from ipyconvexai.functions.outside import public
    from ipyconvexai.widgets.form import form

    display(form(public(name).name))


def _version(session: Session) -> None:
    from ipyconvexai import __version__

    print(f"ipyconvexai {__version__}")


_MISTYPED = re.compile(r"(?:version|doctor|help|functions|jobs|crons|limits|batches|prompts|chat|form)\s+-.*")

_Commands = tuple[tuple[re.Pattern[str], Callable[..., None]], ...]
_LIGHT: _Commands = (*help.COMMANDS, (re.compile(r"version"), _version), *aliases.COMMANDS)  # without the application
_COMMANDS: _Commands = (
    *_LIGHT,
    (re.compile(r"doctor"), _doctor),
    (re.compile(r"""chat(?:\s+(?:"([^"]+)"|([^\s"-]\S*)))?"""), _chat),
    (running.RUN, running.run),
    (re.compile(r"form\s+([A-Za-z_][\w.]*)"), _form),
    (re.compile(r"functions"), _functions),
    (re.compile(r"jobs(?:\s+(\w+))?"), _jobs),
    (re.compile(r"crons"), _crons),
    (re.compile(r"limits"), _limits),
    (re.compile(r"batches"), _batches),
    (re.compile(r"""cancel\s+(?:"([^"]+)"|([^\s"]+))"""), _cancel),
    *fixing.COMMANDS,
    *keeping.COMMANDS,
    *looking.COMMANDS,
    *prompts.COMMANDS,
    *budgets.COMMANDS,
    *usage.COMMANDS,
)
