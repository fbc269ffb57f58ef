"""Tables of hostile and of ordinary values."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import html5lib
import pytest

from ipyconvexai.render import table_html, table_text

PAYLOADS = (Path(__file__).parents[1] / "data" / "xss-payloads.txt").read_text(encoding="utf-8").split("\n")
TAGS = {"DOCUMENT_FRAGMENT", "table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td"}


def cells(html: str, tag: str = "td") -> list[str]:
    tree = html5lib.parseFragment(html, namespaceHTMLElements=False)
    return ["".join(cell.itertext()) for cell in tree.iter(tag)]


def test_hostile_cells_names_and_captions_are_text() -> None:
    payloads = [" ".join(payload.split()) for payload in PAYLOADS[::3]]
    payloads = [payload for payload in payloads if payload]
    rows = [[payload, payload] for payload in payloads]
    html = table_html(["<script>x</script>", '" onclick="x'], rows, caption="<img src=x onerror=y>")
    tree = html5lib.parseFragment(html, namespaceHTMLElements=False)
    assert {element.tag for element in tree.iter()} <= TAGS
    assert {name for element in tree.iter() for name in element.attrib} <= {"class", "style"}
    assert len(set(re.findall(r'style="[^"]*"', html))) <= 3
    assert cells(html, "th") == ["<script>x</script>", '" onclick="x']
    assert cells(html, "caption") == ["<img src=x onerror=y>"]
    assert [c for c in cells(html)[::2] if not c.endswith("…")] == [p for p in payloads if len(p) <= 300]


class Rude:
    def __str__(self) -> str:
        raise RuntimeError("no")


class NAType:
    """As pandas has it: it cannot be compared, and is nothing."""

    def __ne__(self, other: object) -> Any:
        raise TypeError("ambiguous")


UTC = dt.UTC
VALUES = [
    (1234567, "1,234,567"),
    (-5, "-5"),
    (1234.5678, "1,234.57"),
    (2.0, "2"),
    (0.000123456, "0.000123"),
    (0.1 + 0.2, "0.3"),
    (1e-9, "1e-09"),
    (1e20, "1e+20"),
    (0.0, "0"),
    (float("inf"), "inf"),
    (Decimal("12.345"), "12.35"),
    (True, "True"),
    (None, "–"),
    (float("nan"), "–"),
    (Decimal("sNaN"), "–"),
    (NAType(), "–"),
    (dt.datetime(2026, 1, 2, 3, 4, 5, 678), "2026-01-02 03:04:05"),
    (dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC), "2026-01-02 03:04:05Z"),
    (dt.date(2026, 1, 2), "2026-01-02"),
    (dt.timedelta(seconds=61.4), "0:01:01"),
    (b"\0\1", "2 bytes"),
    ("a\n  b\x1b[31m", "a b"),
    (["<b>"], "['<b>']"),
    (Rude(), "<Rude>"),
]


@pytest.mark.parametrize(("value", "text"), VALUES, ids=[text for _, text in VALUES])
def test_values(value: object, text: str) -> None:
    assert cells(table_html(["a"], [[value]])) == [text]
    assert table_text(["a"], [[value]]).split("\n")[2].strip() == text


def test_pandas_values_are_understood() -> None:
    pd = pytest.importorskip("pandas")
    np = pytest.importorskip("numpy")
    row = [pd.NaT, pd.NA, np.int64(1234), np.float32(0.5), pd.Timestamp("2026-01-02 03:04:05.6"), np.bool_(True)]
    expected = ["–", "–", "1234", "0.5", "2026-01-02 03:04:05", "True"]
    assert cells(table_html(list("abcdef"), [row])) == expected


def test_numbers_stand_right_and_nothing_is_dim() -> None:
    html = table_html(["n", "s"], [[1, "a"], [None, "b"]])
    assert html.count("text-align:right") == 3
    assert html.count("opacity:0.4") == 1
    assert "color" not in html


def test_long_text_is_cut_and_nowhere_else() -> None:
    html = table_html(["a"], [["x" * 5000]], max_cell=10)
    assert cells(html) == ["x" * 9 + "…"]
    assert html.count("x" * 9) == 1


@pytest.mark.parametrize(("more", "words"), [(1234, "… 1,234 more rows"), (1, "… 1 more row")])
def test_more_rows_are_counted(more: int, words: str) -> None:
    assert cells(table_html(["a"], [[1]], more=more))[-1] == words
    assert table_text(["a"], [[1]], more=more).endswith(words)


def test_rows_of_other_lengths_and_no_rows() -> None:
    assert cells(table_html(["a", "b"], [[1], [1, 2, 3], []])) == ["1", "–", "1", "2", "–", "–"]
    assert cells(table_html(["a"], [])) == []
    assert table_text(["a"], []) == "a\n─"
    assert table_text([], []) == "\n"


def test_text_is_aligned() -> None:
    text = table_text(["name", "n"], [["漢字", 1], ["é", 12000], [None, None]], caption="T", more=2)
    assert text.split("\n") == [
        "T",
        "name       n",
        "────  ──────",
        "漢字       1",
        "é     12,000",
        "–          –",
        "… 2 more rows",
    ]


def test_text_is_narrowed_to_fit() -> None:
    text = table_text(["a", "b", "n"], [["x" * 200, "y" * 90, 5], ["漢" * 99, "z", 6]])
    lines = text.split("\n")
    assert max(map(len, lines)) <= 120
    assert "…" in lines[2]
    assert lines[2].endswith("5")


def test_text_has_no_controls() -> None:
    assert "\x1b" not in table_text(["\x1b[1ma"], [["\x1b]0;x\x07b"]], caption="\x1bc")
