"""``ai.watch`` over the current app. Floor 5: calls ``application`` and ``functions``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ipyconvexai.application import App, app
from ipyconvexai.errors import NotAllowedError
from ipyconvexai.functions.changes import hub_of
from ipyconvexai.functions.registry import Function, Kind, of
from ipyconvexai.functions.validation import REPR
from ipyconvexai.functions.watching import Look, Watch

__all__ = ["look_at", "print_of", "watch"]


def watch(query: Any, /, **args: Any) -> Watch:
    """A query's result at once, and again after each commit that changes it.

        for notes in ai.watch(load_notes, limit=5): ...        # or: async for

    Args:
        query: a function made with ``@ai.query``, or its name.
        **args: its arguments.

    Commits of all notebooks and processes count; several within about 50 ms may be told as one. Leave the loop to
    end it, or ``.close()`` what this gives. An error of the query is raised in the loop.

    Raises:
        UnknownFunctionError: nothing of that name is defined here.
        NotAllowedError: it is no query.
        ArgumentsError: the arguments do not fit its type hints.
    """
    current = app()
    function, look = look_at(current, query, args)
    return Watch(
        look,
        hub_of(current.store),
        name=function.name,
        print_of=print_of(function),
        on_loop=current.loop.is_current,
    )


def look_at(current: App, query: Any, args: Mapping[str, Any]) -> tuple[Function, Look]:
    """The query, and what runs it once: its result and the tables that it read."""
    function = of(query)
    if function.kind is not Kind.QUERY:
        raise NotAllowedError(
            f"{function.name} is no query but a {function.kind}: running it again would do its work again",
            cure="Watch a query that reads what it writes.",
        )
    function.arguments.validate(args)
    runner = current.functions.runner
    return function, lambda: runner.query_with_tables(function, args)


def print_of(function: Function) -> Callable[[Any], Any]:
    """By what two results are the same: a reader may change what it was given, so that cannot be compared."""

    def of_value(value: Any) -> Any:
        text = function.result.to_json(value)
        if f'"{REPR}"' in text:  # a repr may leave out what has changed
            return object()
        return text, tuple(_ids_in(value))

    return of_value


def _ids_in(value: Any) -> Iterator[str | None]:
    """Ids of the documents in a result, which are no part of its JSON."""
    if hasattr(value, "_id"):
        yield value._id
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _ids_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _ids_in(item)
    elif dataclasses.is_dataclass(value):  # as a page of documents
        for field in dataclasses.fields(value):
            yield from _ids_in(getattr(value, field.name))
