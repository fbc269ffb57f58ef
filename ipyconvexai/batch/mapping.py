"""``map``: a template over the columns of a frame, answers in new columns, with types where there is a schema.

Calls ``rows``, ``templates`` and ``answers``. Promises: those of ``summarize``; a reply that does not fit the schema is
asked once more with what is wrong with it, and is an error of its row after that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import pyarrow as pa

from ipyconvexai.batch import rows
from ipyconvexai.batch.answers import plain_answer, typed_answer
from ipyconvexai.batch.asks import Recipe, Task
from ipyconvexai.batch.columns import Output, outputs_of, type_of
from ipyconvexai.batch.options import Options, with_options
from ipyconvexai.batch.templates import Template
from ipyconvexai.errors import InputError
from ipyconvexai.providers.endpoints import Endpoint
from ipyconvexai.providers.schemas import response_format
from ipyconvexai.shapes import schema_of

__all__ = ["Map", "amap", "map"]

Frame = TypeVar("Frame")

INTO = "answer"  # the column of answers that have no fields


class Map:
    """The operation: a row's text is what the template makes of its columns, without the part that all have."""

    kind = "map"
    unit = "rows"
    documents = False

    def __init__(
        self, template: str, columns: Sequence[str], into: str | None, schema: Any, system: str | None
    ) -> None:
        if into is not None and (not isinstance(into, str) or not into):
            raise InputError(f"into={into!r} is no name for a column", cure='For example: into="topic".')
        if system is not None and not isinstance(system, str):
            raise InputError(f"system={system!r} is no text", cure='For example: system="You classify papers."')
        self._template = Template(template, columns)
        self._schema = schema_of(schema) if isinstance(schema, str) else schema
        self._form = None if schema is None else response_format(self._schema)
        self._system = system
        fields = None if self._schema is None or into is not None else outputs_of(self._schema)
        self._by_field = isinstance(fields, list)
        self.input = template
        self.columns: Sequence[str] = self._template.fields
        self.into = into or ("map" if self._by_field else INTO)
        whole = pa.string() if self._schema is None else type_of(self._schema)
        self.outputs: Sequence[Output] = fields if isinstance(fields, list) else [Output(self.into, whole)]
        self._recipe: Recipe | None = None

    def facts(self) -> dict[str, Any]:
        return {"system": self._system, "template": self._template.text, "schema": self._form}

    def open(self, endpoint: Endpoint, options: Options) -> None:
        params = dict(options.params) if self._form is None else {**options.params, "response_format": self._form}
        self._recipe = Recipe(endpoint, system=self._system, before=self._template.before, params=params)

    def text(self, values: Sequence[Any]) -> str | None:
        return self._template.rest(dict(zip(self.columns, values, strict=True)))

    def task(self, text: str) -> Task:
        assert self._recipe is not None
        if self._schema is None:
            return plain_answer(self._recipe, text)
        return typed_answer(self._recipe, text, self._schema)

    def values(self, value: Any) -> Sequence[Any]:
        return [value.get(output.name) for output in self.outputs] if self._by_field else (value,)


@with_options
def map(
    df: Frame,
    template: str,
    *,
    into: str | None = None,
    schema: Any = None,
    system: str | None = None,
    **options: Any,
) -> Frame:
    """Ask the same of each row: ``ai.map(df, "Classify: {title}", schema="topic, score float")``.

    Gives the same kind of frame with new columns: one for each field of `schema`, or `into` for the whole answer; and
    `into`_error (``map_error`` where the fields are columns). Rows whose columns are all missing get null and no call;
    equal questions are sent once, and what the ledger can answer is not sent.

    Args:
        df: what ``ai.summarize`` takes.
        template: the question; ``{name}`` is a column, ``{score:.2f}`` with a format, ``{{`` a brace.
        into: the column of the answers; with a schema of fields, a struct. None: a column for each field, or "answer".
        schema: a pydantic model, a dataclass or a type, or a text: ``"topic, score float, tags list[str]"``. A reply
            that does not fit is asked once more, with what is wrong with it.
        system: the system message.
        {options}

    Raises:
        UnknownColumnError, InputError, ConfigurationError: nothing was sent.
        StoreError: the ledger cannot record; nothing more is sent, and running it again goes on.
        BatchError: with on_error="raise".
    """
    return rows.run(lambda columns: Map(template, columns, into, schema, system), df, Options.of(options, "map"))  # type: ignore[no-any-return]


@with_options
async def amap(
    df: Frame,
    template: str,
    *,
    into: str | None = None,
    schema: Any = None,
    system: str | None = None,
    **options: Any,
) -> Frame:
    """``map`` for async code; the same but for the bar.

    Args:
        {options}
    """
    return await rows.arun(lambda columns: Map(template, columns, into, schema, system), df, Options.of(options, "map"))  # type: ignore[no-any-return]
