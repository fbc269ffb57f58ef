"""What the tests of promises share: how often each is tried, and how its figure gets into the table.

Each file of this folder keeps one promise and says it in `PROMISE`, in the words of the README's table; `TRIES` is how
often it is tried each time, and in the long form (``pytest -m long``). ``make promises`` prints the table.
"""

from __future__ import annotations

import ast
import bisect
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

Figure = Callable[..., None]  # see the fixture `figure`

FIGURE = "figure of a promise"  # under this name it travels with a test's report
LONGEST = 1800  # seconds for one test of the long form


class Tries(NamedTuple):
    """How often a promise is tried: each time, and in the long form; `of` what, in the plural."""

    short: int
    long: int
    of: str

    @property
    def words(self) -> str:
        return f"{self.short:,} {self.of}; long {self.long:,}"

    @property
    def both(self) -> pytest.MarkDecorator:
        """The test's argument `tries` is each number, the greater one in the long form alone."""
        slow = (pytest.mark.long, pytest.mark.timeout(LONGEST))
        return pytest.mark.parametrize(
            "tries", [pytest.param(self.short, id="short"), pytest.param(self.long, id="long", marks=slow)]
        )


def said_by(file: Path) -> tuple[str, Tries | None]:
    """The promise of a file of tests, and how often it is tried: read, as importing it would define its functions."""
    said = {}
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            said[node.targets[0].id] = node.value
    tries = said.get("TRIES")
    number = Tries(*map(ast.literal_eval, tries.args)) if isinstance(tries, ast.Call) else None
    return str(ast.literal_eval(said["PROMISE"])), number


def most_in_a_window(stamps: list[float], per: float) -> int:
    """The most of these instants within any `per` seconds: some window with the most of them begins at one."""
    stamps = sorted(stamps)
    return max(bisect.bisect_left(stamps, stamp + per) - number for number, stamp in enumerate(stamps))
