"""The private folder: locks that end with their holder, a key of one's own, an address that is published whole."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ipyconvexai.errors import LedgerReadOnlyError, StoreError
from ipyconvexai.store.folder import SOCKET_FOLDER, Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(str(tmp_path / "ledger.duckdb"))
    folder.prepare()
    return folder


def test_a_lock_is_held_by_one_and_free_again(folder: Folder):
    first = folder.lock("lock")
    assert first is not None
    assert Folder(folder.database).lock("lock") is None
    folder.unlock(first)
    second = folder.lock("lock")
    assert second is not None
    folder.unlock(second)


def test_a_lock_on_a_removed_folder_does_not_count(folder: Folder):
    old = folder.lock("lock")
    assert old is not None
    folder.remove_if_deserted()
    assert not os.path.exists(folder.path)
    assert not folder.holds(old, "lock")
    new = folder.lock("lock")  # in the folder that was made again
    assert new is not None
    assert folder.holds(new, "lock")
    folder.unlock(old)
    folder.unlock(new)


def test_the_folder_stays_while_a_session_lives(folder: Folder):
    session = folder.session_lock("a")
    assert session is not None
    assert folder.sessions() == ["a"]
    assert folder.is_alive("a")
    assert not folder.is_alive("b")
    folder.remove_if_deserted()
    assert os.path.exists(folder.path)
    folder.unlock(session)
    assert not folder.is_alive("a")
    folder.remove_if_deserted()
    assert not os.path.exists(folder.path)


def test_a_forked_childs_share_of_a_lock_is_given_up(folder: Folder):
    session = folder.session_lock("a")
    assert session is not None
    theirs = os.dup(session.fileno())  # what a forked child has
    folder.unlock(session)
    assert folder.is_alive("a"), "the copy alone must hold it, or this test shows nothing"
    os.close(theirs)
    assert not folder.is_alive("a")


def test_all_processes_have_one_key(tmp_path: Path):
    keys: set[bytes] = set()

    def come() -> None:
        folder = Folder(str(tmp_path / "shared.duckdb"))
        folder.prepare()
        keys.add(folder.key())

    threads = [threading.Thread(target=come) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(key) for key in keys] == [32]
    assert os.listdir(tmp_path / "shared.duckdb.keeper") == ["key"]


def test_a_killed_keepers_socket_folder_goes_and_nothing_else(folder: Folder, tmp_path: Path):
    ours, foreign = tmp_path / f"{SOCKET_FOLDER}x", tmp_path / "precious"
    ours.mkdir()
    foreign.mkdir()
    folder.announce(str(ours / "s"), "1")
    folder.announce(str(foreign / "s"), "1")
    assert not ours.exists()
    folder.remove_socket()
    assert foreign.exists()
    assert folder.address() is None


def test_nobody_answers_at_a_dead_address(folder: Folder, tmp_path: Path):
    assert folder.connect(1.0) is None
    folder.announce(str(tmp_path / "nobody"), "1")
    assert folder.connect(1.0) is None
    Path(folder.file("address")).write_text("{ torn")
    assert folder.connect(1.0) is None
    assert folder.keeper_pid() is None


def test_a_folder_that_others_can_read_is_refused(folder: Folder):
    os.chmod(folder.path, 0o755)
    with pytest.raises(StoreError, match="belongs to you alone"):
        folder.prepare()


def test_a_link_in_the_folders_place_is_refused(tmp_path: Path):
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (tmp_path / "ledger.duckdb.keeper").symlink_to(private)
    with pytest.raises(StoreError, match="belongs to you alone"):
        Folder(str(tmp_path / "ledger.duckdb")).prepare()
    assert not list(private.iterdir())


def test_a_file_in_the_folders_place_is_an_error_with_a_cure(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerReadOnlyError, match="cannot be written") as caught:
        Folder(str(tmp_path / "file" / "ledger.duckdb")).prepare()
    assert "ai.connect" in caught.value.cure
