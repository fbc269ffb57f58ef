"""Code that runs too long is stopped, and nothing is ever raised after it was left."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ipyconvexai import deadlines, guard
from ipyconvexai.deadlines import Deadline, Stopped, Watchdog

LONG = 60.0  # seconds that no test waits for


def spin() -> None:
    """Computes for ever, and catches what user code catches."""
    n = 0
    while True:
        try:
            while True:
                n += 1
        except Exception:
            pass


def count(steps: int) -> int:
    n = 0
    for _ in range(steps):
        n += 1
    return n


def look(watchdog: Watchdog) -> float:
    """As its own thread would: elsewhere, or the exception could end the look."""
    found: list[float] = []
    in_thread(lambda: found.append(watchdog.look()))
    return found[0]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watchdog(clock: Clock) -> Watchdog:
    return Watchdog(clock, threaded=False)


@pytest.fixture
def quick_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def in_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_in_time():
    deadline = Deadline(LONG)
    assert deadline.run(divmod, 7, 2) == (3, 1)
    assert not deadline.expired
    assert deadline.reason is None
    with pytest.raises(ZeroDivisionError):
        Deadline(LONG).run(lambda: 1 / 0)


def test_a_spin_is_stopped_and_who_waits_released():
    released = threading.Event()
    deadline = Deadline(0.05, released.set)
    began = time.monotonic()
    with pytest.raises(Stopped) as caught:
        deadline.run(spin)
    assert 0.05 <= time.monotonic() - began < 2
    assert deadline.expired
    assert released.wait(2)
    assert caught.traceback[-1].name == "spin", "the traceback tells where it was"


def test_who_waits_is_released_while_c_code_blocks():
    released = threading.Event()
    with pytest.raises(Stopped):
        Deadline(0.02, released.set).run(released.wait, 10)
    assert released.is_set()


def test_an_exception_that_is_swallowed_comes_again():
    swallowed = 0

    def stubborn() -> None:
        nonlocal swallowed
        while swallowed < 2:
            try:
                spin()
            except BaseException:
                swallowed += 1

    deadline = Deadline(0.01)
    began = time.monotonic()
    with pytest.raises(Stopped):
        deadline.run(stubborn)
    assert swallowed == 2
    assert time.monotonic() - began < 10, "the second was the test's own time limit"


def test_the_limit_decides_also_where_the_code_ended_otherwise(clock, watchdog):
    """Swallowed at the end, or turned into another error: it was stopped."""

    def end(how: Callable[[], object]) -> None:
        clock.now += 2
        try:
            look(watchdog)
            count(100)
        except BaseException:
            how()

    for how in (lambda: None, lambda: 1 / 0):
        deadline = Deadline(1, watchdog=watchdog)
        with pytest.raises(Stopped):
            deadline.run(end, how)
        assert deadline.expired


def test_on_expire_is_called_once_and_may_fail(clock, watchdog, caplog):
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise ValueError("of the test")

    def look_often() -> None:
        clock.now += 2
        for _ in range(3):
            try:
                look(watchdog)
                count(10)
            except Stopped:
                clock.now += 1

    with pytest.raises(Stopped):
        Deadline(1, fail, watchdog=watchdog).run(look_often)
    assert calls == [1]
    patience = time.monotonic() + 10
    while "of the test" not in caplog.text:  # written by the thread that looked, which may not be done yet
        assert time.monotonic() < patience
        time.sleep(0.001)


def test_not_before_its_time(clock, watchdog):
    deadline = Deadline(1, watchdog=watchdog)

    def almost() -> float:
        clock.now += 0.999
        return look(watchdog)

    assert deadline.run(almost) == 101.0
    clock.now += 5
    look(watchdog)
    assert not deadline.expired, "it was left in time"


def test_time_in_a_pause_does_not_count(clock, watchdog):
    def work() -> None:
        clock.now += 0.5
        with deadline.pause():
            with deadline.pause():  # changes nothing
                clock.now += 10
                look(watchdog)
            clock.now += 10
            look(watchdog)
        clock.now += 0.499
        look(watchdog)

    deadline = Deadline(1, watchdog=watchdog)
    deadline.run(work)

    def more() -> None:
        work_of_pause()
        clock.now += 0.6
        look(watchdog)
        count(10)

    def work_of_pause() -> None:
        clock.now += 0.5
        with deadlines.paused():
            clock.now += 10

    deadline = Deadline(1, watchdog=watchdog)
    with pytest.raises(Stopped):
        deadline.run(more)


def test_nothing_is_raised_in_a_pause_but_at_its_end():
    steps: list[str] = []

    def work() -> None:
        with inner.pause():
            outer.interrupt()
            inner.interrupt()
            count(1000)
            steps.append("in the pause")
        steps.append("after it")

    outer, inner = Deadline(LONG), Deadline(LONG)
    with pytest.raises(Stopped):
        outer.run(inner.run, work)
    assert steps == ["in the pause"]


def test_a_pause_does_not_begin_when_it_is_over(clock, watchdog):
    def work() -> None:
        clock.now += 2
        try:
            look(watchdog)
            count(10)
        except Stopped:
            pass
        with deadlines.paused():
            began.append(1)

    began: list[int] = []
    with pytest.raises(Stopped):
        Deadline(1, watchdog=watchdog).run(work)
    assert not began


def test_a_pause_elsewhere_does_nothing():
    with deadlines.paused():
        pass
    deadline = Deadline(LONG)
    with deadline.pause():
        pass

    def work() -> None:
        def other() -> None:
            with deadline.pause():
                deadline.interrupt()
                time.sleep(0)

        in_thread(other)
        count(1000)
        pytest.fail("the thread of the function was not paused")

    with pytest.raises(Stopped):
        deadline.run(work)
    assert deadlines.current() is None


def test_nested_the_inner_first():
    def work() -> str:
        with pytest.raises(Stopped):
            inner.run(spin)
        assert deadlines.current() is outer
        return "went on"

    outer, inner = Deadline(LONG), Deadline(0.02)
    assert outer.run(work) == "went on"
    assert inner.expired
    assert not outer.expired


def test_nested_the_outer_first():
    def work() -> None:
        with pytest.raises(Stopped):
            inner.run(spin)
        count(10)

    outer, inner = Deadline(0.02), Deadline(LONG)
    with pytest.raises(Stopped):
        outer.run(work)
    assert outer.expired
    assert not inner.expired


def test_interrupt_says_why():
    deadline = Deadline(LONG)
    running = threading.Event()
    seen: list[BaseException] = []

    def tell_and_spin() -> None:
        running.set()
        spin()

    def work() -> None:
        try:
            deadline.run(tell_and_spin)
        except Stopped as stop:
            seen.append(stop)

    thread = threading.Thread(target=work)
    thread.start()
    assert running.wait(5)
    assert deadline.interrupt(KeyboardInterrupt)
    assert not deadline.interrupt(ValueError), "the first counts"
    thread.join(10)
    assert not thread.is_alive()
    assert len(seen) == 1
    assert deadline.reason is KeyboardInterrupt
    assert not deadline.expired


def test_interrupted_before_it_begins_it_does_not():
    deadline = Deadline(LONG)
    assert deadline.interrupt()
    ran: list[int] = []
    with pytest.raises(Stopped):
        deadline.run(ran.append, 1)
    assert not ran


def test_interrupt_after_the_end_does_nothing():
    deadline = Deadline(LONG)
    deadline.run(count, 1)
    assert not deadline.interrupt()
    count(1000)


def hammer(iterations: int, seed: int, leaks: list[str], ends: dict[str, int]) -> None:
    """Limits that end about where the code does; nested ones, pauses and interrupts from elsewhere, too."""
    chance = random.Random(seed)

    def limited(depth: int) -> None:
        count(chance.randrange(400))
        if depth:
            Deadline(chance.choice([0, 1e-5, LONG])).run(limited, depth - 1)
        if chance.random() < 0.3:
            with deadlines.paused():
                kept.append(count(chance.randrange(50)))
        count(chance.randrange(400))

    kept: list[int] = []
    try:
        for _ in range(iterations):
            deadline = Deadline(chance.choice([0, 1e-6, 1e-5, 3e-5, 1e-4]))
            try:
                deadline.run(limited, chance.randrange(3))
            except Stopped:
                ends["stopped"] = ends.get("stopped", 0) + 1
            else:
                ends["in time"] = ends.get("in time", 0) + 1
                if deadline.expired:
                    leaks.append("expired, and not said")
            try:
                count(30)
                len(str(kept[-1:]))
            except Stopped:
                leaks.append("after the block")
            if deadlines.current() is not None:
                leaks.append("still under a deadline")
    except Stopped:
        leaks.append("around the block")


@pytest.mark.usefixtures("quick_switches")
def test_nothing_leaks_however_close_the_end_is():
    leaks: list[str] = []
    ends: dict[str, int] = {}
    hammer(6_000, 1, leaks, ends)
    assert not leaks
    assert ends["stopped"] > 20
    assert ends["in time"] > 20


# Where hypothesis ran before in this process it measures the collector, in a callback that may be stopped, too.
@pytest.mark.filterwarnings("ignore:.*gc_callback:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("quick_switches")
def test_nothing_leaks_among_hundreds_of_threads():
    leaks: list[str] = []
    ends: dict[str, int] = {}
    threads = [threading.Thread(target=hammer, args=(20, seed, leaks, ends)) for seed in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not leaks
    assert ends["stopped"] > 20


def test_hundreds_that_spin_are_all_stopped_by_one_thread():
    ended: list[bool] = []

    def work() -> None:
        deadline = Deadline(0.05)
        try:
            deadline.run(spin)
        except Stopped:
            ended.append(deadline.expired)

    threads = [threading.Thread(target=work) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ended == [True] * 100
    assert [thread.name for thread in threading.enumerate()].count("ipyconvexai-deadlines") == 1


def test_ctrl_c_inside_leaves_nothing_behind():
    deadline = Deadline(LONG)
    with pytest.raises(KeyboardInterrupt):
        deadline.run(signal.raise_signal, signal.SIGINT)
    assert deadlines.current() is None
    assert not deadline.interrupt()


def test_begins_inside_a_mutation():
    """The watchdog's thread is not the function's own."""
    watchdog = Watchdog()
    with guard.inside("mutation", "m"):
        deadline = Deadline(0.01, watchdog=watchdog)
        with pytest.raises(Stopped):
            deadline.run(spin)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of a fork with threads, from Python 3.12 on
def test_after_a_fork_the_child_watches_for_itself():
    with pytest.raises(Stopped):
        Deadline(0.01).run(spin)  # this process has its thread
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # a child that is not stopped ends by this
        try:
            Deadline(0.02).run(spin)
        except Stopped:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_inside_stays_under_its_deadline():
    child = -1

    def fork_and_spin() -> None:
        nonlocal child
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            spin()

    deadline = Deadline(0.3)
    try:
        deadline.run(fork_and_spin)
    except Stopped:
        os._exit(7 if child == 0 and deadline.expired else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
