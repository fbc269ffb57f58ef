"""The functions that the benchmarks run, as a person writes them in a notebook. Imported in measured processes only."""

from __future__ import annotations

import queue
import time
from typing import Any

import ipyconvexai as ai

started: queue.SimpleQueue[float] = queue.SimpleQueue()  # ``time.perf_counter`` at the start of a job


class Note(ai.Table):
    """What is inserted: a text, and a number with an index."""

    text: str
    n: int = 0

    by_n = ai.Index("n")


@ai.mutation
def add(ctx: Any, text: str, n: int = 0) -> str:
    document_id: str = ctx.db.insert(Note(text=text, n=n))
    return document_id


@ai.query
def newest(ctx: Any, conversation_id: str) -> list[ai.Message]:
    messages = ctx.db.query(ai.Message).with_index("by_conversation", conversation_id=conversation_id)
    found: list[ai.Message] = messages.order("desc").take(50)
    return found


@ai.action
async def reply(ctx: Any) -> None:
    started.put(time.perf_counter())


@ai.mutation
def count(ctx: Any) -> None:
    started.put(time.perf_counter())


@ai.mutation
def schedule_action(ctx: Any) -> None:
    ctx.scheduler.run_after(0, reply)


@ai.mutation
def schedule_mutation(ctx: Any) -> None:
    ctx.scheduler.run_after(0, count)
