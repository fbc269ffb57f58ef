"""One retry policy: what the ledger counts is what the provider saw, and the pauses are those that were asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from ipyconvexai.testing import Answer, Drop, Endpoint, Fault, Stall
from tests.providers.lab import HELLO, Lab, rows, statuses


def ask(client: Any, **options: Any) -> Any:
    return client.chat.completions.create(model="m", messages=HELLO, **options)


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
