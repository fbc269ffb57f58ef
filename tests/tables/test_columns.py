"""Values on their way to a real DuckDB column and back: as they were, or refused."""

from __future__ import annotations

import datetime
import enum
import uuid
from decimal import Decimal
from typing import Any, Literal

import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipyconvexai.errors import DocumentError, SchemaError
from ipyconvexai.settings import remember_secret
from ipyconvexai.tables.columns import literal, quote
from ipyconvexai.tables.ids import Id
from ipyconvexai.tables.model import Table, layout_of
from tests.tables.conftest import Lab

AN_ID = "018f3c8e-7b1a-8c3d-8001-00000000000a"
UTC = datetime.UTC


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Broken(enum.StrEnum):
    HALF = "\ud800"


class Point(pydantic.BaseModel):
    x: float
    tags: set[str] = set()


class Everything(Table):
    text: str | None = None
    number: int | None = None
    real: float | None = None
    flag: bool | None = None
    data: bytes | None = None
    at: datetime.datetime | None = None
    day: datetime.date | None = None
    money: Decimal | None = None
    key: uuid.UUID | None = None
    way: Literal["asc", "desc"] | None = None
    colour: Colour | None = None
    words: list[str] | None = None
    reals: list[float] | None = None
    keys: list[uuid.UUID] | None = None
    others: list[Id[Everything]] | None = None
    colours: list[Colour] | None = None
    instants: list[datetime.datetime] | None = None
    more: dict[str, Any] | None = None
    point: Point | None = None
    points: list[Point] | None = None
    either: int | str | None = None
    blobs: dict[str, bytes] | None = None
    span: datetime.timedelta | None = None
    anything: Any = None


def test_each_type_has_its_column():
    shapes = {name: (column.kind, column.shape.sql) for name, column in layout_of(Everything).columns.items()}
    assert shapes == {
        "text": ("str", "VARCHAR"),
        "number": ("int", "BIGINT"),
        "real": ("float", "DOUBLE"),
        "flag": ("bool", "BOOLEAN"),
        "data": ("bytes", "BLOB"),
        "at": ("datetime", "TIMESTAMP"),
        "day": ("date", "DATE"),
        "money": ("decimal", "VARCHAR"),
        "key": ("uuid", "UUID"),
        "way": ("choice", "VARCHAR"),
        "colour": ("choice", "VARCHAR"),
        "words": ("list[str]", "VARCHAR[]"),
        "reals": ("list[float]", "DOUBLE[]"),
        "keys": ("list[uuid]", "UUID[]"),
        "others": ("list[id]", "UUID[]"),
        "colours": ("list[choice]", "VARCHAR[]"),
        "instants": ("list[datetime]", "TIMESTAMP[]"),
        "more": ("json", "VARCHAR"),
        "point": ("json", "VARCHAR"),
        "points": ("json", "VARCHAR"),
        "either": ("json", "VARCHAR"),
        "blobs": ("json", "VARCHAR"),
        "span": ("json", "VARCHAR"),
        "anything": ("json", "VARCHAR"),
    }


def there_and_back(lab: Lab, **fields: Any) -> Everything:
    with lab.mutation() as db:
        document_id = db.insert(Everything(**fields))
    with lab.query() as db:
        found = db.get(Everything, document_id)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text", ""),
        ("text", "a'b\"c\0d\n😀"),
        ("number", 2**63 - 1),
        ("number", -(2**63)),
        ("real", 5e-324),
        ("real", 0.1),
        ("flag", False),
        ("data", b"\0\xff"),
        ("data", b""),
        ("at", datetime.datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)),
        ("at", datetime.datetime(1, 1, 1, tzinfo=UTC)),
        ("day", datetime.date(9999, 12, 31)),
        ("money", Decimal("123456789012345678901234567890.1234567890")),
        ("money", Decimal("1.50")),
        ("key", uuid.UUID(AN_ID)),
        ("way", "asc"),
        ("colour", Colour.BLUE),
        ("words", []),
        ("words", ["a", "", "ü"]),
        ("reals", [1.5, -0.0]),
        ("keys", [uuid.UUID(AN_ID)]),
        ("colours", [Colour.RED, Colour.RED]),
        ("instants", [datetime.datetime(2026, 3, 1, tzinfo=UTC)]),
        ("more", {"a": [1, 2.5, None, {"b": "\u2028"}], "": True}),
        ("point", Point(x=1.5, tags={"a", "b"})),
        ("points", [Point(x=1.0)]),
        ("either", 5),
        ("either", "5"),
        ("blobs", {"a": b"\xff\0"}),
        ("span", datetime.timedelta(days=3, microseconds=5)),
        ("anything", [1, {"x": None}]),
    ],
)
def test_a_value_comes_back_as_it_was(lab: Lab, field: str, value: Any):
    back = getattr(there_and_back(lab, **{field: value}), field)
    assert back == value
    assert type(back) is type(value)
    if isinstance(value, Decimal):
        assert str(back) == str(value)


