"""Lines that are almost commands, options that have no meaning together, and a notebook where jupyter-ai was first."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class
from traitlets.config import Config

import ipyconvexai as ai
from ipyconvexai.notebook import asking
from ipyconvexai.notebook.help import WORDS
from ipyconvexai.reply import Reply
from ipyconvexai.store.prompts import save_prompt
from ipyconvexai.testing import Answer, Endpoint
from ipyconvexai.values import Wait
from tests.magics.conftest import KEY, Page, Run, Scripted


# ------------------------------------------------------------------------------------------------- commands
@pytest.mark.parametrize(
    "line",
    [
        *("usage day", "limits openai", "export calls", "reset all", "prompts review", "cancel", "alias a b c"),
        *("show last", "replay always", "conversations tides", "version now", "help me", "why not", "doctor who"),
        *("openai:gpt-4.1 what is this?", "anthropic:claude what is this"),
    ],
)
def test_what_is_almost_a_command_is_told_and_not_sent(run: Run, endpoint: Scripted, line: str):
    error = run(f"%ai {line}")
    assert isinstance(error, UsageError)
    assert "%ai " in str(error)
    assert endpoint.count == 0


@pytest.mark.parametrize(
    "line",
    [
        *("why is the sky blue", "list all primes below 20", "show me a plan", "budget advice for a student", "why?"),
        *(
            "export regulations in France",
            "run a marathon in three weeks",
            "log tables, what are they for?",
            "help me.",
        ),
        *(
            "-- usage day",
            "openai: what does it mean",
            "fix my essay for me",
            "chat with me about tides",
            "model of a cat?",
        ),
    ],
)
def test_what_merely_begins_like_one_is_a_question(run: Run, endpoint: Scripted, line: str):
    assert run(f"%ai {line}") is None
    assert endpoint.calls[0].prompt == line.removeprefix("-- ")


def test_each_command_alone_is_never_sent(run: Run, endpoint: Scripted):
    for word in WORDS:
        run(f"%ai {word}") if word not in ("error", "fix") else None
        run(f"%ai {word} --help")
    assert endpoint.count == 0


# ------------------------------------------------------------------------------------------------- options
OPTIONS = {
    "model": "openai:gpt-4.1",
    "models": "--models gpt-4o-mini,gpt-4.1",
    "conversation": "-c kept",
    "schema": "--schema 'name'",
    "code": "-f code",
    "json": "-f json",
    "html": "-f html",
    "math": "-f math",
    "image": "-f image",
    "system": "-s Brief.",
    "dry_run": "--dry-run",
    "eval": "--eval",
    "save": "--save one",
    "with": "--with two",
}
APART = {
    *(("model", "models"), ("models", "conversation"), ("eval", "with"), ("eval", "save")),
    *itertools.product(["models"], ["code", "json", "html", "math", "image"]),
    *itertools.product(["schema"], ["code", "html", "math", "image"]),
    *itertools.product(["conversation", "system", "dry_run"], ["image"]),
}


@pytest.mark.parametrize("pair", [*itertools.combinations(OPTIONS, 2)], ids="-".join)
def test_options_go_together_or_are_told_apart(run: Run, endpoint: Scripted, pair: tuple[str, str]):
    """Those of one name given twice are the line's own business: the last counts."""
    formats = {"code", "json", "html", "math", "image"}
    if set(pair) <= formats:
        return
    save_prompt(ai.app().records, "two", "kept", None)
    endpoint.reply(None)
    error = run(f"%%ai {OPTIONS[pair[0]]} {OPTIONS[pair[1]]}\n'{{\"name\": 1}}'")
    if pair in APART or pair[::-1] in APART:
        assert isinstance(error, UsageError)
        assert endpoint.count == 0
    else:
        assert error is None or isinstance(error, ai.errors.InvalidAnswerError | ai.errors.ConfigurationError), error


