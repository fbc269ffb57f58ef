"""Doubles for tests: a model provider on loopback that is a real HTTP server and never a mock.

    from ipyconvexai.testing import Answer, Endpoint, Fault

    with Endpoint([Fault(429, retry_after=1), "Paris"]) as endpoint:
        client = OpenAI(base_url=endpoint.url, api_key="sk-test")
        ...
    assert endpoint.count == 2

It speaks OpenAI's chat completions, responses, embeddings, images and models, streaming too, files and batches.
Without a script it answers `echo(prompt)`, so equal prompts get equal answers; tokens are counted in whitespace words.
What it was sent is kept in `endpoint.calls`. `crash_at` has this process crash at a named point. Standard library only;
of this package it imports the error tree and the points.
"""

from __future__ import annotations

from ipyconvexai.testing.child import ChildEndpoint, spawn
from ipyconvexai.testing.crashing import crash_at
from ipyconvexai.testing.endpoint import Endpoint
from ipyconvexai.testing.received import Headers, Received
from ipyconvexai.testing.script import Answer, Drop, Fault, Reply, Script, Stall, ToolCall, echo

__all__ = [
    "Answer",
    "ChildEndpoint",
    "Drop",
    "Endpoint",
    "Fault",
    "Headers",
    "Received",
    "Reply",
    "Script",
    "Stall",
    "ToolCall",
    "crash_at",
    "echo",
    "spawn",
]
