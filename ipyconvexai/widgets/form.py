"""``ai.form(fn)``: a function of the user's as a form. Calls ``fields`` for its inputs, ``results`` for what it gives.

Promises: what the page says is done on the background loop, also while a cell runs; two presses run it once; a run
survives the page, and a page that opens later shows how it stands; what cannot be run says why beside its input;
no known key is told to a page.

What the page is told, as JSON:

    {"kind": "state", "status", "seconds", "values", "problems", "error", "result"}       of the last run
    {"kind": "variables", "name", "found": [{"name", "what"}]}                            for a field that takes one
    {"kind": "error", "text", "running"}                                                  nothing came of what it said
    {"kind": "heard"}                                                                     at once, whatever it said
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ipyconvexai import interrupts
from ipyconvexai.application import App, app
from ipyconvexai.errors import ArgumentsError, InputError
from ipyconvexai.functions.plain import as_action
from ipyconvexai.functions.registry import ACTION_LIMIT, Function, of, registry
from ipyconvexai.functions.validation import MISMATCH, Result
from ipyconvexai.render import plain_text
from ipyconvexai.settings import redact
from ipyconvexai.widgets.fields import Field, fields_of, values_of, variables_for
from ipyconvexai.widgets.results import Shown, shown, words_of
from ipyconvexai.widgets.transcripts import Transcripts

__all__ = ["Form", "form"]

CLOSED = "The ledger was closed: run the cell again."
NOT_CONNECTED = "Not connected: run the cell again to use this form."
LONGEST = 200  # characters of an argument in a transcript


def form(fn: Any, /, **values: Any) -> Form:
    """A function as a form: an input for each parameter, a button that runs it, its result below.

        ai.form(summarize_topic, topic="bridges")

    Its type hints make the inputs: text, number (with ``Field(ge=1, le=10)`` its ends), checkbox, choice (``Literal``,
    an ``Enum``), date, time, lines (``list[str]``), JSON (dicts, models), and the notebook's own variables for frames
    and other objects. ``Field(description="...")`` is shown below an input.

    Args:
        fn: a query, a mutation or an action, or its name; or a plain function with named parameters.
        **values: what stands in the inputs first, in place of the function's defaults.

    The form's ``.result`` is what the last run gave.

    Raises:
        UnknownFunctionError: nothing of that name is defined here.
        ArgumentsError: it has no such parameter, or a hint cannot be read.
        InputError: it is no function, or a value cannot stand in an input.
    """
    return Form(app(), _function(fn), values)


def _function(fn: Any) -> Function:
    if inspect.isroutine(fn) and not hasattr(fn, "ai_function"):
        return as_action(fn, getattr(fn, "__name__", "function"), Result.of(fn), timeout=ACTION_LIMIT)
    return of(fn)


def _variables() -> Mapping[str, Any]:
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "user_ns", {})


@dataclass
class _Run:
    """`said`: what was put in. `status`: running, done, failed (it was run), refused (it was not), canceled."""

    said: dict[str, Any]
    status: str = "running"
    begun: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    problems: dict[str, str] = field(default_factory=dict)
    error: str = ""
    result: Shown | None = None

    @property
    def is_running(self) -> bool:
        return self.status == "running"

    def told(self) -> dict[str, Any]:
        return {
            "kind": "state",
            "status": self.status,
            "seconds": time.monotonic() - self.begun if self.is_running else self.seconds,
            "values": _without_keys(self.said),
            "problems": _without_keys(self.problems),
            "error": self.error,
            "result": self.result.told if self.result is not None else None,
        }


class Form:
    """A form; ``ai.form`` gives it, and a cell shows it.

    Attributes:
        result: what the last run gave; None before it, and when it failed.
    """

    def __init__(self, owner: App, function: Function, values: Mapping[str, Any]) -> None:
        self._app = owner
        self._function = function
        self._fields = fields_of(function.arguments, values, _variables)
        self._run: _Run | None = None
        self._task: asyncio.Task[None] | None = None
        self._view: Any = None
        self._shown = 0  # outputs that have it
        self._transcripts = Transcripts(self._transcript, note=NOT_CONNECTED)
        self._cell: contextvars.Context | None = None
        self.result: Any = None

    def close(self) -> None:
        """Show it no more, until it is displayed again; what runs is canceled."""
        if not self._app.is_closed:
            self._app.loop.submit(self._cancel()).result(5)
        self._hide()

    def _hide(self) -> None:
        view, self._view = self._view, None
        if view is not None:
            view.close()
        self._transcripts.clear()

    def _run_again(self) -> None:
        """A cell that shows it is run again: its output is gone. What runs goes on, as it does without a page."""
        self._shown -= 1
        if not self._shown:
            self._hide()

    def __repr__(self) -> str:
        name = self._function.name
        given = "".join(f", {one.name}=..." for one in self._fields)
        is_known = hasattr(self._function.handler, "ai_function")
        call = f'ai.run("{name}"{given})' if is_known else f"{name}({given[2:]})"
        return redact(plain_text(f"<form of {name}: inputs in a notebook; elsewhere {call}>"))

    # ------------------------------------------------------------------------------------------ the page
    def _ipython_display_(self) -> None:
        """The form, and below it what it was and gave for viewers without a kernel; the page hides that."""
        from IPython.display import display

        from ipyconvexai.cells import when_run_again
        from ipyconvexai.hearing import hears_while_busy, in_kernel

        if not in_kernel():
            print(repr(self))
            return
        self._shown += 1
        when_run_again(self._run_again)
        if self._view is None:
            with interrupts.held():
                from ipyconvexai.widgets.views import FormView  # imports anywidget

            self._view = FormView(self._state(hears_while_busy()), self._heard)
        show: Any = display  # IPython has no types for it
        self._cell = contextvars.copy_context()  # by which ipykernel knows where what the function prints belongs
        show(self._view)
        self._transcripts.show()

    def _state(self, busy: bool) -> dict[str, Any]:
        about = (inspect.getdoc(self._function.handler) or "").partition("\n")[0]
        fields = [one.told() for one in self._fields]
        told = {"title": plain_text(self._function.name), "about": plain_text(about), "fields": fields, "busy": busy}
        return _without_keys(told)  # type: ignore[no-any-return] # what it is given

    def _transcript(self) -> str:
        parts = [f"**Form: {redact(self._function.name)}**"]
        if (run := self._run) is not None and not run.is_running:
            given = [f"- {name}: {_short(redact(str(word)))}" for name, word in run.said.items() if word != ""]
            parts += ["\n".join(given), run.error or (run.result.markdown if run.result is not None else "")]
        return "\n\n".join(part for part in parts if part)

    def _tell(self, told: dict[str, Any]) -> None:
        if (view := self._view) is not None:  # it may have been closed meanwhile
            view.send(told)

    def _fail(self, text: str) -> None:
        """Nothing came of what the page said; it may be that something runs still."""
        running = not self._app.is_closed and self._run is not None and self._run.is_running
        self._tell({"kind": "error", "text": text, "running": running})

    def _heard(self, said: dict[str, Any]) -> None:
        """In whatever thread hears the page."""
        if self._app.is_closed:
            self._fail(CLOSED)
        else:
            self._tell({"kind": "heard"})
            self._app.loop.submit(self._do(said))

    async def _do(self, said: dict[str, Any]) -> None:
        try:
            match said:
                case {"kind": "hello"}:
                    if self._run is not None:
                        self._tell(self._run.told())
                    for one in self._fields:
                        await self._offer(one)
                case {"kind": "run", "values": dict(values)}:
                    if self._task is None or self._task.done():
                        run = self._run = _Run(values)
                        self._tell(run.told())
                        self._task = asyncio.create_task(self._perform(run), context=self._cell)
                case {"kind": "cancel"}:
                    await self._cancel()
                case {"kind": "variables", "name": str(name)}:
                    for one in self._fields:
                        if one.name == name:
                            await self._offer(one)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._fail(words_of(error))

    async def _offer(self, one: Field) -> None:
        if one.kind == "variable":
            found = await asyncio.to_thread(variables_for, self._function.arguments, one, _variables)
            self._tell({"kind": "variables", "name": one.name, "found": _without_keys(found)})

    # ------------------------------------------------------------------------------------------ running it
    async def _cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
            if (run := self._run) is not None and run.is_running:  # it had not begun
                run.status = "canceled"
                self._tell(run.told())

    async def _perform(self, run: _Run) -> None:
        self.result = None
        try:
            function = self._newest()
            args = await asyncio.to_thread(self._checked, function, run.said, run.problems)
            if run.problems:
                run.status = "refused"
            else:
                self.result = await self._app.functions.arun(function, args)
                run.result = await asyncio.to_thread(shown, self.result)
                run.status = "done"
        except asyncio.CancelledError:
            run.status = "canceled"
            raise
        except Exception as error:
            run.status, run.error = "failed", words_of(error)
        finally:
            run.seconds = time.monotonic() - run.begun
            self._tell(run.told())
            self._transcripts.renew()

    def _newest(self) -> Function:
        """The function as its cell was run last.

        Raises:
            InputError: it has other parameters now.
        """
        mine = self._function
        found = registry.get(mine.name)
        if found is None or getattr(mine.handler, "ai_function", None) is not mine:
            return mine
        if found.arguments.describe() != mine.arguments.describe():
            raise InputError(f"{mine.name} has other parameters now", cure="Run the cell of this form again.")
        return found

    def _checked(self, function: Function, said: dict[str, Any], problems: dict[str, str]) -> dict[str, Any]:
        """The arguments; `problems` is given what is wrong with them, by name. Blocking."""
        args, own = values_of(function.arguments, self._fields, said, _variables)
        try:
            args = self._app.functions.runner.values(function, args)
        except ArgumentsError as error:
            known = {one.name for one in self._fields}
            if not error.problems or set(error.problems) - known:
                raise
            problems.update({name: plain_text(text.removeprefix(MISMATCH)) for name, text in error.problems.items()})
        problems.update(own)
        return args


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _without_keys(told: Any) -> Any:
    if isinstance(told, str):
        return redact(told)
    if isinstance(told, dict):
        return {name: _without_keys(value) for name, value in told.items()}
    return [_without_keys(value) for value in told] if isinstance(told, list) else told
