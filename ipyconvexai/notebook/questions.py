"""Lets ``%ai Why is the sky blue?`` be a question. IPython takes a line that ends in ``?`` for a request for help.

Imports IPython's transformers only. Promises: only lines that begin with ``%ai`` and a blank are touched; ``%ai?`` goes
on asking for help.
"""

from __future__ import annotations

import re
import tokenize
from typing import Any

from IPython.core.inputtransformer2 import EscapedCommand, TransformerManager

__all__ = ["install", "remove"]

_QUESTION = re.compile(r"%ai[ \t]+\S.*\?[ \t]*\n?")


class AiQuestion(EscapedCommand):
    """The line magic as IPython transforms it, found before its help syntax is."""

    priority = EscapedCommand.priority - 6  # HelpEnd has 5 less than EscapedCommand

    @classmethod
    def find(cls, tokens_by_line: list[list[Any]]) -> AiQuestion | None:
        for line in tokens_by_line:
            tokens = [token for token in line if token.type not in (tokenize.INDENT, tokenize.DEDENT)]
            if tokens and tokens[0].string == "%" and _QUESTION.fullmatch(tokens[0].line[tokens[0].start[1] :]):
                return cls(tokens[0].start)
        return None


def install(manager: TransformerManager) -> None:
    if AiQuestion not in manager.token_transformers:
        manager.token_transformers.append(AiQuestion)


def remove(manager: TransformerManager) -> None:
    if AiQuestion in manager.token_transformers:
        manager.token_transformers.remove(AiQuestion)
