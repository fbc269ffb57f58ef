"""``%ai run NAME key=value ...``: a public function by its name. Calls the app, ``words`` and ``results``."""

from __future__ import annotations

import re
from typing import Any

from ipyconvexai.errors import draws_as
from ipyconvexai.notebook import completion
from ipyconvexai.notebook.options import variable_name
from ipyconvexai.notebook.screens import display
from ipyconvexai.notebook.session import Session
from ipyconvexai.notebook.words import words_of

__all__ = ["RUN", "is_mistyped", "run"]

# A name alone, or followed by what only a command has; "run a marathon" is a question.
RUN = re.compile(r"run\s+([A-Za-z_][\w.]*)((?:\s+(?:-o|--output|[A-Za-z_]\w*=).*)?)", re.DOTALL)
_ALMOST = re.compile(r"run\s+([A-Za-z_][\w.]*)\s.*", re.DOTALL)


def is_mistyped(line: str) -> bool:
    """Whether `line` runs a function that exists, in another way than the command is written."""
    match = _ALMOST.fullmatch(line)
    return match is not None and completion.is_defined(match[1])


def run(session: Session, name: str, rest: str) -> None:
    """Run it, show its result; ``-o VARIABLE`` keeps it.

    Raises:
        UsageError: the line cannot be read.
        Error: what the function raises, or why it cannot be called.
    """
    output, words = _output(words_of(rest))
    from ipyconvexai.application import app
    from ipyconvexai.functions.outside import result_in, values_of
    from ipyconvexai.notebook.asking import from_a_magic

    function, values = values_of(name, words)
    with from_a_magic():
        try:
            result = result_in(app(), function, values)
        except KeyboardInterrupt as interrupt:
            draws_as(interrupt, f"{function.name} was stopped.")
            raise
    if output is not None:
        session.shell.user_ns[output] = result
    _show(function.name, result)


def _show(name: str, result: Any) -> None:
    from ipyconvexai.drawing.results import bundle_of, text_of

    if result is None:
        print(f"{name}: done.")
    elif isinstance(result, str):
        print(text_of(result))
    else:
        display(bundle_of(result), raw=True)


def _output(words: list[str]) -> tuple[str | None, list[str]]:
    """The variable after -o, and the other words."""
    from IPython.core.error import UsageError

    output, rest = None, []
    left = iter(words)
    for word in left:
        if word in ("-o", "--output"):
            output = variable_name(next(left, ""), word)
        elif "=" not in word or word.startswith("-"):
            raise UsageError(f"%ai run takes key=value and -o VARIABLE, not {word!r}. Quote blanks: key='…'.")
        else:
            rest.append(word)
    return output, rest
