"""``@name`` and ``@cell:3`` in a message: what of the notebook is meant, and what is offered while one types.

Calls frames, spelling, closed and tracebacks; is given IPython's shell, which it does not import. Promises: only
variables of the user's own are attached, no modules, functions and private names, nothing of the environment and no
key that is known; what stands in code (fences, backticks, decorators) or in an address of mail stays text; of a value
nothing is called but what shows it. Cells may change a value while it is read: that is tried again.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ipyconvexai.attachments import Attachment, shortened
from ipyconvexai.context import frames, tracebacks
from ipyconvexai.context.closed import (
    EnvironmentShownError,
    guarded,
    is_closed,
    is_environment,
    looked_at_once,
    shows_environment,
)
from ipyconvexai.context.spelling import spell
from ipyconvexai.errors import InputError
from ipyconvexai.render.plain import cut, fenced, plain_text
from ipyconvexai.settings import redact

__all__ = ["Offer", "attach", "mentioned", "offers"]

TOKENS = 8000  # of a value or a cell at most; a frame's description takes 2,000
PART_TOKENS = 2500  # of a cell's source, of what it printed, of its output, of its error
MOST_OFFERED = 12
TRIES = 3

_MENTION = re.compile(r"(?<![\w@.+`/\\-])@(?:cell:(?P<cell>\d{1,9})|(?P<name>[^\W\d]\w*)(?:\.(?P<column>\w+))?)")
# Each looks at a character a few times at most: while a pattern is looked for, nothing else runs in the kernel.
_CODE = re.compile(
    r"^[ \t]*(?P<fence>```+|~~~+)[^\n]*\n.*?(?:^[ \t]*(?P=fence)|\Z)|(?<!`)(?P<ticks>`++)[^`\n]+(?P=ticks)",
    re.DOTALL | re.MULTILINE,
)
_DECORATOR = re.compile(r"[ \t]*@")
_DEFINITION = re.compile(r"[ \t]*(?:async[ \t]+def|def|class)\b")


@dataclass(frozen=True, slots=True)
class Offer:
    """What can be written after an ``@``; `about` says what it is."""

    name: str
    about: str


def mentioned(text: str) -> Iterator[re.Match[str]]:
    """What may be meant, each once, in order."""
    seen: set[str] = set()
    for match in _MENTION.finditer(_without_code(text)):
        if match[0] not in seen:
            seen.add(match[0])
            yield match


def _without_code(text: str) -> str:
    """Blanks for code, and for the decorators of a function that stands there without marks."""
    lines = _CODE.sub(lambda code: " " * len(code[0]), text).split("\n")
    is_decorated = False
    for at in reversed(range(len(lines))):
        if is_decorated and _DECORATOR.match(lines[at]):
            lines[at] = ""
        else:
            is_decorated = _DEFINITION.match(lines[at]) is not None
    return "\n".join(lines)


def attach(shell: Any, text: str) -> list[Attachment]:
    """What `text` mentions of the notebook, as it is now. Takes a while for large frames.

    Raises:
        InputError: a cell that is not there, a value that cannot be read, or one that holds the environment.
    """
    found: dict[str, Attachment] = {}
    with looked_at_once():
        for match in mentioned(text):
            one = _cell(shell, int(match["cell"])) if match["cell"] else _variable(shell, match)
            if one is not None:
                found.setdefault(one.name, one)
    return list(found.values())


def offers(shell: Any, beginning: str) -> list[Offer]:
    """What can be attached and begins like that, upper and lower case alike: frames first, then by name; cells last."""
    wanted = beginning.lower()
    if "." in wanted:
        return _columns(shell, *beginning.split(".", 1))
    fitting = [(name, value) for name, value in _variables(shell).items() if name.lower().startswith(wanted)]
    found: list[tuple[bool, str, Offer]] = []
    with looked_at_once():
        for name, value in fitting:
            with contextlib.suppress(Exception):  # of its own code, which is not offered then
                if not is_closed(value):
                    found.append((not frames.is_frame(value), name.lower(), Offer(name, _about(value))))
    return [*(offer for *_, offer in sorted(found, key=lambda one: one[:2])), *_cells(shell, wanted)][:MOST_OFFERED]


# -------------------------------------------------------------------------------------------------- variables
def _variables(shell: Any) -> dict[str, Any]:
    """The user's own, as ``%who`` knows them."""
    hidden, none = shell.user_ns_hidden, object()
    names = dict(shell.user_ns)
    return {
        name: value
        for name, value in names.items()
        if isinstance(name, str) and not name.startswith("_") and hidden.get(name, none) is not value
    }


def _columns(shell: Any, name: str, wanted: str) -> list[Offer]:
    """Of a frame; what is no word cannot stand after the point."""
    value = _variables(shell).get(name)
    if not frames.is_frame(value):
        return []
    names: Any = getattr(value, "column_names", None) or getattr(value, "columns", ())
    words = [column for column in names if isinstance(column, str) and re.fullmatch(r"\w+", column)]
    fitting = [column for column in words if column.lower().startswith(wanted.lower())]
    return [Offer(f"{name}.{column}", "column") for column in fitting[:MOST_OFFERED]]


