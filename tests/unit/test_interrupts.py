"""A Ctrl-C while modules are imported, made to fall where CPython drops it: in a callback of a weak reference."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipyconvexai.interrupts import held


@pytest.fixture(autouse=True)
def as_in_the_foreground() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# While `code` imports the module `at` for the first time: SIGINT in a callback such as that which ends each import.
BEFORE = """
import signal, sys, weakref
import ipyconvexai as ai
from IPython.core.interactiveshell import InteractiveShell

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in the background without

class Interrupting:
    def __init__(self, at):
        self.at = at

    def find_spec(self, name, path=None, target=None):
        if name == self.at:
            sys.meta_path.remove(self)
            thing = Interrupting("")
            told = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
            del thing

def interrupted(at, code):
    sys.meta_path.insert(0, Interrupting(at))
    try:
        # Compiled: from a text, a KeyboardInterrupt would end the process at last, though it is caught.
        exec(compile(code, "a cell", "exec"), globals())
    except KeyboardInterrupt:
        return True
    return "not imported" if sys.meta_path[0].__class__ is Interrupting else False
"""


def run(code: str, home: Path) -> list[str]:
    """The lines that a process of its own prints."""
    command, environment = (
        [sys.executable, "-c", BEFORE + textwrap.dedent(code)],
        {**os.environ, "IPYTHONDIR": str(home)},
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_none_is_lost_and_the_module_is_there(tmp_path: Path):
    """The first is the interpreter's own: where it is not lost, a Python has mended what this guards against."""
    said = run(
        """
        for at, code in [
            ("wave", "import wave"),
            ("ipyconvexai.render.plain", "from ipyconvexai.render import plain_text"),
            ("ipyconvexai.notebook.magics", "ai.load_ipython_extension(InteractiveShell.instance())"),
            ("openai", "ai.generate"),
            ("ipyconvexai.batch.summarize", "ai.summarize"),
            ("duckdb", "app = ai.connect(':memory:')"),
            ("ipyconvexai.actions", "ai.run('start_conversation')"),
            ("anywidget", "panel = ai.chat()._display_()"),
        ]:
            print(at, interrupted(at, code))
            exec(code)
    """,
        tmp_path,
    )
    assert said == [
        "wave False",
        "ipyconvexai.render.plain True",
        "ipyconvexai.notebook.magics True",
        "openai True",
        "ipyconvexai.batch.summarize True",
        "duckdb True",
        "ipyconvexai.actions True",
        "anywidget True",
    ]


def test_a_magic_loses_none(tmp_path: Path):
    said = run(
        """
        shell = InteractiveShell.instance()
        shell.run_line_magic("load_ext", "ipyconvexai")
        print(interrupted("ipyconvexai.notebook.asking", "shell.run_cell_magic('ai', '', 'a question')"))
        print(interrupted("ipyconvexai.application", "shell.run_line_magic('ai', 'usage')"))
        """,
        tmp_path,
    )
    assert said == ["True", "True"]


def test_the_second_one_is_not_held():
    passed = []

    def interrupt_twice() -> None:
        with held():
            signal.raise_signal(signal.SIGINT)
            passed.append(1)
            signal.raise_signal(signal.SIGINT)
            passed.append(2)

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()
    assert passed == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_one_is_not_held_by_a_block_within():
    passed = []

    def interrupt_twice() -> None:
        with held():
            signal.raise_signal(signal.SIGINT)
            with held():
                passed.append(1)
                signal.raise_signal(signal.SIGINT)
                passed.append(2)

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()
    assert passed == [1]


def test_one_that_comes_with_an_error_is_shown_alone():
    def fail() -> None:
        with held():
            signal.raise_signal(signal.SIGINT)
            raise ImportError("half made")

    with pytest.raises(KeyboardInterrupt) as caught:
        fail()
    assert caught.value.__suppress_context__


def test_who_begins_to_handle_interrupts_within_goes_on():
    def mine(number: int, frame: object) -> None:
        pass

    with held():
        signal.signal(signal.SIGINT, mine)
    assert signal.getsignal(signal.SIGINT) is mine


def test_an_error_of_an_import_stays_one():
    with pytest.raises(ImportError), held():
        raise ImportError("no such package")


def test_who_handles_interrupts_goes_on_doing_so():
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(1))
    try:
        with held():
            signal.raise_signal(signal.SIGINT)
            assert came == [1]
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_imports_as_ever():
    passed = []

    def work() -> None:
        with held():
            passed.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert passed == [signal.default_int_handler]
