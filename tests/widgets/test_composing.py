"""What goes along with a message that is sent in a panel, without a page."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.functions import streaming
from ipyconvexai.testing import Endpoint
from ipyconvexai.widgets.chat import Chat
from ipyconvexai.widgets.results import words_of
from tests.shells import own_shell
from tests.store.helpers import wait_for


class View:
    """What the page is told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def send(self, content: dict[str, Any]) -> None:
        self.told.append(content)

    def close(self) -> None:
        pass

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.told if one["kind"] == kind]


class Panel:
    """A chat, and the page that it believes to have."""

    def __init__(self, app: ai.App, title: str = "Bridges", system: str | None = None) -> None:
        self.app = app
        self.chat = Chat(app, title, system=system)
        self.view = self.chat._view = View()
        self.chat._open()
        self.say("hello")

    def say(self, kind: str, **said: Any) -> None:
        self.app.run(self.chat._do({"kind": kind, "token": f"{kind} {len(self.view.told)}", **said}))

    def attach(self, name: str, data: bytes) -> str:
        self.say("file", token=name, name=name, bytes=True, buffers=[memoryview(data)])
        return name

    def messages(self) -> list[ai.Message]:
        found: list[ai.Message] = ai.run("load_messages", conversation_id=self.chat.id)
        return found

    def answered(self, count: int = 1) -> None:
        def done() -> bool:
            return [one.status for one in self.messages()].count("done") == 2 * count

        wait_for(done, "the answer")


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Any]:
    with own_shell(tmp_path) as made:
        made.user_ns |= {"df": pd.DataFrame({"length": [2737, 244]}), "env": os.environ}
        yield made


@pytest.fixture
def panel(app: ai.App, shell: Any) -> Iterator[Panel]:
    made = Panel(app)
    yield made
    made.chat.close()


def sent(endpoint: Endpoint) -> Any:
    return endpoint.calls[-1].body["messages"][-1]["content"]


def test_variables_and_files_go_along(panel: Panel, endpoint: Endpoint):
    panel.attach("<b>notes.txt", b"The bridge is long.")
    assert panel.view.of("files")[-1]["files"] == [
        {"id": "<b>notes.txt", "name": "<b>notes.txt", "kind": "file", "tokens": 5}
    ]
    panel.say("send", token="t", text="What is in @df?", files=["<b>notes.txt"])
    assert panel.view.of("taken") == [{"kind": "taken", "token": "t"}]
    assert panel.view.of("files")[-1]["files"] == [], "sent, they are gone"
    panel.answered()
    assert sent(endpoint).startswith("What is in @df?\n\n")
    assert "pandas DataFrame: 2 rows" in sent(endpoint)
    assert "The bridge is long." in sent(endpoint)
    told = [one for each in panel.view.of("told") for one in each["updates"] if one.get("role") == "user"]
    assert [(one["name"], one["kind"]) for one in told[-1]["attached"]] == [("df", "frame"), ("<b>notes.txt", "file")]
    assert "Attached: df, <b>notes.txt" in panel.chat._talk.transcript()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"text": "What is in @env?"}, "holds the environment"),
        ({"text": "@cell:99"}, "there is no cell 99"),
        ({"text": "Hi", "files": ["gone"]}, "a file is here no more"),
        ({"text": "  "}, "the prompt is empty"),
    ],
)
def test_what_cannot_go_along_is_said_and_nothing_is_sent(
    panel: Panel, endpoint: Endpoint, said: dict[str, Any], why: str
):
    panel.attach("a.txt", b"kept")
    panel.say("send", **{"token": "t", "files": ["a.txt"], **said})
    assert panel.view.of("refused") == [{"kind": "refused", "token": "t"}]
    assert why in panel.view.of("error")[-1]["text"]
    assert panel.chat.id == ""
    assert endpoint.count == 0
    panel.say("send", token="t", text="Hi", files=["a.txt"])
    panel.answered()
    assert "kept" in sent(endpoint), "what was attached is still there"


