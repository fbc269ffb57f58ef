"""Frames in a prompt: every kind, any content, within the budget, the same text in every run."""

from __future__ import annotations

import datetime
import decimal
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.error import UsageError

from ipyconvexai.context.frames import describe, is_frame, sampled, whole
from ipyconvexai.notebook.interpolation import interpolate
from ipyconvexai.relation import Relation
from ipyconvexai.settings import remember_secret

UTC = datetime.UTC
TABLE = pa.table(
    {
        "id": [1, 2, 3, 4],
        "price": [1.5, None, 2.5, 4.0],
        "city": ["Ulm", "Bern", None, "Ulm"],
        "day": [datetime.date(2026, 5, day) for day in (1, 2, 3, 4)],
        "open": [True, False, True, None],
    }
)

KINDS: dict[str, Callable[[pa.Table], Any]] = {
    "pandas DataFrame": lambda table: table.to_pandas(),
    "polars DataFrame": lambda table: pl.from_arrow(table),
    "polars LazyFrame": lambda table: pl.DataFrame(pl.from_arrow(table)).lazy(),
    "pyarrow Table": lambda table: table,
    "pyarrow RecordBatch": lambda table: table.combine_chunks().to_batches()[0],
    "DuckDB relation": lambda table: duckdb.from_arrow(table),
    "ledger relation": lambda table: relation_of(table),
}


def relation_of(table: pa.Table) -> Relation:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return Relation(sink.getvalue())


# ------------------------------------------------------------------------------------------------- every kind
@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_of_each_kind_is_described(kind: str):
    frame = KINDS[kind](TABLE)
    assert is_frame(frame)
    text = describe(frame)
    assert text.startswith(f"{kind}: 4 rows × 5 columns\n- id: ")
    assert "; min 1, mean 2.5, max 4\n" in text
    assert "; 1 null; min 1.5, mean 2.66667, max 4\n" in text
    assert "; 1 null; 2 distinct: Ulm 2×, Bern 1×\n" in text
    assert "min 2026-05-01, max 2026-05-04\n" in text or "for example 2026-05-01\n" in text
    assert "All 4 rows, as CSV" in text
    lines = text.splitlines()
    assert lines[-5] == "id,price,city,day,open"
    assert lines[-4].lower() == "1,1.5,ulm,2026-05-01,true"
    assert lines[-3].lower() == "2,,bern,2026-05-02,false"


@pytest.mark.parametrize("kind", KINDS)
def test_all_rows_go_in_as_csv(kind: str):
    big = pa.table({"n": range(3000), "text": [f'a "text", {n}' for n in range(3000)], "none": [None, ""] * 1500})
    text = interpolate("{df!full}", {"df": KINDS[kind](big)})
    read = pa.csv.read_csv(
        io.BytesIO(text.encode()),
        convert_options=pa.csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False),
    )
    assert read.column("n").to_pylist() == list(range(3000))
    assert read.column("text").to_pylist() == big.column("text").to_pylist()
    assert read.column("none").to_pylist() == big.column("none").to_pylist()


@pytest.mark.parametrize("kind", KINDS)
def test_empty_frames_are_described(kind: str):
    if kind != "pyarrow RecordBatch":  # an empty table has no batch
        text = describe(KINDS[kind](TABLE.slice(0, 0)))
        assert text.startswith(f"{kind}: 0 rows × 5 columns\n- id: ")
        assert whole(KINDS[kind](TABLE.slice(0, 0))) == "id,price,city,day,open"


@pytest.mark.parametrize(
    "frame", [pd.DataFrame(), pl.DataFrame(), pa.table({}), pl.LazyFrame(), pd.DataFrame(index=[1, 2])]
)
def test_frames_without_columns_are_described(frame: Any):
    assert " rows × " in describe(frame)
    assert isinstance(whole(frame), str)


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([3, 1, 2], name="n"),
        pd.Index([3, 1, 2], name="n"),
        pl.Series("n", [3, 1, 2]),
        pa.array([3, 1, 2]),
        pa.chunked_array([[3], [1, 2]]),
    ],
)
def test_columns_are_frames_of_one_column(column: Any):
    text = interpolate("{c}", {"c": column})
    assert "3 rows × 1 columns" in text
    assert "min 1, mean 2, max 3" in text
    assert text.endswith("\n3\n1\n2")


