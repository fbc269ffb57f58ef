"""The double's files and batches, through the SDK."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

import ipyconvexai as ai
from ipyconvexai.providers.batching import read_line
from ipyconvexai.testing import Answer, Endpoint, Fault


def line_of(custom_id: str, text: str, **changes: Any) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body} | changes)


@pytest.fixture
def double() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def plain(double: Endpoint) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=double.url, api_key="sk-test", max_retries=0) as client:
        yield client


def begin(client: openai.OpenAI, *lines: str, **more: Any) -> Any:
    file = client.files.create(file=("in.jsonl", io.BytesIO("\n".join(lines).encode())), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", **more
    )


def read(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_a_file_comes_back_as_it_went(double: Endpoint, plain: openai.OpenAI):
    content = b'{"a": "\xe2\x80\xa8"}\r\n--boundary\r\n\r\n\n'
    file = plain.files.create(file=("in.jsonl", content), purpose="batch")
    assert (file.bytes, file.filename, file.purpose, file.status) == (len(content), "in.jsonl", "batch", "processed")
    assert plain.files.content(file.id).content == content
    assert plain.files.retrieve(file.id).id == file.id == next(iter(plain.files.list())).id
    assert plain.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        plain.files.content(file.id)
    assert double.batches.uploads == 1


def test_a_batch_goes_on_with_each_question_and_answers_by_the_script(double: Endpoint, plain: openai.OpenAI):
    double.reply(lambda call: Fault(400, code="bad") if call.prompt == "two" else Answer(call.prompt + "!"))
    batch = begin(plain, line_of("a", "one"), line_of("b", "two"), line_of("c", "three"), metadata={"x": "y"})
    assert (batch.status, batch.metadata) == ("validating", {"x": "y"})
    assert plain.batches.retrieve(batch.id).status == "in_progress"
    batch = plain.batches.retrieve(batch.id)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (3, 2, 1)
    good = {line["custom_id"]: line["response"] for line in read(plain, batch.output_file_id)}
    assert {key: each["body"]["choices"][0]["message"]["content"] for key, each in good.items()} == {
        "a": "one!",
        "c": "three!",
    }
    (bad,) = read(plain, batch.error_file_id)
    assert (bad["custom_id"], bad["response"]["status_code"], bad["error"]) == ("b", 400, None)


def test_what_a_provider_refuses(double: Endpoint, plain: openai.OpenAI):
    with pytest.raises(openai.BadRequestError, match="input_file_id"):
        plain.batches.create(input_file_id="file-9", endpoint="/v1/chat/completions", completion_window="24h")
    for lines, said in [
        (("{broken",), "not parseable"),
        ((line_of("a", "x"), line_of("a", "y")), "duplicate"),
        ((line_of("a", "x", url="/v1/embeddings"),), "does not match"),
        ((line_of("a", "x", body=None),), "needs custom_id"),
    ]:
        batch = begin(plain, *lines)
        batch = plain.batches.retrieve(batch.id)
        assert batch.status == "failed"
        assert batch.errors is not None
        assert batch.errors.data is not None
        assert said in (batch.errors.data[0].message or "")
    with pytest.raises(openai.ConflictError):
        plain.batches.cancel(batch.id)


def test_the_list_begins_with_the_newest_and_has_pages(double: Endpoint, plain: openai.OpenAI):
    made = [begin(plain, line_of("a", "x")).id for _ in range(5)]
    assert [batch.id for batch in plain.batches.list(limit=2)] == made[::-1]


def test_a_test_says_how_it_gets_on(double: Endpoint, plain: openai.OpenAI):
    double.batches.polls = None
    begin(plain, line_of("a", "x"), line_of("b", "y"))
    batch = double.batches.all[0]
    seen = []
    for _ in range(4):
        seen.append(plain.batches.retrieve(batch.id).status)
        double.batches.advance(batch)
    assert seen == ["validating", "in_progress", "finalizing", "completed"]
    begin(plain, line_of("a", "x"), line_of("b", "y"))
    double.batches.expire(double.batches.all[1], answered=1)
    late = plain.batches.retrieve(double.batches.all[1].id)
    assert late.status == "expired"
    (left,) = read(plain, late.error_file_id)
    assert (left["custom_id"], left["response"], left["error"]["code"]) == ("b", None, "batch_expired")


def test_a_key_is_wanted_there_too(plain: openai.OpenAI):
    with Endpoint(key="sk-right") as strict, pytest.raises(openai.AuthenticationError):
        plain.with_options(base_url=strict.url).files.list()


def test_our_clients_download_whole_files_and_in_pieces(app: ai.App, endpoint: Endpoint):
    content = b"0123456789\n" * 100_000
    client = ai.OpenAI()
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    assert client.files.content(file.id).content == content
    with client.files.with_streaming_response.content(file.id) as response:
        assert b"".join(response.iter_bytes(1000)) == content
    with client.files.with_streaming_response.content(file.id) as response:
        assert next(response.iter_bytes(10)) == b"0123456789"  # and it is left here
    with pytest.raises(openai.NotFoundError):
        client.files.content("file-gone")


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b'"x"', b'{"custom_id": null}', b"\xff", b"[" * 100_000],
)
def test_lines_that_say_of_no_request_what_became_of_it(line: bytes):
    assert read_line(line) is None


def test_lines_of_providers_who_lie():
    def code(entry: dict[str, Any]) -> tuple[Any, ...]:
        line = read_line(json.dumps({"custom_id": "a", **entry}).encode())
        assert line is not None
        return line.http_status, line.reading.error_code

    assert code({}) == (None, "no_answer")
    assert code({"error": "gone"}) == (None, "no_answer")
    assert code({"error": {"code": "batch_expired"}}) == (None, "batch_expired")
    assert code({"response": "x"}) == (None, "no_answer")
    assert code({"response": {}}) == (200, "unreadable_answer")
    assert code({"response": {"status_code": "200", "body": [1]}}) == (200, "unreadable_answer")
    assert code({"response": {"status_code": 10**9, "body": {}}}) == (200, "unreadable_answer")
    assert code({"response": {"status_code": 500, "body": None}}) == (500, None)
    body = {"choices": [{"message": {"content": "half \ud83d"}}]}
    line = read_line(json.dumps({"custom_id": "a", "response": {"status_code": 200, "body": body}}).encode())
    assert line is not None
    assert line.reading.text == "half \ufffd"
    assert line.body is not None
    line.body.encode()
