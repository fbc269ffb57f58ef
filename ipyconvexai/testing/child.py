"""An endpoint in a process of its own, for benchmarks and for tests that kill their own process.

Starts `python -m ipyconvexai.testing` and talks to it over HTTP; the child ends when its standard input closes,
so also when its parent is killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any, cast
from urllib.parse import urlsplit

from ipyconvexai.errors import Error

KEY_VARIABLE = "IPYCONVEXAI_TESTING_KEY"
_TIMEOUT = 30.0


class ChildEndpoint:
    """A running endpoint in another process; see `spawn`.

    Attributes:
        url: the base URL for clients, with ``/v1``.
        pid: its process.
    """

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self._process = process
        self.url = url
        self.pid = process.pid

    def stats(self) -> dict[str, int]:
        """The counters: count, in_flight, most_in_flight, disconnects, connections."""
        return self._ask("GET", "/__stats")

    def clear(self) -> None:
        """Sets the counters to zero."""
        self._ask("POST", "/__clear")

    def close(self) -> None:
        """Ends the process; may be called again."""
        _end(self._process)

    def __enter__(self) -> ChildEndpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _ask(self, method: str, path: str) -> dict[str, int]:
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=_TIMEOUT)
        try:
            connection.request(method, path)
            return cast("dict[str, int]", json.loads(connection.getresponse().read()))
        finally:
            connection.close()


def spawn(
    reply: str | None = None,
    *,
    latency: float = 0.0,
    token_delay: float = 0.0,
    key: str | None = None,
    models: Sequence[str] | None = None,
    context: int | None = None,
    keep: int = 0,
    log: str | os.PathLike[str] | None = None,
    port: int = 0,
) -> ChildEndpoint:
    """Starts an endpoint in a child process and returns when it listens; use it in a ``with`` block.

    The arguments are those of `Endpoint`, with one text as its script. Raises Error if the child does not start.
    """
    options: dict[str, Any] = {"reply": reply, "latency": latency, "token-delay": token_delay, "context": context}
    options |= {"keep": keep, "port": port, "log": None if log is None else os.fspath(log)}
    command = [sys.executable, "-m", __package__]
    command += [f"--{name}={value}" for name, value in options.items() if value is not None]
    command += [f"--model={name}" for name in models or ()]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment(key))
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        _end(process)
        raise Error("the endpoint's process did not start", cure="its error output, above, says why")
    return ChildEndpoint(process, json.loads(line)["url"])


def _environment(key: str | None) -> dict[str, str]:
    """The child's environment: it finds this package, and the key where a process list does not show it."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
    return environment | {"PYTHONPATH": path} | ({} if key is None else {KEY_VARIABLE: key})


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
