"""What the magics of one shell remember: aliases, the exchanges of late, the last answer. Calls ``where``.

Promises: nothing of it outlives the kernel; what has to last is in the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from IPython.core.error import UsageError

from ipyconvexai.notebook import where

__all__ = ["Alias", "Session", "of_shell"]

LONGEST_CHAIN = 10  # aliases of aliases
MOST_MESSAGES = 1000  # of a transcript


@dataclass(frozen=True, slots=True)
class Alias:
    """A name for a model; `api_base` and `api_key_name` (a variable's name) where it lies at an address of its own."""

    target: str
    api_base: str | None = None
    api_key_name: str | None = None


class Message(dict[str, Any]):
    """A message of the transcript, and where it was said: the cell, and which of its runs, if known."""

    place: tuple[str | None, str | None] = (None, None)


@dataclass
class Session:
    """One shell's; ``shell.user_ns`` are the user's names.

    Attributes:
        model: used where a line names none; None: the app's.
        aliases: by name.
        max_history: exchanges that go along with a question outside conversations.
        transcript: messages of the exchanges that ended well, oldest first: question, answer, question ...
        last_request: the row of the last answer or failure.
        last_replayed: whether that answer came from the ledger.
    """

    shell: Any
    model: str | None = None
    aliases: dict[str, Alias] = field(default_factory=dict)
    max_history: int = 2
    transcript: list[dict[str, Any]] = field(default_factory=list)
    last_request: str | None = None
    last_replayed: bool = False

    @property
    def names(self) -> Mapping[str, Any]:
        names: Mapping[str, Any] = self.shell.user_ns
        return names

    # A cell that is run again takes the place that it had: with the same history it asks the same, and can be replayed.
    def history(self) -> list[dict[str, Any]]:
        """The messages that go before a question of the cell that runs now."""
        before = self.transcript[: self._index()]
        return [dict(message) for message in before[-2 * self.max_history :]] if self.max_history > 0 else []

    def remember(self, question: str, answer: str) -> None:
        """An exchange that ended well."""
        index, place = self._index(), where.cell_run()
        said = [Message(role="user", content=question), Message(role="assistant", content=answer)]
        for message in said:
            message.place = place
        rest = [message for message in self.transcript[index:] if not _is_of_cell(message, place[0])]
        self.transcript[index:] = [*said, *rest]  # without what an earlier run of the cell said
        del self.transcript[:-MOST_MESSAGES]

    def _index(self) -> int:
        """Where the exchange of the present cell belongs: where it was said before, else at the end."""
        place = where.cell_run()
        own = [index for index, message in enumerate(self.transcript) if _is_of_cell(message, place[0])]
        if not own:
            return len(self.transcript)
        said_now = [index for index in own if getattr(self.transcript[index], "place", None) == place]
        return said_now[-1] + 1 if said_now else own[0]

    def model_of(self, name: str | None) -> Alias:
        """What `name`, or the session's model where it is None, stands for; its target is "" where nothing is named.

        Raises:
            UsageError: aliases lead in a circle.
        """
        found = first = Alias(name or self.model or "")
        for _ in range(LONGEST_CHAIN):
            alias = self.aliases.get(found.target)
            if alias is None:
                return found
            found = Alias(alias.target, found.api_base or alias.api_base, found.api_key_name or alias.api_key_name)
        raise UsageError(
            f"the alias {first.target!r} leads in a circle: `%ai list` shows where; `%ai delete {first.target}`"
        )


def _is_of_cell(message: Any, cell: str | None) -> bool:
    return cell is not None and getattr(message, "place", (None, None))[0] == cell


def of_shell(shell: Any) -> Session:
    """The session of a shell in which the extension is loaded."""
    session: Session = shell.magics_manager.registry["AiMagics"].session
    return session
