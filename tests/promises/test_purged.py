"""What was purged, looked for in every byte that the package has written; and purges whose keeper is killed."""

from __future__ import annotations

import datetime
import random
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import ipyconvexai as ai
from ipyconvexai.ids import new_id
from ipyconvexai.store import keeper, start
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.engine import Engine
from ipyconvexai.store.folder import Folder
from ipyconvexai.store.link import KeeperStore
from ipyconvexai.store.purging import Criteria
from ipyconvexai.store.writer import Insert
from ipyconvexai.testing import Answer, Endpoint, Fault, crash_at
from tests.keepers import Nursery
from tests.promises.children import Child
from tests.promises.promising import Figure, Tries
from tests.store.helpers import COLUMNS, row, wait_for

PROMISE = "what is purged is in no byte of the files, also when the keeper is killed in the middle of it"
TRIES = Tries(5, 100, "kills in a purge")


def bytes_of(*folders: Path) -> bytes:
    """Read in a process of its own: closing a database file here could drop a lock on it."""
    files = [str(file) for folder in folders for file in folder.rglob("*") if file.is_file()]
    return subprocess.run(["cat", *files], capture_output=True, check=False).stdout


PLACES = "prompt answer system error title document job row template label attachment saved talk reply".split()


def plant(app: ai.App, endpoint: Endpoint, marks: dict[str, str]) -> None:
    """A mark at each place where content is kept."""
    endpoint.reply([Answer(f"a {marks['answer']}"), Fault(400, message=f"no {marks['error']}")])
    ai.generate(f"a {marks['prompt']}", system=f"a {marks['system']}", conversation=f"a {marks['title']}")
    ai.safe_generate("wrong")
    endpoint.reply(f"so {marks['reply']}")
    talk = ai.conversation("another")
    talk.send(f"a {marks['talk']}")
    app.records.add_documents([f"a {marks['document']}"])
    frame = pd.DataFrame({"text": [f"a {marks['row']}", "more"], "group": [marks["label"], "b"]})
    ai.map(frame, f"{marks['template']} {{text}}", into="answer", progress=False)
    ai.reduce(frame, "text", by="group", progress=False)
    with app.store.transaction() as execute:
        key, now = new_id(), utc_now()
        execute(
            "INSERT INTO scheduled_functions (id, name, kind, args, created_at, scheduled_time, due_at, state,"
            " attempts, max_attempts, finished_at, result)"
            " VALUES (?, 'f', 'action', '{}', ?, ?, ?, 'success', 1, 1, ?, ?)",
            [key, now, now, now + datetime.timedelta(days=9), now, f'"{marks["job"]}"'],
        )
        execute(
            "INSERT INTO messages (id, created_at, conversation_id, role, content, status, attachments)"
            " VALUES (?, ?, uuid(), 'user', 'see it', 'done', ?)",
            [new_id(), now, f'[{{"kind": "text", "name": "a.txt", "text": "{marks["attachment"]}"}}]'],
        )
        execute(
            "INSERT INTO prompts (id, created_at, name, text) VALUES (?, ?, 'p', ?)", [new_id(), now, marks["saved"]]
        )


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary files of this process, and of those that it starts."""
    folder = Path(tempfile.mkdtemp(prefix="pu-", dir="/tmp"))  # a socket's path must be short
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("way", ["containing", "everything"])
def test_no_byte_of_it_is_left(endpoint: Endpoint, tmp_path: Path, temporary: Path, figure: Figure, way: str):
    folder, common = tmp_path / "alone", f"mark{secrets.token_hex(16)}"
    marks = {name: f"{common}{secrets.token_hex(8)}" for name in PLACES}
    kept = f"kept{secrets.token_hex(16)}"
    with ai.connect(str(folder / "ledger.duckdb"), model="openai:gpt-4o-mini") as app:
        plant(app, endpoint, marks)
        seen = bytes_of(folder, temporary)
        assert [name for name, mark in marks.items() if mark.encode() not in seen] == [], "it was never there"
        app.ledger.purge(everything=True) if way == "everything" else app.ledger.purge(containing=common)
        endpoint.reply(kept)
        ai.generate("more")
        left = bytes_of(folder, temporary)
        assert [name for name, mark in marks.items() if mark.encode() in left] == []
        assert common.encode() not in left
        assert kept.encode() in left
    wait_for(lambda: not Path(f"{app.store.path}.keeper").exists(), "the keeper to end")
    left = bytes_of(folder, temporary)
    assert [name for name, mark in marks.items() if mark.encode() in left] == []
    figure(f"{way}: 0 of {len(marks)} planted texts found", f"{len(marks)} places")


# ------------------------------------------------------------------------------------------------ killed in it
TOLD = "told in confidence "
CONTENT = "SELECT count(title), count(*) FROM conversations"
ROWS = 300


def serve(say: Callable[[Any], None], path: str, crashes: bool) -> None:
    """A keeper that is to be killed."""
    if crashes:
        crash_at("in_rewrite", "kill")
    keeper.main(path)


@pytest.fixture
def next_keeper(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Until it is set no other keeper is started."""
    may_come = threading.Event()

    def spawn(folder: Folder) -> Any:
        assert may_come.wait(60)
        return nursery.spawn(folder)

    monkeypatch.setattr(start, "_spawn", spawn)
    yield may_come
    may_come.set()


