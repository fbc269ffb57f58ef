"""Limits and budgets of the open ledger: judged in memory by the writer, in the step that writes the intent. Floor 1.

Calls ``limits``. Everything here runs in the writer's thread, in line with all commits. Promises: a refused intent
leaves no row; what is counted is what the file says, so a keeper that is killed does not open the gate; without
limits it costs next to nothing. What travels beside a row (an insert's note):

    of requests:  {"waits": bool, "slack": s, "batched": bool} how it asks; {"judged": False} never sent, or no model's
                  to answer; {"withdraw": id} waits no more
    of responses: {"where": (provider, base URL, model), "said": text, "pause": s, "by": id} what the provider said
"""

from __future__ import annotations

import collections
import contextlib
import datetime
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import duckdb

from ipyconvexai import errors
from ipyconvexai.limits.counters import BATCH_MEMORY, slack_of
from ipyconvexai.limits.definitions import Asked, Definition
from ipyconvexai.limits.gate import Admitted, Gate, Past, Refused, usd_units
from ipyconvexai.store import faults
from ipyconvexai.store.clock import Clock, SteadyClock
from ipyconvexai.store.database import Database

__all__ = ["Admission"]

DAY = 86400.0
MOST_EARLY = 1000


class _Insert(Protocol):
    @property
    def table(self) -> str: ...
    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def rows(self) -> list[tuple[Any, ...]]: ...
    @property
    def note(self) -> Any: ...


