"""A model's SQL over the user's frames: what it can ask, and what it cannot reach."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.functions.tools import Tool, tools_of
from ipyconvexai.store.frames_sql import ask_frames
from ipyconvexai.testing import Answer, Endpoint, ToolCall
from tests.functions.talking import shown
from tests.store.helpers import wait_for

SALES = pd.DataFrame({"region": ["north", "south", "north"], "amount": [10, 20, 5]})
SECRET = "sk-test-0123456789abcdef"


def ask(tool: Tool, sql: str) -> str:
    return str(tool.function.handler(None, **tool.values(json.dumps({"sql": sql}))))


@pytest.fixture(scope="module")
def sales() -> Tool:
    return ai.sql_tool(sales=SALES, many=pa.table({"n": list(range(100_000))}))


def test_questions_are_answered(sales: Tool):
    assert ask(sales, "SELECT region, sum(amount) AS total FROM sales GROUP BY ALL ORDER BY total") == (
        "region,total\nnorth,15\nsouth,20\n(2 rows)"
    )
    assert ask(sales, "WITH x AS (FROM sales) SELECT count(*) AS n FROM x;") == "n\n3\n(1 row)"
    assert "amount,BIGINT" in ask(sales, "DESCRIBE sales")
    assert "amount" in ask(sales, "SUMMARIZE sales")
    assert ask(sales, "SELECT NULL AS a, 'x,y' AS b") == 'a,b\n,"x,y"\n(1 row)'


def test_the_model_is_told_the_schemas(sales: Tool):
    told = str(sales.declaration)
    assert "region" in told
    assert "3 rows" in told
    assert len(sales.description) <= 1024, "providers refuse longer ones"
    assert sales.safe
    assert not ai.sql_tool(sales=SALES, safe=False).safe


def test_of_many_rows_the_first_are_told_and_how_many_there_are(sales: Tool):
    text = ask(sales, "SELECT n FROM many ORDER BY n")
    assert text.endswith("199\n(the first 200 of 100,000 rows; aggregate, or use LIMIT)")
    text = ask(sales, "SELECT repeat('x', 1000) AS long FROM many")
    assert len(text) < 16_500
    assert "of 100,000 rows" in text
    assert "very many" in ask(sales, "FROM range(10_000_000)")


def test_a_mistake_is_told_in_duckdbs_words(sales: Tool):
    with pytest.raises(errors.QueryError, match="regio"):
        ask(sales, "SELECT regio FROM sales")
    with pytest.raises(errors.QueryError, match="one SELECT"):
        ask(sales, "SELECT 1; SELECT 2")
    with pytest.raises(errors.ArgumentsError):
        sales.values('{"sql": 3}')


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a secret, where the process is."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "secret.csv"
    path.write_text(f"key\n{SECRET}\n")
    return path


# All that is tried elsewhere, too, is in tests/promises/test_users_sql.py.
ATTACKS = """
SELECT * FROM read_csv('{file}')
SELECT * FROM read_csv('http://127.0.0.1:{port}/x')
COPY sales TO '{folder}/out.csv'
SELECT * FROM duckdb_secrets()
SELECT * FROM messages
SELECT * FROM SALES_OF_PYTHON
EXPLAIN ANALYZE SELECT 1
SELECT $1
SELECT list(range) FROM range(10000000000)
""".strip().splitlines()

SALES_OF_PYTHON = SALES


@pytest.mark.parametrize("attack", [*ATTACKS, ""])
def test_nothing_else_is_reached(sales: Tool, endpoint: Endpoint, file: Path, attack: str):
    port = endpoint.url.split(":")[2].split("/")[0]
    with pytest.raises(errors.QueryError) as refused:
        ask(sales, attack.format(file=file, folder=file.parent, port=port))
    assert SECRET not in str(refused.value)
    assert [path.name for path in file.parent.iterdir()] == ["secret.csv"], "nothing was written"
    assert endpoint.count == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory is not bounded beyond DuckDB's own limit")
def test_a_function_that_asks_for_too_much_memory_is_refused_at_once(sales: Tool):
    """DuckDB's limit does not see it, and it would take half a minute to be made."""
    with pytest.raises(errors.QueryError, match=r"(?i)memory"):
        ask(sales, "SELECT length(repeat('x', 4000000000))")


def test_its_process_has_no_environment(sales: Tool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert SECRET not in ask(sales, "FROM duckdb_settings()")


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
        "SELECT count(*) FROM range(10000000000) a, range(10000000000) b WHERE a.range + b.range = -1",
        "SELECT sleep_ms(100000)",
    ],
)
def test_what_never_ends_is_given_up(sql: str):
    begun = time.monotonic()
    assert "longer than 1 s" in ask_frames(sql, {}, rows=1, seconds=1)["error"]
    assert time.monotonic() - begun < 5


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="there is no alarm")
def test_its_process_ends_though_who_asked_was_killed():
    code = "from ipyconvexai.store import frames_sql as f; f.GRACE = 0; f._end_after(0.5); import time; time.sleep(60)"
    ended = subprocess.run([sys.executable, "-c", code], timeout=30, check=False)
    assert ended.returncode == -signal.SIGALRM


@pytest.mark.parametrize(
    "frames",
    [{}, {"df": 3}, {"df": [1]}, {"df": pd.DataFrame({"a": [object()]})}],
    ids=["none", "number", "list", "objects"],
)
def test_what_is_no_frame_is_refused(frames: dict[str, Any]):
    with pytest.raises(errors.InputError) as refused:
        ai.sql_tool(**frames)
    assert refused.value.cure


def test_hostile_names_of_columns_and_tables():
    odd = pd.DataFrame({'a"; DROP TABLE x; --': [1], "\n\x1b[31m": ["</script>"]})
    frames: dict[str, Any] = {'t"; --': odd}
    made = ai.sql_tool(**frames)
    assert ask(made, 'SELECT count(*) AS n FROM "t""; --"') == "n\n1\n(1 row)"


def test_in_a_conversation(app: ai.App, endpoint: Endpoint, sales: Tool):
    talk = str(ai.run("start_conversation", title="sales"))
    app.functions.give_tools(talk, tools_of([sales]))
    wrong, right = (ToolCall("sql", {"sql": sql}) for sql in ("SELECT x FROM sales", "SELECT 35 AS total"))
    endpoint.reply([Answer(tool_calls=[wrong]), Answer(tool_calls=[right]), Answer("35 in all.")])
    ai.run("send_message", conversation_id=talk, content="How much?")
    wait_for(lambda: shown(talk)[-1].content == "35 in all.", "the answer", 20)
    results = [message["content"] for message in endpoint.calls[-1].body["messages"] if message["role"] == "tool"]
    assert results[0].startswith("Error: BinderException")
    assert results[1] == "total\n35\n(1 row)"
