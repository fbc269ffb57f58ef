"""The benchmarks: runs them one after the other and prints one table. Nothing is asserted, as machines differ.

    make bench                                all of them, about ten minutes
    python tests/benchmarks/run.py summarize  one of them
    python tests/benchmarks/run.py --json     figures for a program

Each figure comes from processes of its own, and each ratio compares it with a baseline of the same run: on a busy
machine trust the ratios and the CPU seconds. Exit status 1 only if a benchmark could not be run.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # started as a file, not with -m
    sys.path.insert(0, str(ROOT))

from tests.benchmarks.measuring import Figure  # noqa: E402 - it is found only now

BENCHMARKS = (
    "extension", "one_call", "magic", "ledger", "summarize", "crowd", "pair", "again", "known",
    "mutations", "newest", "scheduling", "admission", "log",
)  # fmt: skip
APART = ("browser",)  # needs a Chromium: only by its name, and with `make bench-browser`
HEADINGS = ("what", "figure", "target", "to its baseline", "verdict")


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _arguments(arguments)
    figures: list[Figure] = []
    failed = False
    for name in asked.names or BENCHMARKS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            figures += importlib.import_module(f"tests.benchmarks.{name}").run()
        except Exception as error:
            failed = True
            figures.append(Figure(name, verdict=f"failed: {error}"))
    if asked.json:
        print(json.dumps([{**dataclasses.asdict(figure), "verdict": figure.word()} for figure in figures], indent=1))
    else:
        print(f"\n{_machine()}\n\n{table([figure.cells() for figure in figures])}")
    return int(failed)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    known = (*BENCHMARKS, *APART)
    parser = argparse.ArgumentParser(prog="make bench", description="Times and costs, against what was promised.")
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"which ones: {', '.join(known)} (default: all but {', '.join(APART)})"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.names if name not in known]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    return asked


def _machine() -> str:
    busy = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"Python {sys.version.split()[0]}, {os.cpu_count()} cores{busy}"


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns under their headings, numbers to the right."""
    widths = [max(len(row[at]) for row in [HEADINGS, *rows]) for at in range(len(HEADINGS))]

    def line(row: tuple[str, ...]) -> str:
        cells = [
            f"{cell:>{width}}" if at in (1, 2) else f"{cell:<{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([line(HEADINGS), line(tuple("-" * width for width in widths)), *map(line, rows)])


if __name__ == "__main__":
    sys.exit(main())
