"""``ai.form(fn)``: a function of the user's as a form. Calls ``fields`` for its inputs, ``results`` for what it gives.

Promises: what the page says is done on the background loop, also while a cell runs; two presses run it once; a run
survives the page, and a page that opens later shows how it stands; what cannot be run says why beside its input.

What the page is told, as JSON:

    {"kind": "state", "status", "seconds", "values", "problems", "error", "result"}       of the last run
    {"kind": "variables", "name", "found": [{"name", "what"}]}                            for a field that takes one
    {"kind": "error", "text"}                                                             nothing was run
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ipyconvexai.application import App, app
from ipyconvexai.errors import ArgumentsError, Error, InputError
from ipyconvexai.functions.registry import ACTION_LIMIT, Function, Kind, of, registry
from ipyconvexai.functions.validation import MISMATCH, Arguments, Result
from ipyconvexai.render import error_text, markdown_bundle, plain_text
from ipyconvexai.settings import redact
from ipyconvexai.widgets.fields import Field, fields_of, values_of, variables_for
from ipyconvexai.widgets.results import Shown, shown

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
    is_plain = inspect.isroutine(fn) and not hasattr(fn, "ai_function")
    return _as_action(fn) if is_plain else of(fn)


def _as_action(fn: Callable[..., Any]) -> Function:
    """A plain function, which knows no ``ctx``, as one that is run like an action; no job can name it."""
    parameters = list(inspect.signature(fn).parameters.values())
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_ONLY)

    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def handler(_: Any, /, **values: Any) -> Any:
            return await fn(**values)

    else:

        @functools.wraps(fn)
        def handler(_: Any, /, **values: Any) -> Any:
            return fn(**values)

    handler.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined] # inspect's own
    name = getattr(fn, "__name__", "function")
    return Function(name, Kind.ACTION, handler, Arguments.of(handler), Result.of(fn), timeout=ACTION_LIMIT)


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

    def told(self) -> dict[str, Any]:
        running = self.status == "running"
        return {
            "kind": "state",
            "status": self.status,
            "seconds": time.monotonic() - self.begun if running else self.seconds,
            "values": self.said,
            "problems": self.problems,
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
        self._transcripts: list[Any] = []  # the outputs that have it
        self._cell: contextvars.Context | None = None
        self.result: Any = None

    def close(self) -> None:
        """Show it no more; what runs is canceled."""
        if not self._app.is_closed:
            self._app.loop.submit(self._cancel()).result(5)
        if self._view is not None:
            self._view.close()

    def __repr__(self) -> str:
        name = self._function.name
        given = "".join(f", {one.name}=..." for one in self._fields)
        is_known = hasattr(self._function.handler, "ai_function")
        call = f'ai.run("{name}"{given})' if is_known else f"{name}({given[2:]})"
        return f"<form of {name}: inputs in a notebook; elsewhere {call}>"

    # ------------------------------------------------------------------------------------------ the page
    def _ipython_display_(self) -> None:
        """The form, and below it what it was and gave for viewers without a kernel; the page hides that."""
        from IPython.display import display

        from ipyconvexai.hearing import hears_while_busy, in_kernel

        if not in_kernel():
            print(repr(self))
            return
        if self._view is None:
            from ipyconvexai.widgets.views import FormView  # imports anywidget

            self._view = FormView(self._state(hears_while_busy()), self._heard)
        show: Any = display  # IPython has no types for it
        self._cell = contextvars.copy_context()  # by which ipykernel knows where what the function prints belongs
        show(self._view)
        self._transcripts.append(show(self._transcript(), raw=True, display_id=True))

    def _state(self, busy: bool) -> dict[str, Any]:
        about = (inspect.getdoc(self._function.handler) or "").partition("\n")[0]
        fields = [one.told() for one in self._fields]
        for one in fields:  # a notebook keeps it
            if isinstance(one["value"], str):
                one["value"] = redact(one["value"])
        return {"title": self._function.name, "about": plain_text(redact(about)), "fields": fields, "busy": busy}

    def _transcript(self) -> dict[str, str]:
        parts = [f"**Form: {self._function.name}**"]
        if (run := self._run) is not None and run.status != "running":
            given = [f"- {name}: {_short(redact(str(word)))}" for name, word in run.said.items() if word != ""]
            parts += ["\n".join(given), run.error or (run.result.markdown if run.result is not None else "")]
        return markdown_bundle("\n\n".join(part for part in parts if part), note=NOT_CONNECTED)

    def _tell(self, told: dict[str, Any]) -> None:
        if self._view is not None:
            self._view.send(told)

    def _heard(self, said: dict[str, Any]) -> None:
        """In whatever thread hears the page."""
        if self._app.is_closed:
            self._tell({"kind": "error", "text": CLOSED})
        else:
            self._app.loop.submit(self._do(said))

    async def _do(self, said: dict[str, Any]) -> None:
        match said:
            case {"kind": "hello"}:
                if self._run is not None:
                    self._tell(self._run.told())
                for one in self._fields:
                    await self._offer(one)
            case {"kind": "run", "values": dict(values)}:
                if self._task is None or self._task.done():
                    self._task = asyncio.create_task(self._perform(values), context=self._cell)
            case {"kind": "cancel"}:
                await self._cancel()
            case {"kind": "variables", "name": str(name)}:
                for one in self._fields:
                    if one.name == name:
                        await self._offer(one)

    async def _offer(self, one: Field) -> None:
        if one.kind == "variable":
            found = await asyncio.to_thread(variables_for, self._function.arguments, one, _variables)
            self._tell({"kind": "variables", "name": one.name, "found": found})

    # ------------------------------------------------------------------------------------------ running it
    async def _cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _perform(self, said: dict[str, Any]) -> None:
        run = self._run = _Run(said)
        self.result = None
        self._tell(run.told())
        try:
            function = self._newest()
            args = await asyncio.to_thread(self._checked, function, said, run.problems)
            if run.problems:
                run.status = "refused"
            else:
                self.result = await self._app.functions.arun(function, args)
                run.result = await asyncio.to_thread(shown, self.result)
                run.status = "done"
        except asyncio.CancelledError:
            run.status = "canceled"
            raise
        except Error as error:
            run.status, run.error = "failed", plain_text(redact(error_text(error.message, error.cure)))
        except Exception as error:
            run.status, run.error = "failed", plain_text(redact(f"{type(error).__name__}: {error}"))
        finally:
            run.seconds = time.monotonic() - run.begun
            self._tell(run.told())
            for output in self._transcripts:
                output.update(self._transcript(), raw=True)

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
