"""The error tree: everything this package raises on purpose, in one picture.

    Error
    ├── ConfigurationError            something must be set up first
    │   ├── NoModelError              no provider could be chosen
    │   ├── UnknownProviderError      no provider of that name
    │   ├── UnknownModelError         the provider does not know that model
    │   ├── MissingKeyError           the provider's key variable is not set
    │   └── LocalModelError           the local model is not installed or does not start
    ├── InputError (ValueError)       what was asked cannot be sent
    │   ├── EmptyPromptError          nothing to send
    │   └── UnknownColumnError        the frame has no such column
    ├── CallError                     a call that did not end well; it has a row in the ledger
    │   ├── ProviderError             the provider answered with an error status
    │   │   ├── AuthenticationError   401, 403
    │   │   ├── RateLimitError        429
    │   │   └── ContextLengthError    the prompt does not fit the model
    │   ├── UnreachableError          no connection to the provider
    │   ├── CallTimeoutError          no answer in time
    │   ├── StreamCutError            a stream ended without its terminal event
    │   ├── CanceledError             stopped by the caller
    │   ├── InvalidAnswerError        the answer does not fit the schema
    │   ├── RefusedError              not sent: a rule forbids it
    │   ├── LimitError                not sent: a limit of yours is reached; ``retry_after`` says until when
    │   │   └── BudgetError           not sent: a budget of yours is spent
    │   └── ReplayMissError           replay="only", and the call is not recorded
    ├── FunctionError                 a query, mutation or action could not run, or broke a rule
    │   ├── UnknownFunctionError      no function of that name is defined here
    │   ├── ArgumentsError            its arguments do not fit its type hints
    │   ├── ResultError               its result does not fit its type hint
    │   ├── NotAllowedError           a query wrote, a mutation went to the network, an internal function was called
    │   ├── FunctionTimeoutError      it ran longer than it may
    │   └── JobInterruptedError       the process that ran it ended, or was told to
    ├── DataError                     a table or a document does not fit
    │   ├── SchemaError               a table's class does not fit what the ledger holds
    │   ├── DocumentError             a document, a field or an index range is not what the table has
    │   └── NotFoundError             no document has this id
    ├── Unauthenticated               nobody is signed in, and the function wants to know who asks
    ├── ApplicationError              raised by your own functions; carries ``data`` across every boundary
    ├── StoreError                    the ledger cannot do it
    │   ├── LedgerLockedError         another program holds the file
    │   ├── LedgerCorruptError        the file is damaged; it is never reset silently
    │   ├── LedgerReadOnlyError       the file or its folder cannot be written
    │   ├── LedgerTooNewError         written by a newer version
    │   ├── DiskFullError             no room; nothing is sent until there is
    │   ├── ClosedError               it was closed
    │   ├── KeeperUnavailableError    the process that holds the file does not answer
    │   │   └── OtherVersionError     it is of another version of the package
    │   ├── TransactionError          a transaction was rolled back
    │   └── QueryError                wrong SQL
    ├── BatchError                    on_error="raise": a row failed
    └── DeadlockError                 a sync call made on the loop that would have to answer it

A message says what happened and names the cure. Floor 0: imports nothing of the package.
"""

from __future__ import annotations

import json
import os
import re
import traceback
from collections.abc import Mapping
from types import TracebackType

