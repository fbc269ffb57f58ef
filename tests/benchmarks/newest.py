"""The newest 50 messages of one conversation out of a million, through a query; and after the file was closed.

Ten thousand conversations as they grow: four messages of five go to one of those that are active, the fifth to an older
one that is taken up again; one conversation is very long. The baseline is DuckDB on the same file: a plain WHERE,
ORDER BY and LIMIT.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.measuring import Figure, in_child, keeper_cpu

MESSAGES = 1_000_000
CONVERSATIONS = 10_000
ACTIVE = 200  # conversations at a time
WARM_UP = 10
CALLS = 150
LEFT_ALONE = 3.0  # seconds after which the keeper has closed the file
REOPENINGS = 2
TAKEN = 50


def conversation(number: int) -> str:
    """The id of a conversation, in the layout of ``ids.new_id``: table 1."""
    return f"01990000-{number:04x}-8000-8001-{number:012x}"


LONG = [conversation(0)] * (WARM_UP + 10)


def fill(path: str) -> float:
    """Makes the file; gives the seconds that it took."""
    import duckdb

    from ipyconvexai.store.migrations import migrate

    begun = time.perf_counter()
    connection = duckdb.connect(path)
    migrate(connection, path)
    each = MESSAGES // CONVERSATIONS
    connection.execute(
        f"""
        INSERT INTO conversations (id, created_at, title)
        SELECT printf('01990000-%04x-8000-8001-%012x', i, i)::UUID,
               TIMESTAMP '2026-01-01' + to_milliseconds(i * {each} * 1000), 'conversation ' || i
        FROM range({CONVERSATIONS}) t(i)
        """
    )
    # Table 2; random bits in the tail, as ids have. hash() gives the same in every run.
    connection.execute(
        f"""
        INSERT INTO messages (id, created_at, conversation_id, role, content, status)
        SELECT printf('0199%04x-%04x-8%03x-8002-%012x', i // 65536, i % 65536, h % 4096, h % 281474976710656)::UUID,
               TIMESTAMP '2026-01-01' + to_milliseconds(i * 1000),
               printf('01990000-%04x-8000-8001-%012x', c, c)::UUID,
               if(h % 2 = 0, 'user', 'assistant'),
               md5(i::VARCHAR) || repeat(' The sky is blue because of ' || h % 1000, (1 + h % 8)::INTEGER), 'done'
        FROM (
            SELECT i, h, if(h % 5 > 0, greatest(0, i // {each} - (h // 5) % {ACTIVE}),
                            (h // 5) % (i // {each} + 1))::INTEGER AS c
            FROM (SELECT i, (hash(i) >> 2)::BIGINT AS h FROM range({MESSAGES}) t(i))
        )
        """
    )
    connection.execute("CHECKPOINT")
    connection.close()
    return time.perf_counter() - begun


def _some() -> list[str]:
    """The same conversations for both."""
    chosen = random.Random(1).sample(range(CONVERSATIONS - ACTIVE), WARM_UP + CALLS)
    return [conversation(number) for number in chosen]


def _timed(look: Callable[[str], list[Any]], keys: list[str]) -> list[float]:
    """Milliseconds of each."""
    taken = []
    for number, key in enumerate(keys):
        begun = time.perf_counter()
        found = look(key)
        if number >= WARM_UP:
            taken.append((time.perf_counter() - begun) * 1000)
        if len(found) != TAKEN:
            raise RuntimeError(f"{len(found)} messages of {key}")
    return taken


def plain(path: str) -> dict[str, float]:
    """DuckDB, in this process."""
    import duckdb

    sql = f"SELECT * FROM messages WHERE conversation_id = ?::UUID ORDER BY created_at DESC, id DESC LIMIT {TAKEN}"
    connection = duckdb.connect(path)

    def look(key: str) -> list[Any]:
        return connection.execute(sql, [key]).fetchall()

    begun = time.process_time()
    taken = _timed(look, _some())
    cpu = time.process_time() - begun
    return {
        "wall": statistics.median(taken),
        "cpu": cpu * 1000 / (WARM_UP + CALLS),
        "long": statistics.median(_timed(look, LONG)),
    }


def package(path: str) -> dict[str, float]:
    """Through ``ai.run``; `cpu` is of both processes, `again` the first query after the file was closed."""
    import ipyconvexai as ai
    from tests.benchmarks.notes import newest

    def look(key: str) -> list[Any]:
        found: list[Any] = ai.run(newest, conversation_id=key)
        return found

    with ai.connect(path):
        look(conversation(1))  # the keeper starts
        begun, keeper = time.process_time(), keeper_cpu()
        taken = _timed(look, _some())
        cpu = time.process_time() - begun + keeper_cpu() - keeper
        long = _timed(look, LONG)
        again = []
        for key in _some()[:REOPENINGS]:
            time.sleep(LEFT_ALONE)
            since = time.perf_counter()
            look(key)
            again.append((time.perf_counter() - since) * 1000)
    return {
        "wall": statistics.median(taken),
        "p95": statistics.quantiles(taken, n=20)[18],
        "cpu": cpu * 1000 / (WARM_UP + CALLS),
        "long": statistics.median(long),
        "again": statistics.median(again),
    }


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/ledger.duckdb"
        in_child(fill, path=path)
        base = in_child(plain, path=path)
        ours = in_child(package, path=path)
    return [
        Figure(f"newest {TAKEN} of a conversation in {MESSAGES:,} messages", ours["wall"], "ms", at_most=5,
               ratio=ours["wall"] / base["wall"], baseline="WHERE ORDER BY LIMIT in DuckDB"),
        Figure("  95th percentile", ours["p95"], "ms"),
        Figure("  CPU, this process and the keeper", ours["cpu"], "ms",
               ratio=ours["cpu"] / base["cpu"], baseline="WHERE ORDER BY LIMIT in DuckDB"),
        Figure("  of the longest conversation, 8,000 messages", ours["long"], "ms",
               ratio=ours["long"] / base["long"], baseline="WHERE ORDER BY LIMIT in DuckDB"),
        Figure("  the first after the file was closed", ours["again"], "ms",
               ratio=ours["again"] / ours["wall"], baseline="while it is open"),
    ]  # fmt: skip
