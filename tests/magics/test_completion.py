"""Tab in a real IPython: ``%ai`` lines, the first line of ``%%ai`` cells, with jedi and without."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

import ipyconvexai as ai
from ipyconvexai.notebook import commands, completion
from ipyconvexai.notebook.options import FLAGS, FORMATS, OPTIONS
from ipyconvexai.notebook.session import Alias, Session, of_shell
from ipyconvexai.providers.catalog import providers

DEFINITIONS = """
import dataclasses
import pydantic
import ipyconvexai as ai

@ai.query
def tab_titles(ctx, limit: int = 50) -> list[str]:
    return []

@ai.mutation
def tab_add(ctx, title: str, times: int = 1) -> None:
    ...

@ai.mutation(internal=True)
def tab_secret(ctx) -> None:
    ...

@dataclasses.dataclass
class Point:
    x: int

class Person(pydantic.BaseModel):
    name: str

from pydantic import BaseModel

class Plain: ...
point = Point(1)
"""

Tab = Callable[[str], list[str]]


@pytest.fixture(params=["jedi", "no jedi", "legacy"])
def tab(request: pytest.FixtureRequest, shell: InteractiveShell) -> Iterator[Tab]:
    """The texts that could stand instead of `cell`, with the cursor at its end, by each of IPython's ways."""
    result = shell.run_cell(DEFINITIONS)
    assert result.success

    def complete(cell: str) -> list[str]:
        with warnings.catch_warnings(), provisionalcompleter():
            warnings.simplefilter("ignore", PendingDeprecationWarning)
            if request.param == "legacy":  # as ipykernel asks it without its experimental completions
                *above, line = cell.split("\n")
                end, texts = shell.complete("", line, len(line))
                return ["\n".join([*above, line[: len(line) - len(end)] + text]) for text in texts]
            return [cell[: found.start] + found.text for found in shell.Completer.completions(cell, len(cell))]

    jedi, shell.Completer.use_jedi = shell.Completer.use_jedi, request.param == "jedi"
    yield complete
    shell.Completer.use_jedi = jedi


@pytest.fixture
def ledger() -> Iterator[None]:
    """One that is open. Most completions need none, and its opening takes longer than they do."""
    with ai.connect(":memory:", user="ada"):
        yield


@pytest.fixture
def session(shell: InteractiveShell) -> Session:
    return of_shell(shell)


# ----------------------------------------------------------------------------------------------------- commands
def words_of_patterns() -> list[tuple[str, list[str]]]:
    """Each pattern of the dispatch table with the commands that it begins with."""
    begins = re.compile(r"\(?(?:\?:)?([a-z]+(?:\|[a-z]+)*)")
    patterns = [entry[0].pattern.replace("s?", "") for entry in commands._COMMANDS]  # `budgets?`
    found = [(pattern, begins.match(pattern)) for pattern in patterns]
    return [(pattern, match[1].split("|") if match else []) for pattern, match in found]


@pytest.mark.parametrize(("pattern", "words"), words_of_patterns())
def test_each_command_is_completed_and_explained(pattern: str, words: list[str]):
    assert words, f"{pattern} does not begin with the command's name: this test cannot read it"
    assert set(words) <= set(completion.COMMANDS)


def test_what_is_completed_is_a_command():
    dispatched = {word for _, words in words_of_patterns() for word in words}
    assert set(completion.COMMANDS) <= dispatched, "it would be sent to a model"


def test_commands(tab: Tab):
    found = tab("%ai ")
    assert [f"%ai {word}" for word in completion.COMMANDS] == found[: len(completion.COMMANDS)]
    assert tab("%ai fu") == ["%ai functions"]
    assert tab("%ai  RES") == ["%ai  reset"]
    assert tab("if True:\n    %ai usa") == ["if True:\n    %ai usage"]
    assert tab("%ai help doc") == ["%ai help doctor"]