def test_what_is_no_frame_is_none():
    reader = TABLE.to_reader()
    for value in (1, "text", [1], {"a": [1]}, np.arange(3), reader, pd.Timestamp("2026-01-01"), pd, pl.col("a"), None):
        assert not is_frame(value)
    with pytest.raises(TypeError, match="int is no frame"):
        describe(1)
    assert reader.read_all().num_rows == 4  # nothing was read


def test_a_field_may_lead_to_a_column():
    frame = pd.DataFrame({"a": [1, 2], "two words": ["x", "y"]})
    assert "pandas Series: 2 rows" in interpolate("{df.a}", {"df": frame})
    assert "x 1×, y 1×" in interpolate("{df[two words]}", {"df": frame})
    assert interpolate("{df.shape} {df.describe} {df.nope}", {"df": frame}) == "(2, 2) {df.describe} {df.nope}"


def test_frames_within_a_container_are_described():
    text = interpolate("{d}", {"d": {"first": TABLE, "n": 1}})
    assert text.startswith("{'first': \npyarrow Table: 4 rows × 5 columns\n")
    assert text.endswith("\n, 'n': 1}")


# -------------------------------------------------------------------------------------------------- any content
def test_pandas_peculiarities():
    twice = pd.DataFrame([[1, "x"], [2, "y"]], columns=["a", "a"])
    assert "- a: int64; min 1, mean 1.5, max 2\n- a: " in describe(twice)
    index = pd.MultiIndex.from_tuples([("u", 1), ("v", 2)], names=["letter", None])
    several = pd.DataFrame({("x", "y"): [1.0, 2.0]}, index=index)
    text = describe(several)
    assert "- letter: " in text
    assert "- index 1: " in text
    assert whole(several) == "letter,index 1,\"('x', 'y')\"\nu,1,1.0\nv,2,2.0"
    odd = pd.DataFrame(
        {
            "category": pd.Categorical(["u", "v", "u"]),
            "mixed": [1, "a", None],
            "objects": [object(), {1, 2}, pd.NA],
            "zone": pd.DatetimeIndex(["2026-01-01", "2026-07-01", pd.NaT]).tz_localize("Europe/Berlin"),
            "span": pd.to_timedelta(["1D", "90min", None]),
            "period": pd.period_range("2026-01", periods=3, freq="M"),
            "interval": pd.interval_range(0, 3),
            "complex": [1 + 2j, 0j, 1j],
            "sparse": pd.arrays.SparseArray([0, 0, 1]),
            "nullable": pd.array([1, None, 3], dtype="Int64"),
            "infinite": [float("inf"), float("nan"), 1.0],
            "bytes": [b"\x00\xff", b"", None],
        }
    )
    text = interpolate("{df}", {"df": odd})
    assert "- category: category; 2 distinct: u 2×, v 1×" in text
    assert "- mixed: object; 1 null; for example 1" in text
    assert (
        "- zone: datetime64[us, Europe/Berlin]; 1 null; min 2026-01-01 00:00:00+0100, max 2026-07-01 00:00:00+0200"
        in text
    )
    assert "- span: timedelta64[us]; 1 null; min 1:30:00, max 1 day, 0:00:00" in text
    assert "- infinite: float64; 1 null; min 1, mean 1, max 1; 1 infinite" in text
    assert "- nullable: Int64; 1 null; min 1, mean 2, max 3" in text
    assert "0x" not in text.replace("\\x", "")
    assert "<object object>" in text
    assert len(whole(odd).splitlines()) == 4


def test_polars_peculiarities():
    frame = pl.DataFrame(
        {
            "list": [[1, 2], None],
            "struct": [{"a": 1, "b": "x"}, None],
            "category": pl.Series(["u", "v"], dtype=pl.Categorical),
            "enum": pl.Series(["u", "v"], dtype=pl.Enum(["u", "v"])),
            "wide": pl.Series([2**100, None], dtype=pl.Int128),
            "decimal": pl.Series([decimal.Decimal("1.10"), None], dtype=pl.Decimal(10, 2)),
            "nan": [float("nan"), 2.0],
            "object": pl.Series([object(), None], dtype=pl.Object),
            "time": [datetime.time(8, 30), None],
            "zone": pl.Series([datetime.datetime(2026, 1, 1), None]).dt.replace_time_zone("Asia/Tokyo"),
            "null": [None, None],
            "binary": [b"ab", None],
        }
    )
    text = interpolate("{df}", {"df": frame})
    assert '- list: List(Int64); 1 null; for example "[1, 2]"' in text
    assert "1267650600228229401496703205376" in text
    assert "; 1 null; min 1.10, mean 1.1, max 1.10" in text
    assert "- nan: Float64; min 2, mean 2, max 2; 1 NaN" in text
    assert "min 08:30:00, max 08:30:00" in text
    assert "2026-01-01 00:00:00+0900" in text
    assert "- null: Null; 2 nulls\n" in text
    assert "0x" not in text
    assert "2" in whole(frame)


