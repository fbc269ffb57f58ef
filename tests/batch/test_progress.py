"""What a batch shows while it runs: counts, pace, states, and the screens without a notebook."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from typing import Any

import pyte
import pytest

from ipyconvexai.batch.asks import Done, Result
from ipyconvexai.batch.bars import LogLines, TerminalLine, terminal_or_log
from ipyconvexai.batch.control import Control
from ipyconvexai.batch.panel import DEAF, _click, _Widgets
from ipyconvexai.batch.progress import Progress, View
from ipyconvexai.errors import CallError, CanceledError
from ipyconvexai.hearing import Ear
from ipyconvexai.values import Wait

ANSWER = Done("text", "id", input_tokens=100, cached_tokens=20, output_tokens=30, cost=0.001)
HOSTILE = "limit \x1b[31m<img src=x onerror=alert(1)>\nsecond\u202e line $0.12 and $0.50"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Seen:
    """A screen that keeps what it is given."""

    def __init__(self) -> None:
        self.views: list[View] = []
        self.ends: list[str] = []

    def show(self, view: View) -> None:
        self.views.append(view)

    def end(self, text: str) -> None:
        self.ends.append(text)


class Batch:
    """A progress with a clock and a screen of the test's own."""

    def __init__(self, total: int | None = 100, known: int = 0, **options: Any) -> None:
        self.clock, self.seen, self.control = Clock(), Seen(), Control()
        self.bar = Progress(True, "summarize", self.control, clock=self.clock, screen=self.seen, **options)
        self.bar.begin(total, known)

    def settle(self, count: int, result: Result | None = None) -> None:
        for _ in range(count):
            self.bar.settled(result or Result.of(ANSWER))

    def later(self, seconds: float) -> View:
        """What is seen after some time."""
        self.clock.now += seconds
        self.bar.draw()
        return self.seen.views[-1]

    def end(self) -> str:
        self.bar.close()
        [text] = self.seen.ends
        return text


def failed(code: str = "server", request_id: str | None = "id") -> Result:
    return Result.of(Done(request_id=request_id, error=CallError("no", cure="Wait.", code=code)))


# ---------------------------------------------------------------------------------------------- counts
def test_a_line_has_all_counts():
    batch = Batch(total=1200, known=100)
    batch.bar.draw()
    batch.settle(50)
    batch.settle(2, failed())
    view = batch.later(1)
    assert view.rows == "summarize: 152 of 1,200 rows"
    assert view.counts == "100 from the ledger · 6,500 tokens (1,000 cached) · $0.0500 · 2 errors"
    assert (view.done, view.total, view.phase, view.state) == (152, 1200, "running", "")
    assert view.line.startswith("summarize: 152 of 1,200 rows · 52 rows/s · 20 s left · 100 from the ledger · ")


def test_nobody_knows_the_total():
    batch = Batch(total=None)
    batch.bar.more(20_000, 12_000, done=300)
    batch.settle(100)
    view = batch.later(1)
    assert view.rows == "summarize: 12,400 rows so far"
    assert view.total is None
    assert "left" not in view.pace
    batch.settle(7_600)
    assert batch.end().startswith("summarize: 20,000 rows · 12,000 from the ledger · ")


def test_an_input_may_have_many_rows_and_is_paid_once():
    batch = Batch(total=10)
    batch.bar.settled(Result.of(ANSWER), rows=9)
    view = batch.later(1)
    assert (view.done, view.counts) == (9, "130 tokens (20 cached) · $0.001")


def test_what_was_known_costs_nothing_and_is_no_part_of_the_rate():
    batch = Batch(total=10)
    batch.bar.draw()
    batch.settle(4, Result.of(Done("text", "id", 100, 20, 30, 0.001, known=True)))
    view = batch.later(1)
    assert (view.done, view.counts, view.pace) == (4, "4 from the ledger", "")


def test_rows_that_were_given_up_are_no_errors_and_not_done():
    batch = Batch(total=10)
    batch.settle(4)
    batch.settle(5, Result(error=CanceledError("canceled", cure="Go on.")))
    batch.settle(1, failed("budget"))
    view = batch.later(1)
    assert (view.done, view.counts) == (4, "520 tokens (80 cached) · $0.004 · 6 not sent")


@pytest.mark.parametrize(
    ("cost", "text"), [(1e-9, "less than $0.000001"), (0.00012, "$0.00012"), (1.5, "$1.5000"), (1234.5, "$1,234.50")]
)
def test_money_is_short(cost: float, text: str):
    batch = Batch()
    batch.settle(1, Result.of(Done("text", "id", cost=cost)))
    assert batch.later(1).counts == text


