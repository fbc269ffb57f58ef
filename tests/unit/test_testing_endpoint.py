"""The endpoint double, spoken to by the real openai SDK, and by plain sockets where the SDK would hide things."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, IncompleteRead, RemoteDisconnected
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

import ipyconvexai.testing
from ipyconvexai.errors import ConfigurationError, Error, InputError
from ipyconvexai.testing import Answer, Drop, Endpoint, Fault, Received, Stall, ToolCall, echo, spawn

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.timeout(60)]

HELLO: list[Any] = [{"role": "user", "content": "Hello world"}]
WEATHER = ToolCall("weather", {"city": "Paris", "days": 2})
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city", "days"],
                "additionalProperties": False,
            },
        },
    }
]
RESPONSE_TOOLS: list[Any] = [{"type": "function", **TOOLS[0]["function"]}]


class City(BaseModel):
    name: str
    people: int


class Tree(BaseModel):
    label: str
    parent: Tree | None = None
    children: list[Tree] = []


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as running:
        yield running


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[OpenAI]:
    with OpenAI(base_url=endpoint.url, api_key="sk-test", max_retries=0, timeout=10) as sdk:
        yield sdk


def ask(client: OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(**{"model": "m", "messages": HELLO, **options})


def respond(client: OpenAI, **options: Any) -> Any:
    return client.responses.create(**{"model": "m", "input": "Hello world", **options})


def exchange(endpoint: Endpoint, data: bytes, *, answers: int = 1) -> bytes:
    """What a socket reads back for these bytes, until so many answers' bodies are complete or it is closed."""
    port = int(endpoint.url.split(":")[2].split("/")[0])
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(data)
        while got.count(b'"usage":') < answers and (more := sock.recv(65536)):
            got += more
    return got


