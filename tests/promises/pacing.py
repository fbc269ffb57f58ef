"""What the kernels of `test_several_notebooks` run in a cell: five questions a second, each asked by the package and
then by the SDK alone, in the same process at the same load."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import openai
import pandas as pd

import ipyconvexai as ai

RATE = 5.0  # a second
MODEL = "gpt-4o-mini"


def ask(name: str, log: str, stop: str, beside: str = "") -> None:
    """Until the file `stop` is there. `log` gets a line for each: text, seconds of ours, seconds of the SDK's, error.

    `beside` is what another thread does meanwhile: "batch" or "computing".
    """
    over = threading.Event()
    work: dict[str, Callable[..., None]] = {"batch": _run_batches, "computing": _compute}
    thread = threading.Thread(target=work[beside], args=(name, log, over)) if beside else None
    if thread is not None:
        thread.start()
    try:
        _ask(name, log, stop)
    finally:
        over.set()
        if thread is not None:
            thread.join()


def _ask(name: str, log: str, stop: str) -> None:
    raw = openai.OpenAI(max_retries=0)
    begin = time.monotonic()
    number = 0
    with open(log, "a", buffering=1) as file:
        while not os.path.exists(stop):
            time.sleep(max(0.0, begin + number / RATE - time.monotonic()))
            number += 1
            text = f"{name} {number}"
            ours, error = _timed(_generate, text)
            theirs, failed = _timed(_raw, raw, text)
            file.write(json.dumps([text, ours, theirs, error or failed]) + "\n")


def _timed(call: Callable[..., None], *args: Any) -> tuple[float, str | None]:
    began = time.perf_counter()
    try:
        call(*args)
    except Exception as error:
        return time.perf_counter() - began, repr(error)
    return time.perf_counter() - began, None


def _generate(text: str) -> None:
    assert ai.generate(text).text == f"echo: {text}"


def _raw(client: openai.OpenAI, text: str) -> None:
    messages: Any = [{"role": "user", "content": f"raw {text}"}]
    client.chat.completions.create(model=MODEL, messages=messages)


def _run_batches(name: str, log: str, over: threading.Event) -> None:
    number = 0
    with open(f"{log}.batch", "a", buffering=1) as file:
        while not over.is_set():
            texts = [f"{name} row {number} {row}" for row in range(40)]
            number += 1
            done = ai.map(pd.DataFrame({"text": texts}), "{text}", into="said", concurrency=4, progress=False)
            for text, said in zip(texts, done["said"], strict=True):
                file.write(json.dumps([text, 0, 0, None if said == f"echo: {text}" else f"said {said!r}"]) + "\n")


def _compute(name: str, log: str, over: threading.Event) -> None:
    while not over.is_set():
        sum(number * number for number in range(100_000))
