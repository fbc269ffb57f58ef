"""A batch for a long time: a document costs at the end what it cost at the beginning."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.benchmarks.double import Double

CONCURRENCY = 32
LATENCY = 0.2
RATE = CONCURRENCY / LATENCY  # documents a second at best

# Rows are made while they are read. The sampler writes down CPU seconds and MB of its process. (A fixed piece of work,
# timed beside it as a yardstick of the machine, varied by a third within 100 s, and not as the cost of documents did.)
CHILD = """
import json, resource, sys, threading
import pyarrow as pa
import ipyconvexai as ai
rows, every = int(sys.argv[1]), float(sys.argv[2])
schema = pa.schema([("text", pa.string())])
def batches():
    for start in range(0, rows, 1000):
        numbers = range(start, min(rows, start + 1000))
        yield pa.record_batch([pa.array([f"document {n} " + "about the bridge " * 20 for n in numbers])], schema=schema)
def sample():
    while not ended.wait(every):
        use = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps([use.ru_utime + use.ru_stime, use.ru_maxrss / 1024]), flush=True)
ended = threading.Event()
threading.Thread(target=sample, daemon=True).start()
done = ai.summarize(pa.RecordBatchReader.from_batches(schema, batches()), "text", concurrency=32, progress=False)
ended.set()
assert done.read_all()["summary"].null_count == 0
"""


def soak(seconds: float, window: float) -> float:
    """How much more CPU a document costs in the last `window` of about so many seconds than in the first."""
    with Double(LATENCY) as double:
        command = [sys.executable, "-c", CHILD, str(int(seconds * RATE)), str(window / 10)]
        environment = {**os.environ, "OPENAI_BASE_URL": double.url, "OPENAI_API_KEY": "sk-test-0123456789abcdef"}
        environment["IPYCONVEXAI_MODEL"] = "openai:gpt-4.1-nano"
        samples: list[tuple[int, float, float]] = []  # documents, CPU seconds, MB
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
            assert child.stdout is not None
            for line in child.stdout:
                cpu, memory = json.loads(line)
                samples.append((double.count(), cpu, memory))
        assert child.returncode == 0
        assert double.count() == int(seconds * RATE)
    sending = [one for one in samples if 0 < one[0] < int(seconds * RATE)][1:-1]  # neither its start nor its end
    size = 10

    def cost(part: list[tuple[int, float, float]]) -> float:
        """CPU seconds per 1,000 documents."""
        return (part[-1][1] - part[0][1]) / (part[-1][0] - part[0][0]) * 1000

    first, last = cost(sending[: size + 1]), cost(sending[-size - 1 :])
    print(
        f"{len(samples) * window / 10:.0f} s: {first:.2f} s CPU per 1,000 in the first {window:g} s,"
        f" {last:.2f} s in the last, {last / first:.2f} times as much;"
        f" {sending[size][2]:.0f} MB, then {sending[-1][2]:.0f} MB"
    )
    return last / first


def test_a_batch_of_some_seconds_costs_the_same_all_the_time():
    assert soak(3, window=0.6) < 2  # in so short a time only what is gross is seen


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_half_an_hour():
    assert soak(float(os.environ.get("SOAK_SECONDS", "1800")), window=300) <= 1.1
