"""Makes the ledgers of this folder: one of each schema, with rows in every table.

The migrations up to that one make it, as they are now: released ones are never changed. No release of that time wrote
it, so what only code wrote otherwise then (the bodies of its calls, say) is not in it.

    python tests/data/schemas/make.py 6     # when migration 006 is new

Files that are there are never made again: they are what users have. `tests/promises/test_old_files.py` opens them.
"""

from __future__ import annotations

import datetime
import json
import lzma
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import duckdb

from ipyconvexai.store.migrations import migrate, migrations

FOLDER = Path(__file__).parent
ROWS = 2  # of each table
NOTED = ("schema_migrations", "document_tables")  # tables in which migrations write

DAY = datetime.datetime(2026, 1, 31, 12, 30, 15, 250_000)
_BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "a question"}]}
_ANSWER = {"choices": [{"message": {"role": "assistant", "content": "an answer"}, "finish_reason": "stop"}]}
_NOTE = """
CREATE TABLE Note(_id UUID PRIMARY KEY, _creation_time TIMESTAMP NOT NULL, "text" VARCHAR);
CREATE INDEX "Note.text" ON Note("text");
"""
_NOTES = {
    "columns": {"text": {"kind": "str", "sql": "VARCHAR", "nullable": False, "optional": False, "choices": None}},
    "indexes": {"by_text": ["text"]},
}
# What code reads as more than text; where a table matters, the key is "table.column".
_VALUES: dict[str, Any] = {
    "requests.body": json.dumps(_BODY),
    "responses.body": json.dumps(_ANSWER),
    "endpoint": "chat/completions",
    "provider": "openai",
    "model": "openai:gpt-4o-mini",
    "requests.model": "gpt-4o-mini",
    "responses.model": "gpt-4o-mini-2026",
    "base_url": "https://api.openai.com/v1",
    "source": "magic",
    "user_id": None,
    "requests.attempt": 1,
    "requests.retry_of": None,
    "requests.body_bytes": None,
    "responses.body_bytes": None,
    "responses.status": "ok",
    "responses.error_code": None,
    "responses.error_message": None,
    "messages.role": "user",
    "messages.status": "done",
    "messages.session_id": None,
    "messages.attachments": json.dumps([{"kind": "text", "name": "a.txt", "text": "attached"}]),
    "messages.tool_call": None,
    "metadata": "{}",
    "args": "{}",
    "result": None,
    "error_data": None,
    "errors": None,
    "scheduled_functions.kind": "action",
    "scheduled_functions.state": "pending",  # what is over is removed after some days
    "due_at": DAY.replace(year=2999),
    "scheduled_functions.attempts": 0,
    "scheduled_functions.started_at": None,
    "scheduled_functions.finished_at": None,
    "scheduled_functions.session_id": None,
    "next_time": None,
    "crons.schedule": json.dumps({"seconds": 3600}),
    "rule": json.dumps({"kind": "sliding_window", "rate": 10, "per": 60}),
    "rate_limits.state": "{}",
    "batches.kind": "summarize",
    "batches.state": "done",
    "batches.options": "{}",
    "batches.wanted": None,
    "batch_items.status": "ok",
    "batch_items.label": None,
    "inputs": json.dumps({"from": 0, "to": 10}),
    "provider_batches.state": "collected",
}
# Ids by which rows belong together, in place of one of the row's own.
_SAME = {
    "conversation_id": "conversations.id",
    "message_id": "messages.id",
    "request_id": "requests.id",
    "batch_id": "batches.id",
    "document_id": "documents.id",
    "job_id": "scheduled_functions.id",
}


def make(version: int, path: Path) -> None:
    scripts = {number: script for number, script in migrations().items() if number <= version}
    with duckdb.connect(str(path)) as connection:
        migrate(connection, str(path), scripts)
        if version >= 2:  # a table of the user's own
            connection.execute(
                'CREATE TABLE Note(_id UUID PRIMARY KEY, _creation_time TIMESTAMP NOT NULL, "text" VARCHAR)'
            )
            connection.execute('CREATE INDEX "Note.text" ON Note("text")')
            connection.execute("INSERT INTO document_tables VALUES (4, 'Note', ?, ?)", [json.dumps(_NOTES), DAY])
        for table, columns in tables_of(connection).items():
            for number in range(ROWS) if table not in NOTED else ():
                values = [_value(table, name, kind, number) for name, kind in columns.items()]
                connection.execute(f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(values))})', values)


def tables_of(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, str]]:
    """Table -> column -> type, in their order."""
    found: dict[str, dict[str, str]] = {}
    for table, column, kind in connection.execute(
        "SELECT t.table_name, column_name, data_type FROM duckdb_columns() c JOIN duckdb_tables() t USING (table_oid)"
        " WHERE NOT t.internal ORDER BY t.table_name, column_index"
    ).fetchall():
        found.setdefault(table, {})[column] = kind
    return found


def _value(table: str, column: str, kind: str, number: int) -> Any:
    for name in (f"{table}.{column}", column):
        if name in _VALUES:
            return _VALUES[name]
    if column == "definition":
        return json.dumps({"kind": "limit", "requests": 100, "per": "minute"})
    match kind:
        case "UUID":
            return _id(_SAME.get(column, f"{table}.{column}"), number)
        case "TIMESTAMP":
            return DAY + datetime.timedelta(hours=number)
        case "VARCHAR":
            return f"{table} {column} {number}"
        case "BLOB":
            return f"{table} {number}".encode()
        case "BOOLEAN":
            return bool(number)
        case "DOUBLE":
            return 0.25 + number
        case "BIGINT[]":
            return [number, number + ROWS]
    return 7 + number


def _id(name: str, number: int) -> str:
    """As ids are: with the time in front (UUIDv7)."""
    tail = uuid.uuid5(uuid.NAMESPACE_URL, f"{name}{number}").int & (1 << 62) - 1
    stamp = int(DAY.replace(tzinfo=datetime.UTC).timestamp() * 1000) + number
    return str(uuid.UUID(int=stamp << 80 | 7 << 76 | 0b10 << 62 | tail))


def main(versions: list[int]) -> None:
    for version in versions:
        file = FOLDER / f"{version}.duckdb.xz"
        if file.exists():
            sys.exit(f"{file} is there: it is what users have, and stays as it is")
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "ledger.duckdb"
            make(version, made)
            file.write_bytes(lzma.compress(made.read_bytes(), preset=9))


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]])
