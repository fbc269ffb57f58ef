"""What a limit says, and what it decides: the kinds, their checks, and one interface to them. Pure: no clock, no I/O.

Calls the three kinds beside it and errors. A state is a small JSON value that whoever asks keeps; None is a fresh one,
and none is ever changed in place. Instants are seconds since the epoch, as floats; spans are seconds.

A rejected take consumes nothing. ``retry_after`` is exact: the same take at ``now + retry_after`` passes if nobody else
takes before. When the clock goes back, no time has passed: waits grow longer, never shorter, and by more than one
window (which is no reordering of two readers, the clock was set) the state goes on from the new time.

| kind             | promise                                                                             |
|------------------|-------------------------------------------------------------------------------------|
| `sliding_window` | at most `rate` within any `per` seconds                                             |
| `fixed_window`   | `rate` is added every `per` seconds, up to `capacity`                               |
| `token_bucket`   | `value = min(value + elapsed * rate / per, capacity) - count`                       |
"""

from __future__ import annotations

import difflib
import json
import math
import numbers
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, get_args

from ipyconvexai.errors import InputError
from ipyconvexai.limits.bucket import Bucket
from ipyconvexai.limits.fixed import FixedWindow
from ipyconvexai.limits.instants import wait_between
from ipyconvexai.limits.sliding import SlidingWindow

__all__ = ["Decision", "Kind", "Rule", "State", "adopt", "charge", "check", "decide", "refund", "value"]

