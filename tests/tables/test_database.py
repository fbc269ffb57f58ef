"""``ctx.db``: documents by id, what may be written, whose an id is."""

# ruff: noqa: PT012 - a transaction is a block: what it raises comes from any of its lines
from __future__ import annotations

import datetime
import uuid
from typing import Any

import pytest
from pydantic import Field, field_validator, model_validator

from ipyconvexai.errors import DocumentError, NotFoundError, QueryError, SchemaError, TransactionError
from ipyconvexai.ids import new_id, table_number
from ipyconvexai.settings import remember_secret
from ipyconvexai.store.ledger import Ledger, document_id
from ipyconvexai.tables import registry
from ipyconvexai.tables.builtin import Conversation, Document, Message
from ipyconvexai.tables.database import Writer
from ipyconvexai.tables.ids import Id
from ipyconvexai.tables.model import Index, Table
from tests.tables.conftest import START, Lab


class Author(Table):
    name: str


class Note(Table):
    text: str
    stars: int = 0
    author: Id[Author] | None = None

    by_stars = Index("stars")
    by_author = Index("author")


@pytest.fixture
def note(lab: Lab) -> str:
    with lab.mutation() as db:
        return db.insert(Note(text="first"))


def read(lab: Lab, document: str) -> Any:
    with lab.query() as db:
        return db.get(document)


# ---------------------------------------------------------------------------------------------- the calls
def test_a_document_is_found_by_its_id_with_its_instant(lab: Lab, note: str):
    found = read(lab, note)
    assert isinstance(found, Note)
    assert (found.text, found.stars, found._id) == ("first", 0, note)
    assert found._creation_time == START + datetime.timedelta(seconds=1)
    with lab.query() as db:
        assert db.get(Note, note.upper()) == found
        assert db.tables_read == {"Note"}
    assert table_number(note) == lab.catalog.entry(Note).number


def test_a_transaction_sees_what_it_has_written(lab: Lab):
    with lab.mutation() as db:
        note = db.insert(Note(text="x"))
        assert db.get(note).text == "x"
        db.patch(note, stars=3)
        assert [one._id for one in db.query(Note).with_index("by_stars", stars=3)] == [note]
        db.delete(note)
        assert db.get(note) is None


def test_an_insert_travels_with_the_commit(lab: Lab):
    """One message: nothing is executed before the end."""

    class Listening:
        def __init__(self) -> None:
            self.later_ones: list[str] = []

        def __call__(self, sql: str, params: Any = None) -> Any:
            raise AssertionError(sql)

        select = __call__

        def later(self, sql: str, params: Any = None) -> None:
            self.later_ones.append(sql)

    lab.catalog.ensure_all()
    execute: Any = Listening()
    Writer(execute, lab.catalog, lab.now).insert(Note(text="x"))
    assert len(execute.later_ones) == 1


def test_patch_changes_what_is_named(lab: Lab, note: str):
    with lab.mutation() as db:
        db.patch(note, stars=4)
        db.patch(note, {"text": "changed"})
        db.patch(note)
    found = read(lab, note)
    assert (found.text, found.stars) == ("changed", 4)
    assert found._creation_time == START + datetime.timedelta(seconds=1)


def test_patch_checks_the_document_as_a_whole(lab: Lab):
    class Span(Table):
        start: int
        end: int

        @model_validator(mode="after")
        def _in_order(self) -> Span:
            if self.end < self.start:
                raise ValueError("it ends before it begins")
            return self

    with lab.mutation() as db:
        span = db.insert(Span(start=1, end=2))
        db.patch(span, start=5, end=6)
    with pytest.raises(DocumentError, match="ends before"), lab.mutation() as db:
        db.patch(span, end=1)
    assert (read(lab, span).start, read(lab, span).end) == (5, 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, "Object contains extra field `colour`"),
        ({"_id": "x"}, "system field `_id` cannot be set"),
        ({"_creation_time": None}, "system field `_creation_time` cannot be set"),
        ({"stars": "5"}, "`stars`: Value does not match"),
        ({"text": None}, "`text`: Value does not match"),
        ({"stars": 2**64}, "beyond 64 bits"),
    ],
)
def test_a_wrong_patch_changes_nothing(lab: Lab, note: str, changes: dict[str, Any], message: str):
    with pytest.raises(DocumentError, match=message), lab.mutation() as db:
        db.patch(note, stars=9)
        db.patch(note, changes)
    assert read(lab, note).stars == 0


def test_replace_replaces_everything(lab: Lab, note: str):
    with lab.mutation() as db:
        db.patch(note, stars=5)
        db.replace(note, Note(text="new"))
    found = read(lab, note)
    assert (found.text, found.stars, found._id) == ("new", 0, note)
    found.stars = 2
    with lab.mutation() as db:
        db.replace(note, found)  # under its own id
        other = db.insert(Note(text="other"))
        with pytest.raises(DocumentError, match="`_id` cannot be set"):
            db.replace(other, found)
        with pytest.raises(DocumentError, match="document is one of Author"):
            db.replace(note, Author(name="x"))
    assert read(lab, note).stars == 2


