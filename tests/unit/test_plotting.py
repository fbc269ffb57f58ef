"""``ai.chart``: which rows and columns become labels and numbers, told by the alternative text."""

from __future__ import annotations

import datetime
import io
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from PIL import Image

import ipyconvexai as ai
from ipyconvexai.drawing.charts import BLUE, Chart, bar_chart, line_chart, picture_of
from ipyconvexai.drawing.results import bundle_of, table_of
from ipyconvexai.errors import InputError, UnknownColumnError

DAYS = [datetime.date(2026, 1, 1), datetime.date(2026, 1, 2)]
ROWS = [{"day": "Mon", "n": 1, "cost": 0.5}, {"day": "Tue", "n": 2, "cost": None}]


@dataclass
class Row:
    day: str
    n: int


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (ROWS, "n by day. Mon: 1; Tue: 2."),
        ([Row("Mon", 1), Row("Tue", 2)], "n by day. Mon: 1; Tue: 2."),
        ({"a": 1, "b": -2}, "value. a: 1; b: -2."),
        ([("a", 1), ("b", Decimal("2.5"))], "value. a: 1; b: 2.5."),
        ([3, 4], "value. 1: 3; 2: 4."),
        ([{"x": 1, "y": 5}, {"x": 2, "y": 6}], "y by x. 1: 5; 2: 6."),
        ([{"_id": "k", "n": 1}], "n. 1: 1."),
        (pd.DataFrame(ROWS), "n by day. Mon: 1; Tue: 2."),
        (pd.DataFrame({"at": pd.to_datetime(DAYS), "n": [1, 2]}), "n by at. 2026-01-01: 1; 2026-01-02: 2."),
        (pd.Series([1, 2], index=["a", "b"], name="n"), "n by index 0. a: 1; b: 2."),
        (pl.DataFrame({"day": DAYS, "n": pl.Series([1, 2], dtype=pl.Float32)}), "2026-01-01: 1; 2026-01-02: 2."),
        (pl.LazyFrame(ROWS), "n by day. Mon: 1; Tue: 2."),
        (pa.table({"day": ["Mon"], "n": [1]}), "n by day. Mon: 1."),
        (ai.Relation.of_rows(["day", "n"], [("Mon", 1)]), "n by day. Mon: 1."),
        ([], "no rows yet. ."),
        (pd.DataFrame({"day": [], "n": []}), "no rows yet. ."),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_labels_and_numbers_are_found(data: Any, told: str):
    assert ai.chart(data).alt.endswith(told)


def test_columns_title_and_unit_are_chosen():
    chart = ai.chart(ROWS, "column", x="n", y="cost", title="Costs", unit="US dollars")
    assert chart.alt == "Column chart: Costs, in US dollars. 1: 0.5; 2: –."
    assert ai.chart(ROWS, "line", y="cost").alt.startswith("Line chart: cost by day.")


def test_what_cannot_be_drawn_says_what_can():
    with pytest.raises(UnknownColumnError, match="money") as error:
        ai.chart(ROWS, y="money")
    assert "day, n, cost" in error.value.cure
    with pytest.raises(InputError, match="pie"):
        ai.chart(ROWS, "pie")
    with pytest.raises(InputError, match="no column holds numbers"):
        ai.chart([{"day": "Mon"}])
    for data in (5, "text", None, [object()]):
        with pytest.raises(InputError, match="cannot be drawn"):
            ai.chart(data)


def test_of_very_many_rows_the_title_says_that_some_are_left_out():
    chart = ai.chart([{"a": f"r{n}", "n": n} for n in range(1000)])
    assert chart.alt.startswith("Bar chart: n by a: the first 60 of 1,000.")
    assert Image.open(io.BytesIO(chart.png)).height < 5000


def blue(chart: Chart) -> Any:
    wanted = np.array([int(BLUE[at : at + 2], 16) for at in (1, 3, 5)] + [255])
    return (np.asarray(Image.open(io.BytesIO(chart.png)).convert("RGBA")) == wanted).all(axis=2)


def test_negative_bars_lie_on_the_other_side():
    drawn = blue(bar_chart(["a", "b"], [4, -2], title="t", unit=""))
    rows = [np.flatnonzero(row) for row in drawn if row.any()]
    first, last = rows[0], rows[-1]
    assert round(len(first) / len(last)) == 2
    assert abs(int(last.max()) - int(first.min())) <= 8, "they meet at zero"


def test_a_line_is_broken_where_nothing_is_known():
    chart = line_chart(["a", "b", "c", "d", "e"], [1, 2, None, 2, 1], title="t", unit="u")
    assert chart.alt == "Line chart: t, in u. a: 1; b: 2; c: –; d: 2; e: 1."
    columns = np.flatnonzero(blue(chart).any(axis=0))
    assert np.diff(columns).max() > 50
    for values in ([], [None], [5], [float("nan"), 1e300, -1e300]):
        assert line_chart(["a"] * len(values), values, title="t", unit="").png


def test_frames_and_charts_among_results():
    assert bundle_of(pd.DataFrame({"<b>": ["<i>"]}))["text/html"].count("&lt;") == 2
    assert bundle_of(ai.chart({"a": 1}))["text/html"].startswith("<img")
    assert table_of(pd.DataFrame({"a": range(100)}), 50) == (["a"], [[n] for n in range(50)], 50)
    assert table_of("text", 5) is None


def test_pictures_of_others():
    from matplotlib.figure import Figure

    figure = Figure()
    figure.add_subplot().set_title("Costs")
    drawn = picture_of(figure)
    assert drawn is not None
    assert drawn.alt == "Figure. Costs"
    image = picture_of(Image.new("RGB", (40, 20)))
    assert image is not None
    assert image.width == 20
    assert picture_of("text") is None
    assert picture_of(Image.Image) is None
