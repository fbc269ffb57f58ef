"""The bar of a batch: rows, rate, tokens, money, errors. Counted on the background loop, drawn by the waiting cell.

``tqdm.auto`` draws it: a widget in a notebook, a line in a terminal, lines in a log file. A widget leaves nothing to
read in a saved notebook, so at the end a line of text takes its place.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipyconvexai.batch.runner import Done
    from ipyconvexai.values import Wait

__all__ = ["Progress"]


class Progress:
    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._bar: Any = None
        self._output: Any = None  # the widget's output in its cell
        self._total = 0
        self._known = 0
        self._done = 0
        self._errors = 0
        self._tokens = 0
        self._cost = 0.0
        self._begun: float | None = None
        self._wait: Wait | None = None

    def begin(self, *, total: int, known: int) -> None:
        """`total` documents, of which `known` are answered already."""
        self._total, self._known, self._begun = total, known, time.monotonic()

    def count(self, done: Done) -> None:
        self._done += 1
        self._errors += done.error is not None
        self._tokens += done.tokens
        self._cost += done.cost

    def wait(self, wait: Wait | None) -> None:
        """A limit makes a call wait; None: it goes on."""
        self._wait = wait

    def draw(self) -> None:
        """To be called in the thread whose cell waits."""
        if not self._enabled or self._begun is None or self._total == 0:
            return
        if self._bar is None:
            self._bar, self._output = _make_bar(total=self._total, initial=self._known, desc="summarize", unit="doc")
        self._bar.set_postfix_str(", ".join(self._counts()), refresh=False)
        self._bar.update(self._known + self._done - self._bar.n)

    def _counts(self) -> list[str]:
        parts = []
        if self._known:
            parts.append(f"{self._known:,} from the ledger")
        if self._tokens:
            parts.append(f"{self._tokens:,} tokens")
        if self._cost:
            parts.append(f"${self._cost:.4f}")
        if self._errors:
            parts.append(f"{self._errors:,} errors")
        if (wait := self._wait) is not None and (left := wait.until - time.monotonic()) > 0:
            parts.append(f"waiting {left:.0f} s: {wait.why}")
        return parts

    def stopped(self) -> None:
        """Say what an interrupt leaves behind."""
        if self._enabled and self._begun is not None:
            answered = self._known + self._done - self._errors
            print(f"Stopped: {answered} of {self._total} documents are in the ledger. Run the cell again to go on.")

    def close(self) -> None:
        if self._bar is None:
            return
        self._wait = None
        self.draw()
        self._bar.close()
        if self._output is not None:
            assert self._begun is not None
            seconds = time.monotonic() - self._begun
            counts = [f"{self._known + self._done:,} of {self._total:,} documents", *self._counts(), f"{seconds:.1f} s"]
            self._output.update({"text/plain": " · ".join(counts)}, raw=True)


def _make_bar(**arguments: Any) -> tuple[Any, Any]:
    """A bar, and the handle of its output where it is a widget."""
    from tqdm.auto import tqdm

    if not any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__):
        return tqdm(**arguments), None
    from IPython.display import display  # tqdm's widget is shown by it, too

    bar: Any = tqdm(display=False, **arguments)
    show: Any = display  # IPython has no types for it
    return bar, show(bar.container, display_id=True)
