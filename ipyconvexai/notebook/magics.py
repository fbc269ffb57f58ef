"""``%ai`` and ``%%ai``. Reads the line, then hands over: to ``commands`` or to ``asking``.

Imports IPython alone when it is loaded; everything else with the first use.
"""

from __future__ import annotations

from typing import Any

from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand

from ipyconvexai.notebook.help import HELP

__all__ = ["AiMagics"]


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
        if cell is not None and line.strip() in ("help", "-h", "--help"):
            print(HELP)
        elif cell is not None:
            asking.ask(shell, cell_options(line), cell)
        elif not commands.run(line.strip()):
            asking.ask(shell, *line_options(line))

    ai.__doc__ = HELP