__all__ = [
    "ApplicationError",
    "ArgumentsError",
    "AuthenticationError",
    "BatchError",
    "BudgetError",
    "CallError",
    "CallTimeoutError",
    "CanceledError",
    "ClosedError",
    "ConfigurationError",
    "ContextLengthError",
    "DataError",
    "DeadlockError",
    "DiskFullError",
    "DocumentError",
    "EmptyPromptError",
    "Error",
    "FunctionError",
    "FunctionTimeoutError",
    "InputError",
    "InvalidAnswerError",
    "JobInterruptedError",
    "KeeperUnavailableError",
    "LedgerCorruptError",
    "LedgerLockedError",
    "LedgerReadOnlyError",
    "LedgerTooNewError",
    "LimitError",
    "LocalModelError",
    "MissingKeyError",
    "NoModelError",
    "NotAllowedError",
    "NotFoundError",
    "OtherVersionError",
    "ProviderError",
    "QueryError",
    "RateLimitError",
    "RefusedError",
    "ReplayMissError",
    "ResultError",
    "SchemaError",
    "StoreError",
    "StreamCutError",
    "TransactionError",
    "Unauthenticated",
    "UnknownColumnError",
    "UnknownFunctionError",
    "UnknownModelError",
    "UnknownProviderError",
    "UnreachableError",
]

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Error(Exception):
    """The root of the tree.

    Attributes:
        message: what happened, in one sentence.
        cure: what to do about it; may be empty.
        code: a short machine-readable word.
        retryable: whether the same call may succeed later without a change.
        retry_after: seconds to wait before that, where it is known.
        request_id: the row in ``requests``, where there is one.
    """

    code = "error"
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        cure: str = "",
        code: str | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        # The first base is named and not found by super(): in providers/ some classes are also SDK errors,
        # whose __init__ wants a request.
        Exception.__init__(self, message)
        self.message = message
        self.cure = cure
        self.code = code or type(self).code
        self.retryable = type(self).retryable if retryable is None else retryable
        self.retry_after = retry_after
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.message}\n{self.cure}" if self.cure else self.message

    @property
    def _shown_name(self) -> str:
        """The name in the tree: some errors are of a further class, which is also one of the SDK's."""
        return next(kind.__name__ for kind in type(self).__mro__ if kind.__module__ == __name__)

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a stack: one block with the line of the user's own code.

        IPython's protocol: a list of lines, drawn as plain text by every front end.
        """
        lines = [f"{self._shown_name}: {self.message}"]
        if self.cure:
            lines += [f"  {line}" for line in self.cure.splitlines()]
        if self.request_id:
            lines.append(f"  recorded as request {self.request_id}")
        if place := users_line(self.__traceback__):
            lines.append(f"  at {place}")
        return [_STEERING.sub("\ufffd", line) for line in lines]


# What would steer a terminal or turn the writing: a title or a file's name may hold it, and no front end takes it out.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_MAGIC = "get_ipython().run_"  # what IPython makes of a magic: no line of the user's


def draws_as(interrupt: KeyboardInterrupt, line: str) -> None:
    """Have IPython show `interrupt` as one line and that of the user's code: it names a class and its own frames else,
    and to draw those takes it a tenth of a second, or some seconds where they are in the SDK.

    Who catches it further out may have it drawn as something else.
    """

    def drawn() -> list[str]:
        place = users_line(interrupt.__traceback__)
        return [f"KeyboardInterrupt: {line}", *([f"  at {place}"] if place else [])]

    interrupt._render_traceback_ = drawn  # type: ignore[attr-defined] # IPython's protocol


def users_line(tb: TracebackType | None) -> str:
    """``file:line  source`` of the innermost frame outside this package, or an empty string."""
    for frame in reversed(traceback.extract_tb(tb)):
        foreign = frame.filename.startswith(_HERE) or f"{os.sep}site-packages{os.sep}" in frame.filename
        foreign = foreign or (frame.filename, frame.name) == ("<string>", "__init__")  # which a dataclass has written
        if not foreign and f"{os.sep}lib{os.sep}python" not in frame.filename and _MAGIC not in (frame.line or ""):
            return f"{os.path.basename(frame.filename)}:{frame.lineno}  {frame.line or ''}".rstrip()
    return ""


class ConfigurationError(Error):
    code = "configuration"


class NoModelError(ConfigurationError):
    code = "no_model"


class UnknownProviderError(ConfigurationError):
    code = "unknown_provider"


class UnknownModelError(ConfigurationError):
    code = "unknown_model"


class MissingKeyError(ConfigurationError):
    code = "missing_key"


class LocalModelError(ConfigurationError):
    code = "local_model"


class InputError(Error, ValueError):
    code = "invalid_input"


class EmptyPromptError(InputError):
    code = "empty_prompt"


class UnknownColumnError(InputError):
    code = "unknown_column"


class CallError(Error):
    code = "call_failed"


class ProviderError(CallError):
    """The provider answered with an error; ``status`` is the HTTP status."""

    code = "provider_error"
    status: int | None = None


class AuthenticationError(ProviderError):
    code = "authentication"


class RateLimitError(ProviderError):
    code = "rate_limit"
    retryable = True


class ContextLengthError(ProviderError):
    code = "context_length"


class UnreachableError(CallError):
    code = "unreachable"
    retryable = True


class CallTimeoutError(CallError):
    code = "timeout"
    retryable = True


class StreamCutError(CallError):
    code = "cut"
    retryable = True


class CanceledError(CallError):
    code = "canceled"


class InvalidAnswerError(CallError):
    code = "invalid_answer"
    retryable = True


class RefusedError(CallError):
    code = "refused"


class LimitError(CallError):
    """``retry_after`` is in seconds; None: waiting does not help."""

    code = "limit"
    retryable = True


class BudgetError(LimitError):
    code = "budget"


class ReplayMissError(CallError):
    code = "replay_miss"


class FunctionError(Error):
    code = "function"


class UnknownFunctionError(FunctionError):
    code = "unknown_function"


class ArgumentsError(FunctionError, InputError):
    """``problems``: the same by the arguments' names, where it is known of which each is."""

    code = "arguments"

    def __init__(self, message: str, *, problems: Mapping[str, str] | None = None, **fields: object) -> None:
        super().__init__(message, **fields)  # type: ignore[arg-type] # the root's own keywords
        self.problems = dict(problems or {})


