"""Tab after ``%ai``: the commands, and after ``%ai run`` the names of functions and of their arguments.

Imports the standard library only, and looks only at what is imported already: it opens no ledger. Promises: unloading
takes it out again, and other completers of the line go on working.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["COMMANDS", "install", "is_defined", "remove"]

COMMANDS = tuple("cancel crons doctor functions help jobs limits list log model run usage version".split())
STATES = ("pending", "in_progress", "success", "failed", "canceled")
GROUPS = ("model", "provider", "day", "notebook", "user", "source", "status")

_KEY = "%ai"


def install(shell: Any) -> None:
    if not _ours(shell):
        shell.set_hook("complete_command", _complete, str_key=_KEY)


def remove(shell: Any) -> None:
    chain = _ours(shell)
    if chain is not None:
        chain.chain[:] = [(priority, hook) for priority, hook in chain.chain if not _is_ours(hook)]
        if not chain.chain:
            del shell.strdispatchers["complete_command"].strs[_KEY]


def _ours(shell: Any) -> Any:
    """The chain of completers of ``%ai`` where ours is among them."""
    dispatcher = shell.strdispatchers.get("complete_command")
    chain = dispatcher.strs.get(_KEY) if dispatcher is not None else None
    return chain if chain is not None and any(_is_ours(hook) for _, hook in chain.chain) else None


def _is_ours(hook: Any) -> bool:
    return getattr(hook, "__func__", None) is _complete


def _complete(shell: Any, event: Any) -> list[str]:
    """IPython's protocol: candidates for ``event.symbol``; it keeps those that begin with it."""
    said = event.text_until_cursor.lstrip()
    if not said.startswith((f"{_KEY} ", f"{_KEY}\t")):
        return []
    before = said[len(_KEY) : len(said) - len(event.symbol)]
    if not before[-1:].isspace():  # within a word, as after `name=`
        return []
    return _candidates(before.split())


def _candidates(words: list[str]) -> list[str]:
    match words:
        case []:
            return list(COMMANDS)
        case ["run"]:
            return sorted(name for name, function in _functions().items() if not function.internal)
        case ["run", name, *given]:
            return _arguments(name, given)
        case ["jobs"]:
            return list(STATES)
        case ["usage"]:
            return ["--by"]
        case ["usage", "--by"]:
            return list(GROUPS)
    return []


def _arguments(name: str, given: list[str]) -> list[str]:
    function = _functions().get(name)
    if function is None or given[-1:] == ["-o"]:
        return []
    taken = {word.partition("=")[0] for word in given}
    return [*(f"{argument}=" for argument in function.arguments.names if argument not in taken), *({"-o"} - taken)]


def is_defined(name: str) -> bool:
    """Whether a function of that name is defined so far."""
    return name in _functions()


def _functions() -> dict[str, Any]:
    """What is defined so far; nothing where nobody has imported the functions yet."""
    module = sys.modules.get("ipyconvexai.functions.registry")
    if module is None:
        return {}
    registry = module.registry
    return {name: registry.find(name) for name in registry.names()}
