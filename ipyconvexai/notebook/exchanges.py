"""Reads recorded bodies for people: the messages, the parameters, the tools that a model called.

Pure; standard library only. Whatever a body is (another API's, broken, an upload) gives what can be read of it, and
never an exception.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

__all__ = ["Message", "messages_of", "parameters_of", "parsed", "pretty", "shortened", "tool_calls_of"]

LONGEST_VALUE = 2_000  # characters of a value within a body that is shown as JSON
_SAID = ("messages", "input", "prompt")  # what is asked, in the three APIs


class Message(NamedTuple):
    role: str
    text: str


def parsed(body: str | None) -> dict[str, Any] | None:
    """A body that is a JSON object, else None."""
    try:
        data = json.loads(body or "")
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def pretty(value: Any) -> str:
    """JSON for people; as it is where it has no such form."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def shortened(value: Any, longest: int = LONGEST_VALUE, depth: int = 60) -> Any:
    """`value` with long texts within it cut: pictures, mostly; it says how much is missing."""
    if depth <= 0:
        return "…"
    if isinstance(value, str) and len(value) > longest:
        return f"{value[:longest]}… {len(value) - longest:,} more characters"
    if isinstance(value, list):
        return [shortened(item, longest, depth - 1) for item in value]
    if isinstance(value, dict):
        return {name: shortened(item, longest, depth - 1) for name, item in value.items()}
    return value


# ---------------------------------------------------------------------------------------------- what was sent
def messages_of(body: Mapping[str, Any]) -> list[Message]:
    """What was asked, message by message; ``instructions`` first, as the system's."""
    found = []
    if isinstance(body.get("instructions"), str):
        found.append(Message("system", body["instructions"]))
    asked = next((body[name] for name in _SAID if body.get(name)), None)
    if isinstance(asked, str):
        return [*found, Message("user", asked)]
    if isinstance(asked, list):
        found += [_message(item) for item in asked]
    return found


def _message(item: Any) -> Message:
    if not isinstance(item, dict):
        return Message("user", _content(item))
    role = str(item.get("role") or item.get("type") or "message")
    if item.get("name") or item.get("tool_call_id"):
        role += f" ({item.get('name') or item.get('tool_call_id')})"
    known = {"role", "type", "content", "name", "tool_call_id", "tool_calls"}
    parts = [_content(item.get("content"))]
    parts += _calls(item.get("tool_calls"))
    if rest := {name: value for name, value in item.items() if name not in known and value is not None}:
        parts.append(pretty(shortened(rest)))
    return Message(role, "\n".join(part for part in parts if part))


def _content(content: Any) -> str:
    """A text, or parts of which those that are no text are named with their size."""
    if isinstance(content, list):
        return "\n".join(_part(part) for part in content)
    if isinstance(content, str):
        return content
    return "" if content is None else pretty(shortened(content))


def _part(part: Any) -> str:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    return part if isinstance(part, str) else pretty(shortened(part, 80))


def parameters_of(body: Mapping[str, Any]) -> dict[str, str]:
    """Everything of a body that is no message, and not the model."""
    return {
        str(name): value if isinstance(value, str) else json.dumps(shortened(value, 400), ensure_ascii=False)
        for name, value in body.items()
        if name not in (*_SAID, "model", "instructions")
    }


# ---------------------------------------------------------------------------------------------- what came back
def tool_calls_of(body: str | None) -> list[str]:
    """What the model wanted to be called, ``name(arguments)`` each; of an answer that came whole, or as events."""
    data = parsed(body)
    if data is None:
        return _calls_in_events(body or "")
    choice = _first(data.get("choices"))
    output = data.get("output")
    items = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
    asked = [f"{item.get('name')}({item.get('arguments')})" for item in items if item.get("type") == "function_call"]
    return [*_calls(_dict(choice.get("message")).get("tool_calls")), *asked]


def _calls(calls: Any) -> list[str]:
    if not isinstance(calls, list):
        return []
    functions = [_dict(_dict(call).get("function")) for call in calls]
    return [f"{function.get('name')}({function.get('arguments') or ''})" for function in functions]


def _calls_in_events(body: str) -> list[str]:
    names: dict[Any, str] = {}
    arguments: dict[Any, list[str]] = {}
    for event in _events(body):
        if event.get("type") == "response.completed":
            return tool_calls_of(json.dumps(event.get("response")))
        delta = _dict(_first(event.get("choices")).get("delta"))
        pieces = delta.get("tool_calls")
        for piece in pieces if isinstance(pieces, list) else []:
            at, function = str(_dict(piece).get("index")), _dict(_dict(piece).get("function"))
            names[at] = names.get(at, "") + str(function.get("name") or "")
            arguments.setdefault(at, []).append(str(function.get("arguments") or ""))
    return [f"{name}({''.join(arguments[at])})" for at, name in names.items()]


def _events(body: str) -> Iterator[dict[str, Any]]:
    for line in body.splitlines():
        if line.startswith("data:") and (data := parsed(line[5:])) is not None:
            yield data


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(value: Any) -> dict[str, Any]:
    return _dict(value[0]) if isinstance(value, list) and value else {}
