"""A corridor with a real ledger in memory, whose pauses are noted and not slept; and what the ledger has."""

from __future__ import annotations

import time
from typing import Any

from ipyconvexai.loops import BackgroundLoop
from ipyconvexai.providers.clients import AsyncOpenAI, OpenAI, Wiring
from ipyconvexai.providers.corridor import Corridor
from ipyconvexai.providers.network import Network
from ipyconvexai.settings import Settings
from ipyconvexai.store.clock import Clock
from ipyconvexai.store.inprocess import ThreadStore
from ipyconvexai.store.ledger import Ledger

KEY = "sk-test-key-that-is-long-enough"
HELLO: list[Any] = [{"role": "user", "content": "Hello world"}]


def rows(app: Any) -> list[dict[str, Any]]:
    """Every attempt, in order, once each has its outcome."""
    deadline = time.monotonic() + 5
    store = app.store
    while store.read("SELECT 1 FROM calls WHERE status = 'sending'") and time.monotonic() < deadline:
        time.sleep(0.005)
    names = [row[0] for row in store.read("SELECT column_name FROM (DESCRIBE calls)")]
    return [dict(zip(names, row, strict=True)) for row in store.read("SELECT * FROM calls ORDER BY id")]


def statuses(app: Any) -> list[str]:
    return [row["status"] for row in rows(app)]


class Lab:
    """A corridor of its own with pauses that are noted and not slept, and randomness that is given."""

    def __init__(self, url: str, clock: Clock | None = None, **settings: Any) -> None:
        """`clock`: what its limits and budgets go by."""
        self.url = url
        self.settings = Settings(path=":memory:", **settings)
        self.store = ThreadStore(":memory:", clock)
        self.ledger = Ledger(self.store, record=self.settings.record)
        self.loop = BackgroundLoop()
        self.pauses: list[float] = []
        self.random = 0.0
        self.network = Network()
        self.corridor = Corridor(
            self.ledger, self.settings, self.network.send, sleep=self._sleep, rand=lambda: self.random
        )
        self.wiring = Wiring(self.corridor, self.loop)

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def client(self, **options: Any) -> OpenAI:
        return OpenAI(wiring=self.wiring, base_url=self.url, api_key=KEY, **options)

    def aclient(self, **options: Any) -> AsyncOpenAI:
        return AsyncOpenAI(wiring=self.wiring, base_url=self.url, api_key=KEY, **options)

    def close(self) -> None:
        self.loop.close(last=self.network.aclose)
        self.store.close()
