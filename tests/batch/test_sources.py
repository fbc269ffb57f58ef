"""Frames, files and queries as what a batch reads, and what it gives back of each."""

from __future__ import annotations

import datetime
import decimal
import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.batch.columns import Output
from ipyconvexai.batch.opening import open_source
from ipyconvexai.batch.sources import Source, cells
from ipyconvexai.store import files as stored

TEXTS = ["one", "two", None, "four", "five"]
LENGTHS = Output("length", pa.int64())
TAGS = Output("tags", pa.list_(pa.struct([("k", pa.string())])))


def through(source: Source, path: str | Path | None = None, size: int = 2) -> Any:
    """Each text in capitals, its length, and a list of structs."""
    sink = source.sink([Output("loud"), LENGTHS, TAGS], path)
    for chunk in source.chunks(["text"], size):
        texts = chunk["text"]
        sink.write(
            {
                "loud": [text and text.upper() for text in texts],
                "length": [text and len(text) for text in texts],
                "tags": [text and [{"k": text}] for text in texts],
            }
        )
    return sink.finish()


def rows_of(frame: Any) -> list[dict[str, Any]]:
    """Of any kind of frame."""
    if isinstance(frame, Path):
        frame = duckdb.connect().sql(f"FROM '{frame}'")
    if isinstance(frame, pd.DataFrame):
        records = frame.astype(object).where(frame.notna(), None).to_dict("records")
        return [{str(name): value for name, value in record.items()} for record in records]
    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    if isinstance(frame, pl.DataFrame):
        return frame.to_dicts()
    if isinstance(frame, pa.RecordBatchReader):
        frame = frame.read_all()
    if isinstance(frame, ai.Relation):
        frame = frame.arrow()
    if isinstance(frame, duckdb.DuckDBPyRelation):
        frame = frame.to_arrow_table()
    found: list[dict[str, Any]] = frame.to_pylist()
    return found


