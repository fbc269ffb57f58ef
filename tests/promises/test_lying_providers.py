"""A provider that lies never breaks the recording, hangs nobody, and is never taken for more than it says.

`LIES` has them by name: each, in each way of asking, gives within its time limit an answer or one clear error, and an
outcome in the ledger. Below are those of which more is known.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

import ipyconvexai as ai
from ipyconvexai.errors import Error, InvalidAnswerError, ProviderError
from ipyconvexai.testing import Answer, Drop, Endpoint, Fault, Stall
from tests.promises.promising import Figure
from tests.providers.lab import HELLO, KEY, rows

PROMISE = (
    "a provider that stalls, cuts or lies gives an answer or one clear error in its time, and breaks no record; but one"
    " that drips holds a call as long as it drips, and of no JSON the SDK's client raises a bare JSONDecodeError"
)

TIMEOUT = 0.25  # seconds that a provider may say nothing
GRACE = 2.0  # seconds more, on a machine that is busy otherwise
DRIPS, DRIP = 8, 0.1  # bytes of a provider that drips, and seconds between two


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as running:
        yield running


@pytest.fixture
def app() -> Iterator[ai.App]:
    with ai.connect(":memory:") as opened:
        yield opened


@pytest.fixture
def client(app: ai.App, endpoint: Endpoint) -> Iterator[ai.OpenAI]:
    with ai.OpenAI(base_url=endpoint.url, api_key=KEY, max_retries=0) as made:
        yield made


def completion(**fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], **fields}


def raw(data: Any, **more: Any) -> Answer:
    return Answer(raw=data if isinstance(data, bytes) else json.dumps(data).encode(), **more)


def ask(client: ai.OpenAI) -> None:
    with contextlib.suppress(Exception):
        client.chat.completions.create(model="m", messages=HELLO)


def events(*datas: Any, done: bool = True) -> bytes:
    lines = [data if isinstance(data, bytes) else json.dumps(data).encode() for data in datas]
    return b"".join(b"data: " + line + b"\n\n" for line in [*lines, *([b"[DONE]"] if done else [])])


def piece(text: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text} if text is not None else {}, "finish_reason": None, **fields}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


class Wire:
    """A server that sends these bytes, whatever it is asked, may drip a while, and closes the connection."""

    def __init__(self) -> None:
        self.sent = b""
        self.drips = 0
        self.count = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self.url = "http://{}:{}/v1".format(*self._server.getsockname())

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                with connection, contextlib.suppress(OSError):
                    asked = b""
                    while b"Hello" not in asked and (more := connection.recv(65536)):
                        asked += more
                    self.count += b"Hello" in asked
                    connection.sendall(self.sent)
                    for _ in range(self.drips):
                        time.sleep(DRIP)
                        connection.sendall(b" ")

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(10)


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
FINE = json.dumps(completion()).encode()
AGAIN = piece("one ")

LIES: dict[str, Any] = {
    "says nothing": Stall(),
    "closes at once": Drop(),
    "resets at once": Drop(reset=True),
    "stalls in the middle": Answer("one two three", cut_after=1, cut="stall"),
    "cuts in the middle": Answer("one two three", cut_after=1, cut="close"),
    "resets in the middle": Answer("one two three", cut_after=1, cut="reset"),
    "ends too early, properly": Answer("one two three", cut_after=1, cut="end"),
    "a page of HTML": raw(b"<html>Log in</html>", content_type="text/html"),
    "JSON as text": raw(completion(), content_type="text/plain"),
    "JSON without a type": raw(completion(), content_type=""),
    "a strange type": raw(completion(), content_type="application/json; charset=\xff; q=" + "x" * 5000),
    "a charset that is none": raw(completion(), content_type="application/json; charset=klingon"),
    "bytes": raw(bytes(range(256)), content_type="application/octet-stream"),
    "no JSON": raw(b"{'single': quotes}"),
    "half a JSON": raw(FINE[:50]),
    "two JSONs": raw(FINE + FINE),
    "a NaN": raw(FINE.replace(b'"created": 1', b'"created": NaN')),
    "nothing at all": raw(b""),
    "no content": raw(b"", status=204),
    "not modified": raw(b"", status=304),
    "a status of no meaning": raw(b"?", status=299),
    "wrong usage": raw(completion(usage={"prompt_tokens": -1, "completion_tokens": "many"})),
    "usage beyond all numbers": raw(completion(usage={"prompt_tokens": 10**400, "completion_tokens": 1e308})),
    "two megabytes": raw(completion(choices=[{"index": 0, "message": {"role": "assistant", "content": "x" * 2**21}}])),
    "two megabytes of error": raw(b"x" * 2**21, status=500),
    "a negative Retry-After": Fault(429, headers={"retry-after": "-5"}),
    "a Retry-After of 30,000 years": Fault(429, headers={"retry-after": "1e12"}),
    "a Retry-After beyond all numbers": Fault(429, headers={"retry-after": "1e999"}),
    "a Retry-After in the year 10 ** 30": Fault(503, headers={"retry-after": f"Thu, 01 Jan {10**30} 00:00:00 GMT"}),
    "an error with status 200": raw({"error": {"message": "no luck", "code": "luck"}}),
    "an error that is a text, with status 200": raw({"error": "no luck"}),
    "an answer with status 500": raw(completion(), status=500),
    "spoilt gzip": raw(b"no gzip at all", headers={"content-encoding": "gzip"}),
    "cut gzip": raw(gzip.compress(FINE * 50)[:-20], headers={"content-encoding": "gzip"}),
    "an encoding that is none": raw(FINE, headers={"content-encoding": "klingon"}),
    "a redirect to itself": raw(b"", status=307, headers={"location": "/v1/chat/completions"}),
    "a redirect to nowhere": raw(b"", status=308),
    "a redirect to what is no address": raw(b"", status=302, headers={"location": "http://[:::"}),
    "events twice": raw(events(AGAIN, AGAIN, piece(finish_reason="stop")), content_type="text/event-stream"),
    "events out of order": raw(
        events(piece(finish_reason="stop"), {"choices": [], "usage": {"prompt_tokens": 1}}, AGAIN),
        content_type="text/event-stream",
    ),
    "events after the end": raw(events(AGAIN) + events(AGAIN), content_type="text/event-stream"),
    "events of many choices": raw(
        events(piece("b", index=7), piece("a", index=-1), piece("c", index="x")), content_type="text/event-stream"
    ),
    "an event of an error": raw(events({"error": {"message": "no luck"}}), content_type="text/event-stream"),
    "no end": raw(events(AGAIN, done=False), content_type="text/event-stream"),
    "an event without an end": raw(b"data: " + b"x" * 100_000, content_type="text/event-stream"),
    "a length that is too long": HEAD + b"content-length: 99999\r\n\r\n" + FINE,
    "a length that is too short": HEAD + b"content-length: 20\r\n\r\n" + FINE,
    "a length that is none": HEAD + b"content-length: -7\r\n\r\n" + FINE,
    "a chunk that is none": CHUNKED + b"zz\r\n" + FINE,
    "no HTTP": b"220 smtp.example.org ESMTP\r\n",
    "headers of a megabyte": HEAD + b"x: " + b"y" * 2**20 + b"\r\n\r\n",
    "a hundred thousand headers": HEAD + b"x: y\r\n" * 100_000 + b"content-length: 0\r\n\r\n",
    "HTTP/0.9": FINE,
    "HTTP/3": b"HTTP/3.0 200 OK\r\n\r\n" + FINE,
    "a line feed in a header": HEAD + b"x-request-id: a\nb\r\n\r\n" + FINE,
}


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


def generate(app: ai.App, url: str, model: str) -> object:
    return app.generate("Hello", model=f"vllm:{model}", timeout=TIMEOUT).text


def stream(app: ai.App, url: str, model: str) -> object:
    return list(app.stream("Hello", model=f"vllm:{model}", timeout=TIMEOUT))


@functools.cache
def client_of(app: ai.App, url: str) -> ai.OpenAI:
    return ai.OpenAI(base_url=url, api_key=KEY, timeout=TIMEOUT, max_retries=0)


def drop_in(app: ai.App, url: str, model: str) -> object:
    return client_of(app, url).chat.completions.create(model=model, messages=HELLO)


def drop_in_stream(app: ai.App, url: str, model: str) -> object:
    return list(client_of(app, url).chat.completions.create(model=model, messages=HELLO, stream=True))


def responses(app: ai.App, url: str, model: str) -> object:
    return client_of(app, url).responses.create(model=model, input="Hello")


FACES: list[Callable[[ai.App, str, str], object]] = [generate, stream, drop_in, drop_in_stream, responses]
OURS = (generate, stream)
SENT = "SELECT status FROM calls WHERE error_code IS DISTINCT FROM 'not_sent' ORDER BY id"
OUTCOMES = {"ok", "error", "timeout", "cut"}


def test_every_lie_by_name(endpoint: Endpoint, wire: Wire, monkeypatch: pytest.MonkeyPatch, figure: Figure):
    """Our own calls raise errors of our tree; the drop-in client also the SDK's, and what `json` says of no JSON."""
    wrong, slowest = [], 0.0
    came: collections.Counter[str] = collections.Counter()
    seen: list[str] = []
    with ai.connect(":memory:", retries=0) as app:
        for name, lie in LIES.items():
            url = wire.url if isinstance(lie, bytes) else endpoint.url
            monkeypatch.setenv("VLLM_BASE_URL", url)
            if isinstance(lie, bytes):
                wire.sent = lie
            else:
                endpoint.reply(lie)
            for face in FACES:
                hits, begun = endpoint.count + wire.count, time.monotonic()
                try:
                    face(app, url, f"m{len(seen)}")  # whoever is asked to wait, waits before that model
                    came["answer"] += 1
                except Exception as error:
                    came[kind := kind_of(error)] += 1
                    if kind == "other" or (kind != "ours" and face in OURS):
                        wrong.append(f"{name}, {face.__name__}: {error!r}")
                slowest = max(slowest, took := time.monotonic() - begun)
                if took > TIMEOUT + GRACE:
                    wrong.append(f"{name}, {face.__name__}: {took:.1f} s")
                found = [status for (status,) in app.store.read(SENT)][len(seen) :]
                seen += found
                hits = endpoint.count + wire.count - hits
                if not found or len(found) != hits or not set(found) <= OUTCOMES:
                    wrong.append(f"{name}, {face.__name__}: {hits} hits, recorded as {found}")
    assert wrong == []
    figure(
        f"{came['answer']} answers, {came['ours']} errors of ours and {came['SDK']} of the SDK, {came['json']} bare"
        f" JSONDecodeErrors of its client; all recorded, none later than {slowest:.1f} s at a limit of {TIMEOUT} s",
        f"{len(LIES)} lies in {len(FACES)} ways",
    )


