"""What ``%ai help`` says, and of one command alone; also the magics' docstring. Imports the standard library only.

This table is the list of all commands: completion offers them, and an alias cannot take their names. A pattern in
``commands`` that has no line here is a defect, which a test finds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

__all__ = ["COMMANDS", "HELP", "WORDS", "help_of"]

COLUMN = 34  # where explanations begin

_Lines = tuple[tuple[str, str], ...]

_OPTIONS: tuple[tuple[str, _Lines], ...] = (
    (
        "What is asked",
        (
            ("--model MODEL", "the model; after %%ai the name alone will do"),
            ("--models A,B", "several side by side: answer, cost and time of each"),
            ("-s, --system TEXT", "the system message"),
            ("-c, --conversation NAME", "a durable conversation, in every kernel: earlier messages go along"),
            ("--no-history", "outside of conversations the last exchanges go along; not this time"),
            ("--save NAME, --with NAME", "keep the question under a name; begin with one that is kept, or several"),
            ("--eval", "run the cell as Python, and ask what it prints and what its last line gives"),
        ),
    ),
    (
        "How it is answered",
        (
            ("-t, --temperature X", "and --max-tokens N"),
            ("-m, --model-parameters JSON", 'other parameters of the provider\'s, as {"top_p": 0.9}; quoted or not'),
            ("-f, --format FORMAT", "markdown (default), text, json, html, math, image, or code: that alone, into the"),
            ("", "next cell"),
            ("--schema NAME", "a pydantic model or dataclass of yours, or 'name, age int': what the answer becomes"),
            ("-o, --output VARIABLE", "keep the reply: its text, value, usage and cost"),
            ("--no-stream", "show the answer when it is complete"),
        ),
    ),
    (
        "What it costs, and where it goes",
        (
            ("--dry-run", "show the messages, their tokens and what they would cost; send nothing"),
            ("--budget USD", "refuse to spend more on this cell"),
            ("--replay off|reuse|only", "whether a recorded answer may stand for a new one; --fresh is --replay off"),
            ("--api-base URL", "another address; --api-key-name VARIABLE: the environment variable with its key"),
        ),
    ),
)

_COMMANDS: tuple[tuple[str, _Lines], ...] = (
    (
        "Looking back",
        (
            ("usage [--by GROUP]", "calls, tokens, cost by model, provider, day, notebook, user, source or status"),
            ("log [TEXT]", "the newest calls, or those that contain TEXT;"),
            ("", "--status error, --model NAME, --since 3d, -n 20"),
            ("show ID", "exactly what was sent and what came back; the id as the log shows it"),
            ("why", "the same of the last answer: its model and why, messages, tokens, cost, attempts"),
            ("diff ID ID", "how two calls differ"),
            (
                "sql [-o NAME] SELECT ...",
                "read the ledger, joined with your DataFrames by name; %%ai sql for more lines",
            ),
            ("conversations", "durable conversations, for -c"),
            ("prompts", "the questions that are kept, for --with"),
            ("export FILE", "the calls as .parquet or .csv, or .jsonl for fine-tuning;"),
            ("", "--since 30d, --model NAME, --status ok, --all, --force"),
            ("purge ID", "remove what was recorded, after a question; the id as the log shows it; or"),
            ("", "--before 30d, --containing TEXT, --conversation NAME, --all; --yes: unasked"),
        ),
    ),
    (
        "Errors",
        (("error [MODEL], fix [MODEL]", "explain the last error of this notebook, and how to mend it"),),
    ),
    (
        "Models and aliases",
        (
            ("list [PROVIDER|all]", "models by provider, and your aliases"),
            ("model [MODEL]", "the model where none is named, and why; or the one from now on, in this kernel"),
            ("alias NAME TARGET", "another name for a model; --api-base URL, --api-key-name VARIABLE"),
            ("register NAME TARGET", "the same"),
            ("update NAME TARGET", "the alias stands for another model; takes the same options"),
            ("dealias, delete NAME", "the alias is gone"),
            ("reset", "forget the exchanges that go along; conversations and the ledger stay"),
        ),
    ),
    (
        "Limits and replay",
        (
            ("limits", "limits and budgets, and what is used of them"),
            ("budget [AMOUNT/PERIOD|off]", "budgets; for example: budget 5 USD/day, budget 100000 tokens/hour openai"),
            ("replay [on|off|only]", "answer from the ledger where it can, never, or always, in this kernel"),
        ),
    ),
    (
        "Functions",
        (
            ("run NAME [key=value ...]", "a function of yours, or a built-in one; -o VARIABLE keeps its result"),
            ("form NAME", "the same as a form: an input for each argument, a button, its result"),
            ("functions", "the functions that are defined, and their arguments"),
            ("jobs [STATE]", "scheduled functions: pending, in_progress, success, failed or canceled"),
            ("cancel ID|CRON", "a scheduled function, a batch, or what runs by the clock"),
            ("crons", "what runs by the clock"),
        ),
    ),
    (
        "Batches: ai.summarize, ai.map, ai.reduce",
        (
            ("batches", "those that ran or run: rows, errors, tokens, cost, why one stopped; ai.pause(ID),"),
            ("", "ai.resume(ID); a scheduled one is a job, too"),
        ),
    ),
    (
        "This installation",
        (
            ("doctor", "which model is used where none is named, and all that was looked at"),
            ("chat [TITLE]", "a panel to chat in; with a title that conversation goes on, as in %%ai -c TITLE"),
            ("version", "of ipyconvexai"),
            ("help [COMMAND]", "this; also: COMMAND --help"),
        ),
    ),
)

_HEAD = """\
Ask a model. Question and answer are in the ledger before you see them.

    %%ai [MODEL] [options]          the lines below are the question; the answer streams in as markdown
    %ai [options] QUESTION          the same on one line; --model NAME for a model

