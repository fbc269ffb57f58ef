"""Where an answer is drawn: one output of a cell, a real terminal (a pty, seen through a terminal's eyes), a file."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyte
import pytest

import ipyconvexai
from ipyconvexai.notebook.screens import CellScreen, TerminalScreen
from ipyconvexai.testing import Answer
from tests.magics.conftest import KEY, Scripted

ROOT = Path(ipyconvexai.__file__).parents[1]
PATIENCE = 60.0  # seconds for what takes less than three
WIDTH, HEIGHT = 60, 15


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


# ------------------------------------------------------------------------------------------------- a cell
@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The text of each state of the output."""
    states: list[str] = []

    class Handle:
        def update(self, bundle: dict[str, str], *, raw: bool) -> None:
            states.append(bundle["text/plain"])

    def display(bundle: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        states.append(bundle["text/plain"])
        return Handle()

    monkeypatch.setattr("ipyconvexai.notebook.screens.display", display)
    return states


def bundle(text: str, note: str) -> dict[str, str]:
    return {"text/plain": text + note}


def test_a_cell_is_drawn_no_more_than_twenty_times_a_second(shown: list[str]):
    clock = Clock()
    screen = CellScreen(bundle, clock=clock)
    assert not screen.drawn
    for text, clock.now in [
        ("", 0.0),
        (" ", 0.0),
        ("a", 0.01),
        ("ab", 0.05),
        ("abc", 0.07),
        ("abc", 0.2),
        ("abcd", 0.3),
    ]:
        screen.draw(text)
    assert screen.drawn
    screen.finish("abcde", "!")
    assert shown == ["a", "abc", "abcd", "abcde!"]


def test_what_takes_long_to_draw_is_drawn_seldom(shown: list[str]):
    clock = Clock()

    def slow(text: str, note: str) -> dict[str, str]:
        clock.now += 0.1
        return bundle(text, note)

    screen = CellScreen(slow, clock=clock)
    for step in range(1, 101):
        screen.draw("x" * step)
        clock.now += 0.05
    assert 4 <= len(shown) <= 6, "a tenth of the time"


def test_a_countdown_changes_once_a_second(shown: list[str]):
    clock = Clock()
    screen = CellScreen(bundle, clock=clock)
    for tick in range(40):
        clock.now = tick / 20
        screen.wait(f"{3 - clock.now:.2f} s")
    screen.draw("it comes")
    screen.finish("it comes", "!")
    assert shown == ["3.00 s", "2.00 s", "it comes", "it comes!"]


def test_plain_viewers_see_a_note_that_stands_alone(shown: list[str]):
    screen = CellScreen(lambda text, note: {"text/plain": text, "text/markdown": text + note}, clock=Clock())
    screen.wait("waiting \x1b[1m3 s")
    screen.finish("it came", "note")
    assert shown == ["[waiting 3 s]", "it came"]


def test_a_bundle_is_shown_instead(shown: list[str]):
    screen = CellScreen(bundle, clock=Clock())
    screen.draw("{")
    screen.finish("{}", "note", {"text/plain": "the value"})
    assert shown == ["{", "the value"]


# ------------------------------------------------------------------------------------------------- a file
def test_a_terminal_sees_no_sequence_of_the_model_s_wherever_it_is_split():
    text = "a\x1b[31mred\x1b[0m b\x1b]8;;http://x\x07link\r\nend \x9b1m!"
    for step in (1, 2, 3, 7):
        out = io.StringIO()
        screen = TerminalScreen(out)
        for end in range(step, len(text), step):
            screen.draw(text[:end])
        screen.finish(text, "note")
        assert out.getvalue() == "ared blink\nend !\n[note]\n", step


def test_a_file_is_told_of_a_wait_but_not_of_every_second():
    clock, out = Clock(), io.StringIO()
    screen = TerminalScreen(out, clock=clock)
    for clock.now in range(35):
        screen.wait(f"waiting {35 - clock.now} s")
    screen.finish("then it came", "")
    assert out.getvalue() == "[waiting 35 s]\n[waiting 5 s]\nthen it came\n"


def test_a_file_gets_another_text_whole():
    out = io.StringIO()
    screen = TerminalScreen(out)
    screen.draw("```json\n{}")
    screen.finish("{}", "note", {"text/plain": "not for files"})
    assert out.getvalue() == "```json\n{}\n{}\n[note]\n"


# --------------------------------------------------------------------------------------------- a terminal
class Eyes:
    """The near side of a pty, read as a terminal does: `lines` is what can be seen and scrolled to."""

    def __init__(self) -> None:
        self.screen = pyte.HistoryScreen(WIDTH, HEIGHT, history=5000)
        self.raw = b""
        self._stream = pyte.ByteStream(self.screen)
        self._near, self.far = pty.openpty()
        fcntl.ioctl(self.far, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))

    @property
    def lines(self) -> list[str]:
        above = ["".join(line[x].data for x in range(WIDTH)) for line in self.screen.history.top]
        return [line.rstrip() for line in [*above, *self.screen.display]]

    @property
    def text(self) -> str:
        return "\n".join(self.lines).rstrip("\n")

    def read(self) -> bool:
        """Take what comes next; False: the far side is closed."""
        ready, _, _ = select.select([self._near], [], [], PATIENCE)
        assert ready, f"nothing came:\n{self.text}"
        try:
            data = os.read(self._near, 65536)
        except OSError:  # Linux's way to say that nobody holds the far side
            data = b""
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def until(self, seen: Callable[[], bool]) -> None:
        ends = time.monotonic() + PATIENCE
        while not seen():
            assert time.monotonic() < ends, f"not seen:\n{self.text}"
            assert self.read(), f"ended:\n{self.text}"

    def type(self, text: str) -> None:
        os.write(self._near, text.encode())

    def close(self) -> None:
        os.close(self._near)


