"""What goes along with the messages that are sent in a panel. Calls ``talk``, ``context`` and the shell's names.

Lives on the background loop; files and values are read in threads beside it. Promises: a message is sent whole, with
everything that was attached, or not at all; sent twice by a page that heard no answer, it is in the conversation once.

What the page says, with a `token` that comes back in the answer:

    {"kind": "send", "token", "text", "files": [ids]}                      told: taken, or refused and an error
    {"kind": "edit", "token", "id", "text", "files", "keep": [indexes]}    likewise; what the message keeps of its own
    {"kind": "preview", "token", "text", "files", "id", "keep"}            told: preview, with its parts
    {"kind": "names", "token", "beginning"}                                told: names, what can stand after an @
    {"kind": "file", "token", "name", "buffers": [bytes]}                  told: files, all that are attached now
    {"kind": "unfile", "token"}                                            likewise
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from ipyconvexai.attachments import Attachment, tokens_of
from ipyconvexai.context.files import attach_file
from ipyconvexai.context.mentions import attach, mentioned, offers
from ipyconvexai.errors import InputError
from ipyconvexai.render import plain_text
from ipyconvexai.settings import redact
from ipyconvexai.widgets.talk import Talk

__all__ = ["HEARD", "Composer"]

HEARD = ("send", "edit", "preview", "names", "file", "unfile")
MOST_FILES = 20
MOST_TOKENS = 100  # of messages that a page might send once more
LONGEST = 100_000  # characters of a part that is looked at

Said = dict[str, Any]


class Composer:
    """The files that are attached to what is being written, and the sending of it. `tell` is given what the page is
    told."""

    def __init__(self, talk: Talk, tell: Callable[[Said], None]) -> None:
        self._talk = talk
        self._tell = tell
        self._files: dict[str, Attachment | None] = {}  # in the order in which they came; None: it is being read
        self._sending: dict[str, bool] = {}  # tokens, and whether the message is in the conversation

    async def hear(self, said: Said) -> None:
        """
        Raises:
            Error: it was refused; the page is told so beside it.
        """
        token = str(said.get("token", ""))
        sends = said["kind"] in ("send", "edit")
        if sends and token in self._sending:
            if self._sending[token]:
                self._tell({"kind": "taken", "token": token})
            return
        if sends:
            self._sending[token] = False
        try:
            await self._do(said, token)
        except BaseException:
            self._sending.pop(token, None)
            self._tell({"kind": "refused", "token": token})
            raise

    async def _do(self, said: Said, token: str) -> None:
        match said:
            case {"kind": "send", "text": str(text)}:
                await self._talk.send(text, await self._gather(said))
                self._sent(said, token)
            case {"kind": "edit", "id": str(key), "text": str(text)}:
                await self._talk.edit(key, text, await self._gather(said))
                self._sent(said, token)
            case {"kind": "preview", "text": str(text)}:
                self._tell({"kind": "preview", "token": token, **await self._preview(said, text)})
            case {"kind": "names", "beginning": str(beginning)}:
                found = await asyncio.to_thread(offers, _shell(), beginning) if _shell() is not None else []
                names = [{"name": one.name, "about": plain_text(one.about)} for one in found]
                self._tell({"kind": "names", "token": token, "names": names})
            case {"kind": "file", "name": str(name), "buffers": [data, *_]}:
                if len(self._files) >= MOST_FILES:
                    raise InputError(f"{MOST_FILES} files are attached already", cure="Send these first.")
                self._files[token] = None  # which keeps its place
                try:
                    read = await asyncio.to_thread(attach_file, name, bytes(data))
                    if token in self._files:  # else it was removed meanwhile
                        self._files[token] = read
                finally:
                    if self._files.get(token) is None:
                        self._files.pop(token, None)
                self.tell_files()
            case {"kind": "unfile"}:
                self._files.pop(token, None)
                self.tell_files()

    def tell_files(self) -> None:
        files = [{"id": key, **about(one)} for key, one in self._files.items() if one is not None]
        self._tell({"kind": "files", "files": files})

    def _sent(self, said: Said, token: str) -> None:
        for key in _texts(said.get("files")):
            self._files.pop(key, None)
        self._sending[token] = True
        for old in list(self._sending)[:-MOST_TOKENS]:
            del self._sending[old]
        self._tell({"kind": "taken", "token": token})
        self.tell_files()

    async def _gather(self, said: Said) -> list[Attachment]:
        """
        Raises:
            InputError: something that was attached cannot be sent.
        """
        text, shell = str(said["text"]), _shell()
        files = [self._files.get(key) for key in _texts(said.get("files"))]
        if None in files:
            raise InputError("a file is here no more", cure="Attach it once more. Nothing was sent.")
        before = await self._talk.attached(said["id"]) if isinstance(said.get("id"), str) else []
        keep = said.get("keep") if isinstance(said.get("keep"), list) else []
        kept = [before[at] for at in keep or [] if isinstance(at, int) and 0 <= at < len(before)]
        found = await asyncio.to_thread(attach, shell, text) if shell is not None else []
        named = {one.name for one in found}
        # In a new kernel a variable may be gone; what the message had of it is not.
        still = {match[0].removeprefix("@") for match in mentioned(text)}
        gone = [one for one in before if one.name in still - named and one not in kept]
        return [*found, *gone, *kept, *(one for one in files if one is not None)]

    async def _preview(self, said: Said, text: str) -> Said:
        attached = await self._gather(said)
        edited = said["id"] if isinstance(said.get("id"), str) else None
        parts = _earlier(await self._talk.earlier(sum(one.tokens for one in attached), edited))
        if text.strip():
            parts.append({"name": "Your message", "kind": "message", "tokens": tokens_of(text), "text": text})
        parts += [{**about(one), "text": one.text or "The picture itself."} for one in attached]
        shown = [{**part, "text": _beginning(part["text"])} for part in parts]
        return {"parts": shown, "total": sum(part["tokens"] for part in parts)}


def about(one: Attachment) -> Said:
    """What a chip says of it."""
    return {"name": plain_text(redact(one.name)), "kind": one.kind, "tokens": one.tokens}


def _earlier(messages: list[Said]) -> list[Said]:
    """The instructions and what was said before, as parts."""
    parts = []
    for name, kind, chosen in (
        ("Instructions", "system", [one for one in messages if one["role"] == "system"]),
        ("Said before", "messages", [one for one in messages if one["role"] != "system"]),
    ):
        if chosen:
            texts = [(one["role"], _text_of(one["content"])) for one in chosen]
            text = "\n\n".join(said if kind == "system" else f"{role}: {said}" for role, said in texts)
            parts.append({"name": name, "kind": kind, "tokens": tokens_of(text), "text": text})
    return parts


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text") or "[a picture]" for part in content)


def _beginning(text: str) -> str:
    clean = plain_text(text)
    left = len(clean) - LONGEST
    return clean if left <= 0 else f"{clean[:LONGEST]}\n… and {left:,} characters more, which are sent, too."


def _texts(values: Any) -> Iterable[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


def _shell() -> Any:
    from IPython.core.getipython import get_ipython

    return get_ipython()
