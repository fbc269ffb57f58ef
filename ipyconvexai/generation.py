"""Asking a model: one prompt in, one ``Reply`` out, whole or streamed. Floor 3: calls providers and the store.

Everything here runs on the background loop; ``application`` bridges to sync code. Promises: an empty prompt is never
sent; what the SDK raises comes out as an error of our tree; a conversation gets question and answer or neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from ipyconvexai.errors import EmptyPromptError, InputError, ReplayMissError
from ipyconvexai.ids import new_id
from ipyconvexai.providers.clients import AsyncOpenAI, Wiring
from ipyconvexai.providers.corridor import CALLER
from ipyconvexai.providers.endpoints import Endpoint, resolve
from ipyconvexai.providers.exchange import Answer, chat, stream
from ipyconvexai.providers.schemas import parse_answer, response_format
from ipyconvexai.reply import Reply
from ipyconvexai.settings import Settings, parse_replay, redact
from ipyconvexai.store.conversations import (
    add_messages,
    begin_conversation,
    find_conversation,
    newest_messages,
    settings_of,
)
from ipyconvexai.store.ledger import Ledger
from ipyconvexai.values import Replay, Usage

__all__ = ["Generator", "Plan", "Prompt", "Question"]

Prompt = str | Sequence[Mapping[str, Any]]
Conversation = tuple[str | None, bool]  # its id, and whether it is new

_PATH = "chat/completions"


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """What is asked and how."""

    prompt: Prompt
    model: str | None = None
    system: str | None = None
    conversation: str | None = None
    schema: Any = None
    replay: str | Replay | None = None
    record: str | None = None
    on_limit: str | None = None
    timeout: float | None = None
    base_url: str | None = None
    key_variable: str | None = None
    params: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A question as it will be sent, and what it would take by what such calls took.

    Attributes:
        endpoint: where to.
        body: the whole request: model, messages, parameters.
        usage: estimated tokens.
        cost: estimated US dollars; None: the price is not known.
    """

    endpoint: Endpoint
    body: dict[str, Any]
    usage: Usage
    cost: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class _Prepared:
    """A question that can be sent."""

    question: Question
    endpoint: Endpoint
    conversation: Conversation
    body: dict[str, Any]
    replay: Replay | None


