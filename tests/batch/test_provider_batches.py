"""The provider's Batch API: the same rows at half the price, through restarts, kills and whatever a provider does."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai.batch.asks import Ask, Recipe
from ipyconvexai.batch.control import Control
from ipyconvexai.batch.provider_batches import ProviderBatches, Standing, Submission, provider_batches, tend
from ipyconvexai.errors import AuthenticationError, BudgetError, ConfigurationError, InputError, ProviderError
from ipyconvexai.providers.prices import cost_usd
from ipyconvexai.testing import Answer, Drop, Endpoint, Fault
from ipyconvexai.values import Caller, Purse, Usage

MODEL = "openai:gpt-4o-mini"
NAME = "gpt-4o-mini"


async def no_sleep(seconds: float) -> None:
    await asyncio.sleep(0)


def asks_of(app: ai.App, texts: Sequence[str], **params: Any) -> list[Ask]:
    endpoint = app.run(app.generator.endpoint(MODEL))
    recipe = Recipe(endpoint, before="Say: ", params=params)
    return [recipe.ask(text) for text in texts]


def submit(app: ai.App, asks: Sequence[Ask], service: ProviderBatches | None = None, **caller: Any) -> Submission:
    service = service or provider_batches(app)
    endpoint = asks[0].recipe.endpoint
    return app.run(service.submit(endpoint, asks, Caller(**caller), ai_id(), sleep=no_sleep))


def ai_id() -> str:
    from ipyconvexai.ids import new_id

    return new_id()


def wait(app: ai.App, ids: Sequence[str], **options: Any) -> list[Standing]:
    return app.run(provider_batches(app).wait(ids, sleep=no_sleep, **options))


def statuses(app: ai.App) -> dict[str, int]:
    """Of the requests to the model."""
    rows = app.ledger.sql(
        "SELECT status, count(*) FROM calls WHERE endpoint = 'chat/completions' GROUP BY 1"
    ).fetchall()
    return dict(rows)


def state_of(app: ai.App, key: str) -> str:
    return str(app.store.read("SELECT state FROM provider_batches WHERE id = ?", [key])[0][0])


def test_the_whole_way(app: ai.App, endpoint: Endpoint):
    asks = asks_of(app, [f"text {n}" for n in range(600)])
    seen: list[Standing] = []
    made = submit(app, asks)
    assert (len(made.ids), made.refused) == (1, {})
    assert statuses(app) == {"sending": 600}
    (standing,) = wait(app, made.ids, on_progress=seen.append)

    assert standing.is_over
    assert (standing.state, standing.provider_state, standing.completed) == ("collected", "completed", 600)
    assert [each.provider_state for each in seen] == ["in_progress", "completed"]
    assert endpoint.batches.uploads == 1
    assert statuses(app) == {"ok": 600}
    dones = app.run(provider_batches(app).dones(made.ids))
    assert [dones[ask.key].text for ask in asks] == [f"echo: Say: text {n}" for n in range(600)]
    assert app.records.answers([ask.key for ask in asks]).keys() == {ask.key for ask in asks}
    assert app.store.limits() == []


def test_its_rows_are_those_of_any_call_and_cost_half(app: ai.App, endpoint: Endpoint):
    endpoint.reply(Answer("fine", usage=(1000, 500, 200)))
    (ask,) = asks_of(app, ["one"], temperature=0)
    wait(app, submit(app, [ask]).ids)
    alone = app.generate("one", temperature=0)
    batched, single = (
        app.ledger.sql("SELECT * FROM calls WHERE endpoint = 'chat/completions' ORDER BY id").df().to_dict("records")
    )

    full = cost_usd("openai", NAME, Usage(1000, 500, 200))
    assert full is not None
    assert batched["cost_usd"] == pytest.approx(full / 2)
    assert single["cost_usd"] == alone.cost == pytest.approx(full)
    for name in ("provider", "model", "endpoint", "status", "http_status", "text", "finish_reason", "input_tokens",
                 "cached_tokens", "output_tokens", "attempt", "user_id"):  # fmt: skip
        assert batched[name] == single[name], name
    assert batched["source"] == "batch"
    assert batched["provider_request_id"] == "req_b0"
    assert app.records.store.read("SELECT DISTINCT base_url FROM requests") == [(endpoint.url,)]
    assert app.ledger.usage().df()["cost_usd"].sum() == pytest.approx(full * 1.5)


def test_its_answer_is_replayed_for_the_same_question(app: ai.App, endpoint: Endpoint):
    (ask,) = asks_of(app, ["one"])
    wait(app, submit(app, [ask]).ids)
    reply = app.generate("Say: one", replay="only")
    assert reply.replayed
    assert reply.text == "echo: Say: one"


def test_files_and_batches_are_recorded_without_content_and_cost_nothing(app: ai.App, endpoint: Endpoint):
    app.limit("few", requests=1, per="minute")
    app.budget("day", usd=1, per="day")
    wait(app, submit(app, asks_of(app, ["one", "two"])).ids)
    sql = """SELECT endpoint, status, request, cost_usd, batch_id IS NOT NULL FROM calls
             WHERE endpoint <> 'chat/completions' ORDER BY id"""
    assert app.ledger.sql(sql).fetchall() == [
        ("files", "ok", None, None, True),
        ("batches", "ok", None, None, True),
    ]
    used = {row[0]: row[3] for row in app.store.limits()}
    assert used["few"] == "0 requests", "the Batch API has allowances of its own"
    spent = app.ledger.sql("SELECT sum(cost_usd) FROM calls").fetchall()[0][0]
    assert used["day"] == f"${spent:.9f}".rstrip("0")


def test_more_than_one_batch_takes_are_several(app: ai.App, endpoint: Endpoint):
    service = ProviderBatches(app, most_requests=3)
    made = submit(app, asks_of(app, [f"text {n}" for n in range(7)]), service)
    assert [batch.file.content.count(b"\n") for batch in endpoint.batches.all] == [3, 3, 1]
    assert [standing.requests for standing in wait(app, made.ids)] == [3, 3, 1]
    assert statuses(app) == {"ok": 7}
    line = len(endpoint.batches.files[0].content) // 3
    service = ProviderBatches(app, most_bytes=2 * line + 10)
    made = submit(app, asks_of(app, [f"more {n}" for n in range(4)]), service)
    assert len(made.ids) == 2


def test_errors_of_lines_are_errors_of_their_requests_alone(app: ai.App, endpoint: Endpoint):
    def answer(call: Any) -> Any:
        if "bad" in call.prompt:
            return Fault(400, message="This one is wrong.", code="bad_one")
        if "busy" in call.prompt:
            return Fault(429, message="Too many.")
        return Drop() if "lost" in call.prompt else "fine"

    endpoint.reply(answer)
    asks = asks_of(app, ["good", "bad", "busy", "lost", "good, too"])
    made = submit(app, asks)
    (standing,) = wait(app, made.ids)
    assert (standing.completed, standing.failed) == (2, 3)
    good, bad, busy, lost, other = (app.run(provider_batches(app).dones(made.ids))[ask.key] for ask in asks)
    assert (good.text, other.text, good.error) == ("fine", "fine", None)
    assert bad.error is not None
    assert (bad.error.code, bad.error.retryable) == ("bad_one", False)
    assert "400: This one is wrong." in bad.error.message
    assert bad.error.request_id == bad.request_id
    assert busy.error is not None
    assert busy.error.retryable
    assert lost.error is not None
    assert lost.error.code == "server_error"
    rows = app.ledger.sql(
        "SELECT status, http_status, error_code FROM calls WHERE status = 'error' ORDER BY id"
    ).fetchall()
    assert rows[0] == ("error", 400, "bad_one")
    assert [row[1] for row in rows] == [400, 429, None]


def test_an_answer_cut_at_the_limit_is_kept_and_says_so(app: ai.App, endpoint: Endpoint):
    endpoint.reply(Answer("half an", finish_reason="length"))
    asks = asks_of(app, ["one"])
    made = submit(app, asks)
    wait(app, made.ids)
    done = app.run(provider_batches(app).dones(made.ids))[asks[0].key]
    assert done.text == "half an"
    assert done.error is not None
    assert done.error.code == "truncated"


@pytest.mark.parametrize("said", [True, False])
def test_what_expired_is_not_billed_and_may_be_sent_again(app: ai.App, endpoint: Endpoint, said: bool):
    endpoint.batches.polls = None
    asks = asks_of(app, ["one", "two", "three"])
    made = submit(app, asks)
    endpoint.batches.expire(endpoint.batches.all[0], answered=1)
    if not said:  # no line says so: the state of the batch does
        endpoint.batches.all[0].errors = None
    (standing,) = wait(app, made.ids)
    assert (standing.state, standing.provider_state) == ("collected", "expired")
    assert statuses(app) == {"ok": 1, "error": 2}
    done = app.run(provider_batches(app).dones(made.ids))[asks[2].key]
    assert done.error is not None
    assert (done.error.code, done.error.retryable, done.cost) == ("batch_expired", True, 0.0)
    endpoint.batches.polls = 1
    assert app.run(provider_batches(app).open_for([ask.key for ask in asks])) == {}
    wait(app, submit(app, asks[1:]).ids)
    assert statuses(app) == {"ok": 3, "error": 2}


def test_a_request_that_the_provider_forgot_is_an_error(app: ai.App, endpoint: Endpoint):
    endpoint.batches.polls = None
    asks = asks_of(app, ["one", "two"])
    made = submit(app, asks)
    endpoint.batches.finish(endpoint.batches.all[0], answered=1)
    wait(app, made.ids)
    done = app.run(provider_batches(app).dones(made.ids))[asks[1].key]
    assert done.error is not None
    assert (done.error.code, done.cost) == ("no_answer", None)


def test_a_batch_that_is_refused_as_a_whole_gives_every_row_the_reason(app: ai.App, endpoint: Endpoint):
    endpoint.batches.polls = None
    asks = asks_of(app, ["one", "two"])
    made = submit(app, asks)
    endpoint.batches.fail(endpoint.batches.all[0], "Enqueued token limit reached.", "token_limit_exceeded", None)
    (standing,) = wait(app, made.ids)
    assert standing.message == "Enqueued token limit reached."
    dones = app.run(provider_batches(app).dones(made.ids))
    for ask in asks:
        error = dones[ask.key].error
        assert error is not None
        assert "Enqueued token limit reached." in error.message
        assert error.retryable
    assert app.ledger.sql("SELECT sum(cost_usd) FROM calls").fetchall() == [(0.0,)]


def test_lines_of_strangers_and_broken_lines_change_nothing(app: ai.App, endpoint: Endpoint):
    endpoint.batches.polls = None
    answered = app.generate("another call").request_id
    made = submit(app, asks_of(app, ["one"]))
    submit(app, asks_of(app, ["of another batch"]))
    first, second = endpoint.batches.all
    endpoint.batches.finish(first)
    assert first.output is not None
    mine = first.output.content
    ours, theirs = (batch.file.content.split(b'"')[3] for batch in (first, second))
    assert answered is not None
    strange = b"".join(mine.replace(ours, key).replace(b"echo", b"evil") for key in (answered.encode(), theirs))
    first.output.content = b"{broken\n[]\n\n" + strange + b'{"custom_id": 7}\n' + mine.rstrip(b"\n")
    wait(app, made.ids)
    assert statuses(app) == {"ok": 2, "sending": 1}
    texts = app.ledger.sql("SELECT text FROM calls WHERE text IS NOT NULL ORDER BY text").fetchall()
    assert texts == [("echo: Say: one",), ("echo: another call",)]


@pytest.mark.parametrize("path", ["/files", "/batches"])
def test_an_endpoint_without_a_batch_api_is_named(app: ai.App, path: str, monkeypatch: pytest.MonkeyPatch):
    with Endpoint(batch_api=path != "/files") as poor:
        if path == "/batches":
            monkeypatch.setattr(poor.batches, "_create", lambda call: (405, b"{}"))
        monkeypatch.setenv("OPENAI_BASE_URL", poor.url)
        with pytest.raises(ConfigurationError, match="no Batch API") as caught:
            submit(app, asks_of(app, ["one", "two"]))
        assert "engine" in caught.value.cure
    assert statuses(app) == {"canceled": 2}
    rows = app.ledger.sql("SELECT error_code, cost_usd FROM calls WHERE endpoint = 'chat/completions'").fetchall()
    assert rows == [("not_sent", 0.0)] * 2
    assert app.run(provider_batches(app).open_ids()) == []


def test_a_wrong_key_is_the_usual_error(app: ai.App, monkeypatch: pytest.MonkeyPatch):
    with Endpoint(key="sk-right") as strict:
        monkeypatch.setenv("OPENAI_BASE_URL", strict.url)
        with pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
            submit(app, asks_of(app, ["one"]))
    assert statuses(app) == {"canceled": 1}


# ---------------------------------------------------------------------------------------------- money
def test_the_purse_is_not_opened_further_than_it_holds(app: ai.App, endpoint: Endpoint):
    asks = asks_of(app, [f"text {n}" for n in range(20)], max_tokens=100)
    _, price = app.run(app.wiring.corridor.estimate(asks[0].recipe.endpoint, "chat/completions", asks[0].body()))
    assert price is not None
    purse = Purse(price / 2 * 10.5)
    made = submit(app, asks, purse=purse)
    assert statuses(app) == {"sending": 10}
    assert set(made.refused) == {ask.key for ask in asks[10:]}
    error = made.refused[asks[10].key]
    assert isinstance(error, BudgetError)
    assert "budget" in error.cure
    assert purse.left == pytest.approx(price / 2 * 0.5)
    wait(app, made.ids)
    spent = app.ledger.sql("SELECT sum(cost_usd) FROM calls").fetchall()[0][0]
    assert purse.left == pytest.approx(purse.usd - spent), "what it did cost in place of the estimate"


def test_a_purse_and_a_price_that_is_not_known(app: ai.App, endpoint: Endpoint):
    recipe = Recipe(app.run(app.generator.endpoint("openai:model-of-tomorrow")))
    asks = [recipe.ask("one"), recipe.ask("two")]
    made = submit(app, asks, purse=Purse(1.0))
    assert made.ids == []
    assert {error.code for error in made.refused.values()} == {"price_unknown"}
    assert endpoint.count == 0


def tokens_of(app: ai.App, ask: Ask) -> int:
    """What one request is estimated to take."""
    usage, _ = app.run(app.wiring.corridor.estimate(ask.recipe.endpoint, "chat/completions", ask.body()))
    return usage.total_tokens


def test_a_budget_admits_what_fits_and_counts_what_is_under_way(app: ai.App, endpoint: Endpoint):
    asks = asks_of(app, [f"text {n:03}" for n in range(700)], max_tokens=100)
    app.budget("few", tokens=300 * tokens_of(app, asks[0]) + 5, per="day")
    purse = Purse(1.0)
    made = submit(app, asks, purse=purse)
    assert statuses(app) == {"sending": 300}
    assert set(made.refused) == {ask.key for ask in asks[300:]}
    assert all(isinstance(error, BudgetError) for error in made.refused.values())
    assert endpoint.batches.all[0].file.content.count(b"\n") == 300
    with pytest.raises(BudgetError):
        app.generate("one more", on_limit="raise")
    wait(app, made.ids)
    assert statuses(app) == {"ok": 300, "refused": 1}
    spent = app.ledger.sql("SELECT sum(cost_usd) FROM calls").fetchall()[0][0]
    assert purse.left == pytest.approx(purse.usd - spent)


def test_nothing_fits_and_nothing_is_begun(app: ai.App, endpoint: Endpoint):
    app.budget("one", tokens=200, per="day")
    made = submit(app, asks_of(app, ["one", "two"], max_tokens=150))
    wait(app, made.ids)
    again = submit(app, asks_of(app, ["three", "four"], max_tokens=150))
    assert (len(made.ids), len(made.refused)) == (1, 1)
    assert again.ids or len(again.refused) == 2
    assert app.run(provider_batches(app).open_ids()) == again.ids
    none = submit(app, asks_of(app, ["five"], max_tokens=199))
    assert none.ids == []
    assert "one" in next(iter(none.refused.values())).message


def test_one_that_is_too_large_for_a_budget_costs_the_others_nothing(app: ai.App, endpoint: Endpoint):
    app.budget("day", tokens=2000, per="day")
    asks = asks_of(app, ["one", "long " * 4000, "two", "three"], max_tokens=50)
    made = submit(app, asks)
    assert set(made.refused) == {asks[1].key}
    assert made.refused[asks[1].key].code == "never_fits"
    assert statuses(app) == {"sending": 3}


def test_a_budget_of_money_reserves_half_and_gives_the_rest_back(app: ai.App, endpoint: Endpoint):
    app.budget("cent", usd=0.01, per="day")
    asks = asks_of(app, [f"text {n}" for n in range(1000)], max_tokens=1000)
    made = submit(app, asks)
    sql = "SELECT sum(reserved_usd), count(*) FROM requests WHERE endpoint = 'chat/completions'"
    total, count = app.store.read(sql)[0]
    assert 0.0095 < total <= 0.01
    assert 30 < count == 1000 - len(made.refused)

    def used() -> float:
        return float(next(row for row in app.store.limits() if row[0] == "cent")[3].removeprefix("$"))

    assert used() == pytest.approx(total, abs=1e-6)
    wait(app, made.ids)
    spent = app.ledger.sql("SELECT sum(cost_usd) FROM calls").fetchall()[0][0]
    assert used() == pytest.approx(spent, abs=1e-6)
    assert spent < total / 2


def test_limits_of_a_minute_do_not_concern_it_even_when_they_are_read_anew(app: ai.App, endpoint: Endpoint):
    endpoint.batches.polls = None
    submit(app, asks_of(app, [f"text {n}" for n in range(50)]))
    app.limit("minute", requests=2, per="minute")
    app.limit("one", concurrency=1)
    app.budget("hour", tokens=1_000_000, per="hour")
    app.budget("batch", tokens=1_000_000, per="batch")
    reserved = app.store.read("SELECT sum(reserved_tokens) FROM requests")[0][0]
    used = {row[0]: row[3] for row in app.store.limits()}
    assert used == {"minute": "0 requests", "one": "0 requests"} | dict.fromkeys(
        ["hour", "batch"], f"{reserved:,} tokens"
    )
    app.generate("goes at once", on_limit="raise")


# ---------------------------------------------------------------------------------------------- restarts
def connect(tmp_path: Path) -> ai.App:
    return ai.connect(str(tmp_path / "ledger.duckdb"), model=MODEL)


def test_a_restart_in_the_middle_sends_nothing_twice(endpoint: Endpoint, tmp_path: Path):
    endpoint.batches.polls = None
    texts = [f"text {n}" for n in range(5)]
    with connect(tmp_path) as app:
        made = submit(app, asks_of(app, texts))
    endpoint.batches.finish(endpoint.batches.all[0])
    with connect(tmp_path) as app:
        keys = [ask.key for ask in asks_of(app, [*texts, "new"])]
        found = app.run(provider_batches(app).open_for(keys))
        assert found == dict.fromkeys(keys[:5], made.ids[0])
        assert app.run(provider_batches(app).open_ids()) == made.ids
        assert app.run(tend(app, made.ids[0])) is None
        assert statuses(app) == {"ok": 5}
        assert app.run(provider_batches(app).open_for(keys)) == {}
        assert app.run(tend(app, made.ids[0])) is None, "once more changes nothing"
    assert (endpoint.batches.uploads, len(endpoint.batches.all)) == (1, 1)


def test_tending_says_when_to_look_again(app: ai.App, endpoint: Endpoint):
    endpoint.batches.polls = None
    (key,) = submit(app, asks_of(app, ["one"])).ids
    assert app.run(tend(app, key)) == 5.0
    aged = "UPDATE provider_batches SET created_at = created_at - INTERVAL 4 MINUTE"
    with app.store.transaction() as execute:
        execute(aged)
    assert app.run(tend(app, key)) == pytest.approx(24, abs=1)
    with app.store.transaction() as execute:
        execute(aged.replace("4 MINUTE", "5 HOUR"))
    assert app.run(tend(app, key)) == 60.0
    with pytest.raises(InputError, match="no provider batch"):
        app.run(tend(app, ai_id()))


CHILD = """
import asyncio, os, signal, sys
import ipyconvexai as ai
from ipyconvexai.batch import provider_batches as module
from ipyconvexai.batch.asks import Recipe
from ipyconvexai.ids import new_id
from ipyconvexai.providers.batching import BatchApi
from ipyconvexai.values import Caller