def test_a_json_that_is_none_is_no_part_of_the_history(run: Run, endpoint: Scripted):
    assert isinstance(run("%%ai -f json\nnot json"), ai.errors.InvalidAnswerError)
    run("%ai next")
    assert len(endpoint.calls[-1].body["messages"]) == 1


def test_names_in_the_system_message_are_filled_in(run: Run, endpoint: Scripted):
    run("tone = 'kind'")
    run("%%ai -s 'Be {tone}. {nobody}'\nHello")
    assert endpoint.calls[0].body["messages"][0] == {"role": "system", "content": "Be kind. {nobody}"}


@pytest.mark.parametrize("how", ["setting", "alias", "session"])
def test_a_key_is_not_sent_to_an_address_that_the_line_names(
    run: Run, endpoint: Scripted, shell: InteractiveShell, how: str
):
    """Only a provider that is typed on the same line says whose key to use."""
    from ipyconvexai.notebook.session import Alias, of_shell

    session = of_shell(shell)
    session.aliases["mine"] = Alias("openai:gpt-4o-mini")
    session.model = "openai:gpt-4o-mini" if how == "session" else None
    with Endpoint() as other:
        assert run(f"%%ai {'mine' if how == 'alias' else ''} --api-base {other.url}\nHello") is None
        assert KEY not in str(other.calls[0].headers)
        if how != "setting":
            assert other.calls[0].body["model"] == "gpt-4o-mini"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--schema ''", "wants a value"),
        ("--save ' '", "wants a value"),
        ("-o In", "variable of yours"),
        ("-o get_ipython", "variable of yours"),
        ("-o __builtins__", "variable of yours"),
        ("-m " + '{"a":' + "[" * 100_000, "wants JSON"),
    ],
)
def test_a_value_that_cannot_be_meant_is_told(run: Run, endpoint: Scripted, line: str, says: str):
    error = run(f"%%ai {line}\nHello")
    assert isinstance(error, UsageError)
    assert says in str(error)
    assert endpoint.count == 0


def test_a_tab_is_a_blank(run: Run, endpoint: Scripted):
    assert run("%%ai openai:gpt-4.1\t-t\t0\nHello") is None
    assert (endpoint.calls[0].body["model"], endpoint.calls[0].body["temperature"]) == ("gpt-4.1", 0)


def test_where_nothing_may_be_sent_an_option_does_not_change_that(run: Run, endpoint: Scripted):
    ai.app().set_replay("only")
    for option in ("--fresh", "--replay off", "--replay reuse"):
        assert isinstance(run(f"%%ai {option}\nHello"), UsageError)
    assert isinstance(run("%%ai -f image openai:gpt-image-1\nA red square\nand more"), ai.errors.ReplayMissError)
    assert endpoint.count == 0


def test_a_variable_is_kept_only_by_a_cell_that_succeeds(run: Run, endpoint: Scripted, shell: InteractiveShell):
    assert isinstance(run("%%ai -f json -o kept\nnot json"), ai.errors.InvalidAnswerError)
    assert "kept" not in shell.user_ns


def test_a_schema_reads_a_fenced_answer(run: Run, endpoint: Scripted, shell: InteractiveShell):
    endpoint.scripted["Who?"] = '```json\n{"name": "Ada"}\n```'
    assert run("%%ai --schema name -o who\nWho?") is None
    assert shell.user_ns["who"].parsed.name == "Ada"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer("", finish_reason="content_filter"), "stopped by the provider's filter"),
        (Answer("half", finish_reason="content_filter"), "stopped by the provider's filter"),
        (Answer(""), "an empty answer"),
        (Answer("half", finish_reason="length"), "cut at the token limit"),
    ],
)
def test_an_answer_that_is_none_says_why(
    run: Run, endpoint: Scripted, answer: Answer, says: str, capsys: pytest.CaptureFixture[str]
):
    endpoint.scripted["Hello"] = answer
    assert run("%%ai\nHello") is None
    assert says in capsys.readouterr().out


