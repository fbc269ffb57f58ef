"""What the benchmarks share: a function run in a process of its own, what it cost there, and one line of the table.

Standard library only, and light: every measured process imports it. Not for tests: nothing here asserts.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
MODEL = "openai:gpt-4.1-nano"  # a name with a price, since pricing belongs to a call
LONGEST = 180.0  # seconds a measured process may take; longer is a hang, not a figure
KEY = "sk-benchmark-0123456789"


@dataclasses.dataclass(frozen=True)
class Figure:
    """One line of the table: a figure, the target it has, and its ratio to a baseline of the same run."""

    what: str
    value: float | None = None
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    ratio: float | None = None
    baseline: str = ""  # what the ratio refers to
    verdict: str = ""  # instead of the one that follows from the target

    def word(self) -> str:
        if self.verdict or self.value is None:
            return self.verdict
        if self.at_most is not None:
            return "met" if self.value <= self.at_most else "MISSED"
        if self.at_least is not None:
            return "met" if self.value >= self.at_least else "MISSED"
        return ""

    def cells(self) -> tuple[str, ...]:
        figure = "" if self.value is None else f"{_number(self.value)} {self.unit}".rstrip()
        target = "" if self.at_most is None else f"<= {_number(self.at_most)}"
        target = target if self.at_least is None else f">= {_number(self.at_least)}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f} x {self.baseline}"
        return self.what, figure, target, ratio, self.word()


def _number(value: float) -> str:
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


# ---------------------------------------------------------------------------------------------- processes
class ChildError(Exception):
    """A measured process failed; the message is the last line of its error output."""


class Child:
    """A function of a benchmark's module, running in a process of its own.

    Attributes:
        cpu: seconds of CPU of the whole process and of the children it waited for, once ``result`` has returned.
    """

    def __init__(self, function: Callable[..., Any], **arguments: Any) -> None:
        command = [sys.executable, "-m", __spec__.name, function.__module__, function.__name__, json.dumps(arguments)]
        self._output, self._errors = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._errors,
        )
        self._limit = threading.Timer(LONGEST, self._process.kill)
        self._limit.daemon = True
        self._limit.start()
        self.cpu = 0.0

    def result(self) -> Any:
        """What the function gave, once its process has ended; ChildError if that failed."""
        _, status, usage = os.wait4(self._process.pid, 0)
        self._limit.cancel()
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu = usage.ru_utime + usage.ru_stime
        with self._output, self._errors:
            output, errors = _lines(self._output), _lines(self._errors)
        if self._process.returncode != 0:
            raise ChildError(([f"exit status {self._process.returncode}", *errors])[-1])
        return json.loads(output[-1])


def _lines(file: IO[str]) -> list[str]:
    file.seek(0)
    return file.read().strip().splitlines()


def in_child(function: Callable[..., Any], **arguments: Any) -> Any:
    """The result of the function, which is of a module here and gives and takes what JSON can say."""
    return Child(function, **arguments).result()


def _environment() -> dict[str, str]:
    """No key, address or setting of the person who measures."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("IPYCONVEXAI_", "OPENAI_"))}
    paths = [str(ROOT), *filter(None, [ours.get("PYTHONPATH")])]
    return ours | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"}


# ---------------------------------------------------------------------------------------------- inside a child
def cpu_seconds() -> float:
    """Of this process, all its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def most_memory() -> float:
    """The most memory this process has had resident, MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1024 * 1024 if sys.platform == "darwin" else 1024)


def keeper_cpu() -> float:
    """CPU seconds of the keeper that this process started."""
    import psutil

    keepers = [one for one in psutil.Process().children() if "ipyconvexai.store.keeper" in one.cmdline()]
    return sum(one.cpu_times().user + one.cpu_times().system for one in keepers)


@dataclasses.dataclass
class Cost:
    wall: float = 0.0
    cpu: float = 0.0


@contextmanager
def cost() -> Iterator[Cost]:
    """Fills in the seconds that the block took."""
    spent, wall, cpu = Cost(), time.perf_counter(), cpu_seconds()
    yield spent
    spent.wall, spent.cpu = time.perf_counter() - wall, cpu_seconds() - cpu


def use(url: str) -> None:
    """Let the SDK and the package find the endpoint double, as users say it: by the environment."""
    os.environ.update(OPENAI_BASE_URL=url, OPENAI_API_KEY=KEY)


def _serve() -> None:
    module, function, arguments = sys.argv[1:]
    result = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    _serve()
