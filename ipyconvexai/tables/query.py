"""``ctx.db.query(Table)``: a query that is put together step by step and read in the order of an index.

Calls the room's ranges and cursors. Promises: each step gives a new query, so that one may be used twice; no more is
read than is asked for, also with ``filter``; pages go by position, so that what is inserted or deleted between two of
them neither moves nor repeats a document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from ipyconvexai.errors import DocumentError
from ipyconvexai.tables import cursors
from ipyconvexai.tables.model import BY_CREATION_TIME, Layout, Table
from ipyconvexai.tables.ranges import Range

__all__ = ["Page", "Query", "Source"]

D = TypeVar("D", bound=Table)
MOST = 2**62  # documents that anyone can ask for; a LIMIT is a BIGINT
FIRST_BATCH, MOST_BATCH = 64, 1024  # documents per statement while their number is not known beforehand


@dataclass(frozen=True)
class Page(Generic[D]):
    """`continue_cursor` goes into the next ``paginate``; `is_done`: there was nothing after this page."""

    page: list[D]
    is_done: bool
    continue_cursor: str


class _Found(NamedTuple, Generic[D]):
    document: D
    position: list[Any]


class Source(Protocol):
    """What a query reads from."""

    def rows(self, layout: Layout, sql: str, params: list[Any]) -> list[tuple[Any, ...]]: ...

    def document(self, layout: Layout, row: tuple[Any, ...]) -> Any: ...

    def check_ids(self, layout: Layout, values: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Query(Generic[D]):
    """Documents of one table in the order of an index, ascending unless said otherwise."""

    _source: Source
    _span: Range
    _indexed: bool = False  # with_index() was called
    _way: str | None = None
    _tests: tuple[Callable[[D], Any], ...] = ()

    @classmethod
    def of(cls, source: Source, layout: Layout) -> Query[D]:
        return cls(source, Range.of(layout, BY_CREATION_TIME, {}))

    # ------------------------------------------------------------------------------------------ putting it together
    def with_index(self, name: str, /, **equals: Any) -> Query[D]:
        """Read by the index `name`, where its leading fields are equal to these values.

        Raises:
            DocumentError: there is no such index, or these are not its leading fields.
        """
        if self._indexed or self._span.lower or self._span.upper:
            raise DocumentError(
                "with_index() comes once, and before any bound", cure=f'query(...).with_index("{name}", ...).gt(...)'
            )
        span = Range.of(self._span.layout, name, equals)
        self._source.check_ids(span.layout, dict(zip(span.fields, span.equals, strict=False)))
        return replace(self, _span=span, _indexed=True)

    def gt(self, field: str, value: Any) -> Query[D]:
        return self._bounded("gt", field, value)

    def gte(self, field: str, value: Any) -> Query[D]:
        return self._bounded("gte", field, value)

    def lt(self, field: str, value: Any) -> Query[D]:
        return self._bounded("lt", field, value)

    def lte(self, field: str, value: Any) -> Query[D]:
        return self._bounded("lte", field, value)

    def _bounded(self, operator: str, field: str, value: Any) -> Query[D]:
        return replace(self, _span=self._span.bounded(operator, field, value))

    def filter(self, test: Callable[[D], Any]) -> Query[D]:
        """Only documents for which `test` is true. It looks at each: where there are many, an index is faster."""
        if not callable(test):
            raise DocumentError("filter() takes a function", cure="filter(lambda doc: doc.stars > 3)")
        return replace(self, _tests=(*self._tests, test))

    def order(self, way: str) -> Query[D]:
        """ "asc" or "desc", once."""
        if self._way is not None:
            raise DocumentError("order() comes once", cure="Leave one of them out.")
        if way not in ("asc", "desc"):
            raise DocumentError(f"order({way!r}) is not known", cure='Use order("asc") or order("desc").')
        return replace(self, _way=way)

    # ------------------------------------------------------------------------------------------ reading
    def take(self, n: int) -> list[D]:
        """The first `n` documents."""
        return [found.document for found in self._found(_whole_number("take", n, 0))]

    def first(self) -> D | None:
        return next(iter(self.take(1)), None)

    def unique(self) -> D | None:
        """The only document; None where there is none.

        Raises:
            DocumentError: there is more than one.
        """
        documents = self.take(2)
        if len(documents) > 1:
            raise DocumentError(
                f"unique() found more than one document in {self._span.layout.table.__name__}",
                cure="Narrow the range, or use first().",
            )
        return documents[0] if documents else None

    def collect(self) -> list[D]:
        """All of them; take(n) or paginate() is kinder where there may be many."""
        return [found.document for found in self._found(None, at_once=True)]

    def __iter__(self) -> Iterator[D]:
        for found in self._found(None):
            yield found.document

    def paginate(self, cursor: str | None = None, num_items: int = 50) -> Page[D]:
        """The page of `num_items` documents that begins behind `cursor`.

        Raises:
            DocumentError: the cursor is damaged, or of another query.
        """
        num_items = _whole_number("paginate", num_items, 1)
        start = None if cursor is None else cursors.decode(self._span, self._descending, cursor)
        found = list(self._found(num_items + 1, start))
        page = found[:num_items]
        end = page[-1].position if page else start
        return Page(
            page=[one.document for one in page],
            is_done=len(found) <= num_items,
            continue_cursor=cursors.encode(self._span, self._descending, end),
        )

    @property
    def _descending(self) -> bool:
        return self._way == "desc"

    def _found(self, most: int | None, start: list[Any] | None = None, *, at_once: bool = False) -> Iterator[_Found[D]]:
        """Documents that pass the filters, `most` at most, from behind the position `start`."""
        batch = None if at_once else most if most is not None and not self._tests else FIRST_BATCH
        while most is None or most > 0:
            rows = self._batch(start, batch)
            for row in rows:
                document, start = self._source.document(self._span.layout, row), self._position(row)
                if all(test(document) for test in self._tests):
                    yield _Found(document, start)
                    if most is not None and (most := most - 1) == 0:
                        return
            if batch is None or len(rows) < batch:
                return
            batch = min(2 * batch, MOST_BATCH)

    def _batch(self, start: list[Any] | None, limit: int | None) -> list[tuple[Any, ...]]:
        return self._source.rows(self._span.layout, *self._span.select(self._descending, start, limit))

    @cached_property
    def _places(self) -> list[int]:
        """Where the values stand in a row that make its position."""
        names = list(self._span.layout.all)
        return [names.index(name) for name in self._span.order]

    def _position(self, row: tuple[Any, ...]) -> list[Any]:
        return [row[place] for place in self._places]


def _whole_number(method: str, n: Any, least: int) -> int:
    if not isinstance(n, int) or isinstance(n, bool) or n < least:
        raise DocumentError(f"{method}({n!r}): {least} or more is meant", cure=f"Give {method}() a whole number.")
    return min(n, MOST)
