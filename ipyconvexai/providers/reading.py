"""Reads what a provider answered: text, calls of tools, finish reason, usage, errors; from JSON and event streams.

Pure. Providers lie: wrong types, missing fields and broken JSON give empty readings, never exceptions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from ipyconvexai.providers.wanted import WantedCalls, calls_in
from ipyconvexai.values import ToolCall, Usage

__all__ = ["EventReader", "Reading", "comes_in_events", "error_of", "read_answer", "reads_as_json", "sound"]

_LONGEST_MESSAGE = 2000  # characters of an error that is no JSON: a whole HTML page, say


@dataclass(frozen=True, slots=True)
class Reading:
    text: str | None = None
    finish_reason: str | None = None
    model: str | None = None
    usage: Usage = field(default_factory=Usage)
    error_code: str | None = None
    error_message: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


def reads_as_json(endpoint: str, media_type: str) -> bool:
    """Whether an answer of `endpoint` must be JSON; speech, files and plain transcriptions are not."""
    return "json" in media_type or endpoint.endswith(("completions", "responses", "embeddings", "moderations"))


def comes_in_events(media_type: str, asked: bool) -> bool:
    """Whether an answer of status 200 is an event stream. `asked`: the request wanted one.

    Also where a server forgets to say so, as long as it does not say that it is something else.
    """
    return media_type.startswith("text/event-stream") or (asked and not media_type.startswith(_WHOLE))


_WHOLE = ("application/json", "text/html", "audio/", "image/", "video/")


def read_answer(content: bytes, endpoint: str = "", *, asked_events: bool = False) -> Reading:
    """An answer that came whole: a chat completion, a response, embeddings, or anything else in JSON.

    What is no JSON object, or one that tells of an error, has an error in its reading, and so has a chat completion
    without any choice. `asked_events`: the request wanted a stream, and some servers send one under the name of JSON.
    """
    data = _json(content)
    if not isinstance(data, dict):
        if asked_events and content.removeprefix(_BOM).lstrip().startswith((b"data:", b"event:", b":")):
            return _read_events(content, endpoint)
        return Reading(error_code="unreadable_answer", error_message="the answer is no JSON object")
    reading = Reading(model=_text(data.get("model")), usage=_usage(data.get("usage")))
    if data.get("object") == "response":
        return _read_response(data, reading)
    if (error := data.get("error")) and not data.get("choices"):  # some say it with status 200
        code, said = _error(error)
        return replace(reading, error_code=code or "provider_error", error_message=said or "no reason given")
    choices = _list(data.get("choices"))
    if endpoint.endswith("completions") and not (choices and isinstance(choices[0], dict)):
        return replace(reading, error_code="unreadable_answer", error_message="the answer has no choices")
    choice = _first(choices)
    message = _dict(choice.get("message"))
    text, finish_reason = _text(_said(message, choice)), _text(choice.get("finish_reason"))
    return replace(reading, text=text, finish_reason=finish_reason, tool_calls=calls_in(message))


def _read_events(content: bytes, endpoint: str) -> Reading:
    reader = EventReader(endpoint)
    reader.feed(content)
    reader.end()
    reading = reader.result()
    if reader.failed or reader.ends_properly:
        return reading
    return replace(reading, error_code="cut", error_message="the stream ended before its last event")


def _said(message: dict[str, Any], choice: dict[str, Any]) -> str:
    """What a message, or its delta, says; as it came."""
    return _joined(message.get("content")) or _joined(message.get("refusal")) or _joined(choice.get("text"))


def _joined(content: Any) -> str:
    """A text, or the texts of a list of parts."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


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
    plain = content.decode("utf-8", "replace").strip()[:_LONGEST_MESSAGE]
    data = _json(content)
    if isinstance(data, list):  # Gemini's endpoint wraps it
        data = _first(data)
    if not isinstance(data, dict):
        return None, plain
    code, message = _error(data.get("error", data))
    return code, message or plain


def _error(error: Any) -> tuple[str | None, str | None]:
    if not isinstance(error, dict):
        return None, _text(error)
    return _text(error.get("code")) or _text(error.get("type")), _text(error.get("message"))


