"""Replay without a key and without the local model: what is recorded is answered, what is not is missed by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import ipyconvexai as ai
from ipyconvexai.errors import BudgetError, MissingKeyError, ReplayMissError
from ipyconvexai.providers import local
from ipyconvexai.providers.corridor import CALLER
from ipyconvexai.testing import Answer, Endpoint, Fault
from ipyconvexai.values import Purse

KEY = "sk-test-0123456789abcdef"
MODEL = "openai:gpt-4o-mini"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    with Endpoint(key=KEY) as double:
        monkeypatch.setenv("OPENAI_BASE_URL", double.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield double


@pytest.mark.parametrize("policy", ["reuse", "only"])
def test_a_recorded_answer_needs_no_key_and_no_network(
    endpoint: Endpoint, policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "l.duckdb"
    with ai.connect(path, model=MODEL):
        first = ai.generate("Hello")
        streamed = "".join(ai.stream("Hello"))
    endpoint.close()
    monkeypatch.delenv("OPENAI_API_KEY")
    with ai.connect(path, model=MODEL, replay=policy):
        again = ai.generate("Hello")
        assert (again.text, again.replayed, again.cost) == (first.text, True, 0.0)
        assert "".join(ai.stream("Hello")) == streamed
        missed = ReplayMissError if policy == "only" else MissingKeyError
        with pytest.raises(missed) as caught:
            ai.generate("Something new\nand more")
        assert ("Something new" in str(caught.value)) == (policy == "only")
        with pytest.raises(missed):
            "".join(ai.stream("Something new"))


def test_a_key_that_comes_later_is_used(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with ai.connect(":memory:", model=MODEL, replay="reuse"):
        with pytest.raises(MissingKeyError):
            ai.generate("Hello")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        assert not ai.generate("Hello").replayed
        assert ai.generate("Hello").replayed


def test_the_policy_may_change(endpoint: Endpoint):
    with ai.connect(":memory:", model=MODEL) as app:
        ai.generate("Hello")
        app.set_replay("reuse")
        assert ai.generate("Hello").replayed
        app.set_replay("only")
        with pytest.raises(ReplayMissError):
            ai.generate("New")
        app.set_replay("off")
        assert not ai.generate("Hello").replayed
        with pytest.raises(ai.errors.InputError):
            app.set_replay("sometimes")
        assert endpoint.count == 2


def test_the_local_model_is_not_started_for_a_replay_or_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def started(*args: object) -> None:
        raise AssertionError("the local model was started")

    monkeypatch.setattr(local.LocalServer, "start", started)
    with ai.connect(tmp_path / "l.duckdb", model="local", replay="only") as app:
        with pytest.raises(ReplayMissError, match="Hello"):
            ai.generate("Hello")
        plan = app.plan("Hello")
        assert plan.endpoint.model == "smollm2-135m-instruct" or plan.endpoint.provider == "local"
        assert plan.cost == 0.0
    assert local.described()[1] == f"{local.BUNDLED_FILE}:{local.BUNDLED_SIZE}", "as the installed file's"


def test_a_plan_says_what_would_be_sent_and_sends_nothing(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch):
    with ai.connect(":memory:", model=MODEL) as app:
        app.plan("Hello", conversation="new one")
        plan = app.plan("Hello", system="Be brief.", max_tokens=100, temperature=0.5)
        assert plan.body == {
            "model": "gpt-4o-mini",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
            "max_tokens": 100,
            "temperature": 0.5,
        }
        assert plan.usage.output_tokens == 100
        assert plan.usage.input_tokens
        assert plan.cost == pytest.approx((plan.usage.input_tokens * 0.15 + 100 * 0.60) / 1e6)
        assert not app.store.read("SELECT 1 FROM requests UNION ALL SELECT 1 FROM conversations")
        monkeypatch.delenv("OPENAI_API_KEY")
        assert app.plan("Hello").endpoint.unready
    assert endpoint.count == 0


class Budgeted:
    """Calls that share a purse."""

    def __init__(self, usd: float) -> None:
        self.purse = Purse(usd)

    def ask(self, prompt: str, **params: object) -> ai.Reply:
        import dataclasses

        token = CALLER.set(dataclasses.replace(CALLER.get(), purse=self.purse))
        try:
            return ai.generate(prompt, **params)  # type: ignore[arg-type] # parameters of a provider's
        finally:
            CALLER.reset(token)


def test_a_purse_is_not_overdrawn(endpoint: Endpoint):
    endpoint.reply(Answer("done", usage=(10, 1000)))
    with ai.connect(":memory:", model=MODEL, retries=0) as app:
        calls = Budgeted(0.0013)  # two calls of 0.0006015
        assert calls.ask("1", max_tokens=1000).cost == pytest.approx(0.0006015)
        calls.ask("2", max_tokens=1000)
        with pytest.raises(BudgetError) as caught:
            calls.ask("3", max_tokens=1000)
        assert "Nothing was sent" in caught.value.cure
        assert endpoint.count == 2
        assert app.store.read("SELECT status, count(*) FROM calls GROUP BY ALL ORDER BY ALL") == [
            ("ok", 2),
            ("refused", 1),
        ]


def test_a_failed_call_gives_its_part_back_and_a_replay_takes_none(endpoint: Endpoint):
    endpoint.reply([Fault(500), Answer("done", usage=(10, 1000))])
    with ai.connect(":memory:", model=MODEL, retries=0, replay="reuse"):
        calls = Budgeted(0.0007)
        with pytest.raises(ai.errors.ProviderError):
            calls.ask("1", max_tokens=1000)
        calls.ask("1", max_tokens=1000)
        assert calls.ask("1", max_tokens=1000).replayed
        assert 0 < calls.purse.left < 0.0002


def test_a_model_without_a_price_is_no_way_around_a_purse(endpoint: Endpoint):
    with ai.connect(":memory:", model="openai:no-such-model-anywhere"), pytest.raises(BudgetError) as caught:
        Budgeted(1.0).ask("Hello")
    assert caught.value.code == "price_unknown"
    assert endpoint.count == 0
