"""The public payloads of tests/data, and an independent judge of HTML: html5lib, which parses as browsers do."""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path

import html5lib

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


def harmful(fragment: str, tags: Set[str] = TAGS, attributes: Set[str] = ATTRIBUTES) -> list[str]:
    """The independent judge: what a browser's parser would find that can run, fetch, or leave the page unasked."""
    found = []
    for element in html5lib.parseFragment(fragment, namespaceHTMLElements=False).iter():
        tag = str(element.tag).rpartition("}")[2]
        if tag not in tags:
            found.append(tag)
        for key, value in element.attrib.items():
            name = str(key).lower()
            aligned = name == "style" and re.fullmatch(r"text-align:(left|center|right)", value)
            if name not in attributes and not aligned:
                found.append(f"{tag} {name}")
            if name == "href" and not re.match(r"https?:|mailto:|#", re.sub(r"[\0- ]", "", value).lower()):
                found.append(f"{tag} {value}")
    return found
