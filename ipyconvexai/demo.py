"""``ipyconvexai demo``: executes notebooks/01_quickstart.ipynb in a real kernel and tells what happens.

Calls the app for the last line, and nbclient, which the extra `demo` brings. Promises: the source notebook is never
changed; a cell that fails ends the demo with its error; the ledger is kept, so that a second run finds the first one's
summaries.
"""

from __future__ import annotations

import html
import html.parser
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipyconvexai.errors import ConfigurationError, Error

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbformat import NotebookNode

__all__ = ["DemoError", "client", "find_notebook", "open_lab", "run"]

NOTEBOOK = Path("notebooks") / "01_quickstart.ipynb"
CELL_TIMEOUT = 1800  # seconds; a slow machine needs a minute or two
WIDTH = 110  # columns of a printed summary
INDENT = " " * 5

Say = Callable[[str], None]


class DemoError(Error):
    """A cell failed; the message is what the cell showed."""

    code = "demo"


def find_notebook() -> Path:
    """The quickstart below the current folder or beside the package.

    Raises:
        ConfigurationError: it is in neither place; an installed wheel has no notebooks.
    """
    for folder in (Path.cwd(), Path(__file__).resolve().parents[1]):
        if (folder / NOTEBOOK).is_file():
            return folder / NOTEBOOK
    raise ConfigurationError(
        f"There is no {NOTEBOOK} here.",
        cure="The demo is part of the repository and not of the installed package: run it in the repository's folder.",
    )


def open_lab(notebook: Path) -> int:
    """Open the notebook in JupyterLab, and wait for it to end; gives its exit code.

    Raises:
        ConfigurationError: JupyterLab is not installed.
    """
    import importlib.util
    import subprocess

    if importlib.util.find_spec("jupyterlab") is None:
        raise ConfigurationError("JupyterLab is not installed.", cure='pip install "ipyconvexai[lab]"')
    options = ["--allow-root"] if hasattr(os, "getuid") and os.getuid() == 0 else []
    if _is_headless():
        options.append("--no-browser")
    command = [sys.executable, "-m", "jupyterlab", str(notebook), *options]
    return subprocess.run(command, check=False).returncode


def _is_headless() -> bool:
    desktop = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    return sys.platform.startswith("linux") and not desktop


def run(notebook: Path, *, fresh: bool = False, say: Say = print) -> Path:
    """Execute the notebook from top to bottom; gives the path of the executed one.

    Args:
        fresh: with a ledger in memory, gone afterwards, instead of the one that is kept beside the executed notebook.
            IPYCONVEXAI_DB, where it is set, says which ledger is used otherwise.

    Raises:
        ConfigurationError: what the extra `demo` brings is not installed.
        DemoError: a cell failed. The executed notebook is written, up to there.
    """
    nbformat, nbclient = _tools()
    executed = notebook.parent / "executed" / notebook.name
    executed.parent.mkdir(exist_ok=True)
    ledger = ":memory:" if fresh else os.environ.get("IPYCONVEXAI_DB") or str(executed.parent / "quickstart.duckdb")
    known = ledger != ":memory:" and Path(ledger).exists()
    say(f"Executing {_short(notebook)} in a kernel of {sys.executable}")
    say(f"Ledger: {ledger}" + (" (kept from before: what it knows is not sent again)" if known else ""))

    content = nbformat.read(notebook, as_version=4)
    began = time.time()
    try:
        _execute(content, notebook.parent, ledger, say)
    except nbclient.exceptions.CellExecutionError as error:
        raise DemoError(_failure(content, error), cure=f"Executed up to there: {_short(executed)}") from None
    except nbclient.exceptions.DeadKernelError:
        raise DemoError("The kernel died.", cure=f"Executed up to there: {_short(executed)}") from None
    finally:
        nbformat.write(content, executed)
    if not fresh:
        say(_sent(ledger, began) + (" All else was in the ledger." if known else ""))
    say(f"The executed notebook: {_short(executed)}")
    return executed


def _tools() -> tuple[Any, Any]:
    try:
        import ipykernel
        import nbclient
        import nbformat
    except ImportError as error:
        raise ConfigurationError(f"The demo needs {error.name}.", cure='pip install "ipyconvexai[demo]"') from None
    del ipykernel  # only the kernel imports it
    return nbformat, nbclient


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


# ------------------------------------------------------------------------------------------------ executing
def _execute(content: NotebookNode, folder: Path, ledger: str, say: Say) -> None:
    environment = {**os.environ, "IPYCONVEXAI_DB": ledger, "JPY_SESSION_NAME": str(NOTEBOOK)}
    client(content, folder, say).execute(env=environment, cwd=str(folder))


def kernels_of_this_python() -> type[AsyncKernelManager]:
    """Starts kernels of this interpreter, whatever kernels are installed on the machine."""
    import zmq
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            return KernelSpec(resource_dir="", **get_kernel_dict())

    class Manager(AsyncKernelManager):
        def __init__(self, **traits: Any) -> None:
            # ipykernel warns where its sockets could be encrypted and are not.
            if "transport_encryption" in AsyncKernelManager.class_trait_names() and zmq.has("curve"):
                traits["transport_encryption"] = "auto"
            super().__init__(kernel_spec_manager=ThisPython(), **traits)

    return Manager


