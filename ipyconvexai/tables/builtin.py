"""The ledger's own tables, open to the same calls: conversations, messages, documents. Calls the store's ledger.

Their SQL tables are made by the store's migrations; their rows of before this layer have ids without a table's number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from ipyconvexai.attachments import Attachment, Content, pack, prompt, prompts, unpack
from ipyconvexai.store.ledger import document_id
from ipyconvexai.tables.ids import Id, IdOf
from ipyconvexai.tables.model import Index, Table

__all__ = ["BUILT_IN", "Conversation", "Document", "Message"]


class Conversation(Table, name="conversations"):
    """Messages that belong together."""

    __system_columns__: ClassVar[tuple[str, str]] = ("id", "created_at")

    title: str | None = None
    user_id: str | None = None
    system: str | None = None  # the instructions that stand before its messages
    model: str | None = None  # provider:model of its answers; None: whatever the default is


class Message(Table, name="messages"):
    """One message of a conversation; ``request_id`` is the call that gave it."""

    __system_columns__: ClassVar[tuple[str, str]] = ("id", "created_at")

    conversation_id: Id[Conversation]
    role: str
    content: str | None = None
    status: str = "done"
    request_id: Annotated[str, IdOf(None)] | None = None
    error_code: str | None = None
    error_message: str | None = None
    finish_reason: str | None = None
    session_id: Annotated[str, IdOf(None)] | None = None  # the process that writes it, while it is being written
    attachments: str | None = None  # JSON: what goes along with it, as ``pack`` makes it
    tool_call: str | None = None  # JSON, of role tool: which tool, and its arguments

    by_conversation = Index("conversation_id")

    @staticmethod
    def pack(attachments: Iterable[Attachment | Mapping[str, Any]]) -> str | None:
        """What ``attachments`` holds for these: {"kind", "name", "text"}, of a picture {"media_type", "data"}.

        Raises:
            InputError: one is none.
        """
        return pack(attachments)

    @property
    def attached(self) -> list[Attachment]:
        return unpack(self.attachments)

    def prompt(self) -> Content:
        """What a provider is given: the content and what goes along with it."""
        return prompt(self.content or "", self.attached)

    @staticmethod
    def prompts(messages: Iterable[Message], most: int, *, asked: bool = True) -> list[Content]:
        """The same for a conversation, oldest first.

        At most so many tokens of attachments, of the newest messages; but all of the last one's, where it is `asked`.
        """
        return prompts([(message.content or "", message.attachments) for message in messages], most, asked=asked)


def _characters(fields: dict[str, Any]) -> int:
    return len(fields.get("content") or "")


class Document(Table, name="documents"):
    """A text; its id follows from its content, so that equal texts are one document. ``size`` is in characters."""

    __system_columns__: ClassVar[tuple[str, str]] = ("id", "created_at")

    content: str | None  # None where only metadata is kept
    size: int = Field(default_factory=_characters)
    source: str | None = None
    summary: str | None = None
    content_hash: str | None = None  # SHA-256 of the content, in hex
    metadata: str | None = None  # JSON: where it came from

    def _content_id(self) -> str | None:
        return None if self.content is None else document_id(self.content)


BUILT_IN: frozenset[str] = frozenset({"conversations", "messages", "documents"})
