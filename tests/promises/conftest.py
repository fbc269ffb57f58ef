"""Fixtures of the promises: see `tests.promises.promising`."""

from __future__ import annotations

import pytest

from tests.promises.promising import FIGURE, Figure


@pytest.fixture
def figure(request: pytest.FixtureRequest, record_property) -> Figure:
    """Says what was measured: ``figure("0 of 312 rows lost", "30 kills")``; it is printed, and stands in the table."""

    def show(measured: str, tries: str = "") -> None:
        record_property(FIGURE, (measured, tries))
        print(f"\n{request.module.PROMISE}: {measured}" + (f" ({tries})" if tries else ""))

    return show
