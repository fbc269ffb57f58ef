"""One keeper for all processes: started by the first, replaced when it dies, gone after the last."""

from __future__ import annotations

import os
import signal
import socket
import stat
import threading
import time
from multiprocessing import AuthenticationError
from pathlib import Path

import psutil
import pytest

from ipyconvexai.errors import KeeperUnavailableError
from ipyconvexai.store import wire
from ipyconvexai.store.folder import Folder
from ipyconvexai.store.keeper import Keeper
from ipyconvexai.store.link import KeeperStore
from tests.store.helpers import (
    add,
    child,
    finish,
    keepers_of,
    kill_keeper,
    line_of,
    row,
    titles,
    wait_for,
)


def test_many_first_users_start_one_keeper(ledger: str):
    use = """
store = open_store(sys.argv[1])
add(store, 'one')
print(store.holder().partition(",")[0], flush=True)  # then come the notebooks, as many as there are by now
sys.stdin.read()
store.close()
"""
    children = [child(use, ledger) for _ in range(4)]
    holders = {line_of(process) for process in children}
    assert len(holders) == 1
    assert len(keepers_of(ledger)) == 1
    for process in children:
        finish(process)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_the_worst_moment_ends_it(temporary: Path, tmp_path: Path, number: signal.Signals):
    """Its main thread waits for an event, and just then has that event's lock."""
    keep = """
from ipyconvexai.store import keeper
class Unlucky(threading.Event):
    def wait(self, timeout=None):
        if threading.current_thread() is threading.main_thread():
            with self._cond:
                signal.raise_signal(int(sys.argv[2]))
        return super().wait(timeout)
class InThatMoment(keeper.Keeper):
    def __init__(self, *args):
        super().__init__(*args)
        self._ended = Unlucky()
keeper.Keeper = InThatMoment
sys.exit(keeper.main(sys.argv[1]))
"""
    process = child(keep, tmp_path / "ledger.duckdb", int(number))
    try:
        finish(process)
    finally:
        process.kill()
    assert not (tmp_path / "ledger.duckdb.keeper").exists()


def test_a_keeper_that_is_told_to_end_costs_nobody_anything(store: KeeperStore, ledger: str):
    """Whatever comes while it closes is done by the next one: transactions too, which are never repeated else."""
    failed: list[Exception] = []
    kept: list[str] = []
    over = threading.Event()

    def transact() -> None:
        while not over.is_set():
            (key, *_), begun = row("told"), "INSERT INTO conversations (id, created_at, title) VALUES (?, now(), ?)"
            try:
                with store.transaction() as execute:
                    execute.later(begun, [key, "told"])
                kept.append(key)
                store.read("SELECT count(*) FROM conversations")
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=transact) for _ in range(2)]
    for thread in threads:
        thread.start()
    told: set[int] = set()
    try:
        while len(told) < 5:
            before = len(kept)
            wait_for(lambda: len(kept) > before + 20, "work to go on")  # noqa: B023 - waited for
            (keeper,) = wait_for(lambda: set(keepers_of(ledger)) - told, "the next keeper")
            os.kill(keeper, signal.SIGTERM)
            told.add(keeper)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert {key for (key,) in store.read("SELECT id::VARCHAR FROM conversations")} == set(kept)


def test_nothing_is_started_or_written_before_first_use(ledger: str):
    KeeperStore(ledger).close()
    assert not Path(ledger).parent.exists()


def test_killed_keeper_is_replaced_and_its_leftovers_removed(store: KeeperStore, ledger: str, temporary: Path):
    add(store, "before")
    first = kill_keeper(ledger)
    add(store, "after")
    assert titles(store) == ["before", "after"]
    assert keepers_of(ledger) != [first]
    assert len(list(temporary.iterdir())) == 1  # the new one's socket; the old one's folder is gone