def test_a_document_is_inserted_once(lab: Lab, note: str):
    found = read(lab, note)
    with pytest.raises(DocumentError, match="in Note already"), lab.mutation() as db:
        db.insert(found)
    with lab.mutation() as db:
        db.insert(Note(**dict(found)))


@pytest.mark.parametrize("what", ["patch", "delete", "replace"])
def test_a_missing_document_is_told(lab: Lab, note: str, what: str):
    with lab.mutation() as db:
        db.delete(note)
        assert db.get(note) is None
        arguments = (note, Note(text="x")) if what == "replace" else (note,)
        with pytest.raises(NotFoundError, match=note):
            getattr(db, what)(*arguments)


@pytest.mark.parametrize("wrong", [{"text": "x"}, None, "x", Note, 5])
def test_only_documents_are_inserted(lab: Lab, wrong: Any):
    with pytest.raises(DocumentError, match="a document of a table"), lab.mutation() as db:
        db.insert(wrong)


def test_a_failure_rolls_everything_back(lab: Lab, note: str):
    with pytest.raises(ZeroDivisionError), lab.mutation() as db:
        db.insert(Note(text="second"))
        db.patch(note, stars=9)
        db.delete(note)
        1 / 0  # noqa: B018
    with lab.query() as db:
        assert [(one.text, one.stars) for one in db.query(Note)] == [("first", 0)]


# ---------------------------------------------------------------------------------------------- whose id it is
@pytest.mark.parametrize("wrong", ["", "x", "018f3c8e", 5, None, b"x", uuid.UUID(int=5), ["x"]])
def test_what_is_no_id_is_refused(lab: Lab, wrong: Any):
    with pytest.raises(DocumentError, match="is no id"):
        read(lab, wrong)


def test_an_id_of_another_table_is_refused_and_both_are_named(lab: Lab, note: str):
    with lab.mutation() as db:
        with pytest.raises(DocumentError, match="id of the table Note, and not of Author"):
            db.get(Author, note)
        with pytest.raises(DocumentError, match=r"`Note\.author`: .* table Note, and not of Author"):
            db.insert(Note(text="x", author=note))
        with pytest.raises(DocumentError, match="table Note, and not of Author"):
            db.patch(note, author=note)
        with pytest.raises(DocumentError, match="table Note, and not of Author"):
            db.query(Note).with_index("by_author", author=note)
        with pytest.raises(DocumentError, match="table Note, and not of conversations"):
            db.insert(Message(conversation_id=note, role="user"))
        with pytest.raises(DocumentError, match="id of no table, and not of Note"):
            db.get(Note, new_id())


def test_an_id_of_no_table_at_all_is_told(lab: Lab):
    with pytest.raises(DocumentError, match="table that this ledger does not have"):
        read(lab, new_id(table=999))
    with pytest.raises(DocumentError, match="no id of a document"):
        read(lab, str(uuid.uuid4()))
    assert read(lab, new_id()) is None


