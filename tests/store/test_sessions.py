"""Calls whose process ended without recording an outcome become ``unknown``; no others do."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from ipyconvexai.errors import Error
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.link import KeeperStore
from tests.store.helpers import add, append, begin_call, child, finish, kill, kill_keeper, line_of, status, wait_for

BEGIN = """
store = open_store(sys.argv[1])
print(begin_call(store), flush=True)
sys.stdin.read()
"""


def test_a_killed_clients_calls_become_unknown_within_a_second_or_so(store: KeeperStore, ledger: str):
    mine = begin_call(store)
    process = child(BEGIN, ledger)
    request = line_of(process)
    assert status(store, request) == "sending"
    kill([process])
    begun = time.monotonic()
    wait_for(lambda: status(store, request) == "unknown", "the call to be judged", 10)
    print(f"judged after {time.monotonic() - begun:.2f} s")
    assert status(store, mine) == "sending"
    message = store.read("SELECT error_message FROM calls WHERE id = ?", [request])[0][0]
    assert "may have been billed" in message


def test_a_clean_exit_with_a_call_in_flight_is_judged_too(store: KeeperStore, ledger: str):
    process = child(BEGIN + "store.close()", ledger)
    request = line_of(process)
    finish(process)
    wait_for(lambda: status(store, request) == "unknown", "the call to be judged")


def test_the_calls_of_those_who_reconnect_to_a_new_keeper_are_not_judged(store: KeeperStore, ledger: str):
    add(store, "before")
    living, dying = child(BEGIN, ledger), child(BEGIN, ledger)
    theirs, lost, mine = line_of(living), line_of(dying), begin_call(store)
    kill_keeper(ledger)
    kill([dying])  # while no keeper looks
    add(store, "after")  # a new keeper; `living` has not noticed yet
    wait_for(lambda: status(store, lost) == "unknown", "the lost call to be judged")
    add(store, "and after")
    assert status(store, theirs) == status(store, mine) == "sending"
    finish(living)


def test_a_forked_child_does_not_keep_its_dead_parents_calls_alive(store: KeeperStore, ledger: str):
    fork = """
import warnings; warnings.simplefilter('ignore')
store = open_store(sys.argv[1])
request = begin_call(store)
child = os.fork()
if not child:
    sys.stdin.read()
    os._exit(0)
print(request, child, flush=True)
sys.stdin.read()
"""
    add(store, "before")
    process = child(fork, ledger)
    request, grandchild = line_of(process).split()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    try:
        wait_for(lambda: status(store, request) == "unknown", "the call to be judged")
        os.kill(int(grandchild), 0)  # and it still lives
    finally:
        os.kill(int(grandchild), signal.SIGKILL)
        process.communicate()


def test_calls_nobody_judged_are_judged_by_the_next_keeper(open_ledger, ledger: str):
    first = open_ledger()
    request = begin_call(first)
    kill_keeper(ledger)
    first.close()  # removes the folder, the session's lock file with it
    assert not Path(f"{ledger}.keeper").exists()
    second = open_ledger()
    wait_for(lambda: status(second, request) == "unknown", "the call to be judged")


def test_a_late_outcome_replaces_unknown(store: KeeperStore, ledger: str):
    process = child(BEGIN, ledger)
    request = line_of(process)
    kill([process])
    wait_for(lambda: status(store, request) == "unknown", "the call to be judged")
    add(store, "warm")
    done: list[Error | None] = []
    outcome = (request, utc_now(), "ok", "late")
    store.append("responses", ("request_id", "received_at", "status", "text"), [outcome], done.append)
    append(store, ("00000000-0000-7000-8000-000000000001", utc_now(), "after")).result(20)
    wait_for(lambda: done, "the receipt")
    assert done == [None]
    assert store.read("SELECT status, text FROM responses WHERE request_id = ?", [request]) == [("ok", "late")]