def open_files() -> int:
    return len(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else 0


def post(path: str, body: bytes, *headers: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "host: x", *headers]
    if not any(line.startswith("transfer-encoding") for line in headers):
        head.append(f"content-length: {len(body)}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


CHAT = json.dumps({"model": "m", "messages": HELLO}).encode()


# chat completions


def test_unscripted_chat_echoes_and_counts_words(client: OpenAI) -> None:
    completion = ask(client, messages=[{"role": "system", "content": "Be brief."}, *HELLO])
    assert completion.choices[0].message.content == echo("Hello world") == "echo: Hello world"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == "m"
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens, completion.usage.total_tokens) == (
        4,
        3,
        7,
    )


def test_echo_of_long_prompts_tells_them_apart() -> None:
    start = "Summarize this document, please, in one sentence: "
    assert echo(start + "a") == echo(start + "a")
    assert echo(start + "a") != echo(start + "b")
    assert echo(start + "a").startswith("echo: " + start[:40])


def test_echo_takes_the_last_user_message_and_its_text_parts(client: OpenAI) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    history = [*HELLO, {"role": "user", "content": parts}, {"role": "assistant", "content": "no"}]
    assert ask(client, messages=history).choices[0].message.content == "echo: one"


@pytest.mark.parametrize("include_usage", [True, False])
def test_chat_stream(client: OpenAI, endpoint: Endpoint, include_usage: bool) -> None:
    text = "Two  words,\nand a newline \n"
    endpoint.reply(text)
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    chunks = list(ask(client, stream=True, **options))
    assert chunks[0].choices[0].delta.role == "assistant"
    deltas = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(deltas) == text
    assert len([delta for delta in deltas if delta]) == 6
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [include_usage]
    if include_usage:
        assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (2, 5)


def test_chat_stream_helper_gives_the_whole_answer(client: OpenAI, endpoint: Endpoint) -> None:
    endpoint.reply(Answer("Let me see.", tool_calls=[WEATHER, ToolCall("weather", {"city": "Oslo", "days": 1})]))
    with client.chat.completions.stream(model="m", messages=HELLO, tools=TOOLS) as stream:
        kinds = {event.type for event in stream}
        completion = stream.get_final_completion()
    assert {"content.delta", "content.done", "tool_calls.function.arguments.delta"} <= kinds
    choice = completion.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("Let me see.", "tool_calls")
    assert choice.message.tool_calls is not None
    parsed = [call.function.parsed_arguments for call in choice.message.tool_calls]
    assert parsed == [{"city": "Paris", "days": 2}, {"city": "Oslo", "days": 1}]
    assert [call.id for call in choice.message.tool_calls] == ["call_1_0", "call_1_1"]


def test_chat_tool_calls_and_their_results(client: OpenAI, endpoint: Endpoint) -> None:
    endpoint.reply([Answer(tool_calls=[WEATHER]), "Sunny"])
    first = ask(client, tools=TOOLS).choices[0]
    assert (first.message.content, first.finish_reason) == (None, "tool_calls")
    call = first.message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", WEATHER.arguments)
    answer = {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"}
    second = ask(client, tools=TOOLS, messages=[*HELLO, first.message, answer])
    assert second.choices[0].message.content == "Sunny"
    assert second.usage.prompt_tokens == 4


@pytest.mark.parametrize("stream", [False, True])
def test_chat_refusal(client: OpenAI, endpoint: Endpoint, stream: bool) -> None:
    endpoint.reply(Answer(refusal="I cannot do that."))
    if stream:
        with client.chat.completions.stream(model="m", messages=HELLO) as events:
            message: Any = events.get_final_completion().choices[0].message
    else:
        message = ask(client).choices[0].message
    assert (message.content or None, message.refusal) == (None, "I cannot do that.")


def test_chat_parse(client: OpenAI, endpoint: Endpoint) -> None:
    endpoint.reply({"name": "Paris", "people": 2_100_000})
    completion = client.chat.completions.parse(model="m", messages=HELLO, response_format=City)
    assert completion.choices[0].message.parsed == City(name="Paris", people=2_100_000)
    with client.chat.completions.stream(model="m", messages=HELLO, response_format=City) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == City(name="Paris", people=2_100_000)


def test_unscripted_parse_gets_the_plainest_value_of_the_schema(client: OpenAI) -> None:
    completion = client.chat.completions.parse(model="m", messages=HELLO, response_format=City)
    assert completion.choices[0].message.parsed == City(name="echo: Hello world", people=0)
    response = client.responses.parse(model="m", input="x", text_format=Tree)
    assert response.output_parsed == Tree(label="echo: x")
    said = ask(client, response_format={"type": "json_object"}).choices[0].message.content
    assert json.loads(said) == {"echo": "echo: Hello world"}


def test_finish_reason_and_usage_as_scripted(client: OpenAI, endpoint: Endpoint) -> None:
    endpoint.reply([Answer("cut", finish_reason="length", usage=(100, 20, 60, 5)), Answer("free", usage=())])
    completion = ask(client)
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.prompt_tokens_details.cached_tokens == 60
    assert completion.usage.completion_tokens_details.reasoning_tokens == 5
    assert completion.usage.total_tokens == 120
    assert ask(client).usage is None


# responses


def test_response(client: OpenAI, endpoint: Endpoint) -> None:
    response = respond(client, instructions="Be brief.")
    assert (response.output_text, response.status) == ("echo: Hello world", "completed")
    assert (response.usage.input_tokens, response.usage.output_tokens) == (4, 3)
    history: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "last words"}]}]
    assert respond(client, input=history).output_text == "echo: last words"
    history.append({"type": "function_call_output", "call_id": "call_1", "output": "three more words"})
    assert respond(client, input=history).usage.input_tokens == 5


def test_response_stream_has_openais_events_in_order(client: OpenAI, endpoint: Endpoint) -> None:
    endpoint.reply(Answer("one two", usage=(10, 2, 4, 1)))
    events = list(respond(client, stream=True))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(10))
    last = events[-1].response
    assert (last.output_text, last.usage.output_tokens) == ("one two", 2)
    assert last.usage.input_tokens_details.cached_tokens == 4
    assert last.usage.output_tokens_details.reasoning_tokens == 1


def test_response_stream_helper_with_tools(client: OpenAI, endpoint: Endpoint) -> None:
    endpoint.reply(Answer("Let me see.", tool_calls=[WEATHER]))
    with client.responses.stream(model="m", input="x", tools=RESPONSE_TOOLS) as stream:
        deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        response = stream.get_final_response()
    assert json.loads("".join(deltas)) == WEATHER.arguments
    message, call = response.output
    assert (message.type, call.type, response.output_text) == ("message", "function_call", "Let me see.")
    assert call.type == "function_call"
    assert (call.call_id, call.parsed_arguments) == ("call_1_0", WEATHER.arguments)


