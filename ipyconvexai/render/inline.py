"""Inside a paragraph: code spans and formulas are told from text, and each is made harmless in its own way.

Calls nothing of the package. Promises that its results hold no `<` that could begin a tag (but for `<code>` and `<pre>`
of our own), no image, no link but to http, https, mailto or an anchor, and no run of three backticks or tildes, so that
nobody finds a fence here. What a viewer shows stays the same wherever nothing had to be changed: the changes are mostly
character references.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable

_TAG_START = r"<(?![\s=\d<-])"  # `a < b`, `x <= y`, `i<3` and `<-` begin no tag anywhere
# TeX with links, CSS, or what is loaded. All backslashes before a name: one less of `\\href` would be the command.
_COMMANDS = (
    r"(?<!\\)\\+(?=(?:href|url|style|require|includegraphics|cssId|class|data|html[a-z]*|mmlToken|bbox|unicode)"
    r"(?![a-z]))"
)
_URL_START = r"(?i:https?://|ftp://|www\.)"
_URL = re.compile(_URL_START + r"\S*", re.I)  # to the next space: an escaped `<` does not end an address
_RISK = re.compile(rf"{_TAG_START}|!\[|\]\(|\]:|`{{3}}|~{{3}}|{_COMMANDS}", re.I)
_DELIMITED = re.compile(r"[`$]|\\[(\[]|\\begin|<code>", re.I)
FORMULA_START = re.compile(r"\$\$|\\[(\[]|\\begin\{")
FORMULA_SIGN = re.compile(r"\$|\\[()\[\]]|\\(?:begin|end)\{")

_OWN_CODE = r"<code>(?:[\w\u00a0-\U0010ffff ,;=()/%?-]|&#\d{1,6};)*</code>"
_DELIMITER = re.compile(
    rf"(?P<own><pre>{_OWN_CODE}</pre>|{_OWN_CODE})"
    rf"|(?P<url>{_URL_START}[^\s`]*)"  # no formula begins inside an address
    r"|`+|\\\\[()\[\]]|\\[()\[\]]|\\(?:begin|end)\{[A-Za-z]+\*?\}|\$\$|(?<!\\)\$",
)
_CLOSERS = {r"\(": r"\)", r"\[": r"\]", r"\\(": r"\\)", r"\\[": r"\\]", "$": "$", "$$": "$$"}
_BLOCK_BREAK = re.compile(r"\n[ \t]*(?:[-*+][ \t]|[>#|]|\d{1,9}[.)][ \t]|[-=*_]{2})")


def is_risky(text: str) -> bool:
    """Whether ``text`` could do harm if some viewer took it for ordinary markdown."""
    if _RISK.search(text):
        return True
    # An address with a sign that begins a formula. One match per address: searching for both at once is quadratic.
    return ("$" in text or "\\" in text) and any("$" in url or "\\" in url for url in _URL.findall(text))


def harden_inline(text: str) -> str:
    """One paragraph, hardened. Code spans and formulas are kept as far as they are harmless; the rest is text."""
    if _DELIMITED.search(text) is None:
        return _plain(text)
    tokens = list(_DELIMITER.finditer(text))
    places: dict[str, list[int]] = {}
    for i, token in enumerate(tokens):
        places.setdefault(token[0], []).append(i)
    out: list[str] = []
    done = i = 0
    while i < len(tokens):
        last = _partner(text, tokens, places, i)
        if last is not None:
            begin, end = tokens[i].start(), tokens[last].end()
            out.append(_between(out, text[done:begin]))
            out.append(_construct(text[begin:end], tokens[i], tokens[last], after=out[-1]))
            done, i = end, last
        i += 1
    out.append(_between(out, text[done:]))
    return "".join(out)


def _between(out: list[str], text: str) -> str:
    """Text that follows what is already in ``out``."""
    if out and out[-1].endswith("`") and text.startswith("{"):
        return "&#123;" + _plain(text[1:])  # some viewers read attributes after a span; `{=html}` makes it raw HTML
    return _plain(text)


def _partner(text: str, tokens: list[re.Match[str]], places: dict[str, list[int]], i: int) -> int | None:
    """The index of the token that closes what token ``i`` opens, or None if that opens nothing."""
    token = tokens[i]
    if token.lastgroup:
        return i if token.lastgroup == "own" else None
    opener, begin = token[0], token.end()
    escaped = text[token.start() - 1 : token.start()] == "\\"
    closer = opener if opener[0] == "`" else _CLOSERS.get(opener, opener.replace(r"\begin", r"\end", 1))
    found = places.get(closer, [])
    at = bisect_right(found, i)
    if escaped or opener.startswith(r"\end") or at == len(found):
        return None
    last, end = found[at], tokens[found[at]].start()
    if opener[0] == "`" and _BLOCK_BREAK.search(text, begin, end):
        return None
    if opener == "$" and not _is_formula(text, token.start(), end):
        return None
    return last


def _is_formula(text: str, begin: int, end: int) -> bool:
    """Pandoc's rule, by which "$5 to $10" is no formula."""
    inside, before, after = text[begin + 1 : end], text[begin - 1 : begin], text[end + 1 : end + 2]
    clean = inside.strip() == inside and "\n" not in inside
    return clean and not before.isalnum() and not after.isdigit()


