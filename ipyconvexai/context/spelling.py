"""A variable's value as text of a prompt. Calls closed and frames; numpy only where it is in use already.

Promises: nothing is cut without saying so, and how much; the same value gives the same text in every run (sets are
sorted, addresses left out); no value that holds the environment is in it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from ipyconvexai.context import frames
from ipyconvexai.context.closed import EnvironmentShownError, guarded, is_environment, shows_environment

__all__ = ["has_own_text", "spell"]

TOKENS = 2000  # of one value; a token is taken for four characters
NESTED_TOKENS = 500  # of a frame or an array within a list
SMALL_ARRAY = 1000  # elements that are put in as they are
_BRACKETS: dict[type, Sequence[str]] = {
    list: "[]",
    tuple: "()",
    dict: "{}",
    set: "{}",
    frozenset: ("frozenset({", "})"),
}


def spell(value: Any, *, whole: bool = False) -> str:
    """`value` as text: frames described, arrays and containers shortened where they are long; `whole`: all of it.

    Raises:
        EnvironmentShownError: it holds the environment.
        Exception: what the value's own code raises.
    """
    if isinstance(value, str):
        return guarded(value, str(value))
    if _is_large(value):
        return _large(value, TOKENS, whole)
    room = sys.maxsize if whole else TOKENS * 4
    if type(value) in _BRACKETS:
        text = _container(value, room, whole, frozenset())
        if shows_environment(text):  # none of its items does: a list of pairs, say
            raise EnvironmentShownError
        return text
    text = guarded(value, str(value))
    return _cut(text, room) if isinstance(value, bytes | bytearray | Mapping | Sequence | Set) else text


def has_own_text(value: Any) -> bool:
    """Whether Python's text of `value` will do: not for frames and arrays, which it cuts, nor for containers."""
    return type(value) not in _BRACKETS and not _is_large(value)


def _is_large(value: Any) -> bool:
    return frames.is_frame(value) or _array(value) is not None


def _large(value: Any, tokens: int, whole: bool) -> str:
    if frames.is_frame(value):
        return frames.whole(value) if whole else frames.describe(value, tokens=tokens)
    return _spell_array(_array(value), tokens, whole)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[:room]}… (the first {room:,} of {len(text):,} characters)"


# ---------------------------------------------------------------------------------------------- containers
def _container(value: Any, room: int, whole: bool, above: frozenset[int]) -> str:
    """As Python shows it, but for the items that have no room."""
    opening, closing = _BRACKETS[type(value)]
    if not value:
        return f"{type(value).__name__}()" if isinstance(value, set | frozenset) else opening + closing
    if id(value) in above:
        return f"{opening}...{closing}"
    if is_environment(value):
        raise EnvironmentShownError
    above |= {id(value)}
    texts: list[str] = []
    used = 0
    for text in _items(value, room, whole, above):
        if texts and used + len(text) > room:
            left = f"{len(value) - len(texts):,} of {len(value):,} items are left out"
            return f"{opening}{', '.join(texts)}, … {left}{closing}"
        texts.append(text)
        used += len(text) + 2
    comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
    return f"{opening}{', '.join(texts)}{comma}{closing}"


def _items(value: Any, room: int, whole: bool, above: frozenset[int]) -> Iterable[str]:
    if isinstance(value, dict):
        return (f"{_item(k, room, whole, above)}: {_item(v, room, whole, above)}" for k, v in value.items())
    texts = (_item(item, room, whole, above) for item in value)
    return sorted(texts) if isinstance(value, set | frozenset) else texts


def _item(item: Any, room: int, whole: bool, above: frozenset[int]) -> str:
    if item is None or type(item) in (int, float, bool):  # the most of long lists
        return repr(item)
    if type(item) in _BRACKETS:
        return _container(item, room, whole, above)
    if _is_large(item):
        return f"\n{_large(item, min(NESTED_TOKENS, room // 4), whole)}\n"
    if isinstance(item, str):
        text = guarded(item, str(item))
        more = f"… (the first {room:,} of {len(text):,} characters)" if len(text) > room else ""
        return repr(text[:room]) + more
    return _cut(guarded(item, repr(item)), room)


# -------------------------------------------------------------------------------------------------- arrays
def _array(value: Any) -> Any:
    """The numpy array that `value` is or can become at once, or None."""
    numpy: Any = sys.modules.get("numpy")
    kind = type(value)
    if numpy is None or isinstance(value, numpy.generic):
        return None
    if isinstance(value, numpy.ndarray):
        return value
    if all(hasattr(kind, name) for name in ("__array__", "shape", "dtype", "__getitem__")):  # a tensor
        try:
            return numpy.asarray(value)
        except Exception:  # it lies on another device, say: then its own text has to do
            return None
    return None


def _spell_array(array: Any, tokens: int, whole: bool) -> str:
    if whole or array.size <= SMALL_ARRAY:
        text = _elements(array)
        if whole or len(text) <= tokens * 4:
            return text
    head = [f"numpy array of shape {array.shape}, {array.dtype}{_range(array)}"]
    rows = array if array[0].size <= SMALL_ARRAY else array.reshape(-1)
    room = tokens * 4 - len(head[0]) - 120
    for count in (50, 20, 10, 5, 2, 1):
        chosen = frames.sampled(len(rows), count)
        lines = [_elements(rows[index]) for index in chosen]
        if sum(map(len, lines)) + 2 * len(lines) <= room:
            break
    else:
        lines = []
    unit = "rows" if rows.ndim > 1 else "elements"
    head.append(f"{len(lines)} of {len(rows):,} {unit} (the first ones, then evenly spaced):")
    return "\n".join([*head, *lines] if rows.ndim > 1 else [*head, ", ".join(lines)])


def _elements(array: Any) -> str:
    """All elements; numpy itself would put dots in the place of most, and eight digits in the place of all."""
    import numpy as np

    if not isinstance(array, np.ndarray):
        return guarded(array, str(array))
    if array.dtype.hasobject or array.dtype.names or isinstance(array, np.ma.MaskedArray):
        values = array.tolist()
        return _container(values, sys.maxsize, True, frozenset()) if isinstance(values, list) else str(values)
    text = np.array2string(
        array, separator=", ", threshold=sys.maxsize, max_line_width=120, formatter={"float_kind": str}
    )
    return guarded(array, text)


def _range(array: Any) -> str:
    import numpy as np

    if array.dtype.kind not in "iuf" or isinstance(array, np.ma.MaskedArray):
        return ""
    known = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    missing = f"; NaN or infinite: {array.size - known.size:,}" if known.size < array.size else ""
    if not known.size:
        return missing
    mean = known.mean(dtype=np.float64)
    return f"; min {known.min():.6g}, mean {mean:.6g}, max {known.max():.6g}{missing}"