def test_response_parse_and_refusal(client: OpenAI, endpoint: Endpoint) -> None:
    endpoint.reply([{"name": "Oslo", "people": 7}, {"name": "Oslo", "people": 7}, *[Answer(refusal="No, thanks.")] * 2])
    oslo = City(name="Oslo", people=7)
    assert client.responses.parse(model="m", input="x", text_format=City).output_parsed == oslo
    with client.responses.stream(model="m", input="x", text_format=City) as stream:
        assert stream.get_final_response().output_parsed == oslo
    assert respond(client).output[0].content[0].refusal == "No, thanks."
    deltas = [event.delta for event in respond(client, stream=True) if event.type == "response.refusal.delta"]
    assert "".join(deltas) == "No, thanks."


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Answer("half", failed="The model broke down."), "failed"),
        (Answer("half", finish_reason="length"), "incomplete"),
        (Answer("half", finish_reason="content_filter"), "incomplete"),
    ],
)
def test_response_failed_and_incomplete(client: OpenAI, endpoint: Endpoint, answer: Answer, status: str) -> None:
    endpoint.reply(answer)
    plain = respond(client)
    last = list(respond(client, stream=True))[-1]
    assert last.type == f"response.{status}"
    for response in (plain, last.response):
        assert (response.status, response.output_text) == (status, "half")
        if status == "failed":
            assert (response.error.code, response.error.message) == ("server_error", "The model broke down.")
        else:
            reason = {"length": "max_output_tokens"}.get(answer.finish_reason or "", answer.finish_reason)
            assert response.incomplete_details.reason == reason


def test_failed_in_chat(client: OpenAI, endpoint: Endpoint) -> None:
    endpoint.reply(Answer("one two", failed="It broke down."))
    seen: list[str | None] = []
    with pytest.raises(openai.APIError, match="It broke down") as caught:
        seen.extend(chunk.choices[0].delta.content for chunk in ask(client, stream=True))
    assert "".join(text or "" for text in seen) == "one two"
    assert not isinstance(caught.value, openai.APIStatusError)
    with pytest.raises(openai.InternalServerError, match="It broke down"):
        ask(client)


# embeddings, models


def test_embeddings_are_the_same_in_both_encodings(client: OpenAI, endpoint: Endpoint) -> None:
    packed = client.embeddings.create(model="m", input=["a b", "c"])
    plain = client.embeddings.create(model="m", input=["a b", "c"], encoding_format="float")
    assert [call.body["encoding_format"] for call in endpoint.calls] == ["base64", "float"]
    vectors = [item.embedding for item in packed.data]
    assert vectors == [item.embedding for item in plain.data]
    assert vectors[0] != vectors[1]
    # The SDK takes floats for an answer to base64, too: what was really sent is to be seen below it only.
    raw = client.embeddings.with_raw_response.create(model="m", input="a", encoding_format="base64")
    assert isinstance(json.loads(raw.text)["data"][0]["embedding"], str)
    assert sum(value * value for value in vectors[0]) == pytest.approx(1)
    assert (packed.usage.prompt_tokens, len(vectors[0])) == (3, 8)


def test_embeddings_as_asked_and_as_scripted(client: OpenAI, endpoint: Endpoint) -> None:
    assert len(client.embeddings.create(model="m", input="a", dimensions=3).data[0].embedding) == 3
    assert len(client.embeddings.create(model="m", input=[[1, 2], [3]]).data) == 2
    assert len(client.embeddings.create(model="m", input=[1, 2]).data) == 1
    endpoint.reply(Answer(vectors=[[0.5, 0.25]]))
    assert client.embeddings.create(model="m", input="a").data[0].embedding == [0.5, 0.25]


def test_models() -> None:
    with (
        Endpoint(models=["small", "big/one"]) as endpoint,
        OpenAI(base_url=endpoint.url, api_key="k", max_retries=0) as client,
    ):
        assert [model.id for model in client.models.list()] == ["small", "big/one"]
        assert client.models.retrieve("small").id == "small"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("none")
        with pytest.raises(openai.NotFoundError, match="does not exist") as caught:
            ask(client, model="none")
        assert caught.value.code == "model_not_found"


