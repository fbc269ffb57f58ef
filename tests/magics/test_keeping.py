"""``%ai sql``, ``export``, ``purge``, ``budget``, ``conversations``, ``replay`` in a real shell."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from IPython.core.error import StdinNotImplementedError, UsageError
from IPython.core.interactiveshell import InteractiveShell

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.notebook import budgets, keeping
from ipyconvexai.notebook.session import Session, of_shell
from ipyconvexai.relation import Relation

Run = Callable[[str], Any]


@pytest.fixture
def session(shell: InteractiveShell, endpoint: Any) -> Session:
    return of_shell(shell)


@pytest.fixture
def do(session: Session) -> Callable[[str], bool]:
    """Runs a line as ``commands`` does; False where it is a question."""

    def run(line: str) -> bool:
        for pattern, command in (*keeping.COMMANDS, *budgets.COMMANDS):
            if match := pattern.fullmatch(line):
                command(session, *match.groups())
                return True
        return False

    return run


QUESTIONS = """
why is the sky blue
export regulations in France
export data.csv to excel, how?
export controls on chips
purge old emails from gmail, how?
purge all the nonsense from this text
purge my cache
budget advice for a student
budget 5000 dollars for a trip to Japan
budget for a wedding
budget off the grid living
budget 5 dollars a day living in Lisbon tips
conversations with God, summary
replay the battle of Waterloo
replay on words
""".strip().splitlines()


@pytest.mark.parametrize("line", QUESTIONS)
def test_english_stays_a_question(do: Callable[[str], bool], line: str):
    assert not any(pattern.fullmatch(line) for pattern, _ in (*keeping.COMMANDS, *budgets.COMMANDS)), line


@pytest.mark.parametrize(
    "query",
    [
        "from calls c select c.model",
        "TABLE calls",
        "(select 1)",
        "/* c */ select 1",
        "-- c\nselect 1",
        "SHOW TABLES",
        "  select 1",
        "'x'::VARCHAR AS x SELECT",
        "from python, please explain",
        "injection explained",
        "joins",
        "select",
        "PRAGMA show_tables",
        "load balancing",
        "-- nothing",
    ],
)
def test_a_line_of_sql_goes_to_no_model(run: Run, endpoint: Any, query: str):
    error = run(f"get_ipython().run_line_magic('ai', {f'sql {query}'!r})")
    assert endpoint.count == 0
    if error is not None:
        assert isinstance(error, errors.QueryError)
        assert "`%ai -- sql …` asks it as a question." in error.cure


def test_a_line_of_sql_that_is_right_is_run(do: Callable[[str], bool], capsys: Any):
    for query in ("from calls c select c.model", "TABLE calls", "(select 1)", "/* c */ select 1", "-- c\nselect 1"):
        assert do(f"sql {query}")
        assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    "line",
    [
        "sql",
        "sql  -o rows",
        "sql --output=rows",
        "sql --all",
        "sql -o",
        "sql -o rows",
        "export",
        "export --since 30d",
        "export calls.xlsx",
        "export calls.csv --sinse 30d",
        "export calls.csv --since",
        "export calls.csv --since --force",
        "export calls.csv --since 1d --since 2d",
        "purge",
        "purge --everything",
        "purge --before",
        "purge --containing two words",
        "budget 5 USD",
        "budget 5 EUR/day",
        "budget 5/day",
        "budget 5 USD/fortnight",
        "budget 5 usd per century",
        "budget 5 USD/day nonsense",
        "budget off nothing",
        "budget -5 USD/day",
        "conversations --all",
        "replay --off",
    ],
)
def test_what_is_mistyped_is_refused_and_not_paid_for(do: Callable[[str], bool], line: str):
    with pytest.raises((UsageError, errors.InputError)) as caught:
        do(line)
    assert str(caught.value)


# ---------------------------------------------------------------------------------------------- SQL
def test_sql_joins_what_the_notebook_holds(session: Session, do: Callable[[str], bool], run: Run, capsys: Any):
    ai.generate("hello")
    run("import pandas as pd\nteams = pd.DataFrame({'model': ['gpt-4o-mini'], 'team': ['blue']})")
    assert do("sql -o found SELECT team, status FROM calls JOIN teams USING (model)")
    found = session.names["found"]
    assert isinstance(found, Relation)
    assert found.fetchall() == [("blue", "ok")]
    assert do("sql SELECT upper(team) AS loud FROM found")  # a result is a frame, too
    assert "BLUE" in capsys.readouterr().out


def test_a_cell_of_sql(session: Session, capsys: Any):
    ai.generate("hello")
    keeping.run_cell_sql(
        session, " -o found ", "-- mine\nWITH c AS (SELECT * FROM calls)\nSELECT count(*) AS n FROM c\n"
    )
    assert session.names["found"].fetchall() == [(1,)]
    assert "n" in capsys.readouterr().out
    with pytest.raises(UsageError, match="-o NAME"):
        keeping.run_cell_sql(session, "gpt-4o", "SELECT 1")
    with pytest.raises(UsageError, match="variable"):
        keeping.run_cell_sql(session, "-o not-a-name", "SELECT 1")
    with pytest.raises(UsageError, match="no query"):
        keeping.run_cell_sql(session, "", "  \n")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT nothing FROM calls",
        "select * form calls",
        "DELETE FROM requests",
        "delete from requests where true",
        "INSERT INTO requests SELECT * FROM requests",
        "UPDATE requests SET body = 'x'",
        "DROP TABLE requests",
        "CREATE TABLE x AS SELECT 1",
        "ATTACH 'other.duckdb'",
        "COPY calls TO 'x.csv'",
        "SELECT 1; SELECT 2",
        "SELECT * FROM read_csv('/etc/passwd')",
        "WITH x AS (INSERT INTO documents VALUES (uuid(), now(), 'x', 1)) SELECT 1",
    ],
)
def test_wrong_sql_and_writes_are_one_error_with_a_cure(do: Callable[[str], bool], query: str):
    with pytest.raises(errors.QueryError) as caught:
        do(f"sql {query}")
    assert caught.value.cure
    assert len(ai.ledger.calls()) == 0


def test_a_frame_that_arrow_does_not_know_matters_only_as_a_table(session: Session, do: Callable[[str], bool]):
    session.shell.user_ns["model"] = pd.DataFrame({"x": [1, "one", object()]})
    assert do("sql SELECT model FROM calls")
    with pytest.raises(errors.InputError, match="model"):
        do("sql SELECT * FROM model")


# ---------------------------------------------------------------------------------------------- export
def lines_of(path: str) -> list[str]:
    return Path(path).read_text("utf-8").splitlines()


def test_export_says_how_many_rows_went_where(
    do: Callable[[str], bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.chdir(tmp_path)
    for prompt in ("one", "two", "one"):
        ai.generate(prompt)
    assert do("export calls.csv --since 1d --model openai:gpt-4o-mini --status ok")
    assert "3 calls -> calls.csv" in capsys.readouterr().out
    assert do("export --since=2020-01-01 'my calls.jsonl'")
    said = capsys.readouterr().out
    assert "2 examples for fine-tuning" in said
    assert "1 older answers" in said
    assert [json.loads(line)["messages"][0]["content"] for line in lines_of("my calls.jsonl")] == ["one", "two"]
    with pytest.raises(errors.InputError, match="exists") as caught:
        do("export calls.csv")
    assert "--force" in caught.value.cure
    assert do("export calls.csv --force --model nothing")
    assert "0 calls" in capsys.readouterr().out
    assert do("export whole.jsonl --all")
    assert len(lines_of("whole.jsonl")) == 3


# ---------------------------------------------------------------------------------------------- purge
@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | BaseException], list[str]]:
    """What the user answers; gives the questions that were asked."""

    def answer(text: str | BaseException) -> list[str]:
        asked: list[str] = []

        def ask(question: str = "") -> str:
            asked.append(question)
            if isinstance(text, BaseException):
                raise text
            return text

        monkeypatch.setattr(builtins, "input", ask)
        return asked

    return answer


def test_purge_tells_and_asks_first(do: Callable[[str], bool], say: Any, capsys: Any):
    ai.generate("the secret plan")
    ai.generate("the weather")
    asked = say("no")
    assert do("purge --containing SECRET")
    said = capsys.readouterr().out
    assert "1 call, of 2" in said
    assert "Nothing was removed" in said
    assert len(asked) == 1
    assert len(ai.ledger.calls(containing="secret")) == 1
    say("Yes")
    assert do("purge --containing 'the secret plan'")
    assert "Removed for good: 1 call" in capsys.readouterr().out
    assert len(ai.ledger.calls(containing="secret")) == 0
    assert len(ai.ledger.calls(containing="weather")) == 1
    assert do("purge --containing secret")
    assert "nothing was removed" in capsys.readouterr().out


@pytest.mark.parametrize("written", ["{0}", "'{0}'", '"{0}"', "--yes {0}"])
@pytest.mark.parametrize("part", [slice(-8, None), slice(None, None), slice(-12, None)])
def test_purge_takes_an_id_as_the_log_shows_it(run: Run, say: Any, endpoint: Any, written: str, part: slice):
    request = ai.generate("the secret plan").request_id or ""
    ai.generate("the weather")
    say("yes")
    count = endpoint.count
    assert run(f"%ai purge {written.format(request[part])}") is None
    assert endpoint.count == count
    assert [len(ai.ledger.calls(containing=text)) for text in ("secret", "weather")] == [0, 1]


def test_purge_of_an_id_that_means_several_or_no_calls(run: Run, say: Any, endpoint: Any):
    first, second = (ai.generate(text).request_id or "" for text in ("one", "two"))
    assert first[:8] == second[:8]
    asked = say("yes")
    count = endpoint.count
    for given, message in ((first[:8], "several"), ("0000dead", "no call has the id")):
        error = run(f"%ai purge {given}")
        assert isinstance(error, errors.InputError)
        assert message in str(error)
    assert (endpoint.count, asked) == (count, [])


def test_what_was_purged_is_not_sent_again(run: Run, session: Session, endpoint: Any, say: Any, capsys: Any):
    run("%ai My name is Zebulon.")
    assert session.transcript
    say("no")
    run("%ai purge --containing Zebulon")
    assert session.transcript, "nothing was removed, and nothing is forgotten"
    say("yes")
    run("%ai purge --containing Zebulon")
    assert "forgotten, too" in capsys.readouterr().out
    run("%ai Who am I?")
    assert "Zebulon" not in json.dumps(endpoint.calls[-1].body)
    assert len(ai.ledger.calls(containing="Zebulon")) == 0
    session.transcript.clear()
    assert run("%ai purge --all --yes") is None
    assert "forgotten" not in capsys.readouterr().out


@pytest.mark.parametrize("nobody", [StdinNotImplementedError("no"), EOFError()])
def test_where_nobody_can_answer_nothing_is_removed(do: Callable[[str], bool], say: Any, nobody: BaseException):
    request = ai.generate("keep me").request_id
    say(nobody)
    with pytest.raises(UsageError, match="--yes"):
        do(f"purge {request}")
    assert len(ai.ledger.calls(containing="keep me")) == 1
    assert do(f"purge {request} --yes")
    assert len(ai.ledger.calls(containing="keep me")) == 0


def test_an_interrupt_at_the_question_removes_nothing(do: Callable[[str], bool], say: Any):
    ai.generate("keep me")
    say(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        do("purge --all")
    assert len(ai.ledger.calls(containing="keep me")) == 1


@pytest.mark.parametrize("line", ["--all", "--before 0d", "--conversation 'my talk'", "--before=2999-01-01 --yes"])
def test_purge_by_each_criterion(do: Callable[[str], bool], say: Any, capsys: Any, line: str):
    ai.generate("hello", conversation="my talk")
    say("yes")
    assert do(f"purge {line}")
    assert "1 call, 2 messages, 1 conversation" in capsys.readouterr().out
    assert ai.ledger.usage().fetchall()[0][1] == 1


@pytest.mark.parametrize(
    "line",
    [
        "purge 00000000-0000-7000-8000-000000000000 --yes",
        "purge 00000000-zzzz --yes",
        "purge --before yesterday-ish --yes",
        "purge --conversation nobody --yes",
        "purge --all --before 1d --yes",
        "purge --yes",
        "purge --containing '' --yes",
    ],
)
def test_what_is_not_there_is_said(do: Callable[[str], bool], line: str):
    with pytest.raises((errors.InputError, UsageError)):
        do(line)


# ---------------------------------------------------------------------------------------------- budgets
@pytest.mark.parametrize(
    ("line", "what", "scope"),
    [
        ("5 USD/day", "$5.00 per day", "all calls"),
        ("$5/day", "$5.00 per day", "all calls"),
        ("$0.50 per hour", "$0.50 per hour", "all calls"),
        ("5 usd per hour", "$5.00 per hour", "all calls"),
        ("100000 tokens/day", "100,000 tokens per day", "all calls"),
        ("100k tokens / day", "100,000 tokens per day", "all calls"),
        ("1,000 tokens per batch", "1,000 tokens per batch", "all calls"),
        ("20 USD/week", "$20.00 per 604800 s", "all calls"),
        ("5 USD/day openai", "$5.00 per day", "provider openai"),
        ("5 USD/day for gpt-4o-mini", "$5.00 per day", "model gpt-4o-mini"),
        ("5 USD/day openai:gpt-4o-mini", "$5.00 per day", "model gpt-4o-mini, provider openai"),
    ],
)
def test_budgets_are_set_and_shown(do: Callable[[str], bool], capsys: Any, line: str, what: str, scope: str):
    assert do(f"budget {line}")
    (row,) = ai.app().limits().fetchall()
    assert row[1:3] == (what, scope)
    capsys.readouterr()
    assert do("budget")
    assert what in capsys.readouterr().out


def test_budgets_are_switched_off(do: Callable[[str], bool], capsys: Any):
    ai.app().limit(requests=100)
    assert do("budget 5 USD/day")
    assert do("budget 5 USD/hour openai")
    names = [row[0] for row in ai.app().limits().fetchall() if "budget" in row[0]]
    assert do(f"budget off {names[0]}")
    assert do("budget off")
    assert [row[1] for row in ai.app().limits().fetchall()] == ["100 requests per minute"]
    assert do("budget")
    assert "No budget" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- conversations, replay
def test_without_conversations_it_is_said_how_to_begin_one(do: Callable[[str], bool], capsys: Any):
    assert do("conversations")
    assert capsys.readouterr().out == (
        "There is no conversation yet: `%%ai -c NAME` begins one, or goes on with it, in any kernel.\n"
    )


def test_conversations_are_listed_with_their_cost(do: Callable[[str], bool], capsys: Any):
    ai.generate("hello", conversation="alpha \x1b[31m")
    ai.generate("hello", conversation="beta")
    ai.generate("again", conversation="alpha \x1b[31m")
    assert do("conversations")
    said = capsys.readouterr().out
    assert "\x1b" not in said
    alpha, beta = (next(line for line in said.splitlines() if word in line) for word in ("alpha", "beta"))
    assert said.index("alpha") < said.index("beta")
    assert " 4 " in alpha
    assert " 2 " in beta


def test_replay_is_shown_and_changed(do: Callable[[str], bool], capsys: Any, endpoint: Any):
    assert do("replay")
    assert "replay off" in capsys.readouterr().out
    assert do("replay on")
    assert "replay reuse" in capsys.readouterr().out
    ai.generate("hello")
    assert ai.generate("hello").replayed
    assert endpoint.count == 1
    assert do("replay only")
    with pytest.raises(errors.ReplayMissError):
        ai.generate("new")
    assert do("replay off")
    ai.generate("hello")
    assert endpoint.count == 2
