"""The key is in no row, file, output, log, traceback or repr, whatever happens to a call. And the scanner finds one."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import pickle
import subprocess
import sys
import textwrap
import traceback
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest

import ipyconvexai as ai
from ipyconvexai.testing import Answer, Endpoint, Fault, Received, Stall

# Not in a variable of a test's own frame, which a traceback with locals would show by right.
KEYS = {
    "environment": "sk-proj-Env+ironment+Planted=Key-0123456789ABCDEFGHIJ",
    "argument": "sk-proj-ArgumentPlantedKey-9876543210zyxwvutsrqponm",
}


def forms(key: str) -> set[str]:
    encoded = base64.b64encode(key.encode()).decode().rstrip("=")
    return {key, key[:16], key[-16:], encoded, urllib.parse.quote(key, safe=""), json.dumps(key)[1:-1]}


def found_in(data: bytes) -> list[str]:
    """Which keys are in there, in whatever form."""
    return [name for name, key in KEYS.items() if any(form.encode() in data for form in forms(key))]


def scan_rows(path: Path) -> list[str]:
    found = []
    with duckdb.connect(str(path), read_only=True) as connection:
        columns = connection.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE data_type IN ('VARCHAR', 'BLOB')"
        ).fetchall()
        assert ("responses", "error_message") in columns
        for table, column in columns:
            for (value,) in connection.execute(
                f'SELECT "{column}" FROM "{table}" WHERE "{column}" IS NOT NULL'
            ).fetchall():
                data = value if isinstance(value, bytes) else value.encode()
                found += [f"{table}.{column}: {name}" for name in found_in(data)]
    return found


def scan_files(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [f"{path.name}: {name}" for path in files for name in found_in(path.read_bytes())]


def echo_key(call: Received) -> Fault:
    """What OpenAI does, and worse."""
    key = call.headers["authorization"].removeprefix("Bearer ")
    spelled = " ".join(
        [
            key,
            key[:16] + "...",
            "..." + key[-16:],
            urllib.parse.quote(key, safe=""),
            base64.b64encode(key.encode()).decode(),
            json.dumps(key),
        ]
    )
    return Fault(401, message=f"Incorrect API key provided: {spelled}")


def echo_key_in_answer(call: Received) -> str:
    return f"Your key is {call.headers['authorization']}, is it not?"


SCENES: dict[str, Any] = {
    "success": "fine",
    "quoted in the answer": echo_key_in_answer,
    "401": echo_key,
    "500": Fault(500, message="internal"),
    "timeout": Stall(),
    "cut": Answer("one two three", cut_after=1),
    "failed in mid-stream": lambda call: Answer("one", failed=echo_key(call).message),
}


def clients(url: str) -> Iterable[Any]:
    yield ai.OpenAI(base_url=url, max_retries=0, timeout=0.2)  # the key from the environment
    yield ai.OpenAI(base_url=url, api_key=KEYS["argument"], max_retries=0, timeout=0.2)


MESSAGES: Any = [{"role": "user", "content": "Hello"}]


def play(url: str) -> list[BaseException]:
    """Every way of asking; what was raised."""
    ways: list[Callable[[], Any]] = [
        lambda: ai.generate("Hello", model="openai:m"),
        lambda: list(ai.stream("Hello", model="openai:m")),
    ]
    for client in clients(url):
        create = partial(client.chat.completions.create, model="m", messages=MESSAGES)
        ways += [create, partial(streamed, create), client.models.list]
    return [error for way in ways if (error := raised_by(way)) is not None]


def streamed(create: Callable[..., Any]) -> list[Any]:
    return list(create(stream=True))


def raised_by(way: Callable[[], Any]) -> BaseException | None:
    try:
        way()
    except Exception as error:
        return error
    return None


@dataclass
class Evidence:
    """What one scene left behind."""

    raised: list[BaseException]
    shown: str
    pickled: bytes
    log: str


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secrets") / "l.duckdb"


@pytest.fixture(scope="module")
def evidence(ledger: Path) -> dict[str, Evidence]:
    """All scenes, in one ledger, which is closed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEYS["environment"])
        seen = {name: observe(script, ledger, patch) for name, script in SCENES.items()}
    wait_for_the_keeper(ledger)
    return seen


def observe(script: Any, ledger: Path, patch: pytest.MonkeyPatch) -> Evidence:
    with everything_logged() as log, Endpoint(script) as endpoint:
        patch.setenv("OPENAI_BASE_URL", endpoint.url)
        with ai.connect(str(ledger), timeout=0.2, retries=0) as app:
            raised = play(endpoint.url)
            assert endpoint.count >= 6
            assert found_in(endpoint.calls[0].headers["authorization"].encode()) == ["environment"]
            shown = [*shown_of(app), *shown_of(endpoint)]
    for error in raised:
        shown += [repr(error), str(error), repr(vars(error)), traceback_of(error)]
    return Evidence(raised, "\n".join(shown), b"".join(map(pickle_of, raised)), log.getvalue())


