"""The one writer: a thread through which every change of the database goes.

Calls ``database``, ``turn``, ``admission`` and ``faults``. Promises: rows that wait together are committed together
(group commit over an open appender); nobody is told before the commit is durable; a bad row fails alone; a transaction
has the writer to itself. One writer for everything makes mutations serialisable: DuckDB alone gives snapshot isolation.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import duckdb

from ipyconvexai import errors
from ipyconvexai.crashpoints import passing
from ipyconvexai.store import faults
from ipyconvexai.store.admission import Admission
from ipyconvexai.store.database import IDLE_CLOSE, Database
from ipyconvexai.store.turn import Turn, explained

__all__ = ["Alone", "Insert", "Work", "Write", "Writer"]

GROUP_ROWS = 512  # rows in one commit at most
GROUP_TURNS = 32  # transactions in one commit at most


class Insert(NamedTuple):
    """Rows for one table. The first column is its key, a UUID: by it a repeated row is recognised."""

    table: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    if_new: bool = False  # leave out rows whose key is there already, without an error
    note: Any = None  # for ``admission``, and not written


Outcomes = list[errors.Error | None]


@dataclass(slots=True)
class Write:
    """Inserts of one client message; each has its own outcome (None, or the error)."""

    inserts: list[Insert]
    again: bool = False  # sent once before to a keeper that died: its rows may be there
    outcome: Future[Outcomes] = field(default_factory=Future)


@dataclass(slots=True)
class Work:
    """A function that runs in the writer in one transaction of its own."""

    run: Callable[[duckdb.DuckDBPyConnection], Any]
    tables: frozenset[str] = frozenset()
    outcome: Future[Any] = field(default_factory=Future)


@dataclass(slots=True)
class Alone:
    """A function that runs in the writer while nothing of it has the file open."""

    run: Callable[[], Any]
    tables: frozenset[str] = frozenset()
    outcome: Future[Any] = field(default_factory=Future)


Job = Write | Work | Alone | Turn


class Writer:
    """`tell` is given the names of the tables a commit changed."""

    def __init__(self, database: Database, tell: Callable[[set[str]], None], admission: Admission) -> None:
        self._database = database
        self._admission = admission
        self._tell = tell
        self._gate = threading.Lock()
        self._closed = False
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self._generation = -1
        self._appenders: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._thread = threading.Thread(target=self._run, name="ipyconvexai-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        with self._gate:
            if self._closed:
                raise errors.ClosedError()
            self._jobs.put(job)

    def close(self) -> None:
        """Finish what is queued, then close the file. Exiting with a live appender would print leak reports."""
        with self._gate:
            self._closed = True
            self._jobs.put(None)
        self._thread.join()

    # ------------------------------------------------------------------------------------------ the thread
    def _run(self) -> None:
        job: Job | None = None
        while True:
            try:
                job = job or self._jobs.get(timeout=IDLE_CLOSE / 4)
            except queue.Empty:
                self._release_if_idle()
                continue
            if job is None:
                break
            if isinstance(job, Write):
                group, job = self._gather(job)
                self._commit(group)
                continue
            if isinstance(job, Work):
                self._work(job)
            elif isinstance(job, Alone):
                self._leave_alone(job)
            elif job.closed:
                turns, job = self._gather_turns(job)
                self._take_together(turns)
                continue
            else:
                self._take_turn(job)
            job = None
        self._drop_cursor()
        self._database.close()

    def _gather(self, first: Write) -> tuple[list[Write], Job | None]:
        """What waits behind `first` and can be committed with it; the job that cannot."""
        group, size = [first], sum(len(insert.rows) for insert in first.inserts)
        with contextlib.suppress(queue.Empty):
            while size < GROUP_ROWS:
                job = self._jobs.get_nowait()
                if not isinstance(job, Write):
                    if job is None:  # the end, and nothing comes after it
                        self._jobs.put(None)
                    return group, job
                group.append(job)
                size += sum(len(insert.rows) for insert in job.inserts)
        return group, None

    def _gather_turns(self, first: Turn) -> tuple[list[Turn], Job | None]:
        """The same for turns that are known to their end."""
        turns = [first]
        with contextlib.suppress(queue.Empty):
            while len(turns) < GROUP_TURNS:
                job = self._jobs.get_nowait()
                if not isinstance(job, Turn) or not job.closed:
                    if job is None:
                        self._jobs.put(None)
                    return turns, job
                turns.append(job)
        return turns, None

    def _release_if_idle(self) -> None:
        if self._database.is_idle():
            with contextlib.suppress(Exception):  # tried again in a moment; what is wrong shows itself at the next use
                self._drop_cursor()  # it would keep the file open
                self._database.close_if_idle()

    def _drop_cursor(self) -> None:
        self._appenders = {}
        self._admission.look_again()
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None

    def _ready(self, connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
        if self._cursor is None or self._generation != self._database.generation:
            self._appenders = {}
            self._cursor = connection.cursor()
            self._generation = self._database.generation
        return self._cursor

    def _start_afresh(self) -> None:
        self._drop_cursor()
        self._database.discard(self._generation)

    def _mind_damage(self, error: BaseException) -> None:
        if faults.is_damage(error, self._database.path):
            self._database.leave_as_it_is(self._generation)

    # ------------------------------------------------------------------------------------------ group commit
    def _commit(self, group: list[Write]) -> None:
        inserts = [insert for write in group for insert in write.inserts]
        try:
            outcomes = self._admit_and_commit(inserts, any(write.again for write in group))
        except Exception as error:  # nobody foresaw it, and nobody must wait for ever
            outcomes = [faults.translate(error, self._database.path)] * len(inserts)
        for write in group:
            write.outcome.set_result(outcomes[: len(write.inserts)])
            del outcomes[: len(write.inserts)]

    def _admit_and_commit(self, inserts: list[Insert], again: bool) -> Outcomes:
        refused = self._admission.judge(inserts)
        if refused:
            admitted = [insert for number, insert in enumerate(inserts) if number not in refused]
            written = iter(self._commit_all(admitted, again) if admitted else [])
            outcomes = [refused[number] if number in refused else next(written) for number in range(len(inserts))]
        else:
            outcomes = self._commit_all(inserts, again)
        self._admission.written(inserts, outcomes)
        return outcomes

    def _commit_all(self, inserts: list[Insert], again: bool) -> Outcomes:
        """Commit together; where that fails, by halves, so that only the guilty one fails."""
        error = self._try(inserts, again)
        if error is None:
            self._tell({insert.table for insert in inserts})
        elif len(inserts) > 1 and not faults.concerns_file(error):
            middle = len(inserts) // 2
            return self._commit_all(inserts[:middle], again=True) + self._commit_all(inserts[middle:], again=True)
        elif len(inserts) == 1 and not faults.concerns_file(error):
            if not again:  # its key may be there, as one that was given up as unknown
                return self._commit_all(inserts, again=True)
            if (mended := _mended(inserts[0])) is not None:
                return self._commit_all([mended], again=True)
        return [error] * len(inserts)

    def _try(self, inserts: list[Insert], again: bool) -> errors.Error | None:
        try:
            try:
                self._insert_all(inserts, again)
            except duckdb.Error as error:
                if not faults.is_fatal(error):
                    raise
                self._start_afresh()
                self._insert_all(inserts, again=True)  # it may have been committed before the file was given up
        except BaseException as error:
            self._mind_damage(error)
            if faults.is_fatal(error):
                self._start_afresh()
            return faults.translate(error, self._database.path)
        return None

    def _insert_all(self, inserts: list[Insert], again: bool) -> None:
        with self._database.connection(writing=True) as connection:
            cursor = self._ready(connection)
            cursor.begin()
            try:
                for (table, columns), rows in self._by_table(cursor, inserts, again).items():
                    appender = self._appender(cursor, table, columns)
                    appender.append_rows(rows)
                    appender.flush()
                passing("before_commit")
                cursor.commit()
            except BaseException:
                self._roll_back(cursor)
                raise
        passing("after_commit")
        self._database.check_place(writing=True)

    def _by_table(
        self, cursor: duckdb.DuckDBPyConnection, inserts: Iterable[Insert], again: bool
    ) -> dict[tuple[str, tuple[str, ...]], list[tuple[Any, ...]]]:
        groups: dict[tuple[str, tuple[str, ...]], list[tuple[Any, ...]]] = {}
        for insert in inserts:
            rows = groups.setdefault((insert.table, tuple(insert.columns)), [])
            if again or insert.if_new:
                rows += _new_rows(cursor, insert, taken={str(row[0]) for row in rows})
            else:
                rows += insert.rows
        return {key: rows for key, rows in groups.items() if rows}

    def _appender(self, cursor: duckdb.DuckDBPyConnection, table: str, columns: tuple[str, ...]) -> Any:
        # Kept open: opening one costs 5-8 ms.
        appender = self._appenders.get((table, columns))
        if appender is None:
            appender = cursor.appender(table, columns=list(columns))
            self._appenders[table, columns] = appender
        return appender

    def _roll_back(self, cursor: duckdb.DuckDBPyConnection) -> None:
        for appender in self._appenders.values():
            with contextlib.suppress(duckdb.Error):
                appender.clear()
        self._appenders = {}
        try:
            cursor.rollback()
        except duckdb.Error:  # a failed commit has already ended it; if not, a new cursor is out of it, too
            self._drop_cursor()

    # ------------------------------------------------------------------------------------------ work and turns
    def _work(self, job: Work) -> None:
        try:
            with self._database.connection(writing=True) as connection:
                cursor = self._ready(connection)
                cursor.begin()
                try:
                    result = job.run(cursor)
                    passing("before_commit")
                    cursor.commit()
                except BaseException:
                    self._roll_back(cursor)
                    raise
            passing("after_commit")
            self._database.check_place(writing=True)
        except BaseException as error:
            self._mind_damage(error)
            if faults.is_fatal(error):
                self._start_afresh()
            job.outcome.set_exception(faults.translate(error, self._database.path))
        else:
            self._tell(set(job.tables))
            job.outcome.set_result(result)

    def _leave_alone(self, job: Alone) -> None:
        self._drop_cursor()
        try:
            result = job.run()
        except BaseException as error:
            job.outcome.set_exception(faults.translate(error, self._database.path))
        else:
            self._tell(set(job.tables))
            job.outcome.set_result(result)

    def _take_together(self, turns: list[Turn]) -> None:
        """Closed turns one after another in one transaction with one commit; where that fails, each alone."""
        error = self._try_together(turns) if len(turns) > 1 else None
        if len(turns) == 1 or (error is not None and not faults.is_fatal(error)):
            for turn in turns:
                self._take_turn(turn)
            return
        for turn in turns:
            if error is None:
                turn.conclude()
            else:  # it may have been committed: not again
                turn.fail(explained(error, self._database.path))
            turn.refuse_rest()
        if error is None:
            self._tell(set().union(*(turn.changed for turn in turns)))

    def _try_together(self, turns: list[Turn]) -> BaseException | None:
        try:
            with self._database.connection(writing=True) as connection:
                cursor = self._ready(connection)
                cursor.begin()
                try:
                    for turn in turns:
                        turn.run_uncommitted(cursor)
                    passing("before_commit")
                    cursor.commit()
                except BaseException:
                    self._roll_back(cursor)
                    raise
            passing("after_commit")
            self._database.check_place(writing=True)
        except BaseException as error:
            if faults.is_fatal(error):
                self._start_afresh()
            return error
        return None

    def _take_turn(self, turn: Turn) -> None:
        committed = False
        try:
            with self._database.connection(writing=True) as connection:
                committed = turn.run(self._ready(connection), self._database.path)
        except BaseException as error:  # opening the file failed, or it was given up
            if not turn.started.done():
                turn.started.set_exception(faults.translate(error, self._database.path))
            if faults.is_fatal(error):
                self._start_afresh()
        finally:
            turn.refuse_rest()
        if committed:
            self._tell(turn.changed)


def _new_rows(cursor: duckdb.DuckDBPyConnection, insert: Insert, taken: set[str]) -> Sequence[tuple[Any, ...]]:
    """The rows of `insert` whose key is neither in the table nor in `taken`.

    An outcome that was given up as ``unknown`` while its process still lived makes way for the real one.
    """
    key, keys = insert.columns[0], [str(row[0]) for row in insert.rows]
    if insert.table == "responses":
        cursor.execute(
            "DELETE FROM responses WHERE status = 'unknown' AND request_id IN (SELECT unnest(?::UUID[]))", [keys]
        )
    known = cursor.execute(
        f'SELECT "{key}"::VARCHAR FROM "{insert.table}" WHERE "{key}" IN (SELECT unnest(?::UUID[]))', [keys]
    ).fetchall()
    seen = taken | {row[0] for row in known}
    fresh = []
    for row in insert.rows:
        if str(row[0]) not in seen:
            seen.add(str(row[0]))
            fresh.append(row)
    return fresh


def _mended(insert: Insert) -> Insert | None:
    """`insert` with half characters (lone surrogates, as a stream that splits an emoji has them) as question marks.

    None when it has none. What was paid for must not be lost for one of them.
    """
    try:
        rows = [tuple(_valid_text(value) for value in row) for row in insert.rows]
        return insert._replace(rows=rows) if rows != [tuple(row) for row in insert.rows] else None
    except Exception:  # not even rows
        return None


def _valid_text(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
