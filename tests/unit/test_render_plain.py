"""Plain text and error blocks: no control over terminals, and all the words."""

from __future__ import annotations

import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ipyconvexai.render as render
from ipyconvexai.render import error_text, fenced, plain_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x9b2Jcleared", "cleared"),
        ("\x1b]0;title\x07a", "a"),
        ("\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP+q544e\x1b\\a", "a"),
        ("\x1b]0;never ended", "0;never ended"),
        ("\x1b\x1b[0m[31ma", "[31ma"),
        ("\x1bca", "a"),
        ("safe\rpwnd", "safe\npwnd"),
        ("a\r\nb\tc\n", "a\nb\tc\n"),
        ("a\b\b\x7f\0b", "ab"),
        ("a\u2028b\x85c\x0bd", "a\nb\nc\nd"),
        ("\u202egnp.exe\u2066x\u2069", "gnp.exex"),
        ("\ud800a", "\ufffda"),
        ("naïve 漢字 👩\u200d👧 \u200eא", "naïve 漢字 👩\u200d👧 \u200eא"),
    ],
)
def test_plain_text(text: str, expected: str) -> None:
    assert plain_text(text) == expected


@given(st.text(st.characters() | st.sampled_from("\x1b[]\\;0m\x07\x9b\x9d\r")))
def test_nothing_that_controls_is_left(text: str) -> None:
    made = plain_text(text)
    assert all(unicodedata.category(c) not in ("Cc", "Cs") or c in "\n\t" for c in made)
    assert plain_text(made) == made


def test_error_text_shows_the_cure_below() -> None:
    assert error_text("No \x1b[1mkey.\n", "Set KEY.\nOr use local.") == "No key.\n  Set KEY.\n  Or use local."
    assert error_text("No key.") == "No key."


def test_error_text_is_cut() -> None:
    assert len(error_text("<html>" * 10_000)) == 4000


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("a", "```py\na\n```"),
        ("", "```py\n\n```"),
        ("`a` ``b``", "```py\n`a` ``b``\n```"),
        ("```\na\n```", "````py\n```\na\n```\n````"),
        ("x `````", "``````py\nx `````\n``````"),
    ],
)
def test_a_fence_is_longer_than_those_within(text: str, block: str) -> None:
    assert fenced(text, "py") == block
    assert fenced(text) == block.replace("py", "", 1)


def test_all_names_exist_and_no_others() -> None:
    assert sorted(render.__all__) == render.__all__
    assert all(callable(getattr(render, name)) for name in render.__all__)
    assert set(render.__all__) <= set(dir(render))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = render.nothing


def test_heavy_packages_are_imported_at_first_use() -> None:
    code = (
        "import sys, ipyconvexai.render as r\n"
        "heavy = {'nh3', 'markdown_it', 'pygments', 'latex2mathml'}\n"
        "r.harden_markdown('*a*'), r.plain_text('a'), r.table_html(['a'], [[1]])\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "r.safe_html('a')\n"
        "assert 'nh3' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
