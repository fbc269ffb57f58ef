"""What a batch would take, before anything of it is sent: tokens, US dollars, seconds. Calls the store and prices.

From a sample of its requests and from what the ledger has of such requests: those of the same recipe (same model,
system message, prompt and parameters; the texts differ), else those of the same model, else by counting alone.
Promises: nothing is sent; at most ``MOST`` requests are looked at, always the same ones, however many rows there are.
"""

from __future__ import annotations

import datetime
import functools
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ipyconvexai.batch.asks import PATH, Ask, Recipe
from ipyconvexai.batch.cutting import count
from ipyconvexai.limits.definitions import Asked, Definition, Measure
from ipyconvexai.providers.calls import allowed_output
from ipyconvexai.providers.endpoints import Endpoint
from ipyconvexai.providers.prices import cost_usd
from ipyconvexai.store.clock import utc_now
from ipyconvexai.values import Usage

if TYPE_CHECKING:
    from ipyconvexai.application import App

__all__ = ["MOST", "Estimate", "Sample", "estimate_of"]

MOST = 200  # requests that are looked at
LOOKED_BACK = 5000  # recorded requests of the model
DAYS = 30
OUTPUT = 300  # tokens of an answer, where nothing is known
PER_MESSAGE = 4  # tokens around the text of each
PER_FIELD = 15  # tokens of an answer for each part of its schema
COUNTED = 30  # texts of the sample that are counted, at least
COUNTED_WHOLE = 800  # characters; of longer ones so many in the middle
CALIBRATED = 15  # recorded requests that are counted
LATENCY, SPEED = 0.7, 60.0  # seconds, and tokens a second, where nothing is known

T = TypeVar("T")


class Sample(Generic[T]):
    """At most ``MOST`` of however many are added, evenly spread, and always the same of the same."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._step = 1
        self._kept: list[T] = []
        self.count = 0

    def add(self, item: T) -> None:
        if self.count % self._step == 0:
            self._kept.append(item)
        self.count += 1
        if len(self._kept) >= 2 * self._most:
            self._kept = self._kept[::2]
            self._step *= 2

    @property
    def items(self) -> list[T]:
        """Spread over all that were added."""
        excess = len(self._kept) / self._most
        if excess <= 1:
            return list(self._kept)
        return [self._kept[int((place + 0.5) * excess)] for place in range(self._most)]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a batch would take. It draws itself as a table.

    Attributes:
        model: ``provider:model``.
        rows: of the frame.
        inputs: distinct ones.
        known: of these, answered by the ledger already.
        requests: that would be sent, without second tries.
        input_tokens, cached_tokens, output_tokens: of all of them; cached ones are part of the input.
        cost: US dollars; None: the price is not known.
        seconds: from the first request to the last answer.
        budget: US dollars that the batch may cost; None: there is none.
        basis: what the figures come from, in words.
        pace: what the time depends on, in words.
    """

    model: str
    rows: int
    inputs: int
    known: int
    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost: float | None
    seconds: float
    budget: float | None = None
    basis: str = ""
    pace: str = ""

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def fits_budget(self) -> bool | None:
        """None: there is no budget, or no price."""
        return None if self.budget is None or self.cost is None else self.cost <= self.budget

    @property
    def per_request(self) -> dict[str, float]:
        """input_tokens, cached_tokens, output_tokens and cost of one request on average; empty where there is none."""
        if not self.requests:
            return {}
        whole = {name: getattr(self, name) for name in ("input_tokens", "cached_tokens", "output_tokens", "cost")}
        return {name: amount / self.requests for name, amount in whole.items() if amount is not None}

    def _drawn(self) -> dict[str, Any]:
        each = self.per_request
        unit, seconds = _unit(self.seconds)
        rows = [
            ("rows", self.rows, None),
            ("distinct inputs", self.inputs, None),
            ("answered already", self.known, None),
            ("requests", self.requests, None),
            ("input tokens", self.input_tokens, _rounded(each.get("input_tokens"))),
            ("of these cached", self.cached_tokens, _rounded(each.get("cached_tokens"))),
            ("output tokens", self.output_tokens, _rounded(each.get("output_tokens"))),
            ("US dollars", self.cost, each.get("cost")),
            ("left of the budget", None if self.cost is None else (self.budget or 0.0) - self.cost, None),
            (unit, seconds, None),
        ]
        unsaid = {"of these cached"} if not self.cached_tokens else set()
        unsaid |= {"left of the budget"} if self.budget is None else set()
        caption = f"Estimate for {self.model}: {self.basis}; {self.pace}" if self.requests else f"For {self.model}"
        return {
            "columns": ["", "in all", "per request"],
            "rows": [row for row in rows if row[0] not in unsaid],
            "caption": caption,
        }

    def __repr__(self) -> str:
        from ipyconvexai import render

        return render.table_text(**self._drawn())

    def _repr_html_(self) -> str:
        from ipyconvexai import render

        return render.table_html(**self._drawn())


