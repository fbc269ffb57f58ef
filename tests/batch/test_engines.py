"""Batches whose requests are sent by workers elsewhere: threads, processes, Dask; which of them may die."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import distributed
import pytest

import ipyconvexai as ai
from ipyconvexai.batch.engines import Engine, open_engine
from ipyconvexai.errors import CallTimeoutError, ConfigurationError, Error, InputError, UnreachableError
from ipyconvexai.providers import errands, exchange, remote
from ipyconvexai.providers.calls import CALLER
from ipyconvexai.providers.errands import Chunk, Errand
from ipyconvexai.testing import Answer, Drop, Endpoint, Fault, Stall

KEY = "sk-test-0123456789abcdef"


@pytest.fixture(scope="module")
def cluster() -> Iterator[distributed.LocalCluster]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=logging.CRITICAL
    ) as started:
        yield started


@pytest.fixture(scope="module")
def dask(cluster: distributed.LocalCluster) -> Iterator[distributed.Client]:
    with distributed.Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        yield pool


def ask_all(
    app: ai.App, send: Any, texts: Sequence[str], *, gate: int | None = None, timeout: float = 20.0, **fields: Any
) -> list[Any]:
    """What each question came to, an answer's text or what was raised, through the corridor, all at once."""

    async def one(client: Any, endpoint: Any, text: str) -> Any:
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]}
        try:
            return (await exchange.chat(client, endpoint, body, timeout)).reading.text
        except Error as error:
            return error

    async def every() -> list[Any]:
        endpoint = await app.generator.endpoint(None)
        client = app.generator.client(endpoint)
        turns = asyncio.Semaphore(gate) if gate else None
        CALLER.set(dataclasses.replace(CALLER.get(), send=send, gate=turns, **fields))
        return await asyncio.gather(*(one(client, endpoint, text) for text in texts))

    return app.run(every())


def close(app: ai.App, engine: Engine | None) -> None:
    assert engine is not None
    app.run(engine.aclose())


def opened(engine: Any, concurrency: int = 64) -> Engine:
    found = open_engine(engine, concurrency)
    assert found is not None
    return found


def texts(count: int) -> list[str]:
    return [f"question {number}" for number in range(count)]


def asked(endpoint: Endpoint) -> collections.Counter[str]:
    return collections.Counter(call.body["messages"][0]["content"] for call in endpoint.calls)


def statuses(app: ai.App) -> collections.Counter[str]:
    return collections.Counter(status for (status,) in app.ledger.sql("SELECT status FROM calls").fetchall())


class Counting(Executor):
    """Counts the chunks that an executor is given."""

    def __init__(self, inner: Executor) -> None:
        self.inner = inner
        self.chunks: list[int] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.chunks.append(len(args[0].errands))
        return self.inner.submit(fn, *args, **kwargs)


# ---------------------------------------------------------------------------------------------- which engine
def test_none_is_the_own_network():
    assert open_engine(None, 8) is None


@pytest.mark.parametrize(
    ("engine", "message", "cure"),
    [
        ("dsk", "engine='dsk' is not known", 'Did you mean "dask"?'),
        (7, "engine= is of type int, which can send nothing", "concurrent.futures executor"),
        (ThreadPoolExecutor, "engine= is of type ABCMeta|engine= is of type type", "concurrent.futures executor"),
    ],
)
def test_what_is_no_engine(engine: Any, message: str, cure: str):
    with pytest.raises(InputError, match=message) as caught:
        open_engine(engine, 8)
    assert cure in caught.value.cure


def test_dask_that_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigurationError, match="not installed") as caught:
        open_engine("dask", 8)
    assert caught.value.cure == "pip install 'ipyconvexai[dask]'"


def test_an_executor_over_dask_would_send_again(dask: distributed.Client):
    with pytest.raises(InputError, match="send again") as caught:
        open_engine(dask.get_executor(), 8)
    assert "engine=client" in caught.value.cure


def test_a_dask_client_that_is_closed(cluster: distributed.LocalCluster):
    client = distributed.Client(cluster, set_as_default=False)
    client.close()
    with pytest.raises(ConfigurationError, match="the Dask client is closed"):
        open_engine(client, 8)


