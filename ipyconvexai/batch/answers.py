"""What becomes of one input that is asked once: its text, or the value that a schema makes of it. Calls ``schemas``.

A reply that does not fit is asked once more, with what is wrong with it; if that one does not fit either, the error
says both. A reply that was cut at the token limit is not asked again, as it would be cut again. What the second
request fails with (a budget, say) stays as it is: run again, the first reply is known and the second is asked for.
"""

from __future__ import annotations

import json
from typing import Any

from ipyconvexai.batch.asks import Done, Recipe, Result, Task
from ipyconvexai.batch.columns import plain
from ipyconvexai.errors import CallError, InvalidAnswerError
from ipyconvexai.providers.schemas import json_schema, name_of, parse_answer, response_format

__all__ = ["asked_for", "plain_answer", "typed_answer"]

_WORDS = "Reply with JSON and nothing else. It must fit this JSON schema:\n"


def asked_for(schema: Any, *, in_words: bool = False) -> tuple[dict[str, Any], str]:
    """How answers of a shape are asked for: parameters, and words for the end of the system message.

    Args:
        in_words: for endpoints that take no schema: it is written down for the model, which may or may not keep to it.

    Raises:
        InputError: pydantic makes no JSON schema of it.
    """
    if in_words:
        return {}, _WORDS + json.dumps(json_schema(schema), ensure_ascii=False)
    return {"response_format": response_format(schema)}, ""


def plain_answer(recipe: Recipe, text: str) -> Task:
    """The answer as it came."""
    (done,) = yield [recipe.ask(text)]
    return Result.of(done)


def typed_answer(recipe: Recipe, text: str, schema: Any) -> Task:
    """The answer as a value of `schema`, in plain Python: models and dataclasses are dicts."""
    ask = recipe.ask(text)
    (first,) = yield [ask]
    if first.text is None:
        return Result.of(first)
    value, wrong = _read(schema, first)
    if wrong is None:
        return _result(value, first)
    if _is_cut(first):
        return Result.of(first).failed(_cut(schema, first, "the answer was cut at the token limit"))
    (second,) = yield [recipe.again(ask, first.text, _complaint(wrong))]
    if second.text is None:
        return Result.of(first, second).failed(second.error or wrong)
    value, still = _read(schema, second)
    if still is None:
        return _result(value, first, second)
    if _is_cut(second):
        return Result.of(first, second).failed(_cut(schema, second, f"{wrong.message}; asked again, it was cut"))
    return Result.of(first, second).failed(_both(wrong, still))


def _read(schema: Any, done: Done) -> tuple[Any, InvalidAnswerError | None]:
    assert done.text is not None
    try:
        value = plain(parse_answer(schema, done.text, done.request_id))
    except InvalidAnswerError as error:
        return None, error
    except Exception as error:  # of a validator of the user's, or a moment that no calendar has
        said = f"the answer does not fit {name_of(schema)}: {type(error).__name__}: {error}"
        return None, InvalidAnswerError(said[:500], cure="Look at the schema's own code.", request_id=done.request_id)
    if _is_cut(done) and done.text.rstrip()[-1:].isdigit():  # 12 may have begun as 123; all else that fits is whole
        return None, _cut(schema, done, "the answer was cut at the token limit")
    return value, None


def _result(value: Any, *dones: Done) -> Result:
    """`value` may be None, and what was cut at the token limit after its last brace is whole."""
    return Result.of(*dones)._replace(value=value, error=None)


def _is_cut(done: Done) -> bool:
    return done.error is not None and done.error.code == "truncated"


def _cut(schema: Any, done: Done, why: str) -> InvalidAnswerError:
    return InvalidAnswerError(
        f"{why}, and is no whole {name_of(schema)}",
        cure="Allow more: max_tokens=.",
        code="truncated",
        request_id=done.request_id,
    )


def _complaint(wrong: CallError) -> str:
    return f"This cannot be used: {wrong.message}. Reply once more, with the corrected JSON and nothing else."


def _both(first: CallError, second: CallError) -> InvalidAnswerError:
    same = second.message == first.message
    again = "with the same result" if same else second.message
    cure = "Loosen the schema, or use another model. Both answers are in the ledger."
    return InvalidAnswerError(f"{first.message}; asked again: {again}", cure=cure, request_id=second.request_id)
