"""A plain function of the user's, which knows no ``ctx``, as one that runs like an action. Calls ``validation``.

Promises: no job and nothing outside can name it; what the user calls its parameters is in nobody's way.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from ipyconvexai.errors import ArgumentsError, InputError
from ipyconvexai.functions.registry import Function, Kind
from ipyconvexai.functions.validation import Arguments, Result

__all__ = ["as_action"]


def as_action(fn: Callable[..., Any], name: str, result: Result, *, timeout: float) -> Function:
    """
    Args:
        result: what it may give.
        timeout: seconds that it may run.

    Raises:
        ArgumentsError: parameters that cannot be given by name.
        InputError: it does not tell its parameters.
    """
    handler: Callable[..., Any]
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None)):  # noqa: B004 - of an object that is called

        @functools.wraps(fn, updated=())
        async def handler(_: Any, /, **values: Any) -> Any:
            return await fn(**values)
    else:

        @functools.wraps(fn, updated=())
        def handler(_: Any, /, **values: Any) -> Any:
            return fn(**values)

    try:
        arguments = Arguments.of_plain(fn, name)
    except ArgumentsError:
        raise
    except ValueError:  # some builtins tell nothing of themselves
        raise InputError(
            f"{name} does not tell its parameters", cure="Write a def around it, with type hints."
        ) from None
    return Function(name, Kind.ACTION, handler, arguments, result, internal=True, timeout=timeout)
