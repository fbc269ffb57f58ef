"""Limits and budgets as people set them: checked words in, rows of the table `limits`, a relation out. Floor 3.

Calls the store, ``limits`` and the catalogue. What is written here every process that shares the ledger obeys from its
next call on, and it survives restarts.
"""

from __future__ import annotations

import datetime
import difflib
import math
from typing import TYPE_CHECKING, Any

from ipyconvexai.errors import InputError
from ipyconvexai.limits.definitions import EACH, PERIODS, Definition
from ipyconvexai.providers.catalog import CUSTOM, find, nearest_names, providers, split
from ipyconvexai.relation import Relation
from ipyconvexai.settings import redact
from ipyconvexai.store.clock import utc_now

if TYPE_CHECKING:
    from ipyconvexai.store.link import Store

__all__ = ["Limiting", "define", "limits_of", "remove"]

_LIMIT_PERIODS = tuple(PERIODS)
_BUDGET_PERIODS = ("hour", "day", "batch")
_COLUMNS = ("name", "what", "scope", "used", "left", "waiting", "next_free_s", "provider_said")


class Limiting:
    """The part of an app that sets limits and budgets."""

    store: Store

    def limit(
        self,
        name: str | None = None,
        *,
        requests: int | None = None,
        tokens: int | None = None,
        per: str | float = "minute",
        concurrency: int | None = None,
        provider: str | None = None,
        model: str | None = None,
        user: str | None = None,
        each: str | None = None,
    ) -> str:
        """Set a limit for every call of every process that shares this ledger; gives its name.

        In any window of the given length there are never more `requests`, or `tokens` (input and output, by estimate
        until the answer is there). A call over a limit waits for its turn, or raises a LimitError where the policy is
        "raise".

        Args:
            name: to remove or replace it by; made from the rest where it is None.
            requests, tokens: the most of them in one window.
            per: "second", "minute", "hour", "day", or seconds.
            concurrency: the most requests being sent at once.
            provider, model, user: only calls of these; a model may be named ``provider:model``.
            each: "model", "user" or "provider": keep one count for each.

        Raises:
            InputError: a number is not above 0, nothing is limited, or a word is not known or holds an API key.
        """
        amounts = {"requests": requests, "tokens": tokens, "concurrency": concurrency}
        scope = {"provider": provider, "model": model, "user": user, "each": each}
        return define(self.store, "limit", name, amounts, per, scope)

    def budget(
        self,
        name: str | None = None,
        *,
        usd: float | None = None,
        tokens: int | None = None,
        per: str | float = "day",
        provider: str | None = None,
        model: str | None = None,
        user: str | None = None,
        each: str | None = None,
    ) -> str:
        """Set a budget in US dollars or tokens for every call of every process that shares this ledger; gives its name.

        What a call will cost is reserved by an estimate before it is sent, and settled by what it did cost: the budget
        is passed by no more than the calls under way were underestimated. A call over it raises a BudgetError.

        Args:
            name: to remove or replace it by; made from the rest where it is None.
            usd, tokens: what may be spent.
            per: "hour" or "day" of UTC, "batch" (each batch has its own), or seconds of a rolling window.
            provider, model, user, each: as ``limit``.

        Raises:
            InputError: a number is not above 0, nothing is limited, or a word is not known or holds an API key.
        """
        scope = {"provider": provider, "model": model, "user": user, "each": each}
        return define(self.store, "budget", name, {"usd": usd, "tokens": tokens}, per, scope)

    def unlimit(self, name: str) -> None:
        """Remove a limit or a budget.

        Raises:
            InputError: there is none of that name.
        """
        remove(self.store, name)

    def limits(self) -> Relation:
        """What is used of each limit and budget, what is left, who waits; and what providers say of theirs."""
        return limits_of(self.store)


def define(
    store: Store,
    kind: str,
    name: str | None,
    amounts: dict[str, Any],
    per: str | float,
    scope: dict[str, Any],
) -> str:
    """Check and write a definition of `kind` "limit" or "budget"; one of its name is replaced. Gives its name."""
    given = {word: _amount(kind, word, amount) for word, amount in amounts.items() if amount is not None}
    if not given:
        words = [f"{word}=" for word in amounts]
        raise InputError(
            f"this {kind} limits nothing", cure=f"Give at least one of {', '.join(words[:-1])} or {words[-1]}."
        )
    period = _period(kind, per)
    who = _scope(scope)
    if name is None:
        name = _name(kind, given, period, who)
    elif not isinstance(name, str) or not name.strip():
        raise InputError(f"name={name!r} is no name", cure='For example: "gpt-minute".')
    _refuse_keys("name", name)
    said: dict[str, Any] = {**given, **who}
    definition = Definition(name, kind, per=period, **said)
    with store.transaction() as execute:
        execute(
            "INSERT OR REPLACE INTO limits (name, definition, created_at) VALUES (?, ?, ?)",
            [name, definition.to_json(), utc_now()],
        )
    return name


