"""``%ai usage``: calls, tokens and cost by group, as a table and a chart. Calls the app and ``charts``.

Promises: what the chart shows stands in the table beside it.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ipyconvexai.notebook.screens import display, in_kernel
from ipyconvexai.notebook.session import Session
from ipyconvexai.notebook.words import refusal

if TYPE_CHECKING:
    from ipyconvexai.drawing.charts import Chart
    from ipyconvexai.relation import Relation

__all__ = ["COMMANDS", "usage"]

Row = Mapping[str, Any]

MOST_BARS = 12  # the rest is one bar
MOST_DAYS = 92


def usage(session: Session, by: str | None) -> None:
    """A table of calls, tokens and cost by `by`, under a chart where there is a page to show it on."""
    from ipyconvexai.application import app

    by = by or "model"
    table = app().ledger.usage(by)
    if not len(table):
        print("No call is recorded yet.")
    elif in_kernel(session.shell):
        drawn = {"text/html": _chart_of(table, by).html + table._repr_html_(), "text/plain": repr(table)}
        display(drawn, raw=True)
    else:
        display(table)


def _chart_of(table: Relation, by: str) -> Chart:
    from ipyconvexai.drawing.charts import bar_chart, column_chart

    rows = [dict(zip(table.columns, row, strict=True)) for row in table]
    what, unit, value = _measure(rows)
    if by == "day":
        days, title = _days({row[by]: value(row) for row in rows}), f"{what} by day"
        title += f", the last {MOST_DAYS} days" if len(days) > MOST_DAYS else ""
        days = days[-MOST_DAYS:]
        return column_chart([str(day) for day, _ in days], [amount for _, amount in days], title=title, unit=unit)
    groups = sorted(((value(row), row[by]) for row in rows), key=lambda group: (-group[0], str(group[1])))
    bars = [(f"(no {by})" if name is None else str(name), amount) for amount, name in groups]
    if len(bars) > MOST_BARS:
        rest = bars[MOST_BARS - 1 :]
        bars = [*bars[: MOST_BARS - 1], (f"{len(rest)} others", sum(amount for _, amount in rest))]
    return bar_chart([name for name, _ in bars], [amount for _, amount in bars], title=f"{what} by {by}", unit=unit)


def _measure(rows: Sequence[Row]) -> tuple[str, str, Callable[[Row], float]]:
    """What is drawn: cost; tokens where no cost is known; calls where there are no tokens either."""
    if any(row["cost_usd"] for row in rows):
        return "cost", "US dollars", lambda row: row["cost_usd"] or 0.0
    if any(row["input_tokens"] or row["output_tokens"] for row in rows):
        return "tokens", "tokens", lambda row: row["input_tokens"] + row["output_tokens"]
    return "calls", "calls", lambda row: row["calls"]


def _days(known: Mapping[datetime.date, float]) -> list[tuple[datetime.date, float]]:
    """Every day from the first to the last, also those without a call."""
    first, last = min(known), max(known)
    days = (first + datetime.timedelta(days=at) for at in range((last - first).days + 1))
    return [(day, known.get(day, 0.0)) for day in days]


_BY = "model|provider|day|notebook|user|source|status"

COMMANDS: tuple[tuple[re.Pattern[str], Callable[..., None]], ...] = (
    (
        re.compile(rf"usage(?:\s+--by[\s=]+(\w+)|\s+by\s+({_BY}))?"),
        lambda session, by, also: usage(session, by or also),
    ),
    (re.compile(r"usage\s+-.*", re.DOTALL), refusal(f"%ai usage takes --by {_BY}")),
)
