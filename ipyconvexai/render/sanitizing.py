"""Markdown to HTML of our own making, for widgets: tables, coloured code, formulas as MathML.

Calls plain.py. Promises that only the listed tags and attributes come out, and that every link is absolute and leads
to http, https or mailto. markdown-it makes the HTML with raw HTML off, and nh3 judges it independently.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from ipyconvexai.render.plain import plain_text

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_TAGS = set(
    """
    p br strong em s del code pre ul ol li blockquote h1 h2 h3 h4 h5 h6 hr a span div
    table thead tbody tr th td
    math mrow mi mn mo ms mtext mspace msup msub msubsup mfrac msqrt mroot mtable mtr mtd
    munder mover munderover mstyle mpadded mphantom menclose
    """.split()
)
_ATTRIBUTES = {
    "a": {"href", "title"},
    "span": {"class"},
    "code": {"class"},
    "ol": {"start"},
    "math": {"display"},
    "mo": {"stretchy", "fence", "separator"},
    "mi": {"mathvariant"},
}
_ALIGN = {"align": {"left", "center", "right"}}
_SCHEMES = {"http", "https", "mailto"}
_MAX_TEX = 2000  # characters; beyond these, converter and lexers are slow,
_MAX_CODE = 20_000  # and the text is shown as written


def safe_html(text: str) -> str:
    """``text`` (markdown) as an HTML fragment that runs nothing and fetches nothing. About 5 ms per kB."""
    import nh3

    return nh3.clean(
        _renderer().render(plain_text(text)),
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        tag_attribute_values={"th": _ALIGN, "td": _ALIGN},
        url_schemes=_SCHEMES,
        url_relative="deny",  # without a scheme a link would lead into the notebook server itself
        link_rel="noopener noreferrer",
    )


def block_lines(text: str) -> list[int]:
    """The lines, from 0, on which the blocks of ``text`` (markdown) begin: paragraphs, lists, tables, code."""
    tokens = _renderer().parse(text)
    return [token.map[0] for token in tokens if token.level == 0 and token.map is not None and token.nesting >= 0]


@cache
def _renderer() -> MarkdownIt:
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    markdown = MarkdownIt("js-default", {"html": False, "linkify": False, "highlight": _highlight})
    markdown.use(dollarmath_plugin, renderer=_math, allow_digits=False, double_inline=True)
    markdown.add_render_rule("image", _image)
    markdown.core.ruler.push("align", _align)
    return markdown


def _align(state: Any) -> None:
    """Tables carry their alignment in an attribute of its own; style never passes."""
    for token in state.tokens:
        if token.type in ("th_open", "td_open") and "style" in token.attrs:
            token.attrs = {"align": str(token.attrs["style"]).rpartition(":")[2]}


def _image(renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """A link in place of the image: nothing is fetched without a click."""
    from markdown_it.common.utils import escapeHtml

    token = tokens[index]
    label = escapeHtml(renderer.renderInlineAsText(token.children or [], options, env).strip() or "image")
    return f'<a href="{escapeHtml(str(token.attrs.get("src", "")))}">🖼 {label}</a>'


def _highlight(code: str, language: str, attributes: str) -> str:
    """Coloured HTML, or an empty string, by which markdown-it escapes the code itself."""
    from pygments import highlight
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    if not language or len(code) > _MAX_CODE:
        return ""
    try:
        return str(highlight(code, get_lexer_by_name(language), _formatter()))
    except ClassNotFound:
        return ""


@cache
def _formatter() -> Any:
    from pygments.formatters import HtmlFormatter

    return HtmlFormatter(nowrap=True)


def _math(tex: str, options: dict[str, Any]) -> str:
    from latex2mathml.converter import convert
    from markdown_it.common.utils import escapeHtml

    try:
        if len(tex) > _MAX_TEX:
            raise ValueError("too long")
        return str(convert(tex, display="block" if options["display_mode"] else "inline"))
    except Exception:  # the converter raises whatever its parser stumbles over; the formula is then shown as written
        return f"<code>{escapeHtml(tex)}</code>"
