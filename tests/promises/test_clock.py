"""The machine's clock jumps, on and back, while a notebook asks: nothing is lost, and the order stays."""

from __future__ import annotations

import datetime
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai import ids
from ipyconvexai.store import clock
from ipyconvexai.testing import Endpoint
from tests.promises.promising import Figure

PROMISE = "a clock that jumps, on or back, loses no call and changes no order"


class Clock:
    """What this process takes for the time; the rest of the machine goes on as before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hours = 0.0
        monkeypatch.setattr(clock, "datetime", self)
        monkeypatch.setattr(ids.new_id, "__defaults__", (self._nanoseconds, os.urandom))
        monkeypatch.setattr(ids, "_last", ids._last)  # ids of later tests are not of a time that never was

    UTC = datetime.UTC

    @property
    def datetime(self) -> Clock:
        return self

    def now(self, zone: Any) -> Any:
        return datetime.datetime.now(zone) + datetime.timedelta(hours=self.hours)

    def _nanoseconds(self) -> int:
        return time.time_ns() + int(self.hours * 3600e9)


def test_a_clock_that_jumps_loses_nothing_and_changes_no_order(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Figure
):
    jumping = Clock(monkeypatch)
    jumps = [0.0, 1.0, -1.0, 30.0, -30.0, 0.5, 0.0]  # hours from the true time
    asked, moments = [], []
    with ai.connect(str(tmp_path / "ledger.duckdb"), model="openai:gpt-4o-mini") as app:
        for number, hours in enumerate(jumps):
            jumping.hours = hours
            for part in ("a", "b"):
                asked.append(f"question {number}{part}")
                moments.append(clock.utc_now())
                ai.generate(asked[-1], conversation="talk")
        rows = app.ledger.sql("SELECT id::VARCHAR, sent_at, duration_ms, status FROM calls ORDER BY id").fetchall()
        assert [call.prompt for call in endpoint.calls] == asked
        assert len(rows) == len(asked)
        assert {status for *_, status in rows} == {"ok"}
        # Ids go on by one where the clock goes back, so their order is the order in which it happened.
        said = app.ledger.sql("SELECT request FROM calls ORDER BY id").fetchall()
        assert [json.loads(body)["messages"][-1]["content"] for (body,) in said] == asked
        history = endpoint.calls[-1].body["messages"]  # what the model is told of the conversation
        assert [message["content"] for message in history if message["role"] == "user"] == asked
        assert all(0 <= milliseconds < 60_000 for _, _, milliseconds, _ in rows), "a duration by the clock of the wall"
        instants = [sent_at.replace(tzinfo=None) for _, sent_at, _, _ in rows]
        late = [abs(sent_at - moment) for sent_at, moment in zip(instants, moments, strict=True)]
        assert max(late) < datetime.timedelta(seconds=30), "an instant that is not of the clock"
        # A purge goes by what the rows say: those of the hours that were set back are the old ones.
        border = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=30)
        old = sum(sent_at < border.replace(tzinfo=None) for sent_at in instants)
        assert app.ledger.purge(before=border).calls == old == 4
        left = app.ledger.sql("SELECT count(*), count(request) FROM calls").fetchall()
        assert left == [(len(asked), len(asked) - old)]
    figure(f"0 of {len(asked)} calls lost or out of order", f"{len(jumps) - 1} jumps of the clock")
