"""``ai.chat()``: a conversation in a panel. Calls ``talk`` for what it shows and ``views`` for where.

Promises: what the page says is done on the background loop, also while a cell runs; a panel that fails says so in
itself; whatever is shown is in the ledger.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ipyconvexai.application import App, app
from ipyconvexai.errors import Error, InputError
from ipyconvexai.render import error_text, markdown_bundle, plain_text
from ipyconvexai.widgets.talk import OPEN, Talk, Update

__all__ = ["Chat", "chat"]


CLOSED = "The ledger was closed: run the cell again."
NOT_CONNECTED = "Not connected: run the cell again to go on with this conversation."


def chat(title: str | None = None, *, system: str | None = None) -> Chat:
    """A panel to chat in, over a conversation that is kept.

        ai.chat("my analysis")

    Args:
        title: of the conversation, or its id; one that is there goes on, as in ``%%ai -c`` and ``ai.generate``.
            None: a new one.
        system: the instructions of a conversation that begins.

    Raises:
        InputError: it is no title.
    """
    for name, value in (("title", title), ("system", system)):
        if not isinstance(value, str | None):
            raise InputError(f"{name}={value!r:.80} is no text", cure='For example: ai.chat("my analysis").')
    made = Chat(app(), title, system)
    made._open()
    return made


class Chat:
    """A chat panel; ``ai.chat`` gives it, and a cell shows it."""

    def __init__(self, owner: App, title: str | None, system: str | None) -> None:
        self._app = owner
        self._talk = Talk(owner, title, system, self._tell)
        self._talk.is_watched = False  # the page asks when it is there
        self._view: Any = None
        self._transcripts: list[Any] = []  # the outputs that have it

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
        """Show it no more; the conversation stays."""
        self._talk.close()
        if self._view is not None:
            self._view.close()

    def __repr__(self) -> str:
        return f"<chat {plain_text(self.title)!r}: a panel in a notebook; elsewhere ai.generate(conversation=...)>"

    # ------------------------------------------------------------------------------------------ the page
    def _ipython_display_(self) -> None:
        """The panel, and below it the transcript for viewers without a kernel; the panel hides it."""
        from IPython.display import display

        from ipyconvexai.hearing import in_kernel

        if not in_kernel():
            print(repr(self))
            return
        show: Any = display  # IPython has no types for it
        show(self._display_())
        self._transcripts.append(show(self._transcript(), raw=True, display_id=True))

    def _display_(self) -> Any:
        """The widget, which is what marimo asks for."""
        from ipyconvexai.hearing import hears_while_busy

        if self._view is None:
            from ipyconvexai.widgets.views import ChatView  # imports anywidget

            state = {"title": plain_text(self.title), "busy": hears_while_busy()}
            self._view = ChatView(state, self._heard)
        return self._view

    def _transcript(self) -> dict[str, str]:
        return markdown_bundle(self._talk.transcript(), note=NOT_CONNECTED)

    def _tell(self, updates: list[Update]) -> None:
        if self._view is None:
            return
        self._view.send({"kind": "told", "updates": updates})
        if any(update["kind"] == "title" or update.get("status", "pending") not in OPEN for update in updates):
            transcript = self._transcript()
            for shown in self._transcripts:
                shown.update(transcript, raw=True)

    def _heard(self, said: dict[str, Any]) -> None:
        """In whatever thread hears the page."""
        if self._app.is_closed:
            self._view.send({"kind": "error", "text": CLOSED})
        else:
            self._view.send({"kind": "heard"})
            self._app.loop.submit(self._do(said))

    async def _do(self, said: dict[str, Any]) -> None:
        try:
            match said:
                case {"kind": "hello"}:
                    for updates in self._talk.snapshot():
                        self._view.send({"kind": "told", "updates": updates})
                        await asyncio.sleep(0)  # others use the loop, too
                case {"kind": "send", "text": str(text)}:
                    await self._talk.send(text)
                case {"kind": "stop"}:
                    await self._talk.stop()
                case {"kind": "retry", "id": str(key)}:
                    await self._talk.retry(key)
                case {"kind": "edit", "id": str(key), "text": str(text)}:
                    await self._talk.edit(key, text)
                case {"kind": "fork", "id": str(key)}:
                    await self._talk.fork(key)
                case {"kind": "list", "search": str(search)}:
                    self._view.send({"kind": "conversations", "found": await self._talk.others(search)})
                case {"kind": "open", "id": str(key)}:
                    await self._talk.switch(key)
                case {"kind": "new"}:
                    await self._talk.switch(None)
                case {"kind": "rename", "title": str(title)}:
                    await self._talk.rename(title)
                case {"kind": "delete"}:
                    await self._talk.delete()
        except asyncio.CancelledError:
            raise
        except Error as error:
            self._view.send({"kind": "error", "text": plain_text(error_text(error.message, error.cure))})
        except Exception as error:
            self._view.send({"kind": "error", "text": plain_text(f"{type(error).__name__}: {error}")})