Kind = Literal["sliding_window", "fixed_window", "token_bucket"]
KINDS: tuple[str, ...] = get_args(Kind)
State = dict[str, Any]
SHORTEST = 1e-6  # seconds; the clock's own resolution


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A limit's definition, checked when it is made.

    Attributes:
        kind: see the module.
        rate: how many per window; more than 0.
        per: seconds, at least a microsecond.
        capacity: how many there can be at most; None: `rate`. A sliding window has none.
        max_reserved: how many may be reserved beyond what is there; None: any number.
        start: an instant at which a fixed window begins; None: the first use.

    Raises:
        InputError: a field is not what it must be.
    """

    kind: Kind = "sliding_window"
    rate: float
    per: float
    capacity: float | None = None
    max_reserved: float | None = None
    start: float | None = None

    def __post_init__(self) -> None:
        _check_kind(self.kind)
        self._check("rate", above=0.0, cure="Use a number above 0: how many may pass within `per` seconds.")
        self._check("per", least=SHORTEST, cure="Use a number of seconds above 0, for example per=60.")
        self._check("capacity", above=0.0, cure="Use a number above 0, or leave it out: then it is `rate`.")
        self._check("max_reserved", least=0.0, cure="Use 0 or more, or leave it out: then there is no bound.")
        self._check("start", cure="Use seconds since the epoch, or leave it out: windows begin at the first use.")
        if self.kind == "sliding_window" and self.capacity is not None:
            cure = 'Leave it out: `rate` is all it needs. Bursts are for kind="token_bucket" or "fixed_window".'
            raise InputError(f"capacity={self.capacity:g}: a sliding window has no capacity", cure=cure)
        if self.kind != "fixed_window" and self.start is not None:
            cure = 'Leave it out, or use kind="fixed_window".'
            raise InputError(f"start={self.start:g}: a {_in_words(self.kind)} has no start", cure=cure)

    def _check(self, name: str, *, cure: str, above: float = -math.inf, least: float = -math.inf) -> None:
        value = getattr(self, name)
        if value is None and name not in ("rate", "per"):
            return
        number = _number(value)
        if number is None or not (number > above and number >= least):
            raise InputError(f"{name}={value!r} is not possible in a limit", cure=cure)
        object.__setattr__(self, name, number)

    @property
    def most(self) -> float:
        """The most that can ever be taken at once."""
        return self.rate if self.capacity is None else self.capacity

    def to_json(self) -> str:
        """One text for one definition: equal rules have equal texts."""
        return json.dumps({name: given for name, given in asdict(self).items() if given is not None})

    @classmethod
    def from_json(cls, text: str) -> Rule:
        """Raises:
        InputError: it is no rule's text.
        """
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise InputError(f"{text!r} is no definition of a limit: {error}", cure="Define it again.") from None

    def __str__(self) -> str:
        return f"{self.rate:g} per {self.per:g} s ({_in_words(self.kind)})"


@dataclass(frozen=True, slots=True)
class Decision:
    """What came of a take.

    Attributes:
        ok: whether it passed; a reservation passes also where it must wait.
        retry_after: seconds. Not ok: until the same take passes. ok: a reservation, which may run then. None: at once.
        state: to be kept, also where it did not pass.
        at: the instant it counts from, for ``refund``; None where it did not pass.
    """

    ok: bool
    retry_after: float | None
    state: State | None
    at: float | None = None


class _Meter(Protocol):
    """What each kind knows. `level`: how much must be left."""

    def current(self, state: State | None, now: float) -> State: ...
    def left(self, state: State, now: float) -> float: ...
    def fits(self, state: State, now: float, level: float) -> bool: ...
    def earliest(self, state: State, now: float, level: float) -> float: ...
    def take(self, state: State, now: float, count: float) -> tuple[State, float]: ...
    def charge(self, state: State, now: float, count: float) -> State: ...
    def give_back(self, state: State, count: float, at: float | None, now: float | None) -> State: ...
    def adopt(self, state: State, old: Any) -> State: ...


def decide(rule: Rule, state: State | None, now: float, count: float = 1, reserve: bool = False) -> Decision:
    """Take `count` where that many are left; `reserve`: also where not, to run when ``retry_after`` is over.

    Raises:
        InputError: `count` is no number above 0, or more than can ever be taken.
    """
    count = _checked(rule, count, reserve)
    meter = _meter(rule)
    state = meter.current(state, now)
    level = count - _reservable(rule) if reserve else count
    if not meter.fits(state, now, level):
        return Decision(False, wait_between(now, meter.earliest(state, now, level)), state)
    state, at = meter.take(state, now, count)
    # Where the clock went back, a sliding window counts it from the later instant.
    return Decision(True, wait_between(now, at) if at > now else None, state, max(at, state.get("at", at)))


def check(rule: Rule, state: State | None, now: float, count: float = 1, reserve: bool = False) -> Decision:
    """What ``decide`` would say; nothing is taken.

    Raises:
        InputError: as ``decide``.
    """
    decision = decide(rule, state, now, count, reserve)
    return Decision(decision.ok, decision.retry_after, state)


def value(rule: Rule, state: State | None, now: float) -> float:
    """How much is left; negative where more is reserved."""
    meter = _meter(rule)
    return meter.left(meter.current(state, now), now)


def refund(
    rule: Rule, state: State | None, count: float, at: float | None = None, now: float | None = None
) -> State | None:
    """Give back `count` that was taken at `at` (``Decision.at``); never more than was taken, or than there can be.

    Without `at` it must be a take that still counts: a sliding window gives back what is oldest (of what counts at
    `now`), the other kinds what there is room for. With `at`, what was taken in a window that is over is nothing.

    Raises:
        InputError: `count` is no number above 0.
    """
    count = _positive(count)
    return None if state is None else _meter(rule).give_back(state, count, at, now)


def charge(rule: Rule, state: State | None, now: float, count: float) -> State:
    """Take `count` whatever is left: for what happened already, such as tokens beyond an estimate.

    Raises:
        InputError: `count` is no number above 0.
    """
    meter = _meter(rule)
    return meter.charge(meter.current(state, now), now, _positive(count))


def adopt(rule: Rule, old: Rule | None, state: object) -> State | None:
    """What `rule` can go on with of a state that was kept under the definition `old`; None: it begins afresh.

    Where the kind is the same, what was taken stays taken; a rate, a capacity or a window that changed holds from now.
    """
    if old is None or old.kind != rule.kind or not isinstance(state, dict):
        return None
    try:
        _meter(old).left(state, 0.0)
    except (LookupError, TypeError, ValueError, OverflowError):  # somebody wrote into the table
        return None
    return state if old == rule else _meter(rule).adopt(state, _meter(old))


def _meter(rule: Rule) -> _Meter:
    if rule.kind == "sliding_window":
        return SlidingWindow(rule.rate, rule.per)
    if rule.kind == "fixed_window":
        return FixedWindow(rule.rate, rule.per, rule.most, rule.start)
    return Bucket(rule.rate, rule.per, rule.most)


def _reservable(rule: Rule) -> float:
    return math.inf if rule.max_reserved is None else rule.max_reserved


def _checked(rule: Rule, count: float, reserve: bool) -> float:
    number = _positive(count)
    # A sliding window can never hold more than its rate at once, whenever that is; the others pay off a debt.
    most = rule.most + (_reservable(rule) if reserve and rule.kind != "sliding_window" else 0.0)
    if number > most:
        raise InputError(
            f"count={number:g} can never pass a limit of {rule}: it holds {most:g} at most",
            cure="Take less at once, or raise the limit's "
            + ("`rate`." if rule.kind == "sliding_window" else "`capacity`."),
        )
    return number


def _positive(count: object) -> float:
    number = _number(count)
    if number is None or number <= 0:
        raise InputError(f"count={count!r} cannot be taken", cure="Use a number above 0.")
    return number


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _check_kind(kind: object) -> None:
    if kind in KINDS:
        return
    near = difflib.get_close_matches(str(kind).lower().replace(" ", "_").replace("-", "_"), KINDS, n=1)
    hint = f'Did you mean "{near[0]}"? ' if near else ""
    known = ", ".join(f'"{name}"' for name in KINDS)
    raise InputError(f"kind={kind!r} is no kind of limit", cure=f"{hint}There are {known}.")


def _in_words(kind: str) -> str:
    return kind.replace("_", " ")
