"""Functions called by name from outside: the magic and the command line. Calls the registry.

Promises: only public functions are found; the package's own are among them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ipyconvexai.errors import ArgumentsError, NotAllowedError
from ipyconvexai.functions.registry import Function, Kind, define_built_in, registry

__all__ = ["LISTED", "listing", "public", "result_in", "values_of"]

LISTED = ("name", "kind", "arguments", "access", "description")


def public(name: str) -> Function:
    """The public function of that name.

    Raises:
        UnknownFunctionError: there is none; it names the nearest.
        NotAllowedError: it is internal.
    """
    define_built_in()
    function = registry.find(name)
    if function.internal:
        raise NotAllowedError(
            f"{function.name} is internal: it is called by other functions only",
            cure="Call a public function that uses it, or define it without internal=True.",
        )
    return function


def values_of(name: str, words: Sequence[str]) -> tuple[Function, dict[str, Any]]:
    """A public function, and its arguments from words ``key=value``.

    Raises:
        UnknownFunctionError, NotAllowedError: as `public` does.
        ArgumentsError: the words do not fit its type hints.
    """
    function = public(name)
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals) or key in given:
            what = "is given twice" if key in given else "is no key=value"
            raise ArgumentsError(f"`{function.name}`: {word!r} {what}", cure=f"Arguments: {function}; write key=value.")
        given[key] = value
    return function, function.arguments.from_words(given)


def result_in(app: Any, function: Function, values: Mapping[str, Any]) -> Any:
    """The function's result, waited for; Ctrl-C stops it. Its arguments may have any names."""
    if function.kind is Kind.ACTION:
        return app.run(app.functions.arun(function, values))
    return app.functions.run_in_transaction(function, values)


def listing() -> list[tuple[str, str, str, str, str]]:
    """A row for each function that is defined here, by name; the columns are `LISTED`."""
    define_built_in()
    return [
        (
            function.name,
            str(function.kind),
            function.arguments.describe()[1:-1],
            "internal" if function.internal else "public",
            (inspect.getdoc(function.handler) or "").partition("\n")[0],
        )
        for function in (registry.find(name) for name in sorted(registry.names()))
    ]
