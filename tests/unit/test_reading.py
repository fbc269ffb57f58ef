"""Reading what providers answered: whole, in events, in errors, in any pieces; and whatever they make of it."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipyconvexai.providers.reading import EventReader, error_of, read_answer, reads_as_json, sound
from ipyconvexai.values import Usage

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "content",
                    "delta",
                    "usage",
                    "error",
                    "output",
                    "object",
                    "status",
                    "type",
                    "code",
                    "prompt_tokens",
                    "text",
                    "response",
                    "incomplete_details",
                    "finish_reason",
                    "model",
                    "index",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def delta(text: str, **more: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}, **more}]})


@given(anything)
def test_no_answer_breaks_it(data: Any):
    for reading in (
        read_answer(json.dumps(data).encode()),
        read_answer(json.dumps({**(data if isinstance(data, dict) else {}), "object": "response"}).encode()),
    ):
        assert reading.text is None or isinstance(reading.text, str)
    code, message = error_of(json.dumps(data).encode())
    assert isinstance(message, str)
    assert code is None or isinstance(code, str)


@given(st.binary(max_size=200))
def test_no_bytes_break_it(data: bytes):
    read_answer(data)
    assert isinstance(error_of(data)[1], str)
    for kind in ("chat/completions", "responses", "else"):
        reader = EventReader(kind)
        reader.feed(data)
        reader.end()
        reader.result()


@given(st.lists(anything, max_size=4), st.sampled_from(["chat/completions", "responses"]))
def test_no_event_breaks_it(data: list[Any], kind: str):
    reader = EventReader(kind)
    for each in data:
        reader.feed(event(each))
    text = reader.result().text
    assert text is None or sound(text) == text


@given(
    cuts=st.lists(st.integers(0, 400), max_size=12),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    last=st.booleans(),
)
def test_pieces_do_not_matter(cuts: list[int], end: bytes, last: bool):
    text = "Größe, 日本, 🙂"
    data = b": hello\n\n" + b"".join(delta(part) for part in text) + b"data: [DONE]" + (b"\n\n" if last else b"")
    data = data.replace(b"\n", end)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reader = EventReader("chat/completions")
    for start, stop in itertools.pairwise(places):
        reader.feed(data[start:stop])
    reader.end()
    assert reader.result().text == text
    assert reader.done


def test_an_event_of_several_lines():
    reader = EventReader("chat/completions")
    reader.feed(b'event: x\ndata: {"choices":\ndata: [{"delta": {"content": "hi"}}]}\nid: 7\n\n')
    assert reader.pieces() == ["hi"]


def test_a_large_event_in_many_pieces_costs_no_square():
    reader = EventReader("chat/completions")
    data = delta("x" * 5_000_000)
    for start in range(0, len(data), 1000):
        reader.feed(data[start : start + 1000])
    assert len(reader.result().text or "") == 5_000_000


@pytest.mark.parametrize(
    ("events", "proper"),
    [
        ([delta("a")], False),
        ([delta("a"), b"data: [DONE]\n\n"], True),
        ([delta("a", finish_reason="stop")], True),
        ([delta("a"), event({"error": {"message": "x"}})], True),
        ([], False),
    ],
)
def test_whether_a_chat_stream_was_cut(events: list[bytes], proper: bool):
    reader = EventReader("chat/completions")
    for each in events:
        reader.feed(each)
    assert reader.ends_properly is proper


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_how_a_response_ends(kind: str):
    reader = EventReader("responses")
    reader.feed(event({"type": "response.output_text.delta", "delta": "so far"}))
    assert not reader.ends_properly
    error = {"code": "server_error", "message": "broke"}
    reader.feed(
        event(
            {
                "type": kind,
                "response": {
                    "model": "m",
                    "usage": {"input_tokens": 2},
                    "error": error if kind.endswith("failed") else None,
                },
            }
        )
    )
    assert reader.done
    assert reader.failed is kind.endswith("failed")
    reading = reader.result()
    assert (reading.text, reading.model, reading.usage.input_tokens) == ("so far", "m", 2)
    assert reading.error_message == ("broke" if reader.failed else None)


def test_a_text_in_parts_is_joined():
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Hel"}, {"text": 7}, 5, {"text": "lo"}]
    answer = {"choices": [{"message": {"content": parts}}]}
    assert read_answer(json.dumps(answer).encode()).text == "Hello"
    reader = EventReader("chat/completions")
    reader.feed(event({"choices": [{"delta": {"content": parts}}]}))
    assert reader.pieces() == ["Hello"]


@pytest.mark.parametrize("data", [{"id": "1"}, {"choices": []}, {"choices": "none"}, {"choices": [[]]}])
def test_a_chat_answer_without_choices_is_none(data: dict[str, Any]):
    content = json.dumps(data).encode()
    assert read_answer(content, "chat/completions").error_code == "unreadable_answer"
    assert read_answer(content, "embeddings").error_code is None


@pytest.mark.parametrize("choice", [{}, {"message": {"tool_calls": [{}]}}, {"message": {"content": ""}}])
def test_a_choice_without_text_is_an_answer(choice: dict[str, Any]):
    reading = read_answer(json.dumps({"choices": [choice]}).encode(), "chat/completions")
    assert (reading.text, reading.error_code, reading.error_message) == (None, None, None)


def test_a_stream_under_the_name_of_json_is_read_where_one_was_asked_for():
    whole = b"\n" + delta("a") + delta("b", finish_reason="stop")
    reading = read_answer(whole, "chat/completions", asked_events=True)
    assert (reading.text, reading.error_code) == ("ab", None)
    assert read_answer(whole, "chat/completions").error_code == "unreadable_answer"
    assert read_answer(delta("a"), "chat/completions", asked_events=True).error_code == "cut"


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        (b'{"message": "boom"}', "provider_error", "boom"),
        (b'{"error": {"message": "boom", "code": "c"}}', "c", "boom"),
        (b"boom", "provider_error", "boom"),
    ],
)
def test_an_event_named_error_is_one(data: bytes, code: str, said: str):
    reader = EventReader("chat/completions")
    reader.feed(b"event: error\ndata: " + data + b"\n\n")
    assert reader.failed
    assert (reader.result().error_code, reader.result().error_message) == (code, said)


def test_the_name_of_an_event_is_its_own_only():
    reader = EventReader("chat/completions")
    reader.feed(b"event: error\n\n" + delta("a"))
    assert not reader.failed
    assert reader.pieces() == ["a"]


def test_what_comes_behind_the_end_is_left():
    reader = EventReader("chat/completions")
    reader.feed(delta("a") + b"data: [DONE]\n\n" + delta("b") + event({"error": {"message": "late"}}))
    assert (reader.result().text, reader.failed) == ("a", False)


def test_a_byte_order_mark_is_skipped():
    reader = EventReader("chat/completions")
    for byte in b"\xef\xbb\xbf" + delta("a"):
        reader.feed(bytes([byte]))
    assert reader.pieces() == ["a"]


def test_halves_of_a_character_in_two_pieces_are_joined():
    reader = EventReader("chat/completions")
    for piece in ("so \ud83d", "\ude42 far", "\ud83d", "x", "\ud83d"):
        reader.feed(delta(piece))
    assert reader.pieces() == ["so ", "🙂 far", "\ufffdx"]
    assert reader.result().text == "so 🙂 far\ufffdx\ufffd"
    reader.feed(b"data: [DONE]\n\n")
    assert "".join(reader.pieces()) == reader.result().text == "so 🙂 far\ufffdx\ufffd"


def test_of_several_answers_the_first_is_the_text():
    reader = EventReader("chat/completions")
    for index, text in ((0, "a"), (1, "x"), (0, "b"), (1, "y")):
        reader.feed(event({"choices": [{"index": index, "delta": {"content": text}}]}))
    assert reader.result().text == "ab"


def test_other_streams_end_with_their_connection():
    reader = EventReader("audio/transcriptions")
    assert reader.ends_properly


def test_usage_in_both_vocabularies():
    chat = {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    other = {
        "input_tokens": 5,
        "output_tokens": 3,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens_details": {"reasoning_tokens": 1},
    }
    for usage in (chat, other):
        assert read_answer(json.dumps({"usage": usage}).encode()).usage == Usage(5, 3, 2, 1)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error": {"message": "m", "code": "c", "type": "t"}}', ("c", "m")),
        (b'{"error": {"message": "m", "code": 400, "type": "t"}}', ("t", "m")),
        (b'[{"error": {"message": "m", "code": 400}}]', (None, "m")),
        (b'{"error": "plain"}', (None, "plain")),
        (b'{"message": "m"}', (None, "m")),
        (b"  <h1>Bad Gateway</h1> ", (None, "<h1>Bad Gateway</h1>")),
        (b"", (None, "")),
    ],
)
def test_errors_of_all_shapes(body: bytes, expected: tuple[str | None, str]):
    assert error_of(body) == expected


def test_what_must_be_json():
    assert reads_as_json("chat/completions", "text/html")
    assert reads_as_json("files", "application/json; charset=utf-8")
    assert not reads_as_json("audio/speech", "audio/mpeg")


@given(st.text(alphabet=st.characters(), max_size=20))
def test_sound_text_can_be_written(text: str):
    sound(text).encode()
    sound(text + "\ud800").encode()


def test_sound_joins_halves_and_keeps_the_rest():
    assert sound("a\ud83d\ude42b\ud800") == "a🙂b\ufffd"
