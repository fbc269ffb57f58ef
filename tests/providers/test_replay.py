"""Replay: an equal call is answered from the ledger, marked as such; equal calls in flight share one request."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import BaseModel

import ipyconvexai as ai
from ipyconvexai.errors import ReplayMissError
from ipyconvexai.providers.corridor import body_bytes, cache_key
from ipyconvexai.providers.flights import Flight
from ipyconvexai.testing import Answer, Endpoint, Fault
from ipyconvexai.values import Replay
from tests.providers.lab import HELLO, KEY, Lab, rows, statuses


class City(BaseModel):
    name: str


def ask(client: Any, **options: Any) -> Any:
    return client.chat.completions.create(**{"model": "m", "messages": HELLO, **options})


@pytest.fixture
def lab(endpoint: Endpoint):
    made = Lab(endpoint.url, replay=Replay.REUSE)
    yield made
    made.close()


def test_off_sends_always(client: ai.OpenAI, endpoint: Endpoint):
    ask(client), ask(client)
    assert endpoint.count == 2


def test_reuse_sends_once_and_says_so(lab: Lab, endpoint: Endpoint):
    endpoint.reply(["first", "second"])
    client = lab.client()
    first = client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
    again = client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
    assert first.text == again.text
    assert "x-ipyconvexai-replayed" not in first.headers
    assert again.headers["x-ipyconvexai-replayed"] == "true"
    assert first.headers["x-ipyconvexai-request-id"] == again.headers["x-ipyconvexai-request-id"]
    assert endpoint.count == len(rows(lab)) == 1


def test_streams_replay_as_streams(lab: Lab, endpoint: Endpoint):
    client = lab.client()
    first = [chunk.to_json() for chunk in ask(client, stream=True)]
    assert [chunk.to_json() for chunk in ask(client, stream=True)] == first
    events = [event.type for event in client.responses.create(model="m", input="Hi", stream=True)]
    assert [event.type for event in client.responses.create(model="m", input="Hi", stream=True)] == events
    assert endpoint.count == 2


def test_parse_embeddings_and_uploads(lab: Lab, endpoint: Endpoint):
    endpoint.reply({"name": "Paris"})
    client = lab.client(max_retries=0)
    for _ in range(2):
        parsed = client.chat.completions.parse(model="m", messages=HELLO, response_format=City)
        assert parsed.choices[0].message.parsed == City(name="Paris")
        assert len(client.embeddings.create(model="e", input="text").data[0].embedding) == 8
    assert endpoint.count == 2
    for _ in range(2):
        client.files.create(file=b"same", purpose="batch")
    assert endpoint.count == 4, "a file is not an answer"


def test_failures_cuts_and_broken_answers_are_not_replayed(lab: Lab, endpoint: Endpoint):
    endpoint.reply([Fault(400), Answer("cut off here", cut_after=1), Answer(raw=b"{half"), "good"])
    client = lab.client(max_retries=0)
    for options in ({}, {"stream": True}, {}, {}):
        try:
            list(ask(client, **options))
        except Exception:
            continue
    assert statuses(lab) == ["error", "cut", "error", "ok"]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"temperature": 0.1},
        {"messages": [{"role": "user", "content": "Else"}]},
        {"extra_query": {"v": "2"}},
    ],
)
def test_another_question_is_another_call(lab: Lab, endpoint: Endpoint, change: dict[str, Any]):
    client = lab.client()
    ask(client), ask(client, **change)
    assert endpoint.count == 2


def test_another_endpoint_is_another_call(lab: Lab, endpoint: Endpoint):
    with Endpoint("elsewhere") as other:
        ask(lab.client())
        assert ask(lab.client().with_options(base_url=other.url)).choices[0].message.content == "elsewhere"


def test_the_order_of_parameters_does_not_matter(lab: Lab, endpoint: Endpoint):
    client = lab.client()
    body = {"model": "m", "messages": HELLO, "temperature": 0.5}
    client.post("/chat/completions", body=body, cast_to=object)
    client.post("/chat/completions", body=dict(reversed(body.items())), cast_to=object)
    assert endpoint.count == 1
    key = cache_key(endpoint.url, "chat/completions", body_bytes(body))
    assert str(rows(lab)[0]["cache_key"]) == key, "a batch computes it before it asks"
    assert json.loads(rows(lab)[0]["request"]) == body


# ------------------------------------------------------------------------------------------ only
def test_only_answers_from_the_ledger_or_fails(app: ai.App, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLLM_BASE_URL", endpoint.url)
    asked = ai.generate("Hello\nthere", model="vllm:m")
    again = ai.generate("Hello\nthere", model="vllm:m", replay="only")
    assert (again.text, again.replayed, again.cost) == (asked.text, True, 0.0)
    assert again.request_id == asked.request_id
    with pytest.raises(ReplayMissError, match=r"not recorded.*'Something else'"):
        ai.generate("Something else\nentirely", model="vllm:m", replay="only")
    assert endpoint.count == len(rows(app)) == 1


def test_only_never_uploads(endpoint: Endpoint):
    with ai.connect(":memory:", replay="only"):
        with pytest.raises(ReplayMissError, match="replay='off'"):
            ai.OpenAI(base_url=endpoint.url, api_key=KEY).files.create(file=b"x", purpose="batch")
    assert endpoint.count == 0


def test_the_policy_of_one_call_is_not_that_of_the_next(
    app: ai.App, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("VLLM_BASE_URL", endpoint.url)

    async def main() -> None:
        for replay in ("reuse", None, None):
            await ai.agenerate("Hello", model="vllm:m", replay=replay)

    app.run(main())  # in one task
    assert endpoint.count == 3


# ------------------------------------------------------------------------------------------ metadata
def test_metadata_keeps_no_content_and_replay_says_why(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLLM_BASE_URL", endpoint.url)
    endpoint.reply(["the secret answer", Fault(400, message="you said: the secret question"), "again"])
    with ai.connect(":memory:", record="metadata") as app:
        ai.generate("the secret question", model="vllm:m")
        assert not ai.safe_generate("the secret question", model="vllm:m").success
        list(ai.stream("the secret question", model="vllm:m"))
        tables = ("requests", "responses")
        kept = repr([app.store.read(f"SELECT * FROM {table}") for table in tables])
        assert "secret" not in kept
        found = rows(app)
        assert [row["status"] for row in found] == ["ok", "error", "ok"]
        assert found[0]["input_tokens"] == 3
        assert app.store.read("SELECT bool_and(body_size > 0) FROM requests") == [(True,)]
        with pytest.raises(ReplayMissError, match="without its content"):
            ai.generate("the secret question", model="vllm:m", replay="only")
        with pytest.raises(ReplayMissError, match="not recorded"):
            ai.generate("another", model="vllm:m", replay="only")


# ------------------------------------------------------------------------------------------ single flight
def test_equal_calls_in_flight_share_one(lab: Lab, endpoint: Endpoint):
    endpoint.hold()
    with ThreadPoolExecutor(10) as pool:
        answers = [pool.submit(ask, lab.client()) for _ in range(10)]
        endpoint.wait(lambda e: e.in_flight == 1)
        endpoint.release()
        assert {answer.result(10).choices[0].message.content for answer in answers} == {"echo: Hello world"}
    assert endpoint.count == len(rows(lab)) == 1


def test_when_the_leader_fails_the_others_go_on(lab: Lab, endpoint: Endpoint):
    endpoint.reply([Fault(400), "good"])
    endpoint.hold()
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(ask, lab.client(max_retries=0)) for _ in range(5)]
        endpoint.wait(lambda e: e.in_flight == 1)
        endpoint.release()
        failed = [answer.exception(10) for answer in answers]
    assert len([error for error in failed if error is not None]) == 1
    assert endpoint.count == 2


def test_a_cancelled_leader_leaves_nobody_waiting(lab: Lab, endpoint: Endpoint):
    endpoint.hold()

    async def main() -> None:
        leader = asyncio.create_task(ask(lab.aclient()))
        await asyncio.to_thread(endpoint.wait, lambda e: e.in_flight == 1)
        follower = asyncio.create_task(ask(lab.aclient()))
        await asyncio.sleep(0)
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        await asyncio.to_thread(endpoint.wait, lambda e: e.count == 2)
        endpoint.release()
        assert (await follower).choices[0].message.content

    asyncio.run(main())
    assert sorted(statuses(lab)) == ["canceled", "ok"]


def test_followers_of_a_stream_get_it_at_its_end(lab: Lab, endpoint: Endpoint):
    client = lab.client()
    stream = iter(ask(client, stream=True))
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        follower = pool.submit(lambda: [chunk.to_json() for chunk in ask(client, stream=True)])
        rest = list(stream)
        assert len(follower.result(10)) == 1 + len(rest)
    assert endpoint.count == 1


def test_nobody_waits_for_a_stream_that_is_not_read(lab: Lab, endpoint: Endpoint):
    """The one who waits may be the one who would have to read."""
    endpoint.reply([Answer("one two", cut_after=1, cut="stall"), "other"])
    client = lab.client()
    with ask(client, stream=True) as stream:
        next(iter(stream))
        assert len(list(ask(client, stream=True))) > 1
    assert endpoint.count == 2
    assert statuses(lab) == ["canceled", "ok"]


def test_who_looked_before_the_leader_landed_does_not_send_again(
    lab: Lab, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
):
    """The first has looked into the ledger and is slow to go on; the second comes meanwhile."""
    recorded, wait = lab.ledger.recorded, Flight.wait
    looked, second_is_settled = threading.Event(), threading.Event()

    async def look(key: str) -> Any:
        found = await recorded(key)
        if not looked.is_set():
            looked.set()
            await asyncio.to_thread(second_is_settled.wait, 10)
        return found

    async def watched(flight: Flight, clock: Any) -> bool:
        second_is_settled.set()  # it waits
        return await wait(flight, clock)

    monkeypatch.setattr(lab.ledger, "recorded", look)
    monkeypatch.setattr(Flight, "wait", watched)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, lab.client())
        assert looked.wait(10)
        second = pool.submit(ask, lab.client())
        second.add_done_callback(lambda _: second_is_settled.set())  # or it has its answer
        assert first.result(10).choices[0].message == second.result(10).choices[0].message
    assert endpoint.count == len(rows(lab)) == 1


def test_many_threads_with_many_questions(lab: Lab, endpoint: Endpoint):
    barrier = threading.Barrier(16)

    def work(number: int) -> None:
        client = lab.client()
        barrier.wait(10)
        for question in range(4):
            ask(client, messages=[{"role": "user", "content": f"question {question}"}])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert endpoint.count == len(rows(lab)) == 4
