"""``summarize``: a column of texts in, a column of summaries out. Floor 5.

Promises: equal texts are sent once; what the ledger has under the same model, prompt and parameters is not sent again,
so an interrupted or killed run goes on where it was; one bad row costs the others nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from ipyconvexai.application import App, app
from ipyconvexai.batch.frames import column_of, open_frame, with_columns
from ipyconvexai.batch.progress import Progress
from ipyconvexai.batch.runner import Done, Runner, answered
from ipyconvexai.errors import BatchError, Error, InputError
from ipyconvexai.generation import check_timeout, plain_params
from ipyconvexai.ids import new_id
from ipyconvexai.providers.corridor import CALLER, body_bytes, cache_key
from ipyconvexai.providers.endpoints import Endpoint
from ipyconvexai.settings import parse_replay
from ipyconvexai.values import Caller, Replay

__all__ = ["asummarize", "summarize"]

SYSTEM = "You summarize documents. Reply with a faithful summary of exactly two sentences and nothing else."
PROMPT = "Document:\n{document}\n\nTwo-sentence summary:"
RETRIES = 5  # a batch is patient: nobody waits for a single row
CONCURRENCY = 32
LOCAL_CONCURRENCY = 2  # the local server's slots

Frame = TypeVar("Frame")


def summarize(
    df: Frame,
    column: str,
    *,
    into: str = "summary",
    model: str | None = None,
    system: str | None = SYSTEM,
    prompt: str = PROMPT,
    concurrency: int | None = None,
    replay: str | Replay | None = None,
    timeout: float | None = None,
    fresh: bool = False,
    on_error: str = "keep",
    progress: bool = True,
    **params: Any,
) -> Frame:
    """Summarise each text of a column; gives the same kind of frame with the columns `into` and `into`_error.

    Null, empty and non-text cells get null and no call.

    Args:
        df: pandas, polars (eager or lazy), pyarrow table or DuckDB relation.
        column: the column of texts.
        into: the new column; one of this name is replaced.
        model: ``provider:model``; None: as ``generate``.
        system: the system message.
        prompt: the template of the question; ``{document}`` is the text.
        concurrency: requests being sent at once; default 32, for the local model 2.
        replay: "only": what is not in the ledger is an error of its row, and nothing is sent.
        timeout: seconds of silence after which an attempt is given up.
        fresh: send again what is already answered. With record="metadata" there is nothing to go on from, and
            everything is sent each time.
        on_error: "keep": a failed row gets null and its error; "raise": the first failure raises at the end.
        progress: show a bar.
        **params: parameters of the provider's: temperature, max_tokens, ...

    Raises:
        UnknownColumnError, InputError, ConfigurationError: nothing was sent.
        StoreError: the ledger cannot record; nothing more is sent, and running it again goes on.
        BatchError: with on_error="raise".
    """
    frame, lazy = open_frame(df)
    texts = column_of(frame, column)
    _check_name(into)
    batch = Batch(app(), model, system, prompt, concurrency, replay, timeout, fresh, on_error, params)
    bar = Progress(enabled=progress)
    try:
        results = batch.app.run(batch.run(texts, bar), tick=bar.draw)
    except KeyboardInterrupt:
        bar.stopped()
        raise
    finally:
        bar.close()
    return _assemble(frame, lazy, into, results, on_error)  # type: ignore[no-any-return]


async def asummarize(
    df: Frame,
    column: str,
    *,
    into: str = "summary",
    model: str | None = None,
    system: str | None = SYSTEM,
    prompt: str = PROMPT,
    concurrency: int | None = None,
    replay: str | Replay | None = None,
    timeout: float | None = None,
    fresh: bool = False,
    on_error: str = "keep",
    **params: Any,
) -> Frame:
    """``summarize`` for async code; the same but for the bar."""
    frame, lazy = open_frame(df)
    texts = column_of(frame, column)
    _check_name(into)
    batch = Batch(app(), model, system, prompt, concurrency, replay, timeout, fresh, on_error, params)
    results = await batch.app.arun(batch.run(texts, Progress(enabled=False)))
    return _assemble(frame, lazy, into, results, on_error)  # type: ignore[no-any-return]


def _check_name(into: str) -> None:
    if not isinstance(into, str) or not into:
        raise InputError(f"into={into!r} is no name for a column", cure='For example: into="summary".')


def _assemble(frame: Any, lazy: Any, into: str, results: list[Done], on_error: str) -> Any:
    failed = [done for done in results if done.error is not None and done.text is None and done.request_id is not None]
    if failed and on_error == "raise":
        first = failed[0].error
        assert first is not None
        raise BatchError(
            f"{len(failed)} of {len(results)} rows failed; the first: {first.message}",
            cure='Run it again: what is answered is not sent again. Or on_error="keep" for the errors in a column.',
            request_id=failed[0].request_id,
        )
    columns = {
        into: [done.text for done in results],
        f"{into}_error": [None if done.error is None else _one_line(done.error) for done in results],
    }
    return with_columns(frame, lazy, columns)


def _one_line(error: Error) -> str:
    return f"{error.code}: {error.message}"


# Words of this package's that are no parameters of a provider's: sent along they would be refused, and paid for.
_RESERVED = frozenset("base_url budget conversation key_variable messages retries schema stream stream_options".split())


@dataclasses.dataclass(slots=True)
class Batch:
    """One run over a list of texts. Wrong options are found when it is made."""

    app: App
    model: str | None
    system: str | None
    prompt: str
    concurrency: int | None
    replay: str | Replay | None
    timeout: float | None
    fresh: bool
    on_error: str
    params: dict[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str) or "{document}" not in self.prompt:
            raise InputError("the prompt has no {document}", cure='For example: prompt="Summarise this:\\n{document}".')
        if self.on_error not in ("keep", "raise"):
            raise InputError(f"on_error={self.on_error!r} is not known", cure='Use "keep" or "raise".')
        if self.concurrency is not None and (not isinstance(self.concurrency, int) or self.concurrency < 1):
            raise InputError(f"concurrency={self.concurrency!r} is no number of requests", cure="Use 1 or more.")
        if reserved := sorted(_RESERVED & set(self.params)):
            raise InputError(f"summarize takes no {reserved[0]}=", cure="help(ai.summarize) lists what it takes.")
        check_timeout(self.timeout)
        self.params = plain_params(self.params)

    async def run(self, texts: list[Any], bar: Progress) -> list[Done]:
        """One outcome for each text, in order."""
        import asyncio

        documents = list(dict.fromkeys(text for text in texts if _is_document(text)))
        endpoint = await self.app.generator.endpoint(self.model)
        body = self._body_of(endpoint)
        keys = [cache_key(endpoint.identity, "chat/completions", body_bytes(body(text))) for text in documents]
        done = await asyncio.to_thread(self._known, documents, keys)
        # Beside the sending, which does not need them: 0.1 s for 2,000.
        keeping = asyncio.create_task(asyncio.to_thread(self.app.records.add_documents, documents, "batch"))
        todo = [text for text in documents if text not in done]
        bar.begin(total=len(documents), known=len(done))

        def report(text: str, outcome: Done) -> None:
            done[text] = outcome
            bar.count(outcome)

        try:
            if todo:
                sends = self.concurrency or (LOCAL_CONCURRENCY if endpoint.provider == "local" else CONCURRENCY)
                client = self.app.generator.client(endpoint)
                sends = min(sends, len(todo))
                caller = dataclasses.replace(self._caller(), on_wait=bar.wait)
                await Runner(client, endpoint, sends, caller, self.timeout).run(todo, body, report)
        finally:
            await asyncio.wait([keeping])
        await keeping
        return [done[text] if _is_document(text) else _no_document(text) for text in texts]

    def _known(self, documents: list[str], keys: list[str]) -> dict[str, Done]:
        """What the ledger can answer already. Blocking."""
        if self.fresh or not documents:
            return {}
        known = self.app.records.answers(keys)
        return {
            document: answered(text, request_id, finish_reason)
            for document, key in zip(documents, keys, strict=True)
            if key in known
            for request_id, text, finish_reason in [known[key]]
        }

    def _caller(self) -> Caller:
        retries = max(RETRIES, self.app.settings.retries)
        replay = None if self.replay is None else parse_replay(self.replay)
        if self.fresh:
            replay = Replay.OFF
        return dataclasses.replace(CALLER.get(), source="batch", batch_id=new_id(), retries=retries, replay=replay)

    def _body_of(self, endpoint: Endpoint) -> Callable[[str], dict[str, Any]]:
        """The common part of the prompt comes first and byte-equal, so that providers' prompt caches hit."""
        fixed = {"model": endpoint.model, **endpoint.summary_params, **self.params}
        system = [{"role": "system", "content": self.system}] if self.system else []

        def body(text: str) -> dict[str, Any]:
            return {
                **fixed,
                "messages": [*system, {"role": "user", "content": self.prompt.replace("{document}", text)}],
            }

        return body


def _is_document(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _no_document(value: Any) -> Done:
    """Null and empty cells are quietly null; anything else that is no text says so."""
    if value is None or isinstance(value, str):
        return Done()
    return Done(error=InputError(f"not a text but {type(value).__name__}"))