def test_azure_paths_name_the_model(endpoint: Endpoint) -> None:
    root = endpoint.url.removesuffix("/v1")
    with openai.AzureOpenAI(azure_endpoint=root, api_key="k", api_version="2024-10-21", max_retries=0) as client:
        assert ask(client, model="gpt").choices[0].message.content == "echo: Hello world"
    assert endpoint.calls[0].path == "/openai/deployments/gpt/chat/completions"
    assert endpoint.calls[0].query == "api-version=2024-10-21"
    nameless = json.dumps({"messages": HELLO}).encode()
    assert b'"model":"gpt"' in exchange(endpoint, post(endpoint.calls[0].path, nameless))


# what is refused


def test_wrong_key_is_repeated_in_the_message_and_hidden_in_reprs() -> None:
    with Endpoint(key="sk-right") as endpoint:
        with OpenAI(base_url=endpoint.url, api_key="sk-wrong-123", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError, match="API key provided: sk-wrong-123") as caught:
                ask(client)
            assert caught.value.code == "invalid_api_key"
        with OpenAI(base_url=endpoint.url, api_key="sk-right", max_retries=0) as client:
            assert ask(client).choices[0].message.content == "echo: Hello world"
        call = endpoint.calls[0]
        assert call.headers["Authorization"] == "Bearer sk-wrong-123"
        assert not any("sk-" in repr(part) for part in (call, call.headers, endpoint, endpoint.calls))
        assert b"401" in exchange(endpoint, post("/v1/chat/completions", CHAT, "connection: close"))


def test_a_prompt_beyond_the_context() -> None:
    with Endpoint(context=4) as endpoint, OpenAI(base_url=endpoint.url, api_key="k", max_retries=0) as client:
        assert ask(client).usage.prompt_tokens == 2
        with pytest.raises(openai.BadRequestError, match="maximum context length is 4 tokens") as caught:
            ask(client, messages=HELLO * 3)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
        with pytest.raises(openai.BadRequestError):
            respond(client, instructions="one two three")
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model="m", input=["a b c", "d e"])


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/chat/completions", b"{", 400),
        ("/v1/chat/completions", b'{"model": "m"}', 400),
        ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "x"}]}', 400),
        ("/v1/nothing", b"{}", 404),
    ],
)
def test_bad_requests(endpoint: Endpoint, path: str, body: bytes, status: int) -> None:
    got = exchange(endpoint, post(path, body, "connection: close"))
    assert got.startswith(f"HTTP/1.1 {status} ".encode())
    assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["message"]


# faults


def test_fault_with_retry_after_and_own_words(client: OpenAI, endpoint: Endpoint) -> None:
    endpoint.reply(Fault(429, retry_after=1.5, message="Slow down", code="slow", headers={"x-a": "b"}))
    with pytest.raises(openai.RateLimitError, match="Slow down") as caught:
        ask(client)
    headers = caught.value.response.headers
    assert (headers["retry-after"], headers["x-a"], caught.value.code) == ("1.5", "b", "slow")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 422, 429, 500, 502, 503, 529])
def test_every_status_has_openais_shape(client: OpenAI, endpoint: Endpoint, status: int) -> None:
    endpoint.reply(Fault(status))
    for send in (ask, respond):
        with pytest.raises(openai.APIStatusError) as caught:
            send(client, stream=True)
        assert caught.value.status_code == status
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["message"]


def test_the_sdks_own_retries_find_the_answer_behind_the_faults() -> None:
    script = [Fault(500, headers={"retry-after-ms": "1"}), Drop(), Fault(503, headers={"retry-after-ms": "1"}), "ok"]
    with Endpoint(script) as endpoint, OpenAI(base_url=endpoint.url, api_key="k", max_retries=3) as client:
        assert ask(client).choices[0].message.content == "ok"
        assert endpoint.count == 4
        assert endpoint.disconnects == 0


@pytest.mark.parametrize("reset", [False, True])
def test_drop(client: OpenAI, endpoint: Endpoint, reset: bool) -> None:
    endpoint.reply([Drop(reset=reset), "next"])
    connection = HTTPConnection(endpoint.url.split("/")[2], timeout=10)
    connection.request("POST", "/v1/chat/completions", CHAT)
    with pytest.raises(ConnectionResetError) as caught:
        connection.getresponse()
    assert isinstance(caught.value, RemoteDisconnected) is not reset
    connection.close()
    assert ask(client).choices[0].message.content == "next"


