"""Named places on the way of a call where a test may have the process die, fail or be interrupted.

The ground floor: everybody may call it, and it calls nothing. ``testing.crash_at`` sets what happens at a point; where
nothing is set, and it never is but in tests, passing one costs some 40 ns. `POINTS` is the list of all of them; a test
sees that each is passed by the package, and that each is crashed at.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["POINTS", "passing", "set_what_happens"]

POINTS = {
    # The corridor, in the caller's process.
    "before_intent": "admitted by nobody yet: nothing of the attempt is written",
    "before_send": "the intent is durable, and nothing is sent",
    "after_send": "the provider has answered, at least with its headers",
    "in_stream": "a part of a streamed answer came, and nobody has seen it",
    "before_settle": "the whole answer is in memory, and only there",
    "after_settle": "the outcome is durable, and the caller has not seen it",
    # The writer and the keeper, in the process that holds the file.
    "before_commit": "the rows are in the transaction, and it is open",
    "after_commit": "they are durable, and nobody was told",
    "before_answer": "a request was done, and its client does not know",
    "before_close": "nobody used the file for a moment: it is to be closed",
    "in_rewrite": "the new file is whole, and the old one still in its place",
    # The scheduler.
    "before_job": "a job is claimed, and was not begun",
    "after_job": "it ran, and its end is not written",
    # A batch.
    "before_chunk": "a chunk of rows was read and looked up, and nothing of it is sent",
    "after_chunk": "all its rows have answers, and nobody was given them",
}

_happens: Callable[[str], None] | None = None


def passing(point: str) -> None:
    """Whoever passes a point says so."""
    if _happens is not None:
        _happens(point)


def set_what_happens(happens: Callable[[str], None] | None) -> Callable[[str], None] | None:
    """From now on `happens` is called with each point that is passed, in the thread that passes it; gives the one
    before."""
    global _happens
    before, _happens = _happens, happens
    return before
