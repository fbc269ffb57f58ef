"""Hostile text on its way to the screen: the only door to nh3, markdown-it and Pygments.

What a model, a document, an error or a title says passes through here before anybody sees it. Floor 1: calls nothing
of the package but errors.py. Promises that what comes out runs nothing and fetches nothing by itself, in any of the
viewers a notebook meets, and that people can still read it. The rooms behind are imported at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ipyconvexai import interrupts

if TYPE_CHECKING:
    from ipyconvexai.render.blocks import Blocks
    from ipyconvexai.render.cleaning import clean_html, text_of_html
    from ipyconvexai.render.columns import side_by_side
    from ipyconvexai.render.formulas import latex_bundle
    from ipyconvexai.render.hardening import harden_markdown, markdown_bundle
    from ipyconvexai.render.plain import error_text, fenced, plain_text
    from ipyconvexai.render.sanitizing import safe_html
    from ipyconvexai.render.tables import table_html, table_text

__all__ = [
    "Blocks",
    "clean_html",
    "error_text",
    "fenced",
    "harden_markdown",
    "latex_bundle",
    "markdown_bundle",
    "plain_text",
    "safe_html",
    "side_by_side",
    "table_html",
    "table_text",
    "text_of_html",
]

_ROOMS = {
    "Blocks": "blocks",
    "clean_html": "cleaning",
    "error_text": "plain",
    "fenced": "plain",
    "latex_bundle": "formulas",
    "harden_markdown": "hardening",
    "markdown_bundle": "hardening",
    "plain_text": "plain",
    "safe_html": "sanitizing",
    "side_by_side": "columns",
    "table_html": "tables",
    "table_text": "tables",
    "text_of_html": "cleaning",
}


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with interrupts.held():
        value = getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)
    globals()[name] = value  # found without this function from now on
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
