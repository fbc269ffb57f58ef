"""The README: what it links to is there, and what it shows of the public names exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import ipyconvexai
from tests.promises.promising import said_by

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_names_exist():
    used = set(re.findall(r"\bai\.([A-Za-z_]+)", README))
    assert "generate" in used
    assert [name for name in used if not hasattr(ipyconvexai, name)] == []


def test_commands_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)", README)) <= targets


# ------------------------------------------------------------------------------------------------ promises
def promises() -> Iterator[str]:
    """The row that each file of promises should have in the README's table: the words and the tries are the file's."""
    for path in sorted((ROOT / "tests" / "promises").glob("test_*.py")):
        promise, tries = said_by(path)
        link = f"[{path.name}](tests/promises/{path.name})"
        yield f"| {promise} | {tries.words if tries else ''} | {link} |".replace("|  |", "| |")


def test_each_promise_stands_in_the_table_as_it_is_tested():
    rows = {line for line in README.splitlines() if line.startswith("|") and "(tests/promises/" in line}
    assert rows == set(promises())