def test_instants_are_utc_whatever_zone_they_were_given_in(lab: Lab):
    paris = datetime.timezone(datetime.timedelta(hours=2))
    given = datetime.datetime(2026, 7, 1, 12, tzinfo=paris)
    back = there_and_back(lab, at=given).at
    assert back == given
    assert back is not None
    assert back.tzinfo is UTC
    assert there_and_back(lab, at=datetime.datetime(2026, 7, 1)).at == datetime.datetime(2026, 7, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("number", 2**63, "beyond 64 bits"),
        ("number", -(2**63) - 1, "beyond 64 bits"),
        ("real", float("inf"), "inf is no number"),
        ("real", float("nan"), "nan is no number"),
        ("reals", [1.0, float("-inf")], "-inf is no number"),
        ("more", {"a": [float("nan")]}, "Infinity and NaN"),
        ("point", Point(x=float("inf")), "Infinity|not come back"),
        ("more", {"a": {1, 2}}, "not come back as it is"),
        ("more", {"a": (1, 2)}, "not come back as it is"),
        ("anything", {1: "a"}, "not come back as it is"),
        ("anything", object(), "anything"),
        ("at", datetime.datetime(1, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=2))), "at"),
    ],
)
def test_what_would_not_come_back_is_refused_and_named(lab: Lab, field: str, value: Any, message: str):
    with pytest.raises(DocumentError, match=message) as caught:
        there_and_back(lab, **{field: value})
    assert f"`Everything.{field}`" in str(caught.value)
    assert caught.value.cure


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(name, object()) for name in ("text", "number", "real", "flag", "data", "at", "day", "money", "key", "way")],
        ("number", True),
        ("flag", 1),
        ("text", b"x"),
        ("day", datetime.datetime(2026, 1, 1)),
        ("way", "up"),
        ("words", ("a",)),
        ("words", [1]),
        ("words", [None]),
        ("others", ["x"]),
    ],
)
def test_a_wrong_value_that_was_set_later_is_refused_when_it_is_written(lab: Lab, field: str, value: Any):
    document = Everything()
    setattr(document, field, value)
    with pytest.raises(DocumentError, match=f"`Everything.{field}`"), lab.mutation() as db:
        db.insert(document)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text", "a\ud800b"),
        ("words", ["fine", "\ude00b"]),
        ("more", {"c": ["\ud83d"]}),
        ("more", {"c\ud83d": 1}),
        ("anything", "\ud83d"),
        ("either", "\ud83d"),
        ("point", Point(x=1.0, tags={"\ud83d"})),
        ("points", [Point(x=1.0, tags={"\ud83d"})]),
    ],
)
def test_half_characters_are_refused_and_the_field_is_named(lab: Lab, field: str, value: Any):
    with pytest.raises(DocumentError, match=f"`Everything.{field}`: the text has half a character") as caught:
        there_and_back(lab, **{field: value})
    str(caught.value).encode()


@pytest.mark.parametrize("hint", [Literal["\ud800", "whole"], Broken])
def test_half_characters_in_a_choice_are_refused_at_the_definition(hint: Any):
    with pytest.raises(SchemaError, match="the table Half cannot be defined"):
        type("Half", (Table,), {"__annotations__": {"way": hint}, "__module__": __name__})


@pytest.mark.parametrize("name", ["a", 'a"b', '"', 'a" VARCHAR); --', "a''b"])
def test_a_quoted_name_is_one_identifier(lab: Lab, name: str):
    names, _ = _select(lab, f"SELECT 1 AS {quote(name)}")
    assert names == [name]


def _select(lab: Lab, sql: str) -> tuple[list[str], Any]:
    with lab.store.snapshot() as execute:
        return execute.select(sql)


def test_known_secrets_are_removed(lab: Lab):
    secret = 'k"ey-0123456789-abcdefgh'
    remember_secret(secret)
    back = there_and_back(lab, text=f"my {secret}", words=[secret], more={"a": secret}, data=secret.encode())
    assert (back.text, back.words, back.more, back.data) == ("my ***", ["***"], {"a": "***"}, b"***")
    with lab.query() as db:
        assert secret not in str(db.sql('SELECT * FROM "Everything"'))


def test_nothing_is_kept_of_a_document_that_is_refused(lab: Lab):
    with pytest.raises(DocumentError), lab.mutation() as db:  # noqa: PT012 - the transaction is the block
        db.insert(Everything(text="fine"))
        db.insert(Everything(real=float("inf")))
    with lab.query() as db:
        assert db.query(Everything).collect() == []


scalars = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.binary(),
    st.datetimes(),
    st.dates(),
    st.uuids(),
)
_SQL = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bytes: "BLOB", uuid.UUID: "UUID"}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(value=scalars)
def test_a_literal_is_the_value_itself(lab: Lab, value: Any):
    """What becomes the default of a new column cannot be a bound parameter."""
    sql = _SQL.get(type(value), "TIMESTAMP" if isinstance(value, datetime.datetime) else "DATE")
    ((back,),) = lab.store.read(f"SELECT {literal(value, sql)}")
    assert back == value
    ((back,),) = lab.store.read(f"SELECT {literal([value], sql + '[]')}")
    assert back == [value]
