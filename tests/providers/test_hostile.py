"""A provider that lies never breaks the recording, and what it says is never taken for more than it is."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import openai
import pytest

import ipyconvexai as ai
from ipyconvexai.errors import InvalidAnswerError, ProviderError
from ipyconvexai.testing import Answer, Endpoint, Fault
from tests.providers.lab import HELLO, rows


def completion(**fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], **fields}


def raw(data: Any, **more: Any) -> Answer:
    return Answer(raw=data if isinstance(data, bytes) else json.dumps(data).encode(), **more)


def ask(client: ai.OpenAI) -> None:
    with contextlib.suppress(Exception):
        client.chat.completions.create(model="m", messages=HELLO)


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