def test_a_dask_client_of_the_users_loop(cluster: distributed.LocalCluster):
    async def opening() -> None:
        async with distributed.Client(cluster.scheduler_address, asynchronous=True, set_as_default=False) as client:
            open_engine(client, 8)

    with pytest.raises(InputError, match="asynchronous") as caught:
        asyncio.run(opening())
    assert "asynchronous=True" in caught.value.cure


def test_the_current_dask_client_is_used(cluster: distributed.LocalCluster, app: ai.App):
    with distributed.Client(cluster) as client:
        engine = opened("dask")
        assert engine.description == f"Dask: 2 workers at {cluster.scheduler_address}"
        close(app, engine)
        assert client.status == "running", "it is its owner's to close"


def test_who_listens_on_the_way_is_told(monkeypatch: pytest.MonkeyPatch):
    from ipyconvexai.batch.engines import _is_safe

    assert _is_safe("tcp://127.0.0.1:8786")
    assert _is_safe("tls://10.0.0.5:8786")
    assert not _is_safe("tcp://10.0.0.5:8786")


def test_what_a_worker_imports_is_light():
    code = (
        "import sys, ipyconvexai.batch.engines; print([n for n in ('duckdb', 'pandas', 'openai') if n in sys.modules])"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert seen.strip() == "[]"


# ---------------------------------------------------------------------------------------------- executors
def test_threads_send_what_the_corridor_records(app: ai.App, endpoint: Endpoint, threads: ThreadPoolExecutor):
    counting = Counting(threads)
    engine = opened(counting)
    answers = ask_all(app, engine.send, texts(100))
    close(app, engine)
    assert all(f"question {number}" in answer for number, answer in enumerate(answers)), "each has its own"
    assert endpoint.count == 100
    assert statuses(app) == {"ok": 100}
    assert sum(counting.chunks) == 100
    assert len(counting.chunks) < 40, "they travel together"
    assert max(counting.chunks) <= 32
    assert {call.headers["authorization"] for call in endpoint.calls} == {f"Bearer {KEY}"}


def test_processes_send(app: ai.App, endpoint: Endpoint, processes: ProcessPoolExecutor):
    engine = opened(processes)
    assert engine.description == "ProcessPoolExecutor: 2 workers"
    answers = ask_all(app, engine.send, texts(100))
    close(app, engine)
    assert all(f"question {number}" in answer for number, answer in enumerate(answers))
    assert endpoint.count == 100
    assert statuses(app) == {"ok": 100}


def test_a_pool_that_breaks_says_so_and_is_not_tried_for_ever(app: ai.App, endpoint: Endpoint):
    endpoint.hold()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        engine = opened(pool, 16)

        async def kill() -> None:
            await asyncio.to_thread(endpoint.wait, lambda e: e.in_flight > 0, 60)
            os.kill(next(iter(pool._processes)), signal.SIGKILL)

        killing = app.loop.submit(kill())
        answers = ask_all(app, engine.send, texts(16), retries=5)
        killing.result()
        close(app, engine)
    assert all("takes no more requests: BrokenProcessPool" in answer.message for answer in answers)
    assert all("new executor" in answer.cure and not answer.retryable for answer in answers)
    assert set(asked(endpoint).values()) == {1}, "nothing was sent again"
    errors = statuses(app)["error"]
    assert 16 + endpoint.count <= errors <= 32, "what was lost, and one attempt each that found the pool broken"
    assert statuses(app) == {"error": errors}


def test_a_pool_that_was_shut_down(app: ai.App, endpoint: Endpoint):
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    engine = opened(pool)
    (error,) = ask_all(app, engine.send, ["Hello"], retries=5)
    close(app, engine)
    assert "cannot schedule new futures after shutdown" in error.message
    assert statuses(app) == {"error": 1}


def test_a_single_question_does_not_wait(app: ai.App, endpoint: Endpoint, threads: ThreadPoolExecutor):
    engine = opened(threads)
    ask_all(app, engine.send, ["the first opens connections"])
    begun = time.monotonic()
    for text in texts(10):
        ask_all(app, engine.send, [text])
    taken = time.monotonic() - begun
    close(app, engine)
    assert taken < 0.5, "5 ms each, and what the ledger takes"


def test_never_more_than_its_concurrency(app: ai.App, endpoint: Endpoint, threads: ThreadPoolExecutor):
    endpoint.reply(lambda call: Answer("ok", delay=0.02))
    engine = opened(threads, 10)
    ask_all(app, engine.send, texts(60))
    close(app, engine)
    assert endpoint.most_in_flight == 10


def test_large_requests_travel_alone(
    app: ai.App, endpoint: Endpoint, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remote, "MOST_BYTES", 3000)
    counting = Counting(threads)
    engine = opened(counting)
    answers = ask_all(app, engine.send, [f"{text} {'word ' * 400}" for text in texts(12)])
    close(app, engine)
    assert counting.chunks == [1] * 12
    assert not any(isinstance(answer, Error) for answer in answers)


# ---------------------------------------------------------------------------------------------- what can go wrong
def mischief(call: Any) -> Any:
    said = call.body["messages"][0]["content"]
    number = int(said.rpartition(" ")[2])
    wrong = {3: Fault(400, message="no"), 5: Drop(), 7: Stall(), 9: Answer("spoilt and more", cut_after=1, cut="close")}
    return wrong.get(number, Answer(said))


@pytest.mark.parametrize("kind", ["threads", "dask"])
def test_one_that_fails_costs_the_others_nothing(app: ai.App, endpoint: Endpoint, kind: str, request: Any):
    """And it fails as it does on the own network: same class, words, code and rows."""
    endpoint.reply(mischief)
    engine = opened(request.getfixturevalue(kind))
    ways = [ask_all(app, send, texts(20), timeout=0.7, retries=0) for send in (None, engine.send)]
    close(app, engine)

    def told(answers: list[Any]) -> list[Any]:
        return [
            (type(each), re.sub(r"\d+ of \d+", "n of m", each.message), each.cure, each.code, each.retryable)
            if isinstance(each, Error)
            else each
            for each in answers
        ]

    assert told(ways[1]) == told(ways[0])
    failed = {number for number, each in enumerate(ways[1]) if isinstance(each, Error)}
    assert failed == {3, 5, 7, 9}
    rows = app.ledger.sql(
        "SELECT request->>'$.messages[0].content', status, http_status, error_code, "
        "regexp_replace(error_message, '\\d+ of \\d+', 'n of m'), count(*) FROM calls GROUP BY ALL"
    ).fetchall()
    assert all(count % 2 == 0 for *_, count in rows), rows
    assert endpoint.count == sum(count for *_, count in rows)


def test_no_server_is_the_same_error(app: ai.App, endpoint: Endpoint, threads: ThreadPoolExecutor):
    endpoint.close()
    engine = opened(threads)
    (own,) = ask_all(app, None, ["Hello"], retries=0)
    (elsewhere,) = ask_all(app, engine.send, ["Hello"], retries=0)
    close(app, engine)
    assert "connection refused" in own.message
    assert (type(elsewhere), elsewhere.message, elsewhere.cure) == (type(own), own.message, own.cure)


def test_a_worker_that_says_nothing(app: ai.App, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch):
    class Silent:
        def __init__(self) -> None:
            self.futures: list[Future[Any]] = []

        def submit(self, function: Any, chunk: Any) -> Future[Any]:
            self.futures.append(Future())
            return self.futures[-1]

    monkeypatch.setattr(remote, "SILENCE", 0.05)
    silent = Silent()
    engine = opened(silent)
    (error,) = ask_all(app, engine.send, ["Hello"], timeout=0.01, retries=0)
    close(app, engine)
    assert isinstance(error, CallTimeoutError)
    assert [future.cancelled() for future in silent.futures] == [True]
    assert statuses(app) == {"timeout": 1}


def test_who_is_cancelled_leaves_the_engine_working(app: ai.App, endpoint: Endpoint, threads: ThreadPoolExecutor):
    endpoint.hold()
    engine = opened(threads)

    async def begin() -> None:
        target = await app.generator.endpoint(None)
        client = app.generator.client(target)
        CALLER.set(dataclasses.replace(CALLER.get(), send=engine.send))
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "given up"}]}
        await asyncio.gather(*(exchange.chat(client, target, body, 20.0) for _ in range(5)))

    begun = app.loop.submit(begin())
    endpoint.wait(lambda e: e.in_flight == 5)
    begun.cancel()
    endpoint.release()
    assert not isinstance(ask_all(app, engine.send, ["after"])[0], Error)
    close(app, engine)
    assert statuses(app) == {"canceled": 5, "ok": 1}
    codes = app.ledger.sql("SELECT DISTINCT error_code FROM calls WHERE status = 'canceled'").fetchall()
    assert codes == [("canceled",)], "it may have been billed: what was begun was sent"