# ---------------------------------------------------------------------------------------------- pace
def test_the_rate_is_of_the_last_seconds():
    batch = Batch(total=10_000)
    batch.bar.draw()
    for _ in range(60):  # a minute at 100 a second, then half a minute at 10
        batch.settle(100)
        batch.later(1)
    assert batch.seen.views[-1].pace == "100 rows/s · 40 s left"
    for _ in range(30):
        batch.settle(10)
        batch.later(1)
    assert batch.seen.views[-1].pace == "10 rows/s · 6 min left"


def test_a_slow_rate_is_taken_from_several_rows():
    batch = Batch(total=100)
    batch.bar.draw()
    for _ in range(15):
        batch.later(5)
        batch.settle(1)
        batch.later(5)
    for view in batch.seen.views[9:]:
        assert 5.5 <= float(view.pace.split(" ")[0]) <= 6.6, view.pace  # never 0, never 12
        assert "rows/min" in view.pace


def test_no_rate_and_no_time_left_while_nothing_is_known():
    batch = Batch()
    batch.bar.draw()
    assert batch.later(5).pace == ""


def test_a_pause_is_no_part_of_the_rate():
    batch = Batch(total=1000)
    batch.bar.draw()
    batch.settle(20)
    assert batch.later(1).pace.startswith("20 rows/s")
    batch.control.pause()
    assert batch.later(600).pace == ""
    batch.control.resume()
    batch.later(1)
    batch.settle(30)
    assert batch.later(1).pace == "30 rows/s · 32 s left"


# ---------------------------------------------------------------------------------------------- states
def test_a_wait_counts_down_and_goes():
    batch = Batch()
    batch.bar.wait(Wait("", "limit x is reached", 12, batch.clock.now + 12))
    assert batch.later(1).state == "waiting 11 s: limit x is reached"
    assert batch.later(5).state == "waiting 6 s: limit x is reached"
    batch.bar.say("waiting for the provider's batch: 120 of 200")
    batch.bar.wait(None)
    assert batch.later(1).state == "waiting for the provider's batch: 120 of 200"
    batch.bar.say(None)
    batch.bar.wait(Wait("", "limit x is reached", 3, batch.clock.now + 3))
    assert batch.later(4).state == ""


def test_pausing_and_canceling_say_what_is_under_way():
    batch = Batch()
    flying = 3
    batch.bar.in_flight = lambda: flying
    batch.later(1)
    batch.control.pause()
    assert batch.later(0).state == "paused: 3 are still being answered", "drawn at once"
    flying = 0
    assert batch.later(1).state == "paused"
    flying = 1
    batch.control.cancel()
    view = batch.later(0)
    assert (view.phase, view.state) == ("canceling", "canceling: 1 is still being answered")


def test_names_are_plain_text_in_one_line():
    batch = Batch()
    batch.bar.wait(Wait("", HOSTILE, 12, batch.clock.now + 12))
    assert batch.later(2).state == "waiting 10 s: limit <img src=x onerror=alert(1)> second line $0.12 and $0.50"
    batch.bar.wait(Wait("", "x" * 5000, 12, batch.clock.now + 12))
    assert len(batch.later(2).state) < 330


# ---------------------------------------------------------------------------------------------- when
def test_at_most_four_drawings_a_second():
    batch = Batch(total=10_000)
    for _ in range(200):  # ten seconds
        batch.settle(3)
        batch.clock.now += 0.05
        batch.bar.draw()
    assert 30 <= len(batch.seen.views) <= 40


def test_what_is_done_at_once_is_one_line():
    batch = Batch(total=3)
    batch.bar.draw()
    batch.settle(3)
    batch.clock.now += 0.4
    batch.bar.draw()
    batch.clock.now += 5  # its documents are still being written
    batch.bar.draw()
    assert batch.seen.views == []
    assert batch.end() == "summarize: 3 of 3 rows · 390 tokens (60 cached) · $0.003 · 5.4 s"


@pytest.mark.parametrize(
    ("total", "known", "line"),
    [(0, 0, "summarize: 0 rows · 1.0 s"), (7, 7, "summarize: 7 of 7 rows · 7 from the ledger · 1.0 s")],
)
def test_nothing_to_do_is_one_line(total: int, known: int, line: str):
    batch = Batch(total=total, known=known)
    batch.clock.now += 1
    batch.bar.draw()
    assert batch.seen.views == []
    assert batch.end() == line


def test_nothing_is_shown_where_nobody_wants_it_or_nothing_began():
    seen, clock = Seen(), Clock()
    early = Progress(True, clock=clock, screen=seen)
    early.draw()
    early.close()
    quiet = Progress(False, clock=clock, screen=seen)
    quiet.begin(3, 0)
    clock.now += 3
    quiet.draw()
    quiet.stopped("why")
    quiet.close()
    assert (seen.views, seen.ends) == ([], [])


