"""The keeper is killed, stopped, or of another version of the package, while processes work: see `PROMISE`.

That nothing acknowledged is lost thereby is another promise, `test_acknowledged_rows.py`.
"""

from __future__ import annotations

import functools
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
from typing import NamedTuple

import pytest

import ipyconvexai as ai
from ipyconvexai.errors import Error, KeeperUnavailableError, OtherVersionError
from ipyconvexai.store import wire
from ipyconvexai.store.folder import Folder
from ipyconvexai.store.link import KeeperStore
from ipyconvexai.testing import Endpoint
from tests.promises.children import Child, Say
from tests.promises.promising import Figure, Tries
from tests.store.helpers import add, append, row, stop, titles, wait_for

PROMISE = (
    "the keeper may die (a wait of at most 1 s beyond the start of a Python), stand still (told after 10 s) or be of"
    " another version (told at once): then all goes on"
)
TRIES = Tries(10, 50, "kills of the keeper")

LATENCY = 0.02  # seconds that the provider takes
EVERY = 0.15  # seconds between two calls of a thread; each of four processes has two
BEYOND = 1.0  # seconds for which a process may be stopped beyond those that Python takes to start
START = 0.5  # seconds that this takes at the most where a machine has not much other work; else all takes more
TOLD = 10.0  # seconds after which one that stands still is told
AT_ONCE = 1.0
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
            sum(number * number for number in range(100_000))
            time.sleep(0.005)

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
        killed = kill_some(endpoint, ledger, tries)
        over.touch()
        calls = [child.hear() for child in children]
    finally:
        for child in children:
            child.kill()
    assert [call for each in calls for call in each if isinstance(call, str)] == []
    assert len({kill.pid for kill in killed}) == tries
    pauses = {kill: max(longest(each, kill.at) for each in calls) - LATENCY for kill in killed}
    beyond = {kill: pause - kill.start for kill, pause in pauses.items()}
    assert [more for kill, more in beyond.items() if more > BEYOND * max(1.0, kill.start / START)] == [], pauses
    figure(
        f"a process stopped for {statistics.median(pauses.values()):.2f} s (median), {max(pauses.values()):.2f} s at"
        f" most, of which beyond the start of a Python {max(beyond.values()):.2f} s; 0 of"
        f" {sum(map(len, calls)):,} calls failed",
        f"{tries} kills under {PROCESSES} processes",
    )


class Kill(NamedTuple):
    pid: int
    start: float  # seconds that a Python took to start just before
    at: float


def kill_some(endpoint: Endpoint, ledger: str, tries: int) -> list[Kill]:
    killed: list[Kill] = []
    for number in range(tries):
        wait_for_more(endpoint)
        start = seconds_to_start() if number % 3 == 0 else killed[-1].start
        pid = wait_for(Folder(ledger).keeper_pid, "a keeper")
        os.kill(pid, signal.SIGKILL)
        killed.append(Kill(pid, start, time.monotonic()))
    wait_for_more(endpoint)
    return killed


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
    assert wire.PATIENCE == wire.SEND_LIMIT == TOLD
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
    assert max(took.values()) < limit + AT_ONCE, took
    add(known, "after")
    assert [title for title in titles(fresh) if title in ("before", "after")] == ["before", "after"]
    assert Folder(ledger).keeper_pid() == keeper
    known.close()
    fresh.close()
    figure(f"a stopped one was told after {max(took.values()):.1f} s at a limit of {limit} s; then all went on")


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
    "version": ("__init__.py", f'"{ai.__version__}"', '"0.0.9"'),
    "protocol": ("store/wire.py", "\nPROTOCOL = ", "\nPROTOCOL = 100 + "),
    "schema": ("store/versions.py", "return max(", "return 100 + max("),
    # Before keepers told of their tables, and clients their names.
    "no schema": ("store/versions.py", '"protocol": PROTOCOL, "schema": _schema()', '"protocol": PROTOCOL'),
    "no names": ("store/folder.py", '_own_name().encode("utf-8", "replace")', 'b""'),
    # A keeper of before there was a way to have it end.
    "lingers": ("store/folder.py", 'return os.path.exists(self.file("end"))', "return False"),
}


@pytest.fixture(scope="module")
def other_version(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a copy of the package with some of `CHANGES`; gives the folder to import from."""

    @functools.cache
    def make(*changes: str) -> Path:
        home = tmp_path_factory.mktemp("other")
        copy = home / "ipyconvexai"
        shutil.copytree(PACKAGE, copy)  # what is compiled, too: it is good as long as the source has its time and size
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


def leave(other: Other, keeper: int) -> None:
    """What the message says to do."""
    other.end()


def kill(other: Other, keeper: int) -> None:
    """Its client is still there; the next keeper is of whoever asks first."""
    os.kill(keeper, signal.SIGKILL)


@pytest.mark.parametrize(("change", "end"), [("protocol", leave), ("schema", kill)], ids=["protocol", "schema"])
def test_a_keeper_of_another_version_is_told_with_a_way_out(
    app: ai.App, other_version: Callable[..., Path], change: str, end: Callable[[Other, int], None], figure: Figure
):
    with Other(other_version("version", change), app.store.path) as other:
        assert other.said == "1"
        began = time.monotonic()
        keeper = Folder(app.store.path).keeper_pid()
        assert keeper is not None
        with pytest.raises(OtherVersionError) as caught:
            ask(app)
        assert time.monotonic() - began < AT_ONCE
        told = str(caught.value)
        assert f"process {keeper} holds the ledger for process {other.pid} (of old.ipynb)" in told
        assert f"another version of ipyconvexai, 0.0.9 (its {change} is 1" in told
        assert "Restart" in caught.value.cure
        assert f"process {other.pid} (of old.ipynb)" in ai.doctor()
        end(other, keeper)
        start, began = seconds_to_start(), time.monotonic()
        assert ask(app) == 1
        took = time.monotonic() - began
    assert took < start + BEYOND
    figure(
        f"one of another version ({change}) was told, with who uses it; {took:.1f} s after"
        f" {'its user' if end is leave else 'it'} had ended all went on"
    )


def test_one_of_before_there_were_names_is_told_by_what_differs(app: ai.App, other_version: Callable[..., Path]):
    """It calls itself as this one does, its users left no name, and it ends when nobody has used it for a while."""
    with Other(other_version("no schema", "no names", "lingers"), app.store.path, linger=1.5) as other:
        assert other.said == "1"
        with pytest.raises(OtherVersionError) as caught:
            ask(app)
        told = str(caught.value)
        assert "holds the ledger for a process that left no name, and" in told
        assert f"another version of ipyconvexai, {ai.__version__} as here (its schema is none, here " in told
        other.end()
        assert ask(app) == 1


def test_an_older_client_is_told_too(app: ai.App, other_version: Callable[..., Path]):
    """The reverse; what it says is of its own version."""
    assert ask(app) == 1
    with Other(other_version("version", "protocol"), app.store.path) as other:
        assert f"holds the ledger for process {os.getpid()}" in other.said
        assert f"of another version of ipyconvexai, {ai.__version__}" in other.said
    assert ask(app) == 1


def test_one_that_nobody_uses_is_in_nobodys_way(app: ai.App, other_version: Callable[..., Path]):
    with Other(other_version("version", "protocol"), app.store.path, linger=300) as other:
        assert other.said == "1"
        other.end()
        assert Folder(app.store.path).keeper_pid() is not None
        assert ask(app) == 1
