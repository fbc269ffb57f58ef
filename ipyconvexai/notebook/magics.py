"""``%ai`` and ``%%ai``. Reads the line, then hands over: to ``commands`` or to ``asking``.

Imports IPython alone when it is loaded; everything else with the first use. The traits are those of jupyter-ai, of both
its generations, so that a configuration file goes on working.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand
from traitlets import Dict, Int, TraitError, Unicode, observe, validate

from ipyconvexai import interrupts
from ipyconvexai.notebook.help import HELP, WORDS
from ipyconvexai.notebook.session import Alias, Session

__all__ = ["AiMagics"]


@magics_class
class AiMagics(Magics):
    """``%ai`` and ``%%ai``."""

    default_language_model = Unicode(
        None, allow_none=True, help="The model where a line names none, as provider:model."
    ).tag(config=True)
    initial_language_model = Unicode(None, allow_none=True, help="The same, as jupyter-ai 3 calls it.").tag(config=True)
    aliases = Dict(key_trait=Unicode(), help="Names for models: {'mine': 'openai:gpt-4.1-mini'}.").tag(config=True)
    initial_aliases = Dict(
        key_trait=Unicode(), help="The same, as jupyter-ai 3 calls it; a target may be a dict with api_base, too."
    ).tag(config=True)
    max_history = Int(2, help="Exchanges that go along with a question outside of a conversation.").tag(config=True)

    # Whose `%ai` it was before: the instance, and its functions by kind.
    before: tuple[Any, dict[str, Any]] = (None, {"line": None, "cell": None})

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        model = self.default_language_model or self.initial_language_model or None
        named = {**self.initial_aliases, **self.aliases}
        aliases = {name: _alias(target) for name, target in named.items()}
        self.session = Session(shell, model, aliases, self.max_history)

    @observe("default_language_model", "initial_language_model")
    def _model_changed(self, change: Any) -> None:
        if session := getattr(self, "session", None):
            session.model = change.new or None

    @observe("aliases", "initial_aliases")
    def _aliases_changed(self, change: Any) -> None:
        if (session := getattr(self, "session", None)) is None:
            return
        for name, target in (change.old or {}).items():
            if name not in change.new and session.aliases.get(name) == _alias(target):
                del session.aliases[name]
        session.aliases.update({name: _alias(target) for name, target in change.new.items()})

    @validate("aliases", "initial_aliases")
    def _are_aliases(self, proposal: Any) -> dict[str, Any]:
        for name, target in proposal["value"].items():
            if name in WORDS:
                raise TraitError(f"the alias {name!r} has the name of a command of %ai: choose another one")
            if not _alias(target).target:
                raise TraitError(f"the alias {name!r} stands for {target!r}, which is no model's name")
        return dict(proposal["value"])

    @observe("max_history")
    def _history_changed(self, change: Any) -> None:
        if session := getattr(self, "session", None):
            session.max_history = change.new

    @validate("max_history")
    def _not_negative(self, proposal: Any) -> int:
        return max(0, int(proposal["value"]))

    # IPython's own expansion would put values into the line in two passes, and $HOME, too.
    @no_var_expand
    @line_cell_magic
    def ai(self, line: str, cell: str | None = None) -> None:
        __tracebackhide__ = True  # IPython's: a cell's own lines are what its user wants to see
        with interrupts.held():
            from ipyconvexai.notebook import asking, commands
            from ipyconvexai.notebook.options import cell_options, line_options

        if cell is not None:
            if not commands.run_cell(self.session, line.strip(), cell):
                asking.ask(self.session, cell_options(line), cell)
        elif not commands.run(self.session, line.strip()):
            asking.ask(self.session, *line_options(line))

    ai.__doc__ = HELP


def _alias(target: Any) -> Alias:
    if isinstance(target, Mapping):
        given = {name: str(target[name]) for name in ("api_base", "api_key_name") if target.get(name)}
        return Alias(str(target.get("target") or ""), **given)
    return Alias(target if isinstance(target, str) else "")
