"""``%load_ext ipyconvexai``: registers the magics and their completion, keeps errors, says from which cell calls come.

Calls ``magics``, ``questions``, ``completion``, ``tracebacks`` and ``where``, which import IPython and the standard
library only: loading stays cheap, and the rest of the package is imported by the first call.
"""

from __future__ import annotations

from typing import Any

from IPython.core.error import UsageError
from traitlets import TraitError

from ipyconvexai.context import tracebacks
from ipyconvexai.notebook import completion, questions, where
from ipyconvexai.notebook.magics import AiMagics

__all__ = ["load", "unload"]

NAME = "AiMagics"
_KINDS = ("line", "cell")


def load(shell: Any) -> None:
    """Register ``%ai`` and ``%%ai``; loading twice changes nothing."""
    other = shell.magics_manager.registry.get(NAME)
    if isinstance(other, AiMagics):
        return
    if other is not None:  # jupyter-ai's class has this name, too
        print(f"%ai and %%ai are those of ipyconvexai now; %unload_ext ipyconvexai gives back {_package(other)}'s.")
    before = {kind: shell.magics_manager.magics[kind].get("ai") for kind in _KINDS}
    try:
        shell.register_magics(AiMagics)
    except TraitError as error:
        raise UsageError(f"c.AiMagics in the configuration: {error}") from None
    shell.magics_manager.registry[NAME].before = (other, before)
    where.watch(shell)
    tracebacks.watch(shell)
    questions.install(shell.input_transformer_manager)
    completion.install(shell)


def unload(shell: Any) -> None:
    """Take the magics out again."""
    where.watch(None)
    tracebacks.unwatch(shell)
    questions.remove(shell.input_transformer_manager)
    completion.remove(shell)
    magics = shell.magics_manager.registry.get(NAME)
    if not isinstance(magics, AiMagics):
        return
    other, before = magics.before
    for kind in _KINDS:
        shell.magics_manager.magics[kind].pop("ai", None)
        if before[kind] is not None:
            shell.magics_manager.magics[kind]["ai"] = before[kind]
    del shell.magics_manager.registry[NAME]
    if other is not None:
        shell.magics_manager.registry[NAME] = other
    if magics in shell.configurables:
        shell.configurables.remove(magics)


def _package(magics: Any) -> str:
    return type(magics).__module__.partition(".")[0]
