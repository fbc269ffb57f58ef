"""Answers of a given shape: a schema for the provider, and the answer read by it.

Calls pydantic and, for the strict form of a schema, the openai SDK. Providers take objects only: what is none (a list,
a number, a choice) is asked for as the one field ``value`` of an object, and read with it or without.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from ipyconvexai.errors import InputError, InvalidAnswerError

__all__ = ["json_schema", "name_of", "parse_answer", "response_format"]

VALUE = "value"  # the field of the object around what is none
_MOST_PROBLEMS = 3  # that an error names


def response_format(schema: Any) -> dict[str, Any]:
    """The ``response_format`` parameter for a pydantic model, a dataclass or any other type; a mapping is a JSON
    schema already.

    Raises:
        InputError: pydantic makes no JSON schema of it.
    """
    wanted = json_schema(schema)
    # Strict schemas know no objects of any key, such as dict[str, int]: providers refuse them.
    strict = isinstance(schema, Mapping) or not _has_open_objects(wanted)
    return {"type": "json_schema", "json_schema": {"name": name_of(schema), "schema": wanted, "strict": strict}}


def json_schema(schema: Any) -> dict[str, Any]:
    """The JSON schema of the answer: an object's, unless `schema` is one that says otherwise.

    Raises:
        InputError: pydantic makes none of it.
    """
    if isinstance(schema, Mapping):
        return dict(schema)
    strict = _strict(schema)
    return strict if strict.get("type") == "object" else _in_object(strict)


def _strict(schema: Any) -> dict[str, Any]:
    import pydantic
    from openai.lib._pydantic import to_strict_json_schema

    try:
        return to_strict_json_schema(pydantic.TypeAdapter(schema))
    except (pydantic.errors.PydanticUserError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"schema={schema!r} has no JSON schema: {reason}", cure="Use a pydantic model or a dataclass."
        ) from None


def _in_object(inner: dict[str, Any]) -> dict[str, Any]:
    """An object with `inner` as its one field; definitions stay at the root, where references look for them."""
    definitions = {name: part for name, part in inner.items() if name in ("$defs", "definitions")}
    field = {name: part for name, part in inner.items() if name not in definitions}
    fixed = {"type": "object", "additionalProperties": False, "required": [VALUE], "properties": {VALUE: field}}
    return {**fixed, **definitions}


def _has_open_objects(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        return bool(schema.get("additionalProperties")) or any(map(_has_open_objects, schema.values()))
    return isinstance(schema, Sequence) and not isinstance(schema, str) and any(map(_has_open_objects, schema))


def parse_answer(schema: Any, text: str, request_id: str | None) -> Any:
    """The value of type `schema` that `text` spells in JSON.

    Raises:
        InvalidAnswerError: it does not fit.
    """
    import pydantic

    wanted: Any = Any if isinstance(schema, Mapping) else schema
    text = _unfenced(text)
    problems = None
    box = None if isinstance(schema, Mapping) else _of(_boxed, schema)
    if box is not None:
        try:
            return getattr(box.validate_json(text), VALUE)
        except pydantic.ValidationError as error:
            problems = _problems(error) if all(map(_is_inside, error.errors())) else None
    try:
        value = _of(_adapter, wanted).validate_json(text)
        problems = _misfit(schema, value) if isinstance(schema, Mapping) else None
        if problems is None:
            return value
    except pydantic.ValidationError as error:
        problems = problems or _problems(error)
    raise InvalidAnswerError(
        f"the answer does not fit {name_of(schema)}: {problems}",
        cure='Ask again (with replay="off" if it was replayed), or loosen the schema. The answer is in the ledger.',
        request_id=request_id,
    )


def _misfit(schema: Mapping[str, Any], value: Any) -> str | None:
    """Where and how `value` does not fit a JSON schema; None: it does."""
    import jsonschema

    try:
        jsonschema.validate(value, schema)
    except jsonschema.ValidationError as error:
        where = ".".join(str(part) for part in error.absolute_path) or "the answer"
        return f"{where}: does not fit {error.validator}={error.validator_value!r:.80}"
    except Exception:  # the schema itself is none: the provider has judged it
        return None
    return None


def _problems(error: Any) -> str:
    """Where and what, without a word of the answer's."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    said = []
    for problem in found[:_MOST_PROBLEMS]:
        where = ".".join(str(part) for part in problem["loc"]) or "the answer"
        said.append(f"{where}: {problem['msg']}")
    more = len(found) - len(said)
    return "; ".join(said) + (f"; and {more} more" if more else "")


def _is_inside(problem: Any) -> bool:
    """Whether the answer is the object around the value, and the value is what is wrong."""
    where = problem["loc"]
    return where[:1] == (VALUE,) and (len(where) > 1 or problem["type"] != "missing")


def _of(make: Any, wanted: Any) -> Any:
    """``make(wanted)``, once for each type: making an adapter takes as long as reading a hundred answers."""
    try:
        return make(wanted)
    except TypeError:  # not hashable
        return make.__wrapped__(wanted)


@functools.lru_cache(maxsize=64)
def _adapter(wanted: Any) -> Any:
    import pydantic

    return pydantic.TypeAdapter(wanted)


@functools.lru_cache(maxsize=64)
def _boxed(wanted: Any) -> Any:
    """The adapter of the object around `wanted`; None where it is an object itself."""
    import pydantic

    if _strict(wanted).get("type") == "object":
        return None
    fields: dict[str, Any] = {VALUE: (wanted, ...)}
    return pydantic.TypeAdapter(pydantic.create_model("Box", **fields))


def _unfenced(text: str) -> str:
    """What stands between the fences of an answer that is one fenced block: models without schemas write so."""
    lines = text.strip().splitlines()
    fenced = len(lines) > 2 and lines[0].startswith("```") and lines[-1].strip() == "```"
    return "\n".join(lines[1:-1]) if fenced else text


def name_of(schema: Any) -> str:
    """Letters, digits, - and _ only: providers refuse ``list[int]``."""
    name = getattr(schema, "__name__", "answer")
    return name if name.isidentifier() else "answer"
