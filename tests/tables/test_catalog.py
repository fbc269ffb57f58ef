"""Classes and what the ledger has: made, brought up to date where that is safe, refused where it is not."""

from __future__ import annotations

import json
import threading
import time
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from ipyconvexai.errors import DiskFullError, DocumentError, SchemaError
from ipyconvexai.ids import table_number
from ipyconvexai.store.link import open_store
from ipyconvexai.tables.catalog import Catalog
from ipyconvexai.tables.ids import IdOf
from ipyconvexai.tables.model import Index, Table, layout_of
from tests.tables.conftest import Lab


def define(name: str = "Note", /, table: str | None = None, module: str = __name__, **fields: Any) -> Any:
    """A class with these fields: a hint, or (hint, default); an Index is an index."""
    namespace: dict[str, Any] = {"__annotations__": {}, "__module__": module}
    for field, what in fields.items():
        if isinstance(what, Index):
            namespace[field] = what
            continue
        hint, *default = what if isinstance(what, tuple) else (what,)
        namespace["__annotations__"][field] = hint
        if default:
            namespace[field] = default[0]
    options = {} if table is None else {"name": table}
    metaclass: Any = type(Table)
    return metaclass(name, (Table,), namespace, **options)


def insert(lab: Lab, *documents: Table) -> list[str]:
    with lab.mutation() as db:
        return [db.insert(document) for document in documents]


def all_of(lab: Lab, table: Any) -> list[dict[str, Any]]:
    with lab.query() as db:
        return [dict(document) for document in db.query(table)]


def art_indexes(lab: Lab, table: str) -> set[str]:
    rows = lab.store.read("SELECT index_name FROM duckdb_indexes() WHERE table_name = ?", [table])
    return {name for (name,) in rows}


# ---------------------------------------------------------------------------------------------- creating
def test_a_table_is_made_with_its_number_and_indexes(lab: Lab):
    Note = define(a=str, b=(int, 0), c=(bool, True), by_a=Index("a", "b"), by_ab=Index("a"), by_c=Index("c"))
    lab.catalog.ensure_all()
    columns = lab.store.read("SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'Note'")
    assert columns == [
        ("_id", "UUID"),
        ("_creation_time", "TIMESTAMP"),
        ("a", "VARCHAR"),
        ("b", "BIGINT"),
        ("c", "BOOLEAN"),
    ]
    assert art_indexes(lab, "Note") == {"Note.a"}  # one for both; none on a bool
    (note,) = insert(lab, Note(a="x"))
    rows = lab.store.read("SELECT number, schema FROM document_tables WHERE name = 'Note'")
    assert [(number, json.loads(schema)["indexes"]["by_a"]) for number, schema in rows] == [
        (table_number(note), ["a", "b"])
    ]


def test_numbers_count_on_and_other_ledgers_have_their_own(lab: Lab):
    first, second = define("A", x=int), define("B", x=int)
    numbers = sorted(table_number(one) or 0 for one in insert(lab, first(x=1), second(x=1)))
    assert numbers == [4, 5]


def test_nothing_is_done_when_nothing_was_defined(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    define(a=str)
    lab.catalog.ensure_all()
    monkeypatch.setattr(lab.catalog, "_store", None)
    started = time.perf_counter()
    for _ in range(1000):
        lab.catalog.ensure_all()
    assert (time.perf_counter() - started) / 1000 < 20e-6


def test_two_processes_make_it_once(tmp_path: Path):
    define(a=str, by_a=Index("a"))
    path = str(tmp_path / "shared.duckdb")
    stores = [open_store(path) for _ in range(3)]  # each has a line of its own to the keeper, as a process has
    catalogs = [Catalog(store) for store in stores]
    threads = [threading.Thread(target=catalog.ensure_all) for catalog in catalogs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = stores[0].read("SELECT count(*), min(number) FROM document_tables WHERE name = 'Note'")
    assert rows == [(1, 4)]
    assert [catalog.names() for catalog in catalogs] == [{"conversations", "messages", "documents", "Note"}] * 3
    for store in stores:
        store.close()


def test_a_table_of_somebody_else_is_left_alone(lab: Lab):
    with lab.store.transaction() as execute:
        execute("CREATE TABLE Strange (x INTEGER)")
    try:
        Strange = define("strange", x=int)
        with pytest.raises(SchemaError, match="none of yours"):
            insert(lab, Strange(x=1))
        Batches = define("Mine", table="mine", x=int)
        insert(lab, Batches(x=1))
    finally:
        with lab.store.transaction() as execute:
            execute("DROP TABLE Strange")


# ---------------------------------------------------------------------------------------------- what is safe
def test_new_fields_that_may_be_missing_are_added(lab: Lab):
    old = define(a=str, by_a=Index("a"))
    insert(lab, old(a="1"))
    new = define(
        a=str,
        b=(int | None, None),
        c=(str, "it's\0"),
        d=(list[int], Field(default_factory=list)),
        e=(dict[str, int], {"x": 1}),
        f=(bool, True),
        by_a=Index("a"),
        by_c=Index("c"),
    )
    insert(lab, new(a="2", b=2, c="two"))
    assert all_of(lab, new) == [
        {"a": "1", "b": None, "c": "it's\0", "d": [], "e": {"x": 1}, "f": True},
        {"a": "2", "b": 2, "c": "two", "d": [], "e": {"x": 1}, "f": True},
    ]
    with lab.query() as db:
        assert len(db.query(new).with_index("by_c", c="it's\0").collect()) == 1
    assert art_indexes(lab, "Note") == {"Note.a", "Note.c"}


def test_a_field_that_may_be_missing_can_go_and_come_back(lab: Lab):
    first = define(a=str, b=(int | None, None), c=(int, 7))
    insert(lab, first(a="1", b=5))
    second = define(a=str)
    insert(lab, second(a="2"))
    assert all_of(lab, second) == [{"a": "1"}, {"a": "2"}]
    third = define(a=str, b=(int | None, None), c=(int, 8))
    assert all_of(lab, third) == [{"a": "1", "b": 5, "c": 7}, {"a": "2", "b": None, "c": 8}]
    assert lab.store.read('SELECT c FROM "Note" ORDER BY a') == [(7,), (8,)]


def test_indexes_come_and_go(lab: Lab):
    insert(lab, define(a=str, b=int, by_a=Index("a"))(a="1", b=1))
    both = define(a=str, b=int, by_b=Index("b", "a"))
    lab.catalog.ensure_all()
    assert art_indexes(lab, "Note") == {"Note.b"}
    with lab.query() as db:
        assert len(db.query(both).with_index("by_b", b=1).collect()) == 1
        with pytest.raises(DocumentError, match="no index 'by_a'"):
            db.query(both).with_index("by_a")


def test_an_index_and_a_default_for_what_was_missing_in_one_step(lab: Lab):
    """DuckDB refuses an index after an UPDATE of the same transaction."""
    insert(lab, define(a=(str | None, None))(a=None))
    new = define(a=(str, "none"), by_a=Index("a"))
    assert all_of(lab, new) == [{"a": "none"}]
    with lab.query() as db:
        assert len(db.query(new).with_index("by_a", a="none").collect()) == 1


def test_types_that_hold_the_same_values_may_change(lab: Lab):
    insert(lab, define(a=Literal["x", "y"])(a="x"))
    assert all_of(lab, define(a=Literal["x", "y", "z"])) == [{"a": "x"}]
    assert all_of(lab, define(a=str)) == [{"a": "x"}]
    assert all_of(lab, define(a=Literal["x"])) == [{"a": "x"}]
    narrow = define(a=Literal["y"])
    with pytest.raises(SchemaError, match=r"`a` was choice of 'x' .* is now choice of 'y'"):
        all_of(lab, narrow)
    key: Any = uuid.UUID(int=5)
    insert(lab, define("Other", k=uuid.UUID, d=Decimal)(k=key, d=Decimal("1.50")))
    hint: Any = Annotated[str, IdOf(None)]
    assert all_of(lab, define("Other", k=hint, d=str)) == [{"k": str(key), "d": "1.50"}]


def test_none_may_be_forbidden_where_there_is_none(lab: Lab):
    optional = define(a=(int | None, None))
    (note,) = insert(lab, optional(a=None))
    with pytest.raises(SchemaError, match=r"`a` was int \(BIGINT\) or None and is now int .*; 1 documents have None"):
        all_of(lab, define(a=int))
    define(a=(int | None, None))
    with lab.mutation() as db:
        db.patch(note, a=5)
    assert all_of(lab, define(a=int)) == [{"a": 5}]


# ---------------------------------------------------------------------------------------------- what is not
UNSAFE = [
    ({"a": str}, {"a": int}, r"`a` was str \(VARCHAR\) and is now int \(BIGINT\); 2 documents"),
    ({"a": int}, {"a": float}, r"`a` was int \(BIGINT\) and is now float \(DOUBLE\); 2 documents"),
    ({"a": str}, {"a": dict}, r"`a` was str \(VARCHAR\) and is now json \(VARCHAR\)"),
    ({"a": str}, {"a": str, "b": int}, r"`b` was no such field and is now int"),
    ({"a": str}, {"b": (int, 1)}, r"`a` was str \(VARCHAR\) and is now no such field"),
]


@pytest.mark.parametrize(("old", "new", "message"), UNSAFE)
def test_what_is_not_safe_is_refused_and_nothing_changes(
    lab: Lab, old: dict[str, Any], new: dict[str, Any], message: str
):
    first = define(**old)
    value = "x" if old["a"] is str else 1
    insert(lab, first(a=value), first(a=value))
    second = define(**new)
    with pytest.raises(SchemaError, match=message) as caught:
        all_of(lab, second)
    assert "Note" in caught.value.message
    assert caught.value.cure
    assert all_of(lab, define(**old)) == [{"a": value}] * 2


@pytest.mark.parametrize(("old", "new", "message"), UNSAFE)
def test_an_empty_table_may_become_anything(lab: Lab, old: dict[str, Any], new: dict[str, Any], message: str):
    define(**old)
    lab.catalog.ensure_all()
    number = lab.store.read("SELECT number FROM document_tables WHERE name = 'Note'")
    table = define(**new)
    assert all_of(lab, table) == []
    assert lab.store.read("SELECT number FROM document_tables WHERE name = 'Note'") == number


def test_a_bad_class_stops_nobody_else(lab: Lab):
    insert(lab, define(a=str)(a="x"))
    bad, good = define(a=int), define("Other", a=int)
    assert insert(lab, good(a=1))
    for _ in range(2):
        with pytest.raises(SchemaError, match="Note"):
            insert(lab, bad(a=1))
    assert all_of(lab, good) == [{"a": 1}]
    hint: Any = Annotated[str, IdOf("Note")]
    friend = define("Friend", note=hint)
    (note,) = lab.store.read('SELECT _id::VARCHAR FROM "Note"')[0]
    assert insert(lab, friend(note=note))


def _no_default() -> int:
    raise OSError("no file")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ((int, Field(default_factory=_no_default)), r"`Note\.b`: its default cannot be had: OSError: no file"),
        ((float, float("nan")), r"`Note\.b`: nan is no number"),
        ((str, "\ud800"), r"`Note\.b`: the text has half a character"),
    ],
)
def test_a_default_that_cannot_be_kept_stops_nobody_else(lab: Lab, field: Any, message: str):
    insert(lab, define(a=str)(a="x"))
    bad, good = define(a=str, b=field), define("Other", a=int)
    assert insert(lab, good(a=1))
    with pytest.raises(SchemaError, match=message):
        all_of(lab, bad)
    assert all_of(lab, good) == [{"a": 1}]


