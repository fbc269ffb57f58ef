"""What happens to a process and to the loops in it, by name, while calls are under way: see `PROMISE`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai.errors import CanceledError
from ipyconvexai.testing import Answer, Endpoint
from ipyconvexai.testing.received import Received
from tests.promises.children import Child, Say
from tests.promises.promising import Figure

PROMISE = "forks, signals, an end with calls under way, closed event loops: nothing acknowledged is lost, nothing hangs"

SOON = 15.0  # seconds to end in, on a machine that has other work; it takes one or two
NEVER = 60.0  # seconds for an answer that nobody waits for to the end
MODEL = "openai:gpt-4o-mini"


def never_or_at_once(call: Received) -> Answer | None:
    if "slow" not in call.prompt:
        return None
    return Answer("word " * 200, delay=0 if call.body.get("stream") else NEVER, token_delay=1)


def statuses(app: ai.App) -> dict[str, str]:
    """The status of each question; "twice" where there are two calls of it."""
    sql = (
        "SELECT json_extract_string(requests.body, '$.messages[0].content'), status FROM requests JOIN calls USING (id)"
    )
    found: dict[str, str] = {}
    for text, status in app.ledger.sql(sql).fetchall():
        found[text] = "twice" if text in found else status
    return found


def wait_for_statuses(app: ai.App, wanted: dict[str, set[str]]) -> None:
    ends = time.monotonic() + SOON
    while not is_as(found := statuses(app), wanted):
        assert time.monotonic() < ends, found
        time.sleep(0.05)


def is_as(found: dict[str, str], wanted: dict[str, set[str]]) -> bool:
    return found.keys() == wanted.keys() and all(found[text] in allowed for text, allowed in wanted.items())


# ------------------------------------------------------------------------------------------ a fork
def fork_while_calls_are_under_way(say: Say, ledger: str, how: str) -> None:
    """Ask from four threads, fork once all have asked, ask in both processes; says the answers."""
    app = ai.connect(ledger, model=MODEL)
    app.generate("before")
    answers: list[str] = []
    threads = [threading.Thread(target=lambda n=n: answers.append(app.generate(f"held {n}").text)) for n in range(4)]
    for thread in threads:
        thread.start()
    say("asking")
    while app.ledger.sql("SELECT count(*) FROM calls WHERE status = 'sending'").fetchall()[0][0] < 4:
        time.sleep(0.01)
    say(FORKS[how]())
    say("let them go")
    for thread in threads:
        thread.join()
    say(sorted(answers))
    say(app.generate("parent").text)
    app.close()


def by_os_fork() -> int:
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        ask_in_child()
    except BaseException:
        os._exit(1)
    os._exit(0)


def by_os_fork_and_a_full_end() -> int:
    """The child ends as an interpreter does: what is registered at exit runs in it, too."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    import atexit

    ask_in_child()
    atexit._run_exitfuncs()
    os._exit(0)


def by_multiprocessing() -> int:
    child = multiprocessing.get_context("fork").Process(target=ask_in_child)
    child.start()
    child.join()
    return child.exitcode or 0


def ask_in_child() -> None:
    assert ai.generate("child").text == "echo: child"
    assert list(ai.stream("child streams"))
    assert asyncio.run(ai.agenerate("child awaits")).text == "echo: child awaits"


