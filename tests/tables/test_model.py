"""Classes as tables: what is refused where it is defined, what a document is, what ``Id`` checks."""

# mypy: disable-error-code="misc,valid-type"
from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pydantic
import pytest

from ipyconvexai.errors import DocumentError, SchemaError
from ipyconvexai.tables import registry
from ipyconvexai.tables.builtin import Conversation, Document, Message
from ipyconvexai.tables.ids import Id, IdOf
from ipyconvexai.tables.model import RESERVED, Index, Table, layout_of

AN_ID = "018f3c8e-7b1a-8c3d-8001-00000000000a"


class Note(Table):
    text: str
    stars: int = 0
    parent: Id[Note] | None = None

    by_stars = Index("stars")


def test_a_document_says_what_it_is_and_has_no_id_yet():
    note = Note(text="hello")
    assert (note.text, note.stars, note.parent) == ("hello", 0, None)
    assert (note._id, note._creation_time) == (None, None)
    assert Note.__table_name__ == "Note"
    assert repr(Note.by_stars) == "Index('stars')"


def test_the_sql_table_can_have_a_name_of_its_own():
    class Thing(Table, name="things"):
        text: str

    assert Thing.__table_name__ == "things"
    assert registry.find("Thing") is Thing
    assert registry.find("THINGS") is Thing


def test_a_class_that_is_defined_again_takes_the_place_of_the_older():
    def define() -> type[Table]:
        class Thing(Table):
            text: str

        return Thing

    older, before = define(), registry.generation()
    newer = define()
    assert registry.find("Thing") is newer is not older
    assert registry.generation() == before + 1


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_the_ledgers_own_names_are_refused(name: str):
    with pytest.raises(SchemaError, match="ledger's own"):
        type(name.upper(), (Table,), {"__annotations__": {"x": int}, "__module__": __name__})


@pytest.mark.parametrize(
    "name", ["", "a b", 'a"b', "1a", "a;b", "x" * 65, "duckdb_tables", "pg_class", "sqlite_master"]
)
def test_names_that_sql_would_not_bear_are_refused(name: str):
    with pytest.raises(SchemaError, match="cannot be the name of a table"):

        class Thing(Table, name=name):
            x: int


@pytest.mark.parametrize(
    ("hints", "attributes", "message"),
    [
        ({"x": int}, {"by_x": Index("y")}, "unknown field 'y'"),
        ({"x": dict}, {"by_x": Index("x")}, "have no order"),
        ({"x": list[str]}, {"by_x": Index("x")}, "have no order"),
        ({"x": Decimal}, {"by_x": Index("x")}, "have no order"),
        ({"x": int}, {"by_x": Index()}, "names no field"),
        ({"x": int}, {"by_x": Index("x", "x")}, "or one twice"),
        ({"x": int}, {"by_x": Index("x", "_creation_time")}, "names _creation_time"),
        ({"x": int}, {"by_creation_time": Index("x")}, "reserved name"),
        ({"_x": int}, {}, "underscore"),
        ({}, {"_x": 1}, "underscore"),
        ({}, {"x": 1}, "cannot be defined"),
        ({"x": int, "X": int}, {}, "upper and lower case"),
        ({"x": threading.Thread}, {}, "cannot be defined"),
        ({"\ud800": int}, {}, "cannot be defined"),
        ({"x": Callable[[], None]}, {}, "cannot be kept"),
        ({"x": dict[str, Callable[[], None]]}, {}, "cannot be kept"),
        ({"x": Conversation}, {}, "whole document"),
        ({"x": list[Message] | None}, {}, "whole document"),
    ],
)
def test_what_can_never_work_is_refused_at_the_definition(
    hints: dict[str, Any], attributes: dict[str, Any], message: str
):
    before = registry.generation()
    with pytest.raises(SchemaError, match=message) as caught:
        type("Thing", (Table,), {"__annotations__": hints, "__module__": __name__, **attributes})
    assert caught.value.cure
    assert registry.generation() == before
    assert registry.find("Thing") is None


@pytest.mark.parametrize(
    "field", ['x"y', 'a" VARCHAR); DROP TABLE messages; --', "a b", "", "1a", "a;b", "a-b", "a.b", "a\0"]
)
@pytest.mark.parametrize("hint", [int, "NotThereYet"])
def test_a_field_that_is_no_identifier_is_refused_at_the_definition(field: str, hint: Any):
    with pytest.raises(SchemaError, match="cannot be the name of a field of the table Thing") as caught:
        type("Thing", (Table,), {"__annotations__": {field: hint}, "__module__": __name__})
    assert caught.value.cure
    assert registry.find("Thing") is None
    with pytest.raises(SchemaError, match="cannot be the name of a field"):
        pydantic.create_model("Thing", __base__=Table, **{field: (hint, ...)})  # type: ignore[call-overload] # any names


def test_fields_in_any_script_and_keywords_are_fine():
    names = ["größe", "名", "class", "select", "x" * 65]
    table: Any = type("Thing", (Table,), {"__annotations__": dict.fromkeys(names, int), "__module__": __name__})
    assert list(layout_of(table).columns) == names


def test_extra_fields_cannot_be_allowed():
    with pytest.raises(SchemaError, match="only fields are kept"):

        class Thing(Table, extra="allow"):
            x: int


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "Object is missing the required field `text`"),
        ({"text": "x", "colour": 1}, "Object contains extra field `colour`"),
        ({"text": 5}, "`text`: Value does not match: .* of type int"),
        ({"text": "x", "stars": "5"}, "`stars`: Value does not match"),
        ({"text": "x", "stars": True}, "`stars`: Value does not match"),
        ({"text": "x", "parent": "nobody"}, "it is no id"),
        ({"text": "x", "_id": AN_ID}, "extra field `_id`"),
    ],
)
def test_a_document_that_does_not_fit_its_class_is_refused(fields: dict[str, Any], message: str):
    with pytest.raises(DocumentError, match=message):
        Note(**fields)


def test_an_id_is_the_text_of_a_uuid_in_lower_case_also_in_other_models():
    adapter: pydantic.TypeAdapter[str] = pydantic.TypeAdapter(Id[Note])
    assert adapter.validate_python(AN_ID.upper()) == AN_ID
    assert adapter.json_schema() == {"type": "string", "format": "uuid"}
    for wrong in ("", "x", AN_ID + "0", 5, None):
        with pytest.raises(pydantic.ValidationError):
            adapter.validate_python(wrong)


def test_the_table_of_an_id_is_found_also_where_it_is_defined_later():
    hint: Any = Id["Thing"]
    (of,) = hint.__metadata__
    assert isinstance(of, IdOf)
    assert of.table() is None

    class Thing(Table):
        x: int

    assert of.table() is Thing
    assert of == IdOf(Thing)
    assert layout_of(Note).columns["parent"].shape.id_of == IdOf(Note)


def test_a_class_whose_hints_come_later_is_complete_when_they_are_there(monkeypatch: pytest.MonkeyPatch):
    class Late(Table):
        x: NotThereYet  # type: ignore[name-defined] # noqa: F821

    with pytest.raises(SchemaError, match="not complete"):
        layout_of(Late)
    monkeypatch.setitem(globals(), "NotThereYet", int)
    assert layout_of(Late).columns["x"].kind == "int"


def test_the_built_in_tables_have_the_ledgers_columns():
    assert layout_of(Message).selection.startswith('"id"::VARCHAR, "created_at", "conversation_id"::VARCHAR')
    assert Message(conversation_id=AN_ID, role="user").status == "done"
    assert Document(content="four").size == 4
    assert Document(content=None).size == 0
