"""Pictures from an image endpoint, read once, here. Calls clients, faults, reading and prices; opens no picture.

Promise: what the SDK raises, and an answer without any picture, comes out as an error of our tree.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ipyconvexai.errors import InvalidAnswerError
from ipyconvexai.providers.clients import AsyncOpenAI
from ipyconvexai.providers.corridor import REPLAYED_HEADER, REQUEST_ID_HEADER
from ipyconvexai.providers.endpoints import Endpoint
from ipyconvexai.providers.faults import broken_off, translate
from ipyconvexai.providers.prices import cost_usd
from ipyconvexai.providers.reading import Reading, read_answer, sound

__all__ = ["DEFAULT_MODELS", "Drawn", "Images", "generate_images", "image_body"]

# Used where a provider is named and no model of its: a cheap one without an announced end. The others have to be named.
DEFAULT_MODELS = {"openai": "gpt-image-2.5-flare"}

_PATH = "images/generations"


@dataclass(frozen=True, slots=True)
class Drawn:
    """One picture: its base64 text, or the address it lies at; and the prompt as the provider rewrote it."""

    base64: str | None
    url: str | None
    revised_prompt: str | None


@dataclass(frozen=True, slots=True)
class Images:
    """What came back; the fields are those of a chat's answer, and the model that was asked."""

    model: str
    drawn: tuple[Drawn, ...]
    reading: Reading
    request_id: str | None
    replayed: bool
    cost: float | None


def image_body(endpoint: Endpoint, prompt: str, params: dict[str, Any]) -> dict[str, Any]:
    """The request. OpenAI's models answer in base64 only and refuse to be asked for it; others would send addresses."""
    asked = {} if "gpt-image" in endpoint.model else {"response_format": "b64_json"}
    return {"model": endpoint.model, "prompt": prompt, **asked, **params}


async def generate_images(
    client: AsyncOpenAI, endpoint: Endpoint, body: dict[str, Any], timeout: float | None = None
) -> Images:
    """Ask for pictures.

    Raises:
        CallError: the call failed, or the answer holds no picture.
        InputError: the body is no JSON; nothing was sent.
        StoreError: the ledger cannot record; nothing was sent.
    """
    try:
        response = await client.post_json(f"/{_PATH}", body, timeout)
    except Exception as error:
        raise translate(
            error, provider=endpoint.provider, model=endpoint.model, key_variable=endpoint.key_variable
        ) from None
    request_id = response.headers.get(REQUEST_ID_HEADER)
    reading = read_answer(response.content, _PATH)
    if reading.error_message and reading.error_code != "unreadable_answer":
        raise broken_off(endpoint.provider, reading.error_message, request_id)
    drawn = _drawn(response.content)
    if not drawn:
        raise InvalidAnswerError(
            f"{endpoint.provider} answered without any picture",
            cure=f"Does {endpoint.model} draw? What came is in the ledger under this request.",
            request_id=request_id,
        )
    replayed = response.headers.get(REPLAYED_HEADER) == "true"
    cost = 0.0 if replayed else cost_usd(endpoint.provider, reading.model or endpoint.model, reading.usage)
    return Images(endpoint.model, drawn, reading, request_id, replayed, cost)


def _drawn(content: bytes) -> tuple[Drawn, ...]:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return ()
    items = data.get("data") if isinstance(data, dict) else None
    held = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    found = [Drawn(*(_text(item.get(name)) for name in ("b64_json", "url", "revised_prompt"))) for item in held]
    return tuple(one for one in found if one.base64 or one.url)


def _text(value: Any) -> str | None:
    return sound(value) if isinstance(value, str) and value else None
