"""notebooks/02_magics.ipynb from top to bottom: a real kernel, a provider on loopback (long: the local model)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

import ipyconvexai
from ipyconvexai.testing import Endpoint, Received

ROOT = Path(ipyconvexai.__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "02_magics.ipynb"
KEY = "sk-test-0123456789abcdef"
FAIL_ON_PURPOSE = {"broken", "missed"}


def answer(call: Received) -> str:
    return '{"name": "Fundy", "height": 16.3}' if "response_format" in call.body else "The **moon** pulls the sea."


def run(monkeypatch: pytest.MonkeyPatch, folder: Path) -> NotebookNode:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYCONVEXAI_DB", str(folder / "magics.duckdb"))
    notebook: NotebookNode = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=110, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    return notebook


def outputs_of(notebook: NotebookNode, cell_id: str) -> list[Any]:
    (cell,) = (cell for cell in notebook.cells if cell.get("id") == cell_id)
    outputs: list[Any] = cell.outputs
    return outputs


def text_of(notebook: NotebookNode, cell_id: str) -> str:
    outputs = outputs_of(notebook, cell_id)
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def check(notebook: NotebookNode) -> None:
    """What holds with every model."""
    failed = {
        cell["id"]
        for cell in notebook.cells
        if any(output.output_type == "error" for output in cell.get("outputs", []))
    }
    assert failed == FAIL_ON_PURPOSE
    interpolated = text_of(notebook, "interpolated")
    assert "The interval is 12.42 hours." in interpolated
    assert r"\frac{a}{b} and {\"json\": true} stay as they are." in interpolated.replace('"', r"\"")
    assert "somebody else's text, with {half_day} in it" in interpolated
    assert "metres: float64; min 3" in text_of(notebook, "frame_question")
    assert "height=" in text_of(notebook, "parsed")
    assert text_of(notebook, "compare").count("Not sent.") == 2
    assert "In one short sentence: {cell}" in text_of(notebook, "prompt_list")
    assert "this model because" in text_of(notebook, "why")
    assert "highest_metres" in text_of(notebook, "sql_cell")
    assert "replayed" in text_of(notebook, "is_replayed")
    (missed,) = outputs_of(notebook, "missed")
    assert "This was never asked before." in missed.evalue
    stderr = [output for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]
    assert stderr == []


def test_its_source_is_stripped_and_valid():
    notebook: NotebookNode = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_it_does_what_it_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with Endpoint(answer, key=KEY) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("IPYCONVEXAI_MODEL", "openai:gpt-4o-mini")
        notebook = run(monkeypatch, tmp_path)
        # first, second, talk, schema, save, with, explain; the rest was planned, replayed or refused
        assert endpoint.count == 7
        assert [len(call.body["messages"]) for call in endpoint.calls[:3]] == [1, 3, 1]
    check(notebook)
    (first,) = outputs_of(notebook, "first")
    assert first.data["text/plain"] == "The **moon** pulls the sea."
    assert first.data["text/markdown"].startswith("The **moon** pulls the sea.\n\n*gpt")
    assert "gauge[" in endpoint.calls[-1].prompt
    assert "KeyError" in endpoint.calls[-1].prompt
    assert KEY not in nbformat.writes(notebook)


@pytest.mark.long
def test_it_runs_on_the_local_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("IPYCONVEXAI_MODEL", "local")
    check(run(monkeypatch, tmp_path))
