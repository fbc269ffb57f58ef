"""Markdown that runs nothing and fetches nothing, whatever draws it.

Notebooks draw a fresh ``text/markdown`` output with raw HTML on and unsanitised. So a `<` that could begin a tag leaves
this module only inside a fenced block; images become links; links lead to http, https, mailto or an anchor. Calls
inline.py and plain.py. Promises safety under *every* reading of the text: viewers disagree about where a code span, a
fence or a formula ends, so what is kept as code must be harmless also if it is taken for text.

The traps this answers, each with a test:
- A fence inside a list or a quotation ends where its container ends, so the next fence may close it instead of opening
  one. Such a fence stays only if its content is harmless, and fences after it must not look like its end.
- JupyterLab takes formulas out before it reads markdown, and puts them back afterwards with quotes unescaped. A
  formula could swallow the line that opens a fence (a blank line before it stops that), and one that begins inside a
  link's address or title could end the attribute (no formula begins there).
"""

from __future__ import annotations

import re
from bisect import bisect_right

from ipyconvexai.render.inline import FORMULA_SIGN, FORMULA_START, entities, harden_inline, is_risky, pre
from ipyconvexai.render.plain import plain_text

_FENCE = re.compile(r"((?:[ \t>]|[-*+](?=[ \t])|\d{1,9}[.)](?=[ \t]))*)(`{3,}|~{3,})(.*)")
_FENCE_END = re.compile(r"[ \t>]*(`{3,}|~{3,})[ \t]*")
_LIST_ITEM = re.compile(r"[ \t>]*(?:[-*+]|\d{1,9}[.)])(?:[ \t]|$)")
_LANGUAGE = re.compile(r"[A-Za-z0-9_+#.-]{1,40}")


def harden_markdown(text: str) -> str:
    """Markdown for a ``text/markdown`` output, readable as before, with nothing in it that runs or fetches by itself.

    May be called on an answer that is still growing: an open fence is closed. Hardening twice changes nothing harmful.
    """
    return _Hardener(plain_text(text).split("\n")).run()


def markdown_bundle(text: str, *, note: str = "") -> dict[str, str]:
    """A MIME bundle of an answer: ``text/markdown`` hardened, ``text/plain`` for viewers without markdown.

    ``note`` is a line of ours below the answer, in emphasis; only the markdown carries it.
    """
    markdown = harden_markdown(text)
    words = " ".join(plain_text(note).split())
    if words:
        markdown = f"{markdown.rstrip()}\n\n*{entities(words, keep_space=True)}*".lstrip()
    return {"text/markdown": markdown, "text/plain": plain_text(text)}