def _unit(seconds: float) -> tuple[str, float]:
    if seconds >= 5400:
        return "hours", seconds / 3600
    return ("minutes", seconds / 60) if seconds >= 90 else ("seconds", seconds)


def _rounded(amount: float | None) -> float | None:
    return None if amount is None else round(amount, 1)


# ------------------------------------------------------------------------------------------------- the estimate
def estimate_of(
    app: App,
    endpoint: Endpoint,
    sample: Sequence[Ask],
    requests: int,
    *,
    rows: int | None = None,
    inputs: int | None = None,
    known: int = 0,
    concurrency: int = 32,
    budget: float | None = None,
    mean_length: float | None = None,
    price_factor: float = 1.0,
    seconds: float | None = None,
) -> Estimate:
    """What `requests` like those of `sample` would take. Blocking: reads the ledger, and at first the prices.

    Args:
        sample: some of the requests, evenly spread; more than ``MOST`` are thinned out.
        requests: how many would be sent.
        rows, inputs, known: what the frame has; None: as many as requests.
        concurrency: requests being sent at once.
        budget: US dollars that the batch may cost; budgets per batch of ``app.budget`` count, too.
        mean_length: characters of the text of a request, on average over all, where that is known better than from
            the sample: it corrects what the sample says.
        price_factor: 0.5 for a provider's Batch API.
        seconds: how long it takes where that does not depend on requests, as with a Batch API.

    Raises:
        ValueError: there are requests and none in the sample.
        StoreError: the ledger cannot be read.
    """
    if requests and not sample:
        raise ValueError("without a sample nothing can be said of requests")
    chosen = list(sample) if len(sample) <= MOST else _thinned(sample)
    factor = _length_factor(chosen, mean_length)
    parts, bases = [], []
    for asks in _by_recipe(chosen):
        history = _history(app, asks[0])
        reader = _Reader(asks, history, factor)
        parts += [_Part.of(ask, reader.tokens(ask), history, endpoint) for ask in asks]
        bases.append(history.basis(asks[0], len(asks)))
    scale = requests / len(parts) if parts else 0.0
    usage = Usage(
        round(scale * sum(part.read for part in parts)),
        round(scale * sum(part.written for part in parts)),
        round(scale * sum(part.cached for part in parts)),
    )
    costs = [part.cost for part in parts]
    cost = None if None in costs else scale * price_factor * sum(cost for cost in costs if cost is not None)
    definitions = _definitions(app, endpoint)
    each = _Each.of(parts)
    took, pace = _time(requests, usage.total_tokens, each, concurrency, definitions)
    allowed = [d.usd for d in definitions if d.per == "batch" and d.usd is not None] + ([budget] if budget else [])
    return Estimate(
        model=endpoint.name,
        rows=requests if rows is None else rows,
        inputs=requests + known if inputs is None else inputs,
        known=known,
        requests=requests,
        input_tokens=usage.input_tokens or 0,
        cached_tokens=usage.cached_tokens or 0,
        output_tokens=usage.output_tokens or 0,
        cost=cost if parts else 0.0,
        seconds=took if seconds is None else seconds,
        budget=min(allowed, default=None),
        basis="; ".join(dict.fromkeys(bases)),
        pace=pace if seconds is None else "the provider takes its time",
    )


def _thinned(sample: Sequence[Ask]) -> list[Ask]:
    return [sample[int((place + 0.5) * len(sample) / MOST)] for place in range(MOST)]


def _length_factor(asks: Sequence[Ask], mean_length: float | None) -> float:
    looked_at = sum(len(ask.text) for ask in asks)
    return mean_length * len(asks) / looked_at if mean_length is not None and looked_at else 1.0


def _by_recipe(asks: Sequence[Ask]) -> list[list[Ask]]:
    """A batch may have several recipes: parts of long texts are asked otherwise than what combines them."""
    found: dict[int, list[Ask]] = defaultdict(list)
    for ask in asks:
        found[id(ask.recipe)].append(ask)
    return list(found.values())


# ------------------------------------------------------------------------------------------------- what is recorded
@dataclass(frozen=True, slots=True)
class _Means:
    """Of recorded answers.

    `calibration`: the provider's tokens for one that is counted here, by some of the requests; None: their content was
    not kept.
    """

    count: int
    size: float  # bytes of a body
    read: float  # input tokens
    output: float
    cached: float  # part of the input
    seconds: float | None
    model: str | None  # as the provider names it
    calibration: float | None = None