EXPECTED = [
    {"n": n, "text": t, "loud": t and t.upper(), "length": t and len(t), "tags": t and [{"k": t}]}
    for n, t in enumerate(TEXTS)
]
TABLE = pa.table({"n": list(range(5)), "text": TEXTS})
FRAMES: dict[str, Any] = {
    "pandas": lambda: pd.DataFrame({"n": range(5), "text": TEXTS}),
    "polars": lambda: pl.DataFrame({"n": range(5), "text": TEXTS}),
    "lazy": lambda: pl.LazyFrame({"n": range(5), "text": TEXTS}),
    "arrow": lambda: TABLE,
    "batch": lambda: TABLE.to_batches()[0],
    "reader": lambda: TABLE.to_reader(),
    "duckdb": lambda: duckdb.connect().from_arrow(TABLE),
    "ledger": lambda: ai.Relation.of_rows(["n", "text"], list(enumerate(TEXTS))),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_the_same_kind_comes_back_with_typed_columns_at_the_end(kind: str):
    frame = FRAMES[kind]()
    result = through(open_source(frame))
    assert type(result) is type(frame)
    rows = rows_of(result)
    assert rows == EXPECTED
    assert list(rows[0]) == ["n", "text", "loud", "length", "tags"]


@pytest.mark.parametrize("end", [".parquet", ".csv", ".jsonl", ".csv.gz"])
@pytest.mark.parametrize("kind", ["pandas", "polars", "lazy", "arrow", "reader", "duckdb"])
def test_a_frame_is_written_to_a_file_too(kind: str, end: str, tmp_path: Path):
    frame = FRAMES[kind]()
    result = through(open_source(frame), tmp_path / f"out{end}")
    assert rows_of(result) == EXPECTED
    written = rows_of(tmp_path / f"out{end}")
    assert [(row["n"], row["text"], row["length"]) for row in written] == [
        (row["n"], row["text"], row["length"]) for row in EXPECTED
    ]
    assert os.listdir(tmp_path) == [f"out{end}"]


# ------------------------------------------------------------------------------------------------ pandas
def test_pandas_keeps_any_index_and_the_frame_is_not_changed():
    index = pd.MultiIndex.from_tuples([("a", 1), ("a", 1), ("b", 0), ("a", 2), ("b", 0)], names=["g", None])
    frame = pd.DataFrame({"n": range(5), "text": TEXTS, "loud": "old"}, index=index)
    before = frame.copy()
    result = through(open_source(frame))
    pd.testing.assert_index_equal(result.index, index)
    assert list(result.columns) == ["n", "text", "loud", "length", "tags"], "one that is there is replaced in its place"
    assert result["loud"].tolist()[0] == "ONE"
    pd.testing.assert_frame_equal(frame, before)


def test_pandas_types_of_new_columns():
    frame = pd.DataFrame({"text": ["a", "b"]})
    types = {"s": pa.string(), "i": pa.int64(), "j": pa.int64(), "b": pa.bool_(), "c": pa.bool_(), "f": pa.float64()}
    sink = open_source(frame).sink([Output(name, kind) for name, kind in types.items()])
    sink.write({"s": ["x"], "i": [1], "j": [1], "b": [True], "c": [True], "f": [None]})
    sink.write({"s": [None], "i": [2], "j": [None], "b": [False], "c": [None], "f": [0.5]})
    found = {name: str(kind) for name, kind in sink.finish().dtypes.items()}
    assert found == {"text": "str", "s": "str", "i": "int64", "j": "Int64", "b": "bool", "c": "boolean", "f": "float64"}


def test_a_pandas_file_has_its_index(tmp_path: Path):
    frame = pd.DataFrame({"n": range(5), "text": TEXTS}, index=list("vwxyz"))
    result = through(open_source(frame), tmp_path / "out.parquet")
    back = pd.read_parquet(tmp_path / "out.parquet")
    assert list(back.index) == list("vwxyz")
    assert back["loud"].tolist()[:2] == result["loud"].tolist()[:2]


def test_numbers_may_name_columns():
    names: Any = [0, 1]
    (chunk,) = open_source(pd.DataFrame([["a", 1]])).chunks(names, 5)
    assert [chunk[name] for name in names] == [["a"], [1]]


def test_cells_are_plain():
    odd = [np.str_("t"), np.float64("nan"), np.int64(3), pd.NA, pd.NaT, float("nan"), None, np.array([1, 2])]
    odd += [pd.Timestamp("2024-01-02"), np.datetime64("2024-01-02", "ns"), decimal.Decimal("NaN"), np.bool_(True)]
    found = cells(odd)
    day = datetime.datetime(2024, 1, 2)
    assert found == ["t", None, 3, None, None, None, None, [1, 2], day, day, None, True]
    assert [type(value) for value in found] == [
        str, type(None), int, *[type(None)] * 4, list, datetime.datetime, datetime.datetime, type(None), bool
    ]  # fmt: skip


def test_cells_that_are_no_texts_stay_what_they_are():
    frame = pd.DataFrame({"text": ["a", 1, ["x"], {"k": 1}, b"raw"]})
    (chunk,) = open_source(frame).chunks(["text"], 10)
    assert chunk["text"] == ["a", 1, ["x"], {"k": 1}, b"raw"]


def test_categories_and_nullable_columns():
    days = pd.Series([pd.Timestamp("2024-01-01"), pd.NaT])
    frame = pd.DataFrame({"c": pd.Categorical(["a", None]), "i": pd.array([1, None], "Int64"), "d": days})
    (chunk,) = open_source(frame).chunks(["c", "i", "d"], 10)
    assert chunk == {"c": ["a", None], "i": [1, None], "d": [datetime.datetime(2024, 1, 1), None]}
    assert type(chunk["d"][0]) is datetime.datetime


# ------------------------------------------------------------------------------------------------ every kind
@pytest.mark.parametrize("kind", FRAMES)
def test_an_empty_frame_stays_one(kind: str):
    empty = TABLE.slice(0, 0)
    frame: Any = {
        "pandas": lambda: empty.to_pandas(),
        "polars": lambda: pl.from_arrow(empty),
        "lazy": lambda: pl.from_arrow(empty).lazy(),  # type: ignore[union-attr] # a frame
        "arrow": lambda: empty,
        "batch": lambda: pa.RecordBatch.from_pylist([], TABLE.schema),
        "reader": lambda: empty.to_reader(),
        "duckdb": lambda: duckdb.connect().from_arrow(empty),
        "ledger": lambda: ai.Relation.of_rows(["n", "text"], []),
    }[kind]()
    source = open_source(frame)
    assert source.rows == 0
    assert rows_of(through(source)) == []


def test_an_unknown_column_names_the_nearest():
    with pytest.raises(errors.UnknownColumnError) as caught:
        open_source(FRAMES["polars"]()).check(["n", "texts"])
    assert "Did you mean text?" in str(caught.value)
    assert "It has n, text. Nothing was sent." in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]),
        duckdb.connect().sql("SELECT 1 AS a, 2 AS A"),
        pd.Series(["a"]),
        ["some", "texts"],
        "some text that somebody wants summarised",
        7,
        None,
        [],
    ],
    ids=lambda data: type(data).__name__,
)
def test_what_cannot_be_read_names_a_cure(data: Any):
    with pytest.raises(errors.InputError) as caught:
        open_source(data)
    assert caught.value.cure


