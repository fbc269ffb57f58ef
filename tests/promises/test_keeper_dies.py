"""The keeper is killed, stopped, or of another version of the package, while processes work: see `PROMISE`.

That nothing acknowledged is lost thereby is another promise, `test_acknowledged_rows.py`.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ipyconvexai as ai
from ipyconvexai.errors import Error, KeeperUnavailableError
from ipyconvexai.store import wire
from ipyconvexai.store.folder import Folder
from ipyconvexai.store.link import KeeperStore
from ipyconvexai.testing import Endpoint
from tests.promises.children import Child, Say
from tests.promises.promising import Figure, Tries
from tests.store.helpers import add, append, row, titles, wait_for

PROMISE = "the keeper may die, stand still or be of another version: a short wait or a clear error, then all goes on"
TRIES = Tries(10, 50, "kills of the keeper")

LATENCY = 0.02  # seconds that the provider takes
EVERY = 0.15  # seconds between two calls of a thread; each of four processes has two
PAUSE = 1.0  # seconds for which a process may be stopped
STARTS = 4  # times that a keeper's imports take, where the machine has so much other work that this is more
GENEROUS = 10.0  # in the short form
PROCESSES = 4
NEXT_KILL = 4  # calls of each process after the one before


# ------------------------------------------------------------------------------------------ it is killed
def work(say: Say, ledger: str, stop: str, computes: bool) -> None:
    """Ask from two threads until the file `stop` is there; says each call's beginning and end, or the error."""
    calls: list[tuple[float, float] | str] = []
    app = ai.connect(ledger, model="openai:gpt-4o-mini")
    say("ready")

    def ask(thread: int) -> None:
        number = 0
        while not os.path.exists(stop):
            number += 1
            began = time.monotonic()
            try:
                app.generate(f"{os.getpid()} {thread} {number}")
            except Error as error:
                calls.append(repr(error))
            calls.append((began, time.monotonic()))
            time.sleep(EVERY)

    def compute() -> None:
        while not os.path.exists(stop):
            sum(number * number for number in range(50_000))

    threads = [threading.Thread(target=ask, args=(thread,)) for thread in range(2)]
    threads += [threading.Thread(target=compute)] if computes else []
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    app.close()
    say(calls)


@TRIES.both
def test_a_killed_keeper_stops_nobody_for_long(endpoint: Endpoint, tmp_path: Path, tries: int, figure: Figure):
    ledger, over = str(tmp_path / "ledger.duckdb"), tmp_path / "over"
    children = [Child(work, ledger, str(over), number == 0) for number in range(PROCESSES)]
    try:
        assert [child.hear() for child in children] == ["ready"] * PROCESSES
        killed: list[tuple[int, float]] = []
        started = 0.0
        for number in range(tries):
            wait_for_more(endpoint)
            if number % 5 == 0:
                started = max(started, seconds_to_start())
            pid = wait_for(Folder(ledger).keeper_pid, "a keeper")
            os.kill(pid, signal.SIGKILL)
            killed.append((pid, time.monotonic()))
        wait_for_more(endpoint)
        over.touch()
        calls = [child.hear() for child in children]
    finally:
        for child in children:
            child.kill()
    assert [call for each in calls for call in each if isinstance(call, str)] == []
    assert len({pid for pid, _ in killed}) == tries
    pauses = [longest(each, at) - LATENCY for each in calls for _, at in killed]
    assert max(pauses) < (GENEROUS if tries == TRIES.short else max(PAUSE, STARTS * started))
    figure(
        f"a process stopped for {statistics.median(pauses):.2f} s (median), {max(pauses):.2f} s at most, where to start"
        f" Python takes {started:.2f} s; 0 of {sum(map(len, calls)):,} calls failed",
        f"{tries} kills under {PROCESSES} processes",
    )


def wait_for_more(endpoint: Endpoint) -> None:
    """Until each process has asked some times: else one call might meet two kills, and wait for both."""
    before = asked(endpoint)

    def has_more(endpoint: Endpoint) -> bool:
        now = asked(endpoint)
        return len(now) == PROCESSES and all(now[process] >= before[process] + NEXT_KILL for process in now)

    endpoint.wait(has_more, timeout=60)


def asked(endpoint: Endpoint) -> Counter[str]:
    """How many questions have come from each process."""
    return Counter(call.prompt.split()[0] for call in endpoint.calls)


def seconds_to_start() -> float:
    """That Python takes to start and to import what a keeper does, at the load of this moment: the least of a pause."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import ipyconvexai.store.keeper"], check=True)
    return time.monotonic() - began


def longest(calls: list[tuple[float, float]], at: float) -> float:
    """Of the calls that were under way at that moment, or began in the second after it."""
    return max((end - began for began, end in calls if end > at and began < at + 1), default=0.0)


# ------------------------------------------------------------------------------------------ it stands still
def test_a_stopped_keeper_is_told_in_time_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Figure):
    monkeypatch.setattr(wire, "SEND_LIMIT", 1.0)
    ledger, limit = str(tmp_path / "ledger.duckdb"), 0.5
    known, fresh = KeeperStore(ledger, patience=limit), KeeperStore(ledger, patience=limit)
    add(known, "before")
    keeper = Folder(ledger).keeper_pid()
    assert keeper is not None
    stop(keeper)

    def transact() -> None:
        with known.transaction() as execute:
            execute("SELECT 1")

    asked: dict[str, Callable[[], object]] = {
        "a line that is open": lambda: known.read("SELECT 1"),
        "the handshake": lambda: fresh.read("SELECT 1"),
        "more than the socket takes": lambda: append(known, row("x" * 5_000_000)).result(20),
        "a transaction": transact,
    }
    took = {}
    try:
        for what, ask in asked.items():
            begun = time.monotonic()
            with pytest.raises(KeeperUnavailableError, match="said nothing"):
                ask()
            took[what] = time.monotonic() - begun
    finally:
        os.kill(keeper, signal.SIGCONT)
    assert max(took.values()) < limit * 10, took
    add(known, "after")
    assert [title for title in titles(fresh) if title in ("before", "after")] == ["before", "after"]
    assert Folder(ledger).keeper_pid() == keeper
    known.close()
    fresh.close()
    figure(f"a stopped one was told after {max(took.values()):.1f} s at a limit of {limit} s; then all went on")


def stop(pid: int) -> None:
    """SIGSTOP, and until each of its threads stands still."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    if tasks.exists():
        wait_for(lambda: all(state_of(task) == "T" for task in tasks.iterdir()), "all threads to stop")


