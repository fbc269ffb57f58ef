"""What batches promise, in figures, measured at the provider. The long forms are the figures in full."""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.batch.running import RETRIES
from ipyconvexai.providers.prices import cost_usd
from ipyconvexai.testing import Answer, Endpoint, Fault
from ipyconvexai.testing.received import Received
from ipyconvexai.values import Usage


def question_of(call: Received) -> str:
    return str(call.body["messages"][-1]["content"])


def texts_of(count: int, distinct: int | None = None) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"<text {number % (distinct or count)}>" for number in range(count)]})


# ------------------------------------------------------------------------------------------------- errors
def test_one_bad_row_of_200(app: ai.App, endpoint: Endpoint):
    endpoint.reply(lambda call: Fault(400, message="no such text") if "<text 117>" in question_of(call) else "fine")
    result = ai.summarize(texts_of(200), "text", progress=False)
    assert endpoint.count == 200
    assert result["summary"].notna().sum() == 199
    (error,) = result["summary_error"].dropna()
    assert result["summary_error"].notna().tolist().index(True) == 117
    assert "400" in error
    assert "no such text" in error


# ------------------------------------------------------------------------------------------------- what is known
def test_5000_rows_of_1000_texts(app: ai.App, endpoint: Endpoint):
    frame = texts_of(5000, distinct=1000).sample(frac=1, random_state=1)
    first = ai.summarize(frame, "text", progress=False)
    assert endpoint.count == 1000
    assert first["summary"].notna().all()
    assert first.groupby("text")["summary"].nunique().eq(1).all()
    pd.testing.assert_frame_equal(ai.summarize(frame, "text", progress=False), first)
    assert endpoint.count == 1000


# ------------------------------------------------------------------------------------------------- Retry-After
def refusing(endpoint: Endpoint, part: float, after: float) -> dict[str, list[float]]:
    """Let the endpoint refuse `part` of all requests; the moments at which each text came, refused ones first."""
    seen: dict[str, list[float]] = collections.defaultdict(list)
    chance = random.Random(4)

    def answer(call: Received) -> Any:
        text = question_of(call)
        seen[text].append(call.time)
        if chance.random() < part:
            return Fault(429, retry_after=after)
        return Answer("fine", delay=0.02)

    endpoint.reply(answer)
    return seen


def check_retries(seen: dict[str, list[float]], after: float) -> int:
    """None came before its time, and they did not come together; how many there were."""
    again = sorted(later for moments in seen.values() for later in moments[1:])
    early = [
        later - sooner for moments in seen.values() for sooner, later in pairwise(moments) if later - sooner < after
    ]
    assert early == []
    together = max(sum(moment <= other < moment + 0.05 for other in again) for moment in again)
    print(f"{len(again)} retries, at most {together} ({together / len(again):.0%}) in 50 ms")
    assert together <= 0.25 * len(again)
    return len(again)


def test_refused_requests_come_again_after_their_time_and_not_together(app: ai.App, endpoint: Endpoint):
    seen = refusing(endpoint, 0.3, after=1)
    begun = time.monotonic()
    result = ai.summarize(texts_of(500), "text", progress=False)
    took = time.monotonic() - begun
    assert result["summary_error"].dropna().tolist() == []
    retries = check_retries(seen, after=1)
    print(f"500 rows in {took:.1f} s")
    assert took < 60, "a refusal holds up its own row: with one pause for all it takes two minutes"
    assert endpoint.count == 500 + retries
    attempts = ai.ledger.sql(  # one that waited too long after it was admitted is admitted anew, and not sent before
        "SELECT status, error_code, count(*) FROM calls WHERE error_code IS DISTINCT FROM 'not_sent'"
        " GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    assert attempts == [("error", "rate_limit_exceeded", retries), ("ok", None, 500)], "each attempt is a row"


def test_a_row_that_is_refused_often_is_answered_in_the_end(app: ai.App, endpoint: Endpoint):
    endpoint.reply([Fault(429, retry_after=0.01, times=RETRIES + 1), "fine"])
    result = ai.summarize(texts_of(1), "text", progress=False)
    assert result["summary"].tolist() == ["fine"]
    assert endpoint.count == RETRIES + 2


# ------------------------------------------------------------------------------------------------- limits
SHARING = """
import sys
import pandas as pd
import ipyconvexai as ai
who, count = sys.argv[1], int(sys.argv[2])
frame = pd.DataFrame({"text": [f"{who} {number} " + "word " * 40 for number in range(count)]})
with ai.connect() as app:
    app.store.limits()
    print("ready", flush=True)
    sys.stdin.readline()
    done = ai.summarize(frame, "text", concurrency=32, progress=False, timeout=120)
assert done["summary"].notna().all(), done["summary_error"].dropna().tolist()[:3]
"""
TOKENS = 500  # of each call


def children(code: str, *arguments: tuple[Any, ...]) -> list[subprocess.Popen[str]]:
    """Processes that said that they are ready, and wait for a line."""
    made = [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, each)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        for each in arguments
    ]
    for child in made:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    return made


