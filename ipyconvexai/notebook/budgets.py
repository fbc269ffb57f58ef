"""``%ai budget 5 USD/day``: budgets of the app, set, shown and removed. Calls the app."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from IPython.core.error import UsageError

from ipyconvexai.notebook.screens import display, say
from ipyconvexai.notebook.session import Session
from ipyconvexai.notebook.words import refusal

__all__ = ["COMMANDS"]


_WINDOWS = {"minute": 60.0, "week": 7 * 86400.0, "month": 30 * 86400.0}  # rolling; hour and day are the clock's, in UTC
_MANY = {"": 1, "k": 1000, "m": 1_000_000}


def _set(
    session: Session, dollar: str | None, number: str, many: str, unit: str | None, period: str, scope: str | None
) -> None:
    from ipyconvexai.application import app

    if "," in number and not re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", number):
        raise UsageError(f"%ai budget reads {number!r} neither as 5.50 nor as 5,500: write decimals with a point")
    amount = float(number.replace(",", "").replace("_", "")) * _MANY[many.lower()]
    money = bool(dollar) or (unit or "").lower() in ("usd", "dollar", "dollars")
    if not money and not unit:
        raise UsageError(
            "a budget is in US dollars or in tokens: `%ai budget 5 USD/day`, `%ai budget 100000 tokens/day`"
        )
    if dollar and unit and not money:
        raise UsageError("a budget is in US dollars or in tokens, not both: `%ai budget 5 USD/day`")
    word = period.lower()
    what: dict[str, Any] = {"usd": amount} if money else {"tokens": amount}
    name = app().budget(**what, per=_WINDOWS.get(word, word), **_scope(session, scope))
    say(f"Budget {name} is set; `%ai budget off {name}` removes it.")


def _scope(session: Session, word: str | None) -> dict[str, Any]:
    """The provider or model that `word` names."""
    from ipyconvexai.providers.catalog import find

    if word is None:
        return {}
    if find(word) is not None:
        return {"provider": word}
    target = session.model_of(word).target
    if target == word and not re.search(r"[:\d/-]", word):
        raise UsageError(
            f"{word!r} is no provider and no model: `%ai list` shows both, and `%ai budget 5 USD/day` is for all"
        )
    return {"model": target}


def _budgets() -> list[str]:
    from ipyconvexai.application import app

    sql = "SELECT name FROM limits WHERE json_extract_string(definition, '$.kind') = 'budget' ORDER BY name"
    return [name for (name,) in app().store.read(sql)]


def _show(session: Session) -> None:
    from ipyconvexai.application import app
    from ipyconvexai.notebook.tables import Table

    names, limits = set(_budgets()), app().limits()
    rows = [row for row in limits if row[0] in names]
    if rows:
        display(Table(limits.columns, rows, "budgets"))
    else:
        print("No budget is set: `%ai budget 5 USD/day` sets one, `%ai limits` shows limits.")


def _remove(session: Session, name: str | None) -> None:
    from ipyconvexai.application import app

    names = _budgets()
    if name is not None and name not in names:
        raise UsageError(f"there is no budget {name!r}; there {'are ' + ', '.join(names) if names else 'is none'}")
    for gone in [name] if name is not None else names:
        app().unlimit(gone)
        say(f"Budget {gone} is off.")
    if not names:
        print("No budget was set.")


_AMOUNT = r"(\$)?\s*(\d[\d,_]*(?:\.\d+)?)\s*([kKmM]?)\s*(usd|dollars?|tokens?)?"
_PERIOD = r"(?:\s*/\s*|\s+(?:per|a|each)\s+)(minute|hour|day|week|month|batch)"
# What has an amount and is not written as above.
_ALMOST = r"budget\s+(?:-.*|[$€£]?\s*\d[\d.,_]*\s*\w*(?:\s*/\s*\w+(?:\s+\S+)?)?|[$€£]?\s*\d[\d.,_]*\s*\w*\s+per\s+\w+)"

COMMANDS: tuple[tuple[re.Pattern[str], Callable[..., None]], ...] = (
    (re.compile(r"budgets?"), _show),
    (re.compile(r"budget\s+off(?:\s+([\w.:@/+-]+))?"), _remove),
    (re.compile(rf"budget\s+{_AMOUNT}{_PERIOD}(?:\s+(?:for\s+)?([\w.:@/+-]+))?", re.IGNORECASE), _set),
    (
        re.compile(_ALMOST),
        refusal("%ai budget wants an amount and a time: `5 USD/day`, `$5/day openai`, `100000 tokens/hour`, `off`"),
    ),
)
