"""How many tokens a call will take, before it is sent: what limits reserve. It learns from every answer.

Input: bytes of the body times tokens per byte, as they were of late with this model. Output: what the call allows
itself (max_tokens), else what answers of this model had on average. Pure: calls nothing; thread-safe by the loop it
runs on.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

__all__ = ["Estimates"]

TOKENS_PER_BYTE = 0.25  # of English text; before anything is known
OUTPUT = 300  # tokens of an answer, before anything is known
WEIGHT = 0.05  # of one answer against those before it
FEW = 20  # the first so many count alike
MOST_MODELS = 1000
TOKENS_PER_MEDIUM = 1000  # of a picture or a sound in the body
_MEDIUM = re.compile(rb";base64,[A-Za-z0-9+/=_-]{200,}")

Key = tuple[str, str, str]  # provider, model, endpoint


@dataclass(slots=True)
class _Mean:
    per_byte: float = TOKENS_PER_BYTE
    output: float = float(OUTPUT)
    count: int = 0


class Estimates:
    def __init__(self) -> None:
        self._means: dict[Key, _Mean] = {}
        self._asked: set[Key] = set()

    def knows(self, key: Key) -> bool:
        """Whether ``recall`` has been called for it, or answers were seen."""
        return key in self._asked or key in self._means

    def recall(self, key: Key, recorded: tuple[int, float, float] | None) -> None:
        """What the ledger has of it: answers, input tokens per byte, output tokens per answer; None: nothing."""
        self._asked.add(key)
        if recorded is not None and key not in self._means:
            count, per_byte, output = recorded
            self._means[key] = _Mean(per_byte, output, count)

    def learn(self, key: Key, body: bytes, read: int | None, written: int | None) -> None:
        """One answer: its input and output tokens."""
        if read is None or not body:
            return
        mean = self._means.get(key)
        if mean is None:
            if len(self._means) >= MOST_MODELS:
                self._means.clear()
            mean = self._means[key] = _Mean()
        mean.count += 1
        weight = max(WEIGHT, 1.0 / mean.count) if mean.count <= FEW else WEIGHT
        size, media = _size(body)
        mean.per_byte += weight * (max(0, read - media) / max(1, size) - mean.per_byte)
        mean.output += weight * ((written or 0) - mean.output)

    def estimate(self, key: Key, body: bytes, allowed: int | None) -> tuple[int, int]:
        """Input and output tokens of a call; `allowed`: what it allows its answer."""
        mean = self._means.get(key) or _Mean()
        size, media = _size(body)
        read = math.ceil(size * mean.per_byte) + media
        if key[2].endswith(("embeddings", "moderations")):
            return read, 0
        return read, allowed if allowed is not None else math.ceil(mean.output)


def _size(body: bytes) -> tuple[int, int]:
    """Bytes of text, and tokens of what is none."""
    if len(body) < 1000 or b";base64," not in body:
        return len(body), 0
    text, count = _MEDIUM.subn(b"", body)
    return len(text), count * TOKENS_PER_MEDIUM
