"""A budget stops spending: many ask for the last of it at once, and no call is sent past it.

What is spent is counted at the provider, by the prices of its model; the answers are as long as is allowed. How long
one may become that names no `max_tokens` is estimated.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai.errors import BudgetError
from ipyconvexai.testing import Answer, Endpoint
from tests.promises.children import Child, Say
from tests.promises.promising import Figure, Tries

PROMISE = (
    "a budget stops spending: of all calls that race for the last of it, none is sent past it where each names"
    " `max_tokens`; else it is passed by no more than the estimates of calls under way were too low"
)
TRIES = Tries(2, 80, "races of 64 threads")

THREADS, PROCESSES = 64, 4
READ, WRITTEN = 10, 1000  # tokens of each call, as the provider counts them; so many may be written
PRICE = (READ * 0.15 + WRITTEN * 0.60) / 1e6  # US dollars
BUDGET, CALLS = 0.006, 9  # there is money for 9.98 calls


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    with Endpoint(Answer("done", usage=(READ, WRITTEN), delay=0.01)) as double:
        monkeypatch.setenv("OPENAI_BASE_URL", double.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
        yield double


def ask(client: Any, **options: Any) -> str:
    """What came of one call: "ok", or why it was refused."""
    messages = [{"role": "user", "content": "Hello world"}]
    try:
        client.chat.completions.create(model="gpt-4o-mini", messages=messages, **options or {"max_tokens": WRITTEN})
    except BudgetError as error:
        return error.message if error.retry_after else f"{error.message}, for ever"
    return "ok"


def at_once(count: int, client: Any, **options: Any) -> list[str]:
    """What came of a call in each of so many threads, which all begin together."""
    begin = threading.Barrier(count)
    outcomes: list[str] = []

    def run() -> None:
        begin.wait()
        outcomes.append(ask(client, **options))

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def race(say: Say, ledger: str, go: str) -> None:
    """One process of a crowd."""
    with ai.connect(ledger):
        client: Any = ai.OpenAI(max_retries=0)
        client.models.list()  # all is imported, and connected
        say("ready")
        while not Path(go).exists():
            time.sleep(0.001)
        say(at_once(THREADS // PROCESSES, client))


def race_of_processes(ledger: Path) -> list[str]:
    go = ledger.with_suffix(".go")
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(Child(race, str(ledger), str(go))) for _ in range(PROCESSES)]
        assert {child.hear() for child in crowd} == {"ready"}
        go.touch()
        return [outcome for child in crowd for outcome in child.hear()]


@TRIES.both
def test_threads_race_for_the_last_of_a_budget(tries: int, tmp_path: Path, endpoint: Endpoint, figure: Figure):
    """In one process and across four; for all of it, and for the last call of it."""
    past, sent = 0, 0
    rng = random.Random(seed := random.randrange(10**9))
    print(f"seed {seed}")
    for number in range(tries):
        endpoint.clear()
        spent = rng.choice([0, CALLS - 1, CALLS - 1, rng.randrange(CALLS)])
        ledger = tmp_path / f"{number}.duckdb"
        with ai.connect(ledger) as app:
            app.budget("purse", usd=BUDGET, per=86400)
            client: Any = ai.OpenAI(max_retries=0)
            assert [ask(client) for _ in range(spent)] == ["ok"] * spent
            outcomes = race_of_processes(ledger) if number % 2 else at_once(THREADS, client)
            billed = [call for call in endpoint.calls if call.kind == "chat"]
            recorded = app.ledger.sql("SELECT coalesce(sum(cost_usd), 0) FROM calls").fetchall()[0][0]
        assert len(outcomes) == THREADS
        assert recorded == pytest.approx(len(billed) * PRICE), "what is billed is what the ledger has"
        assert outcomes.count("ok") == len(billed) - spent
        assert set(outcomes) <= {"ok", "budget purse ($0.006 per day) is spent"}
        past += max(0, len(billed) - CALLS)
        sent += len(billed)
        assert len(billed) == CALLS, f"after {spent} calls (seed {seed}, race {number})"
    figure(f"{past} calls past it; of {CALLS} that it pays, {sent / tries:g} were sent", f"{tries} races of {THREADS}")


def test_tokens_are_spent_as_money_is(endpoint: Endpoint, tmp_path: Path):
    with ai.connect(":memory:") as app:
        app.budget(tokens=CALLS * (READ + WRITTEN) + 500, per=86400)
        outcomes = at_once(THREADS, ai.OpenAI(max_retries=0))
    assert outcomes.count("ok") == endpoint.count == CALLS


def test_calls_of_unknown_length_pass_it_by_what_was_estimated_too_low(endpoint: Endpoint, figure: Figure):
    with ai.connect(":memory:") as app:
        app.budget("purse", usd=BUDGET, per=86400)
        client: Any = ai.OpenAI(max_retries=0)
        sent = at_once(THREADS, client, temperature=0.5).count("ok")
        late = at_once(THREADS, client, temperature=0.5)
        sql = (
            "SELECT sum(cost_usd), sum(cost_usd - reserved_usd) FROM requests r JOIN responses s ON s.request_id = r.id"
        )
        ((spent, too_low),) = app.store.read(sql + " WHERE s.status = 'ok'")
    assert sent == endpoint.count, "what is spent already lets nobody in"
    assert set(late) == {"budget purse ($0.006 per day) is spent"}
    assert spent == pytest.approx(sent * PRICE)
    assert spent - BUDGET <= too_low + 1e-9
    figure(
        f"without `max_tokens`: {sent} sent where {CALLS} are paid, ${spent:.4f} of ${BUDGET}", "1 race of 64 threads"
    )