MODEL is provider:model, a provider, an alias or a well-known model's name (`%ai list`). Without one: `%ai model NAME`
or c.AiMagics.default_language_model, IPYCONVEXAI_MODEL, then the first provider whose key is set, a running Ollama, or
the small local model (`%ai doctor` says which and why)."""

_BRACES = """\
{name}, {obj.attribute}, {x:.2f}, {In[3]}, {Out[3]} and {Err[3]} in a question become the text of your variables; a
DataFrame its schema, statistics and some rows, or {df!full} all of it. Other braces stay as they are."""

_FOOT = """\
A line that reads exactly like one of these is a command, and one that begins with `sql ` is SQL. Every other line is a
question; so is what follows `--`."""


def _drawn(groups: tuple[tuple[str, _Lines], ...], before: str) -> list[str]:
    return ["\n".join([title, *_rows(lines, before)]) for title, lines in groups]


def _rows(lines: _Lines, before: str) -> list[str]:
    return [f"    {before if usage else ''}{usage}".ljust(COLUMN + 2) + explained for usage, explained in lines]


HELP = "\n\n".join([_HEAD, *_drawn(_OPTIONS, ""), _BRACES, *_drawn(_COMMANDS, "%ai "), _FOOT])


def _words(usage: str) -> list[str]:
    """The commands that a line explains: ``alias, register NAME`` explains two."""
    return re.findall(r"(?:^|, )([a-z]+)", usage)


def _explained() -> dict[str, _Lines]:
    """Each command's lines: the first, and those below it without a command."""
    found: dict[str, _Lines] = {}
    words: list[str] = []
    for row in (row for _, lines in _COMMANDS for row in lines):
        words = _words(row[0]) or words
        found.update({word: (*(found.get(word, ()) if not row[0] else ()), row) for word in words})
    return found


_EXPLAINED = _explained()
WORDS = tuple(sorted(_EXPLAINED))


def help_of(word: str) -> str:
    """What stands about one command.

    Raises:
        KeyError: there is no such command.
    """
    rows = "\n".join(row[4:] for row in _rows(_EXPLAINED[word], "%ai "))
    return f"{rows}\n\n`%ai help` shows all commands and options."


def _all(session: Any) -> None:
    print(HELP)


def _one(session: Any, asked: str | None, word: str | None) -> None:
    print(help_of(asked or word or "help"))


_ANY = "|".join(WORDS)

COMMANDS: tuple[tuple[re.Pattern[str], Callable[..., None]], ...] = (
    (re.compile(r"(?:help|-h|--help)?"), _all),
    (re.compile(rf"help\s+({_ANY})|({_ANY})\s+(?:--help|-h)"), _one),
)
