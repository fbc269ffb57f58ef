"""The text form of a schema, and the fields of any schema."""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipyconvexai.errors import InputError
from ipyconvexai.shapes import fields_of, schema_of


class Person(pydantic.BaseModel):
    name: str
    born: int | None = None


@dataclasses.dataclass
class Place:
    name: str
    tags: list[str]


class Row(TypedDict):
    topic: Annotated[str, "what it is about"]
    score: NotRequired[float]


class People(pydantic.RootModel[list[Person]]):
    pass


class Tone(enum.Enum):
    GOOD = "good"


def test_a_few_words_make_a_model():
    model = schema_of('topic, score float, tone Literal["a", "b"]: how it sounds')
    assert fields_of(model) == {"topic": str, "score": float, "tone": Literal["a", "b"]}
    assert model.model_fields["tone"].description == "how it sounds"
    assert model.model_validate_json('{"topic": "x", "score": 1, "tone": "b"}').score == 1.0


def test_types_need_no_names_and_classes_do():
    assert schema_of("list[int]") == list[int]
    assert schema_of("Person", {"Person": Person}) is Person
    with pytest.raises(InputError, match="no class of that name"):
        schema_of("Person")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "schema= wants a class or fields"),
        ("topic, topic", "schema= has the field 'topic' twice"),
        ("score floats", "schema= does not know the type 'floats'"),
        ("number", "schema=number: that is int and no class"),
        ("x number", "schema=number: that is int and no class"),
        ("class", "schema= cannot read 'class'"),
        ("copy int", "'copy' is a name that pydantic uses"),
    ],
)
def test_what_cannot_be_read_is_told_with_a_cure(text: str, says: str):
    with pytest.raises(InputError) as caught:
        schema_of(text, {"number": 7})
    assert says in caught.value.message
    assert caught.value.cure


@given(st.text(max_size=60))
def test_any_text_is_a_shape_or_an_input_error(text: str):
    said = "schema="
    try:
        assert schema_of(text) is not None
    except InputError as error:
        said = error.message
    assert said.startswith("schema=")


@pytest.mark.parametrize(
    ("schema", "fields"),
    [
        (Person, {"name": str, "born": int | None}),
        (Place, {"name": str, "tags": list[str]}),
        (Row, {"topic": str, "score": float}),
        (
            {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": ["null", "string"]}, "c": {}}},
            {"a": int, "b": str, "c": Any},
        ),
        ({"type": "array"}, None),
        (People, None),
        (list[Person], None),
        (int, None),
        (Tone, None),
        (dict, None),
        (Literal["a"], None),
        (Person | None, None),
    ],
)
def test_fields_of_a_schema(schema: Any, fields: dict[str, Any] | None):
    assert fields_of(schema) == fields
