"""The quickstart as ``ipyconvexai demo`` runs it: a real kernel, a provider on loopback or the real local model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode

import ipyconvexai
from ipyconvexai import demo
from ipyconvexai.errors import ConfigurationError, LocalModelError
from ipyconvexai.providers.local import find_weights
from ipyconvexai.testing import Endpoint, Fault

ROOT = Path(ipyconvexai.__file__).parents[1]
KEY = "sk-test-0123456789abcdef"
PAPERS = 16


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the notebooks of this repository, so that nothing is written into it."""
    folder = tmp_path / "checkout"
    (folder / "notebooks" / "data").mkdir(parents=True)
    for name in ("01_quickstart.ipynb", "data/papers.csv"):
        (folder / "notebooks" / name).write_bytes((ROOT / "notebooks" / name).read_bytes())
    return folder


def run(arguments: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """``ipyconvexai`` as a program, with no ledger named but the demo's own."""
    environment = {name: value for name, value in os.environ.items() if name != "IPYCONVEXAI_DB"}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "ipyconvexai", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)


def with_provider(endpoint: Endpoint) -> dict[str, str]:
    return {"OPENAI_BASE_URL": endpoint.url, "OPENAI_API_KEY": KEY}


def test_the_source_is_stripped_and_valid():
    notebook = nbformat.read(ROOT / demo.NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_it_runs_and_the_second_time_sends_no_document(checkout: Path):
    with Endpoint("One sentence. Another one.", key=KEY) as endpoint:
        first = run(["demo"], checkout, **with_provider(endpoint))
        assert first.returncode == 0, first.stderr
        assert endpoint.count == 1 + PAPERS
        second = run(["demo"], checkout, **with_provider(endpoint))
        assert second.returncode == 0, second.stderr
        assert endpoint.count == 1 + PAPERS + 1
    assert "[10/10]" in first.stdout
    assert first.stdout.count("One sentence. Another one.") >= PAPERS + 1
    assert f"0 requests sent, {PAPERS} summaries from the ledger" in first.stdout
    assert f"Sent in this run: {1 + PAPERS} requests" in first.stdout
    assert "kept from before" in second.stdout
    assert "Sent in this run: 1 request," in second.stdout
    assert first.stderr == second.stderr == ""

    assert (checkout / "notebooks" / "executed" / "quickstart.duckdb").exists()
    executed = checkout / "notebooks" / "executed" / "01_quickstart.ipynb"
    assert str(Path("notebooks") / "executed" / "01_quickstart.ipynb") in first.stdout
    look_through(nbformat.read(executed, as_version=4))
    assert KEY not in executed.read_text() + first.stdout


@pytest.mark.parametrize("folder", [".", "notebooks"])
def test_it_finds_its_data_from_both_folders(checkout: Path, folder: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(checkout / folder)
    notebook = nbformat.read(checkout / demo.NOTEBOOK, as_version=4)
    (cell,) = (cell for cell in notebook.cells if "read_csv" in cell.source)
    names: dict[str, Any] = {}
    exec(cell.source, names)
    assert len(names["papers"]) == PAPERS


def look_through(notebook: NotebookNode) -> None:
    """One markdown output for the answer, a table of all summaries, tables of the ledger, no warnings."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    answers = [output for output in outputs if "text/markdown" in output.get("data", {})]
    assert [answer.data["text/plain"] for answer in answers] == ["One sentence. Another one."]
    tables = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert max(table.count("Another one.") for table in tables) == PAPERS
    assert sum("input_tokens" in table for table in tables) == 3
    assert [output for output in outputs if output.output_type == "stream" and output.name == "stderr"] == []


def test_a_cell_that_fails_ends_it_with_the_error(checkout: Path):
    path = checkout / demo.NOTEBOOK
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.id in ("load", "question")]
    nbformat.write(notebook, path)
    with Endpoint(Fault(401, message=f"Incorrect API key provided: {KEY}"), key=KEY) as endpoint:
        done = run(["demo", "--fresh"], checkout, **with_provider(endpoint))
    assert done.returncode == 1
    assert "AuthenticationError: openai answered 401" in done.stderr
    assert "Traceback" not in done.stderr
    assert KEY not in done.stderr + done.stdout
    assert (checkout / "notebooks" / "executed" / "01_quickstart.ipynb").exists()


def test_without_the_notebook_it_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "__file__", str(tmp_path / "site-packages" / "ipyconvexai" / "demo.py"))
    with pytest.raises(ConfigurationError, match="01_quickstart"):
        demo.find_notebook()


def test_on_the_real_local_model(checkout: Path):
    """Two documents: structure and usage, never facts."""
    try:
        find_weights()
        import xllamacpp  # noqa: F401  its presence is what is asked
    except (LocalModelError, ImportError):
        if os.environ.get("IPYCONVEXAI_TEST_LOCAL") == "required":
            raise
        pytest.skip("the local model is not installed: run `make weights`, or `make test`")
    shorten(checkout / "notebooks" / "data" / "papers.csv", 2)
    done = run(["demo"], checkout, IPYCONVEXAI_MODEL="local")
    assert done.returncode == 0, done.stderr
    assert "smollm2-135m" in done.stdout
    assert "a very small model on this machine" in done.stdout
    assert "0 requests sent, 2 summaries from the ledger" in done.stdout
    notebook = nbformat.read(checkout / "notebooks" / "executed" / "01_quickstart.ipynb", as_version=4)
    usage: Any = next(cell for cell in notebook.cells if cell.source == "ai.ledger.usage()")
    row = usage.outputs[0].data["text/plain"].splitlines()[-1].split()
    assert row[:3] == ["smollm2-135m", "3", "3"]
    assert int(row[3].replace(",", "")) > 300
    assert int(row[5].replace(",", "")) > 30


def shorten(path: Path, rows: int) -> None:
    import pandas as pd

    pd.read_csv(path).head(rows).to_csv(path, index=False)
