"""Batches row by row: each row of a frame is an input, and gets its result in new columns. Calls ``running``.

Promises: equal inputs are sent once; null in, null out; the same kind of frame comes back, in its order; of what is
larger than memory only some chunks are held.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

from ipyconvexai.application import App, app
from ipyconvexai.batch.asks import Result, Task
from ipyconvexai.batch.batches import Entry
from ipyconvexai.batch.collector import put_off
from ipyconvexai.batch.columns import Output, array_of, fits
from ipyconvexai.batch.control import Control
from ipyconvexai.batch.details import beside, columns_beside, error_column
from ipyconvexai.batch.opening import open_source
from ipyconvexai.batch.options import Options
from ipyconvexai.batch.progress import Progress
from ipyconvexai.batch.runner import Chunk, Item
from ipyconvexai.batch.running import Batch, Operation, run_in_cell
from ipyconvexai.batch.sources import Sink, Source
from ipyconvexai.errors import Error, InputError, InvalidAnswerError

__all__ = ["RowBatch", "RowOperation", "arun", "run"]

FIRST_CHUNK = 1024  # rows; doubled while the ledger knows all of a chunk, for then asking it is what takes the time
LARGEST_CHUNK = 16_384
LIGHT = 50_000  # characters of a text that is cut in no time
MOST_REMEMBERED = 100_000  # failed inputs, so that equal ones of later chunks are not sent


class RowOperation(Operation, Protocol):
    """An operation over the columns of a row."""

    documents: bool  # whether its texts are documents to keep

    def text(self, values: Sequence[Any]) -> str | None:
        """What is asked about, of the row's values in the order of ``columns``; None: nothing.

        Raises:
            InputError: these values cannot be asked about; it becomes the row's error.
        """

    def task(self, text: str) -> Task:
        """What becomes of it."""

    def values(self, value: Any) -> Sequence[Any]:
        """One for each of ``outputs``; `value` is a result's, and not None."""


Make = Callable[[Sequence[str]], RowOperation]  # of the columns that there are


