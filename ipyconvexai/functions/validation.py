"""Arguments and results of functions, checked by their type hints.

Floor 3: calls errors and settings only; the checking is pydantic's, strict: no "5" where an int is expected. Promises:
all problems of a call in one error, each with its path, the value's type and what was expected; known keys are removed
from what an error shows; arguments written as JSON come back as the values they were, for hints that pydantic knows.

Hints are read at the first call, not when the function is defined, so they may name what a later cell defines; a name
that is still undefined then is an error that says which.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import enum
import inspect
import json
import re
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic_core import from_json, to_json
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from ipyconvexai import settings
from ipyconvexai.errors import ArgumentsError, Error, ResultError

__all__ = ["Arguments", "Result", "nearest"]

Handler = Callable[..., Any]
Context = Mapping[str, Any] | None

_JSON_OBJECT = TypeAdapter(dict[str, Any])
LONGEST_VALUE = 80  # characters of a value in an error
MISMATCH = "Value does not match: "
REPR = "__repr__"  # the only key of what stands for a result that cannot be written as JSON

# Bytes need not be UTF-8, floats may be infinite, and a hint may be a class that pydantic does not know.
_CONFIG = ConfigDict(
    arbitrary_types_allowed=True, ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants"
)


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Up to three of `names` that `name` may have been meant for, the best first."""
    by_lower = {each.lower(): each for each in sorted(map(str, names), reverse=True)}
    return [by_lower[each] for each in difflib.get_close_matches(str(name).lower(), by_lower, n=3)]


# ---------------------------------------------------------------------------------------------- hints
class _Hints:
    """The annotations of a function, resolved when they are asked for."""

    def __init__(self, function: Handler) -> None:
        self.name = getattr(function, "__name__", repr(function))
        self._function = inspect.unwrap(function)
        self.raw: dict[str, Any] = dict(getattr(self._function, "__annotations__", {}))
        self._outer = _enclosing_names(self._function, self.raw)

    def resolve(self, name: str, error: type[Error]) -> Any:
        """The hint of a parameter (or ``return``); Any where there is none."""
        if name not in self.raw:
            return Any

        def stub() -> None: ...

        stub.__annotations__ = {name: self.raw[name]}
        known = getattr(self._function, "__globals__", {})
        try:
            return typing.get_type_hints(stub, known, self._outer | _closure(self._function), include_extras=True)[name]
        except Exception as problem:  # hints are code: anything can go wrong in them
            where = "the result" if name == "return" else f"`{name}`"
            raise error(
                f"the type hint of {where} in `{self.name}` cannot be read: {self.raw[name]!r} ({problem})",
                cure="Define or import what it names before the first call, or correct the hint.",
            ) from None


def _closure(function: Handler) -> dict[str, Any]:
    cells = (
        dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
        if _is_plain(function)
        else {}
    )
    found = {}
    for name, cell in cells.items():
        with contextlib.suppress(ValueError):  # not yet assigned
            found[name] = cell.cell_contents
    return found


def _is_plain(function: Handler) -> bool:
    return isinstance(function, types.FunctionType)


def _enclosing_names(function: Handler, raw: Mapping[str, Any]) -> dict[str, Any]:
    """What string hints name of the locals around a function: a closure has only what its body uses."""
    texts = [text for hint in raw.values() for text in _strings_in(hint)]
    outer, local, _ = getattr(function, "__qualname__", "").rpartition(".<locals>.")
    if not (texts and local and _is_plain(function)):
        return {}
    frame = inspect.currentframe()
    while frame is not None and not (frame.f_globals is function.__globals__ and frame.f_code.co_qualname == outer):
        frame = frame.f_back
    if frame is None:
        return {}
    return {name: frame.f_locals[name] for text in texts for name in _names_in(text) if name in frame.f_locals}


def _strings_in(hint: Any) -> list[str]:
    """The parts of a hint that are still to be evaluated."""
    if isinstance(hint, str):
        return [hint]
    if isinstance(hint, typing.ForwardRef):
        return [hint.__forward_arg__]
    return [text for each in get_args(hint) for text in _strings_in(each)]


