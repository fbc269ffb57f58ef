"""notebooks/04_actions.ipynb from top to bottom: a real kernel, a provider on loopback (long: the local model)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

import ipyconvexai
from ipyconvexai.testing import Endpoint

ROOT = Path(ipyconvexai.__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "04_actions.ipynb"
ANSWER = "The moon pulls the sea. It does so twice a day."


def run(monkeypatch: pytest.MonkeyPatch, folder: Path) -> NotebookNode:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYCONVEXAI_DB", str(folder / "functions.duckdb"))
    notebook: NotebookNode = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=90, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    return notebook


def text_of(notebook: NotebookNode, cell_id: str) -> str:
    (cell,) = (cell for cell in notebook.cells if cell.get("id") == cell_id)
    shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "".join(shown)


def test_the_source_is_stripped_and_valid():
    notebook: NotebookNode = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_it_shows_what_it_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    key = "sk-test-0123456789abcdef"
    with Endpoint(ANSWER, key=key) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        monkeypatch.setenv("OPENAI_API_KEY", key)
        notebook = run(monkeypatch, tmp_path)
        assert endpoint.count == 4  # explain, the chat, the document, one more
    broken = text_of(notebook, "broken")
    for name in ("ArgumentsError", "NotAllowedError", "FunctionTimeoutError", "2 notes, as before"):
        assert name in broken
    assert text_of(notebook, "shout") == "'The moon pulls!!!!!!!!!!'"
    jobs = text_of(notebook, "schedule")
    assert "success" in jobs
    assert "pending" in jobs
    assert text_of(notebook, "cancel-jobs") == "explain canceled\n"
    assert "Europe/Paris" in text_of(notebook, "cron")
    chat = text_of(notebook, "send")
    assert "pending" in chat
    assert chat.endswith(f"{ANSWER}\n")
    assert "_creation_time" in text_of(notebook, "live")  # nbclient hears no changes of a cell that has ended
    assert "10 of 25 passed; the next one in" in text_of(notebook, "rate")
    assert "pocket money" in text_of(notebook, "app-limits")
    usage = text_of(notebook, "calls")
    assert all(source in usage for source in ("function", "schedule", "client"))
    outputs: list[Any] = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if output.output_type == "stream" and output.name == "stderr"] == []
    assert key not in nbformat.writes(notebook)


@pytest.mark.long
def test_it_runs_on_the_real_local_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("IPYCONVEXAI_MODEL", "local")
    notebook = run(monkeypatch, tmp_path)
    assert text_of(notebook, "explain").strip()
    assert "done" in text_of(notebook, "send")
