"""Answers side by side: of several models to one question. Calls hardening, sanitizing and plain.

Promises of a bundle: the HTML holds sanitised text only and looks right in light and dark themes; the markdown has the
same answers one below the other, for viewers without HTML.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from ipyconvexai.render.hardening import harden_markdown
from ipyconvexai.render.inline import entities
from ipyconvexai.render.plain import plain_text
from ipyconvexai.render.sanitizing import safe_html

__all__ = ["side_by_side"]

_CELL = "vertical-align:top;text-align:left;white-space:normal;min-width:12em"


def side_by_side(parts: Sequence[tuple[str, str, str]]) -> dict[str, str]:
    """A MIME bundle of (title, markdown, note) parts: a column each, of equal width."""
    width = f"width:{100 // max(1, len(parts))}%"
    heads = "".join(f'<th style="{_CELL};{width}">{_line(title)}</th>' for title, _, _ in parts)
    bodies = "".join(f'<td style="{_CELL}">{safe_html(text)}</td>' for _, text, _ in parts)
    notes = "".join(f'<td style="{_CELL};opacity:0.7">{_line(note)}</td>' for _, _, note in parts)
    table = (
        f'<table class="mathjax_ignore tex2jax_ignore" style="width:100%;table-layout:fixed"><thead><tr>{heads}</tr>'
        f"</thead><tbody><tr>{bodies}</tr></tbody><tfoot><tr>{notes}</tr></tfoot></table>"
    )
    markdown = "\n\n".join(
        f"### {_inline(title)}\n\n{harden_markdown(text)}\n\n*{_inline(note)}*" for title, text, note in parts
    )
    plain = "\n\n".join(f"{title}\n{text}\n[{note}]" for title, text, note in parts)
    return {"text/html": table, "text/markdown": markdown, "text/plain": plain_text(plain)}


def _line(text: str) -> str:
    return html.escape(" ".join(plain_text(text).split()))


def _inline(text: str) -> str:
    return entities(" ".join(plain_text(text).split()), keep_space=True)
