"""Charts: what is in the picture and in its alternative text, whatever the labels are and the user's settings say."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import html5lib
import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from ipyconvexai.drawing.charts import BLUE, GREY, Chart, bar_chart, column_chart

PAYLOADS = (Path(__file__).parents[1] / "data" / "xss-payloads.txt").read_text(encoding="utf-8").split("\n")
HOSTILE = [
    r"$\frac{1}{0$", r"$\notacommand$", "a\nb\r\nc", "<script>alert(1)</script>", '"><img src=x onerror=y>', "x" * 5000,
    "模型", "\x1b[31mred\x07", "\u202eevil", "\ud800", "", " ", "e\u0301" + "\u0301" * 500, "\x00", "💥", "%s {} $",
]  # fmt: skip


def pixels(chart: Chart) -> Any:
    """Red, green, blue and opacity."""
    return np.asarray(Image.open(io.BytesIO(chart.png)).convert("RGBA"))


def blue(chart: Chart) -> Any:
    """Where a bar is."""
    wanted = np.array([int(BLUE[at : at + 2], 16) for at in (1, 3, 5)] + [255])
    return (pixels(chart) == wanted).all(axis=2)


def runs(line: np.ndarray) -> list[int]:
    """Lengths of the stretches of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(int), [0]])))
    return [int(end - begin) for begin, end in zip(edges[::2], edges[1::2], strict=True)]


def test_bars_are_as_long_as_their_values_and_in_their_order() -> None:
    chart = bar_chart(["a", "b", "c"], [4, 1, 2], title="cost by model", unit="US dollars")
    drawn = blue(chart)
    lengths = drawn.sum(axis=1)
    bars = [lengths[at] for at in range(1, len(lengths)) if lengths[at] and not lengths[at - 1]]
    assert [round(4 * length / bars[0]) for length in bars] == [4, 1, 2]
    assert chart.alt == "Bar chart: cost by model, in US dollars. a: 4; b: 1; c: 2."


def test_columns_stand_in_their_order() -> None:
    chart = column_chart(["Mon", "Tue", "Wed"], [1, 0, 3], title="cost by day", unit="US dollars")
    heights = blue(chart).sum(axis=0)
    columns = [max(heights[at : at + 10]) for at in range(1, len(heights)) if heights[at] and not heights[at - 1]]
    assert len(columns) == 2
    assert round(columns[1] / columns[0]) == 3
    assert chart.alt == "Column chart: cost by day, in US dollars. Mon: 1; Tue: 0; Wed: 3."


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("background", ["#ffffff", "#111111"])
@pytest.mark.parametrize("colour", [GREY, BLUE])
def test_it_reads_on_light_and_dark(background: str, colour: str) -> None:
    light, dark = sorted((luminance(colour), luminance(background)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) > 4.2


def test_the_background_is_transparent_and_everything_else_has_our_colours() -> None:
    seen = pixels(bar_chart(["a" * 20], [1], title="t", unit="u"))
    assert seen[0, 0, 3] == 0
    assert (seen[..., 3] == 0).mean() > 0.3
    opaque = seen[seen[..., 3] == 255][:, :3]
    ours = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in (GREY, BLUE)])
    assert (opaque >= ours.min(axis=0)).all(), "one of the two, or where they meet something between them"
    assert (opaque <= ours.max(axis=0)).all()


@pytest.mark.parametrize("draw", [bar_chart, column_chart])
def test_hostile_labels_are_drawn_as_they_are_written(draw) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a sign that the font lacks
        chart = draw(HOSTILE, [1.0] * len(HOSTILE), title=HOSTILE[0], unit=r"$\$")
        draw(["a"], [1.0], title="\n".join(HOSTILE), unit=HOSTILE[1])
    assert r"$\frac{1}{0$: 1;" in chart.alt
    assert "\n" not in chart.alt
    assert "\x1b" not in chart.alt
    height, width = pixels(chart).shape[:2]
    assert height < 1500, "no label reaches across the chart"
    assert width < 3000


def test_a_formula_is_no_formula() -> None:
    written = bar_chart([r"$x$"], [1], title="", unit="")
    formula = bar_chart(["x"], [1], title="", unit="")
    assert pixels(written).shape[1] > pixels(formula).shape[1] + 20, "the dollars are drawn"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([None, float("nan"), float("inf"), -1.0], "a: –; a: –; a: –; a: -1"),
        ([0, 1e-9, 0.00012345, 1234567.8], "a: 0; a: 0.000000001; a: 0.000123; a: 1,234,568"),
        ([10**400, 1e300], "a: –; a: 1e+300"),
        ([], ""),
    ],
)
@pytest.mark.parametrize("draw", [bar_chart, column_chart])
def test_odd_values_are_drawn_as_nothing_and_told(draw, values, told: str) -> None:
    chart = draw(["a"] * len(values), values, title="t", unit="u")
    assert chart.alt.endswith(f"t, in u. {told}.")
    assert pixels(chart).size


def test_labels_and_values_go_together() -> None:
    with pytest.raises(ValueError, match="2 labels for 1 values"):
        bar_chart(["a", "b"], [1], title="t", unit="u")


def test_the_image_carries_its_data_and_its_words() -> None:
    png = bar_chart(["a"], [1], title="t", unit="u", alt="words").png
    for payload in PAYLOADS[::3]:
        chart = Chart(png, f"{payload}\nand more")
        tree = html5lib.parseFragment(chart.html, namespaceHTMLElements=False)
        (image,) = list(tree)
        assert image.tag == "img"
        assert set(image.attrib) == {"src", "alt", "width", "height", "style"}
        assert image.attrib["src"].startswith("data:image/png;base64,iVBOR")
        assert image.attrib["alt"].endswith("and more")
        assert not list(image)
    assert image.attrib["width"].isdigit()
    assert chart._repr_html_() == chart.html


def test_many_values_are_told_in_part() -> None:
    chart = bar_chart([f"m{n}" for n in range(50)], [1.0] * 50, title="t", unit="u")
    assert chart.alt.endswith("m39: 1; and 10 more, which the table has.")


def test_the_users_settings_are_neither_changed_nor_obeyed() -> None:
    expected = bar_chart(["a", "b"], [1, 2], title="t", unit="u").png
    theirs: Any = {"axes.facecolor": "red", "text.color": "red", "font.size": 30, "text.usetex": True,
              "font.family": "serif", "path.sketch": (10, 100, 2), "figure.facecolor": "red", "savefig.dpi": 30,
              "figure.constrained_layout.use": True, "savefig.transparent": False}  # fmt: skip
    with mpl.rc_context(theirs):
        before = dict(mpl.rcParams)
        seen = bar_chart(["a", "b"], [1, 2], title="t", unit="u").png
        assert dict(mpl.rcParams) == before
    assert seen == expected


def test_pyplot_and_backends_are_left_alone() -> None:
    code = (
        "import sys, matplotlib\n"
        "from ipyconvexai.drawing.charts import bar_chart\n"
        "before = matplotlib.rcParams._get('backend')\n"
        "bar_chart(['a'], [1], title='t', unit='u')\n"
        "print('matplotlib.pyplot' in sys.modules, matplotlib.rcParams._get('backend') is before)"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert seen.split() == ["False", "True"]