def test_stall_until_the_client_leaves(endpoint: Endpoint) -> None:
    endpoint.reply([Stall(), "next"])
    with OpenAI(base_url=endpoint.url, api_key="k", max_retries=0, timeout=0.05) as client:
        with pytest.raises(openai.APITimeoutError):
            ask(client)
        endpoint.wait(lambda e: e.disconnects == 1)
        assert endpoint.in_flight == 0


def test_stall_for_some_time_closes_without_an_answer(client: OpenAI, endpoint: Endpoint) -> None:
    endpoint.reply(Stall(0.01))
    with pytest.raises(openai.APIConnectionError):
        ask(client)
    assert (endpoint.disconnects, endpoint.in_flight) == (0, 0)


@pytest.mark.parametrize("send", [ask, respond])
@pytest.mark.parametrize("after", [0, 2, 99])
def test_the_sdk_does_not_notice_a_stream_cut_at_its_end(
    client: OpenAI, endpoint: Endpoint, send: Callable[..., Any], after: int
) -> None:
    endpoint.reply(Answer("one two three", cut_after=after))
    events = list(send(client, stream=True))
    seen = "".join(
        getattr(event, "delta", None) or "" if send is respond else event.choices[0].delta.content or ""
        for event in events
    )
    assert seen == {0: "", 2: "one two", 99: "one two three"}[after]
    if send is respond:
        assert "response.completed" not in {event.type for event in events}
    else:
        assert {event.choices[0].finish_reason for event in events} == {None}


@pytest.mark.parametrize("cut", ["close", "reset"])
@pytest.mark.parametrize("send", [ask, respond])
def test_a_stream_cut_within_the_message(
    client: OpenAI, endpoint: Endpoint, send: Callable[..., Any], cut: Any
) -> None:
    endpoint.reply([Answer("one two three", cut_after=2, cut=cut), "next"])
    with pytest.raises(openai.APIConnectionError):
        list(send(client, stream=True))
    assert (endpoint.in_flight, endpoint.disconnects) == (0, 0)
    assert ask(client).choices[0].message.content == "next"


def test_a_stream_that_stalls(endpoint: Endpoint) -> None:
    endpoint.reply(Answer("one two three", cut_after=2, cut="stall"))
    seen: list[str | None] = []
    with OpenAI(base_url=endpoint.url, api_key="k", max_retries=0, timeout=0.2) as client:
        with pytest.raises(openai.APITimeoutError):
            seen.extend(chunk.choices[0].delta.content for chunk in ask(client, stream=True))
    assert "".join(text or "" for text in seen) == "one two"
    endpoint.wait(lambda e: e.disconnects == 1)


@pytest.mark.parametrize(("cut", "error"), [("end", None), ("close", IncompleteRead), ("reset", OSError)])
def test_a_plain_answer_cut_in_its_body(endpoint: Endpoint, cut: Any, error: type[Exception] | None) -> None:
    endpoint.reply(Answer("one two three", cut_after=0, cut=cut))
    connection = HTTPConnection(endpoint.url.split("/")[2], timeout=10)
    connection.request("POST", "/v1/chat/completions", CHAT)
    try:
        response = connection.getresponse()
        if error is None:
            assert not response.read().endswith(b"}")
        else:
            with pytest.raises(error):
                response.read()
    finally:
        connection.close()


def test_raw_bytes_of_a_provider_that_lies(client: OpenAI, endpoint: Endpoint) -> None:
    page = Answer(raw=b"<html>Bad gateway</html>", content_type="text/html", status=502, headers={"x-a": "1\r\nx-b: 2"})
    endpoint.reply(page)
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client, stream=True)
    response = caught.value.response
    assert (response.headers["content-type"], response.text) == ("text/html", "<html>Bad gateway</html>")
    assert "x-b" not in response.headers


# time


def test_latency_and_token_delay_are_kept(client: OpenAI, endpoint: Endpoint) -> None:
    arrivals: list[float] = []
    endpoint.reply(Answer("a b c", delay=0.05, token_delay=0.03))
    start = time.monotonic()
    for chunk in ask(client, stream=True):
        if chunk.choices[0].delta.content:
            arrivals.append(time.monotonic() - start)
    # Lower bounds only: a busy machine may be late, never early (a timer may fire one tick of 1 ms before).
    assert arrivals[0] >= 0.049
    assert arrivals[2] >= 0.107
    start = time.monotonic()
    ask(client)
    assert time.monotonic() - start >= 0.049


