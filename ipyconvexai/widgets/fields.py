"""A function's parameters as what people fill in: which input each is, what stands in it, what was put in means.

Calls ``functions.validation`` for what the hints say, and ``context`` to know frames. Promises: what a hint allows can
be given; what was put in becomes the value it means or, where it means none, what `Arguments` refuses with a reason.

What a page is told of a field, as JSON:

    {"name", "label", "kind", "hint", "help", "value", "optional", "choices", "min", "max", "step"}
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ipyconvexai.context.frames import is_frame
from ipyconvexai.errors import ArgumentsError, InputError
from ipyconvexai.functions.validation import Arguments
from ipyconvexai.render import plain_text

__all__ = ["Field", "Names", "fields_of", "values_of", "variables_for"]

Names = Callable[[], Mapping[str, Any]]  # the user's variables
Word = str | bool  # what a page says that somebody put in

LONG = 200  # characters; a text that may be longer has room for them
LONG_TEXTS = ("body", "content", "document", "instructions", "message", "notes", "prompt", "question", "system", "text")
FRAMES = ("dataframe", "df", "frame")  # parameters without a hint that take one
MOST_VARIABLES = 500
NEEDED = "This is needed."
_PLAIN = {"string", "integer", "number"}
_BY_FORMAT = {"date": "date", "date-time": "datetime-local", "time": "time"}
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,3})?)?")  # what that input can hold


@dataclass(frozen=True)
class Field:
    """A parameter and its input.

    Attributes:
        kind: text, area (of text), lines (a value each), number, check, choice, date, datetime-local, time, json, or
            variable.
        hint: its type, as it is written.
        empty: what nothing put in means: "needed", "default", "none", or "text": it is a text without characters.
        value: what stands in it first.
    """

    name: str
    kind: str
    hint: str = ""
    help: str = ""
    empty: str = "needed"
    value: Word = ""
    choices: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "label": self.name.replace("_", " ").strip() or self.name,
            "kind": self.kind,
            "hint": plain_text(self.hint),
            "help": plain_text(self.help),
            "value": plain_text(self.value) if isinstance(self.value, str) else self.value,
            "optional": self.empty != "needed",
            "choices": list(self.choices),
            **self.limits,
        }


def fields_of(arguments: Arguments, given: Mapping[str, Any], names: Names) -> list[Field]:
    """A field for each parameter; `given` are values that stand in them in place of the defaults.

    Raises:
        ArgumentsError: a hint cannot be read, or there is no such parameter.
        InputError: a given value cannot be put in.
    """
    if unknown := [name for name in given if name not in arguments.names]:
        raise ArgumentsError(
            f"`{arguments.name}` has no parameter `{unknown[0]}`", cure=f"It is {arguments.name}{arguments.describe()}."
        )
    return [_field(arguments, name, given, names) for name in arguments.names]


def _field(arguments: Arguments, name: str, given: Mapping[str, Any], names: Names) -> Field:
    schema, defaults = arguments.schema_of(name), arguments.defaults
    inner, nullable = _without_null(schema or {})
    if schema is None or (not schema and _names_frame(name)):
        made = Field(name, "variable")
        nullable = schema is None and arguments.fits(name, None)
    elif inner.get("type") == "boolean" and nullable:
        made = Field(name, "choice", choices=("true", "false"))
    else:
        made = _by_schema(name, inner)
    if nullable:
        empty = "none"
    elif name in defaults:
        empty = "text" if isinstance(defaults[name], str) and made.kind in ("text", "area") else "default"
    else:
        empty = "needed"
    told = str((schema or {}).get("description") or inner.get("description") or "")
    made = replace(made, hint=arguments.hint_text(name), help=told, empty=empty)
    return _filled(arguments, made, {**defaults, **given}, names, demanded=name in given)


def _without_null(schema: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """What fits besides None, and whether None does."""
    schema = _followed(schema, schema)
    members = schema.get("anyOf", [])
    others = [member for member in members if member.get("type") != "null"]
    if len(others) == len(members):
        return schema, False
    return (_followed(others[0], schema) if len(others) == 1 else {"anyOf": others}), True


def _followed(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """What a reference leads to."""
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    found: dict[str, Any] = root.get("$defs", {}).get(name, schema)
    return found


def _names_frame(name: str) -> bool:
    return name in FRAMES or name.endswith(("_df", "_frame"))


def _by_schema(name: str, schema: dict[str, Any]) -> Field:
    choices = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if choices:
        return Field(name, "choice", choices=tuple(_word(choice) for choice in choices))
    match schema.get("type"):
        case "boolean":
            return Field(name, "check", value=False)
        case "integer" | "number" as kind:
            return Field(name, "number", limits=_limits(schema, whole=kind == "integer"))
        case "string":
            is_long = schema.get("maxLength", LONG + (name.lower() in LONG_TEXTS)) > LONG
            return Field(name, _BY_FORMAT.get(schema.get("format", ""), "area" if is_long else "text"))
        case "array" if schema.get("items", {}).get("type") in _PLAIN:
            return Field(name, "lines")
        case None:  # anything, or one of several
            return Field(name, "text" if "$ref" not in schema else "json")
    return Field(name, "json")


def _limits(schema: dict[str, Any], *, whole: bool) -> dict[str, float]:
    """The ends of what an input's own arrows give; who types more is told by the function's check."""
    limits = {}
    step = schema.get("multipleOf", 1 if whole else None)
    for end, key, open_key, sign in (
        ("min", "minimum", "exclusiveMinimum", 1),
        ("max", "maximum", "exclusiveMaximum", -1),
    ):
        if key in schema:
            limits[end] = schema[key]
        elif open_key in schema:
            limits[end] = schema[open_key] + sign * (step or 0)
    return limits | ({"step": step} if step else {})


# ---------------------------------------------------------------------------------------------- what stands in it
def _filled(arguments: Arguments, made: Field, values: Mapping[str, Any], names: Names, *, demanded: bool) -> Field:
    if made.name not in values or values[made.name] is None:
        return made
    value = values[made.name]
    word: Word | None
    if made.kind == "variable":
        word = next((name for name, each in names().items() if each is value and name[:1] != "_"), None)
    else:
        word = _put_in(arguments, made, value)
    if word is not None:
        return replace(made, value=word, kind=_roomy(made.kind, str(word)))
    if demanded:
        raise InputError(
            f"{made.name}={type(value).__name__} cannot stand in a form",
            cure="Give what fits its hint; a frame has to be a variable of this notebook.",
        )
    return made


def _roomy(kind: str, word: str) -> str:
    """The kind of input that can hold `word`."""
    if kind == "datetime-local" and not _MOMENT.fullmatch(word):  # with a time zone, say
        return "text"
    return "area" if kind == "text" and "\n" in word else kind


def _put_in(arguments: Arguments, made: Field, value: Any) -> Word | None:
    """What people would put in for this value; None where they cannot."""
    if made.kind in ("text", "area") and isinstance(value, str):
        return value
    try:
        plain = json.loads(arguments.to_json({made.name: value}))[made.name]
    except Exception:  # a default need not be of its hint's type
        return None
    match made.kind:
        case "check":
            return plain if isinstance(plain, bool) else None
        case "lines":
            return "\n".join(map(_word, plain)) if isinstance(plain, list) else None
        case "json":
            return json.dumps(plain, indent=2, ensure_ascii=False)
    return _word(plain)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# ---------------------------------------------------------------------------------------------- what it means
def values_of(
    arguments: Arguments, fields: list[Field], said: Mapping[str, Any], names: Names
) -> tuple[dict[str, Any], dict[str, str]]:
    """The arguments that were put in, and why some are none, by name."""
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for one in fields:
        word = said.get(one.name, "")
        if isinstance(word, bool):
            values[one.name] = word
        elif not isinstance(word, str):
            problems[one.name] = NEEDED
        elif not word.strip() and not (one.empty == "text" or one.kind == "lines"):
            if one.empty == "needed":
                problems[one.name] = NEEDED
            elif one.empty == "none":
                values[one.name] = None
        else:
            try:
                values[one.name] = _meant(arguments, one, word, names)
            except ValueError as problem:
                problems[one.name] = str(problem)
    return values, problems


def _meant(arguments: Arguments, one: Field, word: str, names: Names) -> Any:
    """
    Raises:
        ValueError: it means nothing; with the reason.
    """
    if one.kind == "variable":
        if word not in (there := names()):
            raise ValueError(f"There is no variable {plain_text(word)[:80]!r} any more.")
        return there[word]
    if one.kind == "lines":
        lines = [line.strip() for line in word.splitlines() if line.strip()]
        if not lines and one.empty == "none":
            return None
        return arguments.read(one.name, json.dumps([_item(arguments, one, line) for line in lines]))
    if one.kind == "json":
        try:
            json.loads(word)
        except ValueError as problem:
            raise ValueError(f"This is no JSON: {problem}.") from None
    return arguments.read(one.name, word)


def _item(arguments: Arguments, one: Field, line: str) -> Any:
    items = _without_null(arguments.schema_of(one.name) or {})[0].get("items", {})
    if items.get("type") == "string":
        return line
    try:
        return json.loads(line)
    except ValueError:
        return line  # the check refuses it


def variables_for(arguments: Arguments, one: Field, names: Names) -> list[dict[str, str]]:
    """The user's variables that can stand there, with what each is."""
    hinted = arguments.schema_of(one.name) is None
    found: list[dict[str, str]] = []
    for name, value in list(names().items()):
        if name[:1] == "_" or value is None or len(found) >= MOST_VARIABLES:
            continue
        if arguments.fits(one.name, value) if hinted else _is_frame(value):
            found.append({"name": name, "what": plain_text(_what(value))})
    return found


def _is_frame(value: Any) -> bool:
    try:
        return is_frame(value)
    except Exception:  # an object's own code
        return False


def _what(value: Any) -> str:
    kind = type(value).__name__
    try:
        shape = getattr(value, "shape", None)
        is_size = isinstance(shape, tuple) and all(isinstance(size, int) for size in shape)
        return f"{kind} {' × '.join(f'{size:,}' for size in shape)}" if is_size and shape else kind
    except Exception:  # an object's own code
        return kind
