"""What a batch shows while it runs: rows, rate, tokens, money, errors, waits, time left.

Calls render; its screens (``panel`` in a notebook, ``bars`` elsewhere) at first use. Counting happens on the background
loop, drawing in the thread whose cell waits. Promises: one place on the screen for each batch, and one line that stays
at its end; a batch that is done at once shows that line alone; what cannot be drawn never ends a batch; whatever a
limit, a model or a provider is called comes out as plain text.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ipyconvexai import interrupts

if TYPE_CHECKING:
    from ipyconvexai.batch.asks import Result
    from ipyconvexai.batch.control import Control
    from ipyconvexai.values import Wait

__all__ = ["Progress", "Screen", "View"]

_log = logging.getLogger(__name__)

QUIET = 0.5  # seconds: what is done by then needs no bar
SPACING = 0.25  # seconds between drawings; a change of the state is drawn at once
RECENT = 10.0  # seconds that the rate is taken from, at least
RECENT_ROWS = 10  # and rows: a slow model's rate does not jump between nothing and something
LONGEST = 300  # characters of a text that is quoted
_PHASES = {"running": "running", "paused": "paused", "canceled": "canceling"}
_NOT_SENT = frozenset({"canceled", "budget"})  # codes of errors of rows that were given up before they were sent

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class View:
    """What is to be seen now. The texts are plain and one line each.

    `phase`: "running", "paused" or "canceling". `total`: None while nobody knows. `rows`: "summarize: 12 of 40 rows";
    `pace`: the rate and the time left; `counts`: tokens, money, errors; `state`: a wait, a pause, a note.
    """

    phase: str
    done: int
    total: int | None
    rows: str
    pace: str
    counts: str
    state: str

    @property
    def line(self) -> str:
        """All of it; what matters most comes first, as a terminal may be narrow."""
        return " · ".join(part for part in (self.rows, self.state, self.pace, self.counts) if part)


class Screen(Protocol):
    def show(self, view: View) -> None:
        """Called at most every ``SPACING`` seconds, and once more when the phase changes."""

    def end(self, text: str) -> None:
        """Put `text` in place of what is shown; nothing may have been shown before."""


class Progress:
    """The progress of one batch.

    ``begin``, ``more``, ``settled``, ``wait`` and ``say`` are for the loop, and cost next to nothing; ``draw``,
    ``stopped`` and ``close`` for the thread whose cell waits.

    Args:
        enabled: False shows nothing at all.
        title: what stands before the colon.
        control: what the buttons of a notebook press, and whose state is shown; None: no buttons.
        unit: what is counted, in the plural.
        screen: where it is drawn; None: where this process has one.

    Attributes:
        in_flight: tells how many requests are being answered, for "paused: 3 are still being answered".
    """

    def __init__(
        self,
        enabled: bool,
        title: str = "summarize",
        control: Control | None = None,
        *,
        unit: str = "rows",
        clock: Clock = time.monotonic,
        screen: Screen | None = None,
    ) -> None:
        self.in_flight: Callable[[], int] | None = None
        self._enabled = enabled
        self._title = _plain(title)
        self._unit = unit
        self._control = control
        self._clock = clock
        self._screen = screen
        self._count = _Count()
        self._pace = _Pace()
        self._begun: float | None = None
        self._not_before = float("-inf")
        self._drawn: str | None = None  # the phase that is on the screen
        self._wait: Wait | None = None
        self._note: str | None = None
        self._message = ""
        self._closed = False

    # ------------------------------------------------------------------------------------------ on the loop
    def begin(self, total: int | None, known: int) -> None:
        """`total` rows, None where nobody knows how many; `known` of them are answered already."""
        self._count.total, self._count.known, self._begun = total, known, self._clock()

    def more(self, total: int, known: int, done: int = 0) -> None:
        """A chunk of `total` rows was read; the total of ``begin`` stands. `known` of them are answered already, `done`
        others need no answer: empty cells, and rows equal to one that has its result."""
        self._count.read += total
        self._count.known += known
        self._count.spared += done

    def failed(self, rows: int) -> None:
        """So many of the rows that need no answer are errors: they hold no text."""
        self._count.fail(rows)

    def settled(self, result: Result, rows: int = 1) -> None:
        """An input, which `rows` rows have, has its result. One that nothing was sent for counts as known."""
        self._count.add(result, rows)

    def wait(self, wait: Wait | None) -> None:
        """A limit, or a provider's pause, makes a call wait; None: it goes on."""
        self._wait = wait

    def say(self, note: str | None) -> None:
        """A line of state, until the next one: "waiting for the provider's batch: 120 of 200"."""
        self._note = None if note is None else _plain(note)

    # ------------------------------------------------------------------------------------------ in the cell's thread
    def draw(self) -> None:
        """Draw what is due; called often."""
        if not self._enabled or self._closed or self._begun is None:
            return
        now, phase = self._clock(), self._phase()
        if now < self._not_before and phase == self._drawn:
            return
        self._not_before = now + SPACING
        self._pace.note(now, self._count.sent, moving=phase == "running")
        if self._drawn is None and (now - self._begun < QUIET or self._count.complete):
            return
        self._drawn = phase
        with self._unharmed():
            self._open().show(self._view(now, phase))

    def stopped(self, message: str | None = None) -> None:
        """It ended before its time: `message` says why and how to go on, below the last line. None: an interrupt's."""
        self._message = message or f"Stopped: {self._how_to_go_on()}"

    def forget_nothing(self) -> None:
        """After an error: where nothing was done, the error is all there is to say."""
        if self._count.done == 0:
            self._enabled = False

    def close(self) -> None:
        """Put one line that stays in place of what was shown. May be called again."""
        if not self._enabled or self._closed or self._begun is None:
            return
        self._closed = True
        with self._unharmed():
            self._open().end(self._last_words(self._clock() - self._begun))

    # ------------------------------------------------------------------------------------------ words
    def _phase(self) -> str:
        return _PHASES.get(self._control.state, "running") if self._control is not None else "running"

    def _view(self, now: float, phase: str) -> View:
        count = self._count
        rate = self._pace.rate() if phase == "running" else None
        left = None if rate is None or count.total is None else (count.total - count.done) / rate
        return View(
            phase=phase,
            done=count.done,
            total=count.total,
            rows=f"{self._title}: {count.rows(self._unit)}",
            pace=" · ".join([*_rate(rate, self._unit), *_left(left)]),
            counts=" · ".join(count.parts()),
            state=self._state(now, phase),
        )

    def _state(self, now: float, phase: str) -> str:
        if phase != "running":
            flying = self.in_flight() if self.in_flight is not None else 0
            return phase if flying < 1 else f"{phase}: {flying:,} {'is' if flying == 1 else 'are'} still being answered"
        wait, parts = self._wait, []
        if wait is not None and (left := wait.until - now) > 0:
            parts.append(f"waiting {left:.0f} s: {_plain(wait.why)}")
        if self._note:
            parts.append(self._note)
        return " · ".join(parts)

    def _last_words(self, seconds: float) -> str:
        count = self._count
        canceled = self._phase() == "canceling" and not count.complete
        parts = [f"{self._title}: {count.rows(self._unit, over=True)}", *count.parts()]
        if not count.complete and (canceled or not self._message):
            parts.append("canceled" if canceled else "not finished")
        message = self._message or (f"Canceled: {self._how_to_go_on()}" if canceled else "")
        line = " · ".join([*parts, _duration(seconds)])
        return f"{line}\n{_plain(message)}" if message else line

    def _how_to_go_on(self) -> str:
        count = self._count
        of = "" if count.total is None else f" of {count.total:,}"
        return f"{count.answered:,}{of} {self._unit} are in the ledger. Run it again to go on."

    # ------------------------------------------------------------------------------------------ the screen
    def _open(self) -> Screen:
        if self._screen is None:
            self._screen = _this_screen(self._control, self._clock)
        return self._screen

    @contextlib.contextmanager
    def _unharmed(self) -> Iterator[None]:
        """Whatever fails in here is the screen's: it is shown no more, and the batch, which costs money, goes on."""
        try:
            yield
        except Exception:
            _log.debug("the progress cannot be drawn", exc_info=True)
            self._enabled = False


