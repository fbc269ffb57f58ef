"""A JupyterLab or a Notebook 7 of the tests' own, and the notebook that a browser shows of it.

`Server` starts one in a folder of its own and ends it with all its kernels. `Notebook` drives the app that both expose
to the page: keystrokes sent to a page that is still loading are lost, commands are not.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import nbformat
import psutil
from playwright.sync_api import Error, Locator, Page

import ipyconvexai

ROOT = Path(ipyconvexai.__file__).parents[1]
KEY = "sk-test-0123456789abcdef"
PATIENCE = 60.0  # seconds for a start, or for a cell; a loaded machine takes a while

# Ends when the tests end, however they do: then the other end of its standard input is closed.
_LAB = """
import os, signal, sys, threading
def follow():
    sys.stdin.buffer.read()
    print("The tests ended.", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=follow, daemon=True).start()
from {module} import main
sys.exit(main())
"""
_MODULES = {"lab": "jupyterlab.labapp", "notebook": "notebook.app"}
_SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    # Every output is drawn, whether it is in view or not: what is not drawn shows nothing about what it would do.
    "notebook-extension/tracker": {"maxNumberOutputs": 100_000, "windowingMode": "none"},
    "docmanager-extension/plugin": {"autosave": False},
}


class Server:
    """It is on a free port of loopback, without a token, with no file of the person who runs the tests.

    Args:
        home: an empty folder: HOME, every folder of Jupyter's and, below ``notebooks``, what it serves.
        environment: further variables for it and its kernels.
        app: "lab" or "notebook".
    """

    def __init__(self, home: Path, environment: dict[str, str], app: str = "lab") -> None:
        self.app = app
        self.notebooks = home / "notebooks"
        self.notebooks.mkdir(parents=True)
        self._kernels = home / "data" / "kernels"
        self._log = home / "server.log"
        _write_settings(home / "settings")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _LAB.format(module=_MODULES[app]), *_options(app, port, self.notebooks)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_environment(home) | environment,
                cwd=home,
                start_new_session=True,  # Ctrl-C is for the tests, which end it themselves
            )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it and whatever it started."""
        family = _family(self._process.pid)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:  # it may wait for a kernel for ever
            self._process.kill()
            self._process.wait()
        for process in family:  # kernels are in sessions of their own; none outlives the tests
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def add_kernel(self, name: str, packages: Path) -> None:
        """A kernel that finds its packages in this folder first."""
        spec = {
            "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": name,
            "language": "python",
            "env": {"PYTHONPATH": os.pathsep.join([str(packages), str(ROOT)])},
        }
        path = self._kernels / name / "kernel.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(spec))

    def write(self, name: str, cells: list[str], kernel_name: str = "python3") -> Path:
        """A notebook of these cells, in a folder of its own, which is its kernel's, too."""
        kernel = {"name": kernel_name, "display_name": kernel_name, "language": "python"}
        notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
        notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
        path = self.notebooks / name / "tried.ipynb"
        path.parent.mkdir()
        nbformat.write(notebook, path)
        return path

    def address(self, path: Path) -> str:
        inside = path.relative_to(self.notebooks).as_posix()
        return f"{self.url}/lab/tree/{inside}?reset" if self.app == "lab" else f"{self.url}/notebooks/{inside}"

    @property
    def last_words(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-3000:]

    def _wait(self) -> None:
        ends = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/api/status", timeout=2):
                return
            if self._process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"{self.app} did not start:\n{self.last_words}")
            time.sleep(0.05)


def _options(app: str, port: int, root: Path) -> list[str]:
    return [
        "--JupyterNotebookApp.expose_app_in_browser=True"
        if app == "notebook"
        else "--LabApp.expose_app_in_browser=True",
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={root}",
        "--ServerApp.terminals_enabled=False",
        "--IdentityProvider.token=",
        "--LanguageServerManager.autodetect=False",  # it would ask npm and yarn
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
    ]


