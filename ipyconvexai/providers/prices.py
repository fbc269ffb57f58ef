"""What a call cost, tokens times the prices of genai-prices; and how much a model reads, which it knows as well.

Calls the standard library, ``values`` and genai-prices, which is loaded at the first question. Promises: nothing goes
over the network (the prices are those in the installed wheel, unless the user has started the library's own updates);
a price that is not known is None and never 0; it never raises.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from ipyconvexai.values import Usage

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, TieredPrices

__all__ = ["context_window", "cost_usd"]

FREE = frozenset({"local", "ollama", "vllm", "llamacpp"})  # they run on hardware of one's own

# The names under which genai-prices knows our providers, where they differ.
_THEIR_NAMES = {"chef": "openai"}
_MILLION = 1_000_000
_THOUSAND = 1_000

_models: dict[tuple[str, str], ModelInfo | None] = {}
_snapshot: DataSnapshot | None = None  # whose models those are
_LARGEST = 1000  # names that are remembered; a provider reports few


def cost_usd(provider: str, model: str, usage: Usage, *, at: datetime | None = None) -> float | None:
    """US dollars for one call, or None where the price or the number of tokens is not known.

    Cached input tokens cost what the provider asks for cached ones. Not included: searches and other tools that
    providers bill by the piece, and surcharges for writing to a cache.

    Args:
        provider: a name of the catalogue, or one of genai-prices for providers that users registered.
        model: the model's name as the provider reported it, or as it was asked for.
        usage: the tokens; a count that is None counts as 0, unless both input and output are None.
        at: the aware moment of the call, since prices change; None: now.
    """
    if provider in FREE:
        return 0.0
    if usage.input_tokens is None and usage.output_tokens is None:
        return None
    info = _find(provider, model)
    if info is None:
        return None
    cost = _cost(vars(info.get_prices(at or datetime.now(UTC))), usage)
    if cost is None and model.endswith(":free"):
        return 0.0
    return None if cost is None else float(cost)


def context_window(provider: str, model: str) -> int | None:
    """Tokens that a request to the model may hold, prompt and answer together; None: not known."""
    info = None if provider in FREE else _find(provider, model)
    return None if info is None else info.context_window


def _find(provider: str, model: str) -> ModelInfo | None:
    global _snapshot
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    if snapshot is not _snapshot:  # the first question, or the user has updated the library's prices
        _models.clear()
        _snapshot = snapshot
    asked = (provider, model)
    if asked not in _models:
        if len(_models) >= _LARGEST:
            _models.clear()
        _models[asked] = _look_up(snapshot, provider, model)
    return _models[asked]


def _look_up(snapshot: DataSnapshot, provider: str, model: str) -> ModelInfo | None:
    name = _THEIR_NAMES.get(provider, provider)
    # By id: the library also takes every name that contains a provider's, but "my-openai-proxy" has its own prices.
    theirs = next((each for each in snapshot.providers if each.id == name), None)
    if theirs is None:
        return None
    return theirs.find_model(model.removeprefix("models/"), all_providers=snapshot.providers)


def _cost(prices: dict[str, Decimal | TieredPrices | None], usage: Usage) -> Decimal | None:
    """None if tokens were used that have no price: the model is billed by something else, such as seconds."""
    read, written = usage.input_tokens or 0, usage.output_tokens or 0
    cached = min(usage.cached_tokens or 0, read)
    thought = min(usage.reasoning_tokens or 0, written)
    fresh_price = _at(prices.get("input_mtok"), read)
    cached_price = _at(prices.get("cache_read_mtok"), read)
    answer_price = _at(prices.get("output_mtok"), read)
    thought_price = _at(prices.get("output_reasoning_mtok"), read)
    if fresh_price is None or (written and answer_price is None):
        return None
    tokens = (
        fresh_price * (read - cached)
        + (fresh_price if cached_price is None else cached_price) * cached
        + (answer_price or 0) * (written - thought)
        + ((answer_price or 0) if thought_price is None else thought_price) * thought
    )
    return tokens / _MILLION + (_at(prices.get("requests_kcount"), read) or 0) / Decimal(_THOUSAND)


def _at(price: Decimal | TieredPrices | None, read: int) -> Decimal | None:
    """The price per million where `read` tokens went in: above a threshold all of them cost more."""
    if price is None or isinstance(price, Decimal):
        return price
    return next((tier.price for tier in reversed(price.tiers) if read > tier.start), price.base)
