"""``ipyconvexai worker``: what it loads, what it leaves out, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipyconvexai import worker
from ipyconvexai.errors import InputError
from ipyconvexai.functions import jobs
from ipyconvexai.functions.crons import crons
from ipyconvexai.functions.jobs import NewJob
from ipyconvexai.functions.registry import registry
from ipyconvexai.ids import new_id
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.link import KeeperStore
from tests.store.helpers import ROOT, line_of, wait_for

SOURCE = """
import asyncio
import ipyconvexai as ai
from helper_beside import TITLE

@ai.mutation
def worker_note(ctx, n: int) -> int:
    return n + len(TITLE)

@ai.action
async def worker_long(ctx) -> None:
    await asyncio.sleep(0.5)

@ai.action
async def worker_endless(ctx) -> None:
    await asyncio.Event().wait()

@ai.action
async def worker_fails(ctx) -> None:
    raise ValueError("bad \\x1b[31mluck")

if __name__ == "__main__":
    raise SystemExit("this is not for a worker")
"""


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """What a test defines, and where it looked for modules, ends with it."""
    before, path = registry.names(), list(sys.path)
    yield
    for name in registry.names() - before:
        registry.discard(name)
    for name in list(crons.all()):
        crons.discard(name)
    sys.path[:] = path
    sys.modules.pop("helper_beside", None)
    sys.modules.pop(worker.MODULE, None)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "helper_beside.py").write_text("TITLE = 'abc'\n")
    path = tmp_path / "my_functions.py"
    path.write_text(SOURCE)
    return path


def notebook(path: Path, *cells: str) -> Path:
    described = [
        {"cell_type": "code", "metadata": {}, "source": cell.splitlines(True), "outputs": []} for cell in cells
    ]
    described.insert(0, {"cell_type": "markdown", "metadata": {}, "source": ["# a title"]})
    path.write_text(json.dumps({"cells": described, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def schedule(store: KeeperStore, name: str, kind: str = "action", args: str = "{}") -> str:
    key, now = new_id(), utc_now()
    with store.transaction() as execute:
        jobs.insert(execute.later, NewJob(key, name, kind, args, "ann", now, now))
    return key


def state(store: KeeperStore, key: str) -> tuple[Any, ...]:
    return store.read("SELECT state, result, error_code FROM scheduled_functions WHERE id = ?::UUID", [key])[0]


# ---------------------------------------------------------------------------------------------- loading
def test_a_file_is_loaded_whole_but_not_as_the_main_program(script: Path):
    module = worker.load(script)
    assert module.__name__ == worker.MODULE
    assert module.worker_note(None, 1) == 4
    assert {"worker_note", "worker_long"} <= registry.names()


def test_of_a_notebook_only_what_defines_is_run(tmp_path: Path):
    path = notebook(
        tmp_path / "paid.ipynb",
        "%load_ext ipyconvexai\nimport ipyconvexai as ai\nimport math, json",
        '"""A remark."""\nLIMIT = -3\nNAMES: list[str] = ["a", "b"]\nPAIR = DOUBLE = {"a": (1, 2)}\nTWICE = 2 * LIMIT',
        'limiter = ai.rate_limit("asks", rate=10, per=60)\npolicy = ai.Retry(attempts=2)',
        "answer = ai.generate('costs money')\nprint(answer)",
        "text = answer.text\nfor name in NAMES:\n    print(name)",
        "%%ai openai\nthis costs money, too",
        "!rm -rf nothing",
        "answer?",
        "@ai.mutation\ndef from_a_notebook(ctx, n: int = LIMIT) -> int:\n    return n\n\nclass Kept:\n    x = 1",
        "await ai.arun(from_a_notebook)",
    )
    said: list[str] = []
    module = worker.load(path, said.append)
    found = vars(module)
    assert (found["LIMIT"], found["NAMES"], found["PAIR"], found["TWICE"]) == (-3, ["a", "b"], {"a": (1, 2)}, -6)
    assert {"math", "json", "limiter", "policy", "Kept", "from_a_notebook"} <= found.keys()
    assert not found.keys() & {"answer", "name", "text"}
    assert len(said) == 1
    for part in ("ai.generate('costs money')", "print(answer)", "for name in NAMES", "await ai.arun", "[4]"):
        assert part in said[0]
    assert "A remark" not in said[0]


def test_definitions_that_need_what_is_left_out_are_an_error_that_says_so(tmp_path: Path):
    path = notebook(tmp_path / "n.ipynb", "import ipyconvexai as ai\nclient = ai.OpenAI()", "def f(x=client): ...")
    with pytest.raises(InputError, match=r"n.ipynb\[2\].*client") as caught:
        worker.load(path, lambda line: None)
    assert "imports, definitions and constants only" in caught.value.cure


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("gone.py", None, "cannot be read"),
        ("text.txt", "x = 1", "neither"),
        ("broken.py", "def f(:\n", "line 1"),
        ("raises.py", "1 / 0\n", "ZeroDivisionError"),
        ("no.ipynb", "{}", "is no notebook"),
        ("no.ipynb", "nothing", "is no notebook"),
        ("empty.py", "x = 1\n", "defines no mutation and no action"),
        ("latin.py", b"# \xe9\n", "UTF-8"),
    ],
)
def test_what_cannot_be_run_is_said_and_ends_with_2(tmp_path: Path, name: str, text: str | bytes | None, words: str):
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    said: list[str] = []
    assert worker.main(path, db=":memory:", say=said.append) == 2
    assert words in said[-1]


# ---------------------------------------------------------------------------------------------- running
def test_each_job_is_a_line(script: Path, tmp_path: Path):
    ledger = tmp_path / "ledger.duckdb"
    store = KeeperStore(ledger)
    keys = [schedule(store, "worker_note", "mutation", '{"n": 1}'), schedule(store, "worker_fails")]
    said: list[str] = []
    stop, codes = threading.Event(), list[int]()

    def work() -> None:
        codes.append(worker.main(script, db=str(ledger), user="owner", grace=5, say=said.append, stop=stop))

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: all(state(store, key)[0] in ("success", "failed") for key in keys), "both jobs")
    wait_for(lambda: sum("ValueError" in line for line in said), "the line of the failure")
    stop.set()
    thread.join(20)
    assert codes == [0]
    assert state(store, keys[0]) == ("success", "4", None)
    assert "worker_endless, worker_fails, worker_long, worker_note" in said[0]
    lines = "\n".join(said)
    assert f"started  worker_note {keys[0]}" in lines
    assert f"done     worker_note {keys[0]}" in lines
    assert f"failed   worker_fails {keys[1]}" in lines
    assert "ValueError: bad luck" in lines
    assert said[-1] == "stopped"
    store.close()


def start(script: Path, ledger: Path, *options: str) -> subprocess.Popen[str]:
    code = (
        "import sys, functools; from ipyconvexai import worker;"
        "sys.exit(worker.main(sys.argv[1], db=sys.argv[2], grace=float(sys.argv[3])))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(script), str(ledger), *(options or ("10",))],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def test_sigterm_finishes_what_runs(script: Path, tmp_path: Path):
    ledger = tmp_path / "ledger.duckdb"
    store = KeeperStore(ledger)
    key = schedule(store, "worker_long")
    process = start(script, ledger)
    wait_for(lambda: state(store, key)[0] == "in_progress", "the job to begin")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert state(store, key)[0] == "success"
    assert output.splitlines()[-1] == "stopped"
    assert "Traceback" not in output
    store.close()


def test_sigterm_interrupts_what_does_not_end_in_time_and_a_second_signal_ends_at_once(script: Path, tmp_path: Path):
    ledger = tmp_path / "ledger.duckdb"
    store = KeeperStore(ledger)
    first, second = schedule(store, "worker_endless"), None
    process = start(script, ledger, "0.2")
    wait_for(lambda: state(store, first)[0] == "in_progress", "the job to begin")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert state(store, first) == ("failed", None, "interrupted")

    second = schedule(store, "worker_endless")
    process = start(script, ledger, "600")
    wait_for(lambda: state(store, second)[0] == "in_progress", "the job to begin")
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: "stopping" in line_of(process), "it to hear")
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 10
    wait_for(lambda: state(store, second) == ("failed", None, "interrupted"), "the keeper to judge", 10)
    store.close()


def test_a_cron_in_a_file_runs(tmp_path: Path):
    path, ledger = tmp_path / "clock.py", tmp_path / "ledger.duckdb"
    path.write_text(
        "import ipyconvexai as ai\nfrom ipyconvexai.functions.crons import cron\n\n"
        "@cron.interval(seconds=0.2)\n@ai.mutation\ndef worker_tick(ctx) -> None: ...\n"
    )
    store = KeeperStore(ledger)
    process = start(path, ledger)
    try:
        sql = "SELECT count(*) FROM scheduled_functions WHERE cron = 'worker_tick' AND state = 'success'"
        wait_for(lambda: store.read(sql)[0][0] >= 2, "two runs")
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    store.close()


@pytest.mark.parametrize(
    "wait",
    [
        # The main thread holds the event's lock: a handler that sets the event would wait for itself.
        "with self._cond:\n   os.kill(os.getpid(), signal.SIGTERM)\n   for _ in range(1000): pass",
        # Another thread takes the signal, so that nothing wakes the main one to run a handler.
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "  threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()",
    ],
    ids=["as it begins to wait", "to another thread"],
)
def test_a_signal_is_heard(wait: str):
    code = (
        "import os, signal, threading; from ipyconvexai import worker\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "class Stop(threading.Event):\n"
        f" def wait(self, timeout=None):\n  {wait}\n"
        "  return super().wait(timeout)\n"
        "stop = Stop()\n"
        "with worker._signals(stop):\n"
        "    print(stop.wait(5))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=30)
    assert seen.stdout == "True\n", seen.stderr
