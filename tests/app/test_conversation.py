"""``ai.conversation``: a conversation that is kept, from code."""

from __future__ import annotations

import asyncio

import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.testing import Endpoint, Fault


def test_what_was_said_before_is_in_sight(app: ai.App, endpoint: Endpoint):
    talk = ai.conversation("whales")
    assert (talk.id, talk.title, talk.messages()) == (None, "whales", [])
    assert talk.send("one").text == "echo: one"
    assert "".join(talk.stream("two")) == "echo: two"
    assert [message["content"] for message in endpoint.calls[1].body["messages"]] == ["one", "echo: one", "two"]
    assert [(message.role, message.content) for message in talk.messages()] == [
        ("user", "one"), ("assistant", "echo: one"), ("user", "two"), ("assistant", "echo: two"),
    ]  # fmt: skip
    assert ai.conversation(talk.id or "").title == "whales"
    assert repr(talk) == "<conversation 'whales': 4 messages>"


def test_from_async_code(app: ai.App, endpoint: Endpoint):
    reply = asyncio.run(ai.conversation("whales").asend("one", temperature=0.5))
    assert (reply.text, endpoint.calls[0].body["temperature"]) == ("echo: one", 0.5)


def test_a_failed_question_leaves_nothing(app: ai.App, endpoint: Endpoint):
    endpoint.reply(Fault(400))
    talk = ai.conversation("whales")
    with pytest.raises(errors.ProviderError):
        talk.send("one")
    assert talk.messages() == []


def test_a_fork_goes_its_own_way(app: ai.App, endpoint: Endpoint):
    talk = ai.conversation("whales")
    talk.send("one")
    fork, early = talk.fork(title="dolphins"), talk.fork(talk.messages()[0]._id)
    fork.send("two")
    assert (fork.title, early.title) == ("dolphins", "whales (fork)")
    assert [len(each.messages()) for each in (talk, fork, early)] == [2, 4, 1]
    with pytest.raises(errors.InputError, match="already"):
        talk.fork(title="dolphins")


def test_wrong_names(app: ai.App):
    for wrong in (7, "", " "):
        with pytest.raises(errors.InputError):
            ai.conversation(wrong)  # type: ignore[arg-type]
    with pytest.raises(errors.InputError, match="no conversation"):
        ai.conversation("0190a6b1-0000-7000-8000-000000000000")
    with pytest.raises(errors.NotFoundError):
        ai.conversation("new").fork()
    with app.store.transaction() as execute:
        execute(
            "INSERT INTO conversations (id, created_at, title, user_id)"
            " VALUES (uuidv7(), now()::TIMESTAMP, 'theirs', 'mallory')"
        )
    with pytest.raises(errors.NotFoundError):
        ai.conversation("theirs")