def test_hold_and_release_without_sleeping(client: OpenAI, endpoint: Endpoint) -> None:
    endpoint.hold()
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(ask, client) for _ in range(3)]
        endpoint.wait(lambda e: e.in_flight == 3)
        assert not any(answer.done() for answer in answers)
        endpoint.release()
        assert {answer.result().choices[0].message.content for answer in answers} == {"echo: Hello world"}
    assert (endpoint.in_flight, endpoint.most_in_flight, endpoint.count) == (0, 3, 3)
    assert ask(client)
    assert (endpoint.in_flight, endpoint.most_in_flight, endpoint.count) == (0, 3, 4)
    with pytest.raises(TimeoutError, match="'count': 4"):
        endpoint.wait(lambda e: e.count == 5, timeout=0.01)


def test_a_client_that_leaves_while_held_is_a_disconnect(endpoint: Endpoint) -> None:
    endpoint.hold()
    with OpenAI(base_url=endpoint.url, api_key="k", max_retries=0, timeout=0.05) as client:
        with pytest.raises(openai.APITimeoutError):
            ask(client)
    endpoint.wait(lambda e: e.disconnects == 1)
    endpoint.release()
    with OpenAI(base_url=endpoint.url, api_key="k", max_retries=0) as client:
        assert ask(client)
    assert endpoint.in_flight == 0
    endpoint.clear()
    assert (endpoint.count, endpoint.calls, endpoint.stats()["disconnects"]) == (0, [], 0)


def test_an_answer_that_comes_due_after_its_client_left_changes_nothing(endpoint: Endpoint) -> None:
    endpoint.reply([Answer(delay=0.1), Answer(delay=0.2)])
    with OpenAI(base_url=endpoint.url, api_key="k", max_retries=0) as client:
        with pytest.raises(openai.APITimeoutError):
            ask(client, timeout=0.03)
        endpoint.wait(lambda e: e.disconnects == 1)
        assert ask(client, timeout=10)  # longer than what is left of the first delay
    assert endpoint.in_flight == 0


def test_a_client_that_stops_reading_a_stream_is_a_disconnect(client: OpenAI, endpoint: Endpoint) -> None:
    endpoint.reply(Answer("word " * 1000, token_delay=0.02))
    with ask(client, stream=True) as stream:
        next(iter(stream))
    endpoint.wait(lambda e: e.disconnects == 1 and e.in_flight == 0)


def test_closing_with_requests_in_flight_leaves_nothing_behind(tmp_path: Path) -> None:
    threads, files = threading.active_count(), open_files()
    endpoint = Endpoint(Stall()).start()
    endpoint.log(tmp_path / "log")
    with (
        ThreadPoolExecutor() as pool,
        OpenAI(base_url=endpoint.url, api_key="k", max_retries=0) as client,
    ):
        lost = pool.submit(ask, client)
        endpoint.wait(lambda e: e.in_flight == 1, timeout=30)
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "ipyconvexai-endpoint"]
        endpoint.close()
        assert not thread.is_alive()
        with pytest.raises(openai.APIConnectionError):
            lost.result()
    endpoint.close()
    assert (threading.active_count(), open_files()) == (threads, files)
    assert endpoint.disconnects == 0
    gc.collect()  # ResourceWarnings of what was left open are errors here


def test_many_at_once(endpoint: Endpoint) -> None:
    async def send() -> list[str | None]:
        async with AsyncOpenAI(base_url=endpoint.url, api_key="k", max_retries=0) as client:
            create = client.chat.completions.create
            tasks = [
                asyncio.create_task(create(model="m", messages=[{"role": "user", "content": f"number {i}"}]))
                for i in range(100)
            ]
            await asyncio.to_thread(endpoint.wait, lambda e: e.in_flight == 100)
            endpoint.release()
            return [answer.choices[0].message.content for answer in await asyncio.gather(*tasks)]

    endpoint.hold()
    assert asyncio.run(send()) == [f"echo: number {i}" for i in range(100)]
    assert endpoint.most_in_flight == 100


# scripts


def test_a_script_is_used_in_order_and_its_last_part_repeats(client: OpenAI, endpoint: Endpoint) -> None:
    endpoint.reply(["one", Fault(500, times=2), lambda call: f"{call.prompt}!", "last"])
    said = []
    for _ in range(6):
        try:
            said.append(ask(client).choices[0].message.content)
        except openai.InternalServerError:
            said.append("500")
    assert said == ["one", "500", "500", "Hello world!", "last", "last"]


