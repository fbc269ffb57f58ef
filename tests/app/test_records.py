"""What people ask of their ledger."""

from __future__ import annotations

import datetime
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.records import searching
from ipyconvexai.records.frames import named_in
from ipyconvexai.records.words import instant
from ipyconvexai.testing import Answer, Endpoint, Fault


def test_calls_come_newest_first_and_can_be_searched(app: ai.App, endpoint: Endpoint):
    for prompt in ("first fox", "second hare", "third fox"):
        ai.generate(prompt)
    assert [row[6] for row in app.ledger.calls()] == ["echo: third fox", "echo: second hare", "echo: first fox"]
    assert len(app.ledger.calls(limit=2)) == 2
    assert len(app.ledger.calls(containing="FOX")) == 2
    assert len(app.ledger.calls(status="error")) == 0


def test_a_relation_becomes_any_kind_of_frame(app: ai.App):
    ai.generate("hello")
    calls = app.ledger.calls()
    assert isinstance(calls.df(), pd.DataFrame)
    assert isinstance(calls.pl(), pl.DataFrame)
    assert calls.arrow().num_rows == len(calls.df()) == len(calls.pl()) == len(calls) == len(list(calls)) == 1
    assert calls.df()["status"].tolist() == ["ok"]
    assert isinstance(calls.fetchall()[0], tuple)


def test_a_relation_draws_itself_without_running_anything(app: ai.App, endpoint: Endpoint):
    endpoint.reply("<img src=x onerror=alert(1)> & \x1b[31mred")
    ai.generate("draw")
    html, text = app.ledger.calls()._repr_html_(), repr(app.ledger.calls())
    assert "<img" not in html
    assert "&lt;img" in html
    assert "\x1b" not in text
    assert "duration_ms" in text


def test_usage_adds_up(app: ai.App, endpoint: Endpoint):
    endpoint.reply([Answer("a", usage=(10, 3, 4)), Answer("b", usage=(20, 5)), Fault(400)])
    ai.generate("one")
    ai.generate("two")
    ai.safe_generate("three")
    usage = app.ledger.usage().df()
    assert usage["model"].tolist() == ["gpt-4o-mini"]
    row = usage.iloc[0]
    assert (row["calls"], row["ok"]) == (3, 2)
    assert (row["input_tokens"], row["cached_tokens"], row["output_tokens"]) == (30, 4, 8)
    assert row["cost_usd"] > 0
    assert app.ledger.usage(by="status").df().set_index("status")["calls"].to_dict() == {"ok": 2, "error": 1}


@pytest.mark.parametrize("by", ["model", "provider", "day", "notebook", "user", "source", "status"])
def test_usage_by_each_word(app: ai.App, by: str):
    ai.generate("hello")
    assert app.ledger.usage(by=by).columns[0] == by


def test_usage_by_another_word_says_which(app: ai.App):
    with pytest.raises(errors.InputError, match="by='week'") as caught:
        app.ledger.usage(by="week")
    assert "day" in caught.value.cure


@pytest.mark.parametrize("kind", ["pandas", "polars", "lazy", "arrow", "batch", "duckdb", "relation"])
def test_sql_joins_with_frames_of_the_caller(app: ai.App, kind: str):
    ai.generate("hello")
    table = pa.table({"model": ["gpt-4o-mini"], "team": ["blue"]})
    papers: Any = {
        "arrow": table,
        "batch": table.to_batches()[0],
        "duckdb": duckdb.sql("SELECT 'gpt-4o-mini' AS model, 'blue' AS team"),
        "relation": app.ledger.sql("SELECT 'gpt-4o-mini' AS model, 'blue' AS team"),
        "pandas": pd.DataFrame({"model": ["gpt-4o-mini"], "team": ["blue"]}),
        "polars": pl.DataFrame({"model": ["gpt-4o-mini"], "team": ["blue"]}),
        "lazy": pl.LazyFrame({"model": ["gpt-4o-mini"], "team": ["blue"]}),
    }[kind]
    assert papers is not None
    assert app.ledger.sql("SELECT team, status FROM calls JOIN papers USING (model)").fetchall() == [("blue", "ok")]


def test_a_series_is_no_frame(app: ai.App):
    papers = pd.Series(["gpt-4o-mini"], name="model")
    with pytest.raises(errors.QueryError, match="papers"):
        app.ledger.sql("SELECT * FROM papers")
    with pytest.raises(errors.InputError, match="Series"):
        app.ledger.sql("SELECT * FROM x", x=papers)


def test_a_frame_may_be_called_query_or_params(app: ai.App):
    frame = pd.DataFrame({"n": [1, 2]})
    assert app.ledger.sql("SELECT sum(n) FROM query, params AS p(m)", query=frame, params=frame[:0]).fetchall() == [
        (None,)
    ]


def test_sql_takes_parameters_and_named_frames(app: ai.App):
    frame = pd.DataFrame({"n": [1, 2, 3]})
    assert app.ledger.sql("SELECT sum(n) FROM numbers WHERE n > ?", [1], numbers=frame).fetchall() == [(5,)]


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM requests",
        "CREATE TABLE t (x INTEGER)",
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY requests TO 'out.csv'",
        "ATTACH 'other.duckdb'",
        "SELECT * FROM no_such_table",
        "SELEKT 1",
    ],
)
def test_sql_only_reads_and_reaches_nothing(app: ai.App, query: str):
    ai.generate("hello")
    with pytest.raises(errors.QueryError):
        app.ledger.sql(query)
    assert len(app.ledger.calls()) == 1