def kind_of(error: Exception) -> str:
    if isinstance(error, Error):
        return "ours"
    if isinstance(error, openai.OpenAIError):
        return "SDK"
    return "json" if isinstance(error, json.JSONDecodeError) else "other"


def test_one_that_drips_holds_a_call_as_long_as_it_drips(wire: Wire, monkeypatch: pytest.MonkeyPatch, figure: Figure):
    """The limit is for silence; it was never silent for so long. Then there is one clear error, and a record."""
    monkeypatch.setenv("VLLM_BASE_URL", wire.url)
    wire.sent, wire.drips = HEAD + b"content-length: 99999\r\n\r\n", DRIPS
    took = []
    try:
        with ai.connect(":memory:", retries=0) as app:
            for face in (generate, drop_in):
                begun = time.monotonic()
                with pytest.raises((Error, openai.OpenAIError)):
                    face(app, wire.url, "m")
                took.append(time.monotonic() - begun)
            assert {status for (status,) in app.store.read(SENT)} <= {"error", "cut"}
            assert len(app.store.read(SENT)) == len(took)
    finally:
        wire.drips = 0
    assert TIMEOUT < DRIPS * DRIP <= min(took)
    assert max(took) < DRIPS * DRIP + GRACE
    figure(f"one that dripped for {DRIPS * DRIP:.1f} s held a call for {max(took):.1f} s at a limit of {TIMEOUT} s")


