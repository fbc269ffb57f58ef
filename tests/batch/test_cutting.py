"""Cutting: every character in one part, none too long, at headings and sentences, for any text in linear time."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from semantic_text_splitter import TextSplitter

from ipyconvexai.batch.cutting import LEAST, Span, count, cut, fits, surely_fits

SENTENCE = "The treaty was signed in spring, and nobody read it before the summer. "


SLIP = 2  # tokens: a part alone may be read as one or two more than where it stood


def is_within(text: str, tokens: int) -> bool:
    """What the library itself says of a text."""
    sound = text.encode("utf-8", "replace").decode()
    return len(TextSplitter.from_tiktoken_model("gpt-4o", tokens, trim=False).chunks(sound)) <= 1


def check_cover(text: str, spans: list[Span]) -> None:
    assert spans[0].start == 0
    assert spans[-1].end == len(text)
    assert all(before.end == after.start for before, after in pairwise(spans))
    assert text == "" or all(span.start < span.end for span in spans)


ODD = st.text(
    st.one_of(st.characters(codec=None), st.sampled_from(" \n\t#a.\0\r\u0301\u200d👩漢。\ud800")), max_size=400
)
RUNS = st.builds(lambda unit, times: unit * times, st.text(min_size=1, max_size=3), st.integers(1, 900))
PROSE = st.builds(lambda times: SENTENCE * times, st.integers(1, 40))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(ODD, RUNS, PROSE), max_size=5).map("".join), st.integers(LEAST, 300))
def test_each_character_is_in_one_part_and_no_part_is_too_long(text: str, tokens: int):
    spans = cut(text, tokens)
    check_cover(text, spans)
    for span in spans:
        assert is_within(text[span.start : span.end], tokens + SLIP)
    assert spans == cut(text, tokens)


@settings(max_examples=80, deadline=None)
@given(st.one_of(ODD, PROSE, RUNS))
def test_a_count_is_never_too_low_and_close_for_prose(text: str):
    tokens = count(text)
    assert is_within(text, tokens + 2 * (1 + len(text) // 200)) if tokens else text == ""
    assert fits(text, tokens)


def test_a_count_of_prose_is_at_most_three_percent_too_high():
    text = SENTENCE * 300
    exact = 15 * 300  # by hand: "The| treaty| was| signed| in| spring|,| and| nobody| read| it| before| the| summer|."
    assert exact <= count(text) <= exact * 1.08  # a space in the end, and at most 3 % for each 4,000 characters


def test_it_cuts_between_sentences_and_paragraphs():
    paragraphs = [SENTENCE * 6 for _ in range(12)]
    text = "\n\n".join(paragraphs)
    spans = cut(text, 200)
    assert len(spans) >= 6
    for span in spans[1:]:
        assert text[: span.start].endswith("\n\n")
    flowing = SENTENCE * 100
    assert all(flowing[span.start :].startswith("The treaty") for span in cut(flowing, 100))


def test_it_cuts_at_markdown_headings():
    text = "".join(f"# Chapter {number}\n\n{SENTENCE * 8}\n\n" for number in range(20))
    spans = cut(text, 160)
    assert len(spans) == 20
    assert all(text[span.start :].lstrip().startswith("# Chapter") for span in spans)


def test_windows_leave_no_short_parts_behind():
    """A long text is cut window by window; the parts are as full as if it were read at once."""
    text = SENTENCE * 4000
    spans = cut(text, 1000)
    whole = TextSplitter.from_tiktoken_model("gpt-4o", 1000, trim=False).chunks(text)
    assert len(spans) == len(whole)


WILD = {
    "one character": "a" * 2_000_000,
    "spaces": " " * 2_000_000,
    "newlines": "\n" * 2_000_000,
    "nul": "\0" * 2_000_000,
    "emoji": "👨‍👩‍👧‍👦🎉" * 200_000,
    "accents": "a" + "\u0301" * 1_000_000,
    "no spaces in Chinese": "漢字仮名交じり文の例" * 100_000,
    "half pairs": "\ud800b" * 300_000,
    "lists in lists": "\n".join(" " * depth + "- x" for depth in range(1000)),
    "quotes in quotes": "# a\n" + "> " * 200_000,
    "brackets": "# a\n" + "[" * 300_000,
    "tables": "# a\n\n" + "|a|b|\n|-|-|\n" * 40_000,
    "a wall in prose": SENTENCE * 500 + " " * 300_000 + "x" * 300_000 + SENTENCE * 500,
}


@pytest.mark.parametrize("tokens", [500, 50_000])
@pytest.mark.parametrize("name", WILD)
def test_hostile_texts_are_cut_in_linear_time(name: str, tokens: int):
    text = WILD[name]
    began = time.process_time()
    spans = cut(text, tokens)
    assert time.process_time() - began < 8  # the library alone: minutes, or a stack overflow
    check_cover(text, spans)
    assert len(spans) <= 2 + 2 * len(text.encode("utf-8", "replace")) // tokens
    for span in (spans[0], spans[len(spans) // 2], spans[-1]):
        if len(part := text[span.start : span.end]) < 3000:
            assert is_within(part, tokens)


def test_what_surely_fits_does_not_load_the_library():
    code = (
        "import sys; from ipyconvexai.batch.cutting import cut, fits; assert cut('short ' * 100, 1000) == [(0, 600)];"
        "assert fits('漢字' * 100, 1000); print('semantic_text_splitter' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"


def test_a_text_with_as_many_bytes_as_tokens_surely_fits():
    assert surely_fits("a" * 100, 100)
    assert not surely_fits("a" * 101, 100)
    assert surely_fits("漢" * 33, 100)
    assert not surely_fits("漢" * 34, 100)
    assert surely_fits("\ud800" * 33, 100)
    assert surely_fits("", 0)


def test_nothing_is_one_empty_part():
    assert cut("", LEAST) == [Span(0, 0)]
    assert count("") == 0


def test_parts_of_hardly_any_tokens_are_refused():
    with pytest.raises(ValueError, match="at least 16"):
        cut("text", LEAST - 1)
