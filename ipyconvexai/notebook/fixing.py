"""``%ai error`` and ``%ai fix``: a question about the cell that failed last. Calls ``tracebacks`` and ``asking``.

Promises: what is sent holds no key that is known, and no braces of it are filled in; a failure to ask does not become
the error that is asked about next.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from IPython.core.error import UsageError

from ipyconvexai.context import tracebacks
from ipyconvexai.context.tracebacks import Failure
from ipyconvexai.notebook.session import Session

__all__ = ["COMMANDS", "explain"]

LONGEST = 12_000  # characters of the traceback, and of the cell: what explains an error is at the beginning and the end

_REQUESTS = {
    "error": "Explain in a few sentences what went wrong, and how to mend it.",
    "fix": "Explain in a few sentences what went wrong. Then give the whole mended cell, once, as one fenced block.",
}
_FORMATS = (
    "markdown",
    "text",
    "code",
)  # an explanation is words: a picture's endpoint, say, has no use for a traceback


def explain(session: Session, command: str, word: str | None, options: str | None) -> None:
    """Ask about the last error; `fix` offers the mended cell below. A `word` that is no model makes it a question.

    Raises:
        UsageError: nothing has failed yet, the error holds the environment, or the options do not fit.
        Error: what asking raises.
    """
    from ipyconvexai.notebook import asking
    from ipyconvexai.notebook.options import cell_options, line_options

    if word is not None and not _is_model(session, word):
        asking.ask(session, *line_options(f"{command} {word} {options or ''}".strip()))
        return
    try:
        given = cell_options(f"{word or ''} {options or ''}")
        if given.evaluate or given.schema or given.models or given.prompts or given.save:
            raise UsageError(
                f"%ai {command} takes a model and how it is asked, not --eval, --schema, --models, --with or --save."
            )
        if given.format not in _FORMATS:
            raise UsageError(
                f"%ai {command} explains in words: -f is one of {', '.join(_FORMATS)}, not {given.format}."
            )
        answer = asking.ask(session, given, question(_last(session), command), interpolated=False)
    except BaseException as error:
        tracebacks.set_aside(error)
        raise
    if command == "fix" and given.format != "code":  # which puts it there itself
        _offer(session, answer)


def question(failure: Failure, command: str) -> str:
    """What the model is told of the failure.

    Raises:
        UsageError: the error holds the environment.
    """
    from ipyconvexai.context.closed import EnvironmentShownError, guarded
    from ipyconvexai.render.plain import cut
    from ipyconvexai.settings import redact

    try:
        guarded(failure, failure.text)  # all of it: what is cut below may no longer look like it
    except EnvironmentShownError:
        cure = "Run the cell again without it, or ask with the part that is meant: `%%ai`."
        raise UsageError(f"what cell {failure.count} said holds the environment, which is not sent. {cure}") from None
    summary = cut(redact(failure.summary), 200)  # before it is cut: half a key would not be found
    parts = [f"Cell {failure.count} of a notebook failed: {summary}", _REQUESTS[command]]
    if failure.source.strip():
        parts += ["The cell:", _shown(failure.source, "python")]
    parts += ["What Python said:", _shown(failure.text, "")]
    return "\n\n".join(parts)


def _shown(text: str, language: str) -> str:
    """Without keys, fenced, and not too long."""
    from ipyconvexai import render
    from ipyconvexai.settings import redact

    text = redact(render.plain_text(text).strip("\n"))
    return render.fenced(tracebacks.shortened(text, LONGEST), language)


def _last(session: Session) -> Failure:
    errors = tracebacks.of_shell(session.shell)
    if errors is None or errors.last is None:
        raise UsageError("no cell has failed yet, so there is no error to ask about; `%ai -- …` asks anything else")
    return errors.last


def _is_model(session: Session, word: str) -> bool:
    """An alias, a provider, a well-known model, or what says of which provider it is; "fix typos" is a question."""
    from ipyconvexai.errors import ConfigurationError
    from ipyconvexai.providers.catalog import parse

    if word in session.aliases:
        return True
    try:
        parse(word)
    except ConfigurationError:
        return ":" in word.strip(":")  # a mistyped one is told, and not asked about
    return True


def _offer(session: Session, answer: Any) -> None:
    """Put the last fenced block of the answer into the next cell, but not half of one, where the answer broke off."""
    from ipyconvexai import render
    from ipyconvexai.notebook.formats import fences

    blocks = [block for block in fences(getattr(answer, "text", None) or "") if block.closed]
    if blocks:
        session.shell.set_next_input(render.plain_text(blocks[-1].text).strip("\n"))


COMMANDS: tuple[tuple[re.Pattern[str], Callable[..., None]], ...] = (
    (re.compile(r"(error|fix)(?:[ \t]+([^\s-]\S*))?[ \t]*((?<=[ \t])--?[A-Za-z].*)?"), explain),
)
