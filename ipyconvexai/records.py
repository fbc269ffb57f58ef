"""What people ask of their ledger: calls, usage, SQL, export. Floor 3: calls the store and ``relation``."""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipyconvexai.errors import InputError
from ipyconvexai.relation import Relation
from ipyconvexai.store.ledger import Ledger
from ipyconvexai.values import Status

__all__ = ["Records"]

_COLUMNS = (
    "id::VARCHAR AS id, sent_at, provider, model, endpoint, status, text, input_tokens, output_tokens, cost_usd,"
    " first_token_ms, duration_ms, attempt, source, error_code, error_message,"
    " conversation_id::VARCHAR AS conversation_id, batch_id::VARCHAR AS batch_id"
)
# What a drawn table of calls shows; the rest is in .df() and .fetchall().
_SHOWN = "sent_at model status text input_tokens output_tokens cost_usd duration_ms".split()
_GROUPS = {
    "model": "model",
    "provider": "provider",
    "day": "sent_at::DATE",
    "notebook": "notebook",
    "user": "user_id",
    "source": "source",
    "status": "status",
}
# A frame of the user's that has one of these names is taken only when it is passed by name.
_OWN = frozenset("calls requests responses conversations messages documents schema_migrations".split())
_NAMES = re.compile(r"[A-Za-z_]\w*")


class Records:
    """The ledger as its user sees it; every result is a ``Relation``."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @property
    def path(self) -> str:
        """The ledger file."""
        return self._ledger.store.path

    def calls(self, *, limit: int | None = 100, status: str | None = None, containing: str | None = None) -> Relation:
        """Recorded attempts, newest first.

        Args:
            limit: at most so many rows; None for all.
            status: only those with this status ("ok", "error", "unknown" ...).
            containing: only those whose request or answer contains this text.
        """
        if status is not None and status not in list(Status):
            raise InputError(f"status={status!r} is not known", cure=f"Use one of {', '.join(Status)}.")
        sql = f"SELECT {_COLUMNS} FROM calls WHERE ($status IS NULL OR status = $status)"
        sql += " AND ($text IS NULL OR contains(lower(coalesce(request, '') || coalesce(text, '')), lower($text)))"
        sql += " ORDER BY sent_at DESC, id DESC" + (f" LIMIT {int(limit)}" if limit is not None else "")
        return Relation(self._ledger.arrow(sql, {"status": status, "text": containing}), caption="calls", shown=_SHOWN)

    def usage(self, by: str = "model") -> Relation:
        """Calls, tokens, cost (US dollars) and seconds, by model, provider, day, notebook, user, source or status.

        Raises:
            InputError: another word.
        """
        if by not in _GROUPS:
            raise InputError(f"usage(by={by!r}) is not known", cure=f"Use one of {', '.join(_GROUPS)}.")
        sql = f"""
            SELECT {_GROUPS[by]} AS "{by}", count(*) AS calls, count(*) FILTER (status = 'ok') AS ok,
                   coalesce(sum(input_tokens), 0)::BIGINT AS input_tokens,
                   coalesce(sum(cached_tokens), 0)::BIGINT AS cached_tokens,
                   coalesce(sum(output_tokens), 0)::BIGINT AS output_tokens,
                   sum(cost_usd) AS cost_usd, sum(duration_ms) / 1000 AS seconds,
                   median(first_token_ms) AS first_token_ms
            FROM calls GROUP BY ALL ORDER BY calls DESC
        """
        return Relation(self._ledger.arrow(sql), caption=f"usage by {by}")

    def sql(self, query: str, params: Any = None, **frames: Any) -> Relation:
        """Read-only SQL over the ledger, joined with your own frames by name.

        A name in the query that is a DataFrame (pandas, polars, pyarrow, ...) where you call this is one, too. The
        ledger's own tables keep their names: ``calls`` is the ledger's, unless you pass ``calls=frame``.
        External access is off: the query reaches no file and no network.

        Raises:
            QueryError: wrong SQL, or SQL that would write.
        """
        if not isinstance(query, str) or not query.strip():
            raise InputError("there is no query", cure='For example: ai.ledger.sql("SELECT * FROM calls").')
        named = {**_frames_of_caller(query), **{name: _as_arrow(frame) for name, frame in frames.items()}}
        return Relation(self._ledger.arrow(query, params, named))

    def export(self, path: str | Path, query: str = "SELECT * FROM calls") -> Path:
        """Write the result of `query` to a .parquet or .csv file."""
        import pyarrow.csv
        import pyarrow.parquet

        path = Path(path)
        table = Relation(self._ledger.arrow(query)).arrow()
        if not path.parent.is_dir():
            raise InputError(f"there is no folder {path.parent}", cure="Make it, or name another.")
        if path.suffix == ".parquet":
            pyarrow.parquet.write_table(table, path)
        elif path.suffix == ".csv":
            pyarrow.csv.write_csv(table, path)
        else:
            raise InputError(f"{path.name}: unknown kind of file", cure="Use a name that ends in .parquet or .csv.")
        return path

    def __repr__(self) -> str:
        return f"<ledger {self.path}: .calls() .usage(by=...) .sql('SELECT ...') .export(path)>"


def _frames_of_caller(query: str) -> Mapping[str, bytes]:
    """Frames that the query names and that stand in the frame that called ``sql``."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = frame.f_back if frame is not None else None
    if frame is None:
        return {}
    names = set(_NAMES.findall(query)) - _OWN
    found = {name: frame.f_locals.get(name, frame.f_globals.get(name)) for name in names}
    return {name: _as_arrow(value) for name, value in found.items() if _is_frame(value)}


def _is_frame(value: Any) -> bool:
    module = type(value).__module__.partition(".")[0]
    return module in ("pandas", "polars", "pyarrow") and type(value).__name__ in ("DataFrame", "LazyFrame", "Table")


def _as_arrow(frame: Any) -> bytes:
    import narwhals as nw
    import pyarrow as pa

    try:
        native = nw.from_native(frame)
        table = (native.collect() if isinstance(native, nw.LazyFrame) else native).to_arrow()
    except TypeError as error:
        raise InputError(f"{type(frame).__name__} is not a DataFrame", cure="Pass frames by name.") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(
            f"the frame does not fit into Arrow: {error.args[0]}", cure="Give each of its columns one type."
        ) from None
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()