def state_of(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


# ------------------------------------------------------------------------------------------ it is of another version
PACKAGE = Path(ai.__file__).parent
USE = """
import os, sys, ipyconvexai as ai
app = ai.connect(sys.argv[1])
try:
    print(len(app.ledger.sql("SELECT 1").fetchall()), flush=True)
    sys.stdin.read()
except ai.errors.Error as error:
    print(str(error).replace("\\n", " "), flush=True)
app.close()
"""
CHANGES = {
    "protocol": ("store/wire.py", "\nPROTOCOL = ", "\nPROTOCOL = 100 + "),
    "schema": ("store/versions.py", "return max(", "return 100 + max("),
    # A keeper of before there was a way to have it end.
    "lingers": ("store/folder.py", 'return os.path.exists(self.file("end"))', "return False"),
}


@pytest.fixture(scope="module")
def other_version(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a copy of the package that calls itself 0.0.9, with some of `CHANGES`; gives the folder to import from."""

    def make(*changes: str) -> Path:
        home = tmp_path_factory.mktemp("-".join(changes))
        copy = home / "ipyconvexai"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        replace(copy / "__init__.py", f'"{ai.__version__}"', '"0.0.9"')
        for change in changes:
            file, old, new = CHANGES[change]
            replace(copy / file, old, new)
        return home

    return make


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


class Other:
    """A process in which another version is used, until `end`."""

    def __init__(self, home: Path, ledger: str, linger: float = 0.5) -> None:
        environment = os.environ | {"PYTHONPATH": str(home), "JPY_SESSION_NAME": "/home/me/of old.ipynb"}
        environment |= {"IPYCONVEXAI_KEEPER_LINGER": str(linger)}
        command = [sys.executable, "-P", "-c", USE, ledger]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self.said = self._process.stdout.readline().strip()

    def end(self) -> None:
        self._process.communicate("")

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def app(tmp_path: Path) -> Iterator[ai.App]:
    with ai.connect(str(tmp_path / "ledger.duckdb")) as opened:
        yield opened


def ask(app: ai.App) -> int:
    return len(app.ledger.sql("SELECT 1").fetchall())


@pytest.mark.parametrize("change", ["protocol", "schema"])
def test_a_keeper_of_another_version_is_told_with_a_way_out(
    app: ai.App, other_version: Callable[..., Path], change: str, figure: Figure
):
    with Other(other_version(change), app.store.path) as other:
        assert other.said == "1"
        keeper = Folder(app.store.path).keeper_pid()
        with pytest.raises(KeeperUnavailableError) as caught:
            ask(app)
        told = str(caught.value)
        assert f"process {keeper} holds the ledger for process {other.pid} (of old.ipynb)" in told
        assert "0.0.9" in told
        assert "Restart" in caught.value.cure
        assert f"process {other.pid} (of old.ipynb)" in ai.doctor()
        other.end()  # what the message says to do
        began = time.monotonic()
        assert ask(app) == 1
        took = time.monotonic() - began
    assert took < GENEROUS
    figure(
        f"one of another version ({change}) was told, with who uses it; {took:.1f} s after that had ended all went on"
    )


def test_an_older_client_is_told_too(app: ai.App, other_version: Callable[..., Path]):
    """The reverse; what it says is of its own version."""
    assert ask(app) == 1
    with Other(other_version("protocol"), app.store.path) as other:
        assert f"holds the ledger for process {os.getpid()}" in other.said
        assert f"of another version of ipyconvexai, {ai.__version__}" in other.said
    assert ask(app) == 1


@pytest.mark.parametrize("changes", [("protocol",), ("protocol", "lingers")], ids=["asked to end", "lingers"])
def test_one_that_nobody_uses_is_in_nobodys_way(
    app: ai.App, other_version: Callable[..., Path], changes: tuple[str, ...]
):
    with Other(other_version(*changes), app.store.path, linger=3.0 if "lingers" in changes else 300.0) as other:
        assert other.said == "1"
        other.end()
        assert "lingers" in changes or Folder(app.store.path).keeper_pid() is not None
        assert ask(app) == 1


def test_one_that_was_killed_is_in_nobodys_way(app: ai.App, other_version: Callable[..., Path]):
    with Other(other_version("protocol"), app.store.path) as other:
        keeper = Folder(app.store.path).keeper_pid()
        assert keeper is not None
        os.kill(keeper, signal.SIGKILL)
        assert other.said == "1"
    assert ask(app) == 1
