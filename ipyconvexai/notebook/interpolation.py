r"""``{name}`` in a prompt becomes the variable's text. Calls spelling at first use; raises IPython's UsageError.

A field is ``{name}``, with ``.attribute``, ``[3]``, ``[key]`` or ``['key']`` after it as often as one likes, then
``!r`` (as Python shows it) or ``!full`` (all of a frame, an array, a list), then ``:.2f``, a format.

Promises: one pass, so a value is never read again; no field leads into modules, classes, functions, frames, names that
begin with an underscore, or the environment; no expression is evaluated, no method called. A text that the user made of
the environment is theirs to send; known keys are taken out of it. These stay byte for byte: braces that name nothing;
doubled braces with what is in them; a field that is followed by a colon and a space (code, JSON), or whose format has
braces in it; arguments of a LaTeX command, as in ``\frac{a}{b}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from IPython.core.error import UsageError

__all__ = ["interpolate"]

_PATH = r"(?P<path>[^\W\d]\w*(?:\.[^\W\d]\w*|\[[^\[\]{}]{1,200}\])*)"
_GROUP = r"\{[^{}\n]*\}"
for _ in range(2):  # groups in groups: \frac{\sqrt{a}}{b}
    _GROUP = rf"\{{(?:[^{{}}\n]++|{_GROUP})*+\}}"
_ARGUMENT = rf"(?:{_GROUP})"
_FIELD = re.compile(
    rf"(?P<kept>\{{\{{[^{{}}]*\}}\}}|\\[A-Za-z]{{2,}}+\*?(?:\[[^\]{{}}\n]{{0,200}}+\])?{_ARGUMENT}+)"
    rf"|\{{{_PATH}(?:!(?P<conversion>r|s|full))?(?::(?P<format>(?!\s)[^{{}}]*(?P<nested>\{{[^{{}}]*\}}[^{{}}]*)*))?\}}"
)
_STEP = re.compile(r"\.(\w+)|\[([^\]]*)\]")
_NUMBER = re.compile(r"-?\d{1,18}")
_QUOTED = re.compile(r"""(['"])(.*)\1""", re.DOTALL)
_HUGE = re.compile(r"\d{5,}")  # a width like that would fill the memory
LONGEST_REASON = 200


class _Nothing(Exception):
    """The field names nothing that may go into a prompt."""


def interpolate(text: str, names: Mapping[str, Any]) -> str:
    """`text` with each field that stands in `names` replaced by its value's text.

    Keys that this process knows are replaced by ``***`` in values; what was typed is sent as it was typed.

    Raises:
        UsageError: a value's own code failed, a format does not fit, or a value holds the environment.
    """
    if _FIELD.search(text) is None:
        return text
    from ipyconvexai.context.closed import looked_at_once

    with looked_at_once():
        return _filled(text, names)


def _filled(text: str, names: Mapping[str, Any]) -> str:
    done, parts = 0, list[str]()
    match = _FIELD.search(text)
    while match:
        replaced = None if match["kept"] is not None else _field(match, names)
        # Behind a brace that named nothing there may be a field within it: {role: {name}}, {role:{name}}.
        end = match.end() if match["kept"] is not None or replaced is not None else match.start() + 1
        parts += [text[done : match.start()], text[match.start() : end] if replaced is None else replaced]
        done = end
        match = _FIELD.search(text, done)
    return "".join([*parts, text[done:]])


def _field(match: re.Match[str], names: Mapping[str, Any]) -> str | None:
    """The field's text; None: it names nothing."""
    from ipyconvexai.context.closed import EnvironmentShownError

    try:
        value = _value(match["path"], names)
        return match[0] if match["nested"] else _text(value, match["conversion"], match["format"])
    except _Nothing:
        return None
    except EnvironmentShownError:
        cure = "Name the part of it that is meant."
        raise UsageError(f"{_shown(match)} holds the environment, which is not sent. {cure}") from None
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {_message(error)}"
        if match["format"]:
            cure = "Correct the format; a space after the colon makes it plain text."
            raise UsageError(f"{_shown(match)} cannot be formatted: {reason}. {cure}") from None
        raise UsageError(f"{_shown(match)} cannot be read: {reason}") from None


def _shown(match: re.Match[str]) -> str:
    return " ".join(match[0].split())[:LONGEST_REASON]


def _message(error: BaseException) -> str:
    """The first line of what the error says; its own code may fail, too. It may be asked about: `%ai fix`."""
    from ipyconvexai.context.closed import EnvironmentShownError, guarded

    try:
        lines = guarded(error, str(error)).strip().splitlines()
    except EnvironmentShownError:
        return "what it says holds the environment"
    except Exception:
        return "it does not say why"
    return lines[0][:LONGEST_REASON] if lines else ""


def _text(value: Any, conversion: str | None, spec: str | None) -> str:
    from ipyconvexai.context.closed import guarded
    from ipyconvexai.context.spelling import has_own_text, spell

    if spec and _HUGE.search(spec):
        raise ValueError("its numbers are too large")
    if conversion == "r" and has_own_text(value):
        text = guarded(value, repr(value))
    elif conversion is not None or not spec:
        text = spell(value, whole=conversion == "full")
    else:
        return guarded(value, format(value, spec))
    return format(text, spec or "")


def _value(path: str, names: Mapping[str, Any]) -> Any:
    first = re.split(r"[.\[]", path, maxsplit=1)[0]
    if first.startswith("_") or first not in names:
        raise _Nothing
    value = _open(names[first])
    for step in _STEP.finditer(path, len(first)):
        value = _open(_attribute(value, step[1]) if step[1] else _item(value, step[2]))
    return value


def _attribute(value: Any, name: str) -> Any:
    if name.startswith("_"):
        raise _Nothing
    try:
        return getattr(value, name)
    except AttributeError:
        import inspect

        if inspect.getattr_static(value, name, _Nothing) is _Nothing:
            raise _Nothing from None
        raise  # it is there, and its own code failed


def _item(value: Any, key: str) -> Any:
    quoted = _QUOTED.fullmatch(key)
    if quoted:
        keys: list[int | str] = [quoted[2]]
    elif _NUMBER.fullmatch(key):
        keys = [int(key), key]
    else:
        keys = [key]
    for candidate in keys:
        if isinstance(value, dict) and candidate not in value:  # looking would make one in a defaultdict
            continue
        try:
            return value[candidate]
        except (LookupError, TypeError):
            continue
    raise _Nothing


def _open(value: Any) -> Any:
    from ipyconvexai.context.closed import is_closed

    if is_closed(value):
        raise _Nothing
    return value
