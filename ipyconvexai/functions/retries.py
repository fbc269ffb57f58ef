"""Whether and when a failed action is begun again. Pure: calls errors only.

Convex runs an action at most once. Whoever writes ``@ai.action(retry=ai.Retry(...))`` says that this one may run again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ipyconvexai.errors import Error, InputError

__all__ = ["ONCE", "Retry"]


@dataclass(frozen=True, slots=True)
class Retry:
    """A retry policy of an action.

    Attributes:
        attempts: how often it is begun at the most, the first time included.
        backoff: seconds before the second attempt.
        factor: by which each further pause is longer than the one before.
        longest: seconds that a pause may have; what an error asks for in ``retry_after`` may be longer.
        jitter: a pause is lengthened at random by up to this part of it, so that what failed together does not return
            together.
        not_on: classes of exceptions after which it is not begun again.

    Errors of this package decide by their ``retryable``: wrong arguments, results and broken rules are never repeated,
    nor is an ``ApplicationError`` unless it is raised with ``retryable=True``. Foreign exceptions are repeated.

    Raises:
        InputError: a value that makes no sense; the message names the field.
    """

    attempts: int = 3
    backoff: float = 1.0
    factor: float = 2.0
    longest: float = 60.0
    jitter: float = 0.25
    not_on: tuple[type[BaseException], ...] | type[BaseException] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or isinstance(self.attempts, bool) or self.attempts < 1:
            raise InputError(f"Retry(attempts={self.attempts!r}) is no number of attempts", cure="Use 1 or more.")
        for name, least in (("backoff", 0), ("factor", 1), ("longest", 0), ("jitter", 0)):
            value = getattr(self, name)
            known = isinstance(value, int | float) and not isinstance(value, bool)
            if not known or not math.isfinite(value) or value < least:
                raise InputError(f"Retry({name}={value!r}) makes no sense", cure=f"Use a number of at least {least}.")
        kinds = (self.not_on,) if isinstance(self.not_on, type) else tuple(self.not_on)
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
            raise InputError(
                f"Retry(not_on={self.not_on!r}) are no exceptions", cure="For example: not_on=(KeyError,)."
            )
        object.__setattr__(self, "not_on", kinds)

    def pause(self, attempt: int, error: BaseException, random: Callable[[], float]) -> float | None:
        """Seconds before the next attempt; None when there is none.

        Args:
            attempt: the number of the attempt that failed, from 1.
            error: what it failed with.
            random: gives a number in [0, 1).
        """
        if attempt >= self.attempts or not self.is_repeated(error):
            return None
        # 2.0 ** 2000 would overflow: bound the exponent, not only the result.
        pause = min(self.longest, self.backoff * self.factor ** min(attempt - 1, 64))
        asked = getattr(error, "retry_after", None)
        if isinstance(asked, int | float) and math.isfinite(asked):
            pause = max(pause, asked)
        return pause * (1.0 + self.jitter * random())

    def is_repeated(self, error: BaseException) -> bool:
        """Whether another attempt may help after `error`."""
        if isinstance(error, self.not_on) or not isinstance(error, Exception):
            return False
        if isinstance(error, Error):
            return error.retryable
        return True


ONCE = Retry(attempts=1)