def most_in_any(window: float, moments: list[tuple[float, int]]) -> int:
    """The largest sum in any window of so many seconds."""
    most = total = first = 0
    for moment, amount in moments:
        total += amount
        while moments[first][0] <= moment - window:
            total -= moments[first][1]
            first += 1
        most = max(most, total)
    return most


def share_limits(app: ai.App, endpoint: Endpoint, requests: int, tokens: int, per: float, windows: float) -> None:
    """Two processes work for some windows; what came to the provider is never more than either limit."""
    rng = random.Random(3)
    used: dict[int, int] = {}

    def answer(call: Received) -> Answer:
        used[call.number] = TOKENS + rng.randint(-20, 0)
        return Answer("fine", usage=(TOKENS - 100, used[call.number] - TOKENS + 100), delay=0.05)

    endpoint.reply(answer)
    ai.summarize(texts_of(10), "text", progress=False)  # what such calls take is known
    before = endpoint.count
    app.limit("both", requests=requests, tokens=tokens, per=per)
    rows = int(requests * windows) // 2
    work = children(SHARING, ("a", rows), ("b", rows))
    for child in work:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in work:
        child.communicate(timeout=60 + 3 * windows * per)
        assert child.returncode == 0
    calls = endpoint.calls[before:]
    assert len(calls) == 2 * rows, "nothing was sent twice"
    most_requests = most_in_any(per, [(call.time, 1) for call in calls])
    most_tokens = most_in_any(per, [(call.time, used[call.number]) for call in calls])
    used_up = sum(call.time - calls[0].time < per * int(windows) for call in calls) / (requests * int(windows))
    print(
        f"{len(calls)} calls, at most {most_requests} requests and {most_tokens:,} tokens in any {per:g} s,"
        f" {used_up:.0%} of {int(windows)} windows used"
    )
    assert most_requests <= requests
    assert most_tokens <= tokens
    assert used_up >= 0.85


@pytest.mark.long  # tests/promises/test_rates.py has four processes, each time
def test_two_processes_share_limits_for_some_seconds(app: ai.App, endpoint: Endpoint):
    share_limits(app, endpoint, requests=60, tokens=60 * TOKENS, per=3, windows=2.5)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_processes_share_600_requests_and_300000_tokens_a_minute(app: ai.App, endpoint: Endpoint):
    share_limits(app, endpoint, requests=600, tokens=300_000, per=60, windows=2.5)


# ------------------------------------------------------------------------------------------------- money
def test_a_budget_of_ten_cents_with_64_in_flight(app: ai.App, endpoint: Endpoint):
    """Answers of very different length: nobody knows before what one costs."""
    rng, budget, model = random.Random(5), 0.10, "gpt-4o-mini"
    costs: list[float] = []
    spent_before: list[float] = []  # when each was sent: the costs of those that were answered long enough ago
    answered: list[tuple[float, float]] = []

    def answer(call: Received) -> Answer:
        usage = Usage(1000, rng.choice([50, 300, 3000]))
        cost = cost_usd("openai", model, usage)
        assert cost is not None
        spent_before.append(sum(one for moment, one in answered if moment < call.time - 0.5))
        costs.append(cost)
        answered.append((call.time + 0.05, cost))
        return Answer("fine", usage=(usage.input_tokens or 0, usage.output_tokens or 0), delay=0.05)

    endpoint.reply(answer)
    result = ai.summarize(texts_of(600), "text", progress=False, budget=budget, concurrency=64)
    spent = sum(costs)
    batch = ai.batches().df().iloc[0]
    print(f"{len(costs)} requests, ${spent:.4f} spent of ${budget}")
    assert batch["cost_usd"] == pytest.approx(spent)
    assert batch["state"] == "stopped"
    assert max(spent_before) <= budget, "nothing is sent once it is spent"
    assert spent <= budget + 64 * max(costs), "the budget and what was in flight"
    assert spent >= 0.8 * budget
    assert result["summary"].notna().sum() == len(costs) < 600
    assert result["summary_error"].dropna().str.startswith("budget: ").all()


# ------------------------------------------------------------------------------------------------- long texts
LONG = """
import sys, pathlib
import pandas as pd
import ipyconvexai as ai
frame = pd.DataFrame({"text": [pathlib.Path(sys.argv[1]).read_text()]})
print("ready", flush=True)
sys.stdin.readline()
done = ai.summarize(frame, "text", context=6000, concurrency=8, progress=False)
assert done["summary"].notna().all(), done["summary_error"].tolist()
"""
SENTENCE = "The committee met in the old town hall and talked about the bridge for most of the day. "


