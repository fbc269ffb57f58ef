"""``ctx``: what a query, a mutation or an action is given, and nothing that it may not use. Calls ``tables``.

Promises: time stands still within a query or a mutation; a mutation inside a mutation is part of the same transaction;
an action has no ``ctx.db``; who asks is who connected, or who scheduled.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ipyconvexai.errors import NotAllowedError, Unauthenticated
from ipyconvexai.functions.registry import ACTION_LIMIT, Kind, of
from ipyconvexai.functions.running import Running
from ipyconvexai.functions.scheduling import ActionScheduler, Author, MutationScheduler, SyncActionScheduler
from ipyconvexai.functions.tools import Toolset, as_text, error_of
from ipyconvexai.store.link import Execute, Reads
from ipyconvexai.tables.database import Reader, Writer

if TYPE_CHECKING:
    from ipyconvexai.functions.streaming import MessageStream, Owner, SyncMessageStream

__all__ = ["ActionContext", "MutationContext", "QueryContext", "SyncActionContext"]


class _Context:
    """
    Attributes:
        user_id: who asks; None where that is not known.
        job_id: the job that it runs as, if it does.
        session_id: this process, as the ledger knows it. Messages in the making under its name are given up with it.
    """

    def __init__(self, runner: Running, user_id: str | None, job_id: str | None) -> None:
        self._runner = runner
        self.user_id = user_id
        self.job_id = job_id

    @property
    def session_id(self) -> str:
        return self._runner.store.session_id

    def tools(self, conversation_id: str) -> Toolset:
        """The tools that this process, and no other, has for a conversation."""
        return self._runner.toolbox.of(conversation_id)

    def require_user(self) -> str:
        """Who asks.

        Raises:
            Unauthenticated: nobody is known.
        """
        if not self.user_id:
            raise Unauthenticated(
                "nobody is signed in, and this function wants to know who asks",
                cure='Say who you are: ai.connect(user="ada"), or set JUPYTERHUB_USER.',
            )
        return self.user_id


def _author(runner: Running, user_id: str | None, job_id: str | None) -> Author:
    return Author(user_id=user_id, job_id=job_id, clock=runner.clock, keeps_content=runner.settings.keeps_content)


# What other contexts have, and where it belongs.
_ELSEWHERE = {
    "run_mutation": "a mutation or an action",
    "scheduler": "a mutation or an action",
    "run_action": "an action",
    "openai": "an action",
    "model": "an action",
    "generate": "an action",
    "stream": "an action",
    "call_tool": "an action",
    "post": "an action",
    "send_email": "an action",
}


class QueryContext(_Context):
    """For reading.

    Attributes:
        db: tables and documents, read-only.
        now: the instant of the query, with its zone (UTC); it stands still.
    """

    def __init__(
        self,
        runner: Running,
        execute: Reads,
        user_id: str | None,
        job_id: str | None = None,
        *,
        now: datetime.datetime | None = None,
    ) -> None:
        super().__init__(runner, user_id, job_id)
        self._execute = execute  # rate limits are part of the transaction, too
        self.now = now or runner.clock().replace(tzinfo=datetime.UTC)
        self.db = self._database(execute)

    def _database(self, execute: Any) -> Any:
        return Reader(execute, self._runner.catalog, self.now)

    def __getattr__(self, name: str) -> Any:
        kind = "mutation" if isinstance(self, MutationContext) else "query"
        if name in _ELSEWHERE:
            raise NotAllowedError(f"ctx.{name} is not allowed in a {kind}", cure=f"Do it in {_ELSEWHERE[name]}.")
        raise AttributeError(f"the ctx of a {kind} has no {name!r}", name=name, obj=self)

    def run_query(self, fn: Any, /, **args: Any) -> Any:
        """The result of another query, in the same snapshot."""
        return self._runner.call_inside(of(fn), args, self, Kind.QUERY)


class MutationContext(QueryContext):
    """For writing.

    Attributes:
        db: tables and documents.
        scheduler: ``run_after``, ``run_at`` and ``cancel``; what it schedules exists only if the mutation commits.
    """

    _execute: Execute

    def __init__(
        self,
        runner: Running,
        execute: Execute,
        user_id: str | None,
        job_id: str | None = None,
        *,
        now: datetime.datetime | None = None,
    ) -> None:
        super().__init__(runner, execute, user_id, job_id, now=now)
        self.scheduler = MutationScheduler(execute, _author(runner, user_id, job_id))

    def _database(self, execute: Any) -> Any:
        writer = Writer(execute, self._runner.catalog, self.now)
        writer.keeps_content = self._runner.settings.keeps_content
        return writer

    def run_mutation(self, fn: Any, /, **args: Any) -> Any:
        """The result of another mutation, in the same transaction: if it fails the whole transaction does, even where
        the error is caught (DuckDB has no savepoints)."""
        return self._runner.call_inside(of(fn), args, self, Kind.MUTATION)


class _Acting(_Context):
    def __init__(self, runner: Running, user_id: str | None, job_id: str | None, timeout: float) -> None:
        super().__init__(runner, user_id, job_id)
        # One call with all its attempts fits into the action, or the action would end before it is told why.
        self._patience = min(runner.settings.timeout, 0.9 * timeout / (runner.settings.retries + 1))
        self.ended_by: Callable[[], BaseException | None] = lambda: None  # the runner says: its time limit

    def _owner(self) -> Owner:
        from ipyconvexai.functions.streaming import Owner

        ask = functools.partial(self._runner.services.stream, timeout=self._patience)
        return Owner(self._runner, ask, self.user_id, self.job_id, lambda: self.ended_by())

    @property
    def db(self) -> NoReturn:
        raise AttributeError(
            "an action has no ctx.db: it reads with ctx.run_query and writes with ctx.run_mutation", name="db", obj=self
        )

    @property
    def now(self) -> datetime.datetime:
        """Now, with its zone (UTC); in an action time goes on."""
        return self._runner.clock().replace(tzinfo=datetime.UTC)

    @property
    def model(self) -> str:
        """The name of the model that ``openai`` reaches, as its provider calls it."""
        return self._runner.services.model()


class ActionContext(_Acting):
    """For the outside world, in an ``async def``.

    Attributes:
        openai: an ``AsyncOpenAI`` over the corridor, for the app's model.
        scheduler: as in a mutation, awaited; what it schedules stays when the action fails later.
    """

    def __init__(
        self, runner: Running, user_id: str | None, job_id: str | None = None, timeout: float = ACTION_LIMIT
    ) -> None:
        super().__init__(runner, user_id, job_id, timeout)
        self.scheduler = ActionScheduler(runner.store, _author(runner, user_id, job_id), runner.wake)

    @property
    def openai(self) -> Any:
        return self._runner.services.async_client(self._patience)

    async def generate(self, prompt: Any, **options: Any) -> Any:
        """``ai.generate`` with the same arguments, awaited."""
        return await self._runner.services.generate(prompt, **{"timeout": self._patience, **options})

    async def post(self, address: str, value: Any, **options: Any) -> Any:
        """POST `value` as JSON; gives the answer's ``.status`` and ``.value``. Nothing of it is in the ledger.

        Args:
            address: a URL, or "env:NAME": it stands in that environment variable, where secrets belong.
            value: plain JSON values.
            **options: ``headers``; ``key_variable``, the environment variable with a key, sent as
                ``Authorization: Bearer``; ``timeout`` in seconds (30).

        Raises:
            InputError, ConfigurationError: nothing was sent.
            ProviderError: it was refused; with ``status``, ``retryable`` and ``retry_after``.
            UnreachableError, CallTimeoutError: no connection, no answer.
        """
        return await self._runner.services.post(address, value, **options)

    async def send_email(self, to: str, subject: str, text: str, *, idempotency_key: str | None = None) -> str:
        """Send a plain e-mail through Resend (RESEND_API_KEY, RESEND_DOMAIN); gives its id there.

        Sent again under the same `idempotency_key` it is the same mail. The errors of ``post``.
        """
        return await self._runner.services.send_email(to, subject, text, idempotency_key=idempotency_key)

    async def run_query(self, fn: Any, /, **args: Any) -> Any:
        """A query's result; each is a snapshot of its own."""
        return await self._runner.aquery(of(fn), args, user_id=self.user_id)

    async def run_mutation(self, fn: Any, /, **args: Any) -> Any:
        """A mutation's result; each is a transaction of its own."""
        return await self._runner.amutate(of(fn), args, user_id=self.user_id, job_id=self.job_id)

    async def run_action(self, fn: Any, /, **args: Any) -> Any:
        """Another action's result; several can run at once, with ``asyncio.gather``."""
        return await self._runner.act_with_retries(of(fn), args, user_id=self.user_id, job_id=self.job_id)

    async def call_tool(self, conversation_id: str, name: str, arguments: str) -> str:
        """What a tool of this process gives for arguments in JSON, as the model is told.

        Raises:
            InputError: there is no such tool here, or the arguments do not fit it.
            Exception: what it raised.
        """
        tool = self.tools(conversation_id).find(name)
        function, values = tool.function, tool.values(arguments)
        if function.kind is Kind.QUERY:
            result = await self._runner.aquery(function, values, user_id=self.user_id)
        elif function.kind is Kind.MUTATION:
            result = await self._runner.amutate(function, values, user_id=self.user_id)
        else:
            result = await self._runner.act_with_retries(function, values, user_id=self.user_id)
        return await asyncio.to_thread(as_text, result)

    def told_of(self, error: BaseException) -> str:
        """An error of a tool's in words for the model."""
        return error_of(error)

    def stream(self, message_id: str, *, save: Any = None) -> MessageStream:
        """A message that is saved while it comes: ``async with ctx.stream(id) as out: await out.generate(prompt)``.

        Args:
            message_id: of a message that is there, and not canceled.
            save: a mutation that saves it at a good end, in the transaction that settles it; it is given `message_id`,
                `content`, `finish_reason`, `request_id` and, where it takes them, `tool_calls`. If it fails, so does
                the message, which keeps its text.
        """
        from ipyconvexai.functions.streaming import MessageStream

        return MessageStream(self._owner(), message_id, save)


