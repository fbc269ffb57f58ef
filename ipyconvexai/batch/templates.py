"""A template over the columns of a frame: ``"Classify: {title}\\n{abstract}"``. Pure, but for ``nearest``.

    {title}            a column; its name may be any text: {a b}, {a.b}
    {score:.2f}        with a format, for numbers, texts and dates: {day:%Y}
    {{ }}              braces

Promises: whatever is wrong with a template is found when it is made; a row is filled in one pass, so that braces in a
cell mean nothing; nothing of a template or a cell runs as code; equal values are written equally, everywhere.

Braces around what can be no column (quotes, lines, lists: a JSON example in a prompt) stand for themselves.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import numbers
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from decimal import Decimal
from pathlib import PurePath
from typing import Any
from uuid import UUID

from ipyconvexai.errors import InputError, UnknownColumnError
from ipyconvexai.functions.validation import nearest

__all__ = ["Template", "check_unicode", "written"]

_NUMBER_FORMAT = re.compile(r"(?:[^{}]?[<>=^])?[-+ ]?z?#?0?\d{0,3}[_,]?(?:\.\d{1,3})?[bcdeEfFgGnosxX%]?")
_DATE_FORMAT = re.compile(r"[^{}]*%[-#]?[A-Za-z][^{}]*")
# A name, and what format strings of Python's could have after it.
_NAME = re.compile(r"\s*\w[\w .-]*(?:\[[^\]\"']*\]|\.\w+)*(?:![a-z])?\s*")
_FORMATTED = (str, bool, int, float, Decimal, datetime.date, datetime.time)
_SHOWN_COLUMNS = 8
_LONGEST_PLAIN = 40  # digits of a Decimal that is written without an exponent
_DEEPEST = 50  # lists within lists


def check_unicode(text: str) -> None:
    """
    Raises:
        InputError: `text` holds half a character (a lone surrogate), which no request can.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{text[max(0, error.start - 20) : error.start]!r} is followed by half a character (a lone surrogate)",
            cure='Take it out: text.encode(errors="ignore").decode().',
        ) from None


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    format: str

    def __str__(self) -> str:
        return f"{{{self.name}:{self.format}}}" if self.format else f"{{{self.name}}}"


class Template:
    """A text with columns in it.

    A row whose columns are all missing or blank makes no text; of others, missing cells are written as nothing.

    Args:
        text: the template.
        columns: the columns there are.

    Raises:
        UnknownColumnError: it names a column that is not there; it says which are nearest.
        InputError: it names no column, or a format that is none.
    """

    def __init__(self, text: str, columns: Sequence[str]) -> None:
        if not isinstance(text, str):
            cure = 'For example: "Classify: {title}".'
            raise InputError(f"a template is a text, not {type(text).__name__}", cure=cure)
        check_unicode(text)
        self.text = text
        self._parts = list(_joined(_Parser(text, columns).parts()))
        self.fields = list(dict.fromkeys(part.name for part in self._parts if isinstance(part, _Field)))
        if not self.fields:
            raise _without_fields(text, columns)
        first = self._parts[0]
        self.before = first if isinstance(first, str) else ""

    def fill(self, values: Mapping[str, Any]) -> str | None:
        """The text of a row; None where all that it names is missing or blank.

        Raises:
            InputError: a cell cannot be written: it holds bytes, or no number where the format wants one.
        """
        rest = self.rest(values)
        return None if rest is None else self.before + rest

    def rest(self, values: Mapping[str, Any]) -> str | None:
        """The same without ``before``, which is equal in all rows."""
        filled, blank = [], True
        for part in self._parts[1:] if self.before else self._parts:
            if isinstance(part, str):
                filled.append(part)
                continue
            text = _cell(part, values[part.name])
            blank = blank and not text.strip()
            filled.append(text)
        return None if blank else "".join(filled)

    def __repr__(self) -> str:
        return f"Template({self.text!r})"


