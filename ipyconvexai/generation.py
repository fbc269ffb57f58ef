"""Asking a model: one prompt in, one ``Reply`` out, whole or streamed. Floor 3: calls providers and the store.

Everything here runs on the background loop; ``application`` bridges to sync code. Promises: an empty prompt is never
sent; what the SDK raises comes out as an error of our tree; a conversation gets question and answer or neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from ipyconvexai.errors import EmptyPromptError, InputError
from ipyconvexai.providers.clients import AsyncOpenAI, Wiring
from ipyconvexai.providers.corridor import CALLER
from ipyconvexai.providers.endpoints import Endpoint, resolve
from ipyconvexai.providers.exchange import Answer, chat, stream
from ipyconvexai.providers.schemas import parse_answer, response_format
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
        self._clients: dict[tuple[str, int], AsyncOpenAI] = {}

    # ------------------------------------------------------------------------------------------ endpoints
    async def endpoint(self, model: str | None) -> Endpoint:
        """Where `model` is reached. Blocking (a local model starts), so in a thread."""
        return await asyncio.to_thread(resolve, model, settings=self._settings)

    def client(self, endpoint: Endpoint) -> AsyncOpenAI:
        # By what a client is made of: a local model that was started anew has another port and key.
        # The key itself would show in a repr of this dictionary.
        address = (endpoint.base_url, hash(endpoint.key.reveal()) if endpoint.key else 0)
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
        """One reply to one question.

        Raises:
            InputError, ConfigurationError: nothing was sent.
            CallError: the call failed.
            StoreError: the ledger cannot record.
        """
        endpoint, conversation, body = await self._prepare(question)
        started = time.perf_counter()
        with self._introduced(question, conversation):
            answer = await chat(self.client(endpoint), endpoint, body, self._timeout(question))
        return await self._reply(question, endpoint, answer, conversation, time.perf_counter() - started)

    async def stream(self, question: Question) -> AsyncIterator[str | Reply]:
        """The same as text deltas while they come, then the ``Reply``."""
        endpoint, conversation, body = await self._prepare(question)
        started = time.perf_counter()
        parts = stream(self.client(endpoint), endpoint, body, self._timeout(question))
        answer: str | Answer | None
        with self._introduced(question, conversation):  # the request is made before the first part comes
            answer = await anext(parts, None)
        try:
            while isinstance(answer, str):
                yield answer
                answer = await anext(parts, None)
        finally:
            await parts.aclose()  # type: ignore[attr-defined] # an async generator
        assert answer is not None
        yield await self._reply(question, endpoint, answer, conversation, time.perf_counter() - started)

    async def _prepare(self, question: Question) -> tuple[Endpoint, str | None, dict[str, Any]]:
        """Whatever can be wrong with a question is found here, before anything is sent."""
        check_prompt(question.prompt)
        if question.replay is not None:
            parse_replay(question.replay)
        form = None if question.schema is None else response_format(question.schema)
        endpoint = await self.endpoint(question.model)
        conversation = await self._conversation(question)
        body = await self._body(question, endpoint, conversation)
        return endpoint, conversation, body if form is None else {**body, "response_format": form}

    @contextlib.contextmanager
    def _introduced(self, question: Question, conversation: str | None) -> Iterator[None]:
        """Tell the corridor about this call, and this call only."""
        caller = CALLER.get()
        replay = caller.replay if question.replay is None else parse_replay(question.replay)
        token = CALLER.set(dataclasses.replace(caller, replay=replay, conversation_id=conversation))
        try:
            yield
        finally:
            CALLER.reset(token)

    def _timeout(self, question: Question) -> float:
        return self._settings.timeout if question.timeout is None else question.timeout

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
        return body | {name: value for name, value in question.params.items() if value is not None}

    async def _conversation(self, question: Question) -> str | None:
        if question.conversation is None:
            return None
        return await asyncio.to_thread(find_conversation, self._ledger, question.conversation, self._settings.user)

    async def _remember(self, question: Question, reply: Reply) -> None:
        """Question and answer join the conversation together; a failed call leaves it as it was."""
        if reply.conversation_id is None:
            return
        asked = [(str(message["role"]), _text_of(message)) for message in _messages(question.prompt)]
        messages = [*asked, ("assistant", reply.text)]
        await asyncio.to_thread(add_messages, self._ledger, reply.conversation_id, messages, reply.request_id)

    # ------------------------------------------------------------------------------------------ what came back
    async def _reply(
        self, question: Question, endpoint: Endpoint, answer: Answer, conversation: str | None, duration: float
    ) -> Reply:
        reading, schema = answer.reading, question.schema
        text = reading.text or ""
        reply = Reply(
            text=text,
            usage=reading.usage,
            cost=answer.cost,
            model=reading.model or endpoint.model,
            finish_reason=reading.finish_reason,
            request_id=answer.request_id,
            conversation_id=conversation,
            replayed=answer.replayed,
            parsed=None if schema is None else parse_answer(schema, text, answer.request_id),
            duration=duration,
            raw=_json(answer.content),
        )
        await self._remember(question, reply)
        return reply


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
    if not all(isinstance(message, Mapping) and message.get("role") for message in prompt):
        raise InputError("a message has no role", cure='For example: {"role": "user", "content": "..."}.')


def _messages(prompt: Prompt) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [dict(message) for message in prompt]


def _text_of(message: Mapping[str, Any]) -> str:
    """What a conversation keeps of a message: its text, without pictures and sounds."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part["text"]) for part in content if isinstance(part, Mapping) and part.get("text"))
    return str(content or "")


def _json(content: bytes) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
