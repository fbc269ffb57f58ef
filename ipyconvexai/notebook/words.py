"""The words of a line after ``%ai``, and its options: a line in, words out. Pure but for IPython's UsageError.

Promises: any line gives words; an apostrophe without its pair is a letter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import NoReturn

__all__ = ["UnknownOption", "closing", "options_in", "refusal", "words_of"]


def refusal(sentence: str) -> Callable[..., NoReturn]:
    """A command that only says how the line is written."""

    def refuse(session: object, *groups: str | None) -> NoReturn:
        from IPython.core.error import UsageError

        raise UsageError(f"{sentence}; `%ai help` tells more, and `%ai -- …` asks a line as a question.")

    return refuse


class UnknownOption(Exception):
    """Its word is the argument. Whoever reads the line says which options there are."""


def options_in(line: str, valued: Collection[str], flags: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Pairs of an option and its value, in their order; other words come with "", and so do values that are missing.

    Values stand behind a blank or an equals sign. A number with a sign is a word.

    Raises:
        UnknownOption: a word begins like an option and is none of these.
    """
    words = iter(words_of(line))
    for word in words:
        name, equals, value = word.partition("=")
        if word in flags:
            yield word, ""
        elif name in valued:
            yield name, value if equals else _value_in(words)
        elif len(word) > 1 and word[0] == "-" and not word[1].isdigit():
            raise UnknownOption(word)
        else:
            yield "", word


def _value_in(words: Iterator[str]) -> str:
    """The next word; another option is no value."""
    word = next(words, "")
    return "" if word.startswith("--") else word


_KEY = re.compile(r"[^\s='\"]+=")


def words_of(text: str) -> list[str]:
    """Words between blanks; a value in quotation marks loses them, and a JSON list or object keeps its blanks."""
    words: list[str] = []
    while text := text.lstrip():
        key = match[0] if (match := _KEY.match(text)) else ""
        value, text = _value(text[len(key) :])
        words.append(key + value)
    return words


def _value(text: str) -> tuple[str, str]:
    """The value that `text` begins with, and the rest."""
    if text[:1] in ("'", '"') and (end := closing(text)):
        return text[1:end].replace(f"\\{text[0]}", text[0]), text[end + 1 :]
    if text[:1] in ("[", "{"):
        try:
            _, end = json.JSONDecoder().raw_decode(text)
        except (ValueError, RecursionError):
            pass  # no JSON: up to the next blank, and whoever reads it says what is wrong
        else:
            return text[:end], text[end:]
    word = text.split(maxsplit=1)[0] if text and not text[0].isspace() else ""
    return word, text[len(word) :]


def closing(text: str) -> int:
    """Where the quotation that `text` begins with ends: at a mark before a blank or the end; 0 where it does not."""
    end = text.find(text[0], 1)
    while end > 0:
        if text[end - 1] != "\\" and (end + 1 == len(text) or text[end + 1].isspace()):
            return end
        end = text.find(text[0], end + 1)
    return 0