def test_a_stream_comes_whole(app: ai.App, endpoint: Endpoint, threads: ThreadPoolExecutor):
    engine = opened(threads)
    token = CALLER.set(dataclasses.replace(CALLER.get(), send=engine.send))
    try:
        pieces = list(app.stream("Hello there"))
    finally:
        CALLER.reset(token)
        close(app, engine)
    assert "Hello there" in "".join(pieces)
    assert statuses(app) == {"ok": 1}


# ---------------------------------------------------------------------------------------------- what a worker promises
def errand(endpoint: Endpoint, until: float | None = None) -> Errand:
    headers = ((b"authorization", f"Bearer {KEY}".encode()), (b"content-type", b"application/json"))
    content = b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}'
    return Errand("POST", f"{endpoint.url}/chat/completions", headers, content, {"connect": 5.0, "read": 5.0}, until)


def test_a_chunk_is_run_once(endpoint: Endpoint):
    chunk = Chunk(uuid.uuid4().hex, (errand(endpoint),), errands.process(), {})
    first, second = errands.run(chunk), errands.run(chunk)
    assert first.outcomes is not None
    assert first.outcomes[0].status == 200
    assert second.outcomes is None
    assert endpoint.count == 1


def test_a_chunk_for_another_process_is_not_run(endpoint: Endpoint):
    chunk = Chunk(uuid.uuid4().hex, (errand(endpoint),), "another", {})
    assert errands.run(chunk).outcomes is None
    assert endpoint.count == 0


