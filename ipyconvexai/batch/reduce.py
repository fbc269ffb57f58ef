"""``reduce``: a column of texts in, one text out, of the whole or of each group. Calls ``reducing`` and ``running``.

Promises: all rows of a group go into its answer, in their order, and ``parts`` says into which request; what the
ledger has is not sent again, so an interrupted or killed run goes on where it was; one bad group costs the others
nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pyarrow as pa

from ipyconvexai.application import App, app
from ipyconvexai.batch.asks import Part, Recipe, Result
from ipyconvexai.batch.columns import Output, array_of
from ipyconvexai.batch.control import Control
from ipyconvexai.batch.details import beside, columns_beside, error_text
from ipyconvexai.batch.long_texts import parts_size
from ipyconvexai.batch.opening import open_source
from ipyconvexai.batch.options import Options, with_options
from ipyconvexai.batch.progress import Progress
from ipyconvexai.batch.reducing import reduce_rows
from ipyconvexai.batch.runner import Chunk, Item
from ipyconvexai.batch.running import Batch, run_in_cell
from ipyconvexai.batch.sources import Source
from ipyconvexai.errors import InputError
from ipyconvexai.providers.endpoints import Endpoint
from ipyconvexai.relation import Relation

__all__ = ["PROMPT", "SYSTEM", "Reduction", "areduce", "reduce"]

SYSTEM = "You summarize documents. Reply with a faithful summary of all of them together and nothing else."
PROMPT = "{documents}\n\nSummary of all the documents above together, in one paragraph:"
READ = 16_384  # rows at a time


class Reduction(str):
    """The answer, and how it came about.

    Attributes:
        parts: a row for each request: round, part, the rows whose texts are in it, request_id.
        request_id: the request that gave the answer.
        cost: US dollars for all requests; None: not known.
        error: what is wrong with it (it was cut at the token limit), or None.
    """

    parts: Relation
    request_id: str | None
    cost: float | None
    error: str | None

    @classmethod
    def of(cls, result: Result) -> Reduction:
        made = cls(result.value)
        made.parts = _relation(result.parts)
        made.request_id = result.done.request_id
        made.cost = result.total.cost
        made.error = error_text(result)
        return made


class Reduce:
    """The operation: a group is its texts, with the numbers of their rows."""

    kind = "reduce"
    unit = "groups"

    def __init__(self, column: str, by: Sequence[str], into: str, system: str | None, prompt: str) -> None:
        if not isinstance(into, str) or not into:
            raise InputError(f"into={into!r} is no name for a column", cure='For example: into="summary".')
        if not isinstance(prompt, str) or "{documents}" not in prompt:
            raise InputError(
                "the prompt has no {documents}", cure='For example: prompt="{documents}\\n\\nWhat do they agree on?".'
            )
        if system is not None and not isinstance(system, str):
            raise InputError(f"system={system!r} is no text", cure='For example: system="You summarize documents."')
        self.input = str(column)
        self.into = into
        self.by = list(by)
        self.columns: Sequence[str] = [column, *self.by]
        self.outputs: Sequence[Output] = [Output(into, pa.string())]
        self._system, self._prompt = system, prompt
        self._recipe: Recipe | None = None
        self._size = 0

    def facts(self) -> dict[str, Any]:
        return {"system": self._system, "prompt": self._prompt, "by": self.by}

    def open(self, endpoint: Endpoint, options: Options) -> None:
        before, _, after = self._prompt.partition("{documents}")
        params = {**endpoint.summary_params, **options.params}
        self._recipe = Recipe(endpoint, system=self._system, before=before, after=after, params=params)
        self._size = parts_size(self._recipe, options.context)

    def item(self, rows: Sequence[tuple[int, str]], label: str | None) -> Item:
        assert self._recipe is not None
        numbers = [number for number, _ in rows]
        return Item(reduce_rows(self._recipe, rows, self._size), numbers, label=label, heavy=True)


class _Group:
    """The rows of one group; `refused`: why it is not asked."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.values = values
        self.rows: list[tuple[int, str]] = []
        self.count = 0
        self.refused: InputError | None = None

    def add(self, number: int, value: Any) -> None:
        self.count += 1
        if isinstance(value, str):
            if value.strip():
                self.rows.append((number, value))
        elif value is not None and self.refused is None:
            what = f"row {number} is not a text but {type(value).__name__}"
            self.refused = InputError(what, cure="Make the column one of texts, or leave the row out.")


