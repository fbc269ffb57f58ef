"""Any line and any cell gives a result or one readable error, whatever stands in it; hypothesis writes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from IPython.core.error import UsageError

from ipyconvexai import errors
from ipyconvexai.notebook.options import FLAGS, OPTIONS
from tests.magics import conftest as magics
from tests.magics.conftest import Run, Scripted
from tests.promises.promising import Figure, Tries

PROMISE = "any line after `%ai` gives a result or one readable error, never a raw traceback"
TRIES = Tries(1_000, 20_000, "lines and cells")

bare_shell, shell, endpoint, run = magics.bare_shell, magics.shell, magics.endpoint, magics.run

# --eval runs the cell as Python: what that raises is the user's own.
WORDS = [*OPTIONS, *(flag for flag in FLAGS if flag != "--eval")]
COMMANDS = (
    "alias batches budget cancel chat conversations crons dealias delete diff doctor error export fix form functions"
    " help jobs limits list log model prompts purge register replay reset run show sql update usage version why"
).split()
PLAIN = [
    *(
        "don't",
        '"',
        "'",
        "{",
        "}",
        "{x}",
        "{x.y}",
        "{x!r:>{y}}",
        "{{x}}",
        "{}",
        "\\frac{a}{b}",
        "--",
        "-",
        "---",
        "=",
        "?",
        "!",
    ),
    *(
        "openai",
        "openai:gpt-4o-mini",
        "gpt-4o-mini",
        "local",
        "nobody:x",
        ":",
        "a/b",
        "json",
        "html",
        "math",
        "code",
        "yaml",
    ),
    *(
        "0",
        "1e999",
        "-1",
        "nan",
        "5",
        "USD/day",
        "$5/day",
        "x",
        "name",
        "'name, age int'",
        "a,b",
        "reuse",
        "only",
        "on",
    ),
    *(
        '{"top_p": 0.5}',
        "{'top_p': 0.5}",
        '{"',
        "[1]",
        "null",
        "$HOME",
        "%ai",
        "%%ai",
        "\t",
        "  ",
        "\u2028",
        "\x00",
        "\x1b[31m",
    ),
    *(
        "SELECT 1",
        "FROM calls",
        "DROP TABLE requests",
        "export.csv",
        "/nowhere/x.parquet",
        "all",
        "--by",
        "day",
        "é漢字🦆",
    ),
]
words = st.one_of(st.sampled_from(WORDS), st.sampled_from(COMMANDS), st.sampled_from(PLAIN), st.text(max_size=8))
lines = st.one_of(
    st.lists(words, max_size=7).map(" ".join),
    st.builds(lambda command, rest: " ".join([command, *rest]), st.sampled_from(COMMANDS), st.lists(words, max_size=3)),
    st.text(max_size=30),
).map(lambda line: " ".join(line.splitlines()))
cells = st.one_of(st.just(""), st.lists(words, max_size=6).map(" ".join), st.text(max_size=60))


def check(error: Any) -> None:
    """A result, or an error that names itself in a sentence; the ledger itself never fails."""
    if error is None:
        return
    assert isinstance(error, UsageError | errors.Error), repr(error)
    assert not isinstance(error, errors.StoreError) or isinstance(error, errors.QueryError), repr(error)
    assert str(error).strip()


def is_told(printed: str) -> bool:
    """Whether what the shell printed of an error is no traceback: no frame of it, no line of a file."""
    return not re.search(r"Traceback \(most recent call last\)|^(File|Cell|Input) .*line \d+|^-+> \d+ ", printed, re.M)


@pytest.fixture
def anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that commands write go into a folder of the test's."""
    monkeypatch.chdir(tmp_path)
    for variable in ("ANTHROPIC_API_KEY", "OPENROUTER_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)


@TRIES.both
def test_any_line_gives_a_result_or_one_error(
    run: Run, endpoint: Scripted, anywhere: None, capsys: pytest.CaptureFixture[str], figure: Figure, tries: int
) -> None:
    seen = {"asked": 0, "refused": 0}

    @settings(max_examples=tries, deadline=None, suppress_health_check=list(HealthCheck))
    @given(lines, st.none() | cells)
    # Shapes that are easily taken for others; what is found becomes one more of them.
    @example("budget $1,000/day", None)
    @example("openai! ", None)
    @example("usage day", None)
    @example("-- usage day", None)
    @example("--", "")
    @example("don't", None)
    @example('export "', None)
    @example("--params {'top_p': nan}", "x")
    @example("-f json --schema '{'", "x")
    @example("", "{x!r:>{y}} \\frac{a}{b} {")
    @example("sql", "DROP TABLE requests")
    @example("show \x00", None)
    def each(line: str, cell: str | None) -> None:
        capsys.readouterr()
        error = run(f"%ai {line}" if cell is None else f"%%ai {line}\n{cell}")
        check(error)
        if error is not None:
            printed = "".join(capsys.readouterr())
            assert is_told(printed), printed
        seen["asked" if error is None else "refused"] += 1

    each()
    assert min(seen.values()) > tries / 20, f"the lines are of one kind: {seen}"
    told = f"0 tracebacks; {seen['asked']:,} results, {seen['refused']:,} errors of one sentence"
    figure(told, f"{tries:,} {TRIES.of}")


def test_a_raw_traceback_would_be_seen(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The control: what Python itself raises is printed as one."""
    assert isinstance(run("1 / 0"), ZeroDivisionError)
    assert not is_told("".join(capsys.readouterr()))