def test_a_file_that_cannot_be_read_is_said(panel: Panel):
    panel.attach("a.bin", bytes(range(256)))
    assert panel.view.of("refused") == [{"kind": "refused", "token": "a.bin"}]
    assert panel.view.of("error")[-1]["text"].startswith("a.bin is no text and of no kind that can be read")
    assert [each["files"] for each in panel.view.of("files")] == [[]], "as at the beginning"


def test_what_a_page_sends_twice_is_sent_once(panel: Panel, endpoint: Endpoint):
    for _ in range(2):  # it heard nothing of the first
        panel.say("send", token="t", text="Hi", files=[])
    panel.answered()
    assert len(panel.view.of("taken")) == 2
    assert [one.content for one in panel.messages() if one.role == "user"] == ["Hi"]


def test_a_file_is_taken_away_again(panel: Panel):
    panel.attach("a.txt", b"x")
    panel.attach("b.txt", b"x")
    panel.say("unfile", token="a.txt")
    assert [one["name"] for one in panel.view.of("files")[-1]["files"]] == ["b.txt"]
    panel.say("hello")
    assert [one["name"] for one in panel.view.of("files")[-1]["files"]] == ["b.txt"], "also after a reload"


def test_what_will_be_sent_can_be_looked_at(app: ai.App, shell: Any, endpoint: Endpoint):
    panel = Panel(app, "Looked", system="Be brief.")
    panel.attach("a.png", b"\x89PNG\r\n\x1a\n" + b"x" * 40)
    panel.say("preview", token="p", text="What is @df?", files=["a.png"])
    (seen,) = panel.view.of("preview")
    assert [(one["name"], one["kind"]) for one in seen["parts"]] == [
        ("Instructions", "system"),
        ("Your message", "message"),
        ("df", "frame"),
        ("a.png", "image"),
    ]
    assert seen["total"] == sum(one["tokens"] for one in seen["parts"])
    assert endpoint.count == 0
    panel.say("send", token="s", text="What is @df?", files=["a.png"])
    panel.answered()
    assert sent(endpoint)[1]["image_url"]["url"].startswith("data:image/png;base64,iVBORw0KGgp4eHh4")
    panel.say("preview", token="q", text="And?", files=[])
    parts = panel.view.of("preview")[-1]["parts"]
    assert [one["name"] for one in parts] == ["Instructions", "Said before", "Your message"]
    assert "[a picture]" in parts[1]["text"]
    assert "pandas DataFrame" in parts[1]["text"]
    panel.chat.close()


def test_names_are_offered(panel: Panel):
    panel.say("names", token="n", beginning="d")
    assert panel.view.of("names") == [
        {"kind": "names", "token": "n", "names": [{"name": "df", "about": "DataFrame 2 × 1"}]}
    ]


def test_changed_a_message_keeps_what_is_kept(panel: Panel, endpoint: Endpoint, shell: Any):
    panel.attach("a.txt", b"first file")
    panel.attach("b.txt", b"second file")
    panel.say("send", text="What is @df?", files=["a.txt", "b.txt"])
    panel.answered()
    (question,) = (one for one in panel.messages() if one.role == "user")
    shell.user_ns["df"] = pd.DataFrame({"width": [1]})
    panel.say("edit", id=question._id, text="How wide is @df?", files=[], keep=[2])
    panel.answered()
    assert "width" in sent(endpoint)
    assert "length" not in sent(endpoint)
    assert "second file" in sent(endpoint)
    assert "first file" not in sent(endpoint)
    (question,) = (one for one in panel.messages() if one.role == "user")
    del shell.user_ns["df"]
    panel.say("edit", id=question._id, text="How wide was @df?", files=[], keep=[])
    panel.answered()
    assert "width" in sent(endpoint), "the variable is gone; what the message had of it is not"
    assert "second file" not in sent(endpoint)


def test_nobody_looks_at_the_attachments_of_other_conversations(panel: Panel, app: ai.App):
    panel.attach("a.txt", b"theirs")
    panel.say("send", text="Hi", files=["a.txt"])
    other = Panel(app, "Other")
    other.say("send", text="Hello", files=[])
    assert app.run(other.chat._talk.attached(str(panel.messages()[0]._id))) == []
    other.chat.close()


