"""What children of tests have imported before they are forked off: see `tests.promises.children`."""

from __future__ import annotations

import openai.resources.chat  # noqa: F401
import pandas  # noqa: F401
import pyarrow  # noqa: F401

import ipyconvexai.actions
import ipyconvexai.application
import ipyconvexai.batch.summarize
import ipyconvexai.functions.scheduler
import ipyconvexai.providers.corridor
import ipyconvexai.providers.network
import ipyconvexai.store.inprocess
import ipyconvexai.testing  # noqa: F401