def test_after_a_last_part_with_times_it_echoes(client: OpenAI, endpoint: Endpoint) -> None:
    endpoint.reply(Answer("once", times=1))
    assert [ask(client).choices[0].message.content for _ in range(2)] == ["once", "echo: Hello world"]


def test_a_script_that_raises_is_heard() -> None:
    def picky(call: Received) -> str:
        raise AssertionError(f"not {call.model}")

    own = Endpoint(picky).start()
    with OpenAI(base_url=own.url, api_key="k") as client, pytest.raises(openai.BadRequestError, match="not m"):
        ask(client)
    assert own.count == 1
    with pytest.raises(AssertionError, match="not m"):
        own.__exit__(None, None, None)


@pytest.mark.parametrize("wrong", [5, ["ok", 5]])
def test_what_cannot_be_a_reply_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match="a int cannot be a reply"):
        Endpoint(wrong)
    with pytest.raises(InputError, match="unknown"):
        Answer(cut="sideways")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="length"):
        Answer(usage=(1,))


# what is kept


def test_calls_hold_what_was_sent(client: OpenAI, endpoint: Endpoint) -> None:
    ask(client, temperature=0.5)
    list(ask(client, stream=True))
    first, second = endpoint.calls
    assert (first.number, first.method, first.path, first.kind) == (1, "POST", "/v1/chat/completions", "chat")
    assert (first.body["temperature"], first.model, first.prompt, first.stream) == (0.5, "m", "Hello world", False)
    assert json.loads(first.raw) == first.body
    assert first.time <= second.time
    assert (second.number, second.stream) == (2, True)
    assert repr(first) == f"<Received 1: POST /v1/chat/completions m, {len(first.raw)} bytes>"


def test_keep_limits_what_is_kept() -> None:
    with Endpoint(keep=2) as endpoint, OpenAI(base_url=endpoint.url, api_key="k") as client:
        for _ in range(3):
            ask(client)
        assert [call.number for call in endpoint.calls] == [2, 3]
        assert endpoint.count == 3


def test_the_log_is_written_before_the_answer_and_holds_no_key(tmp_path: Path, endpoint: Endpoint) -> None:
    log = tmp_path / "calls.jsonl"
    endpoint.log(log)
    endpoint.reply(lambda call: str(len(log.read_text().splitlines())))
    with OpenAI(base_url=endpoint.url, api_key="sk-secret") as client:
        assert [ask(client).choices[0].message.content for _ in range(2)] == ["1", "2"]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["number"], line["path"], line["body"]["messages"]) for line in lines] == [
        (1, "/v1/chat/completions", HELLO),
        (2, "/v1/chat/completions", HELLO),
    ]
    assert "sk-secret" not in log.read_text()


# HTTP


def test_keep_alive_uses_one_connection(endpoint: Endpoint) -> None:
    # Not with the SDK: it closes the connection of each stream once it has seen [DONE].
    streamed = json.dumps({"model": "m", "messages": HELLO, "stream": True}).encode()
    cut_at_its_end = Answer("a b", cut_after=1)
    endpoint.reply(["plain", "stream", cut_at_its_end, Fault(500), "last"])
    connection = HTTPConnection(endpoint.url.split("/")[2], timeout=10)
    got = []
    for body in (CHAT, streamed, streamed, CHAT, CHAT):
        connection.request("POST", "/v1/chat/completions", body)
        got.append(connection.getresponse().read())
    connection.close()
    assert [data.endswith(b"[DONE]\n\n") for data in got] == [False, True, False, False, False]
    assert b"last" in got[-1]
    assert (endpoint.count, endpoint.connections) == (5, 1)


def test_chunked_bodies_in_any_pieces(endpoint: Endpoint) -> None:
    pieces = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in (CHAT[:5], CHAT[5:]))
    data = post(
        "/v1/chat/completions", pieces + b"0\r\nx-trailer: 1\r\n\r\n", "transfer-encoding: chunked", "connection: close"
    )
    port = int(endpoint.url.split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(data)):
            sock.sendall(data[at : at + 1])
        assert sock.makefile("rb").read().startswith(b"HTTP/1.1 200 OK\r\n")
    assert endpoint.calls[0].raw == CHAT


