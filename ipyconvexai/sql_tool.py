"""``ai.sql_tool(df=...)``: a tool that answers questions over frames by SQL. Calls the store's ``frames_sql``.

Promises: the frames are as they were when the tool was made; a query reads them and nothing else, and changes nothing;
what the model is told has a bounded length and says what is missing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from ipyconvexai.context.frames import describe, is_frame
from ipyconvexai.errors import InputError, QueryError
from ipyconvexai.functions.tools import CHARACTERS, RESULT_TOKENS, Tool, tool
from ipyconvexai.records.frames import as_arrow
from ipyconvexai.store.frames_sql import ask_frames

__all__ = ["sql_tool"]

ROWS = 200  # that the model is told at most
SECONDS = 30.0  # of a query
SCHEMA_TOKENS = 3000  # of all frames together
LONGEST_CELL = 300  # characters


def sql_tool(*, safe: bool = True, name: str = "sql", **frames: Any) -> Tool:
    """A tool by which a model answers questions over your frames, by read-only SQL of DuckDB's.

        ai.chat(tools=[ai.sql_tool(sales=df, customers=other)])

    The model is told their columns, statistics and a few rows. A query runs in a process of its own, without files,
    network, ledger and environment, for 30 s at most; 200 rows of its result are told.

    Args:
        safe: run queries without asking first; you named the frames.
        name: by which the model calls it.
        **frames: by the names that queries give them: pandas, polars, Arrow, DuckDB relations, results of the ledger.

    Raises:
        InputError: there is no frame, or one does not fit into Arrow.
    """
    if not frames:
        raise InputError("there is no frame to ask about", cure="Name one or more: ai.sql_tool(sales=df).")
    for key, frame in frames.items():
        if not is_frame(frame):
            raise InputError(f"{key}={frame!r:.80} is no frame", cure="Pass DataFrames: ai.sql_tool(sales=df).")
    kept = {key: as_arrow(frame) for key, frame in frames.items()}
    room = max(150, SCHEMA_TOKENS // len(frames))
    schemas = "\n\n".join(f'Table "{key}":\n{describe(frame, room)}' for key, frame in frames.items())
    told = f"One SELECT in the SQL of DuckDB, over these tables.\n\n{schemas}"

    def ask(sql: Any) -> str:
        return _told(ask_frames(sql, kept, rows=ROWS, seconds=SECONDS))

    ask.__annotations__ = {"sql": Annotated[str, Field(description=told)]}
    names = ", ".join(frames)
    about = f"Answers questions about the user's data by read-only SQL (DuckDB). Tables: {names}."
    return tool(ask, name=name, safe=safe, description=about, timeout=SECONDS + 10)


def _told(answer: Mapping[str, Any]) -> str:
    """Rows as CSV, as many as fit.

    Raises:
        QueryError: with DuckDB's words.
    """
    if "error" in answer:
        raise QueryError(answer["error"][:2000])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(answer["columns"])
    shown = 0
    for row in answer["rows"]:
        before = out.tell()
        writer.writerow([None if cell is None else _cut(cell) for cell in row])
        if out.tell() > RESULT_TOKENS * CHARACTERS - 200:
            out.seek(before)
            out.truncate()
            break
        shown += 1
    total = answer["total"]
    if shown == total:
        return f"{out.getvalue()}({total:,} row{'' if total == 1 else 's'})"
    many = "very many" if total < 0 else f"{total:,}"
    return f"{out.getvalue()}(the first {shown:,} of {many} rows; aggregate, or use LIMIT)"


def _cut(cell: str) -> str:
    return cell if len(cell) <= LONGEST_CELL else cell[: LONGEST_CELL - 1] + "…"
