"""Many calls of all kinds in one process: see `PROMISE`.

What the keeper holds grows until DuckDB's log is put into the file (at 64 MB), and is given back when nobody asks for
two seconds. So its memory is compared at such moments, and beside them may be no more than that log takes.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

import ipyconvexai as ai
from ipyconvexai.errors import CallError
from ipyconvexai.store.folder import Folder
from ipyconvexai.testing import Endpoint, Fault
from ipyconvexai.testing.received import Received
from tests.promises.children import Child, Say
from tests.promises.promising import Figure, Tries

PROMISE = (
    "calls leave nothing behind: memory of a notebook grows by less than 1.5 MB, of the keeper at rest by less than"
    " 5 MB and 0.25 MB for each 1,000 calls; open files stay within 8"
)
TRIES = Tries(600, 50_000, "calls")

PARTS = 20  # at the end of each the process is looked at
WARM = 8  # of them pass before it counts
AT_ONCE = 16  # calls in flight
KNOWN = 50  # questions that are asked again and again, and answered from the ledger
TURNS = 20  # of a conversation
PATIENCE = 1200.0

# MB that may come after the warm-up; in the keeper also for each 1,000 calls.
HERE, KEEPER, SLOPE = 1.5, 5.0, 0.25
LOG = 110.0  # MB that the keeper may hold between two checkpoints
FILES = 8  # open files, more or less


class Sample(NamedTuple):
    calls: int
    memory: float  # MB
    files: int
    keepers_memory: float
    keepers_files: int


def soak(say: Say, ledger: str, calls: int) -> None:
    """Say a sample at the end of each part."""
    with ai.connect(ledger, model="openai:gpt-4o-mini", retries=0) as app:
        done = 0
        for part in range(1, PARTS + 1):
            until = calls * part // PARTS
            asyncio.run(ask_many(app, range(done, until)))
            done = until
            say(sample(app, done))
            if part in (WARM, PARTS):
                wait_until_at_rest(keeper_of(app), ledger)
                say(sample(app, done))


def wait_until_at_rest(keeper: psutil.Process, ledger: str) -> None:
    """Until it has closed the file."""
    ends = time.monotonic() + 30
    while any(file.path == ledger for file in keeper.open_files()):
        assert time.monotonic() < ends, "the keeper keeps the file open"
        time.sleep(0.1)


async def ask_many(app: ai.App, numbers: Sequence[int]) -> None:
    left = iter(numbers)

    async def one_after_the_other() -> None:
        for number in left:
            await KINDS[number % len(KINDS)](app, number)

    await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))


async def generate(app: ai.App, number: int) -> None:
    assert (await app.agenerate(f"generate {number} " + "about the bridge " * 50)).text


async def replay(app: ai.App, number: int) -> None:
    assert (await app.agenerate(f"known {number % KNOWN}", replay="reuse")).text


async def stream(app: ai.App, number: int) -> None:
    assert "".join([piece async for piece in app.stream(f"stream {number} one two three")])


async def leave_a_stream(app: ai.App, number: int) -> None:
    pieces = aiter(app.stream(f"leave {number} one two three"))
    assert await anext(pieces)
    await pieces.aclose()  # type: ignore[attr-defined] # an async generator


async def fail(app: ai.App, number: int) -> None:
    try:
        await app.agenerate(f"fail {number}")
    except CallError:
        return
    raise AssertionError("it did not fail")


async def converse(app: ai.App, number: int) -> None:
    assert (await app.agenerate(f"turn {number}", conversation=f"talk {number // 10 // TURNS}")).text


async def embed(app: ai.App, number: int) -> None:
    assert (await ai.AsyncOpenAI().embeddings.create(model="e", input=f"embed {number}")).data


KINDS: list[Any] = [generate, replay, stream, fail, generate, leave_a_stream, converse, replay, stream, embed]


def sample(app: ai.App, calls: int) -> Sample:
    gc.collect()
    here, keeper = psutil.Process(), keeper_of(app)
    return Sample(calls, megabytes(here), here.num_fds(), megabytes(keeper), keeper.num_fds())


def keeper_of(app: ai.App) -> psutil.Process:
    pid = Folder(app.store.path).keeper_pid()
    assert pid is not None
    return psutil.Process(pid)


def megabytes(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 1e6


def answer(call: Received) -> Fault | None:
    return Fault(400) if call.prompt.startswith("fail") else None


@TRIES.both
def test_memory_and_files_stay_flat(endpoint: Endpoint, tmp_path: Path, tries: int, figure: Figure):
    endpoint.reply(answer)
    with Child(soak, str(tmp_path / "ledger.duckdb"), tries) as child:
        said: list[Sample] = [child.hear(PATIENCE) for _ in range(PARTS + 2)]
        assert child.wait() == 0
    for one in said:
        print(
            f"\n{one.calls:6} calls: {one.memory:.1f} MB, {one.files} files;"
            f" keeper {one.keepers_memory:.1f} MB, {one.keepers_files} files",
            end="",
        )
    first_rest, last_rest = said[WARM], said[-1]
    warm = said[WARM + 1 : -1]
    thousands = [one.calls / 1000 for one in warm]
    here = slope(thousands, [one.memory for one in warm])
    span = (last_rest.calls - first_rest.calls) / 1000
    more = last_rest.keepers_memory - first_rest.keepers_memory
    most = max(one.keepers_memory for one in warm)
    assert here * span < HERE
    assert more < KEEPER + SLOPE * span
    assert most < first_rest.keepers_memory + LOG
    for files in ([one.files for one in warm], [one.keepers_files for one in warm]):
        assert max(files) - min(files) <= FILES, files
    figure(
        f"in {span * 1000:,.0f} calls once warm {here * span:+.1f} MB in the notebook, {more:+.1f} MB in the keeper"
        f" at rest ({warm[-1].memory:.0f} and {last_rest.keepers_memory:.0f} MB; busy at most {most:.0f}); open files"
        f" {warm[0].files} and {warm[0].keepers_files}, then {warm[-1].files} and {warm[-1].keepers_files}",
        f"{tries:,} calls",
    )


def slope(calls: list[float], values: list[float]) -> float:
    return statistics.linear_regression(calls, values).slope
