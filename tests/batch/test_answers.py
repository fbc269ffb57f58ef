"""Answers of a shape: read, asked once more, and given up."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import json
from typing import Any, Literal

import pydantic
import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.batch.answers import asked_for, plain_answer, typed_answer
from ipyconvexai.batch.asks import Ask, Done, Recipe, Result, Task
from ipyconvexai.providers.exchange import chat
from ipyconvexai.providers.schemas import parse_answer, response_format
from ipyconvexai.testing import Answer, Endpoint, Fault


class Topic(pydantic.BaseModel):
    topic: str
    score: float


class Tone(enum.Enum):
    GOOD = "good"


@dataclasses.dataclass
class Tagged:
    tone: Tone
    tags: list[str]


GOOD = '{"topic": "owls", "score": 0.5}'
BAD = '{"topic": "owls", "score": "high"}'


def run(app: ai.App, schema: Any = Topic, text: str = "Owls.", *, in_words: bool = False) -> Result:
    """A task of one input, with each request really sent."""

    async def work() -> Result:
        target = await app.generator.endpoint(None)
        params, words = asked_for(schema, in_words=in_words) if schema is not None else ({}, "")
        recipe = Recipe(target, system=words or None, before="Classify: ", params=params)
        task = plain_answer(recipe, text) if schema is None else typed_answer(recipe, text, schema)
        return await finish(app, recipe, task)

    return app.run(work())


async def finish(app: ai.App, recipe: Recipe, task: Task) -> Result:
    asks = next(task)
    while True:
        dones = await asyncio.gather(*(sent(app, recipe, ask) for ask in asks))
        try:
            asks = task.send(dones)
        except StopIteration as end:
            result: Result = end.value
            return result


async def sent(app: ai.App, recipe: Recipe, ask: Ask) -> Done:
    try:
        answer = await chat(app.generator.client(recipe.endpoint), recipe.endpoint, ask.body())
    except errors.CallError as error:
        return Done(error=error, request_id=error.request_id)
    reading = answer.reading
    return Done.of_answer(
        reading.text,
        reading.finish_reason,
        answer.request_id,
        input_tokens=reading.usage.input_tokens or 0,
        output_tokens=reading.usage.output_tokens or 0,
    )


# ------------------------------------------------------------------------------------------------- one request
def test_a_text_is_a_text(app: ai.App, endpoint: Endpoint):
    endpoint.reply("Birds.")
    result = run(app, None)
    assert (result.value, result.error) == ("Birds.", None)
    assert endpoint.calls[0].body["messages"] == [{"role": "user", "content": "Classify: Owls."}]


@pytest.mark.parametrize(
    ("schema", "says", "value"),
    [
        (Topic, GOOD, {"topic": "owls", "score": 0.5}),
        (Topic, f"```json\n{GOOD}\n```", {"topic": "owls", "score": 0.5}),
        (Tagged, '{"tone": "good", "tags": ["a"]}', {"tone": "good", "tags": ["a"]}),
        (list[Topic], f'{{"value": [{GOOD}]}}', [{"topic": "owls", "score": 0.5}]),
        (list[Topic], f"[{GOOD}]", [{"topic": "owls", "score": 0.5}]),
        (int, '{"value": 3}', 3),
        (int | None, '{"value": null}', None),
        (Literal["a", "b"], '{"value": "b"}', "b"),
        ({"type": "object", "properties": {"x": {"type": "integer"}}}, '{"x": 1}', {"x": 1}),
    ],
)
def test_an_answer_that_fits(app: ai.App, endpoint: Endpoint, schema: Any, says: str, value: Any):
    endpoint.reply(says)
    result = run(app, schema)
    assert (result.value, result.error, endpoint.count) == (value, None, 1)
    assert endpoint.calls[0].body["response_format"]["json_schema"]["schema"]["type"] == "object"


def test_the_double_fills_any_schema(app: ai.App, endpoint: Endpoint):
    """It answers by the schema that was sent: what is asked for is what is read."""
    for schema in (Topic, list[Topic], int, Literal["a", "b"], Topic | None, dict[str, int]):
        result = run(app, schema, text=str(schema))
        assert result.error is None, schema


def test_in_words_no_schema_is_sent(app: ai.App, endpoint: Endpoint):
    endpoint.reply('{"value": 7}')
    assert run(app, int, in_words=True).value == 7
    body = endpoint.calls[0].body
    assert "response_format" not in body
    schema = json.loads(body["messages"][0]["content"].partition("\n")[2])
    assert schema["properties"] == {"value": {"type": "integer"}}


# ------------------------------------------------------------------------------------------------- a second try
def test_what_does_not_fit_is_asked_once_more_with_the_error(app: ai.App, endpoint: Endpoint):
    endpoint.reply([BAD, GOOD])
    result = run(app)
    assert (result.value, result.error) == ({"topic": "owls", "score": 0.5}, None)
    assert result.total.requests == endpoint.count == 2
    first, answer, complaint = endpoint.calls[1].body["messages"]
    assert first == endpoint.calls[0].body["messages"][0]
    assert answer == {"role": "assistant", "content": BAD}
    assert complaint["role"] == "user"
    assert "score: Input should be a valid number" in complaint["content"]
    assert result.done.request_id == calls_of(app)[-1]


def test_what_does_not_fit_twice_is_an_error_that_says_both(app: ai.App, endpoint: Endpoint):
    endpoint.reply([BAD, '{"score": 1}'])
    result = run(app)
    assert result.is_failed
    assert isinstance(result.error, errors.InvalidAnswerError)
    assert "score: Input should be a valid number" in result.error.message
    assert "asked again: the answer does not fit Topic: topic: Field required" in result.error.message
    assert result.error.request_id == calls_of(app)[-1]
    assert result.total.requests == 2
    endpoint.reply(BAD)
    again = run(app, text="Bats.")
    assert again.error is not None
    assert again.error.message.endswith("asked again: with the same result")


def test_the_second_try_s_own_failure_stays_what_it_is(app: ai.App, endpoint: Endpoint):
    endpoint.reply([BAD, Fault(401)])
    result = run(app)
    assert isinstance(result.error, errors.AuthenticationError)
    assert result.is_failed


def test_a_first_failure_is_not_asked_again(app: ai.App, endpoint: Endpoint):
    endpoint.reply([Fault(400), GOOD])
    result = run(app)
    assert result.is_failed
    assert endpoint.count == 1


# ------------------------------------------------------------------------------------------------- cut
def test_an_answer_that_was_cut_is_not_asked_again(app: ai.App, endpoint: Endpoint):
    endpoint.reply([Answer('{"topic": "ow', finish_reason="length"), GOOD])
    result = run(app)
    assert result.is_failed
    assert result.error is not None
    assert result.error.code == "truncated"
    assert "max_tokens" in result.error.cure
    assert endpoint.count == 1


def test_one_that_is_whole_all_the_same_counts(app: ai.App, endpoint: Endpoint):
    endpoint.reply(Answer(GOOD, finish_reason="length"))
    result = run(app)
    assert (result.value, result.error) == ({"topic": "owls", "score": 0.5}, None)
    endpoint.reply(Answer("12", finish_reason="length"))
    assert run(app, int).is_failed, "it may have begun as 123"


def test_a_second_try_may_be_cut(app: ai.App, endpoint: Endpoint):
    endpoint.reply([BAD, Answer('{"topic": "ow', finish_reason="length")])
    result = run(app)
    assert result.error is not None
    assert result.error.code == "truncated"
    assert "score: Input should be a valid number" in result.error.message


# ------------------------------------------------------------------------------------------------- refused schemas
@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "Invalid schema for response_format 'Topic': In context=(), 'required' is required to be supplied"),
        (400, "This model does not support response format `json_schema`."),
        (400, "This response_format type is unavailable now"),
        (422, "JSON schema conversion failed: unsupported pattern"),
    ],
)
def test_a_schema_that_the_endpoint_refuses(app: ai.App, endpoint: Endpoint, status: int, message: str):
    endpoint.reply(Fault(status, message=message))
    result = run(app)
    assert result.error is not None
    assert result.error.code == "schema_refused"
    assert message[:20] in result.error.message
    assert "plainer schema" in result.error.cure
    assert endpoint.count == 1
    with pytest.raises(errors.ProviderError) as caught:
        ai.generate("x", schema=Topic)
    assert caught.value.code == "schema_refused"


def test_other_refusals_are_no_schema_s(app: ai.App, endpoint: Endpoint):
    for message in ("temperature is out of range", "use the word json with response_format json_object"):
        endpoint.reply(Fault(400, message=message))
        error = run(app, text=message).error
        assert error is not None
        assert error.code != "schema_refused"


# ------------------------------------------------------------------------------------------------- shapes
def test_objects_of_any_key_are_not_strict():
    assert response_format(dict[str, int])["json_schema"]["strict"] is False
    assert response_format(list[Topic])["json_schema"]["strict"] is True


def test_definitions_stay_at_the_root():
    schema = response_format(list[Topic])["json_schema"]["schema"]
    assert schema["properties"]["value"]["items"] == {"$ref": "#/$defs/Topic"}
    assert set(schema["$defs"]) == {"Topic"}


class Box(pydantic.BaseModel):
    value: int


def test_an_object_with_that_field_is_no_wrapping():
    assert parse_answer(Box, '{"value": 3}', None) == Box(value=3)
    assert list(response_format(Box)["json_schema"]["schema"]["properties"]) == ["value"]
    assert parse_answer(list[Box], '{"value": [{"value": 3}]}', None) == [Box(value=3)]
    assert parse_answer(dict | None, '{"value": null}', None) is None


@pytest.mark.parametrize(
    ("schema", "text", "says"),
    [
        (list[Topic], f'{{"value": [{BAD}]}}', "value.0.score: Input should be a valid number"),
        (int, '{"value": "many"}', "value: Input should be a valid integer"),
        (int, '"many"', "the answer: Input should be a valid integer"),
        (int, '{"number": 3}', "the answer: Input should be a valid integer"),
        (Topic, "{}", "topic: Field required; score: Field required"),
        (list[int], '["a", "b", "c", "d", "e"]', "and 2 more"),
    ],
)
def test_what_is_wrong_is_named_where_it_is(schema: Any, text: str, says: str):
    with pytest.raises(errors.InvalidAnswerError) as caught:
        parse_answer(schema, text, None)
    assert says in caught.value.message


def calls_of(app: ai.App) -> list[str]:
    """The ids of all requests, in the order in which they were sent."""
    return [row[0] for row in app.store.read("SELECT id::VARCHAR FROM requests ORDER BY sent_at, id")]
