"""Word of a job's end, to a webhook and by e-mail: against a double on loopback, with the real scheduler and ledger."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.batch import notices
from ipyconvexai.functions.registry import of
from ipyconvexai.ids import new_id
from ipyconvexai.providers.posting import check_address, post_json, send_email
from ipyconvexai.store.clock import utc_now
from tests.store.helpers import wait_for

KEY = "re_0123456789abcdefABCDEF"


class Receiver:
    """Answers POSTs as it is told, then with 200; `seen` is what came."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.held: threading.Event | None = None
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                seen = {"path": self.path, "body": json.loads(body), "headers": dict(self.headers.items())}
                receiver.seen.append(seen)
                if receiver.held is not None:
                    receiver.held.wait(10)
                status, headers, said = receiver.answers.pop(0) if receiver.answers else (200, {}, b'{"id": "mail-1"}')
                self.send_response(status)
                for name, value in {"Content-Length": str(len(said)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    def answer(self, status: int, said: bytes = b"", **headers: str) -> None:
        self.answers.append((status, {name.replace("_", "-"): value for name, value in headers.items()}, said))

    def close(self) -> None:
        if self.held is not None:
            self.held.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def resend(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> Receiver:
    monkeypatch.setenv("RESEND_API_KEY", KEY)
    monkeypatch.setenv("RESEND_DOMAIN", "mail.example.org")
    monkeypatch.setenv("RESEND_BASE_URL", receiver.url)
    return receiver


@pytest.fixture(autouse=True)
def no_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESEND_DOMAIN", raising=False)


FACTS = {
    "name": "nightly", "kind": "summarize", "state": "done", "rows": 1200, "errors": 3, "requests": 900,
    "tokens": 81000, "cost_usd": 0.25, "started_at": "2026-01-01T02:00:00Z", "finished_at": "2026-01-01T02:10:00Z",
    "error": None,
}  # fmt: skip


def told(app: ai.App, *where: str, **facts: Any) -> str:
    """As a batch that is over does; gives the id of its job."""
    job = new_id()
    assert notices.tell(app.store, job, where, {"job": job, **FACTS, **facts}, "ann", utc_now()) == len(where)
    app.functions.start()
    app.functions.scheduler.wake()
    return job


def rows_of(app: ai.App, job: str) -> list[dict[str, Any]]:
    columns = "name state attempts error_code error_message errors due_at started_at args result user_id".split()
    sql = f"SELECT {', '.join(columns)} FROM scheduled_functions WHERE scheduled_by = ?::UUID ORDER BY id"
    return [dict(zip(columns, row, strict=True)) for row in app.store.read(sql, [job])]


def settled(app: ai.App, job: str) -> list[dict[str, Any]]:
    def look() -> list[dict[str, Any]] | None:
        rows = rows_of(app, job)
        return rows if all(row["state"] not in ("pending", "in_progress") for row in rows) else None

    found: list[dict[str, Any]] = wait_for(look, "the notices to end")
    return found


def repeated(app: ai.App, job: str, attempts: int) -> dict[str, Any]:
    """The row after so many attempts, of which the last failed and is to be repeated."""

    def look() -> dict[str, Any] | None:
        (row,) = rows_of(app, job)
        return row if (row["state"], row["attempts"]) == ("pending", attempts) else None

    found: dict[str, Any] = wait_for(look, f"attempt {attempts} to fail")
    return found


def later(app: ai.App, monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    """Put the scheduler's clock on, so that what waits is due."""
    scheduler = app.functions.scheduler
    clock: Callable[[], datetime.datetime] = scheduler._clock
    monkeypatch.setattr(scheduler, "_clock", lambda: clock() + datetime.timedelta(hours=hours))
    scheduler.wake()


# ---------------------------------------------------------------------------------------------- webhooks
def test_a_webhook_is_given_the_facts_and_the_job_is_recorded(app: ai.App, receiver: Receiver):
    job = told(app, f"{receiver.url}/hook")
    (row,) = settled(app, job)
    assert (row["name"], row["state"], row["result"], row["user_id"]) == ("ai.notify_webhook", "success", "200", "ann")
    (seen,) = receiver.seen
    assert seen["path"] == "/hook"
    assert seen["body"] == {
        "event": "batch.done",
        "job": job,
        **FACTS,
        "text": "nightly (summarize) is done: 1,200 rows, 3 errors, 900 requests, 81,000 tokens, $0.2500",
    }
    assert seen["headers"]["Content-Type"] == "application/json"
    assert "ai.notify_webhook" in {name for _, name, *_ in ai.jobs().fetchall()}


def test_nobody_is_told_twice(app: ai.App, receiver: Receiver):
    job = told(app, f"{receiver.url}/hook")
    settled(app, job)
    assert notices.tell(app.store, job, [f"{receiver.url}/hook"], {"job": job, **FACTS}, "ann", utc_now()) == 0
    assert len(rows_of(app, job)) == 1


def test_a_busy_receiver_is_asked_again_when_it_says_and_no_sooner(
    app: ai.App, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    receiver.answer(429, b"slow down", Retry_After="5000")
    receiver.answer(503)
    job = told(app, f"{receiver.url}/hook")
    row = repeated(app, job, 1)
    pause = (row["due_at"] - row["started_at"]).total_seconds()
    assert 5000 <= pause < 5000 * 1.25 + 30
    assert row["error_code"] == "rate_limit"
    later(app, monkeypatch, 2)
    row = repeated(app, job, 2)
    assert "503" in row["error_message"]
    later(app, monkeypatch, 2)
    (row,) = settled(app, job)
    assert (row["state"], row["attempts"], len(receiver.seen)) == ("success", 3, 3)
    assert [error["code"] for error in json.loads(row["errors"])] == ["rate_limit", "provider_error"]
    assert receiver.seen[0]["body"] == receiver.seen[2]["body"]


@pytest.mark.parametrize("status", [400, 401, 404, 410, 302])
def test_a_refusal_is_final(app: ai.App, receiver: Receiver, status: int):
    receiver.answer(status, b"no \x1b[31mred\x1b[0m words", Location=f"{receiver.url}/elsewhere")
    (row,) = settled(app, told(app, f"{receiver.url}/hook"))
    assert (row["state"], row["attempts"]) == ("failed", 1)
    assert f"127.0.0.1 answered {status}: no red words" in row["error_message"]
    assert [seen["path"] for seen in receiver.seen] == ["/hook"], "a redirect is not followed"


def test_a_receiver_that_is_away_is_asked_again(app: ai.App):
    gone = Receiver()
    gone.close()
    job = told(app, f"{gone.url}/hook")
    assert repeated(app, job, 1)["error_code"] == "unreachable"


def test_silence_ends(app: ai.App, receiver: Receiver):
    receiver.held = threading.Event()
    with pytest.raises(errors.CallTimeoutError, match=r"127.0.0.1 did not answer within 0.2 s") as caught:
        app.run(post_json(receiver.url, {}, timeout=0.2))
    assert caught.value.retryable


def test_what_is_long_is_not_read_to_its_end(app: ai.App, receiver: Receiver):
    receiver.answer(200, b"x" * 100_000, Content_Length="1000000000")
    posted = app.run(post_json(receiver.url, {"a": 1}))
    assert (posted.status, len(posted.value)) == (200, 65_536)


# ---------------------------------------------------------------------------------------------- secrets
def test_an_address_in_the_environment_is_never_written_down(
    app: ai.App, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("TEAM_HOOK", f"{receiver.url}/services/T0123456/B0123456/abcdefghijklmn0123456789")
    assert notices.addresses("env:TEAM_HOOK") == ["env:TEAM_HOOK"]
    receiver.answer(404, b"no_service /services/T0123456/B0123456/abcdefghijklmn0123456789 here")
    (row,) = settled(app, told(app, "env:TEAM_HOOK"))
    assert receiver.seen[0]["path"].endswith("0123456789")
    assert "no_service" in row["error_message"]
    assert "abcdefghijklmn" not in f"{row} {caplog.text} {ai.jobs()!r}"


@pytest.mark.parametrize(
    "address",
    [
        "https://hooks.slack.com/services/T0/B0/x",
        "https://ada:geheim@example.org/hook",
        "https://example.org/hook?token=x",
        "https://example.org/hook/9f8a7b6c5d4e3f2a1b0c",
        "https://example.org/9f8a7b6c-5d4e-4f3a-8b1c-000000000000",
        "https://example.org/hook/AbcdefghIjklmnopQr",
        "https://discord.com/api/webhooks/1/x",
    ],
)
def test_an_address_that_holds_a_secret_is_refused(address: str):
    with pytest.raises(errors.InputError, match="may hold a secret") as caught:
        notices.addresses(address)
    assert "env:" in caught.value.cure
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["https://example.org/hooks/nightly-report-2026", "http://10.0.0.7:8080/ci/notify", "ada.l@ex.co"]
)
def test_plain_addresses_are_taken(address: str, resend: Receiver):
    assert notices.addresses([address, address]) == [address]


@pytest.mark.parametrize(
    "notify",
    ["slack", "ftp://example.org/x", "https://", "http://[::1/x", "ada@", "a b@example.org", "", 7, ["x", 7],
     "https://example.org/a\nb", "https://example.org:99999/x"],
)  # fmt: skip
def test_what_is_no_address_is_refused(notify: Any, resend: Receiver):
    with pytest.raises(errors.InputError):
        notices.addresses(notify)


def test_a_variable_that_is_not_set_is_said_at_once(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(errors.ConfigurationError, match="NOT_THERE is not set"):
        notices.addresses("env:NOT_THERE")
    monkeypatch.setenv("BAD_HOOK", "my-secret-that-is-no-address")
    with pytest.raises(errors.InputError, match="env:BAD_HOOK is no address") as caught:
        notices.addresses("env:BAD_HOOK")
    assert "my-secret" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- e-mail
def test_an_email_goes_through_resend_once(
    app: ai.App, resend: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    resend.answer(500, f"oops {KEY}".encode())
    notices.addresses("ada@example.org")
    job = told(app, "ada@example.org", name="a\x1b[31mb\n\u202eevil", error=f"bad <!channel> {KEY}", state="failed")
    repeated(app, job, 1)
    later(app, monkeypatch, 2)
    (row,) = settled(app, job)
    assert (row["name"], row["state"], row["result"]) == ("ai.send_email", "success", '"mail-1"')
    first, second = resend.seen
    assert first["path"] == "/emails"
    assert first["headers"]["Authorization"] == f"Bearer {KEY}"
    assert first["headers"]["Idempotency-Key"] == second["headers"]["Idempotency-Key"] == job
    mail = second["body"]
    assert mail["from"] == "ipyconvexai <batches@mail.example.org>"
    assert mail["to"] == ["ada@example.org"]
    assert mail["subject"] == "ab evil failed"
    assert "1,200 rows" in mail["text"]
    assert "bad <!channel> ***" in mail["text"]
    assert f"job: {job}" in mail["text"]
    assert "html" not in mail
    assert KEY not in f"{row} {caplog.text} {mail}"


def test_two_people_get_two_mails(app: ai.App, resend: Receiver):
    job = told(app, "ada@example.org", "bob@example.org", f"{resend.url}/hook")
    assert len(settled(app, job)) == 3
    keys = {seen["headers"].get("Idempotency-Key") for seen in resend.seen}
    assert keys == {job, f"{job}-2", None}


def test_an_email_needs_a_key_and_a_domain(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(errors.MissingKeyError, match="RESEND_API_KEY is not set"):
        notices.addresses("ada@example.org")
    monkeypatch.setenv("RESEND_API_KEY", KEY)
    with pytest.raises(errors.MissingKeyError, match="RESEND_DOMAIN is not set"):
        notices.addresses("ada@example.org")
    monkeypatch.setenv("RESEND_DOMAIN", "x> <y")
    with pytest.raises(errors.ConfigurationError, match="does not hold a domain"):
        notices.addresses("ada@example.org")


def test_a_key_does_not_travel_unencrypted(app: ai.App, resend: Receiver, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RESEND_BASE_URL", "http://192.0.2.1")
    with pytest.raises(errors.ConfigurationError, match="unencrypted"):
        app.run(send_email("ada@example.org", "s", "t"))


# ---------------------------------------------------------------------------------------------- the text
def test_a_chat_is_not_steered():
    event = {**FACTS, "name": "<!channel> & @here", "error": None, "job": "x"}
    assert notices._for_chats(notices.text_of(event)).startswith(
        "&lt;!channel&gt; &amp; @\N{ZERO WIDTH SPACE}here (summarize) is done"
    )


def test_any_action_can_post(app: ai.App, receiver: Receiver, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROOM_KEY", "room-key-0123456789")
    receiver.answer(201, b'{"ok": true}')

    @ai.action
    async def posts_a_thing(ctx: Any, url: str) -> list[Any]:
        return list(await ctx.post(url, {"a": 1}, key_variable="ROOM_KEY", headers={"X-A": "b"}))

    @ai.action
    def posts_in_a_thread(ctx: Any, url: str) -> int:
        return int(ctx.post(url, [1, "é"]).status)

    @ai.mutation
    def posts_where_it_may_not(ctx: Any) -> None:
        ctx.post("https://example.org", {})

    assert ai.run(posts_a_thing, url=receiver.url) == [201, {"ok": True}]
    assert ai.run(posts_in_a_thread, url=receiver.url) == 200
    assert receiver.seen[0]["headers"]["Authorization"] == "Bearer room-key-0123456789"
    assert receiver.seen[1]["body"] == [1, "é"]
    with pytest.raises(errors.NotAllowedError, match=r"ctx.post is not allowed in a mutation"):
        ai.run(posts_where_it_may_not)
    with pytest.raises(errors.InputError, match="cannot be posted"):
        app.run(post_json(receiver.url, {"a": float("nan")}))


def test_the_notices_are_internal():
    assert of("ai.notify_webhook").internal
    assert of("ai.send_email").internal
    assert check_address("https://example.org/x").hostname == "example.org"
