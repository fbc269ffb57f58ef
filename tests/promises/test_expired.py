"""Content that is older than `retention_days` goes from the file's bytes by itself; what is younger stays, and so does
what it cost. Time is told by a clock of the test's, or the rows are as old as they need to be."""

from __future__ import annotations

import datetime
import secrets
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.records import retention
from ipyconvexai.records.retention import Retention
from ipyconvexai.settings import Settings
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.link import open_store
from ipyconvexai.testing import Endpoint, Fault
from tests.promises.children import Child, Say
from tests.promises.promising import Figure
from tests.promises.scanning import in_files, in_rows, let_go
from tests.store.helpers import wait_for

PROMISE = (
    "content that is older than `retention_days` is in no byte of the file 25 hours later where somebody who set it has"
    " the ledger open, else once it is opened so (where nothing younger is there, on the second day of use: the clock"
    " may be wrong); usage and cost stay"
)

NOON = datetime.datetime(2026, 11, 20, 12)
DAY, HOUR = datetime.timedelta(days=1), datetime.timedelta(hours=1)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "alone" / "ledger.duckdb"


def marker(word: str) -> str:
    """Nothing that a compression would hide."""
    return f"{word}-{secrets.token_hex(16)}"


@ai.mutation
def note_it(ctx: ai.MutationCtx, text: str) -> str:
    return f"noted {text}"


@ai.mutation
def note_later(ctx: ai.MutationCtx, text: str) -> None:
    ctx.scheduler.run_after(0, note_it, text=text)


def play(endpoint: Endpoint, word: str) -> None:
    """Content of every kind that ages, with `word` in it and in its answer."""
    endpoint.reply(lambda call: Fault(400, message=call.prompt) if "wrong" in call.prompt else None)
    ai.generate(f"plain {word}")
    list(ai.stream(f"streamed {word}"))
    assert not ai.safe_generate(f"wrong {word}").success
    talk = ai.conversation(f"talk of {word}")
    talk.send(f"said {word}")
    ai.OpenAI().embeddings.create(model="m", input=f"embedded {word}")
    ai.map(pd.DataFrame({"text": [f"row {word}", f"wrong {word}"]}), "Classify: {text}", into="kind", progress=False)
    ai.run(note_later, text=word)
    wait_for(lambda: not len(ai.jobs("pending")) + len(ai.jobs("in_progress")), "the job to end")


def age(app: ai.App, days: float) -> None:
    """As if all that is there had been written so long ago."""
    columns = app.store.read(
        "SELECT table_name, list(column_name) FROM duckdb_columns() WHERE NOT internal AND data_type = 'TIMESTAMP'"
        " AND table_name IN (FROM (SELECT table_name FROM duckdb_tables() WHERE NOT internal)) GROUP BY ALL"
    )
    for table, names in columns:
        moved = ", ".join(f"{name} = {name} - to_seconds({days * 86_400})" for name in names)
        with app.store.transaction() as execute:
            execute(f"UPDATE {table} SET {moved}")


USED = "SELECT count(*), sum(input_tokens), sum(output_tokens), sum(cost_usd), sum(duration_ms) FROM calls"


def test_old_content_goes_and_young_content_stays(endpoint: Endpoint, ledger: Path, figure: Figure) -> None:
    old, young = marker("old"), marker("young")
    with ai.connect(ledger, model="openai:gpt-4o-mini", retries=0) as app:
        play(endpoint, old)
        age(app, 31)
        play(endpoint, young)
        asked_at(app, utc_now() - DAY)
        used = app.store.read(USED)
    let_go(ledger)
    before = len(in_rows(ledger, [old]))
    assert before >= 8
    with ai.connect(ledger, retention_days=30) as app:
        pass  # a script that ends at once
    with ai.connect(ledger) as app:
        assert app.store.read(USED) == used
        assert app.ledger.usage()
    let_go(ledger)
    assert in_rows(ledger, [old]) == in_files(ledger.parent, [old]) == []
    assert len(in_rows(ledger, [young])) >= before
    assert in_files(ledger.parent, [young])
    assert [path.name for path in ledger.parent.iterdir()] == ["ledger.duckdb"]
    figure(f"0 bytes left of what {before} columns had, all of what is younger")


def is_written_anew(ledger: Path, looking: Retention) -> bool:
    before = ledger.stat().st_ino
    looking.look()
    return ledger.stat().st_ino != before


def asked_at(app: ai.App, *moments: datetime.datetime) -> None:
    for moment in moments:
        request = ai.generate("question").request_id
        with app.store.transaction() as execute:
            execute("UPDATE requests SET sent_at = ? WHERE id = ?", [moment, request])


CONTENT = "SELECT count(request) FROM calls"


