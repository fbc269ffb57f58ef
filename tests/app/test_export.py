"""``ai.ledger.export``: Parquet, CSV, JSON lines, examples for fine-tuning."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.records import exporting
from ipyconvexai.testing import Answer, Endpoint, Fault, ToolCall


@pytest.fixture
def ledger(endpoint: Endpoint) -> Iterator[Any]:
    """Of an app in memory."""
    with ai.connect(":memory:", model="openai:gpt-4o-mini", retries=0) as opened:
        yield opened.ledger


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]


NESTED = """
    SELECT [1, 2] AS numbers, {'a': 'x,"y"', 'b': [NULL, 2]} AS parts, MAP {'k': 1.5} AS pairs, '\\xFF'::BLOB AS bytes,
           '00000000-0000-7000-8000-000000000001'::UUID AS key, 1.10::DECIMAL(4, 2) AS price,
           TIMESTAMP '2026-05-01 10:00:00.5' AS at, DATE '2026-05-01' AS day, INTERVAL 90 MINUTE AS wait,
           TIME '10:00:00' AS hour, 'x'::ENUM ('x', 'y') AS word, NULL AS nothing, '' AS empty, [[1], []] AS deep,
           170141183460469231731687303715884105727::HUGEINT AS huge, 'nan'::DOUBLE AS odd, true AS yes
