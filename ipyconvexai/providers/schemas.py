"""Answers of a given shape: a schema for the provider, and the answer read by it.

Calls pydantic and, for the strict form of a schema, the openai SDK.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipyconvexai.errors import InputError, InvalidAnswerError

__all__ = ["parse_answer", "response_format"]


def response_format(schema: Any) -> dict[str, Any]:
    """The ``response_format`` parameter for a pydantic model, a dataclass or any other type; a mapping is a JSON
    schema already.

    Raises:
        InputError: pydantic makes no JSON schema of it.
    """
    if isinstance(schema, Mapping):
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": dict(schema), "strict": True}}
    import pydantic
    from openai.lib._pydantic import to_strict_json_schema

    try:
        strict = to_strict_json_schema(pydantic.TypeAdapter(schema))
    except (pydantic.errors.PydanticUserError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"schema={schema!r} has no JSON schema: {reason}", cure="Use a pydantic model or a dataclass."
        ) from None
    return {"type": "json_schema", "json_schema": {"name": _name(schema), "schema": strict, "strict": True}}


def parse_answer(schema: Any, text: str, request_id: str | None) -> Any:
    """The value of type `schema` that `text` spells in JSON.

    Raises:
        InvalidAnswerError: it does not fit.
    """
    import pydantic

    wanted: Any = Any if isinstance(schema, Mapping) else schema  # a JSON schema is the provider's to keep
    try:
        return pydantic.TypeAdapter(wanted).validate_json(_unfenced(text))
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the answer"
    raise InvalidAnswerError(
        f"the answer does not fit {_name(schema)}: {where}: {first['msg']}",
        cure='Ask again (with replay="off" if it was replayed), or loosen the schema. The answer is in the ledger.',
        request_id=request_id,
    )


def _unfenced(text: str) -> str:
    """What stands between the fences of an answer that is one fenced block: models without schemas write so."""
    lines = text.strip().splitlines()
    fenced = len(lines) > 2 and lines[0].startswith("```") and lines[-1].strip() == "```"
    return "\n".join(lines[1:-1]) if fenced else text


def _name(schema: Any) -> str:
    """Letters, digits, - and _ only: providers refuse ``list[int]``."""
    name = getattr(schema, "__name__", "answer")
    return name if name.isidentifier() else "answer"
