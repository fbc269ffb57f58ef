"""``--schema``: classes by name, and fields in a few words."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.error import UsageError

from ipyconvexai.notebook.shapes import schema_of


class Person(pydantic.BaseModel):
    name: str


@dataclasses.dataclass
class Place:
    name: str


class Holder:
    Inner = Person


NAMES: dict[str, Any] = {"Person": Person, "Place": Place, "Holder": Holder, "number": 7, "text": "x"}


def fields(text: str) -> dict[str, tuple[Any, str | None]]:
    model = schema_of(text, NAMES)
    return {name: (field.annotation, field.description) for name, field in model.model_fields.items()}


def test_a_class_is_found_by_its_name():
    assert schema_of("Person", NAMES) is Person
    assert schema_of(" Place ", NAMES) is Place
    assert schema_of("Holder.Inner", NAMES) is Person
    assert schema_of("list[Person]", NAMES) == list[Person]
    assert schema_of("int", NAMES) is int
    assert schema_of("dict[str, list[Person]]", NAMES) == dict[str, list[Person]]
    assert schema_of("Person | None", NAMES) == (Person | None)
    assert schema_of("Optional[Holder.Inner]", NAMES) == (Person | None)
    assert schema_of("Literal['a', 'b']", NAMES) == Literal["a", "b"]


def test_a_few_words_make_a_model():
    assert fields("name, age int") == {"name": (str, None), "age": (int, None)}
    assert fields("ok bool, x float, tags list[str]") == {
        "ok": (bool, None),
        "x": (float, None),
        "tags": (list[str], None),
    }
    assert fields("name: the first, age int: in years") == {"name": (str, "the first"), "age": (int, "in years")}
    assert fields("name: first, then last\nage int") == {"name": (str, "first, then last"), "age": (int, None)}
    assert fields("who Person, where list[Place]") == {"who": (Person, None), "where": (list[Place], None)}
    assert fields("a: b\nc int: d")["c"] == (int, "d")
    assert fields("m dict[str, int], n list[list[int]]") == {"m": (dict[str, int], None), "n": (list[list[int]], None)}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "wants a class"),
        (" , ", "wants a class"),
        ("Persn", "no class of that name"),
        ("number", "is int and no class"),
        ("age integers", "does not know the type"),
        ("a, a", "twice"),
        ("class", "cannot read"),
        ("_a", "cannot read"),
        ("a b c", "does not know the type"),
        ("copy int", "pydantic uses"),
        ("x __import__", "does not know the type"),
        ("x list[os.system]", "does not know the type"),
        ("Holder.__class__", "cannot read"),
        ("x print", "does not know the type"),
        ("None", "None is no shape"),
    ],
)
def test_what_cannot_be_read_is_told(text: str, says: str):
    with pytest.raises(UsageError, match=says):
        schema_of(text, NAMES)


@given(st.text(max_size=60))
def test_any_text_is_a_shape_or_a_usage_error(text: str):
    try:
        shape = schema_of(text, NAMES)
    except UsageError:
        return
    assert shape is not None
