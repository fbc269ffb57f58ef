"""From a request to the plan of its answer: what a provider checks first, then what the script says.

Joins `script`, `shapes` and `wire`; keeps nothing but its place in the script and does no input or output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ipyconvexai.testing import shapes
from ipyconvexai.testing.batches import Batches
from ipyconvexai.testing.received import Received
from ipyconvexai.testing.script import Answer, Drop, Fault, Script
from ipyconvexai.testing.wire import LAST_CHUNK, Ending, Plan, chunk, head

_ENDINGS = {"end": Ending.KEEP, "close": Ending.CLOSE, "reset": Ending.RESET, "stall": Ending.STALL}
_INPUTS = {"chat": "messages", "responses": "input", "embeddings": "input", "images": "prompt"}
_STORED = ("files", "batches")
_NEVER_STREAMED = ("embeddings", "images")
_INVALID = "invalid_request_error"


@dataclass
class Provider:
    """What the endpoint pretends to be; the fields are explained at `Endpoint`."""

    script: Script = field(default_factory=Script)
    latency: float = 0.0
    token_delay: float = 0.0
    key: str | None = None
    models: Sequence[str] | None = None
    context: int | None = None
    dimensions: int = 8
    batches: Batches | None = None

    def __post_init__(self) -> None:
        if self.batches is not None:
            self.batches.answer_with(self.answer_line)

    def answer_line(self, call: Received) -> Plan:
        """The answer to one request of a batch, at once."""
        return self._wrong_body(call) or self._scripted(call)

    def plan(self, call: Received) -> Plan:
        """The answer to a request. Raises what a function of the script raises."""
        refused = self._refusal(call)
        if refused is not None:
            return refused
        if call.kind == "models":
            return self._listing(call)
        if call.kind in _STORED:
            assert self.batches is not None
            return self.batches.plan(call)
        return self._scripted(call)

    def _scripted(self, call: Received) -> Plan:
        part = self.script.next(call)
        if isinstance(part, Answer):
            return self._answer(call, part)
        if isinstance(part, Fault):
            return _fault(call, part)
        if isinstance(part, Drop):
            return Plan([(part.delay, b"")], Ending.RESET if part.reset else Ending.CLOSE)
        return Plan([], Ending.STALL) if part.seconds is None else Plan([(part.seconds, b"")], Ending.CLOSE)

    # what is refused before a model sees it

    def _refusal(self, call: Received) -> Plan | None:
        if wrong := self._wrong_key(call):
            return wrong
        if not call.kind or (call.kind in _STORED and self.batches is None):
            return error(call, 404, f"Invalid URL ({call.method} {call.path})")
        if call.kind == "models" or call.kind in _STORED:
            return None
        return self._wrong_body(call)

    def _wrong_body(self, call: Received) -> Plan | None:
        if not isinstance(call.body, dict):
            return error(call, 400, "We could not parse the JSON body of your request.")
        return self._wrong_model(call) or _missing_input(call) or self._too_long(call)

    def _wrong_key(self, call: Received) -> Plan | None:
        if self.key is None:
            return None
        given = call.headers.get("authorization", "").removeprefix("Bearer ") or call.headers.get("api-key", "")
        if given == self.key:
            return None
        if not given:
            return error(call, 401, "You didn't provide an API key.")
        # OpenAI repeats what it was given, and so a key can come back in a message: that is for tests to find.
        said = f"Incorrect API key provided: {given}. You can find your API key in your account's settings."
        return error(call, 401, said, "invalid_api_key")

    def _wrong_model(self, call: Received) -> Plan | None:
        if not call.model:
            return error(call, 400, "you must provide a model parameter")
        if self.models is None or call.model in self.models:
            return None
        said = f"The model `{call.model}` does not exist or you do not have access to it."
        return error(call, 404, said, "model_not_found")

    def _too_long(self, call: Received) -> Plan | None:
        if self.context is None or call.input_words <= self.context:
            return None
        said = (
            f"This model's maximum context length is {self.context} tokens. However, your messages resulted in "
            f"{call.input_words} tokens. Please reduce the length of the messages."
        )
        return error(call, 400, said, "context_length_exceeded", _INPUTS[call.kind])

    # what is answered

    def _listing(self, call: Received) -> Plan:
        names = ["echo"] if self.models is None else list(self.models)
        asked = call.path.partition("/models")[2].strip("/")
        if not asked:
            return plain(call, 200, shapes.models(names))
        if asked in names:
            return plain(call, 200, shapes.encode(shapes.model(asked)))
        return error(call, 404, f"The model '{asked}' does not exist", "model_not_found", "model")

    def _answer(self, call: Received, answer: Answer) -> Plan:
        delay = self.latency if answer.delay is None else answer.delay
        if answer.raw is not None:
            return _cut(answer, delay, _head(call, answer.status, answer.content_type, answer, answer.raw), answer.raw)
        if call.stream and call.kind not in _NEVER_STREAMED:
            ending = Ending.KEEP if answer.cut_after is None else _ENDINGS[answer.cut]
            return Plan(self._stream(call, answer, delay), ending)
        if answer.failed is not None and call.kind != "responses":
            failure = shapes.error(answer.failed, "server_error", "server_error")
            return plain(call, 500, failure, answer.headers, delay)
        body = self._body(call, answer)
        return _cut(answer, delay, _head(call, 200, shapes.JSON, answer, body), body)

    def _body(self, call: Received, answer: Answer) -> bytes:
        if call.kind == "embeddings":
            return shapes.embeddings(call, answer, self.dimensions)
        if call.kind == "images":
            return shapes.images(call, answer)
        return shapes.chat(call, answer) if call.kind == "chat" else shapes.response(call, answer)

    def _stream(self, call: Received, answer: Answer, delay: float) -> Iterator[tuple[float, bytes]]:
        """Headers, an HTTP chunk for each event until the cut, the last chunk."""
        pause = self.token_delay if answer.token_delay is None else answer.token_delay
        yield delay, _head(call, 200, shapes.EVENTS, answer, None)
        events = shapes.chat_events(call, answer) if call.kind == "chat" else shapes.response_events(call, answer)
        seen = 0
        for kind, event in events:
            if _is_cut(answer.cut_after, seen, kind):
                break
            # The first token comes with the headers: `delay` is the time to it.
            token = kind is shapes.EventKind.TOKEN
            yield pause if token and seen else 0.0, chunk(event)
            seen += token
        if answer.cut_after is None or answer.cut == "end":
            yield 0.0, LAST_CHUNK


def error(call: Received, status: int, message: str, code: str | None = None, param: str | None = None) -> Plan:
    """An error in OpenAI's shape, at once."""
    return plain(call, status, shapes.error(message, _INVALID, code, param))


