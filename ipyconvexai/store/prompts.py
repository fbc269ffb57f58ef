"""Questions kept under a name, durable and shared by all notebooks. Calls the ledger.

Blocking: call in a thread. What was kept before under a name stays in the table.
"""

from __future__ import annotations

import difflib

from ipyconvexai.errors import InputError
from ipyconvexai.ids import new_id
from ipyconvexai.settings import redact
from ipyconvexai.store.ledger import Ledger, utc_now

__all__ = ["PROMPTS_SQL", "find_prompt", "prompt_names", "save_prompt"]

PROMPTS_SQL = """
    SELECT name, arg_max(text, id) AS text, max(created_at) AS saved_at, count(*) AS versions
    FROM prompts GROUP BY name ORDER BY name
"""


def save_prompt(ledger: Ledger, name: str, text: str, user: str | None) -> None:
    """Keep `text` as `name`; one of that name is replaced.

    Raises:
        InputError: the name is empty, or the ledger keeps no content.
    """
    if not name.strip():
        raise InputError("a prompt needs a name", cure="For example: --save review.")
    if not ledger.keeps_content:
        raise InputError("with record='metadata' no prompt is kept", cure="Keep it in a variable instead.")
    with ledger.store.transaction() as execute:
        execute(
            "INSERT INTO prompts (id, created_at, name, text, user_id) VALUES (?, ?, ?, ?, ?)",
            [new_id(), utc_now(), redact(name.strip()), redact(text), user],
        )


def find_prompt(ledger: Ledger, name: str) -> str:
    """The text that was kept last as `name`.

    Raises:
        InputError: none was; it names the nearest.
    """
    rows = ledger.store.read("SELECT text FROM prompts WHERE name = ? ORDER BY id DESC LIMIT 1", [name.strip()])
    if rows:
        return str(rows[0][0])
    names = prompt_names(ledger)
    near = difflib.get_close_matches(name, names, 1, 0.6)
    known = f"There are: {', '.join(names[:20])}." if names else "There are none."
    cure = f"Did you mean {near[0]}?" if near else known
    raise InputError(f"no prompt is kept as {name!r}", cure=f"{cure} `%%ai --save NAME` keeps one.")


def prompt_names(ledger: Ledger) -> list[str]:
    return [str(row[0]) for row in ledger.store.read("SELECT DISTINCT name FROM prompts ORDER BY name")]
