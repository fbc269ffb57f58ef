"""What the tests of conversations share: looking at them, and waiting for what happens in them."""

from __future__ import annotations

from typing import Any

import ipyconvexai as ai
from ipyconvexai.functions.registry import of
from tests.store.helpers import wait_for


def shown(conversation: str) -> Any:
    return ai.run("load_messages", conversation_id=conversation)


def row(app: ai.App, message: str) -> dict[str, Any]:
    """A message as the ledger has it."""
    columns = "status content error_code error_message finish_reason request_id::VARCHAR".split()
    found = app.store.read(f"SELECT {', '.join(columns)} FROM messages WHERE id = ?", [message])
    return dict(zip([name.partition(":")[0] for name in columns], found[0], strict=True))


def over(app: ai.App, message: str) -> Any:
    """The same, when the message is over."""

    def look() -> Any:
        found = row(app, message)
        return found if found["status"] not in ("pending", "streaming") else None

    return wait_for(look, f"the message {message} to be over")


def streaming(app: ai.App, message: str, text: str) -> None:
    """Wait until `text` of it can be read."""
    sql = "SELECT string_agg(text, '' ORDER BY start) FROM message_deltas WHERE message_id = ?"
    wait_for(lambda: app.store.read(sql, [message])[0][0] == text, f"{text!r} to be saved")


def finished(app: ai.App, name: str, number: int) -> Any:
    """(state, error_code) of all jobs of that function, when so many are over."""
    sql = "SELECT state, error_code FROM scheduled_functions WHERE name = ? AND finished_at IS NOT NULL ORDER BY id"
    return wait_for(lambda: len(rows := app.store.read(sql, [name])) >= number and rows, f"{number} jobs of {name}")


def act_as(app: ai.App, user: str, fn: Any, **args: Any) -> Any:
    """An action's result, run as if scheduled by `user`."""
    return app.run(app.functions.runner.act(of(fn), args, user_id=user))


def query_as(app: ai.App, user: str, fn: Any, **args: Any) -> Any:
    return app.functions.runner.query(of(fn), args, user_id=user)


def mutate_as(app: ai.App, user: str, fn: Any, **args: Any) -> Any:
    return app.functions.runner.mutate(of(fn), args, user_id=user)
