"""The catalogue of providers, and the choice among them: from a word to the endpoint where a model is reached.

Calls ``errors``, ``settings`` and, at use, ``local``; no SDK. Reads nothing but the environment it is given, except
that ``choose``, ``resolve``, ``list_models`` and ``doctor_report`` may ask a model server (Ollama, vLLM, llama.cpp)
which models it has, and ``resolve`` starts the local model: those four block, so async code calls them in a thread.
Promises: a key is only ever sent to the provider it belongs to, and no message, repr or report shows one.

    parse("groq/openai/gpt-oss-20b")              -> (Provider groq, "openai/gpt-oss-20b"); cheap, asks nobody
    resolve("ollama:llama3.2:1b", settings=...)   -> Endpoint
    choose(settings).explain()                    -> why this model and no other
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit, urlunsplit

from ipyconvexai.errors import (
    ConfigurationError,
    InputError,
    LocalModelError,
    MissingKeyError,
    NoModelError,
    UnknownModelError,
    UnknownProviderError,
)
from ipyconvexai.settings import Secret, Settings, redact, remember_secret

__all__ = [
    "Choice",
    "Endpoint",
    "ModelRow",
    "Prober",
    "Provider",
    "Reason",
    "choose",
    "doctor_report",
    "list_models",
    "nearest_names",
    "parse",
    "provider_at",
    "providers",
    "register",
    "resolve",
    "unknown_model",
]

PROBE_TIMEOUT = 0.3  # seconds to connect, and again for each part of the answer: a server on this machine needs 5 ms
PROBE_HOLDS = 3.0  # seconds for which an answer is not asked for again
LARGEST_ANSWER = 1 << 20  # bytes of a list of models

Probe = Callable[[str, Secret | None], list[str] | None]
"""Asks a URL for its list of models: their names, or None where nothing (useful) answers."""

OR_LOCAL = "Or use model='local': a small model on this machine that needs no key."
INSTALL_LOCAL = 'pip install "ipyconvexai[local]"  and then  ipyconvexai fetch-model'


# ----------------------------------------------------------------------------------------------- addresses
def _as_given(address: str) -> str:
    return address


def _with_v1(address: str) -> str:
    """A server's bare address gets the path under which all of them answer."""
    return address if urlsplit(address).path.strip("/") else address.rstrip("/") + "/v1"


def _azure(address: str) -> str:
    address = address.rstrip("/")
    return (address if address.endswith("/openai/v1") else address + "/openai/v1") + "/"


