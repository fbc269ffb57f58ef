"""``ai.live``: a query's result in a cell, kept up to date while the kernel lives.

Calls the app, ``drawing`` and IPython.

Promises: one output, updated in place, also while no cell runs; running its cell again ends the former view; what the
query gives never becomes markup; a query that fails later on says so in the cell, and runs again after the next change.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from IPython.core.getipython import get_ipython

from ipyconvexai.cells import when_run_again
from ipyconvexai.drawing.results import bundle_of, text_of
from ipyconvexai.errors import Error, InputError
from ipyconvexai.notebook.screens import display, in_kernel

__all__ = ["Live", "live"]

Bundle = dict[str, Any]


def live(query: Any, /, render: Callable[[Any], Any] | str | None = None, **args: Any) -> Live:
    """Show a query's result here, and again after each commit that changes it.

        ai.live(cost_by_day, render="column", user="me")
        ai.live(cost_by_day, render=lambda rows: ai.chart(rows, "line", x="day", y="cost"))

    A list of documents or dicts, and a frame, is drawn as a table, a text as plain text, anything else by its repr.

    Args:
        query: a function made with ``@ai.query``, or its name.
        render: "bar", "column" or "line": a chart of the result (see ``ai.chart``). Or what makes of the result what
            is shown, which is displayed as IPython does (a text, a chart, a list of dicts or a table as above). It
            runs in another thread, so it must not touch the screen itself.
        **args: the query's arguments.

    Gives a view with ``.stop()``. In a terminal the result is shown once.

    Raises:
        InputError: it cannot be drawn so.
        Error: what the query raises at first.
    """
    from ipyconvexai.application import app
    from ipyconvexai.functions.changes import hub_of
    from ipyconvexai.functions.watching import Watch
    from ipyconvexai.watching import look_at, print_of

    shell: Any = get_ipython()
    render = _renderer(render)
    current = app()
    function, look = look_at(current, query, args)
    prints = print_of(function)
    first, _ = look()
    bundle = _drawn(shell, render, first)
    if shell is None or not in_kernel(shell):
        print(bundle.get("text/plain", ""))
        return Live(function.name, None)
    hub = hub_of(current.store)
    watch = Watch(_mended(look), hub, name=function.name, print_of=prints, told=prints(first))
    view = Live(function.name, watch)
    when_run_again(view.stop)
    handle = display(bundle, raw=True, display_id=True)
    # The task inherits this cell's context, by which ipykernel knows to which cell an output belongs.
    current.loop.submit(view._follow(current, handle, functools.partial(_drawn_in_any_case, shell, render)))
    return view


class Live:
    """A view in a cell; ``stop()`` leaves what it shows as it is."""

    def __init__(self, name: str, watch: Any) -> None:
        self._name = name
        self._watch = watch

    @property
    def running(self) -> bool:
        return self._watch is not None

    def stop(self) -> None:
        """End the updates; harmless when they have ended."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    async def _follow(self, current: Any, handle: Any, draw: Callable[[Any], Bundle]) -> None:
        watch = self._watch
        if watch is None:  # stopped before it began
            return
        try:
            async for value in watch:
                bundle = await asyncio.to_thread(draw, value)
                if not self.running or current.is_closed:
                    return
                handle.update(bundle, raw=True)
        finally:
            self.stop()

    def _ipython_display_(self) -> None:
        """It is shown already, in the cell that made it."""

    def __repr__(self) -> str:
        return f"<live view of {self._name}: {'running' if self.running else 'stopped'}>"


def _renderer(render: Any) -> Callable[[Any], Any] | None:
    if render is None or callable(render):
        return render  # type: ignore[no-any-return] # just seen
    from ipyconvexai.drawing.plotting import KINDS, chart

    if render not in KINDS:
        raise InputError(f"render={render!r:.80} draws nothing", cure=f"Use one of {', '.join(KINDS)}, or a function.")
    return functools.partial(chart, kind=render)


def _drawn(shell: Any, render: Callable[[Any], Any] | None, value: Any) -> Bundle:
    if render is None:
        return dict(bundle_of(value))
    value = render(value)
    ours = bundle_of(value)
    if shell is None or "text/html" in ours or isinstance(value, str):
        return dict(ours)
    bundle, _ = shell.display_formatter.format(value)  # what the reader's own code made is shown as it wants to be
    return dict(bundle)


def _drawn_in_any_case(shell: Any, render: Callable[[Any], Any] | None, value: Any) -> Bundle:
    if isinstance(value, _Failed):
        return {"text/plain": value.text}
    try:
        return _drawn(shell, render, value)
    except Exception as error:  # of `render`
        return {"text/plain": _Failed.of(error).text}


@dataclass(frozen=True)
class _Failed:
    """What is shown instead of a result."""

    text: str

    @classmethod
    def of(cls, error: Exception) -> _Failed:
        if isinstance(error, Error):
            return cls(_told(error.message, error.cure))
        return cls(_told(f"{type(error).__name__}: {text_of(str(error))}", ""))


def _mended(look: Callable[[], tuple[Any, set[str] | None]]) -> Callable[[], tuple[Any, set[str] | None]]:
    """`look`, with what failed instead of the error; which tables it would have read is not known then."""

    def look_or_tell() -> tuple[Any, set[str] | None]:
        try:
            return look()
        except Exception as error:  # an error of ours, or of the query's own code
            return _Failed.of(error), None

    return look_or_tell


def _told(message: str, cure: str) -> str:
    from ipyconvexai import render

    return render.error_text(message, cure)
