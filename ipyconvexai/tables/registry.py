"""The tables that this process defines, by name. Calls nothing of the room.

Promises: a class defined again (a notebook cell that runs again) takes the place of the older one; ``generation``
counts definitions, so that a catalogue sees in no time that nothing is new.
"""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["defined", "find", "find_by_table", "generation", "register"]

_lock = threading.Lock()
# Classes of ``model.Table``, which stands above this.
_tables: dict[str, type[Any]] = {}  # by the SQL table's name, in lower case: SQL does not tell a from A
_generation = 0


def register(table: type[Any]) -> None:
    global _generation
    with _lock:
        _tables[table.__table_name__.lower()] = table
        _generation += 1


def generation() -> int:
    return _generation


def defined() -> list[type[Any]]:
    with _lock:
        return list(_tables.values())


def find(name: str) -> type[Any] | None:
    """The table whose class or SQL table has this name; the class first."""
    tables = defined()
    by_class = [table for table in tables if table.__name__ == name]
    return by_class[-1] if by_class else _tables.get(name.lower())


def find_by_table(name: str) -> type[Any] | None:
    """The class whose SQL table has this name."""
    return _tables.get(name.lower())
