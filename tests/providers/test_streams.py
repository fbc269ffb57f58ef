"""Streams that are cut, fail, stall, come in strange pieces, or whose reader leaves."""

from __future__ import annotations

import asyncio
import gzip
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

import ipyconvexai as ai
from ipyconvexai.errors import StreamCutError
from ipyconvexai.testing import Answer, Endpoint
from tests.providers.lab import HELLO, KEY, rows, statuses

TEXT = "one two three four five"


def read(stream: Any) -> tuple[str, Exception | None]:
    """The text of a chat stream, and how it ended."""
    pieces = []
    try:
        for chunk in stream:
            pieces.append(chunk.choices[0].delta.content or "" if chunk.choices else "")
    except Exception as error:
        return "".join(pieces), error
    return "".join(pieces), None


def ask(client: Any, **options: Any) -> Any:
    return client.chat.completions.create(model="m", messages=HELLO, stream=True, **options)


@pytest.mark.parametrize("cut", ["end", "close", "reset"])
def test_a_cut_chat_stream(client: ai.OpenAI, endpoint: Endpoint, app: ai.App, cut: Any):
    endpoint.reply(Answer(TEXT, cut_after=2, cut=cut, token_delay=0.01))
    text, error = read(ask(client))
    assert text == "one two"
    assert isinstance(error, StreamCutError)
    assert isinstance(error, openai.APIConnectionError)
    (row,) = rows(app)
    assert (row["status"], row["text"], row["error_code"]) == ("cut", "one two", "cut")
    assert error.request_id == str(row["id"])
    assert "one" in row["response"]


@pytest.mark.parametrize("cut", ["end", "close"])
def test_a_cut_responses_stream(client: ai.OpenAI, endpoint: Endpoint, app: ai.App, cut: Any):
    endpoint.reply(Answer(TEXT, cut_after=2, cut=cut))
    events: list[Any] = []
    stream = client.responses.create(model="m", input="Hi", stream=True)
    with pytest.raises(StreamCutError):
        events.extend(stream)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "one two"
    assert (rows(app)[0]["status"], rows(app)[0]["text"]) == ("cut", "one two")


def test_a_cut_stream_for_async_readers_and_helpers(app: ai.App, endpoint: Endpoint):
    endpoint.reply(Answer(TEXT, cut_after=2))

    async def main() -> None:
        client = ai.AsyncOpenAI(base_url=endpoint.url, api_key=KEY)
        with pytest.raises(StreamCutError):
            async for _ in await ask(client):
                pass
        async with client.chat.completions.stream(model="m", messages=HELLO) as events:
            with pytest.raises(StreamCutError):
                await events.until_done()

    asyncio.run(main())
    assert statuses(app) == ["cut", "cut"]


def test_a_cut_is_not_repeated(app: ai.App, endpoint: Endpoint):
    """What came was shown already."""
    endpoint.reply(Answer(TEXT, cut_after=2))
    _, error = read(ask(ai.OpenAI(base_url=endpoint.url, api_key=KEY, max_retries=5)))
    assert isinstance(error, StreamCutError)
    assert endpoint.count == 1


