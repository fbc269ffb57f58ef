"""What every test stands on: no key, no ledger and no model of the person who runs the tests is touched."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import ipyconvexai as ai
from ipyconvexai.store import start
from ipyconvexai.testing import Endpoint
from tests.keepers import Nursery
from tests.promises.table import show

_SPAWN = start._spawn

# jsonschema asks this one for IRIs, which no test looks at: building its grammar takes each process two seconds.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

# A busy machine needs a second for the table of characters that a first draw makes: time tells nothing of an example.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def private_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No provider's key or address, and a ledger of the test's own."""
    for name in list(os.environ):
        telling = name.endswith(("_API_KEY", "_BASE_URL", "_ENDPOINT"))
        if telling or name in ("OLLAMA_HOST", "IPYCONVEXAI_MODEL", "IPYCONVEXAI_REPLAY", "IPYCONVEXAI_RECORD"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("IPYCONVEXAI_DB", str(tmp_path / "ledger.duckdb"))
    monkeypatch.setenv("IPYCONVEXAI_KEEPER_LINGER", "0.5")  # seconds; a test leaves nothing running for long


@pytest.fixture(autouse=True)
def own_definitions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions, crons and tables are known by name in the whole process. Here a test's module knows the package's and
    its own, and what a test defines goes with it."""

    def is_known(thing: object) -> bool:
        home = str(getattr(thing, "__module__", ""))
        return home == request.module.__name__ or not home.rpartition(".")[2].startswith("test_")

    if "ipyconvexai.functions.registry" in sys.modules:
        from ipyconvexai.functions.crons import crons
        from ipyconvexai.functions.registry import define_built_in, registry

        define_built_in()  # else the first test that needs them would take them along
        kept = {name: function for name, function in registry.all().items() if is_known(function.handler)}
        monkeypatch.setattr(registry, "_defined", kept)
        monkeypatch.setattr(crons, "_defined", {k: v for k, v in crons.all().items() if v.function.name in kept})
    if "ipyconvexai.tables.registry" in sys.modules:
        import ipyconvexai.tables.builtin  # noqa: F401 - for the same reason
        from ipyconvexai.tables import registry as tables

        monkeypatch.setattr(tables, "_tables", {k: v for k, v in tables._tables.items() if is_known(v)})


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """An app that stays open would run the jobs of later tests, too."""
    yield
    application = sys.modules.get("ipyconvexai.application")
    while application is not None and application._current is not None:
        application._current.close()
    for left in list(application._open_apps) if application is not None else ():
        left.close()


@pytest.fixture(scope="module", autouse=True)
def little_to_collect() -> Iterator[None]:
    """All tests' process comes to a million objects, and looking through them takes the collector a second."""
    yield
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests stay together, as they share kernels and servers; those of the browser all do."""
    if config.getvalue("dist") != "loadfile":  # somebody chose another one
        return None
    from xdist.scheduler import LoadFileScheduling

    scheduling = LoadFileScheduling(config, log)
    file_of = scheduling._split_scope

    def share(nodeid: str) -> str:
        return "tests/browser" if nodeid.startswith("tests/browser/") else file_of(nodeid)

    scheduling._split_scope = share
    return scheduling


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # else extensions think at the end that something leaks


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def warm_keepers(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keepers that this process starts cost little, see `tests.keepers`."""
    if sys.platform == "linux":
        monkeypatch.setattr(start, "_spawn", nursery.spawn)


@pytest.fixture
def cold_keepers(warm_keepers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """They start as those of users do, and are found by their command line."""
    monkeypatch.setattr(start, "_spawn", _SPAWN)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """A provider on loopback, found as OpenAI."""
    with Endpoint() as double:
        monkeypatch.setenv("OPENAI_BASE_URL", double.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
        yield double


@pytest.fixture
def app(endpoint: Endpoint, tmp_path: Path) -> Iterator[ai.App]:
    """A ledger in a file, current, over that provider."""
    with ai.connect(str(tmp_path / "ledger.duckdb"), model="openai:gpt-4o-mini") as opened:
        yield opened


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Here, as with -n the process that reports reads no other conftest."""
    show(terminalreporter)