@dataclass
class Drawing:
    """What a terminal has seen: all of it, its text after each step, and its text at the end."""

    eyes: Eyes
    states: list[str]

    @property
    def text(self) -> str:
        return self.eyes.text

    @property
    def raw(self) -> bytes:
        return self.eyes.raw


Draw = Callable[..., Drawing]


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Iterator[Draw]:
    """Draws an answer that grows by `step` characters in a pty, after the seconds of `waits` were counted."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", str(WIDTH)), ("LINES", str(HEIGHT))):
        monkeypatch.setenv(name, value)
    eyes = Eyes()

    def draw(text: str, *, step: int = 7, markdown: bool = True, note: str = "the note", waits: Any = ()) -> Drawing:
        states: list[str] = []
        clock = Clock()
        with open(os.dup(eyes.far), "w", encoding="utf-8") as out:

            def look() -> None:
                out.write(MARK)
                out.flush()
                eyes.until(lambda: eyes.raw.endswith(MARK.encode()))
                eyes.raw = eyes.raw.removesuffix(MARK.encode())
                states.append(eyes.text)

            out.write("before\n")
            screen = TerminalScreen(out, markdown=markdown, clock=clock)
            for seconds in waits:
                screen.wait(f"waiting {seconds} s")
                clock.now += 1
                look()
            for end in range(step, len(text), step):
                screen.draw(text[:end])
                clock.now += 1
                look()
            screen.finish(text, note)
            out.write("after\n")
            look()
        return Drawing(eyes, states)

    yield draw
    os.close(eyes.far)
    eyes.close()


MARK = "\x1b[0m\x1b[0m"  # changes nothing
SHORT = "# Title\n\nSome **bold** text that is long enough to be wrapped at the end of the line.\n\n- one\n- two\n"
PARAGRAPHS = "\n\n".join(
    f"Paragraph {number} has *some* words, and they go on to the next line." for number in range(20)
)
LISTED = "\n".join(f"{number}. item number {number}" for number in range(1, 31))
CODE = (
    "Code:\n\n```python\n" + "\n".join(f"value_{number} = {number}" for number in range(30)) + "\n```\n\nThat was it."
)


def test_an_answer_is_drawn_in_place_and_is_there_once(draw: Draw):
    drawing = draw(SHORT)
    text = drawing.text
    assert text.startswith("before\n")
    assert text.endswith("[the note]\nafter")
    for state in (text, *drawing.states[4:]):
        assert state.count("Title") == state.count("Some bold text") == 1
    assert text.count("• one") == text.count("• two") == text.count("[the note]") == 1
    assert len(set(drawing.states)) > 10, "while it grows"
    assert "**" not in text, "markdown is drawn"
    assert drawing.raw.count(b"\x1b[?25h") == drawing.raw.count(b"\x1b[?25l") == 1, "the cursor is there again"


@pytest.mark.parametrize("step", [9, 50])
@pytest.mark.parametrize(
    ("text", "words", "numbers"),
    [
        (PARAGRAPHS, "Paragraph {} has", range(20)),
        (LISTED, "item number {} ", range(1, 31)),
        (CODE, "value_{} =", range(30)),
    ],
    ids=["paragraphs", "list", "code"],
)
def test_an_answer_longer_than_the_screen_is_there_once(draw: Draw, text: str, words: str, numbers: range, step: int):
    drawing = draw(text, step=step)
    for shown in (state.replace("\n", " \n") for state in drawing.states[5:]):
        assert max(shown.count(words.format(number)) for number in numbers) == 1
        assert shown.startswith("before")
    assert [drawing.text.replace("\n", " \n").count(words.format(number)) for number in numbers] == [1] * len(numbers)
    assert drawing.text.endswith("[the note]\nafter")


def test_what_is_finished_can_be_read_while_the_rest_comes(draw: Draw):
    drawing = draw(PARAGRAPHS, step=50)
    assert drawing.text.count("\n\nParagraph") == 19, "between blocks is a line"
    for state in drawing.states:
        if "Paragraph 12 has" in state:
            assert all(f"Paragraph {number} has" in state for number in range(12))


def test_the_end_is_seen_of_what_is_longer_than_the_screen(draw: Draw):
    states = draw(CODE, step=50).states
    middle = states[len(states) // 2].splitlines()
    assert len(middle) <= HEIGHT + 2
    assert "value_1" in "".join(middle[-2:])
    assert "Code:" in middle[1], "which was finished"


@pytest.mark.parametrize("markdown", [True, False])
def test_no_sequence_of_the_model_s_reaches_the_terminal(draw: Draw, markdown: bool):
    hostile = (
        "[red]not red[/red] a\x1b]0;owned\x07b \x1b[31mred\x1b[0m \x9b2J&#27;[2J "
        "&#x202e;txet&#x202c; \u202etxet\u202c\n\n"
        "[link](https://evil.example/\x1b]8;;x) <b>bold?</b> </kbd> <kbd>\n\n<script>\nalert(1)\n</script>\n\n"
        "![image](https://evil.example/i.png) `\x1b[2J`\n\n```no\x1b[2Jsuch\nx\x1b[5m\n```\n\n"
        "| a\x1b[2J | b |\n|---|---|\n| 1 | 2 |\n"
    )
    drawing = draw(hostile, step=5, markdown=markdown)
    assert drawing.eyes.screen.title == ""
    assert b"owned" not in drawing.raw
    assert b"\x1b]" not in drawing.raw, "no link, no title"
    allowed = rb"\x1b\[(?:[\d;]*m|1A|2K|\?25[lh])"
    assert b"\x1b" not in re.sub(allowed, b"", drawing.raw)
    assert not re.search("[\x80-\x9f\u202a-\u202e\u2066-\u2069]", drawing.raw.decode())
    for words in ("[red]not red[/red]", "<b>bold?</b>", "alert(1)", "</kbd>", "txet", "https://evil.example/"):
        assert words in drawing.text


def test_plain_text_stays_as_it_is(draw: Draw):
    drawing = draw("**not bold**\n# no title\n- [x] no list\n" * 10, markdown=False)
    assert drawing.text.count("**not bold**\n# no title\n- [x] no list") == 10
    assert b"\x1b[1m" not in drawing.raw


@pytest.mark.parametrize(
    "text", ["</kbd>" * 3, "> " * 500 + "deep", "|" * 300, "[a](b" * 200, "* " * 300 + "x", "&#0;"]
)
def test_odd_markdown_is_drawn_somehow(draw: Draw, text: str):
    assert draw(text, step=400).text.endswith("[the note]\nafter")


def test_what_rich_cannot_draw_is_shown_as_it_is(draw: Draw, monkeypatch: pytest.MonkeyPatch):
    def stumbles(plain: str) -> None:
        raise IndexError("pop from empty list")

    monkeypatch.setattr("ipyconvexai.notebook.terminal._markdown", stumbles)
    assert draw("**some** words").text == "before\n**some** words\n[the note]\nafter"


COLOUR = re.compile(rb"\x1b\[[\d;]*(?:3|4)\d[;m]")


@pytest.mark.parametrize("wanted", [True, False])
def test_no_color_is_honoured(draw: Draw, monkeypatch: pytest.MonkeyPatch, wanted: bool):
    if not wanted:
        monkeypatch.setenv("NO_COLOR", "1")
    drawing = draw(CODE, step=50)
    assert bool(COLOUR.search(drawing.raw)) is wanted
    assert "value_29" in drawing.text


def test_a_dumb_terminal_is_printed_to(draw: Draw, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "dumb")
    drawing = draw(SHORT, waits=(2,))
    assert "[waiting 2 s]" in drawing.text
    assert "**bold**" in drawing.text
    assert b"\x1b" not in drawing.raw.replace(MARK.encode(), b"")


def test_a_wait_counts_in_place(draw: Draw):
    drawing = draw("It came.", waits=(3, 2, 1), step=4)
    assert drawing.states[:4] == [*(f"before\n[waiting {seconds} s]" for seconds in (3, 2, 1)), "before\nIt c"]
    assert drawing.text == "before\nIt came.\n[the note]\nafter"


def test_a_wait_that_ends_badly_leaves_the_cursor(draw: Draw):
    drawing = draw("", waits=(9,), note="stopped")
    assert drawing.text == "before\n[stopped]\nafter"
    assert drawing.raw.count(b"\x1b[?25h") == 1


# ------------------------------------------------------------------------------------ IPython in a terminal
TAKES_IT = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # from now on Ctrl-C comes from there
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.fixture
def ipython(endpoint: Scripted, tmp_path: Path) -> Iterator[Eyes]:
    """A terminal IPython with the extension loaded."""
    arguments = (
        "-m IPython --simple-prompt --no-banner --no-confirm-exit --HistoryManager.enabled=False --ext=ipyconvexai"
    )
    own = ("IPYCONVEXAI_", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)} | {
        "TERM": "xterm-256color",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "OPENAI_BASE_URL": endpoint.url,
        "OPENAI_API_KEY": KEY,
        "IPYCONVEXAI_MODEL": "openai:gpt-4o-mini",
        "IPYCONVEXAI_DB": str(tmp_path / "ledger.duckdb"),
    }
    eyes = Eyes()
    process = subprocess.Popen(
        [sys.executable, "-c", TAKES_IT, *arguments.split()],
        stdin=eyes.far,
        stdout=eyes.far,
        stderr=eyes.far,
        start_new_session=True,
        env=environment,
    )
    os.close(eyes.far)
    try:
        eyes.until(lambda: "In [1]:" in eyes.text)
        yield eyes
        eyes.type("exit\n")
        while eyes.read():
            pass
        assert process.wait(PATIENCE) == 0, eyes.text
    finally:
        process.kill()
        process.wait()
        eyes.close()


def test_ipython_draws_in_place(ipython: Eyes, endpoint: Scripted):
    endpoint.scripted["grow"] = Answer("Some **bold** words. " * 12, token_delay=0.02)
    ipython.type("%ai grow\n")
    ipython.until(lambda: "In [2]:" in ipython.text)
    assert ipython.text.count("Some bold words.") + ipython.text.count("Some bold\nwords.") >= 8
    assert ipython.text.count("tokens") == 1
    assert ipython.raw.count(b"Some") > 2 * 12, "drawn again and again"
    ipython.type("import sys; sum(len(o.bundle.get('stream', '')) for o in get_ipython().history_manager.outputs[1])\n")
    ipython.until(lambda: "In [3]:" in ipython.text)
    kept = re.search(r"Out\[2\]: (\d+)", ipython.text)
    assert kept is not None
    assert int(kept[1]) < 12, "IPython keeps what a cell prints: the last state only"


def test_ctrl_c_leaves_what_came_and_says_so(ipython: Eyes, endpoint: Scripted):
    endpoint.scripted["slow"] = Answer("word " * 2000, token_delay=0.02)
    ipython.type("%ai slow\n")
    ipython.until(lambda: "word word word" in ipython.text)
    began = time.monotonic()
    ipython.type("\x03")
    ipython.until(lambda: "In [2]:" in ipython.text)
    assert time.monotonic() - began < 5.0, "long before the answer's end, which is after 40 s"
    assert ipython.text.count("[interrupted: not the whole answer]") == 1
    assert "KeyboardInterrupt: the answer was stopped" in ipython.text
    assert ipython.raw.count(b"\x1b[?25h") >= ipython.raw.count(b"\x1b[?25l")
    ipython.type("'KeyboardInterrupt' in Err[1]\n")
    ipython.until(lambda: "Out[2]: True" in ipython.text)


def test_errors_are_kept_under_the_number_that_is_shown(ipython: Eyes):
    ipython.type("1 / 0\n")
    ipython.until(lambda: "In [2]:" in ipython.text)
    ipython.type("print('kept', list(Err), Err[1].splitlines()[-1])\n")
    ipython.until(lambda: "kept [1] ZeroDivisionError: division by zero" in ipython.text)
