"""Limits in the step that writes the intent: nothing refused leaves a row, nothing that is killed opens the gate."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from ipyconvexai.errors import BudgetError, Error, InputError, LimitError
from ipyconvexai.ids import new_id
from ipyconvexai.limiting import Limiting
from ipyconvexai.settings import remember_secret
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.inprocess import ThreadStore
from ipyconvexai.store.ledger import Intent, Outcome
from ipyconvexai.store.link import KeeperStore, Store
from tests.store.helpers import child, clock_from, finish, kill, kill_keeper, line_of, wait_for


class Limits(Limiting):
    def __init__(self, store: Store) -> None:
        self.store = store


@pytest.fixture
def memory() -> Iterator[ThreadStore]:
    store = ThreadStore(":memory:")
    yield store
    store.close()


def intent(store: Store, **fields: Any) -> Intent:
    return Intent(
        id=new_id(), attempt=1, retry_of=None, sent_at=utc_now(), provider="p", model="m", endpoint="chat/completions",
        base_url="http://here", stream=False, cache_key=new_id(), body="the body", body_bytes=None, body_size=8,
        user_id="u", source="client", notebook=None, cell_id=None, conversation_id=None, batch_id=None,
        session_id=store.session_id, reserved_tokens=10, reserved_usd=0.5,
    )._replace(**fields)  # fmt: skip


def write(store: Store, table: str, row: Any, **note: Any) -> Future[None]:
    future: Future[None] = Future()

    def receipt(error: Error | None) -> None:
        future.set_result(None) if error is None else future.set_exception(error)

    store.append(table, row._fields, [tuple(row)], receipt, note=note or None)
    return future


def ask(store: Store, **fields: Any) -> tuple[str, LimitError | None]:
    """Ask once and do not wait; gives the call's id and the refusal."""
    note = fields.pop("note", {"waits": False})
    asked = intent(store, **fields)
    try:
        write(store, "requests", asked, **note).result(30)
    except LimitError as error:
        return asked.id, error
    return asked.id, None


def admitted(store: Store, count: int, **fields: Any) -> int:
    return sum(ask(store, **fields)[1] is None for _ in range(count))


def settle(store: Store, request_id: str, **fields: Any) -> None:
    given = {"status": "ok", "input_tokens": 1, "output_tokens": 1, "cost_usd": 0.1, **fields}
    write(store, "responses", Outcome(request_id, utc_now(), **given)).result(30)


def count_rows(store: Store, table: str = "requests") -> int:
    return int(store.read(f"SELECT count(*) FROM {table}")[0][0])


# ---------------------------------------------------------------------------------------------- one step
def test_without_limits_everything_passes(memory: ThreadStore):
    assert admitted(memory, 20) == 20
    assert not memory.limited


def test_what_is_refused_leaves_no_row_and_the_rest_of_its_group_is_written(memory: ThreadStore):
    Limits(memory).limit("rpm", requests=3)
    asked = [write(memory, "requests", intent(memory), waits=False) for _ in range(10)]
    errors = [future.exception(30) for future in asked]
    assert [error is None for error in errors] == [True] * 3 + [False] * 7
    assert count_rows(memory) == 3
    assert memory.limited
    refusal = errors[-1]
    assert type(refusal) is LimitError
    assert refusal.message == "limit rpm (3 requests per minute) is reached"
    assert refusal.retry_after == pytest.approx(63, abs=1)
    assert 'unlimit("rpm")' in refusal.cure


