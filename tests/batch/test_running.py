"""How batches run: chunks, money, pauses, cancellation, what goes on and what may not."""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import pandas as pd
import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.batch import rows
from ipyconvexai.batch.control import Control
from ipyconvexai.batch.options import Options
from ipyconvexai.batch.progress import Progress
from ipyconvexai.batch.summarize import PROMPT, SYSTEM, Summarize
from ipyconvexai.testing import Answer, Endpoint, Fault


def question(call: Any) -> str:
    return str(call.body["messages"][-1]["content"])


def frame_of(count: int, distinct: int | None = None) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"text number {n % (distinct or count)}" for n in range(count)]})


def states(app: ai.App) -> list[dict[str, Any]]:
    columns = ["kind", "state", "rows", "items", "known", "done", "failed"]
    found: list[dict[str, Any]] = ai.batches().arrow().select(columns).to_pylist()
    return found


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "FIRST_CHUNK", 7)
    monkeypatch.setattr(rows, "LARGEST_CHUNK", 28)


def test_rows_of_many_chunks_come_back_in_order(app: ai.App, endpoint: Endpoint, small_chunks: None):
    endpoint.reply(lambda call: Answer(question(call).split("\n")[1]))
    frame = frame_of(200, distinct=45)
    result = ai.summarize(frame, "text", progress=False)
    assert result["summary"].tolist() == frame["text"].tolist()
    assert endpoint.count == 45, "equal texts of different chunks are sent once"
    again = ai.summarize(frame, "text", progress=False)
    pd.testing.assert_frame_equal(again, result)
    assert endpoint.count == 45
    newest, oldest = states(app)
    assert oldest == {
        "kind": "summarize", "state": "done", "rows": 200, "items": oldest["items"], "known": oldest["items"] - 45,
        "done": 45, "failed": 0,
    }  # fmt: skip
    assert newest["done"] == 0
    of_rows = ai.ledger.sql(
        "SELECT row_number, text FROM batch_results r JOIN batches b ON b.id = r.batch_id WHERE b.done = 45 ORDER BY 1"
    ).fetchall()
    assert of_rows == list(enumerate(frame["text"]))


def test_a_failed_text_of_an_earlier_chunk_is_not_sent_again(app: ai.App, endpoint: Endpoint, small_chunks: None):
    endpoint.reply(lambda call: Fault(400) if "number 3" in question(call) else Answer("fine"))
    result = ai.summarize(frame_of(60, distinct=6), "text", progress=False)
    assert endpoint.count == 6
    assert result["summary"].isna().sum() == 10
    assert result["summary_error"].notna().sum() == 10


def test_fresh_sends_each_text_once(app: ai.App, endpoint: Endpoint, small_chunks: None):
    ai.summarize(frame_of(40, distinct=10), "text", progress=False)
    ai.summarize(frame_of(40, distinct=10), "text", progress=False, fresh=True)
    assert endpoint.count == 20


def test_retry_failed_sends_only_what_failed(app: ai.App, endpoint: Endpoint):
    endpoint.reply(lambda call: Fault(400) if "number 1" in question(call) else Answer("fine"))
    ai.summarize(frame_of(3), "text", progress=False)
    endpoint.reply("now it works")
    sent = endpoint.count
    result = ai.summarize(frame_of(5), "text", progress=False, retry_failed=True)
    assert endpoint.count == sent + 1
    assert result["summary"].tolist()[:3] == ["fine", "now it works", "fine"]
    assert result["summary"].isna().tolist()[3:] == [True, True]
    assert result["summary_error"].str.contains("never tried").tolist()[3:] == [True, True]


def test_retry_failed_asks_again_for_an_answer_that_did_not_fit(app: ai.App, endpoint: Endpoint):
    frame = pd.DataFrame({"text": ["one", "two"]})
    endpoint.reply(lambda call: Answer('{"n": "many"}') if "one" in str(call.body) else Answer('{"n": 2}'))
    first = ai.map(frame, "Count {text}", schema="n int", progress=False)
    assert first["map_error"].notna().tolist() == [True, False]
    assert endpoint.count == 3, "once more, with what was wrong"
    again = ai.map(frame, "Count {text}", schema="n int", progress=False)
    assert endpoint.count == 3
    assert again["map_error"].tolist()[:1] == first["map_error"].tolist()[:1]
    endpoint.reply('{"n": 1}')
    mended = ai.map(frame, "Count {text}", schema="n int", progress=False, retry_failed=True)
    assert mended["n"].tolist() == [1, 2]
    assert endpoint.count == 4


