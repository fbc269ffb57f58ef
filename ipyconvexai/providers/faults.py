"""Translates foreign exceptions once, at the border: of the network into ours, of the SDK into ours.

What the corridor raises is of both trees, ours and the SDK's, so that ``except openai.APIConnectionError`` in code
written for the SDK goes on working. Calls openai, httpx2 and ``render``: what a provider says is hostile.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
from typing import Any

import httpx2
import openai

from ipyconvexai import errors
from ipyconvexai.providers.catalog import unknown_model
from ipyconvexai.providers.reading import error_of
from ipyconvexai.providers.retry import retry_after
from ipyconvexai.render import plain_text
from ipyconvexai.settings import redact

__all__ = ["broken_off", "cut", "limited", "refused", "replay_miss", "translate", "transport_fault"]


class _Fault(errors.CallError, openai.APIConnectionError):  # type: ignore[misc] # `code` is never None here
    """The part that both trees want: a request for the SDK's, the rest for ours."""

    def __init__(self, message: str, request: httpx2.Request, request_id: str, *, cure: str) -> None:
        errors.Error.__init__(self, message, cure=cure, request_id=request_id or None)
        self.request = request
        self.body = None
        self.param = None
        self.type = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the request's headers: an error may be written down, or sent to another process.
        facts = (self.message, self.request.method, str(self.request.url), self.request_id or "", self.cure)
        return _restore, (type(self), *facts, {name: getattr(self, name) for name in _FACTS})


_FACTS = ("code", "retryable", "retry_after")


def _restore(
    kind: type[_Fault], message: str, method: str, url: str, request_id: str, cure: str, facts: dict[str, Any]
) -> _Fault:
    fault = kind(message, httpx2.Request(method, url), request_id, cure=cure)
    vars(fault).update(facts)
    return fault


class UnknownModel(errors.UnknownModelError, errors.ProviderError):
    """The provider answered that it has no such model: the same error as where the catalogue says so."""


class Unreachable(_Fault, errors.UnreachableError):
    code = errors.UnreachableError.code
    retryable = True


class Unsendable(_Fault, errors.UnreachableError):
    code = errors.UnreachableError.code
    retryable = False


class Unreadable(_Fault, errors.InvalidAnswerError):
    code = "unreadable_answer"
    retryable = False


class TimedOut(_Fault, errors.CallTimeoutError, openai.APITimeoutError):
    code = errors.CallTimeoutError.code
    retryable = True


class StreamCut(_Fault, errors.StreamCutError):
    code = errors.StreamCutError.code
    retryable = True


class Refused(_Fault, errors.RefusedError):
    code = errors.RefusedError.code
    retryable = False


class Limited(_Fault, errors.LimitError):
    code = errors.LimitError.code
    retryable = True


class OverBudget(_Fault, errors.BudgetError):
    code = errors.BudgetError.code
    retryable = True


class ReplayMiss(_Fault, errors.ReplayMissError):
    code = errors.ReplayMissError.code
    retryable = False


_WRONG_PATH = (
    "Is the address right? Most end in /v1. `ipyconvexai doctor` shows which address is used and why; and not every "
    "provider has everything."
)
_ADDRESS = "Is the address right and the server up? `ipyconvexai doctor` shows which address is used and why."


def transport_fault(error: Exception, request: httpx2.Request, request_id: str) -> _Fault:
    """What the network did, as a fault.

    The SDK's aiohttp transport maps every lost connection to ConnectTimeout, so the cause decides.
    """
    if isinstance(error, errors.Error):  # of who was to send it
        kind = Unreachable if error.retryable else Unsendable
        return kind(error.message, request, request_id, cure=error.cure)
    where = f"{request.url.scheme}://{request.url.netloc.decode()}"
    cause = error.__cause__ or error
    reason = _foreign(_reason(cause))
    if isinstance(cause, TimeoutError) or (cause is error and isinstance(error, httpx2.TimeoutException)):
        cure = "Ask again, or allow more: timeout=SECONDS. The provider may have done the work and billed it."
        return TimedOut(f"no answer from {where} in time", request, request_id, cure=cure)
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
        return Unsendable(f"{where} is no address to send to: {reason}", request, request_id, cure=_ADDRESS)
    if isinstance(error, httpx2.DecodingError):
        cure = "Something between here and the provider spoils its answers: a proxy, perhaps."
        return Unreadable(f"the answer of {where} cannot be decoded: {reason}", request, request_id, cure=cure)
    if isinstance(error, httpx2.ReadError | httpx2.RemoteProtocolError):
        cure = "Ask again. The provider may have done the work and billed it."
        return Unreachable(f"the connection to {where} broke off: {reason}", request, request_id, cure=cure)
    return Unreachable(f"no connection to {where}: {reason}", request, request_id, cure=_ADDRESS)


