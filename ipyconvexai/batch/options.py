"""The options that all batches share: checked before anything is read or sent. Calls the generator's checks.

``with_options`` gives a public function the shared options in its signature and its help; it takes them as
``**options`` and passes them to ``Options.of``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ipyconvexai.errors import InputError
from ipyconvexai.generation import check_timeout, plain_params
from ipyconvexai.providers.endpoints import Endpoint
from ipyconvexai.providers.retry import LONGEST_PAUSE
from ipyconvexai.settings import parse_replay
from ipyconvexai.values import Replay

__all__ = ["DETAILS", "PROVIDERS_BATCH", "Options", "concurrency_at", "run_as", "with_options"]

CONCURRENCY = 32
LOCAL_CONCURRENCY = 2  # the local server's slots
MOST_AT_ONCE = 2048
PROVIDERS_BATCH = "openai-batch"  # an engine: the provider's Batch API
DETAILS = ("request_id", "cost", "tokens")

# Words of this package's that are no parameters of a provider's: sent along they would be refused, and paid for.
_RESERVED = frozenset(
    "base_url conversation column df data into key_variable messages n on_limit prompt response_format retries schema"
    " stream stream_options system template".split()
)

_OF_OPERATIONS = ("into", "system", "prompt", "schema", "by", "template")

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Options:
    """See ``OPTIONS_HELP`` for what each means."""

    model: str | None = None
    concurrency: int | None = None
    replay: str | Replay | None = None
    timeout: float | None = None
    fresh: bool = False
    retry_failed: bool = False
    on_error: str = "keep"
    patience: float = LONGEST_PAUSE
    budget: float | None = None
    details: bool | Sequence[str] = ()
    engine: Any = None
    output: str | os.PathLike[str] | None = None
    resume: str | None = None
    context: int | None = None
    dry_run: bool = False
    progress: bool = True
    params: dict[str, Any] = field(default_factory=dict)
    # What only ``run_as`` says.
    job: str | None = None  # the scheduled function that runs it
    recall: str | None = None  # the batch whose results are wanted again: nothing is sent
    check: bool = False  # only look whether it could run: ``Checked`` is raised if so

    @classmethod
    def of(cls, options: Mapping[str, Any], kind: str) -> Options:
        """From keywords; what is not known is a parameter of the provider's.

        Raises:
            InputError: one is wrong.
        """
        own = {name: _plain(value) for name, value in options.items() if name in _NAMES}
        params = {name: value for name, value in options.items() if name not in _NAMES}
        if reserved := sorted(_RESERVED & set(params)):
            raise InputError(f"{kind} takes no {reserved[0]}=", cure=f"help(ai.{kind}) lists what it takes.")
        for name in params:  # a mistyped option would go to the provider, and all would be asked and paid anew
            if near := difflib.get_close_matches(name, [*_NAMES, *_OF_OPERATIONS], n=1, cutoff=0.8):
                raise InputError(f"{kind} takes no {name}=", cure=f"Did you mean {near[0]}=? Nothing was sent.")
        made = cls(**own, params=plain_params(params), **_run_as.get({}))
        made._check()
        return made

    def _check(self) -> None:
        if self.on_error not in ("keep", "raise"):
            raise InputError(f"on_error={self.on_error!r} is not known", cure='Use "keep" or "raise".')
        _check_count("concurrency", self.concurrency, "requests")
        if self.concurrency is not None and self.concurrency > MOST_AT_ONCE:
            raise InputError(f"concurrency={self.concurrency} is too many", cure=f"Use {MOST_AT_ONCE:,} at most.")
        _check_count("context", self.context, "tokens")
        check_timeout(self.timeout)
        _check_amount("patience", self.patience, "seconds")
        _check_amount("budget", self.budget, "US dollars")
        if self.replay is not None:
            parse_replay(self.replay)
        if unknown := [name for name in self.wanted if name not in DETAILS]:
            raise InputError(
                f"details={unknown[0]!r} is not known", cure=f"Use any of {', '.join(DETAILS)}, or True for all."
            )
        if self.model is not None and not isinstance(self.model, str):
            raise InputError(f"model={self.model!r} is no text", cure='For example: model="openai:gpt-5-mini".')
        if self.output is not None:
            _check_output(self.output)
        if self.fresh and (self.retry_failed or self.policy is Replay.ONLY):
            other = "retry_failed=True" if self.retry_failed else "replay='only'"
            raise InputError(f"fresh=True and {other} contradict each other", cure="Leave one of them out.")

    @property
    def is_fresh(self) -> bool:
        """Whether all is to be sent, as ``fresh=True`` and replay="off" say."""
        return self.fresh or self.policy is Replay.OFF

    @property
    def policy(self) -> Replay | None:
        return None if self.replay is None else parse_replay(self.replay)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The details that are wanted as columns."""
        if self.details is None or isinstance(self.details, bool):
            return DETAILS if self.details else ()
        if isinstance(self.details, str):
            return (self.details,)
        return tuple(self.details) if isinstance(self.details, Sequence) else (repr(self.details),)


