"""One conversation as a page shows it: followed in the ledger, told in small changes. Calls the app and ``render``.

Lives on the background loop. Promises: what any process says in the conversation is told, within half a second, and
what this one's model writes, every 50 ms while it comes; of a message only the blocks that changed are told; all HTML
comes out of ``render``.

What is told, as JSON:

    {"kind": "message", "id", "role", "status", "text", "attached"}                    of a person, as it was written
    {"kind": "message", "id", "role", "status", "keep", "blocks", "foot", "note",      of the model: HTML of its blocks
     "wait": {"why", "seconds"}}                                                       after the first `keep`
    {"kind": "message", "id", "role": "tool", "status",   a call: plain texts; whether its tool is in this process, and
     "name", "arguments", "result", "state", "note",      whether one can have the model go on after it
     "here", "more"}
    {"kind": "order", "ids"}                                                           which messages there are
    {"kind": "title", "title"}                                                         of the conversation; None: it is
                                                                                       there no more
    {"kind": "settings", "model", "system"}                                            what its answers are made with;
                                                                                       "": the default
    {"kind": "total", "text"}                                                          what all its calls took
    {"kind": "cleared"}                                                                another conversation follows
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ipyconvexai.application import App
from ipyconvexai.attachments import Attachment, unpack
from ipyconvexai.errors import Error
from ipyconvexai.functions.changes import hub_of
from ipyconvexai.functions.registry import define_built_in, registry
from ipyconvexai.functions.streaming import Draft, listen
from ipyconvexai.functions.tools import Tool, for_people
from ipyconvexai.generation import check_prompt
from ipyconvexai.ids import new_id
from ipyconvexai.providers.choice import choose, usable_models
from ipyconvexai.render import Blocks, fenced, plain_text
from ipyconvexai.settings import redact
from ipyconvexai.store.conversations import begin_conversation, find_conversation, settings_of
from ipyconvexai.values import Wait

__all__ = ["OPEN", "Talk", "Update"]

Update = dict[str, Any]

DRAW_EVERY = 0.05  # seconds between two tellings of a message that grows, at least
SHARE = 3  # drawing takes at most a part in so many of the time, however long the last block is
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
PART = 40  # messages that are told at once; a page draws them between two frames
TRANSCRIPT = 60  # messages of a transcript, and
LONGEST_TRANSCRIPT = 40_000  # characters: a front end draws all of it after each turn, seen or not

_MESSAGES = """
SELECT m.id::VARCHAR, m.role, m.status, length(m.content), m.error_code, m.error_message, m.finish_reason,
       r.model, r.input_tokens, r.output_tokens, r.cost_usd, r.duration_ms, m.tool_call
FROM messages m LEFT JOIN responses r ON r.request_id = m.request_id
WHERE m.conversation_id = ?::UUID ORDER BY m.created_at, m.id
"""
_CONVERSATION = "SELECT title, model, system FROM conversations WHERE id = ?::UUID"
# Of all its calls, also those whose answer was written again.
_TOTAL = """
SELECT count(*), sum(coalesce(s.input_tokens, 0) + coalesce(s.output_tokens, 0)), sum(s.cost_usd), sum(s.duration_ms)
FROM requests r JOIN responses s ON s.request_id = r.id WHERE r.conversation_id = ?::UUID
"""
_ATTACHED = """
SELECT id::VARCHAR, attachments->>'$[*].name', attachments->>'$[*].kind', attachments->>'$[*].tokens'
FROM messages WHERE id IN (SELECT unnest(?::UUID[])) AND json_valid(attachments)
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
    call: dict[str, Any] = field(default_factory=dict)  # of a tool
    here: bool = False  # whether that is in this process
    is_last: bool = False
    attached: list[dict[str, Any]] = field(default_factory=list)

    def take(self, row: tuple[Any, ...], text: str | None, draft: Draft | None) -> bool:
        """Whether there is anything new in its row, its text in the ledger, or what this process writes of it."""
        changed = row != self.row
        if changed:
            self.row, self.role, self.status = row, row[1], row[2]
            self.foot, self.note = _foot(row), _note(row)
            self.call = json.loads(row[12]) if row[12] else {}
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
        shown = {key: plain_text(_cut(text)) for key, text in texts.items()}
        denied = self.status == "canceled" and self.row[4] == "denied"
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


