"""Where a model is reached: from its name to an ``Endpoint``. Calls ``access``, ``catalog``, ``choice``, ``probing``.

``resolve`` may ask a model server and starts the local model: it blocks, so async code calls it in a thread.

    resolve("ollama:llama3.2:1b", settings=...)   -> Endpoint
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from ipyconvexai.errors import ConfigurationError, MissingKeyError
from ipyconvexai.providers.access import base_url_of, key_is_in, key_of, missing_key, obstacle, without_credentials
from ipyconvexai.providers.catalog import BUNDLED, CUSTOM, LOCAL, Provider, find, is_address, parse, providers, split
from ipyconvexai.providers.choice import choose
from ipyconvexai.providers.probing import Probe, first_offered, prober
from ipyconvexai.settings import Secret, Settings, remember_secret

__all__ = ["Endpoint", "provider_at", "resolve"]


_NOWHERE = "http://127.0.0.1:9/v1"  # the discard port: of a local model that was not started


# https://platform.openai.com/docs/api-reference/chat/create#chat-create-max_tokens
_LATER_MODELS = re.compile(r"(?:ft:)?(?:o\d|gpt-(?:[5-9]|\d\d))")


@dataclass(frozen=True)
class Endpoint:
    """Where one model is reached. Two endpoints are equal if the same request gets the same kind of answer there.

    Attributes:
        provider, model: for the ledger and the prices.
        identity: stable text for the keys of recorded answers: the address without credentials, or for the local
            model its file's name and size, because its port changes with every start.
        base_url: for the client.
        key: never shown; None where none is needed or set.
        context: tokens of one request, prompt and answer together, where that is known before sending.
        allowed_paths, allowed_models: if given, ``refuses`` says no to everything else.
        unready: only recorded answers can come from here so far, because its key is not set or it was not started.
    """

    provider: str
    model: str
    identity: str
    base_url: str = field(repr=False, compare=False)
    key: Secret | None = field(default=None, repr=False, compare=False)
    context: int | None = None
    allowed_paths: tuple[str, ...] = ()
    allowed_models: tuple[str, ...] = ()
    unready: bool = field(default=False, compare=False)

    @property
    def name(self) -> str:
        return f"{self.provider}:{self.model}"

    @property
    def key_variable(self) -> str | None:
        """The variable to look at when the key is refused."""
        provider = find(self.provider)
        if provider is None or not provider.key_variables:
            return None
        return key_is_in(provider, os.environ) or provider.key_variables[0]

    @property
    def default_system(self) -> str | None:
        """The system message where the question has none: the bundled model wanders without one."""
        if self.provider != LOCAL:
            return None
        from ipyconvexai.providers.local import DEFAULT_SYSTEM

        return DEFAULT_SYSTEM

    @property
    def summary_params(self) -> dict[str, Any]:
        """Parameters of a good summary here. Elsewhere the provider's own: some models refuse a temperature."""
        if self.model != BUNDLED:
            return {}
        from ipyconvexai.providers.local import SUMMARY_GRAMMAR

        return {"temperature": 0, "max_tokens": 160, "grammar": SUMMARY_GRAMMAR}

    def named(self, params: dict[str, Any]) -> dict[str, Any]:
        """`params` as they are called here: OpenAI's later models refuse ``max_tokens`` under its first name."""
        most = params.get("max_tokens")
        if most is None or self.provider not in ("openai", "azure") or not _LATER_MODELS.match(self.model):
            return params
        rest = {name: value for name, value in params.items() if name != "max_tokens"}
        return {"max_completion_tokens": most, **rest}

    def refuses(self, path: str, model: str | None) -> str | None:
        """Why a request for `path` (of the URL) and `model` (of the body; None: it has none) must not be sent, or
        None if it may."""
        bare = path.partition("?")[0].rstrip("/")
        if self.allowed_paths and not bare.endswith(self.allowed_paths):
            return f"{self._title} answers chat completions only (client.chat.completions), not {bare or '/'}."
        if self.allowed_models and model is not None and model not in self.allowed_models:
            return f"{self._title} has the models {' and '.join(self.allowed_models)} only, not {model!r}."
        return None

    @property
    def _title(self) -> str:
        provider = find(self.provider)
        return f"{provider.title} ({self.provider})" if provider else self.provider


