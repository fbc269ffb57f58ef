"""Another program opens the ledger's file with DuckDB itself: while notebooks use it, and while all are idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

import ipyconvexai as ai
from ipyconvexai.errors import Error, LedgerLockedError
from ipyconvexai.store import database
from ipyconvexai.store.database import IDLE_CLOSE
from ipyconvexai.store.engine import Engine
from ipyconvexai.store.folder import Folder
from ipyconvexai.testing import Endpoint
from tests.promises.children import Child
from tests.promises.promising import Figure
from tests.store.helpers import wait_for

PROMISE = "while all notebooks are idle another program can open the file; who asks meanwhile waits, or is told its PID"

COUNT = "SELECT count(*) FROM requests"
HELD, REFUSED = "held", "refused"


def foreign(say: Callable[[Any], None], path: str, seconds: float) -> None:
    """Opens it as the DuckDB command line does, and holds it for a time."""
    duckdb.connect()  # so that what follows is the opening of the file alone
    try:
        connection = duckdb.connect(path)
    except duckdb.IOException as error:
        say((REFUSED, str(error)))
        return
    say((HELD, connection.execute(COUNT).fetchall()[0][0]))
    time.sleep(seconds)
    connection.close()


def ask(say: Callable[[Any], None], path: str) -> None:
    """A notebook that asked once, listens for changes, and does nothing."""
    with ai.connect(path, model="openai:gpt-4o-mini") as app:
        ai.generate("a question")
        listening = threading.Thread(target=lambda: list(app.store.changes()), daemon=True)
        listening.start()
        say("idle")
        time.sleep(600)  # until it is killed


def make_ledger(path: str) -> None:
    engine = Engine(path)
    assert engine.read(COUNT) == [(0,)]
    engine.close()


def hold(path: str, seconds: float) -> Child | None:
    """The program that holds the file; None when it is in use."""
    child = Child(foreign, path, seconds)
    word, _ = child.hear()
    if word == HELD:
        return child
    with child:
        return None


def test_idle_notebooks_let_the_file_go(endpoint: Endpoint, tmp_path: Path, figure: Figure):
    path = str(tmp_path / "ledger.duckdb")
    with Child(ask, path) as first, Child(ask, path) as second:
        assert (first.hear(), second.hear()) == ("idle", "idle")
        with ai.connect(path, model="openai:gpt-4o-mini") as app:
            ai.generate("while others are idle")
            used = time.monotonic()
            with Child(foreign, path, 0) as early:
                word, said = early.hear()
            assert word == REFUSED, "the file was not held while it was in use"
            assert str(Folder(app.store.path).keeper_pid()) in said, "DuckDB names who holds it"
            holder: Child = wait_for(lambda: hold(path, 600), "the file to be let go", 20)
            let_go = time.monotonic() - used
            with holder:
                sent = endpoint.count
                with pytest.raises(LedgerLockedError, match=rf"PID {holder.pid}\b") as locked:
                    ai.generate("while it is held")
                assert locked.value.cure
                with pytest.raises(LedgerLockedError, match=rf"PID {holder.pid}\b"):
                    app.ledger.sql(COUNT)
                assert endpoint.count == sent, "something was sent unrecorded"
            ai.generate("when it is free again")
            prompts = [call.prompt for call in endpoint.calls]
            assert prompts.count("while it is held") == 0
            assert app.ledger.sql(COUNT).fetchall() == [(len(prompts),)]
    assert let_go < 10 * IDLE_CLOSE
    figure(f"three notebooks let it go {let_go:.1f} s after the last use")


def test_a_file_that_is_held_for_a_moment_is_waited_for(endpoint: Endpoint, tmp_path: Path):
    path = str(tmp_path / "ledger.duckdb")
    make_ledger(path)
    with Child(foreign, path, 0.5) as holder:
        assert holder.hear() == (HELD, 0)
        with ai.connect(path, model="openai:gpt-4o-mini") as app:
            assert ai.generate("at once").text == "echo: at once"
            assert app.ledger.sql(COUNT).fetchall() == [(1,)]


def test_many_who_wait_for_a_held_file_wait_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(database, "OPEN_PATIENCE", 1.0)
    path = str(tmp_path / "ledger.duckdb")
    make_ledger(path)
    engine = Engine(path)
    failures: list[Error] = []

    def read() -> None:
        with pytest.raises(LedgerLockedError) as locked:
            engine.read("SELECT 1")
        failures.append(locked.value)

    with Child(foreign, path, 600) as holder:
        assert holder.hear()[0] == HELD
        begun = time.monotonic()
        threads = [threading.Thread(target=read) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(failures) == 20
        assert time.monotonic() - begun < 10, "they waited one after the other"
    assert engine.read(COUNT) == [(0,)]
    engine.close()