def _construct(source: str, first: re.Match[str], last: re.Match[str], after: str) -> str:
    """A code span, a formula, or code of our own, to be written after the text ``after``."""
    if first.lastgroup == "own":
        return source
    # A space ends an address, which in some viewers goes on through backticks and dollars.
    glued = after[-1:].strip() and _URL.search(after.split()[-1])
    inside = source[len(first[0]) : -len(last[0])]
    made = _span(inside, first[0]) if first[0][0] == "`" else first[0] + harden_tex(inside) + last[0]
    return f" {made}" if glued else made


def _span(code: str, marks: str) -> str:
    if is_risky(code):
        if code.startswith(" ") and code.endswith(" ") and code.strip():
            code = code[1:-1]
        code = re.sub(r" *\n *", " ", code).replace(r"\|", "|")
        return f"<code>{entities(code)}</code>"
    # No run of three backticks stays, so that no viewer finds another fence than ours.
    marks = marks if len(marks) < 3 else "`" if "`" not in code else "``"
    return f"{marks}{code}{marks}" if marks not in code else f"<code>{entities(code.strip())}</code>"


def harden_tex(tex: str) -> str:
    r"""TeX that means the same and holds no tag, link or command with a link."""
    if _RISK.search(tex) is None and _URL.search(tex) is None:
        return tex
    tex = re.sub(_TAG_START, r"\\lt ", tex)
    tex = re.sub(_COMMANDS, "", tex, flags=re.I)
    tex = tex.replace("](", "] (").replace("]:", "] :").replace("![", "! [").replace("://", ": //")
    tex = re.sub(r"www\.", "www .", tex, flags=re.I)
    return re.sub("`{3,}|~{3,}", lambda m: " ".join(m[0]), tex)


_PLACE = r"(?:https?://|mailto:|#)(?:[^\s()<>\"\\`\[\]]|\([^\s()<>\"\\`\[\]]*\))+"
_TITLE = r"(?:[ \t]+\"[^\"\\<$`\n\[\]]*\")?"
_LINK = re.compile(rf"\]\((?:[ \t]*(?:({_PLACE})|<({_PLACE})>)({_TITLE})[ \t]*\))?", re.I)
_DEFINITION = re.compile(
    rf"\]:(?:([ \t]*(?:\n[ \t]*)?)(?:({_PLACE})|<({_PLACE})>)({_TITLE})[ \t]*(?=$|\n(?![ \t>]*[\"'(])))?", re.I
)
_AUTOLINK = re.compile(r"<((?:https?://|mailto:)[^\s<>]*|[\w.+-]+@[\w.-]+)>(\w?)", re.I)
_IMAGE = re.compile(r"(\\*)!\[(\]?)")
_LESS = re.compile(rf"(\\*){_TAG_START}")
_LONG_RUN = re.compile("`{3,}|~{3,}")


def _plain(text: str) -> str:
    """Text outside code and formulas. Where nothing is to be changed, nothing is."""
    if not is_risky(text):
        return text
    for pattern, replace in _RULES:
        text = pattern.sub(replace, text)
    return text


def _link(match: re.Match[str]) -> str:
    place = match[1] or match[2]
    return f"]({place}{match[3]})" if place else "]&#40;"  # looks the same, and is no link


def _definition(match: re.Match[str]) -> str:
    place = match[2] or match[3]
    return f"]:{match[1] or ' '}{place}{match[4]}" if place else "]&#58;"


def _image(match: re.Match[str]) -> str:
    if len(match[1]) % 2:  # an escaped `!` before an ordinary link; the backslash may mean something else elsewhere
        return f"{match[1][1:]}&#33;[{match[2]}"
    return f"{match[1]}🖼 [" + ("image]" if match[2] else "")


def _less(match: re.Match[str]) -> str:
    return match[1][: len(match[1]) // 2 * 2] + "&lt;"  # `\&` would show the reference itself


def _autolink(match: re.Match[str]) -> str:
    return f"{match[1]} {match[2]}" if match[2] else match[1]


def _as_references(match: re.Match[str]) -> str:
    return "".join(f"&#{ord(c)};" for c in match[0])


def _address(match: re.Match[str]) -> str:
    return match[0].replace("$", "&#36;").replace("\\", "&#92;")


_RULES: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
    (_IMAGE, _image),
    (_LINK, _link),
    (_DEFINITION, _definition),
    (_AUTOLINK, _autolink),
    (_LESS, _less),
    (re.compile(_COMMANDS, re.I), _as_references),
    (_LONG_RUN, _as_references),
    (_URL, _address),
]


def pre(text: str) -> str:
    """A code block as HTML of our own on one line: it opens and closes at once in every viewer."""
    return f"<pre><code>{entities(text)}</code></pre>"


def entities(text: str, *, keep_space: bool = False) -> str:
    """``text`` with everything that means something to HTML or markdown as a character reference."""
    wanted = r"[^A-Za-z0-9 ,;=()/%?\u00a0-\U0010ffff-]" if not keep_space else r"[^A-Za-z0-9 ,\u00a0-\U0010ffff]"
    return re.sub(wanted, lambda m: f"&#{ord(m[0])};", text)