@pytest.mark.parametrize(
    ("line", "ends"),
    [
        ("%ai jobs f", ["failed"]),
        ("%ai usage ", ["--by"]),
        ("%ai usage --by n", ["notebook"]),
        ("%ai replay o", ["on", "off", "only"]),
        ("%ai list goo", ["google"]),
        ("%ai list al", ["all"]),
        ("%ai run tab_", ["tab_add", "tab_titles"]),
        ("%ai run tab_titles l", ["limit="]),
        ("%ai run tab_add title=a t", ["times="]),
        ("%ai run tab_add title='a b' times=2 ", ["-o"]),
        ("%ai log --h", ["--help"]),
        ("%ai log text --s", ["--status", "--since"]),
        ("%ai log --status er", ["error"]),
        ("%ai export calls.csv --f", ["--force"]),
        ("%ai purge --", ["--before", "--containing", "--conversation", "--all", "--yes", "--help"]),
        ("%ai fix mine", ["mine", "mine2"]),
        ("%ai error -f js", ["json"]),
        ("%ai delete m", ["mine", "mine2"]),
        ("%ai dealias mine2", ["mine2"]),
        ("%ai update m", ["mine", "mine2"]),
        ("%ai update mine openai:gpt-4o-", ["openai:gpt-4o-mini"]),
        ("%ai alias new chef:gpt-4.", ["chef:gpt-4.1-nano"]),
        ("%ai register new openai --api-k", ["--api-key-name"]),
        ("%ai alias new openai --api-key-name CONVEX", ["CONVEX_OPENAI_API_KEY"]),
        ("%ai model min", ["mine", "mine2"]),
        ("%ai log --model min", ["mine", "mine2"]),
        ("%ai export calls.csv --model groq:openai/gpt-oss-1", ["groq:openai/gpt-oss-120b"]),
        ("%ai budget o", ["off"]),
    ],
)
def test_what_follows_a_command(tab: Tab, session: Session, line: str, ends: list[str]):
    session.aliases.update(mine=Alias("openai"), mine2=Alias("local"))
    before = line[: line.rindex(" ") + 1]
    assert tab(line) == [before + end for end in ends]


# ------------------------------------------------------------------------------------------------------ options
@pytest.mark.parametrize("magic", ["%ai", "%%ai", "%%ai openai:gpt-4o -t 0"])
def test_options(tab: Tab, magic: str):
    given = set(magic.split())
    assert tab(f"{magic} -") == [f"{magic} {name}" for name in (*OPTIONS, *FLAGS) if name not in given]
    assert tab(f"{magic} --m") == [
        f"{magic} --{name}" for name in ("model", "models", "max-tokens", "model-parameters")
    ]
    assert f"{magic} --dry-run" in tab(f"{magic} ")


@pytest.mark.parametrize("magic", ["%ai", "%%ai", "%%ai local -m {\"a\": [1, 2]} -s 'two words'"])
@pytest.mark.parametrize(
    ("written", "ends"),
    [
        ("-f ", list(FORMATS)),
        ("--format ma", ["markdown", "math"]),
        ("--format=ma", ["markdown", "math"]),
        ("--replay ", ["off", "reuse", "only"]),
        ("--models openai,anthropic,loc", ["local", "local:smollm2-135m"]),
        ("--api-key-name GROQ", ["GROQ_API_KEY"]),
        ("--schema P", ["Point", "Person"]),
    ],
)
def test_values(tab: Tab, magic: str, written: str, ends: list[str]):
    before = re.sub(r"[^ =,]*$", "", written)
    assert tab(f"{magic} {written}") == [f"{magic} {before}{end}" for end in ends]


@pytest.mark.parametrize("option", ["-m", "-t", "-s", "-o", "--max-tokens", "--budget", "--api-base"])
def test_what_only_the_user_knows_is_left_alone(session: Session, option: str):
    for is_cell in (True, False):
        assert completion.candidates(session, f"{option} ", is_cell=is_cell)[0] == []


# ------------------------------------------------------------------------------------------------------- models
def test_models(tab: Tab, session: Session):
    session.aliases["mine"] = Alias("openai")
    found = tab("%%ai ")
    names = [provider.name for provider in providers()]
    known = [f"{provider.name}:{model}" for provider in providers() for model in provider.models]
    assert [f"%%ai {name}" for name in ["help", "sql", "mine", *names, *known]] == found[: 3 + len(names + known)]
    assert tab("%ai --model mi") == ["%ai --model mine"] + [
        f"%ai --model {name}" for name in [*names, *known] if name.startswith("mi")
    ]