def _reason(error: Any) -> str:
    """What a person reads of it: "connection refused", and not where in which library that was found."""
    for inner in ("os_error", "certificate_error"):  # aiohttp: "Cannot connect to host ... ssl:default [...]"
        error = getattr(error, inner, None) or error
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    said = str(error) or type(error).__name__
    if isinstance(error, OSError):
        # The numbers of the first two are of another list.
        number = None if isinstance(error, ssl.SSLError | socket.gaierror) else error.errno
        if number is not None:
            return os.strerror(number).lower()
        said = error.strerror or said
    return _DETAIL.sub("", said)


_DETAIL = re.compile(r"^\[Errno -?\d+\] |^\[SSL: \w+\] | \(_\w+\.c:\d+\)$| ssl:\w+(?= \[)")


def cut(request: httpx2.Request, request_id: str) -> StreamCut:
    return StreamCut(
        f"the stream from {request.url.host} was cut off before its end",
        request,
        request_id,
        cure="What had come is in the ledger under this request. Ask again for the whole answer.",
    )


def refused(reason: str, request: httpx2.Request, request_id: str) -> Refused:
    cure = "Use a provider that has it: `%ai list` shows them. Nothing was sent."
    return Refused(reason, request, request_id, cure=cure)


def limited(error: errors.LimitError, request: httpx2.Request, request_id: str) -> Limited | OverBudget:
    """The same of both trees."""
    kind = OverBudget if isinstance(error, errors.BudgetError) else Limited
    fault = kind(error.message, request, request_id, cure=error.cure)
    fault.code, fault.retryable, fault.retry_after = error.code, error.retryable, error.retry_after
    return fault


def replay_miss(message: str, request: httpx2.Request, *, cure: str) -> ReplayMiss:
    return ReplayMiss(message, request, "", cure=cure)


_CONTEXT_CODES = ("context_length_exceeded", "exceed_context_size_error")
# Providers that give no code for it: Anthropic, Google, vLLM, Ollama.
_CONTEXT_WORDS = re.compile(
    r"prompt is too long|context (?:length|window|size)|maximum number of tokens", re.IGNORECASE
)
# Who refuses a schema: OpenAI ("Invalid schema for response_format"), DeepSeek, Groq, llama.cpp ("JSON schema ...").
_SCHEMA_WORDS = re.compile(r"response[_ ]format|json[_ ]?schema|structured[_ ]outputs?", re.IGNORECASE)
# Who takes no pictures: OpenAI ("image_url is only supported by certain models"), Groq ("content must be a string"),
# OpenRouter ("No endpoints found that support image input"), llama.cpp ("image input is not supported ... mmproj").
_PICTURE_WORDS = re.compile(
    r"image_url|image input|mmproj|vision|multimodal|images?\b.{0,40}\bsupport|support\w*\b.{0,40}\bimages?|"
    r"content must be a string",
    re.IGNORECASE | re.DOTALL,
)
_LONGEST = 2000  # characters of what a provider says


def _foreign(text: str) -> str:
    """What others say, fit to be shown: without keys and control sequences, and not without end."""
    return plain_text(redact(text))[:_LONGEST]


