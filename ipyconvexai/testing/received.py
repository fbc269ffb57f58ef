"""What the endpoint was sent: one `Received` for each request, with the readings of its body that scripts need.

Imports nothing of the package. A repr never shows the value of a header that carries a key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_SECRET = frozenset({"authorization", "api-key", "x-api-key", "cookie"})


class Headers(Mapping[str, str]):
    """Headers by name in any case. Values are as sent; the repr hides those that carry keys."""

    def __init__(self, lowered: dict[str, str]) -> None:
        self._lowered = lowered

    def __getitem__(self, name: str) -> str:
        return self._lowered[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lowered)

    def __len__(self) -> int:
        return len(self._lowered)

    def __repr__(self) -> str:
        return repr({name: "***" if name in _SECRET else value for name, value in self._lowered.items()})


@dataclass(frozen=True, eq=False)
class Received:
    """One request as it arrived.

    Attributes:
        number: 1 for the first request of the endpoint, then counting up.
        time: when it was complete, in seconds since the epoch.
        method: ``GET``, ``POST``.
        path: without the query, e.g. ``/v1/chat/completions``.
        query: what follows the ``?``, or an empty string.
        headers: by name in any case.
        raw: the body's bytes.
    """

    number: int
    time: float
    method: str
    path: str
    query: str
    headers: Headers
    raw: bytes

    @cached_property
    def body(self) -> Any:
        """The parsed JSON body; None if there is none or it is not JSON."""
        try:
            return json.loads(self.raw)
        except ValueError:
            return None

    @cached_property
    def kind(self) -> str:
        """``chat``, ``responses``, ``embeddings``, ``images``, ``models``, ``files``, ``batches``; of anything else an
        empty string."""
        for kind in ("files", "batches"):
            if f"/{kind}/" in f"{self.path}/":
                return kind
        if self.method == "GET":
            return "models" if "/models" in self.path else ""
        for ending, kind in _KINDS:
            if self.path.endswith(ending):
                return kind
        return ""

    @property
    def model(self) -> str:
        """The model asked for; for Azure's paths the deployment."""
        named = self._get("model")
        if isinstance(named, str) and named:
            return named
        return self.path.partition("/deployments/")[2].partition("/")[0]

    @property
    def stream(self) -> bool:
        return self._get("stream") is True

    @property
    def prompt(self) -> str:
        """The text of the last user message (of the last message, if none is the user's)."""
        messages = self._messages
        users = [message for message in messages if _role(message) == "user"]
        return " ".join(_texts((users or messages)[-1])) if messages else ""

    @property
    def inputs(self) -> list[str]:
        """What is to be embedded, one text each; token ids stand as text."""
        given = self._get("input")
        if isinstance(given, str):
            return [given]
        if not isinstance(given, list):
            return []
        if given and isinstance(given[0], int):
            return [_spoken(given)]
        return [_spoken(item) for item in given]

    @cached_property
    def input_words(self) -> int:
        """The whitespace words of everything the model has to read: what usage counts as input tokens."""
        if self.kind == "embeddings":
            return sum(len(text.split()) for text in self.inputs)
        words = sum(len(text.split()) for message in self._messages for text in _texts(message))
        instructions = self._get("instructions")
        return words + (len(instructions.split()) if isinstance(instructions, str) else 0)

    @property
    def _messages(self) -> list[Any]:
        given = self._get(_SPOKEN.get(self.kind, "input"))
        if isinstance(given, str):
            return [{"role": "user", "content": given}]
        return given if isinstance(given, list) else []

    def _get(self, name: str) -> Any:
        return self.body.get(name) if isinstance(self.body, dict) else None

    def __repr__(self) -> str:
        model = f" {self.model}" if self.model else ""
        return f"<Received {self.number}: {self.method} {self.path}{model}, {len(self.raw)} bytes>"


_KINDS = (
    ("/chat/completions", "chat"),
    ("/responses", "responses"),
    ("/embeddings", "embeddings"),
    ("/images/generations", "images"),
)


_SPOKEN = {"chat": "messages", "images": "prompt"}


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def _spoken(item: Any) -> str:
    return " ".join(map(str, item)) if isinstance(item, list) else str(item)


def _texts(message: Any) -> Iterator[str]:
    """Every text of a message: a plain content, the text parts of a list, a tool's output."""
    if not isinstance(message, dict):
        return
    for content in (message.get("content"), message.get("output")):
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            yield from (
                part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
            )