def plain(
    call: Received, status: int, body: bytes, headers: Mapping[str, str] | None = None, delay: float = 0.0
) -> Plan:
    """JSON with a status, after a delay."""
    return Plan([(delay, head(status, _headers(call, shapes.JSON, headers or {}), len(body)) + body)])


def _fault(call: Received, fault: Fault) -> Plan:
    headers = dict(fault.headers)
    if fault.retry_after is not None:
        headers["retry-after"] = f"{fault.retry_after:g}"
    return plain(call, fault.status, shapes.fault(fault), headers, fault.delay)


def _missing_input(call: Received) -> Plan | None:
    name = _INPUTS[call.kind]
    # Responses may continue from a stored prompt or response without an input of their own.
    if call.body.get(name) or (call.kind == "responses" and (call.body.get("prompt"))):
        return None
    return error(call, 400, f"Missing required parameter: '{name}'.", "missing_required_parameter", name)


def _headers(call: Received, content_type: str, further: Mapping[str, str]) -> dict[str, str]:
    return {"content-type": content_type, "x-request-id": f"req_{call.number}", **further}


def _head(call: Received, status: int, content_type: str, answer: Answer, body: bytes | None) -> bytes:
    return head(status, _headers(call, content_type, answer.headers), None if body is None else len(body))


def _cut(answer: Answer, delay: float, start: bytes, body: bytes) -> Plan:
    """A plain body, or with `cut_after` the half of it."""
    if answer.cut_after is None:
        return Plan([(delay, start + body)])
    half = body[: len(body) // 2]
    if answer.cut == "end":
        # The message has to be complete as HTTP: its length is that of the half.
        start = start.replace(b"content-length: %d" % len(body), b"content-length: %d" % len(half))
    return Plan([(delay, start + half)], _ENDINGS[answer.cut])


def _is_cut(cut_after: int | None, seen: int, kind: shapes.EventKind) -> bool:
    """Whether the stream ends before this event: right after its last token, at the latest before its end."""
    if cut_after is None:
        return False
    if kind is shapes.EventKind.TERMINAL:
        return True
    return seen == cut_after and (seen > 0 or kind is shapes.EventKind.TOKEN)