class SyncActionContext(_Acting):
    """The same for a plain ``def`` action, which runs in a thread: everything blocks, ``openai`` is an ``OpenAI``."""

    def __init__(
        self, runner: Running, user_id: str | None, job_id: str | None = None, timeout: float = ACTION_LIMIT
    ) -> None:
        super().__init__(runner, user_id, job_id, timeout)
        self.scheduler = SyncActionScheduler(runner.store, _author(runner, user_id, job_id), runner.wake)

    @property
    def openai(self) -> Any:
        return self._runner.services.client(self._patience)

    def generate(self, prompt: Any, **options: Any) -> Any:
        options = {"timeout": self._patience, **options}
        return self._runner.wait(self._runner.services.generate(prompt, **options))

    def post(self, address: str, value: Any, **options: Any) -> Any:
        return self._runner.wait(self._runner.services.post(address, value, **options))

    def send_email(self, to: str, subject: str, text: str, *, idempotency_key: str | None = None) -> str:
        return self._runner.wait(self._runner.services.send_email(to, subject, text, idempotency_key=idempotency_key))

    def run_query(self, fn: Any, /, **args: Any) -> Any:
        return self._runner.query(of(fn), args, user_id=self.user_id)

    def run_mutation(self, fn: Any, /, **args: Any) -> Any:
        return self._runner.mutate(of(fn), args, user_id=self.user_id, job_id=self.job_id)

    def run_action(self, fn: Any, /, **args: Any) -> Any:
        return self._runner.wait(self._runner.act_with_retries(of(fn), args, user_id=self.user_id, job_id=self.job_id))

    def stream(self, message_id: str, *, save: Any = None) -> SyncMessageStream:
        from ipyconvexai.functions.streaming import SyncMessageStream

        return SyncMessageStream(self._owner(), message_id, save)
