"""What a limit or a budget says: which calls it concerns, what it counts, how much of it may be used. Pure.

A definition is kept as JSON in the table `limits`, so that every process obeys it. Calls nothing of the package.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property

__all__ = ["EACH", "PERIODS", "UNITS_PER_USD", "Asked", "Definition", "Measure", "amount_text", "period_text"]

PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
EACH = ("model", "user", "provider")
UNITS_PER_USD = 10**9  # money is counted in whole billionths: sums of floats drift


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that wants to be sent.

    Attributes:
        request_id: also its place among those who wait.
        tokens: its estimate, of input and output together; None: not made yet.
        usd: its estimate in billionths of a dollar; None: the price is not known.
        waits: whether it will ask again when it is refused.
        slack: seconds between asking and sending that it may need; limits may allow it more.
        call_id: the row of its first attempt.
        batched: it goes to the provider in a batch, which has allowances of its own: only budgets count it.
    """

    request_id: str
    provider: str = ""
    base_url: str = ""
    model: str = ""
    user: str = ""
    batch: str | None = None
    tokens: int | None = None
    usd: int | None = None
    waits: bool = True
    slack: float = 0.0
    call_id: str | None = None
    batched: bool = False


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that is counted: `what` is requests, tokens, usd or concurrency.

    `window`: "sliding" (any `per` seconds), "aligned" (the UTC hour or day), "batch", or "now" for concurrency.
    """

    what: str
    most: int
    window: str
    per: float = 0.0

    @property
    def text(self) -> str:
        """60 requests per minute; $5 per day; 4 requests at once."""
        if self.window == "now":
            return f"{amount_text('requests', self.most)} at once"
        return f"{amount_text(self.what, self.most)} per {'batch' if self.window == 'batch' else period_text(self.per)}"


@dataclass(frozen=True)
class Definition:
    """Amounts are as the user gave them: `usd` in dollars, `per` a word or seconds."""

    name: str
    kind: str  # limit, budget
    requests: int | None = None
    tokens: int | None = None
    usd: float | None = None
    concurrency: int | None = None
    per: str | float = "minute"
    provider: str | None = None
    model: str | None = None
    user: str | None = None
    each: str | None = None

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        window, seconds = self._window()
        found = []
        for what, most in (("requests", self.requests), ("tokens", self.tokens)):
            if most is not None:
                found.append(Measure(what, int(most), window, seconds))
        if self.usd is not None:
            found.append(Measure("usd", round(self.usd * UNITS_PER_USD), window, seconds))
        if self.concurrency is not None:
            found.append(Measure("concurrency", int(self.concurrency), "now"))
        return tuple(found)

    def _window(self) -> tuple[str, float]:
        if self.per == "batch":
            return "batch", 0.0
        if not isinstance(self.per, str):
            return "sliding", float(self.per)
        aligned = self.kind == "budget" and self.per in ("hour", "day")
        return ("aligned" if aligned else "sliding"), PERIODS[self.per]

    def concerns(self, call: Asked) -> bool:
        return (
            (self.provider is None or self.provider == call.provider)
            and (self.model is None or self.model == call.model)
            and (self.user is None or self.user == call.user)
            and (self.per != "batch" or call.batch is not None)
            and (self.kind == "budget" or not call.batched)
        )

    def key(self, call: Asked) -> str:
        """Calls of one key are counted together."""
        if self.each == "model":
            return call.model
        if self.each == "user":
            return call.user
        return call.provider if self.each == "provider" else ""

    def scope(self, key: str = "") -> str:
        """Which calls it concerns, in words."""
        named = [f"{word} {value}" for word in EACH if (value := getattr(self, word)) and word != self.each]
        if self.each is not None:
            named.append(f"{self.each} {key}" if key else f"each {self.each}")
        return ", ".join(named) or "all calls"

    def to_json(self) -> str:
        said = {name: value for name, value in asdict(self).items() if value is not None and name != "name"}
        return json.dumps(said, sort_keys=True)

    @classmethod
    def from_json(cls, name: str, text: str) -> Definition:
        """ValueError, TypeError or KeyError where it is none."""
        known = {field.name for field in fields(cls)} - {"name"}
        made = cls(name, **{word: value for word, value in json.loads(text).items() if word in known})
        if not made.measures:
            raise ValueError("it limits nothing")
        return made


def amount_text(what: str, amount: int) -> str:
    if what == "usd":
        dollars = amount / UNITS_PER_USD
        return f"${dollars:,.9f}".rstrip("0") if amount % (UNITS_PER_USD // 100) else f"${dollars:,.2f}"
    word = "requests" if what == "concurrency" else what
    return f"{amount:,} {word[:-1] if amount == 1 else word}"


def period_text(seconds: float) -> str:
    return next((word for word, length in PERIODS.items() if length == seconds), f"{seconds:g} s")