def make_ledger(path: Path) -> None:
    engine = Engine(str(path))
    rows = [row(f"{TOLD}{number} " * 20) for number in range(ROWS)]
    assert engine.write([Insert("conversations", COLUMNS, rows)]).result(60) == [None]
    engine.close()


def killed_in_a_purge(path: Path, next_keeper: threading.Event, after: float | None) -> str:
    """Which file a keeper leaves that is killed `after` seconds, or at the crash point: the "old" or the "new" one."""
    next_keeper.clear()
    with Child(serve, str(path), after is None) as child:
        wait_for(lambda: Folder(str(path)).address(), "the keeper to serve")
        store = KeeperStore(path)
        assert store.read(CONTENT) == [(ROWS, ROWS)]
        purging = threading.Thread(target=store.purge, args=(Criteria(),))
        purging.start()
        if after is not None:
            time.sleep(after)
            child.send(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    found = look(path)
    next_keeper.set()
    purging.join()
    assert store.read(CONTENT) == [(0, ROWS)], "the purge was not finished"
    assert TOLD.encode() not in bytes_of(path.parent)
    assert not list(path.parent.glob("*.purging*"))
    store.close()
    return found


def look(path: Path) -> str:
    """At a copy, as the next keeper would find it."""
    copy = path.parent.with_name("looked at")
    copy.mkdir()
    for file in path.parent.glob(f"{path.name}*"):
        if file.is_file():
            shutil.copy(file, copy)
    engine = Engine(str(copy / path.name))
    content = engine.read(CONTENT)
    engine.close()
    assert content in ([(ROWS, ROWS)], [(0, ROWS)]), f"neither the old file nor the new one: {content}"
    assert {file.name for file in copy.iterdir()} == {path.name}, "something of the new file is left"
    shutil.rmtree(copy)
    return "old" if content == [(ROWS, ROWS)] else "new"


def test_a_keeper_that_is_killed_before_the_new_file_takes_its_place(
    tmp_path: Path, next_keeper: threading.Event, figure: Figure
):
    path = tmp_path / "ledger" / "ledger.duckdb"
    path.parent.mkdir()
    make_ledger(path)
    assert killed_in_a_purge(path, next_keeper, None) == "old"
    figure("killed with the new file whole beside it: the old file is there, and the next purge finishes")


@TRIES.both
def test_a_keeper_that_is_killed_anywhere_in_it(
    tmp_path: Path, next_keeper: threading.Event, figure: Figure, tries: int
):
    found = {"old": 0, "new": 0}
    made = tmp_path / "made.duckdb"
    make_ledger(made)
    for number in range(tries):
        path = tmp_path / str(number) / "ledger.duckdb"
        path.parent.mkdir()
        shutil.copy(made, path)
        found[killed_in_a_purge(path, next_keeper, random.Random(number).uniform(0, 0.3))] += 1
        shutil.rmtree(path.parent, ignore_errors=True)
    figure(f"{found['old']} times the old file, {found['new']} times the new one, never another", f"{tries} kills")
