"""Documents and their summaries: ``process_with_ai`` reads one, asks the model, and keeps what it says.

Written with the public layer only. Promise: a document that is not there is an error of its own, before anything is
sent.
"""

from __future__ import annotations

from typing import Any

import ipyconvexai as ai

__all__ = ["get", "process_with_ai", "update_summary"]

INSTRUCTIONS = "Summarize the user's text in a few sentences, in its own language. Give the summary only."


@ai.query(name="ai.documents.get", internal=True)
def get(ctx: Any, document_id: ai.Id[ai.Document]) -> ai.Document | None:
    """The document, or None."""
    found: ai.Document | None = ctx.db.get(ai.Document, document_id)
    return found


@ai.mutation(name="ai.documents.update_summary", internal=True)
def update_summary(ctx: Any, document_id: ai.Id[ai.Document], summary: str) -> None:
    """Keep the summary of a document.

    Raises:
        NotFoundError: it is gone.
    """
    ctx.db.patch(document_id, summary=summary)


@ai.action(name="ai.process_with_ai")
async def process_with_ai(ctx: Any, document_id: ai.Id[ai.Document]) -> str:
    """Summarize a document and keep the summary with it.

    Raises:
        NotFoundError: there is no such document, or it has no content; nothing is sent.
    """
    document = await ctx.run_query(get, document_id=document_id)
    if document is None or not document.content:
        what = "there is no document" if document is None else "there is no content in the document"
        raise ai.errors.NotFoundError(
            f"{what} {document_id}", cure="Insert it in a mutation: ctx.db.insert(ai.Document(content=...))."
        )
    reply: ai.Reply = await ctx.generate(document.content, system=INSTRUCTIONS)
    await ctx.run_mutation(update_summary, document_id=document_id, summary=reply.text)
    return reply.text
