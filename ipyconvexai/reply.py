"""The answer of one call, and what ``safe_generate`` returns for a good one. Floor 2: calls render to draw itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ipyconvexai.values import ToolCall, Usage

__all__ = ["Reply", "Success"]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. ``str(reply)`` is its text.

    Attributes:
        text: the answer; empty when the model said nothing (a tool call, say).
        parsed: the value that was asked for with ``schema=``, else None.
        usage: tokens as the provider counted them.
        cost: US dollars; 0.0 where nothing is paid (local, replayed), None where the price is not known.
        model: as the provider named it.
        finish_reason: "stop", "length", "tool_calls", ...
        request_id: its row in ``requests``.
        conversation_id: the conversation it belongs to, if any.
        replayed: whether it came from the ledger; then nothing was sent.
        raw: the provider's answer as it came.
        tool_calls: the tools that it wants called, with ``.id``, ``.name`` and ``.arguments`` (JSON text).
    """

    text: str
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None
    model: str | None = None
    finish_reason: str | None = None
    request_id: str | None = None
    conversation_id: str | None = None
    replayed: bool = False
    parsed: Any = None
    duration: float | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)
    tool_calls: tuple[ToolCall, ...] = ()

    def __str__(self) -> str:
        return self.text

    @property
    def note(self) -> str:
        """One line under an answer: model, tokens, cost, seconds."""
        parts = [self.model or ""]
        if self.usage.total_tokens:
            parts.append(f"{self.usage.input_tokens or 0} + {self.usage.output_tokens or 0} tokens")
        if self.cost:
            parts.append(_dollars(self.cost))
        if self.duration is not None and not self.replayed:
            parts.append(f"{self.duration:.1f} s")
        if self.replayed:
            parts.append("replayed")
        if self.finish_reason == "length":
            parts.append("cut at the token limit")
        if self.finish_reason == "content_filter":
            parts.append("stopped by the provider's filter")
        elif self.finish_reason in ("tool_calls", "function_call"):
            parts.append("it asked for a tool")
        elif not self.text.strip():
            parts.append("an empty answer")
        return " · ".join(part for part in parts if part)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        from ipyconvexai import render

        return render.markdown_bundle(self.text, note=self.note)


def _dollars(cost: float) -> str:
    if cost >= 0.01:
        return f"${cost:.4f}"
    return f"${cost:.6f}".rstrip("0") if cost >= 0.0000005 else "less than $0.000001"


@dataclass(frozen=True, slots=True)
class Success:
    """A good outcome of ``safe_generate``; the counterpart is ``Failure``."""

    reply: Reply
    success: bool = True

    @property
    def text(self) -> str:
        return self.reply.text

    @property
    def request_id(self) -> str | None:
        return self.reply.request_id
