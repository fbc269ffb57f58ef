"""What two processes must have in common to share a keeper: how they speak, and the tables they expect.

Runs on both sides; standard library, ``errors`` and ``wire`` only. Promise: a keeper of another version is told by name
of version and users before anything is said to it that it could misunderstand.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from ipyconvexai.errors import KeeperUnavailableError
from ipyconvexai.store.wire import PROTOCOL

__all__ = ["OtherVersionError", "common", "is_ours"]


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


class OtherVersionError(KeeperUnavailableError):
    """`users`, in words: the processes for which the keeper of another version holds the ledger; may be none."""

    def __init__(self, announced: dict[str, Any], users: list[str]) -> None:
        self.users = users
        theirs, pid = announced.get("version"), announced.get("pid")
        who = f"for {', '.join(users)}" if users else "for nobody that could be found"
        super().__init__(
            f"process {pid} holds the ledger {who}, and is of another version of ipyconvexai, {theirs}",
            cure="Restart these notebooks (after an upgrade they still run the old version) or close them, then repeat;"
            ' or use another file meanwhile: ai.connect("my.duckdb").',
        )
