"""What becomes of an answer: markdown, text, JSON, code, HTML or a formula. Calls render; puts code into the next cell.

Promises: whatever the model wrote is hardened; ``text/plain`` is always text that people can read; an answer that is
not what was asked for is shown as it is, or (JSON) raises.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ipyconvexai.errors import InvalidAnswerError

if TYPE_CHECKING:
    from ipyconvexai.notebook.session import Session

__all__ = ["Fence", "Format", "Result", "code_of", "fences", "json_of", "of", "tex_of"]

Bundle = dict[str, Any]  # MIME data


@dataclass(frozen=True, slots=True)
class Result:
    """A whole answer, ready to be shown.

    Attributes:
        text: plain text, for terminals.
        bundle: MIME data, given a line of ours to stand below it.
        said: what to put before that line.
        apart: whether that line is a display of its own, because viewers show a tree or a formula and no words.
        value: what was read from the answer, where it was JSON.
    """

    text: str
    bundle: Callable[[str], Bundle]
    said: str = ""
    value: Any = None
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Format:
    """One way to show answers.

    Attributes:
        name: as after ``-f``.
        ask_for: told to the model, after the question.
        streams: whether what is shown at the end begins with what has come: then a terminal may print it as it comes.
        grows: whether it is worth seeing while it comes, where a display is replaced: the end may look different.
        bundle: MIME data of an answer that grows, and of one that broke off, given its text and a line of ours.
        result: the whole answer, given its text, its row in the ledger and the session. `code` fills the next cell.
            Raises InvalidAnswerError where JSON was asked for and the answer holds none.
    """

    name: str
    ask_for: str
    streams: bool
    grows: bool
    bundle: Callable[[str, str], Bundle]
    result: Callable[[str, str | None, Session], Result]


def of(name: str) -> Format:
    """The format that ``-f name`` stands for."""
    return _FORMATS[name]


# -------------------------------------------------------------------------------------------- markdown, text
def _markdown_bundle(text: str, note: str) -> Bundle:
    from ipyconvexai import render

    return dict(render.markdown_bundle(text, note=note))


def _markdown(text: str, request_id: str | None, session: Session) -> Result:
    return Result(_plain(text), lambda note: _markdown_bundle(text, note))


def _text_bundle(text: str, note: str) -> Bundle:
    return {"text/plain": _plain(f"{text}\n\n[{note}]" if note else text)}


def _text(text: str, request_id: str | None, session: Session) -> Result:
    return Result(_plain(text), lambda note: _text_bundle(text, note))


def _plain(text: str) -> str:
    from ipyconvexai import render

    return render.plain_text(text)


def _source_bundle(language: str, text: str, note: str) -> Bundle:
    """Source that is shown as source."""
    from ipyconvexai import render

    return {**_markdown_bundle(render.fenced(text, language), note), "text/plain": _plain(text)}


# ---------------------------------------------------------------------------------------------------- fences
class Fence(NamedTuple):
    """A fenced block: its language in lower case, what it holds, and whether it ends before the text does."""

    language: str
    text: str
    closed: bool = True


_OPENS = re.compile(r"([ \t>]*+)(`{3,}+|~{3,}+)[ \t]*+([^`]*+)")  # nothing given back: a line may be long


def fences(text: str) -> list[Fence]:
    """The fenced blocks of a text, in order; one that is not closed ends with the text."""
    found = []
    lines = iter(text.splitlines())
    for line in lines:
        if match := _OPENS.fullmatch(line):
            indent, marks, info = match.groups()
            words = re.split(r"[\s{},]+", info.strip().lower().lstrip("{."))
            found.append(_held(lines, words[0], marks, len(indent)))
    return found


def _held(lines: Iterator[str], language: str, marks: str, width: int) -> Fence:
    """The lines until the fence is closed, without the indentation of the fence."""
    held: list[str] = []
    for line in lines:
        bare = line.strip(" \t>")
        if len(bare) >= len(marks) and not bare.strip(marks[0]):
            return Fence(language, "\n".join(held))
        indent = len(line) - len(line.lstrip(" \t>" if ">" in line[:width] else " \t"))
        held.append(line[min(width, indent) :])
    return Fence(language, "\n".join(held), closed=False)


# ------------------------------------------------------------------------------------------------------ code
_PYTHON = frozenset(("", "python", "py", "python3", "py3", "ipython", "ipython3", "pycon", "text", "plaintext"))
# A cell of these is run by IPython's own cell magic; what has none goes into the cell as it is.
_MAGICS = {
    **dict.fromkeys(("bash", "shell", "console", "zsh", "shell-session"), "bash"),
    **dict.fromkeys(("javascript", "js"), "javascript"),
    **{name: name for name in ("sh", "html", "latex", "markdown", "perl", "ruby", "svg")},
    "tex": "latex",
    "md": "markdown",
}


def code_of(text: str) -> str:
    """The fenced code alone, blocks of one language one below the other; without a fence the whole text."""
    return _code_of(text).text


def _code_of(text: str) -> Fence:
    """Python where there is some, else what comes first: a cell has one language."""
    blocks = [block for block in fences(text) if block.text.strip()]
    if not blocks:
        return Fence("", text.strip("\n").rstrip())
    python = [block for block in blocks if block.language in _PYTHON]
    language = "" if python else blocks[0].language
    chosen = python or [block for block in blocks if block.language == language]
    return Fence(language, "\n\n".join(block.text.strip("\n") for block in chosen))


def _is_python(text: str) -> bool:
    try:
        return bool(ast.parse(text).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return any(line.lstrip().startswith(("%", "!")) for line in text.splitlines())  # IPython's own


def _code(text: str, request_id: str | None, session: Session) -> Result:
    found = _code_of(text)
    language, code = found.language, _plain(found.text)
    if not fences(text) and not _is_python(code):  # a refusal, say; models without fences write Python
        return replace(_markdown(text, request_id, session), said="no code, so nothing is in the next cell")
    magic = _MAGICS.get(language)
    known = magic is not None and session.shell.find_cell_magic(magic) is not None
    session.shell.set_next_input(f"%%{magic}\n{code}" if known else code, replace=False)
    return Result(code, lambda note: _source_bundle(language or "python", code, note), "in the next cell")


# ------------------------------------------------------------------------------------------------------ JSON
_DEEPEST = 100  # levels; beyond, viewers and Python's own parser give up
_TOO_DEEP = f"it is nested more than {_DEEPEST} levels deep"
_EXACT = 2**53  # integers beyond this lose digits in a browser


_BEGINS = re.compile(r"[{\[]")
_BRACKETS = re.compile(r"[{}\[\]]")


def json_of(text: str, request_id: str | None) -> Any:
    """The JSON value that the text is, or that its first fence with one holds, or the longest one in its prose.

    Where a key occurs twice, its last value counts.

    Raises:
        InvalidAnswerError: there is none; NaN, Infinity and numbers beyond every limit are none.
    """
    return _read_json(text, request_id).value


class _Json(NamedTuple):
    value: Any
    twice: str | None  # a key that occurs twice in one object
    exact: bool  # whether a browser can show all its numbers


def _read_json(text: str, request_id: str | None) -> _Json:
    reason = ""
    for part in [text, *(block.text for block in fences(text))]:
        try:
            return _parsed(part)
        except ValueError as error:
            reason = str(error)
        except RecursionError:
            reason = _TOO_DEEP
    if (found := _in_prose(text)) is not None:
        return found
    raise InvalidAnswerError(
        f"the answer is no JSON: {reason}",
        cure="Ask again, or show it as it is with -f text. The answer is in the ledger under this request.",
        request_id=request_id,
    )


class _Reader:
    """Reads JSON strictly, and notes what is worth telling."""

    def __init__(self) -> None:
        self._twice: str | None = None
        self._exact = True
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_int=self._int, parse_float=self._float, parse_constant=self._constant
        )

    def read(self, text: str, start: int = 0) -> tuple[_Json, int]:
        """The value that begins at `start`, and where it ends. Raises ValueError or RecursionError."""
        self._twice, self._exact = None, True
        value, end = self._decoder.raw_decode(text, start)
        if _is_deeper(value, _DEEPEST):
            raise ValueError(_TOO_DEEP)
        return _Json(value, self._twice, self._exact), end

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            self._twice = next(name for name in names if names.count(name) > 1)
        return made

    def _int(self, digits: str) -> int:
        number = int(digits)
        self._exact = self._exact and abs(number) <= _EXACT
        return number

    def _float(self, digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            raise ValueError(f"{digits:.40} is too large for a number")
        return number

    def _constant(self, name: str) -> float:
        raise ValueError(f"{name} is no JSON")


def _parsed(text: str) -> _Json:
    text = text.strip("\ufeff \t\r\n")
    found, end = _Reader().read(text)
    if text[end:].strip():
        raise ValueError(f"something follows at character {end}")
    return found


def _in_prose(text: str) -> _Json | None:
    """The longest object or array that stands in a text: `[1]` may be a note.

    None of a part of one: what was cut off, or is wrong somewhere, is no answer.
    """
    reader, best, longest, at = _Reader(), None, 0, 0
    while match := _BEGINS.search(text, at):
        try:
            found, at = reader.read(text, match.start())
        except (ValueError, RecursionError):
            at = _after_bracket(text, match.start())
            continue
        if at - match.start() > longest:
            best, longest = found, at - match.start()
    return best


def _after_bracket(text: str, start: int) -> int:
    """Where what opens at `start` is closed; the end of the text if it is not."""
    depth = 0
    for sign in _BRACKETS.finditer(text, start):
        depth += 1 if sign[0] in "{[" else -1
        if depth == 0:
            return sign.end()
    return len(text)


def _is_deeper(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels + 1):
        held = [item for item in level if isinstance(item, dict | list)]
        level = [part for item in held for part in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return False
    return True


def _json(text: str, request_id: str | None, session: Session) -> Result:
    found = _read_json(text, request_id)
    said = f"the key {found.twice!r:.40} occurs twice: its last value counts" if found.twice is not None else ""
    shown = _plain(json.dumps(found.value, indent=2, ensure_ascii=False))

    # The tree of JupyterLab, which wants a dict or a list; a browser would round what is not exact.
    is_tree = isinstance(found.value, dict | list) and found.exact

    def bundle(note: str) -> Bundle:
        made = _source_bundle("json", shown, note)
        if is_tree:
            made["application/json"] = json.loads(shown, strict=False)
        return made

    return Result(shown, bundle, said, found.value, apart=is_tree)


# ------------------------------------------------------------------------------------------------------ math
_ENVIRONMENT = r"\\(?:begin|end)\{(?:align|alignat|equation|flalign|gather|multline|eqnarray)\*?\}"
_DISPLAYED = re.compile(rf"(?<!\\)(?:\$\$|\\[\[\]]|{_ENVIRONMENT})")  # `\\[2pt]` breaks a line
_PARENTHESES = re.compile(r"(?<!\\)\\[()]")
_CLOSERS = {"$$": "$$", r"\[": r"\]", r"\(": r"\)"}
_DOLLARS = re.compile(r"(?<![\\$\w])\$([^\s$](?:[^$\n]*[^\s$\\])?)\$(?!\d)")
_SOUNDS_LIKE_TEX = re.compile(r"[\\^_={}]")
_TEX = frozenset(("", "latex", "tex", "math", "katex", "mathjax"))


def tex_of(text: str) -> list[str]:
    """The formulas of an answer, without delimiters: those of a fence, the displayed ones, those in its sentences, or
    all of it where it is nothing but TeX. Empty: there is none."""
    fenced = [block.text for block in fences(text) if block.language in _TEX]
    source = "\n".join(fenced) or text
    for found in (
        _between(source, _DISPLAYED),
        _between(source, _PARENTHESES) + [match[1] for match in _DOLLARS.finditer(source)],
    ):
        if found:
            return [tex.strip() for tex in found if tex.strip()]
    source = source.strip()
    is_tex = bool(fenced) or _SOUNDS_LIKE_TEX.search(source) or len(source.split()) == 1
    return [source] if source and is_tex else []


def _between(text: str, signs: re.Pattern[str]) -> list[str]:
    """What stands between an opening sign and its closing one; environments keep theirs. One pass over the text."""
    found = []
    opened: re.Match[str] | None = None
    for sign in signs.finditer(text):
        if opened is None:
            opened = sign if sign[0] in _CLOSERS or "begin" in sign[0] else None
        elif sign[0] == _CLOSERS.get(opened[0]):
            found.append(text[opened.end() : sign.start()])
            opened = None
        elif sign[0] == opened[0].replace("begin", "end") != opened[0]:
            found.append(text[opened.start() : sign.end()])
            opened = None
    return found


def _math(text: str, request_id: str | None, session: Session) -> Result:
    from ipyconvexai import render

    formulas = tex_of(text)
    if not formulas:
        return _markdown(text, request_id, session)
    plain = "\n".join(formulas)
    if (found := render.latex_bundle(formulas)) is None:  # as source it can be read, and mended
        return Result(_plain(plain), lambda note: _source_bundle("latex", plain, note))
    return Result(found["text/plain"], lambda note: dict(found), apart=True)


# ------------------------------------------------------------------------------------------------------ HTML
def _html_of(text: str) -> str:
    """The HTML of an answer: what is fenced as such, else all of it."""
    blocks = [block for block in fences(text) if block.language in ("", "html", "xml", "htm", "xhtml")]
    return max((block.text for block in blocks), key=len, default=text)


def _html(text: str, request_id: str | None, session: Session) -> Result:
    from ipyconvexai import render

    source = _html_of(text)
    cleaned = render.clean_html(source)
    plain = render.text_of_html(source)

    def bundle(note: str) -> Bundle:
        import html

        below = f"<p><em>{html.escape(_plain(note))}</em></p>" if note else ""
        # A notebook would read "$5 ... $10" as a formula; there is -f math for those.
        return {"text/html": f'<div class="mathjax_ignore tex2jax_ignore">{cleaned}{below}</div>', "text/plain": plain}

    return Result(plain, bundle)


# ------------------------------------------------------------------------------------------------- the formats
_FORMATS = {
    format.name: format
    for format in (
        Format("markdown", "", True, True, _markdown_bundle, _markdown),
        Format("text", "", True, True, _text_bundle, _text),
        Format(
            "json",
            "\n\nReply with JSON only, and with nothing before or after it.",
            False,
            True,
            lambda text, note: _source_bundle("json", text, note),
            _json,
        ),
        Format(
            "code",
            "\n\nReply with code only, in one fenced block, without any explanation.",
            False,
            True,
            _markdown_bundle,
            _code,
        ),
        Format(
            "html",
            "\n\nReply with HTML only: a fragment of headings, paragraphs, lists and tables, without scripts, styles "
            "and images, and with nothing before or after it.",
            False,
            True,
            lambda text, note: _source_bundle("html", _html_of(text), note),
            _html,
        ),
        Format(
            "math",
            "\n\nReply with the formula in LaTeX only, without delimiters and without any explanation.",
            False,
            False,
            _markdown_bundle,
            _math,
        ),
        Format("image", "", False, False, _markdown_bundle, _markdown),  # what is drawn is another module's: pictures
    )
}