FORKS = {"os": by_os_fork, "os, full end": by_os_fork_and_a_full_end, "multiprocessing": by_multiprocessing}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")
@pytest.mark.parametrize("how", FORKS)
def test_a_fork_with_calls_in_flight(endpoint: Endpoint, tmp_path: Path, how: str, figure: Figure):
    ledger = str(tmp_path / "ledger.duckdb")
    held = [f"held {number}" for number in range(4)]
    endpoint.reply(lambda call: Answer(f"echo: {call.prompt}", delay=1.0) if call.prompt in held else None)
    with Child(fork_while_calls_are_under_way, ledger, how) as parent:
        assert parent.hear() == "asking"
        began = time.monotonic()
        assert parent.hear() == 0, "the child failed"
        took = time.monotonic() - began
        assert parent.hear() == "let them go"
        assert parent.hear() == [f"echo: {text}" for text in held]
        assert parent.hear() == "echo: parent"
        assert parent.wait() == 0
    asked = ["before", *held, "child", "child streams", "child awaits", "parent"]
    with ai.connect(ledger) as app:
        assert statuses(app) == dict.fromkeys(asked, "ok")
    figure(f"a fork ({how}) with 4 calls in flight: all answered once, in both processes; {took:.1f} s")


# ------------------------------------------------------------------------------------------ signals
def take_signals(say: Say, ledger: str, seed: int, tries: int) -> None:
    """Two threads ask while the main thread, which asks too, is interrupted and alarmed; says what came of it.

    An alarm's handler asks, too: that may be what Ctrl-C interrupts.
    """
    dice = random.Random(seed)
    app = ai.connect(ledger, model=MODEL)
    app.generate("first")
    beside: list[str] = []
    over = threading.Event()

    def ask(thread: int) -> None:
        number = 0
        while not over.is_set():
            number += 1
            beside.append(app.generate(f"thread {thread} {number}").text)

    alarms: list[str] = []

    def handle(*_: object) -> None:
        alarms.append(f"in a handler {len(alarms)}")
        app.generate(alarms[-1])

    signal.signal(signal.SIGALRM, handle)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    interrupted = 0
    for number in range(tries):
        signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.01, 0.08))
        killer = threading.Timer(dice.uniform(0.02, 0.1), os.kill, (os.getpid(), signal.SIGINT))
        try:
            killer.start()
            app.generate(f"slow {number}")
        except KeyboardInterrupt:
            interrupted += 1
        killer.join()
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert app.generate(f"after {number}").text == f"echo: after {number}"
    over.set()
    for thread in threads:
        thread.join()
    say((interrupted, len(alarms), len(beside)))
    app.close()


def test_two_threads_and_two_signals_at_once(endpoint: Endpoint, tmp_path: Path, figure: Figure):
    seed, tries = random.randrange(1_000_000), 10
    ledger = str(tmp_path / "ledger.duckdb")
    endpoint.reply(never_or_at_once)
    with Child(take_signals, ledger, seed, tries) as child:
        interrupted, alarms, beside = child.hear()
        assert child.wait() == 0, f"seed {seed}"
    assert interrupted == tries, f"seed {seed}"
    with ai.connect(ledger) as app:
        found = statuses(app)
    assert {status for text, status in found.items() if text.startswith("slow")} <= {"interrupted", "canceled"}
    handled = [status for text, status in found.items() if text.startswith("in a handler")]
    assert 0 < len(handled) <= alarms, f"seed {seed}"
    assert set(handled) <= {"ok", "interrupted", "canceled"}, f"seed {seed}"
    rest = {text: status for text, status in found.items() if not text.startswith(("slow", "in a handler"))}
    assert set(rest.values()) == {"ok"}, f"seed {seed}"
    assert "sending" not in found.values(), f"seed {seed}"
    figure(
        f"{interrupted} Ctrl-C and {alarms} alarms, of which {handled.count('ok')} asked and had their answer, in the"
        f" main thread: {beside} calls of 2 other threads undisturbed"
    )


