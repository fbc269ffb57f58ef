"""Texts that are longer than a model reads: asked part by part, then the answers combined in rounds. Calls ``cutting``.

A round is a list of loads, each of which becomes one request. What the provider refuses as too long is cut smaller and
asked again, so that a wrong idea of a model's context costs a refusal and no result. Promises: no request holds more
than `size` tokens of text; every part of the text goes into exactly one request of the first round, and every answer
into exactly one of the next; the same answers lead to the same requests; a failed part makes an error that names it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ipyconvexai import errors
from ipyconvexai.batch.asks import Ask, Done, Part, Recipe, Result, Task
from ipyconvexai.batch.cutting import Span, count, cut
from ipyconvexai.errors import CallError, ContextLengthError, Error, InputError
from ipyconvexai.providers.prices import context_window

__all__ = ["FRAME", "SMALLEST", "Load", "framed", "in_rounds", "packed", "parts_size", "summary", "sure_size"]

SMALLEST = 160  # tokens of text in a request: the frames of two answers and the note need most of that
FRAME = 48  # tokens around a text that shares a request with others
NOTE = "These are the answers for the parts of one whole, in order. Answer for the whole from them.\n\n"
NOTE_TOKENS = 32

UNKNOWN_CONTEXT = 32_768  # of a provider that says when it is too much
SILENT_CONTEXT = 4096  # of one that forgets the beginning without a word
SILENT = ("ollama",)
ANSWER = 4096  # tokens left for an answer that nobody limits, but no more than a quarter of the context
PER_MESSAGE = 8  # tokens around each message
EXACT = ("openai", "azure", "chef")  # their vocabulary is the one we count with
MARGIN = 0.85  # of others: their vocabularies need more for the same text
# Small models have small ones: SmolLM's needs as much for English, 1.1 times for code, 1.6 for names and numbers, 2.4
# for Greek. What is still too much is refused, and cut smaller.
SMALL_MARGIN = 0.6
SMALL = ("local", "ollama")

Asking = Generator[Sequence[Ask], Sequence[Done], "Round"]


# ----------------------------------------------------------------------------------------------- how much fits
def parts_size(recipe: Recipe, context: int | None = None) -> int:
    """Tokens of text that fit into one request of `recipe`, beside its prompt and the answer.

    Args:
        context: tokens of prompt and answer together; None: what is known of the model.

    Raises:
        InputError: the prompt leaves no room.
    """
    whole, allowed, size = _room(recipe, context, count)
    if size < SMALLEST:
        raise InputError(
            f"a context of {whole} tokens less {allowed} for the answer leaves no room beside the prompt",
            cure="Shorten the prompt, allow the answer less (max_tokens=), or say how much the model reads: context=.",
        )
    return size


def sure_size(recipe: Recipe, context: int | None = None) -> int:
    """At most ``parts_size``, found without the vocabulary, which takes 50 MB: a token of the prompt has a byte at
    least. Less than nothing where that leaves no room."""
    return _room(recipe, context, lambda text: len(text.encode("utf-8", "replace")))[2]


def _room(recipe: Recipe, context: int | None, count: Callable[[str], int]) -> tuple[int, int, int]:
    """Tokens: of the context, of the answer, and those that are left for texts."""
    endpoint = recipe.endpoint
    known = endpoint.context or context_window(endpoint.provider, endpoint.model)
    whole = context or known or (SILENT_CONTEXT if endpoint.provider in SILENT else UNKNOWN_CONTEXT)
    body = recipe.body("")
    allowed = body.get("max_tokens") or body.get("max_completion_tokens") or min(ANSWER, whole // 4)
    room = whole - allowed - _fixed(body, count)
    return whole, allowed, int(room * _margin(endpoint.provider))


def _margin(provider: str) -> float:
    return 1.0 if provider in EXACT else SMALL_MARGIN if provider in SMALL else MARGIN


def _fixed(body: dict[str, Any], count: Callable[[str], int]) -> int:
    """Tokens of a request without its text."""
    messages = body["messages"]
    more = [json.dumps(body[name], default=str) for name in ("response_format", "tools") if name in body]
    return sum(PER_MESSAGE + count(message["content"]) for message in messages) + sum(map(count, more)) + PER_MESSAGE


# ----------------------------------------------------------------------------------------------- rounds
class Load(Protocol):
    """What one request holds."""

    @property
    def text(self) -> str: ...

    @property
    def inputs(self) -> dict[str, Any]:
        """Where it came from, as in ``Part``."""

    def smaller(self, size: int) -> Sequence[Load]:
        """The same in loads of at most `size` tokens."""


@dataclass(frozen=True, slots=True)
class Round:
    """Its loads with their answers; `refused`: answers to loads that were too long and are no part of it."""

    loads: list[Load]
    dones: list[Done]
    refused: list[Done]
    size: int


def _asked(recipe: Recipe, loads: Sequence[Load], size: int) -> Asking:
    """Ask all at once, and what is refused as too long once more, smaller."""
    entries: list[tuple[Load, Done | None]] = [(load, None) for load in loads]
    refused: list[Done] = []
    while pending := [load for load, done in entries if done is None]:
        answers = iter((yield [recipe.ask(load.text) for load in pending]))
        entries = [(load, done or next(answers)) for load, done in entries]
        long = [(load, done) for load, done in entries if done and isinstance(done.error, ContextLengthError)]
        if not long or any(done is not None and _failed(done) for _, done in entries):
            break
        most = min(size, max(count(load.text) for load, _ in long))
        if most <= SMALLEST:
            break
        size = max(SMALLEST, most // 2)
        refused += [done for _, done in long]
        entries = list(_smaller(entries, size))
    return Round([load for load, _ in entries], [done or Done() for _, done in entries], refused, size)


def _smaller(entries: list[tuple[Load, Done | None]], size: int) -> Iterator[tuple[Load, Done | None]]:
    for load, done in entries:
        if done is None or not isinstance(done.error, ContextLengthError):
            yield load, done
        else:
            yield from ((part, None) for part in load.smaller(size))


def _failed(done: Done) -> bool:
    """Whether it is an error that a smaller load would not mend."""
    return done.text is None and not isinstance(done.error, ContextLengthError)


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers of the round before, by their numbers in it."""

    numbers: tuple[int, ...]
    texts: tuple[str, ...]

    @property
    def text(self) -> str:
        labels = [f'number="{number + 1}"' for number in self.numbers]
        return NOTE + framed("answer", list(zip(labels, self.texts, strict=True)))

    @property
    def inputs(self) -> dict[str, Any]:
        return {"parts": list(self.numbers)}

    def smaller(self, size: int) -> Sequence[Answers]:
        return _grouped(list(zip(self.numbers, self.texts, strict=True)), size)


