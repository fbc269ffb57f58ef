"""Hardened markdown, drawn by a viewer that allows everything, must run and fetch nothing; and people must read it."""

from __future__ import annotations

import re
import time
from functools import cache

import html5lib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipyconvexai.render import harden_markdown, markdown_bundle
from tests.judging import PERMISSIVE, harmful
from tests.promises.tricky import LINES, TRICKY, WRITTEN


@cache
def shown(markdown: str) -> str:
    """What a reader sees."""
    tree = html5lib.parseFragment(PERMISSIVE.render(markdown), namespaceHTMLElements=False)
    return "".join(tree.itertext())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([*WRITTEN, *LINES, "\n```py\n", "\n- ```\n", "again", "hello", "words"])).map(" ".join))
def test_words_survive(text: str) -> None:
    hardened = harden_markdown(text)
    for word in ("again", "hello", "words"):
        assert hardened.count(word) == text.count(word)


ORDINARY = """\
Title
=====

## Heading with `code`, *emphasis* and **strength** ##

A paragraph with a [link](https://example.org/a_(b)?c=d&e=f "title"), <b@example.org without end, an anchor
[up](#top), [mail](mailto:a@example.org), a [reference][r], ~~struck~~, 5 < 6, i<3,
x <= y, a <- b, wow! [sic], a\\_b, &amp;.

````markdown
```html
<img src=x>
```
````

- one
- two `List[int]` `a < b` `x[0]`
    - nested
1. three
   - [ ] task

   more of three
2. four:

   ```bash
   pip install example
   ```

   after

> quoted
> ```
> code
> ```

| a | b |
|:--|--:|
| 1 | `x|y` |

```python
def f(x):
    return "<b>" if x < 3 else '![x](http://y)'
```

---

$E = mc^2$, $a < b$, \\(x\\), and

$$
\\int_0^1 x\\,dx
$$

    indented code

[r]: https://example.org "title"
"""


def test_ordinary_markdown_is_left_as_it_is() -> None:
    expected = ORDINARY.replace("<b@", "&lt;b@")
    assert harden_markdown(ORDINARY) == expected


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("`vector<int>` and `<b>`", "vector<int> and <b>"),
        ("`` a`<b> ``", "a`<b>"),
        ("| `a\\|<b>` |\n|---|\n| x |", "a|<b>"),
        ("a <b>bold</b> \\<i> \\\\<u>", "a <b>bold</b> <i> \\<u>"),
        ("see <https://example.org/x>, <me@example.org>", "see https://example.org/x, me@example.org"),
        ("[a](javascript:x)", "[a](javascript:x)"),
        ("[note]: this is text", "[note]: this is text"),
        ("![a cat](https://example.org/c.png)", "🖼 a cat"),
        ("![](https://example.org/c.png)", "🖼 image"),
        ("wow\\![x](https://example.org)", "wow!x"),
        ("```` ```x``` ````", "```x```"),
        ("- a:\n  ```cpp\n  vector<int> v;\n\n    $x[0](\\t)\n  ```\n- b", "vector<int> v;\n\n  $x[0](\\t)"),
        ("> ```\n> <b>\n> ```", "<b>"),
        ("    <b>indented</b>", "<b>indented</b>"),
        ("1. a\n   ```\n<b>\n   ```\n2. b", "<b>"),
        ("$a<b$ and $f'(x)[i](y)$", "$a\\lt b$ and $f'(x)[i] (y)$"),
        ("$$ x\n\n```php\n<?php $$x $$y ?>\n```", "<?php $$x $$y ?>"),
        ("it costs $5 to $10", "it costs $5 to $10"),
    ],
)
def test_what_is_changed_still_looks_right(text: str, seen: str) -> None:
    assert seen in shown(harden_markdown(text))


