"""What is durable when: the intent before the provider hears of the call, the outcome before its caller does."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai.errors import DiskFullError, RefusedError, StoreError
from ipyconvexai.providers.corridor import CALLER
from ipyconvexai.providers.endpoints import provider_at
from ipyconvexai.store.pipe import ThreadReceipt
from ipyconvexai.testing import Answer, Drop, Endpoint, Fault, Received, Stall
from ipyconvexai.values import Caller, Stop
from tests.providers.lab import HELLO, KEY, Lab, rows, statuses


def test_the_intent_is_durable_before_the_endpoint_hears_of_it(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    found: list[Any] = []

    def look(call: Received) -> str:
        found.extend(app.store.read("SELECT status, body FROM calls JOIN requests USING (id)"))
        return "seen"

    endpoint.reply(look)
    client.chat.completions.create(model="m", messages=HELLO)
    assert found == [("sending", endpoint.calls[0].raw.decode())]


def test_the_outcome_is_durable_before_the_caller_sees_the_answer(client: ai.OpenAI, app: ai.App):
    client.chat.completions.create(model="m", messages=HELLO)
    assert app.store.read("SELECT status, text FROM calls") == [("ok", "echo: Hello world")]


def test_a_failure_is_durable_before_it_is_raised(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    endpoint.reply([Fault(400), Drop()])
    for _ in range(2):
        with pytest.raises(Exception, match=r"400|no connection"):
            client.chat.completions.create(model="m", messages=HELLO)
    assert [row[0] for row in app.store.read("SELECT error_code FROM calls ORDER BY id")] == [
        "invalid_request_error",
        "unreachable",
    ]


def test_a_streams_outcome_is_durable_before_its_last_piece(client: ai.OpenAI, app: ai.App):
    sees = "SELECT status FROM calls ORDER BY id DESC LIMIT 1"
    with client.chat.completions.with_streaming_response.create(model="m", messages=HELLO, stream=True) as response:
        for piece in response.iter_bytes():
            if b"[DONE]" in piece:
                assert app.store.read(sees) == [("ok",)]
                break
        else:
            pytest.fail("no terminal event")
    last = [
        event
        for event in client.responses.create(model="m", input="Hi", stream=True)
        if event.type != "response.completed" or app.store.read(sees) == [("ok",)]
    ]
    assert last[-1].type == "response.completed"


def test_a_row_says_who_asked_what_and_where(client: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    client.chat.completions.create(model="m", messages=HELLO, temperature=0.5)
    (row,) = rows(app)
    request = app.store.read("SELECT base_url, stream, body_size, session_id::VARCHAR FROM requests")
    assert request == [(endpoint.url, False, len(endpoint.calls[0].raw), app.store.session_id)]
    assert (row["attempt"], row["retry_of"], row["provider"], row["source"]) == (1, None, "custom", "client")
    assert row["user_id"] == app.settings.user
    assert row["sent_at"] <= row["received_at"]
    assert row["response"] == app.store.read("SELECT body FROM responses")[0][0]


def test_the_provider_of_an_address_is_known(app: ai.App, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLLM_BASE_URL", endpoint.url)
    assert provider_at(endpoint.url) == "vllm"
    ai.OpenAI(base_url=endpoint.url, api_key=KEY).chat.completions.create(model="m", messages=HELLO)
    assert rows(app)[0]["cost_usd"] == 0.0


def test_nothing_is_sent_where_nothing_can_be_recorded(lab: Lab, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch):
    def no_room(table: str, columns: Any, given: Any, receipt: Any, **more: Any) -> None:
        receipt(DiskFullError("no room"))

    monkeypatch.setattr(lab.store, "append", no_room)
    with pytest.raises(DiskFullError):
        lab.client().chat.completions.create(model="m", messages=HELLO)
    assert endpoint.count == 0


def test_an_answer_that_cannot_be_recorded_is_not_shown(lab: Lab, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch):
    append = lab.store.append

    def no_outcomes(table: str, columns: Any, given: Any, receipt: Any, **more: Any) -> None:
        if table == "responses":
            receipt(StoreError("no outcomes today"))
        else:
            append(table, columns, given, receipt, **more)

    monkeypatch.setattr(lab.store, "append", no_outcomes)
    with pytest.raises(StoreError, match="no outcomes"):
        lab.client().chat.completions.create(model="m", messages=HELLO)
    with pytest.raises(StoreError, match="no outcomes"):
        list(lab.client().chat.completions.create(model="m", messages=HELLO, stream=True))
    assert endpoint.count == 2, "it is no reason to send again"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("failures", [1, 2])
def test_an_outcome_that_could_not_be_written_is_written_when_it_can(
    lab: Lab, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, streamed: bool, failures: int
):
    append, left = lab.store.append, [failures]

    def at_first_not(table: str, columns: Any, given: Any, receipt: Any, **more: Any) -> None:
        if table == "responses" and left[0]:
            left[0] -= 1
            receipt(DiskFullError("no room"))
        else:
            append(table, columns, given, receipt, **more)

    monkeypatch.setattr(lab.store, "append", at_first_not)
    with pytest.raises(DiskFullError):
        list(lab.client().chat.completions.create(model="m", messages=HELLO, stream=streamed))
    if failures == 2:  # it was too early to try again: with the next call's, then
        assert lab.store.read("SELECT status FROM calls") == [("sending",)]
        lab.client().chat.completions.create(model="m", messages=HELLO)
    assert set(statuses(lab)) == {"ok"}


def test_an_intent_that_was_written_but_not_confirmed_has_an_outcome(
    lab: Lab, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
):
    append = lab.store.append

    def unconfirmed(table: str, columns: Any, given: Any, receipt: Any, **more: Any) -> None:
        lost = StoreError("the keeper ended") if table == "requests" else None
        append(table, columns, given, lambda error: receipt(lost or error), **more)

    monkeypatch.setattr(lab.store, "append", unconfirmed)
    with pytest.raises(StoreError, match="keeper"):
        lab.client().chat.completions.create(model="m", messages=HELLO)
    assert [(row["status"], row["error_code"]) for row in rows(lab)] == [("canceled", "not_sent")]
    assert endpoint.count == 0


# ------------------------------------------------------------------------------------------ whoever gives up
def test_a_cancelled_call_is_canceled(app: ai.App, endpoint: Endpoint):
    endpoint.hold()

    async def main() -> None:
        client = ai.AsyncOpenAI(base_url=endpoint.url, api_key=KEY)
        task = asyncio.create_task(client.chat.completions.create(model="m", messages=HELLO))
        await asyncio.to_thread(endpoint.wait, lambda e: e.in_flight == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    endpoint.wait(lambda e: e.disconnects == 1)
    assert statuses(app) == ["canceled"]
    assert rows(app)[0]["error_code"] == "canceled"


def test_a_call_cancelled_while_its_intent_is_written_has_an_outcome(
    lab: Lab, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
):
    append, reached, held = lab.store.append, threading.Event(), list[Any]()

    def slowly(table: str, columns: Any, given: Any, receipt: Any, **more: Any) -> None:
        if table == "requests":
            held.append((columns, given))
            reached.set()
        else:
            append(table, columns, given, receipt, **more)

    monkeypatch.setattr(lab.store, "append", slowly)

    async def main() -> None:
        task = asyncio.create_task(lab.aclient().chat.completions.create(model="m", messages=HELLO))
        await asyncio.to_thread(reached.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    durable = ThreadReceipt()
    columns, given = held[0]
    append("requests", columns, given, durable)
    durable.result()
    assert statuses(lab) == ["canceled"]
    assert rows(lab)[0]["duration_ms"] is None, "it was never sent"
    assert endpoint.count == 0


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_call_given_up_while_it_waits_for_its_turn_was_not_sent(lab: Lab, endpoint: Endpoint, interrupted: bool):
    reached = threading.Event()

    class Full:
        """A gate that nobody leaves."""

        async def acquire(self) -> None:
            reached.set()
            await asyncio.Event().wait()

        def release(self) -> None:
            raise AssertionError("it was never entered")

    async def main() -> None:
        stop = Stop()
        CALLER.set(Caller(gate=Full(), stop=stop))
        task = asyncio.create_task(lab.aclient().chat.completions.create(model="m", messages=HELLO))
        await asyncio.to_thread(reached.wait, 10)
        if interrupted:
            stop.interrupt()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    (row,) = rows(lab)
    assert (row["status"], row["error_code"]) == ("interrupted" if interrupted else "canceled", "not_sent")
    assert (row["duration_ms"], row["cost_usd"]) == (None, 0.0)
    assert endpoint.count == 0


def test_agenerate_cancelled(app: ai.App, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLLM_BASE_URL", endpoint.url)
    endpoint.hold()

    async def main() -> None:
        task = asyncio.create_task(ai.agenerate("Hello", model="vllm:m"))
        await asyncio.to_thread(endpoint.wait, lambda e: e.in_flight == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert statuses(app) == ["canceled"]


def test_what_is_under_way_when_the_app_closes_has_an_outcome(endpoint: Endpoint, tmp_path: Any):
    endpoint.reply([Stall(), Answer("one two three", token_delay=0.0, cut_after=2, cut="stall")])
    app = ai.connect(str(tmp_path / "l.duckdb"))
    client = ai.OpenAI(base_url=endpoint.url, api_key=KEY, max_retries=0)
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            client.chat.completions.create(model="m", messages=HELLO)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    endpoint.wait(lambda e: e.in_flight == 1)
    stream = iter(client.chat.completions.create(model="m", messages=HELLO, stream=True))
    next(stream)
    app.close()
    thread.join(5)
    assert len(raised) == 1
    with pytest.raises(ai.errors.ConfigurationError, match="closed"):
        client.chat.completions.create(model="m", messages=HELLO)
    with ai.connect(str(tmp_path / "l.duckdb")) as again:
        assert statuses(again) == ["canceled", "canceled"]


# ------------------------------------------------------------------------------------------ refused before sending
def test_chef_is_told_apart_from_another_provider_of_the_same_gateway(
    app: ai.App, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
):
    gateway = endpoint.url.removesuffix("/v1")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{gateway}/openai/v1")
    monkeypatch.setenv("CONVEX_OPENAI_BASE_URL", f"{gateway}/chef/v1")
    with ai.OpenAI(base_url=f"{gateway}/chef/v1", api_key=KEY) as client, pytest.raises(ai.errors.RefusedError):
        client.embeddings.create(model="gpt-4o-mini", input="Hi")
    assert [(row["provider"], row["status"]) for row in rows(app)] == [("chef", "refused")]
    assert endpoint.count == 0


@pytest.fixture
def chef(app: ai.App, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> ai.OpenAI:
    monkeypatch.setenv("CONVEX_OPENAI_BASE_URL", endpoint.url)
    return ai.OpenAI(base_url=endpoint.url, api_key=KEY)


@pytest.mark.parametrize(
    "ask",
    [
        lambda c: c.responses.create(model="gpt-4o-mini", input="Hi"),
        lambda c: c.embeddings.create(model="gpt-4o-mini", input="Hi"),
        lambda c: c.models.list(),
        lambda c: c.chat.completions.create(model="gpt-4o", messages=HELLO),
        lambda c: c.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True),
    ],
)
def test_what_chef_does_not_have_is_refused(chef: ai.OpenAI, endpoint: Endpoint, app: ai.App, ask: Any):
    with pytest.raises(RefusedError, match="chef"):
        ask(chef)
    assert endpoint.count == 0
    (row,) = rows(app)
    assert (row["status"], row["provider"], row["error_code"]) == ("refused", "chef", "refused")


def test_what_chef_has_is_sent(chef: ai.OpenAI, endpoint: Endpoint, app: ai.App):
    assert chef.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    assert statuses(app) == ["ok"]
