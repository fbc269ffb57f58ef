"""Stores of a test's own. Keepers end soon after their last client, and none may leave anything behind."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ipyconvexai.store.link import KeeperStore
from tests.store.helpers import keepers_of, wait_for


@pytest.fixture(autouse=True)
def warm_keepers() -> None:
    """None here: they start as those of users do."""


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary folders, where keepers put their sockets; must be empty again at the end."""
    path = Path(tempfile.mkdtemp(prefix="st-"))
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setenv("IPYCONVEXAI_KEEPER_LINGER", "0.2")
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    yield path
    left = list(path.iterdir())
    shutil.rmtree(path)
    assert not left


@pytest.fixture
def ledger(tmp_path: Path, temporary: Path, cold_keepers: None) -> Iterator[str]:
    """The path of a ledger file that is not there yet; at the end its keeper and its folder must go by themselves."""
    path = tmp_path / "ledger" / "ledger.duckdb"
    yield str(path)
    folder = Path(f"{path}.keeper")
    log = ""
    try:
        with contextlib.suppress(FileNotFoundError):
            log = (folder / "log").read_text()
        wait_for(lambda: not keepers_of(path) and not folder.exists(), f"keeper and folder to go; log: {log}")
    finally:
        for pid in keepers_of(path):
            psutil.Process(pid).kill()
    assert "Traceback" not in log
    assert {file.name for file in path.parent.glob("*")} <= {"ledger.duckdb"}


Opener = Callable[..., KeeperStore]


@pytest.fixture
def open_ledger(ledger: str) -> Iterator[Opener]:
    """Opens stores of this process on the ledger, each as if it were a process of its own; closed at the end."""
    opened: list[KeeperStore] = []

    def open_one(patience: float = 10.0) -> KeeperStore:
        opened.append(KeeperStore(ledger, patience=patience))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_ledger: Opener) -> KeeperStore:
    return open_ledger()