# ------------------------------------------------------------------------------------------ the interpreter's end
BEGIN = """
import atexit, os, signal, sys, threading, time
import ipyconvexai as ai
NAME = sys.argv[1]
SLOW = f"{NAME}: slow"
print(ai.generate(f"{NAME}: told").text, flush=True)
def ask(text=SLOW):
    try:
        ai.generate(text)
    except ai.errors.Error as error:
        print(type(error).__name__, flush=True)
def beside(daemon=True):
    threading.Thread(target=ask, daemon=daemon).start()
"""
ENDS = {
    "an exception at top level": "beside(); sys.stdin.read(1); raise ZeroDivisionError('of the user')",
    "a client's stream left open": """
        client = ai.OpenAI()
        message = {"role": "user", "content": SLOW}
        stream = client.chat.completions.create(model="m", messages=[message], stream=True)
        next(stream); sys.stdin.read(1); sys.exit(3)""",
    "SIGTERM": "beside(); sys.stdin.read(1); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
    "a question at exit": "atexit.register(ask, 'never sent'); beside(); sys.stdin.read(1); sys.exit(3)",
    "a loop that runs": """
        import asyncio
        async def main():
            task = asyncio.create_task(ai.agenerate(SLOW))
            await asyncio.to_thread(sys.stdin.read, 1)
            sys.exit(3)
        asyncio.run(main())""",
}
FURTHER = {
    "sys.exit with a daemon thread": "beside(); sys.stdin.read(1); sys.exit(3)",
    "sys.exit with a thread": "beside(daemon=False); sys.stdin.read(1); sys.exit(3)",
    "a stream left open": "s = iter(ai.stream(SLOW)); next(s); sys.stdin.read(1); sys.exit(3)",
    "SIGTERM that is handled": """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
        beside(); sys.stdin.read(1); os.kill(os.getpid(), signal.SIGTERM); ask("never sent")""",
    "os._exit": "beside(); sys.stdin.read(1); os._exit(3)",
}
CODES = {"an exception at top level": 1, "SIGTERM": -signal.SIGTERM}
CANCELED = {"canceled", "interrupted", "unknown"}


@pytest.mark.parametrize(
    "ways", [pytest.param(ENDS, id="short"), pytest.param(ENDS | FURTHER, id="long", marks=pytest.mark.long)]
)
def test_the_interpreter_ends_with_work_in_flight(endpoint: Endpoint, ways: dict[str, str], figure: Figure):
    """All at once, for it is the starting of Python that takes time."""
    endpoint.reply(never_or_at_once)
    with contextlib.ExitStack() as stack:
        running = {name: stack.enter_context(start(name, code)) for name, code in ways.items()}
        endpoint.wait(lambda e: e.in_flight == len(ways), timeout=100)
        slowest = max(end(name, process) for name, process in running.items())
    with ai.connect() as app:
        wanted = {f"{name}: told": {"ok"} for name in ways} | {f"{name}: slow": CANCELED for name in ways}
        wait_for_statuses(app, wanted)
    figure(
        f"{len(ways)} ways to end with a call in flight: each answer kept, each call flagged; {slowest:.1f} s at most"
    )


def end(name: str, process: subprocess.Popen[str]) -> float:
    """Have it end, see that it does as it should; gives the seconds that took."""
    began = time.monotonic()
    try:
        said, errors = process.communicate("\n", timeout=SOON)
    finally:
        process.kill()
    assert said.startswith(f"echo: {name}: told\n"), name
    if name == "a question at exit":
        assert said.endswith("ConfigurationError\n"), (name, said)
    assert process.returncode == CODES.get(name, 3), (name, errors)
    if name == "an exception at top level":
        assert errors.endswith("ZeroDivisionError: of the user\n"), name
        assert "ipyconvexai" not in errors, name
    else:
        assert errors == "", (name, errors)
    return time.monotonic() - began


def start(name: str, code: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", BEGIN + textwrap.dedent(code), name]
    pipe = subprocess.PIPE
    environment = os.environ | {"IPYCONVEXAI_MODEL": MODEL}
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)


# ------------------------------------------------------------------------------------------ event loops
def test_loops_that_come_and_go(app: ai.App):
    async def ask(n: int) -> list[str]:
        return [reply.text for reply in await asyncio.gather(*(ai.agenerate(f"{n} {k}") for k in range(4)))]

    for n in range(3):
        assert asyncio.run(ask(n)) == [f"echo: {n} {k}" for k in range(4)]


