"""A function's result as a page shows it, and as markdown for a notebook that is only read. Calls ``drawing``, render.

Promises: what a result says runs nothing; known keys are removed. What a page is told, as JSON:

    {"kind": "html", "blocks": [...], "note"}             texts (as markdown) and tables
    {"kind": "picture", "data", "alt", "width"}           charts and figures, as PNG in base64
    {"kind": "text", "text"}                              anything else
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from ipyconvexai.drawing.charts import Chart, picture_of
from ipyconvexai.drawing.results import bundle_of, text_of
from ipyconvexai.errors import Error
from ipyconvexai.render import error_text, fenced, plain_text, safe_html
from ipyconvexai.reply import Reply, Success
from ipyconvexai.settings import redact

__all__ = ["Shown", "shown", "words_of"]

LARGEST = 8_000_000  # bytes of a picture; a page is told each result in one message
DONE = "Done."


@dataclass(frozen=True)
class Shown:
    """`told`: for the page; `markdown`: not safe yet."""

    told: dict[str, Any]
    markdown: str


def shown(value: Any) -> Shown:
    """Blocking: figures are drawn, frames are read."""
    if isinstance(value, Success):
        value = value.reply
    if isinstance(value, Reply):
        return _of_text(value.text, value.note)
    if value is None:
        return Shown({"kind": "text", "text": DONE}, DONE)
    if isinstance(value, str):
        return _of_text(value)
    picture = picture_of(value)
    if picture is not None and len(picture.png) <= LARGEST:
        return _of_picture(picture)
    bundle = bundle_of(value)
    text = redact(bundle["text/plain"])
    if "text/html" in bundle:
        return Shown({"kind": "html", "blocks": [redact(bundle["text/html"])], "note": ""}, fenced(text))
    return Shown({"kind": "text", "text": text}, fenced(text))


def _of_text(text: str, note: str = "") -> Shown:
    text = redact(text_of(text))
    return Shown({"kind": "html", "blocks": [safe_html(text)], "note": redact(plain_text(note))}, text)


def _of_picture(picture: Chart) -> Shown:
    alt = redact(plain_text(picture.alt))
    told = {"kind": "picture", "data": base64.b64encode(picture.png).decode(), "alt": alt}
    return Shown({**told, "width": picture.width}, alt)


def words_of(error: Exception) -> str:
    """What a page is told of an error, without known keys."""
    if isinstance(error, Error):
        return redact(error_text(error.message, error.cure))
    try:
        said = str(error)
    except Exception:  # one of the user's may fail to describe itself
        said = "(it does not say why)"
    return redact(plain_text(f"{type(error).__name__}: {said}"))