# ---------------------------------------------------------------------------------------------- the end
def test_an_end_before_its_time_says_how_to_go_on():
    batch = Batch(total=200, known=12)
    batch.settle(5)
    batch.settle(1, failed())
    batch.bar.stopped()
    line, message = batch.end().split("\n")
    assert line == "summarize: 18 of 200 rows · 12 from the ledger · 650 tokens (100 cached) · $0.005 · 1 error · 0.0 s"
    assert message == "Stopped: 17 of 200 rows are in the ledger. Run it again to go on."


def test_a_message_of_the_batch_is_told_as_plain_text():
    batch = Batch()
    batch.bar.stopped(f"the budget of $0.10 is spent: {HOSTILE}")
    assert batch.end().split("\n")[1] == (
        "the budget of $0.10 is spent: limit <img src=x onerror=alert(1)> second line $0.12 and $0.50"
    )


def test_a_canceled_batch_says_so():
    batch = Batch(total=100)
    batch.settle(4)
    batch.control.cancel()
    line, message = batch.end().split("\n")
    assert line.endswith(" · canceled · 0.0 s")
    assert message == "Canceled: 4 of 100 rows are in the ledger. Run it again to go on."


def test_a_cancel_that_comes_too_late_is_none():
    batch = Batch(total=2)
    batch.settle(2)
    batch.control.cancel()
    assert "ancel" not in batch.end()


def test_an_error_leaves_it_not_finished():
    batch = Batch(total=2)
    batch.settle(1)
    assert batch.end() == "summarize: 1 of 2 rows · 130 tokens (20 cached) · $0.001 · not finished · 0.0 s"


def test_the_end_is_the_end():
    batch = Batch()
    batch.end()
    batch.settle(1)
    batch.clock.now += 5
    batch.bar.draw()
    batch.bar.close()
    assert (batch.seen.views, len(batch.seen.ends)) == ([], 1)


def test_what_cannot_be_drawn_ends_no_batch():
    class Broken:
        calls = 0

        def show(self, view: View) -> None:
            self.calls += 1
            raise OSError("the terminal is gone")

        def end(self, text: str) -> None:
            self.calls += 1

    broken, clock = Broken(), Clock()
    bar = Progress(True, clock=clock, screen=broken)
    bar.begin(10, 0)
    for _ in range(3):
        clock.now += 1
        bar.draw()
    bar.close()
    assert broken.calls == 1


# ---------------------------------------------------------------------------------------------- log files
def view(done: int, total: int | None = 100, phase: str = "running", state: str = "") -> View:
    return View(phase, done, total, f"summarize: {done} of {total} rows", "9 rows/s", "5 tokens", state)


