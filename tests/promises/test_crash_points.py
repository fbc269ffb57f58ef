"""A crash at each named point: in the corridor, the writer, the keeper, the scheduler and a batch.

The points are those of ``ipyconvexai.crashpoints``; at each a process is killed, an unforeseen error is raised, and
Ctrl-C arrives. The judge is the provider's own list of calls, beside what the ledger says of them.
"""

from __future__ import annotations

import collections
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest

import ipyconvexai as ai
from ipyconvexai.crashpoints import POINTS, set_what_happens
from ipyconvexai.errors import StoreError
from ipyconvexai.store import keeper
from ipyconvexai.testing import Answer, Endpoint, crash_at
from ipyconvexai.testing.received import Received
from tests.promises.children import Child, Say
from tests.promises.promising import Figure
from tests.store.helpers import wait_for

PROMISE = "a kill, an unforeseen error or a Ctrl-C at any named point loses nothing and pays nothing twice unseen"

How = Literal["kill", "exception", "interrupt"]
HOWS: tuple[How, ...] = ("kill", "exception", "interrupt")

CORRIDOR = ("before_intent", "before_send", "after_send", "in_stream", "before_settle", "after_settle")
WRITER = ("before_commit", "after_commit", "before_answer")
SCHEDULER = ("before_job", "after_job")
BATCH = ("before_chunk", "after_chunk")
ROWS = 1200  # of a batch: two chunks
DISTINCT = 300  # texts among them
EACH = 4  # questions of one case


class Visit(ai.Table):
    """What a scheduled mutation leaves behind."""

    what: str


def test_every_point_is_passed_by_the_package_and_tried_here():
    tried = {*CORRIDOR, *WRITER, *SCHEDULER, *BATCH, "before_close", "in_rewrite"}
    passed = set()
    for path in Path(ai.__file__).parent.rglob("*.py"):
        passed |= set(re.findall(r'\bpassing\("(\w+)"\)', path.read_text("utf-8")))
    assert tried == passed == set(POINTS)


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for this process and its children, so that equal questions are equal calls."""
    monkeypatch.setenv("IPYCONVEXAI_MODEL", "openai:gpt-4o-mini")


# ------------------------------------------------------------------------------------------------ judging
def question_of(call: Received) -> str:
    return str(call.body["messages"][-1]["content"])


def states(app: ai.App, like: str) -> dict[str, list[str]]:
    """Of each question that begins so, the status of its rows; waits until nothing is under way any more."""

    def found() -> dict[str, list[str]]:
        sql = "SELECT request->>'$.messages[#-1].content', status FROM calls"
        rows: dict[str, list[str]] = collections.defaultdict(list)
        for question, status in app.ledger.sql(sql).fetchall():
            if question.startswith(like):
                rows[question].append(status)
        return rows

    wait_for(lambda: not any("sending" in row for row in found().values()), f"{like}: calls to be judged")
    return found()


def judge(app: ai.App, calls: list[Received], like: str, seen: dict[str, str]) -> None:
    """The promises 1 to 3, over the questions that begin so; `seen`: question -> the request whose answer was seen."""
    rows = states(app, like)
    hits = collections.Counter(question_of(call) for call in calls if question_of(call).startswith(like))
    kept = dict(app.ledger.sql("SELECT id::VARCHAR, status FROM calls").fetchall())
    for question, request in seen.items():
        assert kept.get(request) == "ok", f"{question}: its answer was seen and is not on record"
    for question, sent in hits.items():
        assert sent <= len(rows[question]), f"{question}: sent {sent} times, on record {rows[question]}"
        assert rows[question].count("ok") <= 1, f"{question}: paid twice: {rows[question]}"
        flagged = len(rows[question]) - rows[question].count("ok")
        assert sent - 1 <= flagged, f"{question}: sent again without a flag: {rows[question]}"


# ------------------------------------------------------------------------------------------------ the corridor
def ask(say: Say, point: str, how: How) -> None:
    """Questions in a row, with a crash on the way; what was seen is said at once."""
    with ai.connect(replay="off") as app:
        with crash_at(point, how, after=2) as crash:
            for number in range(EACH):
                question = f"{point} {how} {number}"
                try:
                    if point == "in_stream":
                        stream = ai.stream(question)
                        assert "".join(stream)
                        reply = stream.reply
                    else:
                        reply = ai.generate(question)
                    say(("seen", question, reply.request_id))
                except BaseException as error:
                    say(("failed", question, type(error).__name__))
        wait_for(lambda: not app.ledger.calls(status="sending"), "every call to have its end")
        say(("crashed", crash.happened, ai.generate(f"{point} {how} afterwards").text))


def test_in_the_corridor(app: ai.App, endpoint: Endpoint, figure: Figure):
    cases = 0
    for point in CORRIDOR:
        for how in HOWS:
            case = f"{point} {how}"
            with Child(ask, point, how) as child:
                said = list(child.rest())
                assert child.wait() == (-9 if how == "kill" else 0), f"{case}: {said}"
            seen = {question: request for what, question, request in said if what == "seen"}
            assert seen, case
            if how != "kill":
                assert said[-1][:2] == ("crashed", 1), f"{case}: {said}"
                assert said[-1][2], f"{case}: it is not usable afterwards"
            judge(app, list(endpoint.calls), case, seen)
            again(app, endpoint, case)
            cases += 1
    figure(f"0 of {len(endpoint.calls)} calls lost or paid unseen", f"{cases} crashes in the corridor")


def again(app: ai.App, endpoint: Endpoint, case: str) -> None:
    """Asked again, what was answered costs nothing, and the rest is answered."""
    before, answered = endpoint.count, states(app, case)
    missing = 0
    for number in range(EACH):
        question = f"{case} {number}"
        missing += "ok" not in answered.get(question, [])
        streamed = "".join(ai.stream(question, replay="reuse")) if case.startswith("in_stream") else None
        assert streamed or ai.generate(question, replay="reuse").text, question
    assert endpoint.count - before == missing, f"{case}: paid again, or not asked"


# ------------------------------------------------------------------------------------------------ writer and keeper
def keep(say: Say, path: str, point: str, how: How, after: int) -> None:
    """A keeper that says "here" where it crashes."""
    left = after

    def tell(passed: str) -> None:
        nonlocal left
        if passed == point:
            left -= 1
            if left == -1:
                say("here")

    set_what_happens(tell)
    crash = crash_at(point, how, after=after)
    say("armed")
    try:
        keeper.main(path)
    finally:
        say(crash.happened)


@pytest.fixture
def kept(tmp_path: Path, endpoint: Endpoint) -> Iterator[Any]:
    """Opens a ledger whose first keeper crashes at a point."""
    children = []
    connect = ai.connect  # imported now: the keeper waits half a second for somebody, and then ends

    def opened(point: str, how: How, after: int) -> tuple[ai.App, Child]:
        path = tmp_path / f"{point}-{how}.duckdb"
        children.append(child := Child(keep, str(path), point, how, after))
        assert child.hear() == "armed"
        wait_for(lambda: (tmp_path / f"{path.name}.keeper" / "address").exists(), "the keeper to serve")
        return connect(path, model="openai:gpt-4o-mini"), child

    yield opened
    for child in children:
        child.kill()


def check_crash(child: Child, how: How, case: str) -> None:
    """It happened, and the keeper that lives on ends properly."""
    assert child.hear() == "here", case
    if how == "kill":
        assert child.wait() == -9, case
    else:
        assert child.hear() == 1, case
        assert child.wait() == 0, case


def answered(case: str) -> dict[str, str]:
    """Of the case's questions, the request ids of those that were answered; the others met an error of the ledger."""
    seen: dict[str, str] = {}
    for number in range(EACH):
        with contextlib.suppress(StoreError):
            seen[f"{case} {number}"] = str(ai.generate(f"{case} {number}").request_id)
    return seen