@dataclass(frozen=True, slots=True)
class _History:
    same: _Means | None  # of the same recipe
    model: _Means | None

    @property
    def best(self) -> _Means | None:
        return self.same or self.model

    def basis(self, ask: Ask, looked_at: int) -> str:
        if self.same is not None:
            return f"from {_answers(self.same.count)} of this kind"
        if self.model is not None:
            return f"from {_answers(self.model.count)} of this model to other questions"
        guess = f"answers of {_assumed_output(ask)} tokens assumed"
        return f"counted in a sample of {looked_at:,} request{'s' * (looked_at != 1)}, {guess}"


def _answers(count: int) -> str:
    return f"{count:,} recorded answer{'s' * (count != 1)}"


# The newest first, as providers change. Second tries are of another kind: their bodies end otherwise.
_RECENT = """
WITH recent AS (
    SELECT id, body_size, coalesce(starts_with(body, $before) AND ends_with(body, $after), false) AS same
    FROM requests
    WHERE provider = $provider AND model = $model AND endpoint = $path AND sent_at > $since
    ORDER BY sent_at DESC LIMIT $most
), good AS (
    SELECT r.id, r.same, r.body_size, s.* EXCLUDE (body_size)
    FROM recent r JOIN responses s ON s.request_id = r.id
    WHERE s.status = 'ok' AND s.input_tokens > 0 AND r.body_size > 0
)
"""
_MEANS = f"""{_RECENT}
SELECT same, count(*), avg(body_size), avg(input_tokens), avg(output_tokens),
       sum(cached_tokens) / sum(input_tokens), median(duration_ms) / 1000, mode(model)
FROM good GROUP BY same
"""
# By a hash: some of all, and always the same.
_BODIES = f"""{_RECENT}
SELECT r.body, g.input_tokens FROM good g JOIN requests r ON r.id = g.id
WHERE g.same = $same AND r.body IS NOT NULL ORDER BY hash(g.id) LIMIT {CALIBRATED}
"""
_MARK = "\ue000here stands the text\ue000"


def _history(app: App, ask: Ask) -> _History:
    before, after = _around(ask.recipe)
    values = {
        "provider": ask.recipe.endpoint.provider,
        "model": ask.recipe.endpoint.model,
        "path": PATH,
        "since": utc_now() - datetime.timedelta(days=DAYS),
        "before": before,
        "after": after,
        "most": LOOKED_BACK,
    }
    found = {same: _means(*rest) for same, *rest in app.store.read(_MEANS, values)}
    if found:
        best = True in found
        bodies = app.store.read(_BODIES, values | {"same": best})
        found[best] = replace(found[best], calibration=_calibration(bodies))
    return _History(found.get(True), found.get(False))


def _means(
    count: int,
    size: float,
    read: float,
    output: float | None,
    cached: float | None,
    seconds: float | None,
    model: str | None,
) -> _Means:
    return _Means(count, size, read, output or 0.0, min(1.0, cached or 0.0), seconds, model)


def _calibration(bodies: Sequence[tuple[str, int]]) -> float | None:
    said = counted = 0
    for text, tokens in bodies:
        try:
            counted += _counted(json.loads(text))
        except (ValueError, KeyError, TypeError):  # pictures, say
            continue
        said += tokens
    return said / counted if counted else None


def _around(recipe: Recipe) -> tuple[str, str]:
    """What stands in a body before and after the text, as bodies are sent."""
    before, _, after = _sent(recipe.body(_MARK)).partition(_MARK)
    return before, after


