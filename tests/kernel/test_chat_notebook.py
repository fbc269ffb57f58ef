"""notebooks/05_chat.ipynb from top to bottom: a real kernel, a provider on loopback (long: the local model)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

import ipyconvexai
from ipyconvexai import demo
from ipyconvexai.testing import Endpoint

ROOT = Path(ipyconvexai.__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "05_chat.ipynb"
PAPERS = ROOT / "notebooks" / "data" / "papers.parquet"
KEY = "sk-test-0123456789abcdef"
ANSWER = "It says what was done. It is short."
WIDGET = "application/vnd.jupyter.widget-view+json"


def run(monkeypatch: pytest.MonkeyPatch, folder: Path) -> NotebookNode:
    """In a folder with nothing but the data, as the notebook must need nothing else."""
    (folder / "data").mkdir()
    (folder / "data" / PAPERS.name).write_bytes(PAPERS.read_bytes())
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYCONVEXAI_DB", str(folder / "chat.duckdb"))
    notebook: NotebookNode = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook,
        timeout=100,
        kernel_manager_class=demo.kernels_of_this_python(),
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    return notebook


def outputs_of(notebook: NotebookNode, cell_id: str) -> list[Any]:
    (cell,) = (cell for cell in notebook.cells if cell.get("id") == cell_id)
    outputs: list[Any] = cell.outputs
    return outputs


def text_of(notebook: NotebookNode, cell_id: str, kind: str = "text/plain") -> str:
    outputs = outputs_of(notebook, cell_id)
    return "".join(output.get("text") or output.get("data", {}).get(kind, "") for output in outputs)


def check(notebook: NotebookNode) -> None:
    """What holds with every model."""
    for cell_id, transcript in (
        ("chat", "**papers**"),
        ("tool", "**papers with tools**"),
        ("form", "**Form: explain**"),
    ):
        shown = outputs_of(notebook, cell_id)
        assert any(WIDGET in output.get("data", {}) for output in shown), cell_id
        assert transcript in text_of(notebook, cell_id, "text/markdown")
    assert [line.split()[0] for line in text_of(notebook, "messages").splitlines()] == ["user", "assistant"] * 2
    assert text_of(notebook, "explained").strip()
    assert "parsing" in text_of(notebook, "view")
    assert all(term in text_of(notebook, "change") for term in ("parsing", "ambiguity"))
    for cell_id in ("view", "chart"):
        assert "image/png" in text_of(notebook, cell_id, "text/html"), cell_id
    assert all(source in text_of(notebook, "chart") for source in ("client", "magic", "function"))
    stderr = [output for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]
    assert stderr == []


def test_its_source_is_stripped_and_valid():
    notebook: NotebookNode = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_it_does_what_it_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with Endpoint(ANSWER, key=KEY) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("IPYCONVEXAI_MODEL", "openai:gpt-4o-mini")
        notebook = run(monkeypatch, tmp_path)
        assert endpoint.count == 4  # a message, a cell, two explanations
        assert "what is an abstract for?" in str(endpoint.calls[1].body["messages"]), "the cell goes on with it"
    check(notebook)
    assert text_of(notebook, "explained") == f"{ANSWER}\n"
    assert "{'term': 'ambiguity', 'words': 8}" in text_of(notebook, "change")
    assert KEY not in nbformat.writes(notebook)


@pytest.mark.long
def test_it_runs_on_the_real_local_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("IPYCONVEXAI_MODEL", "local")
    check(run(monkeypatch, tmp_path))
