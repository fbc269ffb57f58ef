"""What can be called: queries, mutations and actions, by name. Calls ``validation`` and ``retries``.

A decorated function stays the plain function of ``(ctx, ...)`` that it is; what is known about it is its attribute
``ai_function``. Promises: running a cell again replaces the function of that name; rules that can be checked when a
function is written are checked then.
"""

from __future__ import annotations

import enum
import importlib
import importlib.util
import inspect
import keyword
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ipyconvexai import interrupts
from ipyconvexai.errors import InputError, UnknownFunctionError
from ipyconvexai.functions.definitions import Definitions
from ipyconvexai.functions.retries import ONCE, Retry
from ipyconvexai.functions.validation import Arguments, Result, nearest

if TYPE_CHECKING:
    from ipyconvexai.functions.rate_limits import RateLimit

__all__ = [
    "ACTION_LIMIT",
    "BUILT_IN",
    "TRANSACTION_LIMIT",
    "Function",
    "Kind",
    "Registry",
    "action",
    "define_built_in",
    "mutation",
    "of",
    "query",
    "registry",
]

TRANSACTION_LIMIT = 1.0  # seconds of a query's or a mutation's own code, as in Convex
ACTION_LIMIT = 600.0  # seconds of an action, as in Convex; each may declare another
BUILT_IN = "ai."  # before the names of the package's own functions, so that a user's may have the same
ACTIONS = "ipyconvexai.actions"  # where these are; it stands on a higher floor, and so is named and not imported

F = TypeVar("F", bound=Callable[..., Any])


class Kind(enum.StrEnum):
    """What a function may do."""

    QUERY = "query"  # reads one snapshot
    MUTATION = "mutation"  # reads and writes in one transaction
    ACTION = "action"  # reaches the outside world, and data through queries and mutations


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A function as the action layer knows it.

    Attributes:
        name: by which it is called and scheduled.
        internal: callable from other functions only.
        handler: the plain function.
        timeout: seconds that it may run.
        retry: whether and when an action that failed is begun again.
        limit: taken from before an action begins, for each user.
    """

    name: str
    kind: Kind
    handler: Callable[..., Any]
    arguments: Arguments
    result: Result
    internal: bool = False
    timeout: float = TRANSACTION_LIMIT
    retry: Retry = ONCE
    limit: RateLimit | None = None

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.handler)

    def __str__(self) -> str:
        return f"{self.name}{self.arguments.describe()}"


class Registry(Definitions[Function]):
    """Functions by name. There is one per process; jobs of a name that it does not know wait for another process."""

    def add(self, function: Function) -> None:
        """Replaces the one of the same name."""
        self.put(function.name, function)

    def find(self, name: str) -> Function:
        """The function of that name; the package's own may be named without their prefix.

        Raises:
            UnknownFunctionError: there is none; it names the nearest.
        """
        found = self.get(name) or self.get(f"{BUILT_IN}{name}")
        if found is not None:
            return found
        known = self.names()
        alike = nearest(name, known)
        cure = (
            f"Did you mean {' or '.join(alike)}?" if alike else "Run the cell, or import the module, that defines it."
        )
        raise UnknownFunctionError(f"no function {name!r} is defined here", cure=cure)

    def names(self) -> set[str]:
        return set(self.all())


registry = Registry()


def define_built_in() -> None:
    """Have the package's own functions defined: where functions are named, listed, or run as jobs."""
    if ACTIONS not in sys.modules:
        with interrupts.held():
            if importlib.util.find_spec(ACTIONS) is not None:
                importlib.import_module(ACTIONS)


def of(thing: Any) -> Function:
    """The function that is meant by a decorated function, by its name, or by itself.

    Raises:
        UnknownFunctionError: nothing of that name is defined here.
        InputError: it is a plain function, or no function at all.
    """
    if isinstance(thing, Function):
        return thing
    if isinstance(thing, str):
        if thing not in registry.names():
            define_built_in()
        return registry.find(thing)
    found = getattr(thing, "ai_function", None)
    if isinstance(found, Function):
        return found
    name = getattr(thing, "__name__", None) or repr(thing)[:80]
    raise InputError(
        f"{name} is no query, mutation or action", cure="Put @ai.query, @ai.mutation or @ai.action above its def."
    )


