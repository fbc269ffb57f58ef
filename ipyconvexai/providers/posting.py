"""What goes out and not to a model: JSON by POST, and e-mail through Resend. Calls httpx2, errors and settings.

Promises: bounded in time; a redirect is not followed, so that nothing goes where it was not sent; keys come from the
environment, travel encrypted (or to this machine) and are in no error; what the other side says is short and plain.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from ipyconvexai.errors import (
    AuthenticationError,
    CallTimeoutError,
    ConfigurationError,
    InputError,
    MissingKeyError,
    ProviderError,
    RateLimitError,
    UnreachableError,
)
from ipyconvexai.providers.retry import retry_after
from ipyconvexai.render import plain_text
from ipyconvexai.settings import redact, remember_secret

__all__ = ["Posted", "check_address", "check_email_setup", "post_json", "send_email"]

TIMEOUT = 30.0  # seconds for all of it
MOST_READ = 65_536  # bytes of an answer
MOST_SAID = 300  # characters of an answer that an error quotes

RESEND = "https://api.resend.com"
KEY, DOMAIN, BASE_URL = "RESEND_API_KEY", "RESEND_DOMAIN", "RESEND_BASE_URL"
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*\.)+[A-Za-z]{2,}")
_VARIABLE = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")


class Posted(NamedTuple):
    """The answer: its HTTP status, and its JSON, or its text where it is none."""

    status: int
    value: Any


async def post_json(
    address: str,
    value: Any,
    *,
    headers: Mapping[str, str] | None = None,
    key_variable: str | None = None,
    timeout: float = TIMEOUT,
    environ: Mapping[str, str] = os.environ,
) -> Posted:
    """POST `value` as JSON.

    Args:
        address: a URL, or "env:NAME": it stands in that environment variable, as one that holds a secret should.
        key_variable: the environment variable with a key, sent as ``Authorization: Bearer``.
        timeout: seconds for all of it.

    Raises:
        InputError: no address, or `value` is no JSON; nothing was sent.
        ConfigurationError: a variable is not set, or a key would travel unencrypted; nothing was sent.
        ProviderError: the other side refused it, with its ``status``; 429 and 5xx are ``retryable``.
        UnreachableError, CallTimeoutError: no connection, no answer.
    """
    import httpx2

    from ipyconvexai.providers.network import certificates  # imports httpx2, too

    parts = check_address(address, environ)
    try:
        body = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    except (TypeError, ValueError) as error:
        raise InputError(f"this cannot be posted: {error}", cure="It must be plain JSON values.") from None
    sent = {"User-Agent": "ipyconvexai", **(headers or {}), "Content-Type": "application/json"}
    if key_variable is not None:
        sent["Authorization"] = f"Bearer {_key(key_variable, parts, environ)}"
    host = parts.hostname or ""
    try:
        async with (
            asyncio.timeout(timeout),
            httpx2.AsyncClient(timeout=timeout, follow_redirects=False, verify=certificates()) as client,
            client.stream("POST", parts.geturl(), content=body, headers=sent) as response,
        ):
            said = await _beginning(response)
    except (TimeoutError, httpx2.TimeoutException):
        raise CallTimeoutError(f"{host} did not answer within {timeout:g} s", cure="It is tried again.") from None
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, UnicodeError):
        raise InputError(f"{_named(address)} is no address", cure=_EXAMPLE) from None
    except (httpx2.HTTPError, OSError) as error:
        words = _words(str(error)) or type(error).__name__
        raise UnreachableError(f"{host} cannot be reached: {words}", cure="Check the address.") from None
    if not 200 <= response.status_code < 300:
        raise _fault(host, response.status_code, said, response.headers, key_variable)
    try:
        return Posted(response.status_code, json.loads(said))
    except ValueError:
        return Posted(response.status_code, said)


async def send_email(
    to: str,
    subject: str,
    text: str,
    *,
    idempotency_key: str | None = None,
    timeout: float = TIMEOUT,
    environ: Mapping[str, str] = os.environ,
) -> str:
    """Send a plain e-mail through Resend, from ``batches@RESEND_DOMAIN``; gives its id there.

    Args:
        idempotency_key: two mails of one key are one mail, for a day.

    Raises:
        as ``post_json``; ConfigurationError: RESEND_API_KEY or RESEND_DOMAIN is not set.
    """
    check_email_setup(environ)
    base = (environ.get(BASE_URL) or "").strip() or RESEND
    mail = {
        "from": f"ipyconvexai <batches@{environ[DOMAIN].strip()}>",
        "to": [to],
        "subject": " ".join(plain_text(subject).split()),
        "text": plain_text(text),
    }
    headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    posted = await post_json(
        f"{base.rstrip('/')}/emails", mail, headers=headers, key_variable=KEY, timeout=timeout, environ=environ
    )
    return str(posted.value.get("id", "")) if isinstance(posted.value, dict) else ""


def check_email_setup(environ: Mapping[str, str] = os.environ) -> None:
    """
    Raises:
        MissingKeyError, ConfigurationError: what an e-mail needs is not in the environment.
    """
    for name, example in ((KEY, "re_..."), (DOMAIN, "mail.example.org")):
        if not environ.get(name, "").strip():
            raise MissingKeyError(
                f"an e-mail goes through Resend, and {name} is not set",
                cure=f"Set it before Jupyter, and before each worker, starts:  export {name}={example}",
            )
    remember_secret(environ[KEY].strip())
    if not _DOMAIN.fullmatch(environ[DOMAIN].strip()):
        raise ConfigurationError(f"{DOMAIN} does not hold a domain", cure=f"For example: {DOMAIN}=mail.example.org")


_EXAMPLE = 'For example: "https://example.org/hook", or "env:HOOK" with the address in that variable.'


def check_address(address: str, environ: Mapping[str, str] = os.environ) -> SplitResult:
    """The parts of an address; what an environment variable holds is a secret from now on.

    Raises:
        InputError: it is none.
        ConfigurationError: its variable is not set.
    """
    url, variable = address.strip() if isinstance(address, str) else "", _VARIABLE.fullmatch(str(address).strip())
    if variable is not None:
        url = environ.get(variable[1], "").strip()
        if not url:
            raise ConfigurationError(
                f"the environment variable {variable[1]} is not set",
                cure=f"Set it before Jupyter, and before each worker, starts:  export {variable[1]}=https://...",
                code="missing_address",
            )
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # half an IPv6 address, a port that is no number
        known = False
    if not known or not url.isprintable() or " " in url:
        raise InputError(f"{_named(address)} is no address", cure=_EXAMPLE)
    if variable is not None:
        remember_secret(url)
        remember_secret(url.split("//", 1)[1].partition("/")[2])
    return parts


def _named(address: object) -> str:
    """For an error: what might be a secret is not quoted."""
    text = str(address)
    return text if _VARIABLE.fullmatch(text.strip()) else "what was given"


def _key(variable: str, parts: SplitResult, environ: Mapping[str, str]) -> str:
    key = environ.get(variable, "").strip()
    if not key:
        raise MissingKeyError(f"{variable} is not set", cure=f"Set it where this runs:  export {variable}=...")
    remember_secret(key)
    if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ConfigurationError(
            f"the key in {variable} would travel unencrypted to {parts.hostname}", cure="Use an address with https."
        )
    return key


async def _beginning(response: Any) -> str:
    found = b""
    async for chunk in response.aiter_bytes():
        found += chunk
        if len(found) >= MOST_READ:
            break
    return found[:MOST_READ].decode("utf-8", "replace")


def _words(said: str) -> str:
    return redact(" ".join(plain_text(said).split()))[:MOST_SAID]


def _fault(
    host: str,
    status: int,
    said: str,
    headers: Mapping[str, str],
    key_variable: str | None,
    now: Callable[[], float] = time.time,
) -> ProviderError:
    words = f"{host} answered {status}" + (f": {found}" if (found := _words(said)) else "")
    after = retry_after(headers, now)
    found_error: ProviderError
    if status in (401, 403):
        cure = f"Check the key in {key_variable}." if key_variable else "Check the address."
        found_error = AuthenticationError(words, cure=cure)
    elif status == 429:
        found_error = RateLimitError(words, cure="It is tried again.", retry_after=after)
    else:
        again = status >= 500 or status == 408
        cure = "It is tried again." if again else "Check the address; redirects are not followed."
        found_error = ProviderError(words, cure=cure, retryable=again, retry_after=after if again else None)
    found_error.status = status
    return found_error
