"""Whoever comes from jupyter-ai is at home: its own tests against the double, its commands of both generations.

The tests of jupyter-ai-magics 2.31.7 (those of jupyter-ai-magic-commands 0.0.4 are the same but for the names):
`ITS_TESTS` says which of them stand here, how many cases each has, and why the others do not apply.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.notebook import help as helping
from ipyconvexai.notebook.aliases import key_variable
from ipyconvexai.notebook.session import Alias, Session, of_shell
from ipyconvexai.settings import remember_secret
from ipyconvexai.testing import Fault
from tests.magics.conftest import KEY, Page, Run, Scripted

_ADMINISTRATION = (
    "a list of allowed and blocked providers, which its server keeps; here a provider is usable if its key is set"
)
_EXPORTS = "how its package imports itself; of this one see test_architecture and test_loading_imports_nothing_heavy"

# its test: (cases, the test here, or None and why not)
ITS_TESTS: dict[str, tuple[int, str | None, str]] = {
    "test_magics.py::test_aliases_config": (1, "test_aliases_config", ""),
    "test_magics.py::test_default_model_cell": (1, "test_default_model_cell", ""),
    "test_magics.py::test_non_default_model_cell": (1, "test_non_default_model_cell", ""),
    "test_magics.py::test_default_model_error_line": (1, "test_default_model_error_line", ""),
    "test_magics.py::test_max_history": (15, "test_max_history", ""),
    "test_magics.py::test_reset": (1, "test_reset", ""),
    "test_utils.py::test_get_lm_providers_not_restricted": (5, None, _ADMINISTRATION),
    "test_utils.py::test_get_lm_providers_restricted": (5, None, _ADMINISTRATION),
    "test_imports.py::test_uses_lazy_imports": (1, None, _EXPORTS),
    "test_imports.py::test_all_includes_all_dynamic_imports": (1, None, _EXPORTS),
    "test_imports.py::test_dir_returns_all": (1, None, _EXPORTS),
    "test_imports.py::test_all_type_checked": (1, None, _EXPORTS),
    "test_base_provider.py::test_provider_classvars": (1, None, "a defect of pydantic 1 that its providers ran into"),
}


def test_each_of_its_tests_stands_here_or_has_a_reason():
    assert sum(cases for cases, _, _ in ITS_TESTS.values()) == 35
    for here, why_not in [(here, why_not) for _, here, why_not in ITS_TESTS.values()]:
        assert bool(why_not) == (here is None)
        assert here is None or callable(globals()[here])
    cases = next(mark for mark in test_max_history.pytestmark if mark.name == "parametrize").args[1]
    assert len(cases) == ITS_TESTS["test_magics.py::test_max_history"][0]


# ------------------------------------------------------------------------------------------------- its own tests
Configured = Callable[..., Run]

QUESTION = "Write code for me please"
FAVOURITE = "openai:my-favourite-llm"


@pytest.fixture
def configured(bare_shell: InteractiveShell, endpoint: Scripted) -> Iterator[Configured]:
    """Loads the extension under a configuration file with these traits; gives what runs cells."""

    def load(**traits: Any) -> Run:
        for name, value in traits.items():
            setattr(bare_shell.config.AiMagics, name, value)
        ai.load_ipython_extension(bare_shell)
        return run_cell

    def run_cell(cell: str) -> Any:
        result = bare_shell.run_cell(cell)
        return result.error_before_exec or result.error_in_exec

    yield load
    ai.unload_ipython_extension(bare_shell)
    bare_shell.config.pop("AiMagics", None)


@pytest.mark.parametrize(
    "traits",
    [
        {"aliases": {"my_custom_alias": "my_provider:my_model"}},
        {"initial_aliases": {"my_custom_alias": {"target": "my_provider:my_model", "api_key_name": None}}},
    ],
    ids=["2.x", "3.x"],
)
def test_aliases_config(configured: Configured, traits: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    run = configured(**traits)
    assert run("%ai list") is None
    assert re.search(r"my_custom_alias\s+my_provider:my_model", capsys.readouterr().out)


@pytest.mark.parametrize("trait", ["default_language_model", "initial_language_model"])
def test_default_model_cell(configured: Configured, endpoint: Scripted, trait: str):
    run = configured(**{trait: FAVOURITE})
    assert run(f"%%ai\n{QUESTION}") is None
    assert run(f"%ai {QUESTION}") is None
    assert [call.body["model"] for call in endpoint.calls] == ["my-favourite-llm"] * 2


def test_non_default_model_cell(configured: Configured, endpoint: Scripted):
    run = configured(default_language_model=FAVOURITE)
    assert run(f"%%ai openai:some-different-llm\n{QUESTION}") is None
    assert endpoint.calls[0].body["model"] == "some-different-llm"


@pytest.mark.parametrize("command", ["error", "fix"])
def test_default_model_error_line(configured: Configured, endpoint: Scripted, command: str):
    run = configured(default_language_model=FAVOURITE)
    assert isinstance(run("1 / 0"), ZeroDivisionError)
    assert run(f"%ai {command}") is None
    assert endpoint.calls[0].body["model"] == "my-favourite-llm"
    assert "ZeroDivisionError: division by zero" in endpoint.calls[0].prompt


AI1 = {"role": "assistant", "content": "ai1"}
H1 = {"role": "user", "content": "h1"}
AI2 = {"role": "assistant", "content": "ai2"}
H2 = {"role": "user", "content": "h2"}
AI3 = {"role": "assistant", "content": "ai3"}
PROMPT = {"role": "user", "content": QUESTION}
RESPONSE = {"role": "assistant", "content": "Leet code"}

Messages = list[dict[str, str]]


@pytest.fixture
def session(run: Run, shell: InteractiveShell) -> Session:
    return of_shell(shell)


@pytest.mark.parametrize(
    ("transcript", "max_history", "expected_context"),
    [
        ([], 3, [PROMPT]),
        ([AI1], 0, [PROMPT]),
        ([AI1], 1, [AI1, PROMPT]),
        ([H1, AI1], 0, [PROMPT]),
        ([H1, AI1], 1, [H1, AI1, PROMPT]),
        ([AI1, H1, AI2], 0, [PROMPT]),
        ([AI1, H1, AI2], 1, [H1, AI2, PROMPT]),
        ([AI1, H1, AI2], 2, [AI1, H1, AI2, PROMPT]),
        ([H1, AI1, H2, AI2], 0, [PROMPT]),
        ([H1, AI1, H2, AI2], 1, [H2, AI2, PROMPT]),
        ([H1, AI1, H2, AI2], 2, [H1, AI1, H2, AI2, PROMPT]),
        ([AI1, H1, AI2, H2, AI3], 0, [PROMPT]),
        ([AI1, H1, AI2, H2, AI3], 1, [H2, AI3, PROMPT]),
        ([AI1, H1, AI2, H2, AI3], 2, [H1, AI2, H2, AI3, PROMPT]),
        ([AI1, H1, AI2, H2, AI3], 3, [AI1, H1, AI2, H2, AI3, PROMPT]),
    ],
)
def test_max_history(
    run: Run,
    session: Session,
    shell: InteractiveShell,
    page: Page,
    endpoint: Scripted,
    transcript: Messages,
    max_history: int,
    expected_context: Messages,
):
    endpoint.scripted[QUESTION] = "Leet code"
    session.transcript[:] = transcript
    shell.magics_manager.registry["AiMagics"].max_history = max_history
    assert run(f"%%ai openai:claude-3.5-sonnet\n{QUESTION}") is None
    assert endpoint.calls[0].body["messages"] == expected_context
    assert page.last["text/markdown"].startswith("Leet code")
    assert page.last["text/plain"].startswith("Leet code")
    assert session.transcript == [*transcript, PROMPT, RESPONSE]


def test_reset(run: Run, session: Session, endpoint: Scripted, capsys: pytest.CaptureFixture[str]):
    session.transcript[:] = [AI1, H1, AI2, H2, AI3]
    assert run("%ai reset") is None
    assert session.transcript == []
    assert capsys.readouterr().out.startswith("2 exchanges forgotten")
    assert run(f"%%ai\n{QUESTION}") is None
    assert endpoint.calls[0].body["messages"] == [PROMPT]


# --------------------------------------------------------------------------------------------- history, further
def test_a_failed_call_is_not_remembered(run: Run, session: Session, endpoint: Scripted):
    endpoint.scripted["fail"] = Fault(400)
    session.transcript[:] = [H1, AI1]
    assert isinstance(run("%%ai\nfail"), errors.ProviderError)
    assert session.transcript == [H1, AI1]


def test_a_conversation_takes_the_place_of_the_history(run: Run, session: Session, endpoint: Scripted):
    session.transcript[:] = [H1, AI1]
    assert run(f"%%ai -c talk\n{QUESTION}") is None
    assert endpoint.calls[0].body["messages"] == [PROMPT]
    assert session.transcript == [H1, AI1]


def test_a_question_goes_without_history_where_it_is_said(run: Run, session: Session, endpoint: Scripted):
    session.transcript[:] = [H1, AI1]
    assert run(f"%%ai --no-history\n{QUESTION}") is None
    assert endpoint.calls[0].body["messages"] == [PROMPT]
    assert session.transcript == [H1, AI1]


def test_a_line_and_a_cell_share_the_history(run: Run, endpoint: Scripted):
    assert run("%ai first") is None
    assert run("%%ai\nsecond") is None
    said = [message["content"] for message in endpoint.calls[1].body["messages"]]
    assert said == ["first", "echo: first", "second"]


# ------------------------------------------------------------------------------------------------------- formats
@pytest.mark.parametrize("name", ["code", "html", "json", "markdown", "math", "md", "text"])
def test_its_formats(run: Run, page: Page, endpoint: Scripted, name: str):
    answer = {"json": '{"a": 1}', "code": "```python\na = 1\n```", "math": "$$a = 1$$"}.get(name, "a <b>1</b>")
    endpoint.reply(answer)
    assert run(f"%%ai -f {name}\nanswer") is None
    kind = {"html": "text/html", "json": "application/json", "math": "text/latex", "text": "text/plain"}
    wanted = kind.get(name, "text/markdown")
    shown = next(frame for frame in reversed(page.frames) if wanted in frame)  # a tree has its note below it
    assert "1" in shown["text/plain"].partition("\n\n[")[0]
    assert not any("object at" in frame["text/plain"] for frame in page.frames)


@pytest.mark.parametrize("option", ["-n us-east-1", "--region-name us-east-1", "-q {}", "-p $.a"])
def test_what_is_for_sagemaker_is_refused_with_the_reason(run: Run, endpoint: Scripted, option: str):
    error = run(f"%%ai {option}\nx")
    assert type(error).__name__ == "UsageError"
    assert "SageMaker" in str(error)
    assert endpoint.count == 0


# ------------------------------------------------------------------------------------- the commands of its manuals
@pytest.mark.parametrize(
    ("line", "shows"),
    [
        ("%ai help", "Ask a model."),
        ("%ai --help", "Ask a model."),
        ("%ai version", f"ipyconvexai {ai.__version__}"),
        ("%ai list", "claude-haiku"),
        ("%ai list all", "claude-haiku"),
        ("%ai list openai", "gpt-4o-mini"),
        ("%ai list --help", "%ai list [PROVIDER|all]"),
        ("%ai register mychat openai:gpt-4o", "mychat stands for openai:gpt-4o."),
        ("%ai alias mychat openai/gpt-4o", "mychat stands for openai/gpt-4o."),
        ("%ai alias mine any-model --api-base http://127.0.0.1:9/v1 --api-key-name MY_API_KEY", "MY_API_KEY"),
        ("%ai alias mine any-model --api-base=http://127.0.0.1:9/v1", "mine stands for any-model at http://"),
        ("%ai update known openai:gpt-4o-mini", "known stands for openai:gpt-4o-mini."),
        ("%ai delete known", "The alias known is gone."),
        ("%ai dealias known", "The alias known is gone."),
        ("%ai reset", "0 exchanges forgotten"),
        ("%ai register --help", "%ai register NAME TARGET"),
        ("%ai alias --help", "%ai alias NAME TARGET"),
        ("%ai update --help", "%ai update NAME TARGET"),
        ("%ai delete --help", "%ai dealias, delete NAME"),
        ("%ai error --help", "fix [MODEL]"),
        ("%ai fix -h", "fix [MODEL]"),
    ],
)
def test_its_commands(
    run: Run, session: Session, endpoint: Scripted, line: str, shows: str, capsys: pytest.CaptureFixture[str]
):
    session.aliases["known"] = Alias("openai:gpt-4o")
    assert run(line) is None
    assert shows in capsys.readouterr().out
    assert endpoint.count == 0


@pytest.mark.parametrize(
    ("line", "model"),
    [
        ("%%ai openai:gpt-4o", "gpt-4o"),
        ("%%ai openai/gpt-4o", "gpt-4o"),
        ("%%ai openai:ft:gpt-4o-mini:acme/x:7", "ft:gpt-4o-mini:acme/x:7"),
        ("%%ai mychat", "gpt-4o"),
        ("%%ai chain -f code", "gpt-4o"),
        ("%%ai openai:gpt-4o --format code", "gpt-4o"),
        ('%%ai openai:gpt-4o -m {"temperature": 0.5}', "gpt-4o"),
        ("%%ai openai:gpt-4o -m '{\"temperature\": 0.5}'", "gpt-4o"),
        ('%%ai -m {"temperature":0.5} openai/gpt-4o', "gpt-4o"),
    ],
)
def test_its_cells(run: Run, endpoint: Scripted, line: str, model: str):
    run("%ai register mychat openai:gpt-4o")
    run("%ai alias chain mychat")
    assert run(f"{line}\n{QUESTION}") is None
    assert endpoint.calls[0].body["model"] == model
    assert (" -m " in line) == (endpoint.calls[0].body.get("temperature") == 0.5)


def test_an_alias_at_an_address_of_its_own(run: Run, endpoint: Scripted, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.setenv("MINE_API_KEY", KEY)
    assert run(f"%ai alias mine any-model --api-base {endpoint.url} --api-key-name MINE_API_KEY") is None
    assert run(f"%%ai mine\n{QUESTION}") is None
    (call,) = endpoint.calls
    assert call.body["model"] == "any-model"
    assert KEY not in str(call.body), "its --api-key-name put the key into the body"


# ------------------------------------------------------------------------------------------------------- aliases
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("register known openai:gpt-4o", "%ai update known"),
        ("alias a:b openai", "no colon"),
        ("alias a/b openai", "letters, digits"),
        ("alias reset openai", "reserved"),
        ("alias dealias openai", "reserved"),
        ("alias log openai", "reserved"),
        ("alias x", "wants a name and a model"),
        ("alias", "wants a name and a model"),
        ("register x openai --api-baze http://x", "unknown option"),
        ("alias --api-base http://x", "wants a name and a model"),
        ("alias x openai --api-base localhost", "address of a server"),
        ("alias x openai --api-key-name", "name of an environment variable"),
        ("alias x x", "stand for itself"),
        ("update known known", "stand for itself"),
        ("update unknown openai", "no alias 'unknown'; known: known"),
        ("update", "wants a name and a model"),
        ("delete unknown", "no alias 'unknown'; known: known"),
        ("dealias", "%ai dealias NAME"),
        ("delete known --now", "%ai delete NAME"),
        ("reset --all", "%ai reset"),
    ],
)
def test_a_wrong_alias_is_told_in_one_sentence(run: Run, session: Session, endpoint: Scripted, line: str, says: str):
    session.aliases["known"] = Alias("openai:gpt-4o")
    error = run(f"%ai {line}")
    assert type(error).__name__ == "UsageError"
    assert says in str(error)
    assert "\n" not in str(error)
    assert session.aliases == {"known": Alias("openai:gpt-4o")}
    assert endpoint.count == 0


@pytest.mark.parametrize("target", ["opneai:gpt-4o", "gtp-4o", "nobody/x"])
def test_an_alias_stands_for_what_is_known(run: Run, session: Session, target: str):
    for line in (f"alias x {target}", f"model {target}"):
        assert isinstance(run(f"%ai {line}"), errors.UnknownModelError | errors.UnknownProviderError)
    assert session.aliases == {}
    assert session.model is None


KEYS = (
    "sk-proj-Ab3dE5gH7jK9mN1pQ3sT5vX7",
    "sk_live_51HabcdEFGHijkl0123456789",
    "gsk_aB3dE5gH7jK9mN1pQ3sT5vX7zB9d",
    "AKIAIOSFODNN7EXAMPLE",
    "4f9c2b7e8a1d4c6f9b3e5a7d1c8f2b6e",
    "a4f9c2b7e8a1d4c6f9b3e5a7d1c8f2b6",
)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "line", ["alias x openai --api-key-name KEY", "update known openai --api-key-name=KEY", "alias --api-key-name KEY"]
)
def test_a_key_is_refused_and_not_repeated(
    run: Run, session: Session, line: str, key: str, capsys: pytest.CaptureFixture[str]
):
    session.aliases["known"] = Alias("openai:gpt-4o")
    error = run(f"%ai {line.replace('KEY', key)}")
    assert type(error).__name__ == "UsageError"
    assert key not in str(error) + "".join(capsys.readouterr())
    assert session.aliases == {"known": Alias("openai:gpt-4o")}


def test_a_key_that_is_known_is_refused():
    remember_secret("plainwordsasakey")
    with pytest.raises(UsageError, match="clear it from the cell"):
        key_variable("plainwordsasakey")


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "MY_API_KEY_2026", "my_key", "Key2", "MYCOMPANYSTAGINGKEY"])
def test_the_name_of_a_variable_is_taken(name: str):
    assert key_variable(name) == name


def test_a_variable_that_is_set_is_taken_whatever_it_looks_like(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STAGE2KEY4OPENAI5", "x")
    assert key_variable("STAGE2KEY4OPENAI5") == "STAGE2KEY4OPENAI5"


def test_aliases_are_listed_with_their_provider_and_without_passwords(
    run: Run, session: Session, capsys: pytest.CaptureFixture[str]
):
    session.aliases.update(
        one=Alias("openai:gpt-4o"),
        two=Alias("anthropic:claude-haiku-5-5"),
        chain=Alias("one"),
        lost=Alias("nobody:x"),
        circle=Alias("circle"),
        far=Alias("openai:x", "http://ada:secretword@127.0.0.1:9/v1?token=secretword", "FAR_API_KEY"),
    )
    assert run("%ai list openai") is None
    printed = capsys.readouterr().out
    for name in ("one", "chain", "far"):
        assert re.search(rf"^{name}\s", printed, re.MULTILINE), name
    for name in ("two", "lost", "circle"):
        assert not re.search(rf"^{name}\s", printed, re.MULTILINE), name
    assert run("%ai list") is None
    printed += capsys.readouterr().out
    assert re.search(r"^lost\s+nobody:x", printed, re.MULTILINE)
    assert "FAR_API_KEY" in printed
    assert "secretword" not in printed
    assert isinstance(run("%ai list nobody"), errors.UnknownProviderError)


# --------------------------------------------------------------------------------------------- the kernel's model
def test_the_kernel_s_model_is_chosen_and_shown(
    run: Run, session: Session, endpoint: Scripted, capsys: pytest.CaptureFixture[str]
):
    run("%ai alias mine openai:gpt-4o")
    for name, model in (("openai:gpt-x", "gpt-x"), ("mine", "gpt-4o")):
        assert run(f"%ai model {name}") is None
        assert name in capsys.readouterr().out
        assert run(f"%%ai\n{QUESTION}") is None
        assert endpoint.calls[-1].body["model"] == model
    capsys.readouterr()
    assert run("%ai model") is None
    assert capsys.readouterr().out.startswith("mine, which stands for openai:gpt-4o: chosen for this kernel")


def test_a_setting_does_not_undo_the_choice(run: Run, session: Session, shell: InteractiveShell):
    run("%ai model openai:gpt-x")
    shell.magics_manager.registry["AiMagics"].max_history = 1
    assert session.model == "openai:gpt-x"


# ---------------------------------------------------------------------------------------------- still questions
@pytest.mark.parametrize(
    "line",
    [
        "register my car in Bavaria",
        "alias Mark Twain wrote under another name, why",
        "update my resume for this job",
        "delete all rows of a table in SQL",
        "reset my password, how",
        "model trains of the fifties",
        "list all primes below 20",
        "help me with my homework",
        "help usage statistics",
        "version of what",
    ],
)
def test_a_line_that_begins_like_a_command_is_a_question(run: Run, endpoint: Scripted, line: str):
    assert run(f"%ai {line}") is None
    assert [call.prompt for call in endpoint.calls] == [line]


# ----------------------------------------------------------------------------------------------------------- help
def test_the_help_fits_a_terminal():
    assert max(len(line) for line in helping.HELP.splitlines()) <= 120


def test_each_option_stands_in_the_help():
    from ipyconvexai.notebook.options import FLAGS, OPTIONS

    explained = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", helping.HELP))
    assert set(OPTIONS) | set(FLAGS) <= explained


@pytest.mark.parametrize("word", helping.WORDS)
def test_each_command_has_a_line_of_its_own(
    word: str, run: Run, endpoint: Scripted, capsys: pytest.CaptureFixture[str]
):
    for line in (f"%ai {word} --help", f"%ai help {word}"):
        assert run(line) is None
        assert re.match(rf"%ai (\w+.*, )?{word}\b", capsys.readouterr().out)
    assert endpoint.count == 0
