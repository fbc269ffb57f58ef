"""From which notebook and cell a call comes, as far as the front end says so. Tells ``place``.

``here`` is asked for every call, also in the background loop: ipykernel keeps a cell's request in a context variable,
which travels with the work that the cell began.
"""

from __future__ import annotations

import os
from typing import Any

from ipyconvexai import place

__all__ = ["cell_run", "here", "watch"]

_shell: Any = None


def watch(shell: Any) -> None:
    """The shell to ask from now on; None: nobody."""
    global _shell
    _shell = shell
    place.finder(here if shell is not None else None)


def here() -> dict[str, str | None]:
    """``notebook`` (a path) and ``cell_id``; None where nobody knows. Empty outside a watched shell."""
    if _shell is None:
        return {}
    return {"notebook": _notebook(), "cell_id": _cell()}


def _notebook() -> str | None:
    """Jupyter's servers set the variable for the kernels they start; VS Code sets a name among the user's."""
    named = os.environ.get("JPY_SESSION_NAME") or _shell.user_ns.get("__vsc_ipynb_file__")
    return named if isinstance(named, str) else None


def _cell() -> str | None:
    return cell_run()[0]


def cell_run() -> tuple[str | None, str | None]:
    """The cell that runs now, and which of its runs that is; None where nobody knows."""
    kernel = getattr(_shell, "kernel", None)
    if kernel is None:
        return None, None
    request = kernel.get_parent("shell") or {}
    cell = (request.get("metadata") or {}).get("cellId")
    run = (request.get("header") or {}).get("msg_id")
    return (cell if isinstance(cell, str) else None), (run if isinstance(run, str) else None)
