"""Functions on the command line: run by name, listed, their jobs; errors are one block and exit code 1."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import ipyconvexai as ai
from ipyconvexai.cli import main

DEFINITIONS = '''
import ipyconvexai as ai

@ai.mutation
def cli_add(ctx, title: str, times: int = 1) -> list[str]:
    """Add conversations."""
    return [ctx.db.insert(ai.Conversation(title=title)) for _ in range(times)]

@ai.query
def cli_titles(ctx) -> list[dict[str, str | None]]:
    return [{"title": c.title} for c in ctx.db.query(ai.Conversation).collect()]

@ai.mutation(internal=True)
def cli_secret(ctx) -> None:
    ...

@ai.mutation
def cli_later(ctx, seconds: float) -> str:
    return ctx.scheduler.run_after(seconds, cli_add, title="later")

@ai.query
def cli_no_credit(ctx) -> None:
    raise ai.ApplicationError({"left": 0})

@ai.query
def cli_broken(ctx) -> None:
    {}["missing"]

@ai.action
def cli_hello(ctx, name: str) -> str:
    return f"hello {name} \\x1b[31mred"
'''


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "my_functions.py"
    path.write_text(DEFINITIONS)
    return str(path)


@pytest.fixture
def db(tmp_path: Path) -> str:
    return str(tmp_path / "cli.duckdb")


def test_a_public_function_runs_by_name(source: str, db: str):
    done = run("run", "cli_add", "title=one two", "times=2", "--file", source, "--db", db)
    assert done.exit_code == 0, done.output
    done = run("run", "cli_titles", "--file", source, "--db", db)
    assert done.output.split("\n")[2:] == ["one two", "one two", ""]
    done = run("run", "cli_titles", "--file", source, "--db", db, "--json")
    assert json.loads(done.output) == [{"title": "one two"}] * 2


def test_an_action_and_its_text(source: str, db: str):
    assert run("run", "cli_hello", "name=ada=1", "--file", source, "--db", db).output == "hello ada=1 red\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["cli_secret"], "internal"),
        (["cli_titels"], "cli_titles"),
        (["cli_add"], "title"),
        (["cli_add", "title=x", "times=many"], "times"),
        (["cli_add", "x"], "'x' is no key=value"),
        (["cli_no_credit"], '{"left": 0}'),
        (["cli_broken"], "KeyError: 'missing'"),
    ],
)
def test_an_error_is_one_block_and_exit_code_1(source: str, db: str, arguments: list[str], says: str):
    done = run("run", *arguments, "--file", source, "--db", db)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert says in done.stderr
    assert "Traceback" not in done.output
    assert done.stdout == ""


def test_an_error_as_json(source: str, db: str):
    done = run("run", "cli_no_credit", "--file", source, "--db", db, "--json")
    assert done.exit_code == 1
    told = json.loads(done.stderr)
    assert told["data"] == {"left": 0}
    assert told["code"] == "application"


def test_a_broken_function_names_its_line(source: str, db: str):
    said = run("run", "cli_broken", "--file", source, "--db", db).stderr
    assert "my_functions.py:" in said
    assert '{}["missing"]' in said


def test_a_file_that_is_not_there(db: str, tmp_path: Path):
    done = run("run", "f", "--file", str(tmp_path / "none.py"), "--db", db)
    assert done.exit_code == 1
    assert "none.py" in done.stderr
    assert "Traceback" not in done.output


def test_functions_are_listed(source: str):
    said = run("functions", "--file", source).output
    (line,) = (line for line in said.splitlines() if line.startswith("cli_add"))
    assert line.split() == "cli_add mutation title: str, times: int = 1 public Add conversations.".split()
    assert any(line.startswith("cli_secret") and "internal" in line for line in said.splitlines())


def test_jobs_are_listed(source: str, db: str):
    assert run("run", "cli_later", "seconds=3600", "--file", source, "--db", db).exit_code == 0
    assert "cli_add" in run("jobs", "--db", db).output
    assert "cli_add" not in run("jobs", "--db", db, "--state", "failed").output
    assert "cli_add" not in run("jobs", "--db", db, "--name", "cli_titles").output
    done = run("jobs", "--db", db, "--state", "lost")
    assert done.exit_code == 1
    assert "pending" in done.stderr


def test_jobs_wait_for_a_process_that_stays(source: str, db: str):
    assert run("run", "cli_later", "seconds=0", "--file", source, "--db", db).exit_code == 0
    assert run("run", "cli_titles", "--file", source, "--db", db).output == "[]\n"
    assert "cli_add" in run("jobs", "--db", db, "--state", "pending").output


def test_the_current_app_is_left_as_it_was(source: str, db: str):
    with ai.connect(":memory:") as app:
        run("run", "cli_add", "title=x", "--file", source, "--db", db)
        assert ai.app() is app


def test_the_worker_is_given_what_was_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import ipyconvexai.worker

    seen: dict[str, Any] = {}

    def work(path: Path, **options: Any) -> int:
        seen.update(options, path=path)
        options["say"]("working")
        return 3

    monkeypatch.setattr(ipyconvexai.worker, "main", work)
    file = str(tmp_path / "f.py")
    done = run("worker", file, "--db", "x.duckdb", "--user", "ada", "--concurrency", "4", "--grace", "2.5")
    assert done.exit_code == 3
    assert done.output == "working\n"
    del seen["say"]
    assert seen == {"path": Path(file), "db": "x.duckdb", "user": "ada", "concurrency": 4, "grace": 2.5}
    assert run("worker", file, "--concurrency", "0").exit_code == 2


def test_the_command_line_imports_no_notebook():
    import subprocess

    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from ipyconvexai.cli import main\n"
        "assert CliRunner().invoke(main, ['run', 'nothing_of_this_name']).exit_code == 1\n"
        "print('IPython' in sys.modules)\n"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert seen.strip() == "False"