def _about(value: Any) -> str:
    """Its type, and how large it is, where that is a number at hand."""
    kind = plain_text(type(value).__name__)[:40]
    shape = getattr(value, "shape", None) if frames.is_frame(value) else None
    if isinstance(shape, tuple) and all(type(side) is int for side in shape):
        return f"{kind} {' × '.join(f'{side:,}' for side in shape)}"
    return f"{kind} of {len(value):,}" if type(value) in (str, list, tuple, dict, set) else kind


def _variable(shell: Any, match: re.Match[str]) -> Attachment | None:
    """None: it is no variable that may be attached, so it is text."""
    name, column = match["name"], match["column"]
    value = _variables(shell).get(name, _NOTHING)
    if value is _NOTHING or _is_no_data(value):
        return None
    if column and frames.is_frame(value):
        part = _column(value, column)
        name, value = (name, value) if part is _NOTHING else (f"{name}.{column}", part)
    is_frame = frames.is_frame(value)
    text = _read(name, lambda: frames.describe(value) if is_frame else spell(value))
    return Attachment("frame" if is_frame else "value", name, shortened(plain_text(text), TOKENS))


def _is_no_data(value: Any) -> bool:
    """The environment is data: to spell it is refused, and that is said."""
    return is_closed(value) and not is_environment(value)


_NOTHING = object()


def _column(frame: Any, name: str) -> Any:
    """The column, as its library gives it."""
    try:
        part = frame[name]
    except Exception:  # every library has errors of its own for it
        return _NOTHING
    return part if frames.is_frame(part) else _NOTHING


def _read(name: str, read: Callable[[], str]) -> str:
    """
    Raises:
        InputError: it cannot be read, or holds the environment.
    """
    for tried in range(TRIES):
        try:
            return read()
        except EnvironmentShownError:
            raise _environment(name) from None
        except RuntimeError as error:  # a dictionary that changed its size
            if tried == TRIES - 1:
                raise _unreadable(name, error) from None
        except Exception as error:
            raise _unreadable(name, error) from None
    raise AssertionError  # the last try returned or raised


def _environment(name: str) -> InputError:
    cure = "Name the part of it that is meant, in a variable of its own. Nothing was sent."
    return InputError(f"@{name} holds the environment, which is not sent", cure=cure)


def _unreadable(name: str, error: Exception) -> InputError:
    try:
        said = cut(guarded(error, str(error)), 200)
    except Exception:  # it holds the environment, or its own code fails, too
        said = "it does not say why"
    cure = "Take it out of the message, or send once more where a cell is changing it. Nothing was sent."
    return InputError(f"@{name} cannot be read: {type(error).__name__}: {said}", cure=cure)


# ------------------------------------------------------------------------------------------------------ cells
def _cells(shell: Any, wanted: str) -> list[Offer]:
    """The last that ran, newest first."""
    sources = list(getattr(shell.history_manager, "input_hist_raw", []))
    counts = [count for count in range(len(sources) - 1, 0, -1) if f"cell:{count}".startswith(wanted)]
    firsts = ((count, next(iter(plain_text(sources[count]).strip().splitlines()), "")) for count in counts)
    return [Offer(f"cell:{count}", cut(redact(first), 60)) for count, first in firsts if first][:MOST_OFFERED]


def _cell(shell: Any, count: int) -> Attachment:
    name, history = f"cell:{count}", shell.history_manager
    sources = list(history.input_hist_raw)
    source = sources[count] if 0 < count < len(sources) else ""
    if not source.strip():
        newest = max((number for number, text in enumerate(sources) if text.strip()), default=0)
        cure = f"The newest one is @cell:{newest}, as its prompt shows: In [{newest}]." if newest else "Run one first."
        raise InputError(f"there is no cell {count} that ran in this kernel", cure=f"{cure} Nothing was sent.")
    parts = [("It printed", _printed(history, count)), ("It failed", _failure(shell, count))]
    text = _read(name, lambda: "\n\n".join([_part("Source", source, "python"), *_output(history, count)]))
    shown = [_part(title, _open(name, said), "") for title, said in parts if said.strip()]
    return Attachment("cell", name, shortened("\n\n".join([text, *shown]), TOKENS))


def _part(title: str, text: str, language: str) -> str:
    clean = plain_text(redact(text)).strip("\n")
    return f"{title}:\n{fenced(shortened(clean, PART_TOKENS), language)}"


def _open(name: str, text: str) -> str:
    """
    Raises:
        InputError: the environment was printed.
    """
    if shows_environment(text):
        raise _environment(name)
    return text


def _output(history: Any, count: int) -> list[str]:
    """What its last line gave."""
    if count not in (results := dict(history.output_hist)):
        return []
    value = results[count]
    if _is_no_data(value):
        return []
    text = frames.describe(value) if frames.is_frame(value) else spell(value)
    return [_part("Its output", text, "")]


def _printed(history: Any, count: int) -> str:
    kept = dict(getattr(history, "outputs", {})).get(count, [])
    said: list[str] = []
    for output in list(kept):
        if output.output_type.endswith("_stream"):
            pieces = output.bundle.get("stream", [])
            said += [pieces] if isinstance(pieces, str) else pieces
        elif output.output_type == "display_data":
            said.append(f"{output.bundle.get('text/plain', '')}\n")
    return "".join(said)


def _failure(shell: Any, count: int) -> str:
    errors = tracebacks.of_shell(shell)
    if errors is not None:
        return errors.get(count, "")
    stored = dict(getattr(shell.history_manager, "exceptions", {})).get(count)
    return "\n".join(stored["traceback"]) if stored else ""
