"""What the store's tests share: rows, waiting for a condition, children in processes of their own."""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil

from ipyconvexai.errors import Error
from ipyconvexai.ids import new_id
from ipyconvexai.store.clock import Clock, SteadyClock, utc_now
from ipyconvexai.store.link import Store

COLUMNS = ("id", "created_at", "title")
ROOT = Path(__file__).parents[2]
HEAD = """
import os, signal, sys, threading, time
from ipyconvexai.store.link import *
from tests.store.helpers import *
"""


def row(title: Any = "a title", key: Any = None) -> tuple[Any, ...]:
    """A row of ``conversations``, which is the smallest table."""
    return (key or new_id(), utc_now(), title)


def append(store: Store, *rows: tuple[Any, ...]) -> Future[None]:
    """Appends rows as one insert; done when the store has answered."""
    future: Future[None] = Future()

    def receipt(error: Error | None) -> None:
        future.set_result(None) if error is None else future.set_exception(error)

    store.append("conversations", COLUMNS, list(rows), receipt)
    return future


def add(store: Store, *titles: str) -> list[str]:
    """Append and wait; gives the ids."""
    rows = [row(title) for title in titles]
    append(store, *rows).result(60)
    return [row[0] for row in rows]


def titles(store: Store) -> list[str]:
    return [title for (title,) in store.read("SELECT title FROM conversations ORDER BY id")]


def clock_from(*date: int) -> Clock:
    """A clock for limits that goes on from this moment in UTC, so that no hour or day ends in the middle of a test."""
    begun, clock = datetime.datetime(*date, tzinfo=datetime.UTC).timestamp(), SteadyClock()  # type: ignore[misc, arg-type]
    offset = begun - clock()
    return Clock(lambda: offset + clock())


def begin_call(store: Store) -> str:
    """Write an intent and no outcome; gives its id."""
    request = new_id()
    future: Future[None] = Future()
    columns = ("id", "attempt", "sent_at", "endpoint", "session_id")
    values = (request, 1, utc_now(), "chat/completions", store.session_id)
    store.append("requests", columns, [values], lambda error: future.set_result(None))
    future.result(60)
    return request


def status(store: Store, request: str) -> str:
    return str(store.read("SELECT status FROM calls WHERE id = ?", [request])[0][0])


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 20.0, every: float = 0.01) -> Any:
    """The first true value of `condition`, which is asked for again every so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(every)
    return value


def keepers_of(path: str | Path) -> list[int]:
    """Process ids of living keepers of this ledger."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = process.info["cmdline"] or []
        if command[-2:] == ["ipyconvexai.store.keeper", str(path)] and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def kill_keeper(path: str) -> int:
    """Kill the ledger's keeper with SIGKILL and wait until it has gone; gives its process id."""
    (pid,) = keepers_of(path)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: _is_gone(pid), "the keeper to die")
    return pid


def stop_keeper(path: str) -> int:
    """Stop the ledger's keeper as ``stop`` does; gives its process id."""
    (pid,) = keepers_of(path)
    stop(pid)
    return pid


def stop(pid: int) -> None:
    """SIGSTOP, and until each of its threads stands still."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    if tasks.exists():
        wait_for(lambda: all(_is_stopped(task) for task in tasks.iterdir()), "all threads to stop")


def _is_stopped(task: Path) -> bool:
    return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"


def _is_gone(pid: int) -> bool:
    """Also its last thread: as long as one of them ends, its locks are held."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
    except psutil.NoSuchProcess:
        return True


def child(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """A Python process that runs `code`, with `arguments` in ``sys.argv[1:]`` and pipes for stdin and stdout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line a child prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def finish(process: subprocess.Popen[str], text: str = "") -> str:
    """Tell the child to go on (its stdin ends), wait for a clean end; gives the rest of what it printed."""
    output, _ = process.communicate(text, timeout=60)
    assert process.returncode == 0
    return output


def kill(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()
        process.communicate()