@pytest.mark.parametrize("kind", [kind for kind in FRAMES if kind != "reader"])
def test_equal_data_have_one_fingerprint_and_others_another(kind: str):
    def fingerprint(texts: list[Any], columns: list[str]) -> str:
        table = pa.table({"n": list(range(len(texts))), "text": texts})
        frame: Any = {
            "pandas": lambda: table.to_pandas(),
            "polars": lambda: pl.from_arrow(table),
            "lazy": lambda: pl.from_arrow(table).lazy(),  # type: ignore[union-attr] # a frame
            "arrow": lambda: table,
            "batch": lambda: table.to_batches()[0],
            "duckdb": lambda: duckdb.connect().from_arrow(table),
            "ledger": lambda: ai.Relation.of_rows(["n", "text"], list(enumerate(texts))),
        }[kind]()
        return open_source(frame).fingerprint(columns)

    known = fingerprint(["ab", "c", None], ["text"])
    assert known == fingerprint(["ab", "c", None], ["text"])
    others: list[list[Any]] = [
        ["a", "bc", None],
        ["ab", "c", ""],
        ["c", "ab", None],
        ["ab", "c", None, None],
        ["ab", "c"],
    ]
    assert known not in {fingerprint(other, ["text"]) for other in others}
    assert known != fingerprint(["ab", "c", None], ["text", "n"])


def test_a_result_for_each_row_is_wanted():
    sink = open_source(FRAMES["pandas"]()).sink([Output("x")])
    sink.write({"x": ["only one"]})
    with pytest.raises(errors.InputError, match="1 rows have results, of 5"):
        sink.finish()


# ------------------------------------------------------------------------------------------------ files
def write(path: Path, rows: range, extra: bool = False) -> Path:
    more = ", i AS extra" if extra else ""
    kind = "" if path.suffix != ".jsonl" else "(FORMAT json)"
    sql = f"SELECT i AS n, 'text ' || i AS text{more} FROM range({rows.start}, {rows.stop}) t(i)"
    duckdb.connect().execute(f"COPY ({sql}) TO '{path}' {kind}")
    return path


@pytest.mark.parametrize("end", ["parquet", "csv", "jsonl"])
def test_files_give_their_rows_in_order_beside_what_was_made_of_them(end: str, tmp_path: Path):
    """Large enough that DuckDB reads with several threads, and several files whose columns differ."""
    write(tmp_path / f"a.{end}", range(150_000), extra=True)
    write(tmp_path / f"b.{end}", range(150_000, 300_000))
    source = open_source(str(tmp_path / f"*.{end}"))
    assert source.rows == 300_000
    assert source.description == str(tmp_path / f"*.{end}")
    sink = source.sink([Output("copy"), Output("row", pa.int64())])
    row = 0
    for chunk in source.chunks(["text", "n"], 5000):
        numbers = range(row, row + len(chunk["text"]))
        assert chunk["n"] == list(numbers)
        assert len(numbers) <= 5000
        sink.write({"copy": chunk["text"], "row": list(numbers)})
        row += len(numbers)
    result = sink.finish()
    assert result.columns == ["n", "text", "extra", "copy", "row"]
    wrong = "count(*), count(*) FILTER (n <> row), count(*) FILTER (text <> copy), count(extra)"
    assert result.aggregate(wrong).fetchall() == [(300_000, 0, 0, 150_000)]
    assert [n for (n,) in result.project("n").fetchall()] == list(range(300_000)), "in their order"
    assert source.locate(149_999) == {"file": str(tmp_path / f"a.{end}")}
    assert source.locate(150_000) == {"file": str(tmp_path / f"b.{end}")}


