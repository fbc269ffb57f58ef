"""A real kernel for each file of tests, and the provider it asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ipyconvexai.testing import Endpoint
from tests.kernels import Kernel, Scripted, environment_for


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Scripted]:
    double = Scripted()
    with double:
        yield double


@pytest.fixture(scope="module")
def kernel(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    kernel = Kernel(environment_for(endpoint, tmp_path_factory.mktemp("kernel") / "ledger.duckdb")).ready()
    assert kernel.run("%load_ext ipyconvexai\nimport ipyconvexai as ai").status == "ok"
    yield kernel
    kernel.close()
