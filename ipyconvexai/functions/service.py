"""The action layer of one app: its functions, its tables and its scheduler. Calls ``runner`` and ``scheduler``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipyconvexai.errors import DeadlockError
from ipyconvexai.functions.crons import crons
from ipyconvexai.functions.registry import BUILT_IN, Function, Kind, define_built_in, registry
from ipyconvexai.functions.runner import Runner
from ipyconvexai.functions.running import Services
from ipyconvexai.functions.scheduler import Scheduler
from ipyconvexai.functions.toolbox import Performer
from ipyconvexai.functions.tools import Tool
from ipyconvexai.loops import BackgroundLoop
from ipyconvexai.settings import Settings
from ipyconvexai.store.link import Store
from ipyconvexai.tables.catalog import Catalog

__all__ = ["Functions", "are_defined"]


def are_defined() -> bool:
    """Whether this process defines functions of its user's, or crons: then jobs may wait for it."""
    return bool(crons.all()) or any(not name.startswith(BUILT_IN) for name in registry.names())


class Functions:
    """Runs functions, and the jobs that they schedule."""

    works_here = True  # whether jobs run in this process; not where it ends at once, as the command line does

    def __init__(self, store: Store, settings: Settings, loop: BackgroundLoop, services: Services) -> None:
        self.runner = Runner(store, settings, loop, services)
        self.scheduler = Scheduler(self.runner, loop)
        self.performer = Performer(store, loop, self._run_built_in)
        self.runner.wake = self._wake
        self._loop = loop

    @property
    def tables(self) -> Catalog:
        """The tables of this ledger; ``.drop(name)`` removes one."""
        return self.runner.catalog

    def start(self) -> None:
        """From now on jobs run here; harmless when they do already."""
        if self.works_here:
            define_built_in()  # their jobs run in any process that runs jobs
            self.scheduler.start()

    def _wake(self) -> None:
        self.start()
        self.scheduler.wake()

    def give_tools(self, conversation_id: str, tools: Mapping[str, Tool]) -> None:
        """From now on, and in this process, the model may call these in a conversation; in place of those it had."""
        self.runner.toolbox.put(conversation_id, tools)
        self.performer.start()

    async def _run_built_in(self, name: str, args: Mapping[str, Any]) -> Any:
        return await self.arun(registry.find(name), args)

    async def arun(self, function: Function, args: Mapping[str, Any]) -> Any:
        """A function's result, on the background loop."""
        self.start()
        if function.kind is Kind.QUERY:
            return await self.runner.aquery(function, args)
        if function.kind is Kind.MUTATION:
            return await self.runner.amutate(function, args)
        return await self.runner.act_with_retries(function, args)

    def run_in_transaction(self, function: Function, args: Mapping[str, Any]) -> Any:
        """The result of a query or a mutation; blocks, and Ctrl-C stops it."""
        if self._loop.is_current():
            raise DeadlockError(
                f"{function.name} was called with ai.run on the loop that actions run on",
                cure="Inside an action use await ctx.run_query(...) or ctx.run_mutation(...).",
            )
        self.start()
        run = self.runner.query if function.kind is Kind.QUERY else self.runner.mutate
        return run(function, args)

    async def aclose(self) -> None:
        """Hand back what runs."""
        self.works_here = False  # a mutation that commits meanwhile must not start it again
        self.runner.closing = True
        await self.performer.stop()
        await self.scheduler.stop(0)

    def close(self) -> None:
        self.runner.close()