def test_keeper_killed_after_the_last_use_leaves_nothing(store: KeeperStore, ledger: str):
    add(store, "only")
    kill_keeper(ledger)
    store.close()
    assert not Path(f"{ledger}.keeper").exists()  # the rest is checked by the fixtures
    Path(f"{ledger}.wal").unlink()


def test_keeper_whose_folder_was_removed_makes_room_for_another(store: KeeperStore, ledger: str):
    add(store, "before")
    (first,) = keepers_of(ledger)
    os.rename(f"{ledger}.keeper", f"{ledger}.removed")
    wait_for(lambda: first not in keepers_of(ledger), "the keeper to notice")
    add(store, "after")
    assert titles(store) == ["before", "after"]
    for file in Path(f"{ledger}.removed").iterdir():
        file.unlink()
    Path(f"{ledger}.removed").rmdir()


def test_a_long_query_is_not_taken_for_silence(open_ledger):
    store = open_ledger(patience=1.6)
    rows, seconds = 10_000, 0.0
    while seconds <= 1.6:  # until it is long enough to show something, however fast the machine is
        begun = time.monotonic()
        store.read(f"SELECT count(*) FROM range(100000) a, range({rows}) b WHERE a.range % 7 = b.range % 11")
        seconds = time.monotonic() - begun
        rows = int(rows * max(2.0, 2.0 / seconds))


# ---------------------------------------------------------------------------------------------- who may come in
def test_silent_strangers_block_nobody_and_a_wrong_key_is_refused(store: KeeperStore, ledger: str):
    add(store, "before")
    address = Folder(ledger).address()
    assert address is not None
    strangers = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for stranger in strangers:
        stranger.connect(address)
    with pytest.raises((AuthenticationError, EOFError)):
        wire.dial(address, b"x" * 32, 5.0)
    second = KeeperStore(ledger, patience=5.0)
    assert titles(second) == ["before"]
    second.close()
    for stranger in strangers:
        stranger.close()


def test_code_in_a_message_is_refused_and_nothing_else_is_lost(store: KeeperStore, ledger: str, tmp_path: Path):
    import pickle

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "escaped"),)

    add(store, "before")
    folder = Folder(ledger)
    connection = folder.connect(5.0)
    assert connection is not None
    connection.send_bytes(pickle.dumps(("read", (Hostile(),))))
    fine, answer = wire.unpack(connection.recv_bytes())
    assert not fine
    assert "mkdir" in answer["message"]
    connection.send_bytes(wire.pack(("read", ("SELECT 41 + 1", None))))  # the connection goes on
    assert wire.unpack(connection.recv_bytes()) == (True, [(42,)])
    connection.close()
    assert not (tmp_path / "escaped").exists()


def test_the_keeper_knows_no_key_of_a_provider(store: KeeperStore, ledger: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-and-never-to-be-seen")
    add(store, "one")
    environment = psutil.Process(keepers_of(ledger)[0]).environ()
    assert "sk-planted" not in str(environment)


# ---------------------------------------------------------------------------------------------- clients that go
def test_ctrl_c_stops_the_query_in_the_keeper_and_leaves_the_store_usable(store: KeeperStore, ledger: str):
    add(store, "before")
    keeper = psutil.Process(keepers_of(ledger)[0])

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.4)
        with pytest.raises(KeyboardInterrupt):
            store.read_arrow("SELECT count(*) FROM range(9999999) a, range(9999999) b WHERE a.range * b.range % 7 = 1")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert titles(store) == ["before"]

    def is_quiet() -> bool:
        return keeper.cpu_percent(0.3) < 30

    wait_for(is_quiet, "the query to be interrupted", 10)


def test_rows_that_wait_at_exit_are_written(store: KeeperStore, ledger: str):
    leave = """
store = open_store(sys.argv[1])
for number in range(2000): store.append('conversations', COLUMNS, [row(str(number))], lambda error: None)
store.close()
"""
    finish(child(leave, ledger))
    assert len(titles(store)) == 2000