def test_a_table_that_no_class_defines_here_is_named(lab: Lab, note: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_tables", {k: v for k, v in registry._tables.items() if k != "note"})
    lab.catalog.forget()
    with pytest.raises(DocumentError, match="the table Note, which no class defines here") as caught:
        read(lab, note)
    assert "class Note(ai.Table)" in caught.value.cure


def test_an_older_class_of_the_same_columns_will_do(lab: Lab, note: str):
    older, hint = Note, Note.model_fields["author"].annotation

    def again(**hints: Any) -> type[Table]:
        return type("Note", (Table,), {"__annotations__": hints, "__module__": __name__})

    same = again(text=str, stars=int, author=hint)
    with lab.mutation() as db:
        kept = db.insert(older(text="x"))
        assert type(db.get(kept)) is same
        assert [type(one) for one in db.query(older).collect()] == [older, older]
    again(text=str, stars=int, author=hint, more=str | None)
    with pytest.raises(DocumentError, match="defined again with other fields"), lab.mutation() as db:
        db.insert(older(text="x"))


def test_what_pydantic_can_do_with_a_model_it_can_do_with_a_table(lab: Lab):
    class Base(Table):
        name: str = Field(alias="Name", min_length=2)

        by_name = Index("name")

    class Special(Base, frozen=True):
        sizes: list[int] = Field(default_factory=list)

        @field_validator("name")
        @classmethod
        def _upper(cls, name: str) -> str:
            return name.upper()

    with lab.mutation() as db:
        special = db.insert(Special(Name="ab", sizes=[1]))
        db.patch(special, name="cd")
        with pytest.raises(DocumentError, match=r"`.ame`: Value does not match: String should have at least 2"):
            db.patch(special, name="x")
        assert [one.name for one in db.query(Special).with_index("by_name", name="CD")] == ["CD"]
        assert db.query(Base).collect() == []
    assert read(lab, special).model_dump() == {"name": "CD", "sizes": [1]}
    assert read(lab, special).model_copy()._id == special


def test_a_class_defined_within_a_function_is_told(lab: Lab):
    with lab.mutation() as db:

        class Inner(Table):
            x: int

        with pytest.raises(SchemaError, match="not in this ledger yet"):
            db.insert(Inner(x=1))
    with pytest.raises(DocumentError, match="no table"), lab.query() as reader:
        reader.query(Table)


# ---------------------------------------------------------------------------------------------- the ledger's own tables
def test_rows_of_before_this_layer_are_documents(lab: Lab):
    ledger = Ledger(lab.store)
    conversation, message = new_id(), new_id()
    instant = START.replace(tzinfo=None)
    ledger.add("conversations", ("id", "created_at", "title"), [(conversation, instant, "old")])
    columns = ("id", "created_at", "conversation_id", "role", "content", "status")
    ledger.add("messages", columns, [(message, instant, conversation, "user", "hello", "done")])
    (document,) = ledger.add_documents(["a text"])
    with lab.mutation() as db:
        assert db.get(conversation).title == "old"
        assert db.get(message).content == "hello"
        assert isinstance(db.get(Message, message), Message)
        assert db.get(message)._creation_time == START
        assert db.get(document).content == "a text"
        new = db.insert(Message(conversation_id=conversation, role="assistant", content="hi"))
        db.patch(message, content="changed")
        db.patch(document, summary="short")
        found = db.query(Message).with_index("by_conversation", conversation_id=conversation).collect()
        assert [one._id for one in found] == [message, new]
    assert [read(lab, one) is None for one in (message, new)] == [False, False]
    assert read(lab, document).summary == "short"


def test_equal_texts_are_one_document(lab: Lab):
    with lab.mutation() as db:
        first = db.insert(Document(content="a text", source="here"))
        assert db.insert(Document(content="a text", source="there")) == first == document_id("a text")
    with lab.mutation() as db:
        db.insert(Document(content="a text"))
        assert [(one.size, one.source) for one in db.query(Document)] == [(6, "here")]
        db.patch(first, summary="short")
        with pytest.raises(DocumentError, match=r"content .* cannot change"):
            db.patch(first, content="another")
        with pytest.raises(DocumentError, match=r"content .* cannot change"):
            db.replace(first, Document(content="another"))
        db.replace(first, Document(content="a text", source="elsewhere"))
    found = read(lab, first)
    assert (found.summary, found.source) == (None, "elsewhere")
    with lab.query() as db:
        assert db.get(Document, first) == found


def test_a_text_with_a_secret_can_have_a_summary(lab: Lab):
    secret = "tables-0123456789-abcdefgh"
    remember_secret(secret)
    with lab.mutation() as db:
        document = db.insert(Document(content=f"my {secret}"))
        db.patch(document, summary="short")
    assert (read(lab, document).content, read(lab, document).summary) == ("my ***", "short")


def test_conversations_are_documents(lab: Lab):
    with lab.mutation() as db:
        conversation = db.insert(Conversation(title="new", user_id="ada"))
        assert table_number(conversation) == 1
        db.delete(conversation)
    assert read(lab, conversation) is None


# ---------------------------------------------------------------------------------------------- SQL
def test_sql_sees_the_transactions_own_writes_with_ids_as_texts(lab: Lab, note: str):
    with lab.mutation() as db:
        second = db.insert(Note(text="second", stars=2))
        rows = db.sql("SELECT _id, _creation_time, stars, [_id] AS ids FROM Note ORDER BY _id")
        assert [row["_id"] for row in rows] == [note, second]
        assert rows[1]["ids"] == [second]
        assert rows[1]["_creation_time"] == lab.now
        assert db.sql("SELECT text FROM Note WHERE _id = ? AND _creation_time = ?", [second, lab.now]) == [
            {"text": "second"}
        ]
        assert db.sql("SELECT $a AS a", {"a": lab.now}) == [{"a": lab.now}]


@pytest.mark.parametrize(
    "wrong", ["DELETE FROM Note", "SELECT 1; SELECT 2", "DROP TABLE Note", "COMMIT", "ROLLBACK", "SELECT nope", 5]
)
def test_sql_only_reads(lab: Lab, note: str, wrong: Any):
    with pytest.raises((QueryError, TransactionError)), lab.mutation() as db:
        db.sql(wrong)
    assert read(lab, note) is not None


def test_it_is_known_which_tables_were_read(lab: Lab, note: str):
    with lab.query() as db:
        db.sql("SELECT count(*) FROM note, calls")
        assert {"Note", "requests", "responses"} <= db.tables_read
        assert "Author" not in db.tables_read
        db.query(Author).take(0)
        assert "Author" not in db.tables_read
        db.query(Author).first()
        assert "Author" in db.tables_read


def test_a_row_that_does_not_fit_its_class_is_named(lab: Lab, note: str):
    with lab.store.transaction() as execute:
        execute('UPDATE "Note" SET text = NULL, stars = NULL')
    with pytest.raises(DocumentError, match=f"{note} of Note does not fit its class: `text`"):
        read(lab, note)
    with lab.store.transaction() as execute:
        execute("UPDATE \"Note\" SET text = 'x'")
    assert read(lab, note).stars == 0  # its default: a process with an older class may have written it