# ---------------------------------------------------------------------------------------------- the decorators
@overload
def query(fn: F, /) -> F: ...
@overload
def query(*, internal: bool = False, name: str | None = None) -> Callable[[F], F]: ...
def query(fn: Any = None, /, *, internal: bool = False, name: str | None = None) -> Any:
    """A function that reads: plain ``def f(ctx, ...)``, one snapshot of the data, 1 s at most.

    Args:
        internal: callable from other functions only, not from ``%ai run`` and the command line.
        name: by which it is called; the function's own where it is None.

    Raises:
        InputError: it is async, or not a function of ``(ctx, ...)``.
    """
    return _decorate(fn, Kind.QUERY, name, internal=internal)


@overload
def mutation(fn: F, /) -> F: ...
@overload
def mutation(*, internal: bool = False, name: str | None = None) -> Callable[[F], F]: ...
def mutation(fn: Any = None, /, *, internal: bool = False, name: str | None = None) -> Any:
    """A function that writes: plain ``def f(ctx, ...)``, one serialisable transaction, all or nothing, 1 s at most.

    The arguments and errors of ``query``.
    """
    return _decorate(fn, Kind.MUTATION, name, internal=internal)


@overload
def action(fn: F, /) -> F: ...
@overload
def action(
    *,
    internal: bool = False,
    name: str | None = None,
    timeout: float = ACTION_LIMIT,
    retry: Retry | int | None = None,
    limit: RateLimit | None = None,
) -> Callable[[F], F]: ...
def action(
    fn: Any = None,
    /,
    *,
    internal: bool = False,
    name: str | None = None,
    timeout: float = ACTION_LIMIT,
    retry: Retry | int | None = None,
    limit: RateLimit | None = None,
) -> Any:
    """A function for the outside world: ``async def f(ctx, ...)``, or a plain ``def``, which runs in a thread.

    It has no ``ctx.db``: it reads and writes through ``ctx.run_query`` and ``ctx.run_mutation``.

    Args:
        internal, name: as for ``query``.
        timeout: seconds that it may run.
        retry: a ``Retry``, or a number of attempts; None: it is never begun a second time.
        limit: a ``rate_limit``; each run takes one from it, for its user, or is refused with ``retry_after``.

    Raises:
        InputError: a value that makes no sense, or no function of ``(ctx, ...)``.
    """
    if not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise InputError(f"timeout={timeout!r} is no number of seconds", cure="Use a number above 0.")
    if isinstance(retry, int) and not isinstance(retry, bool):
        retry = Retry(attempts=retry)
    if not isinstance(retry, Retry | None):
        raise InputError(f"retry={retry!r} is no retry policy", cure="For example: retry=3, or ai.Retry(attempts=3).")
    if limit is not None and not hasattr(limit, "atake"):
        raise InputError(f"limit={limit!r:.80} is no limit", cure='For example: limit=ai.rate_limit("ask", 10, 60).')
    return _decorate(fn, Kind.ACTION, name, internal=internal, timeout=timeout, retry=retry or ONCE, limit=limit)


def _decorate(fn: Any, kind: Kind, name: str | None, **options: Any) -> Any:
    def decorate(handler: F) -> F:
        function = _described(handler, kind, name, options)
        handler.ai_function = function  # type: ignore[attr-defined] # the one attribute that a decorated function has more
        registry.add(function)
        return handler

    return decorate if fn is None else decorate(fn)


def _described(handler: Callable[..., Any], kind: Kind, name: str | None, options: dict[str, Any]) -> Function:
    if not inspect.isfunction(handler):
        raise InputError(f"@ai.{kind} stands above a def, not above {handler!r:.80}", cure="Write def f(ctx, ...): ...")
    name = handler.__name__ if name is None else name
    if not isinstance(name, str) or not all(_is_word(part) for part in name.split(".")):
        raise InputError(f"{name!r} is no name for a function", cure="Use letters, digits and underscores.")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise InputError(f"{name} yields, and a {kind} returns one result", cure="Return a list instead.")
    if kind is not Kind.ACTION and inspect.iscoroutinefunction(handler):
        raise InputError(
            f"{name} is async, and a {kind} has nothing to wait for",
            cure="Write def instead of async def; what waits for the outside world is an @ai.action.",
        )
    return Function(name, kind, handler, Arguments.of(handler), Result.of(handler), **options)


def _is_word(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)