def test_fork_shares_nothing(ledger: str):
    fork = """
import warnings; warnings.simplefilter('ignore')  # newer Pythons warn of threads
store = open_store(sys.argv[1])
session = store.session_id
add(store, 'parent')
child = os.fork()
if not child:
    assert store.session_id != session
    for number in range(20): add(store, 'child')
    store.close()
    os._exit(0)
for number in range(20): add(store, 'parent')
assert os.waitpid(child, 0)[1] == 0
assert store.session_id == session
assert len(titles(store)) == 41
store.close()
"""
    finish(child(fork, ledger))


def test_a_forked_child_does_not_keep_its_parents_keeper(ledger: str):
    fork = """
import warnings; warnings.simplefilter('ignore')
store = open_store(sys.argv[1])
add(store, 'parent')
child = os.fork()
if not child:
    sys.stdin.read()
    os._exit(0)
store.close()
print(child, flush=True)
sys.stdin.read()
"""
    process = child(fork, ledger)
    grandchild = int(line_of(process))
    wait_for(lambda: not keepers_of(ledger), "the keeper to end")
    os.kill(grandchild, 0)  # it still lives
    finish(process)


# ---------------------------------------------------------------------------------------------- where no process starts
def test_without_processes_a_thread_holds_the_file_and_others_reach_it(
    open_ledger, ledger: str, monkeypatch: pytest.MonkeyPatch
):
    host, guest = open_ledger(), open_ledger()
    umask = os.umask(0o022)
    try:
        with monkeypatch.context() as patch:
            patch.setattr("sys.executable", "")
            with pytest.warns(RuntimeWarning, match="no process can be started"):
                add(host, "from the host")
        assert "thread" in host.holder()
        assert not keepers_of(ledger)
        add(guest, "from the guest")
        other = child("store = open_store(sys.argv[1]); add(store, 'from another'); store.close()", ledger)
        finish(other)
        assert titles(host) == ["from the host", "from the guest", "from another"]
        assert stat.S_IMODE(Path(ledger).stat().st_mode) == 0o600
        host.close()
        assert threading.active_count() < 50
        assert len(titles(guest)) == 3  # a keeper of its own takes over
        assert len(keepers_of(ledger)) == 1
    finally:
        os.umask(umask)


def test_a_keeper_that_cannot_start_is_reported_at_once(
    store: KeeperStore, monkeypatch: pytest.MonkeyPatch, ledger: str
):
    monkeypatch.setenv("PYTHONHOME", "/nonexistent")
    begun = time.monotonic()
    with pytest.raises(KeeperUnavailableError, match="does not start"):
        store.read("SELECT 1")
    assert time.monotonic() - begun < 10
    monkeypatch.delenv("PYTHONHOME")
    add(store, "one")


def test_a_keeper_that_can_never_open_its_file_ends_too(tmp_path: Path):
    folder = Folder(str(tmp_path / "raw \udcff.duckdb"))  # DuckDB raises RuntimeError over this
    folder.prepare()
    dead = folder.session_lock("dead")
    assert dead is not None
    folder.unlock(dead)
    lock = folder.lock("lock")
    assert lock is not None
    keeper = Keeper(folder, lock, linger=0.1)
    serving = threading.Thread(target=keeper.run, daemon=True)
    serving.start()
    serving.join(10)
    assert not serving.is_alive()
    assert not Path(folder.path).exists()


def test_a_removed_key_costs_no_long_wait(store: KeeperStore, open_ledger, ledger: str):
    add(store, "before")
    (first,) = keepers_of(ledger)
    os.unlink(f"{ledger}.keeper/key")
    begun = time.monotonic()
    other = open_ledger()
    add(other, "after")
    add(store, "and after")
    assert titles(other) == ["before", "after", "and after"]
    assert time.monotonic() - begun < 5
    assert keepers_of(ledger) != [first]
