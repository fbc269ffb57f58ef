"""What two processes must have in common to share a keeper: how they speak, and the tables they expect.

Runs on both sides; standard library, ``errors``, ``wire``, the version. Promise: a keeper of another version is told by
version, by what differs and by its users, before anything is said to it that it could misunderstand.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any

from ipyconvexai import __version__
from ipyconvexai.errors import OtherVersionError
from ipyconvexai.store.wire import PROTOCOL

__all__ = ["common", "is_ours", "other_version"]


@functools.cache
def _schema() -> int:
    """The number of the newest migration."""
    scripts = os.listdir(os.path.join(os.path.dirname(__file__), "schema"))
    return max(int(name[:3]) for name in scripts if name.endswith(".sql"))


def common() -> dict[str, int]:
    """What a keeper announces of itself, and a client compares."""
    return {"protocol": PROTOCOL, "schema": _schema()}


def is_ours(announced: dict[str, Any]) -> bool:
    return all(announced.get(name) == value for name, value in common().items())


def other_version(announced: dict[str, Any], users: list[str]) -> OtherVersionError:
    """`users`, in words: the processes for which the keeper of another version holds the ledger; may be none."""
    who = f"for {', '.join(users)}" if users else "for nobody that could be found"
    version, differs = announced.get("version"), ", ".join(_differences(announced))
    same = " as here" if version == __version__ else ""
    return OtherVersionError(
        f"process {announced.get('pid')} holds the ledger {who}, and is of another version of ipyconvexai, {version}"
        f"{same} ({differs})",
        cure="Restart these notebooks (after an upgrade they still run the old version) or close them, then repeat;"
        ' or use another file meanwhile: ai.connect("my.duckdb").',
    )


def _differences(announced: dict[str, Any]) -> Iterator[str]:
    for name, ours in common().items():
        theirs = announced.get(name, "none")
        if theirs != ours:
            yield f"its {name} is {theirs}, here {ours}"
