"""The magics in a real IPython shell of this process; the model is a double over real HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import ipyconvexai as ai
from ipyconvexai.testing import Endpoint

KEY = "sk-test-0123456789abcdef"
Run = Callable[[str], Any]


@pytest.fixture(scope="module")
def bare_shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InteractiveShell]:
    """A shell that keeps no history, so that it leaves no open database behind."""
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.ipython_dir = str(tmp_path_factory.mktemp("ipython"))
    config.InteractiveShell.colors = "nocolor"
    yield InteractiveShell.instance(config=config)
    InteractiveShell.clear_instance()


@pytest.fixture
def shell(bare_shell: InteractiveShell) -> Iterator[InteractiveShell]:
    """The shell with the extension loaded; what a test defines is gone after it."""
    ai.load_ipython_extension(bare_shell)
    names = set(bare_shell.user_ns)
    yield bare_shell
    ai.unload_ipython_extension(bare_shell)
    for name in set(bare_shell.user_ns) - names:
        del bare_shell.user_ns[name]


class Scripted(Endpoint):
    """Answers what `scripted` holds under the question's first line; anything else is echoed."""

    def __init__(self) -> None:
        self.scripted: dict[str, Any] = {}
        super().__init__(lambda call: self.scripted.get(call.prompt.split("\n")[0]), key=KEY)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    double = Scripted()
    with double:
        monkeypatch.setenv("OPENAI_BASE_URL", double.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        with ai.connect(":memory:", model="openai:gpt-4o-mini", retries=0):
            yield double


@pytest.fixture
def run(shell: InteractiveShell, endpoint: Scripted) -> Run:
    """Runs a cell; gives what it raised, or None."""

    def run_cell(cell: str) -> Any:
        result = shell.run_cell(cell)
        return result.error_before_exec or result.error_in_exec

    return run_cell


@dataclass
class Page:
    """What a front end was told to show."""

    publisher: CapturingDisplayPublisher = field(default_factory=CapturingDisplayPublisher)

    @property
    def frames(self) -> list[dict[str, Any]]:
        """The data of each display and update, in order."""
        return [output["data"] for output in self.publisher.outputs]

    @property
    def last(self) -> dict[str, Any]:
        return self.frames[-1]


@pytest.fixture
def page(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> Page:
    """Makes the shell behave as a kernel's: outputs are MIME bundles, and these are they."""
    page = Page()
    monkeypatch.setattr(shell, "display_pub", page.publisher)
    monkeypatch.setattr(shell, "kernel", SimpleNamespace(get_parent=lambda channel: {}), raising=False)
    return page
