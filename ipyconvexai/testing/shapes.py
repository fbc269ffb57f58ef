"""OpenAI's shapes: what an answer looks like as JSON and as server-sent events, and every error.

Pure functions from a request and an `Answer` to bytes; imports `received` and `script`. The shapes follow the types
of the openai SDK. An event of a stream is (kind, bytes), so that a cut can be made at a token.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import json
import math
import re
import struct
import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from ipyconvexai.testing.received import Received
from ipyconvexai.testing.script import Answer, Fault

JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"


class EventKind(enum.Enum):
    """What an event is to a stream that may be cut."""

    FRAME = "frame"  # opens or closes a part
    TOKEN = "token"  # a piece of text, a refusal or a tool call's arguments
    TERMINAL = "terminal"  # without it the stream is not complete


Events = Iterator[tuple[EventKind, bytes]]


class Usage(NamedTuple):
    """Tokens."""

    input: int
    output: int
    cached: int = 0
    reasoning: int = 0


def encode(value: object) -> bytes:
    # ASCII only: an answer may hold lone surrogates, which UTF-8 cannot.
    return json.dumps(value, separators=(",", ":")).encode()


def tokens(text: str) -> list[str]:
    """The pieces a text is streamed in: words with the space before them. Together they are the text."""
    return re.findall(r"\s*\S+|\s+\Z", text)


def usage_of(call: Received, answer: Answer) -> Usage | None:
    if answer.usage is not None:
        return Usage(*answer.usage) if answer.usage else None
    said = answer.content if answer.refusal is None else answer.refusal
    words = len(said.split()) + sum(len(tool.json.split()) for tool in answer.tool_calls)
    return Usage(call.input_words, words)


# errors


def error(message: str, kind: str, code: str | None = None, param: str | None = None) -> bytes:
    return encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


_FAULTS = {
    401: ("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    403: ("You are not allowed to do this.", "invalid_request_error", "permission_denied"),
    408: ("The request took too long to arrive.", "invalid_request_error", "request_timeout"),
    409: ("The request was in conflict with another. Please try again.", "invalid_request_error", "conflict"),
    429: ("Rate limit reached for requests.", "requests", "rate_limit_exceeded"),
    500: ("The server had an error while processing your request. Sorry about that!", "server_error", None),
    503: ("The engine is currently overloaded, please try again later.", "server_error", "overloaded"),
}


def fault(script: Fault) -> bytes:
    """The body of a scripted error."""
    kind = "server_error" if script.status >= 500 else "invalid_request_error"
    phrase = next((status.phrase for status in HTTPStatus if status == script.status), "Error")
    message, kind, code = _FAULTS.get(script.status, (phrase, kind, None))
    return error(script.message or message, script.type or kind, script.code or code)


# chat completions


def chat(call: Received, answer: Answer) -> bytes:
    """A `chat.completion`."""
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": answer.refusal, "annotations": []}
    if answer.refusal is None and (answer.content or not answer.tool_calls):
        message["content"] = answer.content
    if answer.tool_calls:
        message["tool_calls"] = [_chat_tool(call, answer, index) for index in range(len(answer.tool_calls))]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(answer)}
    completion = _chat_frame(call, "chat.completion") | {"choices": [choice]}
    if usage := usage_of(call, answer):
        completion["usage"] = _chat_usage(usage)
    return encode(completion)


def chat_events(call: Received, answer: Answer) -> Events:
    """The chunks of a chat completion: role, deltas, finish reason, usage if asked for, `[DONE]`."""
    options = call.body.get("stream_options")
    wants_usage = isinstance(options, dict) and bool(options.get("include_usage"))
    # What all chunks share is encoded once: of a chunk only its delta is new.
    before = encode(_chat_frame(call, "chat.completion.chunk"))[:-1] + b',"choices":[{"index":0,"delta":'
    tail = b',"usage":null}\n\n' if wants_usage else b"}\n\n"

    def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
        after = b',"logprobs":null,"finish_reason":' + encode(finish) + b"}]" + tail
        return b"data: " + before + encode(delta) + after

    spoken, name = (answer.content, "content") if answer.refusal is None else (answer.refusal, "refusal")
    yield EventKind.FRAME, event({"role": "assistant", name: "" if spoken or not answer.tool_calls else None})
    for token in tokens(spoken):
        yield EventKind.TOKEN, event({name: token})
    for index in range(len(answer.tool_calls)):
        tool = _chat_tool(call, answer, index)
        pieces = tokens(tool["function"]["arguments"])
        tool["function"]["arguments"] = ""
        yield EventKind.FRAME, event({"tool_calls": [{"index": index, **tool}]})
        for piece in pieces:
            yield EventKind.TOKEN, event({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    if answer.failed is not None:
        yield EventKind.TERMINAL, b"data: " + error(answer.failed, "server_error", "server_error") + b"\n\n"
        return
    yield EventKind.TERMINAL, event({}, _finish(answer))
    usage = usage_of(call, answer) if wants_usage else None
    if usage:
        last = _chat_frame(call, "chat.completion.chunk") | {"choices": [], "usage": _chat_usage(usage)}
        yield EventKind.TERMINAL, b"data: " + encode(last) + b"\n\n"
    yield EventKind.TERMINAL, b"data: [DONE]\n\n"


def _chat_frame(call: Received, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{call.number}",
        "object": kind,
        "created": int(call.time),
        "model": call.model,
        "service_tier": "default",
        "system_fingerprint": "fp_testing",
    }


def _chat_tool(call: Received, answer: Answer, index: int) -> dict[str, Any]:
    tool = answer.tool_calls[index]
    function = {"name": tool.name, "arguments": tool.json}
    return {"id": _tool_id(call, answer, index), "type": "function", "function": function}


def _tool_id(call: Received, answer: Answer, index: int) -> str:
    return answer.tool_calls[index].id or f"call_{call.number}_{index}"


def _finish(answer: Answer) -> str:
    return answer.finish_reason or ("tool_calls" if answer.tool_calls else "stop")


def _chat_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


# responses


def response(call: Received, answer: Answer) -> bytes:
    """A `response`, in the status the answer ends in."""
    return encode(_finished_response(call, answer))


def response_events(call: Received, answer: Answer) -> Events:
    """The events of a response, from `response.created` to `response.completed`, `.failed` or `.incomplete`."""
    events = _EventWriter()
    opened = _response_frame(call, "in_progress")
    yield EventKind.FRAME, events("response.created", response=opened)
    yield EventKind.FRAME, events("response.in_progress", response=opened)
    done = _finished_response(call, answer)
    for index, item in enumerate(done["output"]):
        follow = _message_events if item["type"] == "message" else _function_events
        yield from follow(events, index, item)
    yield EventKind.TERMINAL, events(f"response.{done['status']}", response=done)


class _EventWriter:
    """Encodes the events of one response and numbers them."""

    def __init__(self) -> None:
        self._number = 0

    def __call__(self, kind: str, **fields: Any) -> bytes:
        data = encode({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def _message_events(events: _EventWriter, index: int, item: dict[str, Any]) -> Events:
    part = item["content"][0]
    refused = part["type"] == "refusal"
    field, stem = ("refusal", "response.refusal") if refused else ("text", "response.output_text")
    place = {"item_id": item["id"], "output_index": index, "content_index": 0}
    extra: dict[str, Any] = {} if refused else {"logprobs": []}
    opened = item | {"status": "in_progress", "content": []}
    yield EventKind.FRAME, events("response.output_item.added", output_index=index, item=opened)
    yield EventKind.FRAME, events("response.content_part.added", **place, part=part | {field: ""})
    for token in tokens(part[field]):
        yield EventKind.TOKEN, events(f"{stem}.delta", **place, delta=token, **extra)
    yield EventKind.FRAME, events(f"{stem}.done", **place, **{field: part[field]}, **extra)
    yield EventKind.FRAME, events("response.content_part.done", **place, part=part)
    yield EventKind.FRAME, events("response.output_item.done", output_index=index, item=item)


def _function_events(events: _EventWriter, index: int, item: dict[str, Any]) -> Events:
    place = {"item_id": item["id"], "output_index": index}
    stem, arguments = "response.function_call_arguments", item["arguments"]
    opened = item | {"status": "in_progress", "arguments": ""}
    yield EventKind.FRAME, events("response.output_item.added", output_index=index, item=opened)
    for piece in tokens(arguments):
        yield EventKind.TOKEN, events(f"{stem}.delta", **place, delta=piece)
    yield EventKind.FRAME, events(f"{stem}.done", **place, name=item["name"], arguments=arguments)
    yield EventKind.FRAME, events("response.output_item.done", output_index=index, item=item)


_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def _finished_response(call: Received, answer: Answer) -> dict[str, Any]:
    reason = _INCOMPLETE.get(answer.finish_reason or "")
    status = "failed" if answer.failed is not None else "incomplete" if reason else "completed"
    usage = usage_of(call, answer)
    return _response_frame(call, status) | {
        "error": {"code": "server_error", "message": answer.failed} if status == "failed" else None,
        "incomplete_details": {"reason": reason} if status == "incomplete" else None,
        "output": _output(call, answer, "completed" if status == "completed" else "incomplete"),
        "usage": _response_usage(usage) if usage else None,
    }


def _output(call: Received, answer: Answer, status: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if answer.refusal is not None or answer.content or not answer.tool_calls:
        part: dict[str, Any] = {"type": "output_text", "text": answer.content, "annotations": [], "logprobs": []}
        if answer.refusal is not None:
            part = {"type": "refusal", "refusal": answer.refusal}
        message = {"id": f"msg_{call.number}", "type": "message", "status": status, "role": "assistant"}
        items.append(message | {"content": [part]})
    for index, tool in enumerate(answer.tool_calls):
        function = {"id": f"fc_{call.number}_{index}", "type": "function_call", "status": status}
        said = {"call_id": _tool_id(call, answer, index), "name": tool.name, "arguments": tool.json}
        items.append(function | said)
    return items


def _response_frame(call: Received, status: str) -> dict[str, Any]:
    asked = call.body
    return {
        "id": f"resp_{call.number}",
        "object": "response",
        "created_at": int(call.time),
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.get("instructions"),
        "max_output_tokens": asked.get("max_output_tokens"),
        "model": call.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": asked.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "store": asked.get("store", True),
        "temperature": asked.get("temperature", 1.0),
        "text": asked.get("text") or {"format": {"type": "text"}},
        "tool_choice": asked.get("tool_choice", "auto"),
        "tools": asked.get("tools") or [],
        "top_p": asked.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "metadata": asked.get("metadata") or {},
    }


def _response_usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    }


# embeddings and models


def embeddings(call: Received, answer: Answer, dimensions: int) -> bytes:
    """A list of embeddings, as floats or base64 as asked for; both are the same 32-bit floats."""
    size = call.body.get("dimensions") or dimensions
    vectors = answer.vectors if answer.vectors is not None else [_vector(text, size) for text in call.inputs]
    packed = [struct.pack(f"<{len(vector)}f", *vector) for vector in vectors]
    as_text = call.body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(item) if as_text else _floats(item)}
        for index, item in enumerate(packed)
    ]
    listing: dict[str, Any] = {"object": "list", "data": data, "model": call.model}
    if usage := usage_of(call, answer):
        listing["usage"] = {"prompt_tokens": usage.input, "total_tokens": usage.input}
    return encode(listing)


def _vector(text: str, size: int) -> list[float]:
    """A direction of length 1 derived from the text: equal texts, equal vectors."""
    digest = hashlib.shake_256(text.encode("utf-8", "replace")).digest(2 * size)
    values = [number / 32768 - 1 for number in struct.unpack(f"<{size}H", digest)]
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return [value / length for value in values]


def _base64(packed: bytes) -> str:
    return base64.b64encode(packed).decode()


def _floats(packed: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))


# images


def images(call: Received, answer: Answer) -> bytes:
    """As many pictures as asked for, in base64; the answer's text, if there is one, is the revised prompt."""
    encoded = base64.b64encode(PIXEL if answer.picture is None else answer.picture).decode()
    drawn = {"b64_json": encoded} | ({"revised_prompt": answer.content} if answer.content else {})
    count = call.body.get("n") or 1
    listing: dict[str, Any] = {"created": int(call.time), "data": [drawn] * count}
    if usage := usage_of(call, answer):
        counted = {"input_tokens": usage.input, "output_tokens": usage.output}
        listing["usage"] = {**counted, "total_tokens": usage.input + usage.output}
    return encode(listing)


# A PNG of one grey pixel.
PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU5ErkJggg==")


def model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(time.time()), "owned_by": "testing"}


def models(names: Sequence[str]) -> bytes:
    return encode({"object": "list", "data": [model(name) for name in names]})
