"""The endpoint double, an app over a ledger in memory, a drop-in client, and a corridor of one's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import ipyconvexai as ai
from ipyconvexai.testing import Endpoint
from tests.providers.lab import KEY, Lab


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as running:
        yield running


@pytest.fixture
def app() -> Iterator[ai.App]:
    with ai.connect(":memory:") as opened:
        yield opened


@pytest.fixture
def client(app: ai.App, endpoint: Endpoint) -> Iterator[ai.OpenAI]:
    with ai.OpenAI(base_url=endpoint.url, api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture
def lab(endpoint: Endpoint) -> Iterator[Lab]:
    made = Lab(endpoint.url)
    yield made
    made.close()
