"""The columns beside an answer: its error, and on request what it took. Calls ``columns``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ipyconvexai.batch.asks import Result
from ipyconvexai.batch.columns import Output

__all__ = ["beside", "columns_beside", "error_column", "error_text"]

_TYPES = {"request_id": pa.string(), "cost": pa.float64(), "tokens": pa.int64()}


def error_column(into: str) -> str:
    return f"{into}_error"


def columns_beside(into: str, wanted: Sequence[str]) -> list[Output]:
    """The error and, of each detail that is wanted, a column: `into`_error, `into`_cost ..."""
    return [Output(error_column(into), pa.string()), *(Output(f"{into}_{name}", _TYPES[name]) for name in wanted)]


def beside(results: Sequence[Result], into: str, wanted: Sequence[str]) -> dict[str, list[Any]]:
    """Their values."""
    columns = {error_column(into): [error_text(result) for result in results]}
    return columns | {f"{into}_{name}": [_detail(result, name) for result in results] for name in wanted}


def error_text(result: Result) -> str | None:
    """What is wrong with it, in one line."""
    return None if result.error is None else f"{result.error.code}: {result.error.message}"


def _detail(result: Result, name: str) -> Any:
    if result.total.requests == 0:
        return None
    return {"request_id": result.done.request_id, "cost": result.total.cost, "tokens": result.total.tokens}[name]
