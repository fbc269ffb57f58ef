"""How a kernel hears a widget's page while a cell runs. Floor 1: calls IPython only.

A front end may send what its page says to a thread beside the cell's (a subshell). ipykernel 7.4 sends what comes for a
widget to where that widget last spoke, which is the busy cell, unless its comm says otherwise: here, where the front
end wants it. And it asks the comm as a message arrives, in a thread that is never busy: so what a front end says that
knows no subshells, or has none yet, is heard there; it comes once more after the cell, in the cells' thread, and is
known then. What comes in a subshell meanwhile is another saying.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Ear", "hears_while_busy", "in_kernel"]


class Ear:
    """Hears each saying once, as soon as it can be heard.

    Args:
        comm: the widget's.
        said: what is said in a comm's message, or None: it is none of what is to be heard.
        hear: is given it, in whatever thread; it hands over and returns.
    """

    def __init__(self, comm: Any, said: Callable[[dict[str, Any]], Any], hear: Callable[[Any], None]) -> None:
        self._said = said
        self._hear = hear
        self._early = 0
        self._lock = threading.Lock()
        if hasattr(comm, "_reply_subshell_for"):
            comm._reply_subshell_for = self._route

    def _route(self, data: Any, subshell: str | None) -> str | None:
        said = self._said(data) if isinstance(data, dict) else None
        if subshell is None and said is not None:
            with self._lock:
                self._early += 1
            self._hear(said)
        return subshell

    def in_turn(self, said: Any) -> None:
        """What comes when the kernel gets to it."""
        with self._lock:
            known = self._early > 0 and threading.current_thread() is threading.main_thread()
            self._early -= known
        if not known:
            self._hear(said)


def in_kernel() -> bool:
    """Whether there is a page that could show a widget."""
    return _kernel() is not None


def hears_while_busy() -> bool:
    """Not where the kernel (ipykernel 6) reads nothing while a cell runs."""
    return bool(getattr(_kernel(), "_supports_kernel_subshells", False))


def _kernel() -> Any:
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None)
