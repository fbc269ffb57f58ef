"""A text for a prompt: plain, from the provider that comes with Chef, and as a value that says how it went.

Written with the public layer only. Promises: an answer without text (a refusal of some providers, a tool call) is an
answer; what a provider does wrong is an error of ``ai.errors`` with its ``retryable`` and ``retry_after``.
"""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

import ipyconvexai as ai

__all__ = ["SafeFailure", "SafeText", "generate_text", "generate_with_chef", "safe_generate"]

CHEF = "chef:gpt-4o-mini"  # CONVEX_OPENAI_BASE_URL and CONVEX_OPENAI_API_KEY say where it is


class SafeText(TypedDict):
    """`finish_reason` is "length" where the text was cut at the token limit."""

    success: Literal[True]
    text: str
    finish_reason: str | None
    request_id: str | None


class SafeFailure(TypedDict):
    """`error` says what happened in a sentence, `message` also what to do; `retry_after` is in seconds."""

    success: Literal[False]
    error: str
    message: str
    code: str
    retryable: bool
    retry_after: float | None
    request_id: str | None


@ai.action(name="ai.generate_text")
async def generate_text(ctx: Any, prompt: str) -> str:
    """The model's answer to a prompt."""
    reply: ai.Reply = await ctx.generate(prompt)
    return reply.text


@ai.action(name="ai.generate_with_chef")
async def generate_with_chef(ctx: Any, prompt: str) -> str:
    """The answer of the OpenAI that comes with Convex Chef, whose address and key are in the environment."""
    reply: ai.Reply = await ctx.generate(prompt, model=CHEF)
    return reply.text


@ai.action(name="ai.safe_generate")
async def safe_generate(ctx: Any, prompt: str) -> SafeText | SafeFailure:
    """The answer, or why there is none: what a provider or a limit does is never raised."""
    try:
        reply: ai.Reply = await ctx.generate(prompt)
    except ai.errors.CallError as error:
        return {
            "success": False,
            "error": error.message,
            "message": str(error),
            "code": error.code,
            "retryable": error.retryable,
            "retry_after": error.retry_after,
            "request_id": error.request_id,
        }
    return {
        "success": True,
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "request_id": reply.request_id,
    }
