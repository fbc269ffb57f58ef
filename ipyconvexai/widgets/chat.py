"""``ai.chat()``: a conversation in a panel. Calls ``talk`` for what it shows and ``views`` for where.

Promises: what the page says is done on the background loop, also while a cell runs; a panel that fails says so in
itself; whatever is shown is in the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ipyconvexai import interrupts
from ipyconvexai.application import App, app
from ipyconvexai.errors import InputError
from ipyconvexai.functions.tools import tools_of
from ipyconvexai.render import plain_text
from ipyconvexai.settings import redact
from ipyconvexai.widgets.composing import HEARD, Composer
from ipyconvexai.widgets.results import words_of
from ipyconvexai.widgets.talk import OPEN, Talk, Update
from ipyconvexai.widgets.transcripts import Transcripts

__all__ = ["Chat", "chat"]


CLOSED = "The ledger was closed: run the cell again."
# What leads from one state of the conversation to another is done in the order in which it was said.
IN_TURN = {"send", "edit", "retry", "fork", "open", "new", "rename", "configure", "delete"}
NOT_CONNECTED = "Not connected: run the cell again to go on with this conversation."


def chat(
    title: str | None = None,
    *,
    model: str | None = None,
    system: str | None = None,
    tools: Sequence[Any] | None = None,
    suggestions: Sequence[str] = (),
) -> Chat:
    """A panel to chat in, over a conversation that is kept.

        ai.chat("my analysis", suggestions=["Which columns are empty?"])

    Args:
        title: of the conversation, or its id; one that is there goes on, as in ``%%ai -c`` and ``ai.generate``.
            None: a new one.
        model: ``provider:model`` of its answers; None: as it was, or the default. The panel can change it.
        system: the instructions that stand before its messages; None: as they were, or none. The panel can change them.
        tools: functions that the model may call by their type hints: plain ones, queries, mutations, actions, or their
            names; ``ai.tool(fn, safe=True)`` runs without asking. None: those that this conversation has in this
            process; ``[]``: none.
        suggestions: first prompts, each sent by a click while nothing has been said.

    Raises:
        InputError: it is no title, one of the others is no text, or something that cannot be a tool.
    """
    prompts = [suggestions] if isinstance(suggestions, str) else list(suggestions)
    for name, value in (("title", title), ("model", model), ("system", system), *(("suggestions", p) for p in prompts)):
        if not isinstance(value, str | None):
            raise InputError(f"{name}={value!r:.80} is no text", cure='For example: ai.chat("my analysis").')
    given = None if tools is None else tools_of(tools)
    made = Chat(app(), title, model=model, system=system, tools=given, suggestions=prompts)
    made._open()
    return made


class Chat:
    """A chat panel; ``ai.chat`` gives it, and a cell shows it."""

    def __init__(self, owner: App, title: str | None, *, suggestions: Sequence[str] = (), **options: Any) -> None:
        self._app = owner
        self._talk = Talk(owner, title, self._tell, **options)
        self._talk.is_watched = False  # the page asks when it is there
        self._composer = Composer(self._talk, lambda told: self._send(**told))
        self._turn = asyncio.Lock()
        self._suggestions = [redact(each) for each in suggestions]
        self._view: Any = None
        self._shown = 0  # outputs that have it
        self._closed = False
        self._transcripts = Transcripts(self._talk.transcript, note=NOT_CONNECTED)

    def _open(self) -> None:
        self._app.run(self._talk.open())

    @property
    def title(self) -> str:
        return self._talk.title or ""

    @property
    def id(self) -> str:
        """The conversation's; "" before the first message."""
        return self._talk.id or ""

    def close(self) -> None:
        """Show it no more, until it is displayed again; the conversation stays."""
        self._closed = True
        self._talk.close()
        view, self._view = self._view, None
        if view is not None:
            view.close()
        self._transcripts.clear()

    def _run_again(self) -> None:
        """A cell that shows it is run again: its output is gone."""
        self._shown -= 1
        if not self._shown:
            self.close()

    def __repr__(self) -> str:
        return f"<chat {plain_text(self.title)!r}: a panel in a notebook; elsewhere ai.generate(conversation=...)>"

    # ------------------------------------------------------------------------------------------ the page
    def _ipython_display_(self) -> None:
        """The panel, and below it the transcript for viewers without a kernel; the panel hides it."""
        from IPython.display import display

        from ipyconvexai.cells import when_run_again
        from ipyconvexai.hearing import in_kernel

        if not in_kernel():
            print(repr(self))
            return
        self._shown += 1
        when_run_again(self._run_again)
        show: Any = display  # IPython has no types for it
        show(self._display_())
        self._transcripts.show()

    def _display_(self) -> Any:
        """The widget, which is what marimo asks for."""
        from ipyconvexai.hearing import hears_while_busy

        if self._closed:
            self._open()
            self._closed = False
        if self._view is None:
            with interrupts.held():
                from ipyconvexai.widgets.views import ChatView  # imports anywidget

            suggestions = [plain_text(each) for each in self._suggestions]
            state = {"title": plain_text(self.title), "busy": hears_while_busy(), "suggestions": suggestions}
            self._view = ChatView(state, self._heard)
        return self._view

    def _tell(self, updates: list[Update]) -> None:
        if self._view is None:
            return
        self._send("told", updates=updates)
        if any(update["kind"] == "title" or update.get("status", "pending") not in OPEN for update in updates):
            self._transcripts.renew()

    def _heard(self, said: dict[str, Any]) -> None:
        """In whatever thread hears the page."""
        if self._app.is_closed:
            self._fail(CLOSED)
        else:
            self._send("heard")
            self._app.loop.submit(self._do(said))

    async def _do(self, said: dict[str, Any]) -> None:
        """Whatever it ends with is told to the page."""
        try:
            if said.get("kind") in IN_TURN:
                async with self._turn:
                    await self._answer(said)
            else:
                await self._answer(said)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._fail(words_of(error), again=getattr(error, "retryable", True))

    async def _answer(self, said: dict[str, Any]) -> None:
        match said:
            case {"kind": "hello"}:
                async for updates in self._talk.snapshot():
                    self._send("told", updates=updates)
                self._composer.tell_files()
            case {"kind": "source", "id": str(key)}:
                self._send("source", id=key, text=self._talk.source(key))
            case {"kind": str(kind)} if kind in HEARD:
                await self._composer.hear(said)
            case {"kind": "stop"}:
                await self._talk.stop()
            case {"kind": "retry", "id": str(key)}:
                await self._talk.retry(key)
            case {"kind": "allow", "id": str(key), "always": bool(always)}:
                await self._talk.allow(key, always=always)
            case {"kind": "deny", "id": str(key)}:
                await self._talk.deny(key)
            case {"kind": "go on", "id": str(key)}:
                await self._talk.go_on(key)
            case {"kind": "fork", "id": str(key)}:
                await self._talk.fork(key)
            case {"kind": "list", "search": str(search)}:
                self._send("conversations", found=await self._talk.others(search))
            case {"kind": "open", "id": str(key)}:
                await self._talk.switch(key)
            case {"kind": "new"}:
                await self._talk.switch(None)
            case {"kind": "rename", "title": str(title)}:
                await self._talk.rename(title)
            case {"kind": "models"}:
                self._send("models", **await self._talk.models())
            case {"kind": "configure", "model": str(model), "system": str(system)}:
                await self._talk.configure(model, system)
            case {"kind": "delete"}:
                await self._talk.delete()

    def _fail(self, text: str, *, again: bool = False) -> None:
        """Say so in the panel; `again`: the same may do another time."""
        self._send("error", text=text, again=again)

    def _send(self, kind: str, **content: Any) -> None:
        if (view := self._view) is not None:  # it may have been closed meanwhile
            view.send({"kind": kind, **content})
