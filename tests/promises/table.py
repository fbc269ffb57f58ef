"""The table of promises, figures and tries at the end of a run. Calls pytest's reports alone."""

from __future__ import annotations

import textwrap
import time
from typing import Any

from tests.promises.promising import FIGURE, said_by

WIDTH = 64  # of a promise's words


def show(reporter: Any) -> None:
    """Print what this run's tests of promises measured, and each that did not hold, broke off or was left out."""
    told: dict[str, list[str]] = {}
    for kind in ("passed", "failed", "error", "skipped"):
        for report in reporter.stats.get(kind, []):
            if report.nodeid.startswith("tests/promises/"):
                told.setdefault(report.nodeid.partition("::")[0], []).extend(_lines(kind, report))
    if not told:
        return
    reporter.section("promises")
    for file in sorted(told):
        promise, _ = said_by(reporter.config.rootpath / file)
        figures = [line for figure in told[file] for line in textwrap.wrap(figure, WIDTH, subsequent_indent="  ")]
        _print(reporter, textwrap.wrap(promise, WIDTH), figures or ["held"])
    seconds = time.time() - reporter._session_start.time
    reporter.write_line(f"{len(told)} promises, {seconds:.0f} s for all tests of this run")


def _lines(kind: str, report: Any) -> list[str]:
    name = report.nodeid.rpartition("::")[2]
    if kind == "failed":
        return [f"BROKEN: {name}"]
    if kind == "error":
        return [f"COULD NOT BE TRIED: {name}"]
    if kind == "skipped":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        return [f"LEFT OUT: {name}: {reason}"]
    said = [value for key, value in report.user_properties if key == FIGURE] if report.when == "call" else []
    return [f"{figure} ({tries})" if tries else figure for figure, tries in said]


def _print(reporter: Any, left: list[str], right: list[str]) -> None:
    for number in range(max(len(left), len(right))):
        words = left[number] if number < len(left) else ""
        reporter.write_line(f"{words:{WIDTH}}  {right[number] if number < len(right) else ''}")