class RowBatch:
    """One run over `data`. Wrong options, columns and names are found when it is made."""

    def __init__(self, owner: App, make: Make, data: Any, options: Options) -> None:
        self._app = owner
        self._options = options
        self._source: Source = open_source(data)
        self._operation = operation = make(self._source.columns)
        self._source.check(operation.columns)
        self._outputs = self._checked_outputs()
        self._sink: Sink | None = None
        self._known: dict[str, Item] = {}  # inputs of open chunks
        self._failed: dict[str, Result] = {}
        self._seen: set[int] = set()  # of a dry run, which holds no inputs
        self._failures = 0
        self._first_failure: Error | None = None
        self._rows = 0
        self._keeping: list[asyncio.Task[Any]] = []
        self._batch = Batch(
            owner,
            operation,
            options,
            described=self._source.description,
            fingerprint=self._source.fingerprint(operation.columns),
        )

        self._batch.begun = self._looked_up
        self._size = FIRST_CHUNK

    @property
    def kind(self) -> str:
        return self._operation.kind

    # ------------------------------------------------------------------------------------------ names
    def _checked_outputs(self) -> list[Output]:
        """The new columns: values, error, details.

        Raises:
            InputError: two have one name, or one would replace a column that was not made by a batch.
        """
        operation = self._operation
        error = error_column(operation.into)
        outputs = [*operation.outputs, *columns_beside(operation.into, self._options.wanted)]
        names = [output.name for output in outputs]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(
                f"two new columns have the name {twice!r}", cure='Use another into="...". Nothing was sent.'
            )
        there = self._source.columns
        for name in names:
            if name in operation.columns:
                what = f"the new column {name!r} would replace one that is read"
            elif name in there and error not in there:  # with its error column it is from an earlier run
                what = f"the frame has a column {name!r} already"
            else:
                continue
            raise InputError(what, cure='Use another into="...", or drop it first. Nothing was sent.')
        return outputs

    # ------------------------------------------------------------------------------------------ running
    async def run(self, bar: Progress, control: Control) -> Any:
        """The frame with its new columns.

        Raises:
            InputError, ConfigurationError: nothing was sent.
            StoreError: the ledger cannot record.
            BatchError: with on_error="raise".
        """
        if self._options.dry_run:
            return await self._batch.plan(self._chunks(bar))
        self._sink = await asyncio.to_thread(self._source.sink, self._outputs, self._options.output)
        try:
            bar.begin(self._source.rows, 0)
            await self._batch.run(self._chunks(bar), self._take, bar, control)
            self._batch.check_failures(self._failures, self._first_failure, self._rows)
            return await asyncio.to_thread(self._sink.finish)
        except BaseException:
            self._sink.discard()
            raise

    async def _chunks(self, bar: Progress) -> AsyncIterator[Chunk]:
        read = self._source.chunks(self._operation.columns, LARGEST_CHUNK)
        try:
            while (columns := await asyncio.to_thread(next, read, None)) is not None:
                values = (columns[name] for name in self._operation.columns)
                rows: list[tuple[Any, ...]] = list(zip(*values, strict=True))
                start = 0
                while start < len(rows):
                    size = self._size
                    with put_off():
                        chunk = self._chunk(rows[start : start + size])
                    start += size
                    self._count(chunk, bar, len(chunk.rows))
                    yield chunk
            await asyncio.gather(*self._keeping)
        finally:
            read.close()

    def _chunk(self, rows: list[tuple[Any, ...]]) -> Chunk:
        found: list[Item | Result] = []
        new: list[Item] = []
        late: dict[Item, list[int]] = {}
        for number, values in enumerate(rows, self._rows):
            row = self._row(values)
            if isinstance(row, Result):
                found.append(row)
                continue
            item = self._known.get(row)
            if item is None and self._options.dry_run:
                if (mark := hash(row)) in self._seen:
                    found.append(Result())
                    continue
                self._seen.add(mark)
            if item is None:
                again = functools.partial(self._operation.task, row)
                heavy = len(row) > LIGHT
                item = Item(again(), [], text=row, document=self._operation.documents, heavy=heavy, again=again)
                self._known[row] = item
                new.append(item)
            if item.result is None:
                item.rows.append(number)
            else:
                late.setdefault(item, []).append(number)
            found.append(item)
        self._rows += len(rows)
        for item, numbers in late.items():
            self._entry.met_again(item, numbers)
        return Chunk(found, new)

    def _row(self, values: tuple[Any, ...]) -> str | Result:
        try:
            text = self._operation.text(values)
        except InputError as error:
            return Result(error=error)
        if text is None:
            return Result()
        return self._failed.get(text) or text

    def _count(self, chunk: Chunk, bar: Progress, rows: int) -> None:
        if self._batch.entry is None:  # a dry run
            self._known.clear()
            return
        bar.more(rows, 0, done=sum(isinstance(row, Result) or row.result is not None for row in chunk.rows))
        wrong = sum(isinstance(row, Result) and row.is_failed for row in chunk.rows)
        bar.failed(wrong)
        self._entry.counts["failed"] += wrong
        self._entry.counts["total_rows"] += rows
        self._entry.counts["items"] += len(chunk.new)

    @property
    def _entry(self) -> Entry:
        assert self._batch.entry is not None
        return self._batch.entry

    def _looked_up(self, chunk: Chunk) -> None:
        all_known = all(item.result is not None and item.result.known for item in chunk.new)
        self._size = min(2 * self._size, LARGEST_CHUNK) if all_known else FIRST_CHUNK
        self._keep_documents(chunk)

    def _keep_documents(self, chunk: Chunk) -> None:
        """Beside the sending, which does not need them. What the ledger could answer is there already."""
        if not self._operation.documents or self._options.recall or self._options.dry_run:
            return
        rows = {item.text: item.rows[0] for item in chunk.new if item.text and not (item.result and item.result.known)}

        def about(text: str) -> dict[str, Any]:
            where = self._source.locate(rows[text]) or {}
            return {"from": self._source.description, "column": self._operation.columns[0], **where, "row": rows[text]}

        if rows:
            keep = asyncio.to_thread(self._app.records.add_documents, rows, self._source.kind, about)
            for task in [task for task in self._keeping if task.done()]:
                self._keeping.remove(task)
                task.result()
            self._keeping.append(asyncio.create_task(keep))

    async def _take(self, chunk: Chunk) -> None:
        assert self._sink is not None
        results = chunk.results()
        await asyncio.to_thread(self._write, results)
        for result in results:
            if result.is_failed:
                self._failures += 1
                self._first_failure = self._first_failure or result.error
        for item in chunk.new:
            assert item.text is not None
            if item.result is not None and item.result.is_failed and len(self._failed) < MOST_REMEMBERED:
                self._failed[item.text] = item.result
            if not self._remembers_all:
                self._known.pop(item.text, None)

    def _write(self, results: list[Result]) -> None:
        """Give the sink their columns; a result whose value has no place in its column has failed from then on."""
        assert self._sink is not None
        with put_off():
            columns = self._columns(results)
        self._sink.write(columns)

    @property
    def _remembers_all(self) -> bool:
        """With record="metadata" the ledger knows no answer that a later chunk could ask for."""
        return not self._app.records.keeps_content

    def _columns(self, results: list[Result]) -> dict[str, list[Any]]:
        outputs = self._operation.outputs
        nothing = (None,) * len(outputs)
        values = [nothing if one.value is None else tuple(self._operation.values(one.value)) for one in results]
        for output, column in zip(outputs, zip(*values, strict=True), strict=True):
            try:
                array_of(output, column)
            except InputError:  # one of them has no place in it, and costs the others nothing
                for at, one in enumerate(results):
                    if not fits(outputs, values[at]):
                        values[at], results[at] = nothing, one.failed(_no_place(one))
                break
        columns: dict[str, list[Any]] = {
            output.name: list(column) for output, column in zip(outputs, zip(*values, strict=True), strict=True)
        }
        return columns | beside(results, self._operation.into, self._options.wanted)


def _no_place(result: Result) -> InvalidAnswerError:
    return InvalidAnswerError(
        "the answer has a value that no column of its type can hold",
        cure="Give the field another type, or retry_failed=True asks for it again.",
        request_id=result.done.request_id,
    )


def run(make: Make, data: Any, options: Options) -> Any:
    """The batch in the calling thread, with its bar."""
    current = app()
    batch = RowBatch(current, make, data, options)
    return run_in_cell(current, batch.run, batch.kind, options)


async def arun(make: Make, data: Any, options: Options) -> Any:
    """The same for async code, without a bar."""
    current = app()
    batch = await asyncio.to_thread(RowBatch, current, make, data, options)
    return await current.arun(batch.run(Progress(False), Control()))
