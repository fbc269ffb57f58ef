"""What a widget's cell shows viewers without a kernel: a text below the widget, which its page hides. Calls ``render``.

Promises: a text is made safe once for all outputs that show it, and not on the background loop; texts that follow one
another while one is written are written as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ipyconvexai.render import markdown_bundle

__all__ = ["Transcripts"]


class Transcripts:
    """The outputs with a widget's transcript.

    Args:
        text: gives it, as markdown that is not safe yet; asked in a thread.
        note: a line below it.
    """

    def __init__(self, text: Callable[[], str], *, note: str) -> None:
        self._text = text
        self._note = note
        self._outputs: list[Any] = []
        self._stale = False
        self._writing: asyncio.Task[None] | None = None

    def show(self) -> None:
        """In one more output: the next of the cell that runs now."""
        from IPython.display import display

        show: Any = display  # IPython has no types for it
        self._outputs.append(show(self._made(), raw=True, display_id=True))

    def clear(self) -> None:
        """The outputs are gone."""
        self._outputs.clear()

    def renew(self) -> None:
        """Soon. On the background loop."""
        self._stale = True
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while self._stale:
            self._stale = False
            if not self._outputs:
                return
            made = await asyncio.to_thread(self._made)
            for output in list(self._outputs):
                output.update(made, raw=True)

    def _made(self) -> dict[str, str]:
        return markdown_bundle(self._text(), note=self._note)
