"""Names for models, and which model a kernel asks: ``%ai alias``, ``list``, ``model``, ``reset``, by both names that
jupyter-ai's generations have for them. Calls the app and providers.

Promises: nothing is sent; a word that looks like a key is refused and never repeated.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from IPython.core.error import UsageError

from ipyconvexai.notebook.help import WORDS
from ipyconvexai.notebook.screens import display, say
from ipyconvexai.notebook.session import LONGEST_CHAIN, Alias, Session
from ipyconvexai.notebook.words import UnknownOption, options_in

__all__ = ["COMMANDS", "key_variable"]

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A part of 12 characters or more with letters and digits: `OPENAI_API_KEY_2` and `my_key_of_2026` have none.
_RANDOM = re.compile(r"(?:^|_)(?=[^_]*[0-9])(?=[^_]*[A-Za-z])[^_]{12,}")
_OPTIONS = {"--api-base": "api_base", "--api-key-name": "api_key_name"}
_USAGE = "NAME TARGET [--api-base URL] [--api-key-name VARIABLE]"


def key_variable(word: str) -> str:
    """`word`, if it may be the name of an environment variable.

    Raises:
        UsageError: it is none, or looks like the key itself; it is not repeated, since it would stay in the notebook.
    """
    from ipyconvexai.settings import known_secrets

    is_name = _VARIABLE.fullmatch(word) is not None and word not in known_secrets()
    if not is_name or (word not in os.environ and _RANDOM.search(word)):
        raise UsageError(
            "--api-key-name wants the name of an environment variable, as MY_API_KEY, and no key. If that was a key, "
            "clear it from the cell: what stands in a notebook is shared with it."
        )
    return word


# ------------------------------------------------------------------------------------------------ alias, update
@dataclass(frozen=True, slots=True)
class _Said:
    """What followed ``alias`` or ``update``."""

    name: str
    alias: Alias


def _said(command: str, rest: str | None) -> _Said:
    words: list[str] = []
    given: dict[str, str] = {}
    try:
        for option, value in options_in(rest or "", _OPTIONS):
            if option:
                given[_OPTIONS[option]] = value
            else:
                words.append(value)
    except UnknownOption:  # which may be a key
        raise UsageError(f"unknown option after %ai {command}. It is written %ai {command} {_USAGE}.") from None
    if len(words) != 2:
        raise UsageError(f"%ai {command} wants a name and a model: %ai {command} {_USAGE}.")
    name, target = words
    return _Said(name, Alias(target, _address(given), _variable(given)))


def _address(given: dict[str, str]) -> str | None:
    from ipyconvexai.providers.catalog import is_address

    address = given.get("api_base")
    if address is not None and not is_address(address):
        raise UsageError("--api-base wants the address of a server; it begins with http:// or https://.")
    return address


def _variable(given: dict[str, str]) -> str | None:
    return key_variable(given["api_key_name"]) if "api_key_name" in given else None


def _register(session: Session, command: str, rest: str | None) -> None:
    said = _said(command, rest)
    _check_name(said.name)
    if said.name in session.aliases:
        now = session.aliases[said.name].target
        raise UsageError(
            f"the alias {said.name} is there already and stands for {now}. To change it: %ai update {said.name} TARGET"
        )
    _keep(session, said)


def _update(session: Session, command: str, rest: str | None) -> None:
    said = _said(command, rest)
    if said.name not in session.aliases:
        raise UsageError(f"{_none(session, said.name)} To make one: %ai alias {said.name} TARGET")
    _keep(session, said)


def _delete(session: Session, name: str) -> None:
    if name not in session.aliases:
        raise UsageError(_none(session, name))
    del session.aliases[name]
    say(f"The alias {name} is gone.")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError("an alias is made of letters, digits, '.', '_' and '-', and has no colon.")
    if name in WORDS:
        raise UsageError(f"the name {name} is reserved for a command: choose another one.")


def _none(session: Session, name: str) -> str:
    known = ", ".join(sorted(session.aliases)) or "none"
    return f"there is no alias {name!r}; known: {known}."


def _keep(session: Session, said: _Said) -> None:
    """Put it among the session's, if a model is at the end of it."""
    _check_target(session, said)
    session.aliases[said.name] = said.alias
    say(f"{said.name} stands for {_words(said.alias)}.")