def test_a_client_that_is_kept_from_loop_to_loop(app: ai.App, endpoint: Endpoint, figure: Figure):
    client = ai.AsyncOpenAI()

    async def ask(n: int) -> str:
        messages: Any = [{"role": "user", "content": f"{n}"}]
        stream = await client.chat.completions.create(model="m", messages=messages, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        answer = await client.chat.completions.create(model="m", messages=messages)
        assert answer.choices[0].message.content == text
        return text

    for n in range(5):
        assert asyncio.run(ask(n)) == f"echo: {n}"
    assert endpoint.stats()["connections"] <= 2
    figure(f"5 loops of the user's, one client: {endpoint.stats()['connections']} connections, 0 errors")


@pytest.mark.parametrize("what", ["generate", "stream", "client", "client's stream"])
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # of the user's own, which the loop dropped
def test_a_loop_closed_while_a_call_is_in_flight(
    app: ai.App, endpoint: Endpoint, what: str, caplog: pytest.LogCaptureFixture
):
    endpoint.reply(never_or_at_once)
    messages: Any = [{"role": "user", "content": "slow"}]

    async def ask() -> None:
        if what == "generate":
            await ai.agenerate("slow")
        elif what == "stream":
            async for _ in ai.stream("slow"):
                pass
        elif what == "client":
            await ai.AsyncOpenAI().chat.completions.create(model="m", messages=messages)
        else:
            async for _ in await ai.AsyncOpenAI().chat.completions.create(model="m", messages=messages, stream=True):
                pass

    async def until_sent() -> None:
        await asyncio.to_thread(endpoint.wait, lambda e: e.in_flight == 1)

    loop = asyncio.new_event_loop()
    task = loop.create_task(ask())
    loop.run_until_complete(until_sent())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    del task
    assert app.generate("after").text == "echo: after"
    assert asyncio.run(ai.agenerate("after, too")).text == "echo: after, too"
    app.close()
    with ai.connect(app.store.path) as again:
        wait_for_statuses(again, {"slow": CANCELED, "after": {"ok"}, "after, too": {"ok"}})
    ours = [record.message for record in caplog.records if record.name.startswith("ipyconvexai")]
    assert ours == []


def test_the_background_loop_stopped_by_somebody(app: ai.App, endpoint: Endpoint, caplog: pytest.LogCaptureFixture):
    endpoint.reply(lambda call: Answer("late", delay=0.3) if call.prompt == "waits" else None)
    answers: list[str] = []
    waiting = threading.Thread(target=lambda: answers.append(ai.generate("waits").text))
    waiting.start()
    endpoint.wait(lambda e: e.in_flight == 1)
    loop = app.loop.loop
    with caplog.at_level(logging.ERROR):
        loop.call_soon_threadsafe(loop.stop)
        assert ai.generate("after").text == "echo: after"
    waiting.join(SOON)
    assert answers == ["late"]
    assert "stopped the background loop" in caplog.text


def test_an_app_closed_on_its_own_loop_hangs_nobody(endpoint: Endpoint, tmp_path: Path):
    endpoint.reply(never_or_at_once)
    app = ai.connect(str(tmp_path / "ledger.duckdb"), model=MODEL)
    app.generate("before")
    seen: list[BaseException] = []

    def ask() -> None:
        try:
            app.generate("slow")
        except BaseException as error:
            seen.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    endpoint.wait(lambda e: e.in_flight == 1)
    app.loop.loop.call_soon_threadsafe(app.close)
    thread.join(SOON)
    assert not thread.is_alive()
    assert [type(error) for error in seen] == [CanceledError]
    with ai.connect(str(tmp_path / "ledger.duckdb")) as again:
        wait_for_statuses(again, {"before": {"ok"}, "slow": CANCELED})
