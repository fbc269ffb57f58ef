"""Defaults, environment variables and secrets. Floor 0: imports errors and values only.

Promises: a key is held in a ``Secret``, whose repr, str and pickle never show it, and every key this process knows
is removed by ``redact`` before anything is written down.
"""

from __future__ import annotations

import base64
import getpass
import json
import math
import os
import re
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from ipyconvexai.errors import InputError
from ipyconvexai.values import Replay

__all__ = ["Secret", "Settings", "known_secrets", "plain_word", "redact", "redact_bytes", "remember_secret"]

DEFAULT_TIMEOUT = 600.0  # seconds; the SDK's own default
_LONGEST = 36_500  # days of retention: 100 years
DEFAULT_RETRIES = 2  # attempts after the first, as in the SDK: somebody waits. A batch is more patient


@dataclass(frozen=True, slots=True)
class Settings:
    """One App's settings. ``from_environment`` fills them; keyword arguments of ``connect`` override.

    Attributes:
        path: the ledger file, or ":memory:".
        model: ``provider:model`` used where none is named; None: chosen (see ``ai.doctor()``).
        user: who asks; recorded with each call.
        replay: the policy where a call names none.
        record: "full", or "metadata" to keep hashes, sizes, usage and outcomes and no content.
        timeout: seconds of silence after which an attempt is given up.
        retries: attempts after the first.
        on_limit: "wait" until a limit of yours allows the call, or "raise".
        retention_days: content that is older is removed for good; None: it stays.
    """

    path: str
    model: str | None = None
    user: str | None = None
    replay: Replay = Replay.OFF
    record: str = "full"
    timeout: float = DEFAULT_TIMEOUT
    retries: int = DEFAULT_RETRIES
    on_limit: str = "wait"
    retention_days: float | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, **overrides: Any) -> Settings:
        settings = cls(
            path=environ.get("IPYCONVEXAI_DB") or str(default_ledger()),
            model=environ.get("IPYCONVEXAI_MODEL") or None,
            user=environ.get("JUPYTERHUB_USER") or _login_name(),
            replay=parse_replay(environ.get("IPYCONVEXAI_REPLAY") or "off"),
            record=environ.get("IPYCONVEXAI_RECORD") or "full",
            retention_days=_days(environ.get("IPYCONVEXAI_RETENTION_DAYS") or None),
        )
        given = {name: value for name, value in overrides.items() if value is not None}
        settings = replace(settings, **given)
        settings._check()
        return replace(settings, path=os.fspath(settings.path), retention_days=_days(settings.retention_days))

    def _check(self) -> None:
        if self.record not in ("full", "metadata"):
            raise InputError(f"record={self.record!r} is not known", cure='Use record="full" or record="metadata".')
        if not isinstance(self.path, str | os.PathLike):
            raise InputError(f"path={self.path!r} is no path", cure='For example: ai.connect("my.duckdb").')
        if not isinstance(self.model, str | None):
            raise InputError(f"model={self.model!r} is no text", cure='For example: model="openai".')
        if not isinstance(self.timeout, int | float) or not 0 < self.timeout < math.inf:
            raise InputError(f"timeout={self.timeout!r} is no number of seconds", cure="Use a number above 0.")
        if self.on_limit not in ("wait", "raise"):
            raise InputError(f"on_limit={self.on_limit!r} is not known", cure='Use "wait" or "raise".')
        if not isinstance(self.retries, int) or self.retries < 0:
            raise InputError(f"retries={self.retries!r} is no number of attempts", cure="Use 0 or more.")

    @property
    def keeps_content(self) -> bool:
        """Whether what is asked and answered is written down."""
        return self.record == "full"

    @property
    def kept(self) -> str:
        """What stays of a call, and how long, in words."""
        if not self.keeps_content:
            return f'hashes, sizes, usage and outcomes, and no content (record="{self.record}")'
        if self.retention_days is None:
            return "requests and answers, until they are purged"
        return f"requests and answers for {self.retention_days:g} days, and then hashes, sizes, usage and outcomes"


def _days(given: Any) -> float | None:
    if given is None:
        return None
    try:
        days = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        days = math.nan
    if not 0 < days <= _LONGEST:
        raise InputError(
            f"retention_days={given!r} is no number of days",
            cure=f"For example: ai.connect(retention_days=30) or IPYCONVEXAI_RETENTION_DAYS=30; at most {_LONGEST:,}.",
        )
    return days