_run_as: ContextVar[dict[str, Any]] = ContextVar("ipyconvexai_run_as")


@contextlib.contextmanager
def run_as(**what: Any) -> Iterator[None]:
    """Batches that begin in here are run as `what` says: ``job``, ``recall`` or ``check``, which nothing else says."""
    token = _run_as.set(what)
    try:
        yield
    finally:
        _run_as.reset(token)


def concurrency_at(endpoint: Endpoint, options: Options) -> int:
    """Requests being sent at once."""
    return options.concurrency or (LOCAL_CONCURRENCY if endpoint.provider == "local" else CONCURRENCY)


_UNSAID = {"params", "job", "recall", "check"}  # no keywords of a public function's
_NAMES = {field.name for field in dataclasses.fields(Options)} - _UNSAID


def _plain(value: Any) -> Any:
    """A number of numpy's as Python's."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 else value


def _check_count(name: str, value: Any, unit: str) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InputError(f"{name}={value!r} is no number of {unit}", cure="Use 1 or more.")


def _check_amount(name: str, value: Any, unit: str) -> None:
    wrong = isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf
    if value is not None and wrong:
        raise InputError(f"{name}={value!r} is no number of {unit}", cure="Use a number that is not negative.")


def _check_output(output: Any) -> None:
    suffix = Path(output).suffix.lower() if isinstance(output, str | os.PathLike) else None
    if suffix not in (".parquet", ".csv"):
        raise InputError(f"output={output!r} is no file of rows", cure='For example: output="summaries.parquet".')
    folder = Path(output).expanduser().resolve().parent
    if not folder.is_dir():
        raise InputError(f"the folder of output={str(output)!r} is not there", cure="Make it, or name another.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"nothing can be written where output={str(output)!r} is", cure="Name another folder.")


OPTIONS_HELP = """
        model: ``provider:model``; None: as ``generate``.
        concurrency: requests being sent at once; default 32, for the local model 2.
        budget: US dollars that may be spent; what does not fit is not sent and says so in its row.
        on_error: "keep": a failed row gets null and its error; "raise": BatchError at the end.
        retry_failed: send only what was sent before and failed.
        fresh: send again what is already answered.
        replay: "only": what is not in the ledger is an error of its row, and nothing is sent.
        patience: seconds that a row waits where the provider asks for a pause; a longer one parks the row.
        timeout: seconds of silence after which an attempt is given up.
        details: further columns: any of "request_id", "cost" (US dollars), "tokens"; True for all.
        engine: None: this process; "dask", a Dask client or any ``concurrent.futures`` executor: their workers send;
            "openai-batch": the provider's Batch API, at half the price, within a day.
        output: write the rows to this .parquet or .csv file, too.
        resume: the id of a batch (``ai.batches()``) that goes on, with what it has spent so far.
        context: tokens that the model reads at most; default: what is known of it.
        dry_run: send nothing; gives an ``Estimate`` of requests, tokens, money and time.
        progress: show a bar, with buttons in a notebook.
        **params: parameters of the provider's: temperature, max_tokens, ...
"""


def with_options(function: F) -> F:
    """Show the shared options in the signature and the help of `function`, whose docstring has ``{options}``."""
    own = inspect.signature(function)
    parameters = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
    hidden = _UNSAID | ({"progress"} if inspect.iscoroutinefunction(function) else set())
    shared = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type)
        for one in dataclasses.fields(Options)
        if one.name not in hidden and one.name not in own.parameters
    ]
    rest = inspect.Parameter("params", inspect.Parameter.VAR_KEYWORD, annotation="Any")
    function.__signature__ = own.replace(parameters=[*parameters, *shared, rest])  # type: ignore[attr-defined] # inspect's own protocol
    function.__doc__ = (function.__doc__ or "").replace("{options}", OPTIONS_HELP.strip())
    return function