def test_a_redirect_takes_no_key_elsewhere(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    with Endpoint() as elsewhere:
        location = f"{elsewhere.url}/chat/completions".replace("127.0.0.1", "localhost")
        endpoint.reply(raw(b"", status=307, headers={"location": location}))
        ask(client)
        assert [call.headers.get("authorization") for call in elsewhere.calls] == [None]
        assert KEY not in str([dict(call.headers) for call in elsewhere.calls])
    assert [row["status"] for row in rows(app)] == ["error", "ok"]


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1, "completion_tokens": "many"},
        {"prompt_tokens": 1e30, "completion_tokens": 10**30},
        {"prompt_tokens": True, "completion_tokens": None, "prompt_tokens_details": [1]},
        {"prompt_tokens_details": {"cached_tokens": -5}},
        "lots",
        [1, 2],
        7,
        None,
    ],
)
def test_wrong_usage(client: ai.OpenAI, endpoint: Endpoint, app: ai.App, usage: Any):
    endpoint.reply(raw(completion(usage=usage)))
    ask(client)
    (row,) = rows(app)
    assert (row["status"], row["text"], row["input_tokens"], row["output_tokens"]) == ("ok", "fine", None, None)


@pytest.mark.parametrize(
    "answer",
    [
        raw(completion(choices=[{}])),
        raw(completion(choices=[{"message": {"content": {"deep": 1}}, "finish_reason": 5}])),
        raw(completion(model={"name": "m"})),
        raw(completion(model="\ud800", choices=[{"message": {"content": "\udfff"}}])),
        raw(completion(choices=[{"message": {"content": "nul \x00 inside"}}])),
        raw({"object": "response", "output": "x", "usage": 1, "status": {}}),
    ],
)
def test_wrong_shapes_are_recorded_as_they_came(client: ai.OpenAI, endpoint: Endpoint, app: ai.App, answer: Answer):
    endpoint.reply(answer)
    ask(client)
    (row,) = rows(app)
    assert row["status"] == "ok"
    assert row["response"].encode() == answer.raw


