"""The tables that this process defines, by name. Calls nothing of the room.

Promises: a class defined again (a notebook cell that runs again) takes the place of the older one, and so does another
class of the same name, which then knows of it; ``generation`` counts definitions, so that a catalogue sees in no time
that nothing is new.
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
    key = table.__table_name__.lower()
    with _lock:
        if (before := _tables.get(key)) is not None:
            again = (before.__module__, before.__qualname__) == (table.__module__, table.__qualname__)
            # Its place as a text: a reference would keep every class alive that a notebook ever defined.
            type.__setattr__(table, "__rival__", before.__rival__ if again else before.__place__)
        _tables[key] = table
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