# ------------------------------------------------------------------------------------------------- reading
class _Parser:
    def __init__(self, text: str, columns: Sequence[str]) -> None:
        self._text = text
        self._columns = list(columns)
        self._known = frozenset(columns)
        self._open: list[int] = []  # braces that stand for themselves: how many signs each was written with

    def parts(self) -> Iterator[str | _Field]:
        text, place = self._text, 0
        while (match := re.compile(r"[{}]").search(text, place)) is not None:
            yield text[place : match.start()]
            part, place = (self._opening if match[0] == "{" else self._closing)(match.start())
            yield part
        yield text[place:]

    def _opening(self, start: int) -> tuple[str | _Field, int]:
        if self._text.startswith("{{", start):
            self._open.append(2)
            return "{", start + 2
        end = re.compile(r"[{}]").search(self._text, start + 1)
        if end is not None and end[0] == "}":
            inner = self._text[start + 1 : end.start()]
            field = self._field(inner)
            return field or f"{{{inner}}}", end.end()
        self._open.append(1)
        return "{", start + 1

    def _closing(self, start: int) -> tuple[str, int]:
        """As its opening one was written: }} of a JSON example are two, those of {{ are one."""
        signs = self._open.pop() if self._open else 2
        return "}", start + (2 if signs == 2 and self._text.startswith("}}", start) else 1)

    def _field(self, inner: str) -> _Field | None:
        """The column that is named; None where these are no more than braces."""
        for name in (inner, inner.strip()):
            if name in self._known:
                return _Field(name, "")
        head, colon, form = inner.partition(":")
        for place in reversed([match.start() for match in re.finditer(":", inner)]):  # names may have colons
            if (name := inner[:place].strip()) in self._known:
                return _Field(name, self._checked(inner[place + 1 :], inner))
        if _NAME.fullmatch(head) and (not colon or _is_format(form)):
            raise self._unknown(inner, head.strip())
        return None

    def _checked(self, form: str, inner: str) -> str:
        if not _is_format(form):
            cure = f"For example {{score:.2f}} or {{day:%Y}}. {_doubled(inner)}"
            raise InputError(f"the format in {{{inner}}} is none", cure=cure)
        return form

    def _unknown(self, inner: str, name: str) -> UnknownColumnError:
        column = re.split(r"[.\[!]", name, maxsplit=1)[0].strip()
        if column != name and column in self._known:
            why = f"the template has {{{inner}}}, and only whole columns can stand in it"
            return UnknownColumnError(why, cure=f"Write {{{column}}}, or make it a column of its own first.")
        near = nearest(name, self._columns)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"It has {_listed(self._columns)}."
        cure = f"{hint} {_doubled(inner)}"
        return UnknownColumnError(f"the template names {{{name}}}, and the frame has no such column", cure=cure)


def _doubled(inner: str) -> str:
    return f"If these braces are meant as such, double them: {{{{{inner}}}}}."


def _is_format(form: str) -> bool:
    return bool(form) and (_NUMBER_FORMAT.fullmatch(form) or _DATE_FORMAT.fullmatch(form)) is not None


def _joined(parts: Iterator[str | _Field]) -> Iterator[str | _Field]:
    """Texts that follow each other as one."""
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        if text:
            yield text
        text = ""
        yield part
    if text:
        yield text


def _without_fields(text: str, columns: Sequence[str]) -> InputError:
    doubled = next((name for name in columns if re.search(rf"{{{{\s*{re.escape(name)}\s*}}}}", text)), None)
    cure = f"Write {{{doubled}}}: doubled braces are braces." if doubled is not None else ""
    example = f"{{{columns[0]}}}" if columns else "{title}"
    cure = cure or f'Name a column in braces, for example "Classify: {example}". There are {_listed(columns)}.'
    return InputError("the template names no column: every row would be asked the same", cure=cure)


def _listed(columns: Sequence[str]) -> str:
    more = len(columns) - _SHOWN_COLUMNS
    return (", ".join(columns[:_SHOWN_COLUMNS]) or "no columns") + (f" and {more} more" if more > 0 else "")


# ------------------------------------------------------------------------------------------------- writing
def _cell(field: _Field, value: Any) -> str:
    value = _simple(value)
    if type(value) is str and not field.format:  # the most of them
        return value
    if _is_missing(value):
        return ""
    try:
        return _formatted(value, field.format) if field.format else written(value)
    except InputError as error:
        raise InputError(f"{field}: {error.message}", cure=error.cure) from None


def _formatted(value: Any, form: str) -> str:
    cure = "Leave the format out, or give the column another type."
    if not isinstance(value, _FORMATTED):
        raise InputError(f"{type(value).__name__} has no formats", cure=cure)
    try:
        return format(value, form)
    except (ValueError, TypeError, OverflowError):
        raise InputError(f"this is no format of {type(value).__name__}", cure=cure) from None


def written(value: Any) -> str:
    """A cell as text: texts as they are, numbers plainly, dates in ISO's form, lists and structs as JSON.

    Raises:
        InputError: it cannot be written, as bytes cannot.
    """
    value = _simple(value)
    if isinstance(value, str):
        return value
    plain = _plain(value, 0)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _is_missing(value: Any) -> bool:
    return (
        value is None or (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")
    )


def _simple(value: Any) -> Any:
    """numpy's values as Python's."""
    if type(value).__module__ == "numpy":
        return value.tolist()
    return value.value if isinstance(value, enum.Enum) else value


def _plain(value: Any, depth: int) -> Any:
    """What JSON can say of it; texts where it has no word for it."""
    value = _simple(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Decimal):
        short = value.is_finite() and abs(value.adjusted()) < _LONGEST_PLAIN
        return f"{value:f}" if short else str(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        raise InputError("bytes are no text", cure="Decode the column first, for example with .str.decode('utf-8').")
    if depth > _DEEPEST:
        raise InputError("the value has too many levels", cure="Flatten it first.")
    return _many(value, depth + 1)


def _many(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        return {written(key): _plain(part, depth) for key, part in value.items()}
    if isinstance(value, Set):
        return sorted((_plain(part, depth) for part in value), key=repr)
    if isinstance(value, Sequence):
        return [_plain(part, depth) for part in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name), depth) for field in dataclasses.fields(value)}
    if callable(dump := getattr(value, "model_dump", None)):  # pydantic's
        return _plain(dump(), depth)
    if isinstance(value, datetime.timedelta | UUID | PurePath | numbers.Number):
        return str(value)
    raise InputError(f"{type(value).__name__} cannot be written", cure="Make a column of texts of it first.")