def test_in_the_writer_and_the_keeper(kept: Any, endpoint: Endpoint, figure: Figure):
    cases = failed = 0
    for point in WRITER:
        for how in HOWS:
            case, before = f"{point} {how}", endpoint.count
            app, child = kept(point, how, 5)
            with app:
                seen = answered(case)
                judge(app, list(endpoint.calls), case, seen)
            check_crash(child, how, case)
            # What is done and cannot be told is an error for its caller alone, whoever that is; else nobody notices.
            assert len(seen) >= EACH - (case == "before_answer exception"), case
            assert endpoint.count - before <= EACH, f"{case}: a call was sent twice"
            failed += EACH - len(seen)
            cases += 1
    figure(f"0 of {cases * EACH} calls lost or sent twice, {failed} failed", f"{cases} crashes of the keeper")


def test_when_the_idle_file_is_closed(kept: Any, endpoint: Endpoint):
    opened = {how: kept("before_close", how, 0) for how in HOWS}
    keys = {how: app.generate(f"before_close {how} 0").request_id for how, (app, _) in opened.items()}
    for how, (app, child) in opened.items():
        with app:
            wait_for(lambda: not Path(f"{app.settings.path}.wal").exists() or not child.is_alive, "it to be idle")  # noqa: B023
            again = app.generate(f"before_close {how} 1").request_id
            judge(app, list(endpoint.calls), f"before_close {how}", {f"before_close {how} 0": str(keys[how])})
            assert again != keys[how]
        check_crash(child, how, how)


def test_in_a_purge(kept: Any, endpoint: Endpoint):
    for how in HOWS:
        app, child = kept("in_rewrite", how, 0)
        with app:
            secret, other = (app.generate(f"in_rewrite {how} {what}").request_id for what in ("secret", "other"))
            with contextlib.suppress(StoreError):
                app.ledger.purge(containing="secret")
            app.ledger.purge(containing="secret")
            rows = dict(app.ledger.sql("SELECT id::VARCHAR, request::VARCHAR FROM calls").fetchall())
        assert rows[secret] is None, how
        assert f"in_rewrite {how} other" in rows[other], how
        check_crash(child, how, how)