def test_details_are_further_columns(app: ai.App, endpoint: Endpoint):
    frame = pd.DataFrame({"text": ["one", "two", None]})
    result = ai.summarize(frame, "text", progress=False, details=True)
    assert list(result.columns) == [
        "text", "summary", "summary_error", "summary_request_id", "summary_cost", "summary_tokens"
    ]  # fmt: skip
    assert result["summary_cost"].iloc[0] > 0
    assert result["summary_tokens"].iloc[0] > 0
    assert result.iloc[2, 1:].isna().all()
    known = {row[0] for row in ai.ledger.sql("SELECT id::VARCHAR FROM calls").fetchall()}
    assert set(result["summary_request_id"].dropna()) == known
    again = ai.summarize(frame, "text", progress=False, details=("tokens", "cost"))
    assert again["summary_cost"].tolist()[:2] == result["summary_cost"].tolist()[:2], "what it cost when it was sent"


def test_documents_and_their_summaries_are_rows(app: ai.App, endpoint: Endpoint):
    frame = pd.DataFrame({"text": ["first text", "second text", "first text"]})
    result = ai.summarize(frame, "text", progress=False, details="request_id")
    rows = ai.ledger.sql(
        """
        SELECT d.content, d.size, d.source, d.content_hash, d.metadata->>'$.column', (d.metadata->>'$.row')::INTEGER,
               i.row_numbers, i.request_id::VARCHAR, c.text
        FROM documents d JOIN batch_items i ON i.document_id = d.id JOIN calls c ON c.id = i.request_id
        ORDER BY d.content
        """
    ).fetchall()
    answers, requests = result["summary"].tolist(), result["summary_request_id"].tolist()
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in ("first text", "second text")]
    assert rows == [
        ("first text", 10, "pandas DataFrame", hashes[0], "text", 0, [0, 2], requests[0], answers[0]),
        ("second text", 11, "pandas DataFrame", hashes[1], "text", 1, [1], requests[1], answers[1]),
    ]


# ------------------------------------------------------------------------------------------------- money
def test_a_budget_stops_before_it_is_passed(app: ai.App, endpoint: Endpoint):
    frame = frame_of(300)
    one = ai.summarize(frame.head(1), "text", progress=False, details="cost")["summary_cost"].iloc[0]
    budget = 50.5 * one
    result = ai.summarize(frame, "text", progress=False, budget=budget, concurrency=16)
    spent = ai.batches().df()["cost_usd"].iloc[0]
    assert 0.8 * budget <= spent <= budget
    errors_seen = result["summary_error"].dropna()
    assert errors_seen.str.startswith("budget: ").all()
    assert len(errors_seen) == 300 - endpoint.count
    assert states(app)[0]["state"] == "stopped"
    refused = ai.ledger.sql("SELECT count(*) FROM calls WHERE status = 'refused'").fetchall()
    assert refused == [(0,)], "what is not sent leaves no row"


def test_a_stopped_batch_goes_on_with_a_higher_budget(app: ai.App, endpoint: Endpoint):
    frame = frame_of(60)
    one = ai.summarize(frame.head(1), "text", progress=False, details="cost")["summary_cost"].iloc[0]
    ai.summarize(frame, "text", progress=False, budget=20.5 * one)
    batch = ai.batches().df()["id"].iloc[0]
    sent = endpoint.count
    ai.summarize(frame, "text", progress=False, budget=20.5 * one, resume=batch)
    assert endpoint.count <= sent + 1, "what it has spent counts"
    result = ai.summarize(frame, "text", progress=False, budget=100 * one, resume=batch)
    assert result["summary"].notna().all()
    assert endpoint.count == 60
    newest = ai.batches().df().iloc[0]
    assert newest["id"] == batch
    assert newest["state"] == "done"


def test_a_budget_needs_a_price(app: ai.App, endpoint: Endpoint):
    result = ai.summarize(frame_of(20), "text", progress=False, budget=1.0, model="openai:nobody-knows-this")
    assert endpoint.count == 0
    assert result["summary_error"].str.startswith("price_unknown").all()


# ------------------------------------------------------------------------------------------------- what goes on
def test_nothing_is_sent_where_only_the_ledger_may_answer(app: ai.App, endpoint: Endpoint):
    ai.summarize(frame_of(2), "text", progress=False)
    app.set_replay("only")
    result = ai.summarize(frame_of(3), "text", progress=False)
    assert result["summary"].notna().tolist() == [True, True, False]
    assert result["summary_error"].str.startswith("replay_miss").tolist()[2:] == [True]
    with pytest.raises(errors.InputError, match="'only'"):
        ai.summarize(frame_of(3), "text", progress=False, fresh=True)
    assert endpoint.count == 2


