"""What a batch would take, against what it does take: a double that counts tokens as a provider would."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai.batch.asks import Ask, Recipe
from ipyconvexai.batch.estimate import MOST, Estimate, Sample, estimate_of
from ipyconvexai.providers.endpoints import Endpoint as Target
from ipyconvexai.providers.exchange import chat
from ipyconvexai.testing import Answer, Endpoint

SYSTEM = "You classify papers. Reply with the topic and one sentence that says why."
PIECE = re.compile(r"\w{1,5}|[^\w\s]")  # a vocabulary of its own: not the one that estimates are made with
WORDS = """
the of and in to a is for we that with on as are this by an from which be our it or can at has model language data
method approach results task propose system training show paper based using used performance learning information
corpus translation semantic sentence word words text parsing syntactic dependency evaluation features representation
unsupervised annotation knowledge neural network significantly improvements state-of-the-art summarization discourse
lexical resource probabilistic grammar classification generation however previous work domain adaptation multilingual
experiments demonstrate baseline several different between structure extraction relation entity questions answering
coreference morphologically low-resource cross-lingual embeddings attention transformer pretrained interpretability
""".split()


def document(seed: int) -> str:
    """Like an abstract: its length, its words and what is between them vary."""
    chance = random.Random(seed)
    words = []
    for _ in range(max(20, int(chance.lognormvariate(4.8, 0.5)))):
        word = chance.choice(WORDS[: chance.choice((40, 80, len(WORDS)))])
        words.append(
            chance.choices((word, word + ",", str(chance.randint(1, 2100)), "naïve", "\n"), (82, 8, 4, 2, 4))[0]
        )
    return " ".join(words) + "."


CORPUS = [document(seed) for seed in range(160)]


def usage_of(body: Any, written: int | None = None, cached: int = 0) -> tuple[int, int, int]:
    messages = body["messages"]
    read = 3 + sum(4 + len(PIECE.findall(message["content"])) for message in messages)
    chance = random.Random(messages[-1]["content"])
    return read, int(chance.lognormvariate(4, 0.3)) if written is None else written, cached


def counting(call: Any) -> Answer:
    return Answer("a topic", usage=usage_of(call.body))


class Bench:
    """A recipe of one app, and the ways to use it."""

    def __init__(self, app: ai.App, model: str | None = None, before: str = "Classify:\n", **params: Any) -> None:
        self.app = app
        self.target: Target = app.run(app.generator.endpoint(model))
        self.recipe = Recipe(self.target, system=SYSTEM, before=before, after="\n\nTopic:", params=params)

    def send(self, texts: Sequence[str]) -> None:
        self.app.run(self._send([self.recipe.ask(text) for text in texts]))

    async def _send(self, asks: Sequence[Ask]) -> None:
        client = self.app.generator.client(self.target)
        await asyncio.gather(*(chat(client, self.target, ask.body()) for ask in asks))

    def estimate(self, texts: Sequence[str], requests: int | None = None, **options: Any) -> Estimate:
        asks = [self.recipe.ask(text) for text in texts]
        return estimate_of(self.app, self.target, asks, len(asks) if requests is None else requests, **options)


@pytest.fixture
def bench(app: ai.App, endpoint: Endpoint) -> Bench:
    endpoint.reply(counting)
    return Bench(app)


def spent(app: ai.App) -> tuple[int, int, float]:
    rows = app.store.read("SELECT sum(input_tokens), sum(output_tokens), sum(cost_usd) FROM responses")
    read, written, cost = rows[0]
    return int(read or 0), int(written or 0), float(cost or 0.0)


# ------------------------------------------------------------------------------------------------- accuracy
@pytest.mark.parametrize("recorded", [5, 10, 40])
def test_within_15_percent_after_a_few_answers(bench: Bench, endpoint: Endpoint, recorded: int):
    bench.send(CORPUS[:recorded])
    before, rest = spent(bench.app), CORPUS[recorded:]
    estimate = bench.estimate(rest)
    assert endpoint.count == recorded, "nothing is sent for it"
    bench.send(rest)
    read, written, cost = (now - then for now, then in zip(spent(bench.app), before, strict=True))
    assert estimate.requests == len(rest)
    assert estimate.input_tokens == pytest.approx(read, rel=0.15)
    assert estimate.output_tokens == pytest.approx(written, rel=0.15)
    assert estimate.cost == pytest.approx(cost, rel=0.15)
    assert estimate.basis == f"from {recorded} recorded answers of this kind"


def test_longer_texts_than_those_recorded(bench: Bench):
    """The system message is read with each, however long the text is."""
    bench.send([text[:80] for text in CORPUS[:10]])
    whole = [" ".join(CORPUS[place : place + 10]) for place in range(0, 160, 10)]
    estimate = bench.estimate(whole)
    real = sum(usage_of(bench.recipe.body(text))[0] for text in whole)
    assert estimate.input_tokens == pytest.approx(real, rel=0.15)


def test_a_small_sample_of_many(bench: Bench):
    bench.send(CORPUS[:10])
    estimate = bench.estimate(CORPUS[10:60], requests=15_000, rows=20_000, inputs=16_000, known=1000)
    real = 150 * sum(usage_of(bench.recipe.body(text))[0] for text in CORPUS[60:160])
    assert estimate.input_tokens == pytest.approx(real, rel=0.15)
    assert (estimate.rows, estimate.inputs, estimate.known, estimate.requests) == (20_000, 16_000, 1000, 15_000)
    assert estimate.per_request["input_tokens"] == pytest.approx(estimate.input_tokens / 15_000)


def test_what_is_known_of_all_lengths_corrects_the_sample(bench: Bench):
    short, long = sorted(CORPUS, key=len)[:40], sorted(CORPUS, key=len)[-40:]
    real = sum(usage_of(bench.recipe.body(text))[0] for text in long)
    bench.send(short[:5])
    mean = sum(map(len, long)) / len(long)
    assert bench.estimate(short).input_tokens < 0.7 * real
    assert bench.estimate(short, mean_length=mean).input_tokens == pytest.approx(real, rel=0.15)


# ------------------------------------------------------------------------------------------------- what it is from
def test_nothing_recorded(bench: Bench):
    estimate = bench.estimate(CORPUS)
    real = sum(usage_of(bench.recipe.body(text))[0] for text in CORPUS)
    assert estimate.input_tokens == pytest.approx(real, rel=0.5)
    assert estimate.output_tokens == 300 * len(CORPUS)
    assert estimate.basis == "counted in a sample of 160 requests, answers of 300 tokens assumed"
    assert estimate.pace.endswith("s each assumed")
    assert bench.estimate(CORPUS[:1]).basis.startswith("counted in a sample of 1 request,")


def test_what_an_answer_may_have_is_the_most(app: ai.App, endpoint: Endpoint):
    endpoint.reply(counting)
    few = Bench(app, max_tokens=20)
    assert few.estimate(CORPUS[:10]).output_tokens == 200
    Bench(app).send(CORPUS[:5])
    assert few.estimate(CORPUS[:10]).output_tokens == 200, "other answers were longer, but these may not be"
    shape = {"type": "object", "properties": {"topic": {"type": "string"}}}
    shaped = Bench(app, "openai:gpt-4o", response_format={"type": "json_schema", "json_schema": {"schema": shape}})
    plain = Bench(app, "openai:gpt-4o")
    assert shaped.estimate(CORPUS[:10]).output_tokens < 100 * 10
    assert shaped.estimate(CORPUS[:10]).input_tokens > plain.estimate(CORPUS[:10]).input_tokens, "it is read, too"


def test_answers_of_this_kind_before_others_of_the_model(app: ai.App, endpoint: Endpoint):
    own, other = Bench(app), Bench(app, before="Tell all about:\n")
    endpoint.reply(lambda call: Answer("x", usage=usage_of(call.body, 900)))
    other.send(CORPUS[:6])
    first = own.estimate(CORPUS[20:30])
    assert first.output_tokens == 9000
    assert first.basis == "from 6 recorded answers of this model to other questions"
    endpoint.reply(lambda call: Answer("x", usage=usage_of(call.body, 50)))
    own.send(CORPUS[:1])
    second = own.estimate(CORPUS[20:30])
    assert second.output_tokens == 500
    assert second.basis == "from 1 recorded answer of this kind"
    elsewhere = Bench(app, "openai:gpt-4o").estimate(CORPUS[20:30])
    assert elsewhere.basis.startswith("counted"), "another model says nothing"


def test_how_a_model_counts_is_learned_from_any_of_its_answers(app: ai.App, endpoint: Endpoint):
    own, other = Bench(app), Bench(app, before="Tell all about:\n")
    endpoint.reply(lambda call: Answer("x", usage=(3 * usage_of(call.body)[0], 50)))
    other.send(CORPUS[:6])
    real = sum(3 * usage_of(own.recipe.body(text))[0] for text in CORPUS[20:60])
    assert own.estimate(CORPUS[20:60]).input_tokens == pytest.approx(real, rel=0.15)


def test_second_tries_are_of_another_kind(bench: Bench):
    ask = bench.recipe.ask(CORPUS[0])
    bench.app.run(bench._send([bench.recipe.again(ask, "wrong", "Once more.")]))
    assert "other questions" in bench.estimate(CORPUS[:5]).basis


def test_several_recipes_in_one_batch(bench: Bench, app: ai.App, endpoint: Endpoint):
    other = Bench(app, before="Combine:\n")
    endpoint.reply(lambda call: Answer("x", usage=usage_of(call.body, 10)))
    bench.send(CORPUS[:3])
    endpoint.reply(lambda call: Answer("x", usage=usage_of(call.body, 1000)))
    other.send(CORPUS[:4])
    asks = [bench.recipe.ask(text) for text in CORPUS[10:13]] + [other.recipe.ask(CORPUS[13])]
    estimate = estimate_of(app, bench.target, asks, 400)
    assert estimate.output_tokens == 300 * 10 + 100 * 1000
    assert estimate.basis == "from 3 recorded answers of this kind; from 4 recorded answers of this kind"


def test_without_content_the_sizes_tell(endpoint: Endpoint, tmp_path: Path):
    endpoint.reply(counting)
    with ai.connect(str(tmp_path / "l.duckdb"), model="openai:gpt-4o-mini", record="metadata") as app:
        bench = Bench(app)
        bench.send(CORPUS[:20])
        estimate = bench.estimate(CORPUS[20:])
    real = sum(usage_of(bench.recipe.body(text))[0] for text in CORPUS[20:])
    assert estimate.input_tokens == pytest.approx(real, rel=0.15)
    assert "of this model" in estimate.basis


def test_pictures_among_the_recorded_do_no_harm(bench: Bench, endpoint: Endpoint):
    endpoint.reply(Answer("x", usage=(1000, 5)))
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "data:,x"}}]
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": parts}]}
    bench.app.run(chat(bench.app.generator.client(bench.target), bench.target, body))
    assert bench.estimate(CORPUS[:5]).basis == "from 1 recorded answer of this model to other questions"


# ------------------------------------------------------------------------------------------------- money
def test_cached_tokens_lower_the_price(bench: Bench, endpoint: Endpoint):
    endpoint.reply(lambda call: Answer("x", usage=usage_of(call.body, 50)))
    bench.send(CORPUS[:8])
    full = bench.estimate(CORPUS[20:40])
    with_cache = Bench(bench.app, before="With a cache:\n")
    endpoint.reply(lambda call: Answer("x", usage=usage_of(call.body, 50, usage_of(call.body)[0] // 2)))
    with_cache.send(CORPUS[:8])
    half = with_cache.estimate(CORPUS[20:40])
    assert full.cached_tokens == 0
    assert half.cached_tokens == pytest.approx(half.input_tokens / 2, rel=0.05)
    assert full.cost is not None
    assert half.cost is not None
    assert half.cost < 0.9 * full.cost
    assert "of these cached" in repr(half)
    assert "of these cached" not in repr(full)


def test_budgets(bench: Bench, app: ai.App):
    free = bench.estimate(CORPUS)
    assert free.fits_budget is None
    assert free.cost is not None
    assert bench.estimate(CORPUS, budget=free.cost * 1.01).fits_budget is True
    assert bench.estimate(CORPUS, budget=free.cost * 0.99).fits_budget is False
    app.budget(usd=free.cost / 2, per="batch")
    assert bench.estimate(CORPUS, budget=free.cost * 2).fits_budget is False, "the smaller one holds"
    assert "left of the budget" in repr(bench.estimate(CORPUS))


def test_a_batch_api_is_half_the_price(bench: Bench):
    whole = bench.estimate(CORPUS)
    half = bench.estimate(CORPUS, price_factor=0.5, seconds=86400.0)
    assert whole.cost is not None
    assert half.cost == pytest.approx(whole.cost / 2)
    assert half.seconds == 86400


def test_a_price_that_is_not_known(app: ai.App):
    estimate = Bench(app, "openai:no-such-model-at-all").estimate(CORPUS[:3], budget=1.0)
    assert estimate.cost is None
    assert estimate.fits_budget is None
    assert "US dollars" in repr(estimate)
    assert "cost" not in estimate.per_request


# ------------------------------------------------------------------------------------------------- time
def test_the_time_is_the_recorded_one_by_how_many_at_once(bench: Bench, app: ai.App):
    bench.send(CORPUS[:9])
    [[milliseconds]] = app.store.read("SELECT median(duration_ms) FROM responses")
    assert bench.estimate(CORPUS, 1000, concurrency=10).seconds == pytest.approx(100 * milliseconds / 1000)
    assert bench.estimate(CORPUS, 5, concurrency=10).seconds == pytest.approx(milliseconds / 1000)
    app.limit(concurrency=2)
    two = bench.estimate(CORPUS, 1000, concurrency=10)
    assert two.seconds == pytest.approx(500 * milliseconds / 1000)
    assert two.pace.startswith("2 at once, ")


def test_the_slowest_limit_sets_the_pace(bench: Bench, app: ai.App):
    bench.send(CORPUS[:9])
    app.limit(requests=60, per="minute")
    app.limit("of another", requests=1, per="day", model="gpt-4o")
    slow = bench.estimate(CORPUS, 600)
    assert slow.seconds == pytest.approx(9 * 60, abs=5), "the first minute's go at once"
    assert slow.pace == "the limit of 60 requests per minute sets the pace"
    app.limit(tokens=slow.tokens // 100, per="minute")
    slower = bench.estimate(CORPUS, 600)
    assert slower.seconds >= 99 * 60
    assert "tokens per minute" in slower.pace


# ------------------------------------------------------------------------------------------------- drawing, sampling
def test_it_draws_itself_and_nothing_of_it_is_markup(bench: Bench):
    estimate = bench.estimate(CORPUS, 1_234_567, budget=1.0)
    text = repr(estimate)
    assert "Estimate for openai:gpt-4o-mini: counted in a sample of 160 requests" in text
    assert "1,234,567" in text
    assert re.search(r"hours +\d", text)
    hostile = Estimate(
        model="x:<script>", rows=1, inputs=1, known=0, requests=1, input_tokens=1, cached_tokens=0, output_tokens=1,
        cost=0.1, seconds=100.0,
    )  # fmt: skip
    assert "<script>" not in hostile._repr_html_()
    assert "minutes" in repr(hostile)


def test_nothing_to_send(bench: Bench):
    estimate = estimate_of(bench.app, bench.target, [], 0, rows=10, inputs=8, known=8)
    assert (estimate.cost, estimate.seconds, estimate.tokens) == (0.0, 0.0, 0)
    assert estimate.per_request == {}
    assert "answered already" in repr(estimate)
    with pytest.raises(ValueError, match="sample"):
        estimate_of(bench.app, bench.target, [], 5)


@pytest.mark.parametrize("total", [0, 1, 199, 200, 201, 399, 400, 12_345, 300_000])
def test_a_sample_is_evenly_spread(total: int):
    sample: Sample[int] = Sample()
    for number in range(total):
        sample.add(number)
    items = sample.items
    assert sample.count == total
    assert len(items) == min(total, MOST)
    if total <= MOST:
        assert items == list(range(total))
        return
    gaps = [later - earlier for earlier, later in itertools.pairwise(items)]
    assert min(gaps) > 0
    assert max(gaps) <= 2.6 * total / MOST
    assert items[0] < 0.02 * total
    assert items[-1] > 0.98 * total


def test_the_same_frame_has_the_same_estimate(bench: Bench):
    many = [document(seed) for seed in range(600)]
    assert bench.estimate(many) == bench.estimate(many)
