"""Kill -9 during a batch, again and again: what was acknowledged is never paid twice, and what is uncertain is shown.

The provider's own log of calls is the judge. A call that was answered, and whose answer was not yet with the keeper,
is uncertain as one that was not answered.
"""

from __future__ import annotations

import collections
import itertools
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import ipyconvexai as ai
from ipyconvexai.testing import Answer, Endpoint
from tests.promises.children import Child, Say
from tests.promises.promising import Figure, Tries

PROMISE = "no call is paid twice unseen: what was in flight when a notebook was killed is flagged `unknown`"
TRIES = Tries(20, 500, "kills in batches of 400")

COUNT = 400  # documents of a batch
KILLS = 20  # of one batch
CONCURRENCY = 16
DELAY = 0.03  # seconds that the provider takes


def summarize(say: Say, out: str) -> None:
    """What is killed: a batch, in a process of its own."""
    frame = pd.DataFrame({"text": [f"document number {n}" for n in range(COUNT)], "n": range(COUNT)})
    frame.index = frame.index[::-1]
    given = ai.summarize(frame, "text", concurrency=CONCURRENCY, progress=False, details=["tokens", "cost"])
    given.to_pickle(out)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    with Endpoint(lambda call: Answer(call.body["messages"][-1]["content"].split("\n")[1], delay=DELAY)) as double:
        monkeypatch.setenv("OPENAI_BASE_URL", double.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
        monkeypatch.setenv("IPYCONVEXAI_MODEL", "openai:gpt-4o-mini")
        yield double


class Batch:
    """One batch that is killed on its way, and what the provider and the ledger say of it."""

    def __init__(self, folder: Path, endpoint: Endpoint, rng: random.Random) -> None:
        folder.mkdir()
        self.out = folder / "result.pickle"
        self.endpoint = endpoint
        self.rng = rng
        self.ends: list[int] = []  # of each process that was killed, the number of its last request
        self._log = folder / "calls.jsonl"
        self._begun = endpoint.count
        endpoint.log(self._log)

    def kill(self, most: int) -> None:
        """Begin it, and kill it after at most so many more requests: half the time when one has just come, else at
        some moment until it is answered."""
        until = self.endpoint.count + self.rng.randint(1, max(1, most))
        with Child(summarize, str(self.out)) as child:
            self.endpoint.wait(lambda double: double.count >= until or not child.is_alive, 30)
            if self.rng.random() < 0.5:
                time.sleep(self.rng.random() * DELAY)
            assert child.is_alive, "it ended before it was killed"
            child.kill()
        # What was on its way is read by the endpoint after the end of its sender.
        self.endpoint.wait(lambda double: double.in_flight == 0)
        self.ends.append(self.endpoint.count)
        assert not self.out.exists()

    def finish(self) -> pd.DataFrame:
        with Child(summarize, str(self.out)) as child:
            assert child.wait() == 0
        given: pd.DataFrame = pd.read_pickle(self.out)
        return given

    def sent(self) -> dict[str, list[int]]:
        """Of each document the numbers of its calls, in the provider's log."""
        found: dict[str, list[int]] = collections.defaultdict(list)
        for line in self._log.read_text().splitlines():
            call = json.loads(line)
            found[call["body"]["messages"][-1]["content"]].append(call["number"])
        return found


def states_of(app: ai.App) -> dict[str, collections.Counter[str]]:
    """Of each document the states of its rows, when the keeper has judged the dead process."""
    deadline = time.monotonic() + 10
    while app.ledger.calls(status="sending") and time.monotonic() < deadline:
        time.sleep(0.01)
    rows = app.ledger.sql("SELECT request->>'$.messages[1].content', status, count(*) FROM calls GROUP BY ALL")
    states: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for content, status, count in rows.fetchall():
        states[content][status] += count
    return states


def todo_of(app: ai.App, sent: dict[str, list[int]]) -> int:
    """Check that all is told; gives how many documents are not done."""
    states = states_of(app)
    intents, outcomes = (app.store.read(f"SELECT count(*) FROM {table}")[0][0] for table in ("requests", "responses"))
    total = sum(states.values(), collections.Counter())
    assert intents == outcomes == total["ok"] + total["unknown"], "an intent without an outcome becomes `unknown`"
    assert set(sent) <= set(states), "what was sent has an intent"
    done = {content for content, each in states.items() if each["ok"]}
    unknown = set(states) - done
    todo = {f"document number {n}" for n in range(COUNT)} - {content.split("\n")[1] for content in states}
    assert len(done) + len(unknown) + len(todo) == COUNT
    assert all(states[content]["ok"] == 1 for content in done), "what is answered is not asked again"
    return COUNT - len(done)


def judge(batch: Batch, app: ai.App) -> int:
    """Each call that was sent again was in flight at a kill, and is flagged. Gives how many there were."""
    sent, states = batch.sent(), states_of(app)
    assert len(sent) == COUNT
    again: collections.Counter[int] = collections.Counter()
    for content, numbers in sent.items():
        assert states[content]["ok"] == 1, "answered once, and that answer was not lost"
        assert len(numbers) - 1 <= states[content]["unknown"], "sent again without a flag"
        for before, after in itertools.pairwise(numbers):
            kill = sum(end < before for end in batch.ends)  # the one that followed it
            assert before <= batch.ends[kill] < after, "sent twice by one process"
            again[kill] += 1
    # An answer keeps its place among those that are being sent until the keeper has it.
    assert max(again.values(), default=0) <= CONCURRENCY, "more than were in flight"
    return again.total()


@TRIES.both
def test_kills_of_a_batch(
    tries: int, tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, figure: Figure
):
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    rng = random.Random(seed)
    undisturbed = Batch(tmp_path / "undisturbed", endpoint, rng).finish()
    assert undisturbed["summary_error"].isna().all()
    again = uncertain = 0
    for number in range(tries // KILLS):
        folder = tmp_path / f"batch {number}"
        batch = Batch(folder, endpoint, rng)
        monkeypatch.setenv("IPYCONVEXAI_DB", str(folder / "ledger.duckdb"))
        with ai.connect() as app:
            left = COUNT
            for _ in range(KILLS):
                batch.kill(min(2 * COUNT // KILLS - 2, left - CONCURRENCY))
                left = todo_of(app, batch.sent())
            pd.testing.assert_frame_equal(batch.finish(), undisturbed)
            assert todo_of(app, batch.sent()) == 0
            again += judge(batch, app)
            uncertain += sum(each["unknown"] for each in states_of(app).values())
    assert again, f"no kill hit a call that was under way (seed {seed})"
    figure(f"{again} calls sent again, all of them flagged; {uncertain} `unknown`, 0 answers lost", f"{tries} kills")


def test_the_judge_sees_a_call_that_is_paid_twice_unseen(endpoint: Endpoint, tmp_path: Path):
    """As it would be, were its intent written after it is sent, or not at all."""
    batch = Batch(tmp_path / "batch", endpoint, random.Random(0))
    with ai.connect() as app:
        batch.finish()
        assert judge(batch, app) == 0
        client: Any = ai.OpenAI()
        request = json.loads(batch._log.read_text().splitlines()[0])["body"]
        batch.ends.append(endpoint.count)
        client.with_options(max_retries=0).chat.completions.create(**request)
        with pytest.raises(AssertionError, match="answered once"):
            judge(batch, app)
