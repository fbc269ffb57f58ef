"""The widgets' common ground: what anywidget is told, and how a page is heard. The door to anywidget.

Promises: what a page says is heard while a cell runs, where the kernel can, and given on in the thread that hears it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from ipyconvexai import theme
from ipyconvexai.hearing import Ear

__all__ = ["ChatView", "FormView"]

Said = dict[str, Any]


def asset(*names: str) -> str:
    """A widget's page or style, which is one text: what all of them share, then these files."""
    folder = Path(__file__).parent / "static"
    suffix = Path(names[0]).suffix
    files = [(folder / each).read_text("utf-8") for each in (f"common{suffix}", *names)]
    return "\n".join([theme.css(), *files] if suffix == ".css" else files)


class View(anywidget.AnyWidget):
    """One widget. `state`: what a page that opens later begins with; it is in a saved notebook, too."""

    state = traitlets.Dict().tag(sync=True)

    def __init__(self, state: Said, heard: Callable[[Said], None]) -> None:
        """`heard` is given what the page says, in whatever thread hears it: hand over and return.

        What the page says with `bytes` true comes with them, as `buffers`.
        """
        super().__init__(state=state)
        ear = Ear(self.comm, _said, heard)

        def in_turn(_widget: Any, said: Any, buffers: list[Any]) -> None:
            if isinstance(said, dict) and said.get("bytes"):
                heard({**said, "buffers": buffers})
            else:
                ear.in_turn(said)

        self.on_msg(in_turn)


def _said(data: dict[str, Any]) -> Said | None:
    """What may be heard early: not what comes with bytes, which are not there yet."""
    said = data.get("content") if data.get("method") == "custom" else None
    return said if isinstance(said, dict) and not said.get("bytes") else None


class ChatView(View):
    _esm = asset("tools.js", "context.js", "settings.js", "chat.js")
    _css = asset("chat.css", "tools.css", "context.css")


class FormView(View):
    _esm = asset("form.js")
    _css = asset("form.css")