@pytest.mark.parametrize(
    ("written", "ends"),
    [
        ("openai:gpt-4o", ["openai:gpt-4o", "openai:gpt-4o-mini"]),
        ("openai/gpt-4o-", ["openai/gpt-4o-mini"]),
        ("groq:openai/gpt-oss-1", ["groq:openai/gpt-oss-120b"]),
        ("groq/openai/gpt-oss-1", ["groq/openai/gpt-oss-120b"]),
        ("ollama:llama3.2:", ["ollama:llama3.2:1b"]),
        ("codes", ["mistral:codestral-latest"]),
        ("OPENAI:GPT-4O-", ["openai:gpt-4o-mini"]),
    ],
)
@pytest.mark.parametrize("before", ["%%ai ", "%%ai -t 0 ", "%ai --model ", "%%ai --model="])
def test_names_with_colons_and_slashes(tab: Tab, before: str, written: str, ends: list[str]):
    assert tab(before + written) == [before + end for end in ends]


def test_one_model_is_enough(tab: Tab):
    assert "%%ai local openai" not in tab("%%ai local ")
    assert "%%ai --model local openai" not in tab("%%ai --model local ")


# ----------------------------------------------------------------------------------------------- what is nothing
def test_other_lines_complete_as_ever(tab: Tab, ledger: None, shell: InteractiveShell):
    shell.user_ns["magical_variable"] = 1
    for before in ("x = ", "%ai run tab_titles limit=", "%%ai\nWhat is {", "%ai -t 0 What is {"):
        assert f"{before}magical_variable" in tab(f"{before}magical_v")
    assert "ai.ledger" in tab("ai.ledg") or "ledger" in [text.rpartition(".")[2] for text in tab("ai.ledg")]


@pytest.mark.parametrize(
    "line", ["show magical_v", "budget off magical_v", "limits magical_v", "conversations magical_v", "log magical_v"]
)
def test_what_is_pythons_is_not_offered_behind_a_command(tab: Tab, shell: InteractiveShell, line: str):
    shell.user_ns["magical_variable"] = 1
    assert tab(f"%ai {line}") == []
    assert tab("%ai show me {magical_v") == ["%ai show me {magical_variable"]


@pytest.mark.parametrize("cell", ["%aid ", "x\n%%ai ", "%%ai local\nusa", "%ai what is usa", "# %ai usa"])
def test_what_is_no_line_of_ours_gets_nothing_of_ours(shell: InteractiveShell, cell: str):
    (ours,) = [each for each in shell.Completer.custom_matchers if each.__module__ == completion.__name__]
    from IPython.core.completer import CompletionContext

    *above, line = cell.split("\n")
    context = CompletionContext(token="", full_text=cell, cursor_position=len(line), cursor_line=len(above), limit=None)
    assert ours(context)["completions"] == []


def test_it_comes_and_goes_with_the_extension(bare_shell: InteractiveShell):
    before = list(bare_shell.Completer.custom_matchers)
    for _ in range(2):
        ai.load_ipython_extension(bare_shell)
        assert len(bare_shell.Completer.custom_matchers) == len(before) + 1
    ai.unload_ipython_extension(bare_shell)
    assert bare_shell.Completer.custom_matchers == before


_PIECES = st.sampled_from(
    [
        "%ai",
        "%%ai",
        "-c",
        "--with=",
        '"',
        "'",
        "-m",
        "{",
        "=",
        ",",
        "openai:",
        "run",
        "alias",
        "--",
        "\n",
        "[",
        "\\",
        "é",
    ]
)


@example("openai!\n", False)
@given(st.one_of(st.text(max_size=40), st.lists(_PIECES, max_size=8).map(" ".join)), st.booleans())
def test_any_line_gives_names_that_replace_its_end(text: str, is_cell: bool):
    session = Session(type("Shell", (), {"user_ns": {"Odd": Odd}})(), aliases={"mine": Alias("openai")})
    found, fragment = completion.candidates(session, text, is_cell=is_cell)
    assert text.endswith(fragment)
    assert all(name and name.isprintable() for name in found)