def client(content: NotebookNode, folder: Path, say: Say) -> NotebookClient:
    """Executes `content` in `folder`, and tells what the cells do while they do it."""
    from nbclient import NotebookClient

    told = Progress(content, say)

    class Watched(NotebookClient):
        def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> Any:
            told.message(msg["msg_type"], msg["content"])
            return super().process_message(msg, cell, cell_index)

    return Watched(
        content,
        kernel_manager_class=kernels_of_this_python(),
        timeout=CELL_TIMEOUT,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
        on_cell_start=told.begin,
        on_cell_executed=told.end,
    )


class Progress:
    """Prints each cell's first line, its answer as it streams, and in the end its outputs."""

    def __init__(self, content: NotebookNode, say: Say, clock: Callable[[], float] = time.perf_counter) -> None:
        cells = [index for index, cell in enumerate(content.cells) if cell.cell_type == "code"]
        self._number = {index: number for number, index in enumerate(cells, 1)}
        self._say = say
        self._clock = clock
        self._began = 0.0
        self._streamed = ""
        self._total = self._quarters = 0

    def begin(self, cell: NotebookNode, cell_index: int) -> None:
        if cell_index in self._number:
            first = next(line for line in cell.source.splitlines() if line.strip())
            self._say(f"\n[{self._number[cell_index]}/{len(self._number)}] {first}")
            self._began = self._clock()
            self._streamed = ""
            self._total = self._quarters = 0

    def message(self, kind: str, content: dict[str, Any]) -> None:
        """A message of the kernel: what grows is printed piece by piece, where somebody looks on."""
        data = content.get("data", {})
        if kind.startswith("comm_"):
            self._bar(data.get("state", {}))
        elif kind in ("display_data", "update_display_data") and "text/markdown" in data and sys.stdout.isatty():
            self._answer(data.get("text/plain", ""))

    def _answer(self, text: str) -> None:
        if text.startswith(self._streamed):
            print(text[len(self._streamed) :], end="", flush=True)
            self._streamed = text

    def _bar(self, state: dict[str, Any]) -> None:
        """tqdm's bar is a widget, whose state says where it stands: each quarter is told."""
        if state.get("_model_name") == "FloatProgressModel":
            self._total = int(state.get("max") or 0)
        value = state.get("value")
        if isinstance(value, (int, float)) and self._total and self._quarters < (now := 4 * int(value) // self._total):
            self._quarters = now
            self._say(f"    {int(value)} of {self._total}")

    def end(self, cell: NotebookNode, cell_index: int, execute_reply: Any = None) -> None:
        if cell_index not in self._number:
            return
        if self._streamed:
            print()
        for output in cell.outputs:
            if text := printable(output, streamed=bool(self._streamed)):
                self._say(text)
        self._say(f"    {self._clock() - self._began:.1f} s")


# ------------------------------------------------------------------------------------------------- printing
_STEERING = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def printable(output: NotebookNode, *, streamed: bool = False) -> str:
    """One output of a cell as text for a terminal; of an answer that was printed already only the note."""
    if output.output_type == "stream":
        return str(output.text).rstrip() if output.name == "stdout" else ""
    data = output.get("data", {})
    if "application/vnd.jupyter.widget-view+json" in data:
        return ""  # a bar, which is over
    if "text/markdown" in data:
        note = html.unescape(str(data["text/markdown"]).rstrip().rpartition("\n")[2].strip("*"))
        return f"({note})" if streamed else f"{data['text/plain']}\n({note})"
    if 'class="dataframe"' in data.get("text/html", ""):
        return _records(*_rows(data["text/html"]))
    return str(data.get("text/plain", "")).rstrip()


class _Table(html.parser.HTMLParser):
    """The cells of pandas' HTML, whose text form cannot show long texts."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


def _rows(markup: str) -> tuple[list[str], list[list[str]]]:
    table = _Table()
    table.feed(markup)
    return table.rows[0], table.rows[1:]


def _records(names: list[str], rows: list[list[str]]) -> str:
    """One paragraph for each row: its first column (after the index), and below it the others."""
    lines = []
    for index, first, *others in rows:
        lines.append(f"  {index}. {first}")
        if others and any(len(value) > 60 for value in others):
            lines += [textwrap.fill(value, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT) for value in others]
        elif others:
            lines.append(INDENT + ", ".join(f"{n}: {v}" for n, v in zip(names[2:], others, strict=True)))
    return "\n".join(lines)


def _failure(content: NotebookNode, error: Any) -> str:
    """What the failed cell showed: of an error of ours its block, of another its traceback."""
    for cell in content.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                shown = "\n".join(output.traceback) or f"{output.ename}: {output.evalue}"
                return f"A cell failed:\n{_STEERING.sub('', shown)}"
    return f"A cell failed: {error.ename}: {error.evalue}"


def _sent(ledger: str, began: float) -> str:
    """The last line: what this run sent."""
    from ipyconvexai.application import connect

    with connect(ledger) as app:
        row = app.ledger.sql(
            "SELECT count(*), coalesce(sum(input_tokens + output_tokens), 0)::BIGINT, sum(cost_usd)"
            " FROM calls WHERE sent_at >= make_timestamp($began::BIGINT)",
            {"began": int(began * 1e6)},
        ).fetchall()[0]
    calls, tokens, cost = row
    requests = "1 request" if calls == 1 else f"{calls} requests"
    return f"\nSent in this run: {requests}, {tokens:,} tokens, ${cost or 0:.4f}."