def _names_in(text: str) -> set[str]:
    try:
        return {node.id for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Name)}
    except SyntaxError:
        return set()


_MODULES = re.compile(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])")


_ID = re.compile(r"IdOf\((\w+)\)")  # how an id's metadata shows itself; tables/ is not imported for it


def _text_of(hint: Any) -> str:
    """A hint as it is written in code, without modules."""
    if isinstance(hint, str):
        return hint
    if hint is None or hint is type(None):
        return "None"
    if get_origin(hint) is Annotated:
        ids = (_ID.fullmatch(repr(each)) for each in hint.__metadata__)
        return next((f"Id[{found[1]}]" for found in ids if found), _text_of(hint.__origin__))
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join(_text_of(each) for each in get_args(hint))
    if isinstance(hint, type) and not get_args(hint):
        return hint.__name__
    if (
        (origin := get_origin(hint)) is not None
        and origin is not Literal
        and isinstance(origin, type)
        and get_args(hint)
    ):
        inner = (
            "..." if each is ... else "[...]" if isinstance(each, list) else _text_of(each) for each in get_args(hint)
        )
        return f"{origin.__name__}[{', '.join(inner)}]"
    return _MODULES.sub("", repr(hint))


def _adapter(hint: Any, where: str, error: type[Error]) -> TypeAdapter[Any]:
    try:
        try:
            return TypeAdapter(hint, config=_CONFIG)
        except PydanticUserError as problem:
            if problem.code != "type-adapter-config-unused":  # a model has a config of its own
                raise
            return TypeAdapter(hint)
    except Exception as problem:  # PydanticSchemaGenerationError, and what a class's own schema hook raises
        raise error(
            f"the type hint of {where} cannot be checked: {_text_of(hint)} ({str(problem).splitlines()[0]})",
            cure="Use a plain type, a dataclass, a pydantic model, or no hint.",
        ) from None


# ---------------------------------------------------------------------------------------------- showing values
_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = _shortener.maxlong = 100_000  # cut after keys were removed, not before


def _shown(value: Any) -> str:
    """``str '5'``: a value's type and a short repr."""
    kind = type(value).__name__
    if value is None:
        return "None"
    try:
        text = _shortener.repr(settings.redact(value) if isinstance(value, str) else value)
    except Exception:
        text = "(its repr failed)"
    return f"{kind} {_cut(settings.redact(text))}"


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


# ---------------------------------------------------------------------------------------------- pydantic's errors
_EXPECTED = {
    "int_type": "int",
    "int_from_float": "int",
    "int_parsing": "int",
    "float_type": "float",
    "float_parsing": "float",
    "bool_type": "bool",
    "bool_parsing": "bool",
    "string_type": "str",
    "bytes_type": "bytes",
    "list_type": "list",
    "tuple_type": "tuple",
    "set_type": "set",
    "frozen_set_type": "frozenset",
    "dict_type": "dict",
    "date_type": "date",
    "datetime_type": "datetime",
    "time_type": "time",
    "time_delta_type": "timedelta",
    "uuid_type": "UUID",
    "decimal_type": "Decimal",
    "none_required": "None",
    "callable_type": "callable",
}
_MISSING = {"missing", "missing_argument", "missing_keyword_only_argument"}
_EXTRA = {"extra_forbidden", "unexpected_keyword_argument"}
_NOTHING = object()


def _step(value: Any, key: Any) -> Any:
    """What is at `key` in `value`, or _NOTHING: then the step is no part of the path but names a union's member."""
    if isinstance(key, int):
        if isinstance(value, (set, frozenset)):
            value = list(value)
        if isinstance(value, (list, tuple)) and key < len(value):
            return value[key]
    if isinstance(value, Mapping):
        return value.get(key, _NOTHING)
    return getattr(value, key, _NOTHING) if isinstance(key, str) and not isinstance(value, (str, type)) else _NOTHING


