"""One retry policy: what the ledger counts is what the provider saw, and the pauses are those that were asked for.

Nothing below repeats by itself: neither the SDK, nor its transport, nor the connection that is used again; and what
stands above, our own calls and batches, repeats nothing that is not recorded.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pandas as pd
import pytest

import ipyconvexai as ai
from ipyconvexai.errors import Error
from ipyconvexai.providers import retry
from ipyconvexai.providers.calls import CALLER
from ipyconvexai.testing import Answer, Drop, Endpoint, Fault, Stall
from tests.promises.promising import Figure, Tries
from tests.providers.lab import HELLO, Lab, rows, statuses

PROMISE = "one retry policy and no hidden retries: recorded attempts are the provider's hits, Retry-After is obeyed"
TRIES = Tries(40, 3000, "calls")

# On a machine that is busy otherwise an attempt may be admitted and not sent in time: it is judged again.
SENT = "SELECT count(*) FROM calls WHERE error_code IS DISTINCT FROM 'not_sent'"

FAULTS: list[Any] = [
    Fault(429), Fault(429, retry_after=0.2), Fault(500), Fault(503, headers={"x-should-retry": "true"}), Fault(408),
    Fault(409), Fault(400), Fault(529), Drop(), Drop(reset=True), Stall(), Answer("one two three", cut_after=1),
    Answer("one two three", cut_after=1, cut="close"), Answer("one two three", cut_after=1, cut="reset"),
    Answer("one two three", cut_after=1, cut="stall"), Answer("one two three", failed="no luck"),
    Answer(raw=b"{", content_type="text/html"),
]  # fmt: skip


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as running:
        yield running


@pytest.fixture
def lab(endpoint: Endpoint) -> Iterator[Lab]:
    made = Lab(endpoint.url)
    yield made
    made.close()


def ask(client: Any, **options: Any) -> Any:
    return client.chat.completions.create(model="m", messages=HELLO, **options)


# ---------------------------------------------------------------------------------------------- counted at both ends
@TRIES.both
def test_recorded_attempts_are_the_providers_hits(tries: int, lab: Lab, endpoint: Endpoint, figure: Figure):
    """Calls of a random kind, each after random faults, over connections that are used again."""
    rng = random.Random(seed := random.randrange(10**9))
    counted, client = 0, lab.client(timeout=0.15)
    for number in range(tries):
        script = rng.choices(FAULTS, k=rng.randrange(4)) if number else [Stall()]
        endpoint.reply([*script, "done"])
        retries, stream = rng.randrange(4), rng.random() < 0.4
        before = endpoint.count
        with contextlib.suppress(openai.OpenAIError, Error, ValueError):  # of half a JSON the SDK raises what json does
            answer = ask(client.with_options(max_retries=retries), stream=stream)
            if stream:
                list(answer)
        hits = endpoint.count - before
        recorded = lab.store.read(SENT)[0][0] - counted
        counted += recorded
        where = f"call {number} of seed {seed}: {script}, {retries} retries, stream={stream}"
        assert recorded == hits, where
        assert 1 <= hits <= retries + 1, where
    assert set(statuses(lab)) >= {"ok", "error", "timeout"}
    figure(f"{counted:,} attempts recorded, {endpoint.count:,} hits at the provider", f"{tries:,} calls")


def generate(app: ai.App) -> object:
    return app.generate("Hello", model="vllm:m", timeout=0.2)


def stream(app: ai.App) -> object:
    return list(app.stream("Hello", model="vllm:m", timeout=0.2))


def drop_in(app: ai.App) -> object:
    return ask(ai.OpenAI(base_url=os.environ["VLLM_BASE_URL"], api_key="k" * 20, timeout=0.2))


_texts = itertools.count()


def batch(app: ai.App) -> object:
    frame = pd.DataFrame({"text": [f"text {next(_texts)}"]})  # what is answered is not sent again
    given = ai.map(frame, "Say {text}", into="said", model="vllm:m", progress=False, concurrency=1, timeout=0.2)
    if given["said_error"].notna().any():
        raise Error(given["said_error"].iloc[0])
    return given


FACES: list[Callable[[ai.App], object]] = [generate, stream, drop_in, batch]


@pytest.fixture
def app(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[ai.App]:
    monkeypatch.setenv("VLLM_BASE_URL", endpoint.url)
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(retry, "SPREAD", 0.01)
    with ai.connect(":memory:") as opened:
        yield opened


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_no_face_repeats_in_secret(face: Callable[[ai.App], object], app: ai.App, endpoint: Endpoint):
    counted = 0
    for fault, ends in [*((fault, True) for fault in FAULTS), (Fault(500), False), (Drop(), False), (Stall(), False)]:
        endpoint.reply([fault, "done"] if ends else fault)
        begun = endpoint.count
        with contextlib.suppress(openai.OpenAIError, Error, ValueError):  # of half a JSON the SDK raises what json does
            face(app)
        recorded = [row for row in rows(app) if row["error_code"] != "not_sent"]
        assert len(recorded) - counted == endpoint.count - begun > 0, fault
        counted = len(recorded)
        retried = [row for row in recorded if row["attempt"] > 1]
        first = {row["id"] for row in recorded if row["attempt"] == 1}
        assert {row["retry_of"] for row in retried} <= first, "a retry is recorded as one"


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_retry_after_is_obeyed_to_the_providers_clock(
    face: Callable[[ai.App], object], app: ai.App, endpoint: Endpoint
):
    endpoint.reply([Fault(429, retry_after=0.25, times=2), "done"])
    face(app)
    sent = collections.defaultdict(list)
    for call in endpoint.calls:
        sent[call.prompt].append(call.time)
    pauses = [after - before for each in sent.values() for before, after in itertools.pairwise(each)]
    assert len(pauses) == 2
    assert min(pauses) >= 0.25


def test_attempts_are_recorded_and_belong_together(lab: Lab, endpoint: Endpoint):
    endpoint.reply([Fault(500), Drop(), Fault(429, retry_after=3), "done"])
    assert ask(lab.client(max_retries=3)).choices[0].message.content == "done"
    found = rows(lab)
    assert [row["status"] for row in found] == ["error", "error", "error", "ok"]
    assert [row["attempt"] for row in found] == [1, 2, 3, 4]
    assert [row["retry_of"] for row in found] == [None] + [found[0]["id"]] * 3
    assert len({row["cache_key"] for row in found}) == 1
    assert endpoint.count == 4
    assert lab.pauses == [0.5, 1.0, 3.0]


def test_jitter_keeps_failures_from_waking_together(lab: Lab, endpoint: Endpoint):
    endpoint.reply([Fault(429, retry_after=8), Fault(500), "done"])
    lab.random = 0.5
    ask(lab.client(max_retries=2))
    assert lab.pauses == [8 + 0.5 * 2, 1.0 * 1.125]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("retries", [0, 1, 5])
def test_the_number_is_ours_and_the_sdk_never_repeats(lab: Lab, endpoint: Endpoint, retries: int, asynchronous: bool):
    endpoint.reply(Fault(503, headers={"x-should-retry": "true"}))
    client: Any = lab.aclient() if asynchronous else lab.client(max_retries=2)
    client = client.with_options(max_retries=retries)
    with pytest.raises(openai.InternalServerError):
        asyncio.run(ask(client)) if asynchronous else ask(client)
    assert endpoint.count == len(rows(lab)) == len(lab.pauses) + 1 == retries + 1


def test_lost_connections_and_timeouts_are_repeated(lab: Lab, endpoint: Endpoint):
    endpoint.reply([Drop(), Drop(reset=True), Stall(), Answer("half", cut_after=0, cut="close"), "done"])
    assert ask(lab.client(max_retries=4), timeout=0.2).choices[0].message.content == "done"
    assert statuses(lab) == ["error", "error", "timeout", "error", "ok"]
    assert endpoint.count == 5


@pytest.mark.parametrize(
    "fault",
    [
        Fault(400),
        Fault(401),
        Fault(403),
        Fault(404),
        Fault(422),
        Fault(429, code="insufficient_quota"),
        Fault(429, retry_after=3600),
        Fault(500, headers={"x-should-retry": "false"}),
    ],
)
def test_what_waiting_does_not_cure_is_not_repeated(lab: Lab, endpoint: Endpoint, fault: Fault):
    endpoint.reply(fault)
    with pytest.raises(openai.APIStatusError):
        ask(lab.client(max_retries=5))
    assert endpoint.count == len(rows(lab)) == 1
    assert lab.pauses == []


@pytest.mark.parametrize(
    ("value", "pause"),
    [
        ("-5", 0.0),
        ("nan", 0.5),
        ("inf", 0.5),
        ("1e400", 0.5),
        ("Thu, 01 Jan 2015 00:00:00 GMT", 0.0),
        ("soon", 0.5),
        ("Fri, 99 Foo 99999", 0.5),
        ("0.25", 0.25),
    ],
)
def test_strange_wishes_of_the_provider(lab: Lab, endpoint: Endpoint, value: str, pause: float):
    endpoint.reply([Fault(429, headers={"retry-after": value}), "done"])
    ask(lab.client(max_retries=1))
    assert lab.pauses == [pause]


def test_milliseconds(lab: Lab, endpoint: Endpoint):
    endpoint.reply([Fault(429, headers={"retry-after-ms": "1500", "retry-after": "9"}), "done"])
    ask(lab.client(max_retries=1))
    assert lab.pauses == [1.5]


def test_streams_are_repeated_before_their_first_byte(lab: Lab, endpoint: Endpoint):
    endpoint.reply([Fault(500), "done"])
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask(lab.client(), stream=True)]
    assert "".join(pieces) == "done"
    assert statuses(lab) == ["error", "ok"]


def test_lists_are_repeated_without_rows(lab: Lab, endpoint: Endpoint):
    with Endpoint(key="another-key-than-ours") as strict:
        with pytest.raises(openai.AuthenticationError):
            lab.client(max_retries=3).with_options(base_url=strict.url).models.list()
        assert strict.count == 1
    lab.url = "http://127.0.0.1:9/v1"
    with pytest.raises(openai.APIConnectionError):
        lab.client(max_retries=2).models.list()
    assert len(lab.pauses) == 2
    assert rows(lab) == []


def test_an_address_that_is_none_is_not_repeated(lab: Lab):
    lab.url = "ftp://127.0.0.1/v1"
    with pytest.raises(openai.APIConnectionError, match="no address"):
        ask(lab.client(max_retries=5))
    assert statuses(lab) == ["error"]


def test_the_provider_may_ask_for_a_retry_of_anything(lab: Lab, endpoint: Endpoint):
    endpoint.reply([Fault(400, headers={"x-should-retry": "true"}), "done"])
    ask(lab.client(max_retries=1))
    assert statuses(lab) == ["error", "ok"]


@pytest.mark.parametrize(
    ("fault", "hits"),
    [
        (Fault(429, retry_after=200, times=4), 5),  # four times as many, and longer than anybody else would wait
        (Fault(429, retry_after=200, times=9), 5),
        (Fault(429, retry_after=301, times=4), 1),
        (Fault(429, times=4), 2),
        (Fault(500, retry_after=1, times=4), 2),
    ],
)
def test_who_is_patient_waits_for_refusals_that_say_when_to_come(lab: Lab, endpoint: Endpoint, fault: Fault, hits: int):
    endpoint.reply([fault, "done"])
    token = CALLER.set(dataclasses.replace(CALLER.get(), patience=300.0))
    try:
        with contextlib.suppress(openai.OpenAIError):
            ask(lab.client(max_retries=1))
    finally:
        CALLER.reset(token)
    assert endpoint.count == len(rows(lab)) == hits
    assert all(pause >= (fault.retry_after or 0.0) for pause in lab.pauses)
