"""Rows that the ledger can answer: 100,000 in a pandas frame, and 1,000,000 in a Parquet file.

The ledger is filled with the answers beforehand, by SQL: their keys are those that the batch makes of the same texts.
"""

from __future__ import annotations

import tempfile
from typing import Any

from tests.benchmarks.double import Double
from tests.benchmarks.measuring import MODEL, Figure, cost, in_child, keeper_cpu, most_memory, use
from tests.benchmarks.summarize import VOCABULARY

ROWS = 100_000
FILE_ROWS = 1_000_000
AT_ONCE = 50_000


def text(number: int) -> str:
    """About 300 characters, different for each number."""
    words = VOCABULARY[number % 37 :] + VOCABULARY[: number % 37]
    return f"{number} {' '.join(words)} {number * 7919 % 1000003}"


def fill(path: str, url: str, count: int) -> None:
    """A ledger with an answer to each text."""
    use(url)
    import duckdb
    import pyarrow as pa

    import ipyconvexai as ai
    from ipyconvexai.batch.options import Options
    from ipyconvexai.batch.summarize import PROMPT, SYSTEM, Summarize
    from ipyconvexai.store.migrations import migrate

    with ai.connect(path, model=MODEL) as app:
        endpoint = app.run(app.generator.endpoint(None, to_send=False))
        operation = Summarize("text", "summary", SYSTEM, PROMPT)
        operation.open(endpoint, Options())
        recipe = operation._recipe
        assert recipe is not None
    with duckdb.connect(path) as connection:
        migrate(connection, path)
        for start in range(0, count, AT_ONCE):
            keys = pa.table({"key": [recipe.ask(text(n)).key for n in range(start, min(count, start + AT_ONCE))]})
            connection.register("made", keys)
            connection.execute(
                """
                CREATE OR REPLACE TEMP TABLE fresh AS SELECT uuidv7() AS id, key::UUID AS key FROM made;
                INSERT INTO requests (id, attempt, sent_at, provider, model, endpoint, stream, cache_key, body,
                                      body_size, source, session_id)
                SELECT id, 1, TIMESTAMP '2026-01-01', 'openai', 'x', 'chat/completions', false, key, repeat('b', 600),
                       600, 'batch', '01990000-0000-7000-8000-000000000000'::UUID FROM fresh;
                INSERT INTO responses (request_id, received_at, status, http_status, text, finish_reason, input_tokens,
                                       output_tokens, cost_usd, body)
                SELECT id, TIMESTAMP '2026-01-01', 'ok', 200, 'A summary of two sentences. ' || id || ' It is short.',
                       'stop', 100, 20, 0.0001, repeat('a', 600) FROM fresh;
                """
            )


def frame(url: str, path: str, rows: int) -> dict[str, float]:
    use(url)
    import pandas as pd

    import ipyconvexai as ai

    data = pd.DataFrame({"text": [text(n) for n in range(rows)]})
    with ai.connect(path, model=MODEL):
        ai.summarize(data.head(10), "text")
        keeper = keeper_cpu()
        with cost() as spent:
            done = ai.summarize(data, "text")
        if done["summary"].isna().any():
            raise RuntimeError(f"rows failed: {done['summary_error'].dropna().iloc[0]}")
        return {"wall": spent.wall, "cpu": spent.cpu, "keeper": keeper_cpu() - keeper}


def write_file(path: str, rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, pa.schema([("number", pa.int64()), ("text", pa.string())])) as writer:
        for start in range(0, rows, AT_ONCE):
            numbers = range(start, min(rows, start + AT_ONCE))
            writer.write_table(pa.table({"number": list(numbers), "text": [text(n) for n in numbers]}))


def file(url: str, path: str, source: str, target: str) -> dict[str, float]:
    use(url)
    import ipyconvexai as ai

    with ai.connect(path, model=MODEL), cost() as spent:
        ai.summarize(source, "text", output=target)
    return {"wall": spent.wall, "cpu": spent.cpu, "memory": most_memory()}


def _check(target: str, rows: int) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(target)
    if table.num_rows != rows or table["summary"].null_count or table["number"].to_pylist() != list(range(rows)):
        raise RuntimeError("the file that was written is not what was asked for")


def run() -> list[Figure]:
    with Double() as double, tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/ledger.duckdb"
        in_child(fill, path=path, url=double.url, count=FILE_ROWS)
        small = in_child(frame, url=double.url, path=path, rows=ROWS)
        in_child(write_file, path=f"{folder}/rows.parquet", rows=FILE_ROWS)
        big: dict[str, Any] = in_child(
            file, url=double.url, path=path, source=f"{folder}/rows.parquet", target=f"{folder}/done.parquet"
        )
        _check(f"{folder}/done.parquet", FILE_ROWS)
        sent = double.count()
    return [
        Figure(f"summarising {ROWS:,} rows that are all answered", small["wall"], "s", at_most=3),
        Figure("  CPU, this process", small["cpu"], "s"),
        Figure("  CPU, keeper", small["keeper"], "s"),
        Figure("  requests sent", float(sent), at_most=0),
        Figure(f"a Parquet file of {FILE_ROWS:,} rows, all answered: most memory", big["memory"], "MB", at_most=600),
        Figure("  wall", big["wall"], "s"),
        Figure("  CPU, this process", big["cpu"], "s"),
    ]  # fmt: skip
