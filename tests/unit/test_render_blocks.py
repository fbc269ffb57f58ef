"""A growing markdown text: at each moment its blocks are what the whole text would be."""

from __future__ import annotations

import pytest

from ipyconvexai.render import Blocks, safe_html

TEXTS = {
    "all kinds": "# Hi\n\nSome *text* and $x^2$\nmore\n\n- a\n- b\n\n  still b\n\n"
    "```python\nprint(1)\n\n# no title\n```\n\n"
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n> quoted\nlazy\n\n1. one\n\n2. two\n\n$$\nx\n$$\n\n---\n\nTitle\n===\n\nend",
    "blank lines first": "\n\n\ntext\n\n    code\n",
    "lines of Windows": "a\r\n\r\n```\r\ncode\r\n```\r\nb\rc",
    "hostile": "<script>alert(1)</script>\n\n<img src=x onerror=alert(1)>\n\n[a](javascript:alert(1))\n\n```\n<b>",
    "nothing": "\n \n\t\n",
}


def plain(html: str) -> str:
    return html.replace("\n", "")


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_letter_by_letter_it_is_what_the_whole_is(text: str):
    blocks = Blocks()
    page: list[str] = []
    for end in range(len(text) + 1):
        kept = blocks.show(text[:end])
        page = [*page[:kept], *blocks.html[kept:]]  # as somebody has it who is told what changed
        assert page == blocks.html
        assert plain("".join(page)) == plain(safe_html(text[:end].replace("\r\n", "\n").replace("\r", "\n")))


def test_only_the_last_block_is_rendered_again(monkeypatch: pytest.MonkeyPatch):
    from ipyconvexai.render import blocks as module

    rendered: list[str] = []

    def noted(text: str) -> str:
        rendered.append(text)
        return safe_html(text)

    monkeypatch.setattr(module, "safe_html", noted)
    blocks = Blocks()
    blocks.show("one\n\ntwo\n\nthree\n")
    rendered.clear()
    assert blocks.show("one\n\ntwo\n\nthree\nand more") == 2
    assert rendered == ["three\nand more"]
    rendered.clear()
    assert blocks.show("one\n\ntwo\n\nthree\nand more") == 3
    assert rendered == []


def test_another_text_begins_anew():
    blocks = Blocks()
    blocks.show("one\n\ntwo")
    assert blocks.show("other\n\ntwo") == 0
    assert plain("".join(blocks.html)) == "<p>other</p><p>two</p>"
