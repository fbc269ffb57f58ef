"""Money: our figures against the library's own calculation, for every price it has for our providers."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import genai_prices
import pytest
from genai_prices import data_snapshot
from genai_prices.types import ModelInfo, StartDateConstraint, TieredPrices

from ipyconvexai.providers import prices
from ipyconvexai.providers.prices import context_window, cost_usd
from ipyconvexai.values import Usage

PRICED = ("openai", "azure", "google", "anthropic", "groq", "mistral", "openrouter", "perplexity")
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def theirs(provider: str, model: str, usage: Usage, at: datetime = NOW) -> float:
    """What the library says for the same tokens."""
    tokens = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
    )
    price = genai_prices.calc_price(tokens, model, provider_id=provider, genai_request_timestamp=at)
    return float(price.total_price)


def models(provider: str) -> list[ModelInfo]:
    """The provider's models that are billed by tokens, in and out."""
    snapshot = data_snapshot.get_snapshot()
    found = next(each for each in snapshot.providers if each.id == provider)
    # A few entries of the library are not found by their own id, or another is.
    by_id = [each for each in found.models if found.find_model(each.id, all_providers=snapshot.providers) is each]
    return [each for each in by_id if {"input_mtok", "output_mtok"} <= vars(each.get_prices(NOW)).keys()]


@pytest.mark.parametrize("provider", PRICED)
@pytest.mark.parametrize(
    "usage",
    [
        Usage(1000, 50),
        Usage(1000, 50, cached_tokens=400),
        Usage(1000, 500, cached_tokens=1000, reasoning_tokens=450),
        Usage(300_001, 10, cached_tokens=7),  # above every threshold but those at a million
        Usage(100_000, 10),  # thresholds are met by more than they say
        Usage(100_001, 10),
        Usage(0, 0),
    ],
    ids=str,
)
def test_every_price_of_every_provider_is_the_librarys(provider, usage):
    known = models(provider)
    assert len(known) > 4
    for model in known:
        assert cost_usd(provider, model.id, usage, at=NOW) == theirs(provider, model.id, usage), model.id


def test_the_data_has_what_these_tests_are_about():
    every = [vars(model.get_prices(NOW)) for provider in PRICED for model in models(provider)]
    for key in ("cache_read_mtok", "output_reasoning_mtok", "requests_kcount"):
        assert any(key in price for price in every), key
    assert any(isinstance(value, TieredPrices) for price in every for value in price.values())


def test_cached_tokens_are_counted_at_their_own_price():
    price = vars(data_snapshot.get_snapshot().find_provider_model("gpt-4o-mini", None, "openai", None)[1].prices)
    expected = (price["input_mtok"] * 600 + price["cache_read_mtok"] * 400 + price["output_mtok"] * 50) / Decimal(10**6)
    assert price["cache_read_mtok"] < price["input_mtok"]
    assert cost_usd("openai", "gpt-4o-mini", Usage(1000, 50, cached_tokens=400)) == float(expected)


@pytest.mark.parametrize(
    ("provider", "reported", "same_as"),
    [
        ("openai", "gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("openai", "GPT-4o-mini", "gpt-4o-mini"),
        ("azure", "gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("anthropic", "claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("google", "models/gemini-3.5-flash-lite", "gemini-3.5-flash-lite"),
    ],
)
def test_names_as_providers_report_them(provider, reported, same_as):
    usage = Usage(1000, 50)
    cost = cost_usd(provider, reported, usage, at=NOW)
    assert cost
    assert cost == theirs(provider, same_as, usage)


def test_chef_costs_what_openai_costs():
    usage = Usage(1000, 50, cached_tokens=10)
    assert cost_usd("chef", "gpt-4o-mini", usage, at=NOW) == theirs("openai", "gpt-4o-mini", usage)


@pytest.mark.parametrize("provider", ["local", "ollama", "vllm", "llamacpp"])
def test_ones_own_hardware_is_free(provider):
    assert cost_usd(provider, "anything", Usage(1000, 50)) == 0.0
    assert cost_usd(provider, "anything", Usage()) == 0.0


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "nonsense"),
        ("openai", ""),
        ("custom", "gpt-4o-mini"),
        ("my-openai-proxy", "gpt-4o-mini"),
        ("nowhere", "gpt-4o-mini"),
        ("", ""),
        ("openai", "whisper-1"),  # billed by the hour
        ("openai", "text-embedding-3-small"),  # has no price for the 50 tokens that came out
    ],
)
def test_what_is_not_known_is_none_and_not_nothing(provider, model):
    assert cost_usd(provider, model, Usage(1000, 50)) is None