def _this_screen(control: Control | None, clock: Clock) -> Screen:
    """A panel where a front end draws outputs, a line in a terminal, lines in a log file."""
    with interrupts.held():
        from ipyconvexai.batch import bars

    if bars.in_notebook():
        with interrupts.held():
            from ipyconvexai.batch.panel import Panel

        return Panel(control)
    return bars.terminal_or_log(clock)


class _Count:
    """What came of the rows so far. Written on the loop, read by who draws."""

    def __init__(self) -> None:
        self.total: int | None = 0
        self.read = 0
        self.known = 0
        self.spared = 0  # rows that need no answer of their own
        self.sent = 0  # rows that came to an end by requests
        self._given_up = 0  # before they were sent
        self._errors = 0
        self._tokens = 0
        self._cached = 0
        self._cost = 0.0

    @property
    def done(self) -> int:
        return self.known + self.spared + self.sent

    @property
    def answered(self) -> int:
        return self.done - self._errors

    @property
    def complete(self) -> bool:
        """Nothing is left; where nobody knows the total, nothing of what was read."""
        return self.done >= (self.read if self.total is None else self.total)

    def add(self, result: Result, rows: int) -> None:
        error = result.error
        if error is not None and (result.total.requests == 0 or error.code in _NOT_SENT):
            self._given_up += rows
            return
        if result.is_failed:
            self._errors += rows
        if result.known:
            self.known += rows
            return
        sent = result.sent
        self.sent += rows
        self._tokens += sent.tokens
        self._cached += sent.cached_tokens
        self._cost += sent.cost or 0.0

    def fail(self, rows: int) -> None:
        self._errors += rows

    def rows(self, unit: str, *, over: bool = False) -> str:
        """`over`: no more will come."""
        if self.total == 0 or (self.total is None and over and self.complete):
            return f"{self.done:,} {unit}"
        return f"{self.done:,} {unit} so far" if self.total is None else f"{self.done:,} of {self.total:,} {unit}"

    def parts(self) -> list[str]:
        parts = []
        if self.known:
            parts.append(f"{self.known:,} from the ledger")
        if self._tokens:
            cached = f" ({self._cached:,} cached)" if self._cached else ""
            parts.append(f"{self._tokens:,} tokens{cached}")
        if self._cost:
            parts.append(_dollars(self._cost))
        if self._errors:
            parts.append(f"{self._errors:,} error{'s' if self._errors > 1 else ''}")
        if self._given_up:
            parts.append(f"{self._given_up:,} not sent")
        return parts