def test_a_log_has_a_line_every_ten_seconds_or_tenth():
    out, clock = io.StringIO(), Clock()
    log = LogLines(out, clock)
    for second in range(1, 41):  # half a row a second
        clock.now += 1
        log.show(view(second // 2))
    lines = out.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["5", "10", "15", "20"]
    assert lines[0] == "summarize: 5 of 100 rows · 9 rows/s · 5 tokens"
    for done in (20, 31, 42, 53):
        clock.now += 1.5
        log.show(view(done))
    clock.now += 0.5
    log.show(view(80))  # too soon
    log.show(view(80, phase="paused", state="paused"))
    log.end("summarize: the end\nand why")
    assert out.getvalue().splitlines()[4:] == [
        *[f"summarize: {done} of 100 rows · 9 rows/s · 5 tokens" for done in (31, 42, 53)],
        "summarize: 80 of 100 rows · paused · 9 rows/s · 5 tokens",
        "summarize: the end",
        "and why",
    ]
    assert "\r" not in out.getvalue()


def test_a_log_in_another_alphabet_is_written_all_the_same():
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    LogLines(out, Clock()).end("12 rows · more")
    assert raw.getvalue() == b"12 rows ? more\n"


CELL = """
import sys
from ipyconvexai.batch.progress import Progress
from ipyconvexai.batch.asks import Done, Result
now = 0.0
bar = Progress(True, clock=lambda: now)
bar.begin(40, 0)
for n in range(40):
    now += 0.5
    bar.settled(Result.of(Done("text", "id", 1, 0, 1, 0.001)))
    bar.draw()
print("printed")
bar.close()
print(sorted(set(sys.modules) & {"IPython", "ipywidgets", "tqdm"}))
"""


def test_a_pipe_gets_lines_on_the_error_stream_and_no_warning():
    ran = subprocess.run([sys.executable, "-W", "error", "-c", CELL], capture_output=True, text=True, check=True)
    lines = ran.stderr.splitlines()
    assert lines[-1] == "summarize: 40 of 40 rows · 80 tokens · $0.0400 · 20.0 s"
    assert len(lines) == 10
    assert all(line.startswith("summarize: ") for line in lines)
    assert ran.stdout == "printed\n[]\n", "nothing heavy is loaded for lines"


def test_a_program_without_an_error_stream_goes_on():
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys\nsys.stderr = None\n{CELL}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout == "printed\n[]\n"


# ---------------------------------------------------------------------------------------------- terminals
class Terminal:
    """A terminal of 60 columns that somebody looks at."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 60, 0, 0))
        self.out = os.fdopen(slave, "w", encoding="utf-8")
        self._screen = pyte.Screen(60, 10)
        self._stream = pyte.ByteStream(self._screen)

    def lines(self) -> list[str]:
        os.set_blocking(self._master, False)
        try:
            while data := os.read(self._master, 65536):
                self._stream.feed(data)
        except BlockingIOError:
            pass
        return [line.rstrip() for line in self._screen.display if line.strip()]

    def close(self) -> None:
        self.out.close()
        os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


def test_a_terminal_has_one_line_that_is_written_over(terminal: Terminal):
    screen = terminal_or_log(Clock(), terminal.out)
    assert isinstance(screen, TerminalLine)
    threads = threading.active_count()
    for done in (10, 50, 100):
        screen.show(view(done, state="waiting 12 s: " + "the limit " * 20))
        [line] = terminal.lines()
        assert line.startswith(f"{done:3}% ")
        assert f"summarize: {done} of 100 rows · waiting 12 s" in line
        assert len(line) <= 60
    assert threading.active_count() == threads
    screen.end("summarize: 100 of 100 rows · 2 s\nwhy")
    assert terminal.lines() == ["summarize: 100 of 100 rows · 2 s", "why"]


def test_a_terminal_shows_an_unknown_total(terminal: Terminal):
    screen = TerminalLine(terminal.out)
    screen.show(view(10, None))
    screen.show(view(20, None))
    assert terminal.lines() == ["summarize: 20 of None rows · 9 rows/s · 5 tokens"]
    screen.end("end")
    assert terminal.lines() == ["end"]


def test_a_quick_batch_is_one_line_of_a_terminal(terminal: Terminal):
    TerminalLine(terminal.out).end("summarize: 0 rows · 0.0 s")
    assert terminal.lines() == ["summarize: 0 rows · 0.0 s"]


# ---------------------------------------------------------------------------------------------- the panel's parts
def test_a_kernel_that_hears_nothing_does_not_pretend():
    widgets = _Widgets(Control())
    widgets.set(view(1))
    assert [(button.disabled, button.tooltip) for button in widgets._buttons] == [(True, DEAF)] * 2
    widgets.close()


def test_a_panel_leaves_no_widget_behind():
    from ipywidgets.widgets.widget import _instances

    before = set(_instances)
    widgets = _Widgets(Control())
    widgets.set(view(1))
    assert len(_instances) > len(before) + 10
    widgets.close()
    assert set(_instances) == before


def test_labels_are_no_formulas():
    widgets = _Widgets(None)
    widgets.set(view(1, state="$a$ " * 40))
    assert widgets._buttons == []
    first, second, third = widgets._state
    assert f"{first.value} {second.value} {third.value}" == ("$a$ " * 40).strip()
    widgets.set(view(1, state="$a$ " * 20))
    assert [label.layout.display for label in widgets._state] == [None, None, "none"]
    for label in (first, second, third, widgets._rows, widgets._counts):
        assert {"mathjax_ignore", "tex2jax_ignore"} <= set(label._dom_classes)
    widgets.set(view(1))
    assert {(label.value, label.layout.display) for label in widgets._state} == {("", "none")}
    widgets.close()


class Comm:
    """As ipykernel 7.4 has it."""

    def _reply_subshell_for(self, data: Any, default: str | None) -> str | None:
        return None  # the busy cell's


class Button:
    def __init__(self) -> None:
        self.comm = Comm()

    def on_click(self, clicked: Any) -> None:
        self.click = clicked


CLICK = {"method": "custom", "content": {"event": "click"}}


def test_a_click_is_heard_once_whichever_way_it_comes():
    button, pressed = Button(), [0]

    def press() -> None:
        pressed[0] += 1

    ear = Ear(button.comm, _click, lambda _: press())
    button.on_click(ear.in_turn)
    route = button.comm._reply_subshell_for
    assert route(CLICK, "beside") == "beside", "the front end's own thread"
    assert pressed == [0]
    button.click(button)
    assert pressed == [1]
    assert route(CLICK, None) is None  # a front end without subshells: heard on its way ...
    assert pressed == [2]
    button.click(button)  # ... and delivered after the cell
    assert pressed == [2]
    route({"method": "update", "state": {}}, None)
    route(None, None)
    assert pressed == [2]