def test_a_registered_provider_that_the_library_knows_is_priced():
    usage = Usage(1000, 50)
    assert cost_usd("deepseek", "deepseek-chat", usage, at=NOW) == theirs("deepseek", "deepseek-chat", usage)


def test_free_models_are_free():
    free = "meta-llama/llama-3.3-70b-instruct:free"
    assert cost_usd("openrouter", free, Usage(1000, 50)) == 0.0
    assert cost_usd("openrouter", "nonsense:free", Usage(1000, 50)) is None


def test_missing_counts():
    assert cost_usd("openai", "gpt-4o-mini", Usage()) is None
    assert cost_usd("openai", "gpt-4o-mini", Usage(1000)) == theirs("openai", "gpt-4o-mini", Usage(1000, 0))
    assert cost_usd("openai", "gpt-4o-mini", Usage(None, 50)) == theirs("openai", "gpt-4o-mini", Usage(0, 50))
    embedding = cost_usd("openai", "text-embedding-3-small", Usage(1000))
    assert embedding == theirs("openai", "text-embedding-3-small", Usage(1000))


def test_more_cached_than_read_counts_as_all_cached():
    odd = cost_usd("openai", "gpt-4o-mini", Usage(100, 0, cached_tokens=500))
    assert odd == cost_usd("openai", "gpt-4o-mini", Usage(100, 0, cached_tokens=100))


def _repriced() -> Iterator[tuple[ModelInfo, StartDateConstraint]]:
    """Models whose input costs something else since a date."""
    for model in models("openai"):
        if isinstance(model.prices, list) and isinstance(
            constraint := model.prices[-1].constraint, StartDateConstraint
        ):
            before, after = (vars(each.prices)["input_mtok"] for each in model.prices[-2:])
            if before != after:
                yield model, constraint


def test_a_price_that_changed_is_that_of_the_moment():
    model, constraint = next(_repriced())
    change = datetime.combine(constraint.start_date, datetime.min.time(), UTC)
    usage = Usage(1000, 50)
    for at in (change - timedelta(days=1), change + timedelta(days=1)):
        assert cost_usd("openai", model.id, usage, at=at) == theirs("openai", model.id, usage, at)
    before, after = (cost_usd("openai", model.id, usage, at=change + timedelta(days=days)) for days in (-1, 1))
    assert before != after


def test_prices_that_the_user_updated_are_used(monkeypatch):
    assert cost_usd("openai", "gpt-4o-mini", Usage(1000, 50))
    monkeypatch.setattr(data_snapshot, "_custom_snapshot", data_snapshot.DataSnapshot([], True))
    assert cost_usd("openai", "gpt-4o-mini", Usage(1000, 50)) is None
    monkeypatch.undo()
    assert cost_usd("openai", "gpt-4o-mini", Usage(1000, 50))


def test_nothing_goes_over_the_network_and_the_library_is_asked_once_per_name(monkeypatch):
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was used")

    asked = []
    look_up = prices._look_up

    def counted(snapshot: data_snapshot.DataSnapshot, provider: str, model: str) -> ModelInfo | None:
        asked.append((provider, model))
        return look_up(snapshot, provider, model)

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.setattr(prices, "_look_up", counted)
    monkeypatch.setattr(prices, "_models", {})
    for _ in range(3):
        assert cost_usd("openai", "gpt-4o-mini", Usage(1, 1))
        assert cost_usd("openai", "nonsense", Usage(1, 1)) is None
    assert asked == [("openai", "gpt-4o-mini"), ("openai", "nonsense")]


def test_what_is_remembered_does_not_grow_without_end(monkeypatch):
    monkeypatch.setattr(prices, "_LARGEST", 5)
    for number in range(20):
        cost_usd("openai", f"nonsense-{number}", Usage(1, 1))
    assert len(prices._models) <= 5


def test_the_context_of_a_model_is_known_or_none():
    assert context_window("openai", "gpt-4o-mini") == 128_000
    assert context_window("openai", "no-such-model-ever") is None
    assert context_window("custom", "gpt-4o-mini") is None
    assert context_window("ollama", "llama3.2") is None