class ResultError(FunctionError):
    code = "result"


class NotAllowedError(FunctionError):
    code = "not_allowed"


class FunctionTimeoutError(FunctionError):
    code = "function_timeout"


class JobInterruptedError(FunctionError):
    code = "interrupted"


class DataError(Error):
    code = "data"


class SchemaError(DataError):
    code = "schema"


class DocumentError(DataError, InputError):
    code = "document"


class NotFoundError(DataError):
    code = "not_found"


class Unauthenticated(Error):
    code = "unauthenticated"


class ApplicationError(Error):
    """An error of an application's own: ``raise ai.ApplicationError({"code": "no_credit", "left": 0})``.

    ``data`` (plain JSON values) reaches whoever called, also from a job and through the command line.
    """

    code = "application"

    def __init__(self, data: object = None, **fields: object) -> None:
        message = data if isinstance(data, str) else json.dumps(data, default=str, ensure_ascii=False)
        super().__init__(message, **fields)  # type: ignore[arg-type] # the root's own keywords
        self.data = data


class StoreError(Error):
    code = "store"


class LedgerLockedError(StoreError):
    code = "ledger_locked"
    retryable = True


class LedgerCorruptError(StoreError):
    code = "ledger_corrupt"


class LedgerReadOnlyError(StoreError):
    code = "ledger_read_only"


class LedgerTooNewError(StoreError):
    code = "ledger_too_new"


class DiskFullError(StoreError):
    code = "disk_full"
    retryable = True


class ClosedError(StoreError):
    """To a client the keeper never says so: it hangs up, and the client asks the next one."""

    code = "closed"

    def __init__(
        self, message: str = "the ledger is closed", *, cure: str = "Open it again: ai.connect(path).", **fields: object
    ) -> None:
        super().__init__(message, cure=cure, **fields)  # type: ignore[arg-type] # the root's own keywords


class KeeperUnavailableError(StoreError):
    code = "keeper_unavailable"
    retryable = True


class OtherVersionError(KeeperUnavailableError):
    code = "other_version"


class TransactionError(StoreError):
    code = "transaction"


class QueryError(StoreError):
    code = "query"


class BatchError(Error):
    code = "batch"


class DeadlockError(Error):
    code = "deadlock"
