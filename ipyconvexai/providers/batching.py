"""A provider's Batch API through the SDK: files of requests go up, files of answers come down. Calls clients, reading.

The lines are those of https://platform.openai.com/docs/guides/batch. Promises: a batch is begun by one request that is
never repeated by itself; answers are read line by line; what the SDK raises comes out as an error of our tree.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import openai

from ipyconvexai.errors import ConfigurationError, InputError, RefusedError
from ipyconvexai.providers.clients import AsyncOpenAI
from ipyconvexai.providers.corridor import CALLER
from ipyconvexai.providers.endpoints import Endpoint
from ipyconvexai.providers.faults import translate
from ipyconvexai.providers.prices import cost_usd
from ipyconvexai.providers.reading import Reading, error_of, read_answer, sound
from ipyconvexai.values import Caller, Usage

__all__ = ["DISCOUNT", "BatchApi", "Line", "Remote", "batch_cost", "body_text", "read_line", "request_line"]

# "Each model will be offered at 50% cost discount vs. the synchronous APIs": https://help.openai.com/en/articles/9197833
DISCOUNT = 0.5
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
UPLOAD_TIMEOUT = 600.0  # seconds for a whole file
OURS = "ipyconvexai"  # the key of our id in a batch's metadata
_ABSENT = (404, 405, 501)
_CLOCKS_DIFFER = 3600.0  # seconds that ours and the provider's may differ


@dataclass(frozen=True, slots=True)
class Remote:
    """A batch as the provider tells of it. `files`: of answers and of errors, those that there are."""

    id: str
    state: str
    files: tuple[str, ...]
    completed: int
    failed: int
    error_code: str | None
    error_message: str | None

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one request. `http_status`: None where it was not even tried."""

    custom_id: str
    http_status: int | None
    provider_request_id: str | None
    body: str | None
    reading: Reading


def batch_cost(provider: str, model: str, usage: Usage) -> float | None:
    """US dollars for one request of a batch; None: the price, or the usage, is not known."""
    cost = cost_usd(provider, model, usage)
    return None if cost is None else cost * DISCOUNT


class BatchApi:
    """One provider's. `caller` is written into the rows of what is sent."""

    def __init__(self, client: AsyncOpenAI, endpoint: Endpoint, caller: Caller) -> None:
        self._client = client
        self._endpoint = endpoint
        # Of the batch's own circumstances only who asks: its purse and gate are for requests to the model. The file's
        # content is in the rows of its requests.
        self._caller = replace(
            Caller(record="metadata"),
            source=caller.source,
            user_id=caller.user_id,
            notebook=caller.notebook,
            cell_id=caller.cell_id,
            batch_id=caller.batch_id,
        )

    async def upload(self, name: str, content: bytes) -> str:
        """The provider's id of a new file of requests.

        Raises:
            ConfigurationError: there is no Batch API here.
            CallError: it was not taken.
        """
        with self._speaking():
            file = await self._client.files.create(
                file=(name, content, "application/jsonl"), purpose="batch", timeout=UPLOAD_TIMEOUT
            )
        return str(file.id)

    async def create(self, file_id: str, ours: str) -> Remote:
        """Begin the batch. One attempt: after an error that leaves it open, ask ``find`` before another.

        Raises:
            ConfigurationError, CallError: as ``upload``.
        """
        with self._speaking(retries=0):
            batch = await self._client.batches.create(
                input_file_id=file_id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={OURS: ours},
            )
        return _remote(batch)

    async def find(self, ours: str, since: float) -> Remote | None:
        """The batch that was begun under our id after `since` (seconds since the epoch), if there is one."""
        with self._speaking():
            async for batch in self._client.batches.list(limit=100):  # the newest first
                if (batch.metadata or {}).get(OURS) == ours:
                    return _remote(batch)
                if (batch.created_at or since) < since - _CLOCKS_DIFFER:
                    break
        return None

    async def retrieve(self, batch_id: str) -> Remote:
        with self._speaking():
            return _remote(await self._client.batches.retrieve(batch_id))

    async def cancel(self, batch_id: str) -> Remote:
        """Ask for its end; what has been answered until then stays, and is billed."""
        with self._speaking():
            return _remote(await self._client.batches.cancel(batch_id))

    async def lines(self, file_id: str) -> AsyncGenerator[bytes, None]:
        """The lines of a file, while it arrives."""
        with self._speaking():
            async with self._client.files.with_streaming_response.content(file_id) as response:
                rest: list[bytes] = []
                async for chunk in response.iter_bytes():
                    *lines, last = chunk.split(b"\n")  # not by what else ends lines in Unicode: it may stand in a text
                    for line in lines:
                        rest.append(line)
                        yield b"".join(rest)
                        rest = []
                    rest.append(last)
        if any(rest):
            yield b"".join(rest)

    @contextlib.contextmanager
    def _speaking(self, retries: int | None = None) -> Iterator[None]:
        """In here the corridor knows who asks, and errors become ours."""
        before = CALLER.get()
        CALLER.set(replace(self._caller, retries=retries, stop=before.stop))
        try:
            yield
        except Exception as error:
            if isinstance(error, RefusedError) or getattr(error, "status_code", None) in _ABSENT:
                found: Exception = self._absent(error)
            else:
                found = translate(
                    error,
                    provider=self._endpoint.provider,
                    model=self._endpoint.model,
                    key_variable=self._endpoint.key_variable,
                )
        else:
            return
        finally:
            CALLER.set(before)  # not by its token: a generator may be closed in another context
        raise found from None

    def _absent(self, error: Exception) -> Exception:
        path = error.request.url.path if isinstance(error, openai.APIStatusError) else ""
        if path.rstrip("/").endswith(("/files", "/batches")) or isinstance(error, RefusedError):
            return ConfigurationError(
                f"{self._endpoint.provider} has no Batch API at this address",
                cure='Leave out engine="openai-batch": the same requests are then sent one by one.',
                code="no_batch_api",
            )
        return translate(error, provider=self._endpoint.provider, model="", key_variable=self._endpoint.key_variable)