def test_what_is_late_is_not_sent(endpoint: Endpoint):
    now = time.monotonic()
    for clocks, until in (({}, now + 60), ({errands.process(): 100.0}, now - 101), ({errands.process(): -2.0}, now)):
        report = errands.run(Chunk(uuid.uuid4().hex, (errand(endpoint, until),), None, clocks))
        assert report.outcomes is not None
        assert report.outcomes[0].unsent
    assert endpoint.count == 0
    in_time = Chunk(uuid.uuid4().hex, (errand(endpoint, now - 99),), None, {errands.process(): 159.0})
    report = errands.run(in_time)
    assert report.outcomes is not None
    assert report.outcomes[0].status == 200, "by its own clock, which is ahead"


def test_no_repr_shows_a_key(endpoint: Endpoint):
    chunk = Chunk(uuid.uuid4().hex, (errand(endpoint),), None, {})
    report = errands.run(chunk)
    assert pickle.loads(pickle.dumps(chunk)) == chunk
    assert KEY.encode() in pickle.dumps(chunk), "it does travel"
    assert KEY not in repr((chunk, chunk.errands, report, report.outcomes))


# ---------------------------------------------------------------------------------------------- Dask
def test_dask_sends(app: ai.App, endpoint: Endpoint, dask: distributed.Client):
    engine = opened(dask)
    answers = ask_all(app, engine.send, texts(200), gate=64)
    assert engine.room == 64
    close(app, engine)
    assert all(f"question {number}" in answer for number, answer in enumerate(answers))
    assert endpoint.count == 200
    assert statuses(app) == {"ok": 200}
    assert dask.status == "running"


def fails_with(chunk: Chunk) -> None:
    raise ValueError(f"on purpose: {chunk!r}")


