"""What the package writes, under a umask that would let everybody read and write it."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import ipyconvexai as ai
from ipyconvexai.store import files, keeper
from ipyconvexai.store.folder import Folder
from ipyconvexai.store.link import KeeperStore
from ipyconvexai.store.purging import Criteria
from ipyconvexai.testing import Endpoint, crash_at
from tests.promises.children import Child
from tests.promises.promising import Figure
from tests.store.helpers import add, wait_for

PROMISE = "the ledger's files, the keeper's folder, its socket, exports and what is spilled belong to the user alone"

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="there a profile's folder is private, and no file has modes"
)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where keepers put their sockets; open to all, as /tmp is."""
    folder = Path(tempfile.mkdtemp(prefix="pf-", dir="/tmp"))  # a socket's path must be short
    folder.chmod(0o777)
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def everything_in(*folders: Path) -> dict[str, int]:
    """Path -> the bits that let others in."""
    found: dict[str, int] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            try:
                found[str(path)] = stat.S_IMODE(path.lstat().st_mode) & 0o077
            except FileNotFoundError:
                pass  # it went meanwhile
    return found


def use(say: Callable[[Any], None], folder: str, temporary: str) -> None:
    """All that leaves files, and after each step who may read them."""
    os.umask(0)
    looked = Path(folder), Path(temporary)
    with ai.connect(f"{folder}/data/deep/ledger.duckdb", model="openai:gpt-4o-mini") as app:
        ai.generate("a question", conversation="talk")
        say(("in use", everything_in(*looked)))
        for kind in ("parquet", "csv", "jsonl"):
            app.ledger.export(f"{folder}/data/calls.{kind}")
        say(("exported", everything_in(*looked)))
        app.ledger.purge(everything=True)
        ai.generate("another")
        say(("purged", everything_in(*looked)))
        with files._connect() as connection:
            connection.execute("SET memory_limit = '60MB'")
            sql = "SELECT i, repeat('x', 100) FROM range(1_000_000) t(i) ORDER BY hash(i)"
            connection.execute(sql).fetchone()
            say(("spilled", everything_in(*looked)))


def test_of_all_that_is_left_while_it_is_used(endpoint: Endpoint, tmp_path: Path, temporary: Path, figure: Figure):
    folder = tmp_path / "home"
    folder.mkdir()
    with Child(use, str(folder), str(temporary)) as child:
        seen: dict[str, dict[str, int]] = dict(child.rest())
        assert child.wait() == 0
    names = {step: {Path(path).name for path in paths} for step, paths in seen.items()}
    assert names["in use"] >= {"deep", "ledger.duckdb", "ledger.duckdb.wal", "ledger.duckdb.keeper", "s"}
    assert names["in use"] >= {"key", "lock", "starting", "address", "log"}
    assert any(name.startswith("session-") for name in names["in use"])
    assert names["exported"] >= {"calls.parquet", "calls.csv", "calls.jsonl"}
    assert len(names["spilled"]) > len(names["purged"]), "nothing was spilled: this shows nothing"
    everything = {path: bits for paths in seen.values() for path, bits in paths.items()}
    # What DuckDB spills is as open as the umask says: the folder keeps others out.
    spilled = {path for path in everything if "/duckdb_temp_" in path and everything[str(Path(path).parent)] == 0}
    assert {path: oct(bits) for path, bits in everything.items() if bits and path not in spilled} == {}
    figure(f"0 of {len(everything)} files and folders let others in", "umask 0")


def stop_in_rewrite(say: Callable[[Any], None], path: str) -> None:
    """A keeper that stands still when the new file is whole."""
    os.umask(0)
    crash_at("in_rewrite", "stop")
    say("begins")
    keeper.main(path)


def test_of_the_new_file_while_a_purge_writes_it(tmp_path: Path, temporary: Path, figure: Figure):
    path = tmp_path / "ledger.duckdb"
    new = Path(f"{path}.purging")
    with Child(stop_in_rewrite, str(path)) as child:
        assert child.hear() == "begins"
        wait_for(lambda: Folder(str(path)).address(), "the keeper to serve")
        store = KeeperStore(path)
        add(store, "a title")
        purging = threading.Thread(target=store.purge, args=(Criteria(),))
        purging.start()
        wait_for(lambda: new.exists() and is_stopped(child.pid), "the new file to be whole")
        seen = everything_in(tmp_path, temporary)
        child.send(signal.SIGCONT)
        purging.join()
        assert not new.exists()
        seen |= everything_in(tmp_path, temporary)
        store.close()
    assert str(new) in seen
    assert {path: oct(bits) for path, bits in seen.items() if bits} == {}
    figure(f"0 of {len(seen)} files and folders let others in while a purge writes the file anew", "umask 0")


def is_stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED
