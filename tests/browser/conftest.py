"""A real JupyterLab or Notebook 7 in a real Chromium, one of each for all tests of this folder.

A module is of JupyterLab, unless it says ``pytest.mark.parametrize("server", ["lab", "notebook"], indirect=True)``.

Chromium is the machine's own (Debian's package ``chromium``), never a download. ``IPYCONVEXAI_CHROMIUM`` names another.
Nothing of it outlives this folder: Playwright's loop runs in this thread while its browser lives, and other tests begin
loops, count threads and look for processes. Where tests run in several processes, these are all in one of them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, sync_playwright

from ipyconvexai.testing import Endpoint
from tests.browser.guard import Guard
from tests.browser.lab import KEY, PATIENCE, Notebook, Server

FLAGS = [
    "--no-sandbox",  # which root cannot have
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
Open = Callable[..., Notebook]


class Scripted(Endpoint):
    """Answers what `scripted` holds under the question's first line; anything else is echoed."""

    def __init__(self) -> None:
        self.scripted: dict[str, Any] = {}
        super().__init__(lambda call: self.scripted.get(call.prompt.split("\n")[0]), key=KEY)


def find_chromium() -> str | None:
    named = os.environ.get("IPYCONVEXAI_CHROMIUM")
    for name in [named] if named else ["chromium", "chromium-browser", "google-chrome"]:
        found = shutil.which(name)
        if found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:
            return found
    return None


@pytest.hookimpl(tryfirst=True)  # before those are left out that are of the long form
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notebook shows the same widget as JupyterLab: a few tests show that each time, all of them in the long form."""
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if params.get("server") == "notebook" and item.get_closest_marker("both") is None:
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The program's path. Nothing is left out quietly: `make test` demands it, elsewhere the reason names the cure."""
    if (found := find_chromium()) is not None:
        return found
    missing = "NO BROWSER TEST RUNS: there is no Chromium that starts (Debian: apt-get install chromium)"
    if os.environ.get("IPYCONVEXAI_TEST_BROWSER") == "required":
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="package")
def endpoint() -> Iterator[Scripted]:
    """The one provider of all kernels."""
    double = Scripted()
    with double:
        yield double


@pytest.fixture
def scripted(endpoint: Scripted) -> Iterator[Scripted]:
    """The provider, whose script is the test's own."""
    yield endpoint
    endpoint.scripted.clear()


def environment(url: str) -> dict[str, str]:
    """A kernel's, whose provider is at `url`."""
    return {
        "OPENAI_BASE_URL": url,
        "OPENAI_API_KEY": KEY,
        "IPYCONVEXAI_MODEL": "openai:gpt-4o-mini",
        "IPYCONVEXAI_DB": "ledger.duckdb",  # beside the notebook: a kernel starts in its notebook's folder
        "IPYCONVEXAI_KEEPER_LINGER": "0.5",
    }


@pytest.fixture(scope="package")
def servers(chromium: str) -> Iterator[dict[str, Server]]:
    """Those that were needed so far, by the name of their app."""
    started: dict[str, Server] = {}
    yield started
    with contextlib.ExitStack() as stack:
        for server in started.values():
            stack.callback(server.close)


@pytest.fixture
def server(
    servers: dict[str, Server],
    endpoint: Scripted,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Server:
    app = getattr(request, "param", "lab")
    if app not in servers:
        servers[app] = Server(tmp_path_factory.mktemp(app), environment(endpoint.url), app)
    return servers[app]


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Window:
    """A page of the browser, with the guard that saw all of it, and the notebook that tests of a module share in it."""

    page: Page
    guard: Guard
    shared: Notebook | None = None
    sharing: str = ""  # the module's name


@pytest.fixture(scope="package")
def windows(browser: Browser) -> Iterator[dict[str, Window]]:
    """The one in use for each app: all tests share it, until one fails."""
    opened: dict[str, Window] = {}
    yield opened
    for window in opened.values():
        window.page.context.close()


@pytest.fixture
def window(browser: Browser, server: Server, windows: dict[str, Window]) -> Window:
    if server.app not in windows:
        context = browser.new_context(viewport={"width": 1200, "height": 850})
        context.set_default_timeout(PATIENCE * 1000)
        guard = Guard(context, server.url)
        windows[server.app] = Window(context.new_page(), guard)
    return windows[server.app]


@pytest.fixture
def guard(window: Window) -> Guard:
    return window.guard


@pytest.fixture
def picture_of_a_failure(
    window: Window, server: Server, windows: dict[str, Window], request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[None]:
    """Where a test fails; and the next one gets a page of its own."""
    failed_before = request.session.testsfailed
    yield
    if request.session.testsfailed > failed_before:
        del windows[server.app]
        picture = tmp_path / "page.png"
        with contextlib.suppress(Error):  # a page that has crashed
            window.page.screenshot(path=picture)
            print(f"The page when the test failed: {picture}")
        with contextlib.suppress(Error):
            window.page.context.close()


def _opened(window: Window, server: Server, cells: tuple[str, ...], kernel: str = "python3") -> Notebook:
    number = len(list(server.notebooks.iterdir()))
    notebook = Notebook(window.page, server, server.write(f"{number:03}", list(cells), kernel))
    notebook.silently("%load_ext ipyconvexai\nimport ipyconvexai as ai")
    return notebook


@pytest.fixture
def notebook(
    window: Window, server: Server, request: pytest.FixtureRequest, picture_of_a_failure: None
) -> Iterator[Open]:
    """``notebook(cell, ...)``: these cells in the page, in a kernel of their own, the extension loaded."""
    opened: list[Notebook] = []

    def open_notebook(*cells: str, kernel: str = "python3") -> Notebook:
        for before in [*opened, *([window.shared] if window.shared else [])]:
            before.close()
        opened.clear()
        window.shared = None
        opened.append(_opened(window, server, cells, kernel))
        window.guard.begin(window.page)
        return opened[0]

    failed_before = request.session.testsfailed
    yield open_notebook
    if request.session.testsfailed == failed_before:  # else there is a picture to take
        for each in opened:
            each.close()


@pytest.fixture
def shared(window: Window, server: Server, request: pytest.FixtureRequest, picture_of_a_failure: None) -> Open:
    """``shared(cell, ...)``: these cells in a notebook whose kernel other tests of the module had before: for those
    that leave it as it was. Conversations of theirs are there, so titles differ."""

    def replace_cells(*cells: str) -> Notebook:
        if window.shared is not None and window.sharing != request.module.__name__:
            window.shared.close()
            window.shared = None
        if window.shared is None:
            window.shared, window.sharing = _opened(window, server, cells), request.module.__name__
        window.shared.replace(list(cells))
        window.guard.begin(window.page)
        return window.shared

    return replace_cells
