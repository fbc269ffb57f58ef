"""What a batch asks: a recipe makes requests of texts, a task decides what is asked next. Calls ``providers``.

A task is a generator. It yields requests that may be sent at the same time, is given one ``Done`` for each, in order,
and returns a ``Result``. It neither sends nor reads: whether an answer comes from the ledger or from the provider, now
or in a day, is the runner's business. As the same answers always lead to the same next requests, a task that was
interrupted is resumed by running it again: what the ledger has is not sent.

    def summary(recipe: Recipe, text: str) -> Task:
        (done,) = yield [recipe.ask(text)]
        return Result.of(done)
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ipyconvexai.batch.templates import check_unicode
from ipyconvexai.errors import CallError, Error
from ipyconvexai.providers.calls import KeyMaker, body_bytes, cache_key
from ipyconvexai.providers.endpoints import Endpoint

__all__ = ["PATH", "Ask", "Done", "Part", "Recipe", "Result", "Tally", "Task"]

PATH = "chat/completions"


class Recipe:
    """Requests that differ in one text: `before` + text + `after` is the question, `system` stands before it.

    The common part comes first and byte-equal, so that providers' prompt caches hit.

    Args:
        params: whatever else the body holds: temperature, response_format, ...
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        system: str | None = None,
        before: str = "",
        after: str = "",
        params: dict[str, Any] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.system = system
        self._before, self._after = before, after
        self._fixed = {"model": endpoint.model, **endpoint.named(params or {})}
        self._system = [{"role": "system", "content": system}] if system else []
        for text in (system or "", before, after):
            check_unicode(text)
        self._keys = KeyMaker(endpoint.identity, PATH, self.body)

    def body(self, text: str, more: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
        """The request; `more`: messages that follow the question."""
        question = {"role": "user", "content": f"{self._before}{text}{self._after}"}
        return {**self._fixed, "messages": [*self._system, question, *more]}

    def ask(self, text: str) -> Ask:
        return Ask(self, text, self._keys.key(text))

    def again(self, ask: Ask, answer: str, complaint: str) -> Ask:
        """`ask` once more, after `answer`, with what is wrong with it."""
        more = (*ask.more, {"role": "assistant", "content": answer}, {"role": "user", "content": complaint})
        key = cache_key(self.endpoint.identity, PATH, body_bytes(self.body(ask.text, more)))
        return Ask(self, ask.text, key, more)


# A batch that the ledger can answer makes one of each of these per row: a named tuple is made in a third of the time
# that a frozen dataclass takes.


class Ask(NamedTuple):
    """One request. `key` is its cache key: equal requests have equal keys."""

    recipe: Recipe
    text: str
    key: str
    more: tuple[dict[str, str], ...] = ()

    def body(self) -> dict[str, Any]:
        return self.recipe.body(self.text, self.more)


class Done(NamedTuple):
    """What one request came to: its text, or the error; both where the text was cut at the token limit.

    `known`: the ledger had it. `cost` in US dollars is what it cost when it was sent; None: not known.
    """

    text: str | None = None
    request_id: str | None = None
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    known: bool = False
    error: Error | None = None

    @classmethod
    def of_answer(cls, text: str | None, finish_reason: str | None, request_id: str | None, **fields: Any) -> Done:
        """Of an answer: one without text is an error; one that was cut at the token limit is kept, and says so."""
        if text is None:
            silent = "the model answered without text"
            error = CallError(silent, cure="Look at its answer: ai.ledger.calls().", request_id=request_id)
            return cls(None, request_id, error=error, **fields)
        if finish_reason == "length":
            cure = "Allow more: max_tokens=."
            cut = CallError("cut at the token limit", cure=cure, code="truncated", request_id=request_id)
            return cls(text, request_id, error=cut, **fields)
        return cls(text, request_id, **fields)


@dataclass(frozen=True, slots=True)
class Part:
    """What went into one request of an input that took several.

    `inputs`: {"from": c, "to": c} characters of the text, {"rows": [...]} of the frame, or {"parts": [...]} of the
    round before.
    """

    round: int
    part: int
    inputs: dict[str, Any]
    request_id: str | None


class Tally(NamedTuple):
    """What some requests took. `cost` in US dollars, as far as prices are known; None: of none of them."""

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None

    @classmethod
    def of(cls, dones: Iterable[Done]) -> Tally:
        made = [done for done in dones if done.request_id is not None]
        if len(made) == 1:  # nearly always
            (one,) = made
            return cls(1, one.input_tokens, one.cached_tokens, one.output_tokens, one.cost)
        costs = [done.cost for done in made if done.cost is not None]
        return cls(
            requests=len(made),
            input_tokens=sum(done.input_tokens for done in made),
            cached_tokens=sum(done.cached_tokens for done in made),
            output_tokens=sum(done.output_tokens for done in made),
            cost=sum(costs) if costs else None,
        )

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


_NONE = Tally()


class Result(NamedTuple):
    """What an input came to. `done` is the request that gave it, `total` is what it took in all, `sent` the part of
    that which was not in the ledger before."""

    value: Any = None  # a text, or what a schema made of it
    done: Done = Done()
    error: Error | None = None
    total: Tally = _NONE
    sent: Tally = _NONE
    parts: tuple[Part, ...] = ()

    @classmethod
    def of(cls, *dones: Done, value: Any = None, error: Error | None = None, parts: Sequence[Part] = ()) -> Result:
        """Of the requests that it took; the last one gave it. `value`: None for that one's text."""
        last = dones[-1]
        total = Tally.of(dones)
        known = sum(done.known for done in dones)
        sent = total if not known else _NONE if known == len(dones) else Tally.of(d for d in dones if not d.known)
        return cls(last.text if value is None else value, last, error or last.error, total, sent, tuple(parts))

    def failed(self, error: Error) -> Result:
        """The same with `error`, and without a value."""
        return self._replace(value=None, error=error)

    @property
    def is_failed(self) -> bool:
        """Whether there is an error in place of a value; a text that was cut is a value."""
        return self.error is not None and self.value is None

    @property
    def known(self) -> bool:
        """Whether the ledger had all of it: nothing was sent."""
        return self.done.known and self.sent.requests == 0


Task = Generator[Sequence[Ask], Sequence[Done], Result]
