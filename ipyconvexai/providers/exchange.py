"""One chat completion through the SDK, with its answer raw: read once, here. Calls clients, faults, reading, prices.

The typed objects of the SDK are for its users; not building them saves 37 % of the CPU of a call. Promise: what the SDK
raises, and an error in an answer of status 200, comes out as an error of our tree.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from ipyconvexai.errors import Error, InvalidAnswerError
from ipyconvexai.providers.clients import AsyncOpenAI
from ipyconvexai.providers.corridor import READING, REPLAYED_HEADER, REQUEST_ID_HEADER
from ipyconvexai.providers.endpoints import Endpoint
from ipyconvexai.providers.faults import broken_off, translate
from ipyconvexai.providers.prices import cost_usd
from ipyconvexai.providers.reading import EventReader, Reading, comes_in_events, read_answer

__all__ = ["Answer", "chat", "stream"]


_PATH = "chat/completions"


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
        InputError: the body is no JSON; nothing was sent.
        StoreError: the ledger cannot record; nothing was sent.
    """
    try:
        response = await client.post_json("/chat/completions", body, timeout)
    except Exception as error:
        raise _translated(error, endpoint) from None
    reading = response.extensions.get(READING) or read_answer(response.content, _PATH)
    return _answered(endpoint, reading, response.headers, response.content)


async def stream(
    client: AsyncOpenAI, endpoint: Endpoint, body: dict[str, Any], timeout: float | None = None
) -> AsyncIterator[str | Answer]:
    """The same as pieces of text while they come, then the ``Answer``."""
    reader = EventReader(_PATH)
    whole: list[bytes] = []
    seen = 0
    try:
        # The typed method, because it leaves a stream open; what it does not know by name goes as extra_body.
        async with client.chat.completions.with_streaming_response.create(
            **_named({**body, "stream": True, "stream_options": {"include_usage": True}}),
            timeout=client.timeout if timeout is None else timeout,
        ) as response:
            headers = response.headers
            events = comes_in_events(headers.get("content-type", ""), asked=True)  # some servers do not stream
            async for chunk in response.iter_bytes():
                whole.append(chunk)
                if events:
                    reader.feed(chunk)
                for piece in reader.pieces(seen):
                    seen += 1
                    yield piece
    except Exception as error:
        raise _translated(error, endpoint) from None
    reader.end()
    for piece in reader.pieces(seen):
        yield piece
    content = b"".join(whole)
    reading = reader.result() if events else read_answer(content, _PATH, asked_events=True)
    answer = _answered(endpoint, reading, headers, content)
    if not events and reading.text:
        yield reading.text
    yield answer


_SDK_NAMES = {"model", "messages", "stream", "stream_options", "response_format"}


def _named(body: dict[str, Any]) -> dict[str, Any]:
    known = {name: value for name, value in body.items() if name in _SDK_NAMES}
    extra = {name: value for name, value in body.items() if name not in _SDK_NAMES}
    return {**known, "extra_body": extra} if extra else known


def _answered(endpoint: Endpoint, reading: Reading, headers: Mapping[str, str], content: bytes) -> Answer:
    request_id = headers.get(REQUEST_ID_HEADER)
    if reading.error_code == "unreadable_answer":
        raise InvalidAnswerError(
            f"{endpoint.provider} answered with something that is no chat completion",
            cure="Is it the address of a model's API? What came is in the ledger under this request.",
            request_id=request_id,
        )
    if reading.error_message:
        raise broken_off(endpoint.provider, reading.error_message, request_id)
    replayed = headers.get(REPLAYED_HEADER) == "true"
    cost = 0.0 if replayed else cost_usd(endpoint.provider, reading.model or endpoint.model, reading.usage)
    return Answer(reading, request_id, replayed, cost, content)


def _translated(error: Exception, endpoint: Endpoint) -> Error:
    return translate(error, provider=endpoint.provider, model=endpoint.model, key_variable=endpoint.key_variable)
