"""SQL that users and models write, at each door where it is run: attempts to write, and to reach what is outside."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import ipyconvexai as ai
from ipyconvexai.errors import Error
from ipyconvexai.records.frames import as_arrow
from ipyconvexai.store import frames_sql
from ipyconvexai.testing import Endpoint
from tests.promises.children import Child
from tests.promises.promising import LONGEST, Figure

PROMISE = (
    "SQL in `ai.ledger.sql`, in functions and of models (`ai.sql_tool`) only reads, and reaches no file, network,"
    " environment or variable"
)

SALES = pd.DataFrame({"region": ["north", "south"], "amount": [10, 20]})
PLANTED = "sk-planted-0123456789abcdef"

# {file} is a file with a secret, {folder} where it stands, {port} of an HTTP server on loopback, {ledger} the ledger.
ATTACKS = """
SELECT * FROM read_csv('{file}')
SELECT * FROM '{file}'
FROM 'secret.csv'
SELECT * FROM read_text('{file}')
SELECT * FROM read_blob('{file}')
SELECT * FROM read_json('{file}')
SELECT * FROM read_json_objects('{file}')
SELECT * FROM read_parquet('{file}')
SELECT * FROM parquet_scan('{file}')
SELECT * FROM parquet_metadata('{file}')
SELECT * FROM parquet_file_metadata('{file}')
SELECT * FROM read_duckdb('{ledger}')
SELECT * FROM sqlite_scan('{file}', 'x')
SELECT * FROM sniff_csv('{file}')
SELECT * FROM glob('{folder}/*')
SELECT * FROM glob('/etc/*')
SELECT * FROM '/etc/passwd'
SELECT * FROM query('FROM read_csv(''{file}'')')
SELECT * FROM query('COPY sales TO ''{folder}/out.csv''')
SELECT * FROM query('DELETE FROM conversations RETURNING 1')
SELECT * FROM query_table('{file}')
SELECT * FROM json_execute_serialized_sql(json_serialize_sql('FROM read_csv(''{file}'')'))
SELECT list_transform([1], lambda x: (SELECT content FROM read_text('{file}')))
SELECT (SELECT content FROM read_text('{file}'))
SELECT * FROM sales WHERE region IN (SELECT content FROM read_text('{file}'))
WITH x AS MATERIALIZED (FROM read_text('{file}')) FROM x
DESCRIBE SELECT * FROM read_csv('{file}')
SUMMARIZE SELECT * FROM read_csv('{file}')
EXPLAIN ANALYZE SELECT * FROM read_csv('{file}')
SELECT getenv('OPENAI_API_KEY')
SELECT getenv('HOME')
SELECT list_transform(['OPENAI_API_KEY'], lambda x: getenv(x))
SELECT * FROM read_csv('http://127.0.0.1:{port}/x')
SELECT * FROM read_parquet('https://127.0.0.1:{port}/x.parquet')
SELECT * FROM 'http://127.0.0.1:{port}/x.csv'
SELECT * FROM read_csv('s3://bucket/x')
SELECT * FROM connection
SELECT * FROM statement
SELECT * FROM arrow_scan(1, 2, 3)
SELECT * FROM pandas_scan(1)
SELECT * FROM python_map_function((SELECT 1), 2)
COPY sales TO '{folder}/out.csv'
COPY (SELECT 1) TO '{folder}/out.csv'
COPY conversations TO '{folder}/out.csv'
COPY conversations FROM '/etc/passwd'
EXPLAIN ANALYZE COPY conversations TO '{folder}/out.csv'
EXPORT DATABASE '{folder}/out'
IMPORT DATABASE '{folder}'
ATTACH '{ledger}' AS other
ATTACH '{folder}/out.duckdb' AS x
ATTACH ':memory:' AS m
DETACH memory
USE memory
INSTALL httpfs
INSTALL httpfs FROM 'http://127.0.0.1:{port}'
LOAD httpfs
LOAD '{file}'
UPDATE EXTENSIONS
SET enable_external_access = true
SET GLOBAL allow_unsigned_extensions = true
SET lock_configuration = false
SET temp_directory = '{folder}'
SET VARIABLE x = 1
RESET enable_external_access
RESET lock_configuration
PRAGMA enable_external_access
PRAGMA enable_profiling
PRAGMA database_list
CALL pragma_version()
CALL enable_logging()
SELECT * FROM enable_logging('QueryLog', storage = 'file', storage_path = '{folder}/out')
SELECT * FROM enable_profiling(save_location = '{folder}/out.json')
CREATE SECRET (TYPE http, BEARER_TOKEN 'x')
CREATE MACRO mine() AS 1
CREATE TEMP MACRO mine() AS TABLE FROM read_text('{file}')
CREATE FUNCTION mine(x) AS getenv(x)
PREPARE mine AS SELECT 1
PREPARE mine AS FROM read_text('{file}')
EXECUTE mine
DEALLOCATE mine
CREATE TABLE x AS SELECT 1
CREATE TEMP TABLE x AS SELECT 1
CREATE VIEW x AS SELECT 1
CREATE TYPE mood AS ENUM ('x')
CREATE SEQUENCE numbers
INSERT INTO sales VALUES ('x', 1)
INSERT INTO conversations (id, created_at) VALUES (uuid(), now()::TIMESTAMP)
UPDATE conversations SET title = 'mine'
DELETE FROM sales
DELETE FROM conversations
TRUNCATE conversations
DROP TABLE conversations
DROP VIEW sales
ALTER TABLE conversations ADD COLUMN mine INTEGER
COMMENT ON TABLE conversations IS 'mine'
MERGE INTO conversations USING (SELECT 1 AS one) ON true WHEN MATCHED THEN DELETE
WITH x AS (DELETE FROM conversations RETURNING 1) SELECT * FROM x
WITH x AS (INSERT INTO sales VALUES ('x', 1) RETURNING *) SELECT * FROM x
EXPLAIN ANALYZE DELETE FROM conversations
SELECT 1; DROP TABLE conversations
SELECT 1;; COPY sales TO '{folder}/out.csv'
COMMIT; DELETE FROM conversations
ROLLBACK; DELETE FROM conversations
BEGIN
COMMIT
CHECKPOINT
FORCE CHECKPOINT
VACUUM
ANALYZE
SELECT (
-- nothing
""".strip().splitlines()

Ask = Callable[[str], str]
SLOW = [pytest.mark.long, pytest.mark.timeout(LONGEST)]  # a process for each


@ai.query
def ask_in_query(ctx, sql: str) -> str:
    return str(ctx.db.sql(sql))


@ai.mutation
def ask_in_mutation(ctx, sql: str) -> str:
    return str(ctx.db.sql(sql))


def doors(app: ai.App) -> dict[str, Ask]:
    tool = ai.sql_tool(sales=SALES)
    return {
        "ledger": lambda sql: str(app.ledger.sql(sql, sales=SALES).fetchall()),
        "query": lambda sql: str(ai.run(ask_in_query, sql=sql)),
        "mutation": lambda sql: str(ai.run(ask_in_mutation, sql=sql)),
        "tool": lambda sql: str(tool.function.handler(None, **tool.values(json.dumps({"sql": sql})))),
    }


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a secret, where the process is; the same one is in the environment."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OPENAI_API_KEY", PLANTED)
    path = folder / "secret.csv"
    path.write_text(f"key\n{PLANTED}\n")
    return path


def state_of(app: ai.App) -> list[Any]:
    """All that an attack might have changed in the ledger."""
    store = app.store
    names = store.read("SELECT table_name, sql FROM duckdb_tables() WHERE NOT temporary ORDER BY ALL")
    others = store.read("SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY ALL")
    macros = store.read("SELECT function_name FROM duckdb_functions() WHERE NOT internal ORDER BY ALL")
    settings = store.read("SELECT name, value FROM duckdb_settings() ORDER BY ALL")
    databases = store.read("SELECT database_name FROM duckdb_databases() ORDER BY ALL")
    rows = store.read("SELECT title, (SELECT count(*) FROM requests) FROM conversations ORDER BY ALL")
    return [names, others, macros, settings, databases, rows]


def attacks_on(app: ai.App, endpoint: Endpoint, file: Path) -> list[str]:
    port = endpoint.url.split(":")[2].split("/")[0]
    return [text.format(file=file, folder=file.parent, ledger=app.store.path, port=port) for text in ATTACKS]


@pytest.mark.parametrize(
    "door",
    ["ledger", "query", "mutation", pytest.param("tool", marks=SLOW)],
)
def test_nothing_else_is_reached(app: ai.App, endpoint: Endpoint, file: Path, figure: Figure, door: str):
    ai.generate("a question", conversation="a title")
    ask, before, connections = doors(app)[door], state_of(app), endpoint.connections

    def attack(sql: str) -> str | None:
        """None: it was refused, and the error tells no secret."""
        try:
            answer = ask(sql)
        except Error as error:
            return None if PLANTED not in str(error) else "the error tells it"
        return f"it answered {answer}"

    attacks = attacks_on(app, endpoint, file)
    outcomes = {sql: attack(sql) for sql in attacks}
    assert {sql: outcome for sql, outcome in outcomes.items() if outcome} == {}
    assert os.listdir(file.parent) == [file.name], "something was written"
    assert state_of(app) == before
    assert endpoint.connections == connections, "the network was reached"
    figure(f"{door}: 0 of {len(ATTACKS)} attempts got through", f"{len(ATTACKS)} attempts")


def ask_in_one_process(say: Callable[[Any], None], attacks: list[str], sales: bytes) -> None:
    """What the tool's process does with each; to start one for each takes half a minute."""
    for sql in attacks:
        asked = {"sql": sql, "rows": 9, "seconds": 60, "memory": 1 << 30, "frames": [["sales", len(sales)]]}
        say(frames_sql._serve(io.BytesIO(json.dumps(asked).encode() + b"\n" + sales)))


def test_nothing_else_is_reached_by_the_tools_process(app: ai.App, endpoint: Endpoint, file: Path, figure: Figure):
    connections = endpoint.connections
    attacks = attacks_on(app, endpoint, file)
    with Child(ask_in_one_process, attacks, as_arrow(SALES)) as child:
        answers = list(child.rest())
        assert child.wait() == 0
    outcomes = dict(zip(attacks, answers, strict=True))
    assert {sql: answer for sql, answer in outcomes.items() if set(answer) != {"error"} or PLANTED in str(answer)} == {}
    assert os.listdir(file.parent) == [file.name], "something was written"
    assert endpoint.connections == connections, "the network was reached"
    figure(f"tool: 0 of {len(ATTACKS)} attempts got through", f"{len(ATTACKS)} attempts")


@pytest.mark.parametrize("door", ["ledger", "query", "mutation", "tool"])
def test_questions_are_answered(app: ai.App, door: str):
    """Else the refusals would show nothing."""
    ask = doors(app)[door]
    assert "42" in ask("SELECT 6 * 7 AS answer")
    assert "3" in ask("WITH x AS (SELECT unnest([1, 2, 3]) AS n) SELECT max(n) FROM x")