def default_ledger() -> Path:
    """One ledger per person, in the platform's folder for a user's data."""
    import platformdirs  # at first use: 2 ms

    return Path(platformdirs.user_data_dir("ipyconvexai", appauthor=False)) / "ledger.duckdb"


def parse_replay(value: str | Replay) -> Replay:
    try:
        return Replay(value)
    except ValueError:
        raise InputError(f"replay={value!r} is not known", cure='Use replay="off", "reuse" or "only".') from None


def _login_name() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return None


class Secret:
    """A key that does not show itself: not in repr, str, format, pickle or ``vars``."""

    __slots__ = ("__reveal",)

    def __init__(self, value: str) -> None:
        def reveal() -> str:
            return value

        self.__reveal: Callable[[], str] = reveal
        remember_secret(value)

    def reveal(self) -> str:
        return self.__reveal()

    def __repr__(self) -> str:
        return "Secret(***)"

    def __bool__(self) -> bool:
        return bool(self.__reveal())

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret does not travel: set the key in the environment of the other process")


# ---------------------------------------------------------------------------------------------- redaction
_SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
_PROVIDERS_NAME = re.compile(r"_API_KEY$", re.IGNORECASE)  # as every provider's is called: surely a key
_LOOKS_SECRET = re.compile(r"\S{16,}")  # SORT_KEY and PRIMARY_KEY hold words, which must not vanish from answers
_SHORTEST = 8  # a shorter value would blank out ordinary words
_TOKEN = re.compile(r"[\w.+=~-]{24,}")  # surely a key: its beginning and its end give it away, too
_PART = 16  # characters of these
# A name of a code, a model or a request. What is longer, or of another script, or an address, may be a prompt's.
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_./:;=+-]{1,40}")
# What people write where a server wants a key and minds none: ordinary words, and no secrets.
_STAND_INS = frozenset(
    "lm-studio not-needed no-key-needed notneeded no-key-required dummy-key placeholder password anything localhost"
    " your-api-key your_api_key api-key undefined sk-no-key-required".split()
)
_ONE_KIND = re.compile(r"[A-Za-z]+|[0-9]+")  # below 16 characters: a word, or a number
_RESCAN_AFTER = 1.0  # seconds between looks at the environment
_forms: dict[str, tuple[str, ...]] = {}
_ordered: list[str] = []  # all of them
_scanned = -_RESCAN_AFTER


def remember_secret(value: str) -> None:
    """From now on `value` is removed by ``redact``, also JSON-escaped, URL-escaped and in base64, and where only its
    first or last characters are quoted, as providers do."""
    if len(value) < _SHORTEST or value in _forms or value.lower() in _STAND_INS:
        return
    if len(value) < _PART and _ONE_KIND.fullmatch(value):
        return
    plain = value.encode("utf-8", "surrogateescape")
    forms = {value, json.dumps(value)[1:-1], urllib.parse.quote(plain, safe="")}
    forms.add(base64.b64encode(plain).decode().rstrip("="))
    if _TOKEN.fullmatch(value):
        forms |= {value[:_PART], value[-_PART:]}
    _forms[value] = tuple(forms)
    # The longest first, of all of them: one key may hold another, of which nothing must be left.
    _ordered[:] = sorted({form for known in _forms.values() for form in known}, key=len, reverse=True)


def known_secrets() -> list[str]:
    """The values ``redact`` looks for: every key met so far and what the environment holds under a telling name,
    if it looks like a key there."""
    global _scanned
    now = time.monotonic()
    if now - _scanned >= _RESCAN_AFTER:
        _scanned = now
        for name, value in list(os.environ.items()):
            value = value.strip()
            if _PROVIDERS_NAME.search(name) or (_SECRET_NAME.search(name) and _LOOKS_SECRET.fullmatch(value)):
                remember_secret(value)
    return list(_forms)


def redact(text: str) -> str:
    """`text` without the keys this process knows. It cannot find a secret that it does not know."""
    known_secrets()
    for form in _ordered:
        if form in text:
            text = text.replace(form, "***")
    return text


def redact_bytes(data: bytes) -> bytes:
    """The same for what is no text: an upload, say."""
    known_secrets()
    for form in _ordered:
        data = data.replace(form.encode("utf-8", "surrogateescape"), b"***")
    return data


def plain_word(value: str | None) -> str | None:
    """`value` where it is a name and no sentence: what a provider calls its codes may quote the prompt."""
    return value if value is None or _PLAIN_WORD.fullmatch(value) else None
