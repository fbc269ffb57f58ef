"""``{name}`` in a prompt becomes the variable's text. Pure but for IPython's UsageError.

Promises: one pass, so a value is never read again; what names nothing stays byte for byte; nothing leads into modules,
functions, frames, names that begin with an underscore, or the environment.
"""

from __future__ import annotations

import os
import re
import types
from collections.abc import Mapping
from typing import Any

from IPython.core.error import UsageError

__all__ = ["interpolate"]

# A name, then attributes and numbers in brackets. Doubled braces are taken whole and left alone, as are single ones
# around anything else: JSON, code, formulas.
_FIELD = re.compile(r"\{\{[^{}]*\}\}|\{([^\W\d]\w*(?:\.[^\W\d]\w*|\[-?\d{1,9}\])*)\}")
_STEP = re.compile(r"\.(\w+)|\[(-?\d+)\]")

_CLOSED = (
    *(types.ModuleType, type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.CodeType),
    *(types.FrameType, types.TracebackType, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType),
    type(os.environ),
)


class _Nothing(Exception):
    """The field names nothing that may go into a prompt."""


def interpolate(text: str, names: Mapping[str, Any]) -> str:
    """`text` with each ``{name}``, ``{obj.attr}``, ``{Out[3]}`` that stands in `names` replaced by its text.

    Raises:
        UsageError: a value's own code failed.
    """
    return _FIELD.sub(lambda match: _text(match, names), text)


def _text(match: re.Match[str], names: Mapping[str, Any]) -> str:
    if match[1] is None:
        return match[0]
    try:
        return str(_value(match[1], names))
    except _Nothing:
        return match[0]
    except Exception as error:
        raise UsageError(f"{match[0]} cannot be read: {type(error).__name__}: {error}") from None


def _value(path: str, names: Mapping[str, Any]) -> Any:
    first = re.split(r"[.\[]", path, maxsplit=1)[0]
    if first.startswith("__") or first not in names:
        raise _Nothing
    value = _open(names[first])
    for step in _STEP.finditer(path, len(first)):
        value = _open(_attribute(value, step[1]) if step[1] else _item(value, int(step[2])))
    return value


def _attribute(value: Any, name: str) -> Any:
    if name.startswith("_") or not hasattr(value, name):
        raise _Nothing
    return getattr(value, name)


def _item(value: Any, index: int) -> Any:
    try:
        return value[index]
    except (KeyError, IndexError, TypeError):
        raise _Nothing from None


def _open(value: Any) -> Any:
    if isinstance(value, _CLOSED):
        raise _Nothing
    return value
