"""Tools: functions that a model may call. Calls the registry, ``validation`` and, for results that are frames, context.

A tool is a query, a mutation or an action, which runs as it always does, or a plain function of the user's, which runs
as an action would: in a thread (a coroutine: on the background loop), its arguments checked by its hints, for a limited
time. Promises: what a model writes as arguments never reaches a function unchecked; what it is told of a result has a
bounded length, no known key and no environment in it.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ipyconvexai.context.closed import EnvironmentShownError, guarded, is_environment
from ipyconvexai.context.frames import describe, is_frame, whole
from ipyconvexai.errors import ArgumentsError, Error, FunctionTimeoutError, InputError, ResultError
from ipyconvexai.functions.plain import as_action
from ipyconvexai.functions.registry import Function, of
from ipyconvexai.functions.validation import Result
from ipyconvexai.settings import redact

__all__ = ["NO_TOOLS", "Tool", "Toolset", "as_text", "error_of", "for_people", "tool", "tools_of"]

TIMEOUT = 60.0  # seconds of a plain function
RESULT_TOKENS = 4000  # of a result that the model is told
CHARACTERS = 4  # taken for one token
LONG_TEXT = 80  # characters of JSON, from which on an only argument is shown as text
LONGEST_ERROR = 2000  # characters
LONGEST_ARGUMENTS = 100_000  # characters
LONGEST_DESCRIPTION = 1024  # characters that providers take
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call; ``ai.tool`` makes one.

    Attributes:
        name: by which the model calls it.
        description: what the model is told that it does.
        parameters: its arguments, as a JSON schema.
        safe: whether it runs without asking first.
    """

    name: str
    description: str
    parameters: Mapping[str, Any] = field(repr=False)
    safe: bool
    function: Function = field(repr=False)

    @property
    def declaration(self) -> dict[str, Any]:
        """As a provider is told of it."""
        facts = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": facts}

    def values(self, arguments: str) -> dict[str, Any]:
        """The checked values of arguments in JSON.

        Raises:
            ArgumentsError: they do not fit.
        """
        if len(arguments) > LONGEST_ARGUMENTS:
            many = f"{len(arguments):,} characters, and {LONGEST_ARGUMENTS:,} are allowed"
            raise ArgumentsError(f"`{self.name}`: its arguments have {many}", cure="Say less.")
        return self.function.arguments.from_json(arguments.strip() or "{}")


def tool(
    fn: Any,
    *,
    safe: bool = False,
    name: str | None = None,
    description: str | None = None,
    timeout: float = TIMEOUT,
) -> Tool:
    """A tool for ``ai.chat(tools=[...])``: a function that the model may call by its type hints.

        ai.chat(tools=[weather, ai.tool(read_notes, safe=True)])

    Args:
        fn: a plain function (also ``async``), or a query, a mutation or an action, or the name of one.
        safe: run it without asking first: it changes nothing, and what it tells the model may be told.
        name: by which the model calls it; None: the function's own.
        description: what the model is told that it does; None: the docstring.
        timeout: seconds that a plain function may run; queries, mutations and actions have limits of their own.

    Raises:
        InputError: it cannot be a tool; the message says why.
        ArgumentsError: parameters that cannot be given by name, or of types that JSON does not have.
        UnknownFunctionError: there is no function of that name.
    """
    if isinstance(fn, Tool):
        return _marked(fn, safe, name, description)
    if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not 0 < timeout < math.inf:
        raise InputError(f"timeout={timeout!r} is no number of seconds", cure="Use a number above 0.")
    named = isinstance(fn, str | Function) or hasattr(fn, "ai_function")
    name = _name_of(fn, of(fn).name.replace(".", "_") if named and name is None else name)
    function = of(fn) if named else _plain(fn, name, timeout)
    told = (inspect.getdoc(function.handler if named else fn) or "") if description is None else description
    return Tool(name, told[:LONGEST_DESCRIPTION], function.arguments.schema(), bool(safe), function)


def _marked(made: Tool, safe: bool, name: str | None, description: str | None) -> Tool:
    told = made.description if description is None else description[:LONGEST_DESCRIPTION]
    return Tool(_name_of(made, name or made.name), told, made.parameters, safe or made.safe, made.function)


def _name_of(fn: Any, name: str | None) -> str:
    name = getattr(fn, "__name__", "") if name is None else name
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    what = f"{name!r} is no name for a tool" if name else f"{fn!r:.80} has no name"
    raise InputError(what, cure='Name it with letters, digits and _: ai.tool(fn, name="read_notes").')


