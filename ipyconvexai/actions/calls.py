"""The calls of tools in a conversation, as its rows have them and as a model is told. Uses the public layer only.

A call is a message of role tool, after the reply that wanted it: waiting (it asks first) ─ pending (it may run) ─
streaming (it runs) ─ done | failed | canceled (not allowed, or stopped). Promises: of each call that a model made it is
told what became of it, right after the reply that made it, wherever the rows stand; what it cannot have made is not
there; a conversation that is cut begins with what somebody said.
"""

from __future__ import annotations

import json
import re
from typing import Any

import ipyconvexai as ai

__all__ = [
    "BYTES_PER_TOKEN",
    "DENIED",
    "FORMALITIES",
    "OPEN",
    "STOPPED",
    "call_of",
    "calls_of",
    "for_model",
    "open_calls",
]

OPEN = ("waiting", "pending", "streaming")
DENIED = "denied"  # the error code of a call that was not allowed
STOPPED = "canceled"  # of one that was stopped: then the model is not asked further
BYTES_PER_TOKEN = 4  # about; of a text in UTF-8
FORMALITIES = 4  # tokens around each message
MOST_MESSAGES = 50  # beside results of tools
ROW = "row"  # where the message of a person is kept until it is known what of its attachments fits
LEAST_RESULT = 100  # tokens of a result that is cut because its turn does not fit

_CALLS = """
SELECT id::VARCHAR AS id FROM messages
WHERE conversation_id = ?::UUID AND role = 'tool' AND json_extract_string(tool_call, '$.reply') = ? ORDER BY id
"""
_OPEN = """
SELECT id::VARCHAR AS id, status FROM messages
WHERE conversation_id = ?::UUID AND role = 'tool' AND status IN ('waiting', 'pending', 'streaming') ORDER BY id
"""


def call_of(message: ai.Message) -> dict[str, Any]:
    """``id``, ``name``, ``arguments`` (JSON text, as the model wrote it), ``safe``, ``reply`` (which wanted it)."""
    return {"id": "", "name": "", "arguments": "", "safe": False, "reply": ""} | (_object(message.tool_call) or {})


def calls_of(ctx: Any, conversation_id: str, reply_id: str) -> list[ai.Message]:
    """Those that a reply wanted."""
    return [ctx.db.get(ai.Message, row["id"]) for row in ctx.db.sql(_CALLS, [conversation_id, reply_id])]


def open_calls(ctx: Any, conversation_id: str) -> list[dict[str, Any]]:
    """``id`` and ``status`` of those that are not over."""
    found: list[dict[str, Any]] = ctx.db.sql(_OPEN, [conversation_id])
    return found


# ---------------------------------------------------------------------------------------------- for the model
def for_model(
    messages: list[ai.Message], max_tokens: int, attached_tokens: int, *, asked: bool = True
) -> list[dict[str, Any]]:
    """`messages` as a provider wants them: the newest turns that fit, of the last at least what was asked.

    A turn begins with what somebody said, and has the replies to it with their calls. Where the last one does not fit,
    what tools gave in it is cut.

    Args:
        attached_tokens: of what was attached, the newest first.
        asked: the last turn is the question itself, which keeps all that was attached to it.
    """
    turns = _turns(messages)
    kept: list[list[dict[str, Any]]] = []
    tokens, messages_left = max_tokens, MOST_MESSAGES
    for turn in reversed(turns):
        tokens -= sum(map(_cost, turn))
        messages_left -= sum(message["role"] != "tool" for message in turn)
        if tokens < 0 or (messages_left < 0 and kept):
            kept = kept or [_shortened(turn, max_tokens)]
            break
        kept.insert(0, turn)
    prompt = [message for turn in kept for message in turn]
    own = [message for message in prompt if ROW in message]
    contents = ai.Message.prompts([message.pop(ROW) for message in own], attached_tokens, asked=asked)
    for message, content in zip(own, contents, strict=True):
        message["content"] = content
    return prompt


def _turns(messages: list[ai.Message]) -> list[list[dict[str, Any]]]:
    calls: dict[str, list[ai.Message]] = {}
    for message in messages:
        if message.role == "tool":
            calls.setdefault(call_of(message)["reply"], []).append(message)
    turns: list[list[dict[str, Any]]] = []
    for message in messages:
        if message.role == "tool" or message.status not in ("done", "canceled"):
            continue
        if message.role == "user":
            turns.append([])
        said = _told(message, calls.get(str(message._id), []))
        if turns:  # an answer whose question is not there says nothing
            turns[-1] += said
    return [turn for turn in turns if turn]


def _told(message: ai.Message, calls: list[ai.Message]) -> list[dict[str, Any]]:
    if message.role == "user":
        return [{"role": "user", "content": message.content, ROW: message}] if message.content else []
    if not calls:
        return [{"role": message.role, "content": message.content}] if message.content else []
    wanted = [_wanted(call_of(call)) for call in calls]
    said: dict[str, Any] = {"role": message.role, "content": message.content or None, "tool_calls": wanted}
    given = [{"role": "tool", "tool_call_id": call_of(call)["id"], "content": _outcome(call)} for call in calls]
    return [said, *given]


def _wanted(call: dict[str, Any]) -> dict[str, Any]:
    """A call as a provider takes it back: some refuse a conversation for a name that they had given themselves."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", call["name"])[:64] or "unknown"
    arguments = call["arguments"] if _is_object(call["arguments"]) else "{}"
    return {"id": call["id"], "type": "function", "function": {"name": name, "arguments": arguments}}


def _is_object(text: str) -> bool:
    return _object(text) is not None


def _object(text: str | None) -> dict[str, Any] | None:
    """The object that `text` is in JSON; None: it is none."""
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _outcome(call: ai.Message) -> str:
    if call.status == "done":
        return call.content or ""
    if call.status == "failed":
        return f"Error: {call.error_message or call.error_code or 'it failed'}"
    if call.error_code == DENIED:
        return f"This call was not allowed by the user. {call.error_message or ''}".strip()
    return "This call was stopped by the user before it was over."


def _cost(message: dict[str, Any]) -> int:
    """Tokens of a message, about."""
    return FORMALITIES + sum(_size(message.get(key)) for key in ("content", "tool_calls")) // BYTES_PER_TOKEN


def _size(content: Any) -> int:
    if not content:
        return 0
    return len((content if isinstance(content, str) else json.dumps(content)).encode("utf-8", "replace"))


def _shortened(turn: list[dict[str, Any]], max_tokens: int) -> list[dict[str, Any]]:
    results = [message for message in turn if message["role"] == "tool"]
    if not results:
        return turn
    others = sum(_cost(message) for message in turn if message["role"] != "tool")
    each = max(LEAST_RESULT, (max_tokens - others) // len(results) - FORMALITIES)
    return [
        {**message, "content": _cut(message["content"], each)} if message["role"] == "tool" else message
        for message in turn
    ]


def _cut(text: str, tokens: int) -> str:
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= tokens * BYTES_PER_TOKEN:
        return text
    return f"{encoded[: tokens * BYTES_PER_TOKEN].decode('utf-8', 'ignore')}\n… cut: the conversation is too long."
