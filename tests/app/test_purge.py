"""``ai.ledger.purge``: content goes, what it cost stays. For good: that is in tests/promises/test_purged.py."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.ids import new_id
from ipyconvexai.store.clock import utc_now
from ipyconvexai.testing import Answer, Endpoint, Fault, ToolCall


@pytest.fixture
def ledger(endpoint: Endpoint) -> Iterator[Any]:
    """Of an app in memory."""
    with ai.connect(":memory:", model="openai:gpt-4o-mini", retries=1) as opened:
        yield opened.ledger


def add_job(store: Any, args: str, result: str | None, state: str = "success") -> str:
    """A row of a job; one that is not over has no result."""
    key, now = new_id(), utc_now()
    columns = (
        "id name kind args created_at scheduled_time due_at state attempts max_attempts finished_at result".split()
    )
    over = now if state == "success" else None
    values = [key, "f", "action", args, now, now, now + datetime.timedelta(days=9), state, 1, 1, over, result]
    with store.transaction() as execute:
        execute(
            f"INSERT INTO scheduled_functions ({', '.join(columns)}) VALUES ({', '.join('?' * len(values))})", values
        )
    return key


CONTENT = "SELECT count(*) FROM calls WHERE concat(request, response, text, error_message) <> ''"
KEPT = """
    SELECT r.* EXCLUDE (body, body_bytes), s.* EXCLUDE (body, body_bytes, text, error_message)
    FROM requests r JOIN responses s ON s.request_id = r.id ORDER BY r.id
