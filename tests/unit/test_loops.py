"""The background loop and the bridge to it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import threading
import warnings
from collections.abc import Iterator

import pytest

from ipyconvexai.errors import ConfigurationError, DeadlockError
from ipyconvexai.loops import BackgroundLoop


@pytest.fixture
def loop() -> Iterator[BackgroundLoop]:
    made = BackgroundLoop()
    yield made
    made.close()


async def answer() -> int:
    return 42


def test_it_starts_at_first_use_and_ends():
    threads = threading.active_count()
    loop = BackgroundLoop()
    assert not loop.is_running()
    assert loop.run(answer()) == 42
    assert loop.is_running()
    assert not loop.is_current()
    loop.close()
    assert threading.active_count() == threads
    assert not loop.is_running()


def test_errors_and_timeouts_come_through(loop: BackgroundLoop):
    async def fail() -> None:
        raise TimeoutError("its own")

    for tick in (None, lambda: None):
        with pytest.raises(TimeoutError, match="its own"):
            loop.run(fail(), tick=tick)


def test_from_many_threads(loop: BackgroundLoop):
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(loop.run(answer()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [42] * 8


def test_context_variables_travel(loop: BackgroundLoop):
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("mine")

    async def look() -> str:
        return variable.get()

    assert loop.run(look()) == "mine"


def test_a_call_on_the_loop_itself_raises(loop: BackgroundLoop):
    async def wait_for_itself() -> None:
        assert loop.is_current()
        loop.run(answer())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DeadlockError, match="await"):
            loop.run(wait_for_itself())
        gc.collect()


def test_an_interrupt_cancels_what_was_waited_for(loop: BackgroundLoop):
    told: list[str] = []
    cancelled = threading.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append("cancelled")
            cancelled.set()
            raise

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run(work(), on_interrupt=lambda: told.append("interrupted"), tick=interrupt)
    assert cancelled.wait(5)
    assert told == ["interrupted", "cancelled"]
    assert loop.run(answer()) == 42


def test_an_interrupt_before_the_loop_has_heard_of_it(loop: BackgroundLoop, monkeypatch: pytest.MonkeyPatch):
    loop.run(answer())
    soon, asked = loop._soon, []

    def interrupted_once(function: object) -> None:
        asked.append(function)
        if len(asked) == 1:
            raise KeyboardInterrupt
        soon(function)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "_soon", interrupted_once)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyboardInterrupt):
            loop.run(answer())
        gc.collect()
    assert len(asked) == 2


def test_closing_cancels_and_then_does_the_last_thing(loop: BackgroundLoop):
    order: list[str] = []
    started = threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            order.append("cancelled")

    async def last() -> None:
        order.append("last")

    future = loop.submit(work())
    started.wait(5)
    loop.close(last=last)
    assert order == ["cancelled", "last"]
    assert future.cancelled()


def test_after_closing_it_says_so(loop: BackgroundLoop):
    loop.close()
    loop.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConfigurationError, match="closed"):
            loop.run(answer())
        with pytest.raises(ConfigurationError, match="closed"):
            loop.submit(answer())
        gc.collect()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # that it is done is the point
def test_a_forked_child_starts_its_own(loop: BackgroundLoop):
    loop.run(answer())
    pid = os.fork()
    if pid == 0:
        os._exit(0 if loop.run(answer()) == 42 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert loop.run(answer()) == 42
