"""Recorded chat calls as examples for fine-tuning. Pure.

The format is OpenAI's for chat models (https://platform.openai.com/docs/guides/supervised-fine-tuning, under
"Formatting your data"), which other providers read, too: one JSON object per line with the `messages` that were sent
and the assistant's answer as their last, and the `tools` where there were some. Tool calls stay as the provider gave
them. Of equal questions the newest answer stands for all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["COLUMNS", "Examples"]

COLUMNS = "id::VARCHAR AS id, cache_key::VARCHAR AS cache_key, request, response, text, finish_reason"  # of ``calls``

_UNFINISHED = {"length", "content_filter"}  # answers that no model should learn from
_ANSWER = ("content", "refusal", "tool_calls", "function_call")


class Examples:
    """Iterates over the examples made of `rows` of ``calls``, newest first; then says how many were left out."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self._rows = rows
        self.duplicates = 0
        self.unusable = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        seen: set[str] = set()
        for row in self._rows:
            example = _example(row)
            if example is None:
                self.unusable += 1
                continue
            key = row["cache_key"] or row["request"]
            if key in seen:
                self.duplicates += 1
                continue
            seen.add(key)
            yield example


def _example(row: dict[str, Any]) -> dict[str, Any] | None:
    body, answer = _object(row["request"]), _answer(row)
    messages = body.get("messages")
    if answer is None or not isinstance(messages, list) or not messages or row["finish_reason"] in _UNFINISHED:
        return None
    if not all(isinstance(message, dict) and "role" in message for message in messages):
        return None
    kept = {name: body[name] for name in ("tools", "functions", "parallel_tool_calls") if body.get(name) is not None}
    return {"messages": [*messages, answer], **kept}


def _answer(row: dict[str, Any]) -> dict[str, Any] | None:
    response = row["response"] or ""
    whole = _object(response)
    message = _first(whole.get("choices")).get("message") if whole else _of_stream(response)
    if not isinstance(message, dict):
        return None
    said = {name: message[name] for name in _ANSWER if message.get(name) not in (None, [], "")}
    if not said and row["text"]:
        said = {"content": row["text"]}
    if not said:
        return None
    return {"role": "assistant", **({} if "content" in said else {"content": None}), **said}


def _of_stream(response: str) -> dict[str, Any] | None:
    """The message that a stream's events make up."""
    texts: dict[str, list[str]] = {"content": [], "refusal": []}
    calls: dict[int, dict[str, Any]] = {}
    found = False
    for line in response.splitlines():
        if not line.startswith("data:"):
            continue
        choice = _first(_object(line[5:]).get("choices"))
        delta = choice.get("delta")
        if not isinstance(delta, dict) or choice.get("index") not in (0, None):
            continue
        found = True
        for name, pieces in texts.items():
            if isinstance(delta.get(name), str):
                pieces.append(delta[name])
        for piece in delta.get("tool_calls") or ():
            if isinstance(piece, dict):
                _join(calls.setdefault(piece.get("index") or 0, {}), piece)
    if not found:
        return None
    message: dict[str, Any] = {name: "".join(pieces) for name, pieces in texts.items()}
    return {**message, "tool_calls": [calls[index] for index in sorted(calls)]}


def _join(call: dict[str, Any], piece: dict[str, Any]) -> None:
    """A tool call comes in pieces: its name first, then its arguments bit by bit."""
    for name, value in piece.items():
        if name == "index" or value is None:
            continue
        if isinstance(value, dict):
            function = call.setdefault(name, {})
            for key, text in value.items():
                if text is not None:
                    function[key] = function.get(key, "") + text if key == "arguments" else text
        else:
            call[name] = value


def _object(text: Any) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _first(items: Any) -> dict[str, Any]:
    return items[0] if isinstance(items, list) and items and isinstance(items[0], dict) else {}
