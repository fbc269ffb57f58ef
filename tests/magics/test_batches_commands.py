"""``%ai batches``, and ``%ai cancel`` of one that runs, in a real IPython shell; the model is a double over HTTP."""

from __future__ import annotations

import threading
import time

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

import ipyconvexai as ai
from ipyconvexai.notebook import completion
from ipyconvexai.notebook.session import of_shell
from ipyconvexai.testing import Answer
from tests.magics.conftest import Page, Run, Scripted

PATIENCE = 30.0  # seconds


def test_batches_are_listed(run: Run, page: Page, capsys: pytest.CaptureFixture[str]):
    assert run("%ai batches") is None
    assert capsys.readouterr().out == 'No batch was run yet: ai.summarize(df, "text") is one.\n'
    ai.map(pd.DataFrame({"word": ["tide", "moon"]}), "Translate: {word}", progress=False)
    assert run("%ai batches") is None
    listed = page.last["text/plain"]
    assert "Translate" in listed
    assert "done" in listed
    (batch,) = ai.batches()
    assert run(f"%ai cancel {batch[0]}") is None
    assert capsys.readouterr().out == f"batch {batch[0]}: done\n"
    assert type(run("%ai batches --all")).__name__ == "UsageError"


def test_one_that_runs_is_completed_and_canceled(
    run: Run,
    shell: InteractiveShell,
    endpoint: Scripted,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(completion, "PATIENCE", PATIENCE)
    numbers = pd.DataFrame({"number": range(1000)})
    endpoint.scripted.update({f"Double {number}": Answer("x", delay=0.2) for number in range(1000)})
    made: list[pd.DataFrame] = []
    batch = threading.Thread(
        target=lambda: made.append(ai.map(numbers, "Double {number}", concurrency=1, progress=False))
    )
    batch.start()
    ends = time.monotonic() + PATIENCE
    while not (found := completion.candidates(of_shell(shell), "cancel ", is_cell=False)[0]):
        assert time.monotonic() < ends
    (key,) = found
    assert run(f"%ai cancel {key}") is None
    assert capsys.readouterr().out == f"batch {key}: canceled\n"
    batch.join(PATIENCE)
    assert not batch.is_alive()
    assert 0 < endpoint.count < 100
    assert made[0]["answer_error"].str.startswith("canceled").sum() > 900
    assert completion.candidates(of_shell(shell), "cancel ", is_cell=False)[0] == []
