"""``%ai log`` over 100,000 calls: the newest, by status and model, and those that hold a text.

A text that many calls hold is found among the newest; one that no call holds has to be looked for in all 400 MB of
bodies and answers, half of which time goes into unpacking them: about 0.3 s of CPU on all cores. Of what DuckDB has
(contains, with lower or in three spellings, LIKE, ILIKE, (?i)) a pattern with classes takes the least that misses
nothing. The baseline is the query that reads everything and sorts it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any

from tests.benchmarks.measuring import Figure, in_child, keeper_cpu

CALLS = 100_000
ROUNDS = 9
LEFT_ALONE = 3.0  # seconds after which the keeper has closed the file
SEARCHES: dict[str, dict[str, Any]] = {
    "newest": {},
    "errors": {"status": "error"},
    "model": {"model": "gpt-3"},
    "common": {"text": "the sky is blue"},
    "rare": {"text": "zebrafish"},
}
_PLAIN = """
    SELECT id::VARCHAR, sent_at, model, status, request, text FROM calls
    WHERE $text IS NULL OR contains(lower(concat_ws(' ', request, text, error_message)), $text)
    ORDER BY sent_at DESC, id DESC LIMIT 50
"""


def fill(path: str) -> None:
    """Makes the file: bodies of 3 kB, answers of 1 kB, of words that differ from row to row."""
    import duckdb

    from ipyconvexai.store.migrations import migrate

    connection = duckdb.connect(path)
    migrate(connection, path)
    connection.execute(
        f"""
        INSERT INTO requests (id, attempt, sent_at, provider, model, endpoint, base_url, stream, cache_key, body,
                              body_size, user_id, source, notebook, session_id)
        SELECT printf('0199%04x-%04x-7%03x-8%03x-%012x', i // 65536, i % 65536, h % 4096, (h // 7) % 4096,
                      h % 281474976710656)::UUID,
               1, TIMESTAMP '2026-01-01' + to_milliseconds(i * 1000), 'openai', 'gpt-' || h % 7, 'chat/completions',
               'https://api.openai.com/v1', true, uuid(), body, strlen(body), 'me', 'magic', 'a.ipynb',
               '01990000-0000-7000-8000-000000000000'::UUID
        FROM (
            SELECT i, h, printf('{{"model":"gpt-%d","messages":[{{"role":"system","content":"Be brief."}},'
                                '{{"role":"user","content":"Question %d: %s"}}],"temperature":0}}', h % 7, i,
                                (SELECT string_agg(md5((h + k)::VARCHAR)
                                                    || if(k % 8 = 0, ' the sky is blue ', ' word '))
                                 FROM range(70) words(k))) AS body
            FROM (SELECT i, (hash(i) >> 2)::BIGINT AS h FROM range({CALLS}) t(i))
        )
        """
    )
    connection.execute(
        """
        INSERT INTO responses (request_id, received_at, status, http_status, text, input_tokens, output_tokens,
                               cost_usd, duration_ms, first_token_ms)
        SELECT id, sent_at + to_milliseconds(900), if(hash(id) % 50 = 0, 'error', 'ok'), 200,
               'Answer ' || substr(body, 200, 1000), 100, 50, 0.0001, 900, 200
        FROM requests
        """
    )
    connection.execute("CHECKPOINT")
    connection.close()


def package(path: str) -> dict[str, list[float]]:
    """Search -> milliseconds of the wall and of the keeper's CPU, and the wall of the first after the file closed."""
    import ipyconvexai as ai
    from ipyconvexai.application import app
    from ipyconvexai.notebook.searching import Search, find

    measured = {}
    with ai.connect(path):
        find(app().store, Search())  # the keeper starts
        for name, options in SEARCHES.items():
            walls, cpu = [], keeper_cpu()
            for _ in range(ROUNDS):
                begun = time.perf_counter()
                found = find(app().store, Search(**options))
                walls.append((time.perf_counter() - begun) * 1000)
            if len(found) != (0 if name == "rare" else 50):
                raise RuntimeError(f"{len(found)} calls for {name}")
            measured[name] = [statistics.median(walls), (keeper_cpu() - cpu) * 1000 / ROUNDS]
        time.sleep(LEFT_ALONE)
        begun = time.perf_counter()
        find(app().store, Search())
        measured["again"] = [(time.perf_counter() - begun) * 1000]
    return measured


def plain(path: str) -> dict[str, float]:
    """Milliseconds of the baseline, through the same keeper."""
    import ipyconvexai as ai
    from ipyconvexai.application import app

    measured = {}
    with ai.connect(path):
        for name, text in (("newest", None), ("rare", "zebrafish")):
            walls = []
            for _ in range(ROUNDS):
                begun = time.perf_counter()
                app().store.read(_PLAIN, {"text": text})
                walls.append((time.perf_counter() - begun) * 1000)
            measured[name] = statistics.median(walls)
    return measured


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/ledger.duckdb"
        in_child(fill, path=path)
        ours, base = in_child(package, path=path), in_child(plain, path=path)
    return [
        Figure(f"%ai log of {CALLS:,} calls", ours["newest"][0], "ms", at_most=200,
               ratio=ours["newest"][0] / base["newest"], baseline="one query over everything"),
        Figure("  CPU of the keeper", ours["newest"][1], "ms", at_most=200),
        Figure("  the first after the file was closed", ours["again"][0], "ms", at_most=200),
        Figure("  --status error", ours["errors"][0], "ms", at_most=200),
        Figure("  --model NAME", ours["model"][0], "ms", at_most=200),
        Figure("  TEXT that many calls hold", ours["common"][0], "ms", at_most=200),
        Figure("    CPU of the keeper", ours["common"][1], "ms", at_most=200),
        Figure("  TEXT that no call holds: every body is read", ours["rare"][0], "ms", at_most=200,
               ratio=ours["rare"][0] / base["rare"], baseline="one query over everything"),
        Figure("    CPU of the keeper", ours["rare"][1], "ms", at_most=200),
    ]  # fmt: skip
