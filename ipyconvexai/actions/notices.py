"""Word of what happened, to a webhook or by e-mail. Written with the public layer only.

Each is an action of its own: recorded, and tried again when the other side is busy or away, for about a day. Keys, and
addresses that hold a secret ("env:NAME"), come from the environment of the process that sends.
"""

from __future__ import annotations

from typing import Any

import ipyconvexai as ai

__all__ = ["notify_webhook", "send_email"]

# 10 s, 40 s, 160 s, ... then every two hours, and no sooner than the other side asks for.
PATIENT = ai.Retry(attempts=16, backoff=10, factor=4, longest=7200)


@ai.action(name="ai.notify_webhook", internal=True, retry=PATIENT, timeout=60)
async def notify_webhook(ctx: Any, address: str, event: dict[str, Any]) -> int:
    """POST an event to a webhook; gives the HTTP status of its answer."""
    return int((await ctx.post(address, event)).status)


@ai.action(name="ai.send_email", internal=True, retry=PATIENT, timeout=60)
async def send_email(ctx: Any, to: str, subject: str, text: str, idempotency_key: str | None = None) -> str:
    """Send an e-mail through Resend; gives its id there. Sent twice under one key it is one mail."""
    return str(await ctx.send_email(to, subject, text, idempotency_key=idempotency_key))
