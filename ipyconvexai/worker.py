"""``ipyconvexai worker [FILE]``: runs scheduled batches, and jobs and crons of a Python file or a notebook.

Floor 5: calls ``application`` and what lies below. Promises: of a notebook only what defines is run, so that no paid
call of it is repeated, and what is left out is told; SIGTERM or Ctrl-C stops it cleanly: it finishes or hands back what
it holds, and exits with 0. A second one stops it at once.
"""

from __future__ import annotations

import ast
import contextlib
import datetime
import json
import linecache
import os
import re
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ipyconvexai.application import App, app, connect
from ipyconvexai.errors import Error, InputError, UnknownFunctionError
from ipyconvexai.functions.registry import Kind, define_built_in, registry
from ipyconvexai.functions.scheduler import CONCURRENCY, Event
from ipyconvexai.functions.service import Functions
from ipyconvexai.render import error_text, plain_text

__all__ = ["GRACE", "load", "main"]

GRACE = 30.0  # seconds that running jobs have to end
MODULE = "__worker__"  # the file's __name__: its `if __name__ == "__main__":` does not run
_DEFINING_CALLS = {"rate_limit", "Retry"}  # whose results may be assigned in a notebook
_MOST_SHOWN = 60  # characters of a statement that is left out

Say = Callable[[str], None]


def _print(line: str) -> None:
    print(line, flush=True)


def main(
    path: str | os.PathLike[str] | None = None,
    *,
    db: str | None = None,
    user: str | None = None,
    concurrency: int = CONCURRENCY,
    grace: float = GRACE,
    say: Say = _print,
    stop: threading.Event | None = None,
) -> int:
    """Run scheduled batches, and the jobs of the functions that `path` defines, until a signal comes (or `stop` is
    set); gives the exit code.

    Args:
        path: a .py file or an .ipynb notebook; None: only what comes with the package is run, scheduled batches say.
        db: the ledger; default IPYCONVEXAI_DB, then the person's.
        user: as for ``ai.connect``.
        concurrency: actions at once.
        grace: seconds that running jobs have to end after the signal.
        say: is given each line.
    """
    stop = stop or threading.Event()
    try:
        with _signals(stop):
            names = _defined_by(path, say)
            with contextlib.closing(_opened(db, user)) as opened:
                _serve(opened, names, concurrency, grace, say, stop)
    except Error as error:
        say(error_text(error.message, error.cure))
        return 2
    return 0


def _defined_by(path: str | os.PathLike[str] | None, say: Say) -> list[str]:
    """The names of the mutations and actions in `path`. No job begins before all of it is loaded."""
    define_built_in()  # they are everybody's
    if path is None:
        return ["scheduled batches"]
    known = _definitions()
    Functions.works_here = False
    try:
        load(path, say)
    finally:
        Functions.works_here = True
    names = sorted(name for name, function in _definitions().items() if known.get(name) is not function)
    if not names:
        raise InputError(
            f"{path} defines no mutation and no action", cure="Put @ai.mutation or @ai.action above a function in it."
        )
    return names


def _opened(db: str | None, user: str | None) -> App:
    """The ledger that was named; else the one that the file connected to, or the person's."""
    return app() if db is None and user is None else connect(db, user=user)


def _serve(opened: App, names: list[str], concurrency: int, grace: float, say: Say, stop: threading.Event) -> None:
    scheduler = opened.functions.scheduler
    scheduler.concurrency = concurrency
    scheduler.report = lambda event: say(_line(event))
    say(plain_text(f"worker {os.getpid()} runs {', '.join(names)} over {opened.store.path}"))
    opened.functions.start()
    stop.wait()
    say(f"stopping: what runs has {grace:g} s to end")
    opened.loop.run(scheduler.stop(grace))
    say("stopped")


def _definitions() -> dict[str, Any]:
    found = {}
    for name in registry.names():
        with contextlib.suppress(UnknownFunctionError):
            function = registry.find(name)
            if function.kind is not Kind.QUERY:
                found[name] = function
    return found


@contextlib.contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """The first SIGTERM or SIGINT sets `stop`; the second ends the process at once."""
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return

    # A Python handler runs once the main thread runs bytecode: never, where the signal came just before it began to
    # wait, or went to another thread. The interpreter's own handler writes the number to this socket wherever it runs.
    heard, told = socket.socketpair()
    told.setblocking(False)

    def listen() -> None:
        if number := heard.recv(1):
            stop.set()
            if number := heard.recv(1):
                os._exit(128 + number[0])

    listener = threading.Thread(target=listen, name="ipyconvexai-signals", daemon=True)
    listener.start()
    wakeup = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        told.close()  # ends the listener
        listener.join()
        heard.close()


