"""The table of promises, figures and tries at the end of a run. Calls pytest alone."""

from __future__ import annotations

import textwrap
from typing import Any

from tests.promises.promising import FIGURE

WIDTH = 64  # of a promise's words


def show(reporter: Any) -> None:
    """Print what this run's tests of promises measured, and which did not hold."""
    reports = [report for kind in ("passed", "failed") for report in reporter.stats.get(kind, [])]
    shown: dict[str, list[str]] = {}
    seconds = 0.0
    for report in sorted(reports, key=lambda report: report.nodeid):
        if "tests/promises/" not in report.nodeid or report.when not in ("call", None):
            continue
        seconds += report.duration
        said = [value for name, value in report.user_properties if name == FIGURE]
        for promise, figure, tries in said:
            shown.setdefault(promise, []).append(f"{figure} ({tries})" if tries else figure)
        if report.failed:
            shown.setdefault(report.nodeid.rpartition("/")[2], []).append("BROKEN")
    if not shown:
        return
    reporter.section("promises")
    for promise, figures in shown.items():
        lines = textwrap.wrap(promise, WIDTH)
        told = [line for figure in figures for line in textwrap.wrap(figure, WIDTH, subsequent_indent="  ")]
        for number in range(max(len(lines), len(told))):
            left = lines[number] if number < len(lines) else ""
            reporter.write_line(f"{left:{WIDTH}}  {told[number] if number < len(told) else ''}")
    reporter.write_line(f"{len(shown)} promises, {seconds:.0f} s of tests")
