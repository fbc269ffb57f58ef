"""How processes speak with the keeper: framed messages, plain values only, errors by name.

Runs on both sides. Calls the standard library and ``errors``. Promises: nothing that arrives can name a class to build
(a restricted unpickler), every answer has a time limit, and an error of our tree arrives as the same error.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import time
from multiprocessing.connection import Connection
from typing import Any

from ipyconvexai import errors

__all__ = ["LOST", "PROTOCOL", "Line", "pack", "unpack"]

PROTOCOL = 1  # raised when an older keeper could not understand a newer client
LOST = (OSError, EOFError)  # what a connection raises when the other side is gone
ANSWER_PATIENCE = 30.0  # seconds; a stopped keeper must not hang a notebook

_ALLOWED = {("datetime", name) for name in ("datetime", "date", "time", "timedelta", "timezone")} | {
    ("uuid", "UUID"),
    ("decimal", "Decimal"),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} may not travel between processes")


def pack(message: Any) -> bytes:
    return pickle.dumps(message, 5)


def unpack(data: bytes) -> Any:
    return _PlainUnpickler(io.BytesIO(data)).load()


def describe(error: BaseException) -> dict[str, Any]:
    """An error as plain values; what is not of our tree becomes a StoreError."""
    if isinstance(error, errors.Error):
        return {
            "type": type(error).__name__,
            "message": error.message,
            "cure": error.cure,
            "retryable": error.retryable,
            "retry_after": error.retry_after,
        }
    return {"type": "StoreError", "message": f"{type(error).__name__}: {error}", "cure": ""}


def rebuild(description: dict[str, Any]) -> errors.Error:
    fields = dict(description)
    name, message = fields.pop("type"), fields.pop("message")
    kind = getattr(errors, name, errors.StoreError) if name in errors.__all__ else errors.StoreError
    error: errors.Error = kind(message, **fields)
    return error


class Line:
    """A client's connection to the keeper; at rest when no answer is outstanding."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self.at_rest = True

    def ask(self, method: str, *args: Any, patience: float = ANSWER_PATIENCE) -> Any:
        """The keeper's answer to ``method(*args)``.

        Raises:
            OSError, EOFError: the keeper is gone; the caller asks the next one.
            KeeperUnavailableError: no answer within `patience` seconds.
            Error: what the keeper raised.
        """
        self.at_rest = False
        self._connection.send_bytes(pack((method, args)))
        if not self._connection.poll(patience):
            raise errors.KeeperUnavailableError(
                f"the process that holds the ledger did not answer within {patience:g} s",
                cure="It may be stopped or very busy. See it with `ipyconvexai doctor`; ending it loses nothing.",
            )
        fine, answer = unpack(self._connection.recv_bytes())
        self.at_rest = True
        if fine:
            return answer
        raise rebuild(answer)

    def tell(self, method: str, *args: Any) -> None:
        """Ask for a series of messages; read them with ``hear``."""
        self.at_rest = False
        self._connection.send_bytes(pack((method, args)))

    def hear(self, timeout: float | None = None) -> Any:
        """The next message of a series; None when `timeout` seconds passed without one."""
        return unpack(self._connection.recv_bytes()) if self._connection.poll(timeout) else None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.close()


def wait_until(deadline: float, pause: float = 0.01) -> bool:
    """Sleep a moment; False when `deadline` (``time.monotonic`` seconds) has passed."""
    if time.monotonic() >= deadline:
        return False
    time.sleep(pause)
    return True
