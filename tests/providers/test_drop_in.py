"""``ai.OpenAI`` and ``ai.AsyncOpenAI`` are the SDK's classes: its own examples work unchanged, and each has its row."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

import ipyconvexai as ai
from ipyconvexai.errors import InputError, MissingKeyError
from ipyconvexai.testing import Answer, Endpoint, Fault, Stall, ToolCall
from tests.providers.lab import HELLO, KEY, rows, statuses


class CalendarEvent(BaseModel):
    name: str
    participants: list[str]


EVENT: dict[str, Any] = {"name": "Science Fair", "participants": ["Alice", "Bob"]}


# ------------------------------------------------------------------------------------------ the README of the SDK
def test_the_responses_example(client: ai.OpenAI, app: ai.App):
    response = client.responses.create(
        model="gpt-5.2",
        instructions="You are a coding assistant that talks like a pirate.",
        input="How do I check if a Python object is an instance of a class?",
    )
    assert response.output_text.startswith("echo: How do I check")
    assert response.usage is not None
    (row,) = rows(app)
    assert (row["endpoint"], row["status"], row["model"]) == ("responses", "ok", "gpt-5.2")
    assert row["text"] == response.output_text
    assert json.loads(row["request"])["instructions"].endswith("pirate.")
    assert (row["input_tokens"], row["output_tokens"]) == (response.usage.input_tokens, response.usage.output_tokens)


def test_the_chat_completions_example(client: ai.OpenAI, app: ai.App):
    completion = client.chat.completions.create(
        model="gpt-5.2",
        messages=[
            {"role": "developer", "content": "Talk like a pirate."},
            {"role": "user", "content": "How do I check if a Python object is an instance of a class?"},
        ],
    )
    assert (completion.choices[0].message.content or "").startswith("echo: How do I")
    assert completion._request_id == "req_1"
    (row,) = rows(app)
    assert (row["endpoint"], row["provider_request_id"], row["finish_reason"]) == ("chat/completions", "req_1", "stop")


def test_the_streaming_examples(client: ai.OpenAI, app: ai.App):
    stream = client.responses.create(model="gpt-5.2", input="Write a one-sentence bedtime story.", stream=True)
    kinds = [event.type for event in stream]
    assert kinds[-1] == "response.completed"
    chunks = client.chat.completions.create(model="gpt-5.2", messages=HELLO, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert [row["text"] for row in rows(app)] == ["echo: Write a one-sentence bedtime story.", text]
    assert all(row["first_token_ms"] <= row["duration_ms"] for row in rows(app))


def test_the_async_examples(app: ai.App, endpoint: Endpoint):
    async def main() -> None:
        async with ai.AsyncOpenAI(base_url=endpoint.url, api_key=KEY) as client:
            response = await client.responses.create(model="gpt-5.2", input="Explain disestablishmentarianism.")
            assert response.output_text == "echo: Explain disestablishmentarianism."
            stream = await client.responses.create(model="gpt-5.2", input="A story.", stream=True)
            assert [event.type async for event in stream][-1] == "response.completed"
            async with client.chat.completions.stream(model="gpt-5.2", messages=HELLO) as events:
                async for _ in events:
                    pass
                final = await events.get_final_completion()
            assert final.choices[0].message.content == "echo: Hello world"

    asyncio.run(main())
    assert statuses(app) == ["ok", "ok", "ok"]


def test_the_stream_helpers(client: ai.OpenAI, app: ai.App):
    with client.chat.completions.stream(model="m", messages=HELLO) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        assert stream.get_final_completion().choices[0].message.content == "".join(deltas)
    with client.responses.stream(model="m", input="Hi") as events:
        for _ in events:
            pass
        assert events.get_final_response().output_text == "echo: Hi"
    assert statuses(app) == ["ok", "ok"]


def test_parse(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    endpoint.reply(EVENT)
    prompt: list[Any] = [{"role": "user", "content": "Alice and Bob are going to a science fair on Friday."}]
    completion = client.chat.completions.parse(model="m", messages=prompt, response_format=CalendarEvent)
    assert completion.choices[0].message.parsed == CalendarEvent(**EVENT)
    response = client.responses.parse(model="m", input="Alice and Bob", text_format=CalendarEvent)
    assert response.output_parsed == CalendarEvent(**EVENT)
    assert [json.loads(row["text"]) for row in rows(app)] == [EVENT, EVENT]


def test_tools(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    endpoint.reply(Answer(tool_calls=[ToolCall("CalendarEvent", EVENT)]))
    completion = client.chat.completions.parse(
        model="m", messages=HELLO, tools=[openai.pydantic_function_tool(CalendarEvent)]
    )
    (call,) = completion.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == CalendarEvent(**EVENT)
    with client.chat.completions.stream(
        model="m", messages=HELLO, tools=[openai.pydantic_function_tool(CalendarEvent)]
    ) as stream:
        streamed = stream.get_final_completion()
    (again,) = streamed.choices[0].message.tool_calls or []
    assert again.function.parsed_arguments == CalendarEvent(**EVENT)
    assert [(row["finish_reason"], row["text"]) for row in rows(app)] == [("tool_calls", None)] * 2
    assert all("Science" in row["response"] for row in rows(app))


def test_embeddings(client: ai.OpenAI, app: ai.App):
    made = client.embeddings.create(model="text-embedding-3-small", input=["one", "two"])
    assert len(made.data) == 2
    (row,) = rows(app)
    assert (row["endpoint"], row["input_tokens"], row["text"]) == ("embeddings", 2, None)


def test_raw_and_streaming_responses(client: ai.OpenAI, app: ai.App):
    raw = client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
    assert raw.parse().choices[0].message.content == "echo: Hello world"
    assert raw.headers["x-ipyconvexai-request-id"] == str(rows(app)[0]["id"])
    with client.chat.completions.with_streaming_response.create(model="m", messages=HELLO) as response:
        assert response.headers["x-request-id"] == "req_2"
        assert json.loads("".join(response.iter_lines()))["choices"]
    with client.chat.completions.with_streaming_response.create(model="m", messages=HELLO, stream=True) as response:
        assert "[DONE]" in response.read().decode()
    assert statuses(app) == ["ok"] * 3


def test_with_options_and_copies(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    endpoint.reply(Stall())
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.05).chat.completions.create(model="m", messages=HELLO)
    with Endpoint("elsewhere") as other:
        moved = client.with_options(base_url=other.url)
        assert moved.chat.completions.create(model="m", messages=HELLO).choices[0].message.content == "elsewhere"
        base = app.store.read("SELECT DISTINCT base_url FROM requests ORDER BY 1")
        assert [row[0] for row in base] == sorted([endpoint.url, other.url])
    endpoint.reply()
    copied = client.copy(default_headers={"x-mine": "1"})
    assert copied.api_key == KEY
    assert copied.chat.completions.create(model="m", messages=HELLO)
    assert endpoint.calls[-1].headers["x-mine"] == "1"
    assert statuses(app) == ["timeout", "ok", "ok"]


def test_lists_are_sent_and_not_recorded(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    assert [model.id for model in client.models.list()] == ["echo"]
    assert client.models.retrieve("echo").id == "echo"
    assert (endpoint.count, rows(app)) == (2, [])


def test_an_upload_keeps_its_bytes(client: ai.OpenAI, endpoint: Endpoint, app: ai.App, tmp_path: Path):
    content = bytes(range(128, 250))
    assert client.files.create(file=("input.bin", content), purpose="fine-tune").bytes == len(content)
    (path := tmp_path / "input.jsonl").write_text('{"a": 1}\n')
    assert client.files.create(file=path, purpose="fine-tune").filename == "input.jsonl"
    sent = app.store.read("SELECT body, body_bytes, body_size FROM requests ORDER BY id")
    assert sent[0][0] is None
    assert content in sent[0][1]
    assert sent[0][1] == endpoint.calls[0].raw
    assert sent[1][0].encode() == endpoint.calls[1].raw
    assert '{"a": 1}' in sent[1][0]


def test_binary_answers_keep_their_bytes(app: ai.App):
    sound = bytes(range(256)) * 10
    with Sounds(sound) as url, ai.OpenAI(base_url=url, api_key=KEY) as client:
        speech = client.audio.speech.create(model="tts-1", voice="alloy", input="Hi")
        assert speech.content == sound
        with client.audio.speech.with_streaming_response.create(model="tts-1", voice="alloy", input="Hi") as response:
            assert b"".join(response.iter_bytes()) == sound
    assert (
        app.store.read("SELECT body, body_bytes, body_size, status FROM responses")
        == [(None, sound, len(sound), "ok")] * 2
    )


class Sounds:
    """A server that answers everything with bytes: what the double does not speak."""

    def __init__(self, content: bytes, content_type: str = "audio/mpeg") -> None:
        self._content = content
        self._type = content_type

    def __enter__(self) -> str:
        import threading
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        content, content_type = self._content, self._type

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()


# ------------------------------------------------------------------------------------------ errors are the SDK's
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
def test_error_statuses(client: ai.OpenAI, endpoint: Endpoint, app: ai.App, status: int, kind: type[Any]):
    endpoint.reply(Fault(status))
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model="m", messages=HELLO)
    (row,) = rows(app)
    assert caught.value.response.headers["x-ipyconvexai-request-id"] == str(row["id"])
    assert caught.value.request_id == "req_1"
    assert (row["status"], row["http_status"]) == ("error", status)
    assert row["error_message"]


def test_no_connection_is_of_both_trees(app: ai.App):
    client = ai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key=KEY, max_retries=0)
    with pytest.raises(openai.APIConnectionError) as caught:
        client.chat.completions.create(model="m", messages=HELLO)
    assert isinstance(caught.value, ai.errors.UnreachableError)
    assert "127.0.0.1:9" in str(caught.value)
    assert caught.value.request_id == str(rows(app)[0]["id"])


def test_a_timeout_is_of_both_trees(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    endpoint.reply(Stall())
    with pytest.raises(openai.APITimeoutError) as caught:
        client.chat.completions.create(model="m", messages=HELLO, timeout=0.05)
    assert isinstance(caught.value, ai.errors.CallTimeoutError)
    assert statuses(app) == ["timeout"]


def test_a_missing_key_names_the_variable(app: ai.App):
    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY") as caught:
        ai.OpenAI()
    assert isinstance(caught.value, openai.OpenAIError)


def test_other_errors_of_the_constructor_stay_the_sdks(app: ai.App):
    with pytest.raises(openai.OpenAIError, match="mutually exclusive") as caught:
        ai.OpenAI(api_key="k", workload_identity={"provider": None})
    assert not isinstance(caught.value, MissingKeyError)


def test_the_usual_variables(app: ai.App, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    assert ai.OpenAI().chat.completions.create(model="m", messages=HELLO)
    assert endpoint.calls[0].headers["authorization"] == f"Bearer {KEY}"
    assert rows(app)[0]["provider"] == "openai"


def test_a_key_from_a_function(app: ai.App, endpoint: Endpoint):
    keys = iter(["sk-first-key-of-the-function", "sk-second-key-of-the-function"])
    client = ai.OpenAI(base_url=endpoint.url, api_key=lambda: next(keys))
    for expected in ("first", "second"):
        client.chat.completions.create(model="m", messages=HELLO)
        assert expected in endpoint.calls[-1].headers["authorization"]
    assert "of-the-function" not in repr(vars(client))


def test_credentials_in_an_address_stay_out_of_the_ledger(app: ai.App, endpoint: Endpoint):
    client = ai.OpenAI(base_url=endpoint.url.replace("//", "//user:hush-hush@"), api_key=KEY)
    client.chat.completions.create(model="m", messages=HELLO)
    assert app.store.read("SELECT base_url FROM requests") == [(endpoint.url,)]
    assert endpoint.calls[0].headers["authorization"].startswith("Basic ")


def test_redirects_are_followed_and_each_request_has_its_row(app: ai.App, endpoint: Endpoint):
    with Endpoint(Answer(raw=b"", status=307, headers={"location": f"{endpoint.url}/chat/completions"})) as first:
        client = ai.OpenAI(base_url=first.url, api_key=KEY)
        assert client.chat.completions.create(model="m", messages=HELLO).choices[0].message.content
    assert [(row["status"], row["http_status"]) for row in rows(app)] == [("error", 307), ("ok", 200)]


# ------------------------------------------------------------------------------------------ http_client=
def test_a_client_brought_along_is_used_and_recorded(app: ai.App, endpoint: Endpoint):
    seen: list[str] = []
    theirs = openai.DefaultHttpxClient(
        headers={"x-theirs": "yes"}, event_hooks={"request": [lambda request: seen.append(str(request.url))]}
    )
    with ai.OpenAI(base_url=endpoint.url, api_key=KEY, http_client=theirs) as client:
        assert client.chat.completions.create(model="m", messages=HELLO)
        stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "echo: Hello world"
        assert client.with_options(timeout=5).chat.completions.create(model="m", messages=HELLO)
    assert endpoint.calls[0].headers["x-theirs"] == "yes"
    assert len(seen) == 3
    assert statuses(app) == ["ok"] * 3
    assert theirs.is_closed


def test_an_async_client_brought_along(app: ai.App, endpoint: Endpoint):
    async def main() -> None:
        theirs = openai.DefaultAsyncHttpxClient(headers={"x-theirs": "yes"})
        async with ai.AsyncOpenAI(base_url=endpoint.url, api_key=KEY, http_client=theirs) as client:
            await client.chat.completions.create(model="m", messages=HELLO)
            stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
            assert [chunk async for chunk in stream]
        assert theirs.is_closed

    asyncio.run(main())
    assert endpoint.calls[0].headers["x-theirs"] == "yes"
    assert statuses(app) == ["ok", "ok"]


def test_a_mock_transport_of_the_users_tests_works(app: ai.App):
    import httpx2

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"id": "1", "object": "chat.completion", "choices": [{}]})

    theirs = httpx2.Client(transport=httpx2.MockTransport(answer))
    client = ai.OpenAI(base_url="http://nowhere.invalid/v1", api_key=KEY, http_client=theirs)
    assert client.chat.completions.create(model="m", messages=HELLO).id == "1"
    assert statuses(app) == ["ok"]


def test_a_stranger_as_http_client_is_refused(app: ai.App):
    with pytest.raises(InputError, match="httpx2"):
        ai.OpenAI(api_key=KEY, http_client=object())
    with pytest.raises(InputError, match=r"httpx2\.AsyncClient"):
        ai.AsyncOpenAI(api_key=KEY, http_client=openai.DefaultHttpxClient())


def test_a_request_past_the_sdk_is_refused(client: ai.OpenAI, endpoint: Endpoint):
    with pytest.raises(InputError, match="method"):
        client._client.post(endpoint.url + "/chat/completions", json={})
    assert endpoint.count == 0
