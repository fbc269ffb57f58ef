"""Asking a model: one prompt in, one ``Reply`` out, whole or streamed. Floor 3: calls providers and the store.

Everything here runs on the background loop; ``app`` bridges to sync code. Promises: an empty prompt is never sent; what
the SDK raises comes out as an error of our tree; a conversation gets question and answer together or neither.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from ipyconvexai.errors import EmptyPromptError, Error, InputError, InvalidAnswerError
from ipyconvexai.providers.catalog import Endpoint, resolve
from ipyconvexai.providers.clients import AsyncOpenAI, Wiring
from ipyconvexai.providers.corridor import CALLER, REPLAYED_HEADER, REQUEST_ID_HEADER
from ipyconvexai.providers.faults import translate
from ipyconvexai.providers.prices import cost_usd
from ipyconvexai.providers.reading import EventReader, Reading, read_answer
from ipyconvexai.reply import Reply
from ipyconvexai.settings import Settings, parse_replay
from ipyconvexai.store.conversations import add_messages, find_conversation, newest_messages
from ipyconvexai.store.ledger import Ledger
from ipyconvexai.values import Replay

__all__ = ["Generator", "Prompt", "Question"]

Prompt = str | Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """What is asked and how."""

    prompt: Prompt
    model: str | None = None
    system: str | None = None
    conversation: str | None = None
    schema: Any = None
    replay: str | Replay | None = None
    timeout: float | None = None
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Generator:
    """Keeps one client per endpoint: making one costs 24 ms of CPU."""

    def __init__(self, wiring: Wiring, ledger: Ledger, settings: Settings) -> None:
        self._wiring = wiring
        self._ledger = ledger
        self._settings = settings
        self._clients: dict[tuple[str, str], AsyncOpenAI] = {}

    # ------------------------------------------------------------------------------------------ endpoints
    async def endpoint(self, model: str | None) -> Endpoint:
        """Where `model` is reached. Blocking (a local model starts), so in a thread."""
        return await asyncio.to_thread(resolve, model, settings=self._settings)

    def client(self, endpoint: Endpoint) -> AsyncOpenAI:
        # By what a client is made of: a local model that was started anew has another port and key.
        address = (endpoint.base_url, endpoint.key.reveal() if endpoint.key else "")
        client = self._clients.get(address)
        if client is None:
            client = AsyncOpenAI(
                wiring=self._wiring,
                endpoint=endpoint,
                timeout=self._settings.timeout,
                max_retries=self._settings.retries,
            )
            self._clients[address] = client
        return client

    # ------------------------------------------------------------------------------------------ asking
    async def generate(self, question: Question) -> Reply:
        check_prompt(question.prompt)
        endpoint = await self.endpoint(question.model)
        conversation = await self._conversation(question)
        body = await self._body(question, endpoint, conversation)
        self._introduce(question, conversation)
        started = time.perf_counter()
        response = await self._post(endpoint, body, question.timeout)
        reading = read_answer(response.content)
        reply = self._reply(endpoint, reading, response.headers, conversation, time.perf_counter() - started)
        reply = dataclasses.replace(reply, raw=_json(response.content), parsed=_parse(question.schema, reply))
        await self._remember(question, reply)
        return reply

    async def stream(self, question: Question) -> AsyncIterator[str | Reply]:
        """Text deltas, then the ``Reply``."""
        check_prompt(question.prompt)
        endpoint = await self.endpoint(question.model)
        conversation = await self._conversation(question)
        body = await self._body(question, endpoint, conversation)
        self._introduce(question, conversation)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        started = time.perf_counter()
        reader = EventReader("chat/completions")
        seen = 0
        client = self.client(endpoint)
        try:
            async with client.chat.completions.with_streaming_response.create(
                **_split(body), timeout=question.timeout or self._settings.timeout
            ) as response:
                async for chunk in response.iter_bytes():
                    reader.feed(chunk)
                    for piece in reader.pieces(seen):
                        seen += 1
                        yield piece
                headers = response.headers
        except Exception as error:
            raise self._translated(error, endpoint) from None
        reader.end()
        for piece in reader.pieces(seen):
            yield piece
        reading = reader.result()
        if reader.failed:
            raise self._broken(reading, endpoint, headers)
        reply = self._reply(endpoint, reading, headers, conversation, time.perf_counter() - started)
        reply = dataclasses.replace(reply, parsed=_parse(question.schema, reply))
        await self._remember(question, reply)
        yield reply

    def _introduce(self, question: Question, conversation: str | None) -> None:
        """Tell the corridor about this call; the task's context is its own copy."""
        replay = None if question.replay is None else parse_replay(question.replay)
        CALLER.set(
            dataclasses.replace(CALLER.get(), replay=replay or CALLER.get().replay, conversation_id=conversation)
        )

    async def _post(self, endpoint: Endpoint, body: Mapping[str, Any], timeout: float | None) -> Any:
        """One exchange through the SDK; the raw answer is parsed once, here (37 % less CPU than typed objects)."""
        import httpx2

        try:
            return await self.client(endpoint).post(
                "/chat/completions",
                body=dict(body),
                cast_to=httpx2.Response,
                options={"timeout": timeout or self._settings.timeout},
            )
        except Exception as error:
            raise self._translated(error, endpoint) from None

    def _translated(self, error: Exception, endpoint: Endpoint) -> Error:
        return translate(error, provider=endpoint.provider, model=endpoint.model, key_variable=endpoint.key_variable)

    def _broken(self, reading: Reading, endpoint: Endpoint, headers: Mapping[str, str]) -> Error:
        from ipyconvexai.errors import ProviderError

        return ProviderError(
            f"{endpoint.provider} broke off: {reading.error_message or 'no reason given'}",
            cure="What had come is in the ledger under this request. Ask again.",
            request_id=headers.get(REQUEST_ID_HEADER),
            retryable=True,
        )

    # ------------------------------------------------------------------------------------------ what is sent
    async def _body(self, question: Question, endpoint: Endpoint, conversation: str | None) -> dict[str, Any]:
        messages = _messages(question.prompt)
        if conversation is not None:
            earlier = await asyncio.to_thread(newest_messages, self._ledger, conversation)
            messages = [*earlier, *messages]
        system = question.system or endpoint.default_system
        if system and messages[0].get("role") not in ("system", "developer"):
            messages = [{"role": "system", "content": system}, *messages]
        body: dict[str, Any] = {"model": endpoint.model, "messages": messages}
        body |= {name: value for name, value in question.params.items() if value is not None}
        if question.schema is not None:
            body["response_format"] = response_format(question.schema)
        return body

    async def _conversation(self, question: Question) -> str | None:
        if question.conversation is None:
            return None
        return await asyncio.to_thread(find_conversation, self._ledger, question.conversation, self._settings.user)

    async def _remember(self, question: Question, reply: Reply) -> None:
        """Question and answer join the conversation together; a failed call leaves it as it was."""
        if reply.conversation_id is None:
            return
        asked = [(str(m["role"]), str(m["content"])) for m in _messages(question.prompt)]
        messages = [*asked, ("assistant", reply.text)]
        await asyncio.to_thread(add_messages, self._ledger, reply.conversation_id, messages, reply.request_id)

    # ------------------------------------------------------------------------------------------ what came back
    def _reply(
        self,
        endpoint: Endpoint,
        reading: Reading,
        headers: Mapping[str, str],
        conversation: str | None,
        duration: float,
    ) -> Reply:
        replayed = headers.get(REPLAYED_HEADER) == "true"
        model = reading.model or endpoint.model
        return Reply(
            text=reading.text or "",
            usage=reading.usage,
            cost=0.0 if replayed else cost_usd(endpoint.provider, model, reading.usage),
            model=model,
            finish_reason=reading.finish_reason,
            request_id=headers.get(REQUEST_ID_HEADER),
            conversation_id=conversation,
            replayed=replayed,
            duration=duration,
        )