def test_a_class_that_the_store_refuses_stops_nobody_else(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    bad, other, good = define(a=str), define("Other", a=str, b=(int, 1)), define("Good", a=int)
    # No definition is known that DuckDB refuses and this package does not: so the SQL type is one that is none.
    for table in (bad, other):
        object.__setattr__(layout_of(table).columns["a"].shape, "sql", "NOTHING")
    assert insert(lab, good(a=1))
    for table in (bad, other):
        with pytest.raises(SchemaError, match=f"the table {table.__name__} could not be changed .*NOTHING"):
            all_of(lab, table)
    assert all_of(lab, good) == [{"a": 1}]


def test_hints_that_fail_when_they_are_read_late_stop_nobody_else(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    bad, good = define(a="Later.Inner"), define("Good", a=int)
    monkeypatch.setitem(globals(), "Later", int)
    assert insert(lab, good(a=1))
    with pytest.raises(SchemaError, match=r"the table Note could not be changed .*Inner"):
        all_of(lab, bad)


def test_what_stops_everything_is_tried_again(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    table = define(a=int)

    def full(*_: Any) -> Any:
        raise DiskFullError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(lab.store, "transaction", full)
        with pytest.raises(DiskFullError):
            lab.catalog.ensure_all()
    assert insert(lab, table(a=1))


# ---------------------------------------------------------------------------------------------- two of one name
TWO = r"the table name 'Note' is used by two classes: Note in module app\.{}\b.*, and Note in module app\.{}\b"


def test_two_modules_with_one_name_are_told_apart_where_there_are_documents(lab: Lab):
    first = define(module="app.notes", a=str)
    insert(lab, first(a="x"))
    second = define(module="app.memos", b=int)
    for table in (first, second):
        with pytest.raises(SchemaError, match=TWO.format("memos", "notes")) as caught:
            all_of(lab, table)
        assert "`b` was no such field" in caught.value.message
        assert 'class Note(ai.Table, name="memos_note")' in caught.value.cure
    define(module="app.memos", b=int)  # its cell, run again
    with pytest.raises(SchemaError, match=TWO.format("memos", "notes")):
        all_of(lab, first)


def test_two_modules_with_one_name_are_told_apart_in_an_empty_table(lab: Lab):
    first = define(module="app.notes", a=str)
    second = define(module="app.memos", b=int)
    insert(lab, second(b=1))
    with pytest.raises(DocumentError, match=TWO.format("notes", "memos")) as caught:
        all_of(lab, first)
    assert 'class Note(ai.Table, name="notes_note")' in caught.value.cure


def test_the_line_of_a_class_is_told_where_it_is_known(lab: Lab):
    class Note(Table):
        a: str

    line = Note.__place__.rpartition(", line ")[2]
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert source[int(line) - 1] == "    class Note(Table):"
    assert define(module="app.notes", a=str).__place__ == "Note in module app.notes"


def test_a_class_defined_again_is_no_second_one(lab: Lab):
    older = define(a=str)
    insert(lab, older(a="x"))
    newer = define(a=str, b=(int, 1))
    insert(lab, newer(a="x"))
    with pytest.raises(DocumentError, match="defined again with other fields, and this is the older one"):
        all_of(lab, older)
    bad = define(a=int)
    with pytest.raises(SchemaError) as caught:
        all_of(lab, bad)
    assert "two classes" not in caught.value.message


def test_what_another_process_did_is_noticed_after_a_failure(lab: Lab):
    table = define(a=str)
    insert(lab, table(a="x"))
    Catalog(lab.store).drop("Note")
    with pytest.raises(Exception, match="Note"):
        all_of(lab, table)
    assert all_of(lab, table) == []


# ---------------------------------------------------------------------------------------------- dropping
def test_a_dropped_table_is_gone_and_its_number_stays_its_own(lab: Lab):
    table = define(a=str)
    (note,) = insert(lab, table(a="x"))
    lab.catalog.drop("note")
    assert lab.store.read("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'Note'") == [(0,)]
    other = define("Other", a=str)
    with lab.mutation() as db:
        assert table_number(db.insert(other(a="y"))) != table_number(note)
        assert db.get(note) is None
        assert table_number(db.insert(table(a="z"))) == table_number(note)
    lab.catalog.drop(table)
    assert all_of(lab, define(a=int)) == []


@pytest.mark.parametrize("name", ["messages", "requests", "Document", "nothing"])
def test_only_a_users_own_table_is_dropped(lab: Lab, name: str):
    with pytest.raises(SchemaError):
        lab.catalog.drop(name)
    assert lab.store.read("SELECT count(*) FROM messages, documents, requests") == [(0,)]