"""


def test_content_goes_and_what_it_cost_stays(ledger: Any, endpoint: Endpoint):
    endpoint.reply([Answer("one", usage=(10, 3)), Answer("two", usage=(20, 5)), Fault(400, message="bad prompt")])
    ai.generate("first", conversation="talk")
    ai.generate("second")
    ai.safe_generate("third")
    usage, rows = ledger.usage().fetchall(), ledger.sql(KEPT).fetchall()
    done = ledger.purge(everything=True)
    assert (done.calls, done.messages, done.conversations) == (3, 2, 1)
    assert ledger.usage().fetchall() == usage
    assert ledger.sql(KEPT).fetchall() == rows
    assert ledger.sql(CONTENT).fetchall() == [(0,)]
    assert int(ledger.purge(everything=True)) == 0


def test_what_was_removed_is_never_replayed(ledger: Any, endpoint: Endpoint):
    ai.generate("hello", replay="reuse")
    assert ai.generate("hello", replay="reuse").replayed
    ledger.purge(containing="hello")
    with pytest.raises(errors.ReplayMissError):
        ai.generate("hello", replay="only")
    assert not ai.generate("hello", replay="reuse").replayed
    assert ai.generate("hello", replay="only").replayed


def test_a_conversation_that_was_removed_is_not_sent_again(ledger: Any, endpoint: Endpoint):
    ai.generate("my name is Ada", conversation="talk")
    (key,) = ledger.sql("SELECT id::VARCHAR FROM conversations").fetchall()[0]
    ledger.purge(conversation="talk")
    ai.generate("who am I?", conversation=key)
    assert "Ada" not in str(endpoint.calls[-1].body)


def test_budgets_go_on_counting(app: ai.App, endpoint: Endpoint):
    endpoint.reply(Answer("x", usage=(300, 50)))
    app.budget(tokens=400, per="day")
    ai.generate("first")
    app.ledger.purge(everything=True)
    with pytest.raises(errors.BudgetError):
        ai.generate("second")


def test_by_id_goes_one_call_with_all_its_attempts(ledger: Any, endpoint: Endpoint):
    endpoint.reply([Fault(500, message="first try"), Answer("done"), Answer("other")])
    request = ai.generate("one question").request_id
    ai.generate("another question")
    done = ledger.purge(request)
    assert done.calls == 2
    assert [row[0] for row in ledger.sql("SELECT text FROM calls WHERE request IS NOT NULL")] == ["other"]


def test_the_first_attempts_id_finds_the_later_ones(ledger: Any, endpoint: Endpoint):
    endpoint.reply([Fault(500), Answer("done")])
    ai.generate("one question")
    ((first,),) = ledger.sql("SELECT id::VARCHAR FROM calls WHERE attempt = 1").fetchall()
    assert ledger.purge(first).calls == 2


def test_before_keeps_what_is_newer(ledger: Any):
    ai.generate("old", conversation="long")
    between = datetime.datetime.now(datetime.UTC)
    ai.generate("new", conversation="long")
    done = ledger.purge(before=between)
    assert (done.calls, done.messages, done.conversations) == (1, 2, 0)  # the conversation goes on
    assert ledger.sql("SELECT count(content), count(*) FROM messages").fetchall() == [(2, 4)]
    assert ledger.purge(before=datetime.timedelta(0)).conversations == 1


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("the PHRASE is here", "phrase"),
        ("Zoë said", "zoë SAID"),
        ('she said "no" twice', 'said "no"'),
        ("line one\nline two", "one\nline"),
        ("back\\slash", "back\\slash"),
        ("100% _sure_", "% _sure"),
    ],
)
def test_containing_finds_it_however_it_is_spelled(ledger: Any, endpoint: Endpoint, question: str, text: str):
    endpoint.reply("fine")
    ai.generate(question)
    ai.generate("something else")
    assert ledger.purge(containing=text).calls == 1
    assert ledger.sql(CONTENT).fetchall() == [(1,)]


def test_containing_looks_at_answers_streams_and_tools(ledger: Any, endpoint: Endpoint):
    endpoint.reply(
        [Answer('a "needle" in it'), Answer(tool_calls=[ToolCall("f", {"name": 'a "needle"'})]), Answer("no")]
    )
    for _ in ai.stream("one"):
        pass
    ai.OpenAI().chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "two"}])
    ai.generate("three")
    assert ledger.purgeable(containing='a "Needle"').calls == 2
    assert ledger.purge(containing='a "Needle"').calls == 2


def test_criteria_go_together(ledger: Any):
    ai.generate("fox", conversation="a")
    ai.generate("fox", conversation="b")
    assert ledger.purgeable(containing="fox").calls == 2
    assert ledger.purge(containing="fox", conversation="a").calls == 1
    assert ledger.purgeable(containing="fox", before="1d").calls == 0


def test_documents_and_jobs_that_are_over_go(ledger: Any):
    store = ai.app().store
    ai.app().records.add_documents(["a fox", "a hare"], source="foxes.csv")
    over = add_job(store, '{"text": "fox"}', '"fox"')
    add_job(store, '{"text": "fox"}', None, "pending")
    found = ledger.purge(containing="fox")
    assert (found.documents, found.jobs, found.under_way) == (2, 1, 1)
    assert ledger.sql("SELECT args, result FROM scheduled_functions ORDER BY id").fetchall() == [
        ("{}", None),
        ('{"text": "fox"}', None),
    ]
    assert ledger.sql("SELECT count(content), sum(size)::INT FROM documents").fetchall() == [(0, 11)]
    assert int(ledger.purge(over)) == 0


def test_saved_prompts_go_but_not_by_their_age(ledger: Any):
    with ai.app().store.transaction() as execute:
        for text in ("a fox", "a hare", "a wolf"):
            execute("INSERT INTO prompts (id, created_at, name, text) VALUES (uuid(), '2020-01-01', 'p', ?)", [text])
    assert ledger.purge(before="1d").prompts == 0
    assert ledger.purge(before="1d", containing="hare").prompts == 1
    assert ledger.purge(containing="FOX").prompts == 1
    assert ledger.purge(everything=True).prompts == 1
    assert ledger.sql("SELECT count(*) FROM prompts").fetchall() == [(0,)]


def test_what_is_under_way_stays(ledger: Any):
    store = ai.app().store
    key = new_id()
    with store.transaction() as execute:
        execute(
            "INSERT INTO messages (id, created_at, conversation_id, role, content, status)"
            " VALUES (?, ?, uuid(), 'assistant', 'so far', 'streaming')",
            [key, utc_now()],
        )
    assert ledger.purge(everything=True).under_way == 1
    assert ledger.sql("SELECT content FROM messages").fetchall() == [("so far",)]


def test_other_places_that_hold_the_text_are_named(ledger: Any):
    with ai.app().store.transaction() as execute:
        execute('CREATE TABLE "My Notes" (id UUID PRIMARY KEY, "a text" VARCHAR, tags VARCHAR[])')
        execute("INSERT INTO \"My Notes\" VALUES (uuid(), 'a Fox', []), (uuid(), NULL, ['fox']), (uuid(), 'x', NULL)")
    ai.generate("fox")
    assert ledger.purge(containing="fox").elsewhere == {"My Notes": 2}
    assert ledger.purge(containing="nothing of it").elsewhere == {}


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"containing": ""},
        {"containing": 7},
        {"containing": "\ud800"},
        {"request_id": "no id"},
        {"request_id": str(new_id())},
        {"conversation": "nobody"},
        {"conversation": 7},
        {"before": "yesterday-ish"},
        {"before": 7},
        {"before": "9999999999999d"},
        {"everything": True, "before": "1d"},
    ],
)
def test_what_cannot_be_meant_removes_nothing(ledger: Any, asked: dict[str, Any]):
    ai.generate("hello")
    with pytest.raises(errors.InputError) as caught:
        ledger.purge(**asked)
    assert caught.value.cure
    assert ledger.sql(CONTENT).fetchall() == [(1,)]


def test_the_summary_says_it_in_words(ledger: Any):
    ai.generate("hello", conversation="talk")
    done = ledger.purge(everything=True)
    assert str(done).startswith("1 call, 2 messages, 1 conversation, of 20")
    assert (int(done), bool(done)) == (4, True)
    assert str(ledger.purge(everything=True)) == "nothing"
