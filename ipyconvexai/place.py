"""Where a call comes from: the notebook and the cell. Floor 0: imports nothing of the package.

The notebook extension says how to find out; everything below it only asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["finder", "here"]

Finder = Callable[[], Mapping[str, Any]]

_finder: Finder | None = None


def finder(find: Finder | None) -> None:
    """From now on `find` is asked, which gives ``notebook`` and ``cell_id``; None: nobody."""
    global _finder
    _finder = find


def here() -> Mapping[str, Any]:
    """``notebook`` (a path) and ``cell_id`` where they are known; empty outside a notebook."""
    return _finder() if _finder is not None else {}
