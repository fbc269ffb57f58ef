"""The progress of a batch in a notebook: a bar, what is counted, and buttons that work while the cell is busy.

The only caller of ipywidgets here. Promises: who presses a button waits for nothing, and neither does the thread that
hears it; labels show text as it is, no markup and no formulas; at the end a line of text takes the widgets' place, so
that a saved notebook has it, and nothing of them is left behind.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ipyconvexai import theme
from ipyconvexai.hearing import Ear, hears_while_busy

if TYPE_CHECKING:
    from ipyconvexai.batch.control import Control
    from ipyconvexai.batch.progress import View

__all__ = ["Panel"]

WIDGET = "application/vnd.jupyter.widget-view+json"
# ipywidgets' labels have $...$ set as formulas; costs are none. The names are those of MathJax 3 and 2.
NO_FORMULAS = ("mathjax_ignore", "tex2jax_ignore")
# A label wraps only where its style is known, what it is in does everywhere: a long state is several labels.
# (A tooltip breaks an HBox of 8.1.9.)
LINE, LINES = 70, 5
COLOURS = {"running": "", "paused": "warning", "canceling": "danger"}
PAUSE = ("Pause", "Begin nothing more until Resume; what is being answered is answered and kept")
RESUME = ("Resume", "Go on")
CANCEL = ("Cancel", "End it: what is being answered is answered and kept. Running the cell again goes on")
DEAF = "This kernel hears no button while a cell runs; ipykernel 7 does. Interrupt it: running the cell again goes on"
# What ipywidgets set otherwise than the theme.
STYLE = """
.ai-widget.ai-batch { overflow: hidden; gap: 0; }
.ai-batch .widget-label {
  height: auto; line-height: 1.5; white-space: normal; overflow-wrap: anywhere;
  font-family: inherit; font-size: inherit; color: inherit;
}
.ai-batch .widget-hbox { gap: 0 8px; }
.ai-batch .ai-counts { color: var(--ai-faint); font-size: 0.85em; }
.ai-batch .jupyter-button {
  height: auto; padding: 5px 12px; font-family: inherit; font-size: inherit; line-height: 1.5; color: inherit;
  background: var(--ai-raised); border: 1px solid var(--ai-edge); border-radius: 4px; box-shadow: none;
}
.ai-batch .jupyter-button:focus-visible { outline: 2px solid var(--ai-brand); outline-offset: 1px; }
.ai-batch .progress { border-radius: 4px; }
.ai-batch .progress-bar:not([class*="progress-bar-"]) { background: var(--ai-brand); }
"""


class Panel:
    """Made, shown and ended in the cell's thread; the buttons are heard in another."""

    def __init__(self, control: Control | None) -> None:
        self._control = control
        self._output: Any = None
        self._widgets: _Widgets | None = None

    def show(self, view: View) -> None:
        if self._widgets is None:
            self._widgets = _Widgets(self._control)
            self._widgets.set(view)
            data = {WIDGET: self._widgets.box.get_view_spec(), "text/plain": view.line}
            self._output = _display(data)
        else:
            self._widgets.set(view)

    def end(self, text: str) -> None:
        if self._widgets is None:
            _display({"text/plain": text})
            return
        self._output.update({"text/plain": text}, raw=True)
        self._widgets.close()


class _Widgets:
    def __init__(self, control: Control | None) -> None:
        import ipywidgets

        self._control = control
        self._open = True
        self._all: list[Any] = []
        self._bar = self._made(ipywidgets.IntProgress, max=1, layout={"flex": "1 1 160px", "width": "auto"})
        self._rows, self._counts = self._label(), self._label()
        self._counts.add_class("ai-counts")
        self._state: list[Any] = []  # made when they are needed
        self._buttons = (
            [] if control is None else [self._button(PAUSE, self._toggle), self._button(CANCEL, control.cancel)]
        )
        wrapped = {"flex_flow": "row wrap", "align_items": "center"}
        buttons = self._made(ipywidgets.HBox, children=self._buttons)  # they stay together in a narrow page
        first = self._made(ipywidgets.HBox, children=[self._bar, self._rows, buttons], layout=wrapped)
        self._second = self._made(ipywidgets.HBox, children=[self._counts], layout=wrapped)
        style = self._made(ipywidgets.HTML, value=f"<style>{theme.css()}{STYLE}</style>", layout={"display": "none"})
        self.box = self._made(ipywidgets.VBox, children=[style, first, self._second])
        for name in ("ai-widget", "ai-batch"):
            self.box.add_class(name)

    def set(self, view: View) -> None:
        """Each widget sends one message at most, and none where nothing has changed."""
        known = view.total is not None
        _set(self._bar, max=max(view.total or 1, 1), value=view.done if known else 0, bar_style=COLOURS[view.phase])
        _set(self._bar.layout, display=None if known else "none")
        _set(self._rows, value=" · ".join(part for part in (view.rows, view.pace) if part))
        _set(self._counts, value=view.counts)
        lines = textwrap.wrap(view.state, LINE, max_lines=LINES, placeholder=" …")
        while len(self._state) < len(lines):
            self._state.append(self._label())
            self._state[-1].style.font_weight = "bold"
            self._second.children = (*self._state, self._counts)
        for number, label in enumerate(self._state):
            line = lines[number] if number < len(lines) else ""
            _set(label, value=line)
            _set(label.layout, display=None if line else "none")
        if self._buttons and hears_while_busy():
            toggle, cancel = self._buttons
            description, tooltip = RESUME if view.phase == "paused" else PAUSE
            _set(toggle, description=description, tooltip=tooltip, disabled=view.phase == "canceling")
            _set(cancel, disabled=view.phase == "canceling")

    def close(self) -> None:
        self._open = False
        for widget in reversed(self._all):
            for part in (widget, widget.layout, getattr(widget, "style", None)):
                if part is not None:
                    part.close()

    def _label(self) -> Any:
        import ipywidgets

        label = self._made(ipywidgets.Label)
        for name in NO_FORMULAS:
            label.add_class(name)
        return label

    def _made(self, kind: Any, **traits: Any) -> Any:
        widget = kind(**traits)
        self._all.append(widget)
        return widget

    # ------------------------------------------------------------------------------------------ buttons
    def _button(self, words: tuple[str, str], press: Callable[[], None]) -> Any:
        import ipywidgets

        description, tooltip = words
        deaf = not hears_while_busy()
        button = self._made(
            ipywidgets.Button, description=description, tooltip=DEAF if deaf else tooltip, disabled=deaf,
            layout={"width": "auto"},
        )  # fmt: skip
        ear = Ear(button.comm, _click, lambda _: press() if self._open else None)
        button.on_click(ear.in_turn)
        return button

    def _toggle(self) -> None:
        assert self._control is not None
        if self._control.state == "paused":
            self._control.resume()
        else:
            self._control.pause()


def _click(data: dict[str, Any]) -> bool | None:
    content = data.get("content")
    return True if isinstance(content, dict) and content.get("event") == "click" else None


def _set(widget: Any, **traits: Any) -> None:
    changed = {name: value for name, value in traits.items() if getattr(widget, name) != value}
    if changed:
        with widget.hold_sync():
            for name, value in changed.items():
                setattr(widget, name, value)


def _display(data: dict[str, Any]) -> Any:
    from IPython.display import display

    show: Any = display  # IPython has no types for it
    return show(data, raw=True, display_id=True)
