"""A model's own HTML, cleaned: what is left is text with structure, and nothing that runs, fetches or looks like ours.

Calls plain.py. Promises that only the listed tags and attributes come out (no style,
class, id or data attribute, no image, no form), and that every link is absolute and leads to http, https or mailto.
nh3 parses as browsers do, so that what it lets pass means the same to them.
"""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

from ipyconvexai.render.plain import plain_text

_TAGS = set(
    """
    p br hr h1 h2 h3 h4 h5 h6 div span blockquote pre
    b strong i em u s del ins mark small sub sup abbr cite q code kbd samp var
    ul ol li dl dt dd details summary a
    table caption thead tbody tfoot tr th td
    """.split()
)
_ATTRIBUTES = {
    "*": set[str](),  # else nh3 lets some pass everywhere
    "a": {"href", "title"},
    "abbr": {"title"},
    "details": {"open"},
    "ol": {"start"},
    "th": {"colspan", "rowspan"},
    "td": {"colspan", "rowspan"},
}
# Of these not even the text is for readers.
_UNREADABLE = set(
    "head iframe math noembed noframes noscript object script select style svg template title xmp".split()
)
_SCHEMES = {"http", "https", "mailto"}
_PLACE = re.compile(r"(?:https?://|mailto:)[^\s<>\"'`\\]+", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,3}")  # a table of a million columns stops the page

_LONGEST = 200_000  # characters; what is longer is shown as written
_DEEPEST = 9  # levels of a list that are indented further


def clean_html(text: str) -> str:
    """``text`` (HTML, a page or a piece of one) as a fragment that runs nothing and fetches nothing by itself."""
    import nh3

    text = plain_text(text)
    if len(text) > _LONGEST:
        return f"<pre>{html.escape(text)}</pre>"
    return nh3.clean(
        text,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=_attribute,
        clean_content_tags=_UNREADABLE,
        url_schemes=_SCHEMES,
        url_relative="deny",  # without a scheme a link would lead into the notebook server itself
        link_rel="noopener noreferrer",
    )


def text_of_html(text: str) -> str:
    """What a reader sees of `text` (HTML): a line for each block, dashes before items, the addresses of links."""
    reader = _Reader()
    reader.feed(clean_html(text))
    reader.close()
    return reader.text()


def _attribute(tag: str, name: str, value: str) -> str | None:
    if name == "href":
        return value if _PLACE.fullmatch(value.strip()) else None
    if name in ("colspan", "rowspan", "start"):
        return value if _NUMBER.fullmatch(value) else None
    return value


_BLOCKS = frozenset(
    """
    p hr h1 h2 h3 h4 h5 h6 div blockquote pre ul ol li dl dt dd details summary table caption thead tbody tfoot tr
    """.split()
)
_APART = frozenset("p h1 h2 h3 h4 h5 h6 blockquote pre ul ol dl details table".split())  # an empty line around these


class _Reader(HTMLParser):
    """Reads cleaned HTML, which is well-formed, into lines."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._preformatted = 0
        self._lists: list[int | None] = []  # the next number of each open list; None: it has dashes
        self._places: list[tuple[str, int]] = []

    def text(self) -> str:
        lines = [line.rstrip() for line in "".join(self._parts).split("\n")]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in _BLOCKS:
            self._break(tag)
        if tag == "br":
            self._parts.append("\n")
        elif tag == "hr":
            self._parts.append("---\n")
        elif tag == "pre":
            self._preformatted += 1
        elif tag in ("ul", "ol"):
            self._lists.append(int(given.get("start") or 1) if tag == "ol" else None)
        elif tag == "li":
            self._parts.append(self._mark())
        elif tag in ("td", "th"):
            self._parts.append("" if self._at_line_start() else "  ")
        elif tag == "a":
            self._places.append((given.get("href") or "", len(self._parts)))

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)
        elif tag in ("ul", "ol") and self._lists:
            self._lists.pop()
        elif tag == "a" and self._places:
            place, since = self._places.pop()
            if place and place.removeprefix("mailto:") not in "".join(self._parts[since:]):
                self._parts.append(f" ({place})")
        if tag in _BLOCKS:
            self._break(tag)

    def handle_data(self, data: str) -> None:
        if self._preformatted:
            self._parts.append(data)
            return
        data = re.sub(r"[ \t\n]+", " ", data)
        self._parts.append(data.lstrip(" ") if self._at_line_start() else data)

    def _mark(self) -> str:
        if not self._lists:
            return "- "
        indent, number = "  " * min(len(self._lists) - 1, _DEEPEST), self._lists[-1]
        if number is None:
            return f"{indent}- "
        self._lists[-1] = number + 1
        return f"{indent}{number}. "

    def _break(self, tag: str) -> None:
        if not self._at_line_start():
            self._parts.append("\n")
        if tag in _APART and not (tag in ("ul", "ol") and self._lists) and self._parts:
            self._parts.append("\n")

    def _at_line_start(self) -> bool:
        last = next((part for part in reversed(self._parts) if part), "\n")
        return last.endswith("\n")