where = sys.argv[1]
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def dies_after(owner, name):
    real = getattr(owner, name)
    async def wrapped(*args, **kwargs):
        await real(*args, **kwargs)
        die()
    setattr(owner, name, wrapped)

if where == "rows":
    dies_after(module.Writer, "admit")
elif where == "written":
    BatchApi.upload = die
elif where == "upload":
    BatchApi.create = die
elif where == "create":
    dies_after(BatchApi, "create")
app = ai.connect(model="openai:gpt-4o-mini")
recipe = Recipe(app.run(app.generator.endpoint(None)), before="Say: ")
asks = [recipe.ask(f"text {n}") for n in range(5)]
app.run(module.provider_batches(app).submit(recipe.endpoint, asks, Caller(), new_id()))
die()
"""


def killed(where: str) -> None:
    child = subprocess.run([sys.executable, "-c", CHILD, where], env=os.environ, capture_output=True, timeout=60)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def is_judged(app: ai.App) -> bool:
    """Whether the keeper has seen that the process is gone: its batch is nobody's."""
    return app.store.read("SELECT count(*) FROM provider_batches WHERE session_id IS NOT NULL") == [(0,)]


@pytest.mark.parametrize("where", ["written", "upload", "create", "end"])
def test_kill_9_on_the_way_is_gone_on_from(where: str, endpoint: Endpoint, tmp_path: Path):
    killed(where)
    with connect(tmp_path) as app:
        until(lambda: is_judged(app))
        keys = [ask.key for ask in asks_of(app, [f"text {n}" for n in range(5)])]
        found = app.run(provider_batches(app).open_for(keys))
        assert set(found) == set(keys)
        wait(app, sorted(set(found.values())))
        assert statuses(app) == {"ok": 5}
        assert app.run(provider_batches(app).open_ids()) == []
    assert len(endpoint.batches.all) == 1, "never begun twice"
    assert endpoint.batches.uploads == 1


