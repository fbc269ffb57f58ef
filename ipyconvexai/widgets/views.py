"""The widgets' common ground: what anywidget is told, and how a page is heard while a cell runs. The door to anywidget.

Promises: what a page says is handed to the background loop, so that the thread that hears it waits for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

__all__ = ["ChatView", "hears_while_busy", "in_kernel"]

ASSETS = Path(__file__).parent / "static"

Said = dict[str, Any]


class View(anywidget.AnyWidget):
    """One widget. `state`: what a page that opens later begins with; it is in a saved notebook, too."""

    state = traitlets.Dict().tag(sync=True)

    def __init__(self, state: Said, heard: Callable[[Said], None]) -> None:
        """`heard` is given what the page says, in whatever thread hears it: hand over and return."""
        super().__init__(state=state)
        self._heard = heard
        self._early = 0  # what was heard before its turn, and comes once more
        self.on_msg(self._on_message)
        if hasattr(self.comm, "_reply_subshell_for"):  # ipykernel 7.4 would send it to where the widget last spoke
            self.comm._reply_subshell_for = self._route

    def _route(self, data: Any, subshell: str | None) -> str | None:
        """Asked as a message arrives, in a thread that is never busy: what comes from a page that knows no subshells is
        heard here."""
        said = data.get("content") if isinstance(data, dict) and data.get("method") == "custom" else None
        if subshell is None and isinstance(said, dict):
            self._early += 1
            self._heard(said)
        return subshell

    def _on_message(self, _widget: Any, said: Any, _buffers: Any) -> None:
        if self._early:
            self._early -= 1
        elif isinstance(said, dict):
            self._heard(said)


class ChatView(View):
    _esm = ASSETS / "chat.js"
    _css = ASSETS / "chat.css"


def in_kernel() -> bool:
    """Whether there is a page that could show a widget."""
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def hears_while_busy() -> bool:
    """Whether the kernel hears a page while a cell runs: ipykernel 6 does not."""
    from IPython.core.getipython import get_ipython

    return bool(getattr(getattr(get_ipython(), "kernel", None), "_supports_kernel_subshells", False))