"""


def test_csv_loses_nothing(ledger: Any, tmp_path: Path):
    path = ledger.export(tmp_path / "x.csv", NESTED)
    with open(path, newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert json.loads(row["numbers"]) == [1, 2]
    assert json.loads(row["parts"]) == {"a": 'x,"y"', "b": [None, 2]}
    assert "1.5" in row["pairs"]
    assert json.loads(row["deep"]) == [[1], []]
    assert row["bytes"] == "/w=="
    assert row["key"] == "00000000-0000-7000-8000-000000000001"
    assert (row["price"], row["day"], row["word"], row["nothing"]) == ("1.10", "2026-05-01", "x", "")
    assert row["at"].startswith("2026-05-01 10:00:00.5")
    assert row["wait"] == "P0M0DT5400S"
    assert row["hour"].startswith("10:00:00")
    assert row["huge"].startswith("17014118346046923")
    assert '""' in path.read_text()  # an empty text is not nothing


def test_whole_rows_as_json_lines(ledger: Any, endpoint: Endpoint, tmp_path: Path):
    (row,) = lines_of(ledger.export(tmp_path / "x.jsonl", NESTED))
    assert row["parts"] == {"a": 'x,"y"', "b": [None, 2]}
    assert (row["nothing"], row["empty"], row["yes"], row["odd"]) == (None, "", True, "nan")
    endpoint.reply("one\u2028two")
    ai.generate("hello")
    (row,) = lines_of(ledger.export(tmp_path / "y.jsonl", whole=True))
    assert (row["status"], row["text"]) == ("ok", "one\u2028two")


def test_parquet_keeps_types(ledger: Any, tmp_path: Path):
    ai.generate("hello")
    table = pyarrow.parquet.read_table(ledger.export(tmp_path / "x.PARQUET"))
    assert table.num_rows == 1
    nested = pyarrow.parquet.read_table(ledger.export(tmp_path / "y.parquet", "SELECT [1, 2] AS numbers"))
    assert nested.to_pylist() == [{"numbers": [1, 2]}]


def test_calls_can_be_chosen(ledger: Any, endpoint: Endpoint, tmp_path: Path):
    endpoint.reply([Answer("a"), Answer("b"), Fault(400)])
    ai.generate("one")
    ai.generate("two", model="openai:gpt-4.1-mini")
    ai.safe_generate("three")
    count = 0

    def rows(**chosen: Any) -> int:
        nonlocal count
        count += 1
        return int(ledger.write(tmp_path / f"{count}.csv", **chosen).rows)

    assert rows() == 3
    assert rows(status="error") == 1
    assert rows(model="gpt-4.1-mini") == rows(model="openai:gpt-4.1-mini") == 1
    assert rows(since="1h") == 3
    assert rows(since="30m") == 3
    assert rows(since="2999-01-01") == 0
    for wrong in ({"status": "odd"}, {"since": "soon"}, {"query": "SELECT 1", "model": "x"}):
        with pytest.raises(errors.InputError):
            rows(**wrong)


# ---------------------------------------------------------------------------------------------- fine-tuning
TOOLS: Any = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


def test_examples_are_what_was_sent_and_what_came_back(ledger: Any, endpoint: Endpoint, tmp_path: Path):
    endpoint.reply([Answer("Paris."), Fault(400), Answer("half", finish_reason="length"), Answer("Zoë")])
    ai.generate("The capital of France?", system="Be brief.")
    ai.safe_generate("fails")
    ai.generate("is cut")
    ai.generate([{"role": "user", "content": [{"type": "text", "text": "in parts"}]}])
    written = ledger.write(tmp_path / "x.jsonl")
    assert lines_of(written.path) == [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "in parts"}]},
                      {"role": "assistant", "content": "Zoë"}]},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "The capital of France?"},
                      {"role": "assistant", "content": "Paris."}]},
    ]  # fmt: skip
    assert (written.rows, written.examples, written.unusable) == (2, True, 1)


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_stay_as_the_provider_gave_them(ledger: Any, endpoint: Endpoint, tmp_path: Path, stream: bool):
    calls = [ToolCall("look", {"where": 'here "now"'}, id="call_1"), ToolCall("look", {}, id="call_2")]
    endpoint.reply(Answer(tool_calls=calls))
    answer = ai.OpenAI().chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "look"}], tools=TOOLS, stream=stream
    )
    if stream:
        list(answer)
    (example,) = lines_of(ledger.export(tmp_path / "x.jsonl"))
    said = example["messages"][-1]
    assert said["role"] == "assistant"
    assert said["content"] is None
    assert [call["id"] for call in said["tool_calls"]] == ["call_1", "call_2"]
    assert [call["type"] for call in said["tool_calls"]] == ["function", "function"]
    assert json.loads(said["tool_calls"][0]["function"]["arguments"]) == {"where": 'here "now"'}
    assert said["tool_calls"][0]["function"]["name"] == "look"
    assert example["tools"] == TOOLS


def test_equal_questions_are_one_example_and_replays_none(ledger: Any, endpoint: Endpoint, tmp_path: Path):
    endpoint.reply([Answer("old"), Answer("new")])
    ai.generate("hello", replay="off")
    ai.generate("hello", replay="off")
    assert ai.generate("hello", replay="reuse").replayed
    written = ledger.write(tmp_path / "x.jsonl")
    assert [line["messages"][-1]["content"] for line in lines_of(written.path)] == ["new"]
    assert written.duplicates == 1


def test_streams_are_examples_and_what_has_no_content_is_not(ledger: Any, endpoint: Endpoint, tmp_path: Path):
    ai.generate("gone")
    ledger.purge(containing="gone")
    for _ in ai.stream("a streamed answer"):
        pass
    written = ledger.write(tmp_path / "x.jsonl")
    assert [line["messages"][-1]["content"] for line in lines_of(written.path)] == ["echo: a streamed answer"]
    assert written.unusable == 1


def test_only_good_answers_are_examples(ledger: Any, tmp_path: Path):
    with pytest.raises(errors.InputError, match="learn") as caught:
        ledger.export(tmp_path / "x.jsonl", status="error")
    assert "--all" in caught.value.cure
    assert ledger.write(tmp_path / "x.jsonl", status="error", whole=True).rows == 0


# ---------------------------------------------------------------------------------------------- files
@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_a_file_is_replaced_only_when_that_is_said(ledger: Any, tmp_path: Path, kind: str):
    path = tmp_path / f"x.{kind}"
    path.write_text("mine")
    with pytest.raises(errors.InputError, match="exists") as caught:
        ledger.export(path)
    assert "overwrite=True" in caught.value.cure
    assert path.read_text() == "mine"
    ledger.export(path, overwrite=True)
    assert path.read_bytes() != b"mine"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_paths_are_the_shells(ledger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    assert ledger.export("x.csv") == Path("x.csv")
    assert (tmp_path / "x.csv").exists()
    assert ledger.export("~/y.csv") == tmp_path / "home" / "y.csv"


def test_a_link_stays_one(ledger: Any, tmp_path: Path):
    (tmp_path / "x.csv").symlink_to(tmp_path / "real.csv")
    ledger.export(tmp_path / "x.csv", "SELECT 1 AS a")
    assert (tmp_path / "x.csv").is_symlink()
    assert "1" in (tmp_path / "real.csv").read_text()


def test_what_fails_leaves_the_old_file(ledger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "x.csv"
    path.write_text("mine")

    def fail(table: Any, part: Path) -> None:
        part.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(exporting._WRITERS, ".csv", fail)
    with pytest.raises(errors.InputError, match="No space"):
        ledger.export(path, overwrite=True)
    assert path.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["x.xlsx", "x", "no/x.csv", "folder.csv"])
def test_where_no_file_can_be_is_said(ledger: Any, tmp_path: Path, name: str):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(errors.InputError) as caught:
        ledger.export(tmp_path / name)
    assert caught.value.cure


def test_the_ledger_itself_is_not_written_over(endpoint: Endpoint, tmp_path: Path):
    with ai.connect(str(tmp_path / "ledger.csv")) as app:
        app.ledger.calls()
        with pytest.raises(errors.InputError, match="itself"):
            app.ledger.export(tmp_path / "ledger.csv", overwrite=True)


def test_two_columns_of_one_name_are_refused(ledger: Any, tmp_path: Path):
    with pytest.raises(errors.InputError, match="same name"):
        ledger.export(tmp_path / "x.csv", "SELECT 1 AS a, 2 AS a")
