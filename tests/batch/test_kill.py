"""Kill -9 during a batch: what was acknowledged is there, what was sent twice is flagged, and the frame is the same."""

from __future__ import annotations

import collections
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import ipyconvexai as ai
from ipyconvexai.testing import Answer, Endpoint

CHILD = """
import sys
import pandas as pd
import ipyconvexai as ai
count, concurrency, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
frame = pd.DataFrame({"text": [f"document number {n}" for n in range(count)], "n": range(count)})
frame.index = frame.index[::-1]
ai.summarize(frame, "text", concurrency=concurrency, progress=False, details=["tokens", "cost"]).to_pickle(out)
"""


def start(count: int, concurrency: int, out: Path, ledger: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "IPYCONVEXAI_DB": str(ledger)}
    return subprocess.Popen([sys.executable, "-c", CHILD, str(count), str(concurrency), str(out)], env=environment)


def kill_on_the_way(child: subprocess.Popen[bytes], endpoint: Endpoint, after: int) -> int:
    """SIGKILL after so many more requests; gives the number of the last request of that process."""
    until = endpoint.count + after
    while endpoint.count < until:
        assert child.poll() is None, "the child ended before it was killed"
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    # What was on its way to the endpoint is read by it after the end of its sender.
    endpoint.wait(lambda double: double.in_flight == 0)
    return endpoint.count


def rows_of_all_calls() -> dict[str, collections.Counter[str]]:
    """Of each document the states of its rows, when the keeper has judged the dead processes."""
    with ai.connect() as app:
        deadline = time.monotonic() + 10
        while app.ledger.calls(status="sending") and time.monotonic() < deadline:
            time.sleep(0.02)
        found = app.ledger.sql("SELECT request->>'$.messages[1].content', status FROM calls").fetchall()
    states: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for content, status in found:
        states[content][status] += 1
    return states


def run_and_kill(
    count: int, kills: int, concurrency: int, tmp_path: Path, endpoint: Endpoint, rng: random.Random
) -> None:
    """Kill `kills` runs after a random number of requests each, then let one run to its end; beside it, one that was
    never disturbed."""
    out, ledger = tmp_path / "result.pickle", tmp_path / "ledger.duckdb"
    ends = []
    for _ in range(kills):
        child = start(count, concurrency, out, ledger)
        ends.append(kill_on_the_way(child, endpoint, rng.randint(20, count // (kills + 1))))
        assert not out.exists()
    assert start(count, concurrency, out, ledger).wait(60) == 0
    calls = endpoint.calls

    undisturbed = tmp_path / "undisturbed.pickle"
    assert start(count, concurrency, undisturbed, tmp_path / "another.duckdb").wait(60) == 0
    assert endpoint.count == len(calls) + count
    pd.testing.assert_frame_equal(pd.read_pickle(out), pd.read_pickle(undisturbed))
    assert pd.read_pickle(out)["summary_error"].isna().all()

    sent: dict[str, list[int]] = collections.defaultdict(list)
    for call in calls:
        sent[call.body["messages"][-1]["content"]].append(call.number)
    states = rows_of_all_calls()
    assert set(states) == set(sent), "everything that was sent has an intent"
    for content, numbers in sent.items():
        assert states[content]["ok"] == 1, "answered once, and that answer was not lost"
        assert len(numbers) - 1 <= states[content]["unknown"], "sent again only after an attempt that is flagged"
    assert {status for each in states.values() for status in each} <= {"ok", "unknown"}

    again = collections.Counter(
        sum(before > end for end in ends) for numbers in sent.values() for before in numbers[:-1]
    )  # by the kill that followed what was lost
    counts = sorted(again.values())
    print(f"{kills} kills, {count} documents, {concurrency} at a time: sent again {counts}, each flagged")
    # An answer keeps its place among those that are being sent until the keeper has it.
    assert max(counts, default=0) <= concurrency


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch):
    with Endpoint(lambda call: Answer(call.body["messages"][-1]["content"].split("\n")[1], delay=0.05)) as double:
        monkeypatch.setenv("OPENAI_BASE_URL", double.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
        monkeypatch.setenv("IPYCONVEXAI_MODEL", "openai:gpt-4o-mini")
        yield double


def test_three_kills_in_800_documents(tmp_path: Path, endpoint: Endpoint):
    run_and_kill(800, 3, 32, tmp_path, endpoint, random.Random())


DRIVER = """
import sys
import distributed, pandas as pd
import ipyconvexai as ai
count, concurrency, out, scheduler = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
frame = pd.DataFrame({"text": [f"document number {n}" for n in range(count)]})
with distributed.Client(scheduler, set_as_default=False) as client:
    ai.summarize(frame, "text", concurrency=concurrency, progress=False, engine=client).to_pickle(out)
"""


def test_the_driver_of_dask_workers_is_killed(tmp_path: Path, endpoint: Endpoint):
    """What the workers had is paid again, at most: they only send, and whoever asked them is gone."""
    distributed = pytest.importorskip("distributed")
    count, concurrency, out = 400, 32, tmp_path / "result.pickle"
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
    ) as cluster:
        command = [sys.executable, "-c", DRIVER, str(count), str(concurrency), str(out), cluster.scheduler_address]
        with subprocess.Popen(command) as child:
            kill_on_the_way(child, endpoint, count // 2)
        assert not out.exists()
        assert subprocess.run(command, timeout=90).returncode == 0
    result = pd.read_pickle(out)
    assert result["summary"].str.contains("document number").all()
    sent = collections.Counter(call.body["messages"][-1]["content"] for call in endpoint.calls)
    states = rows_of_all_calls()
    assert len(sent) == count
    for content, times in sent.items():
        assert states[content]["ok"] == 1
        assert times - 1 <= states[content]["unknown"]
    again = endpoint.count - count
    print(f"the driver of {count} documents was killed: {again} sent again, each flagged")
    assert again <= concurrency


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.timeout(600)
def test_many_kills(tmp_path: Path, endpoint: Endpoint, seed: int):
    run_and_kill(800, 5, 32, tmp_path, endpoint, random.Random(seed))