class Generator:
    """Keeps one client per endpoint: making one costs 24 ms of CPU."""

    def __init__(self, wiring: Wiring, ledger: Ledger, settings: Settings) -> None:
        self._wiring = wiring
        self._ledger = ledger
        self._settings = settings
        self._clients: dict[tuple[str, int, bool], AsyncOpenAI] = {}

    def set_replay(self, policy: Replay) -> None:
        """The policy of questions that name none, from now on."""
        self._settings = dataclasses.replace(self._settings, replay=policy)

    # ------------------------------------------------------------------------------------------ endpoints
    async def endpoint(
        self,
        model: str | None,
        base_url: str | None = None,
        key_variable: str | None = None,
        to_send: bool = True,
    ) -> Endpoint:
        """Where `model` is reached. Blocking (a local model starts), so in a thread."""
        return await asyncio.to_thread(
            resolve, model, settings=self._settings, base_url=base_url, key_variable=key_variable, to_send=to_send
        )

    def client(self, endpoint: Endpoint) -> AsyncOpenAI:
        # By what a client is made of: a local model that was started anew has another port and key.
        # The key itself would show in a repr of this dictionary.
        address = (endpoint.base_url, hash(endpoint.key.reveal()) if endpoint.key else 0, endpoint.unready)
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
        asked = await self._prepare(question)
        started = time.perf_counter()
        try:
            answer = await self._chat(asked)
        except ReplayMissError as miss:
            answer = await self._chat(asked := await self._ready(asked, miss))
        return await self._reply(asked, answer, time.perf_counter() - started)

    async def _chat(self, asked: _Prepared) -> Answer:
        with self._introduced(asked):
            return await chat(self.client(asked.endpoint), asked.endpoint, asked.body, self._timeout(asked.question))

    async def stream(self, question: Question) -> AsyncGenerator[str | Reply, None]:
        """The same as text deltas while they come, then the ``Reply``."""
        asked = await self._prepare(question)
        started = time.perf_counter()
        answer: str | Answer | None
        try:
            parts, answer = await self._open(asked)
        except ReplayMissError as miss:
            parts, answer = await self._open(asked := await self._ready(asked, miss))
        try:
            while isinstance(answer, str):
                yield answer
                answer = await anext(parts, None)
        finally:
            await parts.aclose()  # type: ignore[attr-defined] # an async generator
        assert answer is not None
        yield await self._reply(asked, answer, time.perf_counter() - started)

    async def _open(self, asked: _Prepared) -> tuple[AsyncIterator[str | Answer], str | Answer | None]:
        """The parts of an answer, and the first of them: with it the request is made."""
        parts = stream(self.client(asked.endpoint), asked.endpoint, asked.body, self._timeout(asked.question))
        with self._introduced(asked):
            return parts, await anext(parts, None)

    async def plan(self, question: Question) -> Plan:
        """What would be sent and what that would take; nothing is sent, started or written.

        Raises:
            InputError, ConfigurationError: it could not be sent; a missing key is none of these.
            StoreError: the ledger cannot be read.
        """
        asked = await self._prepare(question, to_send=False)
        usage, cost = await self._wiring.corridor.estimate(asked.endpoint, _PATH, asked.body)
        return Plan(asked.endpoint, asked.body, usage, cost)

    async def _prepare(self, question: Question, to_send: bool | None = None) -> _Prepared:
        """Whatever can be wrong with a question is found here, before anything is sent.

        `to_send`: whether its endpoint must be ready; None: unless a recorded answer may stand for it.
        """
        question, replay = self._checked(question)
        form = None if question.schema is None else response_format(question.schema)
        if to_send is None:
            to_send = (replay or CALLER.get().replay or self._settings.replay) is Replay.OFF
        conversation = await self._conversation(question)
        question = await self._as_in(conversation, question)
        endpoint = await self.endpoint(question.model, question.base_url, question.key_variable, to_send)
        body = await self._body(question, endpoint, None if conversation[1] else conversation[0])
        if form is not None:
            body = {**body, "response_format": form}
        return _Prepared(question, endpoint, conversation, body, replay)

    def _checked(self, question: Question) -> tuple[Question, Replay | None]:
        check_prompt(question.prompt)
        for name in ("model", "system", "conversation", "base_url", "key_variable"):
            if not isinstance(value := getattr(question, name), str | None):
                raise InputError(f"{name}={value!r} is no text", cure=f'For example: {name}="...".')
        check_timeout(question.timeout)
        question = dataclasses.replace(question, params=plain_params(question.params))
        if reserved := sorted(_RESERVED & set(question.params)):
            raise InputError(f"{reserved[0]}= is no parameter of a question", cure=_RESERVED_CURE)
        if question.record not in (None, "full", "metadata"):
            raise InputError(f"record={question.record!r} is not known", cure='Use "full" or "metadata".')
        if question.record == "metadata" and question.conversation is not None:
            raise InputError(
                "with record='metadata' nothing is kept that a conversation could go on from",
                cure="Leave out conversation= and give the messages as the prompt, or keep this one.",
            )
        if question.on_limit not in (None, "wait", "raise"):
            raise InputError(f"on_limit={question.on_limit!r} is not known", cure='Use "wait" or "raise".')
        return question, None if question.replay is None else parse_replay(question.replay)

    async def _ready(self, asked: _Prepared, miss: ReplayMissError) -> _Prepared:
        """After `miss`: the same question to an endpoint that can answer it, where it may be sent.

        Raises:
            ReplayMissError: `miss`: nothing may be sent.
            ConfigurationError: what the endpoint lacks.
        """
        policy = asked.replay or CALLER.get().replay or self._settings.replay
        if not asked.endpoint.unready or policy is Replay.ONLY:
            raise miss
        question = asked.question
        endpoint = await self.endpoint(question.model, question.base_url, question.key_variable)
        return dataclasses.replace(asked, endpoint=endpoint)

    @contextlib.contextmanager
    def _introduced(self, asked: _Prepared) -> Iterator[None]:
        """Tell the corridor about this call, and this call only."""
        caller = CALLER.get()
        replay = Replay.ONLY if asked.endpoint.unready else asked.replay or caller.replay
        known = asked.conversation[0] or caller.conversation_id
        limit = asked.question.on_limit or caller.limit
        record = "metadata" if caller.record == "metadata" else asked.question.record
        told = dataclasses.replace(caller, replay=replay, limit=limit, record=record, conversation_id=known)
        token = CALLER.set(told)
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
        return body | endpoint.named(question.params)

    async def _conversation(self, question: Question) -> tuple[str | None, bool]:
        """The conversation's id, and whether it is new: it begins with its first answer."""
        if question.conversation is None:
            return None, False
        found = await asyncio.to_thread(find_conversation, self._ledger, question.conversation)
        return found or new_id(), found is None

    async def _as_in(self, conversation: Conversation, question: Question) -> Question:
        """`question` with the model and the instructions of its conversation, where it names none."""
        known, is_new = conversation
        if known is None or is_new:
            return question
        model, system = await asyncio.to_thread(settings_of, self._ledger, known)
        named = question.model or question.base_url
        return dataclasses.replace(question, model=question.model if named else model, system=question.system or system)

    def _remember(self, question: Question, conversation: Conversation, reply: Reply) -> str | None:
        """Question and answer join the conversation together; a failed call leaves everything as it was. Blocking."""
        known, is_new = conversation
        if known is None or question.conversation is None:
            return None
        if is_new:
            known = begin_conversation(self._ledger, known, question.conversation, self._settings.user)
        asked = [(str(message["role"]), _text_of(message)) for message in _messages(question.prompt)]
        add_messages(self._ledger, known, [*asked, ("assistant", reply.text)], reply.request_id)
        return known

    # ------------------------------------------------------------------------------------------ what came back
    async def _reply(self, asked: _Prepared, answer: Answer, duration: float) -> Reply:
        question, endpoint, conversation = asked.question, asked.endpoint, asked.conversation
        reading, schema = answer.reading, question.schema
        text = redact(reading.text or "")  # as it is recorded, for it will be shown and saved
        reply = Reply(
            text=text,
            usage=reading.usage,
            cost=answer.cost,
            model=reading.model or endpoint.model,
            finish_reason=reading.finish_reason,
            request_id=answer.request_id,
            conversation_id=conversation[0],
            replayed=answer.replayed,
            parsed=None if schema is None else parse_answer(schema, text, answer.request_id),
            duration=duration,
            raw=_json(answer.content),
            tool_calls=reading.tool_calls,
        )
        if conversation[0] is not None:
            joined = await asyncio.to_thread(self._remember, question, conversation, reply)
            reply = dataclasses.replace(reply, conversation_id=joined)
        return reply