@pytest.mark.parametrize("answer", ["", "I'm sorry, I cannot write that."])
def test_an_answer_without_code_goes_into_no_cell(
    run: Run, endpoint: Scripted, shell: InteractiveShell, answer: str, capsys: pytest.CaptureFixture[str]
):
    shell.rl_next_input = None
    endpoint.scripted["Hello"] = Answer(answer)
    assert run("%%ai -f code\nHello") is None
    assert "no code" in capsys.readouterr().out
    assert shell.rl_next_input is None
    for code in ("x = 1", "%timeit x", "```r\nx <- 1\n```"):
        endpoint.scripted["Hello"] = Answer(code)
        assert run("%%ai -f code\nHello") is None
        assert str(shell.rl_next_input).strip() in code


@pytest.mark.parametrize("amount", ["5,50 USD/day", "5_000,5 tokens/day", "1,23,456 USD/day"])
def test_a_budget_s_commas_are_of_thousands(run: Run, endpoint: Scripted, amount: str):
    assert isinstance(run(f"%ai budget {amount}"), UsageError)
    assert not ai.app().store.read("SELECT 1 FROM limits")
    assert run("%ai budget 1,500 USD/day") is None
    assert "$1,500" in str(ai.app().limits()) or "1500" in str(ai.app().limits())
    assert endpoint.count == 0


def test_a_broken_character_loses_no_words(run: Run, endpoint: Scripted, shell: InteractiveShell):
    chunks = [b'{"choices":[{"delta":{"content":"good \xff\xfe abc"},"index":0}]}']
    chunks += [b'{"choices":[{"delta":{"content":" tail"},"index":0,"finish_reason":"stop"}]}', b"[DONE]"]
    raw = b"".join(b"data: " + chunk + b"\n\n" for chunk in chunks)
    endpoint.scripted["Hello"] = Answer(raw=raw, content_type="text/event-stream")
    assert run("%%ai -o reply\nHello") is None
    assert shell.user_ns["reply"].text == "good \ufffd\ufffd abc tail"


def test_the_smallest_cost_has_figures():
    assert Reply("x", cost=0.0000004).note == "less than $0.000001"
    assert Reply("x", cost=0.00001).note == "$0.00001"
    assert Reply("x", cost=0.5).note == "$0.5000"


# ------------------------------------------------------------------------------------------------- evaluated cells
@pytest.mark.parametrize("code", ["1 / 0", "def f(:", "undefined_name"])
def test_an_evaluated_cell_shows_its_own_lines(
    run: Run, endpoint: Scripted, code: str, capsys: pytest.CaptureFixture[str]
):
    assert run(f"%%ai --eval\n{code}") is not None
    shown = "".join(capsys.readouterr())
    assert code in shown
    assert "preparing.py" not in shown
    assert "asking.py" not in shown


def test_an_evaluated_cell_cannot_wait(run: Run, endpoint: Scripted):
    assert isinstance(run("%%ai --eval\nimport asyncio\nawait asyncio.sleep(0)"), UsageError)
    assert run("%%ai --eval\nasync def later():\n    await other()\n'asked'") is None
    assert endpoint.calls[0].prompt == "asked"


# ------------------------------------------------------------------------------------------------- configuration
def test_a_setting_that_is_wrong_leaves_nothing_behind(bare_shell: InteractiveShell):
    def state() -> tuple[int, int, bool]:
        manager = bare_shell.input_transformer_manager
        hooks = bare_shell.events.callbacks["post_run_cell"]
        return len(manager.token_transformers), len(hooks), "Err" in bare_shell.user_ns

    before = state()
    for name, value in [("max_history", "x"), ("aliases", {"help": "openai"}), ("aliases", {"n": None})]:
        bare_shell.config.AiMagics = Config({name: value})
        try:
            with pytest.raises(UsageError, match="AiMagics"):
                ai.load_ipython_extension(bare_shell)
            assert state() == before
        finally:
            del bare_shell.config["AiMagics"]