class _Problem:
    """One of pydantic's errors: where it is, and the members of unions that were tried on the way."""

    def __init__(self, details: Mapping[str, Any], root: Any) -> None:
        self.kind: str = details["type"]
        self.input = details["input"]
        self.steps: list[Any] = []
        self.union_at: int | None = None  # the length of the path of the outermost union
        self.member = ""
        loc = details["loc"]
        last = len(loc) - 1
        value = root
        for i, key in enumerate(loc):
            inner = _step(value, key)
            if inner is _NOTHING and i == last and self.kind in _MISSING:
                self.steps.append(key)
            elif inner is _NOTHING:
                if key == "[key]" or self.union_at is not None:
                    continue
                self.union_at, self.member, self.union_input = len(self.steps), str(key), value
            else:
                self.steps.append(key)
                value = inner
        self.expected = _expected(details)

    @property
    def field(self) -> str:
        """The outermost step of its path."""
        return str(self.steps[0]) if self.steps else ""


def _expected(details: Mapping[str, Any]) -> str:
    """What stands behind "and": ``int was expected`` or ``should be greater than 0``."""
    context = details.get("ctx") or {}
    kind, message = details["type"], str(details["msg"])
    if kind in _EXPECTED:
        return f"{_EXPECTED[kind]} was expected"
    if kind in ("model_type", "dataclass_type", "dataclass_exact_type", "model_attributes_type"):
        return f"{context.get('class_name', 'an object')} was expected"
    if kind == "is_instance_of":
        return f"{context['class']} was expected"
    if kind in ("literal_error", "enum"):
        return f"{context['expected']} was expected"
    if kind in ("value_error", "assertion_error"):
        return message.split(", ", 1)[-1]
    message = message.removeprefix(MISMATCH)  # of a check of our own
    if message.startswith("Input should be "):
        return message.removeprefix("Input ")
    return message


def _path(steps: Iterable[Any], root: str = "") -> str:
    text = root
    for step in steps:
        if isinstance(step, str) and step.isidentifier():
            text += f".{step}" if text else step
        else:
            text += f"[{step!r}]"
    return text


def _problems(error: ValidationError, root: Any, hints: Mapping[str, str], base: str = "") -> list[tuple[str, str]]:
    """All of pydantic's errors: the field and a text. `hints` are texts by field, ``""`` for `root`, whose name is
    `base`."""
    unions: dict[str, list[_Problem]] = {}
    texts: list[tuple[str, str]] = []
    for details in error.errors(include_url=False):
        problem = _Problem(details, root)
        if problem.union_at is not None:
            where = _path(problem.steps[: problem.union_at], base)
            if where not in unions:
                texts.append((problem.field, where))  # its place; the text follows when all members are known
            unions.setdefault(where, []).append(problem)
        else:
            texts.append((problem.field, _text_of_problem(problem, hints, base)))
    return [(field, _text_of_union(text, unions[text], hints) if text in unions else text) for field, text in texts]


def _text_of_problem(problem: _Problem, hints: Mapping[str, str], base: str) -> str:
    where = _path(problem.steps, base)
    if problem.kind in _MISSING:
        return f"Object is missing the required field `{where}`"
    if problem.kind in _EXTRA:
        known = nearest(str(problem.steps[-1]), hints) if len(problem.steps) == 1 and not base else []
        meant = f" (did you mean `{known[0]}`?)" if known else ""
        return f"Object contains extra field `{where}`{meant}"
    expected = problem.expected
    if expected.endswith(" was expected"):  # the whole hint says more: list[int] instead of list
        expected = f"{_hint_at(problem.steps, hints) or expected.removesuffix(' was expected')} was expected"
    return settings.redact(f"{MISMATCH}`{where}` is {_shown(problem.input)}, and {expected}")


def _hint_at(steps: list[Any], hints: Mapping[str, str]) -> str | None:
    if not steps:
        return hints.get("")
    return hints.get(steps[0]) if len(steps) == 1 else None