@pytest.mark.parametrize(
    "answer",
    [
        raw(b"{not json"),
        raw(b""),
        raw(b"null"),
        raw(b"[]"),
        raw(b"[" * 100_000),
        raw({"id": "1"}),
        raw(completion(choices=[])),
        raw(completion(choices="none")),
        raw(completion(choices=[[]])),
        raw(b"<html>Welcome to the hotel's network</html>", content_type="text/html"),
        raw(b"\xff\xfe\x00binary", content_type="application/octet-stream"),
    ],
)
def test_what_is_no_answer_is_an_error(
    client: ai.OpenAI, endpoint: Endpoint, app: ai.App, answer: Answer, monkeypatch: pytest.MonkeyPatch
):
    endpoint.reply(answer)
    ask(client)
    monkeypatch.setenv("VLLM_BASE_URL", endpoint.url)
    with pytest.raises(InvalidAnswerError):
        ai.generate("Hello", model="vllm:m", replay="reuse")
    assert [(row["status"], row["error_code"]) for row in rows(app)] == [("error", "unreadable_answer")] * 2


@pytest.mark.parametrize("answer", [raw(b"<h1>Log in</h1>", content_type="text/html"), raw({"id": "1"})])
def test_what_is_no_stream_is_an_error(
    endpoint: Endpoint, app: ai.App, answer: Answer, monkeypatch: pytest.MonkeyPatch
):
    endpoint.reply(answer)
    monkeypatch.setenv("VLLM_BASE_URL", endpoint.url)
    with pytest.raises(InvalidAnswerError):
        list(ai.stream("Hello", model="vllm:m", conversation="c"))
    assert [(row["status"], row["error_code"]) for row in rows(app)] == [("error", "unreadable_answer")]
    assert app.store.read("SELECT count(*) FROM messages") == [(0,)]


def test_a_stream_under_the_name_of_json(endpoint: Endpoint, app: ai.App, monkeypatch: pytest.MonkeyPatch):
    events = b'data: {"choices":[{"delta":{"content":"fine"}}]}\n\ndata: [DONE]\n\n'
    endpoint.reply(raw(events, content_type="application/json"))
    monkeypatch.setenv("VLLM_BASE_URL", endpoint.url)
    for _ in range(2):
        assert list(ai.stream("Hello", model="vllm:m", replay="reuse")) == ["fine"]
    assert [(row["status"], row["text"]) for row in rows(app)] == [("ok", "fine")]
    assert endpoint.count == 1


