"""A model's own HTML: nothing of the public payloads survives in it, and what it is made of for readers does."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipyconvexai.render import clean_html, plain_text, text_of_html
from tests.judging import HTML_ATTRIBUTES, HTML_TAGS, PAYLOADS, harmful


def survives(fragment: str) -> list[str]:
    return harmful(fragment, HTML_TAGS, HTML_ATTRIBUTES - {"class"})


FRAMES = [
    "<table><tr><td>{}</table>",
    "<ul><li>{}",
    "<details open><summary>{}</summary>",
    '<a href="{}">x</a>',
    '<a href="https://a.example/" title="{}">x</a>',
    "<pre>{}",
    "<svg><style>{}",
    "<math><mtext>{}</mtext></math>",
    "<!-- {} -->",
    "<noscript><p title='</noscript>{}'>",
    "<form><math><mtext></form><form><mglyph><style></math>{}",
    "<b {}>x",
]


@pytest.mark.parametrize("frame", FRAMES)
def test_no_payload_survives_in_a_frame(frame: str) -> None:
    step = 17  # every frame meets another part of the list
    part = PAYLOADS[len(frame) % step :: step]
    assert [payload for payload in part if survives(clean_html(frame.replace("{}", payload)))] == []


PIECES = "< > / = \" ' <a <b> </b> <svg> <style> </style> <!-- --> <p title=' <table> onclick= href=javascript:".split()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([*PIECES, " ", "\n", "<img src=x onerror=alert(1)>"]), max_size=20).map("".join))
def test_whatever_is_written_is_harmless(text: str) -> None:
    cleaned = clean_html(text)
    assert survives(cleaned) == []
    assert clean_html(cleaned) == cleaned, "and cleaned HTML stays as it is"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("<h2 id=x class=y style='color:red'>A</h2>", "<h2>A</h2>"),
        ("<img src=https://a.example/?secret alt=a>b", "b"),
        ("<p>a<script>b</script><style>c</style><title>d</title>e", "<p>ae</p>"),
        ("<form action=/api><input value=a><button>b</button></form>", "b"),
        (
            "<details open ontoggle=x><summary>a</summary>b</details>",
            '<details open=""><summary>a</summary>b</details>',
        ),
        ("<ol start=3><li>a</ol>", '<ol start="3"><li>a</li></ol>'),
        ("<table><tr><td colspan=2 rowspan=99999999>a</table>", '<td colspan="2">a</td>'),
        ("<span data-commandlinker-command='x' title=y>a</span>", "<span>a</span>"),
        ("<a target=_top href='https://a.example/?b=c&d'>a</a>", 'href="https://a.example/?b=c&amp;d" rel="noopener'),
        ("<a href='mailto:a@a.example'>a</a>", 'href="mailto:a@a.example"'),
    ],
)
def test_what_is_left(text: str, cleaned: str) -> None:
    assert cleaned in clean_html(text)


@pytest.mark.parametrize(
    "place",
    ["/api/x", "//evil.example", "x", "#a", "?a", "ftp://a", "java\tscript:x", "data:text/html,x", "https:/\\a"],
)
def test_links_that_go_nowhere(place: str) -> None:
    assert "href" not in clean_html(f'<a href="{place}">a</a>')


PAGE = """<!DOCTYPE html><html><head><title>No</title></head><body>
<h1>A  title</h1><p>One <b>bold</b>, a <a href="https://a.example/x">link</a> &amp;
&lt;b&gt;<br>next</p><ul><li>a<li>b<ol start=3><li>c</ol></ul>
<table><tr><th>A<th>B<tr><td>1<td>2</table><pre>x
  y</pre><a href="mailto:x@a.example">x@a.example</a></body></html>"""
SEEN = """A title

One bold, a link (https://a.example/x) & <b>
next

- a
- b
  3. c

A  B
1  2

x
  y

x@a.example"""


def test_the_text_of_it_is_what_a_reader_sees() -> None:
    assert text_of_html(PAGE) == SEEN


@pytest.mark.parametrize("payload", PAYLOADS[::50])
def test_the_text_of_it_steers_nothing(payload: str) -> None:
    assert plain_text(text_of_html(payload)) == text_of_html(payload)


def test_what_is_too_long_is_shown_as_written() -> None:
    assert clean_html("<b>" * 100_000) == f"<pre>{'&lt;b&gt;' * 100_000}</pre>"


@pytest.mark.parametrize("piece", ["<ul><li>", "<p><b>", "<a><table>", "<", "&", "<div>"])
def test_no_html_makes_it_slow(piece: str) -> None:
    """20 kB; all take below 0.1 s."""
    begin = time.process_time()
    text_of_html(piece * (20_000 // len(piece)))
    assert time.process_time() - begin < 2
