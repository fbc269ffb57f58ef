"""``ai.conversation``: a conversation that is kept, from code. Floor 5: calls the app and its functions.

Promises: question and answer join it together or not at all; it is the same one in ``%%ai -c``, in panels and in every
process; it begins with its first answer.
"""

from __future__ import annotations

from typing import Any

from ipyconvexai.application import App, TextStream, app
from ipyconvexai.errors import Error, InputError, NotFoundError
from ipyconvexai.functions.registry import define_built_in, registry
from ipyconvexai.render import plain_text
from ipyconvexai.reply import Reply
from ipyconvexai.store.conversations import find_conversation
from ipyconvexai.tables.builtin import Message

__all__ = ["ConversationHandle", "conversation"]

ALL = 1_000_000  # messages, and tokens of them


def conversation(title_or_id: str) -> ConversationHandle:
    """The conversation of this title or id; one of a new title begins with its first answer.

        talk = ai.conversation("my analysis")
        talk.send("What is a median?")
        talk.send("And a mode?")  # with what was said before

    Raises:
        InputError: the title is empty or no text, or there is none with this id.
        NotFoundError: it is another's.
    """
    if not isinstance(title_or_id, str):
        raise InputError(f"{title_or_id!r:.80} is no title", cure='For example: ai.conversation("my analysis").')
    made = ConversationHandle(app(), title_or_id)
    made.messages()  # what is wrong with it is found now
    return made


class ConversationHandle:
    """A conversation; ``ai.conversation`` gives it."""

    def __init__(self, owner: App, title_or_id: str) -> None:
        self._app = owner
        self._name = title_or_id

    @property
    def id(self) -> str | None:
        """None: it has not begun."""
        return find_conversation(self._app.records, self._name)

    @property
    def title(self) -> str:
        rows = self._app.store.read("SELECT title FROM conversations WHERE id = ?::UUID", [self.id])
        return str(rows[0][0] or "") if rows else self._name

    def send(self, text: str, **options: Any) -> Reply:
        """The answer to `text`, with what was said before in sight; the options and errors of ``ai.generate``."""
        return self._app.generate(text, conversation=self._name, **options)

    async def asend(self, text: str, **options: Any) -> Reply:
        return await self._app.agenerate(text, conversation=self._name, **options)

    def stream(self, text: str, **options: Any) -> TextStream:
        """The same in pieces, as ``ai.stream`` gives them."""
        return self._app.stream(text, conversation=self._name, **options)

    def messages(self) -> list[Message]:
        """All of it, oldest first."""
        if (key := self.id) is None:
            return []
        found: list[Message] = self._run("ai.load_messages", conversation_id=key, limit=ALL, max_tokens=ALL)
        return found

    def fork(self, message_id: str | None = None, *, title: str = "") -> ConversationHandle:
        """A copy that ends with this message (None: the last one) and goes its own way.

        Raises:
            NotFoundError: there is no such message, or none at all.
            InputError: there is a conversation of that title.
        """
        if message_id is None:
            messages = self.messages()
            if not messages:
                raise NotFoundError("nothing was said in this conversation yet", cure="Send something first.")
            message_id = str(messages[-1]._id)
        return ConversationHandle(self._app, self._run("ai.fork_conversation", message_id=message_id, title=title))

    def _run(self, name: str, **args: Any) -> Any:
        define_built_in()
        return self._app.functions.run_in_transaction(registry.find(name), args)

    def __repr__(self) -> str:
        try:
            return f"<conversation {plain_text(self.title)!r}: {len(self.messages())} messages>"
        except Error as error:  # in a traceback with variables, say, after its app was closed
            return f"<conversation {plain_text(self._name)!r}: {plain_text(error.message)}>"