@pytest.mark.parametrize("held", [1, 2])
def test_an_interrupt_on_the_way_leaves_it_to_whoever_comes_next(app: ai.App, endpoint: Endpoint, held: int):
    """While the file is uploaded, or while the batch is begun: the provider may have it, or not."""
    asks = asks_of(app, ["one", "two"])
    real = endpoint.batches._create

    def create(call: Any) -> tuple[int, Any]:
        endpoint.hold()  # the batch is made, and nobody hears of it
        return real(call)

    endpoint.batches._create = create  # type: ignore[method-assign]
    if held == 1:
        endpoint.hold()
    service = provider_batches(app)
    future = app.loop.submit(service.submit(asks[0].recipe.endpoint, asks, Caller(), ai_id(), no_sleep))
    endpoint.wait(lambda double: double.in_flight == 1 and double.count == held)
    future.cancel()
    until(lambda: is_judged(app))
    assert statuses(app) == {"sending": 2}
    endpoint.batches._create = real  # type: ignore[method-assign]
    endpoint.release()
    found = app.run(service.open_for([ask.key for ask in asks]))
    assert len(found) == 2
    wait(app, sorted(set(found.values())))
    assert statuses(app) == {"ok": 2}
    assert len(endpoint.batches.all) == 1


def test_kill_9_before_anything_was_sent_leaves_rows_that_say_so(endpoint: Endpoint, tmp_path: Path):
    killed("rows")
    with connect(tmp_path) as app:
        until(lambda: is_judged(app))
        asks = asks_of(app, [f"text {n}" for n in range(5)])
        assert statuses(app) == {"sending": 5}
        assert app.run(provider_batches(app).open_for([ask.key for ask in asks])) == {}
        assert statuses(app) == {"canceled": 5}
        assert endpoint.count == 0
        wait(app, submit(app, asks).ids)
        assert statuses(app) == {"canceled": 5, "ok": 5}


