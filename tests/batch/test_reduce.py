"""``ai.reduce``: one answer for a column or for each group, which rows went into what, and what goes wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.batch.reduce import Reduction
from ipyconvexai.testing import Endpoint, Fault

SENTENCE = "The treaty was signed in spring, and nobody read it before the summer. "
COLORS = {"text": ["red", None, "green", " ", "blue"], "kind": ["warm", "cold", "cold", None, None]}


def asked(endpoint: Endpoint) -> list[str]:
    return [str(call.body["messages"][-1]["content"]) for call in endpoint.calls]


def test_a_column_becomes_one_text(app: ai.App, endpoint: Endpoint):
    answer = ai.reduce(pd.DataFrame(COLORS), "text", progress=False)
    assert endpoint.count == 1
    (question,) = asked(endpoint)
    assert [word in question for word in ("red", "green", "blue")] == [True, True, True]
    assert isinstance(answer, Reduction)
    assert answer.parts.fetchall() == [(0, 0, [0, 2, 4], answer.request_id)]
    assert answer.cost is not None
    assert answer.error is None
    assert ai.ledger.sql("SELECT kind, state, items, total_rows FROM batches").fetchall() == [("reduce", "done", 1, 5)]
    assert ai.ledger.sql("SELECT inputs FROM batch_parts").fetchall() == [('{"rows": [0, 2, 4]}',)]


def test_what_is_answered_is_not_sent_again_by_reduce(app: ai.App, endpoint: Endpoint):
    frame = pd.DataFrame(COLORS)
    first = ai.reduce(frame, "text", progress=False)
    assert ai.reduce(frame, "text", progress=False) == first
    assert endpoint.count == 1
    ai.reduce(frame, "text", prompt="{documents}\n\nIn a word?", progress=False)
    assert endpoint.count == 2


def test_groups_come_in_the_order_of_their_first_rows_and_null_is_one(app: ai.App, endpoint: Endpoint):
    frame = ai.reduce(pd.DataFrame(COLORS), "text", by="kind", details=True, progress=False)
    assert list(frame.columns) == [
        *("kind", "summary", "summary_error", "summary_rows"),
        *("summary_request_id", "summary_cost", "summary_tokens"),
    ]
    assert [kind if isinstance(kind, str) else None for kind in frame["kind"]] == ["warm", "cold", None]
    assert frame["summary_rows"].tolist() == [1, 2, 2]
    assert frame["summary"].notna().all()
    assert frame["summary_error"].isna().all()
    assert endpoint.count == 3
    labels = ai.ledger.sql("SELECT label FROM batch_items ORDER BY label").fetchall()
    assert labels == [('{"kind": "cold"}',), ('{"kind": "warm"}',), ('{"kind": null}',)]


def test_a_group_without_text_is_null_and_a_whole_without_is_none(app: ai.App, endpoint: Endpoint):
    frame = pd.DataFrame({"text": ["red", None], "n": [1, 2]})
    groups = ai.reduce(frame, "text", by=["n"], progress=False)
    assert groups["summary"].isna().tolist() == [False, True]
    assert ai.reduce(frame[1:], "text", progress=False) is None
    assert ai.reduce(frame[:0], "text", progress=False) is None
    assert len(ai.reduce(frame[:0], "text", by="n", progress=False)) == 0
    assert endpoint.count == 1


@pytest.mark.parametrize("kind", ["polars", "lazy", "arrow", "duckdb", "file"])
def test_the_same_kind_of_frame_comes_back_by_group(app: ai.App, kind: str, tmp_path: Path):
    table = pa.table({"text": ["a", "b", "c"], "n": [1, 1, 2]})
    path = tmp_path / "rows.csv"
    path.write_text("text,n\na,1\nb,1\nc,2\n")
    with duckdb.connect() as connection:
        given: Any = {
            "polars": lambda: pl.from_arrow(table),
            "lazy": lambda: pl.DataFrame(table).lazy(),
            "arrow": lambda: table,
            "duckdb": lambda: connection.from_arrow(table),
            "file": lambda: str(path),
        }[kind]()
        result = ai.reduce(given, "text", by="n", progress=False)
        if kind != "file":
            assert type(result) is type(given)
        found = result.collect() if kind == "lazy" else result
        rows = found.to_pylist() if kind == "arrow" else found.to_dicts() if kind in ("polars", "lazy") else None
        if rows is None:
            rows = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
    assert [(row["n"], row["summary_rows"]) for row in rows] == [(1, 2), (2, 1)]


def test_more_rows_than_the_model_reads_take_rounds(app: ai.App, endpoint: Endpoint):
    endpoint.reply("A short answer.")
    frame = pl.DataFrame({"text": [f"{number}: {SENTENCE * 5}" for number in range(60)]})
    answer = ai.reduce(frame, "text", context=1000, max_tokens=50, progress=False)
    assert answer == "A short answer."
    parts = answer.parts.fetchall()
    first = [rows for number, _, rows, _ in parts if number == 0]
    assert [row for rows in first for row in rows] == list(range(60))
    assert parts[-1][2] == list(range(60)), "the last request stands on all rows"
    assert endpoint.count == len(parts) > 6
    assert max(call.input_words for call in endpoint.calls) < 950
    before = endpoint.count
    assert ai.reduce(frame, "text", context=1000, max_tokens=50, progress=False) == answer
    assert endpoint.count == before


def test_a_failed_group_costs_the_others_nothing(app: ai.App, endpoint: Endpoint):
    endpoint.reply(lambda call: Fault(400, message="no reds") if "red" in str(call.body) else "fine")
    frame = pd.DataFrame(COLORS)
    groups = ai.reduce(frame, "text", by="kind", progress=False)
    assert groups["summary"].isna().tolist() == [True, False, False]
    assert "no reds" in groups["summary_error"][0]
    with pytest.raises(errors.BatchError, match="1 of 3"):
        ai.reduce(frame, "text", by="kind", on_error="raise", progress=False)
    with pytest.raises(errors.ProviderError, match="no reds"):
        ai.reduce(frame, "text", progress=False)


def test_a_cell_that_is_no_text_is_an_error_of_its_group(app: ai.App, endpoint: Endpoint):
    frame = pd.DataFrame({"text": ["red", 7], "n": [1, 2]})
    groups = ai.reduce(frame, "text", by="n", progress=False)
    assert groups["summary_error"].tolist()[1] == "invalid_input: row 1 is not a text but int"
    with pytest.raises(errors.InputError, match="row 1"):
        ai.reduce(frame, "text", progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "no place"}, "no {documents}"),
        ({"by": "kindd"}, "kindd"),
        ({"by": "kind", "into": "kind"}, "two columns"),
        ({"into": ""}, "no name"),
        ({"context": 100}, "no room"),
        ({"output": "rows.csv"}, "output"),
        ({"system": 3}, "no text"),
    ],
)
def test_wrong_options_of_reduce_are_refused(app: ai.App, endpoint: Endpoint, options: dict[str, Any], message: str):
    with pytest.raises(errors.InputError, match=message):
        ai.reduce(pd.DataFrame(COLORS), "text", progress=False, **options)
    assert endpoint.count == 0


def test_areduce(app: ai.App, endpoint: Endpoint):
    answer = asyncio.run(ai.areduce(pd.DataFrame(COLORS), "text"))
    assert endpoint.count == 1
    assert answer.parts.columns == ["round", "part", "rows", "request_id"]


def test_a_dry_run_of_reduce_sends_nothing(app: ai.App, endpoint: Endpoint):
    estimate = ai.reduce(pd.DataFrame(COLORS), "text", by="kind", dry_run=True, progress=False)
    assert estimate.requests == 3
    assert endpoint.count == 0