class _Reducing:
    """One run over `data`. Wrong options and columns are found when it is made."""

    def __init__(self, owner: App, operation: Reduce, data: Any, options: Options) -> None:
        if options.output is not None:
            raise InputError("reduce takes no output=", cure="Write what it gives.")
        self._source: Source = open_source(data)
        self._source.check(operation.columns)
        self._operation, self._options = operation, options
        self._outputs = self._checked_outputs()
        self._groups: list[_Group] = []
        self._results: list[Result] = []
        self._batch = Batch(
            owner,
            operation,
            options,
            described=self._source.description,
            fingerprint=self._source.fingerprint(operation.columns),
        )

    def _checked_outputs(self) -> list[Output]:
        into = self._operation.into
        error, *details = columns_beside(into, self._options.wanted)
        outputs = [Output(into, pa.string()), error, Output(f"{into}_rows", pa.int64()), *details]
        names = [*self._operation.by, *(output.name for output in outputs)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"two columns have the name {twice!r}", cure='Use another into="...". Nothing was sent.')
        return outputs

    async def run(self, bar: Progress, control: Control) -> Any:
        """A ``Reduction`` or None, the frame of groups, or with ``dry_run=True`` an ``Estimate``."""
        if self._options.dry_run:
            return await self._batch.plan(self._chunks(bar))
        await self._batch.run(self._chunks(bar), self._take, bar, control)
        if not self._operation.by:
            return self._whole()
        failed = [result.error for result in self._results if result.is_failed and result.error is not None]
        self._batch.check_failures(len(failed), next(iter(failed), None), len(self._results))
        return await asyncio.to_thread(self._frame)

    async def _chunks(self, bar: Progress) -> AsyncIterator[Chunk]:
        await asyncio.to_thread(self._read)
        rows: list[Item | Result] = []
        for group in self._groups:
            label = _label(self._operation.by, group.values) if self._operation.by else None
            if group.refused is not None:
                rows.append(Result(error=group.refused))
            elif not group.rows:
                rows.append(Result())
            else:
                rows.append(self._operation.item(group.rows, label))
        new = [row for row in rows if isinstance(row, Item)]
        size = sum(group.count for group in self._groups)
        bar.begin(len(rows), 0)
        bar.more(len(rows), 0, done=len(rows) - len(new))
        if self._batch.entry is not None:
            self._batch.entry.counts["total_rows"] += size
            self._batch.entry.counts["failed"] += sum(group.refused is not None for group in self._groups)
            self._batch.entry.counts["items"] += len(new)
        yield Chunk(rows, new, size=size)

    def _read(self) -> None:
        found: dict[Any, _Group] = {} if self._operation.by else {(): _Group(())}
        number = 0
        for columns in self._source.chunks(self._operation.columns, READ):
            lists = [columns[name] for name in self._operation.columns]
            for text, *values in zip(*lists, strict=True):
                key = tuple(map(_key, values))
                group = found.get(key)
                if group is None:
                    group = found[key] = _Group(tuple(values))
                group.add(number, text)
                number += 1
        self._groups = list(found.values())

    async def _take(self, chunk: Chunk) -> None:
        self._results += chunk.results()

    def _whole(self) -> Reduction | None:
        (result,) = self._results
        if result.is_failed and result.error is not None:
            raise result.error
        return None if result.value is None else Reduction.of(result)

    # ------------------------------------------------------------------------------------------ the frame of groups
    def _frame(self) -> Any:
        by = {name: _keys([group.values[at] for group in self._groups]) for at, name in enumerate(self._operation.by)}
        into = self._operation.into
        values: dict[str, list[Any]] = {
            into: [result.value for result in self._results],
            f"{into}_rows": [group.count for group in self._groups],
            **beside(self._results, into, self._options.wanted),
        }
        new = {output.name: array_of(output, values[output.name]) for output in self._outputs}
        return self._source.like(pa.table({**by, **new}), list(new))