def _text_of_union(where: str, problems: list[_Problem], hints: Mapping[str, str]) -> str:
    first = problems[0]
    at = first.union_at or 0
    members = " | ".join(dict.fromkeys(problem.member for problem in problems))
    expected = _hint_at(first.steps[:at], hints) or members
    details = [f"{_path(p.steps[at:])}: {p.kind.replace('_', ' ')}" for p in problems if len(p.steps) > at]
    more = f" ({'; '.join(details[:3])})" if details else ""
    return f"{MISMATCH}`{where}` is {_shown(first.union_input)}, and {expected} was expected{more}"


# ---------------------------------------------------------------------------------------------- arguments
_REFUSED = {
    inspect.Parameter.VAR_POSITIONAL: "takes any number of positional arguments (*{name})",
    inspect.Parameter.POSITIONAL_ONLY: "takes `{name}` by position only",
}


def _named(name: str, parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    for parameter in parameters:
        if parameter.kind in _REFUSED:
            raise ArgumentsError(
                f"`{name}` {_REFUSED[parameter.kind].format(name=parameter.name)}",
                cure="Arguments of functions have names, so that they can be recorded: give it named parameters.",
            )
    return parameters


class Arguments:
    """The parameters of a function, but for the first, which is ``ctx``. Made by `of`, and by `of_plain`."""

    def __init__(self, name: str, hints: _Hints, parameters: list[inspect.Parameter]) -> None:
        self.name = name
        self._hints = hints
        self._open: inspect.Parameter | None = None  # **kwargs
        if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
            self._open = parameters.pop()
        self._parameters = {parameter.name: parameter for parameter in parameters}
        self._whole: TypeAdapter[Any] | None = None
        self._other: TypeAdapter[Any] | None = None  # of one of those
        self._others: TypeAdapter[Any] | None = None  # of all of them
        self._single: dict[str, TypeAdapter[Any]] = {}

    @classmethod
    def of(cls, function: Handler) -> Arguments:
        """
        Raises:
            ArgumentsError: the function has no ``ctx``, or parameters that cannot be given by name.
        """
        hints = _Hints(function)
        parameters = list(inspect.signature(function).parameters.values())
        plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if not parameters or parameters[0].kind not in plain:
            raise ArgumentsError(f"`{hints.name}` takes no context", cure=f"Write def {hints.name}(ctx, ...): ...")
        return cls(hints.name, hints, _named(hints.name, parameters[1:]))

    @classmethod
    def of_plain(cls, function: Handler, name: str) -> Arguments:
        """Those of a function without ``ctx``, which is called `name`.

        Raises:
            ArgumentsError: it has parameters that cannot be given by name.
        """
        parameters = list(inspect.signature(function).parameters.values())
        return cls(name, _Hints(function), _named(name, parameters))

    @property
    def names(self) -> list[str]:
        """The parameters' names; with ``**kwargs`` others are taken, too."""
        return list(self._parameters)

    def schema(self) -> dict[str, Any]:
        """The parameters as a JSON schema of an object.

        Raises:
            ArgumentsError: a hint is of a type that JSON does not have.
        """
        whole = self._whole or self._build()
        try:
            schema = whole.json_schema()
            others = False if self._others is None else self._others.json_schema().get("additionalProperties", True)
        except PydanticUserError as problem:
            raise ArgumentsError(
                f"the arguments of `{self.name}` cannot be written as JSON ({str(problem).splitlines()[0]})",
                cure="Hint parameters with plain types, dataclasses or pydantic models.",
            ) from None
        for name, parameter in self._parameters.items():
            if parameter.default is not parameter.empty:
                with contextlib.suppress(TypeError, ValueError):
                    json.dumps(parameter.default, allow_nan=False)
                    schema["properties"][name].setdefault("default", parameter.default)
        properties = schema.get("properties", {})
        return {**schema, "title": self.name, "properties": properties, "additionalProperties": others}

    def describe(self) -> str:
        """``(conversation_id: Id[Conversation], limit: int = 50)``"""
        shown = []
        for name, parameter in self._parameters.items():
            text = f"{name}: {self._text(name)}" if name in self._hints.raw else name
            if parameter.default is not parameter.empty:
                sign = " = " if name in self._hints.raw else "="
                text += sign + _cut(settings.redact(_shortener.repr(parameter.default)))
            shown.append(text)
        if self._open is not None:
            name = self._open.name
            shown.append(f"**{name}: {self._text(name)}" if name in self._hints.raw else f"**{name}")
        return f"({', '.join(shown)})"

    def validate(self, values: Mapping[str, Any], *, context: Context = None) -> dict[str, Any]:
        """The checked values, of those that were given: defaults stay the function's own.

        Raises:
            ArgumentsError: something is missing, too many or of another type.
        """
        whole = self._whole or self._build()
        if self._open is not None:
            return self._check_parts(
                values, lambda adapter, part: adapter.validate_python(part, strict=True, context=context)
            )
        try:
            return whole.validate_python(values, strict=True, context=context)  # type: ignore[no-any-return] # a TypedDict
        except ValidationError as error:
            raise self._error(error, values) from None

    def from_json(self, text: str, *, context: Context = None) -> dict[str, Any]:
        """The values that `to_json` wrote.

        Raises:
            ArgumentsError: it is no JSON object, or does not fit the hints.
        """
        whole = self._whole or self._build()
        try:
            if self._open is None:
                return whole.validate_json(text, strict=True, context=context)  # type: ignore[no-any-return] # as above
            return self._from_open_json(text, context)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if first["type"] == "json_invalid":
                raise self._raised([("", f"the arguments are not JSON ({first['msg']})")]) from None
            if not isinstance(values := from_json(text), dict):
                expected = f"the arguments are {_shown(values)}, and a JSON object was expected"
                raise self._raised([("", expected)]) from None
            raise self._error(error, values) from None

    def to_json(self, values: Mapping[str, Any]) -> str:
        """Checked values as a JSON object.

        Raises:
            ArgumentsError: a value cannot be written; it says which.
        """
        self._whole or self._build()
        return "{" + ",".join(f"{json.dumps(name)}:{self._dumped(name, value)}" for name, value in values.items()) + "}"

    def from_words(self, words: Mapping[str, str], *, context: Context = None) -> dict[str, Any]:
        """Values from texts, as a command line gives them.

        A word for a str is taken as it is. Others are read as what the hint says (numbers, dates, ids), or as JSON:
        true, 3, [1, 2], {"a": 1}, null. For Any and unions with str JSON comes first, then the word as it is.

        Raises:
            ArgumentsError: as `validate` raises it.
        """
        values = {name: self.read(name, word, context=context) for name, word in words.items()}
        return self.validate(values, context=context)

    def read(self, name: str, word: str, *, context: Context = None) -> Any:
        """The value of one of those words; where it means none, what `validate` refuses then."""
        self._whole or self._build()
        adapter = self._adapter_for(name)
        if adapter is None:
            return word  # validate refuses it, and knows the nearest name
        hint = self._hint(name if name in self._parameters or self._open is None else self._open.name)
        return word if _is_text(hint) else _read_word(adapter, word, context)

    # ------------------------------------------------------------------------------------------ what fits
    @property
    def defaults(self) -> dict[str, Any]:
        """Of those parameters that have one."""
        return {name: one.default for name, one in self._parameters.items() if one.default is not one.empty}

    def hint_text(self, name: str) -> str:
        """A parameter's hint as it is written; an empty string where there is none."""
        return self._text(name) if name in self._hints.raw else ""

    def schema_of(self, name: str) -> dict[str, Any] | None:
        """What fits a parameter, as JSON schema; None: JSON has no such values (a frame, an object of some class).

        Raises:
            ArgumentsError: its hint cannot be read.
        """
        self._whole or self._build()
        try:
            return self._single[name].json_schema()
        except PydanticInvalidForJsonSchema:
            return None

    def fits(self, name: str, value: Any) -> bool:
        """Whether a value is of a parameter's type, as it is."""
        self._whole or self._build()
        try:
            self._single[name].validate_python(value, strict=True)
        except Exception:  # its own code says no in any way
            return False
        return True

    # ------------------------------------------------------------------------------------------ the machinery
    def _text(self, name: str) -> str:
        return _text_of(self._hints.raw[name]) if name in self._hints.raw else "Any"

    def _hint(self, name: str) -> Any:
        return self._hints.resolve(name, ArgumentsError)

    def _build(self) -> TypeAdapter[Any]:
        fields: dict[str, Any] = {}
        for name, parameter in self._parameters.items():
            hint = self._hint(name)
            self._single[name] = _adapter(hint, f"`{name}` in `{self.name}`", ArgumentsError)
            fields[name] = Required[hint] if parameter.default is parameter.empty else NotRequired[hint]
        shape = TypedDict("shape", fields)  # type: ignore[misc] # made of a variable, on purpose
        shape.__pydantic_config__ = ConfigDict(extra="forbid", **_CONFIG)  # type: ignore[attr-defined] # pydantic's own name
        if self._open is not None:
            hint = self._hint(self._open.name)
            self._other = _adapter(hint, f"`{self._open.name}` in `{self.name}`", ArgumentsError)
            self._others = _adapter(
                types.GenericAlias(dict, (str, hint)), f"`{self._open.name}` in `{self.name}`", ArgumentsError
            )
        self._whole = TypeAdapter(shape)
        return self._whole

    def _divide(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        known = {name: value for name, value in values.items() if name in self._parameters}
        return known, {name: value for name, value in values.items() if name not in known}

    def _check_parts(self, values: Mapping[str, Any], check: Callable[[TypeAdapter[Any], Any], Any]) -> dict[str, Any]:
        """With **kwargs: fields of their own and others, the problems of both in one error."""
        checked: dict[str, Any] = {}
        problems: list[tuple[str, str]] = []
        for adapter, part in zip((self._whole, self._others), self._divide(values), strict=True):
            assert adapter is not None  # built
            try:
                checked |= check(adapter, part)
            except ValidationError as error:
                problems += _problems(error, part, self._expectations(part))
        if problems:
            raise self._raised(problems)
        return checked

    def _from_open_json(self, text: str, context: Context) -> dict[str, Any]:
        values = _JSON_OBJECT.validate_json(text)
        return self._check_parts(
            values,
            lambda adapter, part: adapter.validate_json(
                to_json(part, inf_nan_mode="constants"), strict=True, context=context
            ),
        )

    def _expectations(self, values: Mapping[str, Any]) -> dict[str, str]:
        texts = {name: self._text(name) for name in self._parameters}
        if self._open is not None:
            texts |= {name: self._text(self._open.name) for name in values if name not in texts}
        return texts

    def _error(self, error: ValidationError, values: Any) -> ArgumentsError:
        known = values if isinstance(values, Mapping) else {}
        return self._raised(_problems(error, values, self._expectations(known)))

    def _raised(self, problems: list[tuple[str, str]]) -> ArgumentsError:
        by_name: dict[str, str] = {}
        for name, text in problems:
            by_name[name] = f"{by_name[name]}; {text}" if name in by_name else text
        told = "; ".join(text for _, text in problems)
        cure = f"Call it as {self.name}{self.describe()}."
        return ArgumentsError(f"`{self.name}`: {told}", cure=cure, problems=by_name)

    def _adapter_for(self, name: str) -> TypeAdapter[Any] | None:
        return self._single.get(name, self._other)

    def _dumped(self, name: str, value: Any) -> str:
        adapter = self._adapter_for(name)
        try:
            # Field by field: a serializer of the whole does not heed the setting for bytes.
            return _dump(adapter, value) if adapter is not None else to_json(value).decode()
        except Exception as error:  # a serializer is code of the value's class
            raise ArgumentsError(
                f"`{self.name}`: `{name}` is {_shown(value)}, and cannot be written as JSON ({_cut(str(error))})",
                cure="Arguments of jobs are kept as JSON: give plain values, dataclasses or pydantic models.",
            ) from None


def _dump(adapter: TypeAdapter[Any], values: Any) -> str:
    return adapter.dump_json(values, warnings="error").decode()


def _is_text(hint: Any) -> bool:
    """Whether only strings fit: str itself, a constrained one, literals."""
    if get_origin(hint) is Annotated:
        return _is_text(hint.__origin__)
    if get_origin(hint) is Literal:
        return all(type(each) is str for each in get_args(hint))
    return isinstance(hint, type) and issubclass(hint, str) and not issubclass(hint, enum.Enum)


def _read_word(adapter: TypeAdapter[Any], word: str, context: Context) -> Any:
    """What a word means to a hint that is not a str's; where it fits none, the JSON that it is, or itself."""
    candidates: list[Any] = [word]
    try:
        value = json.loads(word)
    except ValueError:
        pass
    else:
        if not isinstance(value, str):
            candidates.insert(0 if _takes(adapter, word, context) else 1, value)
    for candidate in candidates:
        try:
            return adapter.validate_python(candidate, strict=False, context=context)
        except ValidationError:
            continue
    return next((each for each in candidates if not isinstance(each, str)), word)


def _takes(adapter: TypeAdapter[Any], word: str, context: Context) -> bool:
    try:
        adapter.validate_python(word, strict=True, context=context)
    except ValidationError:
        return False
    return True


# ---------------------------------------------------------------------------------------------- results
class Result:
    """What a function returns. Made by `of`; without a hint anything fits."""

    def __init__(self, name: str, hints: _Hints) -> None:
        self.name = name
        self._hints = hints
        self._is_hinted = "return" in hints.raw
        self._made: TypeAdapter[Any] | None = None

    @classmethod
    def of(cls, function: Handler) -> Result:
        hints = _Hints(function)
        return cls(hints.name, hints)

    def describe(self) -> str:
        """The hint as it is written; an empty string where there is none."""
        return _text_of(self._hints.raw["return"]) if self._is_hinted else ""

    def validate(self, value: Any, *, context: Context = None) -> Any:
        """
        Raises:
            ResultError: it does not fit the hint.
        """
        if not self._is_hinted:
            return value
        try:
            return self._adapter.validate_python(value, strict=True, context=context)
        except ValidationError as error:
            raise self._error(error, value, "Return what the hint says, or correct the hint.") from None

    def to_json(self, value: Any) -> str:
        """The value as JSON. Never fails, for the work is done: what JSON cannot say is ``{"__repr__": "..."}``."""
        try:
            if self._is_hinted:
                return _dump(self._adapter, value)
        except Exception:
            pass
        try:
            return to_json(value, bytes_mode="base64", inf_nan_mode="constants", fallback=_as_repr).decode()
        except Exception:  # it contains itself, or half a character
            return json.dumps(_as_repr(value))

    def from_json(self, text: str, *, context: Context = None) -> Any:
        """What `to_json` wrote; without a hint (or where only a repr was written) the plain JSON values.

        Raises:
            ResultError: it does not fit the hint: the function has changed since.
        """
        plain = from_json(text)
        if not self._is_hinted or (isinstance(plain, dict) and plain.keys() == {REPR}):
            return plain
        try:
            return self._adapter.validate_json(text, strict=True, context=context)
        except ValidationError as error:
            cure = "It was recorded before the function's hint changed: read it with SQL, or run the function again."
            raise self._error(error, plain, cure) from None

    @property
    def _adapter(self) -> TypeAdapter[Any]:
        if self._made is None:
            hint = self._hints.resolve("return", ResultError)
            self._made = _adapter(hint, f"the result of `{self.name}`", ResultError)
        return self._made

    def _error(self, error: ValidationError, value: Any, cure: str) -> ResultError:
        problems = "; ".join(text for _, text in _problems(error, value, {"": self.describe()}, "result"))
        return ResultError(f"`{self.name}` returned what does not fit -> {self.describe()}: {problems}", cure=cure)


def _as_repr(value: Any) -> dict[str, str]:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return {REPR: settings.redact(text)}
