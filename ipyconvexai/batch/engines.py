"""Engines: who sends the requests of a batch. The only door to ``distributed``; calls ``providers.remote``. Floor 5.

The driver admits, records and retries as always; a worker only sends. Light to import, as Dask's workers import it.
Promises: each chunk is for one worker, which runs it once; when a worker dies, what it had fails as a broken connection
and is tried again by the corridor, with rows of its own; new workers are used; nothing that is logged or shown holds a
key.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import difflib
import ipaddress
import os
import sys
import time
import uuid
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from ipyconvexai.errors import ConfigurationError, Error, InputError, UnreachableError
from ipyconvexai.providers.errands import Chunk, Report, run
from ipyconvexai.providers.remote import Place, Remote

if TYPE_CHECKING:
    import httpx2

__all__ = ["Engine", "open_engine"]

LOOKS = 0.25  # seconds between two looks at which workers there are
ANSWERS = 10.0  # seconds within which a scheduler does
GREETS = 15.0  # seconds within which a worker does, or it is asked again
CLOSES = 20.0  # seconds within which a cluster of our own does, or it is left to end by itself
SLOTS = 2  # full chunks that a Dask worker holds at a time: what its death costs
SLOTS_UNKNOWN = 8  # of an executor that does not say how many workers it has
OWN_WORKERS = 4
URGENT = 10  # before what else waits for a worker's threads: it takes none for long


class Engine(Protocol):
    """`send` and `aclose` run on the app's background loop. `room`: requests that can be under way at present."""

    @property
    def description(self) -> str: ...

    @property
    def room(self) -> int: ...

    async def send(self, request: httpx2.Request) -> httpx2.Response: ...

    async def aclose(self) -> None: ...


def open_engine(engine: Any, concurrency: int) -> Engine | None:
    """The engine that is meant; None: the app's own network.

    Blocking, up to some seconds where a Dask cluster is started.

    Args:
        engine: None; "dask": the current Dask client, or where there is none a cluster on this machine, closed with the
            engine; a ``distributed.Client``; a ``concurrent.futures.Executor``, or whatever has its ``submit`` and runs
            each task once at most.
        concurrency: requests under way in all.

    Raises:
        InputError: it is none of these.
        ConfigurationError: the extra is not installed, the client is closed, or the cluster does not start.
    """
    if engine is None:
        return None
    if isinstance(engine, str):
        if engine != "dask":
            near = difflib.get_close_matches(engine.lower(), ["dask", "openai-batch"], 1)
            meant = f'Did you mean "{near[0]}"? ' if near else ""
            raise InputError(f"engine={engine!r} is not known", cure=f"{meant}{_KNOWN}")
        return _open_dask(concurrency)
    if (distributed := sys.modules.get("distributed")) is not None:  # else it is none of its objects
        if isinstance(engine, distributed.Client):
            return _DaskEngine(engine, concurrency)
        if isinstance(engine, distributed.cfexecutor.ClientExecutor):
            raise InputError(
                "engine= is an executor over a Dask client, which would send again what a dead worker had",
                cure="Give the client itself: engine=client.",
            )
    if isinstance(engine, type) or not callable(getattr(engine, "submit", None)):
        raise InputError(f"engine= is of type {type(engine).__name__}, which can send nothing", cure=_KNOWN)
    return _ExecutorEngine(engine, concurrency)


_KNOWN = (
    'Use "dask", a dask.distributed.Client, a concurrent.futures executor, or "openai-batch" for the provider\'s Batch'
    " API; leave it out to send from here."
)