def _sent(body: dict[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


# ------------------------------------------------------------------------------------------------- counting
def _counted(body: dict[str, Any]) -> int:
    """Tokens of the messages and of the schema, which models read, too.

    Raises:
        TypeError: it holds more than texts.
    """
    read = sum(_tokens(message["content"]) + PER_MESSAGE for message in body["messages"])
    shape = body.get("response_format")
    return read + (_tokens(_sent(shape)) if isinstance(shape, dict) else 0)


@functools.lru_cache(maxsize=64)  # system messages
def _tokens(text: str) -> int:
    """Of a long text the middle is counted: counting takes 10 s for a million characters."""
    if len(text) <= COUNTED_WHOLE:
        return count(text)
    start = (len(text) - COUNTED_WHOLE) // 2
    middle = text[start : start + COUNTED_WHOLE]
    return round(count(middle) * _size(text) / max(1, _size(middle)))


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


class _Reader:
    """Input tokens of the requests of one recipe.

    Two ways whose errors differ, and their mean: counted here, and corrected by what the provider said of recorded
    requests; and by the bytes of their texts. On abstracts of papers, after ten answers, one in a hundred estimates is
    off by more than 9 % and 18 % the one way and the other, and by more than 7 % in the mean.
    """

    def __init__(self, asks: Sequence[Ask], history: _History, factor: float) -> None:
        self._history = history
        self._factor = factor
        empty = asks[0].recipe.body("")
        self._frame = _size(_sent(empty))  # bytes of a body around its text
        self._fixed = self._density = 0.0
        if history.best is None or history.best.calibration is not None:
            self._fixed = _counted(empty)
            self._density = _density([ask.text for ask in asks])

    def tokens(self, ask: Ask) -> float:
        means, size = self._history.best, self._factor * _size(ask.text)
        counted = self._fixed + self._density * size
        if means is None:
            return counted
        if means.calibration is None:
            return means.read / means.size * (self._frame + size)
        ways = [means.calibration * counted]
        fixed = means.calibration * self._fixed
        if means is self._history.same and means.size > self._frame and means.read > fixed:
            ways.append(fixed + (means.read - fixed) / (means.size - self._frame) * size)
        return fmean(ways)


def _density(texts: Sequence[str]) -> float:
    """Tokens for a byte."""
    looked_at = texts[:: max(1, len(texts) // COUNTED)]
    size = sum(map(_size, looked_at))
    return sum(map(_tokens, looked_at)) / size if size else 0.0


# ------------------------------------------------------------------------------------------------- one request
@dataclass(frozen=True, slots=True)
class _Part:
    read: float
    written: float
    cached: float
    cost: float | None
    seconds: float
    timed: bool  # seconds are recorded

    @classmethod
    def of(cls, ask: Ask, read: float, history: _History, endpoint: Endpoint) -> _Part:
        best = history.best
        written = _written(ask, best)
        cached = history.same.cached * read if history.same is not None else 0.0
        usage = Usage(round(read), round(written), round(cached))
        cost = cost_usd(endpoint.provider, best.model, usage) if best is not None and best.model else None
        if cost is None:
            cost = cost_usd(endpoint.provider, endpoint.model, usage)
        known = best.seconds if best is not None else None
        seconds = LATENCY + written / SPEED if known is None else known
        return cls(read, written, cached, cost, seconds, known is not None)


def _written(ask: Ask, means: _Means | None) -> float:
    if means is None:
        return _assumed_output(ask)
    most = allowed_output(ask.recipe.body(""))
    return means.output if most is None else min(most, means.output)


def _assumed_output(ask: Ask) -> int:
    """Of a schema by its parts; of a text as many as are allowed, up to a number that is seldom passed."""
    body = ask.recipe.body("")
    shape = body.get("response_format")
    guess = min(OUTPUT, PER_FIELD * _sent(shape).count('"type":')) if isinstance(shape, dict) else OUTPUT
    return min(guess, allowed_output(body) or guess)


# ------------------------------------------------------------------------------------------------- time
def _definitions(app: App, endpoint: Endpoint) -> list[Definition]:
    """The limits and budgets that concern such calls of a batch."""
    call = Asked(
        "", endpoint.provider, endpoint.identity, endpoint.model, user=app.settings.user or "", batch="this one"
    )
    found = []
    for name, text in app.store.read("SELECT name, definition FROM limits ORDER BY name"):
        try:
            definition = Definition.from_json(name, text)
        except (ValueError, TypeError, KeyError):  # of a newer version: who admits calls knows better
            continue
        if definition.concerns(call):
            found.append(definition)
    return found


@dataclass(frozen=True, slots=True)
class _Each:
    """How long a request takes."""

    seconds: float = 0.0
    text: str = ""

    @classmethod
    def of(cls, parts: Sequence[_Part]) -> _Each:
        if not parts:
            return cls()
        mean = fmean(part.seconds for part in parts)
        return cls(mean, f"{mean:.2g} s each" + ("" if all(part.timed for part in parts) else " assumed"))


def _time(
    requests: int, tokens: int, each: _Each, concurrency: int, definitions: Sequence[Definition]
) -> tuple[float, str]:
    """Seconds, and what they depend on: requests at once, or the slowest limit."""
    if not requests:
        return 0.0, ""
    limits = [measure for definition in definitions if definition.kind == "limit" for measure in definition.measures]
    at_once = min([concurrency, *(limit.most for limit in limits if limit.window == "now")])
    paces = [(each.seconds * max(1.0, requests / at_once), f"{at_once:,} at once, {each.text}")]
    for limit in limits:
        if limit.window == "sliding":
            paces.append((_wait(limit, requests, tokens) + each.seconds, f"the limit of {limit.text} sets the pace"))
    return max(paces)


def _wait(limit: Measure, requests: int, tokens: int) -> float:
    """Seconds until the last is admitted; the first window's worth goes at once."""
    needed = tokens if limit.what == "tokens" else requests
    return max(0, math.ceil(needed / limit.most) - 1) * limit.per
