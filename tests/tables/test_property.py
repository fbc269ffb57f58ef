"""Random sequences of changes, failures, ranges and pages against a list in Python that is sorted and filtered."""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from pydantic import Field

from ipyconvexai.errors import NotFoundError
from ipyconvexai.store.link import Store
from ipyconvexai.tables.database import Reader, Writer
from ipyconvexai.tables.model import Index, Table
from ipyconvexai.tables.query import Query
from tests.tables.conftest import START, Lab


class Thing(Table):
    name: str | None
    size: int | None
    when: datetime.datetime | None = None
    weight: float = 0.0
    tags: list[str] = Field(default_factory=list)

    by_name = Index("name", "size")
    by_size = Index("size")
    by_when = Index("when", "weight", "name")


INDEXES = {
    "by_creation_time": [],
    "by_name": ["name", "size"],
    "by_size": ["size"],
    "by_when": ["when", "weight", "name"],
}
VALUES: dict[str, st.SearchStrategy[Any]] = {  # few, so that they meet
    "name": st.sampled_from([None, "", "a", "A", "ä", "a\0", "😀"]),
    "size": st.sampled_from([None, -1, 0, 2**63 - 1]),
    "when": st.sampled_from([None, START, START + datetime.timedelta(microseconds=1)]),
    "weight": st.sampled_from([-0.5, 0.0, 1e300]),
    "tags": st.sampled_from([[], ["a"], ["b", "a"]]),
}
FIELDS = st.fixed_dictionaries(VALUES)
SOME = st.fixed_dictionaries({}, optional=VALUES)
PICK = st.integers(0, 10**6)
CHANGE: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.just("insert"), FIELDS),
    st.tuples(st.just("insert"), FIELDS),
    st.tuples(st.just("patch"), SOME),
    st.tuples(st.just("replace"), FIELDS),
    st.tuples(st.just("delete"), st.just({})),
)
Row = dict[str, Any]


def rank(value: Any) -> tuple[Any, ...]:
    return (0,) if value is None else (1, value)


@st.composite
def asked(draw: st.DrawFn) -> tuple[str, Row, list[tuple[str, str, Any]], str]:
    """An index, equalities, bounds, an order."""
    index = draw(st.sampled_from(sorted(INDEXES)))
    fields = INDEXES[index]
    count = draw(st.integers(0, len(fields)))
    equals = {name: draw(VALUES[name]) for name in fields[:count]}
    bounds = []
    if count < len(fields):
        for operators in (["gt", "gte"], ["lt", "lte"]):
            if draw(st.booleans()):
                bounds.append((draw(st.sampled_from(operators)), fields[count], draw(VALUES[fields[count]])))
    return index, equals, bounds, draw(st.sampled_from(["asc", "desc"]))


class Documents(RuleBasedStateMachine):
    store: Store

    @initialize()
    def begin(self) -> None:
        self.lab = Lab(self.store)
        self.rows: dict[str, Row] = {}
        self.pages: dict[str, Any] = {}
        self.cursor: str | None = None
        self.behind: Any = None
        self.question: Any = None
        with self.lab.mutation() as db:
            for thing in db.query(Thing):
                db.delete(thing._id or "")

    # ------------------------------------------------------------------------------------------ changes
    def change(self, db: Writer, rows: dict[str, Row], kind: str, fields: Row, pick: int) -> None:
        if kind == "insert":
            rows[db.insert(Thing(**fields))] = {**fields, "_creation_time": self.lab.now}
            return
        if not rows:
            return
        chosen = sorted(rows)[pick % len(rows)]
        if kind == "patch":
            db.patch(chosen, fields)
            rows[chosen] = {**rows[chosen], **fields}
        elif kind == "replace":
            db.replace(chosen, Thing(**fields))
            rows[chosen] = {**fields, "_creation_time": rows[chosen]["_creation_time"]}
        else:
            db.delete(chosen)
            del rows[chosen]
            with pytest.raises(NotFoundError):
                db.patch(chosen, fields)

    @rule(changes=st.lists(st.tuples(CHANGE, PICK), min_size=1, max_size=6), fails=st.integers(0, 3))
    def mutate(self, changes: list[Any], fails: int) -> None:
        rows = {key: dict(row) for key, row in self.rows.items()}
        try:
            with self.lab.mutation() as db:
                for (kind, fields), pick in changes:
                    self.change(db, rows, kind, fields, pick)
                self.compare(db.query(Thing), sorted(rows), rows)  # its own writes are seen
                if not fails:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            return
        self.rows = rows

    # ------------------------------------------------------------------------------------------ questions
    def expected(self, question: Any) -> list[str]:
        index, equals, bounds, way = question
        tests = {"gt": "__gt__", "gte": "__ge__", "lt": "__lt__", "lte": "__le__"}
        found = [
            key
            for key, row in self.rows.items()
            if all(row[name] == value for name, value in equals.items())
            and all(getattr(rank(row[name]), tests[operator])(rank(value)) for operator, name, value in bounds)
        ]
        return sorted(found, key=lambda key: self.key(index, key), reverse=way == "desc")

    def key(self, index: str, key: str) -> tuple[Any, ...]:
        row = self.rows[key]
        return (*(rank(row[name]) for name in INDEXES[index]), row["_creation_time"], key)

    def query(self, db: Reader, question: Any) -> Query[Thing]:
        index, equals, bounds, way = question
        query = db.query(Thing).with_index(index, **equals)
        for operator, name, value in bounds:
            query = getattr(query, operator)(name, value)
        return query.order(way)

    def compare(self, query: Query[Thing], keys: list[str], rows: dict[str, Row]) -> None:
        found = [{**dict(thing), "_creation_time": thing._creation_time} for thing in query]
        assert found == [rows[key] for key in keys]

    @rule(question=asked(), n=st.integers(0, 5))
    def read(self, question: Any, n: int) -> None:
        expected = self.expected(question)
        with self.lab.query() as db:
            query = self.query(db, question)
            assert [thing._id for thing in query.collect()] == expected
            assert [thing._id for thing in query.take(n)] == expected[:n]
            self.compare(query, expected, self.rows)
            small = query.filter(lambda thing: thing.weight <= 0)
            assert [thing._id for thing in small.take(n)] == [k for k in expected if self.rows[k]["weight"] <= 0][:n]

    # ------------------------------------------------------------------------------------------ pages between changes
    @rule(question=asked())
    def begin_pages(self, question: Any) -> None:
        self.question, self.cursor, self.behind = question, None, None

    @precondition(lambda self: self.question is not None)
    @rule(size=st.integers(1, 4))
    def turn_page(self, size: int) -> None:
        index, _, _, way = self.question
        with self.lab.query() as db:
            page = self.query(db, self.question).paginate(self.cursor, size)
        rest = self.expected(self.question)
        if self.behind is not None:
            later = (lambda key: key < self.behind) if way == "desc" else (lambda key: key > self.behind)
            rest = [key for key in rest if later(self.key(index, key))]
        assert [thing._id for thing in page.page] == rest[:size]
        assert page.is_done == (len(rest) <= size)
        self.cursor = page.continue_cursor
        if page.page:
            self.behind = self.key(index, page.page[-1]._id or "")


def test_documents_are_as_in_a_list(store: Store, lab: Lab):
    machine = type("Machine", (Documents,), {"store": store})
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=checks),
    )


@pytest.mark.long
def test_documents_are_as_in_a_list_for_long(store: Store, lab: Lab):
    machine = type("Machine", (Documents,), {"store": store})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=400, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
