"""The ledger as its user sees it. Calls the store, ``relation`` and the modules beside it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipyconvexai.errors import InputError
from ipyconvexai.records import frames as users_frames
from ipyconvexai.records import removal
from ipyconvexai.records.exporting import Written, checked, write
from ipyconvexai.records.finetuning import COLUMNS as FINE_TUNING
from ipyconvexai.records.removal import Purged
from ipyconvexai.records.searching import Search, chosen, find_call
from ipyconvexai.records.words import When, instant
from ipyconvexai.relation import Relation
from ipyconvexai.store.clock import utc_now
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
            containing: only those whose request, answer, error or model contains this text, whatever its case, or
                whose id ends with it. The newest are looked at first; for a text that none holds all are read.
        """
        _check_status(status)
        search = Search((containing or "").strip() or None, status, limit=None if limit is None else int(limit))
        if search.text is None and limit is None:
            sql = f"SELECT {_COLUMNS} FROM calls WHERE ($status IS NULL OR status = $status)"
            sql += " ORDER BY sent_at DESC, id DESC"
            return Relation(self._ledger.arrow(sql, {"status": status}), caption="calls", shown=_SHOWN)
        return self._rows_of(chosen(self._ledger.store, search), _COLUMNS, "calls", _SHOWN)

    def call(self, call_id: str) -> Relation:
        """All that is known of one call: a row with every column of ``calls``.

        Args:
            call_id: the call's id, its beginning, or its end, as `%ai log` shows it.

        Raises:
            InputError: no call has this id, or several have.
        """
        found = find_call(self._ledger.store, call_id)
        return self._rows_of([found], "*", f"call {found}", None)

    def _rows_of(self, ids: list[str], columns: str, caption: str, shown: list[str] | None) -> Relation:
        sql = f"SELECT {columns} FROM calls WHERE calls.id IN (SELECT unnest($ids::UUID[]))"
        sql += " ORDER BY calls.sent_at DESC, calls.id DESC"
        return Relation(self._ledger.arrow(sql, {"ids": ids}), caption=caption, shown=shown)

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

    def sql(self, query: str, params: Any = None, /, **frames: Any) -> Relation:
        """Read-only SQL over the ledger, joined with your own frames by name.

        A name in the query that is a frame (pandas, polars, Arrow, DuckDB, or a result of ``ai.ledger``) where you
        call this is one, too. All tables of the ledger keep their names: ``calls`` is the ledger's, unless you pass
        ``calls=frame``. External access is off: the query reaches no file and no network.

        Raises:
            QueryError: wrong SQL, or SQL that would write.
        """
        _check_query(query)
        named = users_frames.named_in(query, _names_of_caller(), self._tables)
        named.update({name: users_frames.as_arrow(frame) for name, frame in frames.items()})
        return Relation(self._ledger.arrow(query, params, named))

    def select(self, query: str, names: Mapping[str, Any], params: Any = None) -> Relation:
        """As ``sql``, with the frames that `names` holds instead of the caller's."""
        _check_query(query)
        return Relation(self._ledger.arrow(query, params, users_frames.named_in(query, names, self._tables)))

    def _tables(self) -> set[str]:
        """Tables and views of the ledger, those of users' own functions among them."""
        sql = "SELECT table_name FROM duckdb_tables() WHERE NOT internal"
        sql += " UNION SELECT view_name FROM duckdb_views() WHERE NOT internal"
        return {name for (name,) in self._ledger.store.read(sql)}

    # ------------------------------------------------------------------------------------------ export
    def export(
        self,
        path: str | os.PathLike[str],
        query: str | None = None,
        *,
        since: When | None = None,
        model: str | None = None,
        status: str | None = None,
        whole: bool = False,
        overwrite: bool = False,
    ) -> Path:
        """Write recorded calls, or the result of `query`, to a file; gives its path.

        The file's name says its kind: ``.parquet``; ``.csv``, where lists and structs are JSON and bytes base64;
        ``.jsonl``, which is OpenAI's format for fine-tuning chat models, one line for each question that was answered
        well, and whole rows with a `query` or `whole`.

        Args:
            path: relative to the current folder; ``~`` is the home folder.
            query: SQL; default: all calls.
            since: only calls from this instant on: "2026-05-01", a datetime, or an age: "30d", "12h".
            model: only calls of this model; it may be named ``provider:model``.
            status: only calls with this status ("ok", "error" ...).
            whole: rows of ``calls`` in ``.jsonl`` files, too.
            overwrite: replace a file that is there.

        Raises:
            InputError: the file exists, or cannot be written.
            QueryError: wrong SQL.
        """
        return self.write(path, query, since=since, model=model, status=status, whole=whole, overwrite=overwrite).path

    def write(
        self,
        path: str | os.PathLike[str],
        query: str | None = None,
        *,
        since: When | None = None,
        model: str | None = None,
        status: str | None = None,
        whole: bool = False,
        overwrite: bool = False,
    ) -> Written:
        """As ``export``; gives what was written."""
        target = checked(path, self.path, overwrite)
        if query is not None:
            _check_query(query)
            if (since, model, status) != (None, None, None):
                raise InputError("a query chooses its own rows", cure="Leave since, model and status to its WHERE.")
            return write(Relation(self._ledger.arrow(query)).arrow(), target, overwrite)
        examples = target.suffix.lower() == ".jsonl" and not whole
        if examples and status not in (None, "ok"):
            raise InputError(
                f"with status={status!r} there is nothing to learn from", cure="Whole rows: whole=True, or --all."
            )
        _check_status(status)
        moment = None if since is None else instant(since, utc_now(), "since")
        values = {"since": moment, "model": model, "status": "ok" if examples else status}
        sql = _EXAMPLES if examples else _ALL
        return write(Relation(self._ledger.arrow(sql, values)).arrow(), target, overwrite, examples=examples)

    # ------------------------------------------------------------------------------------------ purge
    def purge(
        self,
        request_id: Any = None,
        *,
        before: When | None = None,
        containing: str | None = None,
        conversation: str | None = None,
        everything: bool = False,
    ) -> Purged:
        """Remove content for good, from the file's bytes, too. It asks nothing, and there is no way back.

        Bodies, texts and error messages of calls go, messages, titles and instructions of conversations, documents and
        their summaries, arguments and results of jobs that are over; saved prompts go altogether, but not by their age,
        and so do rows that were kept for batches that are over, all of them with `containing`: they are compressed.
        The other rows stay, with usage, cost, hashes, sizes and outcomes: budgets and ``usage`` stay true. What was
        removed is never replayed. What is under way stays, and so do tables and crons of your own, what notebooks
        show, and copies of the file. Everybody waits while the file is written anew, which takes as much room again.

        Args:
            request_id: the id of a call, its beginning or its end (all its attempts and messages go), or the id of a
                message, conversation, document or job.
            before: rows older than this: "2026-05-01", a datetime (UTC where it does not say), or an age: "30d", "12h".
            containing: rows that contain this text, whatever its case.
            conversation: all of the conversation with this title or id.
            everything: all there is. Of the others, rows go that fit all that are given.

        Returns:
            How many rows lost their content, and what else holds the text.

        Raises:
            InputError: nothing says what to remove, or it is not there.
            StoreError: it could not be done, and the ledger is as it was.
        """
        criteria, seen = removal.purgeable(self._ledger.store, request_id, before, containing, conversation, everything)
        return removal.purge(self._ledger.store, criteria, seen)

    def purgeable(
        self,
        request_id: Any = None,
        *,
        before: When | None = None,
        containing: str | None = None,
        conversation: str | None = None,
        everything: bool = False,
    ) -> Purged:
        """What ``purge`` would take; removes nothing."""
        return removal.purgeable(self._ledger.store, request_id, before, containing, conversation, everything)[1]

    def __repr__(self) -> str:
        methods = ".calls() .call(id) .usage(by=...) .sql('SELECT ...') .export(path) .purge(...)"
        return f"<ledger {self.path}: {methods}>"


_CHOSEN = """
    FROM calls WHERE ($since::TIMESTAMP IS NULL OR sent_at >= $since::TIMESTAMP)
      AND ($status IS NULL OR status = $status)
      AND ($model IS NULL OR $model IN (model, provider || ':' || model))
"""
_ALL = f"SELECT * {_CHOSEN} ORDER BY sent_at, calls.id"
# The newest first: of equal questions it stands for all.
_EXAMPLES = f"SELECT {FINE_TUNING} {_CHOSEN} AND endpoint LIKE '%chat/completions' ORDER BY sent_at DESC, calls.id DESC"


def _check_query(query: Any) -> None:
    if not isinstance(query, str) or not query.strip():
        raise InputError("there is no query", cure='For example: ai.ledger.sql("SELECT * FROM calls").')


def _check_status(status: Any) -> None:
    if status is not None and status not in list(Status):
        raise InputError(f"status={status!r} is not known", cure=f"Use one of {', '.join(Status)}.")


def _names_of_caller() -> Mapping[str, Any]:
    """What the frame that called ``sql`` knows by name."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = frame.f_back if frame is not None else None
    return {} if frame is None else {**frame.f_globals, **frame.f_locals}
