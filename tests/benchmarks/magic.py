"""One ``%%ai``, recorded durably, against the SDK's call of the same body, streamed like it, on a shared client.

In a shell without a front end, where the answer is printed, and in one that behaves as a kernel's, where it is drawn.
The SDK is called without IPython; what running a cell costs by itself stands in a line of its own.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from tests.benchmarks.double import TEXT, Double
from tests.benchmarks.measuring import MODEL, Figure, cost, in_child, keeper_cpu, use

WARM_UP = 30
CALLS = 200
ROUNDS = 3
PROMPT = "Why is the sky blue? " * 10
CELL = f"%%ai --no-history\n{PROMPT}"
RAW = "the SDK's call"


def sdk(url: str, stream: bool) -> dict[str, float]:
    """The SDK alone, its default client; milliseconds per call."""
    use(url)
    import openai

    client = openai.OpenAI(max_retries=0)
    body: Any = {"model": MODEL.partition(":")[2], "messages": [{"role": "user", "content": PROMPT}]}

    def streamed() -> str:
        parts = client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
        return "".join(part.choices[0].delta.content or "" for part in parts if part.choices)

    def whole() -> str:
        return client.chat.completions.create(**body).choices[0].message.content or ""

    call = streamed if stream else whole
    if call().strip() != TEXT:
        raise RuntimeError("the SDK read another text")
    return _timed(call)


def magic(url: str, kernel: bool) -> dict[str, float]:
    """Cells of the package, on a new ledger; each must have been drawn, and have its row."""
    use(url)
    import ipyconvexai as ai

    with tempfile.TemporaryDirectory() as folder, ai.connect(f"{folder}/ledger.duckdb", model=MODEL):
        with _shell(folder, kernel) as (shell, shown):

            def call() -> None:
                if not shell.run_cell(CELL).success or TEXT not in shown():
                    raise RuntimeError("an answer was not shown")

            spent = _timed(call)
        rows = ai.ledger.sql("SELECT count(*) FROM calls WHERE status = 'ok' AND source = 'magic'").fetchall()[0][0]
    if rows != WARM_UP + CALLS:
        raise RuntimeError(f"{rows} rows for {WARM_UP + CALLS} cells")
    return spent


def empty() -> dict[str, float]:
    """Cells that do nothing, in the same shell."""
    with tempfile.TemporaryDirectory() as folder, _shell(folder, kernel=False) as (shell, _):
        return _timed(lambda: shell.run_cell("None"))


@contextlib.contextmanager
def _shell(folder: str, kernel: bool) -> Iterator[tuple[Any, Callable[[], str]]]:
    """A shell with the extension, and what gives and forgets all that it has shown."""
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.ipython_dir = folder
    shell: Any = InteractiveShell.instance(config=config)
    shell.extension_manager.load_extension("ipyconvexai")
    publisher, out = CapturingDisplayPublisher(), io.StringIO()
    if kernel:
        shell.display_pub, shell.kernel = publisher, SimpleNamespace(get_parent=lambda channel: {})

    def shown() -> str:
        text = str(publisher.outputs[-1]["data"]["text/markdown"]) if kernel else out.getvalue()
        publisher.outputs.clear()
        out.seek(0)
        out.truncate()
        return text

    with contextlib.redirect_stdout(out):
        yield shell, shown


def _timed(call: Callable[[], Any]) -> dict[str, float]:
    for _ in range(WARM_UP):
        call()
    keeper = keeper_cpu()
    with cost() as spent:
        for _ in range(CALLS):
            call()
    per_call = 1000 / CALLS
    return {"wall": spent.wall * per_call, "cpu": spent.cpu * per_call, "keeper": (keeper_cpu() - keeper) * per_call}


def run() -> list[Figure]:
    measured: list[dict[str, dict[str, float]]] = []
    with Double() as double:
        for _ in range(ROUNDS):
            measured.append(
                {
                    "streamed": in_child(sdk, url=double.url, stream=True),
                    "whole": in_child(sdk, url=double.url, stream=False),
                    "printed": in_child(magic, url=double.url, kernel=False),
                    "drawn": in_child(magic, url=double.url, kernel=True),
                    "empty": in_child(empty),
                }
            )

    def median(of: Callable[[dict[str, dict[str, float]]], float]) -> float:
        return statistics.median(map(of, measured))

    def over(name: str, base: str, what: str = "cpu") -> tuple[float, float]:
        """The difference, and the ratio."""
        return (
            median(lambda one: one[name][what] - one[base][what]),
            median(lambda one: one[name][what] / one[base][what]),
        )

    def figure(what: str, name: str, base: str, baseline: str, at_most: float | None = None) -> Figure:
        difference, ratio = over(name, base)
        return Figure(what, difference, "ms", at_most=at_most, ratio=ratio, baseline=baseline)

    return [
        figure("one %%ai, printed, CPU over the SDK's call", "printed", "streamed", f"{RAW}, streamed, too", 3),
        figure("  drawn, as in a kernel", "drawn", "streamed", f"{RAW}, streamed, too", 3),
        figure("  over the SDK's call that does not stream", "drawn", "whole", f"{RAW}, not streamed"),
        Figure("  of it: a cell that does nothing", median(lambda one: one["empty"]["cpu"]), "ms"),
        Figure(
            "  wall, both rows durable", median(lambda one: one["drawn"]["wall"]), "ms",
            ratio=over("drawn", "streamed", "wall")[1], baseline=f"{RAW}, streamed, too",
        ),
        Figure("  CPU of the keeper", median(lambda one: one["drawn"]["keeper"]), "ms"),
    ]  # fmt: skip