# Sent along they would change the kind of the answer, or mean nothing to a provider and be refused.
_RESERVED = frozenset("budget concurrency messages progress stream stream_options".split())
_RESERVED_CURE = "For pieces of text as they come: ai.stream(...). A list of messages goes in as the prompt."


def check_timeout(timeout: float | None) -> None:
    if timeout is not None and not (isinstance(timeout, int | float) and 0 < timeout < math.inf):
        raise InputError(f"timeout={timeout!r} is no number of seconds", cure="Use a number above 0.")


def plain_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as JSON has them: without those that are None, numbers of numpy's as numbers.

    Raises:
        InputError: one cannot be sent.
    """
    plain = {}
    for name, value in params.items():
        value = value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 else value
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise InputError(
                f"{name}={value!r:.80} cannot be sent", cure="Parameters of a provider's are plain JSON values."
            ) from None
        if value is not None:
            plain[name] = value
    return plain


def check_prompt(prompt: Prompt) -> None:
    """Raise EmptyPromptError when there is nothing to send, InputError when it is no prompt."""
    if isinstance(prompt, str):
        if not prompt.strip():
            raise EmptyPromptError("the prompt is empty", cure="Write what you want to ask. Nothing was sent.")
        return
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise InputError(
            f"a prompt is a text or a list of messages, not {type(prompt).__name__}",
            cure='For example: [{"role": "user", "content": "..."}].',
        )
    if not prompt:
        raise EmptyPromptError("the list of messages is empty", cure="Add a message. Nothing was sent.")
    if not all(isinstance(message, Mapping) and message.get("role") for message in prompt):
        raise InputError("a message has no role", cure='For example: {"role": "user", "content": "..."}.')
    last = _messages(prompt)[-1]
    content = last.get("content")
    if last["role"] == "user" and isinstance(content, str) and not content.strip():
        raise EmptyPromptError("the last message is empty", cure="Write what you want to ask. Nothing was sent.")


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
