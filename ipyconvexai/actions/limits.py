"""So many requests per minute and user. Written with the public layer only.

Promises: judged and recorded in one transaction, so that no two requests pass on the same room; a request that fails
is not charged.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

import ipyconvexai as ai

__all__ = ["Allowance", "check_rate_limit", "generate_with_rate_limit", "give_back", "record_request"]

REQUESTS, WINDOW = 10, 60  # requests of one user in any so many seconds

_limit = ai.rate_limit("ai.generate_with_rate_limit", rate=REQUESTS, per=WINDOW)


class Allowance(TypedDict):
    """`left`: requests that would pass now; `retry_after`: seconds until the next one does, None for at once."""

    allowed: bool
    left: int
    retry_after: float | None


@ai.query(name="ai.check_rate_limit")
def check_rate_limit(ctx: Any) -> Allowance:
    """Whether a request of this user's would pass now; nothing is taken."""
    user = ctx.require_user()
    taken = _limit.check(ctx, key=user)
    return {"allowed": taken.ok, "left": int(_limit.value(ctx, key=user)), "retry_after": taken.retry_after}


@ai.mutation(name="ai.record_request", internal=True)
def record_request(ctx: Any) -> float | None:
    """Check the limit and record a request, in one transaction; gives what ``give_back`` wants.

    Raises:
        Unauthenticated: nobody is known.
        LimitError: the limit is reached, and nothing is recorded; with ``retry_after``.
    """
    return _limit.take(ctx, key=ctx.require_user(), throw=True).at


@ai.mutation(name="ai.give_back", internal=True)
def give_back(ctx: Any, at: float | None) -> None:
    """The request that was recorded with `at` came to nothing: it does not count."""
    _limit.refund(ctx, key=ctx.require_user(), at=at)


@ai.action(name="ai.generate_with_rate_limit")
async def generate_with_rate_limit(ctx: Any, prompt: str) -> str:
    """The model's answer to a prompt; ten per minute for each user."""
    at = await ctx.run_mutation(record_request)
    try:
        reply: ai.Reply = await ctx.generate(prompt)
    except BaseException:  # canceled, too: nothing came of it
        await ctx.run_mutation(give_back, at=at)
        raise
    return reply.text
