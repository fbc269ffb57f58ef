"""What contexts and the scheduler ask of the runner, and actions of the app, as interfaces: contexts stand below the
runner, which makes them.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from ipyconvexai.functions.registry import Function, Kind
from ipyconvexai.functions.toolbox import Toolbox
from ipyconvexai.reply import Reply
from ipyconvexai.settings import Settings
from ipyconvexai.store.link import Execute, Store
from ipyconvexai.tables.catalog import Catalog

__all__ = ["Asker", "Running", "Services", "User"]

T = TypeVar("T")


class Asker(enum.Enum):
    """In place of a user."""

    APP = "the app's user"


User = str | Asker | None  # None: nobody is known


class Services(Protocol):
    """What an action gets of the app it runs in. Clients give up after `timeout` seconds of silence."""

    def model(self) -> str: ...

    def client(self, timeout: float) -> Any: ...

    def async_client(self, timeout: float) -> Any: ...

    def generate(self, prompt: Any, **options: Any) -> Coroutine[Any, Any, Any]: ...

    def stream(self, prompt: Any, **options: Any) -> AsyncGenerator[str | Reply, None]: ...

    def post(self, address: str, value: Any, **options: Any) -> Coroutine[Any, Any, Any]: ...

    def send_email(self, to: str, subject: str, text: str, **options: Any) -> Coroutine[Any, Any, str]: ...


class Running(Protocol):
    """The runner, as contexts see it; see ``runner`` for what its methods promise."""

    store: Store
    settings: Settings
    services: Services
    catalog: Catalog
    toolbox: Toolbox
    clock: Callable[[], datetime.datetime]
    wake: Callable[[], None]
    closing: bool

    def query(self, function: Function, args: Mapping[str, Any], *, user_id: User = Asker.APP) -> Any: ...

    def mutate(
        self, function: Function, args: Mapping[str, Any], *, user_id: User = Asker.APP, job_id: str | None = None
    ) -> Any: ...

    async def aquery(self, function: Function, args: Mapping[str, Any], *, user_id: User = Asker.APP) -> Any: ...

    async def amutate(
        self,
        function: Function,
        args: Mapping[str, Any],
        *,
        user_id: User = Asker.APP,
        job_id: str | None = None,
        first: Callable[[Execute], Any] | None = None,
        last: Callable[[Execute, Any], Any] | None = None,
    ) -> Any: ...

    async def act(
        self, function: Function, args: Mapping[str, Any], *, user_id: User = Asker.APP, job_id: str | None = None
    ) -> Any: ...

    async def act_with_retries(
        self, function: Function, args: Mapping[str, Any], *, user_id: User = Asker.APP, job_id: str | None = None
    ) -> Any: ...

    def call_inside(self, function: Function, args: Mapping[str, Any], ctx: Any, kind: Kind) -> Any: ...

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T: ...
