"""The local model's server: llama.cpp, in a process of its own. Run by ``local.py`` as a script, never imported.

Why a process: loading the model holds the interpreter's lock, and a crash in native code would take the kernel along.

The conversation with the parent: one line of JSON with the settings comes in on standard input (the key is in no
argument, environment or log), one line of JSON goes out on standard output once the server answers. After that the
end of standard input means that the parent closed it or is gone, however it ended, and this process ends at once,
also in the middle of an answer. (While a model is being loaded nothing in Python can run: then it ends after that.)
"""

from __future__ import annotations

import faulthandler
import http.client
import json
import os
import sys
from typing import Any, BinaryIO, Never
from urllib.parse import urlsplit

import xllamacpp

ERRORS_ONLY = 1  # llama.cpp's verbosity; from 2 on it writes a line for every request
PROMPT_CACHE_MIB = 64  # llama.cpp's own default is 8 GB


def main() -> Never:
    faulthandler.enable()  # a native crash leaves its stack in the log
    answers = _private_stdout()
    settings = json.loads(sys.stdin.buffer.readline())
    try:
        server = xllamacpp.Server(_parameters(settings))
    except RuntimeError as error:  # the lines before this one say why; a stack would only hide them
        sys.exit(str(error))
    ready = {"url": server.listening_address, "context": _context(server.listening_address, settings["key"])}
    answers.write(json.dumps(ready).encode() + b"\n")
    answers.close()
    sys.stdin.buffer.read()
    os._exit(0)  # nothing is worth saving, and the orderly way waits for answers that are being written


def _private_stdout() -> BinaryIO:
    """The pipe to the parent, for the one answer alone: what native code prints goes to the log instead."""
    mine = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(mine, "wb")


def _parameters(settings: dict[str, Any]) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = settings["model"]
    parameters.model_alias = {settings["alias"]}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0  # the system picks a free one
    parameters.api_keys = [settings["key"]]  # without a key any web page could use the server
    parameters.ui = False
    parameters.endpoint_slots = False  # it would show the prompts of others
    parameters.offline = True
    parameters.verbosity = ERRORS_ONLY
    parameters.cache_ram_mib = PROMPT_CACHE_MIB
    parameters.n_parallel = settings["slots"]
    parameters.n_ctx = settings["context"] * settings["slots"]  # llama.cpp divides it among the slots
    parameters.n_predict = settings["max_tokens"]
    parameters.n_threads_http = settings["connections"]
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = settings["threads"]
    return parameters


def _context(url: str, key: str) -> int:
    """Tokens of one slot as the server has it: a model may know less than was asked for. Shows that it answers, too."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request("GET", "/props", headers={"Authorization": f"Bearer {key}"})
        properties = json.load(connection.getresponse())
    finally:
        connection.close()
    return int(properties["default_generation_settings"]["n_ctx"])


if __name__ == "__main__":
    main()
