"""The calls of tools in answers: whole, in pieces, and as providers lie about them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipyconvexai.providers.reading import EventReader, read_answer
from ipyconvexai.values import ToolCall

PATH = "chat/completions"


def whole(message: dict[str, Any]) -> tuple[ToolCall, ...]:
    body = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    return read_answer(json.dumps(body).encode(), PATH).tool_calls


def streamed(*pieces: Any) -> tuple[ToolCall, ...]:
    reader = EventReader(PATH)
    for piece in pieces:
        event = {"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]}
        reader.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    reader.end()
    return reader.result().tool_calls


def function(name: Any = None, arguments: Any = None) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}}


def test_a_whole_answer():
    calls = [{"id": "a", "type": "function", **function("one", '{"x": 1}')}, {"id": "b", **function("two", "{}")}]
    assert whole({"content": None, "tool_calls": calls}) == (
        ToolCall("a", "one", '{"x": 1}'),
        ToolCall("b", "two", "{}"),
    )
    assert whole({"content": "Hi"}) == ()


def test_a_stream_of_two_at_once():
    assert streamed(
        {"index": 0, "id": "a", **function("one", "")},
        {"index": 0, **function(None, '{"x"')},
        {"index": 1, "id": "b", **function("two", "")},
        {"index": 0, **function(None, ": 1}")},
        {"index": 1, **function(None, "{}")},
    ) == (ToolCall("a", "one", '{"x": 1}'), ToolCall("b", "two", "{}"))


@pytest.mark.parametrize(
    ("pieces", "calls"),
    [
        pytest.param([{"id": "a", **function("one", {"x": 1})}], [("a", "one", '{"x": 1}')], id="an object"),
        pytest.param(
            [{"index": 0, **function("one", "{}")}, {"index": 1, **function("two", "{}")}],
            [("call_0", "one", "{}"), ("call_1", "two", "{}")],
            id="no ids",
        ),
        pytest.param(
            [{"index": 0, "id": "a", **function("one", "{}")}, {"index": 0, "id": "b", **function("two", "{}")}],
            [("a", "one", "{}"), ("b", "two", "{}")],
            id="all are number 0",
        ),
        pytest.param(
            [{"index": 0, "id": "a", **function("one", "{")}, {"index": 0, "id": "a", **function("one", "}")}],
            [("a", "one", "{}")],
            id="name and id in each piece",
        ),
        pytest.param(
            [{"id": "a", **function("one", "{")}, function(None, "}"), {"id": "b", **function("two", "{}")}],
            [("a", "one", "{}"), ("b", "two", "{}")],
            id="no numbers",
        ),
        pytest.param(
            [{"index": 0, "id": "a", **function("one", "{}")}, {"index": 1, "id": "a", **function("two", "{}")}],
            [("a", "one", "{}"), ("call_1", "two", "{}")],
            id="one id twice",
        ),
        pytest.param([{"index": 0, "id": "x" * 300, **function("one", "{}")}], [("call_0", "one", "{}")], id="long id"),
        pytest.param([{"index": 0, "id": 7, **function(8, 9)}], [("call_0", "", "")], id="wrong types"),
        pytest.param(
            [{"index": 0, "id": "a", **function("one", "\ud83d")}, {"index": 0, **function(None, "\ude00")}],
            [("a", "one", "😀")],
            id="half a character",
        ),
    ],
)
def test_providers_lie(pieces: list[Any], calls: list[tuple[str, str, str]]):
    assert streamed(*pieces) == tuple(ToolCall(*call) for call in calls)


def test_there_are_not_too_many():
    assert len(streamed(*({"index": n, **function("f", "{}")} for n in range(1000)))) == 128


def test_as_it_was_in_2023():
    assert whole({"function_call": {"name": "one", "arguments": "{}"}}) == (ToolCall("call_0", "one", "{}"),)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["tool_calls", "function_call", "id", "index", "function", "name", "arguments"]), inner
        )
    ),
    max_leaves=12,
)


@given(anything, anything)
def test_nothing_breaks_it(one: Any, two: Any):
    for calls in (whole({"tool_calls": one, "function_call": two}), streamed(one, two)):
        assert len({call.id for call in calls}) == len(calls)
        for call in calls:
            (call.id + call.name + call.arguments).encode()