def _grouped(answers: Sequence[tuple[int, str]], size: int) -> list[Answers]:
    weights = [FRAME + count(text) for _, text in answers]
    groups = packed(answers, weights, size - NOTE_TOKENS)
    return [Answers(tuple(n for n, _ in group), tuple(text for _, text in group)) for group in groups]


def in_rounds(recipe: Recipe, loads: Sequence[Load], size: int, combine: Recipe, *, fewest: int = 2) -> Task:
    """Ask `loads` with `recipe`, and combine the answers with `combine` until one remains.

    The result has its parts where there are at least `fewest`.
    """
    story = _Story(fewest)
    first: Round = yield from _asked(recipe, loads, size)
    dones, size = story.first(first), first.size
    while story.error is None and len(dones) > 1:
        groups = _grouped([(number, done.text or "") for number, done in enumerate(dones)], size)
        if len(groups) > max(1, 3 * len(dones) // 4):
            return story.stuck(dones[-1])
        # An answer that shares with none goes on as it is.
        together = [group for group in groups if len(group.numbers) > 1]
        alone = {group.numbers[0]: group for group in groups if len(group.numbers) == 1}
        made: Round = yield from _asked(combine, together, size)
        size = made.size
        dones = story.next(made, alone, dones)
    return story.result(dones)


class _Story:
    """What was asked so far: for the ledger, and for the error that names what failed."""

    def __init__(self, fewest: int) -> None:
        self._fewest = fewest
        self.error: Error | None = None
        self._failed: Done | None = None
        self._parts: list[Part] = []
        self._dones: list[Done] = []
        self._round = 0

    def first(self, made: Round) -> list[Done]:
        self._dones += [*made.refused, *made.dones]
        return self._tell(list(zip(made.loads, made.dones, strict=True)))

    def next(self, made: Round, alone: dict[int, Answers], before: list[Done]) -> list[Done]:
        """A round of answers; those `alone` were not asked again. Gives all, in the order of what they hold."""
        self._round += 1
        self._dones += [*made.refused, *made.dones]
        kept: list[tuple[Load, Done]] = [(group, before[number]) for number, group in alone.items()]
        entries = [*zip(made.loads, made.dones, strict=True), *kept]
        return self._tell(sorted(entries, key=lambda entry: int(entry[0].inputs["parts"][0])))

    def _tell(self, entries: list[tuple[Load, Done]]) -> list[Done]:
        for number, (load, done) in enumerate(entries):
            self._parts.append(Part(self._round, number, load.inputs, done.request_id))
            if self.error is None and done.text is None:
                several = len(entries) > 1 or self._round > 0
                self._failed = done
                self.error = (
                    _named(done.error, self._round, number, len(entries), load.inputs) if several else done.error
                )
        return [done for _, done in entries]

    def stuck(self, last: Done) -> Result:
        error = CallError(
            f"the answers for {len([p for p in self._parts if p.round == self._round])} parts are so long that no two "
            "of them fit into one request",
            cure="Allow shorter answers (max_tokens=), or say how much the model reads: context=.",
            code="too_long",
            request_id=last.request_id,
        )
        return self._of(last).failed(error)

    def result(self, dones: list[Done]) -> Result:
        if self.error is not None:
            return self._of(self._failed or dones[-1]).failed(self.error)
        cut_short = sum(done.error is not None for done in self._dones if done.text is not None)
        error = None
        if cut_short and dones[-1].error is None:
            error = CallError(
                f"{cut_short} of {len(self._parts)} parts were cut at the token limit",
                cure="Allow more: max_tokens=.",
                code="truncated",
                request_id=dones[-1].request_id,
            )
        return self._of(dones[-1], error)

    def _of(self, last: Done, error: Error | None = None) -> Result:
        others = [done for done in self._dones if done is not last]
        return Result.of(*others, last, error=error, parts=self._parts if len(self._parts) >= self._fewest else ())


def _named(error: Error | None, number_of_round: int, number: int, of: int, inputs: dict[str, Any]) -> Error:
    """The same error, with the part that it came from."""
    where = f"part {number + 1} of {of}"
    if number_of_round:
        where += f" of round {number_of_round}"
    elif "from" in inputs:
        where += f" (characters {inputs['from']} to {inputs['to']})"
    elif rows := inputs.get("rows"):
        where += f" (rows {rows[0]} to {rows[-1]})" if len(rows) > 1 else f" (row {rows[0]})"
    if error is None:
        return CallError(f"{where}: no answer")
    # Its class in the tree: what the provider's own are made of is not known here.
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    named: Error = kind(
        f"{where}: {error.message}",
        cure=error.cure,
        code=error.code,
        retryable=error.retryable,
        retry_after=error.retry_after,
        request_id=error.request_id,
    )
    if isinstance(named, errors.ProviderError) and isinstance(error, errors.ProviderError):
        named.status = error.status
    return named


# ----------------------------------------------------------------------------------------------- packing
def packed(items: Sequence[Any], weights: Sequence[int], size: int) -> list[list[Any]]:
    """`items` in order, as many together as `size` holds; one that is heavier than that is alone."""
    groups: list[list[Any]] = []
    filled = 0
    for item, weight in zip(items, weights, strict=True):
        if groups and filled + weight <= size:
            groups[-1].append(item)
            filled += weight
        else:
            groups.append([item])
            filled = weight
    return groups


def framed(name: str, items: Sequence[tuple[str, str]]) -> str:
    """Texts one after the other, each between tags that none of them holds, whatever they say: (attributes, text)."""
    mark = _mark([text for _, text in items])
    return "\n\n".join(f"<{name}-{mark} {label}>\n{text}\n</{name}-{mark}>" for label, text in items)


def _mark(texts: Sequence[str]) -> str:
    """Made of all the texts, so that who writes one of them cannot know it; and the same at every run."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\xff")
    while True:
        mark = digest.hexdigest()[:8]
        if not any(mark in text for text in texts):
            return mark
        digest.update(b"\xff")


# ----------------------------------------------------------------------------------------------- one text
@dataclass(frozen=True, slots=True)
class Stretch:
    """Some of the characters of a text."""

    whole: str
    span: Span

    @property
    def text(self) -> str:
        return self.whole[self.span.start : self.span.end]

    @property
    def inputs(self) -> dict[str, Any]:
        return {"from": self.span.start, "to": self.span.end}

    def smaller(self, size: int) -> Sequence[Stretch]:
        start = self.span.start
        return [Stretch(self.whole, Span(start + a, start + b)) for a, b in cut(self.text, size)]


def summary(recipe: Recipe, text: str, size: int, combine: Recipe | None = None) -> Task:
    """Ask `recipe` of a text of any length; `size` from ``parts_size``.

    One request where the text fits. Otherwise its parts are asked, all at the same time, and the answers combined with
    `combine` (None: with `recipe`), as many as fit together, in rounds until one remains.
    """
    loads = Stretch(text, Span(0, len(text))).smaller(size)
    return (yield from in_rounds(recipe, loads, size, combine or recipe))
