"""The chat panel's conversation with the local model: structure, usage and order, never what it says."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

import ipyconvexai as ai
from ipyconvexai.errors import LocalModelError
from ipyconvexai.providers.local import find_weights
from ipyconvexai.widgets.talk import Talk
from tests.store.helpers import wait_for

TURN = 120.0  # seconds; the model reads the conversation so far each time


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    try:
        find_weights()
        import xllamacpp  # noqa: F401  its presence is what is asked
    except (LocalModelError, ImportError):
        if os.environ.get("IPYCONVEXAI_TEST_LOCAL") == "required":
            raise
        pytest.skip("the local model is not installed: run `make weights`, or `make test`", allow_module_level=False)


def answered(app: ai.App, count: int) -> bool:
    done = "SELECT count(*) FROM messages WHERE role = 'assistant' AND status NOT IN ('pending', 'streaming')"
    return app.store.read(done) == [(count,)]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("turns", [pytest.param(100, marks=pytest.mark.long), 3])
def test_turns_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # the server's log
    told: list[str] = []
    with ai.connect(tmp_path / "ledger.duckdb", model="local") as app:
        talk = Talk(app, "Bridges", lambda updates: told.extend(map(str, updates)), system="You answer in a few words.")
        app.run(talk.open())
        for turn in range(1, turns + 1):
            app.run(talk.send(f"Question {turn}: what is {turn} plus one?"))
            wait_for(functools.partial(answered, app, turn), f"answer {turn}", TURN)
        rows = app.store.read(
            "SELECT m.role, m.status, m.error_message, r.input_tokens > 0 AND r.output_tokens > 0, r.cost_usd"
            " FROM messages m LEFT JOIN responses r ON r.request_id = m.request_id ORDER BY m.created_at, m.id"
        )
        talk.close()
    assert rows == [("user", "done", None, None, None), ("assistant", "done", None, True, 0.0)] * turns
    assert told
