"""``--save NAME`` and ``--with NAME``: questions kept in the ledger; ``%ai prompts`` lists them. Calls the app."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ipyconvexai.notebook.screens import display
from ipyconvexai.notebook.session import Session

__all__ = ["COMMANDS", "joined", "keep"]

CELL = "{cell}"


def keep(name: str, text: str) -> None:
    """Keep the question as it is written, before its names are filled in."""
    from ipyconvexai.application import app
    from ipyconvexai.store.prompts import save_prompt

    current = app()
    save_prompt(current.records, name, text, current.settings.user)


def joined(names: Sequence[str], text: str) -> str:
    """The kept prompts, then `text`; one that has a ``{cell}`` takes it up there instead."""
    from ipyconvexai.application import app
    from ipyconvexai.store.prompts import find_prompt

    for name in reversed(names):
        kept = find_prompt(app().records, name)
        below = f"{kept}\n\n{text}" if text.strip() else kept
        text = kept.replace(CELL, text) if CELL in kept else below
    return text


def _list(session: Session) -> None:
    from ipyconvexai.application import app
    from ipyconvexai.relation import Relation
    from ipyconvexai.store.prompts import PROMPTS_SQL

    found = Relation(app().records.arrow(PROMPTS_SQL), caption="prompts")
    if len(found):
        display(found)
    else:
        print("No question is kept. `%%ai --save NAME` keeps one, and `--with NAME` begins with it.")


COMMANDS: tuple[tuple[re.Pattern[str], Callable[..., None]], ...] = ((re.compile(r"prompts"), _list),)
