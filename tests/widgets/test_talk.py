"""A conversation as a page shows it, without a page: what is told of what happens in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.functions.registry import registry
from ipyconvexai.store.link import KeeperStore
from ipyconvexai.testing import Answer, Endpoint, Fault
from ipyconvexai.widgets.talk import Talk, Update
from tests.store.helpers import wait_for


class Page:
    """What somebody sees who begins with nothing and does what is told."""

    def __init__(self) -> None:
        self.shown: dict[str, dict[str, Any]] = {}
        self.tellings = 0
        self.title: str | None = None
        self.settings: tuple[str, str] | None = None
        self.total = ""
        self.sizes: list[int] = []  # of the answer

    def tell(self, updates: list[Update]) -> None:
        for update in updates:
            self.tellings += 1
            if update["kind"] == "order":
                self.shown = {key: self.shown[key] for key in update["ids"] if key in self.shown}
                continue
            if update["kind"] == "title":
                self.title = update["title"]
                continue
            if update["kind"] == "cleared":
                self.shown = {}
                continue
            if update["kind"] == "settings":
                self.settings = (update["model"], update["system"])
                continue
            if update["kind"] == "total":
                self.total = update["text"]
                continue
            before = self.shown.get(update["id"], {"html": []})
            if update["role"] == "user":
                self.shown[update["id"]] = {**update, "html": [update["text"]]}
            else:
                html = [*before["html"][: update["keep"]], *update["blocks"]]
                self.shown[update["id"]] = {**update, "html": html}
                self.sizes.append(len("".join(html)))

    def all(self) -> list[tuple[str, str, str]]:
        return [(one["role"], one["status"], "".join(one["html"]).strip()) for one in self.shown.values()]

    def until(self, seen: Callable[[list[tuple[str, str, str]]], bool]) -> None:
        wait_for(lambda: seen(self.all()), "the page to show it")


@pytest.fixture
def opened(app: ai.App) -> Iterator[Callable[..., tuple[Talk, Page]]]:
    talks: list[Talk] = []

    def open_talk(title: str | None = "Bridges", system: str | None = None) -> tuple[Talk, Page]:
        page = Page()
        talk = Talk(app, title, page.tell, system=system)
        app.run(talk.open())
        talks.append(talk)
        return talk, page

    yield open_talk
    for talk in talks:
        talk.close()


Open = Callable[..., tuple[Talk, Page]]


def parts_of(app: ai.App, talk: Talk) -> list[list[Update]]:
    async def collect() -> list[list[Update]]:
        return [part async for part in talk.snapshot()]

    return app.run(collect())


def test_what_is_said_and_answered_is_told(app: ai.App, endpoint: Endpoint, opened: Open):
    endpoint.reply(Answer("# One\n\ntwo", usage=(10, 5)))
    talk, page = opened()
    app.run(talk.send("Say <b>it</b>"))
    page.until(lambda told: len(told) == 2 and told[1][1] == "done")
    assert page.all() == [("user", "done", "Say <b>it</b>"), ("assistant", "done", "<h1>One</h1>\n<p>two</p>")]
    foot = list(page.shown.values())[1]["foot"]
    assert "15 tokens" in foot
    wait_for(lambda: page.total.startswith("1 call: 15 tokens"), "what all of it took")
    other = Page()
    for part in parts_of(app, talk):
        other.tell(part)
    assert (other.title, other.all()) == ("Bridges", page.all())
    assert (other.settings, other.total) == (("", ""), page.total)


def test_an_answer_is_told_while_it_comes(app: ai.App, endpoint: Endpoint, opened: Open):
    endpoint.reply(Answer("word " * 40, token_delay=0.02))
    talk, page = opened()
    app.run(talk.send("Hi"))
    page.until(lambda told: len(told) == 2 and told[1][1] == "done")
    assert len(set(page.sizes)) > 4, "it grew"
    assert page.tellings < 40, "what came within 50 ms was told as one"
    assert page.sizes == sorted(page.sizes)


def test_another_process_is_seen(app: ai.App, endpoint: Endpoint, opened: Open):
    talk, page = opened()
    app.run(talk.send("Hi"))
    page.until(lambda told: len(told) == 2 and told[1][1] == "done")
    elsewhere = KeeperStore(app.store.path)  # another session at the keeper, as another process has
    with elsewhere.transaction() as execute:
        execute(
            "INSERT INTO messages (id, created_at, conversation_id, role, content, status)"
            " VALUES (uuidv7(), now()::TIMESTAMP, ?, 'user', 'from elsewhere', 'done')",
            [talk.id],
        )
    elsewhere.close()
    page.until(lambda told: told[2:] == [("user", "done", "from elsewhere")])


def test_what_is_stopped_keeps_what_had_come(app: ai.App, endpoint: Endpoint, opened: Open):
    endpoint.reply(Answer("word " * 400, token_delay=0.02))
    talk, page = opened()
    app.run(talk.send("Hi"))
    page.until(lambda told: len(told) == 2 and "word word" in told[1][2])
    app.run(talk.stop())
    page.until(lambda told: told[1][1] == "canceled")
    assert "word word" in page.all()[1][2]
    assert "Stopped" in list(page.shown.values())[1]["note"]["text"]
    endpoint.wait(lambda double: double.disconnects == 1)


def test_a_failure_is_told(app: ai.App, endpoint: Endpoint, opened: Open):
    endpoint.reply(Fault(400, message="<b>no</b>"))
    talk, page = opened()
    app.run(talk.send("Hi"))
    page.until(lambda told: len(told) == 2 and told[1][1] == "failed")
    note = list(page.shown.values())[1]["note"]
    assert note["error"]
    assert "<b>no</b>" in note["text"], "the page puts it in as text"


def test_an_empty_message_is_not_sent(app: ai.App, endpoint: Endpoint, opened: Open):
    talk, page = opened()
    with pytest.raises(errors.EmptyPromptError):
        app.run(talk.send(" \n"))
    assert endpoint.count == 0
    assert page.all() == []


def test_it_is_the_conversation_of_that_name(app: ai.App, endpoint: Endpoint, opened: Open):
    app.generate("Before", conversation="Bridges")
    _, page = opened("Bridges")
    assert [one[0] for one in page.all()] == ["user", "assistant"]
    app.generate("After", conversation="Bridges")
    page.until(lambda told: len(told) == 4)


def test_a_new_one_begins_with_the_first_message(app: ai.App, endpoint: Endpoint, opened: Open):
    new, page = opened(None, system="Be brief.")
    assert str(page.title).startswith("Chat of ")
    assert app.store.read("SELECT count(*) FROM conversations") == [(0,)]
    app.run(new.send("Hi"))
    page.until(lambda told: len(told) == 2 and told[1][1] == "done")
    assert app.store.read("SELECT title, system FROM conversations") == [(page.title, "Be brief.")]
    assert endpoint.calls[0].body["messages"][0] == {"role": "system", "content": "Be brief."}


def test_one_that_somebody_else_begins_is_the_same(app: ai.App, endpoint: Endpoint, opened: Open):
    _, page = opened("Tides")
    app.generate("From a cell", conversation="Tides")
    page.until(lambda told: len(told) == 2)


def test_a_wait_for_a_limit_is_told(app: ai.App, endpoint: Endpoint, opened: Open):
    app.limit("few", requests=1, per=2)
    talk, page = opened()
    app.run(talk.send("one"))
    page.until(lambda told: len(told) == 2 and told[1][1] == "done")
    app.run(talk.send("two"))
    page.until(lambda told: len(told) == 4 and list(page.shown.values())[3]["wait"] is not None)
    wait = list(page.shown.values())[3]["wait"]
    assert "few" in wait["why"]
    assert 0 < wait["seconds"] <= 2
    page.until(lambda told: told[3][1] == "done")
    assert list(page.shown.values())[3]["wait"] is None


def test_the_conversation_of_somebody_else_is_not_shown(app: ai.App, opened: Open):
    with app.store.transaction() as execute:
        ((key,),) = execute(
            "INSERT INTO conversations (id, created_at, title, user_id)"
            " VALUES (uuidv7(), now()::TIMESTAMP, 'Theirs', 'mallory') RETURNING id::VARCHAR"
        )
    for name in (key, "Theirs"):
        with pytest.raises(errors.NotFoundError):
            opened(name)


def test_model_and_instructions_are_used_by_all_ways_to_ask(app: ai.App, endpoint: Endpoint, opened: Open):
    def asked() -> tuple[str, str]:
        body = endpoint.calls[-1].body
        return body["model"], body["messages"][0]["content"]

    talk, page = opened(system="Be brief.")
    assert page.settings is None  # a page that says hello is told
    app.run(talk.send("one"))
    page.until(lambda told: len(told) == 2 and told[1][1] == "done")
    assert asked() == ("gpt-4o-mini", "Be brief.")
    app.run(talk.configure("openai:gpt-4o", " Be long. "))
    wait_for(lambda: page.settings == ("openai:gpt-4o", "Be long."), "the settings")
    app.run(talk.send("two"))
    page.until(lambda told: len(told) == 4 and told[3][1] == "done")
    assert asked() == ("gpt-4o", "Be long.")
    ai.generate("three", conversation="Bridges")
    assert asked() == ("gpt-4o", "Be long.")
    ai.generate("four", conversation="Bridges", model="openai:gpt-4.1", system="Be wrong.")
    assert asked() == ("gpt-4.1", "Be wrong.")
    fork = ai.conversation("Bridges").fork()
    fork.send("five")
    assert asked() == ("gpt-4o", "Be long.")
    app.run(talk.configure("", ""))
    wait_for(lambda: page.settings == ("", ""), "the settings")
    app.run(talk.send("six"))
    wait_for(lambda: asked()[0] == "gpt-4o-mini", "the default")


def test_what_the_code_names_is_set_in_a_conversation_that_is_there(app: ai.App, opened: Open):
    key = ai.run("start_conversation", title="Bridges", system="Be brief.")
    page = Page()
    talk = Talk(app, "Bridges", page.tell, model="openai:gpt-4o")
    app.run(talk.open())
    talk.close()
    assert app.store.read("SELECT id::VARCHAR, model, system FROM conversations") == [
        (key, "openai:gpt-4o", "Be brief.")
    ]


def test_a_model_that_is_none_changes_nothing(app: ai.App, endpoint: Endpoint, opened: Open):
    talk, page = opened()
    with pytest.raises(errors.UnknownProviderError):
        app.run(talk.configure("nobody:x", ""))
    assert page.settings is None


def test_a_long_conversation_is_told_in_parts_and_its_transcript_is_short(opened, app):
    key = app.run(app.functions.arun(registry.find("start_conversation"), {"title": "Long"}))
    with app.store.transaction() as execute:
        for number in range(100):
            execute.later(
                "INSERT INTO messages (id, created_at, conversation_id, role, content, status)"
                " VALUES (uuidv7(), now()::TIMESTAMP + INTERVAL (?) MILLISECOND, ?, 'assistant', ?, 'done')",
                [number, key, f"answer {number}"],
            )
    talk, _page = opened("Long")
    other, sizes, last = Page(), [], []
    for part in parts_of(app, talk):
        other.tell(part)
        sizes.append(len(part))
        last.append(list(other.shown)[-1:])
    assert max(sizes) <= 42
    assert [text for _, _, text in other.all()] == [f"<p>answer {number}</p>" for number in range(100)]
    assert last[1:] == last[1:2] * (len(last) - 1), "the newest are there first"
    transcript = talk.transcript()
    assert "(40 earlier messages" in transcript
    assert "answer 39" not in transcript
    assert transcript.index("answer 40") < transcript.index("answer 99")


def test_what_the_code_names_holds_also_where_a_cell_begins_the_conversation(
    app: ai.App, endpoint: Endpoint, opened: Open
):
    talk, page = opened("Begun elsewhere", "Be brief.")
    ai.generate("from a cell", conversation="Begun elsewhere")
    page.until(lambda told: len(told) == 2)
    app.run(talk.send("from the panel"))
    page.until(lambda told: len(told) == 4 and told[3][1] == "done")
    assert endpoint.calls[-1].body["messages"][0] == {"role": "system", "content": "Be brief."}