def test_html_in_a_fence_at_the_margin_stays_source() -> None:
    text = "Look:\n\n```html\n<b>x</b>\n```\n\nDone."
    assert harden_markdown(text) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("```mermaid\nA-->B\n```", "```text\nA-->B\n```"),
        ("```{=html} onclick=x\na\n```", "```\na\n```"),
        ("~~~ python {x}\na\n~~~~", "```python\na\n```"),
        ("1. a\n   ```\n<b>\n   ```", "1. a\n   <pre><code>&#60;b&#62;</code></pre>"),
        ("1. a\n   ```sh\nb\n   ```\n2. c", "1. a\n   ```sh\n   b\n   ```\n2. c"),
        ("- ```\n  <b>\nc", "- <pre><code>&#60;b&#62;</code></pre>\nc"),
        ("    <b>", "```\n<b>\n```"),
        ("[^1]: ```", "[^1]&#58; &#96;&#96;&#96;"),
        ("a ~~~b", "a &#126;&#126;&#126;b"),
        ("```x```", "`x`"),
        ("``` a`b ```", "`` a`b ``"),
        ("`a`{=html}", "`a`&#123;=html}"),
        ("- ` a\n- <b> ` c", "- ` a\n- &lt;b> ` c"),
        ("\\`a<b>`", "\\`a&lt;b>`"),
        ("`https://a.example/$b`", "<code>https&#58;//a&#46;example/&#36;b</code>"),
        ("https://a.example/`$b`", "https://a.example/ `$b`"),
        ("https://a.example/$b", "https://a.example/&#36;b"),
        ("\\\\![a](https://a.example)", "\\\\🖼 [a](https://a.example)"),
        ("\\![a](https://a.example)", "&#33;[a](https://a.example)"),
        ("\\href{https://a.example}{b}", "&#92;href{https://a.example}{b}"),
        ("$\\href{javascript:x}{y} z$", "$href{javascript:x}{y} z$"),
        ("$\\text{ https://a.example }![b]:(c)$", "$\\text{ https: //a.example }! [b] :(c)$"),
        ("$```$", "$` ` `$"),
        ("<https://a.example>b", "https://a.example b"),
    ],
)
def test_what_is_written(text: str, written: str) -> None:
    assert harden_markdown(text) == written


@pytest.mark.parametrize("sign", ["$$", "\\\\[", "\\begin{a}"])
def test_a_fence_that_a_formula_could_swallow_is_no_source(sign: str) -> None:
    """Some viewers let a formula go on over blank lines and fences."""
    closer = sign.replace("[", "]").replace("begin", "end")
    hardened = harden_markdown(f"{sign} x\n\n```html\n{closer} <b>\n```")
    assert "<b>" not in hardened
    assert f"{closer} <b>" in shown(hardened)


def test_a_blank_line_stands_before_a_fence() -> None:
    assert harden_markdown("a\n```\nb\n```\nc") == "a\n\n```\nb\n```\nc"


def test_links_keep_their_place() -> None:
    html = PERMISSIVE.render(
        harden_markdown("[a](<https://example.org/x>) [b](HTTPS://example.org/y) [c][r]\n\n[r]: <https://z.example>")
    )
    assert re.findall(r'href="([^"]*)"', html) == [
        "https://example.org/x",
        "HTTPS://example.org/y",
        "https://z.example",
    ]


def test_a_growing_answer_has_its_fence_closed() -> None:
    assert harden_markdown("a\n\n```py\nx = 1") == "a\n\n```py\nx = 1\n```"


@pytest.mark.parametrize("text", [ORDINARY, *TRICKY.values()])
def test_hardening_twice_changes_nothing_that_is_seen(text: str) -> None:
    once = harden_markdown(text)
    assert shown(harden_markdown(once)) == shown(once)


HOSTILE_TO_PATTERNS = [
    "www." * 5000, "`a " * 7000, "- ```\n" * 3400, "- ````\n   ```\n" * 1500, "   ```\n" * 2800, "\\(" * 10000,
    "$ " * 10000, "\\begin{a}" * 2200, "![" * 10000, "[a](https://a(" * 1500, "<" * 20000, "\\" * 20000,
    "]:" + " " * 20000, "[a]:" + " \n" * 8000, '[a](https://a "' + " " * 20000, "<a@" * 6000, "<a." * 6000,
    "1. " * 6000 + "```", "<code>" * 3300, "](https://" + "(a)" * 6000, "\x1b]" * 10000, "> " * 10000 + "```",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE_TO_PATTERNS, ids=[repr(t[:12]) for t in HOSTILE_TO_PATTERNS])
def test_no_text_makes_it_slow(text: str) -> None:
    """A pattern that goes quadratic takes 12 s for these 20 kB; all take about 30 ms."""
    begin = time.process_time()
    harden_markdown(text)
    assert time.process_time() - begin < 2


def test_bundle_has_a_note_in_markdown_only() -> None:
    bundle = markdown_bundle("**a** \x1b[31mb", note="smol*lm2*\n<b> · 34 tokens")
    assert bundle["text/plain"] == "**a** b"
    assert "<em>" in PERMISSIVE.render(bundle["text/markdown"])
    assert shown(bundle["text/markdown"]).split("\n")[1] == "smol*lm2* <b> · 34 tokens"
    assert harmful(PERMISSIVE.render(bundle["text/markdown"])) == []


def test_bundle_without_a_note() -> None:
    assert markdown_bundle("a") == {"text/markdown": "a", "text/plain": "a"}


def test_bundle_of_an_open_fence_keeps_the_note_out_of_it() -> None:
    html = PERMISSIVE.render(markdown_bundle("```\nx", note="n")["text/markdown"])
    assert html.endswith("<p><em>n</em></p>\n")