class Meta(type):
    @property
    def __dataclass_fields__(cls) -> Any:
        raise ZeroDivisionError


class Odd(metaclass=Meta):
    """A class that fails when it is looked at."""


def test_a_class_that_fails_when_it_is_looked_at_stops_nothing(
    tab: Tab, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
):
    shell.user_ns["Odd"] = Odd
    assert "%%ai --schema Point" in tab("%%ai --schema P")
    assert "Traceback" not in "".join(capsys.readouterr())


# --------------------------------------------------------------------------------------------------- the ledger
RUNS, RAN = "0199a000-0000-7000-8000-00000000000a", "0199a000-0000-7000-8000-00000000000b"


@pytest.fixture
def kept(tab: Tab, ledger: None) -> None:
    """A ledger with conversations, prompts, crons and batches."""
    with ai.app().store.transaction() as execute:
        for title in ("talk", "my analysis", 'say "hi"', "line\nend", "talk"):
            sql = "INSERT INTO conversations (id, created_at, title) VALUES (uuid(), now()::TIMESTAMP, ?)"
            execute.later(sql, [title])
        for name in ("summary", "my review"):
            execute.later("INSERT INTO prompts VALUES (uuid(), now()::TIMESTAMP, ?, 'x', NULL)", [name])
        for name, due in (("nightly", "now()::TIMESTAMP"), ("stopped", "NULL")):
            sql = f"INSERT INTO crons VALUES (?, 'f', '{{}}', '{{}}', NULL, now()::TIMESTAMP, {due}, NULL, NULL, 0, 0)"
            execute.later(sql, [name])
        for id_, finished in ((RUNS, "NULL"), (RAN, "now()::TIMESTAMP")):
            counts = ", ".join(["0"] * 9)
            sql = (
                "INSERT INTO batches (id, created_at, kind, options, state, total_rows, items, known, done, failed,"
                " requests, input_tokens, cached_tokens, output_tokens, cost_usd, updated_at, finished_at)"
                f" VALUES (?::UUID, now()::TIMESTAMP, 'map', '{{}}', 'running', {counts}, 0, now()::TIMESTAMP,"
                f" {finished})"
            )
            execute.later(sql, [id_])


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer than a user should wait."""
    monkeypatch.setattr(completion, "PATIENCE", 30.0)


@pytest.mark.parametrize(
    ("line", "ends"),
    [
        ("%%ai -c t", ["talk"]),
        ("%ai --conversation my", ['"my analysis"']),
        ('%%ai -c "my a', ['"my analysis"']),
        ("%%ai -c 'my ", ["'my analysis'"]),
        ("%%ai -c say", ['"say \\"hi\\""']),
        ("%%ai -c line", []),
        ("%%ai local --with s", ["summary"]),
        ('%%ai --with="my r', ['"my review"']),
        ("%ai --save my", ['"my review"']),
        ("%ai cancel ", ["nightly", RUNS]),
        ("%ai cancel 0199", [RUNS]),
        ("%ai purge --conversation ta", ["talk"]),
    ],
)
def test_names_of_the_ledger(
    tab: Tab, kept: None, patient: None, session: Session, line: str, ends: list[str], request: pytest.FixtureRequest
):
    magic, _, text = line.partition(" ")
    assert completion.candidates(session, text, is_cell=magic == "%%ai")[0] == ends
    if ends:
        before = re.sub(r"""(["'].*|[^ =]*)$""", "", line)
        assert tab(line) == [before + end for end in ends]


def test_calls_by_the_ids_that_the_log_shows(tab: Tab, ledger: None, patient: None):
    keys = [f"0199{number:04d}-0000-7000-8000-aaaa{number:08d}" for number in range(25)]
    with ai.app().store.transaction() as execute:
        for key in keys:
            columns = "id, attempt, sent_at, provider, model, endpoint, session_id"
            sql = f"INSERT INTO requests ({columns}) VALUES (?, 1, now()::TIMESTAMP, 'mine', 'my-1', 'x', ?)"
            execute.later(sql, [key, key])
    shown = [key[-8:] for key in reversed(keys)]
    for line in ("show", "purge", "diff", "diff 00000099"):
        assert tab(f"%ai {line} ") == [f"%ai {line} {key}" for key in shown[:20]]
    assert tab("%ai diff 00000024 0000002") == [f"%ai diff 00000024 {key}" for key in shown[1:5]]
    assert tab("%ai log --model mine:") == ["%ai log --model mine:my-1"]


def test_tables_and_frames_for_sql(tab: Tab, ledger: None, shell: InteractiveShell, patient: None):
    shell.user_ns["cases"] = pd.DataFrame({"x": [1]})
    for line, ends in (
        ("SELECT * FROM ca", ["calls", "cases"]),
        ("SELECT * from calls join mess", ["message_deltas", "messages"]),
        ("-o x describe promp", ["prompts"]),
    ):
        before = f"%ai sql {line[: line.rindex(' ')]} "
        assert tab(f"%ai sql {line}") == [before + end for end in ends]


def test_names_of_budgets(tab: Tab, ledger: None, patient: None):
    ai.app().limit(requests=100)
    name = ai.app().budget(usd=5, per="day")
    assert tab("%ai budget off ") == [f"%ai budget off {name}"]


def test_a_ledger_that_is_not_open_is_not_opened(session: Session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ipyconvexai.application.App", None)
    monkeypatch.setattr("ipyconvexai.application._current", None)
    assert completion.candidates(session, "-c ", is_cell=True)[0] == []


def test_a_slow_ledger_is_waited_for_no_longer_than_a_moment():
    answer, began, ended = threading.Event(), threading.Event(), threading.Event()

    def read() -> list[str]:
        began.set()
        answer.wait(30)
        ended.set()
        return ["late"]

    assert completion.within(read, 0.01) == []
    assert began.wait(30)
    assert completion.within(lambda: ["another"], 30) == [], "it is asked again when it has answered"
    answer.set()
    assert ended.wait(30)
    for thread in threading.enumerate():
        if thread.name == "ipyconvexai-completion":
            thread.join(30)
    assert completion.within(lambda: ["another"], 30) == ["another"]
    assert completion.within(lambda: [str(1 // 0)], 30) == []


# -------------------------------------------------------------------------------------------------------- files
def test_files_for_an_export(tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("calls.csv", "calls.parquet", "notes.txt", ".hidden.csv", "data/a b.jsonl", "data/c.jsonl"):
        (tmp_path / name).touch()
    assert tab("%ai export ") == [f"%ai export {name}" for name in ("calls.csv", "calls.parquet", "data/")]
    assert tab("%ai export data/") == ['%ai export "data/a b.jsonl"', "%ai export data/c.jsonl"]
    assert tab('%ai export "data/a ') == ['%ai export "data/a b.jsonl"']
    assert tab(f"%ai export {tmp_path}{os.sep}calls.c") == [f"%ai export {tmp_path}/calls.csv"]


# -------------------------------------------------------------------------------------------------------- cheap
def test_it_imports_nothing_heavy_and_opens_nothing():
    lines = ("%ai ", "%ai run ", "%ai run f ", "%%ai ", "%%ai -c ", "%%ai --with ", "%%ai --schema ", "%ai cancel ")
    code = (
        "import sys\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "from IPython.core.completer import provisionalcompleter\n"
        "shell = InteractiveShell.instance()\n"
        "shell.extension_manager.load_extension('ipyconvexai')\n"
        "with provisionalcompleter():\n"
        f"    counts = [len(list(shell.Completer.completions(line, len(line)))) for line in {lines}]\n"
        "print(counts[0] > 30, counts[3] > 30)\n"
        "heavy = 'openai duckdb pydantic pyarrow httpx2 pandas'.split()\n"
        "ours = 'ipyconvexai.application ipyconvexai.functions.registry ipyconvexai.providers.local'.split()\n"
        "print([name for name in heavy + ours if name in sys.modules])\n"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert seen.split() == ["True", "True", "[]"]