class Talk:
    """`tell` is given the changes, on the loop."""

    def __init__(
        self,
        owner: App,
        title: str | None,
        tell: Callable[[list[Update]], None],
        *,
        model: str | None = None,
        system: str | None = None,
        tools: Mapping[str, Tool] | None = None,
    ) -> None:
        self._app = owner
        self._tools = tools
        self._tell = tell
        self.title = title
        self._wanted = (model, system)  # of who made it
        self._settings: tuple[str | None, str | None] = (model, system)
        self._total = ""
        self.id: str | None = None
        self._messages: dict[str, _Message] = {}
        self.is_watched = True  # False: until somebody asks for a snapshot nothing is drawn
        self._drafts: dict[str, Draft] = {}  # what this process writes
        self._attached: dict[str, list[dict[str, Any]]] = {}  # names, kinds and tokens
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
            if any(self._wanted):
                await self._apply(*self._wanted)
            self._equip()
        self._ends = [listen(self._written), hub_of(self._app.store).subscribe(self._changed)]
        await self._look()  # after that, so that nothing is missed
        self._following = asyncio.create_task(self._follow())

    async def _begin(self) -> None:
        """Where there is no such conversation yet."""
        if self.id is None:
            user = self._app.settings.user
            model, system = self._settings
            self.id = await asyncio.to_thread(
                begin_conversation, self._app.records, new_id(), self.title or "", user, model=model, system=system
            )
            self._equip()

    def _equip(self) -> None:
        """From now on the model may call the panel's tools here."""
        if self._tools is not None and self.id is not None:
            self._app.functions.give_tools(self.id, self._tools)

    def close(self) -> None:
        """Follow it no more; may be called again, from any thread."""
        while self._ends:
            self._ends.pop()()
        if self._following is not None:
            self._later(self._following.cancel)

    # ------------------------------------------------------------------------------------------ what people do
    async def send(self, text: str, attachments: Sequence[Attachment] = ()) -> None:
        """
        Raises:
            EmptyPromptError: there is nothing to send.
        """
        check_prompt(text)
        await self._begin()
        given = [asdict(one) for one in attachments]
        await self._run("ai.send_message", conversation_id=self.id, content=text, attachments=given)

    async def retry(self, message_id: str) -> None:
        await self._run("ai.retry_response", message_id=message_id)

    async def edit(self, message_id: str, text: str, attachments: Sequence[Attachment] | None = None) -> None:
        """`attachments`: None: those it has."""
        given = None if attachments is None else [asdict(one) for one in attachments]
        await self._run("ai.edit_message", message_id=message_id, content=text, attachments=given)

    async def attached(self, message_id: str) -> list[Attachment]:
        """What goes along with a message."""
        sql = "SELECT attachments FROM messages WHERE id = ?::UUID AND conversation_id = ?::UUID"
        rows = await asyncio.to_thread(self._app.store.read, sql, [message_id, self.id])
        return unpack(rows[0][0]) if rows else []

    async def earlier(self, tokens: int, message_id: str | None = None) -> list[dict[str, Any]]:
        """What the model is given before a new message to which so many tokens are attached, or before this one."""
        if self.id is None:
            system = self._settings[1]
            return [{"role": "system", "content": system}] if system else []
        found: list[dict[str, Any]]
        if message_id is not None:
            found = await self._run("ai.load_prompt", message_id=message_id)
        else:
            found = await self._run("ai.load_earlier", conversation_id=self.id, attached=tokens)
        return found

    async def allow(self, message_id: str, *, always: bool = False) -> None:
        """Let a call run; `always`: and those of its tool that come, in this conversation and process."""
        message = self._messages.get(message_id)
        if always and message is not None and self.id is not None:
            self._app.functions.runner.toolbox.of(self.id).trust(message.call.get("name", ""))
        await self._run("ai.allow_call", message_id=message_id)

    async def deny(self, message_id: str) -> None:
        await self._run("ai.deny_call", message_id=message_id)

    async def go_on(self, message_id: str) -> None:
        """Have the model asked again after calls that were stopped or interrupted."""
        await self._run("ai.continue_response", message_id=message_id)

    async def fork(self, message_id: str) -> None:
        """Go on in a copy of the conversation that ends with this message."""
        await self.switch(await self._run("ai.fork_conversation", message_id=message_id))

    async def rename(self, title: str) -> None:
        await self._begin()
        await self._run("ai.rename_conversation", conversation_id=self.id, title=title)

    async def configure(self, model: str, system: str) -> None:
        """From the next answer on. "": the default model, no instructions.

        Raises:
            ConfigurationError: there is no such model, or its key is not set; all stays as it is.
        """
        if model := model.strip():
            await self._app.generator.endpoint(model)
        await self._configure(model or None, system.strip() or None)

    async def _configure(self, model: str | None, system: str | None) -> None:
        if self.id is None:
            self._settings = (model, system)
            self._tell([self._set()])
        else:
            await self._run("ai.configure_conversation", conversation_id=self.id, model=model, system=system)

    async def _apply(self, model: str | None, system: str | None) -> None:
        """What was given with a conversation that is there."""
        known = await asyncio.to_thread(settings_of, self._app.records, self.id or "")
        if (wanted := (model or known[0], system or known[1])) != known:
            await self._configure(*wanted)

    async def models(self) -> dict[str, Any]:
        """Those that could be asked now, and the one that is where none is named."""
        names, choice = await asyncio.gather(
            asyncio.to_thread(usable_models), asyncio.to_thread(choose, self._app.settings)
        )
        return {"names": [plain_text(name) for name in names], "default": plain_text(choice.model or "")}

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
        self._wanted = self._settings = (None, None)
        self._total = ""
        self._tell([{"kind": "cleared"}])
        await self.open()

    async def stop(self) -> None:
        """Stop the answer that is being written, and those that wait."""
        for message in [one for one in self._messages.values() if one.status in (*OPEN, "waiting")]:
            with contextlib.suppress(Error):  # it is over by now
                await self._run("ai.cancel_response", message_id=message.id)

    async def _run(self, name: str, **args: Any) -> Any:
        return await self._app.functions.arun(registry.find(name), args)

    # ------------------------------------------------------------------------------------------ following
    def snapshot(self) -> Iterator[list[Update]]:
        """All of it, for a page that knows nothing: the newest messages first, which is where one looks."""
        self.is_watched = True
        yield [self._titled(), self._set(), self._totalled()]
        messages = list(self._messages.values())
        for end in range(len(messages), 0, -PART):
            yield [*(message.update(whole=True) for message in messages[max(0, end - PART) : end]), self._order()]

    def transcript(self) -> str:
        """Its newest messages as markdown, which is not safe yet."""
        names = {"user": "You", "assistant": "Assistant", "tool": "Tool"}
        texts = [(names.get(message.role, message.role), message.said) for message in self._messages.values()]
        texts = [(name, text) for name, text in texts if text]
        said: list[str] = []
        left = LONGEST_TRANSCRIPT
        for name, text in reversed(texts[-TRANSCRIPT:]):
            left -= len(text)
            if left < 0 and said:
                break
            said.append(f"**{name}:**\n\n{text}")
        earlier = len(texts) - len(said)
        note = [f"*({earlier:,} earlier messages are in the ledger.)*"] if earlier else []
        return "\n\n".join([f"**{self.title or 'A conversation that was deleted'}**", *note, *reversed(said)])

    def _titled(self) -> Update:
        return {"kind": "title", "title": None if self.title is None else plain_text(self.title)}

    def _set(self) -> Update:
        model, system = self._settings
        return {"kind": "settings", "model": plain_text(model or ""), "system": plain_text(system or "")}

    def _totalled(self) -> Update:
        return {"kind": "total", "text": self._total}

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
            self._equip()
        own, rows = await asyncio.to_thread(self._rows)
        known = {key: message.row for key, message in self._messages.items()}
        # One that was stopped a moment ago has no content yet.
        settled = [row[0] for row in rows if row[3] is not None and known.get(row[0]) != row]
        coming = [row[0] for row in rows if row[3] is None and row[0] not in self._drafts]
        texts = await asyncio.to_thread(self._texts, settled, coming)
        self._attached |= await asyncio.to_thread(self._attachments, settled)
        updates = self._renamed(own) + self._taken(rows, texts)
        if settled or not known:
            self._total, before = await asyncio.to_thread(self._sum), self._total
            updates += [] if self._total == before else [self._totalled()]
        if updates:
            self._tell(updates)

    def _renamed(self, own: list[tuple[Any, ...]]) -> list[Update]:
        """What its own row says, if it is there."""
        title, *settings = own[0] if own else (None, *self._settings)
        updates = []
        if (title := (title or "") if own else None) != self.title:
            self.title = title
            updates.append(self._titled())
        if tuple(settings) != self._settings:
            self._settings = (settings[0], settings[1])
            updates.append(self._set())
        return updates

    def _taken(self, rows: list[tuple[Any, ...]], texts: dict[str, str]) -> list[Update]:
        before = list(self._messages)
        for row in rows:
            if row[0] not in self._messages:
                self._messages[row[0]] = _Message(row[0], attached=self._attached.get(row[0], []))
        self._messages = {row[0]: self._messages[row[0]] for row in _in_order(rows)}
        over = {row[0] for row in rows if row[2] not in OPEN}
        self._drafts = {key: draft for key, draft in self._drafts.items() if key not in over}
        last = next(reversed(self._messages), None)
        changed = []
        for row in rows:
            message = self._messages[row[0]]
            is_new = message.take(row, texts.get(row[0]), self._drafts.get(row[0]))
            if self._place(message, is_last=row[0] == last) or is_new:
                changed.append(message)
        updates = [message.update() for message in changed] if self.is_watched else []
        return updates if before == list(self._messages) else [*updates, self._order()]

    def _place(self, message: _Message, *, is_last: bool) -> bool:
        """What a call's row does not say: whether its tool is here, and whether anything follows it. Whether that is
        new."""
        if message.role != "tool":
            return False
        here = message.call.get("name") in self._app.functions.runner.toolbox.of(self.id or "")
        before, message.here, message.is_last = (message.here, message.is_last), here, is_last
        return before != (here, is_last)

    def _rows(self) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Blocking."""
        read = self._app.store.read
        return read(_CONVERSATION, [self.id]), read(_MESSAGES, [self.id])

    def _sum(self) -> str:
        """Blocking."""
        calls, tokens, cost, took = self._app.store.read(_TOTAL, [self.id])[0]
        return f"{calls} call{'s' if calls > 1 else ''}: {_facts(tokens, cost, took)}" if calls else ""

    def _attachments(self, settled: list[str]) -> dict[str, list[dict[str, Any]]]:
        """Blocking."""
        rows = self._app.store.read(_ATTACHED, [settled]) if settled else []
        return {
            key: [
                {"name": plain_text(name), "kind": kind, "tokens": int(tokens)}
                for name, kind, tokens in zip(*told, strict=True)
            ]
            for key, *told in rows
        }

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


def _beginning(text: str) -> str:
    """A notebook keeps no more of a message, and Jupyter lets no more than 1 MB through in a second."""
    left = len(text) - LONGEST
    return text.strip() if left <= 0 else f"{text[:LONGEST].strip()}\n\n… and {left:,} characters more in the ledger"


def _foot(row: tuple[Any, ...]) -> str:
    """What it took, in words."""
    finish, model, read, written, cost, took = row[6:12]
    cut = "cut at the token limit" if finish == "length" else ""
    parts = [plain_text(model or ""), _facts((read or 0) + (written or 0), cost, took), cut]
    return " · ".join(part for part in parts if part)


def _facts(tokens: int | None, cost: float | None, took: float | None) -> str:
    """`cost` in US dollars, `took` in milliseconds."""
    facts = [
        f"{tokens:,} tokens" if tokens else "",
        f"${cost:.6f}".rstrip("0").rstrip(".") if cost else "",
        f"{took / 1000:.1f} s" if took else "",
    ]
    return " · ".join(fact for fact in facts if fact)


_CURES = {
    "pictures_refused": "Use a model that takes pictures, or take the picture out: Edit.",
    "context_length": "Take out some of what is attached: Edit; or use a model with a larger context.",
}


def _note(row: tuple[Any, ...]) -> dict[str, Any] | None:
    """Why it is not whole."""
    _, role, status, _, code, words, *_ = row
    if role == "tool":
        return None
    if status == "canceled":
        return {"text": "Stopped: this is what had come.", "error": False}
    if status == "failed":
        cure = _CURES.get(code or "")
        return {"text": plain_text("\n".join(filter(None, (words or code or "it failed", cure)))), "error": True}
    return None


def _call_note(message: _Message) -> dict[str, Any] | None:
    status, words = message.status, message.row[5] if message.row else None
    if status == "failed":
        return {"text": plain_text(_cut(words or "it failed")), "error": True}
    if status == "waiting" and not message.here:
        why = "This tool is not in this kernel: open the panel again with it, ai.chat(title, tools=[...]), or skip it."
        return {"text": why, "error": False}
    if status == "canceled" and words and message.row[4] == "denied":
        return {"text": plain_text(_cut(words)), "error": False}
    return None


def _cut(text: str) -> str:
    left = len(text) - LONGEST_CALL
    return text if left <= 0 else f"{text[:LONGEST_CALL]}\n… {left:,} characters more"


def _in_order(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Each call after the reply that wanted it, also where somebody had said more before it was made."""
    calls: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows:
        if row[12]:
            calls.setdefault(json.loads(row[12]).get("reply", ""), []).append(row)
    if not calls:
        return rows
    ordered = [each for row in rows if not row[12] for each in (row, *calls.pop(row[0], ()))]
    return ordered + [row for left in calls.values() for row in left]