def provider_at(base_url: str) -> str:
    """The word for the provider at an address that a client was given; "custom" where it is nobody's we know."""
    found, most = CUSTOM, 0
    for provider in providers():
        for address, whole_host in ((provider.base_url or "", True), (base_url_of(provider, os.environ), False)):
            likeness = _likeness(base_url, address, whole_host)
            if likeness > most:  # the first of equals
                found, most = provider.name, likeness
    return found


def _likeness(url: str, address: str, whole_host: bool) -> int:
    """How much of `url` is `address`: 0 for another server, otherwise the more, the longer the path they share.

    Several providers may be behind one host (a gateway), told apart by their paths; a host that is a provider's by
    itself (`whole_host`) is so with any path.
    """
    ours, theirs = urlsplit(url), urlsplit(address)
    if not theirs.netloc or _host(ours.netloc) != _host(theirs.netloc):
        return 0
    path, base = ours.path.rstrip("/") + "/", theirs.path.rstrip("/") + "/"
    if path.startswith(base):
        return 1 + len(base)
    return 1 if whole_host else 0


def _host(netloc: str) -> str:
    return netloc.rpartition("@")[2].lower()


def resolve(
    model: str | None,
    *,
    settings: Settings,
    environ: Mapping[str, str] = os.environ,
    base_url: str | None = None,
    key_variable: str | None = None,
    probe: Probe | None = None,
    to_send: bool = True,
) -> Endpoint:
    """The endpoint of `model`, or of the chosen model where it is None. Starts the local model if that is it.

    With `base_url` the model lies at that address, the setting does not count, and None is the first model there. Its
    name is sent as it is written, unless it begins with ``provider:``, which only says how to record it and whose key
    to use; without that the key is the one in `key_variable`, or none. Without `to_send` it is only described: no key
    is missed, and the local model is not started.

    Raises:
        UnknownProviderError, UnknownModelError: as ``parse``.
        MissingKeyError: names the variable.
        NoModelError: none could be chosen, or the server has none.
        ConfigurationError: the address is missing or is none.
        LocalModelError: the local model is not installed or does not start.
    """
    probe = probe or prober
    if base_url is not None:
        return _at_address(base_url, model or "", key_variable, environ, probe, to_send)
    if model is None:
        choice = choose(settings, environ, probe)
        if choice.error is not None:
            raise choice.error
        model = choice.model or ""
    provider, name = parse(model)
    if provider.name == LOCAL:
        return _local_endpoint(name) if to_send else _local_described(name)
    missing = obstacle(provider, environ, key_variable)
    if missing and (to_send or not isinstance(missing, MissingKeyError)):
        raise missing
    key = None if missing else key_of(provider, environ, key_variable)
    found = _endpoint(provider, name, base_url_of(provider, environ), key, probe)
    return replace(found, unready=missing is not None)


def _at_address(
    base_url: str, model: str, key_variable: str | None, environ: Mapping[str, str], probe: Probe, to_send: bool
) -> Endpoint:
    if not is_address(base_url):
        raise ConfigurationError("base_url is not the address of a server.", cure="Begin it with http:// or https://.")
    # Only a colon names a provider here: servers offer models called openai/gpt-oss-20b, which is no reason to send
    # them OpenAI's key.
    prefix, separator, name = split(model)
    provider = find(prefix) if separator == ":" else None
    if provider is None:
        provider, name = Provider(CUSTOM, "The server", needs_key=False), model
    missing = missing_key(provider, environ, key_variable)
    if missing and to_send:
        raise missing
    key = None if missing else key_of(provider, environ, key_variable)
    return replace(_endpoint(provider, name, base_url, key, probe), unready=missing is not None)


def _endpoint(provider: Provider, name: str, base_url: str, key: Secret | None, probe: Probe) -> Endpoint:
    if password := urlsplit(base_url).password:
        remember_secret(password)
    return Endpoint(
        provider.name,
        name or first_offered(provider, base_url, key, probe),
        without_credentials(base_url),
        base_url,
        key,
        allowed_paths=provider.allowed_paths,
        allowed_models=provider.allowed_models,
    )


def _local_endpoint(name: str) -> Endpoint:
    from ipyconvexai.providers.local import server_for

    server = server_for(None if name == BUNDLED else name)
    return Endpoint(
        LOCAL, server.alias, f"local:{server.identity}", server.base_url, Secret(server.key), server.context
    )


def _local_described(name: str) -> Endpoint:
    from ipyconvexai.providers.local import described

    alias, identity, context = described(None if name == BUNDLED else name)
    return Endpoint(LOCAL, alias, f"local:{identity}", _NOWHERE, None, context, unready=True)
