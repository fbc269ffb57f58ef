"""The bar of a batch: rows, rate, tokens, money, errors. Counted on the background loop, drawn by the waiting cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipyconvexai.batch.runner import Done

__all__ = ["Progress"]


class Progress:
    """``tqdm.auto``: a widget in a notebook, a line in a terminal, lines in a log file."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._bar: Any = None
        self._total = 0
        self._known = 0
        self._done = 0
        self._errors = 0
        self._tokens = 0
        self._cost = 0.0
        self._begun = False

    def begin(self, *, total: int, known: int) -> None:
        """`total` documents, of which `known` are answered already."""
        self._total, self._known, self._begun = total, known, True

    def count(self, done: Done) -> None:
        self._done += 1
        self._errors += done.error is not None
        self._tokens += done.tokens
        self._cost += done.cost

    def draw(self) -> None:
        """To be called in the thread whose cell waits."""
        if not self._enabled or not self._begun or self._total == 0:
            return
        if self._bar is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self._total, initial=self._known, desc="summarize", unit="doc")
        self._bar.set_postfix_str(self._postfix(), refresh=False)
        self._bar.update(self._known + self._done - self._bar.n)

    def _postfix(self) -> str:
        parts = []
        if self._known:
            parts.append(f"{self._known} from the ledger")
        if self._tokens:
            parts.append(f"{self._tokens:,} tokens")
        if self._cost:
            parts.append(f"${self._cost:.4f}")
        if self._errors:
            parts.append(f"{self._errors} errors")
        return ", ".join(parts)

    def stopped(self) -> None:
        """Say what an interrupt leaves behind."""
        if self._enabled and self._begun:
            answered = self._known + self._done - self._errors
            print(f"Stopped: {answered} of {self._total} documents are in the ledger. Run the cell again to go on.")

    def close(self) -> None:
        if self._bar is not None:
            self.draw()
            self._bar.close()
