"""What a message mentions of a notebook."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ipyconvexai.context import mentions, tracebacks
from ipyconvexai.context.mentions import attach, mentioned, offers
from ipyconvexai.errors import InputError
from tests.shells import own_shell


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Any]:
    with own_shell(tmp_path) as made:
        made.user_ns["df"] = pd.DataFrame({"bridge": ["Golden Gate", "Tower"], "length": [2737, 244]})
        made.user_ns["text"] = "hello"
        made.user_ns["_private"] = "no"
        made.run_cell("import os, json\ndef cache(f): return f\nclass Thing: pass", store_history=True)
        yield made


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("What is @df?", ["@df"]),
        ("@df, @text and @df again", ["@df", "@text"]),
        ("the mean of @df.length.", ["@df.length"]),
        ("the frame @df. Then", ["@df"]),
        ("(@cell:3)", ["@cell:3"]),
        ("write to ada@text.org or a.b+c@df", []),
        ("https://example.org/@df", []),
        ("``@df`` and `@text`", []),
        ("```python\n@df\nx\n```\n@text", ["@text"]),
        ("@df\ndef f(): pass\n@text", ["@text"]),
        ("  @df(1)\n  @text\n  async def f(): pass", []),
        ("a@b @@df", []),
    ],
)
def test_what_is_a_mention(text: str, found: list[str]):
    assert [match[0] for match in mentioned(text)] == found


def test_a_frame_is_described(shell: Any):
    (made,) = attach(shell, "How long are they? @df")
    assert (made.kind, made.name) == ("frame", "df")
    assert "2 rows × 2 columns" in made.text
    assert "Golden Gate,2737" in made.text


def test_a_column_of_one_and_what_is_none(shell: Any):
    (made,) = attach(shell, "@df.length")
    assert (made.kind, made.name) == ("frame", "df.length")
    assert "Golden" not in made.text
    assert [one.name for one in attach(shell, "@df.groupby and @text.upper")] == ["df", "text"]


@pytest.mark.parametrize("text", ["@os", "@json", "@cache", "@Thing", "@_private", "@property", "@ada", "@In", "@exit"])
def test_what_is_no_variable_of_ones_own_stays_text(shell: Any, text: str):
    assert attach(shell, text) == []


def test_the_environment_is_not_sent(shell: Any):
    shell.user_ns |= {"env": os.environ, "copy": dict(os.environ), "nested": [list(os.environ.items())]}
    for name in ("env", "copy", "nested"):
        with pytest.raises(InputError, match=f"@{name} holds the environment"):
            attach(shell, f"What is in @{name}?")


def test_known_keys_are_taken_out(shell: Any):
    from ipyconvexai.settings import remember_secret

    remember_secret("sk-very-secret-0123456789")
    shell.user_ns["config"] = {"key": "sk-very-secret-0123456789"}
    assert attach(shell, "@config")[0].text == "{'key': '***'}"


class Broken:
    def __str__(self) -> str:
        raise ValueError("I do not show myself")


class Changing:
    """As a dictionary that a cell adds to while it is read."""

    tries = 0

    def __init__(self, until: int) -> None:
        self.until = until

    def __str__(self) -> str:
        self.tries += 1
        if self.tries < self.until:
            raise RuntimeError("dictionary changed size during iteration")
        return "at last"


def test_what_cannot_be_read_is_said(shell: Any):
    shell.user_ns |= {"broken": Broken(), "twice": Changing(3), "ever": Changing(9)}
    with pytest.raises(InputError, match="@broken cannot be read: ValueError: I do not show myself"):
        attach(shell, "@broken")
    assert attach(shell, "@twice")[0].text == "at last"
    with pytest.raises(InputError, match="@ever cannot be read: RuntimeError: dictionary changed size"):
        attach(shell, "@ever")


def test_long_texts_are_cut(shell: Any):
    shell.user_ns["long"] = "x" * 1_000_000
    assert "are left out here" in attach(shell, "@long")[0].text
    assert attach(shell, "@long")[0].tokens <= mentions.TOKENS + 40


@pytest.mark.parametrize("watched", [False, True])
def test_a_cell_with_what_it_gave(shell: Any, watched: bool):
    if watched:
        tracebacks.watch(shell)
    shell.run_cell("print('said')\n6 * 7", store_history=True)
    shell.run_cell("1 / 0", store_history=True)
    shell.run_cell("df", store_history=True)
    count = shell.execution_count
    fine, failed, frame = (attach(shell, f"@cell:{count - n}")[0].text for n in (3, 2, 1))
    assert "print('said')\n6 * 7\n```" in fine
    assert "Its output:\n```\n42\n```" in fine
    assert "1 / 0" in failed
    assert "It failed:" in failed
    assert "ZeroDivisionError" in failed
    assert "\x1b" not in failed
    assert "2 rows × 2 columns" in frame
    if watched:
        tracebacks.unwatch(shell)


@pytest.mark.parametrize("source", ["dict(os.environ)", "os.environ", "raise ValueError(dict(os.environ))"])
def test_a_cell_that_showed_the_environment_is_not_sent(shell: Any, source: str):
    shell.run_cell(source, store_history=True)
    with pytest.raises(InputError, match="environment"):
        attach(shell, f"@cell:{shell.execution_count - 1}")


def test_a_cell_that_is_not_there(shell: Any):
    newest = shell.execution_count - 1
    with pytest.raises(InputError, match="there is no cell 99") as caught:
        attach(shell, "@cell:99")
    assert f"@cell:{newest}" in caught.value.cure


def test_offers(shell: Any):
    shell.user_ns["Density"] = 3
    found = offers(shell, "D")
    assert [(one.name, one.about) for one in found] == [("df", "DataFrame 2 × 2"), ("Density", "int")]
    names = [one.name for one in offers(shell, "")]
    assert names[:3] == ["df", "Density", "text"]
    assert not {"os", "json", "cache", "Thing", "_private", "In", "exit"} & set(names)
    assert names[3].startswith("cell:")
    assert [one.name for one in offers(shell, "cell:9")] == []
    assert [one.name for one in offers(shell, "df.L")] == ["df.length"]
    assert offers(shell, "text.x") == []


@pytest.mark.parametrize("text", ["@a\n" * 12_000, "`" * 30_000, "` " * 20_000, "```\n" * 10_000, "@" * 30_000])
def test_whatever_is_pasted_is_read_at_once(text: str):
    began = time.process_time()
    list(mentioned(text))
    assert time.process_time() - began < 1, "quadratic, it would be tens of seconds"


def test_a_variable_with_code_of_its_own_is_left_out(shell: Any):
    class Hostile:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("no")

        def __call__(self) -> None: ...

    shell.user_ns |= {"hostile": Hostile(), "plain": 3}
    assert "plain" in [offer.name for offer in offers(shell, "")]
