"""A spec's operation called: to check its options, to run it, to have its results again. Calls the operations.

They are called as a person calls them; ``within`` says of which ledger, as another may be current by then.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

from ipyconvexai.application import App, within
from ipyconvexai.batch.options import run_as
from ipyconvexai.batch.running import Checked
from ipyconvexai.batch.specs import Spec, revived

__all__ = ["check", "recall", "run"]

_MODULES = {"summarize": "summarize", "map": "mapping", "reduce": "reduce"}
# How it was run is over; what it asked says which answers are its own.
_OF_THE_RUN = ("budget", "concurrency", "engine", "fresh", "on_error", "output", "patience", "replay", "retry_failed")


def _operation(name: str) -> Any:
    module = importlib.import_module(f"ipyconvexai.batch.{_MODULES[name if name in _MODULES else name[1:]]}")
    return getattr(module, name)


def check(owner: App, spec: Spec, sample: Any) -> None:
    """Find what is wrong with the options, as a run over `sample` would. Nothing is read, sent or written. Blocking.

    Raises:
        InputError, UnknownColumnError, ConfigurationError: something is.
    """
    with within(owner), run_as(check=True), contextlib.suppress(Checked):
        _operation(spec.kind)(sample, *spec.args, **revived(spec.options), progress=False)


async def run(owner: App, spec: Spec, data: Any, job: str, resume: str | None) -> None:
    """Run it as the job `job`; `resume`: the batch that goes on."""
    with within(owner), run_as(job=job):
        await _operation(f"a{spec.kind}")(data, *spec.args, **revived(spec.options), resume=resume)


def recall(owner: App, spec: Spec, data: Any, batch: str) -> Any:
    """The frame with the results of `batch`; nothing is sent. Blocking."""
    options = {name: value for name, value in spec.options.items() if name not in _OF_THE_RUN}
    with within(owner), run_as(recall=batch):
        return _operation(spec.kind)(data, *spec.args, **revived(options), progress=False)