def test_what_is_answered_needs_no_key(app: ai.App, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch):
    first = ai.summarize(frame_of(2), "text", progress=False)
    monkeypatch.delenv("OPENAI_API_KEY")
    pd.testing.assert_frame_equal(ai.summarize(frame_of(2), "text", progress=False), first)
    with pytest.raises(errors.MissingKeyError):
        ai.summarize(frame_of(3), "text", progress=False)


def test_a_batch_is_not_resumed_with_other_data_or_another_question(app: ai.App, endpoint: Endpoint):
    ai.summarize(frame_of(5), "text", progress=False, resume=None)
    batch = ai.batches().df()["id"].iloc[0]
    sent = endpoint.count
    with pytest.raises(errors.InputError, match="other data"):
        ai.summarize(frame_of(6), "text", progress=False, resume=batch)
    with pytest.raises(errors.InputError, match="asked something else"):
        ai.summarize(frame_of(5), "text", progress=False, resume=batch, temperature=0.5)
    with pytest.raises(errors.NotFoundError, match="no batch ends with"):
        ai.summarize(frame_of(5), "text", progress=False, resume="nonsense")
    assert endpoint.count == sent
    ai.summarize(frame_of(5), "text", progress=False, resume=batch)
    assert len(ai.batches().df()) == 1


def test_a_long_pause_parks_the_rows(app: ai.App, endpoint: Endpoint):
    endpoint.reply(Fault(429, headers={"retry-after": "600"}))
    result = ai.summarize(frame_of(50), "text", progress=False, patience=5, concurrency=2)
    assert result["summary_error"].str.startswith("parked: ").all()
    assert "patience" in result["summary_error"].iloc[-1]
    assert endpoint.count <= 4, "the others are not even tried"


def test_a_wrong_key_stops_the_batch(app: ai.App, endpoint: Endpoint):
    endpoint.reply(Fault(401))
    result = ai.summarize(frame_of(100), "text", progress=False, concurrency=4)
    assert endpoint.count <= 8
    assert result["summary_error"].notna().all()
    assert states(app)[0]["state"] == "failed"


def test_a_text_that_is_refused_stops_nobody(app: ai.App, endpoint: Endpoint):
    """A moderation's 403, and a 400 that happens to name a JSON schema, are of their rows."""
    faults = {"number 3": Fault(403), "number 4": Fault(400, message="this text has a JSON schema in it")}
    endpoint.reply(lambda call: next((fault for name, fault in faults.items() if name in question(call)), "fine"))
    result = ai.summarize(frame_of(60), "text", progress=False, concurrency=2)
    others = [
        n for n in range(60) if f"text number {n}".find("number 3") < 0 and f"text number {n}".find("number 4") < 0
    ]
    assert result["summary"].iloc[others].notna().all()
    assert endpoint.count == 60


def test_a_value_that_no_column_holds_costs_the_others_nothing(app: ai.App, endpoint: Endpoint):
    huge = '{"n": 99999999999999999999999}'
    endpoint.reply(lambda call: huge if "number 1" in str(call.body) else '{"n": 5}')
    result = ai.map(frame_of(3), "Count {text}", schema="n int", progress=False)
    assert result["n"].tolist()[::2] == [5, 5]
    assert result["map_error"].str.startswith("invalid_answer").tolist()[1:2] == [True]


def test_a_batch_that_runs_is_not_resumed_beside(app: ai.App, endpoint: Endpoint):
    endpoint.hold()
    thread = threading.Thread(target=lambda: run_with(Control(), app, frame_of(4)))
    thread.start()
    endpoint.wait(lambda e: e.in_flight == 2)
    with pytest.raises(errors.InputError, match="is running"):
        ai.summarize(frame_of(4), "text", progress=False, resume=ai.batches().df()["id"].iloc[0])
    endpoint.release()
    thread.join(10)


# ------------------------------------------------------------------------------------------------- control
def run_with(control: Control, app: ai.App, frame: pd.DataFrame, concurrency: int = 2) -> Any:
    batch = rows.RowBatch(
        app, lambda columns: Summarize("text", "summary", SYSTEM, PROMPT), frame, Options(concurrency=concurrency)
    )
    return app.run(batch.run(Progress(False), control))


def test_a_paused_batch_begins_nothing_until_it_goes_on(app: ai.App, endpoint: Endpoint):
    control = Control()
    control.pause()
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(run_with(control, app, frame_of(5))))
    thread.start()
    deadline = threading.Event()
    assert not deadline.wait(0.3)
    assert endpoint.count == 0
    control.resume()
    thread.join(10)
    assert got[0]["summary"].notna().all()


