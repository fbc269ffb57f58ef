"""What becomes of an answer: markdown, text, JSON, or code for the next cell. Calls render. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from ipyconvexai.errors import InvalidAnswerError

__all__ = ["ASK_FOR", "code_of", "json_of", "markdown_bundle", "text_bundle"]

# What the model is told, after the question.
ASK_FOR = {
    "json": "\n\nReply with JSON only, and with nothing before or after it.",
    "code": "\n\nReply with code only, in one fenced block, without any explanation.",
}
_FENCED = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n]*\n(.*?)(?:\n[ \t]*\1`*~*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)


def markdown_bundle(text: str, note: str) -> dict[str, Any]:
    from ipyconvexai import render

    return dict(render.markdown_bundle(text, note=note))


def text_bundle(text: str, note: str) -> dict[str, Any]:
    from ipyconvexai import render

    return {"text/plain": render.plain_text(f"{text}\n\n[{note}]" if note else text)}


def code_of(text: str) -> str:
    """The fenced code alone, blocks one below the other; without a fence the whole text."""
    blocks = [match[2] for match in _FENCED.finditer(text)]
    return "\n\n".join(blocks) if blocks else text.strip()


def json_of(text: str, request_id: str | None) -> Any:
    """The value that the text or its first fenced block holds.

    Raises:
        InvalidAnswerError: it is no JSON.
    """
    fenced = _FENCED.search(text)
    try:
        return json.loads(fenced[2] if fenced else text)
    except ValueError as error:
        raise InvalidAnswerError(
            f"the answer is no JSON: {error}",
            cure="Ask again, or show it as it is with -f text. The answer is in the ledger under this request.",
            request_id=request_id,
        ) from None