class _Hardener:
    """One pass over the lines, block by block."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.out: list[str] = []
        self.paragraph: list[str] = []
        self.in_list = False
        self.kept_inner_fence = False  # from here on a viewer may see other blocks than we do
        self.seen_formula = False  # from here on a viewer may be inside a formula
        self.fence_lines = [i for i, line in enumerate(lines) if "```" in line or "~~~" in line]

    def run(self) -> str:
        fences = set(self.fence_lines)
        i = 0
        while i < len(self.lines):
            line = self.lines[i]
            if i in fences and (match := _FENCE.fullmatch(line)) and not _is_span(match):
                self.flush()
                i = self.fence(i, match)
                continue
            if line.strip():
                self.note_list(line)
                self.paragraph.append(line)
            else:
                self.flush()
                self.out.append(line)
            i += 1
        self.flush()
        return "\n".join(self.out)

    def note_list(self, line: str) -> None:
        if _LIST_ITEM.match(line):
            self.in_list = True
        elif not self.paragraph and not line[0].isspace():
            self.in_list = False

    def flush(self) -> None:
        lines, self.paragraph = self.paragraph, []
        if not lines:
            return
        text = "\n".join(lines)
        if not self.in_list and is_risky(text) and all(line.startswith(("    ", "\t")) for line in lines):
            self.block("", "", [_outdent(line, 4) for line in lines])  # indented code cannot be escaped: fence it
            return
        self.seen_formula = self.seen_formula or FORMULA_START.search(text) is not None
        self.out.append(harden_inline(text))

    def fence(self, start: int, match: re.Match[str]) -> int:
        """Write the fenced block that opens in line ``start``; return the first line after it."""
        prefix, marks, info = match.groups()
        language = m.group() if (m := _LANGUAGE.match(info.strip())) else ""
        if language.lower() == "mermaid":
            language = "text"  # a diagram can name images, which are fetched as soon as it is drawn
        top = not prefix.strip() and not self.in_list
        end, after = self.fence_end(start, prefix, marks, top)
        body = [_strip_container(line, prefix) for line in self.lines[start + 1 : end]]
        self.block("" if top else prefix, language, body)
        return after

    def fence_end(self, start: int, prefix: str, marks: str, top: bool) -> tuple[int, int]:
        """Where the content ends, and where the text goes on; an open fence ends with its container or the text."""
        width = len(prefix.expandtabs(4))
        for i in range(start + 1, len(self.lines)):
            line = self.lines[i]
            if _closes(line, marks) and not (top and (">" in line or _indent(line) > 3 + width)):
                return i, i + 1
            if top or not line.strip():
                continue
            left = ">" not in line[:width] if ">" in prefix else _indent(line) < width
            if left and not self.sloppy(i, prefix, marks):
                return i, i
        return len(self.lines), len(self.lines)

    def sloppy(self, i: int, prefix: str, marks: str) -> bool:
        """Whether the content is only indented less than its fence, as models often write in lists."""
        later = bisect_right(self.fence_lines, i - 1)
        if prefix.strip() or later == len(self.fence_lines):
            return False
        line = self.lines[self.fence_lines[later]]
        return _closes(line, marks) and _indent(line) == len(prefix.expandtabs(4))

    def block(self, prefix: str, language: str, body: list[str]) -> None:
        """Write a code block inside the container ``prefix`` (empty: at the left margin)."""
        text = "\n".join(body)
        harmless = not is_risky(text)
        formula = self.seen_formula and FORMULA_SIGN.search(text) is not None
        self.seen_formula = self.seen_formula or FORMULA_START.search(text) is not None
        if prefix:
            self.inner_block(prefix, language, body, harmless)
            return
        if self.out and self.out[-1].strip():
            self.out.append("")
        self.in_list = False
        # A line with a language opens a fence or is the content of one; it closes none.
        language = language or "text" * (self.kept_inner_fence and not harmless)
        unsure = self.kept_inner_fence and ("```" in text or "~~~" in text)
        if harmless or not (unsure or formula):
            marks = _marks(text)
            self.out += [marks + language, *body, marks]
        else:
            self.out += [pre(text), ""]

    def inner_block(self, prefix: str, language: str, body: list[str], harmless: bool) -> None:
        self.in_list = self.in_list or bool(prefix.strip(" \t>"))
        if not harmless:
            self.out.append(prefix + pre("\n".join(body)))
            return
        self.kept_inner_fence = True
        inner = re.sub(r"[^ \t>]", " ", prefix)
        self.out += [f"{prefix}```{language}", *(inner + line for line in body), f"{inner}```"]


def _is_span(fence: re.Match[str]) -> bool:
    """A line such as ```` ```x``` ```` is a code span."""
    return fence[2][0] == "`" and "`" in fence[3]


def _closes(line: str, marks: str) -> bool:
    match = _FENCE_END.fullmatch(line)
    return match is not None and match[1][0] == marks[0] and len(match[1]) >= len(marks)


def _indent(line: str) -> int:
    line = line.expandtabs(4)
    return len(line) - len(line.lstrip(" "))


def _outdent(line: str, width: int) -> str:
    while width > 0 and line[:1] in (" ", "\t"):
        width -= 1 if line[0] == " " else 4
        line = line[1:]
    return line


def _strip_container(line: str, prefix: str) -> str:
    for _ in range(prefix.count(">")):
        line = re.sub(r"^[ \t]*> ?", "", line)
    tail = prefix.rpartition(">")[2] if ">" in prefix else prefix
    return _outdent(line, len(tail.expandtabs(4)) - (">" in prefix and tail.startswith(" ")))


def _marks(text: str) -> str:
    """A fence longer than any run of backticks inside, so that nobody sees it end early."""
    return "`" * max(3, *(len(run) + 1 for run in re.findall("`{3,}", text)), 0)