def test_the_ledgers_own_tables_keep_their_names(app: ai.App):
    ai.generate("one")
    ai.generate("two")
    calls = app.ledger.calls(limit=1).df()
    assert app.ledger.sql("SELECT count(*) FROM calls").fetchall() == [(2,)]
    assert app.ledger.sql("SELECT count(*) FROM calls", calls=calls).fetchall() == [(1,)]


def test_no_frame_takes_the_name_of_a_table_of_the_ledger(app: ai.App):
    tables = app.ledger.sql("SELECT table_name FROM information_schema.tables").fetchall()
    names = [name for (name,) in tables]
    assert {"calls", "prompts", "limits", "crons", "message_deltas", "document_tables", "schema_migrations"} <= {*names}
    for name in [*names, "Calls", "PROMPTS"]:
        frame = pd.DataFrame({"mine": [1]})
        assert "mine" not in app.ledger.select(f"SELECT * FROM {name}", {name: frame}).columns, name
        assert app.ledger.sql(f"SELECT * FROM {name}", **{name: frame}).columns == ["mine"]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("SELECT 'papers' FROM x", ["x"]),
        ("SELECT 'it''s papers' FROM x -- papers", ["x"]),
        ("SELECT E'it\\'s papers' FROM x /* papers\n */", ["x"]),
        ("SELECT $$papers$$, $a$ papers $a$ FROM x", ["x"]),
        ("SELECT \"it's\" FROM papers WHERE y = 'x'", ["papers"]),
        ('SELECT * FROM "papers"', ["papers"]),
        ("SELECT '' || papers.y FROM papers, x", ["papers", "x"]),
    ],
)
def test_frames_in_texts_and_comments_are_not_named(query: str, named: list[str]):
    frame = pd.DataFrame({"y": [1]})
    assert sorted(named_in(query, {"papers": frame, "x": frame}, list)) == named


def test_the_tables_are_asked_for_only_where_there_is_a_frame():
    def tables() -> list[str]:
        raise AssertionError("asked")

    assert named_in("SELECT a FROM calls", {"a": 1, "calls": None}, tables) == {}


def test_one_call_by_a_part_of_its_id(app: ai.App):
    first, second = (ai.generate(text).request_id or "" for text in ("one", "two"))
    for given in (first, first[-8:], first[-12:].upper(), f" {first} "):
        call = app.ledger.call(given)
        assert [str(row[0]) for row in call] == [first]
        assert {"id", "request", "response", "status", "cache_key"} <= {*call.columns}
    with pytest.raises(errors.InputError, match="several") as caught:
        app.ledger.call(first[:8])
    assert first in caught.value.cure
    assert second in caught.value.cure
    for wrong in ("0000dead", "xyz", "", None, "%", "f" * 60):
        with pytest.raises(errors.InputError, match="no call has the id"):
            app.ledger.call(wrong)  # type: ignore[arg-type] # one of them is no text


def test_a_text_is_looked_for_until_there_are_enough(app: ai.App, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(searching, "FIRST_LOOK", 2)
    monkeypatch.setattr(searching, "GROWTH", 2)
    for number in range(7):
        ai.generate(f"Fox {number}" if number % 3 == 0 else f"hare {number}")
    assert [row[6] for row in app.ledger.calls(containing="fOX")] == ["echo: Fox 6", "echo: Fox 3", "echo: Fox 0"]
    assert [row[6] for row in app.ledger.calls(containing="fox", limit=2)] == ["echo: Fox 6", "echo: Fox 3"]
    assert len(app.ledger.calls(containing="fox", limit=None)) == 3
    assert len(app.ledger.calls(containing="fox", limit=0)) == len(app.ledger.calls(limit=0)) == 0
    assert len(app.ledger.calls(limit=None)) == len(app.ledger.calls(limit=None, containing=" ")) == 7
    assert len(app.ledger.calls(limit=None, status="error")) == 0


@pytest.mark.parametrize(
    ("when", "before"),
    [
        ("30m", {"minutes": 30}), ("30 min", {"minutes": 30}), ("12h", {"hours": 12}), ("2w", {"weeks": 2}),
        (datetime.timedelta(seconds=5), {"seconds": 5}),
    ],
)  # fmt: skip
def test_ages(when: Any, before: dict[str, int]):
    now = datetime.datetime(2026, 11, 20, 12)
    assert instant(when, now, "since") == now - datetime.timedelta(**before)


@pytest.mark.parametrize("when", ["soon", "", "30", "30y", "9" * 5000 + "d", "999999w", "0001-01-01T00:00+05:00", 5])
def test_what_is_no_moment(when: Any):
    with pytest.raises(errors.InputError, match="since"):
        instant(when, datetime.datetime(2026, 11, 20), "since")


@pytest.mark.parametrize("query", ["", None])
def test_no_query_is_an_input_error(app: ai.App, query: str):
    with pytest.raises(errors.InputError, match="no query"):
        app.ledger.sql(query)
