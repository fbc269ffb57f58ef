"""The catalogue of providers: from a word to who answers there, and the reading of ``provider:model``.

Calls ``errors`` and ``settings`` only, asks nobody and starts nothing. Which address and key a provider has is in
``access``, which model is used where none is named in ``choice``, and how it is reached in ``endpoints``.

    parse("groq/openai/gpt-oss-20b")              -> (Provider groq, "openai/gpt-oss-20b")
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import urlsplit

from ipyconvexai.errors import InputError, UnknownModelError, UnknownProviderError

__all__ = [
    "Provider",
    "find",
    "is_address",
    "nearest_names",
    "parse",
    "provider_named",
    "providers",
    "register",
    "split",
    "unknown_model",
]


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


def is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        return False


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
BY_NAME = {provider.name: provider for provider in _BUILT_IN}
_registered: dict[str, Provider] = {}
_ALIASES = {
    "gemini": "google",
    "claude": "anthropic",
    "llama.cpp": "llamacpp",
    "llama-cpp": "llamacpp",
    # As jupyter-ai 2 calls them.
    "openai-chat": "openai",
    "anthropic-chat": "anthropic",
    "mistralai": "mistral",
    "azure-chat-openai": "azure",
}


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
    if name in BY_NAME or name in _ALIASES or name == CUSTOM:
        raise InputError(f"The name {name!r} is taken.", cure="Choose another name for your provider.")
    if not is_address(base_url):
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


def find(word: str) -> Provider | None:
    word = word.strip().lower()
    word = _ALIASES.get(word, word)
    return BY_NAME.get(word) or _registered.get(word)


def provider_named(word: str) -> Provider:
    return find(word) or _raise_unknown_provider(word)


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
    if alone := find(text):
        return alone, alone.default_model
    prefix, separator, name = split(text)
    provider = find(prefix) if separator else None
    if provider is not None and (separator == ":" or provider.name == LOCAL or not _is_gguf(text)):
        return provider, _name_at(provider, name)
    if _is_gguf(text):
        return BY_NAME[LOCAL], text
    return _well_known(text) or _raise_unknown(text, prefix if separator else "")


def split(text: str) -> tuple[str, str, str]:
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
    known = find(provider)
    names = [name for name in offered or (known.models if known else ()) if name != model]
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
    example = near[0] if near else f"openai:{text}"  # what was mistyped would be no example
    raise UnknownModelError(
        f"No provider is known for the model {text!r}.",
        cure=_did_you_mean(near) + f"Write provider:model, for example {example}. %ai list shows the providers.",
    )


def _raise_unknown_provider(word: str) -> NoReturn:
    raise UnknownProviderError(
        f"There is no provider {word!r}.",
        cure=f"{_did_you_mean(nearest_names(word, [*_words(), *_ALIASES]))}Known: {', '.join(_words())}. "
        "For any other address give base_url=, or ai.register_provider(name, base_url=..., key_variable=...).",
    )