# ------------------------------------------------------------------------------------------------ the scheduler
@ai.mutation
def leave(ctx: Any, what: str) -> None:
    ctx.db.insert(Visit(what=what))


@ai.action
async def go(ctx: Any, what: str) -> str:
    return str((await ctx.generate(what)).text)


@ai.mutation
def plan(ctx: Any, case: str) -> None:
    for number in range(EACH):
        ctx.scheduler.run_after(0, leave, what=f"{case} {number}")
        ctx.scheduler.run_after(0, go, what=f"{case} {number}")


@ai.query
def visits(ctx: Any, case: str) -> list[str]:
    return [visit.what for visit in ctx.db.query(Visit).collect() if visit.what.startswith(case)]


def run_jobs(say: Say, point: str, how: How) -> None:
    """Schedule what the case does, and run it until nothing is left."""
    with ai.connect() as app, crash_at(point, how, after=3):
        try:
            ai.run(plan, case=f"{point} {how}")
            wait_for(lambda: not open_jobs(app), "all jobs to end", 30)
        except KeyboardInterrupt:
            wait_for(lambda: not open_jobs(app), "all jobs to end", 30)
        say("all ended")


def open_jobs(app: ai.App) -> list[Any]:
    return app.ledger.sql("SELECT id FROM scheduled_functions WHERE finished_at IS NULL").fetchall()


def test_in_the_scheduler(endpoint: Endpoint, figure: Figure):
    for point in SCHEDULER:
        for how in HOWS:
            case = f"{point} {how}"
            with Child(run_jobs, point, how) as child:
                said = list(child.rest())
                assert child.wait() == (-9 if how == "kill" else 0), f"{case}: {said}"
            with ai.connect() as app:  # only now: it runs jobs, too
                wait_for(lambda: not open_jobs(app), f"{case}: another process to finish")
                check_jobs(app, case, how)
                judge(app, list(endpoint.calls), case, {})
            hits = collections.Counter(map(question_of, endpoint.calls))
            assert set(hits.values()) <= {1}, f"{case}: an action ran twice"
    figure("every mutation once, every action at most once", f"{len(SCHEDULER) * len(HOWS)} crashes of the scheduler")


def check_jobs(app: ai.App, case: str, how: How) -> None:
    """Each mutation's row is there once, or its job has failed; what failed is the one that crashed."""
    sql = "SELECT name, state FROM scheduled_functions WHERE contains(args::VARCHAR, ?)"
    jobs = app.ledger.sql(sql, [f"{case} "]).fetchall()
    assert len(jobs) == 2 * EACH, f"{case}: a job is lost"
    assert {state for _, state in jobs} <= {"success", "failed"}, f"{case}: {jobs}"
    failed = collections.Counter(name.rpartition(".")[2] for name, state in jobs if state == "failed")
    found = ai.run(visits, case=case)
    assert len(found) == len(set(found)) == EACH - failed["leave"], f"{case}: {sorted(found)}, {failed}"
    if how == "exception":
        assert failed.total() == 1, f"{case}: {failed}"
    else:
        assert not failed["leave"], f"{case}: a mutation was not run again"


# ------------------------------------------------------------------------------------------------ a batch
def summarize(say: Say, case: str, point: str | None = None, how: How = "kill") -> None:
    first = ROWS - DISTINCT // 2
    numbers = [number % (DISTINCT // 2) if number < first else number for number in range(ROWS)]
    frame = pd.DataFrame({"text": [f"{case} {number}" for number in numbers]})
    with ai.connect(), contextlib.ExitStack() as stack:
        crash = point and stack.enter_context(crash_at(point, how, after=1 if point == "before_chunk" else 0))
        result = None
        with contextlib.suppress(BaseException):
            result = ai.map(frame, "{text}", into="answer", concurrency=32, progress=False).to_dict("list")
        say((result, crash and crash.happened))


def test_in_a_batch(app: ai.App, endpoint: Endpoint, figure: Figure):
    endpoint.reply(lambda call: Answer(question_of(call).upper()))
    for point in BATCH:
        for how in HOWS:
            case, before = f"{point} {how}", endpoint.count
            with Child(summarize, case, point, how) as child:
                said = list(child.rest())
                assert child.wait() == (-9 if how == "kill" else 0), case
            with Child(summarize, case) as child:
                ((result, _),) = child.rest()
            assert result["answer"] == [text.upper() for text in result["text"]], case
            if how != "kill":
                ((interrupted, happened),) = said
                assert happened == 1, case
                assert interrupted is None or interrupted["answer"] == result["answer"], case
            judge(app, list(endpoint.calls), case, {})
            assert endpoint.count - before <= DISTINCT + 32, f"{case}: more than what was under way was paid again"
    figure("the frame is that of an undisturbed run", f"{len(BATCH) * len(HOWS)} crashes of a batch")
