"""Requests become a provider's batch: groups of them, as far as budgets allow, written, uploaded, begun.

Part of ``provider_batches``, on the background loop. Promises: all rows are durable before anything is sent; a batch is
begun once, and where that is not known for sure the provider is asked first.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

from ipyconvexai.application import App
from ipyconvexai.batch.asks import PATH, Ask
from ipyconvexai.batch.provider_rows import GROUP_BYTES, GROUP_ROWS, Row
from ipyconvexai.errors import BudgetError, CallError, Error, InputError, LimitError
from ipyconvexai.ids import new_id
from ipyconvexai.providers.batching import DISCOUNT, BatchApi, Remote, body_text, request_line
from ipyconvexai.providers.endpoints import Endpoint
from ipyconvexai.store.clock import utc_now
from ipyconvexai.store.ledger import Intent
from ipyconvexai.values import Caller, Purse

__all__ = ["OpenError", "Prepared", "Sleep", "Writer", "affordable", "begun"]

LONGEST_PAUSE = 60.0  # seconds
_PAUSES = (1.0, 4.0, 15.0)  # seconds before another attempt to begin a batch

Sleep = Callable[[float], Awaitable[None]]


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """A request that is ready to be written."""

    ask: Ask
    id: str
    body: str
    tokens: int
    usd: float | None


class OpenError(CallError):
    """Whether the batch was begun is not known: it stays as it is, and is looked at again."""

    def __init__(self, error: Error) -> None:
        cure = "Run it again: the provider is asked first whether it has the batch."
        super().__init__(error.message, cure=cure, code=error.code, retryable=error.retryable)


class Writer:
    """Writes the requests of batches at one endpoint, for one caller.

    `refused` gathers cache keys of requests that are not sent, and why.
    """

    def __init__(self, app: App, endpoint: Endpoint, caller: Caller, refused: dict[str, Error]) -> None:
        self._app = app
        self._endpoint = endpoint
        self._caller = caller
        self._refused = refused

    async def groups(self, asks: Iterable[Ask], most_requests: int, most_bytes: int) -> AsyncIterator[list[Prepared]]:
        """What goes into one batch each; what cannot be sent at all is refused."""
        group: list[Prepared] = []
        size = 0
        for number, ask in enumerate(asks):
            if number % GROUP_ROWS == GROUP_ROWS - 1:
                await asyncio.sleep(0)  # others want the loop, too
            try:
                one = await self._prepared(ask)
            except InputError as error:
                self._refused[ask.key] = error
                continue
            length = len(request_line(one.id, one.body))
            if group and (len(group) >= most_requests or size + length > most_bytes):
                yield group
                group, size = [], 0
            group.append(one)
            size += length
        if group:
            yield group

    async def _prepared(self, ask: Ask) -> Prepared:
        body = ask.body()
        text = body_text(body)
        usage, usd = await self._app.wiring.corridor.estimate(self._endpoint, PATH, body)
        half = None if usd is None else usd * DISCOUNT
        return Prepared(ask, new_id(), text, min(usage.total_tokens, 2**31 - 1), half)

    async def admit(self, key: str, group: list[Prepared]) -> tuple[list[Prepared], Error | None]:
        """Write the requests as far as budgets allow: those that were, and the error that forbids any further ones.

        Raises:
            StoreError: the ledger cannot record.
        """
        admitted: list[Prepared] = []
        over: Error | None = None
        for part in _parts(group):
            written, over = await self._admit_part(key, part)
            admitted += written
            if over is not None:
                taken = {one.id for one in admitted}
                for one in group:
                    if one.id not in taken:
                        self._refused.setdefault(one.ask.key, over)
                break
        return admitted, over

    async def _admit_part(self, key: str, part: list[Prepared]) -> tuple[list[Prepared], Error | None]:
        """All of them in one step; where that is too much, by halves, until one stands alone."""
        intents = [self._intent(key, one) for one in part]
        note = {"waits": False, "batched": True}
        try:
            await self._app.records.admit_all(intents, record=self._caller.record, note=note)
        except LimitError as error:
            if len(part) == 1:
                self._refused[part[0].ask.key] = error
                return [], None if error.code == "never_fits" else error  # that one is too large: others may fit
        else:
            return part, None
        middle = len(part) // 2
        first, over = await self._admit_part(key, part[:middle])
        if over is not None:
            return first, over
        second, over = await self._admit_part(key, part[middle:])
        return first + second, over

    def _intent(self, key: str, one: Prepared) -> Intent:
        caller = self._caller
        return Intent(
            id=one.id,
            attempt=1,
            retry_of=None,
            sent_at=utc_now(),
            provider=self._endpoint.provider,
            model=self._endpoint.model or None,
            endpoint=PATH,
            base_url=self._endpoint.identity,
            stream=False,
            cache_key=one.ask.key,
            body=one.body,
            body_bytes=None,
            body_size=len(one.body.encode()),
            user_id=caller.user_id or self._app.settings.user,
            source=caller.source,
            notebook=caller.notebook,
            cell_id=caller.cell_id,
            conversation_id=caller.conversation_id,
            batch_id=caller.batch_id,
            session_id=key,
            reserved_tokens=one.tokens,
            reserved_usd=one.usd,
        )


def affordable(
    key: str, group: list[Prepared], purse: Purse | None, refused: dict[str, Error]
) -> tuple[list[Prepared], Error | None]:
    """The first of them that the purse holds together, taken from it as one; and the error of the others."""
    if purse is None:
        return group, None
    left, total, count = purse.left, 0.0, 0
    error: Error | None = None
    for one in group:
        if one.usd is None:
            why = f"the price of {one.ask.recipe.endpoint.name} is not known, and this batch has a budget"
            cure = "Run it without the budget, or use a model whose price is known."
            error = BudgetError(why, cure=cure, code="price_unknown", retryable=False)
            break
        if total + one.usd > left:
            rest = max(0.0, left - total)
            why = f"the next request may cost ${one.usd:.4g}, and ${rest:.4g} of ${purse.usd:g} are left"
            error = BudgetError(why, cure="Run it again with a higher budget: what was sent is not sent again.")
            break
        total += one.usd
        count += 1
    while count and not purse.take(key, total):  # somebody took of it meanwhile
        count -= 1
        total = sum(one.usd or 0.0 for one in group[:count])
        error = error or BudgetError("the budget is spent", cure="Run it again with a higher budget.")
    if error is not None:
        refused.update((one.ask.key, error) for one in group[count:])
    return group[:count], error


async def begun(api: BatchApi, row: Row, file_id: str, sleep: Sleep) -> Remote:
    """Begin a batch, once: before each attempt but a first one the provider is asked whether it has it.

    Raises:
        OpenError: it may have been begun.
        CallError, ConfigurationError: it was refused.
    """
    since = row.created_at.replace(tzinfo=datetime.UTC).timestamp()
    if row.file_id is not None and (found := await _found(api, row, since)) is not None:
        return found
    for pause in (*_PAUSES, None):
        try:
            return await api.create(file_id, row.id)
        except CallError as error:
            if not error.retryable:
                raise
            if pause is None:
                raise OpenError(error) from None
            await sleep(max(pause, min(error.retry_after or 0.0, LONGEST_PAUSE)))
        if (found := await _found(api, row, since)) is not None:
            return found
    raise AssertionError  # the last attempt gives a batch or raises


async def _found(api: BatchApi, row: Row, since: float) -> Remote | None:
    try:
        return await api.find(row.id, since)
    except Error as error:
        raise OpenError(error) from None


def _parts(group: list[Prepared]) -> Iterator[list[Prepared]]:
    """Rows that travel to the ledger together."""
    part: list[Prepared] = []
    size = 0
    for one in group:
        if part and (len(part) >= GROUP_ROWS or size + len(one.body) > GROUP_BYTES):
            yield part
            part, size = [], 0
        part.append(one)
        size += len(one.body)
    if part:
        yield part
