"""One message of a conversation, as a page is told of it and as a transcript has it. Calls ``render``.

Promise: all HTML comes out of ``render``, and all texts have passed it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from ipyconvexai.functions.streaming import Draft
from ipyconvexai.functions.tools import for_people
from ipyconvexai.render import Blocks, fenced, plain_text
from ipyconvexai.settings import redact
from ipyconvexai.values import Wait
from ipyconvexai.widgets.rows import Row

__all__ = ["OPEN", "Message", "Update", "facts_of"]

Update = dict[str, Any]

LONGEST = 100_000  # characters of a message in the transcript
OPEN = ("pending", "streaming")
STATES = {  # of a call
    "waiting": "asks to be run",
    "pending": "is about to run",
    "streaming": "runs",
    "done": "was run",
    "failed": "failed",
    "canceled": "was stopped",
}
LONGEST_CALL = 20_000  # characters of a call's arguments or result that are shown


@dataclass(slots=True)
class Message:
    """A message as it was told. `row` is its row, where that differs it is told again."""

    id: str
    role: str = ""
    status: str = ""
    row: Row | None = None
    text: str = ""
    foot: str = ""
    note: dict[str, Any] | None = None
    wait: Wait | None = None
    blocks: Blocks = field(default_factory=Blocks)
    call: dict[str, Any] = field(default_factory=dict)  # of a tool
    here: bool = False  # whether that is in this process
    is_last: bool = False
    attached: list[dict[str, Any]] = field(default_factory=list)

    def take(self, row: Row, text: str | None, draft: Draft | None) -> bool:
        """Whether there is anything new in its row, its text in the ledger, or what this process writes of it."""
        changed = row != self.row
        if changed:
            self.row, self.role, self.status = row, row.role, row.status
            self.foot, self.note = _foot(row), _note(row)
            self.call = {key: value for key, value in row.call.items() if isinstance(value, str)}
        if text is not None and text != self.text:
            self.text, changed = text, True
        return (draft is not None and self.grow(draft)) or changed

    def grow(self, draft: Draft) -> bool:
        """Whether `draft` has more than was told."""
        text, wait = redact(draft.text), draft.wait
        if self.status not in OPEN or (text, wait) == (self.text, self.wait):
            return False
        self.text, self.wait, self.status = text, wait, "streaming"
        return True

    @property
    def attached_names(self) -> str:
        names = ", ".join(one["name"] for one in self.attached)
        return f"\n\nAttached: {names}" if names else ""

    def update(self, *, whole: bool = False) -> Update:
        told: Update = {"kind": "message", "id": self.id, "role": self.role, "status": self.status}
        if self.role == "user":
            return told | {"text": plain_text(self.text), "attached": self.attached}
        if self.role == "tool":
            return told | self._call_told()
        kept = self.blocks.show(self.text)
        keep = 0 if whole else kept
        wait = None
        if self.wait is not None and self.status in OPEN:
            wait = {"why": plain_text(self.wait.why), "seconds": max(0.0, self.wait.until - time.monotonic())}
        facts = {"foot": self.foot, "note": self.note, "wait": wait}
        return told | {"keep": keep, "blocks": self.blocks.html[keep:], **facts}

    def _call_told(self) -> Update:
        texts = {"name": self.call.get("name", ""), "arguments": for_people(self.call.get("arguments", ""))}
        shown = {key: _with_escapes(_cut(text)) for key, text in texts.items()}
        denied = self.status == "canceled" and self.row is not None and self.row.error_code == "denied"
        state = "was not allowed" if denied else STATES.get(self.status, self.status)
        facts = {"result": plain_text(_cut(self.text)), "state": state, "here": self.here, "note": _call_note(self)}
        return shown | facts | {"more": self.status in ("failed", "canceled") and self.is_last}

    @property
    def said(self) -> str:
        """As markdown, which is not safe yet."""
        if self.role != "tool":
            return _beginning(self.text) + self.attached_names
        call = f"{self.call.get('name', '')}\n{for_people(self.call.get('arguments', ''))}"
        state = "" if self.status == "done" else STATES.get(self.status, self.status)
        return "\n\n".join(filter(None, [fenced(call), state, fenced(_cut(self.text)) if self.text else ""]))


def _beginning(text: str) -> str:
    """A notebook keeps no more of a message: a front end draws all of it after each turn, seen or not."""
    left = len(text) - LONGEST
    return text.strip() if left <= 0 else f"{text[:LONGEST].strip()}\n\n… and {left:,} characters more in the ledger"


def _foot(row: Row) -> str:
    """What it took, in words."""
    cut = "cut at the token limit" if row.finish_reason == "length" else ""
    tokens = (row.input_tokens or 0) + (row.output_tokens or 0)
    parts = [plain_text(row.model or ""), facts_of(tokens, row.cost_usd, row.duration_ms), cut]
    return " · ".join(part for part in parts if part)


def facts_of(tokens: int | None, cost: float | None, took: float | None) -> str:
    """`cost` in US dollars, `took` in milliseconds."""
    facts = [
        f"{tokens:,} tokens" if tokens else "",
        f"${cost:.6f}".rstrip("0").rstrip(".") if cost else "",
        f"{took / 1000:.1f} s" if took else "",
    ]
    return " · ".join(fact for fact in facts if fact)


def _note(row: Row) -> dict[str, Any] | None:
    """Why it is not whole."""
    if row.role == "tool":
        return None
    if row.status == "canceled":
        return {"text": "Stopped: this is what had come.", "error": False}
    if row.status == "failed":
        return {"text": plain_text(row.error_message or row.error_code or "it failed"), "error": True}
    return None


def _call_note(message: Message) -> dict[str, Any] | None:
    if (row := message.row) is None:
        return None
    status, words = message.status, row.error_message
    if status == "failed":
        return {"text": plain_text(_cut(words or "it failed")), "error": True}
    if status == "waiting" and not message.here:
        why = "This tool is not in this kernel: open the panel again with it, ai.chat(title, tools=[...]), or skip it."
        return {"text": why, "error": False}
    if status == "canceled" and words and row.error_code == "denied":
        return {"text": plain_text(_cut(words)), "error": False}
    return None


def _with_escapes(text: str) -> str:
    """What is allowed is what is seen: signs that are not, or that turn others around, as Python escapes them."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else repr(sign)[1:-1] for sign in redact(text))


def _cut(text: str) -> str:
    left = len(text) - LONGEST_CALL
    return text if left <= 0 else f"{text[:LONGEST_CALL]}\n… {left:,} characters more"
