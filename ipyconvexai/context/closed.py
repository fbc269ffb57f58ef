"""What may not go into a prompt through a variable: the environment, and what leads out of data. Calls settings only.

Promises: `is_closed` knows modules, classes, functions, frames, generators and the environment, also a changed copy;
`guarded` removes the keys that this process knows from a text, and refuses one of a value that holds most of the
environment as Python or JSON shows it. Not promised: a `str` is the user's own text and goes as it is, but for known
keys, also where they have put the environment into it; so do single values of it, and a form of it of their own.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
import types
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from ipyconvexai.settings import redact

__all__ = ["EnvironmentShownError", "guarded", "is_closed", "is_environment", "looked_at_once", "shows_environment"]

_CLOSED = (
    *(types.ModuleType, type, types.CodeType, types.FrameType, types.TracebackType, types.CellType),
    *(types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, type(os.environ)),
)
# An address says nothing to a model, and it differs from run to run: a recorded answer would never be found again.
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+(?=>)")

_FEW = 5  # variables
_QUOTED: tuple[Callable[[str], str], ...] = (repr, lambda text: f"b{text!r}", json.dumps)


class EnvironmentShownError(Exception):
    """The value holds this process's environment."""


def is_closed(value: Any) -> bool:
    """Whether neither `value` nor what lies behind it may go into a prompt."""
    if isinstance(value, _CLOSED) or inspect.isroutine(value):
        return True
    # Functions of compiled modules and wrapped ones have types of their own; they have a qualified name all the same.
    return (callable(value) and hasattr(value, "__qualname__")) or is_environment(value)


def is_environment(value: Any) -> bool:
    """Whether `value` is ``os.environ`` or a mapping with most of what it holds: a copy that was changed, a chain."""
    if isinstance(value, type(os.environ)):
        return True
    if not isinstance(value, Mapping):
        return False
    here = _environment()
    if type(value) is dict and len(value) < here.most:
        return False
    try:
        return here.is_found(here.plain, lambda key, text: key in value and value[key] == text)
    except Exception:  # a mapping with ideas of its own about keys is no copy of the environment
        return False


def guarded(value: Any, text: str) -> str:
    """`text`, which shows `value`: without known keys and, where `value` is no text itself, without addresses.

    Raises:
        EnvironmentShownError: the text holds most of the environment as Python or JSON shows it.
    """
    if value is None or type(value) in (bool, int, float):
        return text
    if type(value) is not str and shows_environment(text):  # a subclass may show itself as anything
        raise EnvironmentShownError
    if not isinstance(value, str):
        text = _ADDRESS.sub("", text)
    return redact(text)


def shows_environment(text: str) -> bool:
    """Whether most of the environment is in `text`, as Python shows it, as text or as bytes, or JSON."""
    here = _environment()
    return any(here.is_found(pairs, lambda key, value: key in text and value in text) for pairs in here.shown)


# ------------------------------------------------------------------------------------------- the environment
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Environment:
    """The environment at one moment: its variables, how they are shown, and how many of them are most."""

    plain: Pairs
    shown: tuple[Pairs, ...]
    most: int

    def is_found(self, pairs: Pairs, found: Callable[[str, str], bool]) -> bool:
        """Whether half of the environment is found, and of a small one all: a few of its names are in many a dict."""
        missing = len(pairs) - self.most  # may be
        for key, value in pairs:
            if not found(key, value):
                missing -= 1
                if missing < 0:
                    return False
        return bool(pairs)


def _now() -> _Environment:
    plain = tuple(os.environ.items())
    shown = tuple(tuple((quoted(key), quoted(value)) for key, value in plain) for quoted in _QUOTED)
    return _Environment(plain, shown, max(min(_FEW, len(plain)), (len(plain) + 1) // 2))


_LOOKED_AT: ContextVar[_Environment | None] = ContextVar("environment", default=None)


def _environment() -> _Environment:
    return _LOOKED_AT.get() or _now()


@contextlib.contextmanager
def looked_at_once() -> Iterator[None]:
    """In here the environment is what it is now: to read and quote it for each of 10,000 values takes seconds."""
    token = _LOOKED_AT.set(_now())
    try:
        yield
    finally:
        _LOOKED_AT.reset(token)
