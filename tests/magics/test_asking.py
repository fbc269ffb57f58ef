"""``%ai`` and ``%%ai`` in a real IPython shell without a front end: what is sent, printed and recorded."""

from __future__ import annotations

import subprocess
import sys

import pytest
from IPython.core.interactiveshell import InteractiveShell

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.testing import Answer, Fault
from tests.magics.conftest import KEY, Run, Scripted


# --------------------------------------------------------------------------------------------- the extension
def test_loading_imports_nothing_heavy():
    heavy = "openai duckdb pyarrow pydantic nh3 markdown_it httpx2 aiohttp pandas narwhals ipywidgets click".split()
    code = (
        "import sys\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "before = set(sys.modules)\n"
        "shell.extension_manager.load_extension('ipyconvexai')\n"
        "assert 'ai' in shell.magics_manager.magics['cell']\n"
        f"print([name for name in {heavy!r} if name in set(sys.modules) - before])"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert seen.strip() == "[]"


def test_loading_twice_is_loading_once_and_unloading_takes_all_out(bare_shell: InteractiveShell):
    before = list(bare_shell.configurables), list(bare_shell.input_transformer_manager.token_transformers)
    ai.load_ipython_extension(bare_shell)
    first = bare_shell.find_cell_magic("ai")
    ai.load_ipython_extension(bare_shell)
    assert bare_shell.find_cell_magic("ai") == first
    ai.unload_ipython_extension(bare_shell)
    assert bare_shell.find_line_magic("ai") is None
    assert bare_shell.find_cell_magic("ai") is None
    after = list(bare_shell.configurables), list(bare_shell.input_transformer_manager.token_transformers)
    assert after == before


# ------------------------------------------------------------------------------------------------- asking
def test_a_cell_asks_prints_and_records(run: Run, endpoint: Scripted, capsys: pytest.CaptureFixture[str]):
    endpoint.scripted["Who is Ada?"] = "A \x1b[31mpoet's\x1b[0m <b>daughter</b>."
    assert run("who = 'Ada'") is None
    assert run("%%ai openai:gpt-x -t 0 -s 'Be brief.' -o reply\nWho is {who}?\n{unknown}") is None
    body = endpoint.calls[0].body
    assert body["model"] == "gpt-x"
    assert body["temperature"] == 0
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who is Ada?\n{unknown}"},
    ]
    printed = capsys.readouterr().out
    assert printed.startswith("A poet's <b>daughter</b>.\n[gpt-x · ")
    assert "tokens" in printed
    assert run("assert reply.text.startswith('A ') and reply.usage.output_tokens") is None
    (row,) = ai.ledger.calls()
    assert row[ai.ledger.calls().columns.index("source")] == "magic"