def _ollama(host: str) -> str:
    """OLLAMA_HOST, which is written for the server: mostly without scheme or port, and possibly "all interfaces"."""
    parts = urlsplit(host if "://" in host else f"http://{host}")
    usual = {"http": 80, "https": 443}.get(parts.scheme, 11434) if "://" in host else 11434
    name = {None: "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(parts.hostname, parts.hostname)
    user, at, _ = parts.netloc.rpartition("@")
    try:
        port = parts.port or usual
    except ValueError:  # Ollama itself takes its usual port then
        port = usual
    where = f"[{name}]" if ":" in str(name) else name
    return f"{parts.scheme}://{user}{at}{where}:{port}{parts.path.rstrip('/')}/v1"


def _without_credentials(url: str) -> str:
    """What may be shown and stored of an address: no user, no password, no query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")).rstrip("/")


# ----------------------------------------------------------------------------------------------- providers
@dataclass(frozen=True, eq=False)
class Provider:
    """Somebody who answers requests in the manner of OpenAI.

    Attributes:
        name: the word before the colon in ``provider:model``.
        title: its name in sentences.
        base_url: where it is, unless `base_url_variable` says otherwise; None: only the variable says it.
        base_url_variable: the environment variable with its address, or None.
        key_variables: the environment variables that may hold its key; the first that is set counts.
        default_model: used where only the provider is named: a cheap one. Empty: the first its server offers.
        models: well-known names, for completion and suggestions; others are sent as they are.
        families: how the names of its models begin, so that they are known without the provider's name.
        needs_key: whether it refuses to work without a key.
        allowed_paths, allowed_models: if given, anything else is refused before it is sent.
        complete: makes a base URL of what the variable holds.
        note: one line for lists.
    """

    name: str
    title: str
    base_url: str | None = None
    base_url_variable: str | None = None
    key_variables: tuple[str, ...] = ()
    default_model: str = ""
    models: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    needs_key: bool = True
    allowed_paths: tuple[str, ...] = ()
    allowed_models: tuple[str, ...] = ()
    complete: Callable[[str], str] = field(default=_as_given, repr=False)
    note: str = ""

    @property
    def chat_only(self) -> bool:
        return self.allowed_paths == CHAT_ONLY


CHAT_ONLY = ("/chat/completions",)
BUNDLED = "smollm2-135m"  # the alias of the bundled model in providers/local; importing that would cost 20 ms
LOCAL = "local"
NO_ADDRESS = "?"
CUSTOM = "custom"  # the provider of an address that no provider was named for

# In the order in which a key decides. The names of models are those of November 2026. They go out of date, which costs
# no more than a suggestion, except for the defaults: those are cheap ones without an announced end, or "latest".
_BUILT_IN = (
    Provider(
        "openai",
        "OpenAI",
        "https://api.openai.com/v1",
        "OPENAI_BASE_URL",
        ("OPENAI_API_KEY",),
        "gpt-6-luna",
        (
            *("gpt-6-luna", "gpt-6.1-terra", "gpt-6.1-sol", "gpt-6-astra", "gpt-5.6-luna", "gpt-5.4-mini"),
            *("gpt-4.1", "gpt-4.1-mini", "gpt-4o", "gpt-4o-mini"),
            *("text-embedding-3-small", "text-embedding-3-large"),
        ),
        ("gpt-", "chatgpt-", "o1-", "o3-", "o4-", "text-embedding-", "ft:gpt-"),
    ),
    Provider(
        "azure",
        "Azure OpenAI",
        None,
        "AZURE_OPENAI_ENDPOINT",
        ("AZURE_OPENAI_API_KEY",),
        "gpt-6-luna",
        ("gpt-6-luna", "gpt-6.1-terra", "gpt-4.1-mini", "gpt-4o-mini", "text-embedding-3-small"),
        complete=_azure,
        note="the model is the name of your deployment",
    ),
    Provider(
        "google",
        "Google Gemini",
        "https://generativelanguage.googleapis.com/v1beta/openai/",
        None,
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        "gemini-3.5-flash-lite",
        (
            *("gemini-3.5-flash-lite", "gemini-3.5-flash", "gemini-3.8-flash", "gemini-3.1-pro-preview"),
            *("gemini-flash-latest", "gemini-flash-lite-latest", "gemini-2.5-flash-lite", "gemini-embedding-001"),
        ),
        ("gemini-",),
    ),
    Provider(
        "anthropic",
        "Anthropic",
        "https://api.anthropic.com/v1/",
        None,
        ("ANTHROPIC_API_KEY",),
        "claude-haiku-5-5",
        ("claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5", "claude-haiku-4-5", "claude-sonnet-4-5"),
        ("claude-",),
    ),
    Provider(
        "groq",
        "Groq",
        "https://api.groq.com/openai/v1",
        None,
        ("GROQ_API_KEY",),
        "openai/gpt-oss-20b",
        ("openai/gpt-oss-20b", "openai/gpt-oss-120b", "qwen/qwen3.8-27b"),
    ),
    Provider(
        "mistral",
        "Mistral",
        "https://api.mistral.ai/v1",
        None,
        ("MISTRAL_API_KEY",),
        "mistral-small-latest",
        (
            *("mistral-small-latest", "mistral-medium-latest", "mistral-large-latest", "ministral-8b-latest"),
            *("codestral-latest", "mistral-embed"),
        ),
        ("mistral-", "ministral-", "magistral-", "codestral-", "devstral-", "open-mistral-"),
    ),
    Provider(
        "openrouter",
        "OpenRouter",
        "https://openrouter.ai/api/v1",
        None,
        ("OPENROUTER_API_KEY",),
        "openai/gpt-6-luna",
        (
            *("openai/gpt-6-luna", "openai/gpt-4o-mini", "anthropic/claude-haiku-5.5", "google/gemini-3.5-flash-lite"),
            *("mistralai/mistral-small-2603", "meta-llama/llama-3.3-70b-instruct", "qwen/qwen3.8-27b"),
        ),
    ),
    Provider(
        "chef",
        "The OpenAI that comes with Convex Chef",
        None,
        "CONVEX_OPENAI_BASE_URL",
        ("CONVEX_OPENAI_API_KEY",),
        "gpt-4o-mini",
        ("gpt-4o-mini", "gpt-4.1-nano"),
        allowed_paths=CHAT_ONLY,
        allowed_models=("gpt-4.1-nano", "gpt-4o-mini"),
        note="chat completions only",
    ),
    Provider(
        "ollama",
        "Ollama",
        "http://127.0.0.1:11434/v1",
        "OLLAMA_HOST",
        models=("llama3.2", "llama3.2:1b", "qwen3:4b", "gemma3:4b", "gpt-oss:20b", "nomic-embed-text"),
        needs_key=False,
        complete=_ollama,
        note="a server on this machine",
    ),
    Provider(
        "vllm",
        "vLLM",
        "http://127.0.0.1:8000/v1",
        "VLLM_BASE_URL",
        ("VLLM_API_KEY",),
        needs_key=False,
        complete=_with_v1,
        note="a server at an address of yours",
    ),
    Provider(
        "llamacpp",
        "llama.cpp",
        "http://127.0.0.1:8080/v1",
        "LLAMACPP_BASE_URL",
        ("LLAMACPP_API_KEY",),
        needs_key=False,
        complete=_with_v1,
        note="a server at an address of yours",
    ),
    Provider(
        LOCAL,
        "The local model",
        default_model=BUNDLED,
        models=(BUNDLED,),
        needs_key=False,
        note="runs on this machine without a key; or the path of a GGUF file",
    ),
)
_by_name = {provider.name: provider for provider in _BUILT_IN}
_registered: dict[str, Provider] = {}
_ALIASES = {"gemini": "google", "claude": "anthropic", "llama.cpp": "llamacpp", "llama-cpp": "llamacpp"}


def providers() -> list[Provider]:
    """All providers, in the order in which they are considered; the registered ones stand before those without key."""
    keyed = [provider for provider in _BUILT_IN if provider.needs_key]
    return [*keyed, *_registered.values(), *(provider for provider in _BUILT_IN if not provider.needs_key)]


def register(
    name: str,
    *,
    base_url: str,
    key_variable: str | None = None,
    default_model: str = "",
    models: Sequence[str] = (),
    title: str | None = None,
) -> Provider:
    """Add a provider of one's own, or replace one that was added before.

    Args:
        name: the word before the colon; lower-case letters, digits, "-" and "_".
        base_url: the address that a client of OpenAI would be given.
        key_variable: the environment variable with its key; None: it needs none.
        default_model: used where only the provider is named; empty: the first its server offers.

    Raises:
        InputError: the name is taken by a built-in provider or has other characters; the address is none.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise InputError(f"{name!r} cannot be the name of a provider.", cure="Use lower-case letters, digits, - and _.")
    if name in _by_name or name in _ALIASES or name == CUSTOM:
        raise InputError(f"The name {name!r} is taken.", cure="Choose another name for your provider.")
    if not _is_address(base_url):
        raise InputError("base_url is not the address of a server.", cure="It begins with http:// or https://.")
    provider = Provider(
        name,
        title or name,
        base_url,
        None,
        (key_variable,) if key_variable else (),
        default_model,
        tuple(models) or ((default_model,) if default_model else ()),
        needs_key=bool(key_variable),
        note="registered",
    )
    _registered[name] = provider
    return provider


def _find(word: str) -> Provider | None:
    word = word.strip().lower()
    word = _ALIASES.get(word, word)
    return _by_name.get(word) or _registered.get(word)


def _provider(word: str) -> Provider:
    return _find(word) or _raise_unknown_provider(word)


# ------------------------------------------------------------------------------------------------- parsing
def parse(model: str) -> tuple[Provider, str]:
    """The provider and its name for the model. Asks nobody and starts nothing.

    `model` is ``provider:model`` or ``provider/model``, a provider alone (its default model), a well-known model alone,
    or the path of a .gguf file. The name that is returned is empty where the provider's server will be asked for its
    first model.

    Raises:
        UnknownProviderError, UnknownModelError: with the nearest names.
    """
    text = model.strip()
    if not text:
        raise UnknownModelError("The name of the model is empty.", cure="Write provider:model, or provider alone.")
    if alone := _find(text):
        return alone, alone.default_model
    prefix, separator, name = _split(text)
    provider = _find(prefix) if separator else None
    if provider is not None and (separator == ":" or provider.name == LOCAL or not _is_gguf(text)):
        return provider, _name_at(provider, name)
    if _is_gguf(text):
        return _by_name[LOCAL], text
    return _well_known(text) or _raise_unknown(text, prefix if separator else "")


def _split(text: str) -> tuple[str, str, str]:
    """At the first colon or slash, whichever comes first: names of models may contain both."""
    found = re.search(r"[:/]", text)
    return (text, "", "") if found is None else (text[: found.start()], found.group(), text[found.end() :])


def _name_at(provider: Provider, name: str) -> str:
    name = name.strip() or provider.default_model
    if provider.name == LOCAL and name != BUNDLED and not _is_gguf(name):
        raise UnknownModelError(
            f"The local model has no {name!r}.",
            cure=f"Use local:{BUNDLED}, or the path of a file that ends in .gguf: local:/path/to/model.gguf",
        )
    return name


def _is_gguf(text: str) -> bool:
    return text.lower().endswith(".gguf")


def _well_known(text: str) -> tuple[Provider, str] | None:
    for provider in providers():
        if text in provider.models:
            return provider, text
    for provider in providers():
        # A colon or slash in it makes it somebody else's: gpt-oss:20b is Ollama's. Fine-tuned names are the exception.
        if text.startswith(provider.families) and (not re.search("[:/]", text) or text.startswith("ft:")):
            return provider, text
    return None


# ------------------------------------------------------------------------------------------- nearest names
def nearest_names(word: str, candidates: Iterable[str], *, least: float = 0.6) -> list[str]:
    """Up to three of `candidates` that resemble `word`, the most similar first."""
    import difflib  # only for an error

    lowered = {candidate.lower(): candidate for candidate in candidates}
    return [lowered[name] for name in difflib.get_close_matches(word.lower(), lowered, n=3, cutoff=least)]


def unknown_model(provider: str, model: str, offered: Iterable[str] = ()) -> UnknownModelError:
    """The error for a provider's answer that it has no such model; `offered`: the names it has, if known."""
    known = _find(provider)
    names = list(offered) or list(known.models if known else ())
    cure = _did_you_mean([f"{provider}:{name}" for name in nearest_names(model, names) or names[:3]])
    title = known.title if known else provider
    return UnknownModelError(f"{title} has no model {model!r}.", cure=cure + f"%ai list {provider} shows what it has.")


def _did_you_mean(names: Sequence[str]) -> str:
    return f"Did you mean {' or '.join(names)}? " if names else ""


def _words() -> list[str]:
    return [provider.name for provider in providers()]


def _raise_unknown(text: str, prefix: str) -> NoReturn:
    """The word before the separator is no provider; or there is none and the whole is no model we know."""
    if prefix or nearest_names(text, [*_words(), *_ALIASES], least=0.7):
        _raise_unknown_provider(prefix or text)
    where = {name: f"{provider.name}:{name}" for provider in reversed(providers()) for name in provider.models}
    near = [where[name] for name in nearest_names(text, where)]
    raise UnknownModelError(
        f"No provider is known for the model {text!r}.",
        cure=_did_you_mean(near) + f"Write provider:model, for example openai:{text}. %ai list shows the providers.",
    )


def _raise_unknown_provider(word: str) -> NoReturn:
    raise UnknownProviderError(
        f"There is no provider {word!r}.",
        cure=f"{_did_you_mean(nearest_names(word, [*_words(), *_ALIASES]))}Known: {', '.join(_words())}. "
        "For any other address give base_url=, or ai.register_provider(name, base_url=..., key_variable=...).",
    )


# ------------------------------------------------------------------------------------------------ endpoint
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
    """

    provider: str
    model: str
    identity: str
    base_url: str = field(repr=False, compare=False)
    key: Secret | None = field(default=None, repr=False, compare=False)
    context: int | None = None
    allowed_paths: tuple[str, ...] = ()
    allowed_models: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.provider}:{self.model}"

    @property
    def key_variable(self) -> str | None:
        """The variable to look at when the key is refused."""
        provider = _find(self.provider)
        if provider is None or not provider.key_variables:
            return None
        return _key_is_in(provider, os.environ) or provider.key_variables[0]

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
        provider = _find(self.provider)
        return f"{provider.title} ({self.provider})" if provider else self.provider


def provider_at(base_url: str) -> str:
    """The word for the provider at an address that a client was given; "custom" where it is nobody's we know."""
    at = urlsplit(base_url).netloc
    for provider in providers():
        if at and at in (
            urlsplit(address).netloc for address in (provider.base_url or "", _base_url(provider, os.environ))
        ):
            return provider.name
    return CUSTOM


def resolve(
    model: str | None,
    *,
    settings: Settings,
    environ: Mapping[str, str] = os.environ,
    base_url: str | None = None,
    key_variable: str | None = None,
    probe: Probe | None = None,
) -> Endpoint:
    """The endpoint of `model`, or of the chosen model where it is None. Starts the local model if that is it.

    With `base_url` the model lies at that address, the setting does not count, and None is the first model there. Its
    name is sent as it is written, unless it begins with ``provider:``, which only says how to record it and whose key
    to use; without that the key is the one in `key_variable`, or none.

    Raises:
        UnknownProviderError, UnknownModelError: as ``parse``.
        MissingKeyError: names the variable.
        NoModelError: none could be chosen, or the server has none.
        ConfigurationError: the address is missing or is none.
        LocalModelError: the local model is not installed or does not start.
    """
    probe = probe or _prober
    if base_url is not None:
        return _at_address(base_url, model or "", key_variable, environ, probe)
    if model is None:
        choice = choose(settings, environ, probe)
        if choice.error is not None:
            raise choice.error
        model = choice.model or ""
    provider, name = parse(model)
    if provider.name == LOCAL:
        return _local_endpoint(name)
    if obstacle := _obstacle(provider, environ, key_variable):
        raise obstacle
    return _endpoint(provider, name, _base_url(provider, environ), _key(provider, environ, key_variable), probe)


def _at_address(
    base_url: str, model: str, key_variable: str | None, environ: Mapping[str, str], probe: Probe
) -> Endpoint:
    if not _is_address(base_url):
        raise ConfigurationError("base_url is not the address of a server.", cure="Begin it with http:// or https://.")
    # Only a colon names a provider here: servers offer models called openai/gpt-oss-20b, which is no reason to send
    # them OpenAI's key.
    prefix, separator, name = _split(model)
    provider = _find(prefix) if separator == ":" else None
    if provider is None:
        provider, name = Provider(CUSTOM, "The server", needs_key=False), model
    if missing := _missing_key(provider, environ, key_variable):
        raise missing
    return _endpoint(provider, name, base_url, _key(provider, environ, key_variable), probe)


def _endpoint(provider: Provider, name: str, base_url: str, key: Secret | None, probe: Probe) -> Endpoint:
    if password := urlsplit(base_url).password:
        remember_secret(password)
    return Endpoint(
        provider.name,
        name or _first_offered(provider, base_url, key, probe),
        _without_credentials(base_url),
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


def _base_url(provider: Provider, environ: Mapping[str, str]) -> str:
    """Where the provider is; empty if nothing says it, and no address if the variable holds none."""
    value = environ.get(provider.base_url_variable or "", "").strip()
    try:
        return provider.complete(value) if value else (provider.base_url or "")
    except ValueError:  # half an IPv6 address
        return NO_ADDRESS


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        return False


def _key_is_in(provider: Provider, environ: Mapping[str, str], override: str | None = None) -> str | None:
    """The name of the variable that holds the key."""
    names = (override,) if override else provider.key_variables
    return next((name for name in names if environ.get(name, "").strip()), None)


def _key(provider: Provider, environ: Mapping[str, str], override: str | None) -> Secret | None:
    name = _key_is_in(provider, environ, override)
    return Secret(environ[name].strip()) if name else None


def _obstacle(
    provider: Provider, environ: Mapping[str, str], key_variable: str | None = None
) -> ConfigurationError | None:
    """What is missing before the provider can be used. It names variables and never shows what they hold: a key may
    have landed in the wrong one."""
    if missing := _missing_key(provider, environ, key_variable):
        return missing
    address, variable = _base_url(provider, environ), provider.base_url_variable
    if provider.name == LOCAL or _is_address(address):
        return None
    what = f"{variable} does not hold an address" if address else f"{variable} is not set"
    return ConfigurationError(
        f"{provider.title} cannot be reached: {what}.",
        cure=f"Set it before Jupyter starts:  export {variable}=https://...\n{OR_LOCAL}",
        code="missing_base_url",
    )


def _missing_key(provider: Provider, environ: Mapping[str, str], key_variable: str | None) -> MissingKeyError | None:
    if not (provider.needs_key or key_variable) or _key_is_in(provider, environ, key_variable):
        return None
    variables = (key_variable,) if key_variable else provider.key_variables
    return MissingKeyError(
        f"{provider.title} needs a key, and {' or '.join(variables)} is not set.",
        cure=f"Set it before Jupyter starts:  export {variables[0]}=...\n"
        f"or in a cell, where it is not saved:  import os, getpass; os.environ[{variables[0]!r}] = getpass.getpass()\n"
        f"{OR_LOCAL}",
    )


# ------------------------------------------------------------------------------------------ asking servers
class Prober:
    """Asks servers which models they have, and remembers each answer for a few seconds."""

    def __init__(self, ask: Probe | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask or _ask
        self._clock = clock
        self._answers: dict[tuple[str, int], tuple[float, list[str] | None]] = {}

    def __call__(self, url: str, key: Secret | None) -> list[str] | None:
        of = (url, hash(key.reveal()) if key else 0)
        asked, answer = self._answers.get(of, (float("-inf"), None))
        if self._clock() - asked >= PROBE_HOLDS:
            answer = self._ask(url, key)
            self._answers[of] = (self._clock(), answer)
        return answer


def _ask(url: str, key: Secret | None) -> list[str] | None:
    # The standard library's client: the SDK's costs half a second to import. It goes through no proxy, as it should.
    import http.client

    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=PROBE_TIMEOUT)
    try:
        connection.request("GET", parts.path, headers={"Authorization": f"Bearer {key.reveal()}"} if key else {})
        response = connection.getresponse()
        return _names(response.read(LARGEST_ANSWER)) if response.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def _names(answer: bytes) -> list[str]:
    """From OpenAI's ``{"data": [{"id": ...}]}`` or Ollama's ``{"models": [{"name": ...}]}``.

    Raises:
        ValueError: it is not JSON of that shape, so it is some other server.
    """
    import json

    listed = json.loads(answer)
    items = (listed.get("data") or listed.get("models") or []) if isinstance(listed, dict) else None
    if not isinstance(items, list):
        raise ValueError("not a list of models")
    names = [item.get("id") or item.get("name") for item in items if isinstance(item, dict)]
    return [name for name in names if isinstance(name, str)]


def _models_url(provider: Provider, base_url: str) -> str:
    base_url = base_url.rstrip("/")
    return base_url.removesuffix("/v1") + "/api/tags" if provider.name == "ollama" else base_url + "/models"


def _first_chat_model(names: Iterable[str]) -> str | None:
    return next((name for name in names if not re.search("embed|bge-|minilm|rerank", name, re.IGNORECASE)), None)


def _first_offered(provider: Provider, base_url: str, key: Secret | None, probe: Probe) -> str:
    address = _without_credentials(base_url)
    names = probe(_models_url(provider, base_url), key)
    if names is None:
        variable = f", or set {provider.base_url_variable} to its address" if provider.base_url_variable else ""
        raise NoModelError(
            f"{provider.title} does not say which models it has: no answer at {address}.",
            cure=f"Start it{variable}, or name the model: {provider.name}:<model>\n{OR_LOCAL}",
        )
    if (name := _first_chat_model(names)) is None:
        pull = "ollama pull llama3.2" if provider.name == "ollama" else "Load one there."
        raise NoModelError(f"{provider.title} at {address} has no chat model.", cure=f"{pull}\n{OR_LOCAL}")
    return name


_prober = Prober()


# ---------------------------------------------------------------------------------------------- the choice
class Reason(NamedTuple):
    """One step of the choice: what was looked at, whether that decided it, and what was found there."""

    looked_at: str
    found: bool
    what: str


@dataclass(frozen=True, eq=False)
class Choice:
    """The model that is used where none is named.

    Attributes:
        model: ``provider:model``; None: there is none, and `error` says what to do.
        reasons: the steps that led there, in order.
        error: what ``resolve(None)`` raises.
    """

    model: str | None
    reasons: tuple[Reason, ...]
    error: ConfigurationError | None = None

    def explain(self) -> str:
        lines = [f"  {'->' if step.found else '  '} {step.looked_at}: {step.what}" for step in self.reasons]
        return "\n".join([f"model: {self.model or 'none'}", *lines])


def choose(settings: Settings, environ: Mapping[str, str] = os.environ, probe: Probe | None = None) -> Choice:
    """Which model is used where none is named, and why: the setting, then the first provider whose key is set, then
    a running Ollama, then the local model if it is installed. Raises nothing of its own; starts nothing."""
    if settings.model:
        return _choice_of_setting(settings.model, environ)
    reasons = [Reason("setting", False, "neither IPYCONVEXAI_MODEL nor connect(model=...) is set")]
    for step, model in _candidates(environ, probe or _prober):
        reasons.append(step)
        if model is not None:
            return Choice(model, tuple(reasons))
    return Choice(None, tuple(reasons), _no_model())


def _choice_of_setting(model: str, environ: Mapping[str, str]) -> Choice:
    try:
        provider, name = parse(model)
    except ConfigurationError as error:
        return Choice(None, (Reason("setting", False, f"{model!r}: {error.message}"),), error)
    chosen = f"{provider.name}:{name}" if name else provider.name
    obstacle = _obstacle(provider, environ)
    what = f"IPYCONVEXAI_MODEL or connect(model=...) says {model}" + (f", but {obstacle.message}" if obstacle else "")
    return Choice(chosen, (Reason("setting", True, what),))


def _candidates(environ: Mapping[str, str], probe: Probe) -> Iterator[tuple[Reason, str | None]]:
    for provider in providers():
        if provider.needs_key:
            yield _consider_key(provider, environ)
    yield _consider_ollama(environ, probe)
    yield _consider_local()


def _consider_key(provider: Provider, environ: Mapping[str, str]) -> tuple[Reason, str | None]:
    variable = _key_is_in(provider, environ)
    if variable is None:
        return Reason(provider.name, False, f"{' or '.join(provider.key_variables)} is not set"), None
    if obstacle := _obstacle(provider, environ):
        return Reason(provider.name, False, f"{variable} is set, but {obstacle.message}"), None
    model = f"{provider.name}:{provider.default_model}" if provider.default_model else provider.name
    return Reason(provider.name, True, f"{variable} is set"), model


def _consider_ollama(environ: Mapping[str, str], probe: Probe) -> tuple[Reason, str | None]:
    provider = _by_name["ollama"]
    base_url = _base_url(provider, environ)
    if not _is_address(base_url):
        return Reason("ollama", False, "OLLAMA_HOST does not hold an address"), None
    where = _without_credentials(base_url).removesuffix("/v1")
    names = probe(_models_url(provider, base_url), None)
    if names is None:
        return Reason("ollama", False, f"nothing answers at {where}"), None
    name = _first_chat_model(names)
    if name is None:
        return Reason("ollama", False, f"runs at {where} and has no chat model"), None
    return Reason("ollama", True, f"runs at {where} and has {name}"), f"ollama:{name}"


def _consider_local() -> tuple[Reason, str | None]:
    problem, state = _local_state()
    return Reason(LOCAL, not problem, problem or state), None if problem else f"{LOCAL}:{BUNDLED}"


def _local_state() -> tuple[str, str]:
    """What the bundled model lacks (empty: nothing), and what there is of it. Looks, and loads nothing."""
    import importlib.util

    from ipyconvexai.providers.local import find_weights

    try:
        weights = find_weights()
    except LocalModelError as error:
        return error.message, ""
    if importlib.util.find_spec("xllamacpp") is None:
        return "its weights are installed, but its runtime (xllamacpp) is not", ""
    return "", f"{weights.name} is installed ({weights.stat().st_size / 1e6:.0f} MB)"


def _no_model() -> NoModelError:
    keys = ", ".join(provider.key_variables[0] for provider in providers() if provider.needs_key)
    return NoModelError(
        "No model is named, and none was found.",
        cure=f"One of these will do:\n"
        f"- set the key of a provider before Jupyter starts, for example  export OPENAI_API_KEY=...  (known: {keys})\n"
        f"- start Ollama with a model:  ollama pull llama3.2\n"
        f"- install the local model:  {INSTALL_LOCAL}\n"
        f"ai.doctor() shows what was looked at.",
    )


# ------------------------------------------------------------------------------------------ lists and reports
class ModelRow(NamedTuple):
    """A line of ``%ai list``; the model is empty where a server does not run."""

    provider: str
    model: str
    note: str


def list_models(
    provider: str | None = None, *, environ: Mapping[str, str] = os.environ, probe: Probe | None = None
) -> list[ModelRow]:
    """Well-known models of one provider or of all; of a server, those it has. Other names can be used as well.

    Raises:
        UnknownProviderError: with the nearest names.
    """
    probe = probe or _prober
    if provider is not None:
        return _rows(_provider(provider), environ, probe)
    # Servers nobody spoke of are not asked: at these ports there is mostly something else.
    unasked = [name for name in ("vllm", "llamacpp") if not environ.get(_by_name[name].base_url_variable or "")]
    return [row for each in providers() if each.name not in unasked for row in _rows(each, environ, probe)]


def _rows(provider: Provider, environ: Mapping[str, str], probe: Probe) -> list[ModelRow]:
    notes = [part for part in (_state(provider, environ), provider.note) if part]
    if provider.default_model:
        first = {provider.default_model: ["default"]}
        return [ModelRow(provider.name, name, "; ".join(first.get(name, []) + notes)) for name in provider.models]
    base_url = _base_url(provider, environ)
    offered = probe(_models_url(provider, base_url), _key(provider, environ, None)) if _is_address(base_url) else None
    if offered is None:
        return [ModelRow(provider.name, "", f"nothing answers at {_without_credentials(base_url)}")]
    return [ModelRow(provider.name, name, "; ".join(notes)) for name in offered]


def _state(provider: Provider, environ: Mapping[str, str]) -> str:
    """Whether its key is set; empty for those that know no key."""
    if not provider.key_variables:
        return ""
    if variable := _key_is_in(provider, environ):
        return f"{variable} is set"
    return f"{' or '.join(provider.key_variables)} is not set" + ("" if provider.needs_key else " (optional)")


def doctor_report(settings: Settings, environ: Mapping[str, str] = os.environ, *, probe: Probe | None = None) -> str:
    """Plain text for ``ai.doctor()``: the versions, the ledger's path, the choice and why, the providers' keys (set or
    not, never their values) and the state of the local model."""
    problem, state = _local_state()
    lines = [
        f"ipyconvexai {_version()}, Python {sys.version.split()[0]} on {sys.platform}",
        f"ledger: {settings.path}",
        choose(settings, environ, probe).explain(),
        "providers:",
        *(f"  {each.name:<11}{_line(each, environ)}" for each in providers() if each.name != LOCAL),
        f"local model: {f'{problem}. Install it:  {INSTALL_LOCAL}' if problem else state}",
    ]
    return redact("\n".join(lines))


def _line(provider: Provider, environ: Mapping[str, str]) -> str:
    address = _base_url(provider, environ)
    at = _without_credentials(address) if _is_address(address) else f"no address in {provider.base_url_variable}"
    return ", ".join(part for part in (at, _state(provider, environ)) if part)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ipyconvexai")
    except PackageNotFoundError:
        return "(not installed: run from its source)"