@contextlib.contextmanager
def everything_logged() -> Iterator[io.StringIO]:
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield log
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


@pytest.mark.parametrize("scene", SCENES)
def test_no_error_repr_log_or_pickle_has_a_key(evidence: dict[str, Evidence], scene: str):
    seen = evidence[scene]
    assert bool(seen.raised) == (scene not in ("success", "quoted in the answer"))
    assert found_in(seen.shown.encode()) == []
    assert found_in(seen.pickled) == []
    assert "HTTP Request" in seen.log
    assert found_in(seen.log.encode()) == []


def test_no_row_has_a_key(evidence: dict[str, Evidence], ledger: Path):
    assert scan_rows(ledger) == []
    with duckdb.connect(str(ledger), read_only=True) as connection:
        redacted = connection.execute("SELECT count(*) FROM responses WHERE contains(body, '***')").fetchall()
    assert redacted[0][0] >= 10, "the keys were there to be found"


def test_no_file_has_a_key(evidence: dict[str, Evidence], ledger: Path):
    assert scan_files(ledger.parent) == []


def shown_of(thing: Any) -> list[str]:
    """What looking at an object shows, three levels deep."""
    seen, shown, level = set[int](), [], [thing]
    for _ in range(3):
        following: list[Any] = []
        for each in level:
            if id(each) not in seen and type(each).__module__.startswith(("ipyconvexai", "openai", "builtins")):
                seen.add(id(each))
                shown += [repr(each), str(each)]
                inner = getattr(each, "__dict__", {})
                shown.append(repr(inner))
                following += list(inner.values())
        level = following
    return shown


def traceback_of(error: BaseException) -> str:
    return (
        "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format(chain=True))
        + "".join(frame.line or "" for frame in traceback.extract_tb(error.__traceback__))
        + repr(context_locals(error))
    )


def context_locals(error: BaseException | None) -> list[str]:
    """Also what is suppressed: `raise ... from None` hides a context and does not drop it."""
    found: list[str] = []
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            found += [f"{name}={value!r}" for name, value in frame.f_locals.items() if name != "KEYS"]
        error = error.__cause__ or error.__context__
    return found


def pickle_of(error: BaseException) -> bytes:
    with contextlib.suppress(Exception):  # not every error of the SDK can be pickled
        return pickle.dumps(error)
    return b""


def wait_for_the_keeper(ledger: Path) -> None:
    """Until it has let go of the file: then what was in its log is in the file, too."""
    import time

    deadline = time.monotonic() + 20
    while True:
        try:
            return duckdb.connect(str(ledger)).close()
        except duckdb.IOException:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_the_scanner_finds_a_planted_key(tmp_path: Path):
    ledger = tmp_path / "l.duckdb"
    with duckdb.connect(str(ledger)) as connection:
        connection.execute("CREATE TABLE responses (error_message VARCHAR, body_bytes BLOB)")
        connection.execute(
            "INSERT INTO responses VALUES (?, ?)", [f"x{KEYS['argument']}", b"y" + KEYS["environment"].encode()]
        )
    assert sorted(scan_rows(ledger)) == ["responses.body_bytes: environment", "responses.error_message: argument"]
    assert {line.partition(": ")[2] for line in scan_files(tmp_path)} == {"environment", "argument"}
    for form in forms(KEYS["argument"]):
        assert found_in(f"some {form} thing".encode()) == ["argument"]


def test_a_pickle_of_the_sdks_own_error_would_hold_the_key():
    """Why the request is stripped after the exchange: the same scanner finds it in the SDK's plain client."""
    import openai

    with Endpoint(Fault(400)) as endpoint:
        client = openai.OpenAI(base_url=endpoint.url, api_key=KEYS["argument"], max_retries=0)
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        client.close()
    assert found_in(pickle.dumps(caught.value.response)) == ["argument"]


def test_clients_show_no_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEYS["environment"])
    with ai.connect(":memory:"):
        for client in clients("http://127.0.0.1:9/v1"):
            assert client.api_key in KEYS.values()
            assert found_in(repr((client, vars(client), str(client))).encode()) == []
            assert found_in(repr(vars(client.with_options(timeout=1))).encode()) == []
            with pytest.raises(TypeError, match=r"Secret|pickle"):
                pickle.dumps(client)


def test_an_uncaught_error_prints_no_key(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sys, ipyconvexai as ai
        ai.connect(":memory:")
        ai.OpenAI(base_url=sys.argv[1]).chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        """)
    )
    with Endpoint(echo_key) as endpoint:
        environment = {"OPENAI_API_KEY": KEYS["environment"], "PYTHONPATH": str(Path(ai.__file__).parent.parent)}
        done = subprocess.run([sys.executable, str(script), endpoint.url], env=environment, capture_output=True)
    assert b"AuthenticationError" in done.stderr
    assert b"***" in done.stderr
    assert found_in(done.stdout + done.stderr) == []
