"""HTML made of markdown: what it should have, and nothing else."""

from __future__ import annotations

import pytest

from ipyconvexai.render import safe_html


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("# a\n\n**b** *c* ~~d~~ `e`", "<h1>a</h1>\n<p><strong>b</strong> <em>c</em> <s>d</s> <code>e</code></p>"),
        ("| a |\n|--:|\n| 1 |", '<td align="right">1</td>'),
        ("3. a", '<ol start="3">'),
        ("```python\nx = 1 < 2\n```", '<span class="mi">1</span>'),
        ("```no-such-language\n<b>\n```", "&lt;b&gt;"),
        ("$x^2$", "<math"),
        ("$$\n\\frac{1}{2}\n$$", "<mfrac>"),
        ("$\\frac{$", "<code>\\frac{</code>"),
        ("it costs $5 to $10", "it costs $5 to $10"),
        ("[a](https://example.org)", '<a href="https://example.org" rel="noopener noreferrer">a</a>'),
        ("[a](mailto:a@example.org)", 'href="mailto:a@example.org"'),
        (
            "![cat](https://example.org/c.png)",
            '<a href="https://example.org/c.png" rel="noopener noreferrer">🖼 cat</a>',
        ),
        ("<b>x</b>", "&lt;b&gt;x&lt;/b&gt;"),
    ],
)
def test_what_is_drawn(text: str, part: str) -> None:
    assert part in safe_html(text)


@pytest.mark.parametrize("place", ["/api/x", "//evil.example", "x.html", "#a", "?a", "ftp://a.example", "JaVaScript:x"])
def test_links_that_go_nowhere(place: str) -> None:
    assert "href" not in safe_html(f"[a]({place})")


def test_long_formulas_and_code_are_shown_as_written() -> None:
    assert "<code>" + "x" * 3000 + "</code>" in safe_html("$" + "x" * 3000 + "$")
    assert "<span" not in safe_html("```python\n" + "x = 1\n" * 5000 + "```")