def test_a_document_of_200000_words_that_is_killed_midway(endpoint: Endpoint, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setenv("IPYCONVEXAI_MODEL", "openai:gpt-4o-mini")
    text = "".join(f"# Chapter {n}\n\n" + (f"{n}. " + SENTENCE * 10 + "\n\n") * 10 for n in range(120))
    assert len(text.split()) > 200_000
    file = tmp_path / "long.txt"
    file.write_text(text)
    with Endpoint(lambda call: Answer("A summary of it. " * 20, delay=0.2), context=6000) as double:
        monkeypatch.setenv("OPENAI_BASE_URL", double.url)
        (child,) = children(LONG, (file,))
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
        double.wait(lambda it: it.count >= 24, 30)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        double.wait(lambda it: it.in_flight == 0)
        before = double.count
        (child,) = children(LONG, (file,))
        child.communicate("go\n", timeout=60)
        assert child.returncode == 0
        calls = double.calls

    bodies = [question_of(call) for call in calls]
    assert max(call.input_words for call in calls) <= 6000, "no request beyond the context"
    with ai.connect() as app:
        rows = collections.Counter(app.ledger.sql("SELECT status FROM calls").df()["status"])
        parts = app.ledger.sql(
            "SELECT p.inputs, c.request->>'$.messages[1].content' AS body, c.status FROM batch_parts p"
            " JOIN calls c ON c.id = p.request_id JOIN batches b ON b.id = p.batch_id"
            " WHERE p.round = 0 AND b.state = 'done' ORDER BY p.part"
        ).fetchall()
        combined = app.ledger.sql("SELECT count(*) FROM batch_parts WHERE round > 0").fetchall()[0][0]
    end = 0
    for inputs, body, status in parts:
        where = json.loads(inputs)
        assert where["from"] == end, "the parts cover the text without a hole"
        end = where["to"]
        assert text[where["from"] : end] in body
        assert status == "ok"
    assert end == len(text)
    assert combined > 0
    again = len(bodies) - len(set(bodies))
    print(f"{len(parts)} parts, {combined} more to combine; killed after {before} requests, {again} sent again")
    assert rows["ok"] == len(set(bodies)), "each answered once"
    assert again <= rows["unknown"] <= 2 * 8
    assert again <= 2 * 8, "what was finished is not paid again"


# ------------------------------------------------------------------------------------------------- bad input
KINDS: dict[str, Callable[[pa.Table, Path], Any]] = {
    "pandas": lambda table, folder: table.to_pandas(),
    "polars": lambda table, folder: pl.from_arrow(table),
    "lazy": lambda table, folder: pl.DataFrame(table).lazy(),
    "pyarrow": lambda table, folder: table,
    "duckdb": lambda table, folder: duckdb.connect().from_arrow(table),
    "parquet": lambda table, folder: _written(table, folder / "rows.parquet"),
}


def _written(table: pa.Table, path: Path) -> str:
    pq.write_table(table, path)
    return str(path)


def rows_of(frame: Any) -> list[dict[str, Any]]:
    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    if isinstance(frame, pl.DataFrame):
        return frame.to_dicts()
    if isinstance(frame, pd.DataFrame):
        return frame.astype(object).where(frame.notna(), None).to_dict("records")  # type: ignore[return-value] # of texts
    if isinstance(frame, pa.Table):
        return frame.to_pylist()  # type: ignore[no-any-return]
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.fetchall()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operation", ["summarize", "map", "reduce"])
def test_bad_names_in_any_kind_of_frame(app: ai.App, endpoint: Endpoint, kind: str, operation: str, tmp_path: Path):
    frame = KINDS[kind](pa.table({"title": ["a", "b"], "year": [1, 2]}), tmp_path)
    wrong: dict[str, list[Callable[[], Any]]] = {
        "summarize": [
            lambda: ai.summarize(frame, "titel", progress=False),
            lambda: ai.summarize(frame, "title", into="year", progress=False),
            lambda: ai.summarize(frame, "title", into="title", progress=False),
        ],
        "map": [
            lambda: ai.map(frame, "What is {titel}?", progress=False),
            lambda: ai.map(frame, "What is {title}?", into="year", progress=False),
            lambda: ai.map(frame, "What is {title}?", schema="topic, year int", progress=False),
        ],
        "reduce": [
            lambda: ai.reduce(frame, "titel", progress=False),
            lambda: ai.reduce(frame, "title", by="yaer", progress=False),
            lambda: ai.reduce(frame, "title", by="year", into="year", progress=False),
        ],
    }
    for call in wrong[operation]:
        with pytest.raises(errors.InputError) as caught:
            call()
        assert caught.value.cure
        if "titel" in str(caught.value) or "yaer" in str(caught.value):
            assert "Did you mean" in str(caught.value)
    assert endpoint.count == 0


def names_of(frame: Any) -> list[str]:
    if isinstance(frame, pl.LazyFrame):
        return list(frame.collect_schema())
    return list(frame.column_names if isinstance(frame, pa.Table) else frame.columns)


def test_no_rows_of_any_kind(app: ai.App, endpoint: Endpoint, tmp_path: Path):
    for made in KINDS.values():
        frame = made(pa.table({"text": pa.array([], pa.string()), "n": pa.array([], pa.int64())}), tmp_path)
        summarized = ai.summarize(frame, "text", progress=False, details=True)
        mapped = ai.map(frame, "What is {text}?", schema="topic, score float", progress=False)
        assert rows_of(summarized) == rows_of(mapped) == []
        assert names_of(summarized)[:4] == ["text", "n", "summary", "summary_error"]
        assert names_of(mapped) == ["text", "n", "topic", "score", "map_error"]
        assert ai.reduce(frame, "text", progress=False) is None
        assert rows_of(ai.reduce(frame, "text", by="n", progress=False)) == []
    assert endpoint.count == 0
    assert set(ai.batches().df()["state"]) == {"done"}


CELLS = {
    "lists": pa.array([["a", "b"], ["c"], None]),
    "structs": pa.array([{"a": 1}, {"a": 2}, None]),
    "bytes": pa.array([b"a\xff", b"b", None]),
    "numbers": pa.array([1, 2, None]),
    "maps": pa.array([[("a", 1)], [("b", 2)], None], pa.map_(pa.string(), pa.int64())),
}


@pytest.mark.parametrize("kind", KINDS)
def test_cells_that_are_no_texts(app: ai.App, endpoint: Endpoint, kind: str, tmp_path: Path):
    for name, cells in CELLS.items():
        if name == "maps" and kind in ("polars", "lazy"):
            continue  # polars has no such type
        check_cells(KINDS[kind](pa.table({"text": cells, "n": [0, 1, 2]}), tmp_path), endpoint)


def check_cells(frame: Any, endpoint: Endpoint) -> None:
    before = endpoint.count
    summarized = rows_of(ai.summarize(frame, "text", progress=False))
    assert [row["n"] for row in summarized] == [0, 1, 2]
    assert [row["summary"] for row in summarized] == [None] * 3
    assert ["not a text but" in (row["summary_error"] or "") for row in summarized] == [True, True, False]
    assert endpoint.count == before
    mapped = rows_of(ai.map(frame, "What is {text}?", progress=False))
    assert [row["n"] for row in mapped] == [0, 1, 2]
    for row in mapped[:2]:  # what can be written is asked about, and what cannot says so
        assert (row["answer"] is None) != (row["answer_error"] is None)
    assert (mapped[2]["answer"], mapped[2]["answer_error"]) == (None, None)


def test_a_schema_that_is_refused_stops_the_batch(app: ai.App, endpoint: Endpoint):
    endpoint.reply(Fault(400, message="Invalid schema for response_format 'Answer': not supported", delay=0.02))
    result = ai.map(texts_of(500), "What is {text}?", schema="topic, score float", progress=False, concurrency=8)
    assert endpoint.count <= 3 * 8, "some refusals, and what was under way by then"
    assert result["topic"].isna().all()
    assert result["map_error"].str.contains("Invalid schema").all()
    assert ai.batches().df()["state"].tolist() == ["failed"]


def test_a_schema_that_makes_a_column_twice(app: ai.App, endpoint: Endpoint):
    with pytest.raises(errors.InputError, match="two new columns have the name 'map_error'"):
        ai.map(texts_of(2), "What is {text}?", schema="topic, map_error", progress=False)
    assert endpoint.count == 0


def test_other_data_of_any_kind_are_not_resumed(app: ai.App, endpoint: Endpoint, tmp_path: Path):
    for made in KINDS.values():
        frame = made(pa.table({"text": ["a", "b"]}), tmp_path)
        ai.summarize(frame, "text", progress=False)
        batch = ai.batches().df()["id"].iloc[0]
        ai.summarize(frame, "text", progress=False, resume=batch)
        other = made(pa.table({"text": ["a", "c"]}), tmp_path)
        with pytest.raises(errors.InputError, match="other data"):
            ai.summarize(other, "text", progress=False, resume=batch)
    assert endpoint.count == 2