def check_prompt(prompt: Prompt) -> None:
    """Raise EmptyPromptError when there is nothing to send, InputError when it is no prompt."""
    if isinstance(prompt, str):
        if not prompt.strip():
            raise EmptyPromptError("the prompt is empty", cure="Write what you want to ask. Nothing was sent.")
        return
    if not isinstance(prompt, Sequence) or not all(isinstance(message, Mapping) for message in prompt):
        raise InputError(
            f"a prompt is a text or a list of messages, not {type(prompt).__name__}",
            cure='For example: [{"role": "user", "content": "..."}].',
        )
    if not prompt:
        raise EmptyPromptError("the list of messages is empty", cure="Add a message. Nothing was sent.")


def _messages(prompt: Prompt) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [dict(message) for message in prompt]


_SDK_NAMES = {"model", "messages", "stream", "stream_options", "response_format"}


def _split(body: dict[str, Any]) -> dict[str, Any]:
    """For the SDK's typed method: what it knows by name, and the rest as extra_body (a local model's grammar, say)."""
    known = {name: value for name, value in body.items() if name in _SDK_NAMES}
    extra = {name: value for name, value in body.items() if name not in _SDK_NAMES}
    return {**known, "extra_body": extra} if extra else known


def response_format(schema: Any) -> dict[str, Any]:
    """The ``response_format`` parameter for a pydantic model, a dataclass or any other type.

    Raises:
        InputError: pydantic makes no JSON schema of it.
    """
    import pydantic
    from openai.lib._pydantic import to_strict_json_schema

    try:
        adapter = pydantic.TypeAdapter(schema)
        strict = to_strict_json_schema(adapter)
    except (pydantic.errors.PydanticUserError, TypeError) as error:
        raise InputError(
            f"schema={schema!r} has no JSON schema: {error}", cure="Use a pydantic model or a dataclass."
        ) from None
    name = getattr(schema, "__name__", "answer")
    return {"type": "json_schema", "json_schema": {"name": name, "schema": strict, "strict": True}}


def _parse(schema: Any, reply: Reply) -> Any:
    if schema is None:
        return None
    import pydantic

    try:
        return pydantic.TypeAdapter(schema).validate_json(reply.text)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise InvalidAnswerError(
            f"the answer does not fit {getattr(schema, '__name__', 'the schema')}: {where}: {first['msg']}",
            cure="Ask again, or loosen the schema. The answer is in the ledger under this request.",
            request_id=reply.request_id,
        ) from None


def _json(content: bytes) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
