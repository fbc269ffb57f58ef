"""Processes to be killed, forked off one that has imported the package: each costs 20 ms instead of a second.

A child runs a function of a test's module, which is given `say` first: what it says stays readable after its death.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
# Imports alone: no thread and no connection may be there when children are forked off.
_CONTEXT.set_forkserver_preload(["tests.promises.imported"])
PATIENCE = 60.0  # seconds for a word of a child, or its end

Say = Callable[[Any], None]


class Child:
    """Runs ``target(say, *args)`` with the environment that this process has now; killed at the latest at the end of
    its ``with`` block."""

    def __init__(self, target: Callable[..., object], *args: Any) -> None:
        main = sys.modules["__main__"]
        if not hasattr(
            main, "__spec__"
        ):  # that of a shell which an earlier test began here; multiprocessing asks for it
            main.__spec__ = None
        self._heard, said = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_run, args=(dict(os.environ), said, target, args))
        self._process.start()
        said.close()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def hear(self, patience: float = PATIENCE) -> Any:
        """What it says next.

        Raises:
            EOFError: it has ended, and everything was heard.
            TimeoutError: it says nothing.
        """
        if not self._heard.poll(patience):
            raise TimeoutError(f"the child {self.pid} says nothing")
        return self._heard.recv()

    def rest(self) -> Iterator[Any]:
        """All that it says until its end."""
        with contextlib.suppress(EOFError):
            while True:
                yield self.hear()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> list[Any]:
        """SIGKILL; gives what it had said and nobody had heard."""
        self._process.kill()
        self._process.join()
        return list(self.rest())

    def wait(self, patience: float = PATIENCE) -> int:
        """Until it ends by itself; gives its exit code, or minus the signal that killed it.

        Raises:
            TimeoutError: it does not end.
        """
        self._process.join(patience)
        if self._process.exitcode is None:
            raise TimeoutError(f"the child {self.pid} does not end")
        return self._process.exitcode

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._process.kill()
        self._process.join()
        self._heard.close()
        self._process.close()


def _run(
    environment: dict[str, str], said: Connection[Any, Any], target: Callable[..., object], args: tuple[Any, ...]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    target(said.send, *args)
