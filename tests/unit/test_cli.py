"""The command line: what it prints, and that an error of ours is one block and exit code 1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import ipyconvexai as ai
from ipyconvexai.cli import main
from ipyconvexai.demo import printable
from ipyconvexai.testing import Endpoint

KEY = "sk-test-0123456789abcdef"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ai.App]:
    with Endpoint(key=KEY) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        with ai.connect(str(tmp_path / "ledger.duckdb"), model="openai:gpt-4o-mini") as app:
            app.generate("hello")
            yield app


def test_version():
    assert run("version").output == f"ipyconvexai {ai.__version__}\n"


def test_doctor_names_the_key_and_never_shows_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    done = run("doctor")
    assert done.exit_code == 0
    assert "OPENAI_API_KEY is set" in done.output
    assert KEY not in done.output


def test_doctor_opens_no_ledger(tmp_path: Path):
    run("doctor")
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_the_same_as_in_python(ledger: ai.App):
    assert run("doctor").output == f"{ai.doctor()}\n"
    assert "ledger state: 1 ok" in run("doctor").output


@pytest.mark.parametrize("key", ["", KEY])
def test_the_demo_fetches_the_local_model_where_it_is_what_would_be_used(monkeypatch: pytest.MonkeyPatch, key: str):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:1")
    done: list[str] = []
    monkeypatch.setattr("ipyconvexai.providers.weights.fetch", lambda: done.append("fetched"))
    monkeypatch.setattr("ipyconvexai.demo.run", lambda *_, **__: done.append("run"))
    assert run("demo").exit_code == 0
    assert done == (["run"] if key else ["fetched", "run"])


def test_export(ledger: ai.App, tmp_path: Path):
    path = tmp_path / "calls.csv"
    done = run("export", str(path), "--sql", "SELECT status, text FROM calls")
    assert done.exit_code == 0
    assert done.output == f"Written: {path}\n"
    assert path.read_text() == '"status","text"\n"ok","echo: hello"\n'


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["calls.txt"], ".parquet, .csv or .jsonl"),
        (["calls.csv", "--sql", "SELEC 1"], "SELEC"),
        (["none/calls.csv"], "no folder none"),
    ],
)
def test_an_error_is_one_block_and_exit_code_1(
    ledger: ai.App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
):
    monkeypatch.chdir(tmp_path)
    done = run("export", *arguments)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert says in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / arguments[0]).exists(), "nothing half-written"


def test_the_demo_outside_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ipyconvexai.demo.__file__", str(tmp_path / "a" / "b" / "demo.py"))
    done = run("demo")
    assert done.exit_code == 1
    assert "in the repository's folder" in done.stderr


def test_a_frame_is_printed_as_paragraphs():
    from nbformat.v4 import new_output

    markup = '<table class="dataframe"><tr><th></th><th>title</th><th>summary</th></tr>'
    markup += f"<tr><th>0</th><td>A &lt; B</td><td>{'word ' * 40}</td></tr></table>"
    shown = printable(new_output("execute_result", {"text/html": markup, "text/plain": "cut..."}))
    lines = shown.splitlines()
    assert lines[0] == "  0. A < B"
    assert max(map(len, lines)) <= 110
    assert shown.split().count("word") == 40