def test_an_event_named_error(endpoint: Endpoint, app: ai.App, monkeypatch: pytest.MonkeyPatch):
    endpoint.reply(raw(b'event: error\ndata: {"message": "boom"}\n\n', content_type="text/event-stream"))
    monkeypatch.setenv("VLLM_BASE_URL", endpoint.url)
    with pytest.raises(ProviderError, match="boom"):
        list(ai.stream("Hello", model="vllm:m"))
    assert [row["status"] for row in rows(app)] == ["error"]


def test_an_error_with_status_200(client: ai.OpenAI, endpoint: Endpoint, app: ai.App, monkeypatch: pytest.MonkeyPatch):
    endpoint.reply(raw({"error": {"message": "no such luck", "code": "luck"}}))
    monkeypatch.setenv("VLLM_BASE_URL", endpoint.url)
    with pytest.raises(ProviderError, match="no such luck"):
        ai.generate("Hello", model="vllm:m")
    (row,) = rows(app)
    assert (row["status"], row["error_code"], row["error_message"]) == ("error", "luck", "no such luck")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<h1>Bad Gateway</h1>",
        b'{"error": []}',
        b'[{"error": {"message": "x", "code": 7}}]',
        b'{"error": "x"}',
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"error": {"message": "\\ud800", "type": []}}',
    ],
)
def test_wrong_errors(client: ai.OpenAI, endpoint: Endpoint, app: ai.App, body: bytes):
    endpoint.reply(raw(body, status=502))
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="m", messages=HELLO)
    (row,) = rows(app)
    assert (row["status"], row["http_status"]) == ("error", 502)


@pytest.mark.parametrize(
    "events",
    [
        b"data: {broken\n\ndata: [DONE]\n\n",
        b"data: []\n\ndata: [DONE]\n\n",
        b"data: [DONE]\n\n",
        b"\n\n\ndata:\n\ndata: [DONE]\n\n",
        b'data: {"choices": 5, "usage": "x"}\n\ndata: [DONE]\n\n',
        b"data: " + b"[" * 50_000 + b"\n\ndata: [DONE]\n\n",
        b'data: {"choices":[{"delta":{"content":"\\ud800"}}]}\n\ndata: [DONE]\n\n',
    ],
)
def test_wrong_events(client: ai.OpenAI, endpoint: Endpoint, app: ai.App, events: bytes):
    endpoint.reply(raw(events, content_type="text/event-stream"))
    with client.chat.completions.with_streaming_response.create(model="m", messages=HELLO, stream=True) as response:
        assert response.read() == events
    (row,) = rows(app)
    assert row["status"] == "ok"
    assert row["response"].encode() == events


def test_ten_megabytes(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    text = "x" * 10_000_000
    endpoint.reply(raw(completion(choices=[{"message": {"content": text}}])))
    assert client.chat.completions.create(model="m", messages=HELLO).choices[0].message.content == text
    big = b'data: {"choices":[{"delta":{"content":"' + text.encode() + b'"}}]}\n\ndata: [DONE]\n\n'
    endpoint.reply(raw(big, content_type="text/event-stream"))
    stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
    assert next(iter(stream)).choices[0].delta.content == text
    list(stream)
    assert app.store.read("SELECT length(text) FROM calls") == [(len(text),)] * 2


def test_spoilt_gzip(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    endpoint.reply(raw(b"no gzip at all", headers={"content-encoding": "gzip"}))
    with pytest.raises(InvalidAnswerError, match="decoded"):
        client.with_options(max_retries=3).chat.completions.create(model="m", messages=HELLO)
    assert [(row["status"], row["error_code"]) for row in rows(app)] == [("error", "unreadable_answer")]
    assert endpoint.count == 1, "it was answered, and paid"


def test_strange_headers(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    endpoint.reply(raw(completion(), headers={"x-request-id": "é" * 300, "x-ipyconvexai-request-id": "forged"}))
    answer = client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
    assert answer.headers["x-ipyconvexai-request-id"] == str(rows(app)[0]["id"])


def test_a_fault_message_of_a_megabyte(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    endpoint.reply(Fault(400, message="no " * 300_000))
    with pytest.raises(Exception, match="no no"):
        client.chat.completions.create(model="m", messages=HELLO)
    assert rows(app)[0]["status"] == "error"
