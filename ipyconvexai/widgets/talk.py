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
    {"kind": "cleared"}                                                                all that is to be shown follows
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ipyconvexai.application import App
from ipyconvexai.attachments import Attachment, unpack
from ipyconvexai.errors import Error
from ipyconvexai.functions.changes import hub_of
from ipyconvexai.functions.registry import define_built_in, registry
from ipyconvexai.functions.streaming import Draft, listen
from ipyconvexai.functions.tools import Tool
from ipyconvexai.generation import check_prompt
from ipyconvexai.ids import new_id
from ipyconvexai.providers.choice import choose, usable_models
from ipyconvexai.render import plain_text
from ipyconvexai.settings import redact
from ipyconvexai.store.conversations import begin_conversation, find_conversation, settings_of
from ipyconvexai.widgets.messages import OPEN, Message, Update, facts_of
from ipyconvexai.widgets.rows import Own, Row, Total, read_attached, read_rows, read_texts, read_total

__all__ = ["OPEN", "Talk", "Update"]

_log = logging.getLogger("ipyconvexai.widgets")

DRAW_EVERY = 0.05  # seconds between two tellings of a message that grows, at least
SHARE = 3  # drawing takes at most a part in so many of the time, however long the last block is
PART, PART_LENGTH = 40, 6000  # messages, and characters of them, that are told at once: 50 ms for the loop
TRANSCRIPT = 60  # messages of a transcript, and
LONGEST_TRANSCRIPT = 40_000  # characters: a front end draws all of it after each turn, seen or not


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
        self.title = None if title is None else redact(title)
        self._wanted = (model, None if system is None else redact(system))  # of who made it
        self._settings: tuple[str | None, str | None] = self._wanted
        self._total = ""
        self.id: str | None = None
        self._messages: dict[str, Message] = {}
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
        if self.title is None:
            self.id = None
        elif self.id is None:
            self.id = await self._find(self.title)
        if self.id is None:
            # Whatever else begins in this second is another one.
            self.title = self.title or f"Chat of {time.strftime('%Y-%m-%d %H:%M:%S')} ({new_id()[-4:]})"
            self._tell([self._titled()])
        else:
            if any(self._wanted):
                await self._apply(*self._wanted)
            self._equip()
        self._ends = [listen(self._written), hub_of(self._app.store).subscribe(self._changed)]
        await self._look()  # after that, so that nothing is missed
        self._following = asyncio.create_task(self._follow())

    async def _find(self, title: str) -> str | None:
        """
        Raises:
            InputError, NotFoundError: it is none that can be shown.
        """
        found = await asyncio.to_thread(find_conversation, self._app.records, title)
        if found is not None:
            await self._run("ai.load_messages", conversation_id=found, limit=1)  # it is of who asks
        return found

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
        allowed = await self._run("ai.allow_call", message_id=message_id)
        message = self._messages.get(message_id)
        if allowed and always and message is not None and self.id is not None:
            self._app.functions.runner.toolbox.of(self.id).trust(message.call.get("name", ""))

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
        await self._configure(model or None, redact(system.strip()) or None)

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
        """Show another conversation, by its title or id; None: a new one.

        Raises:
            InputError, NotFoundError: there is none that can be shown; this one stays.
        """
        found = None if title is None else await self._find(title)
        self.close()
        if self._following is not None:
            await asyncio.wait([self._following])
        self.id, self.title, self._messages, self._drafts = found, title, {}, {}
        self._wanted = self._settings = (None, None)
        self._total = ""
        watched, self.is_watched = self.is_watched, False
        await self.open()
        if watched:
            async for updates in self.snapshot():
                self._tell(updates)

    async def stop(self) -> None:
        """Stop the answer that is being written, and those that wait."""
        for message in [one for one in self._messages.values() if one.status in (*OPEN, "waiting")]:
            with contextlib.suppress(Error):  # it is over by now
                await self._run("ai.cancel_response", message_id=message.id)

    async def _run(self, name: str, **args: Any) -> Any:
        return await self._app.functions.arun(registry.find(name), args)

    # ------------------------------------------------------------------------------------------ following
    async def snapshot(self) -> AsyncIterator[list[Update]]:
        """All of it, for a page that knows nothing, or something else: the newest messages first, where one looks."""
        self.is_watched = True
        yield [{"kind": "cleared"}, self._titled(), self._set(), {"kind": "total", "text": self._total}]
        part: list[Update] = []
        size = 0
        for message in reversed(list(self._messages.values())):
            if len(message.text) > PART_LENGTH and message.status not in OPEN:  # it will not change meanwhile
                await asyncio.to_thread(message.blocks.show, message.text)
            part.insert(0, message.update(whole=True))
            size += len(message.text)
            if len(part) == PART or size > PART_LENGTH:
                yield [*part, self._order()]
                part, size = [], 0
                await asyncio.sleep(0)  # others use the loop, too
        if part:
            yield [*part, self._order()]

    def source(self, message_id: str) -> str:
        """A message as it was written."""
        message = self._messages.get(message_id)
        return "" if message is None else message.text

    def transcript(self) -> str:
        """Its newest messages as markdown, which is not safe yet."""
        names = {"user": "You", "assistant": "Assistant", "tool": "Tool"}
        texts = [(names.get(message.role, message.role), message.said) for message in list(self._messages.values())]
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
            try:
                await self._look()
            except Error:  # the next change will do
                pass
            except Exception:
                _log.exception("the conversation %s cannot be shown", self.id)

    async def _look(self) -> None:
        if self.id is None:  # perhaps somebody has begun it
            found = await asyncio.to_thread(find_conversation, self._app.records, self.title or "")
            if found is None:
                return
            if self.id is None:
                self.id = found
                self._equip()
                await self._apply(*self._settings)
        store = self._app.store
        own, rows = await asyncio.to_thread(read_rows, store, self.id)
        known = {key: message.row for key, message in self._messages.items()}
        # One that was stopped a moment ago has no content yet.
        settled = [row.id for row in rows if row.length is not None and known.get(row.id) != row]
        coming = [row.id for row in rows if row.length is None and row.id not in self._drafts]
        texts = await asyncio.to_thread(read_texts, store, settled, coming)
        self._attached |= await asyncio.to_thread(read_attached, store, settled)
        updates = self._renamed(own) + self._taken(rows, texts)
        if settled or not known:
            total = _told(await asyncio.to_thread(read_total, store, self.id))
            updates += [] if total == self._total else [{"kind": "total", "text": total}]
            self._total = total
        if updates:
            self._tell(updates)

    def _renamed(self, own: Own | None) -> list[Update]:
        """None: it is there no more."""
        updates = []
        if (title := None if own is None else own.title or "") != self.title:
            self.title = title
            updates.append(self._titled())
        if own is not None and (own.model, own.system) != self._settings:
            self._settings = (own.model, own.system)
            updates.append(self._set())
        return updates

    def _taken(self, rows: list[Row], texts: dict[str, str]) -> list[Update]:
        before = list(self._messages)
        for row in rows:
            if row.id not in self._messages:
                self._messages[row.id] = Message(row.id, attached=self._attached.get(row.id, []))
        self._messages = {row.id: self._messages[row.id] for row in rows}
        over = {row.id for row in rows if row.status not in OPEN}
        self._drafts = {key: draft for key, draft in self._drafts.items() if key not in over}
        last = next(reversed(self._messages), None)
        changed = []
        for row in rows:
            message = self._messages[row.id]
            is_new = message.take(row, texts.get(row.id), self._drafts.get(row.id))
            if self._place(message, is_last=row.id == last) or is_new:
                changed.append(message)
        updates = [message.update() for message in changed] if self.is_watched else []
        return updates if before == list(self._messages) else [*updates, self._order()]

    def _place(self, message: Message, *, is_last: bool) -> bool:
        """What a call's row does not say: whether its tool is here, and whether anything follows it. Whether that is
        new."""
        if message.role != "tool":
            return False
        here = message.call.get("name") in self._app.functions.runner.toolbox.of(self.id or "")
        before, message.here, message.is_last = (message.here, message.is_last), here, is_last
        return before != (here, is_last)

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


def _told(total: Total) -> str:
    if not total.calls:
        return ""
    facts = facts_of(total.tokens, total.cost_usd, total.duration_ms)
    return f"{total.calls} call{'s' if total.calls > 1 else ''}: {facts}"