def remove(store: Store, name: str) -> None:
    with store.transaction() as execute:
        names = [row[0] for row in execute("SELECT name FROM limits ORDER BY name")]
        if name in names:
            execute("DELETE FROM limits WHERE name = ?", [name])
            return
    near = difflib.get_close_matches(str(name), names, 1, 0.6)
    cure = f'Did you mean "{near[0]}"?' if near else f"There are: {', '.join(names)}." if names else "There are none."
    raise InputError(f"there is no limit or budget {name!r}", cure=cure)


def limits_of(store: Store) -> Relation:
    import pyarrow as pa  # 0.15 s, and not everybody looks

    rows = store.limits()
    kinds = [pa.string()] * 5 + [pa.int64(), pa.float64(), pa.string()]
    columns = [pa.array([row[place] for row in rows], kind) for place, kind in enumerate(kinds)]
    table = pa.table(columns, names=list(_COLUMNS))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return Relation(sink.getvalue().to_pybytes(), caption="limits")


# ---------------------------------------------------------------------------------------------- words and numbers
def _amount(kind: str, word: str, amount: Any) -> int | float:
    whole = word != "usd"
    number = amount.item() if hasattr(amount, "item") else amount  # numpy's
    fine = isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < math.inf
    if not fine or (whole and number != int(number)):
        what = "a whole number" if whole else "a number"
        raise InputError(f"{kind}({word}={amount!r}) is not {what} above 0", cure=f"For example: {word}=10.")
    return int(number) if whole else float(number)


def _period(kind: str, per: Any) -> str | float:
    known = _LIMIT_PERIODS if kind == "limit" else _BUDGET_PERIODS
    if isinstance(per, str):
        if per in known:
            return per
        near = difflib.get_close_matches(per, known, 1, 0.6)
        hint = f'Did you mean "{near[0]}"? ' if near else ""
        words = ", ".join(f'"{word}"' for word in known)
        raise InputError(f"{kind}(per={per!r}) is not known", cure=f"{hint}Use {words}, or a number of seconds.")
    seconds = per.total_seconds() if isinstance(per, datetime.timedelta) else per
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds <= 366 * 86400:
        raise InputError(f"{kind}(per={per!r}) is no number of seconds", cure="Use more than 0, and a year at most.")
    return float(seconds)


def _scope(scope: dict[str, Any]) -> dict[str, str]:
    given: dict[str, str] = {}
    for word, value in scope.items():
        if value is None:
            continue
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{word}={value!r} is no name", cure=f'For example: {word}="{_EXAMPLES[word]}".')
        _refuse_keys(word, value)
        given[word] = value.strip()
    if "model" in given:
        _split_model(given)
    if "provider" in given:
        given["provider"] = _provider(given["provider"])
    if "each" in given and given["each"] not in EACH:
        near = difflib.get_close_matches(given["each"], EACH, 1, 0.5)
        hint = f'Did you mean "{near[0]}"? ' if near else ""
        words = ", ".join(f'"{word}"' for word in EACH)
        raise InputError(f"each={given['each']!r} is not known", cure=f"{hint}Use one of {words}.")
    return given


_EXAMPLES = {"provider": "openai", "model": "openai:gpt-4.1-mini", "user": "ada", "each": "model"}


def _refuse_keys(word: str, value: str) -> None:
    """Redacted, two names would become one."""
    if redact(value) != value:
        raise InputError(f"{word}= holds an API key, and limits are kept in the ledger", cure="Use a word without it.")


def _split_model(given: dict[str, str]) -> None:
    """``provider:model`` names both."""
    prefix, separator, name = split(given["model"])
    name = name.strip()
    if separator and not name:
        cure = f'Use provider="{prefix}" for all its models.' if find(prefix) else 'For example: "openai:gpt-4.1-mini".'
        raise InputError(f"model={given['model']!r} names no model", cure=cure)
    provider = find(prefix) if separator == ":" else None
    if provider is not None:
        if given.get("provider", provider.name) != provider.name:
            raise InputError(
                f"model={given['model']!r} is not of provider={given['provider']!r}", cure="Name one provider."
            )
        given["provider"], given["model"] = provider.name, name
    elif find(given["model"]) is not None:
        raise InputError(
            f"{given['model']!r} is a provider and no model",
            cure=f'Use provider="{given["model"]}" for all its models.',
        )


def _provider(word: str) -> str:
    provider = find(word)
    if provider is not None:
        return provider.name
    # Any other address is recorded under its host: such names are left as they are.
    if word != CUSTOM and not set(word) & set(".:") and (near := nearest_names(word, [p.name for p in providers()])):
        raise InputError(f"provider={word!r} is not known", cure=f'Did you mean "{near[0]}"?')
    return word


def _name(kind: str, given: dict[str, Any], period: str | float, who: dict[str, str]) -> str:
    """The same for the same kind of limit, so that setting it again replaces it."""
    parts = [who[word] for word in ("provider", "model", "user") if word in who]
    parts += [f"each-{who['each']}"] if "each" in who else []
    if set(given) == {"concurrency"}:
        return "-".join([*parts, "concurrency"])
    length = period if isinstance(period, str) else f"{period:g}s"
    words = [word for word in given if word != "concurrency"]
    return "-".join([*parts, *(["budget"] if kind == "budget" else []), *words, "per", length])
