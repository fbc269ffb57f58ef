"""Plain text that steers neither a terminal nor a reader's eye.

Calls nothing of the package. Promises that its results hold no control character but newline and tab, no
bidirectional override and no lone surrogate, and that the words are all there.
"""

from __future__ import annotations

import re

_STRING_SEQUENCE = r"(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]{0,4096}(?:\x07|\x1b\\|\x9c)"  # OSC, DCS, ...
_CSI = r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
_SHORT_SEQUENCE = r"\x1b[ -/]*[0-~]"
_SEQUENCES = re.compile(f"{_STRING_SEQUENCE}|{_CSI}|{_SHORT_SEQUENCE}")

# A carriage return alone would overwrite the line; the others are line ends for some readers and not for others,
# which is how text gets past whoever judges it line by line.
_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")

# What is left of C0 and C1, and the overrides, embeddings and isolates that show text in another order than it is.
_UNWANTED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_ANY = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")

_MAX_MESSAGE = 4000  # characters; some providers answer an error with a whole page


def plain_text(text: str) -> str:
    """``text`` without terminal sequences, control characters and bidirectional overrides; newlines are ``\\n``."""
    if _ANY.search(text) is None:
        return text
    text = _SEQUENCES.sub("", text)
    text = _LINE_ENDS.sub("\n", text)
    text = _UNWANTED.sub("", text)
    return _SURROGATES.sub("\ufffd", text)


def error_text(message: str, cure: str = "") -> str:
    """One plain block: what happened, and below it, indented, what to do. Very long messages are cut."""
    lines = [cut(plain_text(message).strip(), _MAX_MESSAGE)]
    lines += [f"  {line}" for line in cut(plain_text(cure).strip(), _MAX_MESSAGE).splitlines()]
    return "\n".join(lines)


def fenced(text: str, language: str = "") -> str:
    """``text`` as a fenced block of Markdown, in a fence longer than any run of backticks inside."""
    marks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{marks}{language}\n{text}\n{marks}"


def cut(text: str, length: int) -> str:
    """``text`` in at most ``length`` characters, with an ellipsis where something is missing."""
    return text if len(text) <= length else text[: max(length - 1, 0)].rstrip() + "…"
