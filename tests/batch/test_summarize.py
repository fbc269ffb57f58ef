"""Summaries of a column: what is sent, what comes back, what is never sent twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.testing import Answer, Endpoint, Fault

TEXTS = ["alpha text", "beta text", "alpha text", "gamma text"]


def content(call: Any) -> str:
    return str(call.body["messages"][-1]["content"])


def test_equal_texts_are_sent_once_and_rows_keep_their_order(app: ai.App, endpoint: Endpoint):
    frame = pd.DataFrame({"text": TEXTS, "n": [1, 2, 3, 4]}, index=[7, 5, 3, 1])
    result = ai.summarize(frame, "text", progress=False)
    assert endpoint.count == 3
    assert list(result.columns) == ["text", "n", "summary", "summary_error"]
    assert list(result.index) == [7, 5, 3, 1]
    assert result["summary"].iloc[0] == result["summary"].iloc[2]
    assert result["summary_error"].isna().all()
    for text, call in zip(["alpha text", "beta text", "gamma text"], sorted(endpoint.calls, key=content), strict=True):
        assert text in content(call)
        assert call.body["messages"][0] == endpoint.calls[0].body["messages"][0], "the common part comes first"
    assert list(frame.columns) == ["text", "n"], "the frame that was given is not changed"


def test_what_is_answered_is_not_sent_again(app: ai.App, endpoint: Endpoint):
    frame = pd.DataFrame({"text": TEXTS})
    first = ai.summarize(frame, "text", progress=False)
    sent = endpoint.count
    again = ai.summarize(frame, "text", progress=False)
    assert endpoint.count == sent
    pd.testing.assert_frame_equal(first, again)


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0.5}, {"prompt": "In a word:\n{document}"}, {"model": "openai:gpt-4o"}, {"system": "Hi."}],
)
def test_a_changed_question_is_sent_anew(app: ai.App, endpoint: Endpoint, change: dict[str, Any]):
    frame = pd.DataFrame({"text": TEXTS})
    ai.summarize(frame, "text", progress=False)
    ai.summarize(frame, "text", progress=False, **change)
    assert endpoint.count == 6


def test_fresh_sends_again(app: ai.App, endpoint: Endpoint):
    frame = pd.DataFrame({"text": TEXTS})
    ai.summarize(frame, "text", progress=False)
    ai.summarize(frame, "text", progress=False, fresh=True)
    assert endpoint.count == 6


FRAMES: dict[str, tuple[Any, type]] = {
    "pandas": (pd.DataFrame({"text": TEXTS}), pd.DataFrame),
    "polars": (pl.DataFrame({"text": TEXTS}), pl.DataFrame),
    "polars lazy": (pl.LazyFrame({"text": TEXTS}), pl.LazyFrame),
    "pyarrow": (pa.table({"text": TEXTS}), pa.Table),
}


@pytest.mark.parametrize(("frame", "kind"), FRAMES.values(), ids=FRAMES)
def test_the_same_kind_of_frame_comes_back(app: ai.App, frame: Any, kind: type):
    result = ai.summarize(frame, "text", into="short", progress=False)
    assert isinstance(result, kind)
    rows: Any = result.collect() if isinstance(result, pl.LazyFrame) else result
    shorts = rows["short"].to_pylist() if isinstance(rows, pa.Table) else list(rows["short"])
    assert len(shorts) == 4
    assert shorts[0] == shorts[2] != shorts[1]


def test_a_duckdb_relation_comes_back(app: ai.App):
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        relation = connection.from_arrow(pa.table({"text": TEXTS}))
        result = ai.summarize(relation, "text", progress=False)
        assert type(result) is type(relation)
        assert len(result.fetchall()) == 4


def test_cells_without_text_get_null_and_no_call(app: ai.App, endpoint: Endpoint):
    frame = pd.DataFrame({"text": ["a text", None, "", "  \n", float("nan"), 5, ["x"]]}, dtype=object)
    result = ai.summarize(frame, "text", progress=False)
    assert endpoint.count == 1
    assert result["summary"].notna().tolist() == [True] + [False] * 6
    assert result["summary_error"].isna().tolist() == [True] * 5 + [False] * 2
    assert "int" in result["summary_error"].iloc[5]


def test_an_empty_frame_is_no_problem(app: ai.App, endpoint: Endpoint):
    result = ai.summarize(pd.DataFrame({"text": pd.Series([], dtype="str")}), "text", progress=False)
    assert len(result) == 0
    assert "summary" in result.columns
    assert endpoint.count == 0


def test_one_bad_row_costs_the_others_nothing(app: ai.App, endpoint: Endpoint):
    endpoint.reply(lambda call: Fault(400, message="no such thing") if "beta" in content(call) else Answer("fine"))
    result = ai.summarize(pd.DataFrame({"text": TEXTS}), "text", progress=False)
    assert result["summary"].tolist()[:1] == ["fine"]
    assert result["summary"].isna().tolist() == [False, True, False, False]
    assert "400" in result["summary_error"].iloc[1]
    assert endpoint.count == 3, "a 400 is not repeated"
    rows = app.ledger.sql("SELECT status, count(*) FROM calls GROUP BY status ORDER BY status").fetchall()
    assert rows == [("error", 1), ("ok", 2)]


def test_only_the_failed_is_sent_again(app: ai.App, endpoint: Endpoint):
    endpoint.reply(lambda call: Fault(400) if "beta" in content(call) else Answer("fine"))
    ai.summarize(pd.DataFrame({"text": TEXTS}), "text", progress=False)
    endpoint.reply("now it works")
    result = ai.summarize(pd.DataFrame({"text": TEXTS}), "text", progress=False)
    assert endpoint.count == 4
    assert result["summary"].tolist() == ["fine", "now it works", "fine", "fine"]


def test_on_error_raise_keeps_what_was_answered(app: ai.App, endpoint: Endpoint):
    endpoint.reply(lambda call: Fault(400) if "beta" in content(call) else Answer("fine"))
    with pytest.raises(errors.BatchError, match="1 of 4 rows failed"):
        ai.summarize(pd.DataFrame({"text": TEXTS}), "text", progress=False, on_error="raise")
    assert len(app.ledger.calls(status="ok")) == 2


def test_an_unknown_column_names_the_nearest(app: ai.App, endpoint: Endpoint):
    with pytest.raises(errors.UnknownColumnError, match="no column 'txt'") as caught:
        ai.summarize(pd.DataFrame({"text": TEXTS}), "txt")
    assert "Did you mean text" in caught.value.cure
    assert endpoint.count == 0


@pytest.mark.parametrize(
    "options",
    [{"prompt": "no place"}, {"prompt": "half \ud800 of {document}"}, {"on_error": "shrug"}, {"concurrency": 0}],
    ids=["prompt", "half a character", "on_error", "none"],
)
def test_wrong_options_send_nothing(app: ai.App, endpoint: Endpoint, options: dict[str, Any]):
    with pytest.raises(errors.InputError) as caught:
        ai.summarize(pd.DataFrame({"text": TEXTS}), "text", **options)
    assert caught.value.cure
    assert endpoint.count == 0


def test_what_is_no_frame_is_refused(app: ai.App):
    with pytest.raises(errors.InputError, match="neither a frame nor a list of files"):
        ai.summarize(TEXTS, "text")


def test_concurrency_counts_what_is_being_sent(app: ai.App, endpoint: Endpoint):
    endpoint.reply(Answer("x", delay=0.02))
    ai.summarize(pd.DataFrame({"text": [f"text {n}" for n in range(60)]}), "text", progress=False, concurrency=7)
    assert endpoint.most_in_flight == 7


def test_every_document_is_kept_once(app: ai.App):
    ai.summarize(pd.DataFrame({"text": TEXTS}), "text", progress=False)
    ai.summarize(pd.DataFrame({"text": [*TEXTS, "delta text"]}), "text", progress=False)
    rows = app.ledger.sql("SELECT content, size FROM documents ORDER BY content").fetchall()
    assert rows == [(text, len(text)) for text in ("alpha text", "beta text", "delta text", "gamma text")]


def test_rows_of_a_batch_share_its_id_and_say_so(app: ai.App):
    ai.summarize(pd.DataFrame({"text": TEXTS}), "text", progress=False)
    rows = app.ledger.sql("SELECT DISTINCT source, batch_id IS NOT NULL FROM calls").fetchall()
    assert rows == [("batch", True)]


def test_the_async_twin(app: ai.App, endpoint: Endpoint):
    frame = pd.DataFrame({"text": TEXTS})
    result = asyncio.run(ai.asummarize(frame, "text", concurrency=2))
    assert result["summary"].notna().all()
    pd.testing.assert_frame_equal(result, ai.summarize(frame, "text", progress=False))
    assert endpoint.count == 3


def test_the_bar_tells_what_came_from_the_ledger(app: ai.App, capsys: pytest.CaptureFixture[str]):
    frame = pd.DataFrame({"text": TEXTS})
    ai.summarize(frame, "text")
    assert "summarize: 4 of 4 rows" in capsys.readouterr().err
    ai.summarize(frame, "text")
    assert "4 from the ledger" in capsys.readouterr().err


def test_a_cell_that_cannot_be_sent_costs_the_others_nothing(app: ai.App, endpoint: Endpoint):
    frame = pd.DataFrame({"text": ["a\ud800b", "good", "fine"]}, dtype=object)
    result = ai.summarize(frame, "text", progress=False)
    assert result["summary"].notna().tolist() == [False, True, True]
    assert result["summary_error"].iloc[0].startswith("invalid_input")
    assert endpoint.count == 2


def test_what_is_everybodys_fault_is_raised_alone(app: ai.App, endpoint: Endpoint):
    """A ledger that cannot record stops the batch, with its own error and not with a group of them."""

    def close_the_ledger(call: Any) -> Answer:
        app.store.close()
        return Answer("too late to be written")

    endpoint.reply(close_the_ledger)
    with pytest.raises(errors.StoreError):
        ai.summarize(pd.DataFrame({"text": TEXTS}), "text", progress=False)


@pytest.mark.parametrize("dtype", ["string", "str", object])
def test_missing_cells_of_pandas_are_null(app: ai.App, endpoint: Endpoint, dtype: Any):
    missing = pd.NA if dtype == "string" else None
    result = ai.summarize(pd.DataFrame({"text": pd.array(["a", missing], dtype=dtype)}), "text", progress=False)
    assert result["summary"].isna().tolist() == [False, True]
    assert result["summary_error"].isna().all()


def test_a_column_may_have_a_number_for_a_name(app: ai.App):
    assert ai.summarize(pd.DataFrame({0: TEXTS}), 0, progress=False)["summary"].notna().all()  # type: ignore[arg-type]


def test_two_columns_of_one_name_are_refused(app: ai.App):
    frame = pd.DataFrame([["a", "b"]], columns=["text", "text"])
    with pytest.raises(errors.InputError, match="two columns have the name"):
        ai.summarize(frame, "text", progress=False)


@pytest.mark.parametrize(
    "options",
    [{"budget": "1"}, {"conversation": "c"}, {"schema": int}, {"timeout": 0}, {"foo": object()}],
    ids=["budget", "conversation", "schema", "timeout", "foo"],
)
def test_what_is_no_parameter_of_a_provider_is_not_sent(app: ai.App, endpoint: Endpoint, options: dict[str, Any]):
    with pytest.raises(errors.InputError):
        ai.summarize(pd.DataFrame({"text": TEXTS}), "text", progress=False, **options)
    assert endpoint.count == 0


def test_replay_only_sends_nothing(app: ai.App, endpoint: Endpoint):
    ai.summarize(pd.DataFrame({"text": TEXTS[:2]}), "text", progress=False)
    result = ai.summarize(pd.DataFrame({"text": TEXTS}), "text", progress=False, replay="only")
    assert endpoint.count == 2
    assert result["summary"].notna().tolist() == [True, True, True, False]
    assert result["summary_error"].iloc[3].startswith("replay_miss")


def test_without_a_system_message(app: ai.App, endpoint: Endpoint):
    ai.summarize(pd.DataFrame({"text": ["x"]}), "text", progress=False, system=None)
    assert [message["role"] for message in endpoint.calls[0].body["messages"]] == ["user"]


def test_a_batch_is_more_patient_than_a_question(app: ai.App, endpoint: Endpoint):
    """Three refusals end a question, which has two retries; a row goes on."""
    endpoint.reply([Fault(429, retry_after=0, times=3), "at last"])
    assert ai.summarize(pd.DataFrame({"text": ["x"]}), "text", progress=False)["summary"].tolist() == ["at last"]
    assert len(app.ledger.calls(status="error")) == 3


def test_a_summary_that_was_cut_says_so_and_goes_on_saying_so(app: ai.App, endpoint: Endpoint):
    endpoint.reply(Answer("half a sum", finish_reason="length"))
    for _ in range(2):
        result = ai.summarize(pd.DataFrame({"text": ["x"]}), "text", progress=False)
        assert result["summary"].tolist() == ["half a sum"]
        assert result["summary_error"].iloc[0].startswith("truncated")
    assert endpoint.count == 1


def test_texts_of_numpy_are_texts(app: ai.App):
    numpy = pytest.importorskip("numpy")
    frame = pd.DataFrame({"text": pd.Series([numpy.str_("aa"), "bb"], dtype=object)})
    result = ai.summarize(frame, "text", progress=False, max_tokens=numpy.int64(5))
    assert result["summary"].notna().all()


def test_the_new_column_needs_a_name(app: ai.App, endpoint: Endpoint):
    with pytest.raises(errors.InputError, match="no name"):
        ai.summarize(pd.DataFrame({"text": TEXTS}), "text", into=5, progress=False)  # type: ignore[arg-type]
    assert endpoint.count == 0
