"""The plain functions of the public interface, over the current app. Floor 5: calls ``app``."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

from ipyconvexai.application import App, TextStream, app, failure
from ipyconvexai.errors import CallError, Error
from ipyconvexai.generation import Prompt
from ipyconvexai.reply import Reply, Success
from ipyconvexai.values import Failure, Replay

T = TypeVar("T")

__all__ = ["agenerate", "asafe_generate", "doctor", "generate", "safe_generate", "stream"]


def generate(
    prompt: Prompt,
    *,
    model: str | None = None,
    system: str | None = None,
    conversation: str | None = None,
    schema: Any = None,
    replay: str | Replay | None = None,
    timeout: float | None = None,
    base_url: str | None = None,
    key_variable: str | None = None,
    **params: Any,
) -> Reply:
    """Ask a model and wait for its answer; request and answer are in the ledger before this returns.

    Args:
        prompt: a text, or a list of messages ``{"role": ..., "content": ...}``.
        model: ``provider:model``; None: the setting, then the first provider whose key is set, a running Ollama, or
            the local model.
        system: the system message.
        conversation: title or id of a durable conversation, whose newest messages go along and which keeps this one.
        schema: a pydantic model, a dataclass or a type; the answer is parsed into ``reply.parsed``.
        replay: "off", "reuse" or "only".
        timeout: seconds of silence after which an attempt is given up.
        base_url: the address of any other endpoint that speaks OpenAI's language; `model` is then sent as it is.
        key_variable: the environment variable with its key; None: it needs none.
        **params: parameters of the provider's: temperature, max_tokens, ...

    Raises:
        EmptyPromptError, InputError: nothing was sent.
        ConfigurationError: no model, an unknown one, or a missing key; nothing was sent.
        CallError: the call failed; it has a row in the ledger.
        StoreError: the ledger cannot record; nothing was sent.
    """
    options = {"model": model, "system": system, "conversation": conversation, "schema": schema, "replay": replay}
    return app().generate(prompt, **options, timeout=timeout, base_url=base_url, key_variable=key_variable, **params)


def _as_generate(function: T) -> T:
    """Show the arguments of ``generate`` in help and completion."""
    function.__signature__ = inspect.signature(generate)  # type: ignore[attr-defined] # inspect's own protocol
    return function


@_as_generate
async def agenerate(prompt: Prompt, **options: Any) -> Reply:
    """``generate`` for async code, on any event loop; the same arguments and errors."""
    return await app().agenerate(prompt, **options)


@_as_generate
def stream(prompt: Prompt, **options: Any) -> TextStream:
    """Ask a model and read the answer while it comes: ``for text in ai.stream("..."):``; ``.reply`` at the end.

    The same arguments and errors as ``generate``; also StreamCutError when the stream ends before its end.
    """
    return app().stream(prompt, **options)


@_as_generate
def safe_generate(prompt: Prompt, **options: Any) -> Success | Failure:
    """``generate`` that never raises for what a provider does: look at ``.success``.

    Raises:
        InputError, ConfigurationError, StoreError: what has to be mended here, not there.
    """
    return app().safe_generate(prompt, **options)


@_as_generate
async def asafe_generate(prompt: Prompt, **options: Any) -> Success | Failure:
    """``safe_generate`` for async code."""
    try:
        return Success(await app().agenerate(prompt, **options))
    except CallError as error:
        return failure(error)


class Report(str):
    """Text of several lines that a cell shows as it is."""

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))


def doctor() -> Report:
    """What would be used and why: model, provider, keys (set or not, never their values), ledger, local model."""
    from ipyconvexai.providers.choice import doctor_report

    current = app()
    return Report(f"{doctor_report(current.settings)}\n{_ledger_state(current)}")


def _ledger_state(current: App) -> str:
    try:
        rows = current.store.read("SELECT status, count(*) FROM calls GROUP BY status ORDER BY count(*) DESC")
    except Error as error:
        return f"ledger state: {error}"
    counted = ", ".join(f"{number} {status}" for status, number in rows) or "empty"
    return f"ledger state: {counted}; {current.store.holder()}"