def test_no_log_of_dask_holds_a_key(endpoint: Endpoint, dask: distributed.Client):
    chunk = Chunk(uuid.uuid4().hex, (errand(endpoint),), None, {})
    future = dask.submit(fails_with, chunk, pure=False)
    with pytest.raises(ValueError, match="on purpose"):
        future.result()
    logs = repr([*dask.get_worker_logs().values(), *dask.get_scheduler_logs()])
    assert "Compute Failed" in logs
    assert "on purpose" in logs
    assert KEY not in logs
    assert KEY not in repr(
        dask.run_on_scheduler(lambda dask_scheduler: [repr(t) for t in dask_scheduler.tasks.values()])
    )
    assert KEY not in repr(future.exception())


def test_a_limit_holds_where_workers_send(app: ai.App, endpoint: Endpoint, dask: distributed.Client):
    app.limit("thirty", requests=30, per=1.0)
    engine = opened(dask, 32)
    answers = ask_all(app, engine.send, texts(90), gate=32, retries=2)
    close(app, engine)
    assert not any(isinstance(answer, Error) for answer in answers)
    times = sorted(call.time for call in endpoint.calls)
    assert len(times) == 90
    assert all(later - first > 1.0 for first, later in zip(times, times[30:], strict=False))
    assert times[-1] - times[0] < 20.0, "and it is used: three seconds on a quiet machine"


def test_a_process_whose_clock_is_not_known_is_asked_first(
    app: ai.App, endpoint: Endpoint, processes: ProcessPoolExecutor
):
    app.limit("many", requests=1000, per=60.0)
    counting = Counting(processes)
    engine = opened(counting, 8)
    answers = ask_all(app, engine.send, texts(24), gate=8)
    close(app, engine)
    assert not any(isinstance(answer, Error) for answer in answers)
    assert endpoint.count == 24
    assert sum(counting.chunks) > 24, "some went there twice, and were sent once"
    assert statuses(app)["ok"] == 24


@pytest.mark.parametrize("replaced", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_dask_worker_that_is_killed(app: ai.App, endpoint: Endpoint, replaced: bool):
    """Everything finishes; at most two chunks are paid again, each request with a row of its own."""
    endpoint.reply(lambda call: Answer(call.body["messages"][0]["content"], delay=0.1))
    count, concurrency, chunk = 300, 32, 8
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
    ) as cluster:
        for nanny in cluster.workers.values():
            nanny.auto_restart = replaced
        with distributed.Client(cluster, set_as_default=False) as client:
            pids = list(client.run(os.getpid).values())
            engine = opened(client, concurrency)

            async def kill() -> None:
                await asyncio.to_thread(endpoint.wait, lambda e: e.count >= count // 2)
                os.kill(pids[0], signal.SIGKILL)

            killing = app.loop.submit(kill())
            answers = ask_all(app, engine.send, texts(count), gate=concurrency, retries=5)
            killing.result()
            close(app, engine)
    assert answers == texts(count)
    sent = asked(endpoint)
    rows: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for text, status in app.ledger.sql("SELECT request->>'$.messages[0].content', status FROM calls").fetchall():
        rows[text][status] += 1
    assert set(sent) == set(texts(count))
    for text, times in sent.items():
        assert rows[text]["ok"] == 1
        assert times <= rows[text].total(), "everything that was sent has a row of its own"
    lost = statuses(app)["error"]
    assert 0 < lost <= 2 * chunk
    assert endpoint.count - count <= lost
    errors = app.ledger.sql("SELECT DISTINCT error_message FROM calls WHERE status = 'error'").fetchall()
    assert all("that sent it is gone" in error for (error,) in errors), errors


def test_without_a_worker_it_says_so_and_a_new_one_is_used(
    app: ai.App, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remote, "FINDS_WORKERS", 0.1)
    with distributed.LocalCluster(
        n_workers=0, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
    ) as cluster:
        with distributed.Client(cluster, set_as_default=False) as client:
            engine = opened(client)
            (error,) = ask_all(app, engine.send, ["Hello"], retries=0)
            assert isinstance(error, UnreachableError)
            assert error.message == f"no Dask worker is at {cluster.scheduler_address}"
            assert error.retryable
            assert "dask worker" in error.cure
            assert endpoint.count == 0
            monkeypatch.setattr(remote, "FINDS_WORKERS", 20.0)
            cluster.scale(1)
            (answer,) = ask_all(app, engine.send, ["Hello"], retries=0)
            assert "Hello" in answer
            close(app, engine)