def test_arrow_and_duckdb_peculiarities():
    table = pa.table(
        {
            "view": pa.array(["a", "b"], pa.string_view()),
            "half": pa.array(np.array([0.1, 2], "float16")),
            "single": pa.array([0.1, 2], pa.float32()),
            "nano": pa.array([1, 2_000_000_000], pa.timestamp("ns")),
            "no zone": pa.array([1, 2], pa.timestamp("s", "No/Where")),
            "span": pa.array([1, 10**18], pa.duration("s")),
            "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
            "huge": pa.array([decimal.Decimal("9" * 38)] * 2, pa.decimal128(38, 0)),
            "far": pa.array([1e308, 1e308]),
        }
    )
    text = describe(table)
    assert "- view: string_view; 2 distinct: a 1×, b 1×" in text
    assert "min 1970-01-01 00:00:00.000000001" in text
    assert "1970-01-01 00:00:01Z" in text
    assert "mean 1e+38" in text
    assert "\na,0.09998,0.1," in text
    relation = duckdb.sql(
        "select uuid() u, '101'::bit b, interval 1 day i, {'a': [1]} s, map {'k': 1} m, 'x'::enum('x', 'y') e, "
        "3::hugeint h, null n, now() t, union_value(a := 1) v from range(3)"
    )
    text = interpolate("{r}", {"r": relation})
    assert "DuckDB relation: 3 rows × 10 columns\n- u: UUID; 3 distinct" in text
    assert "- n: " in text


def test_hostile_names_and_cells_stay_in_their_cells():
    hostile = ["{os.environ}", 'a"b', "a,b", "a\nb", " ", "", "<img src=x onerror=alert(1)>", "x" * 500, "\x1b[31m"]
    frame = pd.DataFrame([hostile], columns=hostile)
    text = interpolate("{df}", {"df": frame, "os": os})
    assert '"a""b","a,b","a\nb"," ",""' in text
    assert "x" * 59 + "…" in text
    assert "x" * 61 not in text
    assert "{os.environ}" in text


def test_cells_are_cut_with_an_ellipsis_and_the_text_says_so():
    text = describe(pa.table({"t": ["y" * 200]}))
    assert text.splitlines()[-1] == "y" * 59 + "…"
    assert "cells are cut at 60 characters with …" in text


# --------------------------------------------------------------------------------------------------- secrets
def test_no_key_and_no_environment_gets_out_of_a_cell(monkeypatch: pytest.MonkeyPatch):
    key = "sk-planted-0123456789abcdef0123456789"
    monkeypatch.setenv("PLANTED_API_KEY", key)
    remember_secret(key)  # else the environment is looked at once a second
    frame = pd.DataFrame({"note": [f"{'n' * 40}{key}"], "k": [key]})
    for text in (describe(frame), whole(frame), describe(pl.from_pandas(frame)), describe(pa.table({key: [{key: 1}]}))):
        assert key[:16] not in text
    for cell in (os.environ, dict(os.environ), [os.environ]):
        holding = pd.DataFrame({"o": [cell, 1]})
        for field in ("{df}", "{df!full}", "{df.o}", "{d}"):
            with pytest.raises(UsageError, match="holds the environment"):
                interpolate(field, {"df": holding, "d": [holding]})


# ---------------------------------------------------------------------------------------------------- budget
def test_very_wide_frames_keep_to_the_budget_and_say_what_is_left_out():
    wide = pd.DataFrame(np.zeros((5, 2000)), columns=[f"column number {n}" for n in range(2000)])
    text = describe(wide)
    assert len(text) <= 8000
    shown = sum(line.startswith("- column number") for line in text.splitlines())
    assert shown > 20
    assert f"{2000 - shown:,} of 2,000 columns are left out." in text
    assert len(text.splitlines()[-1].split(",")) == shown


def test_long_frames_say_which_rows_they_show():
    table = pa.table({"n": range(100_000), "m": range(100_000)})
    lines = describe(table).splitlines()
    assert "40 of 100,000 rows, the first ones, then evenly spaced, as CSV" in lines[3]
    assert lines[5:8] == ["0,0", "1,1", "2,2"]
    assert lines[-1] == "99999,99999"
    assert len(lines) == 5 + 40


