"""Batches that run later: what is kept, who runs them, what they give and whom they tell."""

from __future__ import annotations

import datetime
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import BaseModel

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.application import within
from ipyconvexai.batch import specs, stored_frames
from ipyconvexai.ids import new_id
from ipyconvexai.store.clock import utc_now
from ipyconvexai.testing import Answer, Endpoint, Fault
from tests.store.helpers import child, kill, line_of, wait_for

TEXTS = ["alpha text", "beta text", "alpha text", None]
SOON = 60.0  # seconds that a job may take on a busy machine


def frame() -> pd.DataFrame:
    return pd.DataFrame({"text": TEXTS, "n": [1, 2, 3, 4]}, index=[7, 5, 3, 1])


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a webhook, and what it was told."""
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", seen
    server.shutdown()
    server.server_close()
    thread.join()


# ---------------------------------------------------------------------------------------------- once
def test_a_batch_runs_later_and_gives_its_frame(app: ai.App, endpoint: Endpoint):
    job = ai.schedule(ai.summarize, frame(), "text", into="short", after=datetime.timedelta(seconds=0.2))
    assert endpoint.count == 0
    assert job.wait(SOON) == "success"
    assert endpoint.count == 2
    found = job.result()
    assert list(found.columns) == ["text", "short", "short_error"]
    assert list(found.index) == [7, 5, 3, 1]
    pd.testing.assert_frame_equal(found, ai.summarize(frame()[["text"]], "text", into="short", progress=False))
    assert endpoint.count == 2, "what is wanted again is not sent"
    (batch,) = job.batch_ids
    sql = f"SELECT row_number, text FROM batch_results WHERE batch_id = '{batch}' ORDER BY row_number"
    assert [row for row, _ in ai.ledger.sql(sql).fetchall()] == [0, 1, 2]
    again = ai.job(job.id)
    assert (again.name, again.state, again.error) == ("ai.summarize text of a pandas frame", "success", None)
    assert repr(again) == f"<Job {job.id} ai.summarize text of a pandas frame: success>"


@pytest.mark.parametrize(
    "made",
    [pl.DataFrame({"text": TEXTS}), pl.LazyFrame({"text": TEXTS}), pa.table({"text": TEXTS})],
    ids=["polars", "lazy", "pyarrow"],
)
def test_the_kind_of_frame_that_went_in_comes_out(app: ai.App, made: Any):
    found = ai.schedule("ai.summarize", made, "text").result(SOON)
    assert type(found) is type(made)
    rows = found.collect() if isinstance(found, pl.LazyFrame) else found
    assert list(rows.to_pydict() if isinstance(rows, pa.Table) else rows.columns) == [
        "text",
        "summary",
        "summary_error",
    ]


def test_a_duckdb_relation_and_a_relation_of_ours_come_out(app: ai.App):
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        relation = connection.from_arrow(pa.table({"text": ["one text"]}))
        found = ai.schedule(ai.summarize, relation, "text").result(SOON)
        assert len(found.fetchall()) == 1
        assert type(found) is type(relation)


def test_sql_and_queries_are_read_when_it_runs(app: ai.App, endpoint: Endpoint):
    class Remark(ai.Table):
        text: str

    @ai.mutation
    def remark_this(ctx: Any, text: str) -> None:
        ctx.db.insert(Remark(text=text))

    @ai.query
    def remarks_to_summarize(ctx: Any) -> list[Remark]:
        return list(ctx.db.query(Remark).collect())

    ai.run(remark_this, text="first remark")
    by_sql = ai.schedule(ai.summarize, 'SELECT text FROM "Remark" ORDER BY text', "text", after=0.5)
    by_query = ai.schedule(ai.summarize, remarks_to_summarize, "text", after=0.5)
    ai.run(remark_this, text="second remark")
    found = by_sql.result(SOON)
    assert isinstance(found, ai.Relation)
    assert found.columns == ["text", "summary", "summary_error"]
    assert [row[0] for row in found] == ["first remark", "second remark"]
    found = by_query.result(SOON)
    assert sorted(found.df()["text"]) == ["first remark", "second remark"]
    assert endpoint.count == 2
    with pytest.raises(errors.QueryError):
        ai.schedule(ai.summarize, "SELECT nothing FROM nowhere", "text")


def test_map_and_reduce_run_later_too(app: ai.App, endpoint: Endpoint):
    class Topic(BaseModel):
        topic: str
        score: float

    rows = pd.DataFrame({"title": ["a", "b"], "text": ["one", "two"], "year": [1, 2], "other": [0, 0]})
    endpoint.reply([Answer('{"topic": "fish", "score": 0.5}')])
    for schema in (Topic, "topic, score float"):
        found = ai.schedule(ai.map, rows, "{title}: {text}", schema=schema).result(SOON)
        assert list(found.columns) == ["title", "text", "topic", "score", "map_error"]
        assert found["score"].tolist() == [0.5, 0.5]
    endpoint.reply([Answer("all of it")])
    grouped = ai.schedule(ai.reduce, rows, "text", by="year").result(SOON)
    assert grouped["summary"].tolist() == ["all of it"] * 2
    whole = ai.schedule(ai.reduce, rows, "text")
    sent = endpoint.count
    assert str(whole.result(SOON)) == "all of it"
    assert endpoint.count == sent + 1
    with pytest.raises(errors.UnknownColumnError, match="titel"):
        ai.schedule(ai.map, rows, "{titel}: {text}")
    with pytest.raises(errors.InputError, match="documents"):
        ai.schedule(ai.reduce, rows, "text", prompt="no field")


def test_a_job_that_fails_says_so_and_raises_it(app: ai.App, endpoint: Endpoint, hook: Any):
    endpoint.reply([Fault(400, message="no \x1b[31m<!channel>")])
    url, told = hook
    job = ai.schedule(ai.summarize, frame().head(1), "text", on_error="raise", notify=url, name="a\nfine one")
    with pytest.raises(errors.BatchError, match="1 of 1 rows failed") as caught:
        job.result(SOON)
    assert not caught.value.retryable
    assert job.state == "failed"
    assert job.error is not None
    assert "batch: 1 of 1 rows failed" in job.error
    assert "\n" not in repr(job)
    assert "\x1b" not in repr(job)
    wait_for(lambda: told, "the webhook to be told")
    assert (told[0]["event"], told[0]["state"], told[0]["job"], told[0]["rows"]) == (
        "batch.failed", "failed", job.id, 1)  # fmt: skip
    assert "\x1b" not in json.dumps(told[0])
    assert "<!channel>" not in told[0]["text"]
    rows = app.store.read("SELECT attempts FROM scheduled_functions WHERE id = ?::UUID", [job.id])
    assert rows == [(1,)], "what failed is not begun again"


def test_the_end_is_told(app: ai.App, endpoint: Endpoint, hook: Any):
    url, told = hook
    endpoint.reply([Answer("one", usage=(10, 3)), Answer("two", usage=(20, 5))])
    job = ai.schedule(ai.summarize, frame(), "text", notify=[url], name="nightly")
    job.wait(SOON)
    wait_for(lambda: told, "the webhook to be told")
    event = told[0]
    assert {name: event[name] for name in ("event", "job", "name", "kind", "state", "rows", "errors", "requests")} == {
        "event": "batch.done", "job": job.id, "name": "nightly", "kind": "summarize", "state": "done", "rows": 4,
        "errors": 0, "requests": 2,
    }  # fmt: skip
    assert event["tokens"] == 38
    assert event["cost_usd"] > 0
    assert event["started_at"] < event["finished_at"]
    assert f"tells {url}" in repr(job)


def test_a_batch_that_gives_up_fails_its_job(app: ai.App, endpoint: Endpoint):
    endpoint.reply([Fault(401, message="no such key")] * 9)
    job = ai.schedule(ai.summarize, frame(), "text")
    with pytest.raises(errors.Error, match="no such key") as caught:
        job.result(SOON)
    assert caught.value.code == "invalid_api_key"
    assert job.state == "failed"


def test_rows_that_failed_have_their_errors(app: ai.App, endpoint: Endpoint):
    endpoint.reply([Fault(400, message="this one not"), Answer("fine")])
    rows = pd.DataFrame({"text": ["alpha text", "alpha text", "beta text", None]})
    found = ai.schedule(ai.summarize, rows, "text").result(SOON)
    failed = found["summary_error"].notna().tolist()
    assert failed in ([True, True, False, False], [False, False, True, False])
    assert found["summary"].notna().tolist() == [not one for one in failed[:3]] + [False]
    assert all("this one not" in text for text in found["summary_error"].dropna())


def test_a_canceled_job_sends_nothing(app: ai.App, endpoint: Endpoint):
    job = ai.schedule(ai.summarize, frame(), "text", at=utc_now() + datetime.timedelta(hours=1))
    assert job.state == "pending"
    assert job.wait(0) == "pending"
    with pytest.raises(TimeoutError):
        job.result(0)
    assert job.cancel() == "canceled"
    with pytest.raises(errors.CanceledError, match="was canceled"):
        job.result()
    assert endpoint.count == 0


def test_a_running_batch_is_canceled_from_anywhere(app: ai.App, endpoint: Endpoint):
    endpoint.reply([Answer("slow", delay=0.05)])
    many = pd.DataFrame({"text": [f"text {n}" for n in range(2000)]})
    job = ai.schedule(ai.summarize, many, "text", concurrency=2)
    wait_for(lambda: endpoint.count > 5, "it to begin", SOON)
    assert ai.cancel(job.id) == "canceled"
    ended = "SELECT state FROM batches WHERE job_id = ?::UUID AND finished_at IS NOT NULL"
    assert wait_for(lambda: app.store.read(ended, [job.id]), "the batch to end", SOON) == [("canceled",)]
    assert endpoint.count < 2000


# ---------------------------------------------------------------------------------------------- wrong at once
@pytest.mark.parametrize(
    ("args", "options", "error", "words"),
    [
        (("texd",), {}, errors.UnknownColumnError, "text"),
        (("text",), {"prompt": "no field"}, errors.InputError, "document"),
        (("text",), {"model": "nobody:x"}, errors.ConfigurationError, "nobody"),
        (("text",), {"concurrency": 0}, errors.InputError, "concurrency"),
        (("text",), {"temperature": object()}, errors.InputError, "temperature"),
        (("text",), {"dry_run": True}, errors.InputError, "dry_run"),
        (("text",), {"notify": "nobody"}, errors.InputError, "nobody"),
        (("text",), {"notify": "ada@example.org"}, errors.MissingKeyError, "RESEND_API_KEY"),
        (("text",), {"at": utc_now(), "after": 5}, errors.InputError, "contradict"),
        (("text",), {"after": -1}, errors.InputError, "delay"),
        (("text",), {"after": "5"}, errors.InputError, "after"),
        (("text",), {"every": 0}, errors.InputError, "interval"),
        (("text",), {"cron": "0 25 * * *"}, errors.InputError, "cron"),
        (("text",), {"cron": "0 2 * * *", "tz": "Mars/North"}, errors.InputError, "Mars/North"),
        (("text",), {"tz": "Europe/Paris"}, errors.InputError, "tz="),
        (("text",), {"at": "tomorrow"}, errors.InputError, "datetime"),
        (("text",), {"name": ""}, errors.InputError, "name"),
        (("text",), {"system": "sk-test-0123456789abcdef"}, errors.ArgumentsError, "key"),
    ],
)
def test_what_could_not_work_is_an_error_now(
    app: ai.App, endpoint: Endpoint, args: Any, options: dict[str, Any], error: type[Exception], words: str
):
    with pytest.raises(error, match=words):
        ai.schedule(ai.summarize, frame(), *args, **options)
    assert app.store.read("SELECT count(*) FROM scheduled_functions") == [(0,)]
    assert app.store.read("SELECT count(*) FROM crons") == [(0,)]
    assert app.store.read("SELECT count(*) FROM batch_frames") == [(0,)]
    assert app.store.read("SELECT count(*) FROM batches") == [(0,)]
    assert endpoint.count == 0


@pytest.mark.parametrize("fn", [ai.generate, "sumarize", len, 7, lambda: None])
def test_what_is_no_batch_is_refused(app: ai.App, fn: Any):
    with pytest.raises(errors.InputError, match="no batch that can run later"):
        ai.schedule(fn, frame(), "text")


def test_data_that_cannot_be_kept_is_refused(app: ai.App, tmp_path: Path):
    mixed = pd.DataFrame({"text": ["a", 5]}, dtype=object)
    with pytest.raises(errors.InputError, match="cannot be kept for later"):
        ai.schedule(ai.summarize, mixed, "text")
    with pytest.raises(errors.InputError, match="a row holds a key"):
        ai.schedule(ai.summarize, pd.DataFrame({"text": ["x sk-test-0123456789abcdef y"]}), "text")
    with pytest.raises(errors.InputError, match="is not a DataFrame"):
        ai.schedule(ai.summarize, 7, "text")
    with pytest.raises(errors.InputError, match="no file"):
        ai.schedule(ai.summarize, tmp_path / "gone.csv", "text")
    assert app.store.read("SELECT count(*) FROM batch_frames") == [(0,)]
    with ai.connect(":memory:", record="metadata") as quiet:
        with pytest.raises(errors.InputError, match="keeps no content"):
            ai.schedule(ai.summarize, frame(), "text", model="openai:gpt-4o-mini")
        (tmp_path / "texts.csv").write_text("text\nfirst text\n")
        with pytest.raises(errors.InputError, match="would be lost"):
            ai.schedule(ai.summarize, tmp_path / "texts.csv", "text")
        there = tmp_path / "done.csv"
        job = ai.schedule(ai.summarize, tmp_path / "texts.csv", "text", output=there)
        assert job.wait(30) == "success"
        assert there.read_text().startswith("text,summary,summary_error\nfirst text,echo: ")
        with pytest.raises(errors.NotFoundError, match=r"done\.csv"):
            job.result()
        assert quiet.store.read("SELECT count(*) FROM batch_frames") == [(0,)]


def test_there_is_no_such_job(app: ai.App):
    for id in (new_id(), "nothing \x1b[31m", "'"):
        with pytest.raises(errors.NotFoundError) as caught:
            ai.job(id)
        assert "\x1b" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- again and again
def test_a_repeated_batch_over_files_takes_only_what_is_new(app: ai.App, endpoint: Endpoint, tmp_path: Path):
    (tmp_path / "a.csv").write_text("text\nfirst text\nsecond text\n")
    job = ai.schedule(ai.summarize, tmp_path / "*.csv", "text", cron="0 3 * * *", tz="Europe/Paris", name="papers")
    assert job.state == "repeating"
    assert job.wait(0) == "repeating"

    def due() -> None:
        """As if it were time."""
        with app.store.transaction() as execute:
            execute.later("UPDATE crons SET next_time = ? WHERE name = 'papers'", [utc_now()])
        app.functions.scheduler.wake()

    due()
    assert len(job.result(SOON).fetchall()) == 2
    assert endpoint.count == 2
    (tmp_path / "b.csv").write_text("text\nsecond text\nthird text\n")
    due()
    wait_for(lambda: [row[1] for row in job.runs.fetchall()] == ["success"] * 2, "the second run", SOON)
    assert endpoint.count == 3, "two of four rows were answered"
    assert len(job.result().fetchall()) == 4
    newest, _ = job.runs.df().to_dict("records")
    assert (newest["rows"], newest["requests"]) == (4, 1)
    assert len(job.batch_ids) == 2
    assert ai.job("papers").id == job.id
    assert job.cancel() == "stopped"
    assert "papers" in {row[0] for row in ai.crons().fetchall()}


def test_running_the_cell_again_makes_no_second_one(app: ai.App, endpoint: Endpoint):
    first = ai.schedule(ai.summarize, frame(), "text", every=3600)
    wait_for(lambda: first.wait(SOON), "it")
    again = ai.schedule(ai.summarize, frame(), "text", every=datetime.timedelta(hours=1))
    assert (again.id, again.name) == (first.id, first.name)
    assert app.store.read("SELECT count(*) FROM crons") == [(1,)]
    assert len(again.result()) == 4
    assert endpoint.count == 2

    with pytest.raises(errors.InputError, match="already, with other options"):
        ai.schedule(ai.summarize, frame(), "text", every=3600, into="other")
    other = ai.schedule(ai.summarize, frame(), "text", every=3600, into="other", name="another")
    other.cancel()
    assert ai.schedule(ai.summarize, frame(), "text", every=3600, name="another").id == other.id

    @ai.cron.interval(hours=1)
    @ai.action
    async def somebody_elses(ctx: Any) -> None: ...

    wait_for(lambda: len(ai.crons()) == 3, "the cron to be written")
    with pytest.raises(errors.InputError, match="somebody_elses"):
        ai.schedule(ai.summarize, frame(), "text", every=60, name="somebody_elses")


# ---------------------------------------------------------------------------------------------- other processes
def test_a_worker_without_a_file_runs_it(app: ai.App, endpoint: Endpoint, tmp_path: Path):
    """And this process, which only looks, reads what it gave."""
    app.functions.works_here = False
    job = ai.schedule(ai.summarize, frame(), "text")
    assert not app.functions.scheduler.is_running
    code = [sys.executable, "-m", "ipyconvexai", "worker", "--db", app.store.path]
    worker = subprocess.Popen(code, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONWARNINGS": "error"})
    try:
        assert "scheduled batches" in line_of(worker)
        assert job.wait(SOON) == "success"
        assert len(job.result()) == 4
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=SOON)
    assert worker.returncode == 0
    assert endpoint.count == 2


CHILD = """
import ipyconvexai as ai
app = ai.connect(sys.argv[1], model="openai:gpt-4o-mini")
print(ai.job(sys.argv[2]).state, flush=True)
sys.stdin.read()
"""


def test_a_killed_workers_batch_is_taken_up_again(app: ai.App, endpoint: Endpoint, hook: Any):
    url, told = hook
    endpoint.reply([Answer("slow", delay=0.05)])
    app.functions.works_here = False
    many = pd.DataFrame({"text": [f"text {n}" for n in range(60)]})
    job = ai.schedule(ai.summarize, many, "text", concurrency=4, notify=url)
    process = child(CHILD, app.store.path, job.id)
    try:
        line_of(process)
        wait_for(lambda: endpoint.count > 12, "it to be well under way", SOON)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        app.functions.works_here = True
        assert job.wait(SOON) == "success"
    finally:
        kill([process])
    found = job.result()
    assert found["summary"].notna().all()
    assert found["summary_error"].isna().all()
    assert 60 <= endpoint.count <= 60 + 4, "at most what was being sent is paid again"
    assert app.store.read("SELECT attempts FROM scheduled_functions WHERE id = ?::UUID", [job.id]) == [(2,)]
    assert len(job.batch_ids) == 1, "it went on as the same batch"
    wait_for(lambda: told, "the webhook")
    assert [event["state"] for event in told] == ["done"]


def test_a_ledger_that_is_busy_is_waited_for(app: ai.App, monkeypatch: pytest.MonkeyPatch, hook: Any):
    url, told = hook
    failed: list[bool] = []
    real = specs.opened

    def busy(*args: Any) -> Any:
        if not failed:
            failed.append(True)
            raise errors.LedgerLockedError("another program holds it", cure="Wait.")
        return real(*args)

    monkeypatch.setattr("ipyconvexai.batch.performing.opened", busy)
    job = ai.schedule(ai.summarize, frame(), "text", notify=url)
    sql = "SELECT state FROM scheduled_functions WHERE id = ?::UUID AND errors LIKE '%ledger_locked%'"
    assert wait_for(lambda: app.store.read(sql, [job.id]), "the first attempt to fail") == [("pending",)]
    assert job.wait(SOON) == "success"
    wait_for(lambda: told, "the webhook")
    assert [event["state"] for event in told] == ["done"], "an attempt that is repeated is no end"


def test_what_may_be_repeated_elsewhere_is_final_here(app: ai.App, monkeypatch: pytest.MonkeyPatch):
    def away(*args: Any) -> Any:
        raise errors.UnreachableError("nobody is there")

    monkeypatch.setattr("ipyconvexai.batch.performing.opened", away)
    job = ai.schedule(ai.summarize, frame(), "text")
    assert job.wait(SOON) == "failed"
    assert app.store.read("SELECT attempts FROM scheduled_functions WHERE id = ?::UUID", [job.id]) == [(1,)]


def test_what_ends_its_processes_again_and_again_fails_and_is_told(app: ai.App, endpoint: Endpoint, hook: Any):
    url, told = hook
    job = ai.schedule(ai.summarize, frame(), "text", after=3600, notify=url)
    with app.store.transaction() as execute:
        execute.later(
            "UPDATE scheduled_functions SET attempts = 99, due_at = ? WHERE id = ?::UUID", [utc_now(), job.id]
        )
    app.functions.scheduler.wake()
    with pytest.raises(errors.JobInterruptedError, match="99 processes that ran it ended"):
        job.result(SOON)
    wait_for(lambda: told, "the webhook")
    assert (told[0]["state"], told[0]["requests"]) == ("failed", 0)


def test_a_process_that_ends_hands_it_over(app: ai.App, endpoint: Endpoint):
    endpoint.reply([Answer("slow", delay=0.05)])
    many = pd.DataFrame({"text": [f"text {n}" for n in range(60)]})
    job = ai.schedule(ai.summarize, many, "text", concurrency=4)
    wait_for(lambda: endpoint.count > 12, "it to be well under way", SOON)
    app.close()
    with ai.connect(app.store.path, model="openai:gpt-4o-mini"):
        taken = ai.job(job.id)
        assert taken.wait(SOON) == "success"
        assert taken.result()["summary"].notna().all()
        assert len(taken.batch_ids) == 1
    assert 60 <= endpoint.count <= 60 + 4


def test_it_runs_over_the_ledger_that_it_belongs_to(app: ai.App, endpoint: Endpoint, tmp_path: Path):
    with ai.connect(str(tmp_path / "other.duckdb"), model="openai:gpt-4o-mini") as other:
        with within(app):
            job = ai.schedule(ai.summarize, frame(), "text")
            assert job.wait(SOON) == "success"
            assert len(job.result()) == 4
        assert app.store.read("SELECT count(*) FROM batches") == [(1,)]
        assert other.store.read("SELECT count(*) FROM requests") == [(0,)]


# ---------------------------------------------------------------------------------------------- what is kept
def test_a_class_is_kept_by_its_place_or_its_schema():
    class Local(BaseModel):
        topic: str

    assert specs.revived(specs.plain("schema", pd.DataFrame)) is pd.DataFrame
    kept = json.loads(json.dumps(specs.plain("schema", Local)))
    assert specs.revived(kept)["properties"]["topic"]["type"] == "string"
    assert specs.plain("schema", "topic, score float") == "topic, score float"
    with pytest.raises(errors.ConfigurationError, match="no_such_module:Class"):
        specs.revived({"$import": "no_such_module:Class"})


def test_frames_are_kept_in_parts_and_read_back(app: ai.App, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stored_frames, "PART_SIZE", 2000)
    index = pd.date_range("2026-01-01", periods=500, tz="Europe/Paris", name="day")
    made = pd.DataFrame(
        {"text": [None if n % 7 == 0 else f"text {n} é" for n in range(500)], "n": range(500),
         "kind": pd.Categorical(["a", "b"] * 250)}, index=index,
    )  # fmt: skip
    kind, table = stored_frames.as_table(made, ["text", "n", "kind"])
    key = new_id()
    assert stored_frames.keep(app.store, key, table) > 5
    pd.testing.assert_frame_equal(
        stored_frames.native(kind, stored_frames.read_back(app.store, key)), made, check_freq=False
    )
    empty = new_id()
    stored_frames.keep(app.store, empty, table.slice(0, 0))
    assert stored_frames.read_back(app.store, empty).schema.names == table.schema.names
    with pytest.raises(errors.NotFoundError, match="were removed"):
        stored_frames.read_back(app.store, new_id())


def test_columns_may_have_numbers_for_names(app: ai.App):
    made = ai.schedule(ai.summarize, pd.DataFrame({0: ["a text"], 7: ["another"]}), 0).result(30)
    assert made.columns.tolist() == [0, "summary", "summary_error"]
    assert made["summary"].notna().all()


def test_only_the_columns_that_are_named_are_kept(app: ai.App):
    def needed(*words: Any) -> list[str]:
        return specs._needed(["title", "text", "year", "secret"], words)

    assert needed("text") == ["text"]
    assert needed("Classify {title:>9}: {text}", ["year"]) == ["title", "text", "year"]
    assert needed("{{") == ["title", "text", "year", "secret"]


def test_frames_that_no_job_needs_are_forgotten(app: ai.App):
    job = ai.schedule(ai.summarize, frame(), "text", after=3600)
    job.cancel()
    keys = "SELECT DISTINCT batch_id::VARCHAR FROM batch_frames"
    later = utc_now() + datetime.timedelta(days=1)
    stored_frames.forget_unused(app.store, later)
    assert app.store.read(keys) == [(job.id,)]
    with app.store.transaction() as execute:
        execute.later("DELETE FROM scheduled_functions")
    stored_frames.forget_unused(app.store, utc_now())
    assert app.store.read(keys) == [(job.id,)], "its job may be about to be written"
    stored_frames.forget_unused(app.store, later)
    assert app.store.read(keys) == []

    repeated = ai.schedule(ai.summarize, frame(), "text", cron="0 3 1 1 *")
    stored_frames.forget_unused(app.store, later)
    assert app.store.read(keys) == [(repeated.id,)]
    repeated.cancel()
    stored_frames.forget_unused(app.store, later)
    assert app.store.read(keys) == []


# ---------------------------------------------------------------------------------------------- purged
def test_a_purge_takes_the_rows_of_what_is_over(app: ai.App):
    mark = f"marker-{secrets.token_hex(16)}"
    over = ai.schedule(ai.summarize, pd.DataFrame({"text": [mark]}), "text")
    waiting = ai.schedule(ai.summarize, pd.DataFrame({"text": [f"{mark} again"]}), "text", after=3600)
    repeated = ai.schedule(ai.summarize, pd.DataFrame({"text": ["third"]}), "text", every=3600, name="third")
    assert (over.wait(SOON), repeated.wait(SOON)) == ("success", "repeating")
    keys = "SELECT DISTINCT batch_id::VARCHAR FROM batch_frames ORDER BY ALL"
    assert len(app.store.read(keys)) == 3
    assert app.ledger.purgeable(waiting.id).frames == 0
    assert app.ledger.purgeable(before="1d").frames == 0
    found = app.ledger.purgeable(containing=mark)
    assert found.frames == 1, "compressed rows cannot be searched: of what is over they go"
    done = app.ledger.purge(containing=mark)
    assert (done.frames, done.under_way) == (1, found.under_way)
    assert "1 frame" in str(done)
    left = {key for (key,) in app.store.read(keys)}
    assert waiting.id in left
    assert over.id not in left
    assert len(left) == 2
    with pytest.raises(errors.NotFoundError):
        over.result()