def translate(error: Exception, *, provider: str, model: str, key_variable: str | None = None) -> errors.Error:
    """The error of our tree for what the SDK raised; one of our own passes unchanged."""
    if isinstance(error, errors.Error):
        return error
    if isinstance(error, openai.APIStatusError):
        return _status_error(error, provider, model, key_variable)
    if isinstance(error, openai.APITimeoutError):
        cure = "Ask again, or allow more: timeout=SECONDS."
        return errors.CallTimeoutError(f"{provider} did not answer in time", cure=cure)
    if isinstance(error, openai.APIError):  # an error event in a stream
        return broken_off(provider, error.message, None)
    if isinstance(error, (TypeError, UnicodeError)):  # raised while the body was made into JSON
        return errors.InputError(redact(f"this cannot be sent: {error}"), cure="Parameters must be plain JSON values.")
    return errors.CallError(_foreign(f"{type(error).__name__}: {error}"))


def broken_off(provider: str, message: str | None, request_id: str | None) -> errors.ProviderError:
    """For an error that came in the middle of an answer, or with status 200."""
    return errors.ProviderError(
        f"{provider} broke off: {_foreign(message or 'no reason given')}",
        cure="What had come is in the ledger under this request. Ask again.",
        request_id=request_id,
        retryable=True,
    )


def _status_error(error: openai.APIStatusError, provider: str, model: str, key_variable: str | None) -> errors.Error:
    response = error.response
    code, message = error_of(_content(error))
    message = _foreign(message)
    common: dict[str, Any] = {
        "request_id": response.headers.get("x-ipyconvexai-request-id"),
        "retry_after": retry_after(response.headers),
    }
    status = error.status_code
    said = f"{provider} answered {status}: {message}"
    found: errors.ProviderError
    if status in (401, 403):
        cure = f"Check the key in {key_variable}." if key_variable else "Check the key."
        found = errors.AuthenticationError(said, cure=cure, **common)
    elif status == 429:
        found = errors.RateLimitError(said, cure=_rate_cure(code, common["retry_after"]), **common)
        found.retryable = code != "insufficient_quota"
    elif code in _CONTEXT_CODES or (status in (400, 413) and _CONTEXT_WORDS.search(message)):
        found = errors.ContextLengthError(
            said, cure=f"Shorten the prompt, or use a model with a larger context than {model}.", **common
        )
    elif status in (400, 404, 415, 422, 500) and _PICTURE_WORDS.search(message) and _has_pictures(error):
        cure = f"{model} takes no pictures here: use a model that does, or take the picture out."
        found, code = errors.ProviderError(said, cure=cure, **common), "pictures_refused"
    elif code == "model_not_found" or (status == 404 and _names(message, model)):
        found = UnknownModel(said, cure=unknown_model(provider, model).cure, **common)
    elif status == 404:
        found = errors.ProviderError(said, cure=_WRONG_PATH, **common)
    elif status in (400, 422) and _SCHEMA_WORDS.search(message) and "json_object" not in message:
        cure = "Use a plainer schema, or a model that takes schemas; or ask for JSON in the prompt, without schema=."
        found, code = errors.ProviderError(said, cure=cure, **common), "schema_refused"
    else:
        again = status >= 500 or status in (408, 409)
        cure = "The provider is in trouble: ask again later." if again else "Change the request as the message says."
        found = errors.ProviderError(said, cure=cure, retryable=again, **common)
    found.status = status
    if code:
        found.code = code
    return found


def _has_pictures(error: openai.APIStatusError) -> bool:
    try:
        return b'"image_url"' in error.request.content
    except Exception:  # a body that was a stream
        return False


def _names(message: str, model: str) -> bool:
    """Whether the message speaks of the model; a short name may be part of any word."""
    return bool(model) and bool(re.search(rf"(?<![\w.-]){re.escape(model)}(?![\w-])", message))


def _rate_cure(code: str | None, after: float | None) -> str:
    if code == "insufficient_quota":
        return "The account has no credit left: see the provider's billing page."
    when = f"Wait {after:g} s" if after else "Wait a moment"
    return f"{when}, then ask again; or send fewer at once (concurrency=)."


def _content(error: openai.APIStatusError) -> bytes:
    try:
        return error.response.content
    except Exception:  # a streamed body that was closed unread: the SDK kept what it could parse
        return json.dumps({"error": error.body}).encode()
