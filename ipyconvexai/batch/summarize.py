"""``summarize``: a column of texts in, a column of summaries out. Calls ``rows``.

Promises: equal texts are sent once; what the ledger has under the same model, prompt and parameters is not sent again,
so an interrupted or killed run goes on where it was; one bad row costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import pyarrow as pa

from ipyconvexai.batch import rows
from ipyconvexai.batch.answers import plain_answer
from ipyconvexai.batch.asks import Recipe, Task
from ipyconvexai.batch.columns import Output
from ipyconvexai.batch.long_texts import SMALLEST, parts_size, summary, sure_size
from ipyconvexai.batch.options import Options, with_options
from ipyconvexai.errors import InputError
from ipyconvexai.providers.endpoints import Endpoint

__all__ = ["PROMPT", "SYSTEM", "Summarize", "asummarize", "summarize"]

SYSTEM = "You summarize documents. Reply with a faithful summary of exactly two sentences and nothing else."
PROMPT = "Document:\n{document}\n\nTwo-sentence summary:"

MOST_BYTES = 4  # of a character, in UTF-8

Frame = TypeVar("Frame")


class Summarize:
    """The operation: a text is a document, and its answer the summary."""

    kind = "summarize"
    unit = "rows"
    documents = True

    def __init__(self, column: str, into: str, system: str | None, prompt: str) -> None:
        if not isinstance(into, str) or not into:
            raise InputError(f"into={into!r} is no name for a column", cure='For example: into="summary".')
        if not isinstance(prompt, str) or "{document}" not in prompt:
            raise InputError("the prompt has no {document}", cure='For example: prompt="Summarise this:\\n{document}".')
        if system is not None and not isinstance(system, str):
            raise InputError(f"system={system!r} is no text", cure='For example: system="You summarize documents."')
        self.input = str(column)
        self.columns: Sequence[str] = [column]
        self.into = into
        self.outputs: Sequence[Output] = [Output(into, pa.string())]
        self._system, self._prompt = system, prompt
        self._recipe: Recipe | None = None
        self._context: int | None = None
        self._sure = 0  # tokens of text that fit into one request, at least
        self._size = 0  # exactly; found when a text needs it

    def facts(self) -> dict[str, Any]:
        return {"system": self._system, "prompt": self._prompt}

    def open(self, endpoint: Endpoint, options: Options) -> None:
        before, _, after = self._prompt.partition("{document}")
        params = {**endpoint.summary_params, **options.params}
        self._recipe = Recipe(endpoint, system=self._system, before=before, after=after, params=params)
        self._context = options.context
        self._sure = sure_size(self._recipe, options.context)
        if self._sure < SMALLEST:
            self._size = self._sure = parts_size(self._recipe, options.context)

    def text(self, values: Sequence[Any]) -> str | None:
        value = values[0]
        if value is None:
            return None
        if not isinstance(value, str):
            raise InputError(f"not a text but {type(value).__name__}")
        return value if value.strip() else None

    def task(self, text: str) -> Task:
        assert self._recipe is not None
        if MOST_BYTES * len(text) <= self._sure:  # a token has a byte at least
            return plain_answer(self._recipe, text)
        self._size = self._size or parts_size(self._recipe, self._context)
        return summary(self._recipe, text, self._size)

    def values(self, value: Any) -> Sequence[Any]:
        return (value,)


@with_options
def summarize(
    df: Frame,
    column: str,
    *,
    into: str = "summary",
    system: str | None = SYSTEM,
    prompt: str = PROMPT,
    **options: Any,
) -> Frame:
    """Summarise each text of a column; gives the same kind of frame with the columns `into` and `into`_error.

    Null and empty cells get null and no call; cells that hold something else get an error. Equal texts are sent once,
    and what the ledger can answer is not sent. A text that is too long for the model is cut at headings, paragraphs
    and sentences, its parts are summarised, and their summaries are combined.

    Args:
        df: pandas, polars (eager or lazy), pyarrow table, DuckDB relation, or what ``ai.ledger.sql`` gives; the path
            or glob of CSV, Parquet or JSON files (these give a DuckDB relation); ``SELECT ...`` over the ledger.
        column: the column of texts.
        into: the new column; one that an earlier run made is replaced.
        system: the system message.
        prompt: the template of the question; ``{document}`` is the text.
        {options}

    Raises:
        UnknownColumnError, InputError, ConfigurationError: nothing was sent.
        StoreError: the ledger cannot record; nothing more is sent, and running it again goes on.
        BatchError: with on_error="raise".
    """
    return rows.run(lambda columns: Summarize(column, into, system, prompt), df, Options.of(options, "summarize"))  # type: ignore[no-any-return]


@with_options
async def asummarize(
    df: Frame,
    column: str,
    *,
    into: str = "summary",
    system: str | None = SYSTEM,
    prompt: str = PROMPT,
    **options: Any,
) -> Frame:
    """``summarize`` for async code; the same but for the bar.

    Args:
        {options}
    """
    checked = Options.of(options, "summarize")
    made: Frame = await rows.arun(lambda columns: Summarize(column, into, system, prompt), df, checked)
    return made