def _line(event: Event) -> str:
    """One line per start and end of a job."""
    job, outcome = event.job, event.outcome
    what = {"pending": "again", "success": "done"}.get(event.what, str(event.what))
    line = f"{datetime.datetime.now():%H:%M:%S} {what:<8} {job.name} {job.id}"
    if event.what != "started":
        line += f" {1000 * event.seconds:.0f} ms"
    if outcome is not None and outcome.error_message is not None:
        line += f" {outcome.error_code}: {outcome.error_message}"
    return plain_text(line).replace("\n", " ")


# ---------------------------------------------------------------------------------------------- loading
def load(path: str | os.PathLike[str], say: Say = _print) -> types.ModuleType:
    """Run the definitions in `path`: all of a .py file, of a notebook what only defines.

    Raises:
        InputError: it is not there, is no Python, or its definitions need what is left out.
    """
    file = Path(path).expanduser()
    if file.suffix not in (".py", ".ipynb"):
        raise InputError(f"{file} is neither a .py file nor a notebook", cure="Name a file that ends in .py or .ipynb.")
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}", cure="Check the path.") from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is not UTF-8 text", cure="Save it as UTF-8.") from None
    module = types.ModuleType(MODULE)
    module.__file__ = str(file.resolve())
    sys.modules[MODULE] = module  # type hints of what it defines are looked up there
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    cells = _cells(text, file) if file.suffix == ".ipynb" else [(str(file.resolve()), text)]
    left_out: list[str] = []
    for name, source in cells:
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        tree = _parsed(source, name)
        if file.suffix == ".ipynb":
            left_out += _strip(tree, name)
        _execute(tree, name, module, left_out)
    if left_out:
        say(plain_text(f"left out, for it does more than define: {'; '.join(left_out)}"))
    return module


def _parsed(source: str, name: str) -> ast.Module:
    try:
        return ast.parse(source, name)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise InputError(f"{name}, line {line}: {error.args[0]}", cure="Mend it, and start again.") from None


def _execute(tree: ast.Module, name: str, module: types.ModuleType, left_out: list[str]) -> None:
    try:
        exec(compile(tree, name, "exec"), module.__dict__)
    except Error:
        raise
    except Exception as error:
        cure = "Run it by itself to see where."
        if left_out:
            cure = "A worker runs a notebook's imports, definitions and constants only: put into them what they need."
        raise InputError(f"{name} does not run: {type(error).__name__}: {error}", cure=cure) from error


def _cells(text: str, file: Path) -> list[tuple[str, str]]:
    """(name, source) of a notebook's code cells, without magics."""
    try:
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        sources = ["".join(cell["source"]) for cell in cells]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{file} is no notebook", cure="Save it again in Jupyter (nbformat 4).") from None
    plain = _without_magics()
    return [(f"{file.name}[{number}]", plain(source)) for number, source in enumerate(sources, 1)]


def _without_magics() -> Callable[[str], str]:
    """What turns a cell into Python: magics become calls, which are left out like all others."""
    try:
        from IPython.core.inputtransformer2 import TransformerManager
    except ImportError:
        return lambda source: "" if source.startswith("%%") else re.sub(r"(?m)^[ \t]*[%!?].*$", "", source)
    return lambda source: str(TransformerManager().transform_cell(source))  # type: ignore[no-untyped-call]


def _strip(tree: ast.Module, cell: str) -> list[str]:
    """Take out of `tree` what does more than define; gives it in words."""
    kept: list[ast.stmt] = []
    shown = []
    for node in tree.body:
        if _defines(node):
            kept.append(node)
        elif _is_assigned_without_call(node):
            kept.append(_tried(node))
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            words = " ".join(ast.unparse(node).split())
            shown.append(f"{cell}: {words[:_MOST_SHOWN]}{'…' if len(words) > _MOST_SHOWN else ''}")
    tree.body = kept
    return shown


def _defines(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return True
    value = _assigned(node)
    return type(node).__name__ == "TypeAlias" or (value is not None and _is_constant(value))


def _assigned(node: ast.stmt) -> ast.expr | None:
    """What `node` assigns to plain names."""
    if isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) for target in node.targets):
        return node.value
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.value
    return None


def _is_constant(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        name = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", None)
        arguments = [*value.args, *(keyword.value for keyword in value.keywords)]
        return name in _DEFINING_CALLS and all(_is_constant(argument) for argument in arguments)
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _is_assigned_without_call(node: ast.stmt) -> bool:
    """As ``Label = Literal["a", "b"]`` or ``LIMIT = 2 * BASE``: it can cost nothing, and hints may need it."""
    value = _assigned(node)
    costly = (ast.Call, ast.Await, ast.Yield, ast.YieldFrom, ast.Lambda, ast.NamedExpr, ast.comprehension)
    return value is not None and not any(isinstance(part, costly) for part in ast.walk(value))


def _tried(node: ast.stmt) -> ast.stmt:
    """`node`, which may stand on something that was left out: then it is, too."""
    attempt = ast.parse("try: pass\nexcept Exception: pass").body[0]
    assert isinstance(attempt, ast.Try)
    attempt.body = [node]
    return ast.fix_missing_locations(ast.copy_location(attempt, node))
