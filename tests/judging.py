"""The public payloads of tests/data, and an independent judge of HTML: html5lib, which parses as browsers do.

And viewers of markdown that allow whatever may be allowed.
"""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path

import html5lib
from markdown_it import MarkdownIt

PAYLOADS = (Path(__file__).parent / "data" / "xss-payloads.txt").read_text(encoding="utf-8").split("\n")
PAYLOADS = [line for line in PAYLOADS if line.strip()]

TAGS = set(
    "p br strong em s del code pre ul ol li blockquote h1 h2 h3 h4 h5 h6 hr table thead tbody tr th td a span div "
    "math mrow mi mn mo ms mtext mspace msup msub msubsup mfrac msqrt mroot mtable mtr mtd munder mover munderover "
    "mstyle mpadded mphantom menclose DOCUMENT_FRAGMENT".split()
)
ATTRIBUTES = {
    "href",
    "title",
    "class",
    "start",
    "rel",
    "align",
    "display",
    "stretchy",
    "fence",
    "separator",
    "mathvariant",
}

# Of a model's own HTML some more are kept.
HTML_TAGS = TAGS | set(
    "b i u ins mark small sub sup abbr cite q kbd samp var dl dt dd details summary caption tfoot".split()
)
HTML_ATTRIBUTES = ATTRIBUTES | {"open", "colspan", "rowspan"}


def harmful(
    fragment: str, tags: Set[str] = TAGS, attributes: Set[str] = ATTRIBUTES, styles: Set[str] = frozenset()
) -> list[str]:
    """The independent judge: what a browser's parser would find that can run, fetch, or leave the page unasked.

    `styles`: those that may be there, to the letter.
    """
    found = []
    for element in html5lib.parseFragment(fragment, namespaceHTMLElements=False).iter():
        tag = str(element.tag).rpartition("}")[2]
        if tag not in tags:
            found.append(tag)
        for key, value in element.attrib.items():
            name = str(key).lower()
            aligned = name == "style" and re.fullmatch(r"text-align:(left|center|right)", value)
            if name not in attributes and not aligned and not (name == "style" and value in styles):
                found.append(f"{tag} {name}")
            if name == "href" and not re.match(r"https?:|mailto:|#", re.sub(r"[\0- ]", "", value).lower()):
                found.append(f"{tag} {value}")
    return found


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


def styles_of(fragment: str) -> set[str]:
    """The styles in a drawing of harmless words: a hostile text may bring no further one."""
    elements = html5lib.parseFragment(fragment, namespaceHTMLElements=False).iter()
    return {element.attrib["style"] for element in elements if "style" in element.attrib}