def test_the_file_is_written_anew_once_a_day_and_only_where_something_expired(app: ai.App, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.duckdb"
    asked_at(app, NOON - DAY, NOON - 2 * HOUR, NOON + 2 * HOUR, NOON + 10 * DAY)
    now = NOON + 29 * DAY
    looking = Retention(app.store, 30, lambda: now)
    assert not is_written_anew(ledger, looking)  # nothing is old enough
    now = NOON + 30 * DAY
    assert is_written_anew(ledger, looking)
    assert "removed 2 calls, of 2026-11-19 12:00 to 2026-11-20 10:00" in looking.told  # to the minute
    now += 3 * HOUR
    assert not is_written_anew(ledger, looking)  # the third one waits: once a day
    assert not is_written_anew(ledger, Retention(app.store, 30, lambda: now))  # whoever looks
    assert app.store.read(CONTENT) == [(2,)]
    now += DAY
    assert is_written_anew(ledger, looking)
    assert app.store.read(CONTENT) == [(1,)]


def test_a_clock_that_is_far_ahead_empties_nothing(app: ai.App, tmp_path: Path) -> None:
    asked_at(app, NOON - DAY, NOON)
    now = NOON + 4000 * DAY
    looking = Retention(app.store, 365, lambda: now)
    assert not is_written_anew(tmp_path / "ledger.duckdb", looking)
    assert "all that is there is older than 365 days, by a clock that says 2037-11-02" in looking.told
    asked_at(app, now)  # by the same clock
    assert not is_written_anew(tmp_path / "ledger.duckdb", looking)
    now += DAY
    assert is_written_anew(tmp_path / "ledger.duckdb", looking)
    assert app.store.read(CONTENT) == [(1,)]


def test_an_app_that_stays_open_looks_each_day(app: ai.App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "HOUR", 0.01)
    asked_at(app, NOON, NOON + 3 * DAY, NOON + 7 * DAY)
    times = [NOON + DAY]
    looking = Retention(app.store, 3, lambda: times[-1])
    looking.start()
    for day, left in ((2, 3), (4, 2), (8, 1), (12, 1)):
        times.append(NOON + day * DAY)
        wait_for(lambda at=times[-1]: f"{at:%Y-%m-%d}" in looking.told, "the look")  # type: ignore[misc]
        assert app.store.read(CONTENT) == [(left,)]
    looking.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "ipyconvexai-retention"]


def test_what_is_under_way_stays(app: ai.App, endpoint: Endpoint) -> None:
    endpoint.hold()
    asking = threading.Thread(target=ai.generate, args=("asked long ago",))
    asking.start()
    endpoint.wait(lambda held: held.in_flight == 1)
    age(app, 40)
    Retention(app.store, 30).look()
    assert app.store.read(CONTENT) == [(1,)]
    endpoint.release()
    asking.join()
    asked_at(app, utc_now() - DAY)
    Retention(app.store, 30).look()
    assert app.store.read(CONTENT) == [(1,)]


def told(app: ai.App) -> str:
    assert app.retention is not None
    return app.retention.told


def be_notebook(say: Say, ledger: str) -> None:
    with ai.connect(ledger) as app:
        say(told(app))
    say(told(app))


def test_several_notebooks_that_begin_at_once(
    endpoint: Endpoint, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ai.connect(ledger, model="openai:gpt-4o-mini") as app:
        asked_at(app, NOON, utc_now() - DAY, utc_now())
        monkeypatch.setenv("IPYCONVEXAI_RETENTION_DAYS", "0.5")
        with Child(be_notebook, str(ledger)) as one, Child(be_notebook, str(ledger)) as other:
            for child in (one, other):
                assert "removed" in list(child.rest())[-1]
        assert app.store.read(CONTENT) == [(1,)]


def test_what_cannot_be_done_is_told_and_stops_nobody(
    app: ai.App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "broken.duckdb").write_bytes(b"no ledger at all" * 1000)
    with ai.connect(tmp_path / "broken.duckdb", retention_days=30) as broken:
        wait_for(lambda: "could" in told(broken), "the look")
        assert "nothing could be removed: " in ai.doctor()
    assert "what has expired could not be removed" in caplog.text
    assert (tmp_path / "broken.duckdb").read_bytes() == b"no ledger at all" * 1000


def test_looking_makes_no_ledger(ledger: Path) -> None:
    store = open_store(str(ledger))
    Retention(store, 30).look()
    store.close()
    assert not ledger.exists()


def test_the_doctor_tells_what_is_kept(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ai.connect(":memory:"):
        assert "kept: requests and answers, until they are purged\n" in ai.doctor()
    with ai.connect(":memory:", record="metadata"):
        assert "kept: hashes, sizes, usage and outcomes, and no content" in ai.doctor()
    monkeypatch.setenv("IPYCONVEXAI_RETENTION_DAYS", "30")
    with ai.connect(":memory:") as app:
        wait_for(lambda: "removed" in told(app), "the look")
        assert "kept: requests and answers for 30 days, and then hashes" in ai.doctor()
        assert "UTC this process removed nothing" in ai.doctor()
    with ai.connect(":memory:", retention_days=1.5) as app:
        assert app.settings.retention_days == 1.5


@pytest.mark.parametrize("days", [0, -1, float("nan"), float("inf"), True, "many", [30], 10**6])
def test_what_is_no_number_of_days(days: Any) -> None:
    with pytest.raises(errors.InputError, match="retention_days="):
        ai.connect(":memory:", retention_days=days)


@pytest.mark.parametrize("days", ["", "30", "0.5"])
def test_the_environment_says_it(days: str) -> None:
    found = Settings.from_environment({"IPYCONVEXAI_RETENTION_DAYS": days})
    assert found.retention_days == (float(days) if days else None)
    with pytest.raises(errors.InputError, match="RETENTION_DAYS=30"):
        Settings.from_environment({"IPYCONVEXAI_RETENTION_DAYS": days + "d"})
