"""How processes speak with the keeper: framed messages, plain values only, errors by name.

Runs on both sides. Calls the standard library and ``errors``. Promises: nothing that arrives can name a class to build
(a restricted unpickler), silence has a time limit on both ways, and an error of our tree arrives as the same error.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import socket
import struct
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from typing import Any, cast

from ipyconvexai import errors

__all__ = [
    "BUSY",
    "LOST",
    "PATIENCE",
    "PROTOCOL",
    "Line",
    "describe",
    "dial",
    "hang_up",
    "limit_sending",
    "pack",
    "rebuild",
    "unpack",
    "wait_until",
]

PROTOCOL = 2  # raised when an older keeper could not understand a newer client
LOST = (OSError, EOFError)  # what a connection raises when the other side is gone
PATIENCE = 10.0  # seconds of silence; a stopped keeper must not hang a notebook
BUSY = (None, None)  # sent about once a second while a request is being worked on: only silence is judged
SEND_LIMIT = 10.0  # seconds until the other side must have taken what it was sent

_ALLOWED = {("datetime", name) for name in ("datetime", "date", "time", "timedelta", "timezone")} | {
    ("uuid", "UUID"),
    ("decimal", "Decimal"),
    ("builtins", "str"),
}


class _PlainPickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        """A string of a subclass, as numpy's, travels as the plain one."""
        return (str, (str.__str__(obj),)) if isinstance(obj, str) else NotImplemented


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise errors.InputError(
            f"a value of type {module}.{name} cannot be written",
            cure="Use plain values: str, int, float, bool, bytes, None, datetime, UUID, Decimal; lists, dicts of them.",
        )


def pack(message: Any) -> bytes:
    """`message` as bytes; an InputError when it holds what cannot be turned into bytes."""
    try:
        data = pickle.dumps(message, 5)
        if b"numpy" not in data:  # the other pickler takes twice as long, for nothing then
            return data
        buffer = io.BytesIO()
        _PlainPickler(buffer, 5).dump(message)
        return buffer.getvalue()
    except Exception as error:  # pickle raises half a dozen kinds
        raise errors.InputError(
            f"a value cannot be written: {error}", cure="Use plain values: str, int, float, bool, bytes, None."
        ) from None


def unpack(data: bytes) -> Any:
    """The message in `data`; an InputError when it names a class that may not travel."""
    return _PlainUnpickler(io.BytesIO(data)).load()


def describe(error: BaseException) -> dict[str, Any]:
    """An error as plain values; what is not of our tree becomes a StoreError."""
    if isinstance(error, errors.Error):
        return {
            "type": type(error).__name__,
            "message": error.message,
            "cure": error.cure,
            "code": error.code,
            "retryable": error.retryable,
            "retry_after": error.retry_after,
        }
    return {"type": "StoreError", "message": f"{type(error).__name__}: {error}", "cure": ""}


def rebuild(description: dict[str, Any]) -> errors.Error:
    """The error that ``describe`` described."""
    fields = dict(description)
    name, message = fields.pop("type"), fields.pop("message")
    kind = getattr(errors, name) if name in errors.__all__ else errors.StoreError
    error: errors.Error = kind(message, **fields)
    return error


def silence(patience: float) -> errors.KeeperUnavailableError:
    return errors.KeeperUnavailableError(
        f"the process that holds the ledger said nothing for {patience:g} s",
        cure="It may be stopped. See it with `ipyconvexai doctor`; ending it loses nothing that was acknowledged.",
    )


# ---------------------------------------------------------------------------------------------- connections
def dial(address: str, key: bytes, patience: float) -> Connection[Any, Any]:
    """An authenticated connection to the keeper at `address`.

    Raises:
        OSError, EOFError, multiprocessing.AuthenticationError: nobody is there who holds the key.
        KeeperUnavailableError: somebody is, and says nothing for `patience` seconds.
    """
    connection = _reach(address, patience)
    try:
        patient = cast("Connection[Any, Any]", _Patient(connection, patience))
        answer_challenge(patient, key)
        deliver_challenge(patient, key)
    except BaseException:
        connection.close()
        raise
    return connection


def _reach(address: str, patience: float) -> Connection[Any, Any]:
    if sys.platform == "win32":
        return cast("Connection[Any, Any]", Client(address))
    deadline = time.monotonic() + patience
    while True:
        with socket.socket(socket.AF_UNIX) as near:
            near.settimeout(patience)
            try:
                near.connect(address)
            except BlockingIOError:  # its queue is full: it is stopped, or many come at once
                if not wait_until(deadline):
                    raise silence(patience) from None
                continue
            near.settimeout(None)
            limit_sending(near.fileno())
            return Connection(near.detach())


def limit_sending(handle: int) -> None:
    """Sending on the socket `handle` fails with BlockingIOError when the other side takes nothing for a while."""
    if sys.platform != "win32":
        with socket.socket(fileno=os.dup(handle)) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(SEND_LIMIT), 0))


def hang_up(connection: Connection[Any, Any]) -> None:
    """End a connection that another thread reads from; closing it would not wake that thread."""
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            connection.close()
        else:
            with socket.socket(fileno=os.dup(connection.fileno())) as same:
                same.shutdown(socket.SHUT_RDWR)


class _Patient:
    """A connection whose every receive has a time limit, for the standard library's handshake."""

    def __init__(self, connection: Connection[Any, Any], patience: float) -> None:
        self._connection = connection
        self._patience = patience

    def send_bytes(self, data: bytes) -> None:
        self._connection.send_bytes(data)

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        if not self._connection.poll(self._patience):
            raise silence(self._patience)
        return self._connection.recv_bytes(maxlength)


class Line:
    """A client's connection to the keeper; at rest when no answer is outstanding."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self.at_rest = True
        self.delivered = False  # the last request reached the other side

    def ask(self, method: str, *args: Any, patience: float = PATIENCE, sent: Callable[[], None] | None = None) -> Any:
        """The keeper's answer to ``method(*args)``; `sent` is called when all of the question is on its way.

        Raises:
            OSError, EOFError: the keeper is gone; the caller asks the next one.
            KeeperUnavailableError: it said nothing for `patience` seconds.
            Error: what the keeper raised, or an InputError for what cannot travel.
        """
        data = pack((method, args))  # first: what cannot travel leaves the line at rest
        self.at_rest = self.delivered = False
        self._connection.send_bytes(data)
        self.delivered = True
        if sent is not None:
            sent()
        while True:
            if not self._connection.poll(patience):
                raise silence(patience)
            fine, answer = unpack(self._connection.recv_bytes())
            if fine is not None:
                break
        self.at_rest = True
        if fine:
            return answer
        error = rebuild(answer)
        if isinstance(error, errors.ClosedError):  # it ends, and has done nothing of this
            self.delivered = self.at_rest = False
            raise EOFError("the keeper ends") from None
        raise error

    def say(self, method: str) -> None:
        """Something that has no answer."""
        self._connection.send_bytes(pack((method, ())))

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
