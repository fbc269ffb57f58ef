"""The query builder: what may be asked, what comes and in which order."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable
from typing import Any

import pytest

from ipyconvexai.errors import DocumentError
from ipyconvexai.tables.database import Reader
from ipyconvexai.tables.model import Index, Table
from ipyconvexai.tables.query import FIRST_BATCH, Query
from tests.tables.conftest import Lab


class Book(Table):
    author: str | None
    year: int = 0
    title: str = ""

    by_author = Index("author", "year")
    by_year = Index("year")


@pytest.fixture
def ids(lab: Lab) -> list[str]:
    """Five books in two mutations."""
    with lab.mutation() as db:
        first = [db.insert(Book(author=author, year=year)) for author, year in [("b", 2), ("a", 3), (None, 1)]]
    with lab.mutation() as db:
        return first + [db.insert(Book(author=author, year=year)) for author, year in [("a", 1), ("a", 3)]]


def read(lab: Lab, ask: Callable[[Query[Book]], Any]) -> Any:
    with lab.query() as db:
        return ask(db.query(Book))


def numbers(lab: Lab, ids: list[str], ask: Callable[[Query[Book]], Query[Book]]) -> list[int]:
    """Which of `ids` come, in order; the same by each way of reading."""
    with lab.query() as db:
        query = ask(db.query(Book))
        collected = [ids.index(book._id or "") for book in query.collect()]
        assert [ids.index(book._id or "") for book in query] == collected
        assert [ids.index(book._id or "") for book in query.take(99)] == collected
        assert [ids.index(book._id or "") for book in query.filter(lambda book: True).take(99)] == collected
    return collected


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (lambda q: q, [0, 1, 2, 3, 4]),
        (lambda q: q.order("desc"), [4, 3, 2, 1, 0]),
        (lambda q: q.with_index("by_creation_time"), [0, 1, 2, 3, 4]),
        (lambda q: q.with_index("by_author"), [2, 3, 1, 4, 0]),
        (lambda q: q.with_index("by_author").order("desc"), [0, 4, 1, 3, 2]),
        (lambda q: q.with_index("by_author", author="a"), [3, 1, 4]),
        (lambda q: q.with_index("by_author", author=None), [2]),
        (lambda q: q.with_index("by_author", year=3, author="a"), [1, 4]),
        (lambda q: q.with_index("by_author", author="a").gt("year", 1), [1, 4]),
        (lambda q: q.with_index("by_author", author="a").gte("year", 1).lt("year", 3), [3]),
        (lambda q: q.with_index("by_author", author="a").lt("year", 3).gte("year", 1), [3]),
        (lambda q: q.with_index("by_author", author="a").lte("year", 3).order("desc"), [4, 1, 3]),
        (lambda q: q.with_index("by_author").gt("author", None), [3, 1, 4, 0]),
        (lambda q: q.with_index("by_author").gte("author", None), [2, 3, 1, 4, 0]),
        (lambda q: q.with_index("by_author").lte("author", None), [2]),
        (lambda q: q.with_index("by_author").lt("author", None), []),
        (lambda q: q.with_index("by_author").lt("author", "b"), [2, 3, 1, 4]),
        (lambda q: q.with_index("by_author").lte("author", "a"), [2, 3, 1, 4]),
        (lambda q: q.with_index("by_year").gte("year", 2), [0, 1, 4]),
        (lambda q: q.with_index("by_year", year=3), [1, 4]),
        (lambda q: q.filter(lambda book: book.year == 3), [1, 4]),
        (lambda q: q.filter(lambda book: book.year > 1).filter(lambda book: book.author == "b"), [0]),
    ],
)
def test_what_comes_and_in_which_order(lab: Lab, ids: list[str], ask: Any, expected: list[int]):
    assert numbers(lab, ids, ask) == expected


def test_every_index_goes_on_with_the_instant_and_the_id(lab: Lab, ids: list[str]):
    instant = read(lab, lambda q: q.first())._creation_time
    in_one_mutation = numbers(lab, ids, lambda q: q.with_index("by_creation_time", _creation_time=instant))
    assert in_one_mutation == [0, 1, 2]
    later = numbers(lab, ids, lambda q: q.gt("_creation_time", instant))
    assert later == [3, 4]
    after = numbers(
        lab, ids, lambda q: q.with_index("by_creation_time", _creation_time=instant).gt("_id", ids[0]).order("desc")
    )
    assert after == [2, 1]
    assert numbers(lab, ids, lambda q: q.with_index("by_year", year=3).lte("_creation_time", instant)) == [1]
    everything = {"year": 3, "_creation_time": instant, "_id": ids[1]}
    assert numbers(lab, ids, lambda q: q.with_index("by_year", **everything)) == [1]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda q: q.with_index("nope"), "no index 'nope'"),
        (lambda q: q.with_index("by_author", year=3), "range on year .* skips author"),
        (lambda q: q.with_index("by_author", author="a", _creation_time=None), "_creation_time .* skips year"),
        (lambda q: q.with_index("by_author", author="a", title="x"), "title .* not a field of the index|skips year"),
        (lambda q: q.with_index("by_author", colour="x"), "no field 'colour'"),
        (lambda q: q.with_index("by_author").gt("year", 1), "range on year .* gt is not on the next field"),
        (lambda q: q.with_index("by_author", author="a").lt("author", "b"), "author .* lt follows an equality"),
        (lambda q: q.with_index("by_author", author="a").lt("title", "b"), "title .* lt is not on the next"),
        (lambda q: q.with_index("by_author", author="a").gt("colour", "b"), "no field 'colour'"),
        (lambda q: q.with_index("by_year").gt("year", 1).gte("year", 2), "gte is a second lower bound after gt"),
        (lambda q: q.with_index("by_year").lte("year", 1).lt("year", 2), "lt is a second upper bound after lte"),
        (lambda q: q.with_index("by_year").gt("year", 1).lt("_creation_time", None), "lt is not on the next field"),
        (lambda q: q.gt("year", 1), "by_creation_time .* gt is not on the next field"),
        (lambda q: q.with_index("by_year").with_index("by_year"), "comes once"),
        (lambda q: q.gt("_creation_time", None).with_index("by_year"), "before any bound"),
        (lambda q: q.with_index("by_year", year="3"), "`Book.year`: Value does not match"),
        (lambda q: q.with_index("by_year").gt("year", 2**64), "beyond 64 bits"),
        (lambda q: q.with_index("by_year", year=-(10**30)), "`Book.year`: .*beyond 64 bits"),
        (lambda q: q.with_index("by_author", author="\ud800"), "`Book.author`: the text has half a character"),
        (lambda q: q.order("up"), "'up'"),
        (lambda q: q.order("asc").order("asc"), "comes once"),
        (lambda q: q.filter("x"), "takes a function"),
        (lambda q: q.take(-1), "take"),
        (lambda q: q.take(True), "take"),
        (lambda q: q.take(1.5), "take"),
        (lambda q: q.take(None), "take"),
        (lambda q: q.paginate(num_items=0), "paginate"),
        (lambda q: q.unique(), "more than one"),
    ],
)
def test_what_cannot_be_asked_names_the_field_or_the_operator(lab: Lab, ids: list[str], ask: Any, message: str):
    with pytest.raises(DocumentError, match=message) as caught:
        read(lab, ask)
    assert caught.value.cure


def test_one_and_none(lab: Lab, ids: list[str]):
    assert read(lab, lambda q: q.first())._id == ids[0]
    assert read(lab, lambda q: q.with_index("by_year", year=2).unique())._id == ids[0]
    assert read(lab, lambda q: q.with_index("by_year", year=9).unique()) is None
    assert read(lab, lambda q: q.with_index("by_year", year=9).first()) is None
    assert read(lab, lambda q: q.take(0)) == []
    assert read(lab, lambda q: q.filter(lambda book: True).take(0)) == []


@pytest.mark.parametrize("huge", [2**63 - 1, 2**63, 10**30])
def test_more_than_there_can_be_is_all_there_are(lab: Lab, ids: list[str], huge: int):
    assert len(read(lab, lambda q: q.take(huge))) == 5
    assert len(read(lab, lambda q: q.filter(lambda book: True).take(huge))) == 5
    page = read(lab, lambda q: q.paginate(num_items=huge))
    assert (len(page.page), page.is_done) == (5, True)


def test_a_query_can_be_used_twice(lab: Lab, ids: list[str]):
    with lab.query() as db:
        books = db.query(Book)
        newest = books.order("desc").first()
        assert newest is not None
        assert newest._id == ids[4]
        assert len(books.with_index("by_year").collect()) == 5


# ---------------------------------------------------------------------------------------------- pages
def test_pages_follow_each_other_to_the_end(lab: Lab, ids: list[str]):
    with lab.query() as db:
        query = db.query(Book).with_index("by_author")
        first = query.paginate(num_items=2)
        second = query.paginate(first.continue_cursor, num_items=2)
        third = query.paginate(second.continue_cursor, num_items=2)
        pages = [first, second, third]
    assert [[ids.index(book._id or "") for book in page.page] for page in pages] == [[2, 3], [1, 4], [0]]
    assert [page.is_done for page in pages] == [False, False, True]


def test_what_changes_between_pages_neither_moves_nor_repeats_a_document(lab: Lab, ids: list[str]):
    with lab.mutation() as db:
        first = db.query(Book).paginate(num_items=2)
        db.delete(ids[1])  # the last one of the page, and so the position itself
        db.delete(ids[2])
        new = db.insert(Book(author="z"))
    with lab.mutation() as db:
        rest = db.query(Book).paginate(first.continue_cursor, num_items=9)
        assert [book._id for book in rest.page] == [ids[3], ids[4], new]
        assert rest.is_done
        later = db.insert(Book(author="z"))
        end = db.query(Book).paginate(rest.continue_cursor)
        assert [book._id for book in end.page] == [later]


def test_a_page_of_an_empty_table_can_be_continued(lab: Lab):
    empty = read(lab, lambda q: q.paginate())
    assert (empty.page, empty.is_done) == ([], True)
    with lab.mutation() as db:
        new = db.insert(Book(author="a"))
        assert [book._id for book in db.query(Book).paginate(empty.continue_cursor).page] == [new]


def test_pages_hold_what_passes_the_filter(lab: Lab, ids: list[str]):
    with lab.query() as db:
        query = db.query(Book).filter(lambda book: book.year == 3)
        first = query.paginate(num_items=1)
        second = query.paginate(first.continue_cursor, num_items=1)
    assert [book._id for book in first.page + second.page] == [ids[1], ids[4]]
    assert (first.is_done, second.is_done) == (False, True)


def test_a_cursor_of_another_query_or_a_damaged_one_is_refused(lab: Lab, ids: list[str]):
    cursor = read(lab, lambda q: q.with_index("by_year").paginate(num_items=2)).continue_cursor
    others: list[Callable[[Query[Book]], Query[Book]]] = [
        lambda q: q,
        lambda q: q.with_index("by_author"),
        lambda q: q.with_index("by_year", year=3),
        lambda q: q.with_index("by_year").gt("year", 0),
        lambda q: q.with_index("by_year").order("desc"),
    ]
    for other in others:
        with pytest.raises(DocumentError, match="another query"), lab.query() as db:
            other(db.query(Book)).paginate(cursor)
    mark, position = json.loads(base64.urlsafe_b64decode(cursor))
    changed = base64.urlsafe_b64encode(json.dumps([mark, [99, *position[1:]]]).encode()).decode()
    for damaged in ("", "x", cursor[:-4], cursor[4:], "é", changed, "bnVsbA==", "WzFd", 5, b"x"):
        with pytest.raises(DocumentError, match="damaged"), lab.query() as db:
            db.query(Book).with_index("by_year").paginate(damaged)  # type: ignore[arg-type] # some are no texts


# ---------------------------------------------------------------------------------------------- how much is read
def test_a_filter_reads_in_batches_and_stops(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    with lab.mutation() as db:
        for year in range(FIRST_BATCH * 4):
            db.insert(Book(author="a", year=year))
    batches: list[int] = []
    rows = Reader.rows

    def counted(self: Reader, *args: Any) -> Any:
        found = rows(self, *args)
        batches.append(len(found))
        return found

    monkeypatch.setattr(Reader, "rows", counted)
    with lab.query() as reader:
        assert reader.query(Book).filter(lambda book: book.year >= 10).first() is not None
        assert batches == [FIRST_BATCH]
        batches.clear()
        found = reader.query(Book).filter(lambda book: book.year >= FIRST_BATCH + 5).take(3)
        assert [book.year for book in found] == [FIRST_BATCH + 5, FIRST_BATCH + 6, FIRST_BATCH + 7]
        assert batches == [FIRST_BATCH, 2 * FIRST_BATCH]
        batches.clear()
        assert next(iter(reader.query(Book))).year == 0
        assert batches == [FIRST_BATCH]


def test_a_function_may_change_what_it_walks_over(lab: Lab, ids: list[str]):
    with lab.mutation() as db:
        for book in db.query(Book):
            db.delete(book._id or "")
        assert db.query(Book).collect() == []


def test_instants_without_a_zone_are_utc_in_ranges_too(lab: Lab, ids: list[str]):
    naive = read(lab, lambda q: q.first())._creation_time.replace(tzinfo=None)
    assert isinstance(naive, datetime.datetime)
    assert numbers(lab, ids, lambda q: q.lte("_creation_time", naive)) == [0, 1, 2]