def _plain(fn: Any, name: str, timeout: float) -> Function:
    if not callable(fn) or isinstance(fn, type):
        raise InputError(f"{fn!r:.80} is no function that can be a tool", cure="Give a def, or the name of a query.")
    return as_action(fn, name, _RESULT, timeout=timeout)


def tools_of(things: Sequence[Any]) -> dict[str, Tool]:
    """By name.

    Raises:
        InputError: one cannot be a tool, or two have the same name.
    """
    if isinstance(things, str) or not isinstance(things, Sequence):
        raise InputError(f"tools={things!r:.80} is no list", cure="For example: tools=[fn, ai.tool(other, safe=True)].")
    tools: dict[str, Tool] = {}
    for thing in things:
        made = thing if isinstance(thing, Tool) else tool(thing)
        if made.name in tools:
            raise InputError(f"two tools are named {made.name}", cure='Name one: ai.tool(fn, name="other").')
        tools[made.name] = made
    return tools


class Toolset:
    """The tools that this process has for one conversation. False where it has none."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self._tools = dict(tools)
        self._trusted: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._tools)

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    @property
    def declared(self) -> list[dict[str, Any]]:
        """As a provider is told of them."""
        return [each.declaration for each in self._tools.values()]

    def trust(self, name: str) -> None:
        """From now on it runs without asking, in this conversation."""
        self._trusted.add(name)

    def is_safe(self, name: str) -> bool:
        return name in self._trusted or (name in self._tools and self._tools[name].safe)

    def find(self, name: str) -> Tool:
        """
        Raises:
            InputError: there is none of this name here.
        """
        if name not in self._tools:
            known = ", ".join(self._tools) or "none"
            raise InputError(f"there is no tool {name!r:.80}", cure=f"There are: {known}.")
        return self._tools[name]

    def problem(self, name: str, arguments: str) -> str | None:
        """Why it cannot be called so, in words for the model; None: it can."""
        try:
            self.find(name).values(arguments)
        except Error as error:
            return error_of(error)
        return None


NO_TOOLS = Toolset({})


# ---------------------------------------------------------------------------------------------- results
def as_text(value: Any, tokens: int = RESULT_TOKENS) -> str:
    """A result as the model is told: a text as it is, a frame as a table, all else as JSON; in at most `tokens`.

    Raises:
        ResultError: it holds the environment of this process.
    """
    room = tokens * CHARACTERS
    try:
        if is_environment(value):
            raise EnvironmentShownError
        text = redact(_text(value, room, tokens))
    except EnvironmentShownError:
        raise ResultError(
            "the result holds the environment of this process, and that goes to no model", cure="Return less."
        ) from None
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if len(text) <= room:
        return text
    return f"{text[:room]}\n… cut: these are the first {room:,} of {len(text):,} characters."


def _text(value: Any, room: int, tokens: int) -> str:
    if value is None:
        return "done; there is no result"
    if isinstance(value, str):
        return value
    if is_frame(value):
        text = whole(value) if _is_short(value, room) else ""
        return text if text and len(text) <= room else describe(value, tokens)
    return guarded(value, _RESULT.to_json(value))


def _is_short(frame: Any, room: int) -> bool:
    """Whether all of its rows may fit: writing a million of them down to see that they do not takes seconds."""
    try:
        return len(frame) <= room // 2
    except Exception:  # a lazy one
        return False


def _unhinted(): ...  # type: ignore[no-untyped-def] # which is the point: whatever it gives fits


_RESULT = Result.of(_unhinted)


def error_of(error: BaseException) -> str:
    """An error in words for the model, that it may do better: what happened, without what is meant for people."""
    if isinstance(error, FunctionTimeoutError):
        text = f"{error.message}: it was given up"
    elif isinstance(error, ArgumentsError | InputError):
        text = str(error)
    elif isinstance(error, Error):
        text = error.message
    else:
        text = f"{type(error).__name__}: {_said(error)}"
    return redact(text)[:LONGEST_ERROR]


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an exception of the user's may fail to describe itself
        return "(it does not say why)"


def for_people(arguments: str) -> str:
    """Arguments as people read them before they allow a call; as they came where they are no JSON.

    JSON, in which no value can pass for another argument; where a long text is the only one, there is none: as it is.
    """
    try:
        values = json.loads(arguments)
        text = json.dumps(values, indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return arguments
    if isinstance(values, dict) and len(values) == 1 and len(text) > LONG_TEXT:
        ((name, value),) = values.items()
        if isinstance(value, str):
            return f"{json.dumps(name, ensure_ascii=False)}:\n{value}"
    return text