@pytest.mark.parametrize("tokens", [100, 150, 300, 1000, 5000])
@pytest.mark.parametrize("columns", [1, 5, 300])
def test_the_budget_holds(tokens: int, columns: int):
    table = pa.table({f"{'name' * 30}{n}": ["text " * 50, "é" * 300, None] * 50 for n in range(columns)})
    text = describe(table, tokens=tokens)
    assert len(text) <= tokens * 4
    assert " of 150 rows" in text or "All 150 rows" in text


@given(st.integers(0, 500), st.integers(0, 60))
def test_sampled_rows_are_distinct_and_in_order(length: int, count: int):
    rows = sampled(length, count)
    assert rows == sorted(set(rows))
    assert len(rows) == min(length, count)
    assert all(0 <= row < length for row in rows)
    if 2 <= count <= length:
        assert rows[0] == 0
        assert rows[-1] == length - 1


CELLS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=90)
    | st.binary(max_size=5)
    | st.datetimes(min_value=datetime.datetime(1800, 1, 1), max_value=datetime.datetime(2200, 1, 1))
    | st.dates()
    | st.timedeltas()
    | st.decimals()
    | st.lists(st.integers(0, 3), max_size=3)
    | st.dictionaries(st.text(max_size=2), st.integers(0, 3), max_size=2)
)
FRAMES = st.integers(0, 6).flatmap(
    lambda rows: st.lists(
        st.tuples(
            st.text(max_size=20),
            st.one_of(*(st.lists(kind, min_size=rows, max_size=rows) for kind in (CELLS, st.floats(), st.text()))),
        ),
        max_size=5,
    )
)


@settings(deadline=None, max_examples=100)
@given(FRAMES, st.integers(100, 3000))
def test_any_pandas_frame_is_described_within_its_budget(columns: list[tuple[str, list[Any]]], tokens: int):
    series = [pd.Series(values, dtype=object).infer_objects() for _, values in columns]
    frame = pd.concat(series, axis=1) if series else pd.DataFrame()
    frame.columns = pd.Index([name for name, _ in columns], dtype=object)
    text = describe(frame, tokens=tokens)
    assert len(text) <= tokens * 4
    assert describe(frame.copy(deep=True), tokens=tokens) == text
    assert isinstance(whole(frame), str)


# ------------------------------------------------------------------------------------- determinism and speed
def test_every_run_gives_the_same_text():
    code = (
        "import pandas as pd, polars as pl, numpy as np\n"
        "from ipyconvexai.notebook.interpolation import interpolate\n"
        "n = 300_000; r = np.random.default_rng(7)\n"
        "d = {'f': r.normal(size=n), 's': [f't{x}' for x in r.integers(0, 9, n)],\n"
        "     'c': pd.Categorical(['u', 'v'] * (n // 2)),\n"
        "     'o': [{'a', 'b'}, object(), 1] * (n // 3)}\n"
        "df = pd.DataFrame(d)\n"
        "p = pl.from_pandas(df[['f', 's', 'c']])\n"
        "print(interpolate('{df} {p} {l} {s}', {'df': df, 'p': p, 'l': [df], 's': {'a', 'b'}}))\n"
    )

    def run(seed: str) -> str:
        environ = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ, cwd=Path.cwd()
        )
        return done.stdout

    first = run("1")
    assert "300,000 rows" in first
    assert run("2") == first


@pytest.mark.parametrize("kind", ["pandas DataFrame", "polars LazyFrame", "DuckDB relation"])
def test_a_million_rows_take_about_a_second(kind: str):
    count = 1_000_000
    generator = np.random.default_rng(0)
    data: dict[str, Any] = {f"n{index}": generator.normal(size=count) for index in range(12)}
    words = pa.array([f"text {number}" for number in range(1000)])
    data |= {f"s{index}": words.take(pa.array(generator.integers(0, 1000, count))) for index in range(5)}
    data |= {f"t{index}": generator.integers(0, 10**9, count).astype("datetime64[s]") for index in range(2)}
    data["unique"] = pa.array(range(count)).cast(pa.string())
    frame = KINDS[kind](pa.table(data))
    before = time.thread_time()
    text = describe(frame)
    assert time.thread_time() - before < 3  # it takes 0.3 s of this thread; machines that test are busy and slow
    assert "1,000,000 rows × 20 columns" in text
