"""Kill -9 during a batch: what was acknowledged is there, and what was sent twice is flagged."""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ipyconvexai as ai
from ipyconvexai.testing import Answer, Endpoint

CHILD = """
import sys, json
import pandas as pd
import ipyconvexai as ai
count, out = int(sys.argv[1]), sys.argv[2]
frame = pd.DataFrame({"text": [f"document number {n}" for n in range(count)]})
result = ai.summarize(frame, "text", concurrency=16, progress=False)
with open(out, "w") as file:
    json.dump([result["text"].tolist(), result["summary"].tolist(), result["summary_error"].isna().all().item()], file)
"""


def start(count: int, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(count), str(out)], env=os.environ)


def run_and_kill(count: int, kills: int, tmp_path: Path, endpoint: Endpoint, rng: random.Random) -> None:
    """Kill `kills` runs after a random number of requests each, then let one run to its end."""
    out = tmp_path / "result.json"
    for _ in range(kills):
        until = endpoint.count + rng.randint(20, count // (kills + 1))
        child = start(count, out)
        while endpoint.count < until:
            assert child.poll() is None, "the child ended before it was killed"
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not out.exists()
    assert start(count, out).wait(60) == 0

    texts, summaries, fine = json.loads(out.read_text())
    assert fine
    assert texts == [f"document number {n}" for n in range(count)]
    assert all(f"document number {n}" in summary for n, summary in enumerate(summaries)), "in order, each its own"

    sent = collections.Counter(call.body["messages"][-1]["content"] for call in endpoint.calls)
    with ai.connect() as app:
        deadline = time.monotonic() + 5  # the keeper judges a dead process a quarter of a second after it died
        while app.ledger.calls(status="sending") and time.monotonic() < deadline:
            time.sleep(0.05)
        rows = app.ledger.sql(
            "SELECT request->>'$.messages[1].content', status, count(*) FROM calls GROUP BY ALL"
        ).fetchall()
    statuses: dict[str, dict[str, int]] = collections.defaultdict(dict)
    for content, status, number in rows:
        statuses[content][status] = number
    assert set(statuses) == set(sent), "everything that was sent has an intent"
    for content, times in sent.items():
        assert statuses[content]["ok"] == 1, "answered once, and that answer was not lost"
        assert times - 1 <= statuses[content].get("unknown", 0), "sent again only after an attempt that is flagged"
    assert {status for each in statuses.values() for status in each} <= {"ok", "unknown"}
    again = sum(times - 1 for times in sent.values())
    print(f"{kills} kills, {count} documents: {again} sent again, each flagged; {endpoint.count} requests")
    assert again <= kills * 2 * 16


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch):
    with Endpoint(lambda call: Answer(call.body["messages"][-1]["content"].split("\n")[1], delay=0.05)) as double:
        monkeypatch.setenv("OPENAI_BASE_URL", double.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
        monkeypatch.setenv("IPYCONVEXAI_MODEL", "openai:gpt-4o-mini")
        yield double


def test_two_kills_in_240_documents(tmp_path: Path, endpoint: Endpoint):
    run_and_kill(240, 2, tmp_path, endpoint, random.Random(1))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.timeout(600)
def test_many_kills(tmp_path: Path, endpoint: Endpoint, seed: int):
    run_and_kill(400, 5, tmp_path, endpoint, random.Random(seed))