class Admission:
    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SteadyClock()
        self._gate = Gate()
        self._stale = True  # the definitions may have changed
        self._known: list[tuple[str, str]] = []  # names and definitions as they were read
        self._unreadable: list[str] = []
        # Two messages of one process may overtake each other: outcomes that came before their intents.
        self._early: collections.OrderedDict[str, None] = collections.OrderedDict()

    @property
    def limited(self) -> bool:
        """Whether there is anything to judge a call by, as far as is known."""
        return not self._gate.is_open

    def look_again(self) -> None:
        """The table `limits` may have changed, or somebody may have had the file open meanwhile."""
        self._stale = True

    # ------------------------------------------------------------------------------------------ the way of a call
    def judge(self, inserts: Sequence[_Insert]) -> dict[int, errors.Error]:
        """Numbers of the inserts that must not be written, with the reason. What is not named is counted by now."""
        if not self._stale and self._gate.is_open:
            return {}
        numbers = [number for number, insert in enumerate(inserts) if insert.table == "requests"]
        if not numbers:
            return self._orphans(inserts)
        try:
            self._refresh()
        except Exception as error:
            wrong = faults.translate(error, self._database.path)
            return dict.fromkeys(numbers, wrong)
        if self._gate.is_open:
            return {}
        now = self._clock()
        found = ((number, self._judge(inserts[number], now)) for number in numbers)
        return {number: error for number, error in found if error is not None} | self._orphans(inserts)

    def _orphans(self, inserts: Sequence[_Insert]) -> dict[int, errors.Error]:
        """Outcomes of calls that were given up while they asked, and whose intents were refused: no rows at all."""
        gone = {
            number: str(insert.rows[0][0])
            for number, insert in enumerate(inserts)
            if insert.table == "responses" and insert.rows and self._gate.waits(str(insert.rows[0][0]))
        }
        for request_id in gone.values():
            self._gate.withdraw(request_id)
        return {number: errors.LimitError("its intent was refused") for number in gone}

    def _judge(self, insert: _Insert, now: float) -> errors.Error | None:
        note = insert.note or {}
        if "withdraw" in note:
            self._gate.withdraw(note["withdraw"])
        if note.get("judged") is False:
            for row in insert.rows:
                self._gate.withdraw(str(row[0]))
            return None
        admitted: list[str] = []
        for call in _asked(insert, note):
            if call.request_id in self._early:
                continue
            answer = self._gate.judge(call, now)
            if isinstance(answer, Refused):
                for other in admitted:  # rows of one insert are written together or not at all
                    self._gate.cancel(other, now)
                return _error(answer)
            assert isinstance(answer, Admitted)
            admitted.append(call.request_id)
        return None

    def written(self, inserts: Sequence[_Insert], outcomes: Sequence[errors.Error | None]) -> None:
        """Which of the judged inserts are durable, and which are not."""
        for insert, error in zip(inserts, outcomes, strict=True):
            if insert.table == "responses":
                if insert.note:
                    self._hear(insert.note)
                if error is None and not self._gate.is_open:
                    self._settle(insert)
            elif insert.table == "requests" and error is not None and not isinstance(error, errors.LimitError):
                for row in insert.rows:
                    self._gate.cancel(str(row[0]), self._clock())

    def _settle(self, insert: _Insert) -> None:
        now = self._clock()
        for row in insert.rows:
            outcome = dict(zip(insert.columns, row, strict=False))
            request_id = str(outcome["request_id"])
            if not self._gate.holds(request_id):
                self._early[request_id] = None
                if len(self._early) > MOST_EARLY:
                    self._early.popitem(last=False)
            elif outcome.get("error_code") == "not_sent" or outcome.get("status") == "refused":
                self._gate.cancel(request_id, now)
            else:
                tokens, usd = _used(outcome)
                self._gate.settle(request_id, tokens, usd, now)

    def unknown(self, requests: Iterable[str]) -> None:
        """The processes of these calls have ended. They keep what was estimated, and are no longer under way."""
        now = self._clock()
        for request_id in requests:
            self._gate.settle(request_id, None, None, now, final=False)

    def _hear(self, note: dict[str, Any]) -> None:
        where, now = tuple(note["where"]), self._clock()
        if note.get("said"):
            self._gate.say(where, note["said"], now)
        if note.get("pause"):
            self._gate.pause(where, note["pause"], note.get("by"), now)

    # ------------------------------------------------------------------------------------------ shown
    def rows(self) -> list[tuple[Any, ...]]:
        """As ``LimitRow``."""
        self._refresh()
        rows = [(r.name, r.what, r.scope, r.used, r.left, r.waiting, r.next_free, r.said)
                for r in self._gate.rows(self._clock())]  # fmt: skip
        return rows + [(name, "cannot be read", "", "", "", 0, None, "") for name in self._unreadable]

    # ------------------------------------------------------------------------------------------ what the file says
    def _refresh(self) -> None:
        """Read the definitions if they may have changed, and if they have, what is used of them."""
        if not self._stale:
            return
        with self._database.cursor() as cursor:
            known = cursor.execute("SELECT name, definition FROM limits ORDER BY created_at, name").fetchall()
            if known != self._known:
                self._define(cursor, known)
        self._known, self._stale = known, False

    def _define(self, cursor: duckdb.DuckDBPyConnection, known: list[tuple[str, str]]) -> None:
        definitions, self._unreadable = [], []
        for name, text in known:
            try:
                definitions.append(Definition.from_json(name, text))
            except (ValueError, TypeError, KeyError, AttributeError):
                self._unreadable.append(name)
        now = self._clock()
        self._gate.define(definitions, (), now)
        if definitions:
            self._set_clock(cursor)
            behind = self._clock.behind()  # rows are dated by the machine's clock, and somebody may have set it
            self._gate.define(definitions, self._past(cursor, now, behind), now, behind)

    def _set_clock(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """How the machine's clock was set is kept in the file, as a comment on a table that only migrations write."""
        with contextlib.suppress(duckdb.Error):  # a full disk, say, is told where rows are written
            (kept,) = cursor.execute(_CLOCK).fetchall()[0]
            now = self._clock.compare(kept, self._gate.longest_window)
            if now != kept:
                cursor.execute(f"COMMENT ON TABLE schema_migrations IS '{now}'")

    def _past(self, cursor: duckdb.DuckDBPyConnection, now: float, behind: float) -> Iterator[Past]:
        window = self._gate.longest_window
        single = now - window - 2 * slack_of(window) - behind  # from here on call by call
        if self._gate.needs_sums:
            sums = cursor.execute(_SUMS, [_instant(now - BATCH_MEMORY), _instant(single)]).fetchall()
            for provider, model, user, batch, batched, at, tokens, usd, count in sums:
                call = Asked("", provider, "", model, user, batch, batched=batched)
                yield Past(call, at, at, tokens, usd_units(usd) or 0, count)
        for row in cursor.execute(_SINGLE, [_instant(single), _instant(now - DAY)]).fetchall():
            request_id, provider, base_url, model, user, batch, batched, at, until, tokens, usd = row
            call = Asked(request_id, provider, base_url, model, user, batch, batched=batched)
            yield Past(call, at, until, tokens, usd_units(usd) or 0)


_CLOCK = "SELECT comment FROM duckdb_tables() WHERE table_name = 'schema_migrations' AND NOT internal"
_USED = """
    CASE WHEN s.input_tokens IS NOT NULL OR s.output_tokens IS NOT NULL
              THEN coalesce(s.input_tokens, 0) + coalesce(s.output_tokens, 0)
         WHEN s.http_status >= 400 THEN 0 ELSE coalesce(r.reserved_tokens, 0) END AS tokens,
    coalesce(s.cost_usd, CASE WHEN s.http_status >= 400 THEN 0 ELSE r.reserved_usd END, 0) AS usd
"""
_SENT = """
    coalesce(s.status, '') <> 'refused' AND coalesce(s.error_code, '') <> 'not_sent'
    AND split_part(r.endpoint, '/', 1) NOT IN ('files', 'batches', 'uploads')
"""
_BATCHED = "r.session_id IN (SELECT id FROM provider_batches)"
_SINGLE = f"""
    SELECT r.id::VARCHAR, coalesce(r.provider, ''), coalesce(r.base_url, ''), coalesce(r.model, ''),
           coalesce(r.user_id, ''), r.batch_id::VARCHAR, {_BATCHED}, epoch(r.sent_at), epoch(s.received_at), {_USED}
    FROM requests r LEFT JOIN responses s ON s.request_id = r.id
    WHERE (r.sent_at > $1 OR (s.request_id IS NULL AND r.sent_at > $2)) AND {_SENT}
    ORDER BY r.sent_at
"""
_SUMS = f"""
    SELECT provider, model, user_id, batch, batched, max(moment), sum(tokens)::BIGINT, sum(usd), count(*) FROM (
        SELECT coalesce(r.provider, '') AS provider, coalesce(r.model, '') AS model, coalesce(r.user_id, '') AS user_id,
               r.batch_id::VARCHAR AS batch, {_BATCHED} AS batched, epoch(r.sent_at) AS moment, {_USED}
        FROM requests r JOIN responses s ON s.request_id = r.id
        WHERE r.sent_at > $1 AND r.sent_at <= $2 AND {_SENT}
    ) GROUP BY provider, model, user_id, batch, batched, moment // 3600
"""


def _instant(seconds: float) -> datetime.datetime:
    """As the file has them: UTC, naive."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).replace(tzinfo=None)


def _asked(insert: _Insert, note: dict[str, Any]) -> Iterator[Asked]:
    for row in insert.rows:
        said = dict(zip(insert.columns, row, strict=False))
        batch, first = said.get("batch_id"), said.get("retry_of")
        yield Asked(
            request_id=str(said["id"]),
            provider=said.get("provider") or "",
            base_url=said.get("base_url") or "",
            model=said.get("model") or "",
            user=said.get("user_id") or "",
            batch=None if batch is None else str(batch),
            tokens=said.get("reserved_tokens"),
            usd=usd_units(said.get("reserved_usd")),
            waits=bool(note.get("waits", True)),
            slack=float(note.get("slack", 0.0)),
            call_id=None if first is None else str(first),
            batched=bool(note.get("batched")),
        )


def _used(outcome: dict[str, Any]) -> tuple[int | None, int | None]:
    """Tokens and money of an outcome; None: as was estimated. An answer that is an error costs nothing."""
    read, written = outcome.get("input_tokens"), outcome.get("output_tokens")
    failed = (outcome.get("http_status") or 0) >= 400
    tokens = (read or 0) + (written or 0) if read is not None or written is not None else 0 if failed else None
    cost = outcome.get("cost_usd")
    return tokens, usd_units(cost) if cost is not None else 0 if failed else None


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{max(seconds, 0.1):.1f} s"


def _error(refused: Refused) -> errors.LimitError:
    name, after = refused.name, refused.retry_after
    kind, word = (errors.BudgetError, "budget") if refused.of_budget else (errors.LimitError, "limit")
    remove = f'ai.app().unlimit("{name}") removes it'
    if refused.kind == "provider":
        return errors.LimitError(
            refused.why, cure="Wait, or use another model.", code="provider_pause", retry_after=after
        )
    if refused.kind == "estimate":
        return kind(f"{word} {name}: {refused.why}", code="estimate", retry_after=after)
    if refused.kind == "never":
        cure = f"Shorten it, or allow more; {remove}."
        return kind(f"{word} {name}: {refused.why}", cure=cure, code="never_fits", retryable=False)
    if refused.kind == "price":
        cure = f"Give the budget a provider= or model= that leaves this one out, or count tokens instead; {remove}."
        return errors.BudgetError(f"budget {name}: {refused.why}", cure=cure, code="price_unknown", retryable=False)
    state = (
        "is reached" if refused.kind == "limit" else "is spent" if refused.spent else "is reserved by calls under way"
    )
    when = "Allow more; " if after is None else f"It is free again in about {_seconds(after)}; "
    message = f"{refused.kind} {name} ({refused.why}) {state}"
    return kind(message, cure=f"{when}{remove}.", retryable=after is not None, retry_after=after)
