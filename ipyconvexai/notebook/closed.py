"""What may not go into a prompt through a variable: the environment, and what leads out of data. Calls settings only.

Promises: `is_closed` knows modules, classes, functions, frames, generators and the environment, also in a dict copied
from it; `guarded` removes the keys that this process knows from a text and refuses one that holds the environment.
"""

from __future__ import annotations

import inspect
import os
import re
import types
from collections.abc import Mapping
from typing import Any

from ipyconvexai.settings import redact

__all__ = ["EnvironmentShownError", "guarded", "is_closed", "is_environment"]

_CLOSED = (
    *(types.ModuleType, type, types.CodeType, types.FrameType, types.TracebackType, types.CellType),
    *(types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, type(os.environ)),
)
# An address says nothing to a model, and it differs from run to run: a recorded answer would never be found again.
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+(?=>)")


class EnvironmentShownError(Exception):
    """The value holds this process's environment."""


def is_closed(value: Any) -> bool:
    """Whether neither `value` nor what lies behind it may go into a prompt."""
    if isinstance(value, _CLOSED) or inspect.isroutine(value):
        return True
    # Functions of compiled modules and wrapped ones have types of their own; they have a qualified name all the same.
    return (callable(value) and hasattr(value, "__qualname__")) or is_environment(value)


def is_environment(value: Any) -> bool:
    """Whether `value` is ``os.environ`` or a mapping with everything that it holds: a copy, a view, a chain."""
    if isinstance(value, type(os.environ)):
        return True
    if not isinstance(value, Mapping) or not os.environ:
        return False
    try:
        return all(key in value and value[key] == here for key, here in os.environ.items())
    except Exception:  # a mapping with ideas of its own about keys is no copy of the environment
        return False


def guarded(value: Any, text: str) -> str:
    """`text`, which shows `value`: without known keys and, where `value` is no text itself, without addresses.

    Raises:
        EnvironmentShownError: the text holds the environment as Python shows it.
    """
    if value is None or type(value) in (bool, int, float):
        return text
    if not isinstance(value, str):
        if _holds_environment(text):
            raise EnvironmentShownError
        text = _ADDRESS.sub("", text)
    return redact(text)


def _holds_environment(text: str) -> bool:
    plain = dict(os.environ)
    shown = [repr(plain)[1:-1]]
    if os.supports_bytes_environ:
        shown.append(repr({os.fsencode(key): os.fsencode(here) for key, here in plain.items()})[1:-1])
    return any(inner and inner in text for inner in shown)
