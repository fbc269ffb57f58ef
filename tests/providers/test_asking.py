"""``ai.generate`` and its like: errors of our tree with their cure, safe twins, conversations, schemas, loops."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.testing import Answer, Drop, Endpoint, Fault, Stall
from tests.providers.lab import HELLO, KEY, rows, statuses

MODEL = "openai:gpt-x"


@pytest.fixture(autouse=True)
def openai_here(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def app():
    with ai.connect(":memory:", retries=0) as opened:
        yield opened


# ------------------------------------------------------------------------------------------ errors
@pytest.mark.parametrize(
    ("reply", "kind", "said", "retryable"),
    [
        (Drop(), errors.UnreachableError, "doctor", True),
        (Fault(401), errors.AuthenticationError, "OPENAI_API_KEY", False),
        (Fault(404, code="model_not_found"), errors.UnknownModelError, "%ai list openai", False),
        (Fault(404, message="The model `gpt-x` is not here"), errors.UnknownModelError, "%ai list", False),
        (Fault(404, message="no such page"), errors.ProviderError, "Is the address right?", False),
        (Fault(429, retry_after=7), errors.RateLimitError, "Wait 7 s", True),
        (Fault(429, code="insufficient_quota"), errors.RateLimitError, "billing", False),
        (Fault(500), errors.ProviderError, "later", True),
        (Fault(400, code="context_length_exceeded"), errors.ContextLengthError, "Shorten the prompt", False),
        (Stall(), errors.CallTimeoutError, "timeout=", True),
        (Answer("x y", cut_after=1, cut="close"), errors.UnreachableError, "broke off", True),
    ],
)
def test_errors_name_the_cure(app: ai.App, endpoint: Endpoint, reply: Any, kind: Any, said: str, retryable: bool):
    endpoint.reply(reply)
    with pytest.raises(kind) as caught:
        ai.generate("Hello", model=MODEL, timeout=0.3)
    error = caught.value
    assert said in str(error)
    assert KEY not in str(error)
    assert error.retryable is retryable
    assert error.request_id == str(rows(app)[0]["id"])


def test_safe_generate_gives_the_same_as_a_value(app: ai.App, endpoint: Endpoint):
    endpoint.reply([Fault(429, retry_after=1.5), Fault(401), "good"])
    limited: Any = ai.safe_generate("Hello", model=MODEL)
    assert (limited.success, limited.code, limited.retryable, limited.retry_after) == (
        False,
        "rate_limit_exceeded",
        True,
        1.5,
    )
    assert limited.request_id == str(rows(app)[0]["id"])
    assert "429" in limited.error
    refused: Any = asyncio.run(ai.asafe_generate("Hello", model=MODEL))
    assert (refused.code, refused.retryable) == ("invalid_api_key", False)
    good: Any = ai.safe_generate("Hello", model=MODEL)
    assert (good.success, good.text, good.request_id) == (True, "good", str(rows(app)[2]["id"]))


@pytest.mark.parametrize(
    ("prompt", "options", "kind"),
    [
        ("", {}, errors.EmptyPromptError),
        (" \n", {}, errors.EmptyPromptError),
        ([], {}, errors.EmptyPromptError),
        (7, {}, errors.InputError),
        ([{"content": "no role"}], {}, errors.InputError),
        ("Hello", {"model": "opennai:x"}, errors.UnknownProviderError),
        ("Hello", {"model": "groq:x"}, errors.MissingKeyError),
        ("Hello", {"replay": "maybe"}, errors.InputError),
        ("Hello", {"schema": object()}, errors.InputError),
        ("Hello", {"temperature": object()}, errors.InputError),
        ("half \ud800 character", {}, errors.InputError),
        ("Hello", {"conversation": " "}, errors.InputError),
    ],
)
def test_what_cannot_be_sent_is_not(app: ai.App, endpoint: Endpoint, prompt: Any, options: Any, kind: Any):
    with pytest.raises(kind) as caught:
        ai.generate(prompt, **{"model": MODEL, **options})
    assert caught.value.cure
    with pytest.raises(kind):
        list(ai.stream(prompt, **{"model": MODEL, **options}))
    assert endpoint.count == len(rows(app)) == 0


def test_an_unreachable_address_is_named(app: ai.App, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(errors.UnreachableError, match=r"127\.0\.0\.1:9: connection refused\n"):
        ai.generate("Hello", model=MODEL)


def test_an_unknown_model_is_no_wrong_address_and_the_other_way_round(app: ai.App, endpoint: Endpoint):
    endpoint.reply([Fault(404, code="model_not_found"), Fault(404, message="nothing here")])
    with pytest.raises(errors.ProviderError) as caught:
        ai.generate("Hello", model=MODEL)
    assert isinstance(caught.value, errors.UnknownModelError)
    assert caught.value.status == 404
    assert caught.value._render_traceback_()[0].startswith("UnknownModelError: ")
    with pytest.raises(errors.ProviderError) as caught:
        ai.generate("Hello", model=MODEL)
    assert not isinstance(caught.value, errors.UnknownModelError)


def test_a_tool_call_has_no_text_and_is_no_error(app: ai.App, endpoint: Endpoint):
    from ipyconvexai.testing import ToolCall

    endpoint.reply(Answer(tool_calls=[ToolCall("f")]))
    reply = ai.generate("Hello", model=MODEL)
    assert (reply.text, reply.finish_reason) == ("", "tool_calls")
    assert reply.raw["choices"][0]["message"]["tool_calls"]


# ------------------------------------------------------------------------------------------ schemas
class City(BaseModel):
    name: str
    people: int


@dataclasses.dataclass
class Town:
    name: str
    people: int


@pytest.mark.parametrize("schema", [City, Town])
def test_schemas(app: ai.App, endpoint: Endpoint, schema: Any):
    endpoint.reply({"name": "Paris", "people": 2})
    assert ai.generate("A city", model=MODEL, schema=schema).parsed == schema(name="Paris", people=2)
    form = endpoint.calls[0].body["response_format"]
    assert (form["type"], form["json_schema"]["name"]) == ("json_schema", schema.__name__)
    stream = ai.stream("A city", model=MODEL, schema=schema)
    assert stream.reply.parsed == schema(name="Paris", people=2)


def test_a_list_as_schema_has_a_name_that_providers_take(app: ai.App, endpoint: Endpoint):
    endpoint.reply("[1, 2]")
    assert ai.generate("Numbers", model=MODEL, schema=list[int]).parsed == [1, 2]
    assert endpoint.calls[0].body["response_format"]["json_schema"]["name"] == "list"


def test_an_answer_that_does_not_fit_names_the_place_and_quotes_nothing(app: ai.App, endpoint: Endpoint):
    endpoint.reply({"name": "Paris", "people": "many-many"})
    with pytest.raises(errors.InvalidAnswerError, match="people") as caught:
        ai.generate("A city", model=MODEL, schema=City)
    assert "many-many" not in str(caught.value)
    assert caught.value.request_id == str(rows(app)[0]["id"])


# ------------------------------------------------------------------------------------------ conversations
def test_a_conversation_goes_on_in_another_app(endpoint: Endpoint, tmp_path: Path):
    ledger = str(tmp_path / "l.duckdb")
    with ai.connect(ledger):
        first = ai.generate("one", model=MODEL, conversation="numbers")
    with ai.connect(ledger) as app:
        stream = ai.stream("two", model=MODEL, conversation="numbers")
        assert stream.reply.conversation_id == first.conversation_id
        ai.generate("three", model=MODEL, conversation=first.conversation_id)
        assert {row["conversation_id"] for row in rows(app)} == {rows(app)[0]["conversation_id"]}
    assert [message["content"] for message in endpoint.calls[-1].body["messages"]] == [
        "one",
        "echo: one",
        "two",
        "echo: two",
        "three",
    ]


def test_the_newest_fifty_oldest_first(app: ai.App, endpoint: Endpoint):
    for number in range(27):
        ai.generate(f"question {number}", model=MODEL, conversation="long")
    sent = [message["content"] for message in endpoint.calls[-1].body["messages"]]
    assert len(sent) == 51
    assert (sent[0], sent[-2], sent[-1]) == ("question 1", "echo: question 25", "question 26")


def test_a_failed_call_leaves_the_conversation_as_it_was(app: ai.App, endpoint: Endpoint):
    endpoint.reply([Fault(400), Answer("one two", cut_after=1), {"name": 1}, "good"])
    assert not ai.safe_generate("lost", model=MODEL, conversation="c").success
    with pytest.raises(errors.StreamCutError):
        list(ai.stream("cut", model=MODEL, conversation="c"))
    with pytest.raises(errors.InvalidAnswerError):
        ai.generate("unfit", model=MODEL, conversation="c", schema=City)
    ai.generate("kept", model=MODEL, conversation="c", system="Be brief.")
    assert [m["content"] for m in endpoint.calls[-1].body["messages"]] == ["Be brief.", "kept"]
    assert app.store.read("SELECT role, content FROM messages ORDER BY id") == [("user", "kept"), ("assistant", "good")]


def test_a_message_of_parts_keeps_its_text(app: ai.App, endpoint: Endpoint):
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:,x"}}]
    ai.generate([{"role": "user", "content": parts}], model=MODEL, conversation="c")
    assert app.store.read("SELECT content FROM messages WHERE role = 'user'") == [("What is this?",)]


# ------------------------------------------------------------------------------------------ loops and threads
def test_one_async_client_in_loops_that_come_and_go(app: ai.App, endpoint: Endpoint):
    client = ai.AsyncOpenAI(base_url=endpoint.url, api_key=KEY)

    async def ask() -> Any:
        return await client.chat.completions.create(model="m", messages=HELLO)

    for _ in range(3):
        assert asyncio.run(ask()).choices
    threads = [threading.Thread(target=lambda: asyncio.run(ask())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses(app) == ["ok"] * 7


def test_a_stream_left_open_in_a_loop_that_was_closed(app: ai.App, endpoint: Endpoint):
    endpoint.reply(Answer("one two", cut_after=1, cut="stall"))

    async def main() -> Any:
        stream = await ai.AsyncOpenAI(base_url=endpoint.url, api_key=KEY).chat.completions.create(
            model="m", messages=HELLO, stream=True
        )
        await anext(stream)
        return stream

    stream = asyncio.run(main())
    app.close()
    endpoint.wait(lambda e: e.disconnects == 1)
    del stream
    gc.collect()


def test_a_sync_client_inside_a_running_loop_blocks_and_works(app: ai.App, client: ai.OpenAI):
    async def main() -> Any:
        return client.chat.completions.create(model="m", messages=HELLO)

    assert asyncio.run(main()).choices


def test_a_sync_client_on_the_background_loop_says_that_it_would_wait_for_itself(app: ai.App, client: ai.OpenAI):
    async def main() -> None:
        client.chat.completions.create(model="m", messages=HELLO)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(errors.DeadlockError, match="async"):
            app.run(main())
        gc.collect()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("child", ["pass", "gc.collect()", "ask('child')", "ask('child'); gc.collect()"])
def test_a_child_that_ends_leaves_the_parents_connections(endpoint: Endpoint, tmp_path: Path, child: str):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import gc, os, signal, sys, ipyconvexai as ai
        signal.alarm(40)  # ends whichever of the two hangs
        app = ai.connect(sys.argv[1])
        def ask(prompt):
            assert ai.generate(prompt, model="openai:m").text == "echo: " + prompt
        ask("before")
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            CHILD
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        ask("after")
        assert [row[0] for row in app.store.read("SELECT DISTINCT status FROM calls")] == ["ok"]
        """).replace("CHILD", child)
    )
    environment = {
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": endpoint.url,
        "PYTHONPATH": str(Path(ai.__file__).parent.parent),
        "IPYCONVEXAI_KEEPER_LINGER": "0.5",
    }
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(script), str(tmp_path / "l.duckdb")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_at_exit_nothing_is_left_open(endpoint: Endpoint, tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import asyncio, sys, ipyconvexai as ai
        ai.connect(":memory:")
        hello = [{"role": "user", "content": "Hello"}]
        sync = ai.OpenAI(base_url=sys.argv[1], api_key="k-0123456789")
        sync.chat.completions.create(model="m", messages=hello)
        left = iter(sync.chat.completions.create(model="m", messages=hello, stream=True))
        next(left)
        async def main():
            client = ai.AsyncOpenAI(base_url=sys.argv[1], api_key="k-0123456789")
            await client.chat.completions.create(model="m", messages=hello)
            async for chunk in await client.chat.completions.create(model="m", messages=hello, stream=True):
                pass
        asyncio.run(main())
        list(ai.stream("Hello", model="openai:m"))
        open_stream = iter(ai.stream("Hello", model="openai:m"))
        next(open_stream)
        """)
    )
    environment = {
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": endpoint.url,
        "PYTHONPATH": str(Path(ai.__file__).parent.parent),
    }
    command = [sys.executable, "-X", "dev", "-W", "always", str(script), endpoint.url]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Unclosed" not in done.stderr
    assert "unclosed" not in done.stderr
    assert "never" not in done.stderr
    assert "Traceback" not in done.stderr
