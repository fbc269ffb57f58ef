"""The tools that an answer wants called, from a whole message or from the pieces of a stream. Pure.

Providers lie here, too: ids that are missing or given twice, arguments as an object, numbers that are all 0, names in
each piece. What comes out can be given back to a provider: each call has an id of its own, and its texts are sound.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from ipyconvexai.values import ToolCall

__all__ = ["WantedCalls", "calls_in"]

MOST = 128  # calls of one answer
_PROPER_ID = re.compile(r"[\w.:-]{1,40}", re.ASCII)  # some providers refuse longer ones, which others give


@dataclass(slots=True)
class _Wanted:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class WantedCalls:
    """Feed it the messages, or the deltas of one."""

    def __init__(self) -> None:
        self._calls: list[_Wanted] = []
        self._by_index: dict[Any, _Wanted] = {}

    def add(self, message: dict[str, Any]) -> None:
        calls = message.get("tool_calls")
        for piece in calls if isinstance(calls, list) else ():
            if isinstance(piece, dict):
                self._add(piece)
        if isinstance(old := message.get("function_call"), dict):  # as it was in 2023, and with some servers is
            self._add({"index": "function_call", "function": old})

    def _add(self, piece: dict[str, Any]) -> None:
        function = piece.get("function")
        function = function if isinstance(function, dict) else {}
        key = piece["id"] if isinstance(piece.get("id"), str) else ""
        call = self._call_of(piece.get("index"), key, bool(function.get("name")))
        if call is None:
            return
        call.id = call.id or key
        if isinstance(name := function.get("name"), str):
            call.name = call.name or name
        arguments = function.get("arguments")
        if isinstance(arguments, dict | list):
            arguments = json.dumps(arguments)
        if isinstance(arguments, str):
            call.arguments.append(arguments)

    def _call_of(self, index: Any, key: str, named: bool) -> _Wanted | None:
        """The call that a piece belongs to; None where there are too many."""
        if isinstance(index, int | str):
            known = self._by_index.get(index)
        else:  # a piece without a number continues the last one, unless it begins another
            known = None if named or not self._calls else self._calls[-1]
        if known is not None and not (key and known.id and key != known.id):
            return known
        if len(self._calls) >= MOST:
            return None
        self._calls.append(made := _Wanted())
        if isinstance(index, int | str):
            self._by_index[index] = made
        return made

    def all(self) -> tuple[ToolCall, ...]:
        """What has come so far."""
        taken: set[str] = set()
        calls = []
        for number, call in enumerate(self._calls):
            key = call.id if _PROPER_ID.fullmatch(call.id) and call.id not in taken else f"call_{number}"
            while key in taken:
                key += "_"
            taken.add(key)
            calls.append(ToolCall(key, _sound(call.name), _sound("".join(call.arguments))))
        return tuple(calls)


def calls_in(message: dict[str, Any]) -> tuple[ToolCall, ...]:
    """Those of a whole message."""
    if not message.get("tool_calls") and not message.get("function_call"):
        return ()
    wanted = WantedCalls()
    calls = message.get("tool_calls")
    # In a whole message each is one, whatever its number says.
    for number, call in enumerate(calls if isinstance(calls, list) else ()):
        if isinstance(call, dict):
            wanted.add({"tool_calls": [{**call, "index": number}]})
    if not wanted.all():
        wanted.add({"function_call": message.get("function_call")})
    return wanted.all()


def _sound(text: str) -> str:
    """Without half characters, whose other half may have come with the next piece."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