class EventReader:
    """Reads a stream of server-sent events while it arrives. Feed it bytes; ``done`` tells that it ended properly.

    A chat stream ends with ``[DONE]`` (some servers leave it out: then a finish reason and a proper end of the
    connection do), a Responses stream with ``response.completed``, ``.failed`` or ``.incomplete``. Other streams have
    no terminal event that is known here and end with their connection.
    """

    def __init__(self, endpoint: str) -> None:
        self._kind = "chat" if endpoint.endswith("completions") else endpoint.rsplit("/", 1)[-1]
        self._lines = _Lines()
        self._begun = False
        self._data: list[bytes] = []  # of the event at hand
        self._event = b""  # its name
        self._half = ""  # of a character whose other half comes with the next piece
        self._pieces: list[str] = []
        self._calls = WantedCalls()
        self._final: Reading | None = None
        self._reading = Reading()
        self.done = False
        self.failed = False

    @property
    def ends_properly(self) -> bool:
        """Whether the stream may end here without having been cut."""
        if self._kind == "chat":
            return self.done or self.failed or self._reading.finish_reason is not None
        if self._kind == "responses":
            return self.done or self.failed
        return True

    @property
    def started(self) -> bool:
        """Whether a first piece of text has come."""
        return bool(self._pieces)

    def feed(self, chunk: bytes) -> None:
        for line in self._lines.feed(chunk):
            self._read_line(line)

    def end(self) -> None:
        """The connection ended: a last event may lack its blank line."""
        for line in self._lines.end():
            self._read_line(line)
        self._read_line(b"")
        self._flush()

    def _read_line(self, line: bytes) -> None:
        if not self._begun:
            self._begun, line = True, line.removeprefix(_BOM)
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"event:"):
            self._event = line[6:].strip()
        elif not line:
            payload, name = b"\n".join(self._data), self._event
            self._data, self._event = [], b""
            if payload and not self.done:  # what comes behind the end is not of the answer
                self._read_event(payload, name)

    def _read_event(self, payload: bytes, name: bytes) -> None:
        if payload.startswith(b"[DONE]"):
            self._flush()
            self.done = True
            return
        if name == b"error":
            self._fail(*error_of(payload))
            return
        data = _json(payload)
        if not isinstance(data, dict):
            return
        if error := data.get("error"):
            self._fail(*_error(error))
        elif self._kind == "responses":
            self._read_response_event(data)
        else:
            self._read_chat_chunk(data)

    def _fail(self, code: str | None, message: str | None) -> None:
        self.failed = True
        self._reading = replace(
            self._reading, error_code=code or "provider_error", error_message=message or "no reason given"
        )

    def _read_chat_chunk(self, data: dict[str, Any]) -> None:
        choice = _first(data.get("choices"))
        if choice.get("index") in (0, None):  # of several answers the first is the text
            delta = _dict(choice.get("delta"))
            self._add(_said(delta, choice))
            self._calls.add(delta)
        reading = self._reading
        self._reading = replace(
            reading,
            model=reading.model or _text(data.get("model")),
            finish_reason=_text(choice.get("finish_reason")) or reading.finish_reason,
            usage=_usage(data.get("usage")) if data.get("usage") else reading.usage,
        )

    def _read_response_event(self, data: dict[str, Any]) -> None:
        kind = data.get("type")
        if kind in ("response.output_text.delta", "response.refusal.delta"):
            self._add(_joined(data.get("delta")))
        elif kind == "error":
            self._fail(*_error(data))
        elif kind in ("response.completed", "response.failed", "response.incomplete"):
            response = _dict(data.get("response"))
            base = Reading(model=_text(response.get("model")), usage=_usage(response.get("usage")))
            self._final = _read_response(response, base)
            self._flush()
            self.done = True
            if kind == "response.failed":
                self._fail(self._final.error_code, self._final.error_message)

    def _add(self, piece: str) -> None:
        """A piece of text. JSON can cut a character beyond U+FFFF in two: its first half waits for the second."""
        if not piece:
            return
        piece, self._half = self._half + piece, ""
        if "\ud800" <= piece[-1] <= "\udbff":
            piece, self._half = piece[:-1], piece[-1]
        if piece:
            self._pieces.append(sound(piece))

    def _flush(self) -> None:
        """No other half will come."""
        if self._half:
            self._pieces.append(sound(self._half))
            self._half = ""

    def pieces(self, start: int = 0) -> list[str]:
        """The pieces of text from number `start` on."""
        return self._pieces[start:]

    def result(self) -> Reading:
        """What has come so far."""
        text = "".join(self._pieces) + sound(self._half) or None
        if self._final is None:
            return replace(self._reading, text=text, tool_calls=self._calls.all())
        said = (self._reading.error_code, self._reading.error_message)
        return replace(self._final, text=self._final.text or text, error_code=said[0], error_message=said[1])


class _Lines:
    """Splits bytes that arrive in any pieces into lines, which may end in LF, CR LF or CR. Linear in their number."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        self._rest.append(chunk)
        if b"\n" not in chunk and b"\r" not in chunk:
            return []
        data = b"".join(self._rest)
        held = b"\r" if data.endswith(b"\r") else b""  # its LF may come with the next chunk
        *lines, rest = _one_kind(data.removesuffix(held)).split(b"\n")
        self._rest = [rest + held]
        return lines

    def end(self) -> list[bytes]:
        data, self._rest = b"".join(self._rest), []
        return _one_kind(data).split(b"\n")


def _one_kind(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data


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


_BOM = b"\xef\xbb\xbf"
_MOST = 2**31 - 1  # the ledger's columns are INTEGER


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= _MOST else None


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except UnicodeDecodeError:  # a broken character is no reason to lose the words around it
        return _json(content.decode("utf-8", "replace").encode())
    except (ValueError, RecursionError):
        return None


def sound(text: str) -> str:
    """`text` without half characters (lone surrogates), which JSON can spell and no file can hold."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _text(value: Any) -> str | None:
    return sound(value) if isinstance(value, str) and value else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _first(value: Any) -> dict[str, Any]:
    return _dict(_list(value)[0]) if _list(value) else {}