def test_the_result_of_files_is_a_relation_for_plain_duckdb(tmp_path: Path):
    made = through(open_source(write(tmp_path / "in.csv", range(3))))  # noqa: F841 - the query names it
    (tmp_path / "in.csv").unlink()  # what was read then counts
    assert duckdb.execute("SELECT count(*), max(loud) FROM made").fetchall() == [(3, "TEXT 2")]


def test_the_last_row_of_a_long_csv_file_may_be_of_another_type(tmp_path: Path):
    """By a sample it would be a number, and the last row an error when all is paid."""
    path = tmp_path / "long.csv"
    path.write_text("number,text\n" + f"1,{'long ' * 300}\n" * 25_000 + "none,last\n")
    source = open_source(path)
    sink = source.sink([Output("x", pa.int64())])
    for chunk in source.chunks(["text"], 5000):
        sink.write({"x": [len(text) for text in chunk["text"]]})
    made = sink.finish()
    assert made.filter("x = 4").fetchall() == [("none", "last", 4)]
    assert made.aggregate("count(*)").fetchall() == [(25_001,)]


def test_a_csv_file_without_rows(tmp_path: Path):
    path = tmp_path / "empty.csv"
    path.write_text("id,text\n")
    made = through(open_source(path))
    assert (made.columns, made.fetchall()) == (["id", "text", "loud", "length", "tags"], [])


def test_a_relation_of_a_closed_connection_says_so():
    connection = duckdb.connect()
    relation = connection.sql("SELECT 'a' AS text")
    connection.close()
    with pytest.raises(errors.InputError, match="relation"):
        through(open_source(relation))


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.json", "out.ndjson", "it's [1].csv.gz"])
def test_files_are_written_to_a_file(name: str, tmp_path: Path):
    result = through(open_source([write(tmp_path / "in.parquet", range(3))]), tmp_path / name)
    assert result == tmp_path / name
    expected = [("text 0", "TEXT 0", 6), ("text 1", "TEXT 1", 6), ("text 2", "TEXT 2", 6)]
    literal = str(result).replace("'", "''").replace("[", "[[]")
    reader = "read_csv" if ".csv" in name else "read_parquet" if "parquet" in name else "read_json"
    found = duckdb.connect().sql(f"SELECT text, loud, length FROM {reader}('{literal}')")
    assert found.fetchall() == expected
    assert sorted(os.listdir(tmp_path)) == sorted(["in.parquet", name])
    if "gz" in name:
        with gzip.open(result, "rt") as file:
            assert '"[{""k"":""text 0""}]"' in file.read(), "lists are JSON in CSV"


def test_an_old_result_is_replaced_in_one_piece(tmp_path: Path):
    target = tmp_path / "out.csv"
    target.write_text("old")
    source = open_source(write(tmp_path / "in.parquet", range(3)))
    sink = source.sink([Output("x")], target)
    sink.write({"x": ["a", "b"]})
    with pytest.raises(errors.InputError, match="2 rows have results, of 3"):
        sink.finish()
    assert target.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["in.parquet", "out.csv"]
    through(source, target)
    assert target.read_text().startswith("n,text,loud")


def test_what_is_read_is_never_written(tmp_path: Path):
    path = write(tmp_path / "in.parquet", range(3))
    (tmp_path / "link.parquet").symlink_to(path)
    os.link(path, tmp_path / "hard.parquet")
    for target in ("in.parquet", "link.parquet", "hard.parquet"):
        with pytest.raises(errors.InputError, match="is read by this batch"):
            open_source(path).sink([Output("x")], tmp_path / target)
    (tmp_path / "sub").mkdir()
    everything = open_source(str(tmp_path / "**" / "in.*"))
    for target in ("in.csv", "sub/in.csv"):
        with pytest.raises(errors.InputError, match="would be read"):
            everything.sink([Output("x")], tmp_path / target)
    everything.sink([Output("x")], tmp_path / "out.csv").discard()


