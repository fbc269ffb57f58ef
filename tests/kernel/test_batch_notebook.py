"""notebooks/03_batch.ipynb from top to bottom: a real kernel, a provider on loopback (long: the local model)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

import ipyconvexai
from ipyconvexai import demo
from ipyconvexai.testing import Answer, Endpoint, Received

ROOT = Path(ipyconvexai.__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "03_batch.ipynb"
PAPERS = ROOT / "notebooks" / "data" / "papers.parquet"
KEY = "sk-test-0123456789abcdef"
ROWS = 12


def answer(call: Received) -> Answer:
    if "long story" in call.prompt:
        return Answer('{"story": "Once upon a', finish_reason="length")
    if "response_format" in call.body:
        return Answer({"kind": "method", "technical": 4})
    return Answer("They have a method. It works well.")


def run(monkeypatch: pytest.MonkeyPatch, folder: Path) -> NotebookNode:
    """In a folder with nothing but the data, as the notebook must need nothing else."""
    (folder / "data").mkdir()
    (folder / "data" / PAPERS.name).write_bytes(PAPERS.read_bytes())
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYCONVEXAI_DB", str(folder / "batches.duckdb"))
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


def text_of(notebook: NotebookNode, cell_id: str) -> str:
    outputs = outputs_of(notebook, cell_id)
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def check(notebook: NotebookNode) -> None:
    """What holds with every model."""
    assert "Estimate for" in text_of(notebook, "estimate")
    assert f"{ROWS} of {ROWS} rows" in text_of(notebook, "summaries")
    assert f"{ROWS} from the ledger" in text_of(notebook, "twice")
    assert "not a text but int" in text_of(notebook, "failed")
    assert "truncated: " in text_of(notebook, "cut")
    assert any("image/png" in output.get("data", {}) for output in outputs_of(notebook, "chart"))
    assert all(years in text_of(notebook, "reduced") for years in ("2016-2018", "2019-2020", "2021-2022"))
    assert "0.05" in text_of(notebook, "money")
    assert "shape: (2, 2)" in text_of(notebook, "polars")
    assert "3 from the ledger" in text_of(notebook, "duckdb")
    assert f"{ROWS} from the ledger" in text_of(notebook, "files")
    assert all(word in text_of(notebook, "batches") for word in ("summarize", "map", "approach", "done"))
    assert text_of(notebook, "joined").count(" ok ") == 3
    assert "ai.summarize abstract of a pandas frame" in text_of(notebook, "job")
    assert f"'success', [{{'state': 'success', 'rows': {ROWS}, 'known': {ROWS}" in text_of(notebook, "runs")
    stderr = [output for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]
    assert stderr == []


def test_its_source_is_stripped_and_valid():
    notebook: NotebookNode = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_the_data_are_those_of_the_quickstart_and_more():
    papers = pd.read_parquet(PAPERS)
    sixteen = pd.read_csv(PAPERS.with_name("papers.csv"))
    both = papers.merge(sixteen, on=list(sixteen.columns))
    assert (len(papers), len(both)) == (24, len(sixteen))
    assert papers.notna().all(axis=None)
    assert papers["year"].min() >= 2016, "earlier ones carry another licence"
    assert PAPERS.stat().st_size < 150_000


def test_it_does_what_it_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with Endpoint(answer, key=KEY) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("IPYCONVEXAI_MODEL", "openai:gpt-4o-mini")
        notebook = run(monkeypatch, tmp_path)
        # summaries, kinds and the shorter ones of each row; three groups, a text, one that is cut twice
        assert endpoint.count == 3 * ROWS + 3 + 1 + 2
        assert sum("long story" in call.prompt for call in endpoint.calls) == 2
    check(notebook)
    typed = text_of(notebook, "typed")
    assert typed.count("method") >= ROWS
    assert "They have a method. It works well." in text_of(notebook, "beside")
    assert KEY not in nbformat.writes(notebook)


@pytest.mark.long
def test_it_runs_on_the_real_local_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("IPYCONVEXAI_MODEL", "local")
    check(run(monkeypatch, tmp_path))
