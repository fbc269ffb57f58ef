"""What lives with a cell's output, and ends when the cell is run again. Floor 1: calls IPython only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

__all__ = ["when_run_again"]

_ends: dict[str, list[Callable[[], None]]] = {}  # by cell; the front end names the cells


def when_run_again(end: Callable[[], None]) -> None:
    """Have `end` called before the cell that runs now is run again. Where front ends name no cells it never is."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    cell = _cell_of(shell)
    if shell is None or cell is None:
        return
    if _end_of_cell not in shell.events.callbacks["pre_run_cell"]:
        shell.events.register("pre_run_cell", _end_of_cell)
    _ends.setdefault(cell, []).append(end)


def _end_of_cell(info: Any) -> None:
    for end in _ends.pop(getattr(info, "cell_id", None) or "", []):
        end()


def _cell_of(shell: Any) -> str | None:
    with contextlib.suppress(AttributeError):
        cell = (shell.kernel.get_parent("shell").get("metadata") or {}).get("cellId")
        return cell if isinstance(cell, str) else None
    return None
