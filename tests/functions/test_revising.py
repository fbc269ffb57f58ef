"""Going back in a conversation: asking again, saying something else, forking; and keeping house."""

from __future__ import annotations

from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai import actions, errors
from ipyconvexai.testing import Answer, Endpoint, Fault
from tests.functions.talking import mutate_as, over, query_as, row, shown
from tests.store.helpers import wait_for


@pytest.fixture
def talk(app: ai.App) -> str:
    return str(ai.run("start_conversation", title="a talk", system="Be brief."))


def ask(app: ai.App, talk: str, text: str) -> str:
    """The reply's id, when it is there."""
    reply = str(ai.run("send_message", conversation_id=talk, content=text))
    over(app, reply)
    return reply


def said(talk: str) -> list[tuple[str, str | None]]:
    return [(message.role, message.content) for message in shown(talk)]


def test_a_reply_is_written_again(app: ai.App, endpoint: Endpoint, talk: str):
    endpoint.reply([Fault(400, message="no"), Answer("yes")])
    failed = ask(app, talk, "Is it?")
    assert row(app, failed)["status"] == "failed"
    again = ai.run("retry_response", message_id=failed)
    assert over(app, again)["content"] == "yes"
    assert said(talk) == [("user", "Is it?"), ("assistant", "yes")]
    assert endpoint.calls[0].body["messages"] == endpoint.calls[1].body["messages"]


def test_what_was_asked_is_changed_and_what_followed_goes(app: ai.App, endpoint: Endpoint, talk: str):
    ask(app, talk, "one")
    question = shown(talk)[0]._id
    ask(app, talk, "two")
    over(app, ai.run("edit_message", message_id=question, content="uno"))
    assert [role for role, _ in said(talk)] == ["user", "assistant"]
    assert said(talk)[0][1] == "uno"
    assert [message["content"] for message in endpoint.calls[-1].body["messages"]] == ["Be brief.", "uno"]
    assert len(app.ledger.calls()) == 3, "what was sent stays recorded"


def test_a_reply_that_is_being_written_is_stopped(app: ai.App, endpoint: Endpoint, talk: str):
    endpoint.reply([Answer("word " * 400, token_delay=0.02), Answer("short")])
    reply = str(ai.run("send_message", conversation_id=talk, content="long"))
    wait_for(lambda: app.store.read("SELECT count(*) > 0 FROM message_deltas")[0][0], "it to begin")
    again = ai.run("retry_response", message_id=reply)
    assert over(app, again)["content"] == "short"
    endpoint.wait(lambda double: double.disconnects == 1)
    assert len(said(talk)) == 2


def test_a_fork_goes_its_own_way(app: ai.App, endpoint: Endpoint, talk: str):
    first = ask(app, talk, "one")
    ask(app, talk, "two")
    fork = ai.run("fork_conversation", message_id=first)
    assert said(fork) == said(talk)[:2]
    ask(app, fork, "three")
    assert len(said(talk)) == 4
    assert len(said(fork)) == 4
    titles = [one["title"] for one in ai.run("list_conversations")]
    assert titles == ["a talk (fork)", "a talk"]
    ai.run("fork_conversation", message_id=first)
    assert ai.run("list_conversations")[0]["title"] == "a talk (fork) 2"


def test_titles(app: ai.App, talk: str):
    other = ai.run("start_conversation", title="another")
    ai.run("rename_conversation", conversation_id=talk, title="  whales ")
    assert ai.run("list_conversations", search="WHALE") == ai.run("list_conversations")[1:]
    with pytest.raises(errors.InputError, match="already"):
        ai.run("rename_conversation", conversation_id=other, title="whales")
    with pytest.raises(errors.InputError, match="title"):
        ai.run("rename_conversation", conversation_id=other, title=" ")
    ai.run("rename_conversation", conversation_id=talk, title="whales")


def test_they_are_found_by_what_was_said(app: ai.App, endpoint: Endpoint, talk: str):
    ask(app, talk, "How long is the Golden Gate Bridge?")
    ai.run("start_conversation", title="empty")
    found = ai.run("list_conversations", search="golden gate")
    assert [(one["title"], one["messages"]) for one in found] == [("a talk", 2)]
    assert ai.run("list_conversations", search="100%") == []


def test_one_is_deleted_with_its_messages(app: ai.App, endpoint: Endpoint, talk: str):
    ask(app, talk, "one")
    ai.run("delete_conversation", conversation_id=talk)
    assert app.store.read("SELECT (SELECT count(*) FROM conversations), (SELECT count(*) FROM messages)") == [(0, 0)]
    assert len(app.ledger.calls()) == 1
    with pytest.raises(errors.NotFoundError):
        ai.run("send_message", conversation_id=talk, content="hello?")


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (actions.retry_response, {"message_id": "reply"}),
        (actions.edit_message, {"message_id": "question", "content": "x"}),
        (actions.fork_conversation, {"message_id": "question"}),
        (actions.rename_conversation, {"conversation_id": "talk", "title": "x"}),
        (actions.delete_conversation, {"conversation_id": "talk"}),
    ],
)
def test_those_of_others_are_nobodys_business(
    app: ai.App, endpoint: Endpoint, talk: str, function: Any, args: dict[str, str]
):
    ids = {"talk": talk, "reply": ask(app, talk, "one"), "question": shown(talk)[0]._id}
    given = {name: ids.get(value, value) for name, value in args.items()}
    before = said(talk)
    with pytest.raises(errors.NotFoundError):
        mutate_as(app, "mallory", function, **given)
    assert said(talk) == before
    assert query_as(app, "mallory", actions.list_conversations) == []


def test_what_is_no_message_of_that_kind_is_refused(app: ai.App, endpoint: Endpoint, talk: str):
    reply, question = ask(app, talk, "one"), shown(talk)[0]._id
    with pytest.raises(errors.InputError, match="only a reply"):
        ai.run("retry_response", message_id=question)
    with pytest.raises(errors.InputError, match="one's own"):
        ai.run("edit_message", message_id=reply, content="x")
    with pytest.raises(errors.EmptyPromptError):
        ai.run("edit_message", message_id=question, content=" ")
    assert len(said(talk)) == 2