# ---------------------------------------------------------------------------------------------- executors
class _ExecutorEngine:
    def __init__(self, executor: Any, concurrency: int) -> None:
        workers: Any = getattr(executor, "_max_workers", None)  # of the standard library's two
        known = isinstance(workers, int) and workers > 0
        name = type(executor).__name__
        self.description = f"{name}: {_count(workers, 'worker')}" if known else name
        self._remote = Remote(concurrency, lambda: ConfigurationError("there is no executor"))
        self._place = Place(
            f"of the {name}",
            lambda chunk: executor.submit(run, chunk),
            slots=workers if known else SLOTS_UNKNOWN,
            counts_chunks=known,
        )
        self._added = False

    @property
    def room(self) -> int:
        return self._remote.room

    async def send(self, request: httpx2.Request) -> httpx2.Response:
        if not self._added:
            self._added = True
            self._remote.add(self._place)
        return await self._remote.send(request)

    async def aclose(self) -> None:
        self._remote.close()  # the executor is its owner's to close


# ---------------------------------------------------------------------------------------------- Dask
def run_aside(chunk: Chunk) -> Report:
    """What a Dask worker runs: its thread only waits, and leaves its place to other tasks meanwhile."""
    from distributed import secede

    secede()  # type: ignore[no-untyped-call]
    return run(chunk)


def _open_dask(concurrency: int) -> Engine:
    try:
        import distributed
    except ImportError:
        raise ConfigurationError(
            'engine="dask" needs Dask, which is not installed', cure="pip install 'ipyconvexai[dask]'"
        ) from None
    try:
        return _DaskEngine(distributed.default_client(), concurrency)  # type: ignore[no-untyped-call]
    except ValueError:
        pass  # there is none
    cluster = client = None
    try:
        cluster = distributed.LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=min(OWN_WORKERS, os.cpu_count() or 1),
            threads_per_worker=1,
            dashboard_address=":0",
            silence_logs=40,
        )
        client = distributed.Client(cluster, set_as_default=False)  # type: ignore[no-untyped-call]
        return _DaskEngine(client, concurrency, cluster)
    except Exception as error:
        for opened in (client, cluster):
            if opened is not None:
                opened.close()
        raise ConfigurationError(
            f"a Dask cluster on this machine does not start: {type(error).__name__}: {error}",
            cure='In a script, start it under `if __name__ == "__main__":`. Or give a client of yours as engine=.',
        ) from error


