"""One chat completion through the SDK, with its answer raw: read once, here. Calls clients, faults, reading, prices.

The typed objects of the SDK are for its users; not building them saves 37 % of the CPU of a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from ipyconvexai.errors import Error
from ipyconvexai.providers.catalog import Endpoint
from ipyconvexai.providers.clients import AsyncOpenAI
from ipyconvexai.providers.corridor import REPLAYED_HEADER, REQUEST_ID_HEADER
from ipyconvexai.providers.faults import translate
from ipyconvexai.providers.prices import cost_usd
from ipyconvexai.providers.reading import Reading, read_answer

__all__ = ["Answer", "answered", "chat", "translated"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        reading: text, finish reason, model and usage.
        request_id: its row in the ledger.
        replayed: whether it came from there.
        cost: US dollars; 0.0 for a replay, None where the price is not known.
        content: the answer as it came.
    """

    reading: Reading
    request_id: str | None
    replayed: bool
    cost: float | None
    content: bytes = b""


async def chat(client: AsyncOpenAI, endpoint: Endpoint, body: dict[str, Any], timeout: float | None = None) -> Answer:
    """Send one chat completion.

    Raises:
        CallError: of our tree, whatever the SDK raised.
        StoreError: the ledger cannot record; nothing was sent.
    """
    try:
        response = await client.post(
            "/chat/completions",
            body=body,
            cast_to=httpx2.Response,
            options={} if timeout is None else {"timeout": timeout},
        )
    except Exception as error:
        raise translated(error, endpoint) from None
    return answered(endpoint, read_answer(response.content), response.headers, response.content)


def answered(endpoint: Endpoint, reading: Reading, headers: Mapping[str, str], content: bytes = b"") -> Answer:
    replayed = headers.get(REPLAYED_HEADER) == "true"
    cost = 0.0 if replayed else cost_usd(endpoint.provider, reading.model or endpoint.model, reading.usage)
    return Answer(reading, headers.get(REQUEST_ID_HEADER), replayed, cost, content)


def translated(error: Exception, endpoint: Endpoint) -> Error:
    return translate(error, provider=endpoint.provider, model=endpoint.model, key_variable=endpoint.key_variable)