def _check_target(session: Session, said: _Said) -> None:
    """Raises UnknownModelError or UnknownProviderError, with the nearest names, and UsageError for a circle."""
    target, named = said.alias.target, {**session.aliases, said.name: said.alias}
    for _ in range(LONGEST_CHAIN):
        found = named.get(target)
        if found is None:
            break
        target = found.target
    else:
        raise UsageError(f"the alias {said.name} would stand for itself, by way of {said.alias.target}: name a model.")
    if said.alias.api_base is None and said.alias.target not in session.aliases:
        _parse(said.alias.target)


def _parse(model: str) -> Any:
    from ipyconvexai.providers.catalog import parse

    return parse(model)


def _words(alias: Alias) -> str:
    at = f" at {_shown(alias.api_base)}" if alias.api_base else ""
    key = f", its key in {alias.api_key_name}" if alias.api_key_name else ""
    return f"{alias.target}{at}{key}"


def _shown(address: str | None) -> str:
    from ipyconvexai.providers.access import without_credentials

    return without_credentials(address) if address else ""


def _unfinished(session: Session, command: str) -> None:
    wants = "" if command == "reset" else " NAME"
    raise UsageError(f"it is written %ai {command}{wants}, with nothing else on the line.")


# -------------------------------------------------------------------------------------------------- list, model
def _list(session: Session, provider: str | None) -> None:
    from ipyconvexai.notebook.tables import Table
    from ipyconvexai.providers.choice import list_models

    asked = None if provider in (None, "all") else provider
    rows = list_models(asked)
    display(Table(["provider", "model", "note"], rows, "Well-known models; other names can be used as well."))
    aliases = [
        (name, alias.target, _shown(alias.api_base), alias.api_key_name or "")
        for name, alias in sorted(session.aliases.items())
        if asked is None or _provider_of(session, name) == rows[0].provider
    ]
    if aliases:
        display(Table(["alias", "stands for", "at", "key in"], aliases, "aliases"))


def _provider_of(session: Session, name: str) -> str | None:
    """The provider at the end of an alias; None where the configuration named one that nobody knows."""
    from ipyconvexai.errors import ConfigurationError

    try:
        return str(_parse(session.model_of(name).target)[0].name)
    except (ConfigurationError, UsageError):
        return None


def _model(session: Session) -> None:
    if session.model is not None:
        found = session.model_of(None)
        stands = "" if found.target == session.model and not found.api_base else f", which stands for {_words(found)}"
        say(f"{session.model}{stands}: chosen for this kernel; `%ai model NAME` chooses another.")
        return
    from ipyconvexai.application import app
    from ipyconvexai.providers.choice import choose

    choice = choose(app().settings)
    if choice.error is not None:
        raise choice.error
    say(f"{choice.model}: {choice.reasons[-1].what}.")


def _choose(session: Session, name: str) -> None:
    """Ask `name` from now on.

    Raises:
        UnknownModelError, UnknownProviderError: with the nearest names.
        UsageError: the alias leads in a circle.
    """
    target = session.model_of(name)
    if not target.api_base:
        _parse(target.target)
    session.model = name
    say(f"{name} is asked from now on, where no model is named, in this kernel.")


def _reset(session: Session) -> None:
    exchanges = len([message for message in session.transcript if message.get("role") == "user"])
    session.transcript.clear()
    what = "1 exchange" if exchanges == 1 else f"{exchanges} exchanges"
    say(f"{what} forgotten: the next question goes alone. Conversations (-c) and the ledger stay as they are.")


# Two words, or whatever has an option: a line that may hold a key is neither sent nor repeated.
_WORD = r"[^\s-]\S*"
_TWO = rf"(?:\s+((?:{_WORD}\s+){{0,2}}--?[A-Za-z].*|{_WORD}(?:\s+{_WORD})?))?"

COMMANDS: tuple[tuple[re.Pattern[str], Callable[..., None]], ...] = (
    (re.compile(rf"list(?:\s+({_WORD}))?"), _list),
    (re.compile(r"model"), _model),
    (re.compile(rf"model\s+({_WORD})"), _choose),
    (re.compile(r"reset"), _reset),
    (re.compile(rf"(register|alias){_TWO}"), _register),
    (re.compile(rf"(update){_TWO}"), _update),
    (re.compile(r"(alias)((?:\s+\S+){3})"), _register),
    (re.compile(rf"(?:delete|dealias)\s+({_WORD})"), _delete),
    (re.compile(r"(reset)\s+--?[A-Za-z].*"), _unfinished),
    (re.compile(rf"(delete|dealias)(?:\s+(?:{_WORD}\s+)?--?[A-Za-z].*)?"), _unfinished),
)