class _DaskEngine:
    """One place for each worker. What concerns the client runs on its loop, the rest on the app's."""

    def __init__(self, client: Any, concurrency: int, cluster: Any = None) -> None:
        if client.status != "running":
            raise ConfigurationError(
                f"the Dask client is {client.status}",
                cure="Connect a new one, and give it as engine=.",
            )
        if client._asynchronous:
            raise InputError(
                "the Dask client is asynchronous: it lives on an event loop that waits while a cell runs",
                cure="Make it without asynchronous=True: engine=Client(address).",
            )
        self._client = client
        self._cluster = cluster
        self._address: str = client.scheduler.address
        self._remote = Remote(concurrency, self._nobody)
        self._places: dict[str, Place | None] = {}  # by address; None: asked for its name, or it has refused
        self._refusals: dict[str, str] = {}
        self._greetings: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._workers = len(client.nthreads())

    @property
    def description(self) -> str:
        whose = "a cluster of its own, " if self._cluster is not None else ""
        bare = "" if _is_safe(self._address) else " (not encrypted: keys travel as they are)"
        return f"Dask: {whose}{_count(self._workers, 'worker')} at {self._address}{bare}"

    @property
    def room(self) -> int:
        return self._remote.room

    async def send(self, request: httpx2.Request) -> httpx2.Response:
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_workers())
        return await self._remote.send(request)

    async def aclose(self) -> None:
        tasks = [task for task in (self._watch, *self._greetings) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._remote.close()
        if self._cluster is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.to_thread(self._close_cluster), CLOSES)

    def _close_cluster(self) -> None:
        self._client.close()
        self._cluster.close()

    def _nobody(self) -> Error:
        return UnreachableError(
            f"no Dask worker is at {self._address}",
            cure=f"Start one: dask worker {self._address}. Then run it again: what is answered is not sent again.",
            retryable=True,
        )

    # ------------------------------------------------------------------------------------------ on the app's loop
    async def _watch_workers(self) -> None:
        """Dask would run a dead worker's tasks again, or have them wait for ever: here they end."""
        while self._client.status != "closed":
            try:
                present = await asyncio.wait_for(self._on_client(self._present()), ANSWERS)
            except Exception:  # the client looks for its scheduler again by itself
                present = None
            if present is not None:
                self._compare(present)
            await asyncio.sleep(LOOKS)
        self._compare(set())
        self._remote.fail(
            ConfigurationError(
                f"the Dask scheduler at {self._address} is gone, or its client was closed",
                cure="Connect a new client and run it again: what is answered is not sent again.",
            )
        )

    def _compare(self, present: set[str]) -> None:
        self._workers = len(present)
        for address in self._places.keys() - present:
            self._refusals.pop(address, None)
            if (place := self._places.pop(address)) is not None:
                self._remote.lose(place)
        for address in present - self._places.keys():
            self._places[address] = None
            task = asyncio.create_task(self._greet(address))
            self._greetings.add(task)
            task.add_done_callback(self._greetings.discard)

    async def _greet(self, address: str) -> None:
        """Ask a new worker for its process's name, to which its chunks are bound, and its clock."""
        empty = Chunk(uuid.uuid4().hex, (), None, {})
        try:
            report = await asyncio.wait_for(self._on_client(self._run(empty, address)), GREETS)
        except Exception as error:
            if isinstance(error, OSError | TimeoutError) or type(error).__name__ == "KilledWorker":
                self._places.pop(address, None)  # if it is still there, it is asked again
            else:
                self._refuse(address, error)
            return
        self._remote.note_clock(report, time.monotonic())
        if address in self._places and self._places[address] is None:
            place = self._places[address] = Place(
                address, lambda chunk: self._submit(chunk, address), slots=SLOTS, process=report.process
            )
            self._remote.add(place)

    def _refuse(self, address: str, error: Exception) -> None:
        """It, or the scheduler, lacks this package or has another version of it."""
        cause = error.__cause__ or error
        self._refusals[address] = f"{type(cause).__name__}: {cause}"
        if len(self._refusals) == len(self._places):
            self._remote.fail(self._refused())

    def _refused(self) -> Error:
        reason = next(iter(self._refusals.values()))
        return ConfigurationError(
            f"the Dask workers cannot send: {reason}",
            cure="Install ipyconvexai where they and their scheduler run, of the same version as here.",
        )

    def _submit(self, chunk: Chunk, address: str) -> concurrent.futures.Future[Report]:
        return self._on_client_later(self._run(chunk, address))

    def _on_client_later(self, coroutine: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Any]:
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._client.loop.asyncio_loop)
        except BaseException:
            coroutine.close()
            raise

    async def _on_client(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await asyncio.wrap_future(self._on_client_later(coroutine))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise ConnectionError("the client is being closed") from None  # it was cancelled there, not here

    # ------------------------------------------------------------------------------------------ on the client's loop
    async def _present(self) -> set[str]:
        return set(await self._client.scheduler.ncores(workers=None))

    async def _run(self, chunk: Chunk, address: str) -> Report:
        # Pinned tasks are neither stolen nor moved: distributed/stealing.py, scheduler.py (`worker_restrictions`).
        future = self._client.submit(
            run_aside,
            chunk,
            key=f"ipyconvexai-{chunk.id}",
            pure=False,
            workers=[address],
            allow_other_workers=False,
            retries=0,
            priority=URGENT,
        )
        try:
            report: Report = await future
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await self._client.cancel([future], force=True)
            raise
        finally:
            future.release()
        return report


def _is_safe(address: str) -> bool:
    """Whether what goes there cannot be read on its way."""
    parts = urlsplit(address)
    if parts.scheme in ("tls", "wss", "inproc"):
        return True
    host = parts.hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
