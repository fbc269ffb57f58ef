"""A Ctrl-C while modules are imported, made to fall where CPython drops it: in a callback of a weak reference."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from ipyconvexai.interrupts import held

# From the first import of the module `AT` on, once: SIGINT in a callback such as that which ends each import.
BEFORE = """
import signal, sys, weakref
import ipyconvexai as ai
from IPython.core.interactiveshell import InteractiveShell

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == AT:
            sys.meta_path.remove(self)
            thing = Interrupted()
            told = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
            del thing

def interrupted(code):
    sys.meta_path.insert(0, Interrupted())
    try:
        # Compiled: from a text, a KeyboardInterrupt would end the process at last, though it is caught.
        exec(compile(code, "a cell", "exec"), globals())
    except KeyboardInterrupt:
        return True
    return False
"""


def run(code: str) -> str:
    """What a process of its own prints, last of all."""
    code = textwrap.dedent(BEFORE) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition("\n\n")[2].strip()


def test_python_drops_one():
    """What the package is guarded against; where this fails, a Python has mended it."""
    assert run("AT = 'wave'; print(interrupted('import wave'))") == "False"


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("ipyconvexai.api", "ai.generate"),
        ("ipyconvexai.store", "ai.connect"),
        ("openai", "ai.OpenAI"),
        ("ipyconvexai.errors", "ai.errors"),
        ("ipyconvexai.notebook.magics", "ai.load_ipython_extension(InteractiveShell.instance())"),
        ("ipyconvexai.render.plain", "from ipyconvexai.render import plain_text"),
    ],
)
def test_none_is_lost_and_the_module_is_there(module: str, code: str):
    again = "is_there = interrupted(code)"
    assert run(f"AT, code = {module!r}, {code!r}; print(interrupted(code)); {again}; print(is_there)") == "True\nFalse"


@pytest.mark.parametrize("module", ["ipyconvexai.notebook.asking", "ipyconvexai.application"])
def test_a_magic_loses_none(module: str):
    code = f"""
    AT = {module!r}
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "ipyconvexai")
    print(interrupted("shell.run_cell_magic('ai', '', 'a question')"))
    """
    assert run(code) == "True"


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