def test_the_error_is_of_the_tree(app: ai.App, shell: Any, panel: Panel):
    with pytest.raises(errors.InputError):
        app.run(panel.chat._composer.hear({"kind": "send", "token": "x", "text": "@env", "files": []}))


def test_what_is_said_is_done_in_its_order(panel: Panel, app: ai.App):
    """Also where what was said first takes longer: it belongs to the conversation in which it was said."""
    panel.say("send", text="One", files=[])
    first = panel.chat.id

    async def at_once() -> None:
        says: list[dict[str, Any]] = [
            {"kind": "send", "token": "a", "text": "Two, about @df", "files": []},
            {"kind": "new"},
            {"kind": "send", "token": "b", "text": "Three", "files": []},
            {"kind": "new"},
            {"kind": "new"},
        ]
        await asyncio.gather(*(panel.chat._do(said) for said in says))

    readers = len(streaming._readers)
    app.run(at_once())
    assert len(streaming._readers) == readers, "of those that were left nobody listens"
    rows = app.store.read(
        "SELECT conversation_id::VARCHAR = ?, content FROM messages WHERE role = 'user' ORDER BY id", [first]
    )
    assert rows == [(True, "One"), (True, "Two, about @df"), (False, "Three")]


def test_a_conversation_that_vanished_leaves_the_panel_as_it_is(panel: Panel, app: ai.App):
    panel.say("send", text="One", files=[])
    panel.answered()
    panel.say("open", id="0190d1f0-0000-7000-8000-000000000000")
    assert "there is no conversation" in panel.view.of("error")[-1]["text"]
    panel.say("send", text="Two", files=[])
    panel.answered(2)
    assert panel.chat.title == "Bridges"


def test_known_keys_are_in_nothing_that_a_page_is_told(app: ai.App, shell: Any):
    key = os.environ["OPENAI_API_KEY"]
    made = Panel(app, f"Title {key}", system=f"Say {key}")
    made.say("configure", model="", system=f"System {key}")
    made.say("file", token="t", name=f"{key}.txt", bytes=True, buffers=[b"text"])
    made.chat._fail(words_of(RuntimeError(key)))
    assert key not in json.dumps(made.view.told, default=str)
    assert key not in made.chat._talk.transcript()
    assert key not in repr(made.chat)
    made.chat.close()


def test_new_conversations_of_one_second_are_two(app: ai.App, endpoint: Endpoint):
    panels = [Chat(app, None), Chat(app, None)]
    for each in panels:
        each._open()
        app.run(each._talk.send("Hi"))
    assert panels[0].id != panels[1].id
    for each in panels:
        each.close()


def test_an_edited_message_keeps_what_it_still_mentions_only(panel: Panel, endpoint: Endpoint, shell: Any):
    shell.user_ns |= {"df2": pd.DataFrame({"width": [27]})}
    panel.say("send", text="What is in @df?", files=[])
    panel.answered()
    del shell.user_ns["df"]
    panel.say("edit", id=str(panel.messages()[0]._id), text="What is in @df2?", files=[], keep=[])
    panel.answered()
    assert "width" in sent(endpoint)
    assert "length" not in sent(endpoint)


def test_an_odd_row_of_a_function_of_ones_own_stops_nothing(panel: Panel, app: ai.App):
    panel.say("send", text="One", files=[])
    panel.answered()
    without = '[{"kind":"file","name":"n","text":"t"}]', '[{"kind":"file","name":null,"tokens":3}]'
    odd = [*without, "[]", "null", "no JSON"]
    with app.store.transaction() as execute:
        for column, text in [("attachments", each) for each in odd] + [("tool_call", each) for each in odd]:
            execute(
                f"INSERT INTO messages (id, created_at, conversation_id, role, content, status, {column})"
                " VALUES (uuidv7(), now()::TIMESTAMP, ?, ?, 'odd', 'done', ?)",
                [panel.chat.id, "tool" if column == "tool_call" else "user", text],
            )
    wait_for(lambda: len(panel.chat._talk._messages) == 2 + 2 * len(odd), "all of them")
    panel.say("send", text="Two", files=[])
    wait_for(lambda: [one.status for one in panel.messages()][-1] == "done", "the answer")
    Panel(app).chat.close()
