"""The house: imports point down, foreign packages have one door each, the public names are complete."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import ipyconvexai

PACKAGE = Path(ipyconvexai.__file__).parent

# A room's floor; a room is a folder or a module of the package's top level. Rooms of floor 0 are one room, the ground.
FLOORS = {
    "attachments": 0,
    "crashpoints": 0,
    "interrupts": 0,
    "errors": 0,
    "deadlines": 0,
    "guard": 0,
    "ids": 0,
    "limits": 0,
    "loops": 0,
    "place": 0,
    "settings": 0,
    "theme": 0,
    "values": 0,
    "testing": 0,
    "store": 1,
    "cells": 1,
    "hearing": 1,
    "render": 1,
    "context": 2,
    "providers": 2,
    "tables": 2,
    "relation": 2,
    "reply": 2,
    "shapes": 2,
    "drawing": 3,
    "functions": 3,
    "generation": 3,
    "limiting": 3,
    "records": 3,
    "application": 4,
    "sql_tool": 4,
    "api": 5,
    "actions": 5,
    "batch": 5,
    "conversations": 5,
    "watching": 5,
    "widgets": 5,
    "worker": 5,
    "notebook": 6,
    "demo": 6,
    "accessors": 7,
    "cli": 7,
    "__main__": 8,
    "__init__": 8,
}

# The only rooms that may import a foreign package.
DOORS = {
    "duckdb": {"store"},
    "openai": {"providers"},
    "httpx2": {"providers"},
    "aiohttp": {"providers"},
    "xllamacpp": {"providers"},
    "genai_prices": {"providers"},
    "jsonschema": {"providers"},
    "nh3": {"render"},
    "markdown_it": {"render"},
    "pygments": {"render"},
    "pypdf": {"context"},
    "IPython": {
        "cells",
        "hearing",
        "notebook",
        "batch",
        "widgets",
        "worker",
    },  # batch: to replace tqdm's widget; worker: to remove magics
    "ipywidgets": {"notebook", "batch"},
    "anywidget": {"widgets"},
    "rich": {"notebook"},
    "matplotlib": {"drawing"},
    "click": {"cli"},
    "tqdm": {"batch"},
    "cronsim": {"functions"},
    "nest_asyncio2": {"api"},
    "semantic_text_splitter": {"batch"},
    "narwhals": {"batch", "records"},
    "distributed": {"batch"},
}


class Module(NamedTuple):
    """A dotted name, its room, what it imports (dotted names), and what it says of itself."""

    name: str
    room: str
    imports: list[str]
    purpose: str | None


@functools.cache
def modules() -> list[Module]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        tree = ast.parse(path.read_text("utf-8"))
        found.append(Module(".".join(parts), parts[0], list(imported(tree)), ast.get_docstring(tree)))
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a module imports, also inside functions, but for type checkers' eyes only ones."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imported(node)


def room_of(name: str) -> str:
    rest = name.removeprefix("ipyconvexai").lstrip(".")
    room = rest.partition(".")[0]
    return room if room in FLOORS else "__init__"


def test_every_room_has_a_floor():
    assert {module.room for module in modules()} <= set(FLOORS)


def test_imports_point_down():
    wrong = []
    for name, room, imports, _ in modules():
        for target in imports:
            if target.partition(".")[0] != "ipyconvexai" or target == "ipyconvexai.__version__":
                continue
            if room == "actions" and target == "ipyconvexai":  # the public names, which are found when they are used
                continue
            other = room_of(target)
            ground = FLOORS[room] == FLOORS[other] == 0
            if other != room and not ground and FLOORS[other] >= FLOORS[room]:
                wrong.append(f"{name} imports {target}")
    assert not wrong


def test_the_built_in_functions_use_the_public_layer_only():
    outside = {
        target
        for module in modules()
        if module.room == "actions"
        for target in module.imports
        if not target.startswith(("ipyconvexai.actions", "__future__", "json", "re", "typing", "typing_extensions"))
    }
    assert outside == {"ipyconvexai"}


def test_foreign_packages_have_one_door():
    wrong = []
    for name, room, imports, _ in modules():
        for target in imports:
            doors = DOORS.get(target.partition(".")[0])
            if doors is not None and room not in doors:
                wrong.append(f"{name} imports {target}")
    assert not wrong


def test_every_module_opens_with_its_purpose():
    assert [module.name for module in modules() if not module.purpose] == []


def test_public_names_are_complete_and_work():
    """`__all__` is what `dir` promises, each name is there, and type checkers see each."""
    assert len(set(ipyconvexai.__all__)) == len(ipyconvexai.__all__)
    for name in ipyconvexai.__all__:
        if name != "ledger":  # opening one's ledger is no business of this test
            assert getattr(ipyconvexai, name) is not None
    seen = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    block = next(n for n in ast.walk(seen) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    declared = set()
    for node in ast.walk(block):
        if isinstance(node, ast.ImportFrom):
            declared |= {alias.asname for alias in node.names if alias.asname}
        elif isinstance(node, ast.AnnAssign):
            declared.add(ast.unparse(node.target))
        elif isinstance(node, ast.Assign):
            declared |= {ast.unparse(target) for target in node.targets}
    lazily = set(ipyconvexai._HOMES) | {"ledger"}
    assert declared == lazily


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        ipyconvexai.no_such_name  # noqa: B018 - looking it up is the point


@pytest.mark.parametrize("module", ["errors", "store.ledger", "providers.corridor", "render", "generation", "testing"])
def test_each_room_keeps_its_own_all(module: str):
    """What a room lists is there."""
    room = __import__(f"ipyconvexai.{module}", fromlist=["x"])
    assert [name for name in room.__all__ if not hasattr(room, name)] == []


def test_importing_loads_nothing_heavy():
    heavy = "openai duckdb pyarrow pandas IPython pydantic nh3 markdown_it aiohttp httpx2 narwhals tqdm asyncio".split()
    code = f"import sys, ipyconvexai; print([name for name in {heavy!r} if name in sys.modules])"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert seen.strip() == "[]"