def _environment(home: Path) -> dict[str, str]:
    """The tests' environment without a key, an address or a ledger, and with no folder of a person's."""
    own = ("IPYCONVEXAI_", "OPENAI_", "JUPYTER", "JPY_", "IPYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own) and "API_KEY" not in name}
    folders = {
        "HOME": "home",
        "IPYTHONDIR": "ipython",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }
    for folder in folders.values():
        (home / folder).mkdir(exist_ok=True)
    return kept | {variable: str(home / folder) for variable, folder in folders.items()} | {"PYTHONPATH": str(ROOT)}


def _write_settings(folder: Path) -> None:
    for name, settings in _SETTINGS.items():
        path = folder / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


_READY = """async ({path, patience}) => {
  const until = performance.now() + patience;
  const soon = () => new Promise(done => setTimeout(done, 20));
  const late = () => { if (performance.now() > until) throw new Error("the notebook does not open"); };
  let panel;
  while ((panel = window.jupyterapp?.shell?.currentWidget)?.context?.path !== path) { late(); await soon(); }
  await panel.context.ready;
  await panel.revealed;
  await panel.sessionContext.ready;
  await panel.sessionContext.session.kernel.info;
  while (panel.sessionContext.session.kernel.status !== "idle") { late(); await soon(); }
  window.panel = panel;
  panel.node.id = "tried";
}"""
_OPEN = """async (path) => {
  await window.jupyterapp.serviceManager.kernelspecs.refreshSpecs();
  await window.jupyterapp.commands.execute("docmanager:open", {path});
}"""
_REPLACE = """(sources) => {
  const shared = window.panel.content.model.sharedModel;
  shared.deleteCellRange(0, shared.cells.length);
  shared.insertCells(0, sources.map(source => ({cell_type: "code", source, metadata: {}, outputs: []})));
}"""
_CLOSE = """async () => {
  await window.panel.sessionContext.shutdown();
  await window.panel.context.save();  // else it would ask
  window.panel.node.id = "";
  window.panel.dispose();
}"""
# Resolves when the cell is done, failed or not.
_RUN = """async (index) => {
  const content = window.panel.content;
  content.deselectAll();
  content.activeCellIndex = index;
  await window.jupyterapp.commands.execute("notebook:run-cell");
}"""
_SILENTLY = """async (code) => {
  const said = [];
  const future = window.panel.sessionContext.session.kernel.requestExecute(
    {code, silent: true, store_history: false});
  future.onIOPub = message => {
    if (message.header.msg_type === "error") said.push(message.content.traceback.join("\\n"));
  };
  await future.done;
  return said.join("\\n");
}"""
# At each frame that the page draws: the text of the cell's output, where it is not the one of the frame before.
_FILM = """(index) => {
  const cell = window.panel.content.widgets[index];
  const film = window.film = {frames: [], mutations: 0, flat: 0, running: true, begun: false};
  new MutationObserver(() => { film.mutations += 1; }).observe(
    cell.outputArea.node, {childList: true, subtree: true, characterData: true});
  const look = () => {
    const texts = [...cell.outputArea.node.querySelectorAll(".jp-OutputArea-output")];
    const text = texts.map(node => node.innerText.trim()).join("\\n");
    if (film.begun && texts.reduce((sum, node) => sum + node.getBoundingClientRect().height, 0) === 0) film.flat += 1;
    if (text !== film.frames.at(-1) && (film.begun || text)) { film.frames.push(text); film.begun = true; }
    if (film.running) requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}"""
# Begins to wait for a click anywhere; then `window.stopped` holds the milliseconds from it to the cell's end.
_TIME_THE_END = """(index) => {
  const cell = window.panel.content.widgets[index];
  const done = () => cell.promptNode.innerText.trim() !== "[*]:";
  if (done()) throw new Error("the cell does not run");
  window.stopped = new Promise(resolve => {
    const follow = event => {
      const watch = () => done() ? resolve(performance.now() - event.timeStamp) : requestAnimationFrame(watch);
      watch();
    };
    document.addEventListener("pointerdown", follow, {capture: true, once: true});
  });
}"""


class Notebook:
    """One notebook in a page, with a kernel of its own."""

    def __init__(self, page: Page, server: Server, path: Path) -> None:
        self.page = page
        self.path = path
        inside = path.relative_to(server.notebooks).as_posix()
        try:
            if page.url.startswith(f"{server.url}/lab"):  # it is loaded, which is what takes most of the time
                page.evaluate(_OPEN, inside)
            else:
                page.goto(server.address(path), wait_until="domcontentloaded", timeout=PATIENCE * 1000)
            page.evaluate(_READY, {"path": inside, "patience": PATIENCE * 1000})
        except Error as error:
            error.add_note(f"The server's last words:\n{server.last_words}")
            raise

    def run(self, index: int) -> None:
        """Run a cell and wait for its end, good or bad."""
        self.page.evaluate(_RUN, index)

    def begin(self, index: int) -> None:
        """Run a cell and do not wait."""
        self.page.evaluate(f"index => {{ ({_RUN})(index); }}", index)

    def run_all(self) -> None:
        """What the menu does; returns when nothing runs any more."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")

    def silently(self, code: str) -> None:
        """Run code that belongs to no cell. An error of it is one here."""
        said = self.page.evaluate(_SILENTLY, code)
        assert not said, said

    def replace(self, cells: list[str]) -> None:
        """These cells in place of all there are; the kernel stays."""
        self.page.evaluate(_REPLACE, cells)

    def film(self, index: int) -> None:
        """From now on, keep what the page shows of a cell's output."""
        self.page.evaluate(_FILM, index)

    def filmed(self) -> Any:
        """The film's end: its ``frames`` (texts, each differs from the last), ``mutations``, ``flat`` frames."""
        return self.page.evaluate("() => { window.film.running = false; return window.film; }")

    def wait_for_text(self, index: int, text: str) -> None:
        self.cell(index).locator(".jp-OutputArea-output", has_text=text).first.wait_for(timeout=PATIENCE * 1000)

    def interrupt(self, index: int) -> float:
        """Click the button; gives the seconds until the page shows that the cell has ended."""
        self.page.evaluate(_TIME_THE_END, index)
        self.page.locator('#tried .jp-Toolbar [data-command="notebook:interrupt-kernel"]').click()
        return float(self.page.evaluate("() => window.stopped")) / 1000

    def cell(self, index: int) -> Locator:
        return self.page.locator("#tried .jp-Notebook .jp-Cell").nth(index)

    def count(self, index: int) -> int | None:
        """The execution count; None: it did not run."""
        return self.model(index, "executionCount")  # type: ignore[no-any-return]

    def outputs(self, index: int) -> list[dict[str, Any]]:
        return self.model(index, "outputs.toJSON()")  # type: ignore[no-any-return]

    def model(self, index: int, path: str) -> Any:
        return self.page.evaluate(f"index => window.panel.content.widgets[index].model.{path}", index)

    def check(self, index: int) -> None:
        """Raise what an output of the cell holds as an error."""
        for output in self.outputs(index):
            assert output["output_type"] != "error", "\n".join(output["traceback"])

    def save(self) -> Any:
        """Save it; gives the file's content as it lies on disk."""
        self.page.evaluate("() => window.panel.context.save()")
        return json.loads(self.path.read_text(encoding="utf-8"))

    def close(self) -> None:
        """End its kernel, and take it out of the page."""
        self.page.evaluate(_CLOSE)