def test_pipelined_requests_are_answered_in_turn(endpoint: Endpoint) -> None:
    endpoint.reply([Answer("first", delay=0.01), "second", "third"])
    got = exchange(endpoint, post("/v1/chat/completions", CHAT) * 3, answers=3)
    assert got.index(b"first") < got.index(b"second") < got.index(b"third")


def test_expect_100_continue(endpoint: Endpoint) -> None:
    port = int(endpoint.url.split(":")[2].split("/")[0])
    request = post("/v1/chat/completions", CHAT, "expect: 100-continue", "connection: close")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(request[: -len(CHAT)])
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(CHAT)
        assert sock.makefile("rb").read().startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "junk",
    [
        b"hello\r\n\r\n",
        b"GET / SPDY/3\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: many\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000,
    ],
)
def test_what_is_no_http_is_answered_and_closed(endpoint: Endpoint, junk: bytes) -> None:
    assert exchange(endpoint, junk).startswith(b"HTTP/1.1 4")
    assert (endpoint.count, endpoint.in_flight) == (0, 0)


# life


def test_url_needs_a_running_endpoint_and_a_port_can_be_taken() -> None:
    endpoint = Endpoint()
    with pytest.raises(Error, match="with"):
        _ = endpoint.url
    with endpoint, pytest.raises(Error, match="running already"):
        endpoint.start()
    with endpoint:  # again
        port = int(endpoint.url.split(":")[2].split("/")[0])
        with pytest.raises(ConfigurationError, match=f"port {port}"):
            Endpoint(port=port).start()


def test_stats_over_http_do_not_count_themselves(client: OpenAI, endpoint: Endpoint) -> None:
    ask(client)
    connection = HTTPConnection(endpoint.url.split("/")[2], timeout=10)
    seen = []
    for method, path in (("GET", "/__stats"), ("GET", "/__stats"), ("POST", "/__clear")):
        connection.request(method, path)
        seen.append(json.loads(connection.getresponse().read())["count"])
    connection.close()
    assert (seen, endpoint.in_flight) == ([1, 1, 0], 0)


def test_spawn_runs_it_in_a_process_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with spawn("hi", key="sk-child", models=["a", "b"], context=50, log=log) as child:
        assert child.pid != os.getpid()
        with OpenAI(base_url=child.url, api_key="sk-child", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["a", "b"]
            assert ask(client, model="a").choices[0].message.content == "hi"
        assert child.stats() == {
            "count": 2,
            "in_flight": 0,
            "most_in_flight": 1,
            "disconnects": 0,
            "connections": 2,  # the client's and this one
        }
        child.clear()
        assert child.stats()["count"] == 0
    assert len(log.read_text().splitlines()) == 2
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_program_ends_with_its_standard_input_and_by_ctrl_c() -> None:
    command = [sys.executable, "-m", "ipyconvexai.testing", "--latency=0.01"]
    root = str(Path(ipyconvexai.testing.__file__).parents[2])
    for end in ("stdin", "signal"):
        environment = os.environ | {"PYTHONPATH": root}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        ) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            assert program.stderr is not None
            assert json.loads(program.stdout.readline())["url"].startswith("http://127.0.0.1:")
            if end == "stdin":
                program.stdin.close()
            else:
                program.send_signal(signal.SIGINT)
            assert program.wait(10) == 0
            assert program.stderr.read() == b""


def test_a_child_that_cannot_start_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    with Endpoint() as endpoint, pytest.raises(Error, match="did not start"):
        spawn(port=int(endpoint.url.split(":")[2].split("/")[0]))
    assert "cannot be used" in capfd.readouterr().err


def test_the_import_is_light() -> None:
    code = "import sys, ipyconvexai.testing; print([m for m in ('openai', 'duckdb', 'pydantic') if m in sys.modules])"
    root = str(Path(ipyconvexai.testing.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": root}
    )
    assert done.stdout.strip() == "[]"


def test_all_is_complete() -> None:
    public = {name for name, value in vars(ipyconvexai.testing).items() if name[0] != "_" and name != "annotations"}
    modules = {"batches", "child", "crashing", "endpoint", "provider", "received", "script", "server", "shapes", "wire"}
    assert public - modules == set(ipyconvexai.testing.__all__)
