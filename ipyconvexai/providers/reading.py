"""Reads what a provider answered: text, finish reason, usage and errors, from JSON and from event streams.

Pure. Providers lie: wrong types, missing fields and broken JSON give empty readings, never exceptions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from ipyconvexai.values import Usage

__all__ = ["EventReader", "Reading", "error_of", "read_answer"]


@dataclass(frozen=True, slots=True)
class Reading:
    text: str | None = None
    finish_reason: str | None = None
    model: str | None = None
    usage: Usage = field(default_factory=Usage)
    error_code: str | None = None
    error_message: str | None = None


def read_answer(content: bytes) -> Reading:
    """An answer that came whole: a chat completion, a response, embeddings, or anything else in JSON."""
    try:
        data = json.loads(content)
    except ValueError:
        return Reading()
    if not isinstance(data, dict):
        return Reading()
    reading = Reading(model=_text(data.get("model")), usage=_usage(data.get("usage")))
    if data.get("object") == "response":
        return _read_response(data, reading)
    choice = _first(data.get("choices"))
    message = _dict(choice.get("message"))
    text = _text(message.get("content")) or _text(message.get("refusal")) or _text(choice.get("text"))
    return replace(reading, text=text, finish_reason=_text(choice.get("finish_reason")))


def _read_response(data: dict[str, Any], reading: Reading) -> Reading:
    """An object of the Responses API."""
    parts = [part for item in _list(data.get("output")) for part in _list(_dict(item).get("content"))]
    texts = [_text(_dict(part).get("text")) or _text(_dict(part).get("refusal")) for part in parts]
    text = "".join(piece for piece in texts if piece)
    status = _text(data.get("status"))
    reason = _text(_dict(data.get("incomplete_details")).get("reason"))
    error = _dict(data.get("error"))
    return replace(
        reading,
        text=text or None,
        finish_reason=reason or ("stop" if status == "completed" else status),
        error_code=_text(error.get("code")),
        error_message=_text(error.get("message")),
    )


def error_of(content: bytes) -> tuple[str | None, str]:
    """(code, message) of an error answer, whatever its shape."""
    try:
        data = json.loads(content)
    except ValueError:
        return None, content.decode("utf-8", "replace").strip()[:2000]
    if isinstance(data, list):  # Gemini's endpoint wraps it
        data = data[0] if data else {}
    error = _dict(data).get("error", data)
    if isinstance(error, str):
        return None, error
    error = _dict(error)
    code = error.get("code")
    code = code if isinstance(code, str) else None
    return code or _text(error.get("type")), _text(error.get("message")) or content.decode("utf-8", "replace")[:2000]


class EventReader:
    """Reads a stream of server-sent events while it arrives. Feed it bytes; ``done`` tells that it ended properly.

    A chat stream ends with ``[DONE]`` (some servers leave it out: then a finish reason and a proper end of the
    connection do), a Responses stream with ``response.completed``, ``.failed`` or ``.incomplete``. Other streams have
    no terminal event that is known here and end with their connection.
    """

    def __init__(self, endpoint: str) -> None:
        self._kind = "chat" if endpoint.endswith("completions") else endpoint.rsplit("/", 1)[-1]
        self._rest = b""
        self._text: list[str] = []
        self._final: Reading | None = None
        self.reading = Reading()
        self.done = False
        self.failed = False

    @property
    def ends_properly(self) -> bool:
        """Whether the stream may end here without having been cut."""
        if self._kind == "chat":
            return self.done or self.failed or self.reading.finish_reason is not None
        if self._kind == "responses":
            return self.done or self.failed
        return True

    @property
    def started(self) -> bool:
        """Whether a first piece of text has come."""
        return bool(self._text)

    def feed(self, chunk: bytes) -> None:
        data = self._rest + chunk
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, self._rest = data.split(b"\n\n")
        for event in events:
            self._read_event(event)

    def end(self) -> None:
        """The connection ended: a last event may lack its blank line."""
        if self._rest.strip():
            self._read_event(self._rest)
            self._rest = b""

    def _read_event(self, event: bytes) -> None:
        lines = [line[5:].lstrip(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
        payload = b"\n".join(lines)
        if payload.startswith(b"[DONE]"):
            self.done = True
            return
        try:
            data = json.loads(payload)
        except ValueError:
            return
        if isinstance(data, dict):
            self._read_data(data)

    def _read_data(self, data: dict[str, Any]) -> None:
        if error := data.get("error"):
            error = _dict(error) or {"message": str(error)}
            self.failed = True
            self.reading = replace(
                self.reading, error_code=_text(error.get("code")), error_message=_text(error.get("message"))
            )
        elif self._kind == "responses":
            self._read_response_event(data)
        else:
            self._read_chat_chunk(data)

    def _read_chat_chunk(self, data: dict[str, Any]) -> None:
        choice = _first(data.get("choices"))
        delta = _dict(choice.get("delta"))
        if piece := _text(delta.get("content")) or _text(delta.get("refusal")) or _text(choice.get("text")):
            self._text.append(piece)
        usage = _usage(data.get("usage")) if data.get("usage") else self.reading.usage
        self.reading = replace(
            self.reading,
            model=_text(data.get("model")) or self.reading.model,
            finish_reason=_text(choice.get("finish_reason")) or self.reading.finish_reason,
            usage=usage,
        )

    def _read_response_event(self, data: dict[str, Any]) -> None:
        kind = data.get("type")
        if kind in ("response.output_text.delta", "response.refusal.delta"):
            self._text.append(_text(data.get("delta")) or "")
        elif kind == "error":
            self.failed = True
            self.reading = replace(
                self.reading, error_code=_text(data.get("code")), error_message=_text(data.get("message"))
            )
        elif kind in ("response.completed", "response.failed", "response.incomplete"):
            response = _dict(data.get("response"))
            self.done = True
            self.failed = kind == "response.failed"
            base = Reading(model=_text(response.get("model")), usage=_usage(response.get("usage")))
            self._final = _read_response(response, base)

    def pieces(self, start: int = 0) -> list[str]:
        """The pieces of text from number `start` on."""
        return self._text[start:]

    def result(self) -> Reading:
        """What has come so far."""
        text = "".join(self._text) or None
        if self._final is not None:
            return replace(self._final, text=self._final.text or text)
        return replace(self.reading, text=text)


# ---------------------------------------------------------------------------------------------- careful access
def _usage(data: Any) -> Usage:
    """Both vocabularies: prompt/completion of chat completions, input/output of responses."""
    data = _dict(data)
    inputs = _dict(data.get("prompt_tokens_details") or data.get("input_tokens_details"))
    outputs = _dict(data.get("completion_tokens_details") or data.get("output_tokens_details"))
    return Usage(
        input_tokens=_count(data.get("prompt_tokens", data.get("input_tokens"))),
        output_tokens=_count(data.get("completion_tokens", data.get("output_tokens"))),
        cached_tokens=_count(inputs.get("cached_tokens")),
        reasoning_tokens=_count(outputs.get("reasoning_tokens")),
    )


_MOST = 2**31 - 1  # the ledger's columns are INTEGER


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= _MOST else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _first(value: Any) -> dict[str, Any]:
    return _dict(_list(value)[0]) if _list(value) else {}