class _Pace:
    """Rows a second of late: over the last 10 seconds, or the last 10 rows where those took longer."""

    def __init__(self) -> None:
        self._seen: collections.deque[tuple[float, int]] = collections.deque()

    def note(self, now: float, sent: int, *, moving: bool) -> None:
        """`sent` rows by `now`. A pause is no part of the rate: it begins anew."""
        if not moving:
            self._seen.clear()
            return
        seen = self._seen
        seen.append((now, sent))
        while len(seen) > 2 and now - seen[1][0] >= RECENT and sent - seen[1][1] >= RECENT_ROWS:
            seen.popleft()

    def rate(self) -> float | None:
        """Rows a second; None while there is nothing to tell it from."""
        if len(self._seen) < 2:
            return None
        (began, before), (now, sent) = self._seen[0], self._seen[-1]
        return (sent - before) / (now - began) if sent > before and now - began >= QUIET else None


def _plain(text: str) -> str:
    """Text that may quote anything, in one line that steers nothing."""
    from ipyconvexai import render

    line = " ".join(render.plain_text(text).split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def _rate(rate: float | None, unit: str) -> list[str]:
    if rate is None:
        return []
    if rate >= 10:
        return [f"{rate:,.0f} {unit}/s"]
    return [f"{rate:.1f} {unit}/s"] if rate >= 1 else [f"{rate * 60:.1f} {unit}/min"]


def _left(seconds: float | None) -> list[str]:
    return [] if seconds is None or seconds <= 0 else [f"{_about(seconds)} left"]


def _about(seconds: float) -> str:
    if seconds < 99.5:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} days"


def _dollars(cost: float) -> str:
    if cost >= 0.01:
        return f"${cost:,.2f}" if cost >= 100 else f"${cost:.4f}"
    return f"${cost:.6f}".rstrip("0") if cost >= 0.0000005 else "less than $0.000001"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 99.5 else _about(seconds)
