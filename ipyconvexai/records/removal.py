"""What a purge is asked for and what it took: checked words in, a summary out. Calls the store."""

from __future__ import annotations

import datetime
import uuid
from dataclasses import dataclass, field
from typing import Any

from ipyconvexai.errors import InputError
from ipyconvexai.records.searching import find_call
from ipyconvexai.records.words import When, instant
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.link import Store
from ipyconvexai.store.purging import DELETED, REMOVED, Criteria, Kind, found, spellings

__all__ = ["Purged", "purge", "purgeable"]

_KINDS = ("calls", "messages", "conversations", "documents", "batches", "jobs", "prompts", "frames")
_ONE = {"batches": "batch"}
_EXAMPLE = 'For example: purge(before="30d") or purge(containing="a name").'


@dataclass(frozen=True)
class Purged:
    """Rows whose content a purge takes, or took. ``int()`` gives their number.

    Attributes:
        calls, messages, conversations, documents, batches, jobs, prompts: how many of each.
        frames: rows that were kept for batches that are over by now. They are compressed: `containing` takes all.
        oldest, newest: when they were made, UTC.
        under_way: rows that fit and stay, because they are not over.
        elsewhere: where else the text stands, which a purge does not touch: table -> rows. Tables of your own, crons.
    """

    calls: int = 0
    messages: int = 0
    conversations: int = 0
    documents: int = 0
    batches: int = 0
    jobs: int = 0
    prompts: int = 0
    frames: int = 0
    oldest: datetime.datetime | None = None
    newest: datetime.datetime | None = None
    under_way: int = 0
    elsewhere: dict[str, int] = field(default_factory=dict)

    def __int__(self) -> int:
        return sum(getattr(self, kind) for kind in _KINDS)

    def __bool__(self) -> bool:
        return int(self) > 0

    def __str__(self) -> str:
        counted = [(kind, getattr(self, kind)) for kind in _KINDS]
        parts = [
            f"{number:,} {_ONE.get(kind, kind[:-1]) if number == 1 else kind}" for kind, number in counted if number
        ]
        if not parts or self.oldest is None or self.newest is None:
            return "nothing"
        return f"{', '.join(parts)}, of {self.oldest:%Y-%m-%d %H:%M} to {self.newest:%Y-%m-%d %H:%M} UTC"


def purgeable(
    store: Store,
    row: Any = None,
    before: When | None = None,
    containing: str | None = None,
    conversation: str | None = None,
    everything: bool = False,
) -> tuple[Criteria, Purged]:
    """What such a purge would take.

    Raises:
        InputError: nothing is asked for, or what is asked for is not there.
    """
    given = [word for word in (row, before, containing, conversation) if word is not None]
    if not given and not everything:
        raise InputError("nothing says what to remove", cure=f"{_EXAMPLE} All of it: purge(everything=True).")
    if given and everything:
        raise InputError("everything=True goes alone", cure=_EXAMPLE)
    criteria = Criteria(
        row=None if row is None else _known(store, row),
        before=None if before is None else instant(before, utc_now(), "before"),
        spellings=None if containing is None else spellings(_text(containing)),
        conversations=None if conversation is None else _conversations(store, conversation),
    )
    kinds = [Kind(*kind) for kind in store.read(*found(criteria))]
    return criteria, summary(kinds, elsewhere(store, criteria))


def purge(store: Store, criteria: Criteria, seen: Purged) -> Purged:
    """Remove it; `seen` is what ``purgeable`` said."""
    done = summary(store.purge(criteria), seen.elsewhere, seen.under_way)
    # Where the keeper was killed right after it, the next one found nothing left to do.
    return done if int(done) >= int(seen) else seen


def summary(kinds: list[Kind], others: dict[str, int], under_way: int = 0) -> Purged:
    over = [kind for kind in kinds if not kind.open]
    return Purged(
        **{kind.kind: kind.rows for kind in over},
        oldest=min((kind.oldest for kind in over if kind.oldest), default=None),
        newest=max((kind.newest for kind in over if kind.newest), default=None),
        under_way=under_way + sum(kind.rows for kind in kinds if kind.open),
        elsewhere=others,
    )


def elsewhere(store: Store, criteria: Criteria) -> dict[str, int]:
    """Tables that hold the text and that a purge does not touch, with how many of their rows do."""
    if criteria.spellings is None:
        return {}
    tests: dict[str, list[str]] = {}
    for table, column in store.read(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE schema_name = 'main' AND NOT internal"
        " AND (data_type LIKE '%VARCHAR%' OR data_type IN ('JSON', 'VARIANT')) AND table_name IN (FROM (SELECT"
        " table_name FROM duckdb_tables() WHERE NOT internal))"
    ):
        if table not in REMOVED and table not in DELETED:
            holds = [f"contains(lower({_named(column)}::VARCHAR), ?)"] * len(criteria.spellings)
            tests.setdefault(table, []).extend(holds)
    counts = {}
    for table, holds in tests.items():
        values = list(criteria.spellings) * (len(holds) // len(criteria.spellings))
        counts[table] = store.read(f"SELECT count(*) FROM {_named(table)} WHERE {' OR '.join(holds)}", values)[0][0]
    return {table: count for table, count in sorted(counts.items()) if count}


def _named(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(containing: Any) -> str:
    if not isinstance(containing, str) or not containing.strip():
        raise InputError("containing= wants a text", cure='For example: containing="a name".')
    try:
        containing.encode()
    except UnicodeError:
        raise InputError("containing= is no proper text", cure="Use another part of it.") from None
    return containing


_SOMEWHERE = " UNION ALL ".join(
    f"SELECT 1 FROM {table} WHERE {key} = $row::UUID" for table, (key, _, _) in REMOVED.items() if table != "responses"
)


def _known(store: Store, row: Any) -> str:
    """The id of the row; of a call a part of it will do."""
    try:
        known = str(uuid.UUID(str(row)))
    except ValueError:
        return find_call(store, row)
    if not store.read(_SOMEWHERE, {"row": known}):
        raise InputError(f"the ledger has no row {known}", cure="`%ai log` and ai.ledger.calls() show ids of calls.")
    return known


def _conversations(store: Store, name: Any) -> tuple[str, ...]:
    if not isinstance(name, str):
        raise InputError(f"conversation={name!r} is no title", cure="`%ai conversations` shows the titles.")
    sql = "SELECT id::VARCHAR FROM conversations WHERE title = $name OR id::VARCHAR = lower($name)"
    ids = tuple(row[0] for row in store.read(sql, {"name": name}))
    if not ids:
        raise InputError(f"there is no conversation {name!r}", cure="`%ai conversations` shows the titles.")
    return ids
