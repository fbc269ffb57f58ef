"""One formula of a model's as a ``text/latex`` output, which notebooks give to MathJax as it is.

Calls inline.py and plain.py. Promises that the formula stays inside its own delimiters, that it holds no `<` that could
begin a tag, and no command that links, styles or loads something (MathJax 3 has those on, and not every viewer its
``Safe`` extension).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ipyconvexai.render.inline import harden_tex
from ipyconvexai.render.plain import plain_text

_LONGEST = 20_000  # characters
_SIGNS = re.compile(r"\\[\s\S]|[{}$]|\\\Z|%[^\n]*")
_DISPLAYED = re.compile(r"\\begin\{(?:align|alignat|equation|flalign|gather|multline|eqnarray)\*?\}")


def latex_bundle(formulas: Sequence[str]) -> dict[str, str] | None:
    """A MIME bundle of formulas (without delimiters); None where one of them is incomplete, or there is none.

    ``text/latex`` is written as IPython's ``Math`` writes it, several formulas a paragraph each. ``text/plain`` is the
    TeX.
    """
    inside = [_inside(formula) for formula in formulas]
    if not inside or None in inside:
        return None
    paragraphs = [_delimited(tex or "", alone=len(inside) == 1) for tex in inside]
    return {"text/latex": "\n\n".join(paragraphs), "text/plain": plain_text("\n".join(formulas))}


def _delimited(tex: str, alone: bool) -> str:
    if alone and not _DISPLAYED.search(tex):
        return rf"$\displaystyle {tex}$"
    return f"$${tex}$$"  # the environments of displayed formulas want these in some viewers


def _inside(tex: str) -> str | None:
    """`tex` hardened, without comments and with no dollar that could end it; None where its braces do not match."""
    tex = re.sub(r"\n\s*\n", "\n", harden_tex(plain_text(tex)).strip())
    if len(tex) > _LONGEST:
        return None
    depth = done = 0
    out = []
    for match in _SIGNS.finditer(tex):
        sign = match[0]
        out.append(tex[done : match.start()])
        done = match.end()
        if sign == "\\":
            return None  # it would escape the delimiter
        if sign == "$" and depth == 0:
            sign = r"\$"
        depth += (sign == "{") - (sign == "}")
        if depth < 0:
            return None
        out.append("" if sign[0] == "%" else sign)
    out.append(tex[done:])
    return ("".join(out).strip() or None) if depth == 0 else None