def test_twenty_five_threads_at_a_limit_of_ten(memory: ThreadStore):
    Limits(memory).limit(requests=10)
    passed: list[bool] = []
    threads = [threading.Thread(target=lambda: passed.append(ask(memory)[1] is None)) for _ in range(25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (passed.count(True), count_rows(memory)) == (10, 10)


def test_a_row_that_cannot_be_written_gives_its_place_back(memory: ThreadStore):
    Limits(memory).limit(requests=1)
    with pytest.raises(Error) as caught:
        write(memory, "requests", intent(memory, attempt="no number"), waits=False).result(30)
    assert not isinstance(caught.value, LimitError)
    assert admitted(memory, 2) == 1


def test_what_was_not_sent_gives_its_place_back(memory: ThreadStore):
    Limits(memory).limit(requests=1)
    request_id, _ = ask(memory)
    assert admitted(memory, 1) == 0
    settle(memory, request_id, status="canceled", error_code="not_sent")
    assert admitted(memory, 2) == 1


def test_an_outcome_that_overtakes_its_intent_holds_no_place(memory: ThreadStore):
    """Two messages of one process may do that."""
    Limits(memory).limit(concurrency=1)
    first, _ = ask(memory)
    given_up = intent(memory)
    settle(memory, given_up.id, status="canceled", error_code="not_sent")
    write(memory, "requests", given_up, waits=True).result(30)
    settle(memory, first)
    assert admitted(memory, 2) == 1


def test_a_call_that_is_given_up_while_it_is_refused_leaves_no_row(memory: ThreadStore):
    Limits(memory).limit(requests=1)
    ask(memory)
    given_up = intent(memory)
    with pytest.raises(LimitError):
        write(memory, "requests", given_up, waits=True).result(30)
    assert memory.limits()[0][5] == 1
    with pytest.raises(LimitError):
        settle(memory, given_up.id, status="canceled", error_code="not_sent")
    assert memory.limits()[0][5] == 0
    assert count_rows(memory, "responses") == 0


def test_a_refused_call_that_is_recorded_takes_nothing(memory: ThreadStore):
    Limits(memory).limit(requests=1)
    assert ask(memory, note={"judged": False})[1] is None
    assert admitted(memory, 2) == 1


# ---------------------------------------------------------------------------------------------- budgets
@pytest.fixture
def noon() -> Iterator[ThreadStore]:
    """Of a day that does not end meanwhile."""
    store = ThreadStore(":memory:", clock_from(2026, 5, 1, 12))
    yield store
    store.close()


def test_a_budget_that_is_spent(noon: ThreadStore):
    Limits(noon).budget("daily", usd=3.0, per="day")
    for _ in range(6):
        request_id, _ = ask(noon)
        settle(noon, request_id, cost_usd=0.5)
    refusal = ask(noon)[1]
    assert isinstance(refusal, BudgetError)
    assert refusal.message == "budget daily ($3.00 per day) is spent"
    assert refusal.retry_after is not None
    assert 0 < refusal.retry_after <= 86400


def test_a_batch_without_money_is_refused_for_good(memory: ThreadStore):
    Limits(memory).budget(usd=0.4, per="batch")
    refusal = ask(memory, batch_id=new_id())[1]
    assert isinstance(refusal, BudgetError)
    assert (refusal.code, refusal.retry_after, refusal.retryable) == ("never_fits", None, False)


def test_a_price_that_is_not_known(memory: ThreadStore):
    Limits(memory).budget(usd=1.0)
    refusal = ask(memory, reserved_usd=None)[1]
    assert isinstance(refusal, BudgetError)
    assert refusal.code == "price_unknown"
    assert ask(memory, reserved_usd=0.0)[1] is None


# ---------------------------------------------------------------------------------------------- what is set
def test_setting_a_limit_again_replaces_it_and_keeps_what_is_used(memory: ThreadStore):
    limits = Limits(memory)
    limits.limit("rpm", requests=1)
    assert admitted(memory, 3) == 1
    limits.limit("rpm", requests=3)
    assert admitted(memory, 5) == 2
    limits.unlimit("rpm")
    assert admitted(memory, 5) == 5


def test_a_new_limit_counts_what_was_sent_before_it(memory: ThreadStore):
    assert admitted(memory, 4) == 4
    old = utc_now() - datetime.timedelta(seconds=70)
    assert admitted(memory, 4, sent_at=old) == 4
    request_id, _ = ask(memory)
    settle(memory, request_id, status="refused")
    Limits(memory).limit(requests=5)
    assert admitted(memory, 5) == 1


def test_a_new_budget_counts_what_was_spent_before_it(memory: ThreadStore):
    """An hour and more ago by their sums, what is newer call by call."""
    batch = new_id()
    for age in (0, 7200):
        sent = utc_now() - datetime.timedelta(seconds=age)
        request_id, _ = ask(memory, sent_at=sent, batch_id=batch)
        settle(memory, request_id, cost_usd=0.75)
    limits = Limits(memory)
    limits.budget("whole", usd=2.0, per="batch")
    assert admitted(memory, 3, batch_id=batch) == 1
    limits.budget("rolling", usd=2.0, per=3600)
    assert {row[0]: row[3] for row in memory.limits()} == {"whole": "$2.00", "rolling": "$1.25"}


def test_names_are_made_and_found(memory: ThreadStore):
    limits = Limits(memory)
    assert limits.limit(requests=60) == "requests-per-minute"
    assert (
        limits.limit(tokens=5, requests=5, per="hour", model="openai:gpt-x") == "openai-gpt-x-requests-tokens-per-hour"
    )
    assert limits.limit(concurrency=4, each="user") == "each-user-concurrency"
    assert limits.budget(usd=5) == "budget-usd-per-day"
    with pytest.raises(InputError, match="no limit or budget 'request-per-minute'") as caught:
        limits.unlimit("request-per-minute")
    assert caught.value.cure == 'Did you mean "requests-per-minute"?'


@pytest.mark.parametrize(
    ("wrong", "cure"),
    [
        (lambda limits: limits.limit(), "requests="),
        (lambda limits: limits.budget(), "usd="),
        (lambda limits: limits.limit(requests=0), "requests=10"),
        (lambda limits: limits.limit(requests=1.5), "requests=10"),
        (lambda limits: limits.limit(requests=True), "requests=10"),
        (lambda limits: limits.limit(requests=float("nan")), "requests=10"),
        (lambda limits: limits.budget(usd=-1), "usd=10"),
        (lambda limits: limits.limit(requests=1, per="minutes"), '"minute"'),
        (lambda limits: limits.limit(requests=1, per="batch"), '"minute"'),
        (lambda limits: limits.limit(requests=1, per=0), "more than 0"),
        (lambda limits: limits.budget(usd=1, per="minute"), '"hour"'),
        (lambda limits: limits.limit(requests=1, each="models"), '"model"'),
        (lambda limits: limits.limit(requests=1, provider="opnai"), '"openai"'),
        (lambda limits: limits.limit(requests=1, model="openai"), 'provider="openai"'),
        (lambda limits: limits.limit(requests=1, model="openai:x", provider="groq"), "one provider"),
        (lambda limits: limits.limit(requests=1, model="openai:"), 'provider="openai"'),
        (lambda limits: limits.budget(usd=1, model="openai/ "), 'provider="openai"'),
        (lambda limits: limits.limit(requests=1, model="nobody:"), "openai:gpt-4.1-mini"),
        (lambda limits: limits.limit(requests=1, user=7), 'user="ada"'),
        (lambda limits: limits.limit("", requests=1), "gpt-minute"),
    ],
)
def test_wrong_input_names_the_cure(memory: ThreadStore, wrong: Callable[[Limits], Any], cure: str):
    with pytest.raises(InputError) as caught:
        wrong(Limits(memory))
    assert cure in caught.value.cure
    assert memory.limits() == []


@pytest.mark.parametrize("word", ["name", "user", "model", "provider"])
def test_a_key_in_a_limit_is_refused_and_not_told(memory: ThreadStore, word: str):
    key = "sk-test-0123456789abcdefABCDEF"
    remember_secret(key)
    given: dict[str, Any] = {word: f"x{key}y"}
    with pytest.raises(InputError) as caught:
        Limits(memory).limit(requests=1, **given)
    assert key not in str(caught.value)
    assert word in caught.value.message
    assert memory.limits() == []


def test_what_is_used_is_a_relation(memory: ThreadStore):
    limits = Limits(memory)
    assert len(limits.limits()) == 0
    limits.limit("rpm", requests=2, provider="p")
    ask(memory)
    where = ("p", "http://here", "m")
    request_id, _ = ask(memory)
    outcome = Outcome(request_id, utc_now(), "ok")
    write(memory, "responses", outcome, where=where, said="9 of 10 requests left", pause=None, by=None).result(30)
    assert ask(memory)[1] is not None
    ours, theirs = limits.limits().fetchall()
    assert ours[:6] == ("rpm", "2 requests per minute", "provider p", "2 requests", "0 requests", 0)
    assert ours[6] == pytest.approx(60, abs=1)
    assert theirs[1:3] == ("the provider's own", "provider p, model m")
    assert theirs[7].startswith("9 of 10 requests left")


def test_a_definition_that_cannot_be_read_says_so(memory: ThreadStore):
    with memory.transaction() as execute:
        execute("INSERT INTO limits VALUES ('odd', 'nonsense', now())")
    assert admitted(memory, 2) == 2
    assert memory.limits() == [("odd", "cannot be read", "", "", "", 0, None, "")]


def test_a_providers_pause_is_for_everybody(memory: ThreadStore):
    told, _ = ask(memory)
    where = ("p", "http://here", "m")
    outcome = Outcome(told, utc_now(), "error", http_status=429)
    write(memory, "responses", outcome, where=where, said="", pause=30.0, by=told).result(30)
    refusal = ask(memory)[1]
    assert isinstance(refusal, LimitError)
    assert refusal.code == "provider_pause"
    assert refusal.retry_after == pytest.approx(30, abs=1)
    assert ask(memory, model="another")[1] is None
    assert ask(memory, retry_of=told)[1] is None


# ---------------------------------------------------------------------------------------------- several processes
def test_a_keeper_that_is_killed_does_not_open_the_gate(ledger: str, store: KeeperStore):
    Limits(store).limit("rpm", requests=5, concurrency=4)
    first, _ = ask(store)
    settle(store, first)
    assert admitted(store, 3) == 3
    kill_keeper(ledger)
    assert admitted(store, 3) == 1
    assert count_rows(store) == 5


def test_another_process_obeys_at_once(ledger: str, store: KeeperStore):
    Limits(store).limit(requests=2)
    code = """
from tests.store.test_admission import admitted
store = open_store(sys.argv[1])
print(admitted(store, 5))
store.close()
"""
    assert finish(child(code, ledger)).strip() == "2"
    assert admitted(store, 1) == 0
    assert store.limited


def test_the_slots_of_a_process_that_died_are_free_again(ledger: str, store: KeeperStore):
    Limits(store).limit(concurrency=2)
    code = """
from tests.store.test_admission import admitted
store = open_store(sys.argv[1])
print(admitted(store, 5), flush=True)
sys.stdin.read()
"""
    process = child(code, ledger)
    assert line_of(process) == "2"
    assert admitted(store, 1) == 0
    kill([process])
    wait_for(lambda: admitted(store, 1) == 1, "the dead process's slots", 10)
