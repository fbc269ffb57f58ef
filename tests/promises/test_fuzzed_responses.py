"""Whatever bytes a provider sends, and whatever stands in the rows that are read back: a result, or an error of ours.

First what reads answers, by itself and often; then whole calls, over real HTTP; then rows written by hand into the
ledger, and everything that reads them.
"""

from __future__ import annotations

import copy
import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import ipyconvexai as ai
from ipyconvexai.errors import Error
from ipyconvexai.providers import allowances
from ipyconvexai.providers.reading import EventReader, Reading, comes_in_events, error_of, read_answer
from ipyconvexai.testing import Answer, Endpoint
from tests.promises.promising import Figure, Tries

PROMISE = (
    "whatever a provider sends, and whatever stands in the ledger's rows: a result or an error of ours, and no hang"
)
TRIES = Tries(25, 3000, "answers over HTTP, and rows")

PATHS = st.sampled_from(["chat/completions", "responses", "embeddings", "completions", "images/generations", "?"])
TYPES = st.sampled_from(["application/json", "text/event-stream", "text/html", "", "application/json; charset=utf-16"])

# ---------------------------------------------------------------------------------------------- what is nearly right
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
CALLS = [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
CHAT = {
    "id": "1", "object": "chat.completion", "created": 1, "model": "m", "usage": USAGE,
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "fine"}}],
}  # fmt: skip
RESPONSE = {
    "id": "1", "object": "response", "status": "completed", "model": "m",
    "usage": {"input_tokens": 3, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 1}},
    "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "fine"}]}],
}  # fmt: skip
CHUNKS = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "fi"}}]},
    {"choices": [{"index": 0, "delta": {"content": "ne", "tool_calls": CALLS}, "finish_reason": "stop"}]},
    {"choices": [], "usage": USAGE},
]
PARTS = [
    {"type": "response.created", "response": RESPONSE},
    {"type": "response.output_text.delta", "delta": "fine"},
    {"type": "response.completed", "response": RESPONSE},
]
ERROR = {"error": {"message": "no luck", "type": "t", "code": "c", "param": None}}

odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([10**400, -1, "\ud800", "\x00", "data: [DONE]\n\n", 1e308, ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield from places(below, (*path, key))


@st.composite
def nearly(draw: st.DrawFn, right: Any) -> Any:
    """`right`, with up to three of its values replaced or taken away."""
    value = copy.deepcopy(right)
    for _ in range(draw(st.integers(0, 3))):
        *way, last = draw(st.sampled_from(list(places(value)))) or (None,)
        if last is None:
            return draw(odd)
        within = value
        for key in way:
            within = within[key]
        if draw(st.booleans()):
            within[last] = draw(odd)
        else:
            del within[last]
    return value


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


bodies = st.one_of(
    st.sampled_from([CHAT, RESPONSE, ERROR]).flatmap(nearly).map(encoded),
    st.binary(max_size=60),
    st.sampled_from([encoded(CHAT), encoded(RESPONSE)]).flatmap(lambda b: st.integers(0, len(b)).map(lambda n: b[:n])),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Events in any order, as often as you like, between other lines; cut anywhere."""
    events = draw(st.sampled_from([CHUNKS, PARTS]))
    lines = []
    for _ in range(draw(st.integers(0, 6))):
        name = draw(st.sampled_from([b"", b"", b"event: error\n", b"event: x\n", b": hm\n", b"id: 7\nretry: 1\n"]))
        data = draw(st.sampled_from([*events, ERROR]).flatmap(nearly).map(encoded) | st.binary(max_size=12))
        lines.append(name + b"data: " + data + draw(st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r", b"\n"])))
    lines += draw(st.sampled_from([[], [b"data: [DONE]\n\n"]]))
    whole = b"".join(lines)
    return whole[: draw(st.integers(0, len(whole)) | st.just(len(whole)))]


def is_sound(reading: Reading) -> bool:
    """What it found can be written: text without half characters, counts that a column holds."""
    json.dumps([reading.text, reading.model, reading.error_message], ensure_ascii=False).encode()
    counts = [reading.usage.input_tokens, reading.usage.output_tokens, reading.usage.cached_tokens]
    return all(count is None or 0 <= count < 2**31 for count in counts)


# ---------------------------------------------------------------------------------------------- what reads answers
@settings(deadline=None)
@given(bodies | streams(), PATHS, st.booleans(), TYPES)
def test_answers(content: bytes, path: str, asked: bool, media_type: str):
    reading = read_answer(content, path, asked_events=asked)
    assert is_sound(reading)
    assert isinstance(comes_in_events(media_type, asked), bool)
    code, message = error_of(content)
    assert isinstance(message, str)
    assert code is None or isinstance(code, str)


@settings(deadline=None)
@given(streams() | st.binary(max_size=80), PATHS, st.lists(st.integers(0, 400), max_size=6))
def test_streams_are_read_the_same_however_they_are_cut(content: bytes, path: str, cuts: list[int]):
    def read(pieces: list[bytes]) -> tuple[Reading, bool, bool]:
        reader = EventReader(path)
        for piece in pieces:
            reader.feed(piece)
            reader.result()
        reader.end()
        return reader.result(), bool(reader.done), bool(reader.failed)

    edges = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    whole = read([content])
    assert is_sound(whole[0])
    assert read([content[a:b] for a, b in itertools.pairwise(edges)]) == whole


HEADERS = st.sampled_from([
    "retry-after", "retry-after-ms", "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests", "anthropic-ratelimit-tokens-reset", "x-ratelimit-remaining-tokens",
])  # fmt: skip
WORDS = st.text(max_size=30) | st.integers().map(str) | st.floats().map(str)


@settings(deadline=None)
@given(st.dictionaries(HEADERS, WORDS), st.integers(100, 999))
@example({"retry-after": f"Thu, 01 Jan {10**30} 00:00:00 GMT"}, 429)
def test_headers(headers: dict[str, str], status: int):
    allowances.read(headers, status)


# ---------------------------------------------------------------------------------------------- whole calls
@pytest.fixture(scope="module")
def provider() -> Iterator[Endpoint]:
    with Endpoint() as running:
        yield running


@pytest.fixture
def app(provider: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[ai.App]:
    provider.reply("fine")
    monkeypatch.setenv("VLLM_BASE_URL", provider.url)
    with ai.connect(":memory:", model="vllm:m", retries=0) as opened:
        yield opened


def fuzzed(tries: int) -> Callable[[Any], Any]:
    """Of hypothesis, where a fixture serves all examples."""
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=tries, deadline=None, suppress_health_check=quiet)


def ours(work: Callable[..., object], *args: Any, **options: Any) -> bool:
    """Whether it gave a result; an error must be of our tree."""
    begun = time.monotonic()
    try:
        work(*args, **options)
    except Error:
        return False
    finally:
        assert time.monotonic() - begun < 20
    return True


def streamed(app: ai.App, **options: Any) -> str:
    return "".join(app.stream("Hello", **options))


@TRIES.both
def test_whole_calls(tries: int, app: ai.App, provider: Endpoint, figure: Figure):
    found = {True: 0, False: 0}

    @fuzzed(tries)
    @given(bodies, streams(), TYPES, st.sampled_from([200, 200, 200, 201, 400, 429, 500, 503]))
    def fuzz(body: bytes, events: bytes, media_type: str, status: int) -> None:
        for content, kind in ((body, media_type), (events, "text/event-stream")):
            provider.reply(Answer(raw=content, content_type=kind, status=status))
            model = f"vllm:m{provider.count}"  # whoever is asked to wait, waits before that model
            found[ours(app.generate, "Hello", model=model, timeout=5)] += 1
            found[ours(streamed, app, model=f"{model}s", timeout=5)] += 1

    fuzz()
    assert app.store.read("SELECT count(*) FROM calls WHERE status IN ('sending', 'unknown')") == [(0,)]
    assert found[True]
    figure(f"{found[True]} answers, {found[False]} errors of ours, 0 others", f"{sum(found.values()):,} calls")


# ---------------------------------------------------------------------------------------------- rows read back
texts = st.none() | st.text(max_size=20) | st.sampled_from(["{}", "[]", "null", "0", "\x00", "[[[[", '{"a":'])
COLUMNS = {
    "http_status": st.none() | st.integers(-(2**15), 2**15 - 1),
    "content_type": texts | TYPES,
    "body": (bodies | streams()).map(lambda content: content.decode("utf-8", "replace")) | texts,
    "body_bytes": st.none() | bodies,
    "text": texts,
    "finish_reason": texts,
    "model": texts,
    "input_tokens": st.none() | st.integers(-(2**31), 2**31 - 1),
    "cost_usd": st.none() | st.floats(),
    "duration_ms": st.none() | st.floats(),
    "status": st.sampled_from(["ok", "ok", "ok", "cut", "unknown", "", "no such status"]),
    "error_code": texts,
}
MESSAGE = {
    "role": st.sampled_from(["user", "assistant", "system", "tool", "", "no such role"]),
    "content": texts,
    "status": st.sampled_from(["done", "cut", "", "streaming"]),
    "attachments": texts,
    "tool_call": texts | st.just('{"id": 7, "name": [], "arguments": {}}'),
}


def write(app: ai.App, table: str, values: dict[str, Any], where: str) -> None:
    """By hand, as another program might."""
    changes = ", ".join(f"{name} = ?" for name in values)
    with app.store.transaction() as execute:
        execute(f"UPDATE {table} SET {changes} WHERE {where}", list(values.values()))


FEW = (("responses", "request_id"), ("requests", "id"), ("batch_items", "batch_id"), ("batches", "id"))


@TRIES.both
def test_rows_of_the_ledger(tries: int, app: ai.App, provider: Endpoint, figure: Figure):
    """Replay, whole and as a stream; lists, costs, and batches that find their answers in it."""
    app.generate("Hello")
    frame = pd.DataFrame({"text": ["a", "b"]})
    ai.map(frame, "Say {text}", into="said", progress=False)
    found = {True: 0, False: 0}

    def both_ways() -> None:
        ours(ai.map, frame, "Say {text}", into="said", progress=False)
        for replay in ("only", "reuse"):
            found[ours(app.generate, "Hello", replay=replay)] += 1
            found[ours(streamed, app, replay=replay)] += 1
        calls = app.ledger.calls()
        assert len(calls)
        repr(calls)
        calls._repr_html_()
        calls.df()
        app.ledger.usage(by="model").fetchall()

    @fuzzed(tries)
    @given(st.fixed_dictionaries({}, optional=COLUMNS))
    @example({"http_status": 0})
    @example({"content_type": "\n"})
    @example({"body": None, "body_bytes": b"\xff"})
    def fuzz(values: dict[str, Any]) -> None:
        if values:
            write(app, "responses", values, "true")
        both_ways()
        with app.store.transaction() as execute:  # they stay few
            for table, key in FEW:
                execute(
                    f"DELETE FROM {table} WHERE {key} NOT IN (SELECT DISTINCT {key} FROM {table} ORDER BY 1 LIMIT 6)"
                )

    fuzz()
    figure(f"{found[True]} replays, {found[False]} errors of ours, 0 others", f"{sum(found.values()):,} replays")


EACH = 200  # examples of one ledger: one in memory is not rid of rows that are gone, and takes ever longer


@TRIES.both
def test_messages_of_a_conversation(tries: int, app: ai.App, figure: Figure):
    found = {True: 0, False: 0}
    for _ in range(0, tries, EACH):
        with ai.connect(":memory:", model="vllm:m", retries=0) as fresh:
            fuzz_messages(fresh, min(tries, EACH), found)
    figure(f"{found[True]} results, {found[False]} errors of ours, 0 others", f"{sum(found.values()):,} looks")


def fuzz_messages(app: ai.App, examples: int, found: dict[bool, int]) -> None:
    conversation = ai.conversation("one")
    conversation.send("Hello")
    right = {"role": "user", "content": "x", "status": "done", "attachments": None, "tool_call": None}

    @fuzzed(examples)
    @given(st.fixed_dictionaries({}, optional=MESSAGE), st.booleans())
    def fuzz(values: dict[str, Any], first: bool) -> None:
        ends = app.store.read("SELECT min(id)::VARCHAR, max(id)::VARCHAR FROM messages")[0]
        write(app, "messages", right | values, f"id = '{ends[not first]}'")
        for work in (conversation.messages, conversation.fork, lambda: repr(conversation)):
            found[ours(work)] += 1
        found[ours(conversation.send, "more")] += 1
        write(app, "messages", right, "true")
        with app.store.transaction() as execute:  # it stays short
            execute("DELETE FROM messages WHERE id NOT IN (SELECT id FROM messages ORDER BY id LIMIT 4)")

    fuzz()
