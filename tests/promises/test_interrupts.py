"""Ctrl-C at random moments of whatever a cell may wait for, in a real kernel: see `PROMISE`.

While modules are first imported, a Ctrl-C is held until they are there (tests/unit/test_interrupts.py says why): the
first cell of each kind may take longer to stop. What the SDK imports late is not held, so a client is used before.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipyconvexai.testing import Answer, Endpoint
from ipyconvexai.testing.received import Received
from tests.kernels import KEY, Kernel, Result, environment_for
from tests.promises.promising import Figure, Tries

PROMISE = (
    "Ctrl-C stops a cell within 0.1 s (median; after its imports, where it is the first of its kind) and leaves a"
    " usable kernel: the next cell works, and no call stays `sending`"
)
TRIES = Tries(20, 100, "interrupts")

MEDIAN, AT_MOST = 0.1, 2.0  # seconds to stop
FIRST = 10.0  # seconds to stop the first cell of a kind, with what it imports
OWN = 0.02  # seconds that the same kernel takes to stop a sleep, at the most, where a machine has not much other work
NEXT = 5.0  # seconds for the next cell; it takes 0.03
SETTLED = 5.0  # seconds until what was in flight is written down; the cell does not wait for that
LONGEST_WAIT = 0.6  # seconds after a cell's beginning; each of them takes longer

BEFORE = """
%load_ext ipyconvexai
import ipyconvexai as ai, pandas as pd
LONG = "SELECT count(*) FROM range(400000) a, range(400000) b WHERE (a.range * b.range) % 7 = 3"

@ai.query
def counted(ctx):
    return ctx.db.sql(LONG)

@ai.action
async def asks(ctx, text: str) -> str:
    answers = [await ctx.openai.chat.completions.create(model=ctx.model, messages=[{"role": "user", "content": text}])
               for _ in range(4)]
    return answers[-1].choices[0].message.content

@ai.mutation
def computes(ctx) -> int:
    return sum(n * n for n in range(10**9))
"""
CELLS = {
    "ai.generate": "ai.generate('{n} generate')",
    "ai.stream": "for piece in ai.stream('{n} stream'): pass",
    "%%ai": "%%ai\n{n} magic",
    "ai.summarize": "ai.summarize(pd.DataFrame({{'text': [f'{n} row {{k}}' for k in range(200)]}}), 'text')",
    "ai.run of an action": "ai.run(asks, text='{n} action')",
    "ai.run of a query": "ai.run(counted)",
    "ai.run of a mutation": "ai.run(computes)",
    "ai.ledger.sql": "ai.ledger.sql(LONG)",
    "a client": "ai.OpenAI().responses.create(model='m', input='{n} client')",
}
A_CLIENT = "ai.OpenAI().responses.create(model='m', input='afterwards')"
# Expressions that a cell prints.
OPEN = "ai.ledger.sql(\"SELECT count(*) FROM calls WHERE status IN ('sending', 'unknown')\").fetchall()[0][0]"
STATES = "sorted({state for (state,) in ai.ledger.sql('SELECT DISTINCT status FROM calls').fetchall()})"
WORK = "ai.ledger.sql('SELECT count(*) FROM batches WHERE finished_at IS NULL').fetchall()[0][0]"


def slowly(call: Received) -> Answer | None:
    """A second and a half for each answer, in one piece or in many; what is asked afterwards is answered at once."""
    if "afterwards" in str(call.body):
        return None
    if isinstance(call.body, dict) and call.body.get("stream"):
        return Answer("word " * 75, token_delay=0.02)
    return Answer("fine", delay=0.2 if "row" in str(call.body) else 1.5)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint(slowly, key=KEY) as double:
        yield double


@pytest.fixture
def kernel(endpoint: Endpoint, tmp_path: Path) -> Iterator[Kernel]:
    kernel = Kernel(environment_for(endpoint, tmp_path / "ledger.duckdb"))
    try:
        assert kernel.ready().run(BEFORE).status == "ok"
        assert kernel.run(A_CLIENT).status == "ok"
        yield kernel
    finally:
        kernel.close()


def interrupt(kernel: Kernel, code: str, wait: float) -> tuple[Result, float]:
    """What the cell gave, and the seconds from the interrupt to its end."""
    request = kernel.begin(code)
    began = kernel.until(request, "execute_input")  # before, the kernel takes no interrupt
    time.sleep(wait)
    at = time.monotonic()
    kernel.interrupt()
    result = kernel.end(request, began)
    return result, time.monotonic() - at


@TRIES.both
def test_whatever_is_interrupted_the_next_cell_works(kernel: Kernel, endpoint: Endpoint, tries: int, figure: Figure):
    seed = random.randrange(1_000_000)
    dice = random.Random(seed)
    latencies, nexts = [], []
    own = statistics.median(interrupt(kernel, "import time; time.sleep(60)", 0.05)[1] for _ in range(5))
    slow = max(1.0, own / OWN)
    names = list(CELLS)
    for n in range(tries):
        name = names[n % len(names)]
        wait = dice.uniform(0, LONGEST_WAIT)
        tried = f"{name} after {wait:.3f} s, try {n} of seed {seed}"
        result, latency = interrupt(kernel, CELLS[name].format(n=n), wait)
        assert [error["ename"] for error in result.of("error")] == ["KeyboardInterrupt"], (
            tried,
            result.status,
            [(message["msg_type"], str(message["content"])[:500]) for message in result.messages],
        )
        began = time.monotonic()
        after = kernel.run(f"print(ai.generate('{n} afterwards').text)")
        nexts.append(time.monotonic() - began)
        latencies += [latency] if n >= len(names) else []
        assert (after.status, after.printed) == ("ok", f"echo: {n} afterwards\n"), (tried, after.messages)
        assert latency < (AT_MOST if n >= len(names) else FIRST) * slow, tried
        assert nexts[-1] < NEXT * slow, tried
        assert kernel.value(OPEN, within=SETTLED, until="0") == "0", tried
        assert kernel.value(WORK, within=SETTLED, until="0") == "0", tried
    assert set(eval(kernel.value(STATES))) <= {"ok", "interrupted", "canceled"}, f"seed {seed}"
    sent = [call.prompt for call in endpoint.calls]
    recorded = int(kernel.value("ai.ledger.sql('SELECT count(*) FROM calls').fetchall()[0][0]"))
    assert len(sent) <= recorded, f"something was sent without a row; seed {seed}"
    assert endpoint.in_flight == 0, f"the provider still works for nobody; seed {seed}"
    median = statistics.median(latencies)
    assert median < MEDIAN * slow, f"seed {seed}"
    figure(
        f"0 unusable kernels, 0 of {recorded} calls stuck; stopped after {median * 1e3:.0f} ms (median of"
        f" {len(latencies)}; at most {max(latencies) * 1e3:.0f}; a sleep alone {own * 1e3:.0f}), the next cell took"
        f" {statistics.median(nexts) * 1e3:.0f} ms; the first of each kind once, with its imports",
        f"{tries} interrupts",
    )
