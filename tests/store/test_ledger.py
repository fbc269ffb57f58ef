"""Requests, responses, documents and conversations on a real store: what is kept, and how it is found again."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from ipyconvexai.errors import InputError
from ipyconvexai.ids import new_id
from ipyconvexai.settings import Secret
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.conversations import add_messages, begin_conversation, find_conversation, newest_messages
from ipyconvexai.store.inprocess import ThreadStore
from ipyconvexai.store.ledger import Intent, Ledger, Outcome, document_id


class Watched(ThreadStore):
    """Remembers the SQL it was asked to read with."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        self.asked: list[tuple[str, Any]] = []

    def read(self, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
        self.asked.append((sql, params))
        return super().read(sql, params)


@pytest.fixture
def store() -> Iterator[Watched]:
    store = Watched()
    yield store
    store.close()


@pytest.fixture
def ledger(store: Watched) -> Ledger:
    return Ledger(store)


def intent(ledger: Ledger, key: str, body: str = "the body", **fields: Any) -> Intent:
    return Intent(
        id=new_id(), attempt=1, retry_of=None, sent_at=utc_now(), provider="p", model="m", endpoint="chat/completions",
        base_url="http://here", stream=False, cache_key=key, body=body, body_bytes=None, body_size=len(body),
        user_id=None, source="client", notebook=None, cell_id=None, conversation_id=None, batch_id=None,
        session_id=ledger.store.session_id,
    )._replace(**fields)  # fmt: skip


def call(ledger: Ledger, key: str, text: str | None, status: str = "ok", record: str | None = None) -> str:
    """One recorded call; gives its id."""

    async def run() -> str:
        asked = intent(ledger, key)
        await ledger.admit(asked, record=record)
        body = None if text is None else json.dumps(text)
        await ledger.settle(Outcome(asked.id, utc_now(), status, 200, "text/json", body, text=text), record=record)
        return asked.id

    return asyncio.run(run())


def test_a_call_is_sending_until_it_is_settled(ledger: Ledger, store: Watched):
    asked = intent(ledger, str(uuid.uuid4()))
    asyncio.run(ledger.admit(asked))
    assert store.read("SELECT id::VARCHAR, status, request FROM calls") == [(asked.id, "sending", "the body")]
    asyncio.run(ledger.settle(Outcome(asked.id, utc_now(), "ok", text="the text")))
    assert store.read("SELECT status, text FROM calls") == [("ok", "the text")]


def test_metadata_alone_keeps_no_content(ledger: Ledger, store: Watched):
    key = str(uuid.uuid4())
    call(ledger, key, "secret text", record="metadata")
    assert store.read("SELECT request, response, text, model FROM calls") == [(None, None, None, "m")]
    assert asyncio.run(ledger.recorded(key)) is None
    assert asyncio.run(ledger.recorded_without_content(key))


def test_a_call_cannot_ask_to_keep_more_than_the_ledger_does(store: Watched):
    call(Ledger(store, record="metadata"), str(uuid.uuid4()), "secret text", record="full")
    assert store.read("SELECT request, response, text FROM calls") == [(None, None, None)]


def test_known_keys_are_not_written(ledger: Ledger, store: Watched):
    Secret("sk-known-and-never-written")
    asked = intent(ledger, str(uuid.uuid4()), body="my key is sk-known-and-never-written")
    asyncio.run(ledger.admit(asked))
    outcome = Outcome(asked.id, utc_now(), "error", text="sk-known-and-never-written",
                      error_message="sk-known-and-never-written")  # fmt: skip
    asyncio.run(ledger.settle(outcome))
    ledger.add_documents(["sk-known-and-never-written"])
    assert "sk-known" not in str(store.read("SELECT * FROM calls") + store.read("SELECT * FROM documents"))


def test_the_newest_good_answer_is_found(ledger: Ledger):
    key = str(uuid.uuid4())
    assert asyncio.run(ledger.recorded(key)) is None
    call(ledger, key, "old")
    newest = call(ledger, key, "new")
    call(ledger, key, "failed", status="error")
    found = asyncio.run(ledger.recorded(key))
    assert found is not None
    assert (found.request_id, found.content) == (newest, b'"new"')


def test_answers_of_many_keys(ledger: Ledger):
    good, bad, none = (str(uuid.uuid4()) for _ in range(3))
    call(ledger, good, "old")
    newest = call(ledger, good, "new")
    call(ledger, bad, None, status="unknown")
    found = ledger.answers([good, bad, none])
    assert {key: known[:3] for key, known in found.items()} == {good: (newest, "new", None)}
    assert ledger.tried([good, bad, none]) == {good, bad}
    assert ledger.answers([]) == {}


def test_equal_documents_are_one(ledger: Ledger, store: Watched):
    texts = [f"text {n}" for n in range(600)]
    assert ledger.add_documents(texts) == [document_id(text) for text in texts]
    ledger.add_documents([*texts, "another", "half \ud800"])
    assert store.read("SELECT count(*) FROM documents") == [(602,)]
    assert document_id("half \ud800") == document_id("half ?")


# ---------------------------------------------------------------------------------------------- conversations
def begun(ledger: Ledger, title: str) -> str:
    return begin_conversation(ledger, new_id(), title, "me")


def test_a_conversation_is_found_by_title_and_by_id(ledger: Ledger):
    assert find_conversation(ledger, "my analysis") is None
    first = begun(ledger, "my analysis")
    assert find_conversation(ledger, "my analysis") == first
    assert find_conversation(ledger, first) == first
    assert begun(ledger, "my analysis") == first, "whoever comes second joins"
    assert begun(ledger, "another") != first
    with pytest.raises(InputError, match="there is no conversation"):
        find_conversation(ledger, new_id())
    with pytest.raises(InputError, match="needs a title"):
        find_conversation(ledger, "  ")
    with pytest.raises(InputError, match="no proper text"):
        find_conversation(ledger, "half \ud800")


def test_without_content_there_are_no_conversations(store: Watched):
    with pytest.raises(InputError, match="metadata"):
        find_conversation(Ledger(store, record="metadata"), "my secret title")


def test_the_newest_messages_come_in_order_and_by_the_index(ledger: Ledger, store: Watched):
    mine, other = begun(ledger, "mine"), begun(ledger, "other")
    add_messages(ledger, other, [("user", f"other {n}") for n in range(3000)], None)
    add_messages(ledger, mine, [("user", f"message {n}") for n in range(80)], None)
    assert newest_messages(ledger, mine, 3) == [{"role": "user", "content": f"message {n}"} for n in (77, 78, 79)]
    sql, params = store.asked[-1]
    plan = str(store.read(f"EXPLAIN ANALYZE {sql}", params)).lower()  # without ANALYZE it is not decided yet
    assert "index scan" in plan, plan
