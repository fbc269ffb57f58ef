"""From an option line and a cell's text to what is asked: prompts, evaluation, names, history, aliases, schema.

Calls the session, interpolation and the app's generation. Promises: an empty question is found before anything is
sent, kept or started; a value is never read for names.
"""

from __future__ import annotations

import ast
import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from IPython.core.error import UsageError

from ipyconvexai.notebook import prompts
from ipyconvexai.notebook.interpolation import interpolate
from ipyconvexai.notebook.options import Options
from ipyconvexai.notebook.session import Session
from ipyconvexai.notebook.shapes import schema_of

if TYPE_CHECKING:
    from ipyconvexai.generation import Question

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a cell asks.

    Attributes:
        prompt: the user's own words, with the values in it.
        question: the whole of it, for the one model or for each.
        remembered: whether question and answer go along with later ones.
    """

    prompt: str
    question: Question
    remembered: bool

    def to(self, session: Session, model: str | None) -> Question:
        """The same question to another model."""
        alias = session.model_of(model)
        target = alias.target
        if self.question.base_url and target != model:
            target = _without_provider(target)  # its key is not for an address that the line alone names
        return replace(
            self.question,
            model=target or None,
            base_url=self.question.base_url or alias.api_base,
            key_variable=self.question.key_variable or alias.api_key_name,
        )


def prepare(session: Session, options: Options, text: str, *, ask_for: str = "", interpolated: bool = True) -> Prepared:
    """What `text` asks; `ask_for` is told to the model after it.

    Raises:
        EmptyPromptError, UsageError, InputError: it cannot be asked.
        Exception: what evaluated code raised.
    """
    from ipyconvexai.generation import Question, check_prompt

    __tracebackhide__ = True  # IPython's
    text = text.strip("\n")
    if options.prompts:
        text = prompts.joined(options.prompts, text)
    check_prompt(text)
    if options.save:
        prompts.keep(options.save, text)
    if options.evaluate:
        text = evaluated(session, text)
    elif interpolated:
        text = interpolate(text, session.names)
    check_prompt(text)
    with_history = options.history and not options.conversation
    history = session.history() if with_history else []
    question = Question(
        [*history, {"role": "user", "content": text + ask_for}] if history else text + ask_for,
        system=options.system and interpolate(options.system, session.names),
        conversation=options.conversation,
        schema=schema_of(options.schema, session.names) if options.schema else None,
        replay=options.replay,
        base_url=options.api_base,
        key_variable=options.api_key_name,
        params=options.params,
    )
    prepared = Prepared(text, question, with_history)
    return replace(prepared, question=prepared.to(session, options.model))


def _without_provider(model: str) -> str:
    from ipyconvexai.providers.catalog import find, split

    prefix, separator, name = split(model)
    return name if separator == ":" and find(prefix) is not None else model


def evaluated(session: Session, code: str) -> str:
    """What `code` prints and what its last expression gives, as text.

    Raises:
        UsageError: it is no Python, or gives nothing, or what may not go into a prompt.
        Exception: what it raised; nothing was sent.
    """
    __tracebackhide__ = True  # IPython's
    shell = session.shell
    source = shell.transform_cell(code)
    name = shell.compile.cache(source)  # so that a traceback shows its lines
    tree = _parsed(source, name)
    if any(isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith) for node in _own_nodes(tree)):
        raise UsageError("--eval cannot wait for `await`: run that in a cell before, and end this one in its result.")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, name, "exec"), shell.user_ns)  # the user's own cell, as IPython runs it
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), shell.user_ns)
    parts = [_shown(each) for each in (_Printed(printed.getvalue().strip("\n")), value) if each is not None]
    if not any(part.strip() for part in parts):
        raise UsageError("--eval: the cell printed nothing and ends in no value, so there is nothing to ask.")
    return "\n\n".join(part for part in parts if part.strip())


def _parsed(source: str, name: str) -> ast.Module:
    try:
        return ast.parse(source, name)
    except SyntaxError as error:
        raise UsageError(
            f"--eval: the cell is no Python: {error.msg} (line {error.lineno}): {error.text or ''}"
        ) from None


def _own_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All but those within functions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from _own_nodes(node)


class _Printed(str):
    """No text of the user's own: whatever the cell's code has shown, and so the environment may be in it."""

    __slots__ = ()


def _shown(value: object) -> str:
    """`value` as a field in a prompt would show it.

    Raises:
        UsageError: it holds the environment, is a module, a class, a function ..., or cannot be read.
    """
    shown = "{value}"
    try:
        text = interpolate(shown, {"value": value})
    except UsageError as error:
        raise UsageError(f"--eval: {str(error).replace(shown, 'what the cell gives')}") from None
    if text == shown and not isinstance(value, str):
        raise UsageError(f"--eval: {type(value).__name__!r} is not sent. End the cell in what is meant of it, as text.")
    return text