OTHER = """
import asyncio, os, signal
import ipyconvexai as ai
from ipyconvexai.ids import new_id
from ipyconvexai.store.ledger import Intent, utc_now

app = ai.connect()
asked = ("openai", "m", "chat/completions", "", False, new_id(), "{}", None, 2, None, "client", None, None, None, None)
asyncio.run(app.records.admit(Intent(new_id(), 1, None, utc_now(), *asked, app.store.session_id)))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_keeper_does_not_call_them_unknown(endpoint: Endpoint, tmp_path: Path):
    endpoint.batches.polls = None
    killed("end")
    subprocess.run([sys.executable, "-c", OTHER], env=os.environ, timeout=60)
    with connect(tmp_path) as app:
        until(lambda: statuses(app).get("unknown") == 1)  # the other process was judged, and with it everything
        assert statuses(app) == {"unknown": 1, "sending": 5}


def test_without_their_content_rows_cannot_be_sent_later(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("IPYCONVEXAI_RECORD", "metadata")
    killed("written")
    with connect(tmp_path) as app:
        until(lambda: is_judged(app))
        (key,) = app.run(provider_batches(app).open_ids())
        assert app.run(provider_batches(app).look(key)).state == "failed"
        assert statuses(app) == {"canceled": 5}
        killed("upload")  # the provider has the file: that is enough
        until(lambda: is_judged(app))
        (key,) = app.run(provider_batches(app).open_ids())
        wait(app, [key])
        assert statuses(app) == {"canceled": 5, "ok": 5}
    assert app.settings.record == "metadata"


def test_a_batch_that_a_living_process_sends_is_left_to_it(app: ai.App, endpoint: Endpoint, tmp_path: Path):
    (key,) = submit(app, asks_of(app, ["one"])).ids
    with app.store.transaction() as execute:
        execute(
            "UPDATE provider_batches SET state = 'written', provider_id = NULL, file_id = NULL, session_id = ?",
            [app.store.session_id],
        )
    with connect(tmp_path) as other:
        assert other.run(provider_batches(other).look(key)).state == "written"
        assert other.run(provider_batches(other).cancel(key)).state == "written"
    assert len(endpoint.batches.all) == 1


def test_two_processes_collect_at_once_and_each_answer_is_written_once(app: ai.App, endpoint: Endpoint, tmp_path: Path):
    endpoint.batches.polls = None
    made = submit(app, asks_of(app, [f"text {n}" for n in range(2000)]))
    endpoint.batches.finish(endpoint.batches.all[0])
    with connect(tmp_path) as other:
        futures = [one.loop.submit(provider_batches(one).collect(made.ids[0])) for one in (app, other)]
        assert [future.result(30).state for future in futures] == ["collected"] * 2
    assert statuses(app) == {"ok": 2000}


def test_a_collection_that_broke_off_is_gone_on_with(app: ai.App, endpoint: Endpoint):
    endpoint.batches.polls = None
    made = submit(app, asks_of(app, [f"text {n}" for n in range(1000)]))
    batch = endpoint.batches.all[0]
    endpoint.batches.finish(batch)
    assert batch.output is not None
    output = batch.output
    batch.output = None
    half = output.content.splitlines(keepends=True)
    output.content = b"".join(half[:500])
    batch.output, batch.errors = output, type(output)("file-gone", b"")  # the second file is not there
    endpoint.batches._files.pop("file-gone", None)
    monkey = endpoint.batches._files_reply
    endpoint.batches._files_reply = lambda call, key, verb: (  # type: ignore[method-assign]
        (500, b"{}") if key == "file-gone" else monkey(call, key, verb)
    )
    with pytest.raises(ProviderError):
        app.run(provider_batches(app).collect(made.ids[0]))
    assert statuses(app) == {"ok": 500, "sending": 500}
    endpoint.batches._files_reply = monkey  # type: ignore[method-assign]
    output.content = b"".join(half)
    batch.errors = None
    wait(app, made.ids)
    assert statuses(app) == {"ok": 1000}


# ---------------------------------------------------------------------------------------------- a provider in trouble
def test_a_beginning_that_was_lost_is_looked_for_before_another(app: ai.App, endpoint: Endpoint):
    real = endpoint.batches._create
    tries: list[int] = []

    def lose(call: Any) -> tuple[int, Any]:
        tries.append(1)
        real(call)
        return 500, b"{}"  # it was begun all the same

    endpoint.batches._create = lose  # type: ignore[method-assign]
    made = submit(app, asks_of(app, ["one"]))
    assert len(tries) == 1, "found in the list"
    wait(app, made.ids)
    assert statuses(app) == {"ok": 1}


def test_a_beginning_that_failed_is_tried_again_and_then_later(app: ai.App, endpoint: Endpoint):
    real = endpoint.batches._create
    tries: list[int] = []

    def fail(call: Any) -> tuple[int, Any]:
        tries.append(1)
        return (503, b"{}") if len(tries) <= 4 else real(call)

    endpoint.batches._create = fail  # type: ignore[method-assign]
    made = submit(app, asks_of(app, ["one"]))
    assert (len(tries), state_of(app, made.ids[0])) == (4, "written")
    wait(app, made.ids)
    assert statuses(app) == {"ok": 1}
    assert (len(tries), endpoint.batches.uploads) == (5, 1)


def test_waiting_outlasts_a_provider_that_is_away(app: ai.App, endpoint: Endpoint):
    real, away = endpoint.batches._batches_reply, iter(range(30))
    endpoint.batches._batches_reply = lambda call, key, verb: (  # type: ignore[method-assign]
        (503, b"{}") if key and next(away, None) is not None else real(call, key, verb)
    )
    naps: list[float] = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)

    made = submit(app, asks_of(app, ["one"]))
    seen: list[Standing] = []
    service = provider_batches(app)
    app.wiring.corridor._sleep = no_sleep
    app.run(service.wait(made.ids, seen.append, nap))
    assert statuses(app) == {"ok": 1}
    assert seen[0].message is not None
    assert "503" in seen[0].message
    assert naps[:3] == [5.0, 7.5, 11.25]
    assert max(naps) == 60.0 if len(naps) > 8 else True


def test_cancel_collects_what_there_is(app: ai.App, endpoint: Endpoint):
    endpoint.batches.polls = None
    asks = asks_of(app, ["one", "two", "three"])
    made = submit(app, asks)
    batch = endpoint.batches.all[0]
    endpoint.batches.advance(batch)
    assert app.run(provider_batches(app).cancel(made.ids[0])).provider_state == "cancelling"
    endpoint.batches.cancel(batch, answered=1)
    endpoint.batches.advance(batch)
    wait(app, made.ids)
    assert statuses(app) == {"ok": 1, "canceled": 2}
    done = app.run(provider_batches(app).dones(made.ids))[asks[2].key]
    assert done.error is not None
    assert (done.error.code, done.cost) == ("batch_cancelled", 0.0)
    assert app.run(provider_batches(app).cancel(made.ids[0])).is_over, "nothing is left to be cancelled"


def test_a_control_that_is_canceled_ends_the_wait(app: ai.App, endpoint: Endpoint):
    endpoint.batches.polls = None
    made = submit(app, asks_of(app, ["one"]))
    control = Control()

    async def nap(seconds: float) -> None:
        asyncio.get_running_loop().call_soon(control.cancel)
        await asyncio.Event().wait()  # for ever: somebody has to cut it short

    service = provider_batches(app)
    (standing,) = app.run(service.wait(made.ids, None, nap, control))
    assert standing.provider_state == "cancelling"
    assert not standing.is_over
    assert endpoint.batches.all[0].status == "cancelling"


@pytest.fixture
def big(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    text = "x" * 70_000
    with Endpoint(lambda call: Answer(text, usage=(1, 1))) as double:
        monkeypatch.setenv("OPENAI_BASE_URL", double.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
        yield double


COLLECT = """
import ipyconvexai as ai
from ipyconvexai.batch.provider_batches import provider_batches
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

with ai.connect(model="openai:gpt-4o-mini", record="metadata") as app:
    service = provider_batches(app)
    (key,) = app.run(service.open_ids())
    app.run(service.look(key))
    before = peak()
    app.run(service.collect(key))
    print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_file_of_answers_is_never_in_memory_as_a_whole(big: Endpoint, tmp_path: Path):
    big.batches.polls = None
    with connect(tmp_path) as app:
        submit(app, asks_of(app, [f"text {n}" for n in range(1500)]))
    big.batches.finish(big.batches.all[0])
    output = big.batches.all[0].output
    assert output is not None
    assert len(output.content) > 100_000_000
    child = subprocess.run([sys.executable, "-c", COLLECT], env=os.environ, capture_output=True, timeout=60)
    assert child.returncode == 0, child.stderr.decode()
    grown = int(child.stdout)
    assert grown < 60_000_000, f"{grown:,}"
    with connect(tmp_path) as app:
        assert statuses(app) == {"ok": 1500}
