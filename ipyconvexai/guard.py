"""What a query or a mutation may not do: reach the network, or start a process.

Floor 0: calls errors only. It is a guard against accidents, not a sandbox: it hears what the interpreter tells about
itself (audit events), and what begins in the same context. It does not hear a connection that was open before (so
whatever sends by one asks `check` itself), what a C library does on its own, or, before Python 3.12, a thread that the
function starts, which does not inherit the context. Where the guard was never entered nothing is installed; once it
is, the hook stays for the life of the process (Python has no way to remove one), costs the events of others one look
into a frozenset, and refuses nothing outside of `inside`.
"""

from __future__ import annotations

import sys
import threading
from contextvars import ContextVar, Token
from types import TracebackType

from ipyconvexai.errors import NotAllowedError

__all__ = ["check", "current", "inside", "lifted"]

_CURE = "Do it in an action: @ai.action, and write its result with ctx.run_mutation."

_NETWORK = "reaching the network"
_PROCESS = "starting a process"
_THREAD = "starting a thread"
_REFUSED = {  # the events of Python's audit table; those that this Python does not know never come
    "socket.connect": _NETWORK,
    "socket.bind": _NETWORK,
    "socket.sendto": _NETWORK,
    "socket.sendmsg": _NETWORK,
    "socket.getaddrinfo": _NETWORK,
    "socket.getnameinfo": _NETWORK,
    "socket.gethostbyname": _NETWORK,
    "socket.gethostbyaddr": _NETWORK,
    "subprocess.Popen": _PROCESS,
    "os.system": _PROCESS,
    "os.fork": _PROCESS,
    "os.forkpty": _PROCESS,
    "os.exec": _PROCESS,
    "os.posix_spawn": _PROCESS,
    "os.spawn": _PROCESS,
    "os.startfile": _PROCESS,
    "pty.spawn": _PROCESS,
    "_thread.start_new_thread": _THREAD,  # Python 3.12 and later
    "_thread.start_joinable_thread": _THREAD,  # 3.13
    "time.sleep": "sleeping",  # 3.13
}


class _Mark:
    """Which function the code runs in. Contexts are copied (by tasks, by callbacks): a copy ends with its original."""

    __slots__ = ("kind", "name", "over")

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        self.over = False

    def refusal(self, what: str) -> NotAllowedError:
        return NotAllowedError(f"{what} is not allowed in the {self.kind} `{self.name}`", cure=_CURE)


_mark: ContextVar[_Mark | None] = ContextVar("ipyconvexai_guard", default=None)
_installing = threading.Lock()
_installed = False


def _install() -> None:
    global _installed
    with _installing:
        if _installed:
            return
        refused = frozenset(_REFUSED)

        # Bound as defaults: quicker than globals, and still there while the interpreter takes modules apart.
        def hook(event: str, args: object, refused=refused, get=_mark.get, texts=_REFUSED) -> None:  # type: ignore[no-untyped-def] # the types are those of the values
            if event in refused:
                mark = get()
                if mark is not None and not mark.over:
                    raise mark.refusal(f"{texts[event]} ({event})")

        sys.addaudithook(hook)
        _installed = True


class inside:  # reads as a function, and is a class because a generator would cost four times as much
    """``with inside("mutation", "send_message"):`` what is refused there raises NotAllowedError."""

    __slots__ = ("_mark", "_token")

    def __init__(self, kind: str, name: str) -> None:
        self._mark = _Mark(kind, name)
        self._token: Token[_Mark | None] | None = None

    def __enter__(self) -> None:
        if not _installed:
            _install()
        self._token = _mark.set(self._mark)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._mark.over = True
        if self._token is not None:
            _mark.reset(self._token)


class lifted:  # as above
    """``with lifted():`` for the package's own work inside a function: its socket to the ledger, its threads."""

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token = _mark.set(None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _mark.reset(self._token)


def current() -> str | None:
    """The kind of function the calling code runs in (``"query"``, ``"mutation"``), or None."""
    mark = _mark.get()
    return None if mark is None or mark.over else mark.kind


def check(what: str) -> None:
    """Refuse `what` ("calling a model") inside a query or a mutation.

    Raises:
        NotAllowedError: the calling code runs in one.
    """
    mark = _mark.get()
    if mark is not None and not mark.over:
        raise mark.refusal(what)
