"""The widgets' common ground: what anywidget is told, and how a page is heard. The door to anywidget.

Promises: what a page says is heard while a cell runs, where the kernel can, and given on in the thread that hears it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from ipyconvexai.hearing import Ear

__all__ = ["ChatView", "FormView"]

Said = dict[str, Any]


def asset(name: str) -> str:
    """The page or the style of this name, with what all of them share before it: a widget's is one text."""
    folder = Path(__file__).parent / "static"
    return "\n".join((folder / each).read_text("utf-8") for each in (f"common{Path(name).suffix}", name))


class View(anywidget.AnyWidget):
    """One widget. `state`: what a page that opens later begins with; it is in a saved notebook, too."""

    state = traitlets.Dict().tag(sync=True)

    def __init__(self, state: Said, heard: Callable[[Said], None]) -> None:
        """`heard` is given what the page says, in whatever thread hears it: hand over and return."""
        super().__init__(state=state)
        ear = Ear(self.comm, _said, heard)
        self.on_msg(lambda _widget, said, _buffers: ear.in_turn(said))


def _said(data: dict[str, Any]) -> Said | None:
    said = data.get("content") if data.get("method") == "custom" else None
    return said if isinstance(said, dict) else None


class ChatView(View):
    _esm = asset("chat.js")
    _css = asset("chat.css")


class FormView(View):
    _esm = asset("form.js")
    _css = asset("form.css")
