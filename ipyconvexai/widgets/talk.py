"""One conversation as a page shows it: followed in the ledger, told in small changes. Calls the app and ``render``.

Lives on the background loop. Promises: what any process says in the conversation is told, within half a second, and
what this one's model writes, every 50 ms while it comes; of a message only the blocks that changed are told; all HTML
comes out of ``render``.

What is told, as JSON:

    {"kind": "message", "id", "role", "status", "text"}                                of a person, as it was written
    {"kind": "message", "id", "role", "status", "keep", "blocks", "foot", "note",      of the model: HTML of its blocks
     "wait": {"why", "seconds"}}                                                       after the first `keep`
    {"kind": "order", "ids"}                                                           which messages there are
    {"kind": "title", "title"}                                                         of the conversation; None: it is
                                                                                       there no more
    {"kind": "cleared"}                                                                another conversation follows
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ipyconvexai.application import App
from ipyconvexai.errors import Error
from ipyconvexai.functions.changes import hub_of
from ipyconvexai.functions.registry import define_built_in, registry
from ipyconvexai.functions.streaming import Draft, listen
from ipyconvexai.generation import check_prompt
from ipyconvexai.ids import new_id
from ipyconvexai.render import Blocks, plain_text
from ipyconvexai.settings import redact
from ipyconvexai.store.conversations import begin_conversation, find_conversation
from ipyconvexai.values import Wait

__all__ = ["OPEN", "Talk", "Update"]

Update = dict[str, Any]

DRAW_EVERY = 0.05  # seconds between two tellings of a message that grows, at least
SHARE = 3  # drawing takes at most a part in so many of the time, however long the last block is
OPEN = ("pending", "streaming")
PART = 40  # messages that are told at once; a page draws them between two frames
TRANSCRIPT = 60  # messages of a transcript, and
LONGEST_TRANSCRIPT = 40_000  # characters: a front end draws all of it after each turn, seen or not

_MESSAGES = """
SELECT m.id::VARCHAR, m.role, m.status, length(m.content), m.error_code, m.error_message, m.finish_reason,
       r.model, r.input_tokens, r.output_tokens, r.cost_usd, r.duration_ms
