"""The key is in no row, file, notebook, widget, output, log, traceback, pickle or repr, whatever happens to a call.

It is looked for whole, by its first and last 16 characters, in base64, and escaped as in addresses and in JSON; and
where one is planted the scanner finds it.
"""

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
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import nbformat
import pandas as pd
import pyarrow.parquet
import pytest
from IPython.core import ultratb
from nbclient import NotebookClient
from rich.console import Console
from rich.traceback import Traceback

import ipyconvexai as ai
from ipyconvexai.demo import kernels_of_this_python
from ipyconvexai.testing import Answer, Endpoint, Fault, Received, Stall
from tests.promises.promising import Figure
from tests.promises.scanning import in_files, in_rows, let_go

PROMISE = (
    "keys are in no row, file, notebook, widget, traceback, pickle or log, and in nothing that this package prints; an"
    " answer that quotes one has it in what the SDK's ways and the pieces of `ai.stream` give to your own code"
)

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


NEEDLES = {form: name for name, key in KEYS.items() for form in forms(key)}


def scan_rows(path: Path) -> list[str]:
    return sorted({_told(line) for line in in_rows(path, NEEDLES)})


def scan_files(folder: Path) -> list[str]:
    return sorted({_told(line) for line in in_files(folder, NEEDLES)})


def _told(line: str) -> str:
    """A failing test must not print the key either, and this one is not one."""
    place, _, form = line.partition(": ")
    return f"{place}: {NEEDLES[form]}"


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
        lambda: ai.conversation("talk").send("Hello", model="openai:m"),
        lambda: ai.run(ask),
    ]
    for client in clients(url):
        create = partial(client.chat.completions.create, model="m", messages=MESSAGES)
        ways += [create, partial(streamed, create), client.models.list]
    return [error for way in ways if (error := raised_by(way)) is not None]


FRAME = pd.DataFrame({"text": ["one", "two"]})


@ai.action
async def ask(ctx: ai.ActionCtx) -> str:
    reply = await ctx.openai.chat.completions.create(model="m", messages=MESSAGES)
    return str(reply.choices[0].message.content)


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
    let_go(ledger)
    return seen


def observe(script: Any, ledger: Path, patch: pytest.MonkeyPatch) -> Evidence:
    with everything_logged() as log, warnings.catch_warnings(record=True) as warned, Endpoint(script) as endpoint:
        patch.setenv("OPENAI_BASE_URL", endpoint.url)
        with ai.connect(str(ledger), timeout=0.2, retries=0) as app:
            raised = play(endpoint.url)
            if script in (echo_key, echo_key_in_answer):  # of what may pass, a batch is patient
                asked = partial(ai.map, FRAME, "{text}", into="x", model="openai:m", on_error="raise", progress=False)
                raised += [error for error in (raised_by(asked),) if error is not None]
            assert endpoint.count >= 6
            assert found_in(endpoint.calls[0].headers["authorization"].encode()) == ["environment"]
            shown = [*shown_of(app), *shown_of(endpoint), *(str(each.message) for each in warned)]
    for error in raised:
        shown += [*(spelled for each in chain(error) for spelled in spellings(each)), traceback_of(error)]
    for error in raised[:1] if script in (echo_key, SCENES["cut"]) else ():  # each takes a second
        shown += [as_ipython_tells(error), as_rich_tells(error)]
    return Evidence(raised, "\n".join(shown), b"".join(map(pickle_of, raised)), log.getvalue())


@contextlib.contextmanager
def everything_logged() -> Iterator[io.StringIO]:
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s %(args)s"))
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
    assert {"openai._base_client", "asyncio"} <= {line.partition(" ")[0] for line in seen.log.splitlines()}
    assert found_in(seen.log.encode()) == []


def test_what_shows_an_answer_as_it_came(monkeypatch: pytest.MonkeyPatch):
    """The exception: what a key of the answer's stands in is what your own code asked for, piece by piece."""
    with Endpoint(echo_key_in_answer) as endpoint:
        monkeypatch.setenv("OPENAI_API_KEY", KEYS["environment"])
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        with ai.connect(":memory:", model="openai:m"):
            stream = ai.stream("Hello")
            pieces = "".join(stream)
            whole = ai.OpenAI().chat.completions.create(model="m", messages=MESSAGES).choices[0].message.content or ""
            ours = [ai.generate("Hello").text, stream.text, ai.map(FRAME, "{text}", into="x", progress=False)["x"][0]]
    assert found_in(pieces.encode()) == found_in(whole.encode()) == ["environment"]
    assert [found_in(str(text).encode()) for text in ours] == [[], [], []]
    assert all("***" in str(text) for text in ours)


def test_no_row_has_a_key(evidence: dict[str, Evidence], ledger: Path):
    assert scan_rows(ledger) == []
    with duckdb.connect(str(ledger), read_only=True) as connection:
        redacted = connection.execute("SELECT count(*) FROM responses WHERE contains(body, '***')").fetchall()
    assert redacted[0][0] >= 10, "the keys were there to be found"


