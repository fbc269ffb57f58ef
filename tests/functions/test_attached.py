"""What goes along with messages of a conversation, as a provider is given it."""

from __future__ import annotations

from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.testing import Endpoint, Fault
from tests.functions.talking import over, row, shown

NOTES = {"kind": "file", "name": "notes.txt", "text": "The bridge is 2.7 km long."}
PICTURE = {"kind": "image", "name": "a.png", "media_type": "image/png", "data": "QUJD"}


@pytest.fixture
def talk(app: ai.App) -> str:
    return str(ai.run("start_conversation", title="a talk"))


def ask(app: ai.App, talk: str, text: str, *attachments: dict[str, str]) -> str:
    reply = str(ai.run("send_message", conversation_id=talk, content=text, attachments=list(attachments)))
    over(app, reply)
    return reply


def sent(endpoint: Endpoint, index: int = -1) -> list[Any]:
    return [message["content"] for message in endpoint.calls[index].body["messages"]]


def test_it_goes_along_and_the_message_stays_as_it_was_typed(app: ai.App, endpoint: Endpoint, talk: str):
    ask(app, talk, "How long? @notes", NOTES)
    assert sent(endpoint)[0].startswith("How long? @notes\n\n")
    assert NOTES["text"] in sent(endpoint)[0]
    assert shown(talk)[0].content == "How long? @notes"
    assert [one.name for one in shown(talk)[0].attached] == ["notes.txt"]


def test_pictures_are_parts(app: ai.App, endpoint: Endpoint, talk: str):
    ask(app, talk, "What is it?", PICTURE, NOTES)
    text, image = sent(endpoint)[0]
    assert image == {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    assert NOTES["text"] in text["text"]


def test_what_the_model_does_not_take_is_said(app: ai.App, endpoint: Endpoint, talk: str):
    endpoint.reply(Fault(400, message="this model does not support image input"))
    reply = ask(app, talk, "What is it?", PICTURE)
    assert "does not support image input" in row(app, reply)["error_message"]
    assert row(app, reply)["error_code"] == "pictures_refused"
    endpoint.reply(Fault(400, message="this model does not support image input"))
    talk = str(ai.run("start_conversation", title="another"))
    assert row(app, ask(app, talk, "Without any", NOTES))["error_code"] != "pictures_refused"


def test_it_is_seen_from_a_cell_and_in_the_next_question(app: ai.App, endpoint: Endpoint, talk: str):
    ask(app, talk, "How long?", NOTES)
    ask(app, talk, "In miles?")
    assert NOTES["text"] in sent(endpoint)[0]
    app.generate("And in feet?", conversation="a talk")
    assert sent(endpoint)[0] == sent(endpoint, 1)[0], "byte for byte"


def test_of_long_ones_the_newest_go_along(app: ai.App, endpoint: Endpoint, talk: str):
    for number in range(4):  # about 8,000 tokens each, and 24,000 fit
        ask(app, talk, f"question {number}", {"kind": "file", "name": f"{number}.txt", "text": f"{number}" * 31_900})
    contents = [text for text in sent(endpoint) if text.startswith("question")]
    assert [len(text) > 30_000 for text in contents] == [False, True, True, True]
    assert "left out here: 0.txt" in contents[0]
    app.generate("And?", conversation="a talk")
    assert [len(text) > 30_000 for text in sent(endpoint) if text.startswith("question")] == [False, True, True, True]


def test_changed_it_keeps_what_went_along_unless_other_things_are_named(app: ai.App, endpoint: Endpoint, talk: str):
    ask(app, talk, "How long?", NOTES)
    over(app, ai.run("edit_message", message_id=shown(talk)[0]._id, content="How short?"))
    assert sent(endpoint)[0].startswith("How short?")
    assert NOTES["text"] in sent(endpoint)[0]
    over(app, ai.run("edit_message", message_id=shown(talk)[0]._id, content="How wide?", attachments=[]))
    assert sent(endpoint) == ["How wide?"]


def test_a_fork_has_it_too(app: ai.App, endpoint: Endpoint, talk: str):
    fork = ai.run("fork_conversation", message_id=ask(app, talk, "How long?", NOTES))
    ask(app, fork, "In miles?")
    assert NOTES["text"] in sent(endpoint)[0]


def test_what_is_none_is_refused_and_nothing_is_sent(app: ai.App, endpoint: Endpoint, talk: str):
    with pytest.raises(errors.InputError, match="attachment"):
        ask(app, talk, "Hi", {"kind": "virus", "name": "x", "text": ""})
    assert shown(talk) == []
    assert endpoint.count == 0


def test_known_keys_are_taken_out_before_it_is_kept(app: ai.App, endpoint: Endpoint, talk: str):
    ask(app, talk, "Hi", {**NOTES, "text": "OPENAI_API_KEY=sk-test-0123456789abcdef"})
    assert "sk-test-0123456789abcdef" not in sent(endpoint)[0]
    assert "OPENAI_API_KEY=***" in sent(endpoint)[0]