@pytest.mark.parametrize("name", ["out.xlsx", "nowhere/out.csv", "folder.csv"])
def test_where_nothing_can_be_written(name: str, tmp_path: Path):
    (tmp_path / "folder.csv").mkdir()
    for data in (FRAMES["pandas"](), write(tmp_path / "in.csv", range(1))):
        with pytest.raises(errors.InputError) as caught:
            open_source(data).sink([Output("x")], tmp_path / name)
        assert caught.value.cure


def test_files_that_change_meanwhile_are_noticed(tmp_path: Path):
    path = write(tmp_path / "in.csv", range(3))
    source = open_source(path)
    before = source.fingerprint(["text"])
    assert before == open_source(path).fingerprint()
    sink = source.sink([Output("x")])
    sink.write({"x": ["a", "b", "c"]})
    with path.open("a") as file:
        file.write("3,text 3\n")
    assert source.fingerprint(["text"]) != before
    with pytest.raises(errors.InputError, match="changed while it was read"):
        sink.finish()


def test_a_reader_that_stops_early_or_is_slow_holds_nothing(tmp_path: Path):
    source = open_source(write(tmp_path / "in.parquet", range(30_000)))
    slow = source.chunks(["n"], 1000)
    assert next(slow)["n"][0] == 0
    other = source.chunks(["n"], 1000)
    assert next(other)["n"][0] == 0
    other.close()
    assert rows_of(through(source, size=3000).limit(1))[0]["loud"] == "TEXT 0", "while one reader is open"
    assert next(slow)["n"][0] == 1000
    slow.close()


def test_a_relation_is_run_once_and_its_connection_is_free():
    connection = duckdb.connect()
    connection.execute("CREATE SEQUENCE runs")
    relation = connection.sql("SELECT nextval('runs') AS n, 'text ' || i AS text FROM range(5000) t(i)")
    source = open_source(relation)
    chunks = source.chunks(["n"], 1000)
    next(chunks)
    assert connection.execute("SELECT 1").fetchall() == [(1,)], "while it is read"
    chunks.close()
    result = through(source, size=1000)  # noqa: F841 - the query names it
    assert connection.sql("SELECT nextval('runs')").fetchall() == [(5001,)]
    assert connection.sql("SELECT count(*), max(n) FROM result WHERE loud = upper(text)").fetchall() == [(5000, 5000)]


def test_a_relation_keeps_its_types():
    connection = duckdb.connect()
    connection.execute("CREATE TYPE mood AS ENUM ('sad', 'glad')")
    sql = """SELECT 't' AS text, 'glad'::mood AS mood, 170141183460469231731687303715884105727::HUGEINT AS huge,
             INTERVAL '1 month 3.000001 seconds' AS span, '12:00:00+02'::TIMETZ AS at, [1, 2]::INT[2] AS pair,
             TIMESTAMPTZ '2024-01-01 00:00:00+00' AS instant, {'a': 1::HUGEINT, 'b': 'x, "y'''} AS s,
             '101'::BIT AS bits, uuid() AS id, MAP {'k': 1} AS m, '{"a":1}'::JSON AS j, 1.5::DECIMAL(38, 10) AS d"""
    relation = connection.sql(sql).materialize()
    result = through(open_source(relation))
    assert result.types[: len(relation.types)] == relation.types
    columns = [f'"{name}"::VARCHAR' for name in relation.columns]
    assert result.project(", ".join(columns)).fetchall() == relation.project(", ".join(columns)).fetchall()


def test_a_column_of_a_relation_is_replaced_whatever_its_type_and_case():
    connection = duckdb.connect()
    connection.execute("CREATE TABLE source AS SELECT 7 AS Loud, INTERVAL '1 day' AS length, 'a' AS text")
    result = through(open_source(connection.sql("SELECT * FROM source")))
    assert result.columns == ["loud", "length", "text", "tags"]
    assert result.fetchall() == [("A", 1, "a", [{"k": "a"}])]