def _keys(values: list[Any]) -> pa.Array:
    """Values of several kinds, which no column of one type holds, as texts."""
    try:
        return pa.array(values)
    except pa.ArrowException:
        return pa.array([None if value is None else str(value) for value in values])


def _key(value: Any) -> Any:
    """What tells groups apart: lists and the like by their text."""
    try:
        hash(value)
    except TypeError:
        return (type(value).__name__, repr(value))
    return value


def _label(by: Sequence[str], values: Sequence[Any]) -> str:
    return json.dumps(dict(zip(by, values, strict=True)), ensure_ascii=False, default=str)


def _relation(parts: Sequence[Part]) -> Relation:
    """Of later rounds, too, the rows: those of all that went in."""
    rows: dict[tuple[int, int], list[int]] = {}
    for part in parts:
        own = part.inputs.get("rows")
        below = [rows[part.round - 1, one] for one in part.inputs.get("parts", ())]
        rows[part.round, part.part] = own if own is not None else list(dict.fromkeys(n for some in below for n in some))
    return Relation.of_rows(
        ["round", "part", "rows", "request_id"],
        [(part.round, part.part, rows[part.round, part.part], part.request_id) for part in parts],
    )


def _columns(by: str | Sequence[str] | None) -> list[str]:
    if by is None:
        return []
    if isinstance(by, str):
        return [by]
    if not isinstance(by, Sequence) or not by:
        raise InputError(f"by={by!r:.80} names no columns", cure='For example: by="year", or by=["venue", "year"].')
    return list(by)


@with_options
def reduce(
    df: Any,
    column: str,
    *,
    by: str | Sequence[str] | None = None,
    into: str = "summary",
    system: str | None = SYSTEM,
    prompt: str = PROMPT,
    **options: Any,
) -> Any:
    """Make one text of a column of texts: of all rows, or of each group.

    As many rows as the model reads go into a request, each in a frame of its own; a row that is longer is cut at
    headings, paragraphs and sentences. The answers are combined in rounds, with the same prompt, until one remains.
    Null and empty cells are left out.

    Without `by` it gives a ``Reduction``: the text, with ``.parts`` (which rows went into which request),
    ``.request_id`` and ``.cost``; None where there is no text. With `by` a frame of the same kind, of files a DuckDB
    relation, with a row for each group in the order of their first rows: the columns `by`, `into`, `into`_error and
    `into`_rows, how many rows it has. Missing values are a group.

    Args:
        df: as for ``summarize``.
        column: the column of texts.
        by: one or more columns; rows with equal values are a group.
        into: the new column.
        system: the system message.
        prompt: the template of the question; ``{documents}`` is where the rows go.
        {options}

    Raises:
        UnknownColumnError, InputError, ConfigurationError: nothing was sent.
        CallError: without `by`: what kept the answer from being made.
        StoreError: the ledger cannot record; nothing more is sent, and running it again goes on.
        BatchError: with `by` and on_error="raise".
    """
    made = _made(column, by, into, system, prompt, options)
    current = app()
    batch = made(current, df)
    return run_in_cell(current, batch.run, "reduce", Options.of(options, "reduce"), Reduce.unit)


@with_options
async def areduce(
    df: Any,
    column: str,
    *,
    by: str | Sequence[str] | None = None,
    into: str = "summary",
    system: str | None = SYSTEM,
    prompt: str = PROMPT,
    **options: Any,
) -> Any:
    """``reduce`` for async code; the same but for the bar.

    Args:
        {options}
    """
    made = _made(column, by, into, system, prompt, options)
    current = app()
    batch = await asyncio.to_thread(made, current, df)
    return await current.arun(batch.run(Progress(False), Control()))


def _made(
    column: str, by: Any, into: str, system: str | None, prompt: str, options: dict[str, Any]
) -> Callable[[App, Any], _Reducing]:
    operation = Reduce(column, _columns(by), into, system, prompt)
    checked = Options.of(options, "reduce")
    return lambda owner, data: _Reducing(owner, operation, data, checked)
