"""Asks a model server (Ollama, vLLM, llama.cpp) which models it has. Blocks, so async code calls it in a thread.

Calls ``access``, ``catalog`` and ``errors``. Promise: a server that does not answer costs a third of a second, once
in a few seconds.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from ipyconvexai.errors import NoModelError
from ipyconvexai.providers.access import OR_LOCAL, without_credentials
from ipyconvexai.providers.catalog import Provider
from ipyconvexai.settings import Secret

__all__ = ["Probe", "Prober", "first_chat_model", "first_offered", "is_chat_model", "models_url", "prober"]

PROBE_TIMEOUT = 0.3  # seconds to connect, and again for each part of the answer: a server on this machine needs 5 ms
PROBE_HOLDS = 3.0  # seconds for which an answer is not asked for again
LARGEST_ANSWER = 1 << 20  # bytes of a list of models

Probe = Callable[[str, Secret | None], list[str] | None]
"""Asks a URL for its list of models: their names, or None where nothing (useful) answers."""


class Prober:
    """Asks servers which models they have, and remembers each answer for a few seconds."""

    def __init__(self, ask: Probe | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask or ask_models
        self._clock = clock
        self._answers: dict[tuple[str, int], tuple[float, list[str] | None]] = {}

    def __call__(self, url: str, key: Secret | None) -> list[str] | None:
        of = (url, hash(key.reveal()) if key else 0)
        asked, answer = self._answers.get(of, (float("-inf"), None))
        if self._clock() - asked >= PROBE_HOLDS:
            answer = self._ask(url, key)
            self._answers[of] = (self._clock(), answer)
        return answer


def ask_models(url: str, key: Secret | None) -> list[str] | None:
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


def models_url(provider: Provider, base_url: str) -> str:
    base_url = base_url.rstrip("/")
    return base_url.removesuffix("/v1") + "/api/tags" if provider.name == "ollama" else base_url + "/models"


def is_chat_model(name: str) -> bool:
    return not re.search("embed|bge-|minilm|rerank", name, re.IGNORECASE)


def first_chat_model(names: Iterable[str]) -> str | None:
    return next(filter(is_chat_model, names), None)


def first_offered(provider: Provider, base_url: str, key: Secret | None, probe: Probe) -> str:
    address = without_credentials(base_url)
    names = probe(models_url(provider, base_url), key)
    if names is None:
        variable = f", or set {provider.base_url_variable} to its address" if provider.base_url_variable else ""
        raise NoModelError(
            f"{provider.title} does not say which models it has: no answer at {address}.",
            cure=f"Start it{variable}, or name the model: {provider.name}:<model>\n{OR_LOCAL}",
        )
    if (name := first_chat_model(names)) is None:
        pull = "ollama pull llama3.2" if provider.name == "ollama" else "Load one there."
        raise NoModelError(f"{provider.title} at {address} has no chat model.", cure=f"{pull}\n{OR_LOCAL}")
    return name


prober = Prober()
