"""What the endpoint is told to answer: the parts of a script, and the order in which they are used.

Values only; imports `received` and the error tree. A `Script` is read by one thread, the endpoint's.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ipyconvexai.errors import InputError
from ipyconvexai.testing.received import Received

_ECHO_LENGTH = 40
_CUTS = ("end", "close", "reset", "stall")


@dataclass(frozen=True)
class ToolCall:
    """A function the model wants called. ``arguments`` is a mapping, or the JSON text itself (which may be bad)."""

    name: str
    arguments: str | Mapping[str, Any] = "{}"
    id: str = ""

    @property
    def json(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True)
class Answer:
    """A model's answer.

    Attributes:
        text: the answer; a mapping is sent as JSON text (for ``response_format`` and ``.parse()``).
        tool_calls: functions to call; they follow the text, if there is one.
        refusal: a refusal, instead of the text.
        finish_reason: None for ``stop``, or ``tool_calls`` where there are some. ``length`` and ``content_filter``
            end a response of the Responses API as ``response.incomplete``.
        usage: (input, output, cached, reasoning) tokens, the last two may be left out; None counts words;
            an empty tuple gives no usage at all, as some servers do.
        delay: seconds before the first byte; None for the endpoint's latency.
        token_delay: seconds between the tokens of a stream; None for the endpoint's.
        cut_after: a stream ends after so many tokens, without its terminal event; an answer that is not streamed
            ends in the middle of its body.
        cut: how it ends then. ``end``: the HTTP message is complete, which the openai SDK does not notice;
            ``close``: the connection is closed inside the message; ``reset``: it is reset; ``stall``: nothing more
            comes until the client leaves.
        failed: a message: the provider fails after the text (``response.failed``; in a chat stream an error event;
            in a chat answer that is not streamed status 500).
        vectors: for embeddings, one for each input, instead of those derived from the texts.
        picture: for images, the bytes of each, instead of one grey PNG of a pixel.
        raw: the body to send instead of all this, whatever was asked, with ``content_type`` and ``status``.
        headers: further response headers.
        times: how many requests get it before the script goes on; None for 1, or for ever if it is the last.
    """

    text: str | Mapping[str, Any] = ""
    tool_calls: Sequence[ToolCall] = ()
    refusal: str | None = None
    finish_reason: str | None = None
    usage: tuple[int, ...] | None = None
    delay: float | None = None
    token_delay: float | None = None
    cut_after: int | None = None
    cut: Literal["end", "close", "reset", "stall"] = "end"
    failed: str | None = None
    vectors: Sequence[Sequence[float]] | None = None
    picture: bytes | None = None
    raw: bytes | None = None
    content_type: str = "application/json"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int | None = None

    def __post_init__(self) -> None:
        if self.cut not in _CUTS:
            raise InputError(f"cut={self.cut!r} is unknown", cure=f"use one of {', '.join(_CUTS)}")
        if self.usage is not None and len(self.usage) not in (0, 2, 3, 4):
            raise InputError("usage has the wrong length", cure="use (input, output), and then cached and reasoning")

    @property
    def content(self) -> str:
        return self.text if isinstance(self.text, str) else json.dumps(self.text)


@dataclass(frozen=True)
class Fault:
    """An error status in OpenAI's shape. What is left out takes what OpenAI says with that status.

    Attributes:
        status: the HTTP status.
        retry_after: seconds, sent as ``Retry-After``.
        delay: seconds before it is sent.
        times: how many requests get it; None for 1, or for ever if it is the last of the script.
    """

    status: int = 500
    retry_after: float | None = None
    message: str | None = None
    code: str | None = None
    type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    times: int | None = None


@dataclass(frozen=True)
class Drop:
    """The connection is closed (or reset) before any byte of an answer."""

    reset: bool = False
    delay: float = 0.0
    times: int | None = None


@dataclass(frozen=True)
class Stall:
    """The request is accepted and nothing comes; after ``seconds`` the connection is closed (None: never)."""

    seconds: float | None = None
    times: int | None = None


Reply: TypeAlias = "str | Mapping[str, Any] | Answer | Fault | Drop | Stall | None"
Part: TypeAlias = "Answer | Fault | Drop | Stall"
Responder: TypeAlias = "Callable[[Received], Reply]"
_Entry: TypeAlias = "Reply | Responder"


def echo(prompt: str) -> str:
    """What an endpoint without a script answers to this prompt: its beginning, with a checksum if that is not all."""
    words = " ".join(prompt.split())
    if len(words) <= _ECHO_LENGTH:
        return f"echo: {words}"
    return f"echo: {words[:_ECHO_LENGTH]}… {zlib.crc32(words.encode('utf-8', 'replace')):08x}"


class Script:
    """Replies in order, the last one for ever; after a last one with ``times`` the endpoint echoes again."""

    def __init__(self, replies: _Entry | Sequence[_Entry] = None) -> None:
        several = isinstance(replies, Sequence) and not isinstance(replies, str)
        entries: list[Any] = list(replies) if several else [replies]  # type: ignore[arg-type]
        self._entries = [_checked(entry) for entry in entries]
        self._index = 0
        self._used = 0

    def next(self, call: Received) -> Part:
        """The part for this call. Raises what a responder raises."""
        entry = self._take()
        if callable(entry):
            entry = _checked(entry(call))
        return entry if isinstance(entry, (Answer, Fault, Drop, Stall)) else _default(call)

    def _take(self) -> Any:
        if self._index >= len(self._entries):
            return None
        entry = self._entries[self._index]
        times = getattr(entry, "times", None)
        last = self._index == len(self._entries) - 1
        self._used += 1
        if times is None and last:
            return entry
        if self._used >= (times or 1):
            self._index += 1
            self._used = 0
        return entry


def _checked(entry: Any) -> Any:
    """An entry of a script in its final form: texts and mappings become answers, anything strange is refused."""
    if isinstance(entry, (str, Mapping)):
        return Answer(entry)
    if entry is None or callable(entry) or isinstance(entry, (Answer, Fault, Drop, Stall)):
        return entry
    raise InputError(
        f"a {type(entry).__name__} cannot be a reply of the endpoint",
        cure="use a str, a mapping, Answer, Fault, Drop, Stall, a function of the request, or a list of these",
    )


def _default(call: Received) -> Answer:
    said = echo(call.prompt)
    wanted = _wanted_format(call)
    if wanted.get("type") == "json_schema":
        schema = wanted.get("schema") or (wanted.get("json_schema") or {}).get("schema") or {}
        return Answer(json.dumps(_sample(schema, schema, said)))
    if wanted.get("type") == "json_object":
        return Answer({"echo": said})
    return Answer(said)


def _wanted_format(call: Received) -> dict[str, Any]:
    body = call.body if isinstance(call.body, dict) else {}
    wanted = body.get("response_format") or (body.get("text") or {}).get("format")
    return wanted if isinstance(wanted, dict) else {}


def _sample(schema: Any, root: Any, text: str, depth: int = 0) -> Any:
    """The plainest value that fits a JSON schema, with `text` for its strings. Deterministic."""
    if not isinstance(schema, dict) or depth > 20:
        return None
    if "$ref" in schema:
        target = root.get("$defs", {}).get(schema["$ref"].rpartition("/")[2])
        return _sample(target, root, text, depth + 1)
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    for name in ("anyOf", "oneOf", "allOf"):
        if options := schema.get(name):
            # A null, where allowed, ends what would otherwise go round in a recursive schema.
            return None if {"type": "null"} in options else _sample(options[0], root, text, depth + 1)
    return _sample_of_type(schema, root, text, depth)


def _sample_of_type(schema: dict[str, Any], root: Any, text: str, depth: int) -> Any:
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        fields = schema.get("properties", {})
        return {name: _sample(part, root, text, depth + 1) for name, part in fields.items()}
    if kind == "array":
        return [_sample(schema.get("items"), root, text, depth + 1)] * schema.get("minItems", 0)
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    return {"string": text, "boolean": False}.get(kind or "")
