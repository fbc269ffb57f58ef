"""``%load_ext ipyconvexai``: registers the magics and their completion, keeps errors, says from which cell calls come.

Calls ``magics``, ``questions``, ``completion``, ``tracebacks`` and ``where``, which import IPython and the standard
library only: loading stays cheap, and the rest of the package is imported by the first call.
"""

from __future__ import annotations

from typing import Any

from ipyconvexai.notebook import completion, questions, tracebacks, where

__all__ = ["load", "unload"]

NAME = "AiMagics"


def load(shell: Any) -> None:
    """Register ``%ai`` and ``%%ai``; loading twice changes nothing."""
    from ipyconvexai.notebook.magics import AiMagics

    where.watch(shell)
    tracebacks.watch(shell)
    questions.install(shell.input_transformer_manager)
    completion.install(shell)
    if NAME not in shell.magics_manager.registry:
        shell.register_magics(AiMagics)


def unload(shell: Any) -> None:
    """Take the magics out again."""
    where.watch(None)
    tracebacks.unwatch(shell)
    questions.remove(shell.input_transformer_manager)
    completion.remove(shell)
    magics = shell.magics_manager.registry.pop(NAME, None)
    if magics is None:
        return
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("ai", None)
    if magics in shell.configurables:
        shell.configurables.remove(magics)
