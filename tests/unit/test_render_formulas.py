"""Formulas for MathJax: complete, inside their delimiters, and without a command that links, styles or loads."""

from __future__ import annotations

import re

import pytest
from markdown_it import MarkdownIt

from ipyconvexai.render import harden_markdown, latex_bundle

PERMISSIVE = MarkdownIt("js-default", {"html": True, "linkify": False})
# Of MathJax 3, all its packages, and KaTeX: what makes links, styles and attributes, or loads.
COMMANDS = (
    "href url style class cssId data require includegraphics htmlData htmlStyle htmlId htmlClass mmlToken bbox unicode"
)


def active(tex: str) -> list[str]:
    r"""The control sequences that TeX reads: `\\href` is a line break and a word."""
    return [name for name in re.findall(r"\\([A-Za-z]+|[\s\S])", tex) if name in COMMANDS.split()]


def latex(*formulas: str) -> str:
    bundle = latex_bundle(formulas)
    return "" if bundle is None else bundle["text/latex"]


@pytest.mark.parametrize("name", COMMANDS.split())
@pytest.mark.parametrize("before", ["", "\\", "\\\\", "x", "{", "\\\\\\"])
def test_no_command_with_a_link_or_style_is_left(name: str, before: str) -> None:
    tex = f"{before}\\{name}" + "{javascript:alert(1)}{y}" + "}" * (before == "{")
    assert active(tex) == [name] or len(before) % 2, "the control: the raw TeX has it"
    assert latex(tex)
    assert active(latex(tex)) == []
    assert active(harden_markdown(f"${tex}$ and\n\n$$\n{tex}\n$$")) == []


@pytest.mark.parametrize(
    ("tex", "written"),
    [
        ("E = mc^2", r"$\displaystyle E = mc^2$"),
        ("a<b", r"$\displaystyle a\lt b$"),
        ("a < b", r"$\displaystyle a < b$"),
        ("5$ and x", r"$\displaystyle 5\$ and x$"),
        (r"\text{if $x$}", r"$\displaystyle \text{if $x$}$"),
        (r"5\% % a note $", r"$\displaystyle 5\%$"),
        ("a\n\nb", "$\\displaystyle a\nb$"),
        (r"\begin{align}a&=b\end{align}", r"$$\begin{align}a&=b\end{align}$$"),
        (r"\{x\}", r"$\displaystyle \{x\}$"),
    ],
)
def test_what_is_written(tex: str, written: str) -> None:
    assert latex(tex) == written


@pytest.mark.parametrize("tex", ["", "  ", "{", "}", "}{", "\\frac{1}{2", "x\\", "% only a note", "x" * 30_000])
def test_what_is_no_complete_formula_is_none(tex: str) -> None:
    assert latex_bundle([tex]) is None
    assert latex_bundle(["x", tex]) is None


def test_several_formulas_stand_alone() -> None:
    assert latex_bundle(["x", "y_1"]) == {"text/latex": "$$x$$\n\n$$y_1$$", "text/plain": "x\ny_1"}
