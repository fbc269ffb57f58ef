"""Templates over columns: what is a column, what is a brace, and how a cell is written."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipyconvexai.batch.templates import Template, written
from ipyconvexai.errors import InputError, UnknownColumnError

COLUMNS = ["title", "abstract", "score", "day", "a b", "a.b", "a:b", 'say "x"']
ROW = dict.fromkeys(COLUMNS, "?") | {"title": "Owls", "score": 2.5, "day": datetime.date(2024, 3, 1)}


def filled(text: str, **values: Any) -> str | None:
    return Template(text, COLUMNS).fill(ROW | values)


# ------------------------------------------------------------------------------------------------- columns
def test_columns_are_filled_in_and_the_common_part_is_known():
    template = Template("Classify: {title}\n{abstract} of {title}", COLUMNS)
    assert template.fields == ["title", "abstract"]
    assert template.before == "Classify: "
    assert template.fill(ROW | {"abstract": "Birds."}) == "Classify: Owls\nBirds. of Owls"
    assert template.rest(ROW | {"abstract": "Birds."}) == "Owls\nBirds. of Owls"
    assert Template("{title}.", COLUMNS).before == ""
    assert Template("{{x}} {title}", COLUMNS).before == "{x} "


@pytest.mark.parametrize("name", ["a b", "a.b", "a:b", 'say "x"'])
def test_a_column_s_name_may_be_any_text(name: str):
    assert filled(f"<{{{name}}}>", **{name: "it"}) == "<it>"


def test_room_within_the_braces_is_no_matter():
    assert filled("{ title }") == "Owls"


@pytest.mark.parametrize("cell", ["{score}", "{{title}}", "{title.__class__}", "{", "}", "}}", "{0}", "%s", "\\n"])
def test_braces_in_a_cell_mean_nothing(cell: str):
    assert filled("a {title} {abstract}", title=cell, abstract=cell) == f"a {cell} {cell}"


@given(st.text(), st.text())
def test_a_cell_is_filled_in_as_it_is(title: str, abstract: str):
    text = Template("{{title}} {title} {abstract}{{}}", COLUMNS).fill(ROW | {"title": title, "abstract": abstract})
    assert text == (f"{{title}} {title} {abstract}{{}}" if (title + abstract).strip() else None)


# ------------------------------------------------------------------------------------------------- braces
@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ('Reply as {"topic": "..."}: {title}', 'Reply as {"topic": "..."}: Owls'),
        ('{"t": "{title}", "x": {"y": {"z": 1}}}', '{"t": "Owls", "x": {"y": {"z": 1}}}'),
        ('{"a": {"b": {}}} {title}', '{"a": {"b": {}}} Owls'),
        ("{\n  'topic': 1\n} {title}", "{\n  'topic': 1\n} Owls"),
        ('{{"topic": "{title}"}}', '{"topic": "Owls"}'),
        ('{{"a": {{"b": 1}}}} {title}', '{"a": {"b": 1}} Owls'),
        ("{...} {} {1,2} { {title}", "{...} {} {1,2} { Owls"),
        ("} {title} {", "} Owls {"),
        ("}} {title} {{", "} Owls {"),
        ("{topics: string, list} {title}", "{topics: string, list} Owls"),
    ],
)
def test_braces_that_can_be_no_column_stand_for_themselves(text: str, becomes: str):
    assert filled(text) == becomes


@given(st.recursive(st.integers() | st.text("ab'"), lambda each: st.dictionaries(st.text("ab"), each, max_size=3)))
def test_any_json_example_stays_as_it_is(example: Any):
    text = json.dumps(example)
    assert filled(f"{text} {{title}} {text}") == f"{text} Owls {text}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{titel}", "names {titel}, and the frame has no such column\nDid you mean title?"),
        ("{Title}", "Did you mean title?"),
        ("{zzz}", "It has title, abstract, score"),
        ("{zzz} and {title}", "double them: {{zzz}}"),
        ("{0}", "names {0}"),
        ("{titel:.2f}", "Did you mean title?"),
        ("{title.__class__}", "only whole columns can stand in it\nWrite {title}"),
        ("{title.upper}", "only whole columns"),
        ("{title[0]}", "only whole columns"),
        ("{title!r}", "only whole columns"),
    ],
)
def test_what_looks_like_a_column_and_is_none_is_told(text: str, says: str):
    with pytest.raises(UnknownColumnError) as caught:
        Template(text, COLUMNS)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Summarise it", 'Name a column in braces, for example "Classify: {title}"'),
        ("", "names no column"),
        ("{{title}}", "Write {title}: doubled braces are braces"),
        ("{{ title }}", "Write {title}"),
        ('{"topic": 1}', "names no column"),
        ("{score:, list}", "the format in {score:, list} is none"),
        ("{score:999999999}", "is none"),
        (7, "a template is a text, not int"),
        ("half \ud800 of {title}", "'half ' is followed by half a character"),
    ],
)
def test_a_template_that_cannot_be_used_is_told(text: Any, says: str):
    with pytest.raises(InputError) as caught:
        Template(text, COLUMNS)
    assert says in str(caught.value)


def test_many_columns_are_not_all_listed():
    with pytest.raises(UnknownColumnError, match="and 92 more"):
        Template("{zzz}", [f"column {number}" for number in range(100)])


@given(st.text("{}a:. \"'!%[]\n", max_size=30))
def test_any_text_is_a_template_or_an_input_error(text: str):
    try:
        template = Template(text, ["a", "a.a"])
    except InputError:
        return
    assert template.fill({"a": "x", "a.a": "y"}) is not None


# ------------------------------------------------------------------------------------------------- cells
@pytest.mark.parametrize("missing", [None, float("nan"), "", " \n", pd.NA, pd.NaT, np.nan])
def test_null_in_null_out(missing: Any):
    assert filled("Of {title}: {abstract}", title=missing, abstract=missing) is None
    assert filled("Of {title}: {score:.2f}", title="Owls", score=None) == "Of Owls: "
    if missing is not None and not isinstance(missing, str):
        assert filled("Of {title}: {abstract}", abstract=missing) == "Of Owls: "


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("{score:.2f}", 2.5, "2.50"),
        ("{score:.2f}", Decimal("2.555"), "2.56"),
        ("{score:>6,}", 1234, " 1,234"),
        ("{score:.0%}", np.float64(0.5), "50%"),
        ("{day:%Y}", datetime.date(2024, 3, 1), "2024"),
        ("{day:%H:%M}", pd.Timestamp("2024-03-01 10:30"), "10:30"),
        ("{a:b:>3}", "x", "  x"),
    ],
)
def test_formats(field: str, value: Any, says: str):
    name = field[1:].rpartition(":%H" if "%H" in field else ":")[0]
    assert filled(field, **{name: value}) == says


def test_a_cell_that_does_not_fit_its_format_is_an_error_of_its_row():
    with pytest.raises(InputError, match=r"\{score:.2f\}: this is no format of str"):
        filled("{score:.2f}", score="high")
    with pytest.raises(InputError, match="list has no formats"):
        filled("{score:.2f}", score=[1])


class Colour(enum.Enum):
    RED = "red"


class Place(pydantic.BaseModel):
    name: str


@dataclasses.dataclass
class Pair:
    left: Any
    right: Any


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("text\n{x}", "text\n{x}"),
        (3, "3"),
        (3.0, "3.0"),
        (True, "true"),
        (np.int64(3), "3"),
        (np.bool_(False), "false"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1E+999999"), "1E+999999"),
        (Decimal("0.10"), "0.10"),
        (datetime.date(2024, 3, 1), "2024-03-01"),
        (datetime.datetime(2024, 3, 1, 10, 30, tzinfo=datetime.UTC), "2024-03-01 10:30:00+00:00"),
        (datetime.time(10, 30), "10:30:00"),
        (datetime.timedelta(hours=1), "1:00:00"),
        (["a", 1, None, True], '["a", 1, null, true]'),
        (("ü",), '["ü"]'),
        ({"b": [1], "a": {"c": Decimal("0.5")}}, '{"b": [1], "a": {"c": "0.5"}}'),
        ({3: "x", None: 1}, '{"3": "x", "null": 1}'),
        ({"b", "a"}, '["a", "b"]'),
        (np.array([[1, 2], [3, 4]]), "[[1, 2], [3, 4]]"),
        (Colour.RED, "red"),
        (Place(name="Fundy"), '{"name": "Fundy"}'),
        (Pair(1, datetime.date(2024, 1, 1)), '{"left": 1, "right": "2024-01-01"}'),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    ],
)
def test_cells_are_written_plainly(value: Any, says: str):
    assert written(value) == says
    assert filled("{title}", title=value) == says


def deep() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: b"raw", "{title}: bytes are no text"),
        (lambda: [b"raw"], "{title}: bytes are no text"),
        (object, "{title}: object cannot be written"),
        (deep, "{title}: the value has too many levels"),
    ],
)
def test_what_cannot_be_written_is_an_error_of_its_row(make: Callable[[], Any], says: str):
    with pytest.raises(InputError) as caught:
        filled("{title}", title=make())
    assert says in str(caught.value)