def test_aliases_that_are_set_anew_replace_those_that_were_set(shell: InteractiveShell):
    magics: Any = shell.magics_manager.registry["AiMagics"]
    magics.aliases = {"a": "openai", "b": "openai"}
    shell.run_line_magic("ai", "alias c openai")
    magics.aliases = {"b": "anthropic"}
    assert {name: alias.target for name, alias in magics.session.aliases.items()} == {"b": "anthropic", "c": "openai"}


def test_a_circle_of_aliases_is_named(run: Run, endpoint: Scripted, shell: InteractiveShell):
    magics: Any = shell.magics_manager.registry["AiMagics"]
    magics.aliases = {"l": "m", "m": "l"}
    magics.default_language_model = "l"
    error = run("%%ai\nHello")
    assert isinstance(error, UsageError)
    assert "'l' leads in a circle" in str(error)


# ------------------------------------------------------------------------------------------------- tokens, waiting
@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("openai:gpt-4o-mini", "max_tokens"),
        ("openai:gpt-6-luna", "max_completion_tokens"),
        ("openai:o3-mini", "max_completion_tokens"),
        ("openai:gpt-5.4-mini", "max_completion_tokens"),
    ],
)
def test_the_limit_of_an_answer_has_the_name_that_the_model_takes(run: Run, endpoint: Scripted, model: str, name: str):
    assert run(f"%%ai {model} --max-tokens 7\nHello") is None
    limits = {key: value for key, value in endpoint.calls[0].body.items() if key.startswith("max_")}
    assert limits == {name: 7}


def test_silence_and_limits_are_told(monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    waiting = asking.Waiting("openai:x", clock=lambda: now)
    assert (waiting.limit, waiting.silence) == ("", "")
    now = 3.2
    assert waiting.silence == "asking openai:x: 3 s"
    waiting(Wait("waiting 5 s: why", "why", 5.0, now + 5.0))
    now = 4.7
    assert waiting.limit == "waiting 4 s: why"
    waiting(None)
    assert (waiting.limit, waiting.silence) == ("", "")
    now = 7.0
    assert waiting.silence == "asking openai:x: 2 s"


def test_a_model_that_takes_its_time_is_seen_to(
    run: Run, endpoint: Scripted, page: Page, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(asking, "PATIENCE", 0.0)
    endpoint.hold()

    def release() -> None:
        endpoint.wait(lambda it: it.in_flight == 1 and bool(page.frames))
        endpoint.release()

    thread = threading.Thread(target=release)
    thread.start()
    assert run("%%ai\nHello") is None
    thread.join()
    assert "asking openai:gpt-4o-mini" in page.frames[0]["text/markdown"].replace("&#45;", "-").replace("&#58;", ":")
    assert page.last["text/plain"] == "echo: Hello"


# ------------------------------------------------------------------------------------------------- jupyter-ai first
@magics_class
class AiMagics(Magics):
    """Has the name that jupyter-ai's class has."""

    @line_cell_magic
    def ai(self, line: str, cell: str | None = None) -> Any:
        return "the other's"


def test_another_s_magics_of_the_same_name_are_taken_over_and_given_back(
    bare_shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
):
    bare_shell.register_magics(AiMagics)
    other = bare_shell.magics_manager.registry["AiMagics"]
    try:
        assert bare_shell.run_line_magic("ai", "x") == "the other's"
        ai.load_ipython_extension(bare_shell)
        assert "tests" in capsys.readouterr().out
        bare_shell.run_line_magic("ai", "version")
        assert capsys.readouterr().out == f"ipyconvexai {ai.__version__}\n"
        ai.unload_ipython_extension(bare_shell)
        assert bare_shell.run_line_magic("ai", "x") == "the other's"
        assert bare_shell.magics_manager.registry["AiMagics"] is other
    finally:
        bare_shell.configurables.remove(other)
        del bare_shell.magics_manager.registry["AiMagics"]
        for kind in ("line", "cell"):
            bare_shell.magics_manager.magics[kind].pop("ai", None)
