"""Kill -9 of the driver of Dask's workers: what was acknowledged is there, what was sent twice is flagged.

Of a batch in one process: `tests/promises/test_paid_once.py`.
"""

from __future__ import annotations

import collections
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import ipyconvexai as ai
from ipyconvexai.testing import Answer, Endpoint


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


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch):
    with Endpoint(lambda call: Answer(call.body["messages"][-1]["content"].split("\n")[1], delay=0.05)) as double:
        monkeypatch.setenv("OPENAI_BASE_URL", double.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
        monkeypatch.setenv("IPYCONVEXAI_MODEL", "openai:gpt-4o-mini")
        yield double


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