FROM messages m LEFT JOIN responses r ON r.request_id = m.request_id
WHERE m.conversation_id = ?::UUID ORDER BY m.created_at, m.id
"""
_CONTENT = "SELECT id::VARCHAR, content FROM messages WHERE id IN (SELECT unnest(?::UUID[]))"
_PIECES = """
SELECT message_id::VARCHAR, string_agg(text, '' ORDER BY start) FROM message_deltas
WHERE message_id IN (SELECT unnest(?::UUID[])) GROUP BY message_id
"""


@dataclass(slots=True)
class _Message:
    """A message as it was told. `row` is its row, where that differs it is told again."""

    id: str
    role: str = ""
    status: str = ""
    row: tuple[Any, ...] = ()
    text: str = ""
    foot: str = ""
    note: dict[str, Any] | None = None
    wait: Wait | None = None
    blocks: Blocks = field(default_factory=Blocks)

    def take(self, row: tuple[Any, ...], text: str | None, draft: Draft | None) -> bool:
        """Whether there is anything new in its row, its text in the ledger, or what this process writes of it."""
        changed = row != self.row
        if changed:
            self.row, self.role, self.status = row, row[1], row[2]
            self.foot, self.note = _foot(row), _note(row)
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

    def update(self, *, whole: bool = False) -> Update:
        told: Update = {"kind": "message", "id": self.id, "role": self.role, "status": self.status}
        if self.role == "user":
            return told | {"text": plain_text(self.text)}
        kept = self.blocks.show(self.text)
        keep = 0 if whole else kept
        wait = None
        if self.wait is not None and self.status in OPEN:
            wait = {"why": plain_text(self.wait.why), "seconds": max(0.0, self.wait.until - time.monotonic())}
        facts = {"foot": self.foot, "note": self.note, "wait": wait}
        return told | {"keep": keep, "blocks": self.blocks.html[keep:], **facts}


class Talk:
    """`tell` is given the changes, on the loop."""

    def __init__(self, owner: App, title: str | None, system: str | None, tell: Callable[[list[Update]], None]) -> None:
        self._app = owner
        self._system = system
        self._tell = tell
        self.title = title
        self.id: str | None = None
        self._messages: dict[str, _Message] = {}
        self.is_watched = True  # False: until somebody asks for a snapshot nothing is drawn
        self._drafts: dict[str, Draft] = {}  # what this process writes
        self._drawing: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._change = asyncio.Event()
        self._ends: list[Callable[[], None]] = []

    # ------------------------------------------------------------------------------------------ its life
    async def open(self) -> None:
        """Find the conversation, and follow it; a new one begins with what is said first.

        Raises:
            InputError, NotFoundError: it is none that can be followed.
        """
        define_built_in()
        self._loop = asyncio.get_running_loop()
        if self.title is not None:
            self.id = await asyncio.to_thread(find_conversation, self._app.records, self.title)
        if self.id is None:
            self.title = self.title or f"Chat of {time.strftime('%Y-%m-%d %H:%M:%S')}"
            self._tell([self._titled()])
        else:
            await self._run("ai.load_messages", conversation_id=self.id, limit=1)  # it is of who asks
        self._ends = [listen(self._written), hub_of(self._app.store).subscribe(self._changed)]
        await self._look()  # after that, so that nothing is missed
        self._following = asyncio.create_task(self._follow())

    async def _begin(self) -> None:
        """Where there is no such conversation yet."""
        if self.id is None:
            user = self._app.settings.user
            self.id = await asyncio.to_thread(
                begin_conversation, self._app.records, new_id(), self.title or "", user, self._system
            )

    def close(self) -> None:
        """Follow it no more; may be called again, from any thread."""
        while self._ends:
            self._ends.pop()()
        if self._following is not None:
            self._later(self._following.cancel)

    # ------------------------------------------------------------------------------------------ what people do
    async def send(self, text: str) -> None:
        """
        Raises:
            EmptyPromptError: there is nothing to send.
        """
        check_prompt(text)
        await self._begin()
        await self._run("ai.send_message", conversation_id=self.id, content=text)

    async def retry(self, message_id: str) -> None:
        await self._run("ai.retry_response", message_id=message_id)

    async def edit(self, message_id: str, text: str) -> None:
        await self._run("ai.edit_message", message_id=message_id, content=text)

    async def fork(self, message_id: str) -> None:
        """Go on in a copy of the conversation that ends with this message."""
        await self.switch(await self._run("ai.fork_conversation", message_id=message_id))

    async def rename(self, title: str) -> None:
        await self._begin()
        await self._run("ai.rename_conversation", conversation_id=self.id, title=title)

    async def delete(self) -> None:
        """Delete the conversation; a new one follows."""
        if self.id is not None:
            await self._run("ai.delete_conversation", conversation_id=self.id)
        await self.switch(None)

    async def others(self, search: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self._run("ai.list_conversations", search=search)
        return [{**one, "title": plain_text(one["title"] or "without a title")} for one in found]

    async def switch(self, title: str | None) -> None:
        """Show another conversation, by its title or id; None: a new one."""
        self.close()
        if self._following is not None:
            await asyncio.wait([self._following])
        self.id, self.title, self._messages, self._drafts = None, title, {}, {}
        self._tell([{"kind": "cleared"}])
        await self.open()

    async def stop(self) -> None:
        """Stop the answer that is being written, and those that wait."""
        for message in [one for one in self._messages.values() if one.status in OPEN]:
            with contextlib.suppress(Error):  # it is over by now
                await self._run("ai.cancel_response", message_id=message.id)

    async def _run(self, name: str, **args: Any) -> Any:
        return await self._app.functions.arun(registry.find(name), args)

    # ------------------------------------------------------------------------------------------ following
    def snapshot(self) -> Iterator[list[Update]]:
        """All of it, for a page that knows nothing: the newest messages first, which is where one looks."""
        self.is_watched = True
        yield [self._titled()]
        messages = list(self._messages.values())
        for end in range(len(messages), 0, -PART):
            yield [*(message.update(whole=True) for message in messages[max(0, end - PART) : end]), self._order()]

    def transcript(self) -> str:
        """Its newest messages as markdown, which is not safe yet."""
        names = {"user": "You", "assistant": "Assistant"}
        messages = [message for message in self._messages.values() if message.text.strip()]
        said: list[str] = []
        left = LONGEST_TRANSCRIPT
        for message in reversed(messages[-TRANSCRIPT:]):
            left -= len(message.text)
            if left < 0 and said:
                break
            said.append(f"**{names.get(message.role, message.role)}:**\n\n{message.text.strip()}")
        earlier = len(messages) - len(said)
        note = [f"*({earlier:,} earlier messages are in the ledger.)*"] if earlier else []
        return "\n\n".join([f"**{self.title or 'A conversation that was deleted'}**", *note, *reversed(said)])

    def _titled(self) -> Update:
        return {"kind": "title", "title": None if self.title is None else plain_text(self.title)}

    def _order(self) -> Update:
        return {"kind": "order", "ids": list(self._messages)}

    def _changed(self, tables: set[str]) -> None:
        """In the hub's thread."""
        if tables == {"message_deltas"}:
            self._later(self._pieces_came)
        elif not tables or tables & {"messages", "message_deltas", "conversations"}:
            self._later(self._change.set)

    def _pieces_came(self) -> None:
        if any(one.status in OPEN and one.id not in self._drafts for one in self._messages.values()):
            self._change.set()

    def _written(self, draft: Draft) -> None:
        """Where it is written, a thread of any kind."""
        self._later(self._grow, draft)

    def _later(self, function: Callable[..., Any], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(function, *args)

    async def _follow(self) -> None:
        while True:
            await self._change.wait()
            self._change.clear()
            with contextlib.suppress(Error):  # the next change will do
                await self._look()

    async def _look(self) -> None:
        if self.id is None:  # perhaps somebody has begun it
            found = await asyncio.to_thread(find_conversation, self._app.records, self.title or "")
            self.id = self.id or found
            if self.id is None:
                return
        titles, rows = await asyncio.to_thread(self._rows)
        known = {key: message.row for key, message in self._messages.items()}
        # One that was stopped a moment ago has no content yet.
        settled = [row[0] for row in rows if row[3] is not None and known.get(row[0]) != row]
        coming = [row[0] for row in rows if row[3] is None and row[0] not in self._drafts]
        texts = await asyncio.to_thread(self._texts, settled, coming)
        title = (titles[0][0] or "") if titles else None
        updates = []
        if title != self.title:
            self.title = title
            updates.append(self._titled())
        if updates := updates + self._taken(rows, texts):
            self._tell(updates)

    def _taken(self, rows: list[tuple[Any, ...]], texts: dict[str, str]) -> list[Update]:
        before = list(self._messages)
        self._messages = {row[0]: self._messages.get(row[0]) or _Message(row[0]) for row in rows}
        over = {row[0] for row in rows if row[2] not in OPEN}
        self._drafts = {key: draft for key, draft in self._drafts.items() if key not in over}
        changed = [
            self._messages[row[0]]
            for row in rows
            if self._messages[row[0]].take(row, texts.get(row[0]), self._drafts.get(row[0]))
        ]
        updates = [message.update() for message in changed] if self.is_watched else []
        return updates if before == list(self._messages) else [*updates, self._order()]

    def _rows(self) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Blocking."""
        read = self._app.store.read
        return read("SELECT title FROM conversations WHERE id = ?::UUID", [self.id]), read(_MESSAGES, [self.id])

    def _texts(self, settled: list[str], coming: list[str]) -> dict[str, str]:
        """Blocking."""
        read = self._app.store.read
        found = read(_CONTENT, [settled]) if settled else []
        found += read(_PIECES, [coming]) if coming else []
        return {key: text or "" for key, text in found}

    # ------------------------------------------------------------------------------------------ while it is written
    def _grow(self, draft: Draft) -> None:
        if draft.conversation_id is not None and draft.conversation_id == self.id:
            self._drafts[draft.message_id] = draft
            if self._drawing is None or self._drawing.done():
                self._drawing = asyncio.create_task(self._draw())

    async def _draw(self) -> None:
        """Until nothing new has come."""
        while True:
            begun = time.perf_counter()
            both = [(self._messages.get(key), draft) for key, draft in self._drafts.items()]
            updates = [one.update() for one, draft in both if one is not None and one.grow(draft)]
            if not updates:
                return
            self._tell(updates)
            await asyncio.sleep(max(DRAW_EVERY, SHARE * (time.perf_counter() - begun)))


def _foot(row: tuple[Any, ...]) -> str:
    """What it took, in words."""
    finish, model, read, written, cost, took = row[6:]
    facts = [
        plain_text(model) if model else "",
        f"{(read or 0) + (written or 0):,} tokens" if read or written else "",
        f"${cost:.6f}".rstrip("0").rstrip(".") if cost else "",
        f"{took / 1000:.1f} s" if took else "",
        "cut at the token limit" if finish == "length" else "",
    ]
    return " · ".join(fact for fact in facts if fact)


def _note(row: tuple[Any, ...]) -> dict[str, Any] | None:
    """Why it is not whole."""
    _, _, status, _, code, words, *_ = row
    if status == "canceled":
        return {"text": "Stopped: this is what had come.", "error": False}
    if status == "failed":
        return {"text": plain_text(words or code or "it failed"), "error": True}
    return None