def test_a_stream_left_early(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    endpoint.reply(Answer("word " * 500, token_delay=0.01))
    with ask(client) as stream:
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break
    endpoint.wait(lambda e: e.disconnects == 1)
    (row,) = rows(app)
    assert row["status"] == "canceled"
    assert row["text"].startswith("word")


def test_an_async_stream_whose_task_is_cancelled(app: ai.App, endpoint: Endpoint):
    endpoint.reply(Answer("word " * 500, token_delay=0.01))

    async def main() -> None:
        first = asyncio.Event()

        async def reader() -> None:
            async for chunk in await ask(ai.AsyncOpenAI(base_url=endpoint.url, api_key=KEY)):
                if chunk.choices[0].delta.content:
                    first.set()

        task = asyncio.create_task(reader())
        await first.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    endpoint.wait(lambda e: e.disconnects == 1)
    assert statuses(app) == ["canceled"]


def test_a_stalled_stream_times_out(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    endpoint.reply(Answer(TEXT, cut_after=2, cut="stall"))
    text, error = read(ask(client, timeout=0.1))
    assert isinstance(error, openai.APITimeoutError)
    assert text == "one two"
    assert (rows(app)[0]["status"], rows(app)[0]["text"]) == ("timeout", "one two")


def test_an_error_event(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    endpoint.reply(Answer(TEXT, failed="the engine caught fire"))
    text, error = read(ask(client))
    assert isinstance(error, openai.APIError)
    assert text == TEXT
    events = [event.type for event in client.responses.create(model="m", input="Hi", stream=True)]
    assert events[-1] == "response.failed"
    for row in rows(app):
        assert (row["status"], row["error_message"], row["text"]) == ("error", "the engine caught fire", TEXT)


def test_a_response_that_stops_at_its_limit_is_whole(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    endpoint.reply(Answer(TEXT, finish_reason="length"))
    assert [e.type for e in client.responses.create(model="m", input="Hi", stream=True)][-1] == "response.incomplete"
    assert (rows(app)[0]["status"], rows(app)[0]["finish_reason"]) == ("ok", "max_output_tokens")


def test_the_connection_of_a_stream_is_used_again(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    for _ in range(3):
        read(ask(client))

    async def main() -> None:
        for _ in range(3):
            async for _chunk in await ask(ai.AsyncOpenAI(base_url=endpoint.url, api_key=KEY)):
                pass

    asyncio.run(main())
    assert endpoint.connections == 1
    assert statuses(app) == ["ok"] * 6


def test_what_comes_behind_the_terminal_event_is_read_for_the_connections_sake(app: ai.App):
    seen: list[str] = []

    class Pieces(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b"data: [DONE]\n\n"
            seen.append("read to the end")
            yield b": bye\n\n"

        def close(self) -> None:
            seen.append("closed")

    class Transport(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Pieces())

    client = ai.OpenAI(base_url="http://x/v1", api_key=KEY, http_client=httpx2.Client(transport=Transport()))
    assert list(ask(client)) == []
    assert seen[:2] == ["read to the end", "closed"]
    assert statuses(app) == ["ok"]


# ------------------------------------------------------------------------------------------ strange pieces
CHUNKS = (
    'data: {"model":"m","choices":[{"index":0,"delta":{"content":"Größe "}}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{"content":"日本"}}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
)


def sse(text: str, **more: Any) -> Answer:
    return Answer(raw=text.encode(), content_type="text/event-stream", **more)


@pytest.mark.parametrize(
    "body",
    [
        CHUNKS + "data: [DONE]\n\n",
        (CHUNKS + "data: [DONE]\n\n").replace("\n", "\r\n"),
        CHUNKS + "data: [DONE]",
        CHUNKS,  # some servers leave [DONE] out
        ": a comment\n\n" + CHUNKS.replace("data: ", "data:") + "data: [DONE]\n\n",
    ],
)
def test_dialects(client: ai.OpenAI, endpoint: Endpoint, app: ai.App, body: str):
    endpoint.reply(sse(body))
    assert read(ask(client)) == ("Größe 日本", None)
    (row,) = rows(app)
    assert (row["status"], row["text"], row["input_tokens"], row["finish_reason"]) == ("ok", "Größe 日本", 3, "stop")


def test_gzip(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    packed = gzip.compress((CHUNKS + "data: [DONE]\n\n").encode())
    endpoint.reply(Answer(raw=packed, content_type="text/event-stream", headers={"content-encoding": "gzip"}))
    assert read(ask(client)) == ("Größe 日本", None)
    assert rows(app)[0]["text"] == "Größe 日本"


def test_spoilt_gzip_is_a_cut(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    endpoint.reply(sse("no gzip at all", headers={"content-encoding": "gzip"}))
    _, error = read(ask(client))
    assert isinstance(error, StreamCutError)
    assert statuses(app) == ["cut"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/octet-stream", ""])
def test_a_stream_under_a_wrong_name(client: ai.OpenAI, endpoint: Endpoint, app: ai.App, content_type: str):
    endpoint.reply(Answer(raw=(CHUNKS + "data: [DONE]\n\n").encode(), content_type=content_type))
    assert read(ask(client)) == ("Größe 日本", None)
    assert (rows(app)[0]["status"], rows(app)[0]["text"]) == ("ok", "Größe 日本")


def test_a_stream_that_was_not_asked_for(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    endpoint.reply(sse(CHUNKS + "data: [DONE]\n\n"))
    client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
    assert rows(app)[0]["text"] == "Größe 日本"


# ------------------------------------------------------------------------------------------ ai.stream
@pytest.fixture
def vllm(endpoint: Endpoint, app: ai.App, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("VLLM_BASE_URL", endpoint.url)
    return "vllm:m"


def test_ai_stream(vllm: str, endpoint: Endpoint, app: ai.App):
    stream = ai.stream("Hello", model=vllm, temperature=0, top_k=3)
    assert "".join(stream) == "echo: Hello" == stream.reply.text
    assert stream.reply.usage.input_tokens == 1
    assert stream.reply.request_id == str(rows(app)[0]["id"])
    assert endpoint.calls[0].body["top_k"] == 3, "parameters the SDK does not know go along"
    assert rows(app)[0]["first_token_ms"] is not None


def test_ai_stream_cut(vllm: str, endpoint: Endpoint, app: ai.App):
    endpoint.reply(Answer(TEXT, cut_after=2))
    stream, got = ai.stream("Hello", model=vllm), list[str]()
    with pytest.raises(StreamCutError):
        got.extend(stream)
    assert stream.text == "one two"


def test_ai_stream_error_event(vllm: str, endpoint: Endpoint, app: ai.App):
    endpoint.reply(Answer(TEXT, failed="the engine caught fire"))
    with pytest.raises(ai.errors.ProviderError, match="caught fire") as caught:
        list(ai.stream("Hello", model=vllm))
    assert caught.value.request_id == str(rows(app)[0]["id"])


def test_ai_stream_of_a_server_that_does_not_stream(vllm: str, endpoint: Endpoint, app: ai.App):
    endpoint.reply(Answer(raw=b'{"choices":[{"message":{"content":"whole"},"finish_reason":"stop"}]}'))
    stream = ai.stream("Hello", model=vllm)
    assert list(stream) == ["whole"]
    assert stream.reply.finish_reason == "stop"


def test_ai_stream_left_early(vllm: str, endpoint: Endpoint, app: ai.App):
    endpoint.reply(Answer("word " * 500, token_delay=0.01))
    for _ in ai.stream("Hello", model=vllm):
        break
    endpoint.wait(lambda e: e.disconnects == 1)
    assert statuses(app) == ["canceled"]


# ------------------------------------------------------------------------------------------ Ctrl-C
INTERRUPTED = """
    import sys
    import ipyconvexai as ai
    app = ai.connect(":memory:")
    client = ai.OpenAI(base_url=sys.argv[1], api_key="sk-test-key-that-is-long-enough")
    try:
        for piece in {ask}:
            print(getattr(piece, "delta", piece), flush=True)
    except KeyboardInterrupt:
        app.run(__import__("asyncio").sleep(0))
        rows = app.store.read("SELECT status, text FROM calls")
        while rows[0][0] == "sending":
            rows = app.store.read("SELECT status, text FROM calls")
        print(rows)
        messages = [{{"role": "user", "content": "again"}}]
        print(client.with_options(timeout=5).models.list().data[0].id)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for a child there")
@pytest.mark.parametrize(
    ("ask_code", "text"),
    [
        ("client.responses.create(model='m', input='Hi')", None),
        ("client.responses.create(model='m', input='Hi', stream=True)", "one two"),
        ("ai.generate('Hi', model='vllm:m').text", None),
        ("ai.stream('Hi', model='vllm:m')", "one two"),
    ],
)
def test_ctrl_c(endpoint: Endpoint, tmp_path: Path, ask_code: str, text: str | None):
    endpoint.reply(Answer(TEXT, cut_after=2, cut="stall") if text else Answer(delay=30))
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(INTERRUPTED).format(ask=ask_code))
    root = str(Path(ai.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root, "VLLM_BASE_URL": endpoint.url, "PYTHONWARNINGS": "error"}
    child = subprocess.Popen(
        [sys.executable, str(script), endpoint.url],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    endpoint.wait(lambda e: e.in_flight == 1, timeout=30)
    while text is not None and child.stdout.readline() not in (" two\n", ""):
        pass
    time.sleep(0.3)  # until it waits for the next piece: between two pieces it is its own code that is interrupted
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)
    assert out.splitlines() == [f"[('interrupted', {text!r})]", "echo"]
    assert err == ""
    assert child.returncode == 0
