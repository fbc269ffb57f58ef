"""``%ai`` and ``%%ai``. Reads the line, then hands over: to ``commands`` or to ``asking``.

Imports IPython alone when it is loaded; everything else with the first use.
"""

from __future__ import annotations

from typing import Any

from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand

__all__ = ["AiMagics"]

HELP = """\
Ask a model. Question and answer are in the ledger before you see them.

    %%ai [MODEL] [options]          the lines below are the question; the answer streams in as markdown
    %ai [options] QUESTION          the same on one line; --model NAME for a model

MODEL is provider:model, a provider, or a well-known model's name (`%ai list`). Without one: IPYCONVEXAI_MODEL, then
the first provider whose key is set, a running Ollama, or the small local model (`%ai doctor` says which and why).

    -s, --system TEXT               the system message
    -t, --temperature X             and --max-tokens N
    -m, --model-parameters JSON     other parameters of the provider's, as {"top_p": 0.9}
    -c, --conversation NAME         a durable conversation: earlier messages go along
    -o, --output NAME               the reply, with its text, usage and cost, into a variable
    -f, --format FORMAT             markdown (default), text, json, or code: the code alone goes into the next cell
    --replay off|reuse|only         whether a recorded answer may stand for a new one
    --no-stream                     show the answer when it is complete

{name}, {obj.attribute} and {Out[3]} in a question become the text of your variables; other braces stay as they are.

    %ai usage [--by GROUP]          calls, tokens, cost by model, provider, day, notebook, user, source or status
    %ai log [TEXT]                  the newest calls, or those that contain TEXT
    %ai list [PROVIDER]             models
    %ai model                       the model that is used where none is named, and why
    %ai doctor                      that, and all that was looked at
    %ai version, %ai help

A line that reads exactly like one of these is a command. Every other line is a question; so is what follows `--`."""


@magics_class
class AiMagics(Magics):
    """``%ai`` and ``%%ai``."""

    # IPython's own expansion would put values into the line in two passes, and $HOME, too.
    @no_var_expand
    @line_cell_magic
    def ai(self, line: str, cell: str | None = None) -> None:
        from ipyconvexai.notebook import asking, commands
        from ipyconvexai.notebook.options import cell_options, line_options

        shell: Any = self.shell
        if cell is not None:
            asking.ask(shell, cell_options(line), cell)
        elif not commands.run(line.strip()):
            asking.ask(shell, *line_options(line))

    ai.__doc__ = HELP