def _remote(batch: Any) -> Remote:
    """Providers leave out what they do not know; the SDK checks nothing."""
    counts = getattr(batch, "request_counts", None)
    errors = getattr(getattr(batch, "errors", None), "data", None) or []
    first = errors[0] if errors else None
    said = [f"{f'line {error.line}: ' if getattr(error, 'line', None) else ''}{error.message}" for error in errors[:3]]
    if len(errors) > len(said):
        said.append(f"and {len(errors) - len(said)} more")
    return Remote(
        id=str(batch.id),
        state=str(batch.status),
        files=tuple(file for name in ("output_file_id", "error_file_id") if (file := getattr(batch, name, None))),
        completed=int(getattr(counts, "completed", 0) or 0),
        failed=int(getattr(counts, "failed", 0) or 0),
        error_code=getattr(first, "code", None),
        error_message="; ".join(said) or None,
    )


# ---------------------------------------------------------------------------------------------- lines
def body_text(body: dict[str, Any]) -> str:
    """A body as it is sent and kept.

    Raises:
        InputError: it cannot be sent.
    """
    try:
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:  # of half characters, too
        raise InputError(f"this cannot be sent: {error}", cure="Parameters must be plain JSON values.") from None
    return text


def request_line(custom_id: str, body: str) -> bytes:
    """One line of a file of requests."""
    return f'{{"custom_id":"{custom_id}","method":"POST","url":"/v1/chat/completions","body":{body}}}\n'.encode()


def read_line(line: bytes) -> Line | None:
    """One line of a file of answers or errors; None where it says of no request what became of it."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    custom_id = data.get("custom_id") if isinstance(data, dict) else None
    if not isinstance(custom_id, str):
        return None
    response, error = data.get("response"), data.get("error")
    if not isinstance(response, dict):
        code, message = error_of(json.dumps({"error": error}).encode()) if error else (None, "")
        reading = Reading(
            usage=Usage(0, 0), error_code=code or "no_answer", error_message=message or "the batch has no answer to it"
        )
        return Line(custom_id, None, None, None, reading)
    body = sound(json.dumps(response.get("body"), ensure_ascii=False))
    status, request_id = response.get("status_code"), response.get("request_id")
    status = status if isinstance(status, int) and 0 < status < 1000 else 200
    if status >= 400:
        code, message = error_of(body.encode())
        reading = Reading(error_code=code, error_message=message or f"status {status}")
    else:
        reading = read_answer(body.encode(), "chat/completions")
    return Line(custom_id, status, request_id if isinstance(request_id, str) else None, body, reading)