def test_a_hostile_value_leads_nowhere(run: Run, endpoint: Scripted, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PLANTED", "planted-value")
    run("import os; doc = 'evil {os.environ} {who.__class__} $PLANTED {who}'; who = 'Ada'")
    run("%%ai\n{doc} {os.environ} $PLANTED")
    assert endpoint.calls[0].prompt == "evil {os.environ} {who.__class__} $PLANTED {who} {os.environ} $PLANTED"
    run("%ai {doc} for $who")
    assert endpoint.calls[1].prompt == "evil {os.environ} {who.__class__} $PLANTED {who} for $who"


def test_an_empty_cell_is_not_sent(run: Run, endpoint: Scripted):
    assert isinstance(run("%%ai\n  \n\t\n"), errors.EmptyPromptError)
    assert isinstance(run("%%ai -f json\n  \n"), errors.EmptyPromptError), "what the format adds is no question"
    assert endpoint.count == 0


def test_a_failing_call_fails_the_cell_in_one_block(run: Run, endpoint: Scripted, capsys: pytest.CaptureFixture[str]):
    endpoint.scripted["boom"] = Fault(401, message=f"Incorrect API key provided: {KEY}")
    assert isinstance(run("%%ai\nboom"), errors.AuthenticationError)
    printed = "".join(capsys.readouterr())
    assert printed.startswith("AuthenticationError: ")
    assert "Traceback" not in printed
    assert "site-packages" not in printed
    assert KEY not in printed
    assert ai.ledger.sql("SELECT status, error_code FROM calls").fetchall()[0][0] == "error"


def test_a_cut_stream_keeps_what_came_and_fails(run: Run, endpoint: Scripted, capsys: pytest.CaptureFixture[str]):
    endpoint.scripted["tell"] = Answer("one two three four five", cut_after=3)
    assert isinstance(run("%%ai\ntell"), errors.StreamCutError)
    printed = capsys.readouterr().out
    assert printed.startswith("one two three")
    assert "[cut: not the whole answer]" in printed


@pytest.mark.parametrize("line", ["-t hot", "two models", "-x", "-f yaml"])
def test_a_wrong_line_is_a_usage_error(run: Run, endpoint: Scripted, line: str, capsys: pytest.CaptureFixture[str]):
    assert type(run(f"%%ai {line}\nx")).__name__ == "UsageError"
    assert capsys.readouterr().err.startswith("UsageError: ")
    assert endpoint.count == 0


@pytest.mark.parametrize("line", ["usage --buy model", "version -v"])
def test_a_mistyped_command_is_not_paid_for(run: Run, endpoint: Scripted, line: str):
    assert type(run(f"%ai {line}")).__name__ == "UsageError"
    assert endpoint.count == 0


@pytest.mark.parametrize("cell", ["%%ai --help\nx", "%%ai -h\nx", "%ai --help"])
def test_help_is_where_people_look_for_it(run: Run, endpoint: Scripted, cell: str, capsys: pytest.CaptureFixture[str]):
    run(cell)
    assert "%ai usage" in capsys.readouterr().out
    assert endpoint.count == 0


def test_an_apostrophe_on_the_line_is_no_crash(run: Run):
    assert isinstance(run("%%ai don't\nx"), errors.UnknownModelError)


def test_code_goes_into_the_next_cell(run: Run, shell: InteractiveShell, endpoint: Scripted):
    endpoint.scripted["square"] = "Here you are:\n```python\nx ** 2\n```\nBye."
    assert run("%%ai -f code\nsquare") is None
    assert shell.rl_next_input == "x ** 2"


def test_json_that_is_none_fails_with_its_row(run: Run, endpoint: Scripted):
    endpoint.scripted["data"] = "sorry"
    error = run("%%ai -f json\ndata")
    assert isinstance(error, errors.InvalidAnswerError)
    assert error.request_id


def test_replay_is_free_and_says_so(run: Run, endpoint: Scripted, capsys: pytest.CaptureFixture[str]):
    for _ in range(2):
        assert run("%%ai --no-history --replay reuse\nonce") is None
    assert endpoint.count == 1
    assert "replayed" in capsys.readouterr().out
    assert isinstance(run("%%ai --replay only\nnever asked"), errors.ReplayMissError)


def test_a_conversation_lasts(run: Run, endpoint: Scripted):
    run("%%ai -c talk\nfirst")
    run("%%ai -c talk\nsecond")
    said = [message["content"] for message in endpoint.calls[1].body["messages"]]
    assert said == ["first", "echo: first", "second"]


# ------------------------------------------------------------------------------------------------- one line
@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ("%ai Why is the sky blue?", "Why is the sky blue?"),
        ("%ai Isn't that odd? Or don't you mind??", "Isn't that odd? Or don't you mind??"),
        ("%ai -t 0 version of what", "version of what"),
        ("%ai list the planets in order", "list the planets in order"),
        ("%ai usage of the word who?", "usage of the word who?"),
        ("%ai -- help", "help"),
        ("x = 1\nif x:\n    %ai Inside a block?", "Inside a block?"),
    ],
)
def test_what_is_no_command_is_a_question(run: Run, endpoint: Scripted, line: str, prompt: str):
    assert run(line) is None
    assert [call.prompt for call in endpoint.calls] == [prompt]


@pytest.mark.parametrize(
    ("line", "shows"),
    [
        ("%ai", "Ask a model."),
        ("%ai help", "Ask a model."),
        ("%ai version", f"ipyconvexai {ai.__version__}"),
        ("%ai model", "openai:gpt-4o-mini: "),
        ("%ai doctor", "OPENAI_API_KEY is set"),
        ("%ai list openai", "gpt-4o-mini"),
        ("%ai usage", "usage by model"),
        ("%ai usage --by day", "usage by day"),
        ("%ai log", "echo: seen before"),
        ("%ai log SEEN", "echo: seen before"),
        ("%ai?", "Ask a model."),
    ],
)
def test_commands(run: Run, endpoint: Scripted, line: str, shows: str, capsys: pytest.CaptureFixture[str]):
    run("%ai seen before")
    capsys.readouterr()
    assert run(line) is None
    printed = capsys.readouterr().out
    assert shows in printed
    assert KEY not in printed
    assert endpoint.count == 1


def test_log_finds_only_what_was_asked_for(run: Run, capsys: pytest.CaptureFixture[str]):
    run("%ai apples")
    run("%ai pears")
    capsys.readouterr()
    run("%ai log pears")
    printed = capsys.readouterr().out
    assert "pears" in printed
    assert "apples" not in printed


def test_an_unknown_group_or_provider_is_told(run: Run):
    assert isinstance(run("%ai usage --by moon"), errors.InputError)
    assert isinstance(run("%ai list opena"), errors.UnknownProviderError)
