"""Which stretch of an index is read, in which order, from which position: as rules, and as SQL.

Calls the room's columns and model. Promises: equality on leading fields, then at most one lower and one upper bound on
the next, and an error that names the field or the operator for anything else; None comes before every value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ipyconvexai.errors import DocumentError
from ipyconvexai.tables.columns import FEW_VALUES, Column
from ipyconvexai.tables.model import BY_CREATION_TIME, Layout

__all__ = ["Bound", "Range", "Statement"]

Statement = tuple[str, list[Any]]
_LOWER, _UPPER = ("gt", "gte"), ("lt", "lte")
_NEVER: Statement = ("FALSE", [])


@dataclass(frozen=True)
class Bound:
    """`operator` is gt, gte, lt or lte; `value` is encoded."""

    operator: str
    value: Any


@dataclass(frozen=True)
class Range:
    """A stretch of an index; values are encoded. `fields` end in ``_creation_time`` and ``_id``."""

    layout: Layout
    index: str
    fields: tuple[str, ...]
    equals: tuple[Any, ...] = ()
    lower: Bound | None = None
    upper: Bound | None = None

    @classmethod
    def of(cls, layout: Layout, index: str, equals: Mapping[str, Any]) -> Range:
        """The stretch where the index's leading fields have these values."""
        if index != BY_CREATION_TIME and index not in layout.indexes:
            known = ", ".join([*layout.indexes, BY_CREATION_TIME])
            raise DocumentError(f"the table {layout.table.__name__} has no index {index!r}", cure=f"It has: {known}.")
        leading = () if index == BY_CREATION_TIME else layout.indexes[index]
        span = cls(layout, index, (*leading, "_creation_time", "_id"))
        for name in equals:
            span._known(name)
        for name, expected in zip(equals, span.fields, strict=False):
            if expected not in equals:
                raise span._wrong(name, f"its equality skips {expected}", f"Give {expected}, too.")
        if stranger := next((name for name in equals if name not in span.fields[: len(equals)]), None):
            raise span._wrong(stranger, "it is not a field of the index", "Use filter() for it.")
        return replace(span, equals=tuple(span._encode(name, equals[name]) for name in span.fields[: len(equals)]))

    def bounded(self, operator: str, field: str, value: Any) -> Range:
        """This stretch with one more bound."""
        self._known(field)
        if field in self.fields[: len(self.equals)]:
            raise self._wrong(field, f"{operator} follows an equality on the same field", "Leave one of them out.")
        expected = self.fields[len(self.equals)] if len(self.equals) < len(self.fields) else None
        if field != expected:
            cure = f"After these equalities only {expected} can have bounds; use filter() for {field}."
            raise self._wrong(field, f"{operator} is not on the next field of the index", cure)
        side = "lower" if operator in _LOWER else "upper"
        if (other := getattr(self, side)) is not None:
            raise self._wrong(field, f"{operator} is a second {side} bound after {other.operator}", "Give one of them.")
        bound = Bound(operator, self._encode(field, value))
        return replace(self, lower=bound) if side == "lower" else replace(self, upper=bound)

    @property
    def order(self) -> tuple[str, ...]:
        """The fields by which the stretch is in order: what follows the equalities."""
        return self.fields[len(self.equals) :] or ("_id",)

    @property
    def description(self) -> list[Any]:
        """What tells this stretch from another."""
        bounds = [bound and [bound.operator, bound.value] for bound in (self.lower, self.upper)]
        return [self.layout.name, self.index, list(self.equals), bounds]

    def column(self, field: str) -> Column:
        return self.layout.all[field]

    def _encode(self, field: str, value: Any) -> Any:
        return None if value is None else self.column(field).encode(value)

    def _known(self, field: str) -> None:
        if field not in self.layout.all:
            raise DocumentError(
                f"the table {self.layout.table.__name__} has no field {field!r}",
                cure=f"It has: {', '.join(self.layout.all)}.",
            )

    def _wrong(self, field: str, what: str, cure: str) -> DocumentError:
        return DocumentError(
            f"the range on {field} does not fit the index {self.index} ({', '.join(self.fields)}): {what}", cure=cure
        )

    # ------------------------------------------------------------------------------------------ SQL
    def select(self, descending: bool, after: list[Any] | None = None, limit: int | None = None) -> Statement:
        """The statement that reads it. `after`: values of ``order`` behind which it begins."""
        columns = ", ".join(column.quoted for column in self.layout.all.values())
        tests = [_equal(self.column(name), value) for name, value in zip(self.fields, self.equals, strict=False)]
        tests += [self._bound(bound) for bound in (self.lower, self.upper) if bound is not None]
        if after is not None:
            tests.append(self._behind(list(self.order), after, descending))
        # ORDER BY ... LIMIT (Top-N), and a test of several columns, each keep DuckDB from the ART index: the rows that
        # the index finds are taken first, and sorted then.
        first = int(self.finds_few)
        head, source = "", self.layout.quoted
        if first:
            head = f"WITH found AS MATERIALIZED (SELECT {columns} FROM {source}{_where(tests[:first])}) "
            source = "found"
        sql = f"{head}SELECT {self.layout.selection} FROM {source}{_where(tests[first:])}"
        sql += f" ORDER BY {self._order_by(descending)}{'' if limit is None else f' LIMIT {limit}'}"
        return sql, [value for _, values in tests for value in values]

    @property
    def finds_few(self) -> bool:
        """Whether the index's first field has one value here, of presumably many. Where half of the table has it, Top-N
        over the table is faster by far than to take all these rows first (6 ms and 200 ms of a million)."""
        return bool(self.equals) and self.equals[0] is not None and self.column(self.fields[0]).kind not in FEW_VALUES

    def _order_by(self, descending: bool) -> str:
        # None before every value, in either direction.
        way = "DESC NULLS LAST" if descending else "ASC NULLS FIRST"
        return ", ".join(f"{self.column(name).quoted} {way}" for name in self.order)

    def _bound(self, bound: Bound) -> Statement:
        column = self.column(self.order[0])
        lower, inclusive = bound.operator in _LOWER, bound.operator in ("gte", "lte")
        beyond = _beyond(column, bound.value, descending=not lower)
        if not inclusive:
            return beyond
        return _either(beyond, _equal(column, bound.value))

    def _behind(self, fields: list[str], values: list[Any], descending: bool) -> Statement:
        """What comes after the position `values` in the order of `fields`."""
        column = self.column(fields[0])
        beyond = _beyond(column, values[0], descending)
        if len(fields) == 1:
            return beyond
        same, rest = _equal(column, values[0]), self._behind(fields[1:], values[1:], descending)
        return _either(beyond, (f"{same[0]} AND {rest[0]}", [*same[1], *rest[1]]))


def _where(tests: list[Statement]) -> str:
    return f" WHERE {' AND '.join(test for test, _ in tests)}" if tests else ""


def _equal(column: Column, value: Any) -> Statement:
    if value is None:
        return f"{column.quoted} IS NULL", []
    return f"{column.quoted} = {column.placeholder}", [value]


def _beyond(column: Column, value: Any, descending: bool) -> Statement:
    if value is None:
        return _NEVER if descending else (f"{column.quoted} IS NOT NULL", [])
    if not descending:
        return f"{column.quoted} > {column.placeholder}", [value]
    return f"({column.quoted} < {column.placeholder} OR {column.quoted} IS NULL)", [value]


def _either(one: Statement, other: Statement) -> Statement:
    return f"({one[0]} OR {other[0]})", [*one[1], *other[1]]
