"""``--dry-run``: the body of the request, and what it would take by estimate. Calls the app and render.

Promises: what is shown, and what ``-o`` keeps, is the JSON body as ``%%ai`` would send it; nothing is sent.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ipyconvexai.notebook.options import Options
from ipyconvexai.notebook.preparing import Prepared
from ipyconvexai.notebook.screens import display, in_kernel, say
from ipyconvexai.notebook.session import Session

if TYPE_CHECKING:
    from ipyconvexai.generation import Plan

__all__ = ["show"]

_STREAMED = {"stream": True, "stream_options": {"include_usage": True}}  # every cell's request; not all show it growing


def show(session: Session, options: Options, prepared: Prepared) -> None:
    """Show it for each model; ``-o NAME`` keeps the request's body, or of several models a dict of them by name."""
    from ipyconvexai import render
    from ipyconvexai.application import app

    current = app()
    questions = [prepared.to(session, name) for name in options.models] or [prepared.question]
    plans = [current.run(current.generator.plan(question)) for question in questions]
    markdown = "\n\n".join(_markdown(plan, options.budget) for plan in plans)
    if in_kernel(session.shell):
        display(render.markdown_bundle(markdown), raw=True)
    else:
        say(markdown)
    if options.output:
        bodies = [_body(plan) for plan in plans]
        kept = dict(zip(options.models, bodies, strict=True)) if options.models else bodies[0]
        session.shell.user_ns[options.output] = kept


def _body(plan: Plan) -> dict[str, Any]:
    return plan.body | _STREAMED


def _markdown(plan: Plan, budget: float | None) -> str:
    from ipyconvexai import render

    body = _body(plan)
    parts = [f"**Not sent.** {_summary(plan, budget)}"]
    for message in body.pop("messages", []):
        content = message.get("content")
        text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False)
        parts += [str(message.get("role")), render.fenced(str(text), "text")]
    parts += ["parameters", render.fenced(json.dumps(body, indent=2, ensure_ascii=False), "json")]
    return "\n\n".join(parts)


def _summary(plan: Plan, budget: float | None) -> str:
    cost = "its price is not known" if plan.cost is None else f"about ${plan.cost:.6f}" if plan.cost else "free"
    usage = f"about {plan.usage.input_tokens:,} + {plan.usage.output_tokens:,} tokens, {cost}"
    where = f"To {_code(plan.endpoint.name)} at {_code(plan.endpoint.identity)}"
    over = " — more than the budget, so it would be refused" if budget and (plan.cost or 0.0) > budget else ""
    unset = f" {plan.endpoint.key_variable} is not set." if plan.endpoint.unready and plan.endpoint.key_variable else ""
    return f"{where}: {usage}{over}.{unset}"


def _code(text: str) -> str:
    return f"`{text.replace('`', '')}`"
