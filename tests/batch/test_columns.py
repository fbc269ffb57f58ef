"""Types of new columns from the shape of an answer, and the values that go into them."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid
from typing import Annotated, Any, Literal, NamedTuple, NewType, Optional, TypedDict

import pyarrow as pa
import pydantic
import pytest

from ipyconvexai import errors
from ipyconvexai.batch.columns import Output, array_of, outputs_of, plain, type_of

TEXT = pa.string()


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Place:
    name: str
    at: tuple[float, float]


class Topic(pydantic.BaseModel):
    topic: str
    score: float | None
    count: int = 0
    sure: bool
    day: datetime.date
    when: datetime.datetime
    price: decimal.Decimal
    kind: Literal["a", "b"]
    colour: Colour
    level: Level
    tags: list[str]
    place: Place
    places: Optional[list[Place]] = None  # noqa: UP045 - people write so
    more: dict[str, int] = {}
    either: int | str = 0
    secret: str = pydantic.Field("x", exclude=True)

    @pydantic.computed_field  # type: ignore[prop-decorator] # pydantic's own way
    @property
    def half(self) -> float:
        return (self.score or 0) / 2


PLACE = pa.struct([("name", TEXT), ("at", pa.list_(pa.float64()))])
TYPES = {
    "topic": TEXT,
    "score": pa.float64(),
    "count": pa.int64(),
    "sure": pa.bool_(),
    "day": pa.date32(),
    "when": pa.timestamp("us"),
    "price": pa.decimal128(38, 12),
    "kind": TEXT,
    "colour": TEXT,
    "level": pa.int64(),
    "tags": pa.list_(TEXT),
    "place": PLACE,
    "places": pa.list_(PLACE),
    "more": TEXT,
    "either": TEXT,
    "half": pa.float64(),
}
ANSWER = {
    "topic": "t", "score": 1, "sure": True, "day": "2024-01-02", "when": "2024-01-02T03:00:00+02:00", "price": "1.50",
    "kind": "a", "colour": "red", "level": 1, "tags": ["x"], "place": {"name": "p", "at": [1, 2]}, "more": {"k": 1},
    "either": 7,
}  # fmt: skip


def test_a_model_is_a_column_for_each_field():
    outputs = outputs_of(Topic)
    assert outputs == [Output(name, kind) for name, kind in TYPES.items()]


def test_an_answer_fills_them():
    outputs = outputs_of(Topic)
    values = plain(Topic.model_validate(ANSWER))
    assert set(values) == set(TYPES)
    found = {output.name: array_of(output, [values[output.name], None]).to_pylist() for output in outputs}
    assert all(column[1] is None for column in found.values())
    assert {name: column[0] for name, column in found.items()} == {
        **ANSWER,
        "day": datetime.date(2024, 1, 2),
        "when": datetime.datetime(2024, 1, 2, 1),
        "price": decimal.Decimal("1.5"),
        "count": 0,
        "places": None,
        "more": '{"k": 1}',
        "either": "7",
        "half": 0.5,
    }
    (struct,) = array_of(Output("all", type_of(Topic)), [values]).to_pylist()
    assert struct["place"] == {"name": "p", "at": [1.0, 2.0]}
    assert struct["more"] == '{"k": 1}'


class Typed(TypedDict, total=False):
    name: str
    size: int


class Named(NamedTuple):
    name: str
    size: int


class Tree(pydantic.BaseModel):
    name: str
    children: list[Tree]


class Several(pydantic.RootModel[list[int]]):
    pass


UserId = NewType("UserId", int)


@pytest.mark.parametrize("schema", [Typed, Named, {"properties": {"name": {"type": "string"}, "size": {"type": ["integer", "null"]}}}])  # fmt: skip # noqa: E501
def test_other_records(schema: Any):
    assert outputs_of(schema) == [Output("name"), Output("size", pa.int64())]


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        (str, TEXT),
        (int, pa.int64()),
        (bool, pa.bool_()),
        (Annotated[int, pydantic.Field(ge=0)], pa.int64()),
        (UserId, pa.int64()),
        (Literal[1, None], pa.int64()),
        (Literal[1, "a"], TEXT),
        (Colour, TEXT),
        (int | float, pa.float64()),
        (Several, pa.list_(pa.int64())),
        (list, pa.list_(TEXT)),
        (set[int], pa.list_(pa.int64())),
        (dict[str, Any], TEXT),
        (Any, TEXT),
        (uuid.UUID, TEXT),
        (pydantic.HttpUrl, TEXT),
        (list[Place], pa.list_(PLACE)),
        ({"type": "array", "items": {"type": "number"}}, pa.list_(pa.float64())),
        (bytes, pa.binary()),
        (datetime.time, pa.time64("us")),
    ],
    ids=str,
)
def test_other_types_are_one_column(schema: Any, kind: pa.DataType):
    assert outputs_of(schema) == type_of(schema) == kind


def test_a_record_that_holds_itself_ends_in_json():
    assert type_of(Tree) == pa.struct([("name", TEXT), ("children", pa.list_(TEXT))])
    tree = plain(Tree(name="a", children=[Tree(name="b", children=[])]))
    (found,) = array_of(Output("tree", type_of(Tree)), [tree]).to_pylist()
    assert found == {"name": "a", "children": ['{"name": "b", "children": []}']}


def test_a_record_without_fields_is_refused():
    with pytest.raises(errors.InputError, match="no fields"):
        outputs_of(pydantic.create_model("Empty"))


def test_values_become_plain():
    class Word(str):
        pass

    number = uuid.uuid4()
    odd = {
        "e": Colour.RED,
        "n": Named("a", 1),
        "s": {1},
        "t": (1, 2),
        "u": number,
        "w": Word("w"),
        3: Place("p", (0, 1)),
    }
    assert plain(odd) == {
        "e": "red", "n": {"name": "a", "size": 1}, "s": [1], "t": [1, 2], "u": str(number), "w": "w",
        "3": {"name": "p", "at": [0, 1]},
    }  # fmt: skip
    assert type(plain(Word("w"))) is str


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (TEXT, "half \ud800 a character", "half � a character"),
        (pa.list_(TEXT), ["\ud800", 1], ["�", "1"]),
        (TEXT, {"k": [1]}, '{"k": [1]}'),
        (pa.decimal128(38, 12), decimal.Decimal("0.12345678901234567890"), decimal.Decimal("0.123456789012")),
        (pa.float64(), 2**60 + 1, float(2**60)),
        (pa.struct([("a", TEXT)]), {"a": 1, "b": 2}, {"a": "1"}),
    ],
)
def test_odd_values_are_made_to_fit(kind: pa.DataType, value: Any, expected: Any):
    assert array_of(Output("x", kind), [value, None]).to_pylist() == [expected, None]


@pytest.mark.parametrize(("kind", "value"), [(pa.int64(), 2**70), (pa.int64(), "many"), (pa.list_(TEXT), 3)])
def test_what_does_not_fit_is_an_error_that_names_the_column(kind: pa.DataType, value: Any):
    with pytest.raises(errors.InputError, match="'score'"):
        array_of(Output("score", kind), [value])