def test_private_files_go_with_the_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    connection = duckdb.connect()
    source = open_source(connection.from_arrow(TABLE))
    result = through(source)
    view = result.filter("n > 1")
    del source, result
    assert rows_of(view) == EXPECTED[2:]
    assert len(os.listdir(tmp_path)) == 1
    del view, connection
    assert os.listdir(tmp_path) == []


def test_a_batch_that_is_given_up_leaves_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    folder = tmp_path / "private"
    folder.mkdir()
    source = open_source(write(tmp_path / "in.csv", range(3)))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    sink = source.sink([Output("x")], tmp_path / "out.csv")
    sink.write({"x": ["a"]})
    sink.discard()
    assert os.listdir(folder) == []
    assert sorted(os.listdir(tmp_path)) == ["in.csv", "private"]


def test_a_name_with_signs_of_patterns_is_a_name(tmp_path: Path):
    write(tmp_path / "plain.parquet", range(1)).rename(tmp_path / "it's [1]*.parquet")
    write(tmp_path / "plain.parquet", range(5)).rename(tmp_path / "it's 1x.parquet")
    assert open_source(tmp_path / "it's [1]*.parquet").rows == 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [("papers.parqet", "Pass"), ("paper.csv", "Did you mean papers.csv?"), ("none*.csv", "pattern"), (".", "Name its")],
)
def test_a_path_that_is_not_there(name: str, hint: str, tmp_path: Path):
    write(tmp_path / "papers.csv", range(1))
    with pytest.raises(errors.InputError) as caught:
        open_source(str(tmp_path / name))
    assert hint in caught.value.cure


def test_files_that_cannot_be_read_are_errors_of_ours(tmp_path: Path):
    (tmp_path / "bad.parquet").write_bytes(b"no parquet at all")
    (tmp_path / "odd.txt").write_text("x")
    for data in (tmp_path / "bad.parquet", tmp_path / "odd.txt", [tmp_path / "bad.parquet", tmp_path / "odd.csv"]):
        with pytest.raises(errors.InputError) as caught:
            open_source(data)
        assert caught.value.cure


def test_rows_that_do_not_fit_into_little_memory_are_read_with_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    write(tmp_path / "in.parquet", range(60_000))
    monkeypatch.setattr(stored, "MEMORY", "1MB")
    source = open_source(tmp_path / "in.parquet")
    numbers = [number for chunk in source.chunks(["n"], 7000) for number in chunk["n"]]
    assert numbers == list(range(60_000))
    assert through(source, size=7000).aggregate("count(*) FILTER (loud = upper(text))").fetchall() == [(60_000,)]


MEASURED = """
import re, sys
from pathlib import Path
from ipyconvexai.batch.columns import Output
from ipyconvexai.batch.opening import open_source
source = open_source(sys.argv[1])
sink = source.sink([Output("summary"), Output("error")])
for chunk in source.chunks(["text"], 16_384):
    texts = chunk["text"]
    sink.write({"summary": ["a summary " + text[:90] for text in texts], "error": [None] * len(texts)})
columns = len(sink.finish().columns)
print(columns, re.search("VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])  # the peak, in kB
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="where a process's peak is not told")
def test_a_million_rows_need_little_memory(tmp_path: Path):
    path = tmp_path / "large.parquet"
    sql = "SELECT i AS id, repeat(md5(i::VARCHAR), 10)[:300] AS text FROM range(1000000) t(i)"
    duckdb.connect().execute(f"COPY ({sql}) TO '{path}'")
    run = subprocess.run([sys.executable, "-c", MEASURED, str(path)], capture_output=True, text=True, check=True)
    columns, kilobytes = map(int, run.stdout.split())
    assert columns == 4
    assert kilobytes <= 400_000


# ------------------------------------------------------------------------------------------------ queries
def test_a_query_over_the_ledger(app: ai.App):
    ai.generate("Hello")
    result = through(open_source("  select text, 1 AS n FROM calls"))
    assert isinstance(result, ai.Relation)
    (row,) = rows_of(result)
    assert row["loud"] == row["text"].upper()
    with pytest.raises(errors.QueryError):
        open_source("SELECT nothing FROM nowhere")
