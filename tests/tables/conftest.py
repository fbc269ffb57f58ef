"""A ledger in memory, with its catalogue, and transactions over it as a mutation has them."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator

import pytest

from ipyconvexai.store.link import Store, open_store
from ipyconvexai.tables import builtin, registry
from ipyconvexai.tables.catalog import Catalog
from ipyconvexai.tables.database import Reader, Writer
from ipyconvexai.tables.model import Table

START = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


class Lab:
    """Mutations and queries by hand; each has an instant of its own, one second after the one before."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.catalog = Catalog(store)
        self.now = START

    @contextlib.contextmanager
    def mutation(self) -> Iterator[Writer]:
        self.catalog.ensure_all()
        self.now += datetime.timedelta(seconds=1)
        with self.store.transaction() as execute:
            yield Writer(execute, self.catalog, self.now)

    @contextlib.contextmanager
    def query(self) -> Iterator[Reader]:
        self.catalog.ensure_all()
        with self.store.snapshot() as execute:
            yield Reader(execute, self.catalog, self.now)


@pytest.fixture(autouse=True, scope="module")
def modules_registry(request: pytest.FixtureRequest) -> Iterator[None]:
    """Only the ledger's own tables and those of the test's module are defined."""
    classes = [*vars(builtin).values(), *vars(request.module).values()]
    tables = [one for one in classes if isinstance(one, type) and issubclass(one, Table) and one is not Table]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_tables", {table.__table_name__.lower(): table for table in tables})
        yield


@pytest.fixture(autouse=True)
def own_registry(modules_registry: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test defines goes with it."""
    monkeypatch.setattr(registry, "_tables", dict(registry._tables))


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    opened = open_store(":memory:")
    yield opened
    opened.close()


@pytest.fixture
def lab(store: Store) -> Iterator[Lab]:
    """Over a ledger that is the module's, because opening one takes long; nothing is in it."""
    yield Lab(store)
    with store.transaction() as execute:
        for (name,) in execute("SELECT name FROM document_tables WHERE schema IS NOT NULL"):
            execute(f'DROP TABLE IF EXISTS "{name}"')
        execute("DELETE FROM document_tables WHERE schema IS NOT NULL")
        for name in ("conversations", "messages", "documents"):
            execute(f"DELETE FROM {name}")
