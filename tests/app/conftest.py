"""A ledger in a file, a provider on loopback, and the app between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import ipyconvexai as ai
from ipyconvexai.testing import Endpoint


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    with Endpoint() as double:
        monkeypatch.setenv("OPENAI_BASE_URL", double.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
        yield double


@pytest.fixture
def app(endpoint: Endpoint, tmp_path: Path) -> Iterator[ai.App]:
    with ai.connect(str(tmp_path / "ledger.duckdb"), model="openai:gpt-4o-mini") as opened:
        yield opened
