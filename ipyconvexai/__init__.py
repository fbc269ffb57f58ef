"""ipyconvexai: language models from a notebook, with every request and response in DuckDB before anyone sees it.

    import ipyconvexai as ai
    ai.generate("Why is the sky blue?")
    %load_ext ipyconvexai

The public names, and nothing else; each is imported when it is first used, so that loading costs a few milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ipyconvexai import accessors as _accessors
from ipyconvexai.interrupts import held as _held

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ipyconvexai.api import agenerate as agenerate
    from ipyconvexai.api import arun as arun
    from ipyconvexai.api import asafe_generate as asafe_generate
    from ipyconvexai.api import batches as batches
    from ipyconvexai.api import cancel as cancel
    from ipyconvexai.api import crons as crons
    from ipyconvexai.api import doctor as doctor
    from ipyconvexai.api import generate as generate
    from ipyconvexai.api import jobs as jobs
    from ipyconvexai.api import pause as pause
    from ipyconvexai.api import resume as resume
    from ipyconvexai.api import run as run
    from ipyconvexai.api import safe_generate as safe_generate
    from ipyconvexai.api import stream as stream
    from ipyconvexai.application import App as App
    from ipyconvexai.application import app as app
    from ipyconvexai.application import connect as connect
    from ipyconvexai.batch.job import Job as Job
    from ipyconvexai.batch.job import job as job
    from ipyconvexai.batch.mapping import amap as amap
    from ipyconvexai.batch.mapping import map as map
    from ipyconvexai.batch.planning import estimate as estimate
    from ipyconvexai.batch.reduce import areduce as areduce
    from ipyconvexai.batch.reduce import reduce as reduce
    from ipyconvexai.batch.schedule import schedule as schedule
    from ipyconvexai.batch.summarize import asummarize as asummarize
    from ipyconvexai.batch.summarize import summarize as summarize
    from ipyconvexai.conversations import conversation as conversation
    from ipyconvexai.drawing.plotting import chart as chart
    from ipyconvexai.errors import ApplicationError as ApplicationError
    from ipyconvexai.errors import Unauthenticated as Unauthenticated
    from ipyconvexai.functions.crons import cron as cron
    from ipyconvexai.functions.rate_limits import rate_limit as rate_limit
    from ipyconvexai.functions.registry import action as action
    from ipyconvexai.functions.registry import mutation as mutation
    from ipyconvexai.functions.registry import query as query
    from ipyconvexai.functions.retries import Retry as Retry
    from ipyconvexai.functions.tools import Tool as Tool
    from ipyconvexai.functions.tools import tool as tool
    from ipyconvexai.notebook.live import live as live
    from ipyconvexai.providers import catalog
    from ipyconvexai.providers.clients import AsyncOpenAI as AsyncOpenAI
    from ipyconvexai.providers.clients import OpenAI as OpenAI
    from ipyconvexai.records import Records
    from ipyconvexai.relation import Relation as Relation
    from ipyconvexai.reply import Reply as Reply
    from ipyconvexai.reply import Success as Success
    from ipyconvexai.sql_tool import sql_tool as sql_tool
    from ipyconvexai.tables.builtin import Conversation as Conversation
    from ipyconvexai.tables.builtin import Document as Document
    from ipyconvexai.tables.builtin import Message as Message
    from ipyconvexai.tables.ids import Id as Id
    from ipyconvexai.tables.model import Index as Index
    from ipyconvexai.tables.model import Table as Table
    from ipyconvexai.tables.query import Page as Page
    from ipyconvexai.values import Failure as Failure
    from ipyconvexai.values import Replay as Replay
    from ipyconvexai.values import Status as Status
    from ipyconvexai.values import Usage as Usage
    from ipyconvexai.watching import watch as watch
    from ipyconvexai.widgets.chat import chat as chat
    from ipyconvexai.widgets.form import form as form

    ledger: Records
    register_provider = catalog.register

# name -> module, or (module, name there)
_HOMES: dict[str, str | tuple[str, str]] = {
    "App": "application",
    "ApplicationError": "errors",
    "AsyncOpenAI": "providers.clients",
    "Conversation": "tables.builtin",
    "Document": "tables.builtin",
    "Failure": "values",
    "Id": "tables.ids",
    "Index": "tables.model",
    "Job": "batch.job",
    "Message": "tables.builtin",
    "OpenAI": "providers.clients",
    "Page": "tables.query",
    "Relation": "relation",
    "Replay": "values",
    "Reply": "reply",
    "Retry": "functions.retries",
    "Status": "values",
    "Success": "reply",
    "Table": "tables.model",
    "Tool": "functions.tools",
    "Unauthenticated": "errors",
    "Usage": "values",
    "action": "functions.registry",
    "agenerate": "api",
    "amap": "batch.mapping",
    "app": "application",
    "areduce": "batch.reduce",
    "arun": "api",
    "asafe_generate": "api",
    "asummarize": "batch.summarize",
    "batches": "api",
    "cancel": "api",
    "chart": "drawing.plotting",
    "chat": "widgets.chat",
    "connect": "application",
    "conversation": "conversations",
    "cron": "functions.crons",
    "crons": "api",
    "doctor": "api",
    "estimate": "batch.planning",
    "form": "widgets.form",
    "generate": "api",
    "job": "batch.job",
    "jobs": "api",
    "live": "notebook.live",
    "map": "batch.mapping",
    "mutation": "functions.registry",
    "pause": "api",
    "query": "functions.registry",
    "rate_limit": "functions.rate_limits",
    "reduce": "batch.reduce",
    "register_provider": ("providers.catalog", "register"),
    "resume": "api",
    "run": "api",
    "safe_generate": "api",
    "schedule": "batch.schedule",
    "sql_tool": "sql_tool",
    "stream": "api",
    "summarize": "batch.summarize",
    "tool": "functions.tools",
    "watch": "watching",
}

__all__ = [
    *_HOMES,
    "actions",
    "errors",
    "ledger",
    "load_ipython_extension",
    "testing",
    "unload_ipython_extension",
]


def __getattr__(name: str) -> Any:
    if name == "ledger":  # of the current app, so never kept here
        return __getattr__("app")().ledger
    if name in ("actions", "errors", "testing"):
        return _imported(name)
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ipyconvexai' has no attribute {name!r}")
    if name in ("OpenAI", "AsyncOpenAI"):
        _imported("application")  # wires the clients to the current app
    module, inner = home if isinstance(home, tuple) else (home, name)
    value = getattr(_imported(module), inner)
    globals()[name] = value
    return value


def _imported(module: str) -> Any:
    with _held():
        return importlib.import_module(f"ipyconvexai.{module}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext ipyconvexai``"""
    with _held():
        from ipyconvexai.notebook.extension import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext ipyconvexai``"""
    from ipyconvexai.notebook.extension import unload

    unload(shell)


_accessors.install()  # df.ai
