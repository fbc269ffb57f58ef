"""Transactions of several processes: one at a time, whole or not at all."""

# ruff: noqa: PT012 - a transaction is a block: what it raises comes from any of its lines

from __future__ import annotations

import os
import signal

import pytest

from ipyconvexai.errors import TransactionError
from ipyconvexai.store.link import KeeperStore
from tests.store.helpers import add, child, finish, keepers_of, kill, kill_keeper, line_of, row, titles

INSERT = "INSERT INTO conversations (id, created_at, title) VALUES (?, ?, ?)"

INCREMENT = """
store = open_store(sys.argv[1])
def increment():
    with store.transaction() as execute:
        (value,), = execute("SELECT title::INTEGER FROM conversations")
        execute("UPDATE conversations SET title = ?", [str(value + 1)])
print('ready', flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=increment) for _ in range(10)]
for thread in threads: thread.start()
for thread in threads: thread.join()
store.close()
"""


def test_increments_of_four_processes_all_count(store: KeeperStore, ledger: str):
    add(store, "0")
    children = [child(INCREMENT, ledger) for _ in range(4)]
    for process in children:
        line_of(process)
    for process in children:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in children:
        finish(process)
    assert titles(store) == ["40"]


def test_a_transaction_whose_client_is_killed_is_rolled_back(store: KeeperStore, ledger: str):
    begin = """
store = open_store(sys.argv[1])
with store.transaction() as execute:
    execute("INSERT INTO conversations (id, created_at, title) VALUES (?, ?, ?)", row('lost'))
    print('inserted', flush=True)
    sys.stdin.read()
"""
    add(store, "before")
    process = child(begin, ledger)
    assert line_of(process) == "inserted"
    kill([process])
    add(store, "after")
    assert titles(store) == ["before", "after"]


def test_a_transaction_is_rolled_back_by_an_exception_and_by_its_limit(store: KeeperStore):
    with pytest.raises(ZeroDivisionError), store.transaction() as execute:
        execute(INSERT, row("lost"))
        1 / 0  # noqa: B018
    with pytest.raises(TransactionError, match="limit of 1 s"), store.transaction() as execute:
        execute(INSERT, row("lost"))
        add(store, "waited")
    assert titles(store) == ["waited"]


def test_a_keeper_that_dies_within_a_transaction_is_told(store: KeeperStore, ledger: str):
    add(store, "before")
    with pytest.raises(TransactionError, match="nothing of it was kept"), store.transaction() as execute:
        execute(INSERT, row("lost"))
        kill_keeper(ledger)
        execute("SELECT 1")
    assert titles(store) == ["before"]


def test_a_commit_whose_keeper_died_is_uncertain_and_said_to_be(store: KeeperStore, ledger: str):
    add(store, "before")
    with pytest.raises(TransactionError, match="may or may not have been kept"), store.transaction() as execute:
        execute(INSERT, row("lost"))
        os.kill(keepers_of(ledger)[0], signal.SIGKILL)
    add(store, "after")
    assert titles(store)[0] == "before"
    assert titles(store)[-1] == "after"


def test_changes_of_another_process_are_noticed(store: KeeperStore, ledger: str):
    changes = store.changes()
    assert next(changes) == set()
    finish(child("store = open_store(sys.argv[1]); add(store, 'elsewhere'); store.close()", ledger))
    assert next(changes) == {"conversations"}
    kill_keeper(ledger)
    assert next(changes) == set()  # the keeper changed: look at everything
    changes.close()  # type: ignore[attr-defined] # a generator