def test_no_file_has_a_key(evidence: dict[str, Evidence], ledger: Path, figure: Figure):
    assert scan_files(ledger.parent) == []
    raised = sum(len(seen.raised) for seen in evidence.values())
    shown = sum(len(seen.shown) + len(seen.log) for seen in evidence.values())
    assert raised > 40
    told = f"0 of {len(NEEDLES)} spellings of 2 keys in all files and {shown / 1e6:.0f} MB of what is shown and logged"
    figure(told, f"{len(SCENES)} scenes, {raised} errors")


def test_no_exported_file_has_a_key(evidence: dict[str, Evidence], ledger: Path, tmp_path: Path):
    with ai.connect(ledger) as app:
        for name in ("calls.parquet", "calls.csv", "tuning.jsonl", "calls.jsonl"):
            app.ledger.export(tmp_path / name, whole=name == "calls.jsonl")
        kept = app.ledger
        drawn = [kept.calls(limit=None), kept.usage(), kept.sql("FROM calls"), ai.jobs(), ai.batches()]
        shown = "".join(f"{each!r}{each._repr_html_()}{each.fetchall()}" for each in drawn)
    assert "***" in shown
    assert found_in(shown.encode()) == []
    rows = pyarrow.parquet.read_table(tmp_path / "calls.parquet").to_pylist()
    assert "***" in str(rows)
    assert found_in(str(rows).encode()) == []
    assert "***" in (tmp_path / "tuning.jsonl").read_text()
    assert scan_files(tmp_path) == []


CELLS = [
    "%load_ext ipyconvexai\n%xmode Verbose\nimport os, ipyconvexai as ai, pandas as pd",
    "ai.app().retries = 0\n%ai echo my key",
    "%%ai\nfail with my key",
    "%%ai -c talk\necho my key",
    "%ai error",
    "client = ai.OpenAI(api_key=os.environ['PLANTED_ARGUMENT'], max_retries=0)",
    "client, vars(client), ai.app(), ai.doctor()",
    "client.chat.completions.create(model='m', messages=[{'role': 'user', 'content': 'fail with my key'}])",
    "frame = pd.DataFrame({'text': [f'{w} my key {n}' for n in range(8) for w in ('echo', 'fail with')]})",
    "ai.map(frame, '{text}', into='answer')",
    "ai.chat('talk', system='echo my key')",
    "@ai.action\nasync def asked(ctx, topic: str = 'echo my key') -> str:\n    return (await ctx.generate(topic)).text",
    "form = ai.form(asked)\nform",
    "form._heard({'kind': 'run', 'values': {'topic': 'echo my key'}})\nimport time\n"
    "while form.result is None: time.sleep(0.05)\nform.result",
    "@ai.query\ndef said(ctx) -> list[str]:\n    return [m.content for m in ctx.db.query(ai.Message).collect()]",
    "ai.live(said)",
    "ai.run(said)",
    "%ai log\n%ai usage\n%ai export tuning.jsonl",
    "print(os.environ['OPENAI_API_KEY'][:3], os.environ.get('NOTHING'))\n1/0",
]


def test_no_executed_notebook_has_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A kernel runs it, and it is saved with its outputs and the state of its widgets."""

    def reply(call: Received) -> Any:
        return echo_key(call) if "fail with" in call.prompt else echo_key_in_answer(call)

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    folder = tmp_path / "notebook"
    folder.mkdir()
    with Endpoint(reply) as endpoint:
        for name, value in {
            "OPENAI_BASE_URL": endpoint.url,
            "OPENAI_API_KEY": KEYS["environment"],
            "PLANTED_ARGUMENT": KEYS["argument"],
            "IPYCONVEXAI_MODEL": "openai:m",
            "IPYCONVEXAI_DB": str(folder / "ledger.duckdb"),
            "IPYTHONDIR": str(folder / "ipython"),
            "PYTHONPATH": str(Path(ai.__file__).parent.parent),
        }.items():
            monkeypatch.setenv(name, value)
        NotebookClient(
            notebook,
            kernel_manager_class=kernels_of_this_python(),
            timeout=60,
            allow_errors=True,
            resources={"metadata": {"path": str(folder)}},
        ).execute()
        assert endpoint.count > 15
    nbformat.write(notebook, folder / "executed.ipynb")
    saved = (folder / "executed.ipynb").read_text()
    for seen in ("AuthenticationError", "ZeroDivisionError", "***", "widget-state+json", "anywidget"):
        assert seen in saved, seen
    let_go(folder / "ledger.duckdb")
    assert scan_rows(folder / "ledger.duckdb") == []
    assert scan_files(folder) == []


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


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error with all that it comes from, also what is suppressed."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__]


def spellings(error: BaseException) -> list[str]:
    notes = getattr(error, "__notes__", ())
    return [repr(error), str(error), repr(error.args), repr(vars(error)), repr(notes)]


def as_ipython_tells(error: BaseException) -> str:
    """``%xmode Verbose``: each frame with its variables."""
    tell = ultratb.VerboseTB(include_vars=True)
    return "\n".join(tell.structured_traceback(type(error), error, error.__traceback__))


def as_rich_tells(error: BaseException) -> str:
    """Each frame with its variables, and theirs: it looks into objects."""
    limits: Any = {"locals_max_length": 30, "locals_max_string": 2000, "locals_max_depth": 4}
    told = Traceback.from_exception(type(error), error, error.__traceback__, show_locals=True, **limits)
    page = io.StringIO()
    Console(file=page, width=999).print(told)
    return page.getvalue()


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