def test_a_canceled_batch_keeps_what_was_answered(app: ai.App, endpoint: Endpoint):
    control = Control()
    endpoint.hold()
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(run_with(control, app, frame_of(50))))
    thread.start()
    endpoint.wait(lambda e: e.in_flight == 2)
    control.cancel()
    endpoint.release()
    thread.join(10)
    result = got[0]
    assert result["summary"].notna().sum() == 2
    assert result["summary_error"].dropna().str.startswith("canceled: ").all()
    assert states(app)[0]["state"] == "canceled"


def test_another_process_can_cancel_it(app: ai.App, endpoint: Endpoint):
    endpoint.hold()
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(run_with(Control(), app, frame_of(50))))
    thread.start()
    endpoint.wait(lambda e: e.in_flight == 2)
    batch = ai.batches().df()["id"].iloc[0]
    assert ai.pause(batch) == "paused"
    assert ai.cancel(batch) == "canceled"
    waiting = threading.Timer(2.5, endpoint.release)
    waiting.start()
    thread.join(15)
    assert got[0]["summary"].notna().sum() == 2
    with pytest.raises(errors.NotFoundError, match="no batch ends with"):
        ai.pause("01990000-0000-7000-8000-000000000000")
    assert ai.resume(batch) == "canceled", "it is over"


# ------------------------------------------------------------------------------------------------- names
@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (["text"], {"into": "text"}, "would replace one that is read"),
        (["text", "summary"], {}, "has a column 'summary' already"),
        (["text", "a_error"], {"into": "a_error"}, "already"),
        (["text"], {"details": ["price"]}, "details='price' is not known"),
        (["text"], {"output": "x.xlsx"}, "no file of rows"),
        (["text"], {"fresh": True, "retry_failed": True}, "contradict"),
        (["text"], {"budget": -1}, "no number of US dollars"),
        (["text"], {"patience": "long"}, "no number of seconds"),
        (["text"], {"engine": 7}, "engine"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(
    app: ai.App, endpoint: Endpoint, columns: list[str], options: dict[str, Any], message: str
):
    frame = pd.DataFrame({name: ["a", "b"] for name in columns})
    with pytest.raises(errors.Error, match=message) as caught:
        ai.summarize(frame, "text", progress=False, **options)
    assert caught.value.cure
    assert endpoint.count == 0


def test_the_columns_of_an_earlier_run_are_replaced(app: ai.App, endpoint: Endpoint):
    once = ai.summarize(frame_of(3), "text", progress=False)
    twice = ai.summarize(once, "text", progress=False)
    pd.testing.assert_frame_equal(once, twice)


def test_help_shows_the_shared_options():
    import inspect

    names = list(inspect.signature(ai.summarize).parameters)
    assert names[:5] == ["df", "column", "into", "system", "prompt"]
    assert {"budget", "engine", "retry_failed", "dry_run", "params"} <= set(names)
    assert "US dollars that may be spent" in (ai.summarize.__doc__ or "")
    assert "{options}" not in (ai.asummarize.__doc__ or "")


# ------------------------------------------------------------------------------------------------- what is kept
def test_a_purge_takes_what_a_batch_keeps_of_its_question_and_rows(app: ai.App, endpoint: Endpoint):
    endpoint.reply(lambda call: Fault(400, message="no: peachblossom") if "one" in question(call) else "fine")
    frame = pd.DataFrame({"text": ["one", "two"], "place": ["peachblossom", "elsewhere"]})
    ai.summarize(frame, "text", progress=False, prompt="{document} by peachblossom")
    ai.reduce(frame, "text", by="place", progress=False)
    holding = "SELECT count(*) FROM {} t WHERE contains(t::VARCHAR, 'peachblossom')"
    for table in ("batches", "batch_items"):
        assert ai.ledger.sql(holding.format(table)).fetchall() != [(0,)]
    assert ai.ledger.purge(containing="peachblossom").batches == 2
    for table in ("batches", "batch_items", "requests", "responses", "documents"):
        assert ai.ledger.sql(holding.format(table)).fetchall() == [(0,)], table
    assert [row["kind"] for row in states(app)] == ["reduce", "summarize"], "the rows stay, with their counts"


def test_without_content_a_batch_keeps_none(endpoint: Endpoint, tmp_path: Any):
    endpoint.reply(lambda call: Fault(400, message="no: peachblossom"))
    with ai.connect(tmp_path / "bare.duckdb", model="openai:gpt-4o-mini", record="metadata") as app:
        frame = pd.DataFrame({"text": ["one"], "place": ["peachblossom"]})
        ai.summarize(frame, "text", progress=False, prompt="{document} by peachblossom")
        ai.reduce(frame, "text", by="place", progress=False)
        for table in ("batches", "batch_items", "requests", "responses", "documents"):
            found = app.ledger.sql(f"SELECT count(*) FROM {table} t WHERE contains(t::VARCHAR, 'peachblossom')")
            assert found.fetchall() == [(0,)], table
